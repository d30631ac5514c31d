//! Mutual exclusion between processes, around a value in shared memory.
//!
//! # Shared state
//! The C library's robust process-shared mutex; `holder`, the participant that holds it (for
//! `Debug`, and so that no process gives up a mutex that it holds); `poisoned`; the value.
//!
//! # If a process dies
//! The kernel hands the mutex on and marks it, whoever the dead one was and whoever had started it:
//! the next owner is told. Settlement only takes the dead one's name out of `holder`, because its
//! participant id may become another's.
//!
//! # Fairness
//! The C library's and the kernel's: a thread that unlocks and locks again at once may overtake one
//! that is being woken. Every waiter is woken in its turn, but there is no bound on how often it may
//! be overtaken.
#![allow(unsafe_code)] // Hands out the value to whoever has the lock.

use super::crossing::crossing;
use super::handle::{Handle, Parts, Reference, With, is_copy, own_participant};
use super::lock_error::{LockError, TryLockError};
use super::settle::Kind;
use super::state::Deadline;
use super::stored::{Encoded, EncodedWord, Plain, Stored, encode_first};
use crate::error::Error;
use crate::prim::{AtomicU32, Relaxed};
use crate::shm::fault;
use crate::shm::offset::Shared;
use crate::sys::robust::{Locked, RobustMutex};
use serde::{Serialize, de::DeserializeOwned};
use std::fmt;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::time::Duration;

#[derive(Debug)]
#[repr(C)]
pub(crate) struct MutexState {
    lock: RobustMutex,
    pub(super) holder: AtomicU32,
    poisoned: AtomicU32,
}

// SAFETY: atomics, and a mutex that the C library accesses.
unsafe impl Shared for MutexState {}

/// A lock around a value that processes share.
///
/// The value is [`Plain`] data, changed in place through the guard, or [`Encoded`]. Handles are
/// cheap to clone, and cross to other processes as part of a task's argument, context or result.
///
/// # If a process dies
/// While it holds the lock: the next to get it is told, with [`LockError::OwnerDied`], and has the
/// guard: it may repair the value and go on. While it waits: nothing happens.
///
/// # Examples
/// ```
/// use procpool::{Pool, sync::Mutex};
///
/// let counter = Mutex::new(0u64)?;
/// let pool = Pool::builder().workers(2).build()?;
/// let add = |counter: &Mutex<u64>, n: u64| *counter.lock().unwrap() += n;
/// pool.with(&counter).map(add, 1..=100u64)?;
/// assert_eq!(*counter.lock().unwrap(), 5050);
/// # Ok::<(), procpool::Error>(())
/// ```
#[doc(alias = "Lock")]
pub struct Mutex<T: Stored> {
    handle: Handle<With<MutexState, T::Memory>>,
    of: PhantomData<fn() -> T>,
}

impl<T: Stored> Mutex<T> {
    const PARTS: Parts = Parts {
        kind: Kind::Mutex,
        value_bytes: size_of::<T::Memory>(),
        value_align: align_of::<T::Memory>(),
        encoded: T::ENCODED,
        may_be_given_up: is_not_held_here,
    };
}

/// Whether a mutex is free of this process: a guard that was forgotten still locks it, and the
/// kernel will look at the mutex when its thread ends.
fn is_not_held_here(reference: &Reference) -> bool {
    let state = reference.state::<MutexState>();
    state.is_none_or(|state| state.holder.load(Relaxed) != own_participant())
}

crossing!(Mutex<T: Stored>, Self::PARTS);

impl<T: Plain> Mutex<T> {
    /// Makes a mutex around plain data.
    ///
    /// # Errors
    /// The arena is full, or cannot be made.
    pub fn new(value: T) -> Result<Self, Error> {
        let handle = Handle::create(&Self::PARTS, None, |memory: &With<MutexState, T>| {
            // SAFETY: the object is new and nobody else's yet.
            unsafe {
                memory.state.lock.initialise();
                memory.value().write(value);
            }
        })?;
        Ok(Self { handle, of: PhantomData })
    }
}

impl<T: Serialize + DeserializeOwned + 'static> Mutex<Encoded<T>> {
    /// Makes a mutex around any `serde` value, which is kept encoded.
    ///
    /// # Errors
    /// The value cannot be encoded, or the arena is full or cannot be made.
    pub fn encoded(value: &T) -> Result<Self, Error> {
        let first = encode_first(value)?;
        let fill = |memory: &With<MutexState, EncodedWord>| {
            // SAFETY: the object is new and nobody else's yet.
            unsafe {
                memory.state.lock.initialise();
                (*memory.value()).initialise(first.len());
            }
        };
        let handle = Handle::create(&Self::PARTS, Some(&first), fill)?;
        Ok(Self { handle, of: PhantomData })
    }
}

impl<T: Stored> Mutex<T> {
    #[inline]
    fn state(&self) -> &MutexState {
        &self.handle.state().state
    }

    #[inline]
    fn guard(
        &self,
        locked: Locked,
        me: u32,
    ) -> Result<MutexGuard<'_, T>, LockError<MutexGuard<'_, T>>> {
        fault::point("mutex.locked");
        self.state().holder.store(me, Relaxed);
        let panicking = std::thread::panicking();
        let guard = MutexGuard { mutex: self, panicking, not_send: PhantomData };
        match locked {
            Locked::OwnerDied => Err(LockError::OwnerDied(guard)),
            Locked::Clean if self.is_poisoned() => Err(LockError::Poisoned(guard)),
            Locked::Clean => Ok(guard),
        }
    }

