//! The supervisor's thread: watching workers and the guardian, replacing what dies.
//!
//! It polls one pidfd per worker, the guardian's, and an event counter for requests; no signals are
//! involved.
//!
//! # Protocol
//! A worker's pidfd is readable: have the guardian reap it and fork its replacement (both requests
//! go out together), settle what it held, enter the new one. A worker that is to be recycled rings: its
//! successor is forked and waits for its turn (`seat.rs`). The guardian's is readable: its workers
//! are dying too (parent-death signal); wait for each, settle each, start another guardian. A worker
//! that may have been forked but cannot be watched (the guardian died before it answered, no
//! descriptor is left) is a *stray*: it is ended and settled like any other.
//!
//! # Limits
//! A pool whose workers cannot be forked [`FORKS_MAX`] times in a row, or die too often (`restarts.rs`),
//! is broken: its tasks fail and say so.

use super::deadlines::{Abort, Condemned, Seen};
use super::inner::{Inner, Place as TaskPlace};
use super::leaving::{Grace, Leaving};
use super::restarts::Restarts;
use super::seat;
use super::starting::Asked;
use super::supervisor::{Mailbox, Request};
use super::worker::{LEAVING, RETIRING};
use crate::error::Error;
use crate::prim::Relaxed;
use crate::process::Guardian;
use crate::shm::{Arena, ParticipantId};
use crate::sys;
use std::collections::{HashMap, VecDeque};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Forks in a row that the system may refuse before a pool is given up: with growing pauses, half a
/// second in all.
const FORKS_MAX: u32 = 10;

/// Requests that are posted before the answers are waited for. The guardian takes them when it is rung, and a
/// socket holds only so many: 278 short ones, 13 of 8 kB.
pub(super) const PORTION: usize = 8;

/// How long to wait if the system refuses to.
const POLL_FAILED: Duration = Duration::from_millis(5);

/// Guardians that may die while a pool is being built, or made larger, before that fails.
const GUARDIANS_MAX: u32 = 4;

/// A worker process.
pub(super) struct Worker {
    pub(super) pool: u64,
    pub(super) id: ParticipantId,
    pub(super) place: Place,
    pub(super) pid: u32,
    pub(super) pidfd: OwnedFd,
    /// What it was seen doing, while there are limits to enforce.
    pub(super) seen: Option<Seen>,
    /// Why this thread has killed it.
    pub(super) condemned: Option<Condemned>,
    /// In the order of their entering; and since when it has been seen to have left its pool.
    pub(super) serial: u64,
    pub(super) left_at: Option<Instant>,
}

/// A seat of a pool, and a turn there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Place {
    pub(super) number: usize,
    pub(super) turn: u32,
}

pub(super) struct Watched {
    pub(super) inner: Arc<Inner>,
    pub(super) restarts: Restarts,
    pub(super) leaving: Option<Leaving>,
}

impl Watched {
    fn is_staying(&self) -> bool {
        self.leaving.is_none() && !self.restarts.is_over()
    }
}

/// What the supervisor's thread keeps.
pub(super) struct Watch {
    pub(super) arena: &'static Arena,
    mailbox: Arc<Mailbox>,
    pub(super) guardian: Option<Guardian>,
    pub(super) pools: Vec<Watched>,
    pub(super) workers: Vec<Worker>,
    /// Those that die with the guardian until they are seen to, the dead until they are settled, those that are
    /// asked for until they are entered.
    pub(super) dying: VecDeque<Worker>,
    pub(super) gone: Vec<Worker>,
    pub(super) asking: Vec<Asked>,
    /// Attempts in a row to start a guardian or to have a worker forked that failed.
    failed_forks: u32,
    retry_at: Option<Instant>,
    /// When to look at running calls again (`deadlines.rs`).
    pub(super) look_at: Option<Instant>,
    /// When to look again who is idle (`size.rs`).
    pub(super) shrink_at: Option<Instant>,
    pub(super) aborts: Vec<Abort>,
    /// Workers entered so far.
    pub(super) entered: u64,
    /// Batches to be queued again: when, and which pool's.
    pub(super) pausing: Vec<(Instant, u64, TaskPlace)>,
    quit: bool,
}

