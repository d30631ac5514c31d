//! How handles cross to other processes: as the object's name, while somebody else holds the object.
//!
//! # Rules
//! R1. Whoever carries a handle holds its object meanwhile: a task's argument and a result through
//!     holdings of their own, on lists in the slot, the argument's until the task has ended; a context
//!     through references that the user's process keeps; something stored in a collection or a queue
//!     through nobody's holdings, on a list beside it.
//! R2. Encoding a handle anywhere else is refused: nobody would hold the object. Decoding is checked
//!     against the objects that live.
//!
//! # If a process dies
//! The holdings of its results are given back with its others, unless they had been handed over to
//! the reader.

use super::handle::{Handle, Parts, Reference};
use crate::error::Error;
use crate::shm::Arena;
use crate::shm::arena::is_forked_copy;
use crate::shm::offset::Shared;
use crate::shm::shape::ObjectId;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de, ser};
use std::cell::{Cell, RefCell};
use std::sync::Arc;

/// What holds an object while its handle is on the way (R1).
#[derive(Debug, Clone)]
pub(crate) struct Carried(Arc<Reference>);

thread_local! {
    /// Whether something is being encoded that may carry handles.
    static OPEN: Cell<bool> = const { Cell::new(false) };
    /// Whether handles have been encoded since then; on its own, so that what carries none (most
    /// values) costs next to nothing.
    static SOME: Cell<bool> = const { Cell::new(false) };
    /// Those handles.
    static CARRIED: RefCell<Vec<Carried>> = const { RefCell::new(Vec::new()) };
}

thread_local! {
    /// Why a handle was refused last: `postcard` does not carry the text of a type's own error.
    static REFUSED: RefCell<Option<String>> = const { RefCell::new(None) };
}

fn refuse(why: &str) -> String {
    REFUSED.with(|refused| *refused.borrow_mut() = Some(why.to_owned()));
    why.to_owned()
}

/// The text of an error of `postcard`, or of the refusal of a handle that caused it.
pub(crate) fn text_of(error: postcard::Error) -> String {
    let refused = REFUSED.with(|refused| refused.borrow_mut().take());
    match error {
        postcard::Error::SerdeSerCustom | postcard::Error::SerdeDeCustom => {
            refused.unwrap_or_else(|| error.to_string())
        }
        error => error.to_string(),
    }
}

/// Puts back how far an outer encoding was, in whose `Serialize` this one may be; also after a panic.
struct Outer {
    open: bool,
    carried: Option<Vec<Carried>>,
}

impl Outer {
    #[inline]
    fn interrupt() -> Self {
        let carried = SOME.replace(false).then(|| CARRIED.take());
        Self { open: OPEN.replace(true), carried }
    }
}

impl Drop for Outer {
    #[inline]
    fn drop(&mut self) {
        OPEN.set(self.open);
        if SOME.get() || self.carried.is_some() {
            SOME.set(self.carried.is_some());
            drop(CARRIED.replace(self.carried.take().unwrap_or_default()));
        }
    }
}

/// Encodes something that may carry handles; what it carries is added to `carried`.
#[inline]
pub(crate) fn carrying<R>(carried: &mut Vec<Carried>, encode: impl FnOnce() -> R) -> R {
    let outer = Outer::interrupt();
    let encoded = encode();
    if SOME.replace(false) {
        carried.append(&mut CARRIED.take());
    }
    drop(outer);
    encoded
}

impl<S> Handle<S> {
    pub(crate) fn serialize<Z: Serializer>(&self, serializer: Z) -> Result<Z::Ok, Z::Error> {
        if !OPEN.get() {
            return Err(ser::Error::custom(refuse(
                "a handle to a shared object can be encoded only as part of a task's argument, \
                 context or result, or of what is put into a collection or queue",
            )));
        }
        SOME.set(true);
        CARRIED.with_borrow_mut(|carried| carried.push(Carried(self.share())));
        self.caller().id().serialize(serializer)
    }
}

impl<S: Shared> Handle<S> {
    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
        parts: &Parts,
    ) -> Result<Self, D::Error> {
        let id = ObjectId::deserialize(deserializer)?;
        Self::open(id, parts).map_err(|error| de::Error::custom(refuse(&error.to_string())))
    }
}

