//! Counterparts of what CPython's own tests ask of `Pool`, `AsyncResult`, `Executor`, `Future` and `Process`.
//!
//! Where another file asks the same more thoroughly, it is named here and not repeated:
//!
//! | CPython's case | is asked in |
//! |---|---|
//! | imap, imap_unordered: laziness, errors in the function and the input, dropping | `stream.rs` |
//! | callbacks, cancelling, wait, as_completed | `handles.rs` |
//! | initializer, a failing one, its arguments | `startup.rs` |
//! | maxtasksperchild, worker lifetimes, reuse | `recycle.rs` |
//! | terminate, shutdown with and without cancelling, interrupted | `shutdown.rs` |
//! | workers that die or exit, results that cannot be decoded, the parent that dies | `crash_matrix.rs`, `crash.rs` |
//! | process: exit codes, terminate, kill, daemons, streams, names, parents, children | `process.rs` |
//! | descriptors, memory, many tasks, saturation | `resources.rs`, `stress.rs` |

mod support;

use procpool::sync::{Event, Semaphore};
use procpool::{
    JoinTimeoutError, Pool, Process, Recycle, Shutdown, TaskError, TaskHandle, TaskOptions,
    active_children, as_completed, current_process, parent_process, wait_all, wait_any, worker,
};
use std::collections::{BTreeMap, HashSet};
use std::sync::mpsc;
use std::time::{Duration, Instant};
use support::*;

const LONG: Duration = Duration::from_secs(30);

fn square(n: i64) -> i64 {
    n * n
}

fn multiply((a, b): (i64, i64)) -> i64 {
    a * b
}

fn sleep_ms(ms: u64) -> u64 {
    std::thread::sleep(Duration::from_millis(ms));
    ms
}

fn fail_at_three(n: u32) -> Result<u32, String> {
    if n == 3 { Err(format!("refused: {n}")) } else { Ok(n) }
}

fn panic_at_three(n: u32) -> u32 {
    assert!(n != 3, "panicked: {n}");
    n
}

// Pool -------------------------------------------------------------------------------------------

#[test]
fn apply_gives_the_value() {
    let pool = pool_of(2);
    assert_eq!(pool.submit(square, 5).unwrap().join(), Ok(25));
    assert_eq!(pool.submit(|(): ()| "nothing".to_string(), ()).unwrap().join().unwrap(), "nothing");
}

#[test]
fn map_keeps_the_order_for_every_batch_size_and_length() {
    let _dog = watchdog(60);
    let pool = pool_of(3);
    for length in [0i64, 1, 2, 3, 10, 100, 1001] {
        let expected: Vec<i64> = (0..length).map(square).collect();
        assert_eq!(pool.map(square, 0..length).unwrap(), expected);
        for batch in [1, 2, 7, 20, 100_000] {
            let options = pool.with_options(TaskOptions::new().batch(batch));
            assert_eq!(options.map(square, 0..length).unwrap(), expected, "{length} by {batch}");
        }
    }
}

#[test]
fn starmap_is_a_map_of_tuples() {
    let pool = pool_of(2);
    let pairs = (0..10).zip((0..10).rev());
    let expected: Vec<i64> = pairs.clone().map(multiply).collect();
    assert_eq!(pool.map(multiply, pairs.clone()).unwrap(), expected);
    assert_eq!(
        pool.submit_map(multiply, pairs.collect::<Vec<_>>()).unwrap().join().unwrap(),
        expected
    );
}

#[test]
fn an_empty_input_gives_an_empty_result_at_once() {
    let pool = pool_of(1);
    // The worker is busy: nothing has to run for an empty input.
    let busy = pool.submit(sleep_ms, 200).unwrap();
    assert!(pool.map(square, []).unwrap().is_empty());
    assert!(pool.map_each(square, []).unwrap().is_empty());
    assert_eq!(pool.imap(square, []).unwrap().next(), None);
    assert_eq!(pool.imap_unordered(square, []).unwrap().next(), None);
    assert_eq!(pool.map_reduce(square, |a, b| a + b, []).unwrap(), None);
    assert!(pool.submit_map(square, []).unwrap().join().unwrap().is_empty());
    assert!(!busy.is_finished());
}

#[test]
fn inputs_of_unknown_length_and_consumed_iterators_work() {
    let pool = pool_of(2);
    let mut input = (0..20).filter(|n| n % 3 == 0);
    assert_eq!(pool.map(square, input.by_ref()).unwrap(), [0, 9, 36, 81, 144, 225, 324]);
    assert!(pool.map(square, input).unwrap().is_empty());
}

