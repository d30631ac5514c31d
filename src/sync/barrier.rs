//! A point that a number of threads of any processes pass together.

use super::crossing::crossing;
use super::handle::{Handle, Parts};
use super::settle::Kind;
use super::state::Deadline;
use super::state::barrier::{BarrierState, PARTIES_MAX, Passage};
use crate::error::Error;
use std::fmt;
use std::time::Duration;

/// A barrier: a number of parties wait until all have arrived, and then go on together, as often as
/// they like.
///
/// # If a process dies
/// A process that dies while it holds a handle, waiting or not, breaks the barrier: everybody who
/// waits, or comes, is told so until it is [reset](Self::reset). So nobody waits for the dead.
///
/// # Examples
/// ```
/// use procpool::{Pool, sync::Barrier};
///
/// let barrier = Barrier::new(2)?;
/// let pool = Pool::builder().workers(2).build()?;
/// let arrive = |barrier: Barrier| barrier.wait().unwrap().is_leader();
/// let first = pool.submit(arrive, barrier.clone())?;
/// let second = pool.submit(arrive, barrier)?;
/// assert!(first.join()? != second.join()?); // one of them led
/// # Ok::<(), procpool::Error>(())
/// ```
pub struct Barrier {
    handle: Handle<BarrierState>,
}

const PARTS: Parts = Parts::of(Kind::Barrier);

crossing!(Barrier, PARTS);

impl Barrier {
    /// Makes a barrier for so many parties.
    ///
    /// # Errors
    /// No parties, or more than 1,048,576; the arena is full or cannot be made.
    pub fn new(parties: u32) -> Result<Self, Error> {
        if !(1..=PARTIES_MAX).contains(&parties) {
            return Err(Error::invalid(format!(
                "a barrier of {parties} parties is outside 1..={PARTIES_MAX}"
            )));
        }
        let fill = |state: &BarrierState| state.initialise(parties);
        Ok(Self { handle: Handle::create(&PARTS, None, fill)? })
    }

    fn pass(
        &self,
        action: Option<impl FnOnce()>,
        timeout: Option<Duration>,
    ) -> Result<BarrierWait, BarrierError> {
        let deadline = timeout.map_or(Deadline::Never, Deadline::after);
        match self.handle.state().wait(self.handle.caller(), action, deadline) {
            Passage::Passed { index, leader } => Ok(BarrierWait { index, leader }),
            Passage::Broken => Err(BarrierError::Broken),
            Passage::TimedOut => Err(BarrierError::TimedOut(timeout.unwrap_or_default())),
        }
    }

    /// Arrives, and waits until all parties have.
    ///
    /// # Errors
    /// The barrier is broken, or breaks while this one waits.
    ///
    /// # Panics
    /// In a copy of the program's process that it has forked itself.
    pub fn wait(&self) -> Result<BarrierWait, BarrierError> {
        self.pass(None::<fn()>, None)
    }

    /// Arrives, and waits for at most `timeout`; if that is not enough, the barrier breaks.
    ///
    /// # Errors
    /// As [`wait`](Self::wait), or [`BarrierError::TimedOut`].
    pub fn wait_timeout(&self, timeout: Duration) -> Result<BarrierWait, BarrierError> {
        self.pass(None::<fn()>, Some(timeout))
    }

    /// As [`wait`](Self::wait); the last party to arrive runs its `action` before anybody passes.
    ///
    /// # Errors
    /// As [`wait`](Self::wait).
    ///
    /// # Panics
    /// If the action panics; the barrier is broken then.
    ///
    /// # Examples
    /// ```
    /// let barrier = procpool::sync::Barrier::new(1)?;
    /// let mut rounds = 0;
    /// barrier.wait_with(|| rounds += 1).unwrap();
    /// assert_eq!(rounds, 1);
    /// # Ok::<(), procpool::Error>(())
    /// ```
    pub fn wait_with(&self, action: impl FnOnce()) -> Result<BarrierWait, BarrierError> {
        self.pass(Some(action), None)
    }

    /// As [`wait_with`](Self::wait_with), for at most `timeout`.
    ///
    /// # Errors
    /// As [`wait_timeout`](Self::wait_timeout).
    pub fn wait_timeout_with(
        &self,
        timeout: Duration,
        action: impl FnOnce(),
    ) -> Result<BarrierWait, BarrierError> {
        self.pass(Some(action), Some(timeout))
    }

    /// Breaks the barrier: everybody who waits or comes is told so.
    pub fn abort(&self) {
        self.handle.state().abort(self.handle.caller());
    }

    /// Makes the barrier as new. Those who wait are told that it broke.
    pub fn reset(&self) {
        self.handle.state().reset(self.handle.caller());
    }

    /// How many parties pass together.
    #[must_use]
    pub fn parties(&self) -> u32 {
        self.handle.state().parties()
    }

    /// How many parties have arrived and wait, at this moment.
    #[must_use]
    #[doc(alias = "n_waiting")]
    pub fn waiting(&self) -> u32 {
        self.handle.state().waiting()
    }

    /// Returns whether the barrier is broken.
    #[must_use]
    #[doc(alias = "broken")]
    pub fn is_broken(&self) -> bool {
        self.handle.state().is_broken()
    }
}

impl fmt::Debug for Barrier {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Barrier")
            .field("object", &self.handle)
            .field("parties", &self.parties())
            .field("waiting", &self.waiting())
            .field("broken", &self.is_broken())
            .finish()
    }
}

/// That a party has passed a [`Barrier`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BarrierWait {
    index: u32,
    leader: bool,
}

impl BarrierWait {
    /// The how-manieth to arrive this party was, from 0 to one less than the parties.
    #[must_use]
    pub fn index(&self) -> u32 {
        self.index
    }

    /// Returns whether this party was the last to arrive: exactly one of them is.
    #[must_use]
    pub fn is_leader(&self) -> bool {
        self.leader
    }
}

/// Why a party did not pass a [`Barrier`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
#[doc(alias = "BrokenBarrierError")]
pub enum BarrierError {
    /// A party died, ran out of time, or called `abort` or `reset`, or an action panicked.
    Broken,
    /// Not all parties arrived in this time; the barrier is broken now.
    TimedOut(Duration),
}

impl fmt::Display for BarrierError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Broken => formatter.write_str("the barrier is broken"),
            Self::TimedOut(waited) => {
                write!(formatter, "not all parties of the barrier arrived within {waited:?}")
            }
        }
    }
}

impl std::error::Error for BarrierError {}
