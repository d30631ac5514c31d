//! Atomics, and the locks within one process: the one place that names them, so that loom or shuttle can
//! stand in for the standard library.
//!
//! Orderings are imported by name; each use in the crate says which edge it belongs to.

#[cfg(all(not(any(loom, shuttle)), any(debug_assertions, feature = "fault")))]
pub(crate) mod countdown;
#[cfg(shuttle)]
pub(crate) mod model;
mod prefetch;
#[cfg(any(shuttle, all(not(loom), any(debug_assertions, feature = "fault"))))]
mod stepped;

#[cfg(loom)]
pub(crate) use loom::sync::atomic::{AtomicU32, AtomicU64, fence};
#[cfg(not(loom))]
pub(crate) use std::sync::atomic::fence;
#[cfg(not(any(loom, shuttle, debug_assertions, feature = "fault")))]
pub(crate) use std::sync::atomic::{AtomicU32, AtomicU64};
#[cfg(any(shuttle, all(not(loom), any(debug_assertions, feature = "fault"))))]
pub(crate) use stepped::{AtomicU32, AtomicU64};

#[cfg(shuttle)]
pub(crate) use shuttle::sync::{Condvar, Mutex, MutexGuard};
#[cfg(not(any(loom, shuttle)))]
pub(crate) use std::sync::{Condvar, Mutex, MutexGuard};

pub(crate) use prefetch::prefetch_to_write;
pub(crate) use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release, SeqCst};
pub(crate) use std::sync::atomic::compiler_fence;

/// A word as the kernel's futex takes it.
#[cfg(not(any(loom, shuttle)))]
#[inline]
pub(crate) fn for_kernel(word: &AtomicU32) -> &std::sync::atomic::AtomicU32 {
    #[cfg(any(debug_assertions, feature = "fault"))]
    return word.as_std();
    #[cfg(not(any(debug_assertions, feature = "fault")))]
    word
}

/// Marks that something is about to be stored that others see, by other means than an atomic.
#[inline]
pub(crate) fn before_store() {
    #[cfg(all(not(any(loom, shuttle)), any(debug_assertions, feature = "fault")))]
    countdown::before_store();
}

/// Tells the processor (or loom's scheduler) that the caller is spinning.
#[inline]
pub(crate) fn spin_hint() {
    #[cfg(loom)]
    loom::thread::yield_now();
    #[cfg(shuttle)]
    model::yield_now();
    #[cfg(not(any(loom, shuttle)))]
    std::hint::spin_loop();
}

/// Orders the read-modify-write that the caller has just made before all its later loads: one half
/// of a store-load pair.
///
/// On x86-64 that instruction carries a lock prefix and is a full barrier by itself; elsewhere, and
/// in loom's model, it takes a fence.
#[inline]
pub(crate) fn fence_after_rmw() {
    #[cfg(all(target_arch = "x86_64", not(loom)))]
    compiler_fence(SeqCst);
    #[cfg(not(all(target_arch = "x86_64", not(loom))))]
    fence(SeqCst);
}

/// Orders the store that the caller has just made before its later loads, as one sees it who has
/// called `sys::membarrier::everywhere` meanwhile: the cheap half of a store-load pair, for the hot path.
///
/// It keeps the compiler from moving the two; the processor is told by the other side. In loom's model it is a
/// fence (`pool/verdict_models.rs` says why that is right).
#[inline]
pub(crate) fn light_fence() {
    #[cfg(not(loom))]
    compiler_fence(SeqCst);
    #[cfg(loom)]
    fence(SeqCst);
}
