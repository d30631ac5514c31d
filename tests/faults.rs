//! Walks through every fault point: one process is killed exactly there, exactly once, and every
//! task still ends as it must.
//!
//! Each point runs in a program of its own (this binary in a role), because the point is armed in
//! the arena, and because the points of the user's process end that program.
#![cfg(any(debug_assertions, feature = "fault"))]

mod support;

use procpool::{Pool, Priority, Recycle, TaskHandle, TaskOptions, WorkerExit, fault};
use std::os::unix::process::ExitStatusExt;
use std::time::{Duration, Instant};
use support::*;

/// Tasks of all kinds: short and long results, failures, a context, sleeping and searching workers.
fn mixed(pool: &Pool, round: u64) -> u32 {
    let mut lost = 0;
    let mut count = |error: &procpool::TaskError| {
        assert!(error.is_worker_lost() || error.is_panic(), "{error}");
        lost += u32::from(error.is_worker_lost());
    };
    // Varying results that outgrow their block, and a panic among them.
    let grow = |n: usize| {
        assert!(n != 13, "thirteen");
        vec![n.to_string(); (n % 7) * 40]
    };
    for (n, outcome) in pool.map_each(grow, 0..60usize).unwrap().iter().enumerate() {
        match outcome {
            Ok(value) => assert!(n != 13 && *value == vec![n.to_string(); (n % 7) * 40]),
            Err(error) => count(error),
        }
    }
    for (n, outcome) in pool.map_each(|n: u64| n * 2, 0..500u64).unwrap().iter().enumerate() {
        match outcome {
            Ok(value) => assert_eq!(*value, n as u64 * 2),
            Err(error) => count(error),
        }
    }
    let tasks: Vec<TaskHandle<String>> =
        (0..40).map(|n: u64| pool.submit(|n: u64| n.to_string().repeat(30), n).unwrap()).collect();
    for (n, task) in tasks.into_iter().enumerate() {
        match task.join() {
            Ok(text) => assert_eq!(text, n.to_string().repeat(30)),
            Err(error) => count(&error),
        }
    }
    let table = vec![round; 100];
    let shared = pool.with(&table);
    for outcome in shared.map_each(|table: &Vec<u64>, n: usize| table[n], 0..50usize).unwrap() {
        match outcome {
            Ok(value) => assert_eq!(value, round),
            Err(error) => count(&error),
        }
    }
    // Lets the workers sleep, so that the next submit has to wake one.
    std::thread::sleep(Duration::from_millis(1));
    match pool.submit(|n: u64| n, round).unwrap().join() {
        Ok(value) => assert_eq!(value, round),
        Err(error) => count(&error),
    }
    // The other ways to a worker: its seat, and the rings of the other priorities.
    for outcome in pool.broadcast(|n: u64| n, &round).unwrap() {
        match outcome {
            Ok(value) => assert_eq!(value, round),
            Err(error) => count(&error),
        }
    }
    for priority in [Priority::High, Priority::Low] {
        let options = TaskOptions::new().priority(priority);
        match pool.submit_with(options, |n: u64| n, round).unwrap().join() {
            Ok(value) => assert_eq!(value, round),
            Err(error) => count(&error),
        }
    }
    lost
}

/// Work that passes every point of the task path: also a worker that ends by itself.
fn work(pool: &Pool, round: u64) -> u32 {
    let lost = mixed(pool, round);
    // A worker that ends takes the guardian through reaping and forking.
    let ended = pool.submit(leave, ()).unwrap().join();
    let error: procpool::TaskError = ended.unwrap_err();
    assert!(error.is_worker_lost());
    if role().is_some_and(|role| role.starts_with("guardian.reap")) {
        // It ended by itself: who cannot tell how must not say that it was killed.
        let exit = error.worker_exit();
        assert!(matches!(exit, Some(WorkerExit::Code(0) | WorkerExit::Unknown)), "{error}");
    }
    lost
}

fn leave(_: ()) {
    std::process::exit(0)
}

/// Rounds of [`work`] until it comes to a pass; after these, rounds that take less time, for those that are seldom.
const ROUNDS: u64 = 30;
const ROUNDS_OF_MANY: u64 = 400;