/// What holds the object of a handle meanwhile.
pub(crate) fn carry<S>(handle: &Handle<S>) -> Carried {
    Carried(handle.share())
}

/// Has whatever was encoded hold the objects to which it carries handles: `first` is its list so far,
/// and the return value its new one. The list is this process's until it is handed over.
pub(crate) fn send_along(carried: &[Carried], mut first: u32, tag: u64) -> Result<u32, Error> {
    let before = first;
    for Carried(reference) in carried {
        let locked = reference.arena().lock_objects();
        match locked.send_along(reference.id(), first, tag) {
            Ok(list) => first = list,
            Err(error) => {
                locked.give_up_list_until(first, before);
                return Err(error);
            }
        }
    }
    Ok(first)
}

/// The list of what a result carries, in the hands of its reader; dropping it gives that up.
#[derive(Debug)]
pub(crate) struct CarriedByResult {
    arena: &'static Arena,
    first: u32,
}

impl CarriedByResult {
    pub(crate) fn new(arena: &'static Arena, first: u32) -> Self {
        Self { arena, first }
    }
}

impl Drop for CarriedByResult {
    fn drop(&mut self) {
        if self.first != 0 && !is_forked_copy() {
            self.arena.lock_objects().give_up_list(self.first);
        }
    }
}

/// The bytes of something that carries handles, for a test; the objects must be held otherwise.
#[doc(hidden)]
#[cfg(any(debug_assertions, feature = "fault"))]
pub fn encode_for_test(value: &impl Serialize) -> Vec<u8> {
    carrying(&mut Vec::new(), || postcard::to_stdvec(value)).unwrap_or_default()
}

/// The value of bytes that [`encode_for_test`] made, or did not.
///
/// # Errors
/// They are not such a value's, or lead nowhere: the text says which.
#[doc(hidden)]
#[cfg(any(debug_assertions, feature = "fault"))]
pub fn decode_for_test<T: de::DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    postcard::from_bytes(bytes).map_err(text_of)
}

/// Gives a type that wraps a [`Handle`] in a field `handle` what all such types have.
macro_rules! crossing {
    ($name:ident $(<$($value:ident: $bound:path),+>)?, $parts:expr) => {
        impl $(<$($value: $bound),+>)? Clone for $name $(<$($value),+>)? {
            /// Makes another handle to the same object.
            fn clone(&self) -> Self {
                Self { handle: self.handle.clone() $(, of: std::marker::PhantomData::<fn() -> crossing!(@of $($value),+)>)? }
            }
        }

        impl $(<$($value: $bound),+>)? PartialEq for $name $(<$($value),+>)? {
            /// Returns whether both are handles to the same object.
            fn eq(&self, other: &Self) -> bool {
                self.handle.is_same(&other.handle)
            }
        }

        #[cfg(test)]
        #[allow(dead_code)] // Not every type is scribbled in.
        impl $(<$($value: $bound),+>)? $name $(<$($value),+>)? {
            /// What holds the object, for a test that scribbles in it.
            pub(crate) fn reference(&self) -> &crate::sync::handle::Reference {
                self.handle.caller()
            }
        }

        impl $(<$($value: $bound),+>)? Eq for $name $(<$($value),+>)? {}

        impl $(<$($value: $bound),+>)? serde::Serialize for $name $(<$($value),+>)? {
            fn serialize<Z: serde::Serializer>(&self, serializer: Z) -> Result<Z::Ok, Z::Error> {
                self.handle.serialize(serializer)
            }
        }

        impl<'de $(, $($value: $bound),+)?> serde::Deserialize<'de> for $name $(<$($value),+>)? {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let handle = crate::sync::handle::Handle::deserialize(deserializer, &$parts)?;
                Ok(Self { handle $(, of: std::marker::PhantomData::<fn() -> crossing!(@of $($value),+)>)? })
            }
        }
    };
    (@of $value:ident) => { $value };
    (@of $first:ident, $second:ident) => { ($first, $second) };
}
pub(crate) use crossing;
