//! Which participants have died while they may have had something: noted by settlement, without the lock under which it
//! is dealt with.
//!
//! # Shared state
//! A bit for each participant, and a word that is not 0 if a bit may be set. All 0 at first.
//!
//! # Rules
//! R1. Settlement sets the dead one's bit, and then the word, before its id can be another's. It has no lock.
//! R2. Who has the lock looks at the word, [sees](Orphans::see) who has died, deals with what those had, and then
//!     [forgets](Orphans::forget) them: first their bits, then the word, then it looks whether there is another bit.
//! R3. Nothing is taken under the lock before that. So a bit that is set again while it is dealt with is that of
//!     one who had nothing.
//!
//! # Orderings
//! `joinable-orphans`: release when the word is set, acquire by who looks at it, or swaps it; carries the bit.
//!
//! # If a process dies
//! The settler, between the two: settlement is done again. Who forgets: the bits are gone before the word, and
//! the next one to repair the queue [suspects](Orphans::suspect) that there is one.
//!
//! # Tests
//! `orphans_models.rs` (loom); in `chain.rs`.

#[cfg(not(loom))]
use crate::limits::PARTICIPANTS_MAX;
use crate::prim::{AcqRel, Acquire, AtomicU32, AtomicU64, Relaxed};

const BITS: usize = 64;
#[cfg(not(loom))]
const WORDS: usize = PARTICIPANTS_MAX / BITS;
#[cfg(loom)]
const WORDS: usize = 2;

/// See the module documentation.
#[derive(Debug)]
#[repr(C)]
pub(super) struct Orphans {
    any: AtomicU32,
    bits: [AtomicU64; WORDS],
}

/// Those whose bits were seen.
#[derive(Debug)]
pub(super) struct Seen([u64; WORDS]);

impl Seen {
    /// Whether the participant is one of them.
    pub(super) fn has(&self, id: u64) -> bool {
        let id = usize::try_from(id).unwrap_or(usize::MAX);
        self.0.get(id / BITS).is_some_and(|bits| bits >> (id % BITS) & 1 != 0)
    }
}

impl Orphans {
    #[cfg(loom)]
    pub(super) fn new() -> Self {
        Self { any: AtomicU32::new(0), bits: [AtomicU64::new(0), AtomicU64::new(0)] }
    }

    /// Notes that a participant has died (R1).
    pub(super) fn note(&self, id: u64) {
        let id = id as usize % (WORDS * BITS);
        self.bits[id / BITS].fetch_or(1 << (id % BITS), AcqRel);
        // SYNC(joinable-orphans): pairs with the Acquire in `may_be` and the swap in `forget`; carries the bit.
        self.any.swap(1, AcqRel);
    }

    /// Whether somebody may have died.
    pub(super) fn may_be(&self) -> bool {
        // SYNC(joinable-orphans): pairs with the swap in `note`.
        self.any.load(Acquire) != 0
    }

    /// Has the next one with the lock look, whatever the word says: it is a cache, and whoever died may have been about
    /// to make it right.
    pub(super) fn suspect(&self) {
        self.any.store(1, Relaxed);
    }

    /// Who has died, under the lock.
    pub(super) fn see(&self) -> Seen {
        Seen(self.bits.each_ref().map(|bits| bits.load(Relaxed)))
    }

    /// Forgets those whose entries have been dealt with, under the lock (R2).
    pub(super) fn forget(&self, seen: &Seen) {
        // The bits before the word: whoever dies in between leaves it for the next one to look at them.
        for (bits, seen) in self.bits.iter().zip(seen.0) {
            bits.fetch_and(!seen, AcqRel);
        }
        // SYNC(joinable-orphans): pairs with the swap in `note`; a bit that came meanwhile is seen.
        self.any.swap(0, AcqRel);
        if self.bits.iter().any(|bits| bits.load(Acquire) != 0) {
            self.any.store(1, Relaxed);
        }
    }

    /// The bits of a word, and the word that says that there are some.
    #[cfg(test)]
    pub(super) fn raw(&self) -> (&[AtomicU64], &AtomicU32) {
        (&self.bits, &self.any)
    }
}
