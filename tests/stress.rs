//! Load with random deaths: 100,000 tasks submitted by 8 threads to 2 workers that are killed at
//! random; every handle is resolved and every value that arrives is right.
//!
//! `PROCPOOL_STRESS_SEED` repeats a run's choices; the seed is printed.

mod support;

use procpool::{Pool, TaskHandle};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use support::*;

/// Arguments and results that are inline, in blocks, and outgrow their blocks.
fn answer(n: u64) -> Vec<u64> {
    vec![n.wrapping_mul(31); (n % 97) as usize]
}

fn work(pool: &Pool, thread: u64, tasks: u64) -> u64 {
    let mut lost = 0;
    let mut under_way: VecDeque<(u64, TaskHandle<Vec<u64>>)> = VecDeque::new();
    let mut finish = |(n, task): (u64, TaskHandle<Vec<u64>>)| match task.join() {
        Ok(value) => assert_eq!(value, answer(n)),
        Err(error) => {
            assert!(error.is_worker_lost(), "{error}");
            lost += 1;
        }
    };
    for task in 0..tasks {
        let n = thread * tasks + task;
        let handle = pool.submit(answer, n).unwrap();
        if n.is_multiple_of(11) {
            // Nobody will ask for this one.
            drop(handle);
            continue;
        }
        under_way.push_back((n, handle));
        if under_way.len() > 200 {
            under_way.drain(..100).for_each(&mut finish);
        }
    }
    under_way.drain(..).for_each(&mut finish);
    lost
}

#[test]
fn every_handle_is_resolved_while_workers_are_killed_at_random() {
    let _dog = watchdog(600);
    let mut random = Random(seed());
    let pool = Pool::builder().workers(2).name("stress").queue_capacity(1024).build().unwrap();
    let (over, kills) = (AtomicBool::new(false), AtomicU64::new(0));
    let lost = std::thread::scope(|scope| {
        let (pool, over, kills) = (&pool, &over, &kills);
        scope.spawn(move || {
            while !over.load(Relaxed) {
                std::thread::sleep(Duration::from_micros(random.next() % 20_000));
                let workers = workers_of(std::process::id(), "stress");
                if let Some(pid) = workers.get(random.next() as usize % workers.len().max(1)) {
                    kill(*pid, libc::SIGKILL);
                    kills.fetch_add(1, Relaxed);
                }
            }
        });
        let threads: Vec<_> =
            (0..8).map(|thread| scope.spawn(move || work(pool, thread, 12_500))).collect();
        let lost: u64 = threads.into_iter().map(|thread| thread.join().unwrap()).sum();
        over.store(true, Relaxed);
        lost
    });
    let kills = kills.load(Relaxed);
    println!("{kills} kills took {lost} of 100000 tasks");
    assert!(lost <= kills, "a kill takes one task at most: {lost} lost by {kills}");
    assert!(kills > 5);
    wait_until("the pool is whole", || pool.check_invariants().is_ok());
    assert_eq!(pool.submit(answer, 50).unwrap().join().unwrap(), answer(50));
}

#[test]
fn maps_are_complete_while_workers_and_guardians_are_killed_at_random() {
    let _dog = watchdog(600);
    let mut random = Random(seed());
    let pool = Pool::builder().workers(2).name("mapstress").build().unwrap();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (pool, over) = (&pool, &over);
        scope.spawn(move || {
            while !over.load(Relaxed) {
                std::thread::sleep(Duration::from_micros(random.next() % 30_000));
                let guardian = guardian_of(std::process::id());
                let workers = workers_of(std::process::id(), "mapstress");
                let chosen = match random.next() % 8 {
                    0 => guardian,
                    choice => workers.get(choice as usize % 2).copied(),
                };
                if let Some(pid) = chosen {
                    kill(pid, libc::SIGKILL);
                }
            }
        });
        for round in 0..60u64 {
            let text = |n: u64| n.to_string();
            let outcomes = pool.map_each(text, 0..20_000u64).unwrap();
            assert_eq!(outcomes.len(), 20_000);
            for (n, outcome) in outcomes.into_iter().enumerate() {
                match outcome {
                    Ok(value) => assert_eq!(value, n.to_string()),
                    Err(error) => assert!(error.is_worker_lost(), "round {round}: {error}"),
                }
            }
        }
        over.store(true, Relaxed);
    });
    wait_until("the pool is whole", || pool.check_invariants().is_ok());
}
