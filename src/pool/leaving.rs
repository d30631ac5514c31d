//! Ending the workers of a pool that is shut down, and those that have left one and do not end.
//!
//! # Rules
//! R1. A worker of a pool that is shut down leaves by itself when it finds nothing to do. One that has not
//!     ended within the grace is killed.
//! R2. One that runs its finaliser says so in its ledger, and has the time that whoever shuts down gives it.
//! R3. One that has left its pool, recycled or retired, and has not ended after [`LINGER`], is killed: its
//!     finaliser hangs, or what else runs when a process ends. (That it has left is seen at the latest when it may have
//!     left for so long.)
//!
//! # If a process dies
//! A worker: it is settled and not replaced.

use super::inner::Inner;
use super::watch::{Watch, Watched, Worker};
use super::worker::{FINALIZING, LEAVING, RETIRING};
use crate::error::Error;
use crate::prim::Relaxed;
use crate::sys;
use std::collections::HashSet;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// How long killed processes may take to be dead.
pub(super) const DEATH_WITHIN: Duration = Duration::from_secs(10);
/// How long a worker that has left its pool may take to end.
const LINGER: Duration = Duration::from_secs(60);
/// What a test has put in the place of [`LINGER`].
#[cfg(any(debug_assertions, feature = "fault"))]
static LINGER_IN_TEST: crate::prim::Mutex<Option<Duration>> = crate::prim::Mutex::new(None);

/// Sets how long a worker that has left its pool may take to end.
#[cfg(any(debug_assertions, feature = "fault"))]
pub fn set_linger(most: Duration) {
    *super::inner::lock(&LINGER_IN_TEST) = Some(most);
}

fn linger() -> Duration {
    #[cfg(any(debug_assertions, feature = "fault"))]
    if let Some(most) = *super::inner::lock(&LINGER_IN_TEST) {
        return most;
    }
    LINGER
}

/// How often to look whether finalisers have ended.
const LOOK: Duration = Duration::from_millis(50);

/// How long workers may take to leave by themselves.
#[derive(Debug, Clone, Copy)]
pub(super) struct Grace {
    pub(super) leaving: Duration,
    /// If they run their finaliser; without an end if that cannot be added to the time of day.
    pub(super) finalizing: Duration,
}

impl Grace {
    pub(super) const NONE: Self = Self { leaving: Duration::ZERO, finalizing: Duration::ZERO };
}

/// That a pool is being shut down.
pub(super) struct Leaving {
    killed_at: Instant,
    /// Those that run their finaliser; if ever.
    finalizers_killed_at: Option<Instant>,
    /// Who waits for that.
    done: Vec<mpsc::Sender<Result<(), Error>>>,
}

impl Leaving {
    /// Whether workers were killed that had not left by themselves.
    pub(super) fn has_killed(&self, now: Instant) -> bool {
        self.killed_at <= now
    }
}

impl Watched {
    /// Whether a worker's time is up.
    fn is_overdue(&self, is_finalizing: bool, now: Instant) -> bool {
        self.leaving.as_ref().is_some_and(|leaving| match is_finalizing {
            true => leaving.finalizers_killed_at.is_some_and(|killed_at| killed_at <= now),
            false => leaving.killed_at <= now,
        })
    }
}

impl Watch {
    fn is_finalizing(&self, worker: &Worker) -> bool {
        self.arena.participant(worker.id).ledger.started.load(Relaxed) == FINALIZING
    }

