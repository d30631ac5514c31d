//! What if a system call fails? Each that the crate makes is made to fail in the user's process, in the
//! guardian and in the workers: once at each of its first passes, from then on, or every second time. The program
//! must go on or get an error; nothing may panic, hang, or be left behind; and when nothing fails any more, all is well again. The
//! supervisor's thread panics at each, too: then its pools are broken, and the next one is not.
#![cfg(any(debug_assertions, feature = "fault"))]

#[path = "support/attempts.rs"]
mod attempts;
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

/// How many passes of each call come before the one that fails. With `PROCPOOL_EVERY_PASS` all up to the twelfth are tried.
fn passes() -> Vec<u32> {
    if tries_all() { (0..12).collect() } else { vec![0, 1, 4] }
}

fn tries_all() -> bool {
    std::env::var_os("PROCPOOL_EVERY_PASS").is_some()
}

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
    #[cfg(feature = "landlock")]
    let limits = limits.paths(["/"], ["/"]);
    let builder = Pool::builder().workers(2).name("sysf").pin_workers().nice(1).confine(limits);
    let pool = builder.current_dir(std::env::temp_dir()).build()?;
    let squares = pool.map(|n: u64| n * n, 0..100)?;
    assert!(squares.into_iter().eq((0..100).map(|n| n * n)));
    assert_eq!(pool.submit(|n: u64| n + 1, 1)?.join()?, 2);
    assert_eq!(pool.submit_map(|n: u64| n + 1, 0..9)?.join()?.len(), 9);
    let (done, outcome) = std::sync::mpsc::channel();
    pool.submit(|n: u64| n + 1, 1)?.on_done(move |outcome| drop(done.send(outcome)))?;
    assert_eq!(outcome.recv()??, 2);
    let lost = pool.submit(|(): ()| -> u8 { std::process::exit(3) }, ())?.join().unwrap_err();
    if !lost.is_worker_lost() {
        // That is so if the pool broke meanwhile, which it says.
        assert!(lost.to_string().contains("broken"), "{lost}");
        return Err(lost.into());
    }
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

/// The program's plan, if it has one.
fn plan() -> Option<String> {
    std::env::var("PROCPOOL_FAIL").ok()
}

/// From now on nothing fails any more, in any process of the program; except what only comes at the end.
fn let_nothing_fail() {
    let plan = plan().unwrap_or_default();
    if plan.contains(" shm_unlink ") {
        return;
    }
    let log = plan.rsplit(' ').next().map(Path::new).filter(|log| log.is_absolute());
    let _ = log.map(|log| std::fs::write(log.with_extension("over"), "").unwrap());
}

/// What a program has that may be left over.
const KINDS: [&str; 7] = [
    "descriptors",
    "children",
    "bytes of the arena",
    "participants",
    "threads",
    "names of segments",
    "folders",
];

/// What of [`KINDS`] this program still has.
fn what_is_left() -> Result<[u64; KINDS.len()], Failure> {
    let pool = Pool::builder().workers(1).build()?;
    pool.map(|n: u64| n, 0..10)?;
    pool.join()?;
    let (stats, dump) = (pool.stats(), pool.dump());
    let participants = dump.lines().filter(|line| line.starts_with("participant ")).count();
    let bytes = stats.arena_used_bytes - stats.arena_tables_bytes;
    drop(pool);
    if std::env::var_os("PROCPOOL_TEST_DUMP").is_some() {
        println!("{dump}");
    }
    // A thread that has been joined is on its way out.
    let threads = || std::fs::read_dir("/proc/self/task").unwrap().count() as u64;
    let fewest = (0..20).map(|_| {
        std::thread::sleep(Duration::from_millis(1));
        threads()
    });
    let threads = fewest.min().unwrap_or(0);
    let own = format!("procpool.{}.", std::process::id());
    let names = shared_memory_files().into_iter().filter(|name| name.starts_with(&own)).count();
    let folders = std::fs::read_dir(std::env::temp_dir())?.flatten();
    let folders = folders.filter(|entry| entry.path().is_dir()).count();
    let children = children(std::process::id()).len();
    let descriptors = open_descriptors();
    let [descriptors, children, participants, names, folders] =
        [descriptors, children, participants, names, folders].map(|count| count as u64);
    Ok([descriptors, children, bytes, participants, threads, names, folders])
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
        "panicked" => lose_the_supervisor(),
        "attach" => return say("ended", attach(&name)),
        "create" => return say("ended", in_a_named_arena(&name).map(drop)),
        role => panic!("no role {role}"),
    }
    let_nothing_fail();
    // How many blocks a dict has for the same keys is by chance: each has a hash of its own.
    if let Some(arena) = kept.as_ref().filter(|arena| arena.is_owner()) {
        arena.unregister("dict");
    }
    match what_is_left() {
        Ok(left) => println!("left: {left:?}"),
        Err(error) => println!("in the end: {error}"),
    }
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

