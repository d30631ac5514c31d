//! Two ends that send to each other.
//!
//! # Shared state
//! A pipe: two buffers (`buffer.rs`), one for each direction, and the names of its ends. An end: an object
//! of its own, in which a handle to the pipe is stored. So the pipe lives while an end does, and an end
//! while anybody holds it.
//!
//! # Rules
//! R1. The names of the ends are stored before anybody else has a handle to either.
//! R2. An end is gone when no object has its name any more. Whoever waits looks at that.
//!
//! # If a process dies
//! What it held of the buffers is settled first, then its ends are given up; with the last holder of an
//! end the other side is told to look (`keep.rs`).

use super::buffer::{Buffer, BufferState, Place};
use super::errors::{GetError, PutError};
use super::queue::{layout, slot_bytes};
use super::transfer::{Ended, Transfer, damaged};
use crate::collections::Kept;
use crate::error::Error;
use crate::prim::{Acquire, AtomicU32, AtomicU64, Relaxed, Release};
use crate::shm::keeper::Part;
use crate::shm::offset::Shared;
use crate::shm::shape::ObjectId;
use crate::shm::{Arena, Offset, ParticipantId, fault};
use crate::sync::crossing::{carry, send_along};
use crate::sync::handle::{Handle, Parts};
use crate::sync::settle::Kind;
use crate::sync::state::Deadline;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

/// How many values a direction holds before its sender waits.
const CAPACITY: usize = 64;

/// The name of an object, as it lies in the arena.
#[derive(Debug)]
#[repr(C)]
struct Name {
    index: AtomicU32,
    uid: AtomicU64,
}

impl Name {
    fn store(&self, id: ObjectId) {
        self.index.store(id.index(), Relaxed);
        self.uid.store(id.uid(), Release);
    }

    fn load(&self) -> ObjectId {
        ObjectId::of(self.index.load(Relaxed), self.uid.load(Acquire))
    }
}

#[derive(Debug)]
#[repr(C)]
struct PipeState {
    /// What each end sends.
    buffers: [BufferState; 2],
    ends: [Name; 2],
}

#[derive(Debug)]
#[repr(C)]
struct EndState {
    pipe: Name,
    side: AtomicU32,
    /// The list of what is stored here: the pipe.
    stored: AtomicU32,
}

#[allow(unsafe_code)] // The markers assert what the lines above them say.
mod shared {
    // SAFETY: atomics only.
    unsafe impl super::Shared for super::PipeState {}
    // SAFETY: as above.
    unsafe impl super::Shared for super::EndState {}
}

const PIPE: Parts = Parts::of(Kind::Pipe);
const END: Parts = Parts::of(Kind::PipeEnd);

/// One end of a pipe: it sends values of type `A`, and receives values of type `B`.
///
/// Handles to an end may be cloned, and cross to other processes; the end is gone with the last one.
/// (There is no end of file that has to be closed in the right processes first.)
///
/// # If a process dies
/// That had the other end alone: what it has sent can be received, then there is
/// [`GetError::Disconnected`]; sending fails at once. In the middle of sending or receiving: as for a
/// [`Queue`](super::Queue).
///
/// # Examples
/// ```
/// use procpool::{Pool, queue::Pipe};
///
/// let (here, there) = Pipe::<u32, String>::pair()?;
/// let pool = Pool::builder().workers(1).build()?;
/// let serve = |end: Pipe<String, u32>| {
///     while let Ok(n) = end.recv() {
///         end.send("ab".repeat(n as usize)).unwrap();
///     }
/// };
/// let server = pool.submit(serve, there)?;
/// here.send(3)?;
/// assert_eq!(here.recv()?, "ababab");
/// drop(here); // the server's `recv` ends
/// server.join()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[doc(alias = "Connection")]
pub struct Pipe<A: Kept, B: Kept> {
    end: Handle<EndState>,
    pipe: Handle<PipeState>,
    of: PhantomData<fn(A) -> B>,
}

impl<A: Kept, B: Kept> Pipe<A, B> {
    /// Makes a pipe: its two ends. Each direction holds up to 64 values, in slots as for a
    /// [`Queue`](super::Queue).
    ///
    /// # Errors
    /// The arena is full, or cannot be made.
    pub fn pair() -> Result<(Self, Pipe<B, A>), Error> {
        let (there, there_words) = layout(CAPACITY, slot_bytes::<A>())?;
        let (back, back_words) = layout(CAPACITY, slot_bytes::<B>())?;
        let fill = |state: &PipeState| {
            state.buffers[0].initialise(0, CAPACITY, there_words, 0);
            state.buffers[1].initialise(1, CAPACITY, back_words, there);
        };
        let pipe = Handle::create_with_tail(&PIPE, there + back, None, fill)?;
        let ends = [make_end(&pipe, 0)?, make_end(&pipe, 1)?];
        for (name, end) in pipe.state().ends.iter().zip(&ends) {
            name.store(end.caller().id());
        }
        let [first, second] = ends;
        let other = Pipe { end: second, pipe: pipe.clone(), of: PhantomData };
        Ok((Self { end: first, pipe, of: PhantomData }, other))
    }

