//! A semaphore's words: how many permits are free, and who holds the others.
//!
//! # Shared state
//! Under the latch of the queue: `total` permits, of which `free` are held by nobody; `bound` is the
//! most that there may be. What each process holds is in its holding.
//!
//! # Rules
//! R1. `total`, and what the processes hold, are the truth; `free` is `total` less all that is held
//!     or has been given to a waiting thread and not been taken yet.
//! R2. A thread that is given permits adds them to its process's holding in the same latched section
//!     in which it takes the outcome.
//!
//! # Protocol
//! Acquire: if nobody waits and there is enough, take it; else queue up, and wait to be given it.
//! Release: put it back, then give those at the front what they want, as far as it goes.
//!
//! # If a process dies
//! What it held comes back, and what it was given; `free` is computed anew (R1). Permits that were
//! released without a guard, or forgotten, belong to no process and stay as they are.
//!
//! # Fairness
//! First come, first served, whatever the amount: who wants many is not overtaken by those who want
//! few, and `try_acquire` does not overtake either.

use super::queue::{Locked, OUTCOME, park};
use super::{Caller, Deadline, Records, WaitQueue, fault};
use crate::prim::{AtomicU32, AtomicU64, Relaxed};

/// Most permits that a semaphore can have.
pub(crate) const PERMITS_MAX: u32 = u32::MAX >> 1;

/// See the module documentation.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct SemaphoreState {
    queue: WaitQueue,
    free: AtomicU32,
    total: AtomicU32,
    bound: AtomicU32,
}

/// Why permits cannot be released: there would be more than the semaphore may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TooMany {
    pub(crate) free: u32,
    pub(crate) total: u32,
    pub(crate) bound: u32,
}

impl SemaphoreState {
    #[cfg(loom)]
    pub(crate) fn new(permits: u32, bound: u32) -> Self {
        Self {
            queue: WaitQueue::new(),
            free: AtomicU32::new(permits),
            total: AtomicU32::new(permits),
            bound: AtomicU32::new(bound),
        }
    }

    /// Fills in a new semaphore, all zero so far.
    pub(crate) fn initialise(&self, permits: u32, bound: u32) {
        self.free.store(permits, Relaxed);
        self.total.store(permits, Relaxed);
        self.bound.store(bound, Relaxed);
    }

    pub(crate) fn available(&self) -> u32 {
        self.free.load(Relaxed)
    }

    pub(crate) fn bound(&self) -> u32 {
        self.bound.load(Relaxed)
    }

    /// How many threads wait; a moment's view.
    pub(crate) fn waiting(&self) -> u32 {
        self.queue.length()
    }

    #[inline]
    fn take(&self, held: &AtomicU64, permits: u32) {
        // R1: what is held is the truth, so it comes first.
        held.store(held.load(Relaxed).saturating_add(u64::from(permits)), Relaxed);
        fault::point("semaphore.held");
        self.free.store(self.available().saturating_sub(permits), Relaxed);
    }

    /// Takes permits if there are enough and nobody is waiting.
    #[inline]
    pub(crate) fn try_acquire<C: Caller>(&self, caller: &C, permits: u32) -> bool {
        let locked = self.queue.lock(caller);
        let enough = locked.is_empty() && self.available() >= permits;
        if enough {
            self.take(caller.held(), permits);
        }
        enough
    }

    /// Takes permits, waiting for them; `false` if the time was up.
    #[inline]
    pub(crate) fn acquire<C: Caller>(&self, caller: &C, permits: u32, deadline: Deadline) -> bool {
        self.try_acquire(caller, permits) || self.acquire_slow(caller, permits, deadline)
    }

    #[cold]
    fn acquire_slow<C: Caller>(&self, caller: &C, permits: u32, deadline: Deadline) -> bool {
        let Some((index, waiter)) = caller.own_waiter(deadline) else { return false };
        let mut locked = self.queue.lock(caller);
        if locked.is_empty() && self.available() >= permits {
            self.take(caller.held(), permits);
            return true;
        }
        locked.push(index, waiter, caller.object(), permits);
        drop(locked);
        park(caller, waiter, deadline);
        let mut locked = self.queue.lock(caller);
        if locked.withdraw(index, waiter) {
            // Those behind may want less than this one did.
            self.advance(&mut locked);
            return false;
        }
        // R2.
        let held = caller.held();
        held.store(held.load(Relaxed).saturating_add(u64::from(permits)), Relaxed);
        waiter.take();
        true
    }

    /// Gives those at the front what they want, as far as it goes.
    fn advance<R: Records>(&self, locked: &mut Locked<'_, R>) {
        while let Some(want) = locked.first().map(|waiter| waiter.want())
            && want <= self.available()
            && locked.give_first(OUTCOME)
        {
            self.free.store(self.available().saturating_sub(want), Relaxed);
        }
    }

    /// Puts permits back that the calling process holds.
    #[inline]
    pub(crate) fn put_back<C: Caller>(&self, caller: &C, permits: u32) {
        let mut locked = self.queue.lock(caller);
        let held = caller.held();
        held.store(held.load(Relaxed).saturating_sub(u64::from(permits)), Relaxed);
        fault::point("semaphore.put-back");
        self.free.store(self.available().saturating_add(permits), Relaxed);
        if !locked.is_empty() {
            self.advance(&mut locked);
        }
    }

    /// Makes permits that the calling process holds nobody's: they are gone for good.
    pub(crate) fn forget<C: Caller>(&self, caller: &C, permits: u32) {
        let _locked = self.queue.lock(caller);
        // First the total: a death in between leaves less free, and settlement counts anew.
        self.total.store(self.total.load(Relaxed).saturating_sub(permits), Relaxed);
        fault::point("semaphore.forgetting");
        let held = caller.held();
        held.store(held.load(Relaxed).saturating_sub(u64::from(permits)), Relaxed);
    }

    /// Adds permits that nobody held.
    pub(crate) fn release<C: Caller>(&self, caller: &C, permits: u32) -> Result<(), TooMany> {
        let mut locked = self.queue.lock(caller);
        let (free, total, bound) = (self.available(), self.total.load(Relaxed), self.bound());
        if permits > bound.saturating_sub(total) {
            return Err(TooMany { free, total, bound });
        }
        self.total.store(total.saturating_add(permits), Relaxed);
        fault::point("semaphore.released");
        self.free.store(free.saturating_add(permits), Relaxed);
        self.advance(&mut locked);
        Ok(())
    }

    /// Gives back what a dead process held or was given.
    #[cfg(not(loom))]
    pub(crate) fn settle(&self, death: &super::Death<'_, impl super::Records>) {
        let (mut locked, _) = self.queue.lock_for_dead(death);
        let mut held = death.held_by_others();
        death.each_given(&mut |waiter| held = held.saturating_add(u64::from(waiter.want())));
        let free = u64::from(self.total.load(Relaxed)).saturating_sub(held);
        self.free.store(u32::try_from(free).unwrap_or(PERMITS_MAX), Relaxed);
        self.advance(&mut locked);
    }
}
