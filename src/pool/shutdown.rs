//! Ending a pool: how much of what was accepted is still done, and for how long that may take.

use super::Pool;
use super::inner::{Inner, Place, lock};
use super::leaving::Grace;
use super::state::Phase;
use crate::error::Error;
use crate::shm::arena::is_forked_copy;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

/// How long an idle worker may take to leave by itself.
const LEAVING_GRACE: Duration = Duration::from_secs(1);
/// How long a finaliser may take, if whoever shuts down has not said how long all may take.
const FINALIZING_GRACE: Duration = Duration::from_secs(10);
/// How long a task may take to notice that it should end.
const NOTICE_GRACE: Duration = Duration::from_millis(100);

/// What becomes of accepted work when a pool is shut down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Shutdown {
    /// All of it is done.
    Drain,
    /// What has not started is cancelled; what runs is waited for. Maps send no more, and end as on a closed
    /// pool; an [`imap`](Pool::imap) gives out what it has before that.
    #[doc(alias = "cancel_futures")]
    CancelQueued,
    /// What has not started is cancelled. What runs is asked to end
    /// ([`worker::cancelled`](crate::worker::cancelled)), and its worker killed after a tenth of a second.
    #[doc(alias = "terminate")]
    Now,
}

impl Pool {
    /// Stops accepting work, waits until all accepted work has ended, and ends the workers. Short for
    /// [`shutdown`](Self::shutdown) with [`Shutdown::Drain`].
    ///
    /// # Errors
    /// If the supervisor thread is gone.
    ///
    /// # Blocking
    /// Until running and queued tasks have ended.
    pub fn join(&self) -> Result<(), Error> {
        self.shutdown(Shutdown::Drain)
    }

    /// Stops accepting work, sees to what was accepted as `mode` says, and ends the workers, which run
    /// their [finalizer](crate::PoolBuilder::finalizer) if they are not killed.
    ///
    /// Outcomes stay available through their handles. Calling it again does nothing.
    ///
    /// # Errors
    /// If the supervisor thread is gone.
    ///
    /// # Blocking
    /// Until what is waited for has ended.
    ///
    /// # Examples
    /// ```
    /// use procpool::{Pool, Shutdown};
    ///
    /// let pool = Pool::builder().workers(1).build()?;
    /// let nap = |ms: u64| std::thread::sleep(std::time::Duration::from_millis(ms));
    /// let (first, second) = (pool.submit(nap, 60_000)?, pool.submit(nap, 60_000)?);
    /// pool.shutdown(Shutdown::Now)?;
    /// // What had begun was killed, and the rest cancelled.
    /// let errors = [first, second].map(|task| task.join().unwrap_err());
    /// assert!(errors.iter().any(|error| error.is_cancelled()));
    /// assert!(pool.submit(nap, 1).unwrap_err().is_closed());
    /// # Ok::<(), procpool::Error>(())
    /// ```
    pub fn shutdown(&self, mode: Shutdown) -> Result<(), Error> {
        self.end(mode, None, FINALIZING_GRACE)
    }

    /// As [`shutdown`](Self::shutdown), for at most `timeout`: what has not ended then is ended as with
    /// [`Shutdown::Now`].
    ///
    /// # Errors
    /// [`Error::is_timed_out`] says how much was ended that way. The pool has ended also then.
    pub fn shutdown_timeout(&self, mode: Shutdown, timeout: Duration) -> Result<(), Error> {
        let deadline = Instant::now().checked_add(timeout);
        match self.end(mode, deadline, timeout) {
            Err(error) if error.is_timed_out() => {
                Err(Error::timed_out(format!("the pool has not ended within {timeout:?}: {error}")))
            }
            other => other,
        }
    }

    fn end(
        &self,
        mode: Shutdown,
        deadline: Option<Instant>,
        finalizing: Duration,
    ) -> Result<(), Error> {
        if is_forked_copy() {
            return Err(Error::forked());
        }
        let Self { inner, supervisor } = self;
        inner.close();
        if mode != Shutdown::Drain {
            inner.give_up_queued();
        }
        if mode == Shutdown::Now {
            inner.area.cancel_running();
            inner.wait_until_idle(Some(Instant::now() + NOTICE_GRACE));
            return supervisor.remove(inner.id, Grace::NONE);
        }
        if inner.wait_until_idle(deadline) {
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            let finalizing = left.unwrap_or(finalizing);
            let grace = Grace { leaving: LEAVING_GRACE, finalizing };
            return supervisor.remove(inner.id, grace);
        }
        let (queued, running) = inner.count_unended();
        self.end(Shutdown::Now, None, Duration::ZERO)?;
        Err(Error::timed_out(format!("{queued} queued and {running} running tasks were ended")))
    }
}

impl Inner {
    /// Cancels what has not started; maps send no more.
    fn give_up_queued(&self) {
        self.give_up_maps();
        for (index, slot) in self.area.slots.iter().enumerate() {
            let state = slot.state.load();
            if state.phase == Phase::Ready {
                self.cancel(Place { index: index as u32, generation: state.generation });
            }
        }
    }

    /// Waits until no map is running and no submitted task is queued or running; `false` if the time was
    /// up before that.
    fn wait_until_idle(&self, deadline: Option<Instant>) -> bool {
        let left = || match deadline {
            None => Some(Duration::MAX),
            Some(deadline) => Some(deadline.saturating_duration_since(Instant::now()))
                .filter(|left| !left.is_zero()),
        };
        let mut running = lock(&self.maps_running);
        while *running > 0 {
            let Some(left) = left() else { return false };
            let waited = self.map_ended.wait_timeout(running, left);
            running = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        drop(running);
        for slot in self.area.slots {
            while slot.state.load().is_pending() {
                let Some(left) = left() else { return false };
                let generation = slot.state.load().generation;
                slot.state.wait(generation, Some(left).filter(|left| *left < Duration::MAX));
            }
        }
        true
    }

    /// Tasks that are queued, and that run.
    fn count_unended(&self) -> (usize, usize) {
        let phases: Vec<Phase> =
            self.area.slots.iter().map(|slot| slot.state.load().phase).collect();
        let count = |wanted| phases.iter().filter(|phase| **phase == wanted).count();
        (count(Phase::Ready), count(Phase::Claimed))
    }
}
