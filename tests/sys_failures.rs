//! What if a system call fails? Each that the crate makes is made to fail in the user's process, in the
//! guardian and in the workers: once at each of its first passes, from then on, or every second time. The program
//! must go on or get an error; nothing may panic, hang, or be left behind.
#![cfg(any(debug_assertions, feature = "fault"))]

mod support;

use procpool::collections::Dict;
use procpool::queue::Queue;
use procpool::sync::{Event, Mutex};
use procpool::{Arena, Confinement, Pool, Process, TaskOptions};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};
use support::*;

/// Passes of each call that are tried, if there are so many.
const PASSES: u32 = 12;
/// How long a program may take. Alone it takes a tenth of a second.
const IN_TIME: Duration = Duration::from_secs(20);

/// A little of everything: values that come are right, errors are passed on.
fn use_everything() -> Result<(), Box<dyn std::error::Error>> {
    let limits = Confinement::new().no_new_privileges().descriptors(200);
    let builder = Pool::builder().workers(2).name("sysf").pin_workers().nice(1).confine(limits);
    let pool = builder.build()?;
    let squares = pool.map(|n: u64| n * n, 0..100)?;
    assert!(squares.into_iter().eq((0..100).map(|n| n * n)));
    assert_eq!(pool.submit(|n: u64| n + 1, 1)?.join()?, 2);
    let lost = pool.submit(|(): ()| -> u8 { std::process::exit(3) }, ())?.join().unwrap_err();
    assert!(lost.is_worker_lost(), "{lost}");
    let nap = |ms: u64| std::thread::sleep(Duration::from_millis(ms));
    let options = TaskOptions::new().timeout(Duration::from_millis(5)).grace(Duration::ZERO);
    assert!(pool.submit_with(options, nap, 100_000)?.join().is_err());
    pool.resize(3)?;
    pool.resize(1)?;
    let shared =
        (Dict::<u64, u64>::new()?, Queue::<u64>::new(4)?, Mutex::new(0u64)?, Event::new()?);
    let change = |(dict, queue, sum, event): &(Dict<u64, u64>, Queue<u64>, Mutex<u64>, Event),
                  n| {
        dict.insert(&n, &n).unwrap();
        queue.try_put(n).unwrap();
        *sum.lock().unwrap() += n;
        event.set();
    };
    let task = pool.with(&shared).submit(change, 7)?;
    if shared.3.wait_timeout(Duration::from_secs(5)) {
        assert_eq!(
            (shared.0.get(&7)?, shared.1.get()?, *shared.2.lock().unwrap()),
            (Some(7), 7, 7)
        );
    }
    task.join()?;
    pool.broadcast(|(): ()| (), &())?;
    let child = Process::builder().stdout(procpool::Stdio::Piped).spawn(|n: u8| n + 1, 1)?;
    assert_eq!(child.join()?, 2);
    pool.join()?;
    Ok(())
}

fn in_a_named_arena(name: &str) -> Result<(), Box<dyn std::error::Error>> {
    let arena = Arena::builder(name).bytes(8 << 20).create()?;
    let dict = Dict::<u8, u8>::new()?;
    arena.register("dict", &dict)?;
    dict.insert(&1, &1)?;
    assert_eq!(arena.lookup::<Dict<u8, u8>>("dict")?.map(|dict| dict.len()), Some(1));
    Ok(())
}

#[test]
fn child_program() {
    let Some(role) = role() else { return };
    let name = format!("sysf-{}", std::process::id());
    let mut rounds = 0;
    // What fails once does not the second time.
    let outcomes = [(); 2].map(|()| {
        rounds += 1;
        match &*role {
            "pool" => use_everything(),
            // A process has one arena, also if that could not be used.
            _ if rounds == 1 => in_a_named_arena(&name),
            _ => Ok(()),
        }
    });
    for (place, outcome) in ["first", "second"].iter().zip(outcomes) {
        println!("{place}: {}", outcome.err().map_or("well".into(), |error| error.to_string()));
    }
    println!("descriptors: {}", open_descriptors());
}

/// How a program went.
struct Run {
    fired: bool,
    text: String,
    descriptors: usize,
}

