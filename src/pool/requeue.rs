//! Queueing what cannot be queued at once: batches whose retry has a pause, and those for which their ring has no
//! cell.
//!
//! A ring has twice as many cells as there are slots, so one is missing only if a worker has claimed it and not
//! released it. That is a few instructions, unless it is stopped there; or what stands in the ring is not true,
//! because a worker that runs wild has written there.
//!
//! # Rules
//! R1. The supervisor does not wait for a cell: it may be the one that has to settle the worker which holds it.
//!     It puts the batch off.
//! R2. Others yield, then sleep, and from time to time free the cells that hold nothing (`Ring::clear_out`).
//! R3. A worker that has held a cell for [`STUCK`] while a thread of the user's process waited for it is killed.
//!     It has not begun the task of that cell, so nothing is lost.
//!
//! # If a process dies
//! With a claim: settlement releases it, and whoever waits finds the cell.

use super::area::{Area, CellPlace};
use super::inner::{Inner, Place, lock};
use super::priority::RINGS;
use super::state::Phase;
use super::watch::Watch;
use crate::prim::Relaxed;
use crate::shm::ParticipantId;
use crate::sys;
use std::time::{Duration, Instant};

/// How often to yield before sleeping.
const YIELDS: u32 = 1000;
/// Between two looks for a cell.
const LOOK: Duration = Duration::from_millis(1);
/// Looks before it is seen what is wrong.
const CLEAR_EACH: u32 = 50;
/// Looks before whoever holds a cell is taken for stuck.
const STUCK: u32 = 2000;

/// A batch that is to be queued again a little later.
#[derive(Debug, Clone, Copy)]
#[must_use]
pub(super) struct Pausing {
    pub(super) place: Place,
    pub(super) pause: Duration,
}

impl Area {
    /// Queues a slot that is READY as soon as its ring has a cell for it; `false` if none has come free for long.
    #[inline]
    pub(super) fn queue(&self, index: u32) -> bool {
        self.try_queue(index) || self.queue_later(index)
    }

    #[cold]
    fn queue_later(&self, index: u32) -> bool {
        for look in 0..YIELDS + STUCK {
            if self.try_queue(index) {
                return true;
            }
            if look < YIELDS {
                sys::process::yield_now();
                continue;
            }
            if look.is_multiple_of(CLEAR_EACH) {
                self.clear_out(self.slots[index as usize].priority() % RINGS);
            }
            std::thread::sleep(LOOK);
        }
        false
    }

    /// Frees the cells of a ring that hold nothing.
    fn clear_out(&self, priority: usize) {
        let mut seen = vec![false; self.slots.len()];
        let is_wanted = |index: u32| {
            let slot = self.slots.get(index as usize);
            let is_ready = slot.is_some_and(|slot| slot.state.load().phase == Phase::Ready);
            // Once is enough.
            is_ready && !std::mem::replace(&mut seen[index as usize], true)
        };
        let is_held = |position: u64, claimer: u64| {
            let id = ParticipantId::from_raw(claimer);
            let cell = self.arena.participant(id).ledger.cell.load(Relaxed);
            self.arena.is_attached(id)
                && CellPlace::from_raw(cell) == Some(CellPlace { position, priority })
        };
        self.rings[priority].clear_out(is_wanted, is_held);
    }
}

impl Inner {
    /// Queues a task that was filled in; not, if the pool closes meanwhile, and nobody takes any.
    #[inline]
    pub(super) fn queue(&self, index: u32) {
        while !self.area.queue(index) {
            if self.check_open().is_err() {
                return self.end_task(self.place_of(index));
            }
            self.end_stuck(self.slot(index).priority() % RINGS);
        }
    }

    /// Has the supervisor kill workers that hold a cell (R3).
    #[cold]
    fn end_stuck(&self, priority: usize) {
        let claims = self.area.rings[priority].claims().into_iter();
        lock(&self.stuck).extend(claims.map(|(_, claimer)| ParticipantId::from_raw(claimer)));
        if let Some(mailbox) = self.mailbox.get() {
            mailbox.ring();
        }
    }

    /// Queues a batch that is READY, now or soon, by the supervisor (R1).
    pub(super) fn queue_soon(&self, index: u32) {
        if !self.area.try_queue(index) {
            let generation = self.slot(index).state.load().generation;
            lock(&self.put_off).push(Place { index, generation });
        }
    }

    /// Queues a batch that was given back; not if it has been cancelled meanwhile.
    pub(super) fn queue_again(&self, place: Place) {
        let slot = self.slot(place.index);
        let state = slot.state.load();
        if state.generation != place.generation || state.phase != Phase::Ready {
            return;
        }
        match slot.is_mailed() {
            true => self.area.mail(place.index),
            false => self.queue_soon(place.index),
        }
        if self.options_of(place.index).limit().is_some() {
            self.watch_limits();
        }
    }
}

impl Watch {
    /// When to look next at what was put off, or waits for its retry.
    pub(super) fn queue_at(&self) -> Option<Instant> {
        let put_off = self.pools.iter().any(|pool| !lock(&pool.inner.put_off).is_empty());
        let soon = put_off.then(|| Instant::now() + LOOK);
        self.pausing.iter().map(|(at, ..)| *at).chain(soon).min()
    }

    /// Kills workers that hold a cell for too long (R3).
    pub(super) fn end_stuck(&self) {
        for inner in self.pools.iter().map(|pool| &pool.inner) {
            let stuck = std::mem::take(&mut *lock(&inner.stuck));
            let own = self.workers.iter().filter(|worker| worker.pool == inner.id);
            for worker in own.filter(|worker| stuck.contains(&worker.id)) {
                // One that is dead already is settled soon.
                let _ = sys::process::kill_pidfd(&worker.pidfd);
            }
        }
    }

    /// Queues what was put off, and what has waited for its retry.
    pub(super) fn queue_retries(&mut self) {
        let now = Instant::now();
        let due = self.pausing.extract_if(.., |(at, ..)| *at <= now).collect::<Vec<_>>();
        for (_, pool, place) in due {
            if let Some(watched) = self.pool(pool) {
                watched.inner.queue_again(place);
            }
        }
        for inner in self.pools.iter().map(|pool| &pool.inner) {
            let put_off = std::mem::take(&mut *lock(&inner.put_off));
            if !put_off.is_empty() {
                (0..RINGS).for_each(|priority| inner.area.clear_out(priority));
            }
            put_off.into_iter().for_each(|place| inner.queue_again(place));
        }
    }
}
