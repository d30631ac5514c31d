//! Handles: how a process holds an object. How a handle crosses to another is in `crossing.rs`.
//!
//! # Rules
//! R1. A process holds an object once, however many handles it has: they share one [`Reference`], and
//!     the last one to go gives the holding up (`shm/objects.rs`).
//! R2. Where an object lies, and how much room it has, is read once, when it is first held: what is written there
//!     afterwards leads nobody to other places.
//!
//! # If a process dies
//! Its holdings are given back by settlement.
#![allow(unsafe_code)] // Fills new blocks; hands out references into blocks that are held.

use super::records;
use super::settle::Kind;
use super::state::{Caller, Deadline, Records, Waiter};
use crate::error::Error;
use crate::prim::AtomicU64;
use crate::shm::arena::{is_forked_copy, own_id, own_raw};
use crate::shm::objects::{BLOCKS_MAX, Holding};
use crate::shm::offset::Shared;
use crate::shm::shape::{ObjectId, Shape};
use crate::shm::{Arena, Offset};
use std::cell::UnsafeCell;
use std::collections::HashMap;
use std::fmt;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

/// That this process holds an object (R1).
#[derive(Debug)]
pub(crate) struct Reference {
    arena: &'static Arena,
    id: ObjectId,
    shape: Shape,
    holding_index: u32,
    holding: &'static Holding,
    /// The object's first block, and how many bytes that has.
    block: u64,
    block_bytes: u64,
    /// What the layer above has read of the object, for as long as it is held; 0 if nothing.
    remembered: AtomicU64,
    /// Whether the object may be given up. (A lock that this process holds may not.)
    may_be_given_up: fn(&Self) -> bool,
}

/// The references of this process, by the object's place in the table.
static REFERENCES: Mutex<Option<HashMap<u32, Weak<Reference>>>> = Mutex::new(None);

impl Reference {
    pub(crate) fn arena(&self) -> &'static Arena {
        self.arena
    }

    pub(crate) fn id(&self) -> ObjectId {
        self.id
    }

    /// The object's first block.
    pub(crate) fn block(&self) -> u64 {
        self.block
    }

    /// How many bytes the object's first block has.
    #[inline]
    pub(crate) fn block_bytes(&self) -> u64 {
        self.block_bytes
    }

    /// For the layer above: what it has read of the object once, and goes by from then on (R2); 0 at first.
    #[inline]
    pub(crate) fn remembered(&self) -> &AtomicU64 {
        &self.remembered
    }

    /// How much of the object this process holds.
    pub(super) fn holds(&self) -> u64 {
        self.holding.held.load(crate::prim::Relaxed)
    }

    /// The state at the beginning of the object's first block.
    pub(crate) fn state<S: Shared>(&self) -> Option<&'static S> {
        self.arena.at(Offset::new(self.block))
    }

    fn find(id: ObjectId) -> Option<Arc<Self>> {
        let found = {
            let references = REFERENCES.lock().unwrap_or_else(PoisonError::into_inner);
            references.as_ref()?.get(&id.index())?.upgrade()?
        };
        // Dropping it may give the object up, for which the table must not be locked.
        (found.id == id).then_some(found)
    }

    fn remember(self) -> Arc<Self> {
        let reference = Arc::new(self);
        let mut references = REFERENCES.lock().unwrap_or_else(PoisonError::into_inner);
        let place = references.get_or_insert_default().entry(reference.id.index());
        place.insert_entry(Arc::downgrade(&reference));
        reference
    }
}

impl Drop for Reference {
    fn drop(&mut self) {
        if is_forked_copy() || !(self.may_be_given_up)(self) {
            return;
        }
        {
            let mut references = REFERENCES.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(references) = references.as_mut()
                && let Some(found) = references.get(&self.id.index())
                // Another thread may have decoded the handle anew and hold the object again.
                && found.strong_count() == 0
            {
                references.remove(&self.id.index());
            }
        }
        self.arena.lock_objects().give_up(self.holding_index);
    }
}

impl Records for Reference {
    fn waiter(&self, index: u32) -> Option<&Waiter> {
        self.arena.waiter(index)
    }

    fn each_waiter(&self, visit: &mut dyn FnMut(u32, &Waiter)) {
        self.arena.each_waiter(visit);
    }

