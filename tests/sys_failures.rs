//! What if a system call fails? Each that the crate makes is made to fail in the user's process, in the
//! guardian and in the workers: once at each of its first passes, from then on, or every second time. The program
//! must go on or get an error; nothing may panic, hang, or be left behind.
#![cfg(any(debug_assertions, feature = "fault"))]

mod support;

use procpool::collections::{Dict, List};
use procpool::queue::{JoinableQueue, Pipe, Queue};
use procpool::sync::{Barrier, Condvar, Event, Mutex, RwLock, Semaphore};
use procpool::{Arena, Confinement, Pool, Process, Recycle, TaskOptions};
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};
use support::*;

/// Passes of each call that are tried, if there are so many.
const PASSES: u32 = 9;
/// How long a program may take. Alone it takes a tenth of a second.
const IN_TIME: Duration = Duration::from_secs(20);
/// The name of the arena, for a second program.
const NAME: &str = "PROCPOOL_TEST_NAME";

type Failure = Box<dyn std::error::Error>;

#[derive(Serialize, Deserialize)]
struct Shared {
    dict: Dict<u64, u64>,
    list: List<u64>,
    queue: Queue<u64>,
    chores: JoinableQueue<u64>,
    pipe: Pipe<u64, u64>,
    sum: Mutex<u64>,
    table: RwLock<u64>,
    permits: Semaphore,
    alone: Barrier,
    changed: Condvar,
    event: Event,
}

/// Changes one of each, whatever its number.
fn change(shared: &Shared, n: u64) -> Result<(), String> {
    fn text(error: impl std::fmt::Display) -> String {
        error.to_string()
    }
    shared.dict.insert(&n, &n).map_err(text)?;
    shared.list.push(&n).map_err(text)?;
    shared.queue.try_put(n).map_err(text)?;
    shared.chores.try_put(n).map_err(text)?;
    shared.pipe.try_send(n).map_err(text)?;
    *shared.table.write().map_err(text)? += n;
    drop(shared.permits.acquire());
    shared.alone.wait().map_err(text)?;
    let mut sum = shared.sum.lock().map_err(text)?;
    *sum += n;
    drop(shared.changed.wait_timeout(sum, Duration::from_millis(1)));
    shared.event.set();
    Ok(())
}

fn share(pool: &Pool) -> Result<(), Failure> {
    let (here, pipe) = Pipe::pair()?;
    let shared = Shared {
        dict: Dict::new()?,
        list: List::new()?,
        queue: Queue::new(4)?,
        chores: JoinableQueue::new(4)?,
        pipe,
        sum: Mutex::new(0)?,
        table: RwLock::new(0)?,
        permits: Semaphore::new(1)?,
        alone: Barrier::new(1)?,
        changed: Condvar::new()?,
        event: Event::new()?,
    };
    pool.with(&shared).submit(change, 7)?.join()??;
    assert!(shared.event.wait_timeout(Duration::from_secs(5)));
    assert_eq!((shared.dict.get(&7)?, shared.list.pop()?), (Some(7), Some(7)));
    assert_eq!((shared.queue.get()?, shared.chores.get()?, here.recv()?), (7, 7, 7));
    shared.chores.task_done()?;
    shared.chores.join();
    assert_eq!((*shared.sum.lock().unwrap(), *shared.table.read().unwrap()), (7, 7));
    assert_eq!(shared.permits.available(), 1);
    Ok(())
}

/// A pool in a worker, which ends with it, in order or not.
fn nest(orderly: bool) -> Result<u64, String> {
    let pool = Pool::builder().workers(1).build().map_err(|error| error.to_string())?;
    if !orderly {
        std::process::exit(4);
    }
    let sum = pool.map_reduce(|n: u64| n, |a, b| a + b, 0..10u64);
    Ok(sum.map_err(|error| error.to_string())?.unwrap_or(0))
}

