//! Initialisers, finalisers, the state between them, and pools whose workers keep dying.

mod support;

use procpool::collections::{Dict, List};
use procpool::sync::Semaphore;
use procpool::{Pool, PoolBuilder, Recycle};
use std::collections::HashSet;
use std::process;
use std::time::{Duration, Instant};
use support::*;

fn builder(workers: usize) -> PoolBuilder {
    Pool::builder().workers(workers).name("start")
}

#[derive(Debug)]
struct Counter {
    first: u64,
    calls: u64,
}

#[test]
fn each_worker_has_a_state_of_its_own_that_tasks_change() {
    let begin = |first: u64| Counter { first, calls: 0 };
    let pool = builder(2).initializer(begin, 100).build().unwrap();
    let count = |counter: &mut Counter, n: u64| {
        counter.calls += 1;
        assert!(n != 50, "fifty");
        (process::id(), counter.first + counter.calls)
    };
    let outcomes = pool.map_state_each(count, 0..400u64).unwrap();
    assert_eq!(outcomes[50].as_ref().unwrap_err().panic_message(), Some("fifty"));
    let seen: HashSet<(u32, u64)> = outcomes.into_iter().filter_map(Result::ok).collect();
    assert_eq!(seen.len(), 399, "each call found the state as the one before had left it");
    let total = |counter: &mut Counter, (): ()| counter.calls;
    assert!(pool.submit_state(total, ()).unwrap().join().unwrap() <= 400);
    assert_eq!(pool.map_state(|_: &mut Counter, n: u8| n, [1, 2]).unwrap(), [1, 2]);
    assert_eq!(pool.map(|n: u8| n, [3]).unwrap(), [3], "and tasks without it run as ever");
}

#[test]
fn a_state_of_another_type_or_none_fails_the_call_and_names_both() {
    let pool = builder(1).initializer(|(): ()| String::new(), ()).build().unwrap();
    let error = pool.map_state(|_: &mut Vec<u8>, n: u8| n, [1]).unwrap_err().to_string();
    assert!(error.contains("Vec<u8>") && error.contains("String"), "{error}");
    let pool = builder(1).build().unwrap();
    let error = pool.submit_state(|_: &mut u8, n: u8| n, 1).unwrap().join().unwrap_err();
    assert!(error.is_codec() && error.to_string().contains("no initializer"), "{error}");
}

#[test]
fn the_argument_may_carry_handles_and_is_there_for_every_worker() {
    let (log, permits) = (List::<u32>::new().unwrap(), Semaphore::new(2).unwrap());
    let begin = |(log, permits): (List<u32>, Semaphore)| {
        log.push(&process::id()).unwrap();
        permits
    };
    let policy = Recycle::after_tasks(10);
    let pool = builder(2).initializer(begin, (log.clone(), permits.clone())).recycle(policy);
    let pool = pool.build().unwrap();
    let use_it = |permits: &mut Semaphore, n: u64| {
        let _permit = permits.acquire();
        n
    };
    assert_eq!(pool.map_state(use_it, 0..200u64).unwrap().len(), 200);
    let begun: HashSet<u32> = log.to_vec().unwrap().into_iter().collect();
    assert!(begun.len() >= 20 && begun.len() == log.len(), "{}", log.len());
    drop(pool);
    assert_eq!(permits.available(), 2);
}

#[test]
fn a_finaliser_runs_when_a_worker_leaves_by_itself() {
    let ends = Dict::<u32, u64>::new().unwrap();
    let begin = |ends: Dict<u32, u64>| (ends, 0u64);
    let end = |(ends, calls): (Dict<u32, u64>, u64)| {
        ends.insert(&process::id(), &calls).unwrap();
    };
    let pool = builder(2).initializer(begin, ends.clone()).finalizer(end);
    let pool = pool.recycle(Recycle::after_tasks(30)).build().unwrap();
    let count = |(_, calls): &mut (Dict<u32, u64>, u64), (): ()| *calls += 1;
    pool.map_state(count, [(); 100]).unwrap();
    pool.join().unwrap();
    let calls = ends.values().unwrap();
    assert_eq!(calls.iter().sum::<u64>(), 100, "{calls:?}");
    assert!(calls.iter().all(|calls| *calls <= 30), "{calls:?}");
    // Of another type than the state, or without one.
    let error = builder(1).finalizer(|_: u8| ()).build().unwrap_err();
    assert!(error.is_invalid() && error.to_string().contains("u8"), "{error}");
    let error = builder(1).initializer(|n: u8| n, 1).finalizer(|_: u16| ()).build().unwrap_err();
    assert!(error.to_string().contains("u16") && error.to_string().contains("u8"), "{error}");
}

