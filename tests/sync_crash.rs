//! Processes that die while they hold something, wait for it, or are being woken: the rows of the
//! crash matrix that concern synchronisation, and what becomes of the objects themselves.
#![cfg(any(debug_assertions, feature = "fault"))]

mod support;

use procpool::sync::*;
use procpool::{Pool, TaskHandle, fault};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Stdio};
use std::time::Duration;
use support::*;

fn pool(workers: usize) -> Pool {
    Pool::builder().workers(workers).build().unwrap()
}

fn own_pid(_: ()) -> u32 {
    std::process::id()
}

/// Sleeps for ever, as far as a test is concerned.
fn hang() {
    std::thread::sleep(Duration::from_secs(600));
}

/// Kills the worker whose pid is in `pid`, once it is there, and waits for its task to be lost.
fn kill_when_there<T: serde::de::DeserializeOwned + std::fmt::Debug + 'static>(
    pid: &Value<u32>,
    task: TaskHandle<T>,
) {
    wait_until("the worker is there", || pid.load() != 0);
    kill(pid.load(), libc::SIGKILL);
    assert!(task.join().unwrap_err().is_worker_lost());
}

// Holders -----------------------------------------------------------------------------------

#[test]
fn the_next_owner_of_a_lock_is_told_that_the_holder_died_and_the_one_after_is_not() {
    let _dog = watchdog(60);
    let pool = pool(2);
    let (lock, pid) = (Mutex::new(1u64).unwrap(), Value::new(0u32).unwrap());
    let shared = (lock.clone(), pid.clone());
    let holder = pool
        .submit(
            |(lock, pid): (Mutex<u64>, Value<u32>)| {
                let mut held = lock.lock().unwrap();
                *held = 99;
                pid.store(std::process::id());
                hang();
                *held = 1;
            },
            shared,
        )
        .unwrap();
    wait_until("it is held", || pid.load() != 0);
    let waiter = pool
        .submit(
            |lock: Mutex<u64>| match lock.lock() {
                Err(LockError::OwnerDied(mut held)) => std::mem::replace(&mut *held, 2),
                other => panic!("{other:?}"),
            },
            lock.clone(),
        )
        .unwrap();
    kill_when_there(&pid, holder);
    assert_eq!(waiter.join().unwrap(), 99);
    assert_eq!(*lock.lock().unwrap(), 2);
}

#[test]
fn whoever_waits_for_a_dead_writer_gets_the_lock_and_is_told_until_a_writer_was() {
    let _dog = watchdog(60);
    let pool = pool(2);
    let (lock, pid) = (RwLock::new([0u64; 2]).unwrap(), Value::new(0u32).unwrap());
    let holder = pool
        .submit(
            |(lock, pid): (RwLock<[u64; 2]>, Value<u32>)| {
                let mut held = lock.write().unwrap();
                held[0] = 1;
                pid.store(std::process::id());
                hang();
                held[1] = 1;
            },
            (lock.clone(), pid.clone()),
        )
        .unwrap();
    wait_until("it is held", || pid.load() != 0);
    let reader = pool
        .submit(
            |lock: RwLock<[u64; 2]>| lock.read().is_err_and(|error| error.is_owner_died()),
            lock.clone(),
        )
        .unwrap();
    kill_when_there(&pid, holder);
    assert!(reader.join().unwrap());
    assert!(lock.read().is_err_and(|error| error.is_owner_died()), "a reader cannot repair it");
    match lock.write() {
        Err(LockError::OwnerDied(mut held)) => held[1] = held[0],
        other => panic!("{other:?}"),
    }
    assert_eq!(*lock.read().unwrap(), [1, 1]);
}

#[test]
fn the_read_locks_of_a_dead_process_are_released() {
    let _dog = watchdog(60);
    let pool = pool(1);
    let (lock, pid) = (RwLock::new(5u64).unwrap(), Value::new(0u32).unwrap());
    let holder = pool
        .submit(
            |(lock, pid): (RwLock<u64>, Value<u32>)| {
                let first = lock.read().unwrap();
                let second = lock.read().unwrap();
                pid.store(std::process::id());
                hang();
                *first + *second
            },
            (lock.clone(), pid.clone()),
        )
        .unwrap();
    wait_until("it is held", || pid.load() != 0);
    assert!(lock.try_write().is_err_and(|error| error.is_busy()));
    let theirs = lock.clone();
    let writer = std::thread::spawn(move || *theirs.write().unwrap());
    kill_when_there(&pid, holder);
    assert_eq!(writer.join().unwrap(), 5);
}

