//! The bell: how a worker has the supervisor of its pool look at something.
//!
//! It is the event counter that the supervisor polls. The guardian gets it with the arena, and workers
//! inherit it. Ringing says nothing; what is to be seen is in the ledgers.

use crate::sys;
use std::os::fd::OwnedFd;
use std::sync::OnceLock;

static BELL: OnceLock<OwnedFd> = OnceLock::new();

/// Keeps the bell, in a guardian, for itself and its workers.
pub(super) fn keep(bell: OwnedFd) {
    // There is one guardian in a process.
    let _ = BELL.set(bell);
}

/// Has the supervisor of this worker look.
pub(crate) fn ring() {
    if let Some(bell) = BELL.get() {
        sys::fd::signal_event(bell);
    }
}
