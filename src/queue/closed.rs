//! That a queue is closed: a word that goes from 0 to 1, and stays.
//!
//! # Rules
//! R1. Who closes stores that, and then looks what is there; who puts takes a place, and then looks whether it is closed.
//!     With a barrier between on both sides, one of them sees the other. (A `JoinableQueue` does both under its lock.)
//!
//! # Orderings
//! `closed`, `joinable-closed`: release by who closes, acquire by who looks; carries what was done before.
//!
//! # Tests
//! `closed_models.rs`, `cells_models.rs` (loom).

use crate::prim::{AcqRel, Acquire, AtomicU32, fence_after_rmw};

/// See the module documentation.
#[derive(Debug)]
#[repr(transparent)]
pub(super) struct Closed {
    word: AtomicU32,
}

impl Closed {
    #[cfg(loom)]
    pub(super) fn new() -> Self {
        Self { word: AtomicU32::new(0) }
    }

    /// Closes; the caller may look what is there (R1).
    pub(super) fn close(&self) {
        // SYNC(closed): R1, and pairs with the Acquire in `is_closed`.
        // SYNC(joinable-closed): the same.
        self.word.swap(1, AcqRel);
        fence_after_rmw();
    }

    /// Whether it is closed.
    #[inline]
    pub(super) fn is_closed(&self) -> bool {
        // SYNC(closed): pairs with the swap in `close`.
        // SYNC(joinable-closed): the same.
        self.word.load(Acquire) != 0
    }
}
