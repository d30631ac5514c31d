//! What a lock may protect: plain data in place, or any `serde` type encoded.
//!
//! # An encoded value
//! Two blocks of the object, and one word that says which of them holds the value now, and how long
//! it is:
//!
//! ```text
//! | half 1 | bytes 63 |
//! ```
//! A writer, who has the lock, encodes into the other half and then stores the word: that store
//! commits. A half that is too short is replaced by a longer block first (`shm/objects.rs`).
//!
//! # If a process dies
//! Before the store of the word: the old value stands. The next writer overwrites the other half.
#![allow(unsafe_code)] // Reads and writes blocks under the lock of their owner.

use super::crossing::text_of;
use super::handle::Reference;
use crate::error::{Error, crossing};
use crate::prim::{Acquire, AtomicU64, Relaxed, Release};
use crate::shm::arena::own_id;
use crate::shm::fault;
use serde::{Serialize, de::DeserializeOwned};
use std::fmt;
use std::marker::PhantomData;

/// Plain data: a type that may lie in shared memory as it is.
///
/// Implemented by every [`bytemuck::Pod`]: no pointers, no padding, every bit pattern a value. Numbers
/// and arrays of them are; derive it for a struct of them.
///
/// # Examples
/// ```
/// use procpool::sync::Mutex;
///
/// #[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
/// #[repr(C)]
/// struct Account {
///     balance: i64,
///     transfers: u64,
/// }
///
/// let account = Mutex::new(Account { balance: 100, transfers: 0 })?;
/// let mut held = account.lock().unwrap();
/// held.balance -= 30;
/// held.transfers += 1;
/// # Ok::<(), procpool::Error>(())
/// ```
///
/// A type with a pointer in it is refused:
/// ```compile_fail
/// let names = procpool::sync::Mutex::new(vec![String::from("Ada")])?;
/// # Ok::<(), procpool::Error>(())
/// ```
/// Such a value is kept [`Encoded`].
pub trait Plain: bytemuck::Pod {}

impl<T: bytemuck::Pod> Plain for T {}

/// In `Mutex<Encoded<T>>` and the like: the value is any `serde` type, kept encoded.
///
/// Reading decodes a copy; writing encodes a new value and commits it with one store, so that a
/// process which dies while it writes leaves the old value.
///
/// # Examples
/// ```
/// use procpool::sync::Mutex;
/// use std::collections::HashMap;
///
/// let ages = Mutex::encoded(&HashMap::from([("Ada".to_string(), 36)]))?;
/// let mut held = ages.lock().unwrap();
/// held.update(|ages| ages.insert("Alan".into(), 41))?;
/// assert_eq!(held.get()?.len(), 2);
/// # Ok::<(), procpool::Error>(())
/// ```
pub struct Encoded<T> {
    of: PhantomData<fn() -> T>,
}

impl<T> fmt::Debug for Encoded<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Encoded(..)")
    }
}

/// What a lock may protect: [`Plain`] data, or [`Encoded`] values.
pub trait Stored: sealed::Sealed {}

pub(crate) mod sealed {
    /// How the value lies in the arena.
    pub trait Sealed {
        /// What lies in the object's first block.
        type Memory: 'static;
        /// Whether that is a word that leads to an encoded value.
        const ENCODED: bool;
    }
}

impl<T: Plain> sealed::Sealed for T {
    type Memory = T;
    const ENCODED: bool = false;
}

impl<T: Plain> Stored for T {}

impl<T: 'static> sealed::Sealed for Encoded<T> {
    type Memory = EncodedWord;
    const ENCODED: bool = true;
}

impl<T: 'static> Stored for Encoded<T> {}

const HALF: u64 = 1 << 63;

/// See the module documentation.
#[derive(Debug)]
#[repr(C)]
pub struct EncodedWord {
    word: AtomicU64,
}

/// The encoded form of a new object's value, and the word that goes with it: it lies in half 0.
pub(crate) fn encode_first<T: Serialize>(value: &T) -> Result<Vec<u8>, Error> {
    postcard::to_stdvec(value)
        .map_err(|error| Error::invalid(format!("cannot encode {}", crossing::<T>(text_of(error)))))
}

impl EncodedWord {
    pub(crate) fn initialise(&self, bytes: usize) {
        self.word.store(bytes as u64, Relaxed);
    }

    /// Decodes the value. The caller has the lock.
    pub(crate) fn get<T: DeserializeOwned>(&self, reference: &Reference) -> Result<T, Error> {
        let word = self.word.load(Acquire);
        let (half, bytes) = (usize::from(word & HALF != 0), word & !HALF);
        let block = reference.arena().object_block(reference.id(), 1 + half);
        let start = reference.arena().bytes_at(block, bytes).ok_or_else(|| {
            Error::broken(format!("an encoded value of {bytes} bytes is not inside the arena"))
        })?;
        // SAFETY: the bytes are inside the arena, and the lock that the caller has keeps writers out.
        let bytes = unsafe { std::slice::from_raw_parts(start.as_ptr(), bytes as usize) };
        postcard::from_bytes(bytes).map_err(|error| {
            Error::invalid(format!("cannot decode {}", crossing::<T>(text_of(error))))
        })
    }

    /// Encodes and commits a value. The caller has the lock, for writing.
    pub(crate) fn set<T: Serialize>(&self, reference: &Reference, value: &T) -> Result<(), Error> {
        let encoded = encode_first(value)?;
        let (arena, id) = (reference.arena(), reference.id());
        let half = !self.word.load(Relaxed) & HALF;
        let which = 1 + usize::from(half != 0);
        let block = arena.object_block(id, which);
        if block == 0 || arena.block_bytes(block) < encoded.len() as u64 {
            // Half as much again, so that a value that grows does not need a block each time.
            let bytes = (encoded.len() as u64 * 3 / 2).max(1);
            let block = arena.allocate(bytes, own_id())?.offset;
            fault::point("encoded.allocated");
            arena.lock_objects().replace_block(id, which, block)?;
        }
        let block = arena.object_block(id, which);
        let start = arena.bytes_at(block, encoded.len() as u64).ok_or_else(|| {
            Error::broken(format!("no block for {} bytes is inside the arena", encoded.len()))
        })?;
        // SAFETY: the half that is not the value's is ours while we have the lock for writing.
        unsafe {
            start.copy_from_nonoverlapping(
                std::ptr::NonNull::from(&encoded[..]).cast(),
                encoded.len(),
            )
        };
        fault::point("encoded.written");
        self.word.store(half | encoded.len() as u64, Release);
        fault::point("encoded.committed");
        Ok(())
    }
}
