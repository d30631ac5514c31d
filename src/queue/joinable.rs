//! A queue that knows which of its values have been dealt with. What lies in the arena, and the protocol
//! on it: `chain.rs`.

use super::chain::{ChainState, QUEUED, Took};
use super::errors::{GetError, PutError};
use super::transfer::{Ended, decode_bytes, encode};
use crate::collections::Kept;
use crate::collections::entry::NewEntry;
use crate::collections::scratch::with_scratch;
use crate::error::Error;
use crate::prim::Relaxed;
use crate::shm::Arena;
use crate::sync::crossing::crossing;
use crate::sync::handle::{Handle, Parts, own_participant};
use crate::sync::settle::Kind;
use crate::sync::state::Deadline;
use crate::sync::state::room::Room;
use std::fmt;
use std::marker::PhantomData;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// The queues of which this process has got values that it is not done with, and how many: it keeps a
/// handle for them, so that they are given back when it dies, also if it had dropped its own.
static OWED: Mutex<Vec<(Handle<ChainState>, usize)>> = Mutex::new(Vec::new());

/// Notes that this process has got a value.
fn owe(handle: &Handle<ChainState>) {
    let mut owed = OWED.lock().unwrap_or_else(PoisonError::into_inner);
    match owed.iter_mut().find(|(of, _)| of.is_same(handle)) {
        Some((_, count)) => *count += 1,
        None => owed.push((handle.clone(), 1)),
    }
}

/// Notes that this process is done with one.
fn pay(handle: &Handle<ChainState>) {
    let mut owed = OWED.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(at) = owed.iter().position(|(of, _)| of.is_same(handle)) else { return };
    owed[at].1 -= 1;
    let paid = (owed[at].1 == 0).then(|| owed.swap_remove(at));
    drop(owed);
    // Letting go of it takes locks of its own.
    drop(paid);
}

/// What becomes of a value whose consumer died before it said that it was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnDeath {
    /// It is in the queue again, in its old place.
    #[default]
    Redeliver,
    /// It is dropped, and counts as done.
    Drop,
}

/// A bounded queue whose consumers say when they are done with a value, and that can be waited for until
/// all are done.
///
/// # If a process dies
/// As for a [`Queue`](super::Queue). And what a consumer had got and not reported as done is in the
/// queue again, in its old place, or dropped: see [`OnDeath`]. So [`join`](Self::join) returns once the
/// living have done everything.
///
/// # Examples
/// ```
/// use procpool::{Pool, queue::JoinableQueue};
///
/// let tasks = JoinableQueue::<u32>::new(16)?;
/// let pool = Pool::builder().workers(2).build()?;
/// let consume = |tasks: JoinableQueue<u32>| {
///     let mut sum = 0;
///     while let Ok(n) = tasks.get() {
///         sum += n;
///         tasks.task_done().unwrap();
///     }
///     sum
/// };
/// let consumers: Vec<_> =
///     (0..2).map(|_| pool.submit(consume, tasks.clone())).collect::<Result<_, _>>()?;
/// for n in 1..=10 {
///     tasks.put(n)?;
/// }
/// tasks.join(); // all ten are done
/// tasks.close();
/// let sums: Vec<u32> = consumers.into_iter().map(|task| task.join().unwrap()).collect();
/// assert_eq!(sums.iter().sum::<u32>(), 55);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct JoinableQueue<T: Kept> {
    handle: Handle<ChainState>,
    of: PhantomData<fn() -> T>,
}

const PARTS: Parts = Parts::of(Kind::JoinableQueue);

crossing!(JoinableQueue<T: Kept>, PARTS);

impl<T: Kept> JoinableQueue<T> {
    /// Makes a queue for at most `capacity` values, not counting those that have been got; what a dead
    /// consumer had got is redelivered.
    ///
    /// # Errors
    /// `capacity` is 0, or the arena is full or cannot be made.
    pub fn new(capacity: usize) -> Result<Self, Error> {
        Self::with_policy(capacity, OnDeath::Redeliver)
    }

