//! Calls that are made again, because the system was short of memory or a signal came.

use rustix::io::{self, Errno};
use std::time::Duration;

/// How often what fails for want of memory is tried again, a millisecond apart.
pub(super) const TRIES: u32 = 50;

/// Makes a call until it succeeds, fails for another reason, or has failed too often.
pub(super) fn persist<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    for _ in 0..TRIES {
        match call() {
            Err(Errno::INTR) => {}
            Err(Errno::NOMEM | Errno::NOBUFS) => std::thread::sleep(Duration::from_millis(1)),
            ended => return ended,
        }
    }
    call()
}
