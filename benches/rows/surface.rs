//! What the pool's policies cost: a process for each task, recycling, outcomes one by one.
//!
//! - *A process for each task*: two at a time on all sides; the calls do next to nothing.
//! - *Recycling*: calls of 100 µs in workers that are replaced after 100 of them, against workers that stay.
//! - *Outcomes one by one*: calls of about 1 µs, taken from an iterator that stays within its window.

use super::granularity::spin;
use super::map::{square_plus_one, squares};
use super::pool;
use crate::measure::{Limit, ROUNDS, Side, Table};
use crate::peers::python::Python;
use crate::peers::spawned;
use procpool::{Pool, Recycle};
use std::time::{Duration, Instant};

const PYTHON_RECYCLE: &str = include_str!("../python_recycle.py");
const PROCESSES: u64 = 400;
const PEER_PROCESSES: u64 = 100;
const CALLS: u64 = 2_000;
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

pub(crate) fn rows(table: &mut Table) {
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
