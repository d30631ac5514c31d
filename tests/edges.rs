//! Settings and uses at the edge of what can be asked: times without an end, more workers than slots, several
//! who wait for the same, pools that go while they are in use.

mod support;

use procpool::collections::List;
use procpool::sync::Event;
use procpool::{
    Pool, PoolBuilder, Priority, Process, Recycle, Stdio, TaskOptions, TrySubmitError, wait_all,
    wait_any, worker,
};
use std::collections::HashMap;
use std::io::Read;
use std::sync::mpsc;
use std::time::Duration;
use support::*;

fn builder(workers: usize) -> PoolBuilder {
    Pool::builder().workers(workers).name("edges")
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn nap(ms: u64) -> u64 {
    std::thread::sleep(Duration::from_millis(ms));
    ms
}

/// `Duration::MAX` is how one says "for ever". Adding it to a time that the clock shows is not possible: the
/// supervisor's thread panicked, and everybody who waited for it waited for ever.
#[test]
fn times_without_an_end_can_be_asked_for() {
    let _dog = watchdog(60);
    let for_ever = Duration::MAX;
    let pools = [
        builder(1).task_timeout(for_ever),
        builder(1).task_timeout(ms(5)).task_grace(for_ever),
        builder(1).task_timeout(for_ever).task_grace(for_ever),
        builder(2).idle_timeout(for_ever).workers_min(1),
        builder(1).restart_limit(100, for_ever),
        builder(1).recycle(Recycle::after_age(for_ever)),
    ];
    for pool in pools.map(|builder| builder.build().unwrap()) {
        // Longer than it takes the supervisor to look twice.
        assert_eq!(pool.submit(nap, 30).unwrap().join(), Ok(30));
        let lost = pool.submit(|(): ()| -> u8 { std::process::exit(3) }, ()).unwrap().join();
        assert!(lost.unwrap_err().is_worker_lost());
        assert_eq!(pool.map(nap, [1, 2]).unwrap(), [1, 2]);
        pool.shutdown_timeout(procpool::Shutdown::Drain, for_ever).unwrap();
    }
}

/// A map in the background whose pool has gone waited for workers that did not come.
#[test]
fn a_map_in_the_background_ends_when_its_pool_is_dropped() {
    let _dog = watchdog(60);
    for in_between in [false, true] {
        let (more, asked) = mpsc::channel::<u64>();
        let pool = builder(1).build().unwrap();
        let map = pool.submit_map(nap, asked).unwrap();
        more.send(1).unwrap();
        if in_between {
            wait_until("one has ended", || pool.stats().workers.iter().all(|one| one.calls > 0));
        }
        drop(pool);
        // The input goes on for as long as it is asked.
        while more.send(1).is_ok() {
            std::thread::yield_now();
        }
        assert!(map.join().unwrap_err().is_closed(), "{in_between}");
    }
}

/// Each worker's call took a slot before any was given back.
#[test]
fn a_broadcast_may_have_more_workers_than_there_are_slots() {
    let _dog = watchdog(60);
    let pool = builder(5).queue_capacity(2).build().unwrap();
    let pids = pool.broadcast(|(): ()| std::process::id(), &()).unwrap();
    let mut pids: Vec<u32> = pids.into_iter().map(Result::unwrap).collect();
    pids.sort_unstable();
    pids.dedup();
    assert_eq!(pids.len(), 5);
    pool.check_invariants().unwrap();
}

/// Nobody looked at calls that came by way of a seat.
#[test]
fn a_broadcast_has_a_time_limit() {
    let _dog = watchdog(60);
    let pool = builder(2).task_timeout(ms(20)).build().unwrap();
    nap(20);
    let sleep = |one: Option<usize>| {
        if worker::number() == one { nap(60_000) } else { 0 }
    };
    let outcomes = pool.broadcast(sleep, &Some(1)).unwrap();
    assert!(outcomes[0] == Ok(0) && outcomes[1].as_ref().unwrap_err().is_timed_out());
    let options = TaskOptions::new().timeout(ms(10));
    let outcomes =
        builder(1).build().unwrap().with_options(options).broadcast(nap, &60_000).unwrap();
    assert!(outcomes[0].as_ref().unwrap_err().is_timed_out());
}

/// There was one place for whoever waits for a task: the second took the first one's.
#[test]
fn several_may_wait_for_the_same_tasks() {
    let _dog = watchdog(60);
    let pool = builder(2).build().unwrap();
    for _ in 0..20 {
        let go = Event::new().unwrap();
        let wait = |go: Event| go.wait_timeout(Duration::from_secs(30));
        let tasks =
            [pool.submit(wait, go.clone()).unwrap(), pool.submit(wait, go.clone()).unwrap()];
        std::thread::scope(|scope| {
            let waiting: Vec<_> = (0..4)
                .map(|n| {
                    let tasks = &tasks;
                    scope.spawn(move || match n % 2 {
                        0 => wait_all(tasks, Duration::MAX),
                        _ => wait_any(&tasks[n / 2..], Duration::MAX).is_some(),
                    })
                })
                .collect();
            wait_until("all wait", || go.waiting() == 2);
            nap(1);
            go.set();
            assert!(waiting.into_iter().all(|one| one.join().unwrap()));
        });
        tasks.into_iter().for_each(|task| assert!(task.join().unwrap()));
    }
}

/// It waited for a child that waited for the end of its input.
#[test]
fn joining_a_process_ends_its_input() {
    let _dog = watchdog(60);
    let read = |(): ()| {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).map(|bytes| bytes as u64).unwrap_or(99)
    };
    let start = || Process::builder().stdin(Stdio::Piped).spawn(read, ()).unwrap();
    assert_eq!(start().join(), Ok(0));
    assert_eq!(start().join_timeout(Duration::from_secs(30)).unwrap(), 0);
}

