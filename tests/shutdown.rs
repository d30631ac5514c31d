//! Ending pools in every way, and changing their size, while they are busy.

mod support;

use procpool::collections::List;
use procpool::sync::Event;
use procpool::{Pool, PoolBuilder, Shutdown, TaskOptions, worker};
use std::collections::{HashMap, HashSet};
use std::time::Duration;
use support::*;

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

fn begin_and_sleep((begun, ms): (Event, u64)) -> u64 {
    begun.set();
    sleep_ms(ms)
}

#[test]
fn what_runs_goes_on_and_what_is_queued_does_not() {
    let _dog = watchdog(60);
    let pool = builder("sh0", 1).build().unwrap();
    let begun = Event::new().unwrap();
    let running = pool.submit(begin_and_sleep, (begun.clone(), 100)).unwrap();
    let queued: Vec<_> = (0..5).map(|n| pool.submit(sleep_ms, n).unwrap()).collect();
    assert!(begun.wait_timeout(Duration::from_secs(30)));
    pool.shutdown(Shutdown::CancelQueued).unwrap();
    assert_eq!(running.join().unwrap(), 100);
    assert!(queued.into_iter().all(|task| task.join().unwrap_err().is_cancelled()));
    assert!(pool.submit(sleep_ms, 1).unwrap_err().is_closed());
    pool.shutdown(Shutdown::Now).unwrap();
    assert!(pool.resize(2).unwrap_err().is_closed());
}

#[test]
fn tasks_are_asked_to_end_and_then_killed() {
    let _dog = watchdog(60);
    let pool = builder("sh1", 2).build().unwrap();
    let begun = Event::new().unwrap();
    let polite = |begun: Event| {
        begun.set();
        while !worker::cancelled() {
            std::thread::sleep(Duration::from_millis(1));
        }
        7u64
    };
    let asked = pool.submit(polite, begun.clone()).unwrap();
    assert!(begun.wait_timeout(Duration::from_secs(30)));
    begun.clear();
    let deaf = pool.submit(begin_and_sleep, (begun.clone(), 100_000)).unwrap();
    assert!(begun.wait_timeout(Duration::from_secs(30)));
    let queued = pool.submit(sleep_ms, 1).unwrap();
    pool.shutdown(Shutdown::Now).unwrap();
    assert_eq!(asked.join().unwrap(), 7);
    assert!(deaf.join().unwrap_err().is_pool_closed());
    assert!(queued.join().unwrap_err().is_cancelled());
    assert!(workers_of(std::process::id(), "sh1").is_empty());
}

#[test]
fn draining_ends_in_time_and_says_what_was_left() {
    let _dog = watchdog(60);
    let pool = builder("sh2", 1).build().unwrap();
    let begun = Event::new().unwrap();
    let stuck = pool.submit(begin_and_sleep, (begun.clone(), 100_000)).unwrap();
    let queued = pool.submit(sleep_ms, 1).unwrap();
    assert!(begun.wait_timeout(Duration::from_secs(30)));
    let error = pool.shutdown_timeout(Shutdown::Drain, ms(50)).unwrap_err();
    assert!(error.is_timed_out(), "{error}");
    assert!(error.to_string().contains("1 queued and 1 running"), "{error}");
    assert!(stuck.join().unwrap_err().is_pool_closed());
    assert!(queued.join().unwrap_err().is_cancelled());
    let pool = builder("sh2", 1).build().unwrap();
    let quick = pool.submit(sleep_ms, 1).unwrap();
    pool.shutdown_timeout(Shutdown::Drain, Duration::MAX).unwrap();
    assert_eq!(quick.join().unwrap(), 1);
}