/// A little of everything: values that come are right, errors are passed on.
fn use_everything() -> Result<(), Failure> {
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
    // So large that its memory is given back with the last pool.
    assert_eq!(pool.submit(|bytes: Vec<u8>| bytes.len(), vec![1; 2 << 20])?.join()?, 2 << 20);
    share(&pool)?;
    assert_eq!(pool.submit(nest, true)?.join()??, 45);
    // Either it could not begin, or it is lost.
    assert!(!pool.submit(nest, false)?.join().is_ok_and(|ended| ended.is_ok()));
    pool.broadcast(|(): ()| (), &())?;
    let child = Process::builder().stdout(procpool::Stdio::Piped).spawn(|n: u8| n + 1, 1)?;
    assert_eq!(child.join()?, 2);
    pool.join()?;
    let fresh = Pool::builder().workers(1).recycle(Recycle::after_tasks(2)).build()?;
    assert_eq!(fresh.map(|n: u64| n + 1, 0..5)?, [1, 2, 3, 4, 5]);
    Ok(())
}

fn in_a_named_arena(name: &str) -> Result<Arena, Failure> {
    let arena = Arena::builder(name).bytes(8 << 20).create()?;
    let dict = Dict::<u8, u8>::new()?;
    arena.register("dict", &dict)?;
    dict.insert(&1, &1)?;
    assert_eq!(arena.lookup::<Dict<u8, u8>>("dict")?.map(|dict| dict.len()), Some(1));
    Ok(arena)
}

/// In another program: attaches; or, if the first one could not create the arena, creates it.
fn in_another(name: &str, role: &str) -> Result<(), Failure> {
    let mut program = program_in_role(role, &std::env::temp_dir());
    let (status, text, errors) = run_to_end(program.env(NAME, name));
    // After the test's name, perhaps.
    let said = text.lines().find_map(|line| Some(line.split_once("ended: ")?.1));
    match said {
        Some("well") if status.success() => Ok(()),
        Some(error) if status.success() => Err(error.into()),
        _ => panic!("{role}: {status} {text}{errors}"),
    }
}

fn attach(name: &str) -> Result<(), Failure> {
    let arena = Arena::attach(name)?;
    let dict = arena.lookup::<Dict<u8, u8>>("dict")?.ok_or("no dict")?;
    assert_eq!(dict.get(&1)?, Some(1));
    dict.insert(&2, &2)?;
    let put = |dict: &Dict<u8, u8>, n: u8| dict.insert(&n, &n).is_ok();
    assert!(Pool::builder().workers(1).build()?.with(&dict).submit(put, 3)?.join()?);
    assert_eq!(dict.len(), 3);
    Ok(())
}

/// What this program still has: descriptors, children, bytes of the arena and participants. Nothing, if it
/// cannot have a pool to look with.
fn what_is_left() -> Option<[u64; 4]> {
    let pool = Pool::builder().workers(1).build().ok()?;
    pool.map(|n: u64| n, 0..10).ok()?;
    pool.join().ok()?;
    let (stats, dump) = (pool.stats(), pool.dump());
    let participants = dump.lines().filter(|line| line.starts_with("participant ")).count();
    let bytes = stats.arena_used_bytes - stats.arena_tables_bytes;
    drop(pool);
    let children = children(std::process::id()).len();
    Some([open_descriptors() as u64, children as u64, bytes, participants as u64])
}

#[test]
fn child_program() {
    let Some(role) = role() else { return };
    let own = format!("sysf-{}", std::process::id());
    let name = std::env::var(NAME).unwrap_or(own);
    let say = |place: &str, outcome: Result<(), Failure>| {
        println!("{place}: {}", outcome.err().map_or("well".into(), |error| error.to_string()));
    };
    // The arena, to the end: dropping it removes the name.
    let mut kept = None;
    match &*role {
        // What fails once does not the second time.
        "pool" => {
            ["first", "second"].map(|place| say(place, use_everything())).into_iter().collect()
        }
        "named" => {
            // A process has one arena, also if that could not be used.
            let arena = in_a_named_arena(&name);
            let another = if arena.is_ok() { "attach" } else { "create" };
            let second = in_another(&name, another);
            say("first", arena.map(|arena| kept = Some(arena)));
            // Asking settles the other program, unless that is what fails.
            let end = Instant::now() + Duration::from_secs(2);
            let others = || kept.as_ref().is_some_and(|arena| arena.participants().len() > 1);
            while others() && Instant::now() < end {
                std::thread::sleep(Duration::from_millis(1));
            }
            say("second", second);
        }
        "killed" => return lose_guardians(),
        "attach" => return say("ended", attach(&name)),
        "create" => return say("ended", in_a_named_arena(&name).map(drop)),
        role => panic!("no role {role}"),
    }
    println!("left: {:?}", what_is_left().unwrap_or_default());
    drop(kept);
}

