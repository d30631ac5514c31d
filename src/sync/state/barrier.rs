//! A barrier's words: how many it takes, and what it is doing.
//!
//! # Shared state
//! Under the latch: `parties`, `phase` (OPEN 0, ACTING 1, BROKEN 2), and `epoch`, which counts the
//! times that everybody was let go. Those who have arrived are the queue.
//!
//! # Protocol
//! 1. An arrival that finds `parties - 1` others queued up, and the barrier open, leads: without an
//!    action it lets them go at once. With one it makes the barrier ACTING, runs the action without
//!    the latch, and then lets them go, if the epoch is still the same.
//! 2. Everybody else queues up and is told by an outcome: that it may pass and the how-manieth it
//!    was, that the barrier broke, or that it leads now (more arrived while another led).
//!
//! # Rules
//! R1. Breaking it, by a time-out, `abort` or a death, tells everybody on the queue, and everybody who
//!     comes until `reset`.
//!
//! # If a process dies
//! Any process that holds a handle is a party, whether it waits, leads, or has not come yet: its
//! death breaks the barrier, so that nobody waits for it. One that was let go and dies before it
//! runs has passed; its death breaks the next round.
//!
//! # Fairness
//! The first `parties` that arrive are the ones that pass together.

use super::queue::{Locked, OUTCOME, park};
use super::{Caller, Deadline, Records, WaitQueue, fault};
use crate::prim::{AtomicU32, Relaxed};

const OPEN: u32 = 0;
const ACTING: u32 = 1;
const BROKEN: u32 = 2;

/// What a waiting thread is told: an outcome with these in the two low bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    Broken,
    /// To lead the round of this epoch (its low 28 bits).
    Lead(u32),
    /// To pass, as the so-manieth.
    Pass(u32),
}

impl Told {
    fn to_raw(self) -> u32 {
        OUTCOME
            + match self {
                Self::Broken => 0,
                Self::Lead(epoch) => (epoch & EPOCH_MASK) << 2 | 1,
                Self::Pass(index) => index << 2 | 2,
            }
    }

    fn from_raw(raw: u32) -> Self {
        let raw = raw - OUTCOME;
        match raw & 3 {
            1 => Self::Lead(raw >> 2),
            2 => Self::Pass(raw >> 2),
            _ => Self::Broken,
        }
    }
}

const EPOCH_MASK: u32 = (1 << 28) - 1;

/// Most parties of a barrier.
pub(crate) const PARTIES_MAX: u32 = 1 << 20;

/// See the module documentation.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct BarrierState {
    queue: WaitQueue,
    parties: AtomicU32,
    phase: AtomicU32,
    epoch: AtomicU32,
}

/// How a wait ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub(crate) enum Passage {
    /// All arrived; this one was the `index`-th, from 0.
    Passed {
        index: u32,
        leader: bool,
    },
    Broken,
    TimedOut,
}

impl BarrierState {
    #[cfg(loom)]
    pub(crate) fn new(parties: u32) -> Self {
        Self {
            queue: WaitQueue::new(),
            parties: AtomicU32::new(parties),
            phase: AtomicU32::new(OPEN),
            epoch: AtomicU32::new(0),
        }
    }

    /// Fills in a new barrier, all zero so far.
    pub(crate) fn initialise(&self, parties: u32) {
        self.parties.store(parties, Relaxed);
    }

    pub(crate) fn parties(&self) -> u32 {
        // Whatever is there, it is one that a barrier may have.
        self.parties.load(Relaxed).clamp(1, PARTIES_MAX)
    }

    pub(crate) fn is_broken(&self) -> bool {
        self.phase.load(Relaxed) == BROKEN
    }

    /// How many have arrived and wait; a moment's view.
    pub(crate) fn waiting(&self) -> u32 {
        self.queue.length().saturating_add(u32::from(self.phase.load(Relaxed) == ACTING))
    }