/// One worker lived, and the other was not replaced any more: nobody was told.
#[test]
fn a_pool_is_broken_also_if_some_workers_live() {
    let _dog = watchdog(60);
    let fails = |(): ()| assert!(worker::number() != Some(1), "no device 1");
    let pool = builder(2).initializer(fails, ()).build();
    let Ok(pool) = pool else {
        return assert!(pool.unwrap_err().to_string().contains("no device 1"));
    };
    wait_until("it is given up", || pool.submit(nap, 0).is_err());
    let error = pool.submit(nap, 0).unwrap_err();
    assert!(error.is_broken() && error.to_string().contains("no device 1"), "{error}");
    assert!(pool.resize(3).is_err() && pool.broadcast(nap, &0).is_err());
}

/// Each worker began to count anew, and none lived until the turn of the lowest came. And while both the urgent
/// and the patient waited, the normal ones never had theirs.
#[test]
fn no_priority_starves() {
    let _dog = watchdog(60);
    for policy in [Recycle::default(), Recycle::after_tasks(2)] {
        let pool = builder(1).recycle(policy).build().unwrap();
        let (go, order) = (Event::new().unwrap(), List::<u8>::new().unwrap());
        let first = pool.submit(|go: Event| go.wait(), go.clone()).unwrap();
        let note = |(order, what): (List<u8>, u8)| order.push(&what).unwrap();
        let mut tasks = Vec::new();
        for (priority, what, count) in
            [(Priority::Low, 2, 60), (Priority::Normal, 1, 3), (Priority::High, 0, 200)]
        {
            let options = TaskOptions::new().priority(priority);
            let send = |_| pool.submit_with(options, note, (order.clone(), what)).unwrap();
            tasks.extend((0..count).map(send));
        }
        go.set();
        first.join().unwrap();
        tasks.into_iter().for_each(|task| task.join().unwrap());
        let order = order.to_vec().unwrap();
        let last_urgent = order.iter().rposition(|what| *what == 0).unwrap();
        let before = |wanted| order[..last_urgent].iter().filter(|what| **what == wanted).count();
        assert!(before(1) == 3 && before(2) >= 5, "{policy:?}: {order:?}");
    }
}

/// A chunk of inputs was one call, for whoever counts them.
#[test]
fn what_is_folded_is_counted_call_by_call() {
    let _dog = watchdog(60);
    let pids = |_: u32| HashMap::from([(std::process::id(), 1u32)]);
    let merge = |mut a: HashMap<u32, u32>, b: HashMap<u32, u32>| {
        b.into_iter().for_each(|(pid, count)| *a.entry(pid).or_default() += count);
        a
    };
    let pool = builder(2).recycle(Recycle::after_tasks(3)).build().unwrap();
    let counts = pool.map_reduce(pids, merge, 0..40).unwrap().unwrap();
    assert!(counts.values().sum::<u32>() == 40 && counts.values().all(|count| *count <= 3));
    let pool = builder(1).task_timeout(ms(200)).build().unwrap();
    let sum = pool.map_reduce(nap, |a, b| a + b, [20u64; 30]).unwrap();
    assert_eq!(sum, Some(600), "none of them is late");
}

/// A worker that is too old, or too large, went on to the end of its batch.
#[test]
fn age_and_memory_are_looked_at_after_each_call() {
    let _dog = watchdog(60);
    let pid = |_: u32| {
        nap(5);
        std::process::id()
    };
    let pool = builder(1).recycle(Recycle::after_age(ms(30))).build().unwrap();
    let pids = pool.with_options(TaskOptions::new().batch(40)).map(pid, 0..40).unwrap();
    let mut different = pids.clone();
    different.dedup();
    assert!(different.len() >= 3, "{pids:?}");
    let pool = builder(1).recycle(Recycle::above_memory(64 << 20)).build().unwrap();
    let leak = |_: u32| {
        std::mem::forget(std::hint::black_box(vec![1u8; 80 << 20]));
        std::process::id()
    };
    let before = pool.submit(leak, 0).unwrap().join().unwrap();
    wait_until("it leaves, though nothing is to be done", || pool.stats().workers_recycled == 1);
    let after = pool.submit(|_: u32| std::process::id(), 0).unwrap().join().unwrap();
    assert_ne!(before, after);
}

