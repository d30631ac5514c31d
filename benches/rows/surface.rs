//! What the pool's policies cost: a process for each task, recycling, outcomes one by one.
//!
//! - *A process for each task*: two at a time on all sides; the calls do next to nothing.
//! - *Recycling*: calls of 100 µs in workers that are replaced after 100 of them, against workers that stay.
//! - *A time limit, retries*: a map of a million small calls with options that never do anything, against one
//!   without.
//! - *One worker more*: `resize` until the new one has been forked; back again is not counted.
//! - *The end of a call that runs too long*: how long after its limit of 50 ms, counted from its first instruction,
//!   its caller knows, while 63 other workers spin on two cores; and how long `abort` of a call that spins takes.
//! - *Outcomes one by one*: calls of about 1 µs, taken from an iterator that stays within its window.

use super::granularity::spin;
use super::map::{square_plus_one, squares};
use super::pool;
use crate::measure::{Limit, ROUNDS, Side, Spread, Table};
use crate::peers::python::Python;
use crate::peers::spawned;
use procpool::sync::{Event, Value};
use procpool::{Pool, Recycle, Retry, TaskOptions};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

const PYTHON_RECYCLE: &str = include_str!("../python_recycle.py");
const PROCESSES: u64 = 400;
const PEER_PROCESSES: u64 = 100;
const CALLS: u64 = 2_000;
const MANY_CALLS: u64 = 1_000_000;
const SHORT_CALLS: u64 = 100_000;
/// About a microsecond.
const SHORT_STEPS: u64 = 1_000;

fn recycled(policy: Recycle) -> Pool {
    let pool = Pool::builder().workers(2).name("recycled").recycle(policy).build().expect("a pool");
    squares(&pool, 10);
    pool
}

/// Calls that each take 100 µs.
fn naps(pool: &Pool, calls: u64) -> Duration {
    let busy = |_: u64| {
        let start = Instant::now();
        while start.elapsed() < Duration::from_micros(100) {
            std::hint::spin_loop();
        }
    };
    let start = Instant::now();
    pool.map(busy, 0..calls).expect("results");
    start.elapsed()
}

fn spins(pool: &Pool, calls: u64, one_by_one: bool) -> Duration {
    let steps = (0..calls).map(|_| SHORT_STEPS);
    let start = Instant::now();
    let results: Vec<u64> = match one_by_one {
        true => pool.imap(spin, steps).expect("an iterator").map(|one| one.expect("one")).collect(),
        false => pool.map(spin, steps).expect("results"),
    };
    let elapsed = start.elapsed();
    assert_eq!(results.len() as u64, calls);
    elapsed
}

/// One call per `spread`, timed from the outside.
fn spread(rounds: usize, mut one: impl FnMut() -> Duration) -> Spread {
    let mut times: Vec<f64> = (0..rounds).map(|_| one().as_nanos() as f64).collect();
    Spread::of(&mut times)
}

/// A call that says when it begins.
fn spin_for_ever((begun, began_ns): (Event, Value<u64>)) -> u64 {
    began_ns.store(wall_ns());
    begun.set();
    loop {
        std::hint::spin_loop();
    }
}

/// A clock that processes share.
fn wall_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("a time after 1970");
    u64::try_from(since.as_nanos()).expect("a time before 2554")
}