    fn side(&self) -> usize {
        self.end.state().side.load(Relaxed) as usize & 1
    }

    fn transfer(&self, side: usize) -> Option<Transfer<'_>> {
        let (caller, state) = (self.pipe.caller(), &self.pipe.state().buffers[side]);
        let place = Place::of::<PipeState>(caller.block(), caller.block_bytes());
        Some(Transfer { caller, state, buffer: state.at(caller.arena(), place)? })
    }

    fn ended(&self) -> Option<Ended> {
        let arena = self.pipe.caller().arena();
        let other = self.pipe.state().ends[1 - self.side()].load();
        if arena.object_block(other, 0) == 0 {
            return Some(Ended::Disconnected);
        }
        arena.is_orphaned().then_some(Ended::OwnerDied)
    }

    fn send_until(&self, value: A, deadline: Deadline) -> Result<(), PutError<A>> {
        match self.transfer(self.side()) {
            Some(transfer) => transfer.put(value, deadline, || self.ended()),
            None => Err(PutError::Failed(value, damaged())),
        }
    }

    fn recv_until(&self, deadline: Deadline) -> Result<B, GetError> {
        let transfer = self.transfer(1 - self.side());
        let transfer = transfer.ok_or_else(|| GetError::Failed(damaged()))?;
        transfer.get(deadline, || self.ended())
    }

    /// Sends a value; waits while 64 are under way.
    ///
    /// # Errors
    /// [`PutError::Disconnected`] if the other end is gone; the value cannot be encoded, or the arena has
    /// no room for it.
    pub fn send(&self, value: A) -> Result<(), PutError<A>> {
        self.send_until(value, Deadline::Never)
    }

    /// Sends a value if that needs no waiting.
    ///
    /// # Errors
    /// [`PutError::Full`], or as [`send`](Self::send).
    pub fn try_send(&self, value: A) -> Result<(), PutError<A>> {
        self.send_until(value, Deadline::At(0))
    }

    /// Sends a value; waits for room for at most `timeout`.
    ///
    /// # Errors
    /// [`PutError::Full`], or as [`send`](Self::send).
    pub fn send_timeout(&self, value: A, timeout: Duration) -> Result<(), PutError<A>> {
        self.send_until(value, Deadline::after(timeout))
    }

    /// Receives a value; waits for one.
    ///
    /// # Errors
    /// [`GetError::Disconnected`] if the other end is gone and everything that it sent has been received;
    /// [`GetError::Failed`] if the value cannot be decoded.
    pub fn recv(&self) -> Result<B, GetError> {
        self.recv_until(Deadline::Never)
    }

    /// Receives a value if there is one.
    ///
    /// # Errors
    /// [`GetError::Empty`], or as [`recv`](Self::recv).
    pub fn try_recv(&self) -> Result<B, GetError> {
        self.recv_until(Deadline::At(0))
    }

    /// Receives a value; waits for at most `timeout`.
    ///
    /// # Errors
    /// [`GetError::Empty`], or as [`recv`](Self::recv).
    pub fn recv_timeout(&self, timeout: Duration) -> Result<B, GetError> {
        self.recv_until(Deadline::after(timeout))
    }

    /// Waits for at most `timeout` until there is a value to receive; returns whether there is one.
    ///
    /// # Errors
    /// [`GetError::Disconnected`] as for [`recv`](Self::recv).
    pub fn poll(&self, timeout: Duration) -> Result<bool, GetError> {
        let transfer = self.transfer(1 - self.side());
        let transfer = transfer.ok_or_else(|| GetError::Failed(damaged()))?;
        let (buffer, room) = (transfer.buffer, &transfer.state.getters.0);
        let look = || {
            if buffer.has_value() {
                return Some(Ok(true));
            }
            let ended = self.ended()?;
            match buffer.has_value() {
                true => Some(Ok(true)),
                false => buffer.is_drained().then_some(Err(ended.get())),
            }
        };
        let polled = room.wait(transfer.caller, Deadline::after(timeout), look);
        if let Some(Ok(true)) = polled {
            // The value stays for another, who may wait behind this one.
            room.notify(transfer.caller, 1);
        }
        polled.unwrap_or(Ok(false))
    }

    /// Returns whether the other end is gone.
    #[must_use]
    pub fn is_disconnected(&self) -> bool {
        self.ended() == Some(Ended::Disconnected)
    }

    /// Checks everything, while nobody uses the pipe: for tests.
    ///
    /// # Errors
    /// What is wrong.
    #[doc(hidden)]
    pub fn check_invariants(&self) -> Result<(), String> {
        (0..2).try_for_each(|side| {
            self.transfer(side).ok_or("it is not inside the arena")?.buffer.check()
        })
    }
}

