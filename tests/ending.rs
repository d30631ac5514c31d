//! Who dies while a pool ends, shrinks, starts or recycles: workers, the guardian, a finalizer, an initializer. And
//! policies together that other files ask for one by one.

mod support;

use procpool::collections::{Dict, List};
use procpool::sync::Event;
use procpool::{
    Pool, PoolBuilder, Recycle, Shutdown, TaskHandle, TaskOptions, WorkerExit, current_process,
    worker,
};
use std::collections::HashMap;
use std::process;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use support::*;

const LONG: Duration = Duration::from_secs(30);
const MODES: [Shutdown; 3] = [Shutdown::Drain, Shutdown::CancelQueued, Shutdown::Now];

/// Each test has a name of its own: it looks for its workers by it.
fn builder(name: &str, workers: usize) -> PoolBuilder {
    Pool::builder().workers(workers).name(name).restart_limit(1_000_000, Duration::from_secs(1))
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn sleep_ms(ms: u64) -> u64 {
    std::thread::sleep(Duration::from_millis(ms));
    ms
}

fn none_is_left(name: &str) {
    wait_until("no worker is left", || workers_of(process::id(), name).is_empty());
}

// Shutting down ----------------------------------------------------------------------------------

/// Shuts a busy pool down while `kill_some` kills; every handle and every map must have an outcome.
fn shut_down_while(name: &'static str, mode: Shutdown, kill_some: impl Fn() + Sync) {
    let pool = builder(name, 3).build().unwrap();
    let (begun, done) = (Event::new().unwrap(), AtomicBool::new(false));
    let tasks: Vec<TaskHandle<u64>> =
        (0..60).map(|n| pool.submit(sleep_ms, n % 4).unwrap()).collect();
    let (map, background) = std::thread::scope(|scope| {
        let map = scope.spawn(|| {
            let say = |(begun, n): (Event, u64)| {
                begun.set();
                sleep_ms(n % 3)
            };
            pool.map_each(say, (0..60).map(|n| (begun.clone(), n)))
        });
        let background = pool.submit_map(sleep_ms, (0..60).map(|n| n % 2)).unwrap();
        assert!(begun.wait_timeout(LONG));
        let killer = scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                kill_some();
            }
        });
        let ended = pool.shutdown(mode);
        done.store(true, Ordering::Relaxed);
        killer.join().unwrap();
        ended.unwrap();
        (map.join().unwrap(), background)
    });
    let drained = mode == Shutdown::Drain;
    for (n, task) in tasks.into_iter().enumerate() {
        assert!(task.is_finished(), "{mode:?}: the outcome of task {n} is there");
        match task.join() {
            Ok(value) => assert_eq!(value, n as u64 % 4),
            Err(error) if error.is_worker_lost() => {}
            Err(error) => {
                assert!(!drained && (error.is_cancelled() || error.is_pool_closed()), "{error}");
            }
        }
    }
    match map {
        Ok(outcomes) => {
            assert_eq!(outcomes.len(), 60);
            assert!(outcomes.into_iter().all(|outcome| match outcome {
                Ok(_) => true,
                Err(error) => error.is_worker_lost() || !drained,
            }));
        }
        Err(error) => assert!(!drained && error.is_closed(), "{mode:?}: {error}"),
    }
    match background.join() {
        Ok(values) => assert_eq!(values.len(), 60),
        Err(error) if error.is_worker_lost() => {}
        Err(error) => {
            let cancelled = error.task_error().is_some_and(|error| error.is_cancelled());
            assert!(!drained && (error.is_closed() || cancelled), "{mode:?}: {error}");
        }
    }
    assert!(pool.submit(sleep_ms, 1).unwrap_err().is_closed());
    none_is_left(name);
}

#[test]
fn a_shutdown_ends_in_each_mode_while_workers_are_killed() {
    let _dog = watchdog(100);
    for mode in MODES {
        for _ in 0..4 {
            shut_down_while("end0", mode, || {
                if let Some(pid) = workers_of(process::id(), "end0").first() {
                    kill(*pid, libc::SIGKILL);
                }
                std::thread::sleep(ms(3));
            });
        }
    }
}

