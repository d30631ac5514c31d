//! Which core a thread runs on.

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// Keeps the calling thread on one core.
pub(crate) fn pin(core: usize) {
    let mut only = CpuSet::new();
    only.set(core);
    let _ = sched_setaffinity(None, &only);
}

/// The first two cores that this thread may run on.
pub(crate) fn two_cores() -> Option<(usize, usize)> {
    let usable = sched_getaffinity(None).ok()?;
    let mut cores = (0..CpuSet::MAX_CPU).filter(|core| usable.is_set(*core));
    Some((cores.next()?, cores.next()?))
}

/// Runs `work` with the calling thread on one core, and then lets it go where it could before.
pub(crate) fn pinned<R>(core: usize, work: impl FnOnce() -> R) -> R {
    let before = sched_getaffinity(None);
    pin(core);
    let result = work();
    if let Ok(before) = before {
        let _ = sched_setaffinity(None, &before);
    }
    result
}