/// Guardians that are killed between their invitation and the answer cost nothing that stays. (A descriptor
/// each: a socket that `ipc-channel` does not close if it cannot connect it.)
#[test]
fn guardians_that_die_while_they_start_cost_no_descriptor() {
    succeeds("killed");
}

fn lose_guardians() {
    use procpool::fault;
    let build = || drop(Pool::builder().workers(1).build().unwrap());
    build();
    let before = open_descriptors();
    for point in ["guardian.folder-made", "guardian.invited", "guardian.connected"] {
        for _ in 0..20 {
            fault::arm(point, 0).unwrap();
            build();
            assert_eq!(fault::fired(), Some(point));
        }
        wait_until("descriptors are as before", || open_descriptors() <= before);
    }
}

/// How a program went.
struct Run {
    fired: bool,
    text: String,
    /// See [`what_is_left`].
    left: Vec<u64>,
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
    let left = text.split("left: [").nth(1).and_then(|rest| rest.split(']').next());
    let left = left.unwrap_or_default().split(", ").filter_map(|number| number.parse().ok());
    let left = left.collect();
    assert!(ended.is_some_and(|ended| ended.success()), "{what}, {plan}: {text}");
    assert!(!text.contains("panicked"), "{what}, {plan}: {text}");
    let fired = std::fs::remove_file(&log).is_ok();
    wait_until("the temporary directory is empty", || {
        std::fs::read_dir(folder).unwrap().count() == 0
    });
    if plan.contains(" shm_unlink ") && fired {
        // The owner does not try again, and its guardian is dismissed: the name stays until another guardian ends.
        let (status, text, errors) = run_to_end(&mut program_in_role("named", folder));
        assert!(status.success(), "after {what}, {plan}: {text}{errors}");
    }
    let segments =
        || shared_memory_files().iter().any(|file| file.contains(&format!("sysf-{pid}")));
    wait_until("the name is gone", || !segments());
    Run { fired, text, left }
}

impl Run {
    /// That one of the two rounds went well, and that afterwards no more is left than usual.
    fn is_whole(&self, usual: &Self, what: &str) {
        assert!(self.text.contains(": well"), "{what}: {}", self.text);
        let mut usual = usual.left.clone();
        if what.contains(" waitid ") {
            // A child of which it was said that it is gone, and which is there all the same.
            usual[1] += 1;
        }
        let more = self.left.len() != 4 || self.left.iter().zip(&usual).any(|(a, b)| a > b);
        assert!(!more, "{what}: {:?} is left, usual is {usual:?}: {}", self.left, self.text);
    }
}

/// Error numbers that the call may return: the first is tried at every pass, the others at the first.
fn errnos_of(call: &str) -> &'static [i32] {
    match call {
        "socketpair" | "pidfd_open" | "memfd_create" => &[libc::EMFILE, libc::ENFILE, libc::ENOMEM],
        "eventfd" => &[libc::EMFILE, libc::ENOMEM],
        "open" | "shm_open" => &[libc::EMFILE, libc::ENFILE, libc::EINTR, libc::EACCES],
        "fallocate" => &[libc::ENOSPC, libc::EINTR],
        "ftruncate" | "mkdir" => &[libc::ENOSPC],
        "fork" | "pthread_create" | "posix_spawn" => &[libc::EAGAIN, libc::ENOMEM],
        "mmap" => &[libc::ENOMEM, libc::EAGAIN],
        "sendmsg" => &[libc::ENOMEM, libc::EAGAIN, libc::ENOBUFS],
        "recvmsg" => &[libc::ENOMEM, libc::EAGAIN],
        "waitid" => &[libc::ECHILD],
        "futex" | "dup2" => &[libc::EINTR],
        "fcntl" | "ipc" => &[libc::EMFILE],
        "prctl" | "sched_setaffinity" | "sched_getaffinity" | "setpriority" | "setrlimit" => {
            &[libc::EPERM]
        }
        "membarrier" => &[libc::ENOSYS],
        "shm_unlink" => &[libc::ENOENT],
        _ => &[libc::ENOMEM],
    }
}