fn run(what: &str, plan: &str, folder: &Path) -> Run {
    let log = folder.join("failed");
    let mut command = program_in_role(what, folder);
    command.env("PROCPOOL_FAIL", format!("{plan} {}", log.display()));
    let mut program = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let pid = program.id();
    let began = Instant::now();
    let ended = loop {
        if let Some(ended) = program.try_wait().unwrap() {
            break Some(ended);
        }
        if began.elapsed() > IN_TIME {
            break None;
        }
        std::thread::sleep(Duration::from_millis(1));
    };
    if ended.is_none() {
        descendants(pid).into_iter().chain([pid]).for_each(|pid| kill(pid, libc::SIGKILL));
    }
    let output = program.wait_with_output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    let text = format!("{}{errors}", String::from_utf8_lossy(&output.stdout));
    assert!(ended.is_some(), "{what}, {plan}: no end within {IN_TIME:?}: {text}");
    let descriptors = text.split("descriptors: ").nth(1).and_then(|rest| rest.lines().next());
    let descriptors = descriptors.and_then(|number| number.parse().ok());
    assert!(ended.is_some_and(|ended| ended.success()), "{what}, {plan}: {text}");
    assert!(!text.contains("panicked"), "{what}, {plan}: {text}");
    let fired = std::fs::remove_file(&log).is_ok();
    wait_until("the temporary directory is empty", || {
        std::fs::read_dir(folder).unwrap().count() == 0
    });
    let segments =
        || shared_memory_files().iter().any(|file| file.contains(&format!("sysf-{pid}")));
    wait_until("the name is gone", || !segments());
    Run { fired, text, descriptors: descriptors.unwrap() }
}

/// An error number that the call may return.
fn errno_of(call: &str) -> i32 {
    match call {
        "socketpair" | "eventfd" | "open" | "memfd_create" | "pidfd_open" | "shm_open" => {
            libc::EMFILE
        }
        "fallocate" | "ftruncate" => libc::ENOSPC,
        "fork" => libc::EAGAIN,
        "waitid" => libc::ECHILD,
        "futex" | "dup2" => libc::EINTR,
        "prctl" | "sched_setaffinity" | "setpriority" | "setrlimit" => libc::EPERM,
        "membarrier" => libc::ENOSYS,
        _ => libc::ENOMEM,
    }
}

/// Calls that a signal may interrupt.
const INTERRUPTED: &[&str] = &["poll", "recvmsg", "sendmsg", "waitid", "futex"];

#[test]
fn every_system_call_may_fail() {
    let _dog = watchdog(900);
    let only = std::env::var("PROCPOOL_FAIL_CALL").ok();
    let folder = tempfile::tempdir().unwrap();
    let mut never = Vec::new();
    let usual = ["pool", "named"].map(|what| run(what, "main none 1 0 once", folder.path()));
    assert!(usual.iter().all(|run| run.text.contains("first: well") && !run.fired));
    for call in procpool::sys_failures::CALLS {
        if only.as_ref().is_some_and(|only| only != call) {
            continue;
        }
        let mut reports = Vec::new();
        for (what, usual) in ["pool", "named"].iter().zip(&usual) {
            for role in ["main", "guardian", "worker"] {
                let errno = errno_of(call);
                let mut passes = 0;
                for skip in 0..PASSES {
                    let plan = format!("{role} {call} {errno} {skip} once");
                    let once = run(what, &plan, folder.path());
                    if !once.fired {
                        break;
                    }
                    passes += 1;
                    // It may have come in the second round.
                    assert!(once.text.contains(": well"), "{what}, {plan}: {}", once.text);
                    assert!(once.descriptors <= usual.descriptors, "{what}, {plan}: {}", once.text);
                    // Who cannot be killed goes on: there is nothing to be done about that.
                    if skip.is_multiple_of(4) && *call != "pidfd_send_signal" {
                        let plan = format!("{role} {call} {errno} {skip} always");
                        run(what, &plan, folder.path());
                    }
                }
                if INTERRUPTED.contains(call) && passes > 0 {
                    let plan = format!("{role} {call} {} 0 storm", libc::EINTR);
                    let storm = run(what, &plan, folder.path());
                    assert!(storm.text.contains("first: well"), "{what}, {plan}: {}", storm.text);
                }
                if passes > 0 {
                    reports.push(format!("{role} of {what} {passes}"));
                }
            }
        }
        println!("{call}: failed at the first passes in {}", reports.join(", "));
        if reports.is_empty() {
            never.push(*call);
        }
    }
    assert!(never.is_empty(), "never called: {never:?}");
}