#[test]
fn maps_of_other_threads_end_with_the_pool() {
    let _dog = watchdog(60);
    for mode in [Shutdown::Drain, Shutdown::CancelQueued, Shutdown::Now] {
        let pool = builder("sh3", 2).build().unwrap();
        let (begun, other) = (Event::new().unwrap(), Event::new().unwrap());
        std::thread::scope(|scope| {
            let map = scope.spawn(|| {
                let inputs = (0..200).map(|_| (begun.clone(), 2));
                pool.with_options(TaskOptions::new().batch(5)).map_each(begin_and_sleep, inputs)
            });
            let one = scope.spawn(|| {
                let inputs = (0..200).map(|_| (other.clone(), 2));
                pool.map(begin_and_sleep, inputs)
            });
            assert!(begun.wait_timeout(Duration::from_secs(30)));
            assert!(other.wait_timeout(Duration::from_secs(30)));
            pool.shutdown(mode).unwrap();
            let (map, one) = (map.join().unwrap(), one.join().unwrap());
            match mode {
                Shutdown::Drain => {
                    assert!(map.unwrap().into_iter().all(|outcome| outcome == Ok(2)));
                    assert_eq!(one.unwrap().len(), 200);
                }
                _ => {
                    assert!(map.is_err_and(|error| error.is_closed()));
                    assert!(one.is_err());
                }
            }
        });
    }
}

#[test]
fn dropping_and_shutting_down_do_not_wait_for_stopped_or_deaf_workers() {
    let _dog = watchdog(60);
    let pool = builder("sh4", 2).build().unwrap();
    let begun = Event::new().unwrap();
    let deaf = pool.submit(begin_and_sleep, (begun.clone(), 100_000)).unwrap();
    assert!(begun.wait_timeout(Duration::from_secs(30)));
    for pid in workers_of(std::process::id(), "sh4") {
        kill(pid, libc::SIGSTOP);
    }
    drop(pool);
    assert!(deaf.join().unwrap_err().is_pool_closed());
}

#[test]
fn a_busy_pool_grows_and_shrinks_and_loses_nothing() {
    let _dog = watchdog(120);
    let pool = builder("sh5", 2).build().unwrap();
    let done = Event::new().unwrap();
    std::thread::scope(|scope| {
        let maps: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    let mut rounds = 0;
                    while !done.is_set() {
                        let again = pool.with_options(TaskOptions::new().retries(100));
                        let values = again.map(|n: u64| n + 1, 0..500).unwrap();
                        assert!(values.into_iter().eq(1..501));
                        let again = TaskOptions::new().retries(100);
                        let task = pool.submit_with(again, sleep_ms, 1).unwrap();
                        assert_eq!(task.join().unwrap(), 1);
                        rounds += 1;
                    }
                    rounds
                })
            })
            .collect();
        let mut random = Random(seed());
        for _ in 0..60 {
            let workers = 1 + random.next() as usize % 6;
            pool.resize(workers).unwrap();
            assert_eq!(pool.workers(), workers);
            if random.next().is_multiple_of(2) {
                let pids = workers_of(std::process::id(), "sh5");
                kill(pids[random.next() as usize % pids.len()], libc::SIGKILL);
            }
            std::thread::sleep(Duration::from_micros(random.next() % 5000));
        }
        done.set();
        assert!(maps.into_iter().all(|map| map.join().unwrap() > 0));
    });
    pool.resize(3).unwrap();
    wait_until("3 are left", || workers_of(std::process::id(), "sh5").len() == 3);
    let numbers = pool.broadcast(|_: ()| worker::number(), &()).unwrap();
    let numbers: Vec<_> = numbers.into_iter().map(|number| number.unwrap().unwrap()).collect();
    assert_eq!(numbers, [0, 1, 2]);
    #[cfg(debug_assertions)]
    wait_until("all is settled", || pool.check_invariants().is_ok());
    for workers in [0, 513] {
        let error = pool.resize(workers).unwrap_err();
        assert!(error.is_invalid() && error.to_string().contains(&workers.to_string()), "{error}");
    }
}

#[test]
fn a_shrunk_pool_lets_tasks_end() {
    let _dog = watchdog(60);
    let pool = builder("sh6", 4).build().unwrap();
    let tasks: Vec<_> = (0..8).map(|_| pool.submit(sleep_ms, 50).unwrap()).collect();
    pool.resize(1).unwrap();
    assert!(tasks.into_iter().all(|task| task.join() == Ok(50)));
    wait_until("three have left", || pool.stats().workers_retired == 3);
    assert_eq!(pool.stats().workers_lost, 0);
}

