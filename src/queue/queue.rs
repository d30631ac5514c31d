//! A queue that processes share.
//!
//! # Shared state
//! A buffer (`buffer.rs`), and whether it is closed (`closed.rs`).
//!
//! # Rules
//! R1. Once closed, it stays so.
//! R2. A producer claims a cell, and then looks whether the queue is closed: if so, it gives up. Whoever
//!     gets nothing from a closed queue looks for claimed cells, and waits for them to be settled.

use super::buffer::{Buffer, BufferState, Place, size_of_cells};
use super::closed::Closed;
use super::errors::{GetError, PutError};
use super::transfer::{Ended, Transfer, damaged};
use crate::collections::Kept;
use crate::error::Error;
use crate::shm::Arena;
use crate::shm::keeper::Part;
use crate::shm::offset::Shared;
use crate::sync::crossing::crossing;
use crate::sync::handle::{Handle, Parts};
use crate::sync::settle::Kind;
use crate::sync::state::Deadline;
use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

#[derive(Debug)]
#[repr(C)]
pub(super) struct QueueState {
    pub(super) buffer: BufferState,
    closed: Closed,
}

#[allow(unsafe_code)] // The marker asserts what the line above it says.
// SAFETY: atomics only.
unsafe impl Shared for QueueState {}

/// A bounded queue of any `serde` values, with any number of producers and consumers in any processes.
///
/// Values leave in the order in which they came. There is no server and no feeding thread: a value that
/// was put is there when `put` returns, and [`len`](Self::len) is exact. Values that do not fit into the
/// queue's slots are kept in blocks of their own.
///
/// # If a process dies
/// While it puts a value: the value is in the queue, or it is not. While it gets one: the value is
/// still there, in its old place, or it was got. Nobody else is disturbed. Who wants a value back that
/// a consumer had got when it died takes a [`JoinableQueue`](super::JoinableQueue).
///
/// # Examples
/// ```
/// use procpool::{Pool, queue::Queue};
///
/// let (tasks, results) = (Queue::new(8)?, Queue::new(8)?);
/// let pool = Pool::builder().workers(2).build()?;
/// let serve = |(tasks, results): (Queue<u64>, Queue<u64>)| {
///     for n in tasks.iter() {
///         results.put(n * n).unwrap();
///     }
/// };
/// let servers: Vec<_> =
///     (0..2).map(|_| pool.submit(serve, (tasks.clone(), results.clone()))).collect::<Result<_, _>>()?;
/// for n in 1..=5u64 {
///     tasks.put(n)?;
/// }
/// let sum: u64 = (0..5).map(|_| results.get().unwrap()).sum();
/// assert_eq!(sum, 1 + 4 + 9 + 16 + 25);
/// tasks.close(); // `iter` ends
/// for server in servers {
///     server.join()?;
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[doc(alias = "SimpleQueue")]
pub struct Queue<T: Kept> {
    handle: Handle<QueueState>,
    of: PhantomData<fn() -> T>,
}

const PARTS: Parts = Parts::of(Kind::Queue);

crossing!(Queue<T: Kept>, PARTS);

/// Shortest and longest slot that [`Queue::new`] chooses, in bytes.
const SLOT_BYTES: std::ops::RangeInclusive<usize> = 40..=4096;

/// The bytes of a slot for values of a type, if the user does not say.
pub(super) fn slot_bytes<T>() -> usize {
    size_of::<T>().clamp(*SLOT_BYTES.start(), *SLOT_BYTES.end())
}

/// How the cells for so many values of so many bytes lie.
pub(super) fn layout(capacity: usize, slot_bytes: usize) -> Result<(usize, usize), Error> {
    if capacity == 0 || u32::try_from(capacity).is_err() {
        return Err(Error::invalid(format!(
            "a queue's capacity is {capacity}, outside 1..={}",
            u32::MAX
        )));
    }
    size_of_cells(capacity, slot_bytes).ok_or_else(|| {
        Error::limit(format!("{capacity} slots of {slot_bytes} bytes are longer than any arena"))
    })
}