    fn held_by_others(&self, object: u32, dead: u32) -> u64 {
        Records::held_by_others(self.arena, object, dead)
    }

    fn patience(&self) -> Option<Duration> {
        self.arena.patience()
    }

    fn look_around(&self) {
        self.arena.look_around();
    }
}

impl Caller for Reference {
    #[inline]
    fn me(&self) -> u32 {
        own_participant()
    }

    fn object(&self) -> u32 {
        self.id.index()
    }

    #[inline]
    fn held(&self) -> &AtomicU64 {
        &self.holding.held
    }

    fn own_waiter(&self, deadline: Deadline) -> Option<(u32, &Waiter)> {
        records::own_waiter(self.arena, deadline)
    }

    fn search(&self, found: &mut dyn FnMut() -> bool) -> bool {
        records::adapted_search(found)
    }
}

/// The calling process, which is not a forked copy of one that has handles.
///
/// # Panics
/// In such a copy: what it took would be written down as taken by the process that it was copied
/// from.
#[inline(always)]
pub(crate) fn own_participant() -> u32 {
    let me = own_raw();
    if me == 0 {
        forked();
    }
    me
}

/// Whether this process is a forked copy, in which guards unlock nothing: what they stand for is held
/// by the process that it was copied from.
#[inline(always)]
pub(crate) fn is_copy() -> bool {
    own_raw() == 0
}

#[cold]
fn forked() -> ! {
    panic!("{}", Error::forked())
}

/// A state, and the value that it protects.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct With<S, M> {
    pub(crate) state: S,
    value: UnsafeCell<M>,
}

impl<S, M> With<S, M> {
    pub(crate) fn value(&self) -> *mut M {
        self.value.get()
    }
}

// SAFETY: the state is shared memory, and the value is reached through a raw pointer only, by the
// rules of the state.
unsafe impl<S: Shared, M> Shared for With<S, M> {}
// SAFETY: as above.
unsafe impl<S: Sync, M> Sync for With<S, M> {}

/// A handle to an object whose first block begins with an `S`.
pub(crate) struct Handle<S: 'static> {
    reference: Arc<Reference>,
    state: &'static S,
}

/// What an object is made of.
pub(crate) struct Parts {
    pub(crate) kind: Kind,
    pub(crate) value_bytes: usize,
    pub(crate) value_align: usize,
    pub(crate) encoded: bool,
    /// See [`Reference`].
    pub(crate) may_be_given_up: fn(&Reference) -> bool,
}

impl Parts {
    /// An object of this kind, with no value or one that the kind determines.
    pub(crate) const fn of(kind: Kind) -> Self {
        Self { kind, value_bytes: 0, value_align: 1, encoded: false, may_be_given_up: |_| true }
    }

    fn shape(&self) -> Shape {
        Shape {
            kind: self.kind as u32,
            value_bytes: u32::try_from(self.value_bytes).unwrap_or(u32::MAX),
            value_align: u32::try_from(self.value_align).unwrap_or(u32::MAX) & 0xffff,
            encoded: self.encoded,
        }
    }
}

/// Frees blocks unless they have become an object's.
struct Blocks {
    arena: &'static Arena,
    offsets: [u64; BLOCKS_MAX],
}

impl Drop for Blocks {
    fn drop(&mut self) {
        for offset in self.offsets.into_iter().filter(|offset| *offset != 0) {
            self.arena.free(offset);
        }
    }
}

impl<S: Shared> Handle<S> {
    /// Makes an object, all zero but for what `fill` writes. `more` becomes its second block.
    pub(crate) fn create(
        parts: &Parts,
        more: Option<&[u8]>,
        fill: impl FnOnce(&S),
    ) -> Result<Self, Error> {
        Self::create_with_tail(parts, 0, more, fill)
    }

