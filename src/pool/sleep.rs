//! Sleeping and waking: the event count, and the searching worker that saves wake-ups.
//!
//! # Shared state
//! [`EventCount`]: `epoch` (a futex that only ever grows) and `sleepers` (how many may be asleep).
//! [`Searcher`]: the participant that is looking for work just now, 0 if none. All zero at first.
//!
//! # Rules
//! R1. Who sleeps: count yourself, read `epoch`, look again whether there is something to do, sleep
//!     while `epoch` is unchanged, uncount yourself.
//! R2. Who notifies: make the thing visible, fence, and if anybody is counted, advance `epoch`, then
//!     wake.
//! R3. `sleepers` may be too high (somebody died asleep), never too low: too high costs a system
//!     call, too low a hang. A worker sets `asleep` in its ledger after counting and clears it
//!     before uncounting; settlement takes one off only if it finds it set.
//! R4. At most one worker spins. While one does, producers wake nobody: it will see their task, and
//!     it wakes the next when it finds work and sees more.
//! R5. A searcher that gives up, or has claimed what it found, clears the word and then looks at the queue again.
//!
//! # Orderings
//! Both races are of the kind "each writes one word and reads the other's", and need SeqCst:
//!
//! ```text
//! sleeper:   sleepers += 1; fence; read the queue        searcher: searching = 0; fence; read the queue
//! notifier:  write the queue; fence; read sleepers       producer: write the queue; fence; read searching
//! ```
//! At least one of the two sees the other's write.
//!
//! # If a process dies
//! Asleep: R3. Searching: settlement clears the word if it names the dead. With a wake-up on its
//! way to it: settlement wakes everybody.
//!
//! # Tests
//! `sleep_models.rs` (loom); `worker.searching`, `worker.counted-asleep`, `worker.asleep`,
//! `worker.awake` fault points.

use crate::prim::{AtomicU32, Relaxed, SeqCst, fence, fence_after_rmw};
use crate::sys::futex::{self, Woken};
use std::time::Duration;

/// Lets processes sleep until something happens, and costs the notifier a load when nobody does.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct EventCount {
    epoch: AtomicU32,
    sleepers: AtomicU32,
}

impl EventCount {
    #[cfg(any(test, loom))]
    pub(crate) fn new() -> Self {
        Self { epoch: AtomicU32::new(0), sleepers: AtomicU32::new(0) }
    }

    pub(crate) fn reset(&self) {
        self.epoch.store(0, Relaxed);
        self.sleepers.store(0, Relaxed);
    }

    /// Announces that the caller is about to sleep (R1); look again before [`EventCount::sleep`].
    pub(crate) fn prepare(&self) -> u32 {
        self.sleepers.fetch_add(1, SeqCst);
        fence(SeqCst);
        self.epoch.load(SeqCst)
    }

    /// Sleeps unless somebody has notified since `epoch` was read.
    pub(crate) fn sleep(&self, epoch: u32, timeout: Option<Duration>) -> Woken {
        futex::wait(&self.epoch, epoch, timeout)
    }

    /// Takes the caller, or a dead sleeper, out of the count.
    pub(crate) fn uncount(&self) {
        self.sleepers.fetch_sub(1, SeqCst);
    }

    /// Wakes up to `count` sleepers, if there are any (R2).
    #[inline]
    pub(crate) fn notify(&self, count: u32) {
        fence(SeqCst);
        if self.has_sleepers() {
            self.notify_slow(count);
        }
    }

    /// As [`EventCount::notify`], right after the read-modify-write that made the thing visible.
    #[inline]
    pub(crate) fn notify_after_rmw(&self, count: u32) {
        fence_after_rmw();
        if self.has_sleepers() {
            self.notify_slow(count);
        }
    }

    /// Whether anybody is counted; for a caller whose change is ordered before this by a lock that
    /// sleepers take between counting themselves and looking.
    #[inline]
    pub(crate) fn has_sleepers(&self) -> bool {
        self.sleepers.load(Relaxed) != 0
    }

    #[cold]
    pub(crate) fn notify_slow(&self, count: u32) {
        self.epoch.fetch_add(1, SeqCst);
        futex::wake(&self.epoch, count);
    }

    /// Whether anybody has slept here, or does.
    pub(crate) fn is_used(&self) -> bool {
        self.epoch.load(Relaxed) != 0 || self.has_sleepers()
    }

    /// Wakes everybody, counted or not: a wake-up may have died with its receiver.
    pub(crate) fn notify_everybody(&self) {
        self.notify_slow(i32::MAX as u32);
    }
}

/// The seat of the one worker that spins.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Searcher {
    who: AtomicU32,
}

impl Searcher {
    #[cfg(any(test, loom))]
    pub(crate) fn new() -> Self {
        Self { who: AtomicU32::new(0) }
    }

    pub(crate) fn reset(&self) {
        self.who.store(0, Relaxed);
    }

    /// Takes the seat if it is empty (R4).
    #[must_use]
    pub(crate) fn try_sit(&self, me: u32) -> bool {
        self.who.load(Relaxed) == 0 && self.who.compare_exchange(0, me, SeqCst, Relaxed).is_ok()
    }

    /// Leaves the seat; look at the queue afterwards (R5).
    pub(crate) fn leave(&self) {
        self.who.store(0, SeqCst);
        fence(SeqCst);
    }

    /// Clears the seat of a dead searcher.
    pub(crate) fn evict(&self, dead: u32) {
        let _ = self.who.compare_exchange(dead, 0, SeqCst, Relaxed);
    }

    /// Whether somebody is searching; whoever has made a task visible has fenced before.
    #[inline]
    pub(crate) fn is_taken(&self) -> bool {
        self.who.load(Relaxed) != 0
    }
}

/// Tells the workers that a task was queued: nothing if one is searching, else wakes one (R2, R4).
#[inline]
pub(crate) fn task_queued(searcher: &Searcher, idle: &EventCount) {
    // The swap that filled the cell; a hint may have been moved since, by another swap.
    fence_after_rmw();
    if !searcher.is_taken() && idle.sleepers.load(Relaxed) != 0 {
        idle.notify_slow(1);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_notification_between_prepare_and_sleep_is_not_lost() {
        let event = EventCount::new();
        let epoch = event.prepare();
        event.notify(1);
        assert_eq!(event.sleep(epoch, None), Woken::LookAgain);
        event.uncount();
        event.notify(1);
        let epoch = event.prepare();
        assert_eq!(event.sleep(epoch, Some(Duration::from_millis(5))), Woken::TimedOut);
    }

    #[test]
    fn the_seat_of_a_dead_searcher_is_cleared_and_nobody_elses() {
        let searcher = Searcher::new();
        assert!(searcher.try_sit(4));
        assert!(!searcher.try_sit(5));
        searcher.evict(5);
        assert!(!searcher.try_sit(5));
        searcher.evict(4);
        assert!(searcher.try_sit(5));
    }
}