#[test]
fn an_initialiser_that_fails_breaks_the_pool_after_a_bounded_number_of_tries() {
    let _dog = watchdog(60);
    let tries = List::<u32>::new().unwrap();
    let refuse = |tries: List<u32>| -> Result<u8, String> {
        tries.push(&process::id()).unwrap();
        Err("the model is missing".into())
    };
    let panic = |tries: List<u32>| -> u8 {
        tries.push(&process::id()).unwrap();
        panic!("the model is missing")
    };
    let abort = |tries: List<u32>| -> u8 {
        tries.push(&process::id()).unwrap();
        std::process::abort()
    };
    let builders = [
        (builder(2).try_initializer(refuse, tries.clone()), "the model is missing"),
        (builder(2).initializer(panic, tries.clone()), "the model is missing"),
        (builder(2).initializer(abort, tries.clone()), "signal 6"),
    ];
    for (builder, cause) in builders {
        let start = Instant::now();
        tries.clear();
        let error = match builder.build() {
            Ok(pool) => {
                let error = pool.map(|n: u8| n, [1]).unwrap_err();
                assert!(pool.submit(|n: u8| n, 1).unwrap_err().is_broken());
                error
            }
            Err(error) => error,
        };
        let text = error.to_string();
        assert!(text.contains(cause) && text.contains("broken"), "{text}");
        assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
        assert!((10..=14).contains(&tries.len()), "{} tries", tries.len());
    }
}

#[test]
fn one_that_fails_now_and_then_is_tried_again() {
    let _dog = watchdog(60);
    let tries = List::<u32>::new().unwrap();
    let begin = |tries: List<u32>| -> Result<u8, String> {
        tries.push(&process::id()).unwrap();
        if tries.len().is_multiple_of(3) { Ok(7) } else { Err("not yet".into()) }
    };
    let pool = builder(1).try_initializer(begin, tries.clone()).build().unwrap();
    assert_eq!(pool.map_state(|state: &mut u8, n: u8| *state + n, [1]).unwrap(), [8]);
    assert_eq!(tries.len(), 3);
}

#[test]
fn an_argument_that_cannot_be_decoded_is_told() {
    #[derive(serde::Serialize)]
    struct Strict(u8);
    impl<'de> serde::Deserialize<'de> for Strict {
        fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
            u8::deserialize(from)?;
            Err(serde::de::Error::custom("never"))
        }
    }
    let pool = builder(1).initializer(|strict: Strict| strict.0, Strict(1)).build().unwrap();
    let error = pool.map(|n: u8| n, [1]).unwrap_err().to_string();
    assert!(error.contains("Strict") && error.contains("argument"), "{error}");
}

#[test]
fn a_crash_loop_ends_and_says_what_of() {
    let _dog = watchdog(60);
    let pool = builder(2).restart_limit(8, Duration::from_secs(5)).build().unwrap();
    let outcomes = pool.map_each(|_: u32| -> u32 { die_of() }, 0..1000u32).unwrap();
    let lost = outcomes.iter().filter(|outcome| outcome.as_ref().unwrap_err().is_worker_lost());
    let lost = lost.count();
    assert!((8..=9).contains(&lost), "{lost} calls were lost");
    let last = outcomes.last().unwrap().as_ref().unwrap_err();
    let text = last.to_string();
    assert!(last.is_pool_closed() && text.contains("workers died within 5s"), "{text}");
    assert!(text.contains("signal 6"), "{text}");
    assert!(pool.submit(|n: u8| n, 1).unwrap_err().is_broken());
    // Workers that have ended a task do not count.
    let pool = builder(1).restart_limit(2, Duration::from_secs(60)).build().unwrap();
    for _ in 0..6 {
        assert_eq!(pool.submit(|n: u8| n, 1).unwrap().join().unwrap(), 1);
        assert!(pool.submit(|_: u8| die(), 1).unwrap().join().unwrap_err().is_worker_lost());
    }
    for (deaths, window) in [(0, Duration::from_secs(1)), (1, Duration::ZERO)] {
        let error = builder(1).restart_limit(deaths, window).build().unwrap_err();
        assert!(error.is_invalid() && error.to_string().contains("restart_limit"), "{error}");
    }
}

fn die_of() -> u32 {
    die();
    0
}
