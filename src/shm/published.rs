//! A word that leads to something: stored when that is whole, so that who finds it there finds the rest, too.
//!
//! # Shared state
//! One word, 0 at first: it leads nowhere.
//!
//! # Rules
//! R1. Who publishes has written before what the word leads to, and does not write there again. One at a time:
//!     who that is, each place where there is such a word says.
//!
//! # Orderings
//! Release when it is published, acquire when it is looked at; it carries what it leads to. Each such word is an edge of its own,
//! with a name: `arena-magic`, `failure`, `note`, `output-block`, `table-chunk`.
//!
//! # If a process dies
//! Before the store: the word leads where it led, and what was written is a block of the dead.
//!
//! # Tests
//! `published_models.rs` (loom).

use crate::prim::{Acquire, AtomicU64, Relaxed, Release};

/// See the module documentation.
#[derive(Debug, Default)]
#[repr(transparent)]
pub(crate) struct Published {
    word: AtomicU64,
}

impl Published {
    #[cfg(any(test, loom))]
    pub(crate) fn new() -> Self {
        Self { word: AtomicU64::new(0) }
    }

    /// Has the word lead to what the caller has written (R1).
    #[inline]
    pub(crate) fn publish(&self, to: u64) {
        self.word.store(to, Release);
    }

    /// What was published, if anything.
    #[inline]
    pub(crate) fn get(&self) -> Option<u64> {
        Some(self.word.load(Acquire)).filter(|to| *to != 0)
    }

    /// What the word says, for who does not follow it, or has written it himself; 0 for nothing.
    #[inline]
    pub(crate) fn peek(&self) -> u64 {
        self.word.load(Relaxed)
    }

    /// Has the word lead elsewhere, or nowhere (0), while nobody can look at it.
    #[inline]
    pub(crate) fn set(&self, to: u64) {
        self.word.store(to, Relaxed);
    }
}
