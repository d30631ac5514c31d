//! Looking for something for a bounded time before sleeping.

use crate::prim::spin_hint;
use crate::sys;

/// Looks between two yields: about a microsecond, more than a hand-over between two cores takes.
const LOOKS: u32 = 64;

/// Looks until `found` or the time is up; whether it was found.
///
/// Between rounds of looking it yields: the one that is waited for may have been woken on this very
/// core. Alone on its core, a process has a yield behind it in a fraction of a microsecond.
pub(crate) fn search(search_ns: u64, mut found: impl FnMut() -> bool) -> bool {
    let mut start_ns = None;
    loop {
        for _ in 0..LOOKS {
            if found() {
                return true;
            }
            if search_ns == 0 {
                return false;
            }
            spin_hint();
        }
        let now_ns = sys::clock::monotonic_ns();
        if now_ns - *start_ns.get_or_insert(now_ns) >= search_ns {
            return found();
        }
        sys::process::yield_now();
    }
}
