//! Starting a pool, and replacing a worker that has ended.
//!
//! No other pool is open meanwhile, so that each start includes the guardian process. The arena is
//! made by the first pool of a process and stays, so that only the very first start, which is not
//! counted, pays for it.

use super::map::square_plus_one;
use super::pool;
use crate::measure::{Limit, ROUNDS, Side, Table};
use crate::peers::helper::Helper;
use crate::peers::spawned;
use procpool::Pool;
use std::time::{Duration, Instant};

const FORKS: u64 = 50;

/// Makes a pool of two and waits for the first result: up to the result, and with the pool dropped.
pub(crate) fn first_result() -> (Duration, Duration) {
    let start = Instant::now();
    let pool = Pool::builder().workers(2).build().expect("a pool");
    assert_eq!(pool.map(square_plus_one, [1u64]).expect("results"), [2]);
    let result = start.elapsed();
    drop(pool);
    (result, start.elapsed())
}

/// Has the worker of a pool of one end itself, and waits for the result of the next task.
pub(crate) fn replace(pool: &Pool, times: u64) -> Duration {
    let mut total = Duration::ZERO;
    for time in 0..times {
        let start = Instant::now();
        let leaving = pool.submit(|code: i32| -> u64 { std::process::exit(code) }, 0);
        let lost = leaving.expect("a handle").join();
        let next = pool.submit(square_plus_one, time).expect("a handle").join();
        total += start.elapsed();
        assert!(lost.is_err_and(|error| error.is_worker_lost()));
        assert_eq!(next.expect("a result"), square_plus_one(time));
    }
    total
}

pub(crate) fn rows(table: &mut Table, helper: &mut Helper) {
    let part = |(result, all): (Duration, Duration), dropped| if dropped { all } else { result };
    for (name, dropped) in
        [("pool of 2 to first result", false), ("pool of 2 to first result, then dropped", true)]
    {
        if table.wants(name) {
            table.compare(
                name,
                Limit::AtMost(1.0),
                ROUNDS,
                Side::new("", 2, |starts| (0..starts).map(|_| part(first_result(), dropped)).sum()),
                Side::new("procspawn", 2, |starts| {
                    (0..starts).map(|_| part(spawned::first_result(), dropped)).sum()
                }),
            );
        }
    }
    let name = "exit of a worker to the next result";
    if table.wants(name) {
        let pool = pool(1);
        table.compare(
            name,
            Limit::AtMost(2.0),
            ROUNDS,
            Side::new("", 10, |times| replace(&pool, times)),
            Side::new("fork, exit and wait", 1, |_| helper.fork_exit_wait(FORKS)),
        );
    }
}