#[test]
fn a_shutdown_ends_in_each_mode_while_the_guardian_is_killed() {
    succeeds("guardian");
}

/// In a program of its own: other tests would lose their workers with the guardian.
fn shut_down_without_guardian() {
    for mode in MODES {
        for _ in 0..3 {
            shut_down_while("end1", mode, || {
                if let Some(pid) = guardian_of(process::id()) {
                    kill(pid, libc::SIGKILL);
                }
                std::thread::sleep(ms(15));
            });
        }
    }
    let pool = builder("end1", 2).build().unwrap();
    assert_eq!(pool.submit(sleep_ms, 1).unwrap().join(), Ok(1), "and another pool works");
}

#[test]
fn a_shutdown_with_a_time_limit_ends_while_workers_are_killed() {
    let _dog = watchdog(60);
    let pool = builder("end2", 2).build().unwrap();
    let stuck: Vec<_> = (0..6).map(|_| pool.submit(sleep_ms, 100_000).unwrap()).collect();
    std::thread::scope(|scope| {
        let ends = scope.spawn(|| pool.shutdown_timeout(Shutdown::Drain, ms(100)));
        wait_until("two are lost", || {
            if let Some(pid) = workers_of(process::id(), "end2").first() {
                kill(*pid, libc::SIGKILL);
            }
            stuck.iter().filter(|task| task.is_finished()).count() >= 2 || ends.is_finished()
        });
        assert!(ends.join().unwrap().unwrap_err().is_timed_out());
    });
    assert!(stuck.into_iter().all(|task| task.join().is_err()));
    none_is_left("end2");
}

// Finalizers -------------------------------------------------------------------------------------

/// What a worker does last: told by its number.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize, serde::Deserialize)]
enum Last {
    Notes,
    Panics,
    Aborts,
    Exits,
    Hangs,
}

type Ends = Dict<u32, String>;

fn begin((ends, last): (Ends, Vec<Last>)) -> (Ends, Last) {
    (ends, last[worker::number().unwrap()])
}

fn end((ends, last): (Ends, Last)) {
    ends.insert(&process::id(), &format!("{last:?}")).unwrap();
    match last {
        Last::Notes => {}
        Last::Panics => panic!("in a finalizer"),
        Last::Aborts => process::abort(),
        Last::Exits => process::exit(3),
        Last::Hangs => drop(sleep_ms(1_000_000)),
    }
}

fn finalizing(name: &str, ends: &Ends, last: &[Last]) -> PoolBuilder {
    builder(name, last.len()).initializer(begin, (ends.clone(), last.to_vec())).finalizer(end)
}

#[test]
fn a_finalizer_that_fails_dies_or_hangs_keeps_no_pool_from_ending() {
    let _dog = watchdog(60);
    let last = [Last::Notes, Last::Panics, Last::Aborts, Last::Exits, Last::Hangs, Last::Notes];
    let ends = |mode, name: &str| {
        let ends = Ends::new().unwrap();
        let pool = finalizing(name, &ends, &last).build().unwrap();
        assert_eq!(pool.broadcast(|_: ()| worker::number(), &()).unwrap().len(), last.len());
        pool.shutdown(mode).unwrap();
        none_is_left(name);
        let mut ran = ends.values().unwrap();
        ran.sort_unstable();
        assert_eq!(ran, ["Aborts", "Exits", "Hangs", "Notes", "Notes", "Panics"], "{mode:?}");
        assert_eq!(pool.stats().workers_lost, 0);
    };
    // Each waits out the time that one that hangs is given.
    std::thread::scope(|scope| {
        scope.spawn(|| ends(Shutdown::Drain, "end3"));
        scope.spawn(|| ends(Shutdown::CancelQueued, "end3c"));
    });
}

