//! The latch: a short lock around the words of one object, which names who holds it.
//!
//! A robust mutex of the C library costs more than the work that is done under a latch (adding to
//! two counters), so this is a futex lock of our own. What a robust mutex has from the kernel, the
//! news of its holder's death, comes from settlement here.
//!
//! # Shared state
//! ```text
//! | contended 1 | 15 | holder: participant 16 |          0 at first: free
//! ```
//!
//! # Rules
//! R1. The swap that takes the latch stores the holder's id: there is no moment at which a dead
//!     holder cannot be found.
//! R2. Whoever sleeps has set `contended` in the word that it sleeps on; whoever takes the latch
//!     after having slept keeps it set, because others may sleep too.
//! R3. Nothing waits, allocates or calls foreign code while it holds a latch.
//! R4. Settlement of a process takes latches in the name of the dead: if the settler dies too, the
//!     next one finds the dead one's name and starts again.
//!
//! # Orderings
//! `latch`: release in `unlock`, acquire in `lock`; carries all words of the object.
//!
//! # If a process dies
//! Holding it: the others wait (bounded spinning, then asleep) until settlement has repaired the
//! object's words and unlocked. Before it has woken the next one: settlement wakes everybody.
//!
//! # Fairness
//! None: a latch is held for nanoseconds, and any of those who want it may be next.

use super::Records;
use crate::prim::{Acquire, AtomicU32, Relaxed, Release, spin_hint};
use crate::sys::futex::{self, Woken};

const CONTENDED: u32 = 1 << 31;

/// Looks before sleeping: about as long as ten holders need.
const LOOKS: u32 = if cfg!(loom) { 0 } else { 100 };

/// See the module documentation.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Latch {
    word: AtomicU32,
}

impl Latch {
    #[cfg(loom)]
    pub(crate) fn new() -> Self {
        Self { word: AtomicU32::new(0) }
    }

    /// Takes the latch for participant `me`.
    #[inline]
    pub(crate) fn lock(&self, me: u32, records: &impl Records) {
        // SYNC(latch): pairs with the Release in `unlock`; carries the object's words.
        if self.word.compare_exchange(0, me, Acquire, Relaxed).is_err() {
            self.lock_slow(me, records);
        }
    }

    #[cold]
    fn lock_slow(&self, me: u32, records: &impl Records) {
        for _ in 0..LOOKS {
            if self.word.load(Relaxed) == 0
                && self.word.compare_exchange(0, me, Acquire, Relaxed).is_ok()
            {
                return;
            }
            spin_hint();
        }
        loop {
            let word = self.word.load(Relaxed);
            if word == 0 {
                // R2: others may sleep.
                if self.word.compare_exchange(0, me | CONTENDED, Acquire, Relaxed).is_ok() {
                    return;
                }
                continue;
            }
            let marked = word | CONTENDED;
            if word != marked && self.word.compare_exchange(word, marked, Relaxed, Relaxed).is_err()
            {
                continue;
            }
            if futex::wait(&self.word, marked, records.patience()) == Woken::TimedOut {
                records.look_around();
            }
        }
    }

    /// Takes the latch in the name of a dead process (R4); `true` if that one held it.
    #[cfg(not(loom))]
    pub(crate) fn lock_for_dead(&self, dead: u32, is_dead: impl Fn(u32) -> bool) -> bool {
        const PAUSE: std::time::Duration = std::time::Duration::from_millis(1);
        loop {
            let word = self.word.load(Relaxed);
            let holder = word & !CONTENDED;
            let theirs = dead | CONTENDED;
            if holder == dead {
                // SYNC(latch): only settlement of `dead` can be here, one at a time; what the dead
                // one stored is visible because it is dead.
                self.word.fetch_or(CONTENDED, Acquire);
                return true;
            }
            if holder == 0 {
                if self.word.compare_exchange(word, theirs, Acquire, Relaxed).is_ok() {
                    return false;
                }
                continue;
            }
            if is_dead(holder) {
                // Two have died, and the other one holds it. It is not settled before we are done,
                // so this object is repaired now, for both.
                if self.word.compare_exchange(word, theirs, Acquire, Relaxed).is_ok() {
                    return true;
                }
                continue;
            }
            // Alive, and a few instructions from done, unless it is kept off its core.
            futex::wait(&self.word, word, Some(PAUSE));
        }
    }

    /// Lets go of the latch.
    #[inline]
    pub(crate) fn unlock(&self) {
        // SYNC(latch): pairs with the Acquire in `lock`.
        if self.word.swap(0, Release) & CONTENDED != 0 {
            futex::wake(&self.word, 1);
        }
    }

    /// Lets go of the latch and wakes everybody: a wake-up may have died with its receiver.
    pub(crate) fn unlock_for_dead(&self) {
        self.word.store(0, Release);
        futex::wake_all(&self.word);
    }
}
