//! A condition variable's words: the queue of those who wait to be notified.
//!
//! # Protocol
//! Wait, with the mutex held: queue up, unlock the mutex, wait to be notified, lock the mutex, take
//! the notification. Notify: give the front of the queue a notification each.
//!
//! # Rules
//! R1. A notification is taken only after the mutex has been locked again, so that one which a dying
//!     thread was given is known and passed on.
//! R2. The record is taken without the latch: nobody else changes it once it has an outcome.
//!
//! # If a process dies
//! Waiting: it is taken off the queue, so no notification goes to it. Notified: the notification
//! goes to the next. After it has taken it: it held the mutex, whose next owner is told.
//!
//! # Fairness
//! `notify` wakes those who have waited longest. Who gets the mutex first is the mutex's affair.

use super::queue::{OUTCOME, park};
use super::{Caller, Deadline, WaitQueue, Waiter, fault};

/// See the module documentation.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct CondvarState {
    queue: WaitQueue,
}

/// A thread that is queued up and still holds the mutex.
#[derive(Debug)]
#[must_use]
pub(crate) struct Queued<'a> {
    index: u32,
    waiter: &'a Waiter,
}

impl CondvarState {
    #[cfg(loom)]
    pub(crate) fn new() -> Self {
        Self { queue: WaitQueue::new() }
    }

    /// How many wait; a moment's view.
    pub(crate) fn waiting(&self) -> u32 {
        self.queue.length()
    }

    /// Queues up. The caller holds the mutex, and unlocks it next.
    pub(crate) fn enter<'a, C: Caller>(
        &self,
        caller: &'a C,
        deadline: Deadline,
    ) -> Option<Queued<'a>> {
        let (index, waiter) = caller.own_waiter(deadline)?;
        self.queue.lock(caller).push(index, waiter, caller.object(), 1);
        Some(Queued { index, waiter })
    }

    /// Waits until notified; `false` if the time was up. The caller locks the mutex next, and then
    /// [leaves](Self::leave).
    pub(crate) fn wait<C: Caller>(
        &self,
        caller: &C,
        queued: &Queued<'_>,
        deadline: Deadline,
    ) -> bool {
        if park(caller, queued.waiter, deadline).is_some() {
            return true;
        }
        // Given between the end of the wait and here, it counts.
        !self.queue.lock(caller).withdraw(queued.index, queued.waiter)
    }

    /// Takes the notification, if there was one (R1, R2).
    pub(crate) fn leave(queued: &Queued<'_>) {
        fault::point("condvar.relocked");
        if queued.waiter.outcome().is_some() {
            queued.waiter.take();
        }
    }

    /// Notifies up to `count` threads; returns how many.
    pub(crate) fn notify<C: Caller>(&self, caller: &C, count: u32) -> u32 {
        let mut locked = self.queue.lock(caller);
        let mut notified = 0;
        while notified < count && locked.give_first(OUTCOME) {
            notified += 1;
        }
        notified
    }

    /// Takes a dead process's threads out, and passes on what they were notified of.
    #[cfg(not(loom))]
    pub(crate) fn settle(&self, death: &super::Death<'_, impl super::Records>) {
        let (mut locked, given) = self.queue.lock_for_dead(death);
        for _ in given {
            locked.give_first(OUTCOME);
        }
    }
}
