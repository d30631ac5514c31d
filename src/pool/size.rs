//! How many workers a pool has: changing that, and following what there is to do.
//!
//! # Rules
//! R1. The supervisor alone changes how many seats are to have a worker. It has workers forked for seats
//!     that have none, and retires those beyond (`seat.rs`): they leave after their task.
//! R2. A pool with an idle timeout has between its minimum and its size. The supervisor adds a worker for
//!     each queued task. It is rung by who queues a task while nobody sleeps; and, since sleepers may be
//!     on their way to other tasks, by a worker that was woken and leaves more tasks than sleepers. While
//!     there are more workers than the minimum, it looks from time to time which have been idle for long.
//!
//! # If a process dies
//! A worker that was retired: nobody replaces it, and what it held is settled. What was left at its seat
//! and not begun is cancelled.

use super::Pool;
use super::inner::Inner;
use super::seat::Seat;
use super::slot::Slot;
use super::watch::Watch;
use crate::error::Error;
use crate::limits::WORKERS_MAX;
use crate::prim::{Acquire, Relaxed, SeqCst, fence};
use crate::shm::arena::is_forked_copy;
use crate::sys;
use std::time::{Duration, Instant};

impl Pool {
    /// Changes the number of workers, also while the pool is busy, to 1 to [`WORKERS_MAX`].
    ///
    /// New ones have been forked when it returns. Those that are too many leave when they have ended what
    /// they run, and are not waited for.
    ///
    /// # Errors
    /// The number is out of range; the pool is closed; the system refuses processes, of which the pool then
    /// has as many as before.
    ///
    /// # Blocking
    /// For less than a millisecond per new worker.
    ///
    /// # Examples
    /// ```
    /// let pool = procpool::Pool::builder().workers(1).build()?;
    /// pool.resize(3)?;
    /// assert_eq!((pool.workers(), pool.broadcast(|_: ()| (), &())?.len()), (3, 3));
    /// pool.resize(1)?;
    /// assert_eq!(pool.map(|x: u32| x + 1, 0..3)?, [1, 2, 3]);
    /// # Ok::<(), procpool::Error>(())
    /// ```
    pub fn resize(&self, workers: usize) -> Result<(), Error> {
        if is_forked_copy() {
            return Err(Error::forked());
        }
        if !(1..=WORKERS_MAX).contains(&workers) {
            return Err(Error::invalid(format!("workers is {workers}, outside 1..={WORKERS_MAX}")));
        }
        self.inner.check_open()?;
        self.supervisor.resize(self.inner.id, workers)
    }
}

impl Inner {
    /// Has the supervisor add workers, if nobody is there for a task that was queued (R2).
    #[inline]
    pub(super) fn grow_on_demand(&self) {
        if self.idle_timeout.is_some()
            && self.workers() < self.most_workers()
            && !self.area.idle().has_sleepers()
            && let Some(mailbox) = self.mailbox.get()
        {
            mailbox.ring();
        }
    }

    /// Sets how many seats are to have a worker.
    fn set_workers(&self, workers: usize) {
        let before = self.workers.swap(workers as u32, SeqCst) as usize;
        (before..workers).for_each(|number| self.area.seat(number).reopen());
        (workers..before).for_each(|number| self.area.seat(number).retire());
        self.seats_ever.fetch_max(workers as u32, SeqCst);
        if workers < before {
            self.area.idle().notify_everybody();
        }
    }

    pub(super) fn seats(&self) -> impl Iterator<Item = (usize, &Seat)> {
        (0..self.seats_ever.load(SeqCst) as usize).map(|number| (number, self.area.seat(number)))
    }
}

impl Watch {
    pub(super) fn resize(&mut self, pool: u64, workers: usize) -> Result<(), Error> {
        let Some(watched) = self.pool(pool) else { return Err(Error::closed()) };
        let inner = watched.inner.clone();
        let before = (inner.workers(), inner.most_workers());
        inner.most_workers.store(workers as u32, Relaxed);
        inner.set_workers(workers);
        if workers <= before.0 {
            // What else is missing is nobody's business here.
            self.fill_up();
            self.end_unclaimed_mail();
            return Ok(());
        }
        let filled = self.start_missing();
        if filled.is_err() {
            inner.most_workers.store(before.1 as u32, Relaxed);
            inner.set_workers(before.0);
        }
        self.end_unclaimed_mail();
        filled
    }

    /// Cancels what was left at seats that have no worker any more.
    pub(super) fn end_unclaimed_mail(&self) {
        // Pairs with the fence in `broadcast.rs`.
        fence(SeqCst);
        for watched in &self.pools {
            let inner = &watched.inner;
            for (number, seat) in inner.seats().skip(inner.workers()) {
                let mut there = self.workers.iter().filter(|worker| worker.pool == inner.id);
                if there.any(|worker| worker.place.number == number) {
                    continue;
                }
                let Some(index) = seat.mail() else { continue };
                if inner.area.slots.get(index as usize).is_some_and(Slot::is_mailed) {
                    inner.cancel(inner.place_of(index));
                }
                seat.clear_mail(index);
            }
        }
    }

    /// Adds workers where tasks wait, and retires those that have been idle for long (R2).
    pub(super) fn follow_demand(&mut self) {
        self.shrink_at = None;
        for at in 0..self.pools.len() {
            let inner = self.pools[at].inner.clone();
            let Some((timeout, least)) = inner.idle_timeout else { continue };
            let (workers, most) = (inner.workers(), inner.most_workers());
            let queued = inner.area.queued();
            if queued > 0 && workers < most {
                let more = usize::try_from(queued).unwrap_or(most);
                inner.set_workers(most.min(workers.saturating_add(more)));
                self.fill_up();
            }
            let idle = self.idle_for(&inner);
            let too_long = idle.iter().filter(|idle| **idle >= timeout).count();
            let workers = inner.workers();
            if queued == 0 && too_long > 0 && workers > least {
                inner.set_workers(least.max(workers - too_long.min(workers)));
                self.end_unclaimed_mail();
            }
            if inner.workers() > least {
                let longest = idle.into_iter().filter(|idle| *idle < timeout).max();
                let left = timeout.saturating_sub(longest.unwrap_or_default());
                // A time that the clock cannot show never comes.
                let look_at = Instant::now().checked_add(left);
                self.shrink_at = self.shrink_at.into_iter().chain(look_at).min();
            }
        }
    }

    /// How long each idle worker of a pool has been idle.
    fn idle_for(&self, inner: &Inner) -> Vec<Duration> {
        let now_ns = sys::clock::monotonic_ns();
        let idle = self.workers.iter().filter(|worker| worker.pool == inner.id);
        idle.filter_map(|worker| {
            let ledger = &self.arena.participant(worker.id).ledger;
            let since_ns = ledger.since_ns.load(Relaxed);
            (ledger.slot.load(Acquire) == 0 && since_ns != 0)
                .then(|| Duration::from_nanos(now_ns.saturating_sub(since_ns)))
        })
        .collect()
    }
}
