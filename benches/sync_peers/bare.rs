//! The C library's objects and the kernel's, used as directly as can be.
//!
//! Each lies at the beginning of a cache line of its own, the mutex's value on the mutex's line.
#![allow(unsafe_code)] // C functions on memory that two processes share.

use std::cell::UnsafeCell;
use std::sync::atomic::{AtomicU32, Ordering};

/// The C library's robust process-shared mutex, and a number that it protects.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct RobustMutex {
    lock: UnsafeCell<libc::pthread_mutex_t>,
    value: UnsafeCell<u64>,
}

// SAFETY: the mutex is made for use by many threads, and the value is used under it.
unsafe impl Sync for RobustMutex {}

impl RobustMutex {
    /// Makes it anew, with a value of zero. No other process may use it yet.
    pub(crate) fn initialise(&mut self) {
        let mut attributes = std::mem::MaybeUninit::uninit();
        let attributes = attributes.as_mut_ptr();
        *self.value.get_mut() = 0;
        // SAFETY: the attributes are initialised first; the mutex is borrowed for this alone.
        let returned = unsafe {
            libc::pthread_mutexattr_init(attributes)
                | libc::pthread_mutexattr_setpshared(attributes, libc::PTHREAD_PROCESS_SHARED)
                | libc::pthread_mutexattr_setrobust(attributes, libc::PTHREAD_MUTEX_ROBUST)
                | libc::pthread_mutex_init(self.lock.get(), attributes)
                | libc::pthread_mutexattr_destroy(attributes)
        };
        assert_eq!(returned, 0, "a robust process-shared mutex");
    }

    /// Locks, adds one and unlocks.
    #[inline]
    pub(crate) fn add_one(&self) {
        // SAFETY: it was initialised, and the value is used with the lock held.
        let returned = unsafe {
            let locked = libc::pthread_mutex_lock(self.lock.get());
            *self.value.get() += 1;
            locked | libc::pthread_mutex_unlock(self.lock.get())
        };
        assert_eq!(returned, 0, "nobody died with the mutex");
    }
}

/// The C library's process-shared semaphore.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Semaphore(UnsafeCell<libc::sem_t>);

// SAFETY: a semaphore is made for use by many threads.
unsafe impl Sync for Semaphore {}

impl Semaphore {
    /// Makes it anew, with one permit. No other process may use it yet.
    pub(crate) fn initialise(&mut self) {
        // SAFETY: it is borrowed for this alone.
        assert_eq!(unsafe { libc::sem_init(self.0.get(), 1, 1) }, 0, "a semaphore");
    }

    /// Takes a permit and puts it back.
    #[inline]
    pub(crate) fn wait_and_post(&self) {
        // SAFETY: it was initialised.
        let returned = unsafe { libc::sem_wait(self.0.get()) | libc::sem_post(self.0.get()) };
        assert_eq!(returned, 0, "a permit");
    }
}

/// Sleeps while the word has the old value, or less long.
pub(crate) fn futex_wait(word: &AtomicU32, old: u32) {
    let forever = std::ptr::null::<libc::timespec>();
    // SAFETY: the word lives during the call, and there is no time-out to be read.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAIT, old, forever) };
}

/// Gives the word a new value and wakes one who sleeps on it.
pub(crate) fn futex_set(word: &AtomicU32, new: u32) {
    word.store(new, Ordering::Release);
    // SAFETY: the word lives during the call.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, 1) };
}

/// How often the calling thread gave up its core to wait for something.
pub(crate) fn sleeps() -> u64 {
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: the place is large enough; all zeros are a valid value.
    let usage = unsafe {
        libc::getrusage(libc::RUSAGE_THREAD, usage.as_mut_ptr());
        usage.assume_init()
    };
    usage.ru_nvcsw as u64
}
