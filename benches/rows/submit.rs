//! `submit`: one call and its result at a time, and many calls under way.
//!
//! Busy: the next call comes while a worker still searches for it. Asleep: it comes two
//! milliseconds later, and a worker must be woken; only the call is timed, not the pause. There
//! one row keeps the caller on one core and the workers on another, as the peer's two sides are,
//! and one lets the kernel place both, which it does now well and now badly.

use super::pool;
use crate::measure::{Limit, ROUNDS, ROUNDS_LONG, Side, Table, pin, pinned, two_cores};
use crate::peers::helper::Helper;
use crate::peers::spawned;
use procpool::{Pool, TaskHandle};
use std::collections::{HashSet, VecDeque};
use std::time::{Duration, Instant};

/// Handles outstanding at a time.
pub(crate) const WINDOW: usize = 1024;
/// Long enough for a searching worker to give up and sleep.
const PAUSE: Duration = Duration::from_millis(2);
const BUSY_CALLS: u64 = 20_000;
const ASLEEP_CALLS: u64 = 20;
const MILLION: u64 = 1_000_000;
/// Calls per round of procspawn, which takes hundreds of microseconds for one.
const SPAWNED_CALLS: u64 = 500;

pub(crate) fn plus_one(x: u64) -> u64 {
    x + 1
}

/// Submits one call and waits for it, `calls` times.
pub(crate) fn back_to_back(pool: &Pool, calls: u64) -> Duration {
    let start = Instant::now();
    for call in 0..calls {
        assert_eq!(one(pool, call), call + 1);
    }
    start.elapsed()
}

/// The same with a pause before each call, in which the workers fall asleep.
pub(crate) fn after_pauses(pool: &Pool, calls: u64) -> Duration {
    let mut total = Duration::ZERO;
    for call in 0..calls {
        std::thread::sleep(PAUSE);
        let start = Instant::now();
        assert_eq!(one(pool, call), call + 1);
        total += start.elapsed();
    }
    total
}

fn one(pool: &Pool, call: u64) -> u64 {
    pool.submit(plus_one, call).expect("a handle").join().expect("a result")
}

/// Submits `calls` calls one by one, joining the oldest whenever the window is full.
pub(crate) fn in_window<F>(pool: &Pool, function: F, argument: u64, calls: u64) -> Duration
where
    F: Fn(u64) -> u64 + Copy + Send + 'static,
{
    let start = Instant::now();
    let mut handles: VecDeque<TaskHandle<u64>> = VecDeque::with_capacity(WINDOW);
    for _ in 0..calls {
        if handles.len() == WINDOW
            && let Some(oldest) = handles.pop_front()
        {
            oldest.join().expect("a result");
        }
        handles.push_back(pool.submit(function, argument).expect("a handle"));
    }
    for handle in handles {
        handle.join().expect("a result");
    }
    start.elapsed()
}

pub(crate) fn rows(table: &mut Table, helper: &mut Helper) {
    busy(table, helper);
    asleep(table, helper);
    window(table);
}

fn busy(table: &mut Table, helper: &mut Helper) {
    let name = "submit one and wait, busy";
    if !table.wants(name) {
        return;
    }
    let pool = pool(2);
    table.compare(
        name,
        Limit::AtMost(5.0),
        ROUNDS,
        Side::new("", BUSY_CALLS, |calls| back_to_back(&pool, calls)),
        Side::new("two-line ping-pong of two processes", BUSY_CALLS, |calls| helper.spin(calls)),
    );
    let peer = spawned::pool(2);
    table.compare(
        name,
        Limit::TimesFaster(100.0),
        ROUNDS,
        Side::new("", BUSY_CALLS, |calls| back_to_back(&pool, calls)),
        Side::new("procspawn", SPAWNED_CALLS, |calls| spawned::submit_and_wait(&peer, calls)),
    );
}

fn asleep(table: &mut Table, helper: &mut Helper) {
    let name = "submit one and wait, worker asleep";
    if !table.wants(name) {
        return;
    }
    let mut row = |name: &str, limit, pool: &Pool, core| {
        table.compare(
            name,
            limit,
            ROUNDS,
            Side::new("", ASLEEP_CALLS, |calls| after_pauses(pool, calls)),
            Side::new("futex ping-pong of two processes", ASLEEP_CALLS, |rounds| {
                helper.futex(rounds, PAUSE, core)
            }),
        );
    };
    row(&format!("{name}, placed by the kernel"), Limit::Nothing, &pool(2), None);
    let name = format!("{name}, on the other core");
    let limit = Limit::AtMost(1.5);
    // The pool comes first: what it starts must not inherit the caller's core.
    let pool = pool(2);
    match two_cores() {
        Some((ours, theirs)) if pin_workers(&pool, theirs) => {
            pinned(ours, || row(&name, limit, &pool, Some(theirs)));
        }
        _ => table.skipped(&name, limit, "futex ping-pong", "skipped: no second core"),
    }
}

/// Has every worker keep to one core; `false` if some worker could not be reached.
fn pin_workers(pool: &Pool, core: usize) -> bool {
    let pin_one = |core: usize| {
        pin(core);
        // Keeps this worker busy, so that another takes the next task.
        std::thread::sleep(Duration::from_millis(20));
        std::process::id()
    };
    let mut reached = HashSet::new();
    for _ in 0..50 {
        let submit = |_| pool.submit(pin_one, core).expect("a handle");
        let handles: Vec<TaskHandle<u32>> = (0..pool.workers()).map(submit).collect();
        reached.extend(handles.into_iter().map(|handle| handle.join().expect("a process id")));
        if reached.len() == pool.workers() {
            return true;
        }
    }
    false
}

fn window(table: &mut Table) {
    for (workers, least) in [(1, 5e6), (2, 2e6)] {
        let name = format!("one submit per call, 1M calls, workers: {workers}");
        if !table.wants(&name) {
            continue;
        }
        let pool = pool(workers);
        let peer = spawned::pool(workers);
        let (ours, _) = table.compare(
            &name,
            Limit::TimesFaster(100.0),
            ROUNDS_LONG,
            Side::new("", MILLION, |calls| in_window(&pool, plus_one, 1, calls)),
            Side::new("procspawn, window of 64", SPAWNED_CALLS, |calls| {
                spawned::submit_in_window(&peer, calls)
            }),
        );
        table.absolute(&name, Limit::PerSecond(least), ours);
    }
}