/// The processes whose plan names that file.
fn having(log: &Path) -> Vec<u32> {
    let log = log.as_os_str().as_encoded_bytes();
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let has = |pid: &u32| {
        let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment.windows(log.len()).any(|part| part == log)
    };
    pids.filter(has).collect()
}

/// The supervisor's thread panics while tasks run and others are queued: all of them end, whoever asks for something gets an
/// error, and the next pool is as good as any.
#[test]
fn a_supervisor_that_panics_breaks_its_pools_and_no_others() {
    let _dog = watchdog(100);
    let folder = tempfile::tempdir().unwrap();
    let usual = run("pool", "main none 1 0 once", folder.path());
    let run = run("panicked", "main poll 1 40 panic", folder.path());
    assert!(run.fired, "{}", run.text);
    run.leaves_nothing(&usual, "panicked");
}

fn lose_the_supervisor() {
    let pool = Pool::builder().workers(2).build().unwrap();
    let nap = |ms: u64| std::thread::sleep(Duration::from_millis(ms));
    let naps: Vec<_> = (0..5).map(|_| pool.submit(nap, 100_000).unwrap()).collect();
    wait_until("two of them run", || pool.stats().tasks_queued == 3);
    // Each request has it wait once more; in the end it panics.
    let ended = (0..1000).find_map(|n| pool.resize(3 + n % 2).err());
    println!("a request: {}", ended.unwrap());
    for nap in naps {
        let error = nap.join().unwrap_err();
        println!("a task: {error}");
        assert!(error.is_worker_lost() || error.to_string().contains("panicked"), "{error}");
    }
    let refused = pool.submit(nap, 0).unwrap_err().to_string();
    assert!(refused.contains("its supervisor has panicked"), "{refused}");
    let refused = pool.map(nap, 0..9).unwrap_err().to_string();
    assert!(refused.contains("its supervisor has panicked"), "{refused}");
    // The next has a supervisor of its own, also while that one is there.
    use_everything().unwrap();
    drop(pool);
    use_everything().unwrap();
}

/// At every call that it makes. Bytes and places that it was just about to enter somewhere may be lost: those of the
/// program that has such an error. But nobody waits for ever, no process and no file is left, and all goes on.
#[test]
fn the_supervisor_may_panic_at_every_call() {
    let _dog = watchdog(600);
    let folder = tempfile::tempdir().unwrap();
    let usual = run("pool", "main none 1 0 once", folder.path());
    let at = std::sync::Mutex::new(Vec::new());
    several_at_a_time(procpool::sys_failures::CALLS.iter(), |call, folder| {
        for skip in passes() {
            let plan = format!("main {call} 1 {skip} panic");
            let run = run("pool", &plan, folder);
            if !run.fired {
                break;
            }
            // The next pool is; that may be the one that is looked with.
            assert!(run.text.contains(": well"), "{plan}: {}", run.text);
            assert!(run.left.len() == usual.left.len(), "{plan}: {}", run.text);
            at.lock().unwrap().push(format!("{call} {skip}"));
        }
    });
    let at = at.into_inner().unwrap();
    println!("it panicked at {at:?}");
    let calls = at.iter().filter(|at| at.ends_with(" 0")).count();
    assert!(calls >= 12, "{at:?}");
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
    let panics = text.matches("' panicked at").count() + text.matches(") panicked at").count();
    let planned = usize::from(plan.ends_with(" panic") && log.exists());
    assert_eq!(panics, planned, "{what}, {plan}: {text}");
    let fired = std::fs::remove_file(&log).is_ok();
    let _ = std::fs::remove_file(log.with_extension("over"));
    // The guardian and the workers have the same environment.
    wait_until("its processes are gone", || having(&log).is_empty());
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
        self.leaves_nothing(usual, what);
    }

    /// That there is a pool when nothing fails any more, and no more is left than usual.
    fn leaves_nothing(&self, usual: &Self, what: &str) {
        assert_eq!(self.left.len(), KINDS.len(), "{what}: {}", self.text);
        for ((kind, left), usual) in KINDS.iter().zip(&self.left).zip(&usual.left) {
            // Children of which it was said that they are gone, and which are there all the same.
            let is_let_pass = *kind == "children" && what.contains(" waitid ");
            let more = left > usual && !is_let_pass;
            assert!(!more, "{what}: {left} {kind}, usual are {usual}: {}", self.text);
        }
    }
}

