//! What happens when something dies: workers before, in and after a call, the user's process. (The
//! guardian, which all pools of a process share, has a test binary of its own.)

mod support;

use procpool::{Pool, WorkerExit};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};
use support::*;

fn named(name: &str, workers: usize) -> Pool {
    Pool::builder().workers(workers).name(name).build().unwrap()
}

fn still_works(pool: &Pool) {
    let values = pool.map(|x: u64| x * 3, 0..2000u64).unwrap();
    assert!(values.into_iter().eq((0..2000).map(|x| x * 3)));
    pool.check_invariants().unwrap();
}

#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize, serde::Deserialize)]
enum End {
    Exit,
    Abort,
    NullDereference,
    StackOverflow,
    Killed,
}

fn recurse(depth: u64) -> u64 {
    let block = std::hint::black_box([depth; 512]);
    if depth == u64::MAX { 0 } else { recurse(depth + 1) + block[1] }
}

fn end(how: End) -> u32 {
    match how {
        End::Exit => std::process::exit(3),
        End::Abort => std::process::abort(),
        // SAFETY: none: the point is to end by SIGSEGV.
        End::NullDereference => unsafe { std::ptr::null_mut::<u32>().write_volatile(1) },
        End::StackOverflow => drop(recurse(0)),
        End::Killed => kill(std::process::id(), libc::SIGKILL),
    }
    unreachable!("{how:?} ends the process")
}

#[test]
fn every_way_to_end_is_reported_with_pid_and_status() {
    let _dog = watchdog(120);
    let pool = named("ends", 2);
    let nobody = std::process::id();
    for (how, expected) in [
        (End::Exit, vec![WorkerExit::Code(3)]),
        (End::Abort, vec![WorkerExit::Signal(libc::SIGABRT)]),
        // In a debug build the standard library's own check aborts before the null is written.
        (
            End::NullDereference,
            vec![WorkerExit::Signal(libc::SIGSEGV), WorkerExit::Signal(libc::SIGABRT)],
        ),
        // The standard library's handler, where it is installed, turns it into an abort.
        (
            End::StackOverflow,
            vec![WorkerExit::Signal(libc::SIGSEGV), WorkerExit::Signal(libc::SIGABRT)],
        ),
        (End::Killed, vec![WorkerExit::Signal(libc::SIGKILL)]),
    ] {
        let error = pool.submit(end, how).unwrap().join().unwrap_err();
        assert!(error.is_worker_lost(), "{how:?}: {error}");
        assert!(expected.contains(&error.worker_exit().unwrap()), "{how:?}: {error}");
        assert_ne!(error.pid().unwrap(), nobody);
    }
    still_works(&pool);
    assert_eq!(pool.stats().workers_lost, 5);
}

#[test]
fn only_the_culprit_pays_in_a_long_batch() {
    let _dog = watchdog(120);
    let pool = named("culprit", 2);
    let calls = |n: u32| {
        if n % 1000 == 777 {
            std::process::exit(5);
        }
        n.to_string()
    };
    let outcomes = pool.map_each(calls, 0..10_000u32).unwrap();
    for (n, outcome) in outcomes.into_iter().enumerate() {
        match outcome {
            Ok(text) => assert_eq!(text, n.to_string()),
            Err(error) => {
                assert_eq!(n % 1000, 777, "{error}");
                assert_eq!(error.worker_exit(), Some(WorkerExit::Code(5)));
                assert_eq!(error.index(), Some(n));
            }
        }
    }
    // Plain results, whose places must not be touched by settlement.
    let bytes = |n: u32| {
        if n % 1000 == 3 {
            std::process::exit(5)
        }
        n as u8
    };
    let outcomes = pool.map_each(bytes, 0..5000u32).unwrap();
    for (n, outcome) in outcomes.into_iter().enumerate() {
        assert_eq!(outcome.ok(), (n % 1000 != 3).then_some(n as u8));
    }
    let lost = pool.map(calls, 700..800u32).unwrap_err();
    assert!(lost.is_worker_lost() && lost.task_error().unwrap().index() == Some(77), "{lost}");
    still_works(&pool);
}