    /// Waits for the lock.
    ///
    /// # Errors
    /// The lock was got, and its previous owner died or panicked: see [`LockError`].
    ///
    /// # Panics
    /// In a copy of the program's process that it has forked itself.
    ///
    /// # Blocking
    /// Until the lock is free. A thread that has it already waits for ever; see
    /// [`ReentrantMutex`](super::ReentrantMutex).
    #[inline]
    #[doc(alias = "acquire")]
    pub fn lock(&self) -> Result<MutexGuard<'_, T>, LockError<MutexGuard<'_, T>>> {
        let me = own_participant();
        self.guard(self.state().lock.lock(), me)
    }

    /// Takes the lock if it is free.
    ///
    /// # Errors
    /// [`TryLockError::Busy`], or as [`lock`](Self::lock).
    pub fn try_lock(&self) -> Result<MutexGuard<'_, T>, TryLockError<MutexGuard<'_, T>>> {
        let me = own_participant();
        match self.state().lock.try_lock() {
            Some(locked) => Ok(self.guard(locked, me)?),
            None => Err(TryLockError::Busy(Duration::ZERO)),
        }
    }

    /// Waits for the lock for at most `timeout`.
    ///
    /// # Errors
    /// [`TryLockError::Busy`] with the time that was waited, or as [`lock`](Self::lock).
    ///
    /// # Examples
    /// ```
    /// use procpool::sync::{Mutex, TryLockError};
    /// use std::time::Duration;
    ///
    /// let mutex = Mutex::new(1u32)?;
    /// let held = mutex.lock().unwrap();
    /// let again = mutex.clone();
    /// let other = std::thread::spawn(move || {
    ///     matches!(again.lock_timeout(Duration::from_millis(5)), Err(TryLockError::Busy(_)))
    /// });
    /// assert!(other.join().unwrap());
    /// # Ok::<(), procpool::Error>(())
    /// ```
    pub fn lock_timeout(
        &self,
        timeout: Duration,
    ) -> Result<MutexGuard<'_, T>, TryLockError<MutexGuard<'_, T>>> {
        let me = own_participant();
        let locked = match Deadline::after(timeout) {
            Deadline::Never => Some(self.state().lock.lock()),
            Deadline::At(ns) => self.state().lock.lock_until(ns),
        };
        match locked {
            Some(locked) => Ok(self.guard(locked, me)?),
            None => Err(TryLockError::Busy(timeout)),
        }
    }

    /// Returns whether a holder panicked, and nobody has [cleared](Self::clear_poison) that since.
    #[inline]
    #[must_use]
    pub fn is_poisoned(&self) -> bool {
        self.state().poisoned.load(Relaxed) != 0
    }

    /// Declares the value sound again: `lock` no longer says that a holder panicked.
    pub fn clear_poison(&self) {
        self.state().poisoned.store(0, Relaxed);
    }
}

impl<T: Stored> fmt::Debug for Mutex<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Mutex")
            .field("object", &self.handle)
            .field("locked", &(self.state().holder.load(Relaxed) != 0))
            .field("poisoned", &self.is_poisoned())
            .finish()
    }
}

/// The lock, held; dropping it unlocks.
///
/// If it is dropped by a panic, the mutex is poisoned.
#[must_use = "the mutex is unlocked when the guard is dropped"]
pub struct MutexGuard<'a, T: Stored> {
    mutex: &'a Mutex<T>,
    panicking: bool,
    /// The C library wants the thread that locked to unlock.
    not_send: PhantomData<*const ()>,
}

impl<'a, T: Stored> MutexGuard<'a, T> {
    /// The mutex that it locks.
    pub(crate) fn mutex(&self) -> &'a Mutex<T> {
        self.mutex
    }

    fn memory(&self) -> *mut T::Memory {
        self.mutex.handle.state().value()
    }
}

impl<T: Stored> Drop for MutexGuard<'_, T> {
    #[inline]
    fn drop(&mut self) {
        if is_copy() {
            return;
        }
        let state = self.mutex.state();
        if !self.panicking && std::thread::panicking() {
            state.poisoned.store(1, Relaxed);
        }
        state.holder.store(0, Relaxed);
        fault::point("mutex.unlocking");
        state.lock.unlock();
        fault::point("mutex.unlocked");
    }
}

impl<T: Plain> Deref for MutexGuard<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: whoever has the lock has sole use of the value; any bytes are one (Plain).
        unsafe { &*self.memory() }
    }
}

impl<T: Plain> DerefMut for MutexGuard<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as above.
        unsafe { &mut *self.memory() }
    }
}

impl<T: Serialize + DeserializeOwned + 'static> MutexGuard<'_, Encoded<T>> {
    fn word(&self) -> &EncodedWord {
        // SAFETY: the word is an atomic.
        unsafe { &*self.memory() }
    }

    /// Decodes a copy of the value.
    ///
    /// # Errors
    /// The bytes cannot be decoded as a `T`.
    pub fn get(&self) -> Result<T, Error> {
        self.word().get(self.mutex.handle.caller())
    }

    /// Replaces the value: all or nothing.
    ///
    /// # Errors
    /// The value cannot be encoded, or the arena has no room for it; the old value stands.
    pub fn set(&mut self, value: &T) -> Result<(), Error> {
        self.word().set(self.mutex.handle.caller(), value)
    }

    /// Changes the value: `change` gets a decoded copy, which then replaces it, all or nothing.
    ///
    /// # Errors
    /// As [`get`](Self::get) and [`set`](Self::set).
    pub fn update<R>(&mut self, change: impl FnOnce(&mut T) -> R) -> Result<R, Error> {
        let mut value = self.get()?;
        let returned = change(&mut value);
        self.set(&value)?;
        Ok(returned)
    }
}

impl<T: Plain + fmt::Debug> fmt::Debug for MutexGuard<'_, T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("MutexGuard").field("mutex", self.mutex).finish_non_exhaustive()
    }
}