/// Error numbers that the call may return: the first is tried at every pass, the others at the first (and the second, if
/// all are tried).
fn errnos_of(call: &str) -> &'static [i32] {
    use libc::{
        E2BIG, EACCES, EAGAIN, EBUSY, ECHILD, ECONNRESET, EDQUOT, EEXIST, EINTR, EINVAL, EIO,
        EMFILE, ENFILE, ENOBUFS, ENODEV, ENOENT, ENOMEM, ENOSPC, ENOSYS, EPERM, EPIPE, EROFS,
        ESRCH,
    };
    match call {
        "socketpair" | "memfd_create" | "pipe" => &[EMFILE, ENFILE, ENOMEM],
        "pidfd_open" => &[EMFILE, ENFILE, ENOMEM, ENODEV, ESRCH],
        "eventfd" => &[EMFILE, ENFILE, ENOMEM],
        "open" | "shm_open" => &[EMFILE, ENFILE, EINTR, EACCES, ENOMEM],
        "opendir" | "proc" => &[EMFILE, ENFILE, ENOMEM, EACCES],
        "stat" => &[ENOMEM, EACCES, EIO],
        "fallocate" => &[ENOSPC, EINTR, EDQUOT, ENOMEM],
        "ftruncate" => &[ENOSPC, ENOMEM],
        "mkdir" => &[ENOSPC, EACCES, EROFS, EEXIST, ENOMEM],
        "rmdir" => &[EBUSY, EACCES, ENOMEM],
        "chdir" => &[EACCES, ENOENT],
        "fork" | "pthread_create" => &[EAGAIN, ENOMEM],
        "posix_spawn" => &[EAGAIN, ENOMEM, EMFILE, E2BIG],
        "mmap" => &[ENOMEM, EAGAIN, ENFILE],
        "madvise" => &[ENOMEM, EINVAL],
        "sendmsg" => &[ENOMEM, EAGAIN, ENOBUFS, EPIPE],
        "recvmsg" => &[ENOMEM, EAGAIN, ECONNRESET],
        "waitid" => &[ECHILD],
        "futex" => &[EINTR, EAGAIN, ENOMEM],
        "dup2" => &[EINTR, EBUSY, EMFILE],
        "fcntl" => &[EMFILE, EBUSY],
        "ipc" => &[EMFILE, ENFILE, ENOMEM, ENOBUFS],
        "ipc_send" => &[ENOBUFS, ENOMEM, EPIPE],
        "ipc_receive" => &[ENOMEM, ECONNRESET, EMFILE],
        "shared_memory" => &[EMFILE, ENFILE, ENOMEM, ENOSPC, EACCES],
        "pidfd_send_signal" => &[ENOMEM],
        "prctl" | "sched_setaffinity" | "sched_getaffinity" => &[EPERM, EINVAL],
        "setpriority" | "setrlimit" => &[EPERM, EACCES],
        "membarrier" => &[ENOSYS, EPERM],
        "shm_unlink" => &[ENOENT, EACCES],
        "landlock" => &[EPERM, ENOSYS],
        _ => &[ENOMEM],
    }
}

