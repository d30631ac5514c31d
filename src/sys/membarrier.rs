//! Barriers on behalf of others: one process pays for the ordering that another's hot path needs.

#[cfg(not(loom))]
use super::fail;
#[cfg(not(loom))]
use rustix::thread::{MembarrierCommand, membarrier};
#[cfg(not(loom))]
use std::time::Duration;

/// Has the barriers of other processes order the calling process's instructions too. Cheap while it has
/// one thread.
#[cfg(not(loom))]
pub(crate) fn take_part() {
    // If the kernel has no such thing, `everywhere` does without.
    let _ = membarrier(MembarrierCommand::RegisterGlobalExpedited);
}

/// Returns when every running thread of every process that [takes part](take_part) has passed a full
/// barrier since the call. (One that does not run passes a barrier when it runs again.)
#[cfg(not(loom))]
pub(crate) fn everywhere() {
    let passed =
        fail::attempt("membarrier").and_then(|()| membarrier(MembarrierCommand::GlobalExpedited));
    if passed.is_err() {
        // No such call, or it is forbidden: a processor's stores are seen long before this is over.
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// In loom's model: the heavy half of `prim::light_fence`.
#[cfg(loom)]
pub(crate) fn everywhere() {
    crate::prim::fence(crate::prim::SeqCst);
}