#[test]
fn an_error_in_the_middle_of_a_map_is_the_first_in_input_order() {
    let _dog = watchdog(60);
    let pool = pool_of(2);
    let twice = |n: u32| {
        if n == 10 {
            sleep_ms(20);
        }
        assert!(n != 10 && n != 90, "at {n}");
        n
    };
    for batch in [1, 5, 200] {
        let options = pool.with_options(TaskOptions::new().batch(batch));
        let error = options.map(twice, 0..100).unwrap_err();
        assert_eq!(error.panic_message(), Some("at 10"), "by {batch}");
        assert_eq!(error.task_error().unwrap().index(), Some(10));
    }
    assert_eq!(pool.map(square, 0..3).unwrap(), [0, 1, 4], "and the pool goes on");
}

#[test]
fn an_error_that_is_returned_is_a_value() {
    let pool = pool_of(2);
    let results = pool.map(fail_at_three, 0..5).unwrap();
    assert_eq!(results[3], Err("refused: 3".to_string()));
    assert_eq!(results.into_iter().filter(Result::is_ok).count(), 4);
    let all: Result<Vec<u32>, String> =
        pool.map(fail_at_three, 0..5).unwrap().into_iter().collect();
    assert!(all.is_err());
}

#[test]
fn the_place_of_a_panic_is_told() {
    let pool = pool_of(1);
    let error = pool.submit(panic_at_three, 3).unwrap().join().unwrap_err();
    assert!(error.panic_location().unwrap().contains("cpython.rs"));
    assert!(error.to_string().contains("panicked: 3") && error.function().is_some());
}

#[test]
fn tasks_run_in_other_processes_side_by_side() {
    let _dog = watchdog(60);
    let pool = pool_of(3);
    let (here, go) = (Semaphore::new(0).unwrap(), Event::new().unwrap());
    let meet = |(here, go): (Semaphore, Event)| {
        here.release(1).unwrap();
        assert!(go.wait_timeout(LONG));
        std::process::id()
    };
    let tasks: Vec<_> =
        (0..3).map(|_| pool.submit(meet, (here.clone(), go.clone())).unwrap()).collect();
    let _three = here.acquire_many_timeout(3, LONG).unwrap().expect("three run at the same time");
    go.set();
    let pids: HashSet<u32> = tasks.into_iter().map(|task| task.join().unwrap()).collect();
    assert!(pids.len() == 3 && !pids.contains(&std::process::id()));
}

#[test]
fn large_arguments_and_results_cross() {
    let pool = pool_of(2);
    let blocks = pool.map(|n: usize| vec![n as u8; n], [0, 1, 1 << 10, 1 << 20, 5 << 20]).unwrap();
    assert!(
        blocks.iter().zip([0, 1, 1 << 10, 1 << 20, 5 << 20]).all(|(block, n)| block.len() == n)
    );
    let lengths = pool.map(|block: Vec<u8>| block.len(), blocks).unwrap();
    assert_eq!(lengths, [0, 1, 1 << 10, 1 << 20, 5 << 20]);
}

#[test]
fn values_of_all_shapes_cross() {
    #[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
    enum Shape {
        Unit,
        Tuple(u8, String),
        Record { map: BTreeMap<String, Option<f64>>, list: Vec<Shape> },
    }
    let pool = pool_of(1);
    let map = BTreeMap::from([("a".to_string(), Some(1.5)), ("b".to_string(), None)]);
    let list = vec![Shape::Unit, Shape::Tuple(7, "seven".into())];
    let shape = Shape::Record { map, list };
    assert_eq!(pool.submit(|shape: Shape| shape, shape.clone()).unwrap().join().unwrap(), shape);
}

#[test]
fn a_pool_that_was_closed_refuses_everything() {
    let pool = pool_of(1);
    pool.close();
    assert!(pool.map(square, [1]).unwrap_err().is_closed());
    assert!(pool.map_each(square, [1]).unwrap_err().is_closed());
    assert!(pool.imap(square, [1]).is_err_and(|error| error.is_closed()));
    assert!(pool.submit(square, 1).unwrap_err().is_closed());
    assert!(pool.submit_map(square, [1]).unwrap_err().is_closed());
    assert!(pool.broadcast(square, &1).unwrap_err().is_closed());
    assert!(pool.for_each(|_: u8| (), [1]).unwrap_err().is_closed());
    pool.close();
    pool.join().unwrap();
    pool.join().unwrap();
}

