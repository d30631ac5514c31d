//! The words of something that is done once: whether it was, and who is at it.
//!
//! # Shared state
//! `state`: NEW 0, RUNNING (`participant << 2 | 1`), DONE 2. Under the latch, except that it is read
//! without.
//!
//! # Rules
//! R1. Only the process in RUNNING writes the value; nobody writes it after DONE.
//! R2. Who waits is told to look again, and queues up once more if another got ahead.
//!
//! # Orderings
//! `once-done`: release in `finish`, acquire in `is_done`; carries the value.
//!
//! # If a process dies
//! RUNNING: it becomes NEW, and everybody who waits looks again: one of them runs. What the dead
//! one had written of the value is overwritten.
//!
//! # Fairness
//! After a death or a panic any of those who wait, or come, may be the next to run.

use super::queue::{OUTCOME, park};
use super::{Caller, Deadline, WaitQueue, fault};
use crate::prim::{Acquire, AtomicU32, Relaxed, Release};

const NEW: u32 = 0;
const RUNNING: u32 = 1;
const DONE: u32 = 2;

/// See the module documentation.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct OnceState {
    queue: WaitQueue,
    state: AtomicU32,
}

/// What a thread that came to do it finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub(crate) enum Turn {
    /// It is done.
    Done,
    /// The caller does it now, and [finishes](OnceState::finish).
    Mine,
    /// Another was still at it when the time was up.
    TimedOut,
}

impl OnceState {
    #[cfg(loom)]
    pub(crate) fn new() -> Self {
        Self { queue: WaitQueue::new(), state: AtomicU32::new(NEW) }
    }

    #[inline]
    pub(crate) fn is_done(&self) -> bool {
        // SYNC(once-done): pairs with the Release in `finish`.
        self.state.load(Acquire) == DONE
    }

    /// Waits until it is done, or the caller's turn.
    pub(crate) fn enter<C: Caller>(&self, caller: &C, deadline: Deadline) -> Turn {
        while !self.is_done() {
            let Some((index, waiter)) = caller.own_waiter(deadline) else { return Turn::TimedOut };
            let mut locked = self.queue.lock(caller);
            match self.state.load(Relaxed) {
                DONE => break,
                NEW => {
                    self.state.store(caller.me() << 2 | RUNNING, Relaxed);
                    fault::point("once.running");
                    return Turn::Mine;
                }
                _ => {}
            }
            locked.push(index, waiter, caller.object(), 1);
            drop(locked);
            let told = park(caller, waiter, deadline).is_some();
            if !told && self.queue.lock(caller).withdraw(index, waiter) {
                return Turn::TimedOut;
            }
            waiter.take();
        }
        Turn::Done
    }

    /// Ends the caller's turn: `done`, or not and then the next one runs.
    pub(crate) fn finish<C: Caller>(&self, caller: &C, done: bool) {
        let mut locked = self.queue.lock(caller);
        // SYNC(once-done): pairs with the Acquire in `is_done`; carries the value.
        self.state.store(if done { DONE } else { NEW }, Release);
        fault::point("once.finished");
        locked.give_all(OUTCOME);
    }

    /// Lets the next one run if the dead one was at it.
    #[cfg(not(loom))]
    pub(crate) fn settle(&self, death: &super::Death<'_, impl super::Records>) {
        let (mut locked, _) = self.queue.lock_for_dead(death);
        let state = self.state.load(Relaxed);
        if state == death.of << 2 | RUNNING {
            self.state.store(NEW, Relaxed);
        }
        if matches!(self.state.load(Relaxed), NEW | DONE) {
            locked.give_all(OUTCOME);
        }
    }
}
