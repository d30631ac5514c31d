//! What is done once, by whichever process comes first.
#![allow(unsafe_code)] // Writes the value in its turn; hands it out once it cannot change.

use super::crossing::crossing;
use super::handle::{Handle, Parts, With};
use super::settle::Kind;
use super::state::Deadline;
use super::state::once::{OnceState, Turn};
use super::stored::{Encoded, EncodedWord, Plain, Stored};
use crate::error::Error;
use crate::shm::fault;
use serde::{Serialize, de::DeserializeOwned};
use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

/// Something that is done once in a tree of processes.
///
/// # If a process dies
/// While it is at it: the next one that waits, or comes, does it.
///
/// # Examples
/// ```
/// let once = procpool::sync::Once::new()?;
/// let mut done = 0;
/// once.call_once(|| done += 1);
/// once.call_once(|| done += 1);
/// assert_eq!(done, 1);
/// # Ok::<(), procpool::Error>(())
/// ```
pub struct Once {
    handle: Handle<OnceState>,
}

const PARTS: Parts = Parts::of(Kind::Once);

crossing!(Once, PARTS);

/// A turn at doing it; dropping it without [`done`](Self::done), in a panic, lets the next one try.
struct Running<'a, S: crate::shm::offset::Shared + 'static> {
    handle: &'a Handle<S>,
    state: &'a OnceState,
}

impl<S: crate::shm::offset::Shared> Running<'_, S> {
    fn done(self) {
        self.state.finish(self.handle.caller(), true);
        std::mem::forget(self);
    }
}

impl<S: crate::shm::offset::Shared> Drop for Running<'_, S> {
    fn drop(&mut self) {
        self.state.finish(self.handle.caller(), false);
    }
}

impl Once {
    /// Makes one that has not been done.
    ///
    /// # Errors
    /// The arena is full, or cannot be made.
    pub fn new() -> Result<Self, Error> {
        Ok(Self { handle: Handle::create(&PARTS, None, |_: &OnceState| ())? })
    }

    /// Runs `action` unless that has been done, or waits until another has done it.
    ///
    /// # Panics
    /// If the action panics; the next one then runs its own. In a copy of the program's process that
    /// it has forked itself.
    ///
    /// # Blocking
    /// Until it is done. An action that calls `call_once` on the same object waits for ever.
    pub fn call_once(&self, action: impl FnOnce()) {
        let state = self.handle.state();
        if state.is_done() {
            return;
        }
        if state.enter(self.handle.caller(), Deadline::Never) == Turn::Mine {
            let running = Running { handle: &self.handle, state };
            action();
            running.done();
        }
    }

    /// As [`call_once`](Self::call_once), but waits for another at most for `timeout`; `true` if it
    /// is done.
    pub fn call_once_timeout(&self, timeout: Duration, action: impl FnOnce()) -> bool {
        let state = self.handle.state();
        match state.enter(self.handle.caller(), Deadline::after(timeout)) {
            Turn::Done => true,
            Turn::TimedOut => false,
            Turn::Mine => {
                let running = Running { handle: &self.handle, state };
                action();
                running.done();
                true
            }
        }
    }

    /// Returns whether it has been done.
    #[inline]
    #[must_use]
    pub fn is_completed(&self) -> bool {
        self.handle.state().is_done()
    }
}

impl fmt::Debug for Once {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Once")
            .field("object", &self.handle)
            .field("completed", &self.is_completed())
            .finish()
    }
}

/// A value that is made once in a tree of processes, by whichever needs it first, and then read by
/// all.
///
/// # If a process dies
/// While it makes the value: the next one that waits, or comes, makes it.
///
/// # Examples
/// ```
/// use procpool::{Pool, sync::OnceCell};
///
/// let seed = OnceCell::<u64>::new()?;
/// let pool = Pool::builder().workers(2).build()?;
/// let pick = |seed: &OnceCell<u64>, n: u64| *seed.get_or_init(|| 1000 + n);
/// let seen = pool.with(&seed).map(pick, 0..8u64)?;
/// assert!(seen.iter().all(|value| value == seed.get().unwrap()));
/// # Ok::<(), procpool::Error>(())
/// ```
pub struct OnceCell<T: Stored> {
    handle: Handle<With<OnceState, T::Memory>>,
    of: PhantomData<fn() -> T>,
}

impl<T: Stored> OnceCell<T> {
    const PARTS: Parts = Parts {
        value_bytes: size_of::<T::Memory>(),
        value_align: align_of::<T::Memory>(),
        encoded: T::ENCODED,
        ..Parts::of(Kind::OnceCell)
    };

    fn make() -> Result<Self, Error> {
        let fill = |_: &With<OnceState, T::Memory>| ();
        Ok(Self { handle: Handle::create(&Self::PARTS, None, fill)?, of: PhantomData })
    }

    fn state(&self) -> &OnceState {
        &self.handle.state().state
    }

    /// Returns whether it has a value.
    #[must_use]
    pub fn is_set(&self) -> bool {
        self.state().is_done()
    }

