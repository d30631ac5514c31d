//! A lock that its owner, one thread of one process, may take again.
//!
//! # Shared state
//! The C library's robust process-shared mutex, `poisoned`, and words that only the owner writes:
//! `owner` names it, `depth` says how often it has taken the lock.
//!
//! ```text
//! owner | number of the thread, unique in the arena |          0: nobody
//! ```
//! A thread's number is never another's: not of one that lives in the same place later, nor of a process
//! that has the same participant id later. And `holder`, as in `mutex.rs`.
//!
//! # If a process dies
//! The kernel hands the mutex on; the next owner is told, and begins at depth 1.
//!
//! # Fairness
//! As `mutex.rs`.
#![allow(unsafe_code)] // Initialises the C library's mutex in place.

use super::crossing::crossing;
use super::handle::{Handle, Parts, Reference, is_copy, own_participant};
use super::lock_error::{LockError, TryLockError};
use super::settle::Kind;
use super::state::Deadline;
use crate::error::Error;
use crate::prim::{AtomicU32, AtomicU64, Relaxed};
use crate::shm::Arena;
use crate::shm::fault;
use crate::shm::offset::Shared;
use crate::sys::robust::{Locked, RobustMutex};
use std::cell::Cell;
use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

#[derive(Debug)]
#[repr(C)]
pub(crate) struct ReentrantState {
    lock: RobustMutex,
    owner: AtomicU64,
    pub(super) holder: AtomicU32,
    depth: AtomicU32,
    poisoned: AtomicU32,
}

// SAFETY: atomics, and a mutex that the C library accesses.
unsafe impl Shared for ReentrantState {}

thread_local! {
    static NUMBER: Cell<u64> = const { Cell::new(0) };
}

/// The calling thread, as `owner` names it.
fn this_thread(arena: &Arena) -> u64 {
    own_participant();
    NUMBER.with(|number| {
        if number.get() == 0 {
            number.set(arena.next_number());
        }
        number.get()
    })
}

/// A lock that protects no value, and that the thread which has it may lock again.
///
/// # If a process dies
/// While it holds the lock: the next to get it is told, with [`LockError::OwnerDied`].
///
/// # Examples
/// ```
/// use procpool::sync::ReentrantMutex;
///
/// let mutex = ReentrantMutex::new()?;
/// let outer = mutex.lock().unwrap();
/// let inner = mutex.lock().unwrap(); // does not wait for itself
/// drop((outer, inner));
/// # Ok::<(), procpool::Error>(())
/// ```
#[doc(alias = "RLock")]
pub struct ReentrantMutex {
    handle: Handle<ReentrantState>,
}

const PARTS: Parts = Parts { may_be_given_up: is_not_held_here, ..Parts::of(Kind::ReentrantMutex) };

/// As in `mutex.rs`: a guard that was forgotten still locks the mutex.
fn is_not_held_here(reference: &Reference) -> bool {
    let state = reference.state::<ReentrantState>();
    state.is_none_or(|state| state.holder.load(Relaxed) != own_participant())
}

crossing!(ReentrantMutex, PARTS);

impl ReentrantMutex {
    /// Makes a mutex.
    ///
    /// # Errors
    /// The arena is full, or cannot be made.
    pub fn new() -> Result<Self, Error> {
        let handle = Handle::create(&PARTS, None, |state: &ReentrantState| {
            // SAFETY: the object is new and nobody else's yet.
            unsafe { state.lock.initialise() };
        })?;
        Ok(Self { handle })
    }

    /// Takes the lock once more if this thread has it.
    fn enter_again(
        &self,
    ) -> Option<Result<ReentrantMutexGuard<'_>, LockError<ReentrantMutexGuard<'_>>>> {
        let state = self.handle.state();
        if state.owner.load(Relaxed) != this_thread(self.handle.caller().arena()) {
            return None;
        }
        state.depth.store(state.depth.load(Relaxed) + 1, Relaxed);
        Some(self.guard(Locked::Clean))
    }

    fn enter(
        &self,
        locked: Locked,
    ) -> Result<ReentrantMutexGuard<'_>, LockError<ReentrantMutexGuard<'_>>> {
        fault::point("mutex.locked");
        let state = self.handle.state();
        state.depth.store(1, Relaxed);
        state.holder.store(own_participant(), Relaxed);
        state.owner.store(this_thread(self.handle.caller().arena()), Relaxed);
        self.guard(locked)
    }