#[test]
fn the_permits_of_a_dead_process_come_back_and_forgotten_ones_do_not() {
    let _dog = watchdog(60);
    let pool = pool(1);
    let (permits, pid) = (Semaphore::new(5).unwrap(), Value::new(0u32).unwrap());
    let holder = pool
        .submit(
            |(permits, pid): (Semaphore, Value<u32>)| {
                permits.acquire().forget();
                let _two = permits.acquire_many(2).unwrap();
                let _one = permits.acquire();
                pid.store(std::process::id());
                hang();
            },
            (permits.clone(), pid.clone()),
        )
        .unwrap();
    wait_until("they are held", || pid.load() != 0);
    assert_eq!(permits.available(), 1);
    let theirs = permits.clone();
    let waiter = std::thread::spawn(move || theirs.acquire_many(4).unwrap().count());
    kill_when_there(&pid, holder);
    assert_eq!(waiter.join().unwrap(), 4);
    assert_eq!(permits.available(), 4);
    permits.release(1).unwrap();
    assert_eq!(permits.available(), 5);
}

#[test]
fn when_the_one_who_initialises_dies_the_next_one_does_it() {
    let _dog = watchdog(60);
    let pool = pool(2);
    let (cell, pid) = (OnceCell::<u64>::new().unwrap(), Value::new(0u32).unwrap());
    let first = pool
        .submit(
            |(cell, pid): (OnceCell<u64>, Value<u32>)| {
                *cell.get_or_init(|| {
                    pid.store(std::process::id());
                    hang();
                    1
                })
            },
            (cell.clone(), pid.clone()),
        )
        .unwrap();
    wait_until("it is at it", || pid.load() != 0);
    let second = pool.submit(|cell: OnceCell<u64>| *cell.get_or_init(|| 2), cell.clone()).unwrap();
    assert_eq!(cell.get(), None);
    kill_when_there(&pid, first);
    assert_eq!(second.join().unwrap(), 2);
    assert_eq!(cell.get(), Some(&2));
}

// Waiters -----------------------------------------------------------------------------------

/// Has so many workers wait for `what` in turn, in the order of the results.
fn waiting<T, R>(
    pool: &Pool,
    what: &T,
    count: usize,
    wait: impl Fn(T) -> R + Copy + Send + 'static,
    waits: impl Fn(usize) -> bool,
) -> Vec<TaskHandle<R>>
where
    T: serde::Serialize + serde::de::DeserializeOwned + Clone + 'static,
    R: serde::Serialize + serde::de::DeserializeOwned + 'static,
{
    (1..=count)
        .map(|number| {
            let task = pool.submit(wait, what.clone()).unwrap();
            wait_until("it waits", || waits(number));
            task
        })
        .collect()
}

#[test]
fn dead_waiters_neither_take_a_notification_nor_hold_up_who_notifies() {
    let _dog = watchdog(60);
    let pool = pool(4);
    let shared = (Mutex::new(0u32).unwrap(), Condvar::new().unwrap(), Value::new(0u32).unwrap());
    let wait = |(mutex, changed, pid): (Mutex<u32>, Condvar, Value<u32>)| {
        pid.store(std::process::id());
        let (_guard, notified) =
            changed.wait_timeout(mutex.lock().unwrap(), Duration::from_secs(50)).unwrap();
        notified
    };
    let mut tasks = waiting(&pool, &shared, 1, wait, |n| shared.1.waiting() == n as u32);
    let first = shared.2.load();
    tasks.extend(waiting(&pool, &shared, 2, wait, |n| shared.1.waiting() == 1 + n as u32));
    kill(first, libc::SIGKILL);
    assert!(tasks.remove(0).join().unwrap_err().is_worker_lost());
    wait_until("it is taken off the queue", || shared.1.waiting() == 2);
    assert_eq!(shared.1.notify(1), 1);
    assert!(tasks.remove(0).join().unwrap());
    assert_eq!(shared.1.notify_all(), 1);
    assert!(tasks.remove(0).join().unwrap());
}

