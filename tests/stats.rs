//! What can be seen of a pool: what its workers do, and what it has done.

mod support;

use procpool::sync::Event;
use procpool::{Pool, TaskOptions, WorkerState};
use std::time::Duration;
use support::*;

fn wait_for((begun, go): (Event, Event)) -> bool {
    begun.set();
    go.wait_timeout(Duration::from_secs(30))
}

fn sleep_ms(ms: u64) -> u64 {
    std::thread::sleep(Duration::from_millis(ms));
    ms
}

#[test]
fn workers_are_seen_running_idle_and_gone() {
    let _dog = watchdog(60);
    let pool = Pool::builder().workers(2).name("seen").build().unwrap();
    let (begun, go) = (Event::new().unwrap(), Event::new().unwrap());
    let task = pool.submit(wait_for, (begun.clone(), go.clone())).unwrap();
    assert!(begun.wait_timeout(Duration::from_secs(30)));
    std::thread::sleep(Duration::from_millis(20));
    let stats = pool.stats();
    let mut running = stats.workers.iter().filter_map(|worker| match worker.state {
        WorkerState::Running { function, elapsed } => Some((worker.number, function, elapsed)),
        _ => None,
    });
    let (number, function, elapsed) = running.next().unwrap();
    assert!(function.contains("wait_for") && elapsed >= Duration::from_millis(20), "{stats:?}");
    assert!(running.next().is_none());
    let pids: Vec<u32> = stats.workers.iter().map(|worker| worker.pid).collect();
    let mut expected = workers_of(std::process::id(), "seen");
    expected.sort_unstable();
    let mut sorted = pids.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, expected);
    go.set();
    assert!(task.join().unwrap());
    wait_until("both are idle", || {
        let workers = pool.stats().workers;
        workers.iter().all(|worker| matches!(worker.state, WorkerState::Idle(_)))
    });
    let stats = pool.stats();
    assert_eq!(stats.workers[number].calls, 1);
    assert!(stats.workers[number].busy_time >= Duration::from_millis(20), "{stats:?}");
    kill(pids[0], libc::SIGKILL);
    wait_until("it is replaced", || {
        let stats = pool.stats();
        stats.workers_lost == 1
            && stats.workers.len() == 2
            && stats.workers.iter().all(|worker| worker.pid != pids[0])
    });
    let after = pool.stats();
    assert!(after.busy_time >= Duration::from_millis(20), "also of those that are gone: {after:?}");
    // One had nothing to do while the other waited; what is spent is not taken back when a worker goes.
    assert!(stats.idle_time >= Duration::from_millis(20), "{stats:?}");
    assert!(after.idle_time >= stats.idle_time, "{after:?}");
    let sum: Duration = stats.workers.iter().map(|worker| worker.idle_time).sum();
    assert!(sum <= stats.idle_time && stats.workers.iter().all(|one| !one.idle_time.is_zero()));
    assert_eq!((stats.restarts, after.restarts), (0, 1));
}

#[test]
fn what_tasks_took_is_counted() {
    let _dog = watchdog(60);
    let pool = Pool::builder().workers(1).name("count").build().unwrap();
    let (begun, go) = (Event::new().unwrap(), Event::new().unwrap());
    let first = pool.submit(wait_for, (begun.clone(), go.clone())).unwrap();
    let queued: Vec<_> = (0..16).map(|_| pool.submit(sleep_ms, 1).unwrap()).collect();
    assert!(begun.wait_timeout(Duration::from_secs(30)));
    assert_eq!(pool.stats().tasks_queued, 16);
    std::thread::sleep(Duration::from_millis(30));
    go.set();
    assert!(first.join().unwrap());
    queued.into_iter().for_each(|task| assert_eq!(task.join().unwrap(), 1));
    let stats = pool.stats();
    assert_eq!((stats.tasks_submitted, stats.tasks_ended, stats.tasks_queued), (17, 17, 0));
    assert_eq!(stats.wait_time.count, 2, "one of eight");
    assert!(stats.wait_time.p50 >= Duration::from_millis(25), "{stats:?}");
    assert!(stats.slowest[0].function.contains("wait_for"), "{stats:?}");
    assert!(stats.run_time.max >= Duration::from_millis(25), "{stats:?}");
    let options = TaskOptions::new().batch(10);
    pool.with_options(options).map(|n: u64| n.to_string(), 0..1000).unwrap();
    let after = pool.stats();
    assert_eq!(after.run_time.count - stats.run_time.count, 1000);
    assert_eq!(after.bytes_in - stats.bytes_in, 8000);
    assert!(after.bytes_out - stats.bytes_out >= 2890, "the digits at least: {after:?}");
    assert!(after.run_time.p50 <= after.run_time.p99 && after.run_time.p99 <= after.run_time.max);
}

#[test]
fn retries_and_kills_are_counted_for_what_they_are() {
    let _dog = watchdog(60);
    let pool = Pool::builder().workers(1).name("kinds").build().unwrap();
    let dies = |_: u8| -> u8 { std::process::abort() };
    assert!(pool.submit_with(TaskOptions::new().retries(2), dies, 0).unwrap().join().is_err());
    let late = TaskOptions::new().timeout(Duration::from_millis(10));
    assert!(pool.submit_with(late, sleep_ms, 100_000).unwrap().join().is_err());
    pool.resize(2).unwrap();
    pool.resize(1).unwrap();
    wait_until("all is counted", || {
        let stats = pool.stats();
        (stats.workers_lost, stats.workers_killed, stats.workers_retired) == (3, 1, 1)
    });
    let stats = pool.stats();
    assert_eq!((stats.retries, stats.tasks_failed, stats.workers_recycled), (2, 2, 0));
    assert_eq!((stats.restarts, stats.workers_started), (4, 6), "what it grew by is no restart");
}
