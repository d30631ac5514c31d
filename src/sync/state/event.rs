//! An event's words: whether it is set, and the queue of those who wait for that.
//!
//! # Rules
//! R1. `set` changes under the latch. While a manual event is set nobody is on its queue.
//! R2. Setting a manual event gives it to everybody who waits, so that a wait which began before
//!     ends, even if the event is cleared at once. Setting an automatic one gives it to the first who
//!     waits; if nobody does, it stays set for the next who comes.
//! R3. What was given is taken without the latch: nobody else changes the record.
//!
//! # Orderings
//! `event-set`: release in `set`, acquire in `is_set`; carries what was done before setting.
//!
//! # If a process dies
//! Waiting: it is taken off the queue. Given an automatic event and not taken it: the event goes to
//! the next one, or stays set. While setting: whoever was not given it yet is given it (R1).
//!
//! # Fairness
//! First come, first served; a thread that finds an automatic event set has nobody before it.

use super::queue::{Locked, OUTCOME, park};
use super::{Caller, Deadline, Records, WaitQueue, fault};
use crate::prim::{Acquire, AtomicU32, Relaxed, Release};

/// See the module documentation.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct EventState {
    queue: WaitQueue,
    set: AtomicU32,
    /// 1 if it is cleared by the one thread that it releases.
    automatic: AtomicU32,
}

impl EventState {
    #[cfg(loom)]
    pub(crate) fn new(automatic: bool) -> Self {
        Self {
            queue: WaitQueue::new(),
            set: AtomicU32::new(0),
            automatic: AtomicU32::new(u32::from(automatic)),
        }
    }

    /// Fills in a new event, all zero so far.
    pub(crate) fn initialise(&self, automatic: bool) {
        self.automatic.store(u32::from(automatic), Relaxed);
    }

    pub(crate) fn is_automatic(&self) -> bool {
        self.automatic.load(Relaxed) != 0
    }

    #[inline]
    pub(crate) fn is_set(&self) -> bool {
        // SYNC(event-set): pairs with the Release in `set`.
        self.set.load(Acquire) != 0
    }

    /// How many threads wait; a moment's view.
    pub(crate) fn waiting(&self) -> u32 {
        self.queue.length()
    }

    pub(crate) fn set<C: Caller>(&self, caller: &C) {
        let mut locked = self.queue.lock(caller);
        self.set_locked(&mut locked);
    }

    fn set_locked<R: Records>(&self, locked: &mut Locked<'_, R>) {
        if self.is_automatic() {
            if !locked.give_first(OUTCOME) {
                // SYNC(event-set): pairs with the Acquire in `is_set`.
                self.set.store(1, Release);
            }
        } else {
            // SYNC(event-set): as above.
            self.set.store(1, Release);
            fault::point("event.set");
            locked.give_all(OUTCOME);
        }
    }

    pub(crate) fn clear<C: Caller>(&self, caller: &C) {
        let _locked = self.queue.lock(caller);
        self.set.store(0, Relaxed);
    }

    /// Waits until it is set; `false` if the time was up.
    #[inline]
    pub(crate) fn wait<C: Caller>(&self, caller: &C, deadline: Deadline) -> bool {
        (!self.is_automatic() && self.is_set()) || self.wait_slow(caller, deadline)
    }

    fn wait_slow<C: Caller>(&self, caller: &C, deadline: Deadline) -> bool {
        let Some((index, waiter)) = caller.own_waiter(deadline) else { return false };
        let mut locked = self.queue.lock(caller);
        if self.is_set() {
            if self.is_automatic() {
                self.set.store(0, Relaxed);
                fault::point("event.cleared");
            }
            return true;
        }
        locked.push(index, waiter, caller.object(), 1);
        drop(locked);
        if park(caller, waiter, deadline).is_none()
            && self.queue.lock(caller).withdraw(index, waiter)
        {
            return false;
        }
        waiter.take();
        true
    }

    /// Takes a dead process's threads out, and passes on an automatic event that they were given.
    #[cfg(not(loom))]
    pub(crate) fn settle(&self, death: &super::Death<'_, impl super::Records>) {
        let (mut locked, given) = self.queue.lock_for_dead(death);
        if self.is_automatic() {
            given.iter().for_each(|_| self.set_locked(&mut locked));
        } else if self.is_set() {
            locked.give_all(OUTCOME);
        }
    }
}
