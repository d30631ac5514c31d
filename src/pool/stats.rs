//! Numbers about a pool.

use super::inner::Inner;
use crate::prim::Relaxed;

/// What a pool has done so far, and how full its arena is.
///
/// # Examples
/// ```
/// let pool = procpool::Pool::builder().workers(2).build()?;
/// pool.map(|x: u32| x + 1, 0..100u32)?;
/// let stats = pool.stats();
/// assert_eq!((stats.tasks_submitted, stats.tasks_failed, stats.workers_lost), (100, 0, 0));
/// # Ok::<(), procpool::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Tasks handed to workers: submitted ones, and calls of maps whose outcome has arrived.
    pub tasks_submitted: u64,
    /// Tasks whose outcome was collected.
    pub tasks_ended: u64,
    /// Those of them that failed.
    pub tasks_failed: u64,
    /// Worker processes started, the first ones included.
    pub workers_started: u64,
    /// Worker processes that died while the pool was open.
    pub workers_lost: u64,
    /// Worker processes that were killed because of a task's time limit, or because it was aborted.
    pub workers_killed: u64,
    /// Worker processes that left because the pool became smaller.
    pub workers_retired: u64,
    /// How often a task was begun again because its worker had died.
    pub retries: u64,
    /// Worker processes that left because of the pool's [`Recycle`](crate::Recycle) policy.
    pub workers_recycled: u64,
    /// Bytes that the arena of this process tree can hold.
    pub arena_capacity_bytes: u64,
    /// Bytes of it that are in use, by all pools.
    pub arena_used_bytes: u64,
}

impl Stats {
    pub(crate) fn of(inner: &Inner) -> Self {
        let usage = inner.area.arena.usage();
        let (counters, tally) = (&inner.counters, inner.tally());
        Self {
            tasks_submitted: tally.submitted,
            tasks_ended: tally.ended,
            tasks_failed: tally.failed,
            workers_started: counters.workers_started.load(Relaxed),
            workers_lost: counters.workers_lost.load(Relaxed),
            workers_killed: counters.workers_killed.load(Relaxed),
            workers_retired: counters.workers_retired.load(Relaxed),
            retries: counters.retries.load(Relaxed),
            workers_recycled: counters.workers_recycled.load(Relaxed),
            arena_capacity_bytes: usage.capacity_bytes,
            arena_used_bytes: usage.used_bytes,
        }
    }
}
