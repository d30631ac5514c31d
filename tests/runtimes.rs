//! Handles of tasks as futures, in executors that others have written: tokio with several threads and timers, and
//! `pollster`, which has nothing but one thread.

mod support;

use procpool::collections::List;
use procpool::sync::Event;
use procpool::{Pool, TaskError, TaskHandle};
use std::time::Duration;
use support::*;
use tokio::runtime::{Builder, Runtime};
use tokio::time::{sleep, timeout};

const LONG: Duration = Duration::from_secs(30);

fn tokio_of(threads: usize) -> Runtime {
    Builder::new_multi_thread().worker_threads(threads).enable_time().build().unwrap()
}

fn pool(name: &str, workers: usize) -> Pool {
    Pool::builder().workers(workers).name(name).build().unwrap()
}

fn sleep_ms(ms: u64) -> u64 {
    std::thread::sleep(Duration::from_millis(ms));
    ms
}

/// Refuses fives, and dies of sevens.
fn picky(n: u64) -> u64 {
    assert!(n % 10 != 5, "{n} is refused");
    if n % 10 == 7 {
        die();
    }
    n * 2
}

fn check(n: u64, outcome: Result<u64, TaskError>) {
    match (n % 10, outcome) {
        (5, Err(error)) => assert_eq!(error.panic_message(), Some(&*format!("{n} is refused"))),
        (7, Err(error)) => assert!(error.is_worker_lost(), "{error}"),
        (_, outcome) => assert_eq!(outcome, Ok(n * 2)),
    }
}

/// A worker that is busy until the event is set.
fn occupied(pool: &Pool) -> (Event, TaskHandle<bool>) {
    let (go, begun) = (Event::new().unwrap(), Event::new().unwrap());
    let wait = |(go, begun): (Event, Event)| {
        begun.set();
        go.wait_timeout(LONG)
    };
    let task = pool.submit(wait, (go.clone(), begun.clone())).unwrap();
    assert!(begun.wait_timeout(LONG));
    (go, task)
}

#[test]
fn many_tasks_of_tokio_await_tasks_of_the_pool() {
    let _dog = watchdog(60);
    let (pool, runtime) = (pool("tok0", 2), tokio_of(2));
    let waits: Vec<_> = (0..200u64)
        .map(|n| (n, pool.submit(picky, n).unwrap()))
        .map(|(n, task)| runtime.spawn(async move { (n, task.await) }))
        .collect();
    let mut lost = 0;
    for wait in waits {
        let (n, outcome) = runtime.block_on(wait).unwrap();
        lost += u64::from(outcome.as_ref().is_err_and(TaskError::is_worker_lost));
        check(n, outcome);
    }
    assert_eq!(lost, 20);
    // One after the other, each in the thread that has the outcome of the one before.
    let sum = runtime.block_on(async {
        let mut sum = 0;
        for n in 0..300u64 {
            sum += pool.submit(|n: u64| n, n).unwrap().await.unwrap();
        }
        sum
    });
    assert_eq!(sum, 44_850);
}

#[test]
fn a_timer_of_tokio_drops_the_handle_and_what_has_not_begun_only_if_asked() {
    let _dog = watchdog(60);
    let (pool, runtime) = (pool("tok1", 1), tokio_of(2));
    let ran = List::<u64>::new().unwrap();
    let note = |(ran, n): (List<u64>, u64)| ran.push(&n).unwrap();
    let (go, running) = occupied(&pool);
    let submit = |n: u64| pool.submit(note, (ran.clone(), n)).unwrap();
    let short = Duration::from_millis(30);
    runtime.block_on(async {
        assert!(timeout(short, submit(1)).await.is_err(), "it goes on without its handle");
        assert!(timeout(short, submit(2).cancel_on_drop()).await.is_err(), "it never begins");
        assert!(timeout(short, running).await.is_err(), "what runs is not stopped");
    });
    go.set();
    runtime.block_on(submit(3)).unwrap();
    assert_eq!(ran.to_vec().unwrap(), [1, 3]);
    // In time.
    let quick = pool.submit(sleep_ms, 1).unwrap();
    assert_eq!(runtime.block_on(async { timeout(LONG, quick).await }).unwrap(), Ok(1));
    #[cfg(debug_assertions)]
    wait_until("nothing is left", || pool.check_invariants().is_ok());
}