/// What a retried call ends with says how often it was begun, whatever that is.
#[test]
fn failures_say_how_often_a_call_was_begun() {
    let _dog = watchdog(60);
    let pool = builder(1).build().unwrap();
    let runs = List::<u64>::new().unwrap();
    let options = TaskOptions::new().retries(3);
    let work = |(runs, how): (List<u64>, u64)| -> u64 {
        runs.push(&how).unwrap();
        match (how, runs.len()) {
            (_, 1) => std::process::abort(),
            (0, _) => panic!("again"),
            _ => nap(60_000),
        }
    };
    let error = pool.submit_with(options, work, (runs.clone(), 0)).unwrap().join().unwrap_err();
    assert!(error.is_panic() && error.attempts() == 2, "{error:?}");
    runs.clear();
    let options = options.timeout(ms(300));
    let error = pool.submit_with(options, work, (runs, 1)).unwrap().join().unwrap_err();
    assert!(error.is_timed_out() && error.attempts() == 2, "{error:?}");
}

/// A closed pool made an iterator forget what it had.
#[test]
fn outcomes_that_are_there_come_before_the_end() {
    let _dog = watchdog(60);
    let pool = builder(1).build().unwrap();
    let mut outcomes = pool.imap(nap, std::iter::repeat(1)).unwrap().batch(1).window(8);
    assert_eq!(outcomes.next(), Some(Ok(1)));
    pool.close();
    let rest: Vec<_> = outcomes.by_ref().collect();
    let (last, before) = rest.split_last().unwrap();
    assert!(last.as_ref().unwrap_err().is_pool_closed(), "{last:?}");
    assert!(!before.is_empty() && before.iter().all(Result::is_ok), "{before:?}");
    assert!(outcomes.next().is_none());
}

/// A finaliser was killed after a second, though there was no limit.
#[test]
fn a_shutdown_waits_for_finalizers() {
    let _dog = watchdog(60);
    let done = Event::new().unwrap();
    let make = |done: Event| done;
    let end = |done: Event| {
        nap(1500);
        done.set();
    };
    let pool = builder(1).initializer(make, done.clone()).finalizer(end).build().unwrap();
    assert_eq!(pool.submit(nap, 1).unwrap().join(), Ok(1));
    pool.join().unwrap();
    assert!(done.is_set());
}

#[test]
fn options_go_with_every_verb() {
    let _dog = watchdog(60);
    let pool = builder(2).initializer(|start: u64| start, 7).build().unwrap();
    let options = pool.with_options(TaskOptions::new().timeout(Duration::from_secs(30)).retries(1));
    let add = |state: &mut u64, n: u64| *state + n;
    assert_eq!(options.map_state(add, [1, 2]).unwrap(), [8, 9]);
    assert_eq!(options.map_state_each(add, [1]).unwrap(), [Ok(8)]);
    assert_eq!(options.submit_state(add, 3).unwrap().join(), Ok(10));
    options.for_each(|n: u64| assert!(n < 9), 0..9).unwrap();
    assert!(options.for_each(|n: u64| assert!(n < 5), 0..9).is_err());
    let table = vec![3u64, 4];
    let squares = pool.with(&table).imap(|table: &Vec<u64>, n: usize| table[n] * table[n], [0, 1]);
    assert_eq!(squares.unwrap().map(Result::unwrap).collect::<Vec<_>>(), [9, 16]);
    assert_eq!(options.map_reduce(|n: u64| n, |a, b| a + b, 0..100).unwrap(), Some(4950));
    assert_eq!(options.submit_map(|n: u64| n + 1, [1, 2]).unwrap().join().unwrap(), [2, 3]);
    let soon = Duration::from_secs(30);
    assert_eq!(options.submit_timeout(|n: u64| n, 5, soon).unwrap().join(), Ok(5));
    // The limit is for each input, not for all that are folded together.
    let limited = pool.with_options(TaskOptions::new().timeout(Duration::from_millis(200)));
    assert_eq!(limited.map_reduce(nap, |a, b| a + b, vec![50; 10]).unwrap(), Some(500));
    let late = limited.map_reduce(nap, |a, b| a + b, [1, 60_000, 1]).unwrap_err();
    assert!(late.is_timed_out() && late.task_error().unwrap().index() == Some(1), "{late}");
    let late = limited.submit_map(nap, [1, 60_000]).unwrap().join().unwrap_err();
    assert!(late.is_timed_out(), "{late}");
    let late = limited.submit_timeout(nap, 60_000, soon).unwrap().join().unwrap_err();
    assert!(late.is_timed_out(), "{late}");
    let nonsense = pool.with_options(TaskOptions::new().timeout(Duration::ZERO));
    assert!(nonsense.map_reduce(nap, |a, b| a + b, [1]).is_err_and(|error| error.is_invalid()));
    assert!(nonsense.submit_map(nap, [1]).is_err_and(|error| error.is_invalid()));
    let refused = nonsense.submit_timeout(nap, 1, soon).unwrap_err();
    assert!(matches!(refused, TrySubmitError::Failed(1, _)), "{refused:?}");
    assert!(nonsense.map_state(add, [1]).is_err() && nonsense.broadcast(nap, &1).is_err());
    assert!(nonsense.for_each(|_: u8| (), [1]).is_err());
}
