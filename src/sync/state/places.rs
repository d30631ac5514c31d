//! Two places for a value that readers read without a lock, and the version that says which one it is in.
//!
//! # Shared state
//! One word, 0 at first: the value is in place `version % 2`. What the places are, who uses this says.
//!
//! # Rules
//! R1. The store of the version commits. A writer, under a lock, fills the other place first.
//! R2. Places are read and written as atomic words, because a reader takes no lock. It has a whole
//!     value if the version is the same before and after: a writer that disturbed it must have added
//!     one, and begun with the place that the reader read.
//!
//! # Orderings
//! `value-version`: release when a writer adds one, acquire when a reader begins; carries the place.
//! `value-places`: a reader's loads of the place come before its second look at the version
//! (acquire fence); a writer's stores come after the version it builds on (release fence): a reader
//! that saw any of them sees that version or a later one.
//!
//! # If a process dies
//! While it fills a place: the value stands, and the next writer fills that place anew.
//!
//! # Tests
//! `places_models.rs` (loom); `value.` fault points.

use crate::prim::{Acquire, AtomicU64, Relaxed, Release, fence, spin_hint};

/// See the module documentation.
#[derive(Debug)]
#[repr(transparent)]
pub(crate) struct Places {
    version: AtomicU64,
}

/// The place that a version says.
fn place(version: u64) -> usize {
    (version % 2) as usize
}

impl Places {
    #[cfg(loom)]
    pub(crate) fn new() -> Self {
        Self { version: AtomicU64::new(0) }
    }

    /// The version, and the value that belongs to it, as `copy` reads it from a place (R2).
    #[inline]
    pub(crate) fn read<T>(&self, mut copy: impl FnMut(usize) -> T) -> (u64, T) {
        loop {
            // SYNC(value-version): pairs with the Release in `commit`.
            let version = self.version.load(Acquire);
            let value = copy(place(version));
            // SYNC(value-places): pairs with the fence in `fill`.
            fence(Acquire);
            if self.version.load(Relaxed) == version {
                return (version, value);
            }
            spin_hint();
        }
    }

    /// Has `fill` write a new value into the place that is free, under the lock, and while the version is `now`.
    #[inline]
    pub(crate) fn fill(&self, now: u64, fill: impl FnOnce(usize)) {
        // SYNC(value-places): pairs with the fence in `read`.
        fence(Release);
        fill(place(now.wrapping_add(1)));
    }

    /// Makes the place that was filled the value's (R1).
    #[inline]
    pub(crate) fn commit(&self, now: u64) {
        // SYNC(value-version): pairs with the Acquire in `read`.
        self.version.store(now.wrapping_add(1), Release);
    }
}
