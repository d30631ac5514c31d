//! The robust mutex as shuttle sees it: a word with the number of the thread that holds it.
//!
//! Whoever finds it held by a dead process is told, as by the C library's (`robust.rs`).

use crate::prim::{AtomicU32, Relaxed, model};

/// See `robust.rs`.
#[derive(Debug)]
#[repr(C, align(8))]
pub(crate) struct RobustMutex {
    owner: AtomicU32,
    /// As large as the C library's.
    rest: [u32; 9],
}

/// See `robust.rs`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub(crate) enum Locked {
    Clean,
    OwnerDied,
}

impl RobustMutex {
    /// Initialises the mutex in place.
    ///
    /// # Safety
    /// Nobody else uses the memory yet.
    #[allow(unsafe_code)] // As its original.
    pub(crate) unsafe fn initialise(&self) {
        self.owner.store(0, Relaxed);
    }

    pub(crate) fn lock(&self) -> Locked {
        loop {
            if let Some(locked) = self.try_lock() {
                return locked;
            }
            model::yield_now();
        }
    }

    pub(crate) fn lock_eagerly(&self) -> Locked {
        self.lock()
    }

    pub(crate) fn try_lock(&self) -> Option<Locked> {
        model::step();
        let me = if model::is_running() { model::own_number() } else { u32::MAX };
        // No step from here on: nobody else runs.
        let locked = match self.owner.peek() {
            0 => Locked::Clean,
            owner if model::is_running() && !model::is_dead(owner) => return None,
            _ => Locked::OwnerDied,
        };
        self.owner.set(me);
        Some(locked)
    }

    /// As [`lock`](Self::lock): no clock runs here.
    pub(crate) fn lock_until(&self, _deadline_ns: u64) -> Option<Locked> {
        Some(self.lock())
    }

    pub(crate) fn unlock(&self) {
        self.owner.store(0, Relaxed);
    }
}
