//! Futex wait and wake on a word of shared memory.
//!
//! Never private (the waiters are other processes) and always against the monotonic clock.
//! Under loom the kernel is modelled by a list of sleepers under one lock, so that a lost wake-up is a
//! deadlock that loom reports. Nobody is woken there without cause, and no time-out ever comes.
//! Under shuttle it is the same, except that sleepers may die, and that times out (`prim/model.rs`).

use crate::prim::AtomicU32;
#[cfg(not(any(loom, shuttle)))]
use crate::prim::{before_store, for_kernel};
use std::time::Duration;

/// Why a wait returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Woken {
    /// Woken, interrupted, or the word had already changed: look again.
    LookAgain,
    /// The time was up.
    TimedOut,
}

/// Sleeps while `*word == expected`, for at most `timeout` (`None`: until woken).
#[cfg(not(any(loom, shuttle)))]
pub(crate) fn wait(word: &AtomicU32, expected: u32, timeout: Option<Duration>) -> Woken {
    use rustix::thread::futex::{self, Flags, Timespec};
    let timespec = timeout.map(|timeout| Timespec {
        tv_sec: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(timeout.subsec_nanos()),
    });
    let waited = super::fail::attempt("futex")
        .and_then(|()| futex::wait(for_kernel(word), Flags::empty(), expected, timespec.as_ref()));
    match waited {
        Err(rustix::io::Errno::TIMEDOUT) => Woken::TimedOut,
        _ => Woken::LookAgain,
    }
}

/// Wakes up to `count` sleepers of `word`.
#[cfg(not(any(loom, shuttle)))]
pub(crate) fn wake(word: &AtomicU32, count: u32) {
    before_store();
    // A wake-up can only fail for a bad address, and `word` is a live reference.
    let _ =
        rustix::thread::futex::wake(for_kernel(word), rustix::thread::futex::Flags::empty(), count);
}

/// Wakes every sleeper of `word`.
pub(crate) fn wake_all(word: &AtomicU32) {
    wake(word, i32::MAX as u32);
}

/// Under loom: who sleeps, as the address of the word and a number of its own.
#[cfg(loom)]
#[derive(Default)]
struct Kernel {
    sleepers: Vec<(usize, u64)>,
    next: u64,
}

#[cfg(loom)]
loom::lazy_static! {
    static ref KERNEL: (loom::sync::Mutex<Kernel>, loom::sync::Condvar) =
        (loom::sync::Mutex::new(Kernel::default()), loom::sync::Condvar::new());
}

#[cfg(loom)]
fn address(word: &AtomicU32) -> usize {
    std::ptr::from_ref(word) as usize
}

#[cfg(loom)]
pub(crate) fn wait(word: &AtomicU32, expected: u32, _timeout: Option<Duration>) -> Woken {
    let mut kernel = KERNEL.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if word.load(crate::prim::SeqCst) != expected {
        return Woken::LookAgain;
    }
    let me = (address(word), kernel.next);
    kernel.next += 1;
    kernel.sleepers.push(me);
    while kernel.sleepers.contains(&me) {
        kernel = KERNEL.1.wait(kernel).unwrap_or_else(std::sync::PoisonError::into_inner);
    }
    Woken::LookAgain
}

#[cfg(loom)]
pub(crate) fn wake(word: &AtomicU32, count: u32) {
    let mut kernel = KERNEL.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let mut left = count;
    kernel.sleepers.retain(|(slept_on, _)| {
        let woken = *slept_on == address(word) && left > 0;
        left -= u32::from(woken);
        !woken
    });
    KERNEL.1.notify_all();
}

#[cfg(shuttle)]
pub(crate) fn wait(word: &AtomicU32, expected: u32, timeout: Option<Duration>) -> Woken {
    match crate::prim::model::wait(word, expected, timeout.is_some()) {
        true => Woken::LookAgain,
        false => Woken::TimedOut,
    }
}

#[cfg(shuttle)]
pub(crate) fn wake(word: &AtomicU32, count: u32) {
    crate::prim::model::wake(word, count);
}
