//! A value that many may read at a time, or one change.
#![allow(unsafe_code)] // Hands out the value to whoever has the lock.

use super::crossing::crossing;
use super::handle::{Handle, Parts, Reference, With, is_copy, own_participant};
use super::lock_error::{LockError, TryLockError};
use super::settle::Kind;
use super::state::Deadline;
use super::state::rwlock::{Condition, RwLockState};
use super::stored::{Encoded, EncodedWord, Plain, Stored, encode_first};
use crate::error::Error;
use serde::{Serialize, de::DeserializeOwned};
use std::fmt;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::time::Duration;

/// A lock around a value that any number of threads of any processes may read, or one may change.
///
/// First come, first served: a writer waits for the readers that were there before it, and readers
/// that come later wait for the writer, so neither side starves. A thread that reads and locks once
/// more may therefore wait for a writer that waits for it.
///
/// # If a process dies
/// While it reads: its locks are released. While it writes: everybody who gets the lock is told, with
/// [`LockError::OwnerDied`], up to and including the next writer, who may repair the value.
///
/// # Examples
/// ```
/// use procpool::{Pool, sync::RwLock};
///
/// let limits = RwLock::new([10u32, 20, 30])?;
/// let pool = Pool::builder().workers(2).build()?;
/// let limit = |limits: &RwLock<[u32; 3]>, n: usize| limits.read().unwrap()[n];
/// assert_eq!(pool.with(&limits).map(limit, 0..3usize)?, [10, 20, 30]);
/// limits.write().unwrap()[0] = 11;
/// # Ok::<(), procpool::Error>(())
/// ```
pub struct RwLock<T: Stored> {
    handle: Handle<With<RwLockState, T::Memory>>,
    of: PhantomData<fn() -> T>,
}

impl<T: Stored> RwLock<T> {
    const PARTS: Parts = Parts {
        value_bytes: size_of::<T::Memory>(),
        value_align: align_of::<T::Memory>(),
        encoded: T::ENCODED,
        kind: Kind::RwLock,
        may_be_given_up: is_not_held_here,
    };
}

/// Whether a lock is free of this process: a guard that was forgotten still holds it, and settlement is
/// to find that when the process dies.
fn is_not_held_here(reference: &Reference) -> bool {
    let state = reference.state::<RwLockState>();
    let writer = state.map_or(0, |state| state.holders().0);
    reference.holds() == 0 && writer != own_participant()
}

crossing!(RwLock<T: Stored>, Self::PARTS);

impl<T: Plain> RwLock<T> {
    /// Makes a lock around plain data.
    ///
    /// # Errors
    /// The arena is full, or cannot be made.
    pub fn new(value: T) -> Result<Self, Error> {
        let handle = Handle::create(&Self::PARTS, None, |memory: &With<RwLockState, T>| {
            // SAFETY: the object is new and nobody else's yet.
            unsafe { memory.value().write(value) };
        })?;
        Ok(Self { handle, of: PhantomData })
    }
}

impl<T: Serialize + DeserializeOwned + 'static> RwLock<Encoded<T>> {
    /// Makes a lock around any `serde` value, which is kept encoded.
    ///
    /// # Errors
    /// The value cannot be encoded, or the arena is full or cannot be made.
    pub fn encoded(value: &T) -> Result<Self, Error> {
        let first = encode_first(value)?;
        let fill = |memory: &With<RwLockState, EncodedWord>| {
            // SAFETY: the object is new and nobody else's yet.
            unsafe { (*memory.value()).initialise(first.len()) };
        };
        let handle = Handle::create(&Self::PARTS, Some(&first), fill)?;
        Ok(Self { handle, of: PhantomData })
    }
}

/// What locking for reading returns.
type Reading<'a, T> = Result<ReadGuard<'a, T>, LockError<ReadGuard<'a, T>>>;
/// What locking for writing returns.
type Writing<'a, T> = Result<WriteGuard<'a, T>, LockError<WriteGuard<'a, T>>>;

impl<T: Stored> RwLock<T> {
    #[inline]
    fn state(&self) -> &RwLockState {
        &self.handle.state().state
    }

    #[inline]
    fn judge<G>(&self, guard: G) -> Result<G, LockError<G>> {
        match self.state().condition() {
            Condition::Sound => Ok(guard),
            Condition::Poisoned => Err(LockError::Poisoned(guard)),
            Condition::OwnerDied => Err(LockError::OwnerDied(guard)),
        }
    }