#[test]
fn a_dropped_pool_runs_no_finalizer() {
    let _dog = watchdog(60);
    for _ in 0..100 {
        let ends = Ends::new().unwrap();
        let pool = finalizing("end12", &ends, &[Last::Notes; 2]).build().unwrap();
        pool.map(|n: u8| n, 0..10).unwrap();
        drop(pool);
        assert!(ends.is_empty());
    }
}

#[test]
fn a_finalizer_that_is_killed_keeps_no_pool_from_ending() {
    let _dog = watchdog(60);
    let (ends, hung) = (Ends::new().unwrap(), [Last::Hangs, Last::Hangs]);
    let pool = finalizing("end4", &ends, &hung).build().unwrap();
    pool.broadcast(|_: ()| (), &()).unwrap();
    std::thread::scope(|scope| {
        let ended = scope.spawn(|| pool.join());
        wait_until("both are in it", || ends.len() == 2);
        workers_of(process::id(), "end4").into_iter().for_each(|pid| kill(pid, libc::SIGKILL));
        ended.join().unwrap().unwrap();
    });
    none_is_left("end4");
}

#[test]
fn a_recycled_worker_that_dies_in_its_finalizer_is_recycled_all_the_same() {
    let _dog = watchdog(60);
    for last in [Last::Notes, Last::Panics, Last::Aborts, Last::Exits] {
        let ends = Ends::new().unwrap();
        let pool = finalizing("end5", &ends, &[last, last]).recycle(Recycle::after_tasks(5));
        let pool = pool.build().unwrap();
        let values = pool.map_each(|n: u64| n, 0..100).unwrap();
        assert!(values.into_iter().eq((0..100).map(Ok)), "{last:?}");
        wait_until("they have left", || pool.stats().workers_recycled >= 18);
        assert_eq!(pool.stats().workers_lost, 0, "{last:?}");
        assert!(ends.len() >= 18, "{last:?}: {}", ends.len());
    }
    // One that hangs there holds up nobody, and goes with the pool.
    let ends = Ends::new().unwrap();
    let pool = finalizing("end5", &ends, &[Last::Hangs]).recycle(Recycle::after_tasks(1));
    let pool = pool.build().unwrap();
    assert!(pool.map(|n: u64| n, 0..6).unwrap().into_iter().eq(0..6));
    drop(pool);
    none_is_left("end5");
}

#[test]
fn workers_that_are_not_needed_any_more_run_their_finalizer() {
    let _dog = watchdog(60);
    for last in [Last::Notes, Last::Panics, Last::Aborts] {
        let ends = Ends::new().unwrap();
        let pool = finalizing("end6", &ends, &[last; 4]).build().unwrap();
        pool.broadcast(|_: ()| (), &()).unwrap();
        pool.resize(1).unwrap();
        wait_until("three have left", || pool.stats().workers_retired == 3);
        assert_eq!((ends.len(), pool.stats().workers_lost), (3, 0), "{last:?}");
        assert_eq!(pool.submit(sleep_ms, 1).unwrap().join(), Ok(1));
    }
    let ends = Ends::new().unwrap();
    let pool = finalizing("end6", &ends, &[Last::Aborts; 3]).idle_timeout(ms(20)).build().unwrap();
    wait_until("two have left", || pool.stats().workers_retired == 2);
    assert_eq!((ends.len(), pool.workers(), pool.stats().workers_lost), (2, 1, 0));
    assert_eq!(pool.submit(sleep_ms, 1).unwrap().join(), Ok(1));
}

// Size -------------------------------------------------------------------------------------------

