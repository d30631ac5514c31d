//! A number of permits that the threads of all processes share.

use super::crossing::crossing;
use super::handle::{Handle, Parts, is_copy};
use super::settle::Kind;
use super::state::Deadline;
use super::state::semaphore::{PERMITS_MAX, SemaphoreState, TooMany};
use crate::error::Error;
use std::fmt;
use std::time::Duration;

/// A semaphore: a number of permits, of which each holder has some.
///
/// Permits are given first come, first served, whatever the amount: who asks for many is not
/// overtaken by those who ask for few.
///
/// # If a process dies
/// The permits that it held through [`Permit`]s come back, and so do those that it was just being
/// given. Permits that were [forgotten](Permit::forget) do not.
///
/// # Examples
/// ```
/// use procpool::{Pool, sync::Semaphore};
///
/// let licences = Semaphore::new(2)?;
/// let pool = Pool::builder().workers(3).build()?;
/// let work = |licences: &Semaphore, n: u32| {
///     let _permit = licences.acquire();
///     n * n
/// };
/// assert_eq!(pool.with(&licences).map(work, 0..4u32)?, [0, 1, 4, 9]);
/// assert_eq!(licences.available(), 2);
/// # Ok::<(), procpool::Error>(())
/// ```
#[doc(alias = "BoundedSemaphore")]
pub struct Semaphore {
    handle: Handle<SemaphoreState>,
}

const PARTS: Parts =
    Parts { may_be_given_up: |reference| reference.holds() == 0, ..Parts::of(Kind::Semaphore) };

crossing!(Semaphore, PARTS);

impl Semaphore {
    /// Makes a semaphore of so many permits, to which [`release`](Self::release) may add others.
    ///
    /// # Errors
    /// More than 2,147,483,647 permits; the arena is full or cannot be made.
    pub fn new(permits: u32) -> Result<Self, Error> {
        Self::of(permits, PERMITS_MAX)
    }

    /// Makes a semaphore that never has more than so many permits.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn bounded(permits: u32) -> Result<Self, Error> {
        Self::of(permits, permits)
    }

    fn of(permits: u32, bound: u32) -> Result<Self, Error> {
        check(permits, PERMITS_MAX)?;
        let fill = |state: &SemaphoreState| state.initialise(permits, bound);
        Ok(Self { handle: Handle::create(&PARTS, None, fill)? })
    }

    #[inline]
    fn take(&self, permits: u32, deadline: Deadline) -> Option<Permit<'_>> {
        let taken = self.handle.state().acquire(self.handle.caller(), permits, deadline);
        taken.then(|| Permit { semaphore: self, permits })
    }

    /// Waits for a permit.
    ///
    /// # Panics
    /// In a copy of the program's process that it has forked itself.
    #[inline]
    pub fn acquire(&self) -> Permit<'_> {
        loop {
            // Without a deadline it never fails.
            if let Some(permit) = self.take(1, Deadline::Never) {
                return permit;
            }
        }
    }

    /// Takes a permit if one is free and nobody is waiting.
    #[inline]
    pub fn try_acquire(&self) -> Option<Permit<'_>> {
        let taken = self.handle.state().try_acquire(self.handle.caller(), 1);
        taken.then(|| Permit { semaphore: self, permits: 1 })
    }

    /// Waits for a permit for at most `timeout`.
    pub fn acquire_timeout(&self, timeout: Duration) -> Option<Permit<'_>> {
        self.take(1, Deadline::after(timeout))
    }

    /// Waits for so many permits, all at once.
    ///
    /// # Errors
    /// It asks for more than the semaphore can ever have.
    pub fn acquire_many(&self, permits: u32) -> Result<Permit<'_>, Error> {
        check(permits, self.handle.state().bound())?;
        loop {
            if let Some(permit) = self.take(permits, Deadline::Never) {
                return Ok(permit);
            }
        }
    }

    /// Takes so many permits if they are free and nobody is waiting.
    ///
    /// # Errors
    /// As [`acquire_many`](Self::acquire_many).
    pub fn try_acquire_many(&self, permits: u32) -> Result<Option<Permit<'_>>, Error> {
        check(permits, self.handle.state().bound())?;
        let taken = self.handle.state().try_acquire(self.handle.caller(), permits);
        Ok(taken.then(|| Permit { semaphore: self, permits }))
    }

    /// Waits for so many permits for at most `timeout`.
    ///
    /// # Errors
    /// As [`acquire_many`](Self::acquire_many).
    pub fn acquire_many_timeout(
        &self,
        permits: u32,
        timeout: Duration,
    ) -> Result<Option<Permit<'_>>, Error> {
        check(permits, self.handle.state().bound())?;
        Ok(self.take(permits, Deadline::after(timeout)))
    }

    /// Adds permits that nobody holds: those of a [forgotten](Permit::forget) [`Permit`], or new
    /// ones.
    ///
    /// # Errors
    /// There would be more than the semaphore may have; nothing is added.
    pub fn release(&self, permits: u32) -> Result<(), ReleaseError> {
        let released = self.handle.state().release(self.handle.caller(), permits);
        released.map_err(|too_many| ReleaseError { permits, too_many })
    }

    /// How many permits are free at this moment.
    #[inline]
    #[must_use]
    #[doc(alias = "get_value")]
    pub fn available(&self) -> u32 {
        self.handle.state().available()
    }

    /// How many threads wait at this moment.
    #[must_use]
    pub fn waiting(&self) -> u32 {
        self.handle.state().waiting()
    }
}

fn check(permits: u32, most: u32) -> Result<(), Error> {
    if permits <= most {
        return Ok(());
    }
    Err(Error::invalid(format!("{permits} permits of a semaphore that has {most} at most")))
}

impl fmt::Debug for Semaphore {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Semaphore")
            .field("object", &self.handle)
            .field("available", &self.available())
            .finish()
    }
}

/// Permits that are held; dropping it puts them back.
#[must_use = "the permits are put back when it is dropped"]
pub struct Permit<'a> {
    semaphore: &'a Semaphore,
    permits: u32,
}

impl Permit<'_> {
    /// How many permits it stands for.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.permits
    }

    /// Makes the permits nobody's: they do not come back when this process ends, but any process may
    /// [release](Semaphore::release) as many.
    pub fn forget(self) {
        self.semaphore.handle.state().forget(self.semaphore.handle.caller(), self.permits);
        std::mem::forget(self);
    }
}

impl Drop for Permit<'_> {
    #[inline]
    fn drop(&mut self) {
        let handle = &self.semaphore.handle;
        if !is_copy() {
            handle.state().put_back(handle.caller(), self.permits);
        }
    }
}

impl fmt::Debug for Permit<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Permit").field("permits", &self.permits).finish_non_exhaustive()
    }
}

/// Why [`Semaphore::release`] refused: there would be more permits than the semaphore may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReleaseError {
    permits: u32,
    too_many: TooMany,
}

impl fmt::Display for ReleaseError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { permits, too_many: TooMany { free, total, bound } } = self;
        write!(
            formatter,
            "cannot release {permits} permits: the semaphore has {total} ({free} of them free) and \
             may have {bound}"
        )
    }
}

impl std::error::Error for ReleaseError {}
