//! The C library's robust process-shared mutex.
//!
//! The kernel walks a dying thread's list of held robust mutexes and marks them, so the next owner
//! is told, whatever process died and whoever started it.
#![allow(unsafe_code)] // A C API on memory that several processes share.

use std::cell::UnsafeCell;
use std::fmt;

/// How often [`RobustMutex::lock_eagerly`] tries before it sleeps: a few microseconds.
const TRIES: usize = 200;

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
    #[inline]
    pub(crate) fn lock(&self) -> Locked {
        // SAFETY: the mutex was initialised before the arena was shared.
        match unsafe { libc::pthread_mutex_lock(self.raw.get()) } {
            0 => Locked::Clean,
            returned => self.lock_failed(returned),
        }
    }

    /// As [`lock`](Self::lock), for a lock that is held for less than a wake-up takes: tries for a
    /// while before it sleeps.
    #[inline]
    pub(crate) fn lock_eagerly(&self) -> Locked {
        for _ in 0..TRIES {
            if let Some(locked) = self.try_lock() {
                return locked;
            }
            crate::prim::spin_hint();
        }
        self.lock()
    }

    #[cold]
    fn lock_failed(&self, returned: i32) -> Locked {
        // Without a time-out only the death of the owner makes the call return anything but 0.
        self.outcome(returned).unwrap_or(Locked::Clean)
    }

    /// Locks if that needs no waiting.
    pub(crate) fn try_lock(&self) -> Option<Locked> {
        // SAFETY: as in `lock`.
        self.outcome(unsafe { libc::pthread_mutex_trylock(self.raw.get()) })
    }

    /// Locks, waiting at most until the monotonic clock shows `deadline_ns`.
    pub(crate) fn lock_until(&self, deadline_ns: u64) -> Option<Locked> {
        let deadline = libc::timespec {
            tv_sec: (deadline_ns / 1_000_000_000) as _,
            tv_nsec: (deadline_ns % 1_000_000_000) as _,
        };
        // SAFETY: as in `lock`; the time is a local value.
        self.outcome(unsafe { lock_until_monotonic(self.raw.get(), &deadline) })
    }

    /// What a call that may fail to lock has returned.
    fn outcome(&self, returned: i32) -> Option<Locked> {
        match returned {
            0 => Some(Locked::Clean),
            libc::EOWNERDEAD => {
                // SAFETY: we hold it, with the previous owner dead, which is what this call is for.
                unsafe { libc::pthread_mutex_consistent(self.raw.get()) };
                Some(Locked::OwnerDied)
            }
            _ => None,
        }
    }

    /// Unlocks a mutex that the calling thread holds.
    #[inline]
    pub(crate) fn unlock(&self) {
        crate::prim::before_store();
        // SAFETY: the mutex is initialised; unlocking one that is not ours returns an error.
        unsafe { libc::pthread_mutex_unlock(self.raw.get()) };
    }
}

/// Locks with a deadline on the monotonic clock, which nobody sets.
///
/// # Safety
/// As for `pthread_mutex_timedlock`.
#[cfg(target_env = "gnu")]
unsafe fn lock_until_monotonic(
    mutex: *mut libc::pthread_mutex_t,
    deadline: &libc::timespec,
) -> i32 {
    unsafe extern "C" {
        // Since version 2.30 of the GNU C library, which is older than the kernels that we need.
        fn pthread_mutex_clocklock(
            mutex: *mut libc::pthread_mutex_t,
            clock: libc::clockid_t,
            deadline: *const libc::timespec,
        ) -> i32;
    }
    // SAFETY: the caller's promise.
    unsafe { pthread_mutex_clocklock(mutex, libc::CLOCK_MONOTONIC, deadline) }
}

/// As above, where the C library knows only the clock that can be set: in short waits, so that
/// setting it delays the end by no more than one of them.
///
/// # Safety
/// As for `pthread_mutex_timedlock`.
#[cfg(not(target_env = "gnu"))]
unsafe fn lock_until_monotonic(
    mutex: *mut libc::pthread_mutex_t,
    deadline: &libc::timespec,
) -> i32 {
    const WAIT_NS: i64 = 100_000_000;
    let ns = |time: &libc::timespec| time.tv_sec as i64 * 1_000_000_000 + time.tv_nsec as i64;
    let now = |clock| {
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: the time is a local value.
        unsafe { libc::clock_gettime(clock, &mut time) };
        ns(&time)
    };
    loop {
        let left = ns(deadline) - now(libc::CLOCK_MONOTONIC);
        let end = now(libc::CLOCK_REALTIME) + left.clamp(0, WAIT_NS);
        let end = libc::timespec {
            tv_sec: (end / 1_000_000_000) as _,
            tv_nsec: (end % 1_000_000_000) as _,
        };
        // SAFETY: the caller's promise.
        let returned = unsafe { libc::pthread_mutex_timedlock(mutex, &end) };
        if returned != libc::ETIMEDOUT || left <= 0 {
            return returned;
        }
    }
}

impl fmt::Debug for RobustMutex {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("RobustMutex").finish_non_exhaustive()
    }
}
