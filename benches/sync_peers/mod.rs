//! What the objects of `procpool::sync` are measured against.

pub(crate) mod bare;
#[path = "../peers/line.rs"]
pub(crate) mod line;
#[path = "../peers/python.rs"]
pub(crate) mod python;
pub(crate) mod raw;
pub(crate) mod stage;

pub(crate) use line::Line;
use line::spin_until;
use rustix::time::{ClockId, clock_gettime};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(30);

/// Spins until `reached` says so.
///
/// # Panics
/// After a long time: the other process is gone.
pub(crate) fn until(reached: impl FnMut() -> bool) {
    assert!(spin_until(PATIENCE, reached), "the other process does not answer");
}

/// A time that can be compared with one of another process.
pub(crate) fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}