    fn guard(
        &self,
        locked: Locked,
    ) -> Result<ReentrantMutexGuard<'_>, LockError<ReentrantMutexGuard<'_>>> {
        let panicking = std::thread::panicking();
        let guard = ReentrantMutexGuard { mutex: self, panicking, not_send: PhantomData };
        match locked {
            Locked::OwnerDied => Err(LockError::OwnerDied(guard)),
            Locked::Clean if self.is_poisoned() => Err(LockError::Poisoned(guard)),
            Locked::Clean => Ok(guard),
        }
    }

    /// Waits for the lock; a thread that has it gets it again at once.
    ///
    /// # Errors
    /// The lock was got, and its previous owner died or panicked: see [`LockError`].
    ///
    /// # Panics
    /// In a copy of the program's process that it has forked itself.
    pub fn lock(&self) -> Result<ReentrantMutexGuard<'_>, LockError<ReentrantMutexGuard<'_>>> {
        match self.enter_again() {
            Some(guard) => guard,
            None => self.enter(self.handle.state().lock.lock()),
        }
    }

    /// Takes the lock if it is free, or this thread's.
    ///
    /// # Errors
    /// [`TryLockError::Busy`], or as [`lock`](Self::lock).
    pub fn try_lock(
        &self,
    ) -> Result<ReentrantMutexGuard<'_>, TryLockError<ReentrantMutexGuard<'_>>> {
        self.lock_within(Duration::ZERO, RobustMutex::try_lock)
    }

    /// Waits for the lock for at most `timeout`.
    ///
    /// # Errors
    /// [`TryLockError::Busy`] with the time that was waited, or as [`lock`](Self::lock).
    pub fn lock_timeout(
        &self,
        timeout: Duration,
    ) -> Result<ReentrantMutexGuard<'_>, TryLockError<ReentrantMutexGuard<'_>>> {
        self.lock_within(timeout, |lock| match Deadline::after(timeout) {
            Deadline::Never => Some(lock.lock()),
            Deadline::At(ns) => lock.lock_until(ns),
        })
    }

    fn lock_within(
        &self,
        timeout: Duration,
        lock: impl FnOnce(&RobustMutex) -> Option<Locked>,
    ) -> Result<ReentrantMutexGuard<'_>, TryLockError<ReentrantMutexGuard<'_>>> {
        if let Some(guard) = self.enter_again() {
            return Ok(guard?);
        }
        match lock(&self.handle.state().lock) {
            Some(locked) => Ok(self.enter(locked)?),
            None => Err(TryLockError::Busy(timeout)),
        }
    }

    /// Returns whether a holder panicked, and nobody has [cleared](Self::clear_poison) that since.
    #[must_use]
    pub fn is_poisoned(&self) -> bool {
        self.handle.state().poisoned.load(Relaxed) != 0
    }

    /// Declares that what the lock protects is sound again.
    pub fn clear_poison(&self) {
        self.handle.state().poisoned.store(0, Relaxed);
    }
}

impl fmt::Debug for ReentrantMutex {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("ReentrantMutex")
            .field("object", &self.handle)
            .field("locked", &(self.handle.state().owner.load(Relaxed) != 0))
            .field("poisoned", &self.is_poisoned())
            .finish()
    }
}

/// The lock, held; dropping it unlocks once.
#[must_use = "the mutex is unlocked when the guard is dropped"]
pub struct ReentrantMutexGuard<'a> {
    mutex: &'a ReentrantMutex,
    panicking: bool,
    /// Only the thread that locked may unlock.
    not_send: PhantomData<*const ()>,
}

impl ReentrantMutexGuard<'_> {
    /// How often this thread has taken the lock.
    #[must_use]
    pub fn depth(&self) -> u32 {
        self.mutex.handle.state().depth.load(Relaxed)
    }
}

impl Drop for ReentrantMutexGuard<'_> {
    fn drop(&mut self) {
        if is_copy() {
            return;
        }
        let state = self.mutex.handle.state();
        if !self.panicking && std::thread::panicking() {
            state.poisoned.store(1, Relaxed);
        }
        let depth = state.depth.load(Relaxed).saturating_sub(1);
        state.depth.store(depth, Relaxed);
        if depth == 0 {
            state.owner.store(0, Relaxed);
            state.holder.store(0, Relaxed);
            fault::point("mutex.unlocking");
            state.lock.unlock();
            fault::point("mutex.unlocked");
        }
    }
}

impl fmt::Debug for ReentrantMutexGuard<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("ReentrantMutexGuard").field("depth", &self.depth()).finish()
    }
}