#[test]
fn a_pool_that_follows_its_load_keeps_its_size_when_workers_are_killed() {
    let _dog = watchdog(60);
    let pool = builder("end7", 4).workers_min(2).idle_timeout(ms(20)).build().unwrap();
    let mut random = Random(seed());
    for round in 0..40u64 {
        // Idle ones, leaving ones, those that just begin.
        for pid in workers_of(process::id(), "end7") {
            if random.next().is_multiple_of(2) {
                kill(pid, libc::SIGKILL);
            }
        }
        let count = random.next() % 8;
        let options = TaskOptions::new().retries(100);
        let tasks: Vec<_> =
            (0..count).map(|_| pool.submit_with(options, sleep_ms, round % 4).unwrap()).collect();
        if let Some(pid) = workers_of(process::id(), "end7").last() {
            kill(*pid, libc::SIGKILL);
        }
        assert!(tasks.into_iter().all(|task| task.join() == Ok(round % 4)));
        assert!((2..=4).contains(&pool.workers()), "{}", pool.workers());
        std::thread::sleep(ms(random.next() % 30));
    }
    wait_until("it has shrunk", || pool.workers() == 2);
    wait_until("two are there", || workers_of(process::id(), "end7").len() == 2);
    let go = Event::new().unwrap();
    let wait = |go: Event| go.wait_timeout(LONG);
    let tasks: Vec<_> = (0..4).map(|_| pool.submit(wait, go.clone()).unwrap()).collect();
    wait_until("it has grown", || pool.workers() == 4);
    go.set();
    assert!(tasks.into_iter().all(|task| task.join() == Ok(true)));
    #[cfg(debug_assertions)]
    wait_until("all is settled", || pool.check_invariants().is_ok());
}

// Starting ---------------------------------------------------------------------------------------

/// One that leaves as if all were well has made no state.
#[test]
fn an_initializer_that_exits_with_0_breaks_the_pool_after_a_bounded_number_of_tries() {
    let _dog = watchdog(60);
    let tries = List::<u32>::new().unwrap();
    let leave = |tries: List<u32>| -> u8 {
        tries.push(&process::id()).unwrap();
        process::exit(0)
    };
    let error = match builder("end8", 2).initializer(leave, tries.clone()).build() {
        Ok(pool) => {
            let error = pool.map(|n: u8| n, [1]).unwrap_err();
            assert!(pool.submit(|n: u8| n, 1).unwrap_err().is_broken());
            error
        }
        Err(error) => error,
    };
    assert!(error.is_broken() && error.to_string().contains("exit code 0"), "{error}");
    assert!((10..=14).contains(&tries.len()), "{} tries", tries.len());
    none_is_left("end8");
}

#[test]
fn workers_that_are_killed_in_their_initializer_are_replaced() {
    let _dog = watchdog(60);
    let begun = List::<u32>::new().unwrap();
    // The first five wait to be killed.
    let slow = |begun: List<u32>| {
        begun.push(&process::id()).unwrap();
        if begun.len() <= 5 {
            sleep_ms(1_000_000);
        }
        begun.len()
    };
    let pool = builder("end9", 1).initializer(slow, begun.clone()).build().unwrap();
    let task = pool.submit_state(|state: &mut usize, n: usize| *state + n, 1).unwrap();
    for killed in 0..5 {
        wait_until("another has begun", || begun.len() > killed);
        assert!(!task.is_finished());
        kill(begun.get(killed).unwrap().unwrap(), libc::SIGKILL);
    }
    assert_eq!(task.join(), Ok(7), "six had begun");
    // The supervisor may not have entered the last one yet.
    wait_until("six are counted", || pool.stats().workers_started == 6);
}

// Policies together ------------------------------------------------------------------------------

