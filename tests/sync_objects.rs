//! What becomes of shared objects when processes end: workers, the guardian, the whole program, a
//! program that nobody watches, a copy that the program has forked.
#![cfg(any(debug_assertions, feature = "fault"))]

mod support;

use procpool::fault;
use procpool::sync::*;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Stdio};
use std::time::Duration;
use support::*;

fn own_pid(_: ()) -> u32 {
    std::process::id()
}

/// Sleeps for ever, as far as a test is concerned.
fn hang() {
    std::thread::sleep(Duration::from_secs(600));
}

/// One of each, for a process to hold all of.
#[derive(Clone, serde::Serialize, serde::Deserialize)]
struct Everything {
    first: Mutex<u64>,
    second: Mutex<u64>,
    lock: RwLock<u64>,
    permits: Semaphore,
    barrier: Barrier,
    once: Once,
    pid: Value<u32>,
}

impl Everything {
    fn make() -> Self {
        Self {
            first: Mutex::new(0).unwrap(),
            second: Mutex::new(0).unwrap(),
            lock: RwLock::new(0).unwrap(),
            permits: Semaphore::bounded(3).unwrap(),
            barrier: Barrier::new(2).unwrap(),
            once: Once::new().unwrap(),
            pid: Value::new(0).unwrap(),
        }
    }

    fn hold_and_wait(self) {
        let _first = self.first.lock().unwrap();
        let _writing = self.lock.write().unwrap();
        let _permits = self.permits.acquire_many(2).unwrap();
        self.once.call_once(|| {
            self.pid.store(std::process::id());
            let _ = self.barrier.wait();
            hang();
        });
    }

    fn use_all(self) -> bool {
        let free = self.first.lock().is_ok() && self.lock.write().is_ok();
        self.once.call_once(|| ());
        free && self.permits.acquire_many(3).is_ok()
    }

    fn check_free(&self) {
        assert!(self.first.lock().is_err_and(|error| error.is_owner_died()));
        assert!(self.lock.write().is_err_and(|error| error.is_owner_died()));
        assert_eq!(self.permits.acquire_many(3).unwrap().count(), 3);
        assert_eq!(self.barrier.wait().unwrap_err(), BarrierError::Broken);
        assert!(!self.once.is_completed());
        self.once.call_once(|| ());
    }
}

/// What a child program does in its role.
fn child(role: &str) {
    match role {
        "main" => {
            // Holds and waits for everything, in both kinds of process; then is killed.
            let pool = pool_of(3);
            let everything = Everything::make();
            let task = pool.submit(Everything::hold_and_wait, everything.clone()).unwrap();
            wait_until("the worker waits", || everything.pid.load() != 0);
            let _mutex = everything.second.lock().unwrap();
            println!("ready");
            std::io::stdout().flush().unwrap();
            task.join().unwrap();
        }
        "guardian" => {
            let pool = pool_of(3);
            let everything = Everything::make();
            let task = pool.submit(Everything::hold_and_wait, everything.clone()).unwrap();
            wait_until("the worker waits", || everything.pid.load() != 0);
            kill(guardian_of(std::process::id()).unwrap(), libc::SIGKILL);
            assert!(task.join().unwrap_err().is_worker_lost());
            everything.check_free();
            let again = pool.submit(Everything::use_all, everything.clone()).unwrap();
            assert!(again.join().unwrap());
        }
        "stranger" => stranger(),
        "fork" => forked_copy(),
        "fork-in-worker" => forked_copy_of_a_worker(),
        "contexts" => contexts_let_go(),
        other => panic!("no role {other}"),
    }
}

#[test]
fn child_program() {
    if let Some(role) = role() {
        let _dog = watchdog(60);
        child(&role);
    }
}

#[test]
fn what_the_workers_of_a_killed_guardian_held_is_free_again() {
    succeeds("guardian");
}

// The objects themselves --------------------------------------------------------------------