#[test]
fn sizes_that_make_no_sense_are_refused_by_name() {
    for (builder, word) in [
        (Pool::builder().workers(0), "workers"),
        (Pool::builder().workers(100_000), "workers"),
        (Pool::builder().queue_capacity(0), "queue_capacity"),
        (Pool::builder().name(""), "name"),
        (Pool::builder().name("a/b"), "name"),
        (Pool::builder().stack_bytes(1), "stack_bytes"),
        (Pool::builder().recycle(Recycle::after_tasks(0)), "after_tasks"),
        (Pool::builder().nice(100), "nice"),
        (Pool::builder().restart_limit(0, LONG), "restart_limit"),
        (Pool::builder().workers(2).workers_min(0), "workers_min"),
    ] {
        let error = builder.build().unwrap_err();
        assert!(error.is_invalid() && error.to_string().contains(word), "{error}");
    }
}

#[test]
fn a_pool_is_usable_from_many_threads_and_as_a_static() {
    static POOL: std::sync::OnceLock<Pool> = std::sync::OnceLock::new();
    let pool = POOL.get_or_init(|| pool_of(2));
    std::thread::scope(|scope| {
        for thread in 0..8 {
            scope.spawn(move || {
                for n in 0..50 {
                    assert_eq!(
                        pool.submit(square, thread * n).unwrap().join(),
                        Ok((thread * n).pow(2))
                    );
                }
            });
        }
    });
    pool.join().unwrap();
}

#[test]
fn context_managers_are_drop() {
    let _dog = watchdog(60);
    let handle = {
        let pool = Pool::builder().workers(1).name("scope").build().unwrap();
        assert_eq!(workers_of(std::process::id(), "scope").len(), 1);
        pool.submit(sleep_ms, 100_000).unwrap()
    };
    assert!(workers_of(std::process::id(), "scope").is_empty());
    assert!(handle.join().unwrap_err().is_pool_closed());
}

// AsyncResult and Future -------------------------------------------------------------------------

#[test]
fn getting_with_a_time_limit_waits_so_long_and_can_be_repeated() {
    let _dog = watchdog(60);
    let pool = pool_of(1);
    let mut task = pool.submit(sleep_ms, 300).unwrap();
    for _ in 0..3 {
        let begun = Instant::now();
        task = match task.join_timeout(Duration::from_millis(20)) {
            Err(JoinTimeoutError::TimedOut(task)) => task,
            other => panic!("{other:?}"),
        };
        assert!(begun.elapsed() >= Duration::from_millis(20));
    }
    assert_eq!(task.join_timeout(LONG).unwrap(), 300);
    let done = pool.submit(sleep_ms, 0).unwrap();
    wait_until("it is done", || done.is_finished());
    assert_eq!(done.join_timeout(Duration::ZERO).unwrap(), 0, "what is done needs no time");
}

/// | state of the task | `cancel` | then `join` |
#[test]
fn the_truth_table_of_cancelling() {
    let _dog = watchdog(60);
    let pool = pool_of(1);
    let (begun, go) = (Event::new().unwrap(), Event::new().unwrap());
    let wait = |(begun, go): (Event, Event)| {
        begun.set();
        go.wait_timeout(LONG)
    };
    let running = pool.submit(wait, (begun.clone(), go.clone())).unwrap();
    let pending = pool.submit(square, 2).unwrap();
    let again = pool.submit(square, 3).unwrap();
    assert!(begun.wait_timeout(LONG));
    assert!(!running.cancel() && !running.is_finished(), "running");
    assert!(pending.cancel() && pending.is_finished(), "pending");
    assert!(!pending.cancel(), "cancelled");
    go.set();
    assert_eq!(running.join(), Ok(true));
    assert!(pending.join().unwrap_err().is_cancelled());
    wait_until("it is done", || again.is_finished());
    assert!(!again.cancel(), "finished");
    assert_eq!(again.join(), Ok(9));
    let failed = pool.submit(panic_at_three, 3).unwrap();
    wait_until("it has failed", || failed.is_finished());
    assert!(!failed.cancel(), "failed");
    assert!(failed.join().unwrap_err().is_panic());
}