/// Calls that a signal may interrupt.
const INTERRUPTED: &[&str] = &["poll", "recvmsg", "sendmsg", "waitid", "futex"];

/// Untroubled runs from which it is taken what is usual: a named arena has, by chance, three units more or less.
const USUAL_RUNS: usize = 10;

/// A run in which nothing fails, with the most that was left by any of several.
fn usual_run(what: &str, folder: &Path) -> Run {
    let mut usual = run(what, "main none 1 0 once", folder);
    for _ in 1..USUAL_RUNS {
        let other = run(what, "main none 1 0 once", folder);
        assert_eq!(other.left.len(), usual.left.len(), "{}", other.text);
        usual.left.iter_mut().zip(other.left).for_each(|(most, left)| *most = left.max(*most));
    }
    usual
}

#[test]
fn every_system_call_may_fail() {
    let _dog = watchdog(900);
    let only = std::env::var("PROCPOOL_FAIL_CALL").ok();
    let folder = tempfile::tempdir().unwrap();
    let never = std::sync::Mutex::new(Vec::new());
    let usual = ["pool", "named"].map(|what| usual_run(what, folder.path()));
    for run in &usual {
        assert!(!run.fired && run.left.len() == 4, "{}", run.text);
        assert!(
            run.text.contains("first: well") && run.text.contains("second: well"),
            "{}",
            run.text
        );
    }
    let calls = procpool::sys_failures::CALLS.iter().copied();
    let calls = calls.filter(|call| only.as_ref().is_none_or(|only| only == call));
    several_at_a_time(calls, |call, folder| {
        let reports = fail_call(call, &usual, folder);
        println!("{call}: failed at the first passes in {}", reports.join(", "));
        if reports.is_empty() {
            never.lock().unwrap().push(call);
        }
    });
    let never = never.into_inner().unwrap();
    assert!(never.is_empty(), "never called: {never:?}");
}

/// Makes one call fail in every way, in every process; in which, and at how many of the first passes.
fn fail_call(call: &str, usual: &[Run; 2], folder: &Path) -> Vec<String> {
    let mut reports = Vec::new();
    for (what, usual) in ["pool", "named"].iter().zip(usual) {
        for role in ["main", "guardian", "worker"] {
            let (first, others) = errnos_of(call).split_first().unwrap();
            let mut passes = 0;
            for skip in 0..PASSES {
                let plan = format!("{role} {call} {first} {skip} once");
                let once = run(what, &plan, folder);
                if !once.fired {
                    break;
                }
                passes += 1;
                // It may have come in the second round.
                once.is_whole(usual, &format!("{what}, {plan}"));
                // Who cannot be killed goes on: there is nothing to be done about that.
                if skip.is_multiple_of(4) && call != "pidfd_send_signal" {
                    let plan = format!("{role} {call} {first} {skip} always");
                    run(what, &plan, folder);
                }
            }
            for errno in others.iter().filter(|_| passes > 0) {
                let plan = format!("{role} {call} {errno} 0 once");
                run(what, &plan, folder).is_whole(usual, &format!("{what}, {plan}"));
            }
            if INTERRUPTED.contains(&call) && passes > 0 {
                let plan = format!("{role} {call} {} 0 storm", libc::EINTR);
                let storm = run(what, &plan, folder);
                assert!(storm.text.contains("first: well"), "{what}, {plan}: {}", storm.text);
            }
            if passes > 0 {
                reports.push(format!("{role} of {what} {passes}"));
            }
        }
    }
    reports
}

