//! A version that tells readers, who take no lock, whether a writer has overtaken them (a sequence lock's counter).
//!
//! # Shared state
//! One word, odd while somebody changes what it is for. 0 at first.
//!
//! # Rules
//! R1. Only who has the lock of what it is for begins and ends a change.
//! R2. A reader looks at the version, reads, and looks again: if it was even, and is the same, it has read one
//!     state. What it reads are atomic words, because until then it may be anything.
//!
//! # Orderings
//! `version`: release when a change ends, acquire when a reader begins; carries the change. And a release fence
//! after it has become odd, an acquire fence before the reader's second look: who saw anything of a change sees
//! that the version is another.
//!
//! # If a process dies
//! In a change: it stays odd. The next one to begin makes it another odd number, because the change may have
//! happened; until it ends that, no reader reads.
//!
//! # Tests
//! `version_models.rs` (loom).

use crate::prim::{Acquire, AtomicU64, Relaxed, Release, fence};

/// See the module documentation.
#[derive(Debug)]
#[repr(transparent)]
pub(crate) struct Version {
    word: AtomicU64,
}

impl Version {
    #[cfg(loom)]
    pub(crate) fn new() -> Self {
        Self { word: AtomicU64::new(0) }
    }

    /// Begins a change, also after one that was not ended.
    pub(crate) fn begin(&self) {
        let version = self.word.load(Relaxed);
        self.word.store(version.wrapping_add(1 + (version & 1)), Relaxed);
        // SYNC(version): pairs with the Acquire fence in `is_still`.
        fence(Release);
    }

    /// Ends a change.
    #[inline]
    pub(crate) fn end(&self) {
        let version = self.word.load(Relaxed);
        // SYNC(version): pairs with the Acquire in `read`.
        self.word.store(version.wrapping_add(1), Release);
    }

    /// Begins to read: the version; `None` while somebody changes something.
    #[inline]
    pub(crate) fn read(&self) -> Option<u64> {
        Some(self.now()).filter(|version| version & 1 == 0)
    }

    /// Whether what was read since the version was `read` is one state (R2).
    #[inline]
    pub(crate) fn is_still(&self, read: u64) -> bool {
        // SYNC(version): pairs with the Release fence in `begin`.
        fence(Acquire);
        self.word.load(Relaxed) == read
    }

    /// The version now, odd or not.
    pub(crate) fn now(&self) -> u64 {
        // SYNC(version): pairs with the Release in `end`.
        self.word.load(Acquire)
    }
}