#[test]
fn a_handle_moves_from_one_executor_to_another() {
    let _dog = watchdog(60);
    let (pool, runtime) = (pool("tok2", 1), tokio_of(2));
    let (go, mut task) = occupied(&pool);
    let short = Duration::from_millis(20);
    // Tokio asks twice and gives up: it is not to be woken any more.
    for _ in 0..2 {
        assert!(runtime.block_on(async { timeout(short, &mut task).await }).is_err());
    }
    let other = tokio_of(1);
    let awaited = other.spawn(task);
    let setter = runtime.spawn(async move {
        sleep(short).await;
        go.set();
    });
    assert_eq!(pollster::block_on(awaited).unwrap(), Ok(true));
    pollster::block_on(setter).unwrap();
}

#[test]
fn other_tasks_of_tokio_go_on_while_one_awaits() {
    let _dog = watchdog(60);
    // A single thread: whoever blocked it would block all.
    let (pool, runtime) = (pool("tok3", 1), tokio_of(1));
    let (go, running) = occupied(&pool);
    let awaits = runtime.spawn(running);
    let ticks = runtime.spawn(async move {
        for _ in 0..10 {
            sleep(Duration::from_millis(1)).await;
        }
        go.set();
    });
    runtime.block_on(ticks).unwrap();
    assert_eq!(runtime.block_on(awaits).unwrap(), Ok(true));
}

#[test]
fn an_executor_without_threads_or_timers_does() {
    let _dog = watchdog(60);
    let pool = pool("tok4", 2);
    for n in 0..100u64 {
        check(n, pollster::block_on(pool.submit(picky, n).unwrap()));
    }
    let both = async {
        let tasks = (pool.submit(sleep_ms, 20).unwrap(), pool.submit(sleep_ms, 1).unwrap());
        tasks.0.await.unwrap() + tasks.1.await.unwrap()
    };
    assert_eq!(pollster::block_on(both), 21);
}

/// The worker is killed, the task aborted, or the pool dropped, while tokio waits.
#[test]
fn a_task_of_tokio_is_woken_however_it_ends() {
    let _dog = watchdog(60);
    let runtime = tokio_of(2);
    for round in 0..20 {
        let pool = pool("tok5", 1);
        let (_go, running) = occupied(&pool);
        let queued = pool.submit(sleep_ms, 1).unwrap();
        let waits = runtime.spawn(running);
        let other = runtime.spawn(queued);
        if round % 2 == 0 {
            kill(workers_of(std::process::id(), "tok5")[0], libc::SIGKILL);
            assert!(runtime.block_on(waits).unwrap().unwrap_err().is_worker_lost());
            assert_eq!(runtime.block_on(other).unwrap(), Ok(1));
        } else {
            drop(pool);
            assert!(runtime.block_on(waits).unwrap().unwrap_err().is_pool_closed());
            assert!(runtime.block_on(other).unwrap().unwrap_err().is_pool_closed());
        }
    }
}

/// A runtime that ends drops its tasks, and with them the handles.
#[test]
fn a_runtime_that_ends_drops_what_it_awaits() {
    let _dog = watchdog(60);
    let pool = pool("tok6", 1);
    let (go, running) = occupied(&pool);
    let ran = List::<u64>::new().unwrap();
    let note = |(ran, n): (List<u64>, u64)| ran.push(&n).unwrap();
    let runtime = tokio_of(2);
    runtime.spawn(running);
    for n in 0..10 {
        let task = pool.submit(note, (ran.clone(), n)).unwrap().cancel_on_drop();
        runtime.spawn(task);
    }
    runtime.shutdown_timeout(LONG);
    go.set();
    pool.submit(note, (ran.clone(), 10)).unwrap().join().unwrap();
    assert_eq!(ran.to_vec().unwrap(), [10]);
    #[cfg(debug_assertions)]
    wait_until("nothing is left", || pool.check_invariants().is_ok());
}
