//! Time limits, aborting, retries and priorities: what happens to the task, and that nobody else pays.

mod support;

use procpool::collections::{Dict, List};
use procpool::sync::Event;
use procpool::{Pool, PoolBuilder, Priority, Retry, TaskHandle, TaskOptions, WorkerExit, worker};
use std::time::{Duration, Instant};
use support::*;

fn builder(workers: usize) -> PoolBuilder {
    Pool::builder().workers(workers).name("dead").restart_limit(1_000_000, Duration::from_secs(1))
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn sleep_ms(ms: u64) -> u64 {
    std::thread::sleep(Duration::from_millis(ms));
    ms
}

fn spin_ms(ms: u64) -> u64 {
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_millis(ms) {
        std::hint::black_box(ms);
    }
    ms
}

#[cfg(debug_assertions)]
fn check(pool: &Pool) {
    wait_until("all is settled", || pool.check_invariants().is_ok());
}

#[cfg(not(debug_assertions))]
fn check(_: &Pool) {}

#[test]
fn a_task_that_runs_too_long_ends_and_only_that() {
    let _dog = watchdog(60);
    let pool = builder(2).build().unwrap();
    let limit = TaskOptions::new().timeout(ms(60));
    let stuck: TaskHandle<u64> = pool.submit_with(limit, sleep_ms, 100_000).unwrap();
    let quick: Vec<_> =
        (0..200).map(|n| pool.submit_with(limit, sleep_ms, n % 3).unwrap()).collect();
    let unlimited = pool.submit(sleep_ms, 150).unwrap();
    let begun = Instant::now();
    let error = stuck.join().unwrap_err();
    assert!(begun.elapsed() >= ms(55), "{:?}", begun.elapsed());
    assert!(error.is_timed_out() && !error.is_worker_lost(), "{error}");
    assert!(error.ran_for().unwrap() >= ms(60) && error.pid().is_some());
    assert!(
        error.to_string().contains("60ms") && error.to_string().contains("sleep_ms"),
        "{error}"
    );
    for (n, task) in quick.into_iter().enumerate() {
        assert_eq!(task.join().unwrap(), n as u64 % 3);
    }
    assert_eq!(unlimited.join().unwrap(), 150, "it has no limit");
    wait_until("the worker is replaced", || pool.stats().workers_started == 3);
    let stats = pool.stats();
    assert_eq!((stats.workers_killed, stats.workers_lost), (1, 0), "{stats:?}");
    check(&pool);
}

#[test]
fn each_call_of_a_map_has_the_limit_for_itself() {
    let _dog = watchdog(60);
    let pool = builder(2).task_timeout(ms(80)).build().unwrap();
    // In batches of ten, of which all take longer together than one may.
    let nap = |n: u64| {
        sleep_ms(if n % 17 == 5 { 100_000 } else { 12 });
        n
    };
    let batches = pool.with_options(TaskOptions::new().batch(10));
    let outcomes = batches.map_each(nap, 0..40u64).unwrap();
    for (n, outcome) in outcomes.iter().enumerate() {
        match n % 17 {
            5 => {
                let error = outcome.as_ref().unwrap_err();
                assert!(error.is_timed_out() && error.index() == Some(n), "{error}");
            }
            _ => assert_eq!(outcome.as_ref().ok(), Some(&(n as u64))),
        }
    }
    let text = |n: u64| sleep_ms(if n == 3 { 100_000 } else { 1 }).to_string();
    let texts = batches.map_each(text, 0..8u64).unwrap();
    assert!(texts[3].as_ref().unwrap_err().is_timed_out());
    assert!(texts.iter().enumerate().all(|(n, text)| n == 3 || text.as_deref() == Ok("1")));
    check(&pool);
}

#[test]
fn a_task_is_asked_to_stop_before_it_is_killed() {
    let _dog = watchdog(60);
    let pool = builder(1).build().unwrap();
    let polite = |_: u8| {
        let begun = Instant::now();
        while !worker::cancelled() {
            std::thread::sleep(Duration::from_millis(1));
        }
        begun.elapsed().as_millis() as u64
    };
    let options = TaskOptions::new().timeout(ms(40)).grace(Duration::from_secs(30));
    for _ in 0..3 {
        let ran = pool.submit_with(options, polite, 0).unwrap().join().unwrap();
        assert!(ran >= 39, "{ran} ms");
    }
    assert!(!pool.submit(|_: u8| worker::cancelled(), 0).unwrap().join().unwrap());
    let mixed = |n: u64| {
        let begun = Instant::now();
        while n == 1 && !worker::cancelled() && begun.elapsed() < Duration::from_secs(30) {
            std::thread::sleep(Duration::from_millis(1));
        }
        (n, worker::cancelled())
    };
    // The call before and the one behind in the same batch are not meant.
    let seen = pool.with_options(options.batch(3)).map(mixed, 0..3u64).unwrap();
    assert_eq!(seen, [(0, false), (1, true), (2, false)]);
    let rude = TaskOptions::new().timeout(ms(20)).grace(ms(30));
    let error = pool.submit_with(rude, sleep_ms, 100_000).unwrap().join().unwrap_err();
    assert!(error.is_timed_out() && error.ran_for().unwrap() >= ms(50), "{error}");
    assert!(error.to_string().contains("30ms of grace"), "{error}");
    wait_until("the worker is dead", || pool.stats().workers_killed == 1);
}

#[test]
fn outcomes_of_late_tasks_come_in_time_while_64_workers_are_busy() {
    let _dog = watchdog(120);
    let pool = builder(64).build().unwrap();
    let limit = TaskOptions::new().timeout(ms(500));
    let busy: Vec<_> = (0..63).map(|_| pool.submit(spin_ms, 4_000).unwrap()).collect();
    let (begun_sender, begun) = (Event::new().unwrap(), Event::new().unwrap());
    let late = |(begun, _): (Event, Event)| {
        begun.set();
        spin_ms(100_000)
    };
    let task = pool.submit_with(limit, late, (begun.clone(), begun_sender)).unwrap();
    assert!(begun.wait_timeout(Duration::from_secs(60)));
    let error = task.join().unwrap_err();
    assert!(error.is_timed_out(), "{error}");
    let late_by = error.ran_for().unwrap().saturating_sub(ms(500));
    // Reported, not asserted: how fast a machine is, is no property of this program.
    eprintln!("the outcome came {late_by:?} after the limit, with 63 workers spinning");
    assert!(busy.into_iter().all(|task| task.join().is_ok()));
    check(&pool);
}

#[test]
fn a_running_task_can_be_aborted_and_a_queued_one_is_cancelled() {
    let _dog = watchdog(60);
    let pool = builder(1).build().unwrap();
    let begun = Event::new().unwrap();
    let stuck = |begun: Event| {
        begun.set();
        sleep_ms(100_000)
    };
    let running = pool.submit(stuck, begun.clone()).unwrap();
    let queued = pool.submit(sleep_ms, 1).unwrap();
    let next = pool.submit(sleep_ms, 2).unwrap();
    assert!(begun.wait_timeout(Duration::from_secs(30)));
    assert!(queued.abort() && running.abort());
    assert!(running.is_finished(), "its outcome is there when `abort` returns");
    assert!(!running.abort() && !running.cancel(), "it has ended");
    let error = running.join().unwrap_err();
    assert!(error.is_aborted() && !error.is_cancelled(), "{error}");
    assert!(queued.join().unwrap_err().is_cancelled());
    assert_eq!(next.join().unwrap(), 2);
    let done = pool.submit(sleep_ms, 0).unwrap();
    wait_until("it has ended", || done.is_finished());
    assert!(!done.abort());
    assert_eq!(done.join().unwrap(), 0);
    drop(pool);
}

/// Abort whatever a task is doing just then: its outcome is its value or that it was aborted, others are
/// never touched.
#[test]
fn aborting_at_any_moment_hits_nobody_else() {
    let _dog = watchdog(120);
    let pool = builder(2).build().unwrap();
    let begun = Event::new().unwrap();
    let begin_and_spin = |(begun, us): (Event, u64)| {
        begun.set();
        spin_us(us)
    };
    let (mut aborted, mut cancelled, mut ended) = (0, 0, 0);
    for round in 0..600u64 {
        let us = 400 + round % 50;
        begun.clear();
        let task = pool.submit(begin_and_spin, (begun.clone(), us)).unwrap();
        let others: Vec<_> = (0..6).map(|n| pool.submit(spin_us, 20 + n).unwrap()).collect();
        // From before its beginning until after its end.
        if round % 8 > 0 {
            assert!(begun.wait_timeout(Duration::from_secs(30)));
            spin_us(round * 7 % 430);
        }
        let was_ended = task.abort();
        match task.join() {
            Ok(ran) => {
                assert!(!was_ended && ran == us);
                ended += 1;
            }
            Err(error) => {
                assert!(was_ended && (error.is_aborted() || error.is_cancelled()), "{error}");
                *if error.is_aborted() { &mut aborted } else { &mut cancelled } += 1;
            }
        }
        for (n, other) in others.into_iter().enumerate() {
            assert_eq!(other.join().unwrap(), 20 + n as u64);
        }
    }
    eprintln!("{aborted} aborted, {cancelled} cancelled, {ended} had ended");
    assert!(aborted > 0 && ended > 0, "the test has to meet both");
    assert_eq!(pool.stats().workers_lost, 0);
    check(&pool);
}

fn spin_us(us: u64) -> u64 {
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_micros(us) {}
    us
}

/// As above, with limits that end at about the same time as the calls do.
#[test]
fn limits_that_are_just_reached_hit_nobody_else() {
    let _dog = watchdog(120);
    let pool = builder(2).build().unwrap();
    let limited = pool.with_options(TaskOptions::new().timeout(ms(5)).batch(8));
    let mut late = 0;
    for _ in 0..10 {
        // Around the limit, plus the time until it is looked at.
        let outcomes = limited
            .map_each(spin_us, (0..48).map(|n| if n % 3 == 0 { 4_000 + 180 * n } else { 5 }));
        for (n, outcome) in outcomes.unwrap().into_iter().enumerate() {
            match outcome {
                Ok(us) => assert_eq!(us, if n % 3 == 0 { 4_000 + 180 * n as u64 } else { 5 }),
                Err(error) => {
                    assert!(error.is_timed_out() && n % 3 == 0, "{n}: {error}");
                    late += 1;
                }
            }
        }
    }
    eprintln!("{late} of 160 were late");
    check(&pool);
}

#[test]
fn a_dropped_or_shut_pool_does_not_wait_for_limits() {
    let _dog = watchdog(60);
    let pool = builder(1).task_timeout(Duration::from_secs(3600)).build().unwrap();
    let task = pool.submit(sleep_ms, 100_000).unwrap();
    drop(pool);
    assert!(!task.abort(), "it ended with its pool");
    assert!(task.join().unwrap_err().is_pool_closed());
}

/// Limits hold after the guardian, and all workers with it, have died.
#[test]
fn limits_and_retries_outlive_the_guardian() {
    succeeds("guardian");
}

fn guardian() {
    let pool = builder(2).build().unwrap();
    let options = TaskOptions::new().timeout(ms(300)).retries(5);
    for _ in 0..5 {
        let stuck: Vec<_> =
            (0..2).map(|_| pool.submit_with(options, sleep_ms, 100_000).unwrap()).collect();
        let queued = pool.submit_with(options, sleep_ms, 1).unwrap();
        std::thread::sleep(ms(20));
        kill(guardian_of(std::process::id()).unwrap(), libc::SIGKILL);
        for task in stuck {
            let error = task.join().unwrap_err();
            assert!(error.is_timed_out(), "begun again, and late again: {error}");
        }
        assert_eq!(queued.join().unwrap(), 1);
    }
    check(&pool);
}

#[test]
fn child_program() {
    match role().as_deref() {
        Some("guardian") => guardian(),
        Some(other) => panic!("no role {other}"),
        None => {}
    }
}

#[test]
fn a_lost_task_is_begun_again_as_often_as_it_may_be() {
    let _dog = watchdog(60);
    let pool = builder(2).build().unwrap();
    let tries = Dict::<String, u64>::new().unwrap();
    let fragile = |(tries, name, deaths): (Dict<String, u64>, String, u64)| {
        let times = tries
            .update_or_insert_with(
                &name,
                || 0,
                |times| {
                    *times += 1;
                    *times
                },
            )
            .unwrap();
        if times <= deaths {
            std::process::abort();
        }
        times
    };
    let argument = |name: &str, deaths| (tries.clone(), name.to_string(), deaths);
    let twice = TaskOptions::new().retries(2);
    assert_eq!(pool.submit_with(twice, fragile, argument("a", 2)).unwrap().join().unwrap(), 3);
    let error = pool.submit_with(twice, fragile, argument("b", 9)).unwrap().join().unwrap_err();
    assert!(error.is_worker_lost() && error.worker_exit() == Some(WorkerExit::Signal(6)));
    assert_eq!((error.attempts(), tries.get("b").unwrap()), (3, Some(3)));
    assert!(error.to_string().contains("begun 3 times"), "{error}");
    assert!(error.function().unwrap().contains("a_lost_task_is_begun_again"), "{error:?}");
    let error = pool.submit(fragile, argument("c", 1)).unwrap().join().unwrap_err();
    assert_eq!(
        (error.attempts(), tries.get("c").unwrap()),
        (1, Some(1)),
        "not without being asked to"
    );
    let panics = |_: u8| -> u8 { panic!("an outcome like any other") };
    let error = pool.submit_with(twice, panics, 0).unwrap().join().unwrap_err();
    assert!(error.is_panic() && error.attempts() == 1);
    // In a map, each call counts for itself.
    let outcomes = pool
        .with_options(TaskOptions::new().retries(1).batch(4))
        .map_each(fragile, (0..8).map(|n| argument(&format!("m{n}"), n % 3)))
        .unwrap();
    for (n, outcome) in outcomes.into_iter().enumerate() {
        match n % 3 {
            2 => assert_eq!(outcome.unwrap_err().attempts(), 2),
            deaths => assert_eq!(outcome.unwrap(), deaths as u64 + 1),
        }
    }
    check(&pool);
}

#[test]
fn a_pause_comes_before_a_retry() {
    let _dog = watchdog(60);
    let pool = builder(1).retry(Retry::lost(3).backoff(ms(40))).build().unwrap();
    let (begun, ran) = (Instant::now(), List::<u64>::new().unwrap());
    let dies = |_: u8| -> u8 { std::process::exit(3) };
    let task = pool.submit(dies, 0).unwrap();
    let note = |(ran, n): (List<u64>, u64)| ran.push(&n).unwrap();
    pool.submit(note, (ran.clone(), 7)).unwrap().join().unwrap();
    assert!(!task.is_finished(), "others go on meanwhile");
    let error = task.join().unwrap_err();
    assert!(begun.elapsed() >= ms(40 + 80 + 160), "{:?}", begun.elapsed());
    assert_eq!((error.attempts(), pool.stats().retries), (4, 3));
    let task = pool.submit(dies, 0).unwrap();
    wait_until("it waits for its first retry", || pool.stats().retries == 4);
    assert!(!task.cancel(), "it has started once");
    assert!(task.abort() && task.join().unwrap_err().is_cancelled());
    check(&pool);
}

#[test]
fn the_urgent_come_first_and_the_patient_come_too() {
    let _dog = watchdog(60);
    let pool = builder(1).build().unwrap();
    let (go, order) = (Event::new().unwrap(), List::<String>::new().unwrap());
    let wait = |go: Event| go.wait_timeout(Duration::from_secs(30));
    let first = pool.submit(wait, go.clone()).unwrap();
    let note = |(order, name): (List<String>, String)| order.push(&name).unwrap();
    let mut tasks = Vec::new();
    let mut send = |priority, name: &str, count| {
        for n in 0..count {
            let options = TaskOptions::new().priority(priority);
            let argument = (order.clone(), format!("{name}{n}"));
            tasks.push(pool.submit_with(options, note, argument).unwrap());
        }
    };
    send(Priority::Low, "low", 3);
    send(Priority::Normal, "normal", 5);
    send(Priority::High, "high", 60);
    go.set();
    assert!(first.join().unwrap());
    tasks.into_iter().for_each(|task| task.join().unwrap());
    let order = order.to_vec().unwrap();
    let place = |name: &str| order.iter().position(|had| had == name).unwrap();
    let places: Vec<usize> = (0..60).map(|n| place(&format!("high{n}"))).collect();
    assert!(places.is_sorted(), "in order of submission: {order:?}");
    assert!(places[10] < 12, "{order:?}");
    let early: Vec<usize> = (0..3).map(|n| place(&format!("low{n}"))).collect();
    assert!(early.iter().all(|place| *place < 60), "one of sixteen is from the lowest: {order:?}");
    check(&pool);
}

#[test]
fn options_that_make_no_sense_are_refused() {
    let pool = builder(1).build().unwrap();
    for (options, word) in [
        (TaskOptions::new().timeout(Duration::ZERO), "timeout"),
        (TaskOptions::new().batch(0), "batch"),
    ] {
        let error = pool.submit_with(options, sleep_ms, 1).unwrap_err();
        assert!(error.is_invalid() && error.to_string().contains(word), "{error}");
        assert!(pool.with_options(options).map(sleep_ms, [1]).unwrap_err().is_invalid());
    }
    let error = Pool::builder().task_timeout(Duration::ZERO).build().unwrap_err();
    assert!(error.to_string().contains("timeout"), "{error}");
}