    /// The same, with so many zeros behind the state in the first block.
    pub(crate) fn create_with_tail(
        parts: &Parts,
        tail_bytes: usize,
        more: Option<&[u8]>,
        fill: impl FnOnce(&S),
    ) -> Result<Self, Error> {
        let arena = Arena::tree(None)?;
        let me = own_id();
        arena.record_start_time(me);
        let mut blocks = Blocks { arena, offsets: [0; BLOCKS_MAX] };
        let bytes = size_of::<S>().saturating_add(tail_bytes);
        blocks.offsets[0] = arena.allocate(bytes as u64, me)?.offset;
        write(arena, blocks.offsets[0], bytes, None)?;
        if let Some(bytes) = more {
            blocks.offsets[1] = arena.allocate(bytes.len() as u64, me)?.offset;
            write(arena, blocks.offsets[1], bytes.len(), Some(bytes))?;
        }
        let state = resolve::<S>(arena, blocks.offsets[0])?;
        fill(state);
        let (id, holding_index) = arena.lock_objects().enter(parts.shape(), blocks.offsets)?;
        let block = std::mem::replace(&mut blocks.offsets, [0; BLOCKS_MAX])[0];
        let reference = reference(arena, id, holding_index, block, parts)?;
        Ok(Self { reference, state })
    }

    /// Holds the object that has this name.
    pub(crate) fn open(id: ObjectId, parts: &Parts) -> Result<Self, Error> {
        if is_forked_copy() {
            return Err(Error::forked());
        }
        let Some(arena) = Arena::existing() else {
            return Err(Error::invalid("this process has no part in any arena".into()));
        };
        let found = Reference::find(id);
        let reference = match found {
            Some(reference) => {
                reference.shape.check(parts.shape())?;
                reference
            }
            None => {
                arena.record_start_time(own_id());
                let locked = arena.lock_objects();
                let holding_index = locked.hold(id, parts.shape())?;
                let block = arena.object_block(id, 0);
                drop(locked);
                reference(arena, id, holding_index, block, parts)?
            }
        };
        if reference.block_bytes < size_of::<S>() as u64 {
            return Err(no_object(reference.block));
        }
        let state = resolve::<S>(arena, reference.block)?;
        Ok(Self { reference, state })
    }
}

fn reference(
    arena: &'static Arena,
    id: ObjectId,
    holding_index: u32,
    block: u64,
    parts: &Parts,
) -> Result<Arc<Reference>, Error> {
    let holding = arena
        .holding(holding_index)
        .ok_or_else(|| Error::broken(format!("no holding {holding_index} in the arena")))?;
    let may_be_given_up = parts.may_be_given_up;
    Ok(Reference {
        arena,
        id,
        shape: parts.shape(),
        holding_index,
        holding,
        block,
        block_bytes: arena.bytes_of_used(block),
        remembered: AtomicU64::new(0),
        may_be_given_up,
    }
    .remember())
}

fn resolve<S: Shared>(arena: &'static Arena, block: u64) -> Result<&'static S, Error> {
    arena.at(Offset::new(block)).ok_or_else(|| no_object(block))
}

#[cold]
fn no_object(block: u64) -> Error {
    Error::broken(format!("no object at {block:#x} in the arena"))
}

/// Fills a new block with `from`, or with zeros.
fn write(arena: &Arena, block: u64, bytes: usize, from: Option<&[u8]>) -> Result<(), Error> {
    let start: NonNull<u8> = arena
        .bytes_at(block, bytes as u64)
        .ok_or_else(|| Error::broken(format!("no block at {block:#x} in the arena")))?;
    match from {
        // SAFETY: the block is this process's, new, and has at least so many bytes.
        Some(from) => unsafe { start.copy_from_nonoverlapping(NonNull::from(from).cast(), bytes) },
        // SAFETY: as above.
        None => unsafe { start.write_bytes(0, bytes) },
    }
    Ok(())
}

impl<S> Handle<S> {
    #[inline]
    pub(crate) fn state(&self) -> &S {
        self.state
    }

    /// The reference, which is the [`Caller`] of operations on the state.
    #[inline]
    pub(crate) fn caller(&self) -> &Reference {
        &self.reference
    }

    /// Another share in the reference, for whoever carries the handle.
    pub(super) fn share(&self) -> Arc<Reference> {
        self.reference.clone()
    }

    /// Whether both lead to the same object.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.reference.id == other.reference.id
    }
}

impl<S> Clone for Handle<S> {
    fn clone(&self) -> Self {
        Self { reference: self.reference.clone(), state: self.state }
    }
}

impl<S> fmt::Debug for Handle<S> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "object {}", self.reference.id.index())
    }
}