fn make_end(pipe: &Handle<PipeState>, side: u32) -> Result<Handle<EndState>, Error> {
    let end = Handle::create(&END, None, |state: &EndState| {
        state.pipe.store(pipe.caller().id());
        state.side.store(side, Relaxed);
    })?;
    let list = send_along(&[carry(pipe)], 0, 0)?;
    end.state().stored.store(list, Release);
    fault::point("pipe.end-made");
    end.caller().arena().lock_objects().hand_over(list, ParticipantId::NOBODY);
    Ok(end)
}

impl<A: Kept, B: Kept> Clone for Pipe<A, B> {
    /// Makes another handle to the same end.
    fn clone(&self) -> Self {
        Self { end: self.end.clone(), pipe: self.pipe.clone(), of: PhantomData }
    }
}

impl<A: Kept, B: Kept> PartialEq for Pipe<A, B> {
    /// Returns whether both are handles to the same end.
    fn eq(&self, other: &Self) -> bool {
        self.end.is_same(&other.end)
    }
}

impl<A: Kept, B: Kept> Eq for Pipe<A, B> {}

impl<A: Kept, B: Kept> Serialize for Pipe<A, B> {
    fn serialize<Z: Serializer>(&self, serializer: Z) -> Result<Z::Ok, Z::Error> {
        self.end.serialize(serializer)
    }
}

impl<'de, A: Kept, B: Kept> Deserialize<'de> for Pipe<A, B> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let end: Handle<EndState> = Handle::deserialize(deserializer, &END)?;
        let pipe = Handle::open(end.state().pipe.load(), &PIPE).map_err(de::Error::custom)?;
        Ok(Self { end, pipe, of: PhantomData })
    }
}

impl<A: Kept, B: Kept> fmt::Debug for Pipe<A, B> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Pipe")
            .field("object", &self.end)
            .field("disconnected", &self.is_disconnected())
            .finish()
    }
}

/// The end of a one-way pipe that sends.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(bound = "")]
pub struct SendEnd<T: Kept>(Pipe<T, ()>);

/// The end of a one-way pipe that receives.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(bound = "")]
pub struct RecvEnd<T: Kept>(Pipe<(), T>);

/// Makes a one-way pipe.
///
/// # Errors
/// The arena is full, or cannot be made.
///
/// # Examples
/// ```
/// let (sender, receiver) = procpool::queue::one_way::<u8>()?;
/// sender.send(7)?;
/// drop(sender);
/// assert_eq!(receiver.recv()?, 7);
/// assert!(receiver.recv().unwrap_err().is_disconnected());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn one_way<T: Kept>() -> Result<(SendEnd<T>, RecvEnd<T>), Error> {
    let (sender, receiver) = Pipe::pair()?;
    Ok((SendEnd(sender), RecvEnd(receiver)))
}

impl<T: Kept> SendEnd<T> {
    /// See [`Pipe::send`].
    ///
    /// # Errors
    /// As there.
    pub fn send(&self, value: T) -> Result<(), PutError<T>> {
        self.0.send(value)
    }

    /// See [`Pipe::try_send`].
    ///
    /// # Errors
    /// As there.
    pub fn try_send(&self, value: T) -> Result<(), PutError<T>> {
        self.0.try_send(value)
    }

    /// See [`Pipe::send_timeout`].
    ///
    /// # Errors
    /// As there.
    pub fn send_timeout(&self, value: T, timeout: Duration) -> Result<(), PutError<T>> {
        self.0.send_timeout(value, timeout)
    }
}

impl<T: Kept> RecvEnd<T> {
    /// See [`Pipe::recv`].
    ///
    /// # Errors
    /// As there.
    pub fn recv(&self) -> Result<T, GetError> {
        self.0.recv()
    }

    /// See [`Pipe::try_recv`].
    ///
    /// # Errors
    /// As there.
    pub fn try_recv(&self) -> Result<T, GetError> {
        self.0.try_recv()
    }

    /// See [`Pipe::recv_timeout`].
    ///
    /// # Errors
    /// As there.
    pub fn recv_timeout(&self, timeout: Duration) -> Result<T, GetError> {
        self.0.recv_timeout(timeout)
    }

    /// See [`Pipe::poll`].
    ///
    /// # Errors
    /// As there.
    pub fn poll(&self, timeout: Duration) -> Result<bool, GetError> {
        self.0.poll(timeout)
    }
}

/// The two buffers of the pipe at a block of the arena.
pub(super) fn buffers_at(arena: &Arena, block: u64) -> impl Iterator<Item = Buffer<'_>> {
    let state = arena.at(Offset::<PipeState>::new(block));
    let place = Place::of::<PipeState>(block, arena.bytes_of_used(block));
    state
        .into_iter()
        .flat_map(|state| &state.buffers)
        .filter_map(move |buffer| buffer.at(arena, place))
}

/// What is stored in the end at a block of the arena.
pub(super) fn each_part_of_end(arena: &Arena, block: u64, visit: &mut dyn FnMut(Part)) {
    if let Some(end) = arena.at(Offset::<EndState>::new(block))
        && let stored @ 1.. = end.stored.load(Relaxed)
    {
        visit(Part::Stored(stored));
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
#[path = "buffer_fuzz.rs"]
mod fuzz;
