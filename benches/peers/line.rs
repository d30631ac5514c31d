//! Words that two processes watch: each on a cache line of its own, and spinning until one changes.

use std::hint::spin_loop;
use std::time::{Duration, Instant};

/// 128 bytes: neighbouring lines are fetched in pairs.
#[derive(Debug)]
#[repr(C, align(128))]
pub(crate) struct Line<T>(pub(crate) T);

/// Looks before a side lets others run, for machines with one core.
const LOOKS: u32 = 1 << 16;

/// Spins until `reached` says so; `false` after `patience`.
pub(crate) fn spin_until(patience: Duration, mut reached: impl FnMut() -> bool) -> bool {
    let mut start = None;
    loop {
        for _ in 0..LOOKS {
            if reached() {
                return true;
            }
            spin_loop();
        }
        std::thread::yield_now();
        if start.get_or_insert_with(Instant::now).elapsed() > patience {
            return false;
        }
    }
}