impl Drop for Watch {
    /// Whoever waits for an answer has one then, or sees that there will be none.
    fn drop(&mut self) {
        self.mailbox.shut();
        if std::thread::panicking() {
            // No task and no caller is to wait for ever, whatever is wrong.
            let _ = catch_unwind(AssertUnwindSafe(|| self.give_up_all()));
        }
        if let Some(guardian) = self.guardian.take() {
            guardian.end();
        }
    }
}

impl Watch {
    pub(super) fn new(arena: &'static Arena, mailbox: Arc<Mailbox>) -> Self {
        Self {
            arena,
            mailbox,
            guardian: None,
            pools: Vec::new(),
            workers: Vec::new(),
            gone: Vec::new(),
            dying: VecDeque::new(),
            asking: Vec::new(),
            failed_forks: 0,
            retry_at: None,
            look_at: None,
            shrink_at: None,
            aborts: Vec::new(),
            entered: 0,
            pausing: Vec::new(),
            quit: false,
        }
    }

    pub(super) fn run(mut self) {
        sys::process::block_signals_in_this_thread();
        while !self.quit {
            let (guardian_died, dead) = self.wait();
            if guardian_died {
                self.bury_guardian();
            } else {
                self.replace(&dead);
            }
            let is_time = self.retry_at.is_some_and(|at| at <= Instant::now());
            // Leavers want successors; pauses may have ended.
            if guardian_died || is_time || self.retry_at.is_none() {
                self.fill_up();
            }
            self.serve_requests();
            self.serve_aborts();
            self.queue_retries();
            self.end_stuck();
            self.enforce_limits();
            self.follow_demand();
            self.end_leaving();
            self.end_lingering();
            self.pools.iter().for_each(|pool| pool.inner.wake_watchers());
        }
    }

    /// Ends everything, because this thread can no longer see to it.
    #[cold]
    fn give_up_all(&mut self) {
        for watched in &mut self.pools {
            watched.restarts.give_up();
        }
        let mut asking = std::mem::take(&mut self.asking);
        asking.retain(|asked| self.workers.iter().all(|worker| worker.id != asked.reserved.id));
        self.workers.append(&mut self.gone);
        self.workers.extend(self.dying.drain(..));
        self.bury_guardian();
        // It may have forked them, and they may have begun.
        asking.into_iter().for_each(|asked| self.end_stray(asked, None));
        for Watched { inner, .. } in &self.pools {
            inner.set_broken("the pool is broken: its supervisor has panicked".into());
            inner.wake_watchers();
        }
    }

    /// Sleeps until something happens: whether the guardian died, and the pids of dead workers.
    fn wait(&self) -> (bool, Vec<u32>) {
        let mut fds: Vec<BorrowedFd<'_>> = vec![self.mailbox.bell.as_fd()];
        fds.extend(self.workers.iter().map(|worker| worker.pidfd.as_fd()));
        fds.extend(self.guardian.as_ref().map(Guardian::pidfd));
        let now = Instant::now();
        let paused = self.pools.iter().filter_map(|pool| pool.restarts.paused_until(now));
        let own = self
            .retry_at
            .into_iter()
            .chain(self.look_at)
            .chain(self.shrink_at)
            .chain(self.abort_at())
            .chain(self.end_at())
            .chain(self.queue_at());
        let deadline = paused.chain(own).min();
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let ready = sys::fd::poll(&fds, left).unwrap_or_else(|_| self.look_without_poll(fds.len()));
        sys::fd::clear_event(&self.mailbox.bell);
        let dead = self.workers.iter().zip(&ready[1..]).filter(|(_, ready)| **ready);
        let dead = dead.map(|(worker, _)| worker.pid).collect();
        let guardian_died = self.guardian.is_some() && ready.last() == Some(&true);
        (guardian_died, dead)
    }

    /// What is ready, if the system refuses to wait: the dead are found by their pids, a little later.
    #[cold]
    fn look_without_poll(&self, count: usize) -> Vec<bool> {
        std::thread::sleep(POLL_FAILED);
        let gone = self.workers.iter().map(|worker| sys::process::is_gone(worker.pid, 0));
        // They die with the guardian, and who asks that to reap them finds it dead.
        let mut ready: Vec<bool> = [true].into_iter().chain(gone).collect();
        ready.resize(count, false);
        ready
    }

    pub(super) fn pool(&mut self, id: u64) -> Option<&mut Watched> {
        self.pools.iter_mut().find(|pool| pool.inner.id == id)
    }

    // Starting ------------------------------------------------------------------------------

