//! Memory, descriptors and CPU: bounded under load, constant over time, nothing when idle.
//!
//! One test at a time, because they measure this process; the small arenas are in programs of their
//! own.

mod support;

use procpool::{Pool, TaskHandle};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use support::*;

static ALONE: Mutex<()> = Mutex::new(());

#[test]
fn ten_thousand_maps_leave_no_descriptor_and_no_memory_behind() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let _dog = watchdog(300);
    let pool = Pool::builder().workers(2).build().unwrap();
    let round = |n: u64| {
        assert_eq!(pool.map(|x: u64| x.to_string(), 0..20u64).unwrap().len(), 20);
        assert_eq!(pool.submit(|x: u64| vec![x; 100], n).unwrap().join().unwrap()[0], n);
    };
    (0..500).for_each(round);
    wait_until("the pool is whole", || pool.check_invariants().is_ok());
    let (descriptors, resident) = (open_descriptors(), resident_bytes());
    let used = pool.stats().arena_used_bytes;
    (0..10_000).for_each(round);
    wait_until("the pool is whole", || pool.check_invariants().is_ok());
    assert_eq!(open_descriptors(), descriptors);
    assert_eq!(pool.stats().arena_used_bytes, used);
    let grown = resident_bytes().saturating_sub(resident);
    assert!(grown < 4 << 20, "{grown} bytes more after 10,000 maps");
}

#[test]
fn pools_come_and_go_without_a_trace() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let _dog = watchdog(300);
    let round = || {
        let pool = Pool::builder().workers(2).build().unwrap();
        assert_eq!(pool.map(|x: u64| x, 0..3u64).unwrap(), [0, 1, 2]);
        let below = descendants(std::process::id());
        assert_eq!(below.len(), 3, "a guardian and two workers");
        drop(pool);
        assert!(descendants(std::process::id()).is_empty(), "not even a zombie");
    };
    (0..3).for_each(|_| round());
    let descriptors = open_descriptors();
    (0..50).for_each(|_| round());
    assert_eq!(open_descriptors(), descriptors);
}

#[test]
fn an_idle_pool_uses_no_cpu() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let _dog = watchdog(60);
    let pool = Pool::builder().workers(4).build().unwrap();
    pool.map(|x: u64| x, 0..1000u64).unwrap();
    std::thread::sleep(Duration::from_millis(50));
    let everybody: Vec<u32> =
        descendants(std::process::id()).into_iter().chain([std::process::id()]).collect();
    assert_eq!(everybody.len(), 6);
    let before: u64 = everybody.iter().map(|pid| cpu_ticks(*pid)).sum();
    std::thread::sleep(Duration::from_secs(1));
    let after: u64 = everybody.iter().map(|pid| cpu_ticks(*pid)).sum();
    assert_eq!(after - before, 0, "clock ticks of 10 ms in a second of idleness");
    drop(pool);
}

#[test]
fn no_descriptor_of_ours_reaches_the_users_own_children() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let _dog = watchdog(60);
    let list = || {
        let output =
            std::process::Command::new("ls").args(["-l", "/proc/self/fd"]).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        text.lines()
            .filter(|line| line.contains("memfd:procpool") || line.contains("socket:"))
            .count()
    };
    let before = list();
    let pool = Pool::builder().workers(2).build().unwrap();
    assert_eq!(list(), before);
    assert!(std::env::var_os("PROCPOOL_GUARDIAN").is_none());
    drop(pool);
}

#[test]
fn an_argument_of_a_gibibyte_crosses() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let _dog = watchdog(300);
    let pool = Pool::builder().workers(1).build().unwrap();
    if pool.stats().arena_capacity_bytes < 3 << 30 {
        let error = pool.submit(|bytes: Vec<u8>| bytes.len(), vec![7; 1 << 30]).unwrap_err();
        assert!(error.is_arena_full(), "{error}");
        return;
    }
    let sum =
        |bytes: Vec<u8>| (bytes.len(), bytes.iter().step_by(4096).map(|b| u64::from(*b)).sum());
    let task: TaskHandle<(usize, u64)> = pool.submit(sum, vec![7; 1 << 30]).unwrap();
    assert_eq!(task.join().unwrap(), (1 << 30, 7 << 18));
    drop(pool);
}