/// Functions of `src/sys` that make a call which no plan makes fail, and why.
const CANNOT_FAIL: &[(&str, &str, &str)] = &[
    ("fd.rs", "signal_event", "only at the counter's maximum, and then the poller is awake"),
    ("fd.rs", "clear_event", "only when it is zero already"),
    ("futex.rs", "wake", "only for a bad address"),
    ("memory.rs", "unmap", "only for addresses that were never mapped"),
    (
        "membarrier.rs",
        "take_part",
        "only if the kernel has no such call: then `everywhere` fails, too",
    ),
    ("host.rs", "usable_memory_bytes", "`sysinfo` fails for a bad address only"),
    ("image.rs", "text_range_around", "walks a list in memory"),
    ("process.rs", "kill_by_pid", "it has ended: what was wanted"),
    ("process.rs", "on_fork_in_child", "without memory: a forked child then goes unnoticed"),
    ("process.rs", "parent_pid", "cannot"),
    ("process.rs", "own_uid", "cannot"),
    ("process.rs", "stop_self", "a test's"),
    ("process.rs", "kill_self", "a test's"),
    ("process.rs", "exit_now", "cannot"),
    ("process.rs", "leave_session", "only in a leader of a group, and it was just forked"),
    ("process.rs", "set_name", "only for a bad address"),
    ("process.rs", "ignore", "only for a bad number"),
    ("process.rs", "keep_dead_children", "only for a bad number"),
    ("process.rs", "unblock_signals", "only for a bad number"),
    ("process.rs", "block_signals_in_this_thread", "only for a bad number"),
    ("process.rs", "is_privileged_exec", "cannot"),
    ("process.rs", "yield_now", "cannot"),
    ("process.rs", "private_bytes", "asks for the size of a page"),
    ("clock.rs", "monotonic_ns", "cannot"),
    ("clock.rs", "recent_ns", "cannot"),
    ("robust.rs", "*", "the C library's, not the system's; errors of misuse only"),
];

/// The functions in a file: name, and text from its first line to its last.
fn functions(text: &str) -> Vec<(String, String)> {
    let text = text.split("#[cfg(test)]\nmod ").next().unwrap();
    let mut found: Vec<(String, String, String)> = Vec::new();
    let mut open = false;
    for line in text.lines() {
        let indent: String = line.chars().take_while(|letter| *letter == ' ').collect();
        let words: Vec<&str> = line.split(|c: char| !c.is_alphanumeric() && c != '_').collect();
        let is_code = !line.trim_start().starts_with("//");
        let name = words.iter().position(|word| *word == "fn").and_then(|at| words.get(at + 1));
        match name {
            Some(name) if is_code && !open && !line.trim_end().ends_with(';') => {
                found.push((name.to_string(), indent.clone(), line.to_owned()));
                open = !line.trim_end().ends_with('}');
            }
            _ => {
                let Some((_, of, body)) = found.last_mut().filter(|_| open) else { continue };
                body.push_str(if is_code { line } else { "" });
                body.push('\n');
                open = line != format!("{of}}}");
            }
        }
    }
    found.into_iter().map(|(name, _, body)| (name, body)).collect()
}

fn makes_a_call(body: &str) -> bool {
    let is_call = |crate_name: &str| {
        body.match_indices(crate_name).any(|(at, _)| {
            let path: &str = &body[at..];
            let end = path.find(|c: char| !c.is_alphanumeric() && c != '_' && c != ':');
            let last = path[..end.unwrap_or(path.len())].rsplit("::").next().unwrap_or_default();
            // Else it is a type, or a variant of one.
            end.is_some_and(|end| path[end..].starts_with('('))
                && !last.starts_with(char::is_uppercase)
        })
    };
    is_call("rustix::") || is_call("libc::") || body.contains(" membarrier(")
}

/// Whoever adds a call adds an attempt, or says why there is none.
#[test]
fn every_call_in_sys_can_be_made_to_fail_or_it_is_said_why_not() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/sys");
    let (mut missing, mut needed) = (Vec::new(), std::collections::BTreeSet::new());
    let mut calls = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let file = path.file_name().unwrap().to_str().unwrap().to_owned();
        for (name, body) in functions(&std::fs::read_to_string(&path).unwrap()) {
            if !makes_a_call(&body) {
                continue;
            }
            calls += 1;
            let excused = CANNOT_FAIL
                .iter()
                .position(|(of, function, _)| *of == file && [&*name, "*"].contains(function));
            match excused {
                Some(place) => drop(needed.insert(place)),
                None if body.contains("attempt(") => {}
                None => missing.push(format!("{file}: {name}")),
            }
        }
    }
    assert!(calls > 40, "{calls}");
    assert!(missing.is_empty(), "without an attempt: {missing:?}");
    let idle: Vec<_> = (0..CANNOT_FAIL.len()).filter(|place| !needed.contains(place)).collect();
    assert!(
        idle.is_empty(),
        "excused for nothing: {:?}",
        idle.iter().map(|n| CANNOT_FAIL[*n]).collect::<Vec<_>>()
    );
}