    fn add(&mut self, inner: Arc<Inner>) -> Result<(), Error> {
        let id = inner.id;
        let restarts = Restarts::new(inner.restarts);
        self.pools.push(Watched { inner, restarts, leaving: None });
        let started = self.start_missing();
        if started.is_err() {
            self.remove(id, Grace::NONE, None);
        }
        started
    }

    /// Starts what is missing, for somebody who waits for that; with another guardian, if this one dies.
    pub(super) fn start_missing(&mut self) -> Result<(), Error> {
        let mut started = self.try_fill_up();
        for _ in 1..GUARDIANS_MAX {
            if !started.as_ref().is_err_and(Error::is_broken) {
                break;
            }
            self.bury_guardian();
            started = self.try_fill_up();
        }
        started
    }

    /// Starts what is missing; if that fails, again a little later, and in the end not at all.
    pub(super) fn fill_up(&mut self) {
        self.retry_at = None;
        match self.try_fill_up() {
            Ok(()) => self.failed_forks = 0,
            Err(error) => {
                if error.is_broken() {
                    self.bury_guardian();
                }
                self.forking_failed(&error);
            }
        }
    }

    fn try_fill_up(&mut self) -> Result<(), Error> {
        for missing in self.missing().chunks(PORTION) {
            if self.guardian.is_none() {
                self.guardian = Some(Guardian::start(self.arena, &self.mailbox.bell)?);
            }
            let asked = self.ask_forks(missing)?;
            self.ring();
            self.enter_forked(asked)?;
        }
        Ok(())
    }

    pub(super) fn leaving(&self, worker: &Worker) -> u32 {
        self.arena.participant(worker.id).ledger.leaving.load(Relaxed)
    }

    /// The workers that should be and are not: those whose turn it is, and successors.
    pub(super) fn missing(&self) -> Vec<(u64, Place)> {
        let there: HashMap<(u64, Place), bool> = self
            .workers
            .iter()
            .map(|worker| ((worker.pool, worker.place), self.leaving(worker) != 0))
            .collect();
        let (mut missing, now) = (Vec::new(), Instant::now());
        let replaced =
            |pool: &&Watched| pool.is_staying() && pool.restarts.paused_until(now).is_none();
        for pool in self.pools.iter().filter(replaced) {
            let Inner { id, ref area, ref recycle, .. } = *pool.inner;
            for number in 0..pool.inner.workers() {
                let mut turn = area.seat(number).turn();
                if pool.inner.once.is_some() {
                    let place = Place { number, turn };
                    if turn == 0 && !there.contains_key(&(id, place)) {
                        missing.push((id, place));
                    }
                    continue;
                }
                let is_leaving = there.get(&(id, Place { number, turn })) == Some(&true);
                for _ in 0..if is_leaving { recycle.successors() + 1 } else { 1 } {
                    let place = Place { number, turn };
                    if !there.contains_key(&(id, place)) {
                        missing.push((id, place));
                    }
                    turn = seat::next(turn);
                }
            }
        }
        missing
    }

    pub(super) fn forking_failed(&mut self, error: &Error) {
        self.failed_forks += 1;
        let pause = Duration::from_millis(1 << self.failed_forks.min(7));
        self.retry_at = Some(Instant::now() + pause);
        if self.failed_forks < FORKS_MAX {
            return;
        }
        self.failed_forks = 0;
        for (id, _) in self.missing() {
            let stays = |worker: &Worker| {
                worker.pool == id && !matches!(self.leaving(worker), LEAVING | RETIRING)
            };
            let any_left = self.workers.iter().any(stays);
            if let (Some(watched), false) = (self.pool(id), any_left) {
                watched.restarts.give_up();
                watched.inner.set_broken(format!("the pool is broken: no worker starts: {error}"));
            }
        }
    }

    // Requests ------------------------------------------------------------------------------

    fn serve_requests(&mut self) {
        for request in self.mailbox.take() {
            match request {
                Request::Add { inner, done } => {
                    let _ = done.send(self.add(inner));
                }
                Request::Remove { id, grace, done } => self.remove(id, grace, Some(done)),
                Request::Abort(abort) => self.aborts.push(abort),
                Request::Resize { pool, workers, done } => {
                    let _ = done.send(self.resize(pool, workers));
                }
                Request::Quit => self.quit = true,
            }
        }
    }
}
