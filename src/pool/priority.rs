//! The rings of a pool, one for each priority, and which of them have to be looked at.
//!
//! # Shared state
//! [`Prioritised`]: 1 once a task had another priority than [`NORMAL`], and it stays so; 0 at first: there is one
//! ring to look at.
//!
//! # Rules
//! R1. Who queues a task with a priority says so first, and then puts it into its ring. So a worker that is woken
//!     for it, or that looks again before it sleeps (R1 of `sleep.rs`), sees both.
//!
//! # Orderings
//! `prioritised`: release before the task is queued, acquire by who looks for one.
//!
//! # Tests
//! `priority_models.rs` (loom).

use crate::prim::{Acquire, AtomicU32, Relaxed, Release};
use crate::queue::ring::Ring;

/// One for each priority.
pub(crate) const RINGS: usize = 3;
/// The ring of tasks with no priority of their own.
pub(crate) const NORMAL: usize = 1;

/// See the module documentation.
#[derive(Debug)]
#[repr(transparent)]
pub(super) struct Prioritised {
    word: AtomicU32,
}

impl Prioritised {
    #[cfg(loom)]
    pub(super) fn new() -> Self {
        Self { word: AtomicU32::new(0) }
    }

    pub(super) fn reset(&self) {
        self.word.store(0, Relaxed);
    }

    /// Which rings to look at, in this order, at the look of this number. Now and then the urgent ones come
    /// last: none of the others is to starve.
    #[inline]
    pub(super) fn rings_to_look_at(&self, look: u32) -> &'static [usize] {
        // SYNC(prioritised): pairs with the Release in `push`.
        if self.word.load(Acquire) == 0 {
            return &[NORMAL];
        }
        match look % 16 {
            15 => &[2, 1, 0],
            7 => &[1, 2, 0],
            _ => &[0, 1, 2],
        }
    }
}

/// The rings, and what says which of them to look at.
#[derive(Debug)]
pub(super) struct Rings<'a> {
    pub(super) rings: &'a [Ring<'a>; RINGS],
    pub(super) prioritised: &'a Prioritised,
}

impl Rings<'_> {
    /// Queues a slot; `false` if its ring has no cell for it.
    #[inline]
    pub(super) fn push(&self, index: u32, priority: usize) -> bool {
        if priority != NORMAL {
            // SYNC(prioritised): pairs with the Acquire in `rings_to_look_at`; R1.
            self.prioritised.word.store(1, Release);
        }
        self.rings[priority].push(index).is_ok()
    }

    /// Whether a task is queued.
    #[inline]
    pub(super) fn has_task(&self) -> bool {
        let rings = self.prioritised.rings_to_look_at(0);
        rings.iter().any(|priority| self.rings[*priority].has_value())
    }
}