#[test]
fn whichever_bound_of_two_policies_comes_first_recycles() {
    let _dog = watchdog(60);
    // By age although it runs nothing, by calls long before its age.
    let both = Recycle::after_tasks(5).or(Recycle::after_age(ms(50)));
    let pool = builder("end10", 2).recycle(both).build().unwrap();
    wait_until("idle ones are replaced", || pool.stats().workers_recycled >= 4);
    let both = Recycle::after_age(Duration::from_secs(1000)).or(Recycle::after_tasks(5));
    let pool = builder("end10", 2).recycle(both).build().unwrap();
    let mut calls: HashMap<u32, u64> = HashMap::new();
    for pid in pool.map(|_: u64| process::id(), 0..200).unwrap() {
        *calls.entry(pid).or_default() += 1;
    }
    assert!(calls.values().all(|calls| *calls <= 5) && calls.len() >= 40, "{calls:?}");
    // By memory, long before the other two.
    let many = Recycle::after_tasks(1_000_000).or(Recycle::after_age(Duration::from_secs(1000)));
    let pool = builder("end10", 1).recycle(many.or(Recycle::above_memory(32 << 20)));
    let pool = pool.build().unwrap();
    let leak = |_: ()| {
        std::mem::forget(vec![7u8; 8 << 20]);
        process::id()
    };
    let first = pool.submit(leak, ()).unwrap().join().unwrap();
    wait_until("another has its place", || {
        std::thread::sleep(ms(2));
        pool.submit(leak, ()).unwrap().join().unwrap() != first
    });
    assert_eq!(pool.stats().workers_lost, 0);
    let error = builder("end10", 1).recycle(many.or(Recycle::above_memory(0))).build();
    assert!(error.unwrap_err().to_string().contains("above_memory"));
}

#[test]
fn all_tasks_of_a_pool_have_its_time_limit_and_its_grace() {
    let _dog = watchdog(60);
    let pool = builder("end11", 2).task_timeout(ms(30)).task_grace(LONG).build().unwrap();
    let polite = |n: u64| {
        let begun = Instant::now();
        while n > 0 && !worker::cancelled() {
            std::thread::sleep(Duration::from_millis(1));
        }
        (n, begun.elapsed() >= Duration::from_millis(29))
    };
    assert_eq!(pool.submit(polite, 1).unwrap().join(), Ok((1, true)));
    assert_eq!(pool.map(polite, 0..4).unwrap()[1..], [(1, true), (2, true), (3, true)]);
    assert_eq!(pool.stats().workers_killed, 0);
    let pool = builder("end11", 2).task_timeout(ms(30)).task_grace(ms(40)).build().unwrap();
    let error = pool.submit(sleep_ms, 100_000).unwrap().join().unwrap_err();
    assert!(error.is_timed_out() && error.ran_for().unwrap() >= ms(70), "{error}");
    assert!(error.to_string().contains("40ms of grace"), "{error}");
    let outcomes = pool.map_each(sleep_ms, [0, 100_000, 1]).unwrap();
    assert!(outcomes[1].as_ref().is_err_and(|error| error.ran_for().unwrap() >= ms(70)));
    assert_eq!((&outcomes[0], &outcomes[2]), (&Ok(0), &Ok(1)));
    // A task's own says otherwise.
    let own = TaskOptions::new().grace(ms(1));
    let error = pool.submit_with(own, sleep_ms, 100_000).unwrap().join().unwrap_err();
    assert!(error.to_string().contains("1ms of grace"), "{error}");
    // Killed while it is asked to stop: it is late all the same, or lost; never both, never neither.
    let begun = Event::new().unwrap();
    let asked = |begun: Event| {
        while !worker::cancelled() {
            std::thread::sleep(Duration::from_millis(1));
        }
        begun.set();
        sleep_ms(100_000)
    };
    let task = pool.submit_with(TaskOptions::new().grace(LONG), asked, begun.clone()).unwrap();
    assert!(begun.wait_timeout(LONG));
    workers_of(process::id(), "end11").into_iter().for_each(|pid| kill(pid, libc::SIGKILL));
    let error = task.join().unwrap_err();
    assert!(error.is_worker_lost(), "nobody had ended it for being late: {error}");
    assert_eq!(error.worker_exit(), Some(WorkerExit::Signal(9)));
}

#[test]
fn child_program() {
    match role().as_deref() {
        Some("guardian") => shut_down_without_guardian(),
        Some(other) => panic!("no role {other}"),
        None => assert_eq!(current_process().name(), "main"),
    }
}