#[test]
fn callbacks_come_once_whether_the_task_succeeds_fails_was_cancelled_or_is_done_already() {
    let _dog = watchdog(60);
    let pool = pool_of(1);
    let (sender, receiver) = mpsc::channel();
    let tell = |name: &'static str| {
        let sender = sender.clone();
        move |outcome: Result<u32, TaskError>| sender.send((name, outcome)).unwrap()
    };
    pool.submit(panic_at_three, 1).unwrap().on_done(tell("value")).unwrap();
    pool.submit(panic_at_three, 3).unwrap().on_done(tell("panic")).unwrap();
    let busy = pool.submit(sleep_ms, 100).unwrap();
    let cancelled = pool.submit(panic_at_three, 1).unwrap();
    assert!(cancelled.cancel());
    cancelled.on_done(tell("cancelled")).unwrap();
    assert_eq!(busy.join(), Ok(100));
    let done = pool.submit(panic_at_three, 2).unwrap();
    wait_until("it is done", || done.is_finished());
    done.on_done(tell("done before")).unwrap();
    let mut told: BTreeMap<&str, Result<u32, TaskError>> = BTreeMap::new();
    for _ in 0..4 {
        let (name, outcome) = receiver.recv_timeout(LONG).unwrap();
        assert!(told.insert(name, outcome).is_none(), "{name} twice");
    }
    assert_eq!((&told["value"], &told["done before"]), (&Ok(1), &Ok(2)));
    assert!(told["panic"].as_ref().unwrap_err().is_panic());
    assert!(told["cancelled"].as_ref().unwrap_err().is_cancelled());
    assert!(receiver.try_recv().is_err());
}

#[test]
fn a_callback_may_submit_more() {
    let _dog = watchdog(60);
    let pool: &'static Pool = Box::leak(Box::new(pool_of(1)));
    let (sender, receiver) = mpsc::channel();
    let first = pool.submit(square, 3).unwrap();
    first
        .on_done(move |outcome| {
            let second = pool.submit(square, outcome.unwrap()).unwrap();
            second.on_done(move |outcome| sender.send(outcome).unwrap()).unwrap();
        })
        .unwrap();
    assert_eq!(receiver.recv_timeout(LONG).unwrap(), Ok(81));
    pool.join().unwrap();
}

#[test]
fn waiting_for_the_first_for_all_and_in_vain() {
    let _dog = watchdog(60);
    let pool = pool_of(2);
    let tasks = [pool.submit(sleep_ms, 400).unwrap(), pool.submit(sleep_ms, 5).unwrap()];
    assert_eq!(wait_any(&tasks, LONG), Some(1));
    assert!(!wait_all(&tasks, Duration::from_millis(10)));
    assert!(wait_all(&tasks, LONG));
    assert_eq!(wait_any(&tasks, Duration::ZERO), Some(0), "the first of those that are done");
    assert_eq!(wait_any::<u64>(&[], LONG), None);
    assert!(wait_all::<u64>(&[], Duration::ZERO), "all of none");
    let stuck = [pool.submit(sleep_ms, 100_000).unwrap()];
    assert_eq!(wait_any(&stuck, Duration::from_millis(10)), None);
}

#[test]
fn a_failure_ends_a_wait_like_a_value() {
    let _dog = watchdog(60);
    let pool = pool_of(2);
    let go_on = procpool::sync::Event::new().unwrap();
    let slow = |go_on: &procpool::sync::Event, n: u32| {
        if n != 3 {
            go_on.wait();
        }
        panic_at_three(n)
    };
    let with = pool.with(&go_on);
    let tasks = vec![with.submit(slow, 1).unwrap(), with.submit(slow, 3).unwrap()];
    assert_eq!(wait_any(&tasks, LONG), Some(1));
    let mut ended = as_completed(tasks).map(|(place, outcome)| (place, outcome.is_ok()));
    assert_eq!(ended.next(), Some((1, false)));
    go_on.set();
    assert_eq!(ended.next(), Some((0, true)));
    assert_eq!(ended.next(), None);
}

#[test]
fn as_completed_gives_what_was_done_before_each_once_and_none_at_the_end() {
    let _dog = watchdog(60);
    let pool = pool_of(2);
    let tasks: Vec<_> = (0..20).map(|n| pool.submit(square, n).unwrap()).collect();
    wait_until("all are done", || tasks.iter().all(TaskHandle::is_finished));
    let mut values: Vec<i64> = as_completed(tasks).map(|(_, outcome)| outcome.unwrap()).collect();
    values.sort_unstable();
    assert!(values.into_iter().eq((0..20).map(square)));
    let mut stuck = as_completed(vec![pool.submit(sleep_ms, 100_000).unwrap()]);
    assert!(stuck.next_timeout(Duration::from_millis(10)).is_none());
    assert_eq!(stuck.left(), 1);
    assert!(as_completed::<u64>(Vec::new()).next().is_none());
}

