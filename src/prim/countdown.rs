//! Has a process die before one of its next stores: so that a test can try all of them.
//!
//! Every store, swap and the like to an atomic word counts, and so do unlocking a robust mutex and waking: between
//! two of these, nothing that others see changes but bytes that they do not read yet.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// How many stores are left, with the last one, which is not made any more; 0 for all.
static LEFT: AtomicU64 = AtomicU64::new(0);
static DIE: OnceLock<fn()> = OnceLock::new();

/// Has the calling process make so many stores, and call `die` instead of the next. With `u64::MAX` it lives.
pub(crate) fn set(stores: u64, die: fn()) {
    // Always the same.
    let _ = DIE.set(die);
    LEFT.store(stores.wrapping_add(1), Relaxed);
}

#[inline]
pub(super) fn before_load() {}

/// Counts a store that is about to be made.
#[inline]
pub(crate) fn before_store() {
    if LEFT.load(Relaxed) != 0 {
        count();
    }
}

#[cold]
fn count() {
    if LEFT.fetch_sub(1, Relaxed) == 1
        && let Some(die) = DIE.get()
    {
        die();
    }
}
