//! Workers that are replaced on purpose: after so many calls, at an age, above so much memory.

mod support;

use procpool::{Pool, Recycle};
use std::collections::HashMap;
use std::process;
use std::time::{Duration, Instant};
use support::*;

fn pool(workers: usize, policy: Recycle) -> Pool {
    Pool::builder().workers(workers).name("recyc").recycle(policy).build().unwrap()
}

fn calls_by_pid(pids: &[u32]) -> HashMap<u32, u64> {
    let mut calls = HashMap::new();
    pids.iter().for_each(|pid| *calls.entry(*pid).or_default() += 1);
    calls
}

#[test]
fn no_worker_runs_more_calls_than_it_may() {
    let _dog = watchdog(120);
    for most in [1, 3, 100, 999] {
        let pool = pool(2, Recycle::after_tasks(most));
        let calls = 2000 + most;
        let pids = pool.map(|_: u64| process::id(), 0..calls).unwrap();
        let by_pid = calls_by_pid(&pids);
        assert!(by_pid.values().all(|calls| *calls <= most), "{most}: {by_pid:?}");
        assert!(by_pid.len() as u64 >= calls / most, "{most}: {}", by_pid.len());
        wait_until("they are reaped", || {
            let stats = pool.stats();
            stats.workers_recycled >= by_pid.values().filter(|calls| **calls == most).count() as u64
        });
        let stats = pool.stats();
        assert_eq!((stats.workers_lost, stats.tasks_failed), (0, 0), "{most}: {stats:?}");
        pool.join().unwrap();
    }
}

#[test]
fn a_map_whose_batches_are_cut_returns_every_result_in_order() {
    let _dog = watchdog(120);
    let pool = pool(2, Recycle::after_tasks(37).jitter(0.5));
    let numbers = pool.map(|n: u64| n * 2, 0..50_000u64).unwrap();
    assert!(numbers.iter().enumerate().all(|(n, double)| *double == n as u64 * 2));
    let texts = pool.map_each(
        |n: u32| {
            assert!(n % 100 != 7, "{n} is refused");
            n.to_string().repeat(n as usize % 50)
        },
        0..5000u32,
    );
    for (n, text) in texts.unwrap().into_iter().enumerate() {
        match text {
            Ok(text) => assert_eq!(text, n.to_string().repeat(n % 50)),
            Err(error) => assert_eq!(error.panic_message(), Some(&*format!("{n} is refused"))),
        }
    }
    assert_eq!(pool.stats().workers_lost, 0);
}

#[test]
fn single_tasks_count_too_and_an_idle_worker_goes_at_once() {
    let _dog = watchdog(60);
    let pool = pool(1, Recycle::after_tasks(2));
    let pids: Vec<u32> =
        (0..10).map(|_| pool.submit(|()| process::id(), ()).unwrap().join().unwrap()).collect();
    assert!(pids.chunks(2).all(|two| two[0] == two[1]), "{pids:?}");
    assert_eq!(calls_by_pid(&pids).len(), 5);
    wait_until("the last has gone too", || pool.stats().workers_recycled == 5);
    assert_eq!(pool.stats().workers_lost, 0);
}

#[test]
fn an_old_worker_is_replaced_busy_or_idle() {
    let _dog = watchdog(60);
    let pool = pool(1, Recycle::after_age(Duration::from_millis(30)));
    let idle = pool.submit(|()| process::id(), ()).unwrap().join().unwrap();
    wait_until("an idle one is replaced", || pool.stats().workers_recycled >= 2);
    let start = Instant::now();
    let mut pids = vec![idle];
    while start.elapsed() < Duration::from_millis(200) {
        let nap = |()| {
            std::thread::sleep(Duration::from_micros(200));
            process::id()
        };
        pids.extend(pool.map(nap, [(); 10]).unwrap());
    }
    assert!(calls_by_pid(&pids).len() >= 4, "{pids:?}");
    assert_eq!(pool.stats().workers_lost, 0);
}

#[test]
fn a_worker_that_leaks_is_replaced() {
    let _dog = watchdog(60);
    let most = 64 << 20;
    let pool = pool(1, Recycle::above_memory(most));
    let leak = |_: u32| {
        let block = vec![7u8; 8 << 20];
        std::mem::forget(block);
        std::thread::sleep(Duration::from_millis(2));
        process::id()
    };
    let by_pid = calls_by_pid(&pool.map(leak, 0..40u32).unwrap());
    // It is replaced when its successor is there, a call or two later.
    assert!(by_pid.len() >= 3 && by_pid.values().all(|calls| *calls <= 14), "{by_pid:?}");
    assert_eq!(pool.stats().workers_lost, 0);
}

