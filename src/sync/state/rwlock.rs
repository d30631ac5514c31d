//! A reader-writer lock's words: who writes, how many read, whether the value can be trusted.
//!
//! # Shared state
//! Under the latch of the queue: `writer` (participant, 0 for none), `readers` (read locks held by
//! all processes; each one's share is in its holding), `condition`:
//!
//! ```text
//! SOUND 0 | POISONED 1 (a writer panicked) | 2 OWNER_DIED (a writer's process died)       bits
//! ```
//!
//! # Rules
//! R1. What the processes hold is the truth; `readers` is the sum of that and of what was given to
//!     waiting threads and not been taken yet. `writer` is the truth, except that a thread which has
//!     been given the write lock and has not taken it is the writer.
//! R2. As in `semaphore.rs`, a thread takes what it was given under the latch.
//! R3. OWNER_DIED is cleared when a writer unlocks: that one was told. POISONED stays until cleared.
//!
//! # If a process dies
//! Its read locks are released, and those that it was given. If it was the writer, the lock is free
//! and OWNER_DIED: everybody is told until a writer has been.
//!
//! # Fairness
//! First come, first served: a writer waits for the readers before it and keeps out those after it,
//! so neither side starves. Readers that follow each other in the queue enter together. A thread
//! that has a read lock and asks for another while a writer waits in between waits for ever.

use super::queue::{Locked, OUTCOME, park};
use super::{Caller, Deadline, Records, WaitQueue, fault};
use crate::prim::{AtomicU32, Relaxed};

const READ: u32 = 1;
const WRITE: u32 = 2;

const POISONED: u32 = 1;
const OWNER_DIED: u32 = 2;

/// Whether the value can be trusted; told to whoever gets the lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub(crate) enum Condition {
    Sound,
    Poisoned,
    OwnerDied,
}

/// See the module documentation.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct RwLockState {
    queue: WaitQueue,
    writer: AtomicU32,
    readers: AtomicU32,
    condition: AtomicU32,
}

impl RwLockState {
    #[cfg(loom)]
    pub(crate) fn new() -> Self {
        Self {
            queue: WaitQueue::new(),
            writer: AtomicU32::new(0),
            readers: AtomicU32::new(0),
            condition: AtomicU32::new(0),
        }
    }

    pub(crate) fn condition(&self) -> Condition {
        match self.condition.load(Relaxed) {
            condition if condition & OWNER_DIED != 0 => Condition::OwnerDied,
            0 => Condition::Sound,
            _ => Condition::Poisoned,
        }
    }

    pub(crate) fn is_poisoned(&self) -> bool {
        self.condition.load(Relaxed) & POISONED != 0
    }

    pub(crate) fn clear_poison<C: Caller>(&self, caller: &C) {
        let _locked = self.queue.lock(caller);
        self.condition.store(self.condition.load(Relaxed) & !POISONED, Relaxed);
    }

    /// Who writes and how many read; a moment's view.
    pub(crate) fn holders(&self) -> (u32, u32) {
        (self.writer.load(Relaxed), self.readers.load(Relaxed))
    }

    /// How many threads wait; a moment's view.
    pub(crate) fn waiting(&self) -> u32 {
        self.queue.length()
    }

    #[inline]
    fn enter_read<C: Caller>(&self, caller: &C) {
        let held = caller.held();
        held.store(held.load(Relaxed).saturating_add(1), Relaxed);
        fault::point("rwlock.read-held");
        self.readers.store(self.readers.load(Relaxed).saturating_add(1), Relaxed);
    }

    #[inline]
    pub(crate) fn try_read<C: Caller>(&self, caller: &C) -> bool {
        let locked = self.queue.lock(caller);
        let free = locked.is_empty() && self.writer.load(Relaxed) == 0;
        if free {
            self.enter_read(caller);
        }
        free
    }

    #[inline]
    pub(crate) fn try_write<C: Caller>(&self, caller: &C) -> bool {
        let locked = self.queue.lock(caller);
        let free = locked.is_empty() && self.holders() == (0, 0);
        if free {
            self.writer.store(caller.me(), Relaxed);
            fault::point("rwlock.write-held");
        }
        free
    }