    fn of<'a>(&'a self, inner: &Inner) -> impl Iterator<Item = &'a Worker> + use<'a> {
        let id = inner.id;
        self.workers.iter().filter(move |worker| worker.pool == id)
    }

    /// Begins to end the workers of a pool, or to end them sooner.
    pub(super) fn remove(
        &mut self,
        id: u64,
        grace: Grace,
        done: Option<mpsc::Sender<Result<(), Error>>>,
    ) {
        let now = Instant::now();
        let far = now + Duration::from_secs(u32::MAX.into());
        let killed_at = now.checked_add(grace.leaving).unwrap_or(far);
        let finalizers_killed_at = now.checked_add(grace.finalizing);
        match self.pool(id) {
            Some(watched) if watched.inner.once.as_ref().is_some_and(|once| once.detached) => {
                // It goes on, and is nobody's business any more.
                self.let_go(id);
                done.map(|done| done.send(Ok(())));
            }
            Some(watched) => {
                let leaving = watched.leaving.get_or_insert_with(|| Leaving {
                    killed_at,
                    finalizers_killed_at,
                    done: Vec::new(),
                });
                // Whoever is in a hurry counts.
                leaving.killed_at = leaving.killed_at.min(killed_at);
                let both = leaving.finalizers_killed_at.into_iter().chain(finalizers_killed_at);
                leaving.finalizers_killed_at = both.min();
                leaving.done.extend(done);
                // Those that are killed now do not begin to leave.
                if !grace.leaving.is_zero() {
                    watched.inner.area.stop(watched.inner.seats_ever.load(Relaxed) as usize);
                }
            }
            None => {
                done.map(|done| done.send(Ok(())));
            }
        }
    }

    /// Forgets a process that goes on without its handle. From now on whoever waits for a shared object sees to
    /// what it held, when it has died.
    fn let_go(&mut self, id: u64) {
        for worker in self.workers.extract_if(.., |worker| worker.pool == id) {
            self.arena.disown(worker.id);
        }
        self.pools.retain(|pool| pool.inner.id != id);
    }

    /// When to look next at those who leave.
    pub(super) fn end_at(&self) -> Option<Instant> {
        let now = Instant::now();
        let leaving = self.pools.iter().filter_map(|pool| pool.leaving.as_ref().zip(Some(pool)));
        let ends = leaving.flat_map(|(leaving, pool)| {
            let finalizing = self.of(&pool.inner).any(|worker| self.is_finalizing(worker));
            let others = self.of(&pool.inner).any(|worker| !self.is_finalizing(worker));
            let looks = finalizing.then(|| now + LOOK);
            let own = leaving.finalizers_killed_at.filter(|_| finalizing);
            [Some(leaving.killed_at).filter(|_| others || !finalizing), own, looks]
        });
        // Who leaves does not say so, unless it has a finaliser.
        let seen_at = |worker: &Worker| worker.left_at.or(self.may_leave(worker).then_some(now));
        let lingering = self.workers.iter().filter_map(seen_at);
        ends.flatten().chain(lingering.map(|left_at| left_at + linger())).min()
    }

    /// Whether a worker has left its pool, or may do so while this thread sleeps.
    fn may_leave(&self, worker: &Worker) -> bool {
        let pool = self.pools.iter().find(|pool| pool.inner.id == worker.pool);
        self.leaving(worker) != 0
            || pool.is_some_and(|pool| {
                pool.inner.once.is_some() || worker.place.number >= pool.inner.workers()
            })
    }

    /// Kills what has outstayed its grace, and reports pools that have no workers left.
    pub(super) fn end_leaving(&mut self) {
        let now = Instant::now();
        let overdue = |worker: &&Worker| {
            let pool = self.pools.iter().find(|pool| pool.inner.id == worker.pool);
            pool.is_some_and(|pool| pool.is_overdue(self.is_finalizing(worker), now))
        };
        let doomed: Vec<(u32, BorrowedFd<'_>)> = self
            .workers
            .iter()
            .filter(overdue)
            .map(|worker| (worker.pid, worker.pidfd.as_fd()))
            .collect();
        for (_, pidfd) in &doomed {
            let _ = sys::process::kill_pidfd(pidfd);
        }
        // Waited for right here: dropping a pool is done when it returns. Some may be stuck in the kernel.
        let enough = Instant::now() + DEATH_WITHIN;
        for (_, pidfd) in &doomed {
            let left = enough.saturating_duration_since(Instant::now());
            let _ = sys::fd::poll_one(*pidfd, Some(left));
        }
        let doomed: Vec<u32> = doomed.into_iter().map(|(pid, _)| pid).collect();
        self.replace(&doomed);
        let occupied: HashSet<u64> = self.workers.iter().map(|worker| worker.pool).collect();
        self.pools.retain_mut(|watched| {
            if watched.leaving.is_none() || occupied.contains(&watched.inner.id) {
                return true;
            }
            watched.inner.end_all_tasks();
            watched.inner.wake_watchers();
            for done in watched.leaving.take().into_iter().flat_map(|leaving| leaving.done) {
                // Who asked may have gone.
                let _ = done.send(Ok(()));
            }
            false
        });
    }

    /// Kills workers that have left their pool long ago (R3).
    pub(super) fn end_lingering(&mut self) {
        let now = Instant::now();
        for at in 0..self.workers.len() {
            if !matches!(self.leaving(&self.workers[at]), LEAVING | RETIRING) {
                continue;
            }
            let worker = &mut self.workers[at];
            if now.duration_since(*worker.left_at.get_or_insert(now)) >= linger() {
                let _ = sys::process::kill_pidfd(&worker.pidfd);
            }
        }
    }
}