#[test]
fn idle_workers_leave_and_come_back_when_tasks_wait() {
    let _dog = watchdog(60);
    let pool = builder("sh7", 4).workers_min(2).idle_timeout(ms(30)).build().unwrap();
    wait_until("two have left", || workers_of(std::process::id(), "sh7").len() == 2);
    assert_eq!(pool.workers(), 2);
    let (go, begun) = (Event::new().unwrap(), List::<u32>::new().unwrap());
    let wait = |(go, begun): (Event, List<u32>)| {
        begun.push(&std::process::id()).unwrap();
        go.wait_timeout(Duration::from_secs(30))
    };
    let tasks: Vec<_> =
        (0..6).map(|_| pool.submit(wait, (go.clone(), begun.clone())).unwrap()).collect();
    wait_until("four run at once", || begun.len() == 4);
    go.set();
    assert!(tasks.into_iter().all(|task| task.join().unwrap()));
    let ran: HashSet<u32> = begun.to_vec().unwrap().into_iter().collect();
    assert_eq!((ran.len(), pool.stats().workers_lost), (4, 0));
    assert_eq!(pool.map(|n: u64| n, 0..1000).unwrap().len(), 1000);
    wait_until("two have left again", || pool.workers() == 2);
    let error = builder("sh7", 2).workers_min(3).build().unwrap_err();
    assert!(error.to_string().contains("workers_min is 3"), "{error}");
    assert!(builder("sh7", 2).idle_timeout(Duration::ZERO).build().unwrap_err().is_invalid());
}

#[test]
fn a_pool_that_has_shrunk_uses_no_time() {
    succeeds("shrunk");
}

/// In a program of its own: it counts the time of all its processes, its own supervisor included.
fn shrunk() {
    let pool = builder("shrunk", 3).idle_timeout(ms(20)).build().unwrap();
    wait_until("one is left", || pool.workers() == 1);
    let all = || {
        let mut all = descendants(std::process::id());
        all.push(std::process::id());
        all
    };
    wait_until("the others have left", || all().len() == 3);
    // How often somebody has woken up, of those that could: this thread looks on.
    let woken = || {
        let threads = all().into_iter().flat_map(|pid| {
            std::fs::read_dir(format!("/proc/{pid}/task"))
                .unwrap()
                .flatten()
                .map(|thread| thread.path())
        });
        let mine = |path: &std::path::PathBuf| {
            let name = std::fs::read_to_string(path.join("comm")).unwrap_or_default();
            name.contains("child_program") || name.contains("shutdown")
        };
        let switches = |path: std::path::PathBuf| -> u64 {
            let status = std::fs::read_to_string(path.join("status")).unwrap_or_default();
            let count =
                |line: &str| line.strip_prefix("voluntary_ctxt_switches:").map(str::to_owned);
            status.lines().find_map(count).map_or(0, |count| count.trim().parse().unwrap())
        };
        threads.filter(|path| !mine(path)).map(switches).sum::<u64>()
    };
    wait_until("they sleep", || {
        let before = woken();
        std::thread::sleep(ms(50));
        before == woken()
    });
    let before = woken();
    std::thread::sleep(ms(500));
    assert_eq!(woken(), before);
}