    #[inline]
    pub(crate) fn read<C: Caller>(&self, caller: &C, deadline: Deadline) -> bool {
        self.try_read(caller) || self.lock_slow(caller, READ, deadline)
    }

    #[inline]
    pub(crate) fn write<C: Caller>(&self, caller: &C, deadline: Deadline) -> bool {
        self.try_write(caller) || self.lock_slow(caller, WRITE, deadline)
    }

    #[cold]
    fn lock_slow<C: Caller>(&self, caller: &C, want: u32, deadline: Deadline) -> bool {
        let Some((index, waiter)) = caller.own_waiter(deadline) else { return false };
        let mut locked = self.queue.lock(caller);
        locked.push(index, waiter, caller.object(), want);
        self.advance(&mut locked);
        drop(locked);
        park(caller, waiter, deadline);
        let mut locked = self.queue.lock(caller);
        if locked.withdraw(index, waiter) {
            // A writer that leaves may have kept readers out.
            self.advance(&mut locked);
            return false;
        }
        // R2. For a writer the word names this process already.
        if want == READ {
            let held = caller.held();
            held.store(held.load(Relaxed).saturating_add(1), Relaxed);
        }
        waiter.take();
        true
    }

    /// Lets in those at the front.
    fn advance<R: Records>(&self, locked: &mut Locked<'_, R>) {
        while let Some(first) = locked.first() {
            let (want, owner) = (first.want(), first.owner());
            let (writer, readers) = self.holders();
            if writer != 0 || (want == WRITE && readers != 0) {
                return;
            }
            // First the giving, which commits, then the words that follow from it (R1).
            if !locked.give_first(OUTCOME) {
                return;
            }
            match want {
                WRITE => self.writer.store(owner, Relaxed),
                _ => self.readers.store(readers.saturating_add(1), Relaxed),
            }
        }
    }

    #[inline]
    pub(crate) fn unlock_read<C: Caller>(&self, caller: &C) {
        let mut locked = self.queue.lock(caller);
        let held = caller.held();
        held.store(held.load(Relaxed).saturating_sub(1), Relaxed);
        fault::point("rwlock.read-released");
        self.readers.store(self.readers.load(Relaxed).saturating_sub(1), Relaxed);
        if !locked.is_empty() {
            self.advance(&mut locked);
        }
    }

    /// Ends writing; `panicked` if the value may be half-changed.
    #[inline]
    pub(crate) fn unlock_write<C: Caller>(&self, caller: &C, panicked: bool) {
        let mut locked = self.queue.lock(caller);
        let poisoned = self.condition.load(Relaxed) & POISONED;
        // R3. Before the lock is free: it may be this store that a dying process does not reach.
        self.condition.store(poisoned | if panicked { POISONED } else { 0 }, Relaxed);
        fault::point("rwlock.write-releasing");
        self.writer.store(0, Relaxed);
        if !locked.is_empty() {
            self.advance(&mut locked);
        }
    }

    /// Gives back what a dead process held or was given.
    #[cfg(not(loom))]
    pub(crate) fn settle(&self, death: &super::Death<'_, impl super::Records>) {
        let (mut locked, given) = self.queue.lock_for_dead(death);
        // A writer that was given the lock and has not taken it has changed nothing.
        let untouched = given.iter().any(|given| given.want == WRITE);
        if self.writer.load(Relaxed) == death.of {
            if !untouched {
                let condition = self.condition.load(Relaxed);
                self.condition.store(condition | OWNER_DIED, Relaxed);
            }
            self.writer.store(0, Relaxed);
        }
        let mut readers = death.held_by_others();
        death.each_given(&mut |waiter| match waiter.want() {
            WRITE => self.writer.store(waiter.owner(), Relaxed),
            _ => readers = readers.saturating_add(1),
        });
        self.readers.store(u32::try_from(readers).unwrap_or(u32::MAX), Relaxed);
        self.advance(&mut locked);
    }
}