#[test]
fn workers_killed_while_idle_are_replaced() {
    let _dog = watchdog(120);
    let pool = named("idle", 2);
    for _ in 0..20 {
        let workers = workers_of(std::process::id(), "idle");
        workers.iter().for_each(|pid| kill(*pid, libc::SIGKILL));
        let task = pool.submit(|n: u32| n + 1, 1).unwrap();
        assert_eq!(task.join(), Ok(2));
        wait_until("two workers again", || {
            let now = workers_of(std::process::id(), "idle");
            now.len() == 2 && now.iter().all(|pid| !workers.contains(pid))
        });
    }
    still_works(&pool);
}

#[test]
fn the_outcome_of_a_kill_arrives_soon() {
    let _dog = watchdog(120);
    let pool = named("soon", 1);
    let folder = tempfile::tempdir().unwrap();
    let mut waits = Vec::new();
    for round in 0..20 {
        let path = folder.path().join(round.to_string()).to_str().unwrap().to_owned();
        let task = pool.submit(
            |path: String| {
                std::fs::write(path, std::process::id().to_string()).unwrap();
                std::thread::sleep(Duration::from_secs(1000));
            },
            path.clone(),
        );
        let task = task.unwrap();
        let mut pid = 0;
        wait_until("the task runs", || {
            pid =
                std::fs::read_to_string(&path).ok().and_then(|text| text.parse().ok()).unwrap_or(0);
            pid != 0
        });
        let killed = Instant::now();
        kill(pid, libc::SIGKILL);
        let error = task.join().unwrap_err();
        waits.push(killed.elapsed());
        assert_eq!((error.pid(), error.worker_exit()), (Some(pid), Some(WorkerExit::Signal(9))));
    }
    waits.sort();
    // P1 promises 50 ms; a median far below it cannot be luck, a maximum may be a busy machine.
    assert!(waits[waits.len() / 2] < Duration::from_millis(50), "{waits:?}");
}

#[test]
fn memory_that_a_killed_worker_held_comes_back() {
    let _dog = watchdog(120);
    let pool = named("blocks", 2);
    let swell = |n: usize| {
        if n.is_multiple_of(5) {
            // Dies with a result half encoded: a vector whose last element kills.
            return vec![Deadly(n), Deadly(usize::MAX)];
        }
        vec![Deadly(n); 1000]
    };
    for _ in 0..10 {
        let outcomes = pool.map_each(swell, 0..50usize).unwrap();
        for (n, outcome) in outcomes.into_iter().enumerate() {
            assert_eq!(outcome.is_ok(), n % 5 != 0);
        }
    }
    still_works(&pool);
}

/// Kills the process that encodes the largest of its values.
#[derive(Clone, Copy, serde::Deserialize)]
struct Deadly(usize);

impl serde::Serialize for Deadly {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.0 == usize::MAX {
            kill(std::process::id(), libc::SIGKILL);
        }
        serializer.serialize_u64(self.0 as u64)
    }
}

// The user's process dies --------------------------------------------------------------------

/// Not a test of its own: the program that the tests below run, in a role.
/// What a program left that was killed together with its guardian, as that one started, goes with the next.
#[test]
fn folders_of_the_dead_are_removed_by_the_next_program() {
    let folder = tempfile::tempdir().unwrap();
    let mut dead = std::process::Command::new("true").spawn().unwrap();
    dead.wait().unwrap();
    let mut names = vec!["unrelated".to_string(), "procpool-x-1".into()];
    names.push(format!("procpool-{}-1", std::process::id()));
    names.push(format!("procpool-{}-1", dead.id()));
    for name in &names {
        std::fs::create_dir(folder.path().join(name)).unwrap();
        std::fs::write(folder.path().join(name).join("socket"), "").unwrap();
    }
    let (status, text, errors) = run_to_end(&mut program_in_role("speak", folder.path()));
    assert!(status.success(), "{text}{errors}");
    let there = |name: &String| folder.path().join(name).exists();
    wait_until("its guardian has ended", || !there(&names[3]));
    assert!(names[..3].iter().all(there), "only what is certainly ours, and dead");
}