    /// The same, with what is to become of what a dead consumer had got.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn with_policy(capacity: usize, on_death: OnDeath) -> Result<Self, Error> {
        if capacity == 0 {
            return Err(Error::invalid("a queue's capacity is 0, and must be at least 1".into()));
        }
        let handle = Handle::create(&PARTS, None, |state: &ChainState| {
            state.capacity.store(capacity as u64, Relaxed);
            for (number, room) in (0..).zip([&state.getters, &state.putters, &state.joiners]) {
                room.initialise(number);
            }
            state.redelivers.store(u32::from(on_death == OnDeath::Redeliver), Relaxed);
            #[allow(unsafe_code)] // As the comment says.
            // SAFETY: the object is new and nobody else's yet.
            unsafe {
                state.stripe.initialise();
            }
        })?;
        Ok(Self { handle, of: PhantomData })
    }

    fn arena(&self) -> &'static Arena {
        self.handle.caller().arena()
    }

    fn ended(&self) -> Option<Ended> {
        if self.is_closed() {
            return Some(Ended::Closed);
        }
        self.arena().is_orphaned().then_some(Ended::OwnerDied)
    }

    fn put_until(&self, value: T, deadline: Deadline) -> Result<(), PutError<T>> {
        let (state, caller) = (self.handle.state(), self.handle.caller());
        own_participant();
        let put = with_scratch(|scratch| -> Result<Option<Result<(), Ended>>, Error> {
            encode(&value, scratch)?;
            let mut node = [0; 16];
            node[8..].copy_from_slice(&QUEUED.to_ne_bytes());
            let new = NewEntry::prepare(self.arena(), &node, 0, &scratch.value, &scratch.carried)?;
            let mut new = Some(new);
            let attempt = || {
                if let Some(ended) = self.ended() {
                    return Some(Ok(Err(ended)));
                }
                match state.append(self.arena(), &mut new) {
                    Ok(true) => Some(Ok(Ok(()))),
                    Ok(false) => self.ended().map(|ended| Ok(Err(ended))),
                    Err(error) => Some(Err(error)),
                }
            };
            wait(&state.putters, caller, deadline, attempt).transpose()
        });
        match put {
            Ok(Some(Ok(()))) => {
                state.getters.notify(caller, 1);
                Ok(())
            }
            Ok(Some(Err(ended))) => Err(ended.put(value)),
            Ok(None) => Err(PutError::Full(value)),
            Err(error) => Err(PutError::Failed(value, error)),
        }
    }

    fn get_until(&self, deadline: Deadline) -> Result<T, GetError> {
        let (state, caller) = (self.handle.state(), self.handle.caller());
        let me = own_participant();
        with_scratch(|scratch| {
            let before = &mut scratch.before;
            let attempt = || {
                // Looked at first: what was put before the end comes before the end.
                let ended = self.ended();
                before.clear();
                match (state.take(self.arena(), me, before), ended) {
                    (Ok(Took::Value), _) => Some(Ok(())),
                    (Ok(Took::Nothing { more_may_come: true }), Some(Ended::Closed)) => None,
                    (Ok(Took::Nothing { .. }), ended) => ended.map(|ended| Err(ended.get())),
                    (Err(error), _) => Some(Err(GetError::Failed(error))),
                }
            };
            match wait(&state.getters, caller, deadline, attempt) {
                Some(Ok(())) => {
                    owe(&self.handle);
                    state.putters.notify(caller, 1);
                    // What it leads to is held by the entry until it is done.
                    decode_bytes(&scratch.before)
                }
                Some(Err(error)) => Err(error),
                None => Err(GetError::Empty),
            }
        })
    }

    /// Puts a value; waits while the queue is full.
    ///
    /// # Errors
    /// The queue is closed, the value cannot be encoded, or the arena has no room for it.
    pub fn put(&self, value: T) -> Result<(), PutError<T>> {
        self.put_until(value, Deadline::Never)
    }

    /// Puts a value if there is room.
    ///
    /// # Errors
    /// [`PutError::Full`], or as [`put`](Self::put).
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

    /// Gets the oldest value; waits while the queue is empty. [`task_done`](Self::task_done) says that it
    /// has been dealt with.
    ///
    /// # Errors
    /// [`GetError::Closed`] when the queue is closed and everything in it is done (until then a consumer
    /// may die, and what it had got come back); [`GetError::Failed`] if the value cannot be decoded: it
    /// counts as got.
    pub fn get(&self) -> Result<T, GetError> {
        self.get_until(Deadline::Never)
    }

    /// Gets the oldest value if there is one.
    ///
    /// # Errors
    /// [`GetError::Empty`], or as [`get`](Self::get).
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

    /// Says that this process is done with the first value that it has got and not been done with.
    ///
    /// # Errors
    /// This process has got nothing that is not done.
    pub fn task_done(&self) -> Result<(), Error> {
        let (state, caller) = (self.handle.state(), self.handle.caller());
        let Some(carried) = state.finish(self.arena(), own_participant()) else {
            return Err(Error::invalid(format!(
                "task_done was called too often: of {} unfinished values this process has got none",
                self.unfinished()
            )));
        };
        drop(carried);
        pay(&self.handle);
        if self.unfinished() == 0 {
            state.joiners.notify(caller, u32::MAX);
            if self.is_closed() {
                state.getters.notify(caller, u32::MAX);
            }
        }
        Ok(())
    }

    /// How many values have been put and not been done with.
    #[must_use]
    pub fn unfinished(&self) -> usize {
        // Deals with what the dead had taken.
        drop(self.handle.state().change(self.arena()));
        self.handle.state().unfinished.load(Relaxed) as usize
    }

    fn join_until(&self, deadline: Deadline) -> bool {
        let (state, caller) = (self.handle.state(), self.handle.caller());
        let attempt = || (self.unfinished() == 0).then_some(());
        wait(&state.joiners, caller, deadline, attempt).is_some()
    }

    /// Waits until everything that was put has been done with.
    pub fn join(&self) {
        self.join_until(Deadline::Never);
    }

    /// Waits for that for at most `timeout`; returns whether it is so.
    pub fn join_timeout(&self, timeout: Duration) -> bool {
        self.join_until(Deadline::after(timeout))
    }

    /// How many values are in the queue, not counting those that have been got.
    #[must_use]
    pub fn len(&self) -> usize {
        drop(self.handle.state().change(self.arena()));
        self.handle.state().queued.load(Relaxed) as usize
    }

    /// Returns whether there is nothing to get.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many values there may be to get.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.handle.state().capacity.load(Relaxed) as usize
    }

    /// Closes the queue, for all processes: nothing more can be put.
    pub fn close(&self) {
        let (state, caller) = (self.handle.state(), self.handle.caller());
        // Under the lock, so that nothing is put after it.
        let changing = state.change(self.arena());
        state.closed.close();
        drop(changing);
        for room in [&state.getters, &state.putters] {
            room.notify(caller, u32::MAX);
        }
    }

    /// Returns whether the queue is closed.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.handle.state().closed.is_closed()
    }

    /// How many threads wait at this moment: for a value, for room, for all to be done.
    #[must_use]
    pub fn waiting(&self) -> (u32, u32, u32) {
        let state = self.handle.state();
        (state.getters.waiting(), state.putters.waiting(), state.joiners.waiting())
    }

    /// Checks everything: for tests.
    ///
    /// # Errors
    /// What is wrong.
    #[doc(hidden)]
    pub fn check_invariants(&self) -> Result<(), String> {
        self.handle.state().check(self.arena())
    }
}

/// Tries once, and then waits unless there is no time for it.
fn wait<R>(
    room: &Room,
    caller: &crate::sync::handle::Reference,
    deadline: Deadline,
    mut attempt: impl FnMut() -> Option<R>,
) -> Option<R> {
    let found = attempt();
    if found.is_some() || deadline == Deadline::At(0) {
        return found;
    }
    room.wait(caller, deadline, attempt)
}

impl<T: Kept> fmt::Debug for JoinableQueue<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("JoinableQueue")
            .field("object", &self.handle)
            .field("queued", &self.handle.state().queued.load(Relaxed))
            .field("unfinished", &self.unfinished())
            .field("closed", &self.is_closed())
            .finish()
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
#[path = "joinable_fuzz.rs"]
mod fuzz;
