//! What the objects of `procpool::sync` are measured against.

pub(crate) mod bare;
#[path = "../peers/python.rs"]
pub(crate) mod python;
pub(crate) mod raw;
pub(crate) mod stage;

use rustix::time::{ClockId, clock_gettime};
use std::hint::spin_loop;
use std::time::{Duration, Instant};

/// 128 bytes: neighbouring lines are fetched in pairs.
#[derive(Debug)]
#[repr(C, align(128))]
pub(crate) struct Line<T>(pub(crate) T);

/// Looks before a side lets others run.
const LOOKS: u32 = 1 << 16;
const PATIENCE: Duration = Duration::from_secs(30);

/// Spins until `reached` says so.
///
/// # Panics
/// After a long time: the other process is gone.
pub(crate) fn until(mut reached: impl FnMut() -> bool) {
    let mut start = None;
    loop {
        for _ in 0..LOOKS {
            if reached() {
                return;
            }
            spin_loop();
        }
        std::thread::yield_now();
        let waited = start.get_or_insert_with(Instant::now).elapsed();
        assert!(waited < PATIENCE, "the other process does not answer");
    }
}

/// A time that can be compared with one of another process.
pub(crate) fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}