#[test]
fn handles_say_what_they_are() {
    let pool = Pool::builder().workers(1).name("said").build().unwrap();
    let task = pool.submit(square, 1).unwrap();
    let text = format!("{task:?}");
    assert!(text.contains("TaskHandle") && text.contains("said"), "{text}");
    assert!(format!("{pool:?}").contains("workers: 1"), "{pool:?}");
    let process = Process::builder().name("speaks").spawn(|_: ()| (), ()).unwrap();
    assert!(format!("{process:?}").contains("speaks"), "{process:?}");
}

// Executor ---------------------------------------------------------------------------------------

#[test]
fn a_shutdown_waits_for_what_was_accepted_and_results_stay() {
    let _dog = watchdog(60);
    let pool = pool_of(2);
    let tasks: Vec<_> = (0..30).map(|n| pool.submit(sleep_ms, n % 4).unwrap()).collect();
    pool.shutdown(Shutdown::Drain).unwrap();
    assert!(tasks.iter().all(TaskHandle::is_finished));
    for (n, task) in tasks.into_iter().enumerate() {
        assert_eq!(task.join(), Ok(n as u64 % 4));
    }
}

#[test]
fn pending_calls_of_a_dropped_pool_do_not_hang() {
    let _dog = watchdog(60);
    for _ in 0..10 {
        let pool = pool_of(2);
        let tasks: Vec<_> = (0..50).map(|_| pool.submit(sleep_ms, 1000).unwrap()).collect();
        drop(pool);
        assert!(tasks.into_iter().all(|task| task.join().unwrap_err().is_pool_closed()));
    }
}

#[test]
fn more_tasks_than_places_wait_for_one() {
    let _dog = watchdog(60);
    let pool = Pool::builder().workers(2).queue_capacity(3).build().unwrap();
    let tasks: Vec<_> = (0..200).map(|n| pool.submit(square, n).unwrap()).collect();
    assert!(tasks.into_iter().map(|task| task.join().unwrap()).eq((0..200).map(square)));
}

#[test]
fn idle_workers_are_used_again() {
    let _dog = watchdog(60);
    let pool = pool_of(3);
    let mut pids = HashSet::new();
    for _ in 0..50 {
        pids.insert(pool.submit(|(): ()| std::process::id(), ()).unwrap().join().unwrap());
    }
    assert!(pids.len() <= 3);
    assert_eq!(pool.stats().workers_started, 3);
}

#[test]
fn a_worker_that_dies_breaks_nothing_but_its_call() {
    let _dog = watchdog(60);
    let pool = pool_of(2);
    let dies = |n: u32| {
        if n % 10 == 3 {
            std::process::abort();
        }
        n
    };
    let outcomes = pool.map_each(dies, 0..50).unwrap();
    for (n, outcome) in outcomes.into_iter().enumerate() {
        assert_eq!(outcome.is_err(), n % 10 == 3, "{n}");
    }
    assert_eq!(pool.submit(square, 4).unwrap().join(), Ok(16), "it is not broken");
}

#[test]
fn tasks_may_use_pools_processes_and_threads_of_their_own() {
    let _dog = watchdog(60);
    let pool = pool_of(2);
    let nested = |n: i64| {
        let inner = Pool::builder().workers(1).build().unwrap();
        let sum: i64 = inner.map(square, 0..n).unwrap().into_iter().sum();
        let other = Process::spawn(square, n).unwrap().join().unwrap();
        let thread = std::thread::spawn(move || n).join().unwrap();
        (sum, other, thread)
    };
    assert_eq!(pool.map(nested, [3, 4]).unwrap(), [(5, 9, 3), (14, 16, 4)]);
}

#[test]
fn a_task_knows_its_worker() {
    let pool = Pool::builder().workers(2).name("know").build().unwrap();
    let about = |(): ()| {
        let me = current_process();
        (worker::number().unwrap(), me.name().to_string(), parent_process().unwrap().pid())
    };
    for (number, outcome) in pool.broadcast(about, &()).unwrap().into_iter().enumerate() {
        let expected = (number, format!("know-worker-{number}"), std::process::id());
        assert_eq!(outcome.unwrap(), expected);
    }
    assert_eq!(worker::number(), None);
    assert!(active_children().iter().any(|child| child.name == "know-worker-1"));
}
