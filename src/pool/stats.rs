//! Numbers about a pool, and what its workers do just now.

use super::histogram::{Durations, Histogram, Slowest};
use super::inner::{Inner, lock};
use super::worker::LEAVING;
use crate::prim::{Acquire, AtomicU64, Relaxed};
use crate::process::identity::CodeOffset;
use crate::shm::ParticipantId;
use crate::shm::participants::Ledger;
use crate::sys;
use std::time::Duration;

/// What a pool has done so far, what its workers do, and how full its arena is.
///
/// The numbers are read one after the other while the pool goes on: they need not add up exactly.
///
/// # Examples
/// ```
/// let pool = procpool::Pool::builder().workers(2).build()?;
/// pool.map(|x: u32| x + 1, 0..100u32)?;
/// let stats = pool.stats();
/// assert_eq!((stats.tasks_submitted, stats.tasks_failed, stats.workers_lost), (100, 0, 0));
/// assert_eq!((stats.workers.len(), stats.run_time.count), (2, 100));
/// assert!(stats.slowest[0].function.contains("closure"));
/// # Ok::<(), procpool::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Tasks handed to workers: submitted ones, and calls of maps whose outcome has arrived.
    pub tasks_submitted: u64,
    /// Tasks whose outcome was collected.
    pub tasks_ended: u64,
    /// Those of them that failed.
    pub tasks_failed: u64,
    /// Tasks, and batches of a map, that wait for a worker, or for the pause before they are begun again.
    pub tasks_queued: u64,
    /// How often a task was begun again because its worker had died.
    pub retries: u64,
    /// Bytes of arguments that were sent, and whose results have been collected.
    pub bytes_in: u64,
    /// Bytes of results that were collected.
    pub bytes_out: u64,
    /// How long tasks waited for a worker: one of eight submitted ones is measured, and every call of a map.
    pub wait_time: Durations,
    /// How long calls ran. Of submitted ones one of eight is measured, and each that ran for more than 10 ms;
    /// calls of a map that travelled together count with their mean.
    pub run_time: Durations,
    /// The slowest calls that were measured, slowest first; of calls that travelled together, the mean.
    pub slowest: Vec<SlowCall>,
    /// Time that workers have spent with tasks.
    pub busy_time: Duration,
    /// Time that workers have spent without: looking for some, or asleep.
    pub idle_time: Duration,
    /// Worker processes started, the first ones included.
    pub workers_started: u64,
    /// Those of them that were started in the place of one that had ended, or was about to.
    pub restarts: u64,
    /// Worker processes that died while the pool was open.
    pub workers_lost: u64,
    /// Worker processes that were killed because of a task's time limit, or because it was aborted.
    pub workers_killed: u64,
    /// Worker processes that left because the pool became smaller.
    pub workers_retired: u64,
    /// Worker processes that left because of the pool's [`Recycle`](crate::Recycle) policy.
    pub workers_recycled: u64,
    /// The worker processes that there are, by number.
    pub workers: Vec<WorkerStats>,
    /// Bytes that the arena of this process tree can hold.
    pub arena_capacity_bytes: u64,
    /// Bytes of it that are in use, by all pools.
    pub arena_used_bytes: u64,
    /// Those of them that are the tables of shared objects and of who waits for them: room for the most that
    /// there ever were at once. It is used again, and goes with the arena.
    pub arena_tables_bytes: u64,
}

/// A call that took long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct SlowCall {
    /// The name of the function's type.
    pub function: &'static str,
    /// How long it ran.
    pub took: Duration,
}

/// What a worker process does and has done.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct WorkerStats {
    /// Its number in the pool.
    pub number: usize,
    /// Its process.
    pub pid: u32,
    /// What it does.
    pub state: WorkerState,
    /// Calls that it has run.
    pub calls: u64,
    /// How long it was busy with them.
    pub busy_time: Duration,
    /// How long it was not.
    pub idle_time: Duration,
}

/// What a worker does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WorkerState {
    /// It has not begun: it runs its initialiser, or waits for the one that it is to replace.
    Starting,
    /// It has had nothing to do for so long.
    Idle(Duration),
    /// It runs a call, or several that travel together.
    Running {
        /// The name of the function's type.
        function: &'static str,
        /// For how long.
        elapsed: Duration,
    },
    /// It leaves.
    Leaving,
}

/// What is counted when results are collected. Under the lock of the slots, which is taken anyway.
#[derive(Debug, Default)]
pub(super) struct Measured {
    wait: Histogram,
    run: Histogram,
    slowest: Slowest,
    bytes_in: u64,
    bytes_out: u64,
}

/// What one batch took.
#[derive(Debug, Clone, Copy)]
pub(super) struct Took {
    code: u64,
    calls: u64,
    waited_ns: u64,
    busy_ns: u64,
    bytes_in: u64,
    pub(super) bytes_out: u64,
}

impl Took {
    /// Reads a slot that the caller has taken.
    #[inline]
    pub(super) fn of(inner: &Inner, index: u32) -> Self {
        let slot = inner.slot(index);
        Self {
            code: inner.code_of(index).to_raw(),
            calls: u64::from(inner.calls_of(index)),
            waited_ns: slot.waited_ns.load(Relaxed),
            busy_ns: slot.busy_ns.load(Relaxed),
            bytes_in: slot.input_bytes.load(Relaxed),
            bytes_out: slot.output_bytes.load(Relaxed),
        }
    }
}