#[test]
fn child_program() {
    let Some(role) = role() else { return };
    match &*role {
        "work" => {
            let pool = named("victim", 2);
            let nap = |ms: u64| std::thread::sleep(Duration::from_millis(ms));
            let tasks: Vec<_> = (0..200).map(|_| pool.submit(nap, 20).unwrap()).collect();
            println!("ready");
            tasks.into_iter().for_each(|task| task.join().unwrap());
            std::thread::sleep(Duration::from_secs(1000));
        }
        "leave" => {
            let pool = named("victim", 2);
            println!("{:?}", pool.map(|x: u64| x + 1, 0..3u64).unwrap());
            println!("ready");
            std::process::exit(0);
        }
        "speak" => {
            let pool = named("victim", 1);
            let error = pool.submit(|(): ()| panic!("said once"), ()).unwrap().join();
            let error: procpool::TaskError = error.map(|(): ()| ()).unwrap_err();
            println!("{}", error.panic_message() == Some("said once"));
            println!("ready");
        }
        "ignore" => {
            // SAFETY: ignoring a signal runs no code.
            unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
            let pool = named("victim", 1);
            let error = pool.submit(end, End::Exit).unwrap().join().unwrap_err();
            println!("{}", error.worker_exit() == Some(WorkerExit::Code(3)));
        }
        "panic" => {
            let _pool = named("victim", 2);
            println!("ready");
            panic!("the user's process ends by a panic");
        }
        "nest" => {
            let pool = named("outer", 1);
            let nested = |(): ()| {
                let pool = named("inner", 2);
                println!("ready");
                pool.map(|s: u64| std::thread::sleep(Duration::from_secs(s)), [1000u64, 1000])
                    .unwrap();
            };
            let _ = pool.submit(nested, ()).unwrap().join();
        }
        other => panic!("no role {other}"),
    }
}

fn run_and_end(role: &str, signal: Option<i32>, temporary: &Path) {
    let before = shared_memory_files();
    let mut child = program_in_role(role, temporary)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    wait_for_line(&mut child, "ready");
    let below = descendants(child.id());
    if let Some(signal) = signal {
        assert!(!below.is_empty());
        kill(child.id(), signal);
    }
    child.wait().unwrap();
    let gone = Instant::now();
    wait_until("all processes have ended", || !below.iter().any(|pid| is_running(*pid)));
    let took = gone.elapsed();
    assert_eq!(std::fs::read_dir(temporary).unwrap().count(), 0, "left in the temporary directory");
    assert_eq!(shared_memory_files(), before, "left in /dev/shm");
    println!("{role}: all gone {took:?} after the end");
}

#[test]
fn nothing_survives_the_users_process() {
    let _dog = watchdog(120);
    let folder = tempfile::tempdir().unwrap();
    for role in ["work", "nest"] {
        for signal in [libc::SIGKILL, libc::SIGTERM, libc::SIGABRT] {
            run_and_end(role, Some(signal), folder.path());
        }
    }
    run_and_end("leave", None, folder.path());
    run_and_end("panic", None, folder.path());
}

#[test]
fn the_text_of_a_panic_reaches_standard_error_once() {
    let _dog = watchdog(120);
    let folder = tempfile::tempdir().unwrap();
    let output = program_in_role("speak", folder.path()).output().unwrap();
    let (text, errors) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("true"), "{text}{errors}");
    assert_eq!(errors.matches("said once").count(), 1, "{errors}");
}

#[test]
fn a_program_that_ignores_its_dead_children_still_learns_how_a_worker_ended() {
    let _dog = watchdog(120);
    let folder = tempfile::tempdir().unwrap();
    let output = program_in_role("ignore", folder.path()).output().unwrap();
    assert!(String::from_utf8_lossy(&output.stdout).contains("true"), "{output:?}");
}

#[test]
fn a_deep_temporary_directory_works() {
    let _dog = watchdog(120);
    let folder = tempfile::tempdir().unwrap();
    let deep = folder.path().join("d".repeat(100)).join("e".repeat(100));
    std::fs::create_dir_all(&deep).unwrap();
    run_and_end("leave", None, &deep);
}

#[test]
fn killed_at_any_moment_of_its_start_nothing_survives() {
    let _dog = watchdog(300);
    let folder = tempfile::tempdir().unwrap();
    for round in 0..40u64 {
        let mut child = program_in_role("work", folder.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // Spread over the first 8 ms, in which everything starts.
        std::thread::sleep(Duration::from_micros(200 * round));
        kill(child.id(), libc::SIGKILL);
        let below = descendants(child.id());
        child.wait().unwrap();
        wait_until("all processes have ended", || !below.iter().any(|pid| is_running(*pid)));
        wait_until("the temporary directory is empty", || {
            std::fs::read_dir(folder.path()).unwrap().count() == 0
        });
    }
}