/// What a terminal does: the signal goes to the whole group.
#[test]
fn ctrl_c_ends_all_at_once_and_the_workers_say_nothing() {
    use std::os::unix::process::{CommandExt, ExitStatusExt};
    let _dog = watchdog(60);
    for busy in ["busy", "idle"] {
        let folder = tempfile::tempdir().unwrap();
        let mut command = program_in_role(busy, folder.path());
        command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
        let mut program = command.process_group(0).spawn().unwrap();
        wait_for_line(&mut program, "ready");
        let all = descendants(program.id());
        assert!(all.len() >= 3, "{all:?}");
        // SAFETY: sends a signal to the group that was just made.
        unsafe { libc::kill(-(program.id() as i32), libc::SIGINT) };
        let output = program.wait_with_output().unwrap();
        assert_eq!(output.status.signal(), Some(libc::SIGINT));
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{busy}");
        wait_until("all have gone", || !all.iter().any(|pid| is_running(*pid)));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}

fn interrupted(busy: bool) {
    // As in a terminal; a shell starts what it runs in the background with SIGINT ignored.
    // SAFETY: the default action runs no code.
    unsafe { libc::signal(libc::SIGINT, libc::SIG_DFL) };
    let pool = builder("intr", 2).build().unwrap();
    let tasks: Vec<_> =
        (0..if busy { 4 } else { 0 }).map(|_| pool.submit(sleep_ms, 100_000).unwrap()).collect();
    println!("ready");
    tasks.into_iter().for_each(|task| drop(task.join()));
    std::thread::sleep(Duration::from_secs(1000));
}

#[test]
fn child_program() {
    match role().as_deref() {
        Some("busy") => interrupted(true),
        Some("idle") => interrupted(false),
        Some("shrunk") => shrunk(),
        Some("guardian") => resized_without_guardian(),
        Some(other) => panic!("no role {other}"),
        None => {}
    }
}

#[test]
fn every_worker_runs_a_broadcast_once_also_if_it_dies() {
    let _dog = watchdog(60);
    let pool = builder("sh9", 4).build().unwrap();
    for round in 0..50 {
        let numbers = pool.broadcast(|n: u64| (worker::number().unwrap(), n), &round).unwrap();
        let numbers: Vec<_> = numbers.into_iter().map(Result::unwrap).collect();
        assert_eq!(numbers, [(0, round), (1, round), (2, round), (3, round)]);
    }
    let dies = |_: ()| {
        if worker::number() == Some(2) {
            std::process::abort();
        }
    };
    let outcomes = pool.broadcast(dies, &()).unwrap();
    for (number, outcome) in outcomes.iter().enumerate() {
        assert_eq!(outcome.is_err(), number == 2);
    }
    assert!(outcomes[2].as_ref().unwrap_err().is_worker_lost());
    // Killed at any moment: the one that runs it is lost, nobody runs it twice, and it ends.
    let ran = List::<u64>::new().unwrap();
    std::thread::scope(|scope| {
        let (ran, pool) = (&ran, &pool);
        let killer = scope.spawn(|| {
            let mut random = Random(seed());
            for _ in 0..30 {
                std::thread::sleep(Duration::from_micros(random.next() % 3000));
                if let Some(pid) = workers_of(std::process::id(), "sh9").first() {
                    kill(*pid, libc::SIGKILL);
                }
            }
        });
        for round in 0..100u64 {
            ran.clear();
            let note =
                |(ran, n): (List<u64>, u64)| ran.push(&(n + worker::number().unwrap() as u64));
            let outcomes =
                pool.broadcast(move |it| note(it).is_ok(), &(ran.clone(), round * 10)).unwrap();
            assert_eq!(outcomes.len(), 4);
            let mut times = ran.to_vec().unwrap();
            times.sort_unstable();
            assert!(times.windows(2).all(|pair| pair[0] != pair[1]), "{times:?}");
            for (number, outcome) in outcomes.into_iter().enumerate() {
                match outcome {
                    Ok(done) => assert!(done && times.contains(&(round * 10 + number as u64))),
                    Err(error) => assert!(error.is_worker_lost(), "{error}"),
                }
            }
        }
        killer.join().unwrap();
    });
    #[cfg(debug_assertions)]
    wait_until("all is settled", || pool.check_invariants().is_ok());
}

/// A worker that has run all its calls does not run the broadcast as one more: its successor does.
#[test]
fn a_broadcast_counts_as_a_call_of_a_worker_that_is_recycled() {
    let _dog = watchdog(60);
    let name = "shrec";
    for calls in [1, 2, 3] {
        let pool = builder(name, 2).recycle(procpool::Recycle::after_tasks(calls)).build().unwrap();
        let mut ran: HashMap<u32, u64> = HashMap::new();
        for round in 0..40u64 {
            let pids = pool.broadcast(|_: u64| (worker::number(), std::process::id()), &round);
            let seen: Vec<_> = pids.unwrap().into_iter().map(Result::unwrap).collect();
            assert_eq!((seen[0].0, seen[1].0), (Some(0), Some(1)));
            assert_ne!(seen[0].1, seen[1].1);
            let others = pool.map(|_: u64| std::process::id(), 0..round % 3).unwrap();
            assert_eq!(others.len() as u64, round % 3);
            let pids = seen.into_iter().map(|(_, pid)| pid).chain(others);
            pids.for_each(|pid| *ran.entry(pid).or_default() += 1);
        }
        assert!(ran.values().all(|ran| *ran <= calls), "at most {calls}: {ran:?}");
        assert!(pool.stats().workers_recycled >= 80 / calls - 2, "{:?}", pool.stats());
        assert_eq!(pool.stats().workers_lost, 0);
    }
}

/// Making a pool larger needs a guardian: if that has just died, another one.
#[test]
fn a_pool_changes_its_size_also_when_its_guardian_has_died() {
    succeeds("guardian");
}

fn resized_without_guardian() {
    let pool = builder("shgua", 1).build().unwrap();
    for round in 0..20 {
        let guardian = guardian_of(std::process::id()).unwrap();
        // It is asked to fork, and dies over that.
        kill(guardian, libc::SIGSTOP);
        wait_until("it is stopped", || is_stopped(guardian));
        std::thread::scope(|scope| {
            let resized = scope.spawn(|| pool.resize([3, 1][round % 2]));
            std::thread::sleep(Duration::from_millis(10));
            kill(guardian, libc::SIGKILL);
            resized.join().unwrap().unwrap();
        });
        let count = pool.broadcast(|_: ()| (), &()).unwrap().len();
        assert_eq!(count, [3, 1][round % 2]);
        // Not the one that is just dying.
        wait_until("there is another guardian", || {
            guardian_of(std::process::id()).is_some_and(|pid| pid != guardian && is_running(pid))
        });
    }
}

#[test]
fn workers_are_on_the_cores_that_they_are_pinned_to() {
    let _dog = watchdog(60);
    let allowed = |_: ()| {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find(|line| line.starts_with("Cpus_allowed_list:")).unwrap();
        // SAFETY: reads a number.
        let nice = unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) };
        (line.split_whitespace().nth(1).unwrap().to_owned(), nice, std::env::var("SETTING").ok())
    };
    let pool = builder("shpin", 3).pin_workers().nice(3).env("SETTING", "x").build().unwrap();
    let cores = pool.broadcast(allowed, &()).unwrap();
    let cores: Vec<_> = cores.into_iter().map(Result::unwrap).collect();
    assert!(cores.iter().all(|(cores, ..)| cores.parse::<usize>().is_ok()), "{cores:?}");
    assert!(cores.iter().all(|(_, nice, setting)| (*nice, setting.as_deref()) == (3, Some("x"))));
    let different: HashSet<&String> = cores.iter().map(|(cores, ..)| cores).collect();
    assert_eq!(different.len(), procpool::cpu_count().min(3), "{cores:?}");
    let nowhere = builder("shdir", 1).current_dir("/not/there").build().unwrap();
    let error = nowhere.map(sleep_ms, [1]).unwrap_err();
    assert!(error.is_broken() && error.to_string().contains("/not/there"), "{error}");
}

#[test]
fn a_broadcast_ends_when_the_pool_does_or_shrinks() {
    let _dog = watchdog(60);
    for round in 0..20 {
        let pool = builder("sh10", 3).build().unwrap();
        let begun = Event::new().unwrap();
        let _running = pool.submit(begin_and_sleep, (begun.clone(), 30)).unwrap();
        assert!(begun.wait_timeout(Duration::from_secs(30)));
        std::thread::scope(|scope| {
            let broadcast = scope.spawn(|| pool.broadcast(sleep_ms, &1));
            std::thread::sleep(Duration::from_micros(100 * round));
            if round % 2 == 0 {
                pool.resize(1).unwrap();
            } else {
                pool.shutdown(Shutdown::Now).unwrap();
            }
            match broadcast.join().unwrap() {
                Ok(outcomes) => assert!(outcomes.into_iter().all(|outcome| match outcome {
                    Ok(ms) => ms == 1,
                    Err(error) => error.is_cancelled() || error.is_pool_closed(),
                })),
                Err(error) => assert!(error.is_closed(), "{error}"),
            }
        });
    }
}