/// Kills the first of two waiting workers at `point`, when it has been given what it waited for;
/// the other one must get it, though it is given only once.
fn passed_on<T>(
    point: &str,
    what: &T,
    wait: impl Fn(T) -> bool + Copy + Send + 'static,
    waits: impl Fn(usize) -> bool,
    give: impl Fn(),
) where
    T: serde::Serialize + serde::de::DeserializeOwned + Clone + 'static,
{
    let pool = pool(2);
    fault::spare_this_process();
    let mut tasks = waiting(&pool, what, 2, wait, waits);
    // Both sleep, which they do after looking for at most 50 microseconds.
    std::thread::sleep(Duration::from_millis(5));
    fault::arm(point, 0).unwrap();
    give();
    assert!(tasks.remove(0).join().unwrap_err().is_worker_lost(), "{point}");
    assert_eq!(
        fault::fired(),
        Some(point).map(|point| { *fault::POINTS.iter().find(|known| **known == point).unwrap() })
    );
    assert!(tasks.remove(0).join().unwrap(), "{point}: not passed on");
}

/// In a program of its own: an armed point is the arena's.
fn child(role: &str) {
    match role {
        "condvar" => {
            for point in ["sync.awake", "sync.taking", "condvar.relocked", "mutex.locked"] {
                let shared = (Mutex::new(0u32).unwrap(), Condvar::new().unwrap());
                passed_on(
                    point,
                    &shared,
                    |(mutex, changed): (Mutex<u32>, Condvar)| {
                        let guard = mutex.lock().unwrap_or_else(LockError::into_guard);
                        changed.wait(guard).is_ok_and(|_| true) || mutex.try_lock().is_ok()
                    },
                    |n| shared.1.waiting() == n as u32,
                    || assert_eq!(shared.1.notify(1), 1),
                );
            }
        }
        "event" => {
            for point in ["sync.awake", "sync.taking"] {
                let events = (Event::automatic().unwrap(), Value::new(0usize).unwrap());
                passed_on(
                    point,
                    &events,
                    |(event, waiting): (Event, Value<usize>)| {
                        waiting.fetch_add(1);
                        event.wait();
                        true
                    },
                    |n| events.1.load() == n,
                    || events.0.set(),
                );
                assert!(!events.0.is_set());
            }
        }
        "semaphore" => {
            for point in ["sync.awake", "sync.taking", "sync.taken"] {
                let shared = (Semaphore::new(0).unwrap(), Value::new(0usize).unwrap());
                passed_on(
                    point,
                    &shared,
                    |(permits, waiting): (Semaphore, Value<usize>)| {
                        waiting.fetch_add(1);
                        drop(permits.acquire());
                        true
                    },
                    |n| shared.1.load() == n,
                    || shared.0.release(1).unwrap(),
                );
                assert_eq!(shared.0.available(), 1, "{point}");
            }
        }
        "rwlock" => {
            for point in ["sync.awake", "sync.taking"] {
                let shared = (RwLock::new(0u64).unwrap(), Value::new(0usize).unwrap());
                let held = shared.0.write().unwrap();
                let held = std::cell::Cell::new(Some(held));
                passed_on(
                    point,
                    &shared,
                    |(lock, waiting): (RwLock<u64>, Value<usize>)| {
                        waiting.fetch_add(1);
                        // The one before had only been given the lock: it has changed nothing.
                        lock.write().is_ok()
                    },
                    |n| shared.1.load() == n,
                    || drop(held.take()),
                );
                assert!(shared.0.try_write().is_ok());
            }
        }
        "main" => {
            // Holds and waits for everything, in both kinds of process; then is killed.
            let pool = pool(3);
            let everything = Everything::make();
            let task = pool.submit(Everything::hold_and_wait, everything.clone()).unwrap();
            wait_until("the worker waits", || everything.pid.load() != 0);
            let _mutex = everything.second.lock().unwrap();
            println!("ready");
            std::io::stdout().flush().unwrap();
            task.join().unwrap();
        }
        "guardian" => {
            let pool = pool(3);
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
        other => panic!("no role {other}"),
    }
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

#[test]
fn child_program() {
    if let Some(role) = role() {
        let _dog = watchdog(60);
        child(&role);
    }
}

fn succeeds(role: &str) {
    let _dog = watchdog(100);
    let folder = tempfile::tempdir().unwrap();
    let (status, text, errors) = run_to_end(&mut program_in_role(role, folder.path()));
    assert!(status.success(), "{role}: {text}{errors}");
}

#[test]
fn what_a_dying_waiter_was_given_goes_to_the_next() {
    ["condvar", "event", "semaphore", "rwlock"].into_iter().for_each(succeeds);
}

#[test]
fn what_the_workers_of_a_killed_guardian_held_is_free_again() {
    succeeds("guardian");
}

#[test]
fn an_event_with_dead_waiters_can_be_set_and_used() {
    let _dog = watchdog(60);
    let pool = pool(3);
    let shared = (Event::new().unwrap(), Value::new(0u32).unwrap());
    let wait = |(event, pid): (Event, Value<u32>)| {
        pid.store(std::process::id());
        event.wait();
    };
    for _ in 0..5 {
        shared.1.store(0);
        let task = pool.submit(wait, shared.clone()).unwrap();
        kill_when_there(&shared.1, task);
    }
    let survivor = pool.submit(wait, shared.clone()).unwrap();
    shared.0.set();
    assert!(shared.0.is_set());
    survivor.join().unwrap();
    shared.0.clear();
    assert!(!shared.0.is_set() && !shared.0.wait_timeout(Duration::ZERO));
}

#[test]
fn a_dead_party_breaks_the_barrier_for_all_whether_it_had_arrived_or_not() {
    let _dog = watchdog(60);
    let pool = pool(3);
    for arrives in [true, false] {
        let shared = (Barrier::new(3).unwrap(), Value::new(0u32).unwrap());
        let others: Vec<_> = (1..=2)
            .map(|n| {
                let arrive = |barrier: Barrier| barrier.wait().err() == Some(BarrierError::Broken);
                let task = match (n, arrives) {
                    (1, _) | (_, false) => Some(pool.submit(arrive, shared.0.clone()).unwrap()),
                    _ => None,
                };
                wait_until("it waits", || shared.0.waiting() == if task.is_some() { n } else { 1 });
                task
            })
            .collect();
        let party = pool
            .submit(
                move |(barrier, pid): (Barrier, Value<u32>)| {
                    pid.store(std::process::id());
                    // One of two that are missing, or one that never comes.
                    if barrier.waiting() == 1 {
                        barrier.wait().unwrap();
                    }
                    hang();
                },
                shared.clone(),
            )
            .unwrap();
        wait_until("it is there", || shared.1.load() != 0);
        wait_until("it has arrived, or never will", || shared.0.waiting() == 2);
        kill_when_there(&shared.1, party);
        for other in others.into_iter().flatten() {
            assert!(other.join().unwrap(), "told that it is broken");
        }
        assert!(shared.0.is_broken() && shared.0.wait().is_err());
        shared.0.reset();
        assert_eq!((shared.0.is_broken(), shared.0.waiting()), (false, 0));
        let single = Barrier::new(1).unwrap();
        assert!(single.wait().is_ok_and(|passed| passed.is_leader()));
    }
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
    let pool = pool(2);
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
    let pool = pool(1);
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

/// A copy of the program's process that it has forked itself holds nothing.
fn forked_copy() {
    let (mutex, permits) = (Mutex::new(1u32).unwrap(), Semaphore::new(1).unwrap());
    // SAFETY: the child only tries two locks and leaves.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        std::panic::set_hook(Box::new(|_| ()));
        let refused =
            |what: &dyn Fn()| std::panic::catch_unwind(std::panic::AssertUnwindSafe(what)).is_err();
        let all = refused(&|| drop(mutex.lock()))
            && refused(&|| drop(permits.acquire()))
            && Event::new().is_err();
        drop((mutex, permits));
        // SAFETY: leaves without destructors.
        unsafe { libc::_exit(if all { 7 } else { 8 }) };
    }
    let mut status = 0;
    // SAFETY: waits for the child from above.
    unsafe { libc::waitpid(pid, &mut status, 0) };
    assert_eq!(libc::WEXITSTATUS(status), 7);
    // What the copy dropped is still there.
    assert_eq!((*mutex.lock().unwrap(), permits.available()), (1, 1));
    assert_eq!(fault::objects(), (2, 2));
}

#[test]
fn a_forked_copy_of_the_program_may_not_use_its_objects_nor_give_them_up() {
    succeeds("fork");
}

#[test]
fn a_guard_that_was_forgotten_keeps_its_mutex_alive() {
    let _dog = watchdog(60);
    let pool = pool(1);
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
