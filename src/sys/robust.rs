//! The C library's robust process-shared mutex.
//!
//! The kernel walks a dying thread's list of held robust mutexes and marks them, so the next owner
//! is told, whatever process died and whoever started it.
#![allow(unsafe_code)] // A C API on memory that several processes share.

use std::cell::UnsafeCell;
use std::fmt;

/// A mutex that lives in shared memory, at the same offset for everybody.
#[repr(C)]
pub(crate) struct RobustMutex {
    raw: UnsafeCell<libc::pthread_mutex_t>,
}

/// What the previous owner left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub(crate) enum Locked {
    /// The previous owner unlocked it.
    Clean,
    /// The previous owner died while holding it: repair what it protects before use.
    OwnerDied,
}

// SAFETY: the C library's process-shared mutex is made for use from many threads and processes.
unsafe impl Sync for RobustMutex {}
// SAFETY: as above; it has no tie to the creating thread while unlocked.
unsafe impl Send for RobustMutex {}

impl RobustMutex {
    /// Initialises the mutex in place.
    ///
    /// # Safety
    /// Nobody else uses the memory yet.
    pub(crate) unsafe fn initialise(&self) {
        let mut attributes = std::mem::MaybeUninit::uninit();
        // SAFETY: the attribute object is initialised first and destroyed last; the caller gives
        // sole access to the mutex. These calls fail only for bad arguments.
        unsafe {
            libc::pthread_mutexattr_init(attributes.as_mut_ptr());
            libc::pthread_mutexattr_setpshared(
                attributes.as_mut_ptr(),
                libc::PTHREAD_PROCESS_SHARED,
            );
            libc::pthread_mutexattr_setrobust(attributes.as_mut_ptr(), libc::PTHREAD_MUTEX_ROBUST);
            libc::pthread_mutex_init(self.raw.get(), attributes.as_ptr());
            libc::pthread_mutexattr_destroy(attributes.as_mut_ptr());
        }
    }

    /// Locks, waiting as long as it takes; a dead owner's lock is handed over and made usable.
    pub(crate) fn lock(&self) -> Locked {
        // SAFETY: the mutex was initialised before the arena was shared.
        match unsafe { libc::pthread_mutex_lock(self.raw.get()) } {
            libc::EOWNERDEAD => {
                // SAFETY: we hold it, with the previous owner dead, which is what this call is for.
                unsafe { libc::pthread_mutex_consistent(self.raw.get()) };
                Locked::OwnerDied
            }
            _ => Locked::Clean,
        }
    }

    /// Unlocks a mutex that the calling thread holds.
    pub(crate) fn unlock(&self) {
        // SAFETY: the mutex is initialised; unlocking one that is not ours returns an error.
        unsafe { libc::pthread_mutex_unlock(self.raw.get()) };
    }
}

impl fmt::Debug for RobustMutex {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("RobustMutex").finish_non_exhaustive()
    }
}