/// Not a test of its own: programs with an arena of 8 MiB.
#[test]
fn child_program() {
    let Some(role) = role() else { return };
    let _dog = watchdog(100);
    if role == "environment" {
        let pool = Pool::builder().workers(1).build().unwrap();
        let text = Pool::builder().arena_bytes(8 << 20).build().unwrap_err().to_string();
        assert!(text.contains(&(20 << 20).to_string()), "{text}");
        drop(pool);
        println!("done");
        return;
    }
    let pool = Pool::builder().workers(1).arena_bytes(8 << 20).queue_capacity(64).build().unwrap();
    let capacity = pool.stats().arena_capacity_bytes;
    let idle_bytes = pool.stats().arena_used_bytes;
    match &*role {
        "asks" => {
            let error = pool.submit(|v: Vec<u8>| v.len(), vec![0; 9 << 20]).unwrap_err();
            assert!(error.is_arena_full());
            let text = error.to_string();
            for number in [9 << 20, capacity - idle_bytes, capacity] {
                assert!(text.contains(&number.to_string()), "{number}: {text}");
            }
            let other = Pool::builder().arena_bytes(16 << 20).build().unwrap_err().to_string();
            assert!(
                other.contains(&(16 << 20).to_string()) && other.contains(&(8 << 20).to_string())
            );
        }
        "fills" => {
            // One slow worker, large arguments: the submitter gets errors, and nothing is lost.
            let slow = |v: Vec<u8>| {
                std::thread::sleep(Duration::from_millis(5));
                v.len()
            };
            let (mut tasks, mut refused) = (Vec::new(), 0);
            for n in 0..200usize {
                match pool.submit(slow, vec![1; 500_000 + n]) {
                    Ok(task) => tasks.push((500_000 + n, task)),
                    Err(error) => {
                        assert!(error.is_arena_full(), "{error}");
                        refused += 1;
                        std::thread::sleep(Duration::from_millis(2));
                    }
                }
            }
            assert!(refused > 0);
            tasks.into_iter().for_each(|(bytes, task)| assert_eq!(task.join(), Ok(bytes)));
        }
        "maps" => {
            // 500 MB through 8 MiB: the map waits for room.
            let inputs = (0..500usize).map(|n| vec![n as u8; 1_000_000]);
            let sums = pool.map(|v: Vec<u8>| v[v.len() / 2], inputs).unwrap();
            assert!(sums.iter().enumerate().all(|(n, byte)| *byte == n as u8));
            let results = pool.map_each(|n: usize| vec![n; 40_000], 0..300usize).unwrap();
            let good = results.iter().filter(|result| result.is_ok()).count();
            assert!(good > 0);
            for (n, result) in results.into_iter().enumerate() {
                match result {
                    Ok(vector) => assert_eq!(vector, vec![n; 40_000]),
                    Err(error) => {
                        assert!(error.is_codec() && error.to_string().contains("arena is full"))
                    }
                }
            }
            let too_long =
                pool.submit(|n: usize| vec![0u8; n], 9 << 20).unwrap().join().unwrap_err();
            assert!(too_long.to_string().contains("arena is full"), "{too_long}");
        }
        "leaks" => {
            // A task that allocates until it is stopped, here by a limit on its address space.
            let leak = |limit: u64| {
                let limit = libc::rlimit { rlim_cur: limit, rlim_max: limit };
                // SAFETY: sets a limit of this worker process only.
                unsafe { libc::setrlimit(libc::RLIMIT_AS, &raw const limit) };
                let mut hoard: Vec<Vec<u8>> = Vec::new();
                loop {
                    hoard.push(vec![1; 1 << 20]);
                }
            };
            let task: TaskHandle<()> = pool.submit(leak, 1 << 30).unwrap();
            assert!(task.join().unwrap_err().is_worker_lost());
        }
        other => panic!("no role {other}"),
    }
    assert_eq!(pool.submit(|n: u64| n + 1, 1).unwrap().join(), Ok(2), "the pool still works");
    wait_until("the pool is whole", || pool.check_invariants().is_ok());
    assert_eq!(pool.stats().arena_used_bytes, idle_bytes);
    println!("done");
}

fn in_small_arena(role: &str) {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = tempfile::tempdir().unwrap();
    let mut program = program_in_role(role, folder.path());
    program.env("PROCPOOL_ARENA_BYTES", (20 << 20).to_string());
    let (status, text, errors) = run_to_end(&mut program);
    assert!(status.success() && text.contains("done"), "{text}{errors}");
}

#[test]
fn a_full_arena_is_an_error_with_numbers() {
    in_small_arena("asks");
}

#[test]
fn the_environment_variable_sizes_the_arena_and_the_builder_comes_first() {
    in_small_arena("environment");
}

#[test]
fn one_slow_worker_does_not_let_memory_grow() {
    in_small_arena("fills");
}

#[test]
fn a_map_larger_than_the_arena_goes_through_it() {
    in_small_arena("maps");
}

#[test]
fn a_task_that_allocates_until_it_is_killed_takes_nobody_with_it() {
    in_small_arena("leaks");
}