/// Whoever has a quarter of its calls left has a successor, which waits. (What that does for throughput is in the
/// benches.)
#[test]
fn the_successor_is_there_before_the_one_that_it_replaces_has_gone() {
    let _dog = watchdog(60);
    let policy = Recycle::after_tasks(12);
    let pool = Pool::builder().workers(1).name("succ").recycle(policy).build().unwrap();
    let who = || pool.submit(|()| process::id(), ()).unwrap().join().unwrap();
    let mut old = who();
    for _ in 0..5 {
        let started = pool.stats().workers_started;
        assert!((0..7).all(|_| who() == old), "it has 12 calls");
        assert_eq!(pool.stats().workers_started, started, "it is not needed yet");
        assert_eq!(who(), old);
        wait_until("its successor is there", || workers_of(process::id(), "succ").len() == 2);
        let both = workers_of(process::id(), "succ");
        assert!(both.contains(&old), "and it still is: {both:?}");
        assert!((0..3).all(|_| who() == old), "it runs what it may");
        let next = who();
        assert!(next != old && both.contains(&next), "{next} of {both:?}");
        old = next;
    }
    assert_eq!(pool.stats().workers_lost, 0);
}

#[test]
fn a_worker_that_is_killed_is_lost_and_its_successor_goes_on() {
    let _dog = watchdog(60);
    let pool = pool(1, Recycle::after_tasks(4));
    let outcomes = pool.map_each(
        |n: u32| {
            if n % 10 == 5 {
                die();
            }
            n
        },
        0..200u32,
    );
    for (n, outcome) in outcomes.unwrap().into_iter().enumerate() {
        match outcome {
            Ok(value) => assert_eq!(value as usize, n),
            Err(error) => assert!(error.is_worker_lost() && n % 10 == 5, "{n}: {error}"),
        }
    }
    let stats = pool.stats();
    assert_eq!(stats.workers_lost, 20);
    assert!(stats.workers_recycled >= 30, "{stats:?}");
}

#[test]
fn bad_policies_are_refused() {
    let build = |policy| Pool::builder().workers(1).recycle(policy).build();
    let error = build(Recycle::after_tasks(0)).unwrap_err();
    assert!(error.is_invalid() && error.to_string().contains("after_tasks"), "{error}");
    let error = build(Recycle::after_tasks(10).jitter(-0.1)).unwrap_err();
    assert!(error.to_string().contains("-0.1"), "{error}");
}

#[cfg(any(debug_assertions, feature = "fault"))]
#[test]
fn child_program() {
    if role().as_deref() == Some("lingering") {
        linger();
    }
}

/// R3 of `pool/leaving.rs`.
#[cfg(any(debug_assertions, feature = "fault"))]
#[test]
fn workers_that_have_left_and_do_not_end_are_killed() {
    succeeds("lingering");
}

#[cfg(any(debug_assertions, feature = "fault"))]
fn linger() {
    const LONGEST: Duration = Duration::from_millis(400);
    procpool::lingering::set_linger(LONGEST);
    fn hang() {
        std::thread::sleep(Duration::from_secs(1000));
    }
    extern "C" fn hang_at_exit() {
        hang();
    }
    // SAFETY: the function lives as long as the program.
    let prepare = |()| assert_eq!(unsafe { libc::atexit(hang_at_exit) }, 0);
    let builder = || Pool::builder().workers(2).name("linger");
    let in_finalizer = || builder().initializer(|()| (), ()).finalizer(|()| hang());
    let at_exit = || builder().initializer(prepare, ());
    let all_go = |what: &str, pids: &[u32], began: Instant| {
        wait_until(what, || pids.iter().all(|pid| parent_of(*pid).is_none()));
        assert!(began.elapsed() >= LONGEST, "{what}: they had {:?}", began.elapsed());
    };
    for (where_it_hangs, pool) in [("finalizer", in_finalizer()), ("exit", at_exit())] {
        let pool = pool.recycle(Recycle::after_tasks(2)).build().unwrap();
        let began = Instant::now();
        let pids = pool.map(|_: u64| process::id(), 0..20).unwrap();
        let spent = calls_by_pid(&pids).into_iter().filter(|(_, calls)| *calls == 2);
        let spent: Vec<u32> = spent.map(|(pid, _)| pid).collect();
        assert!(spent.len() >= 8, "{where_it_hangs}: {pids:?}");
        assert!(spent.iter().any(|pid| is_running(*pid)), "{where_it_hangs}: it does not hang");
        all_go(where_it_hangs, &spent, began);
        // They went by themselves; that they were killed in the end is no loss.
        wait_until("all are counted", || pool.stats().workers_recycled >= spent.len() as u64);
        let stats = pool.stats();
        assert_eq!((stats.workers_lost, stats.workers_killed), (0, 0), "{where_it_hangs}");
        assert_eq!(pool.submit(|n: u8| n, 7).unwrap().join().unwrap(), 7);
    }
    for (where_it_hangs, pool) in [("finalizer", in_finalizer()), ("exit", at_exit())] {
        let pool = pool.build().unwrap();
        let pids = pool.broadcast(|(): ()| process::id(), &()).unwrap();
        let pids: Vec<u32> = pids.into_iter().map(Result::unwrap).collect();
        let began = Instant::now();
        pool.resize(1).unwrap();
        let retired = || pids.iter().filter(|pid| parent_of(**pid).is_none()).count();
        wait_until(where_it_hangs, || retired() == 1);
        assert!(began.elapsed() >= LONGEST, "{where_it_hangs}: {:?}", began.elapsed());
        wait_until("it is counted", || pool.stats().workers_retired == 1);
        assert_eq!(pool.stats().workers_lost, 0, "{where_it_hangs}");
    }
}
