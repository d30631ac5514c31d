//! Waiting until another process says that something has changed.

use super::crossing::crossing;
use super::handle::{Handle, Parts};
use super::lock_error::LockError;
use super::mutex::MutexGuard;
use super::settle::Kind;
use super::state::Deadline;
use super::state::condvar::CondvarState;
use super::stored::{Plain, Stored};
use crate::error::Error;
use crate::shm::fault;
use std::fmt;
use std::time::{Duration, Instant};

/// A condition variable: threads of any processes wait, with a [`Mutex`](super::Mutex) held, to be
/// notified.
///
/// `notify(n)` releases exactly the `n` threads that have waited longest, or all if there are fewer.
/// A wait ends only by a notification or by its time-out, but by the time the mutex is locked again
/// another thread may have been there: check what you wait for, or use
/// [`wait_while`](Self::wait_while).
///
/// # If a process dies
/// While it waits: it is taken off the queue, and a notification that it had been given goes to the
/// next. So a dead waiter neither takes a notification nor holds up whoever notifies. After it has
/// the mutex again: the mutex's next owner is told.
///
/// # Examples
/// ```
/// use procpool::{Pool, sync::{Condvar, Mutex}};
///
/// let shared = (Mutex::new(0u32)?, Condvar::new()?);
/// let pool = Pool::builder().workers(1).build()?;
/// let shared_by = pool.with(&shared);
/// let waiting = shared_by.submit(
///     |(stage, changed): &(Mutex<u32>, Condvar), wanted: u32| {
///         let stage = stage.lock().unwrap();
///         *changed.wait_while(stage, |stage| *stage < wanted).unwrap()
///     },
///     1,
/// )?;
/// *shared.0.lock().unwrap() = 1;
/// shared.1.notify_all();
/// assert_eq!(waiting.join()?, 1);
/// # Ok::<(), procpool::Error>(())
/// ```
#[doc(alias = "Condition")]
pub struct Condvar {
    handle: Handle<CondvarState>,
}

const PARTS: Parts = Parts::of(Kind::Condvar);

crossing!(Condvar, PARTS);

/// What [`Condvar::wait`] returns: the mutex, locked again.
pub type Relocked<'a, T> = Result<MutexGuard<'a, T>, LockError<MutexGuard<'a, T>>>;

/// What [`Condvar::wait_timeout`] returns: the mutex, locked again, and `true` if it was notified (or
/// what it waited for has come), `false` if the time was up.
pub type RelockedInTime<'a, T> =
    Result<(MutexGuard<'a, T>, bool), LockError<(MutexGuard<'a, T>, bool)>>;

impl Condvar {
    /// Makes a condition variable.
    ///
    /// # Errors
    /// The arena is full, or cannot be made.
    pub fn new() -> Result<Self, Error> {
        Ok(Self { handle: Handle::create(&PARTS, None, |_: &CondvarState| ())? })
    }

    /// Unlocks the mutex, waits to be notified, and locks it again.
    ///
    /// # Errors
    /// The mutex was locked again, and its previous owner died or panicked: see [`LockError`].
    pub fn wait<'a, T: Stored>(&self, guard: MutexGuard<'a, T>) -> Relocked<'a, T> {
        let relocked = self.wait_until(guard, Deadline::Never);
        relocked.map(|(guard, _)| guard).map_err(|error| error.map(|(guard, _)| guard))
    }

    /// As [`wait`](Self::wait), for at most `timeout`.
    ///
    /// # Errors
    /// As [`wait`](Self::wait).
    pub fn wait_timeout<'a, T: Stored>(
        &self,
        guard: MutexGuard<'a, T>,
        timeout: Duration,
    ) -> RelockedInTime<'a, T> {
        self.wait_until(guard, Deadline::after(timeout))
    }

    fn wait_until<'a, T: Stored>(
        &self,
        guard: MutexGuard<'a, T>,
        deadline: Deadline,
    ) -> RelockedInTime<'a, T> {
        let (state, caller) = (self.handle.state(), self.handle.caller());
        let Some(queued) = state.enter(caller, deadline) else { return Ok((guard, false)) };
        let mutex = guard.mutex();
        drop(guard);
        fault::point("condvar.unlocked");
        let notified = state.wait(caller, &queued, deadline);
        let relocked = mutex.lock();
        CondvarState::leave(&queued);
        match relocked {
            Ok(guard) => Ok((guard, notified)),
            Err(error) => Err(error.map(|guard| (guard, notified))),
        }
    }

    /// Waits while `condition` holds of the value.
    ///
    /// # Errors
    /// As [`wait`](Self::wait).
    #[doc(alias = "wait_for")]
    pub fn wait_while<'a, T: Plain>(
        &self,
        mut guard: MutexGuard<'a, T>,
        mut condition: impl FnMut(&mut T) -> bool,
    ) -> Relocked<'a, T> {
        while condition(&mut guard) {
            guard = self.wait(guard)?;
        }
        Ok(guard)
    }

    /// Waits while `condition` holds of the value, for at most `timeout`; `true` if it no longer
    /// holds.
    ///
    /// # Errors
    /// As [`wait`](Self::wait).
    pub fn wait_timeout_while<'a, T: Plain>(
        &self,
        mut guard: MutexGuard<'a, T>,
        timeout: Duration,
        mut condition: impl FnMut(&mut T) -> bool,
    ) -> RelockedInTime<'a, T> {
        let end = Instant::now().checked_add(timeout);
        while condition(&mut guard) {
            let left =
                end.map_or(Duration::MAX, |end| end.saturating_duration_since(Instant::now()));
            if left.is_zero() {
                return Ok((guard, false));
            }
            (guard, _) = self.wait_timeout(guard, left)?;
        }
        Ok((guard, true))
    }

    /// Releases the thread that has waited longest; `false` if none waits.
    pub fn notify_one(&self) -> bool {
        self.notify(1) == 1
    }

    /// Releases the `count` threads that have waited longest; returns how many there were.
    pub fn notify(&self, count: u32) -> u32 {
        self.handle.state().notify(self.handle.caller(), count)
    }

    /// Releases everybody who waits; returns how many there were.
    pub fn notify_all(&self) -> u32 {
        self.notify(u32::MAX)
    }

    /// How many threads wait at this moment.
    #[must_use]
    pub fn waiting(&self) -> u32 {
        self.handle.state().waiting()
    }
}

impl fmt::Debug for Condvar {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Condvar")
            .field("object", &self.handle)
            .field("waiting", &self.waiting())
            .finish()
    }
}