/// What passes the points that [`work`] passes once or twice: another guardian, another worker, a broadcast, a failure,
/// a batch that is given back.
fn work_on_seldom_things(pool: &Pool, point: &str, round: u64) -> u32 {
    let mut lost = 0;
    if OF_A_GUARDIANS_START.contains(&point) {
        // None, if it has just died there.
        let guardian = guardian_of(std::process::id());
        guardian.into_iter().for_each(|pid| kill(pid, libc::SIGKILL));
        let is_another = |pid: u32| Some(pid) != guardian && is_running(pid);
        wait_until("there is another guardian", || {
            guardian_of(std::process::id()).is_some_and(is_another)
        });
    } else {
        assert!(pool.submit(leave, ()).unwrap().join().unwrap_err().is_worker_lost());
    }
    let grow_or_fail = |n: usize| {
        assert!(n != 13, "thirteen");
        vec![n.to_string(); (n % 7) * 40]
    };
    for outcome in pool.map_each(grow_or_fail, 0..30).unwrap() {
        lost += u32::from(outcome.is_err_and(|error| error.is_worker_lost()));
    }
    for outcome in pool.broadcast(|n: u64| n, &round).unwrap() {
        lost += u32::from(outcome.is_err_and(|error| error.is_worker_lost()));
    }
    lost
}

/// Points at which a worker's death costs the call that it is running; at all others, nothing.
const IN_A_CALL: &[&str] = &[
    "worker.call-started",
    "worker.argument-decoded",
    "worker.call-returned",
    "worker.result-encoded",
    "worker.output-grown",
    "worker.output-published",
];

/// Points that a guardian passes once.
const OF_A_GUARDIANS_START: &[&str] =
    &["guardian.folder-made", "guardian.invited", "guardian.connected", "guardian.ready"];

/// Points that only workers pass which are recycled, or their successors.
const OF_RECYCLING: &[&str] = &[
    "worker.waiting-for-turn",
    "worker.ending",
    "worker.leaving",
    "worker.left",
    "worker.giving-back",
    "worker.given-back",
    "worker.queued-again",
];

/// Not a test of its own: the program that the tests below run.
#[test]
fn child_program() {
    let Some(role) = role() else { return };
    match &*role {
        HARVEST => return harvest_behind_a_joiner(),
        STOPPED => return submit_past_a_stopped_worker(),
        STORES => return die_before_each_store(),
        SEARCHER => return submit_past_a_stopped_searcher(),
        _ => {}
    }
    let (point, skip) = role.split_once(' ').unwrap();
    let skip: u32 = skip.parse().unwrap();
    let early = point.starts_with("guardian") || point.starts_with("worker.attach");
    if early {
        fault::arm(point, skip).unwrap();
    }
    let recycles = OF_RECYCLING.contains(&point);
    let policy = if recycles { Recycle::after_tasks(23) } else { Recycle::default() };
    // All slots are looked at now and then.
    let builder = Pool::builder().workers(2).name("faulty").queue_capacity(64);
    let pool = builder.recycle(policy).build().unwrap();
    work(&pool, 1);
    wait_until("the pool is whole", || pool.check_invariants().is_ok());
    // Early points may have left their mark already: what is held then is checked by the others.
    let used_at_first = pool.stats().arena_used_bytes;
    if !early {
        fault::arm(point, skip).unwrap();
    }
    let mut lost = 0;
    for round in 0..ROUNDS_OF_MANY {
        // For a late pass, nobody waits for the slow ones.
        lost += match round < if skip < 99 { ROUNDS } else { ROUNDS / 10 } {
            true => work(&pool, round),
            false => work_on_seldom_things(&pool, point, round),
        };
        if fault::fired().is_some() {
            break;
        }
    }
    let fired = fault::fired();
    fault::disarm();
    // A guardian that died over the last request of a round takes its workers with it in this one.
    lost += work(&pool, 30);
    let expected = match fired {
        None => 0..=0,
        // One running call per worker.
        Some(point) if point.starts_with("guardian") => 0..=2,
        // The process may be in a call or not.
        Some(point) if point.starts_with("alloc") => 0..=1,
        Some(point) if IN_A_CALL.contains(&point) => 1..=1,
        Some(_) => 0..=0,
    };
    assert!(expected.contains(&lost), "{point}: {lost} calls lost, not {expected:?}");
    for round in 0..3 {
        assert_eq!(work(&pool, round), 0, "{point}");
    }
    wait_until("the pool is whole", || pool.check_invariants().is_ok());
    let used = pool.stats().arena_used_bytes;
    assert_eq!(used, used_at_first, "{point}: bytes in the arena");
    pool.join().unwrap();
    println!("fired: {}", fired.unwrap_or("none"));
}