    /// Arrives, and waits for the others. The one that leads runs `action` before anybody passes.
    pub(crate) fn wait<C: Caller>(
        &self,
        caller: &C,
        action: Option<impl FnOnce()>,
        deadline: Deadline,
    ) -> Passage {
        let mut locked = self.queue.lock(caller);
        if self.is_broken() {
            return Passage::Broken;
        }
        if self.leads(&locked) {
            return self.lead(caller, locked, action);
        }
        // Room for a record may have to be made, which takes time: not with the latch held.
        drop(locked);
        let Some((index, waiter)) = caller.own_waiter(deadline) else {
            self.abort(caller);
            return Passage::TimedOut;
        };
        locked = self.queue.lock(caller);
        if self.is_broken() {
            return Passage::Broken;
        }
        if self.leads(&locked) {
            return self.lead(caller, locked, action);
        }
        locked.push(index, waiter, caller.object(), 1);
        drop(locked);
        let mut outcome = park(caller, waiter, deadline);
        if outcome.is_none() {
            let mut locked = self.queue.lock(caller);
            if locked.withdraw(index, waiter) {
                self.break_up(&mut locked);
                return Passage::TimedOut;
            }
            outcome = waiter.outcome();
        }
        waiter.take();
        match outcome.map(Told::from_raw) {
            Some(Told::Lead(epoch)) => {
                let locked = self.queue.lock(caller);
                match self.is_acting_in(epoch) {
                    true => self.act(caller, locked, action),
                    false => Passage::Broken,
                }
            }
            Some(Told::Pass(index)) => Passage::Passed { index, leader: false },
            _ => Passage::Broken,
        }
    }

    fn is_acting_in(&self, epoch: u32) -> bool {
        let now = self.epoch.load(Relaxed);
        self.phase.load(Relaxed) == ACTING && (now ^ epoch) & EPOCH_MASK == 0
    }

    fn leads<R: Records>(&self, locked: &Locked<'_, R>) -> bool {
        self.phase.load(Relaxed) == OPEN && locked.length().saturating_add(1) >= self.parties()
    }

    fn lead<C: Caller>(
        &self,
        caller: &C,
        mut locked: Locked<'_, C>,
        action: Option<impl FnOnce()>,
    ) -> Passage {
        if action.is_none() {
            return self.let_go(&mut locked);
        }
        self.phase.store(ACTING, Relaxed);
        self.act(caller, locked, action)
    }

    /// Runs the action of a barrier that is ACTING, and lets everybody go.
    fn act<C: Caller>(
        &self,
        caller: &C,
        locked: Locked<'_, C>,
        action: Option<impl FnOnce()>,
    ) -> Passage {
        /// Breaks the barrier if the action panics.
        struct Abort<'a, C: Caller>(&'a BarrierState, &'a C);
        impl<C: Caller> Drop for Abort<'_, C> {
            fn drop(&mut self) {
                self.0.abort(self.1);
            }
        }
        let epoch = self.epoch.load(Relaxed);
        drop(locked);
        fault::point("barrier.acting");
        if let Some(action) = action {
            let abort = Abort(self, caller);
            action();
            std::mem::forget(abort);
        }
        fault::point("barrier.acted");
        let mut locked = self.queue.lock(caller);
        match self.is_acting_in(epoch) {
            true => self.let_go(&mut locked),
            false => Passage::Broken,
        }
    }

    /// Lets the first `parties - 1` on the queue pass, and the caller as the last.
    fn let_go<R: Records>(&self, locked: &mut Locked<'_, R>) -> Passage {
        let others = self.parties() - 1;
        self.next_epoch(OPEN);
        for index in 0..others {
            if !locked.give_first(Told::Pass(index).to_raw()) {
                break;
            }
            fault::point("barrier.letting-go");
        }
        // Those who came while this one led may be enough for another round.
        if locked.length() >= self.parties() {
            let last = locked.nth(others);
            self.phase.store(ACTING, Relaxed);
            locked.give(last, Told::Lead(self.epoch.load(Relaxed)).to_raw());
        }
        Passage::Passed { index: others, leader: true }
    }

    fn next_epoch(&self, phase: u32) {
        self.epoch.store(self.epoch.load(Relaxed).wrapping_add(1), Relaxed);
        self.phase.store(phase, Relaxed);
    }

    fn break_up<R: Records>(&self, locked: &mut Locked<'_, R>) {
        self.next_epoch(BROKEN);
        locked.give_all(Told::Broken.to_raw());
    }

    /// Breaks the barrier (R1).
    pub(crate) fn abort<C: Caller>(&self, caller: &C) {
        self.break_up(&mut self.queue.lock(caller));
    }

    /// Makes the barrier as new; those who wait are told that it broke.
    pub(crate) fn reset<C: Caller>(&self, caller: &C) {
        let mut locked = self.queue.lock(caller);
        locked.give_all(Told::Broken.to_raw());
        fault::point("barrier.resetting");
        self.next_epoch(OPEN);
    }

    /// Breaks the barrier: a party is dead.
    #[cfg(not(loom))]
    pub(crate) fn settle(&self, death: &super::Death<'_, impl super::Records>) {
        let (mut locked, _) = self.queue.lock_for_dead(death);
        self.break_up(&mut locked);
    }
}
