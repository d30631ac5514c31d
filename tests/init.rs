//! A program that calls `procpool::init()` in `main`: what runs before the call runs in the workers
//! too, and the standard library is fully set up there. (No test harness: `main` is the test.)

use procpool::{Pool, WorkerExit};
use std::sync::OnceLock;

static SET_UP: OnceLock<u32> = OnceLock::new();

fn recurse(depth: u64) -> u64 {
    let block = std::hint::black_box([depth; 512]);
    if depth == u64::MAX { 0 } else { recurse(depth + 1) + block[1] }
}

fn main() {
    SET_UP.set(42).unwrap();
    procpool::init();
    let user = std::process::id();
    let pool = Pool::builder().workers(2).build().unwrap();
    let seen = pool.map(|(): ()| (SET_UP.get().copied(), std::process::id()), [(), ()]).unwrap();
    assert!(seen.iter().all(|(value, pid)| *value == Some(42) && *pid != user), "{seen:?}");
    // With the standard library's handler in place, an overflow is reported and then aborts.
    let error = pool.submit(recurse, 0).unwrap().join().unwrap_err();
    assert_eq!(error.worker_exit(), Some(WorkerExit::Signal(libc::SIGABRT)), "{error}");
    pool.join().unwrap();
    println!("init: ok");
}