#[test]
fn nothing_is_left_of_100_000_objects_that_were_sent_about_by_workers_that_die() {
    let _dog = watchdog(300);
    let folder = tempfile::tempdir().unwrap();
    let (status, text, errors) = run_to_end(&mut program_of_cycles(folder.path()));
    assert!(status.success(), "{text}{errors}");
}

/// The test `cycles_program` of this binary, run for real.
fn program_of_cycles(folder: &std::path::Path) -> std::process::Command {
    let mut command = std::process::Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "cycles_program", "--nocapture", "--test-threads=1"]);
    command.env("PROCPOOL_TEST_CYCLES", "1").env("TMPDIR", folder).stdin(Stdio::null());
    command
}

/// Not a test of its own: the counts are of a whole program.
#[test]
fn cycles_program() {
    if std::env::var_os("PROCPOOL_TEST_CYCLES").is_none() {
        return;
    }
    let _dog = watchdog(280);
    let pool = pool_of(2);
    // Takes handles, makes others, sends some back, keeps none; dies now and then.
    let work = |(semaphore, n): (Semaphore, u32)| {
        let event = Event::new().unwrap();
        let cell = Mutex::encoded(&vec![n; n as usize % 200]).unwrap();
        cell.lock().unwrap().update(|list| list.push(n)).unwrap();
        let permit = semaphore.acquire_timeout(Duration::from_millis(1));
        if n.is_multiple_of(97) {
            std::process::abort();
        }
        drop(permit);
        (event, cell)
    };
    let cycle = |first: u32, calls: u32| {
        let semaphore = Semaphore::new(1).unwrap();
        let inputs = (first..first + calls).map(|n| (semaphore.clone(), n));
        let outcomes = pool.map_each(work, inputs).unwrap();
        let mut lost = 0;
        for (n, outcome) in (first..).zip(outcomes) {
            match outcome {
                Ok((event, cell)) if n % 3 == 0 => {
                    event.set();
                    assert_eq!(cell.lock().unwrap().get().unwrap().len(), n as usize % 200 + 1);
                }
                Ok(_) => {}
                Err(error) => {
                    assert!(error.is_worker_lost(), "{error}");
                    lost += 1;
                }
            }
        }
        // A result that nobody reads.
        drop(pool.submit(work, (semaphore.clone(), 1)).unwrap());
        pool.submit(work, (semaphore, 2)).unwrap().join().unwrap();
        lost
    };
    cycle(1, 500);
    wait_until("all is settled", || pool.check_invariants().is_ok());
    let left = || (fault::objects(), pool.stats().arena_used_bytes);
    wait_until("the first objects are gone", || fault::objects() == (0, 0));
    let mut lost = 0;
    // Each call makes two objects: 50,000 calls, 100,000 objects.
    for round in 1..=100 {
        lost += cycle(round * 500, 500);
    }
    wait_until("all is settled", || pool.check_invariants().is_ok());
    wait_until("the objects are gone", || fault::objects() == (0, 0));
    println!("lost {lost} workers; left: {:?}", left());
    assert!(lost > 400);
    // The tables and the pool, and nothing for each object.
    assert!(left().1 < 3 << 20, "{:?}", left());
}

/// In a program of its own: the counts are of a whole arena.
fn contexts_let_go() {
    let pool = pool_of(2);
    for round in 0..20 {
        let shared = (Event::new().unwrap(), Semaphore::new(round).unwrap());
        let with = pool.with(&shared);
        let work = |(event, permits): &(Event, Semaphore), n: u32| {
            event.set();
            permits.available() + n
        };
        let each = with.map(work, 0..100u32).unwrap();
        assert!(shared.0.is_set() && each.iter().zip(0..).all(|(sum, n)| *sum == round + n));
        drop((shared, with));
        // Also by workers that sleep and get no other task.
        wait_until("the workers have let go", || fault::objects() == (0, 0));
    }
}

