//! A room to wait in until something can be done: for structures that are not under the latch.
//!
//! A queue's getters wait in one until there is a value, its putters in another until there is a
//! cell. Who comes out of a room has been given nothing but the advice to look.
//!
//! # Rules
//! R1. A thread looks *after* it has queued up, and again whenever it is about to sleep. Whoever makes
//!     something possible does that first, and then looks whether anybody is queued.
//! R2. Each thing made possible is one advice, to the thread at the front. Who was advised and has
//!     found something before passes the advice on.
//!
//! # Orderings
//! `room`: each side writes (the thread its place in the queue, the other what it made possible) and
//! then reads what the other has written, with a full barrier in between: at least one of them sees
//! the other.
//!
//! # If a process dies
//! With an advice, or before it gives one: settlement has everybody in every room look again.

use super::queue::{LOOK, OUTCOME, sleep_until};
use super::{Caller, Deadline, WaitQueue};
use crate::prim::{AtomicU32, Relaxed, fence_after_rmw, spin_hint};

/// Pauses of the processor before each look: some tens of nanoseconds.
const PAUSE: u32 = if cfg!(loom) { 0 } else { 8 };

/// See the module documentation; all zero at first, but for the number.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Room {
    queue: WaitQueue,
    /// Which room of its object it is: a thread's record says so, too, because after a death the queue
    /// is made anew from the records.
    number: AtomicU32,
}

impl Room {
    #[cfg(loom)]
    pub(crate) fn new() -> Self {
        Self { queue: WaitQueue::new(), number: AtomicU32::new(0) }
    }

    /// Says which of its object's rooms this is, 0 to 15, before anybody waits.
    #[cfg(not(loom))]
    pub(crate) fn initialise(&self, number: u32) {
        self.number.store(number & 0xf, Relaxed);
    }

    /// For a test that scribbles elsewhere.
    #[cfg(all(test, not(loom)))]
    pub(crate) fn latch(&self) -> &super::latch::Latch {
        self.queue.latch()
    }

    /// What a thread wants that waits here.
    fn want(&self) -> u32 {
        LOOK + (self.number.load(Relaxed) & 0xf)
    }

    /// How many threads wait; a moment's view.
    pub(crate) fn waiting(&self) -> u32 {
        self.queue.length()
    }

    /// Waits until `attempt` finds something; `None` if the time was up.
    pub(crate) fn wait<C: Caller, R>(
        &self,
        caller: &C,
        deadline: Deadline,
        mut attempt: impl FnMut() -> Option<R>,
    ) -> Option<R> {
        let mut found = None;
        let mut look = || {
            // Each look takes the line away from whoever is about to fill it.
            (0..PAUSE).for_each(|_| spin_hint());
            found = attempt();
            found.is_some()
        };
        if caller.search(&mut look) {
            return found;
        }
        loop {
            let Some((index, waiter)) = caller.own_waiter(deadline) else { return attempt() };
            self.queue.lock(caller).push(index, waiter, caller.object(), self.want());
            // SYNC(room): R1: the swap that unlocked, then the look.
            fence_after_rmw();
            let mut found = attempt();
            if found.is_none() {
                sleep_until(caller, waiter, deadline, || {
                    found = attempt();
                    found.is_some()
                });
            }
            let advised = !self.queue.lock(caller).withdraw(index, waiter);
            if advised {
                waiter.take();
                if found.is_some() {
                    self.advise(caller, 1);
                }
            }
            let found = found.or_else(&mut attempt);
            if found.is_some() || deadline.left().is_some_and(|left| left.is_zero()) {
                return found;
            }
        }
    }

    /// Advises up to `count` threads. The caller has just made something possible, and the last thing
    /// that it did was a read-modify-write.
    #[inline]
    pub(crate) fn notify<C: Caller>(&self, caller: &C, count: u32) {
        // SYNC(room): pairs with the same fence in `wait` and in `sleep_until`.
        fence_after_rmw();
        if self.queue.length() != 0 {
            self.advise(caller, count);
        }
    }

    #[cold]
    fn advise<C: Caller>(&self, caller: &C, count: u32) {
        let mut locked = self.queue.lock(caller);
        for _ in 0..count {
            if !locked.give_first(OUTCOME) {
                break;
            }
        }
    }

    /// Takes a dead process's threads out. Everybody is about to be told to look again.
    #[cfg(not(loom))]
    pub(crate) fn settle(&self, death: &super::Death<'_, impl super::Records>) {
        drop(self.queue.lock_room_for_dead(death, Some(self.want())));
    }
}
