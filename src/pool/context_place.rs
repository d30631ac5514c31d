//! A place for a context: which one is there, and where it lies.
//!
//! # Shared state
//! ```text
//! id     | never used twice in a pool; 0: free; TAKEN: somebody is about to use it
//! offset | of the block, or 0
//! bytes  | how long it is
//! ```
//!
//! # Rules
//! R1. A thread of the user's process takes a free place, by a swap of its id from 0 to TAKEN; writes its
//!     offset and length, then its id.
//! R2. It is freed when nothing refers to it any more. So whoever runs a task that names it finds it, and
//!     nobody else reads more than the id.
//!
//! # Orderings
//! `context`: release when the id is stored, acquire by who reads; carries offset and length, and what lies there.
//! `context-free`: release when the place is freed, acquire when it is taken: what the next one writes comes after
//! what the one before it wrote.
//!
//! # Tests
//! `context_place_models.rs` (loom).

use crate::prim::{Acquire, AtomicU64, Relaxed, Release};

/// The id of a place that somebody is about to use.
const TAKEN: u64 = u64::MAX;

/// See the module documentation.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct ContextPlace {
    id: AtomicU64,
    offset: AtomicU64,
    bytes: AtomicU64,
}

/// Where a context lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entered {
    pub(crate) id: u64,
    pub(crate) offset: u64,
    pub(crate) bytes: u64,
}

impl ContextPlace {
    #[cfg(loom)]
    pub(crate) fn new() -> Self {
        Self { id: AtomicU64::new(0), offset: AtomicU64::new(0), bytes: AtomicU64::new(0) }
    }

    pub(crate) fn reset(&self) {
        self.id.store(0, Relaxed);
    }

    /// Takes the place, if it is free (R1).
    pub(crate) fn take(&self) -> bool {
        // SYNC(context-free): pairs with the Release in `leave`.
        self.id.compare_exchange(0, TAKEN, Acquire, Relaxed).is_ok()
    }

    /// Enters a context in the place that the caller has taken.
    pub(crate) fn enter(&self, context: Entered) {
        self.offset.store(context.offset, Relaxed);
        self.bytes.store(context.bytes, Relaxed);
        // SYNC(context): pairs with the Acquire in `look`; carries the bytes.
        self.id.store(context.id, Release);
    }

    /// Frees the place (R2).
    pub(crate) fn leave(&self) {
        // SYNC(context-free): pairs with the Acquire in `take`.
        self.id.store(0, Release);
    }

    /// The id of what is there now.
    pub(crate) fn id(&self) -> u64 {
        self.id.load(Relaxed)
    }

    /// The context that is there, by who runs a task that names it (R2).
    pub(crate) fn look(&self) -> Entered {
        // SYNC(context): pairs with the Release in `enter`.
        let id = self.id.load(Acquire);
        Entered { id, offset: self.offset.load(Relaxed), bytes: self.bytes.load(Relaxed) }
    }
}