#[test]
fn the_objects_of_a_context_go_with_it() {
    succeeds("contexts");
}

#[test]
fn a_handle_that_leads_nowhere_is_an_error() {
    let _dog = watchdog(60);
    let event = Event::new().unwrap();
    let name = encode_for_test(&event);
    assert!(decode_for_test::<Event>(&name).is_ok_and(|opened| opened == event));
    let other = decode_for_test::<Semaphore>(&name).unwrap_err();
    assert!(other.contains("Shape"), "{other}");
    drop(event);
    let late = decode_for_test::<Event>(&name).unwrap_err();
    assert!(late.contains("leads nowhere"), "{late}");
    // Another object in the same place.
    let next = Event::new().unwrap();
    assert!(decode_for_test::<Event>(&name).is_err());
    assert!(decode_for_test::<Event>(&[0xff; 20]).is_err());
    assert!(!next.is_set());
    // As the argument of a task.
    let pool = pool_of(1);
    let opened = pool.submit(|name: Vec<u8>| decode_for_test::<Event>(&name).is_err(), name);
    assert!(opened.unwrap().join().unwrap());
}

// Other programs ----------------------------------------------------------------------------

/// Takes part in the arena of the parent, holds what the parent names, says so, and hangs.
fn stranger() {
    let descriptor = std::env::var("PROCPOOL_TEST_ARENA").unwrap();
    let file = std::fs::OpenOptions::new().read(true).write(true).open(descriptor).unwrap();
    fault::join_arena(file.into()).unwrap();
    let named = std::env::var("PROCPOOL_TEST_HANDLES").unwrap();
    let named: Vec<u8> = named.split(',').map(|byte| byte.parse().unwrap()).collect();
    let everything: Everything = decode_for_test(&named).unwrap();
    let _first = everything.first.lock().unwrap();
    let _writing = everything.lock.write().unwrap();
    let _permits = everything.permits.acquire_many(2).unwrap();
    println!("ready");
    std::io::stdout().flush().unwrap();
    if std::env::var_os("PROCPOOL_TEST_DIES_LATCHED").is_some() {
        fault::arm("semaphore.held", 0).unwrap();
        drop(everything.permits.acquire());
    }
    hang();
}

fn start_stranger(everything: &Everything, latched: bool, folder: &std::path::Path) -> Child {
    let descriptor = fault::arena_descriptor().unwrap().as_raw_fd();
    let bytes = encode_for_test(everything);
    let bytes: Vec<String> = bytes.iter().map(u8::to_string).collect();
    let mut command = program_in_role("stranger", folder);
    command.env("PROCPOOL_TEST_HANDLES", bytes.join(","));
    let path = format!("/proc/{}/fd/{descriptor}", std::process::id());
    command.env("PROCPOOL_TEST_ARENA", path).stdout(Stdio::piped());
    if latched {
        command.env("PROCPOOL_TEST_DIES_LATCHED", "1");
    }
    let mut child = command.spawn().unwrap();
    wait_for_line(&mut child, "ready");
    child
}

#[test]
fn the_death_of_a_process_that_nobody_watches_is_noticed_by_whoever_waits() {
    let _dog = watchdog(60);
    let folder = tempfile::tempdir().unwrap();
    for latched in [false, true] {
        // No pool, so no supervisor.
        let everything = Everything::make();
        let mut child = start_stranger(&everything, latched, folder.path());
        if !latched {
            assert_eq!(everything.permits.available(), 1);
            assert!(everything.lock.try_read().is_err_and(|error| error.is_busy()));
            let waiting = everything.clone();
            let waiter = std::thread::spawn(move || waiting.check_free());
            wait_until("somebody waits for the lock", || {
                everything.first.try_lock().is_err_and(|error| error.is_busy())
            });
            child.kill().unwrap();
            waiter.join().unwrap();
        } else {
            // It dies by itself, between two stores on the semaphore.
            everything.check_free();
        }
        assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGKILL));
    }
}