impl<T: Kept> Queue<T> {
    /// Makes a queue for at most `capacity` values. Its slots are as long as a `T` is in memory, at
    /// least 40 and at most 4096 bytes.
    ///
    /// # Errors
    /// `capacity` is 0, or the arena is full or cannot be made.
    pub fn new(capacity: usize) -> Result<Self, Error> {
        Self::with_slots(capacity, slot_bytes::<T>())
    }

    /// Makes a queue for at most `capacity` values, with slots for encoded values of up to `slot_bytes`
    /// bytes; a longer one takes a block of the arena, which costs some tenths of a microsecond.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn with_slots(capacity: usize, slot_bytes: usize) -> Result<Self, Error> {
        let (bytes, cell_words) = layout(capacity, slot_bytes)?;
        let fill = |state: &QueueState| state.buffer.initialise(0, capacity, cell_words, 0);
        let handle = Handle::create_with_tail(&PARTS, bytes, None, fill)?;
        Ok(Self { handle, of: PhantomData })
    }

    #[inline]
    fn buffer(&self) -> Option<Buffer<'_>> {
        let caller = self.handle.caller();
        let place = Place::of::<QueueState>(caller.block(), caller.block_bytes());
        self.handle.state().buffer.at(caller.arena(), place)
    }

    #[inline]
    fn transfer(&self) -> Option<Transfer<'_>> {
        let buffer = self.buffer()?;
        let (caller, state) = (self.handle.caller(), &self.handle.state().buffer);
        Some(Transfer { caller, state, buffer })
    }

    #[inline]
    fn ended(&self) -> Option<Ended> {
        if self.handle.state().closed.is_closed() {
            return Some(Ended::Closed);
        }
        self.handle.caller().arena().is_orphaned().then_some(Ended::OwnerDied)
    }

    #[inline]
    fn put_until(&self, value: T, deadline: Deadline) -> Result<(), PutError<T>> {
        match self.transfer() {
            Some(transfer) => transfer.put(value, deadline, || self.ended()),
            None => Err(PutError::Failed(value, damaged())),
        }
    }

    #[inline]
    fn get_until(&self, deadline: Deadline) -> Result<T, GetError> {
        let transfer = self.transfer().ok_or_else(|| GetError::Failed(damaged()))?;
        transfer.get(deadline, || self.ended())
    }

    /// Puts a value; waits while the queue is full.
    ///
    /// # Errors
    /// The queue is closed, the value cannot be encoded, or the arena has no room for it.
    #[inline]
    pub fn put(&self, value: T) -> Result<(), PutError<T>> {
        self.put_until(value, Deadline::Never)
    }

    /// Puts a value if there is room.
    ///
    /// # Errors
    /// [`PutError::Full`], or as [`put`](Self::put).
    #[inline]
    #[doc(alias = "put_nowait")]
    pub fn try_put(&self, value: T) -> Result<(), PutError<T>> {
        self.put_until(value, Deadline::At(0))
    }

    /// Puts a value; waits for room for at most `timeout`.
    ///
    /// # Errors
    /// [`PutError::Full`], or as [`put`](Self::put).
    pub fn put_timeout(&self, value: T, timeout: Duration) -> Result<(), PutError<T>> {
        self.put_until(value, Deadline::after(timeout))
    }

    /// Puts many values, one after the other; waits while the queue is full.
    ///
    /// # Errors
    /// As [`put`](Self::put), with the values that have not been put.
    pub fn put_many(&self, values: impl IntoIterator<Item = T>) -> Result<(), PutError<Vec<T>>> {
        let mut values = values.into_iter();
        while let Some(value) = values.next() {
            if let Err(error) = self.put(value) {
                return Err(error.map(|value| std::iter::once(value).chain(values).collect()));
            }
        }
        Ok(())
    }

    /// Gets the oldest value; waits while the queue is empty.
    ///
    /// # Errors
    /// [`GetError::Closed`] when the queue is closed and drained; [`GetError::Failed`] if the value
    /// cannot be decoded.
    #[inline]
    pub fn get(&self) -> Result<T, GetError> {
        self.get_until(Deadline::Never)
    }

    /// Gets the oldest value if there is one.
    ///
    /// # Errors
    /// [`GetError::Empty`], or as [`get`](Self::get).
    #[inline]
    #[doc(alias = "get_nowait")]
    pub fn try_get(&self) -> Result<T, GetError> {
        self.get_until(Deadline::At(0))
    }

    /// Gets the oldest value; waits for one for at most `timeout`.
    ///
    /// # Errors
    /// [`GetError::Empty`], or as [`get`](Self::get).
    pub fn get_timeout(&self, timeout: Duration) -> Result<T, GetError> {
        self.get_until(Deadline::after(timeout))
    }

    /// Gets up to `max` values: waits for the first, and takes those that are there behind it.
    ///
    /// # Errors
    /// As [`get`](Self::get), for the first one. One that cannot be decoded later ends the batch: the
    /// values before it are returned, and it is lost.
    pub fn get_many(&self, max: usize) -> Result<Vec<T>, GetError> {
        let mut values = Vec::new();
        if max > 0 {
            values.push(self.get()?);
        }
        while values.len() < max
            && let Ok(value) = self.try_get()
        {
            values.push(value);
        }
        Ok(values)
    }

    /// How many values are in the queue. Takes time in proportion to the capacity.
    #[must_use]
    #[doc(alias = "qsize")]
    pub fn len(&self) -> usize {
        self.buffer().map_or(0, |buffer| buffer.len())
    }

    /// Returns whether there is no value.
    #[must_use]
    #[doc(alias = "empty")]
    pub fn is_empty(&self) -> bool {
        !self.buffer().is_some_and(|buffer| buffer.has_value())
    }

    /// Returns whether there are as many values as there may be.
    #[must_use]
    #[doc(alias = "full")]
    pub fn is_full(&self) -> bool {
        self.len() == self.capacity()
    }

    /// How many values there may be.
    #[must_use]
    #[doc(alias = "maxsize")]
    pub fn capacity(&self) -> usize {
        self.handle.state().buffer.capacity()
    }

    /// Closes the queue, for all processes: nothing more can be put, and who waits for a value gets
    /// those that are there, and then [`GetError::Closed`].
    pub fn close(&self) {
        let (state, caller) = (self.handle.state(), self.handle.caller());
        // R2.
        state.closed.close();
        state.buffer.getters.0.notify(caller, u32::MAX);
        state.buffer.putters.0.notify(caller, u32::MAX);
    }

    /// Returns whether the queue is closed.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.handle.state().closed.is_closed()
    }

    /// Gets values until the queue is closed and drained. One that cannot be decoded is left out.
    pub fn iter(&self) -> impl Iterator<Item = T> + '_ {
        std::iter::from_fn(|| {
            loop {
                match self.get() {
                    Ok(value) => return Some(value),
                    Err(GetError::Failed(error)) if !error.is_broken() => {}
                    Err(_) => return None,
                }
            }
        })
    }

    /// How many threads wait for a value at this moment, and how many for room.
    #[must_use]
    pub fn waiting(&self) -> (u32, u32) {
        let buffer = &self.handle.state().buffer;
        (buffer.getters.0.waiting(), buffer.putters.0.waiting())
    }

    /// Checks everything, while nobody uses the queue: for tests.
    ///
    /// # Errors
    /// What is wrong.
    #[doc(hidden)]
    pub fn check_invariants(&self) -> Result<(), String> {
        self.buffer().ok_or("it is not inside the arena")?.check()
    }
}

impl<T: Kept> fmt::Debug for Queue<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Queue")
            .field("object", &self.handle)
            .field("len", &self.len())
            .field("capacity", &self.capacity())
            .field("closed", &self.is_closed())
            .finish()
    }
}

/// The queue at a block of the arena.
pub(super) fn at(arena: &Arena, block: u64) -> Option<Buffer<'_>> {
    let state = arena.at(crate::shm::Offset::<QueueState>::new(block))?;
    state.buffer.at(arena, Place::of::<QueueState>(block, arena.bytes_of_used(block)))
}

pub(super) fn each_part(arena: &Arena, block: u64, visit: &mut dyn FnMut(Part)) {
    if let Some(buffer) = at(arena, block) {
        buffer.each_part(visit);
    }
}