const HARVEST: &str = "harvest";
const STOPPED: &str = "stopped";
const STORES: &str = "stores";
const SEARCHER: &str = "searcher";

/// A worker is stopped with a cell that it has claimed, until the ring is full behind it: who submits has it
/// killed, which costs no task.
fn submit_past_a_stopped_worker() {
    let pool = Pool::builder().workers(2).queue_capacity(4).build().unwrap();
    for round in 1..=2 {
        fault::arm_stop("worker.cell-claimed", 0).unwrap();
        // The first is its own; the others go on round the ring.
        let first = pool.submit(|n: u64| n, 77).unwrap();
        wait_until("a worker is stopped", || fault::fired().is_some());
        for n in 0..40 {
            assert_eq!(pool.submit(|n: u64| n, n).unwrap().join(), Ok(n));
        }
        assert_eq!(first.join(), Ok(77));
        assert_eq!(pool.stats().workers_lost, round);
        pool.check_invariants().unwrap();
    }
}

#[test]
fn a_worker_that_is_stopped_with_a_cell_of_the_ring_does_not_hold_up_who_submits() {
    let _dog = watchdog(60);
    let folder = tempfile::tempdir().unwrap();
    let (status, text, errors) = run_to_end(&mut program_in_role(STOPPED, folder.path()));
    assert!(status.success(), "{text}{errors}");
}

/// A worker dies between ending a task and waking who sleeps for that; before it is settled, another thread
/// that needs the slot sets the result aside.
fn harvest_behind_a_joiner() {
    let nap = |ms: u64| {
        std::thread::sleep(Duration::from_millis(ms));
        ms
    };
    let pool = Pool::builder().workers(1).queue_capacity(1).build().unwrap();
    assert_eq!(pool.submit(nap, 0).unwrap().join(), Ok(0));
    for _ in 0..20 {
        fault::arm("worker.done", 0).unwrap();
        let task = pool.submit(nap, 20).unwrap();
        let next = std::thread::scope(|scope| {
            let joiner = scope.spawn(|| task.join());
            let next = loop {
                if let Ok(next) = pool.try_submit(nap, 1) {
                    break next;
                }
            };
            assert_eq!(joiner.join().unwrap(), Ok(20));
            next
        });
        assert_eq!((fault::fired(), next.join()), (Some("worker.done"), Ok(1)));
    }
}

#[test]
fn who_sleeps_for_a_task_hears_of_its_end_though_its_slot_is_another_tasks() {
    let _dog = watchdog(60);
    let folder = tempfile::tempdir().unwrap();
    let (status, text, errors) = run_to_end(&mut program_in_role(HARVEST, folder.path()));
    assert!(status.success(), "{text}{errors}");
}

/// Runs the program with one point armed; whether it fired.
fn walk(point: &str, skip: u32, temporary: &std::path::Path) -> bool {
    let mut program = program_in_role(&format!("{point} {skip}"), temporary);
    let (status, text, errors) = run_to_end(&mut program);
    if point.starts_with("main.") || (point.starts_with("alloc.") && !status.success()) {
        assert_eq!(status.signal(), Some(libc::SIGKILL), "{point} {skip}: {text}{errors}");
        return true;
    }
    assert!(status.success(), "{point} {skip}: {text}{errors}");
    let fired = text.contains(&format!("fired: {point}"));
    assert!(fired || text.contains("fired: none"), "{point} {skip}: {text}{errors}");
    fired
}

/// The passes of each point at which a process is killed there, without exceptions.
const PASSES: [u32; 4] = [1, 2, 8, 100];
/// Passes besides of the points of output: those are in batches of several calls.
const PASSES_OF_OUTPUT: [u32; 2] = [21, 51];

/// Walks the points of a pool, several programs at a time: they wait for deaths most of the time.
#[test]
fn every_point_may_be_the_last_of_a_process() {
    let _dog = watchdog(900);
    let only = std::env::var("PROCPOOL_FAULT_POINT").ok();
    // The points from the objects on are walked through by `sync_faults.rs`.
    let of_pools = fault::POINTS.iter().take_while(|point| !point.starts_with("objects."));
    let points = of_pools.filter(|point| only.as_ref().is_none_or(|only| only == **point));
    let lines = std::sync::Mutex::new(Vec::new());
    several_at_a_time(points, |point, folder| {
        let line = walk_point(point, folder);
        println!("{line}");
        lines.lock().unwrap().push(line);
    });
    let mut lines = lines.into_inner().unwrap();
    lines.sort();
    let count = lines.len();
    lines.push(format!("{count} points, each with a death at passes {PASSES:?}"));
    println!("{}", lines[count]);
    if only.is_none() {
        report("points of pools", &lines.join("\n"));
    }
}

