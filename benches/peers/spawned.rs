//! procspawn: the pool of processes that Rust programs use today, over `ipc-channel`.

use procspawn::Pool;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Handles outstanding at a time. Each holds several descriptors, of which a process may have 1024.
const WINDOW: usize = 64;

pub(crate) fn pool(workers: usize) -> Pool {
    Pool::new(workers).expect("a procspawn pool")
}

fn plus_one(x: u64) -> u64 {
    x + 1
}

/// Submits one call and waits for it, `calls` times.
pub(crate) fn submit_and_wait(pool: &Pool, calls: u64) -> Duration {
    let start = Instant::now();
    for call in 0..calls {
        assert_eq!(pool.spawn(call, plus_one).join().expect("a result"), call + 1);
    }
    start.elapsed()
}

/// Submits `calls` calls, joining the oldest whenever the window is full.
pub(crate) fn submit_in_window(pool: &Pool, calls: u64) -> Duration {
    let start = Instant::now();
    let mut handles = VecDeque::with_capacity(WINDOW);
    for call in 0..calls {
        if handles.len() == WINDOW {
            join_oldest(&mut handles);
        }
        handles.push_back(pool.spawn(call, plus_one));
    }
    while !handles.is_empty() {
        join_oldest(&mut handles);
    }
    start.elapsed()
}

/// Has a process for each call, two at a time.
pub(crate) fn process_for_each(function: fn(u64) -> u64, calls: u64) -> Duration {
    let start = Instant::now();
    let mut handles = VecDeque::with_capacity(2);
    for call in 0..calls {
        if handles.len() == 2 {
            join_oldest(&mut handles);
        }
        handles.push_back(procspawn::spawn(call, function));
    }
    while !handles.is_empty() {
        join_oldest(&mut handles);
    }
    start.elapsed()
}

fn join_oldest(handles: &mut VecDeque<procspawn::JoinHandle<u64>>) {
    if let Some(handle) = handles.pop_front() {
        handle.join().expect("a result");
    }
}

/// Makes a pool of two and waits for the first result: up to the result, and with the pool dropped.
pub(crate) fn first_result() -> (Duration, Duration) {
    let start = Instant::now();
    let pool = pool(2);
    assert_eq!(pool.spawn(1, plus_one).join().expect("a result"), 2);
    let result = start.elapsed();
    drop(pool);
    (result, start.elapsed())
}