/// Calls that a signal may interrupt.
const INTERRUPTED: &[&str] =
    &["poll", "recvmsg", "sendmsg", "waitid", "futex", "pidfd_send_signal", "fallocate"];

/// Untroubled runs, in all of which the same is left.
const USUAL_RUNS: usize = 5;

/// A run in which nothing fails.
fn usual_run(what: &str, folder: &Path) -> Run {
    let usual = run(what, "main none 1 0 once", folder);
    for _ in 1..USUAL_RUNS {
        let other = run(what, "main none 1 0 once", folder);
        assert_eq!(other.left, usual.left, "{what}: {KINDS:?}: {}{}", usual.text, other.text);
    }
    usual
}

#[test]
fn every_system_call_may_fail() {
    let _dog = watchdog(900);
    let only = std::env::var("PROCPOOL_FAIL_CALL").ok();
    let only: Option<Vec<&str>> = only.as_ref().map(|only| only.split(' ').collect());
    let folder = tempfile::tempdir().unwrap();
    let never = std::sync::Mutex::new(Vec::new());
    let usual = ["pool", "named"].map(|what| usual_run(what, folder.path()));
    for run in &usual {
        assert!(!run.fired && run.left.len() == KINDS.len(), "{}", run.text);
        assert!(
            run.text.contains("first: well") && run.text.contains("second: well"),
            "{}",
            run.text
        );
    }
    let calls = procpool::sys_failures::CALLS.iter().copied();
    let calls = calls.filter(|call| only.as_ref().is_none_or(|only| only.contains(call)));
    several_at_a_time(calls, |call, folder| {
        let reports = fail_call(call, &usual, folder);
        println!(
            "{call}: failed, in a process of a program, at so many passes: {}",
            reports.join(", ")
        );
        if reports.is_empty() {
            never.lock().unwrap().push(call);
        }
    });
    let never = never.into_inner().unwrap();
    assert!(never.is_empty(), "never called: {never:?}");
}

/// Makes one call fail in every way, in every process; in which, and at how many passes.
fn fail_call(call: &str, usual: &[Run; 2], folder: &Path) -> Vec<String> {
    let mut reports = Vec::new();
    for (what, usual) in ["pool", "named"].iter().zip(usual) {
        for role in ["main", "guardian", "worker"] {
            let (first, others) = errnos_of(call).split_first().unwrap();
            let mut reached = 0;
            for skip in passes() {
                let plan = format!("{role} {call} {first} {skip} once");
                let once = run(what, &plan, folder);
                if !once.fired {
                    break;
                }
                reached += 1;
                // It may have come in the second round.
                once.is_whole(usual, &format!("{what}, {plan}"));
                // Who cannot be killed goes on: there is nothing to be done about that.
                if skip.is_multiple_of(4) && call != "pidfd_send_signal" {
                    let plan = format!("{role} {call} {first} {skip} always");
                    run(what, &plan, folder).leaves_nothing(usual, &format!("{what}, {plan}"));
                }
            }
            for errno in others {
                // A socket that is full has rings in it: only what is not one can fail so.
                let is_full = call == "sendmsg" && *errno == libc::EAGAIN;
                for skip in 0..reached.min(if is_full || !tries_all() { 1 } else { 2 }) {
                    let plan = format!("{role} {call} {errno} {skip} once");
                    run(what, &plan, folder).is_whole(usual, &format!("{what}, {plan}"));
                }
            }
            if INTERRUPTED.contains(&call) && reached > 0 {
                let plan = format!("{role} {call} {} 0 storm", libc::EINTR);
                let storm = run(what, &plan, folder);
                assert!(storm.text.contains("first: well"), "{what}, {plan}: {}", storm.text);
                storm.leaves_nothing(usual, &format!("{what}, {plan}"));
            }
            if reached > 0 {
                reports.push(format!("{role} of {what} {reached}"));
            }
        }
    }
    reports
}