    #[inline]
    fn reading(&self) -> Reading<'_, T> {
        self.judge(ReadGuard { lock: self })
    }

    #[inline]
    fn writing(&self) -> Writing<'_, T> {
        self.judge(WriteGuard { lock: self, panicking: std::thread::panicking() })
    }

    /// Waits to read.
    ///
    /// # Errors
    /// The lock was got, and a writer before died or panicked: see [`LockError`].
    ///
    /// # Panics
    /// In a copy of the program's process that it has forked itself.
    #[inline]
    pub fn read(&self) -> Result<ReadGuard<'_, T>, LockError<ReadGuard<'_, T>>> {
        while !self.state().read(self.handle.caller(), Deadline::Never) {}
        self.reading()
    }

    /// Takes the lock for reading if nobody writes or waits.
    ///
    /// # Errors
    /// [`TryLockError::Busy`], or as [`read`](Self::read).
    pub fn try_read(&self) -> Result<ReadGuard<'_, T>, TryLockError<ReadGuard<'_, T>>> {
        match self.state().try_read(self.handle.caller()) {
            true => Ok(self.reading()?),
            false => Err(TryLockError::Busy(Duration::ZERO)),
        }
    }

    /// Waits to read for at most `timeout`.
    ///
    /// # Errors
    /// [`TryLockError::Busy`] with the time that was waited, or as [`read`](Self::read).
    pub fn read_timeout(
        &self,
        timeout: Duration,
    ) -> Result<ReadGuard<'_, T>, TryLockError<ReadGuard<'_, T>>> {
        match self.state().read(self.handle.caller(), Deadline::after(timeout)) {
            true => Ok(self.reading()?),
            false => Err(TryLockError::Busy(timeout)),
        }
    }

    /// Waits to write.
    ///
    /// # Errors
    /// The lock was got, and a writer before died or panicked: see [`LockError`].
    ///
    /// # Panics
    /// In a copy of the program's process that it has forked itself.
    #[inline]
    pub fn write(&self) -> Result<WriteGuard<'_, T>, LockError<WriteGuard<'_, T>>> {
        while !self.state().write(self.handle.caller(), Deadline::Never) {}
        self.writing()
    }

    /// Takes the lock for writing if it is free.
    ///
    /// # Errors
    /// [`TryLockError::Busy`], or as [`write`](Self::write).
    pub fn try_write(&self) -> Result<WriteGuard<'_, T>, TryLockError<WriteGuard<'_, T>>> {
        match self.state().try_write(self.handle.caller()) {
            true => Ok(self.writing()?),
            false => Err(TryLockError::Busy(Duration::ZERO)),
        }
    }

    /// Waits to write for at most `timeout`.
    ///
    /// # Errors
    /// [`TryLockError::Busy`] with the time that was waited, or as [`write`](Self::write).
    pub fn write_timeout(
        &self,
        timeout: Duration,
    ) -> Result<WriteGuard<'_, T>, TryLockError<WriteGuard<'_, T>>> {
        match self.state().write(self.handle.caller(), Deadline::after(timeout)) {
            true => Ok(self.writing()?),
            false => Err(TryLockError::Busy(timeout)),
        }
    }

    /// How many threads wait at this moment.
    #[must_use]
    pub fn waiting(&self) -> u32 {
        self.state().waiting()
    }

    /// Returns whether a writer panicked, and nobody has [cleared](Self::clear_poison) that since.
    #[must_use]
    pub fn is_poisoned(&self) -> bool {
        self.state().is_poisoned()
    }

    /// Declares the value sound again.
    pub fn clear_poison(&self) {
        self.state().clear_poison(self.handle.caller());
    }
}

impl<T: Stored> fmt::Debug for RwLock<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (writer, readers) = self.state().holders();
        formatter
            .debug_struct("RwLock")
            .field("object", &self.handle)
            .field("written", &(writer != 0))
            .field("readers", &readers)
            .field("poisoned", &self.is_poisoned())
            .finish()
    }
}

/// The lock, held for reading; dropping it unlocks.
#[must_use = "the lock is released when the guard is dropped"]
pub struct ReadGuard<'a, T: Stored> {
    lock: &'a RwLock<T>,
}

/// The lock, held for writing; dropping it unlocks.
///
/// If it is dropped by a panic, the lock is poisoned.
#[must_use = "the lock is released when the guard is dropped"]
pub struct WriteGuard<'a, T: Stored> {
    lock: &'a RwLock<T>,
    panicking: bool,
}

impl<T: Stored> Drop for ReadGuard<'_, T> {
    #[inline]
    fn drop(&mut self) {
        if !is_copy() {
            self.lock.state().unlock_read(self.lock.handle.caller());
        }
    }
}

impl<T: Stored> Drop for WriteGuard<'_, T> {
    #[inline]
    fn drop(&mut self) {
        if is_copy() {
            return;
        }
        let panicked = !self.panicking && std::thread::panicking();
        self.lock.state().unlock_write(self.lock.handle.caller(), panicked);
    }
}

impl<T: Plain> Deref for ReadGuard<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: nobody writes while somebody reads; any bytes are a value (Plain).
        unsafe { &*self.lock.handle.state().value() }
    }
}

impl<T: Plain> Deref for WriteGuard<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: whoever writes has sole use of the value.
        unsafe { &*self.lock.handle.state().value() }
    }
}

impl<T: Plain> DerefMut for WriteGuard<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as above.
        unsafe { &mut *self.lock.handle.state().value() }
    }
}

impl<T: Serialize + DeserializeOwned + 'static> RwLock<Encoded<T>> {
    fn word(&self) -> &EncodedWord {
        // SAFETY: the word is an atomic.
        unsafe { &*self.handle.state().value() }
    }
}

impl<T: Serialize + DeserializeOwned + 'static> ReadGuard<'_, Encoded<T>> {
    /// Decodes a copy of the value.
    ///
    /// # Errors
    /// The bytes cannot be decoded as a `T`.
    pub fn get(&self) -> Result<T, Error> {
        self.lock.word().get(self.lock.handle.caller())
    }
}

impl<T: Serialize + DeserializeOwned + 'static> WriteGuard<'_, Encoded<T>> {
    /// Decodes a copy of the value.
    ///
    /// # Errors
    /// The bytes cannot be decoded as a `T`.
    pub fn get(&self) -> Result<T, Error> {
        self.lock.word().get(self.lock.handle.caller())
    }

    /// Replaces the value: all or nothing.
    ///
    /// # Errors
    /// The value cannot be encoded, or the arena has no room for it; the old value stands.
    pub fn set(&mut self, value: &T) -> Result<(), Error> {
        self.lock.word().set(self.lock.handle.caller(), value)
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

impl<T: Stored> fmt::Debug for ReadGuard<'_, T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("ReadGuard").field("lock", self.lock).finish()
    }
}

impl<T: Stored> fmt::Debug for WriteGuard<'_, T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("WriteGuard").field("lock", self.lock).finish()
    }
}