fn walk_point(point: &str, folder: &std::path::Path) -> String {
    let later = if point.contains("output") { &PASSES_OF_OUTPUT[..] } else { &[] };
    let passes: Vec<u32> = PASSES.iter().chain(later).copied().collect();
    let began = Instant::now();
    for pass in &passes {
        let killed = walk(point, pass - 1, folder);
        assert!(killed, "{point} has no pass {pass}: the walk does not test it");
    }
    wait_until("the temporary directory is empty", || {
        std::fs::read_dir(folder).unwrap().count() == 0
    });
    format!("{point}: killed at passes {passes:?}, within {:.1?}", began.elapsed())
}

/// A worker dies before each of its stores, one after the other, from the end of a call until it has run some
/// more tasks, of all kinds. At most the call is lost that it runs then.
fn die_before_each_store() {
    // One, so that it is that one which does what follows.
    let pool = Pool::builder().workers(1).name("faulty").queue_capacity(64).build().unwrap();
    work(&pool, 1);
    wait_until("the pool is whole", || pool.check_invariants().is_ok());
    let used = pool.stats().arena_used_bytes;
    let every = std::env::var_os("PROCPOOL_EVERY_STORE").is_some();
    // As many as a worker makes in a round of everything, and more.
    let (mut stores, end) = walk::range().unwrap_or((0, 3000));
    let (mut died, began) = (0, Instant::now());
    while stores < end {
        let dying = |stores: u64| {
            fault::die_after(stores);
            "its result".repeat(20)
        };
        let lost_before = pool.stats().workers_lost;
        let mut lost = match pool.submit(dying, stores).unwrap().join() {
            Ok(text) => u32::from(text != "its result".repeat(20)),
            Err(error) => u32::from(error.is_worker_lost()),
        };
        for round in 0..20 {
            if pool.stats().workers_lost > lost_before {
                break;
            }
            lost += mixed(&pool, round);
        }
        assert!(lost <= 1, "before store {}: {lost} calls lost", stores + 1);
        // Whoever has not died lives on.
        drop(pool.broadcast(|(): ()| fault::die_after(u64::MAX), &()));
        wait_until("the pool is whole", || pool.check_invariants().is_ok());
        let now = pool.stats().arena_used_bytes;
        assert_eq!(now, used, "before store {}: bytes in the arena", stores + 1);
        died += pool.stats().workers_lost - lost_before;
        stores += match (every, stores) {
            (true, _) | (_, 0..50) => 1,
            _ => 37,
        };
    }
    let took = began.elapsed();
    let line = format!(
        "a worker of a pool: died {died} times, before stores 1 to {stores}, within {took:.1?}"
    );
    println!("{line}");
    report("stores of a worker of a pool", &line);
    assert!(walk::range().is_some() || died > 100, "{died}");
    pool.join().unwrap();
}

#[test]
fn every_store_may_be_the_last_of_a_worker() {
    let _dog = watchdog(3600);
    let folder = tempfile::tempdir().unwrap();
    let (status, text, errors) = run_to_end(&mut program_in_role(STORES, folder.path()));
    assert!(status.success(), "{text}{errors}");
    println!("{text}");
}

/// A worker is stopped while it searches: who waits for a task has another woken.
fn submit_past_a_stopped_searcher() {
    let pool = Pool::builder().workers(2).build().unwrap();
    for n in 0..3 {
        fault::arm_stop("worker.searching", 0).unwrap();
        wait_until("a worker is stopped", || {
            // It searches when it has run something.
            let _ =
                pool.submit(|n: u64| n, 0).unwrap().join_timeout(Duration::from_secs(20)).unwrap();
            fault::fired().is_some()
        });
        let other = pool.submit(|n: u64| n, n).unwrap();
        assert_eq!(other.join(), Ok(n));
        for pid in children(guardian_of(std::process::id()).unwrap()) {
            kill(pid, libc::SIGCONT);
        }
    }
}

#[test]
fn a_worker_that_is_stopped_while_it_searches_keeps_nobody_asleep() {
    let _dog = watchdog(60);
    let folder = tempfile::tempdir().unwrap();
    let (status, text, errors) = run_to_end(&mut program_in_role(SEARCHER, folder.path()));
    assert!(status.success(), "{text}{errors}");
}