impl Measured {
    #[inline]
    pub(super) fn add(&mut self, took: &Took) {
        let Took { code, calls, waited_ns, busy_ns, bytes_in, bytes_out } = *took;
        if waited_ns > 0 {
            self.wait.add(waited_ns, calls);
        }
        if busy_ns > 0 && calls > 0 {
            let each = busy_ns / calls;
            self.run.add(each, calls);
            self.slowest.add(code, each);
        }
        // What a worker that runs wild says is not believed, but must do no harm.
        self.bytes_in = self.bytes_in.saturating_add(bytes_in);
        self.bytes_out = self.bytes_out.saturating_add(bytes_out);
    }
}

/// A worker that the supervisor has entered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entered {
    pub(super) number: usize,
    pub(super) pid: u32,
    pub(super) id: ParticipantId,
}

/// Numbers of workers, for `stats`.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) workers_started: AtomicU64,
    pub(crate) workers_lost: AtomicU64,
    pub(crate) workers_recycled: AtomicU64,
    pub(crate) workers_killed: AtomicU64,
    pub(crate) workers_retired: AtomicU64,
    pub(crate) retries: AtomicU64,
    pub(crate) restarts: AtomicU64,
    /// How long workers were busy, and idle, that are gone.
    pub(crate) busy_ns_of_gone: AtomicU64,
    pub(crate) idle_ns_of_gone: AtomicU64,
}

impl Counters {
    /// Adds what a worker has done that has ended.
    pub(super) fn add_gone(&self, ledger: &Ledger) {
        let Spent { busy_ns, idle_ns } = Spent::of(ledger);
        self.busy_ns_of_gone.fetch_add(busy_ns, Relaxed);
        self.idle_ns_of_gone.fetch_add(idle_ns, Relaxed);
    }
}

/// How long a worker has been busy and idle, what it does just now included.
struct Spent {
    busy_ns: u64,
    idle_ns: u64,
}

impl Spent {
    fn of(ledger: &Ledger) -> Self {
        let now_ns = sys::clock::monotonic_ns();
        let since = |word: &AtomicU64| match word.load(Relaxed) {
            0 => 0,
            then_ns => now_ns.saturating_sub(then_ns),
        };
        let runs = ledger.slot.load(Acquire) != 0;
        let running_ns = if runs { since(&ledger.since_ns) } else { 0 };
        let busy_ns = ledger.busy_ns.load(Relaxed).saturating_add(running_ns);
        Self { busy_ns, idle_ns: since(&ledger.begun_ns).saturating_sub(busy_ns) }
    }
}

impl Stats {
    pub(super) fn of(inner: &Inner) -> Self {
        let usage = inner.area.arena.usage();
        let (counters, tally) = (&inner.counters, inner.tally());
        let mut workers: Vec<WorkerStats> =
            lock(&inner.roster).iter().map(|entered| worker_stats(inner, *entered)).collect();
        workers.sort_by_key(|worker| (worker.number, worker.pid));
        let gone = |counter: &AtomicU64| Duration::from_nanos(counter.load(Relaxed));
        let busy: Duration = workers.iter().map(|worker| worker.busy_time).sum();
        let idle: Duration = workers.iter().map(|worker| worker.idle_time).sum();
        let slots = lock(&inner.slots);
        let measured = &slots.measured;
        let slowest = measured.slowest.iter().map(|(code, took)| {
            let function = super::trampolines::name_of(CodeOffset::from_raw(code));
            SlowCall { function, took }
        });
        Self {
            tasks_submitted: tally.submitted,
            tasks_ended: tally.ended,
            tasks_failed: tally.failed,
            tasks_queued: inner.area.waiting() as u64,
            retries: counters.retries.load(Relaxed),
            bytes_in: measured.bytes_in,
            bytes_out: measured.bytes_out,
            wait_time: measured.wait.to_durations(),
            run_time: measured.run.to_durations(),
            slowest: slowest.collect(),
            busy_time: busy + gone(&counters.busy_ns_of_gone),
            idle_time: idle + gone(&counters.idle_ns_of_gone),
            workers_started: counters.workers_started.load(Relaxed),
            restarts: counters.restarts.load(Relaxed),
            workers_lost: counters.workers_lost.load(Relaxed),
            workers_killed: counters.workers_killed.load(Relaxed),
            workers_retired: counters.workers_retired.load(Relaxed),
            workers_recycled: counters.workers_recycled.load(Relaxed),
            workers,
            arena_capacity_bytes: usage.capacity_bytes,
            arena_used_bytes: usage.used_bytes,
            arena_tables_bytes: inner.area.arena.tables_bytes(),
        }
    }
}

fn worker_stats(inner: &Inner, entered: Entered) -> WorkerStats {
    let Entered { number, pid, id } = entered;
    let ledger = &inner.area.arena.participant(id).ledger;
    let since_ns = ledger.since_ns.load(Relaxed);
    let elapsed = Duration::from_nanos(sys::clock::monotonic_ns().saturating_sub(since_ns));
    let slot = ledger.slot.load(Acquire).checked_sub(1);
    let slot = slot.and_then(|index| Some((index as u32, inner.area.slots.get(index as usize)?)));
    let leaving = ledger.leaving.load(Relaxed) >= LEAVING;
    let mut calls = ledger.calls.load(Relaxed);
    let state = match slot {
        _ if leaving => WorkerState::Leaving,
        _ if since_ns == 0 => WorkerState::Starting,
        Some((index, slot)) => {
            calls = calls.saturating_add(slot.progress.done());
            WorkerState::Running { function: inner.function_of(index), elapsed }
        }
        None => WorkerState::Idle(elapsed),
    };
    let Spent { busy_ns, idle_ns } = Spent::of(ledger);
    let busy_time = Duration::from_nanos(busy_ns);
    let idle_time = Duration::from_nanos(idle_ns);
    WorkerStats { number, pid, state, calls, busy_time, idle_time }
}