// The whole tree ----------------------------------------------------------------------------

#[test]
fn nothing_is_left_of_a_program_that_is_killed_while_it_holds_and_waits() {
    let _dog = watchdog(60);
    let folder = tempfile::tempdir().unwrap();
    for _ in 0..10 {
        let mut child =
            program_in_role("main", folder.path()).stdout(Stdio::piped()).spawn().unwrap();
        wait_for_line(&mut child, "ready");
        let tree = descendants(child.id());
        assert!(tree.len() >= 4, "{tree:?}");
        child.kill().unwrap();
        child.wait().unwrap();
        wait_until("they are all gone", || !tree.iter().any(|pid| is_running(*pid)));
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

/// A copy of a process that it has forked itself holds nothing.
fn forked_copy() {
    let (mutex, permits) = (Mutex::new(1u32).unwrap(), Semaphore::new(1).unwrap());
    fork_with(mutex.clone(), permits.clone());
    assert_eq!((*mutex.lock().unwrap(), permits.available()), (1, 1));
    drop((mutex, permits));
    assert_eq!(fault::objects(), (0, 0));
}

/// Forks a copy of the calling process that tries to use and to give up what the process has.
fn fork_with(mutex: Mutex<u32>, permits: Semaphore) {
    let before = fault::objects();
    let (mutex_too, permits_too) = (mutex.clone(), permits.clone());
    let (held, taken) = (mutex_too.lock().unwrap(), permits_too.acquire());
    // SAFETY: the child only tries two locks and leaves.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        std::panic::set_hook(Box::new(|_| ()));
        let refused =
            |what: &dyn Fn()| std::panic::catch_unwind(std::panic::AssertUnwindSafe(what)).is_err();
        let all = refused(&|| drop(mutex.lock()))
            && refused(&|| drop(permits.acquire()))
            && Event::new().is_err();
        // Guards that were held before the fork unlock nothing here.
        drop((held, taken, mutex, permits));
        // SAFETY: leaves without destructors.
        unsafe { libc::_exit(if all { 7 } else { 8 }) };
    }
    let mut status = 0;
    // SAFETY: waits for the child from above.
    unsafe { libc::waitpid(pid, &mut status, 0) };
    assert_eq!(libc::WEXITSTATUS(status), 7);
    // What the copy dropped is still there, and still held.
    assert_eq!((permits.available(), fault::objects()), (0, before));
    drop((held, taken));
    assert!(mutex.lock().is_ok());
}

/// A worker is forked from a process that has no part in the arena: what a task forked was not known for a copy.
fn forked_copy_of_a_worker() {
    let shared = (Mutex::new(1u32).unwrap(), Semaphore::new(1).unwrap());
    let pool = pool_of(1);
    pool.submit(|(mutex, permits)| fork_with(mutex, permits), shared.clone())
        .unwrap()
        .join()
        .unwrap();
    assert_eq!((*shared.0.lock().unwrap(), shared.1.available()), (1, 1));
}

#[test]
fn a_forked_copy_of_the_program_may_not_use_its_objects_nor_give_them_up() {
    succeeds("fork");
}

#[test]
fn nor_may_one_that_a_task_has_forked() {
    succeeds("fork-in-worker");
}

#[test]
fn a_guard_that_was_forgotten_keeps_its_mutex_alive() {
    let _dog = watchdog(60);
    let pool = pool_of(1);
    // A lock that a thread holds when it ends is one that its owner died with.
    let told = pool.submit(
        |(): ()| {
            let mutex = Mutex::new(5u64).unwrap();
            let other = mutex.clone();
            std::thread::spawn(move || std::mem::forget(other.lock().unwrap())).join().unwrap();
            mutex.lock().is_err_and(|error| error.is_owner_died())
        },
        (),
    );
    assert!(told.unwrap().join().unwrap());
    assert!(pool.map(own_pid, [()]).is_ok());
}