/// Policies of single tasks, and the number of workers.
pub(crate) fn option_rows(table: &mut Table) {
    let name = "map with a time limit and retries that are never used";
    if table.wants(name) {
        let plain = pool(2);
        let limited = Pool::builder()
            .workers(2)
            .task_timeout(Duration::from_secs(3600))
            .retry(Retry::lost(3))
            .build()
            .expect("a pool");
        table.compare(
            name,
            Limit::AtMost(1.02),
            2 * ROUNDS,
            Side::new("", MANY_CALLS, |calls| squares(&limited, calls)),
            Side::new("map", MANY_CALLS, |calls| squares(&plain, calls)),
        );
    }
    let name = "resize to one worker more";
    if table.wants(name) {
        let pool = pool(2);
        let one_more = spread(100, || {
            let start = Instant::now();
            pool.resize(3).expect("a worker");
            let elapsed = start.elapsed();
            pool.resize(2).expect("fewer");
            while pool.stats().workers.len() > 2 {
                std::thread::sleep(Duration::from_micros(100));
            }
            elapsed
        });
        table.absolute(name, Limit::Nanos(1e6), one_more);
    }
    let name = "abort of a call that spins";
    if table.wants(name) {
        let (pool, begun) = (pool(2), Event::new().expect("an event"));
        let began_ns = Value::new(0).expect("a value");
        let abort = spread(100, || {
            begun.clear();
            let task =
                pool.submit(spin_for_ever, (begun.clone(), began_ns.clone())).expect("a task");
            begun.wait();
            let start = Instant::now();
            assert!(task.abort());
            assert!(task.join().is_err());
            start.elapsed()
        });
        table.absolute(name, Limit::Nothing, abort);
    }
    let name = "lateness of a time limit, 63 other workers busy";
    if table.wants(name) {
        const LIMIT: Duration = Duration::from_millis(50);
        let pool = Pool::builder().workers(64).build().expect("a pool");
        let begun = Event::new().expect("an event");
        let began_ns = Value::new(0).expect("a value");
        let spin = || (begun.clone(), began_ns.clone());
        let busy: Vec<_> =
            (0..63).map(|_| pool.submit(spin_for_ever, spin()).expect("a task")).collect();
        while pool.stats().tasks_queued > 0 {
            std::thread::sleep(Duration::from_millis(10));
        }
        let late = spread(30, || {
            let options = TaskOptions::new().timeout(LIMIT);
            let task = pool.submit_with(options, spin_for_ever, spin()).expect("a task");
            assert!(task.join().expect_err("it is late").is_timed_out());
            Duration::from_nanos(wall_ns() - began_ns.load()).saturating_sub(LIMIT)
        });
        table.absolute(name, Limit::Nanos(20e6), late);
        drop(busy);
    }
}

pub(crate) fn rows(table: &mut Table) {
    option_rows(table);
    let name = "a fresh process for each task";
    if table.wants(name) {
        let pool = recycled(Recycle::after_tasks(1));
        table.compare(
            name,
            Limit::TimesFaster(2.5),
            ROUNDS,
            Side::new("", PROCESSES, |calls| squares(&pool, calls)),
            Side::new("procspawn", PEER_PROCESSES, |calls| {
                spawned::process_for_each(square_plus_one, calls)
            }),
        );
        if let Some(mut python) = Python::start(PYTHON_RECYCLE) {
            let peer = format!("{} Pool(2, maxtasksperchild=1)", python.version);
            table.compare(
                name,
                Limit::TimesFaster(8.0),
                ROUNDS,
                Side::new("", PROCESSES, |calls| squares(&pool, calls)),
                Side::new(&peer, PEER_PROCESSES, |calls| python.ask(&calls.to_string())),
            );
        }
    }
    let name = "calls of 100 µs, workers replaced after 100 calls";
    if table.wants(name) {
        let (ours, plain) = (recycled(Recycle::after_tasks(100)), pool(2));
        table.compare(
            name,
            Limit::AtMost(1.0 / 0.9),
            ROUNDS,
            Side::new("", CALLS, |calls| naps(&ours, calls)),
            Side::new("workers that stay", CALLS, |calls| naps(&plain, calls)),
        );
    }
    let name = "imap of calls of 1 µs";
    if table.wants(name) {
        let pool = pool(2);
        table.compare(
            name,
            Limit::AtMost(1.2),
            ROUNDS,
            Side::new("", SHORT_CALLS, |calls| spins(&pool, calls, true)),
            Side::new("map", SHORT_CALLS, |calls| spins(&pool, calls, false)),
        );
    }
}