    /// Has `make` put a value in, unless there is one; `false` if the time was up before.
    fn fill<E>(&self, deadline: Deadline, make: impl FnOnce() -> Result<(), E>) -> Result<bool, E> {
        match self.state().enter(self.handle.caller(), deadline) {
            Turn::Done => Ok(true),
            Turn::TimedOut => Ok(false),
            Turn::Mine => {
                let running = Running { handle: &self.handle, state: self.state() };
                make()?;
                fault::point("once.stored");
                running.done();
                Ok(true)
            }
        }
    }
}

crossing!(OnceCell<T: Stored>, Self::PARTS);

impl<T: Plain> OnceCell<T> {
    /// Makes an empty one, for plain data.
    ///
    /// # Errors
    /// The arena is full, or cannot be made.
    pub fn new() -> Result<Self, Error> {
        Self::make()
    }

    /// The value, if there is one.
    #[inline]
    #[must_use]
    pub fn get(&self) -> Option<&T> {
        // SAFETY: nobody writes the value once it is done (R1 of `state/once.rs`).
        self.state().is_done().then(|| unsafe { &*self.handle.state().value() })
    }

    fn write(&self, value: T) {
        // SAFETY: only the one whose turn it is writes the value (R1 of `state/once.rs`).
        unsafe { self.handle.state().value().write(value) };
    }

    /// The value; made by `init` if there is none yet.
    ///
    /// # Panics
    /// If `init` panics; the next one then makes the value. In a copy of the program's process that
    /// it has forked itself.
    ///
    /// # Blocking
    /// While another makes it.
    pub fn get_or_init(&self, init: impl FnOnce() -> T) -> &T {
        let mut init = Some(init);
        loop {
            if let Some(value) = self.get() {
                return value;
            }
            let Ok(_) = self.fill(Deadline::Never, || {
                if let Some(init) = init.take() {
                    self.write(init());
                }
                Ok::<(), std::convert::Infallible>(())
            });
        }
    }

    /// As [`get_or_init`](Self::get_or_init), but waits for another at most for `timeout`.
    pub fn get_or_init_timeout(&self, timeout: Duration, init: impl FnOnce() -> T) -> Option<&T> {
        let Ok(_) = self.fill(Deadline::after(timeout), || {
            self.write(init());
            Ok::<(), std::convert::Infallible>(())
        });
        self.get()
    }

    /// As [`get_or_init`](Self::get_or_init); if `init` fails, the next one makes the value.
    ///
    /// # Errors
    /// Those of `init`.
    pub fn get_or_try_init<E>(&self, init: impl FnOnce() -> Result<T, E>) -> Result<&T, E> {
        let mut init = Some(init);
        loop {
            if let Some(value) = self.get() {
                return Ok(value);
            }
            self.fill(Deadline::Never, || {
                if let Some(init) = init.take() {
                    self.write(init()?);
                }
                Ok(())
            })?;
        }
    }

    /// Puts a value in.
    ///
    /// # Errors
    /// There is one already; the argument is given back.
    ///
    /// # Blocking
    /// While another makes a value.
    pub fn set(&self, value: T) -> Result<(), T> {
        let mut value = Some(value);
        let Ok(_) = self.fill(Deadline::Never, || {
            if let Some(value) = value.take() {
                self.write(value);
            }
            Ok::<(), std::convert::Infallible>(())
        });
        value.map_or(Ok(()), Err)
    }
}

impl<T: Serialize + DeserializeOwned + 'static> OnceCell<Encoded<T>> {
    /// Makes an empty one, for any `serde` type.
    ///
    /// # Errors
    /// The arena is full, or cannot be made.
    pub fn encoded() -> Result<Self, Error> {
        Self::make()
    }

    fn word(&self) -> &EncodedWord {
        // SAFETY: the word is an atomic.
        unsafe { &*self.handle.state().value() }
    }

    /// Decodes a copy of the value, if there is one.
    ///
    /// # Errors
    /// The bytes cannot be decoded as a `T`.
    pub fn get(&self) -> Result<Option<T>, Error> {
        match self.is_set() {
            true => self.word().get(self.handle.caller()).map(Some),
            false => Ok(None),
        }
    }

    /// A copy of the value; made by `init` if there is none yet.
    ///
    /// # Errors
    /// The value cannot be encoded or decoded, or the arena has no room for it; the next one then
    /// makes it.
    ///
    /// # Panics
    /// As [`get_or_init`](OnceCell::get_or_init).
    pub fn get_or_init(&self, init: impl FnOnce() -> T) -> Result<T, Error> {
        let mut init = Some(init);
        loop {
            if let Some(value) = self.get()? {
                return Ok(value);
            }
            self.fill(Deadline::Never, || match init.take() {
                Some(init) => self.word().set(self.handle.caller(), &init()),
                None => Ok(()),
            })?;
        }
    }
}

impl<T: Stored> fmt::Debug for OnceCell<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("OnceCell")
            .field("object", &self.handle)
            .field("set", &self.is_set())
            .finish()
    }
}
