//! Replacing workers that have died, and the guardian.
//!
//! # Protocol
//! The dead are put into `gone`, and are there until they are settled, a portion at a time: the guardian is asked to reap them
//! and to fork who is missing, both in one round trip; the turn of each ends, so that its successor begins; what it
//! held is settled; who was forked is entered.
//!
//! # If this thread panics
//! Whoever was seen to at that moment is in `gone`, who was to be next is there or in `dying`: they are settled when all is
//! given up. Settling what has been settled does nothing, but count it once more in the statistics of a pool that is broken.

use super::events::event;
use super::inner::lock;
use super::leaving::DEATH_WITHIN;
use super::requeue::Pausing;
use super::restarts::Had;
use super::settle::{Dead, had, settle};
use super::startup::note_of;
use super::watch::{PORTION, Place, Watch, Worker};
use super::worker::{LEAVING, RETIRING};
use crate::error::{TaskError, WorkerExit};
use crate::prim::Relaxed;
use crate::process::Guardian;
use crate::sys;
use std::os::fd::AsFd;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::Instant;

impl Watch {
    /// Settles workers that have died and has them replaced.
    pub(super) fn replace(&mut self, dead: &[u32]) {
        for pid in dead {
            let at = self.workers.iter().position(|worker| worker.pid == *pid);
            self.gone.extend(at.map(|at| self.workers.swap_remove(at)));
        }
        while !self.gone.is_empty() {
            self.replace_portion();
        }
    }

    fn replace_portion(&mut self) {
        let at = self.gone.len().saturating_sub(PORTION);
        // One round trip for everything: reap all, fork all.
        if let Some(guardian) = &self.guardian
            && self.gone[at..].iter().rev().any(|worker| guardian.ask_reap(worker.pid).is_err())
        {
            // There would be no answer, or another's.
            self.bury_guardian();
        }
        for _ in at..self.gone.len() {
            let worker = self.gone.remove(at);
            let worker = self.with_gone(worker, Self::end_turn);
            self.gone.push(worker);
        }
        // Those that are not in this portion are missing when it has been settled, too.
        let mut missing = self.missing();
        missing.truncate(PORTION);
        let asked = self.ask_forks(&missing);
        self.ring();
        for _ in at..self.gone.len() {
            let answer = self.guardian.as_ref().map(Guardian::reaped);
            if matches!(answer, Some(Err(_))) {
                self.bury_guardian();
            }
            let exit = answer.and_then(Result::ok).flatten().unwrap_or(WorkerExit::Unknown);
            if let Some(worker) = self.gone.pop() {
                self.with_gone(worker, |watch, worker| watch.settle_worker(worker, exit));
            }
        }
        if let Err(error) = asked.and_then(|asked| self.enter_forked(asked)) {
            self.forking_failed(&error);
        }
        self.give_up_broken();
        self.end_unclaimed_mail();
    }

    /// Sees to a dead worker. Should this thread panic over it, it is still among those that [`Watch::give_up_all`] settles.
    fn with_gone(&mut self, worker: Worker, see_to: impl FnOnce(&mut Self, &Worker)) -> Worker {
        let seen_to = catch_unwind(AssertUnwindSafe(|| see_to(self, &worker)));
        if let Err(panic) = seen_to {
            self.gone.push(worker);
            resume_unwind(panic);
        }
        worker
    }

    /// Has the successor of a dead worker begin, if there may be one.
    fn end_turn(&mut self, worker: &Worker) {
        let Worker { pool, id, place: Place { number, turn }, serial, .. } = *worker;
        let arena = self.arena;
        let has_started =
            |worker: &&Worker| arena.participant(worker.id).ledger.started.load(Relaxed) != 0;
        let of_pool = self.workers.iter().filter(|worker| worker.pool == pool);
        let started = of_pool.filter(has_started).map(|worker| worker.serial).max();
        let Some(watched) = self.pool(pool) else { return };
        watched.inner.area.seat(number).end(turn);
        if watched.leaving.is_none() {
            let had = if worker.condemned.is_some() { Had::EndedTasks } else { had(arena, id) };
            watched.restarts.died(Instant::now(), had, serial, started);
        }
    }

    fn settle_worker(&mut self, worker: &Worker, exit: WorkerExit) {
        let now = Instant::now();
        let left = self.leaving(worker);
        let arena = self.arena;
        let Some(watched) = self.pool(worker.pool) else { return };
        lock(&watched.inner.roster).retain(|entered| entered.id != worker.id);
        watched.inner.counters.add_gone(&arena.participant(worker.id).ledger);
        let closing = watched.leaving.as_ref().is_some_and(|leaving| leaving.has_killed(now));
        let condemned = worker.condemned.as_ref();
        let dead = Dead { id: worker.id, pid: worker.pid, exit, closing, condemned };
        let counted = watched.leaving.is_none();
        if counted {
            // Before the outcome can be seen.
            let counters = &watched.inner.counters;
            let (counter, why) = match (left, condemned) {
                (LEAVING, _) => (&counters.workers_recycled, "recycled"),
                (RETIRING, _) => (&counters.workers_retired, "retired"),
                (_, Some(_)) => (&counters.workers_killed, "killed for its task"),
                (_, None) => (&counters.workers_lost, "lost"),
            };
            let Worker { pid, place: Place { number, .. }, .. } = *worker;
            let (pool, exit) = (&*watched.inner.name, exit.to_string());
            event!(
                INFO,
                "worker ended",
                pool = pool,
                number = number,
                pid = pid,
                exit = &*exit,
                why = why
            );
            counter.fetch_add(1, Relaxed);
        }
        if counted && condemned.is_none() {
            let arena = watched.inner.area.arena;
            watched.restarts.note(had(arena, worker.id), exit, note_of(arena, worker.id));
        }
        let pausing = settle(&watched.inner, dead);
        if let Some(once) = &watched.inner.once {
            // If it had not begun its task, nobody will.
            watched.inner.end_lost(TaskError::worker_lost(worker.pid, exit));
            once.end(exit);
        }
        if let Some(Pausing { place, pause }) = pausing {
            self.pausing.push((now + pause, worker.pool, place));
        }
    }

    fn give_up_broken(&mut self) {
        // Also if some of its workers live: it is not what was asked for. What those run ends.
        for watched in self.pools.iter().filter(|watched| watched.restarts.is_over()) {
            watched.inner.set_broken(watched.restarts.why());
        }
    }

    /// Ends what is left of the guardian, of which its workers die too, and settles everything.
    pub(super) fn bury_guardian(&mut self) {
        if let Some(guardian) = self.guardian.take() {
            guardian.bury();
        }
        let pools = &self.pools;
        let is_dying = |worker: &mut Worker| {
            let of = pools.iter().find(|pool| pool.inner.id == worker.pool);
            !of.and_then(|pool| pool.inner.once.as_ref()).is_some_and(|once| once.detached)
        };
        // All at once: none of them is one that lives.
        self.dying.extend(self.workers.extract_if(.., is_dying));
        while let Some(worker) = self.dying.pop_front() {
            self.with_gone(worker, |watch, worker| {
                // The kernel has sent it SIGKILL already; nothing is settled before it is gone.
                let _ = sys::process::kill_pidfd(&worker.pidfd);
                let _ = sys::fd::poll_one(worker.pidfd.as_fd(), Some(DEATH_WITHIN));
                watch.end_turn(worker);
                watch.settle_worker(worker, WorkerExit::Signal(9));
            });
        }
        self.give_up_broken();
    }
}
