//! Workers that die while they hold something, wait for it, or are being woken: the rows of the crash
//! matrix that concern synchronisation.
#![cfg(any(debug_assertions, feature = "fault"))]

mod support;

use procpool::sync::*;
use procpool::{Pool, TaskHandle, fault};
use std::time::Duration;
use support::*;

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
    let pool = pool_of(2);
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
    let pool = pool_of(2);
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
    let pool = pool_of(1);
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
    let pool = pool_of(1);
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

/// Leaves without a word, while the worker of its own pool has the permit.
fn leave_with_a_pool_of_its_own((permits, is_taken): (Semaphore, Event)) {
    let pool = pool_of(1);
    let take = |(permits, is_taken): (Semaphore, Event)| {
        std::mem::forget(permits.acquire());
        is_taken.set();
        hang();
    };
    let _taking = pool.submit(take, (permits, is_taken.clone())).unwrap();
    is_taken.wait();
    std::process::exit(0);
}

#[test]
fn when_a_call_is_lost_what_the_workers_of_its_own_pool_held_is_free_already() {
    let _dog = watchdog(60);
    let pool = pool_of(1);
    for round in 0..20 {
        let (permits, is_taken) = (Semaphore::new(1).unwrap(), Event::new().unwrap());
        let task = pool.submit(leave_with_a_pool_of_its_own, (permits.clone(), is_taken)).unwrap();
        assert!(task.join().unwrap_err().is_worker_lost());
        assert_eq!(permits.available(), 1, "in round {round}");
    }
}

#[test]
fn when_the_one_who_initialises_dies_the_next_one_does_it() {
    let _dog = watchdog(60);
    let pool = pool_of(2);
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
    let pool = pool_of(4);
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
    let pool = pool_of(2);
    fault::spare_this_process();
    let mut tasks = waiting(&pool, what, 2, wait, waits);
    let workers = workers_of(std::process::id(), "pool");
    wait_until("both sleep", || workers.iter().all(|worker| is_asleep(*worker)));
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
                let event = Event::automatic().unwrap();
                passed_on(
                    point,
                    &event,
                    |event: Event| {
                        event.wait();
                        true
                    },
                    |n| event.waiting() == n as u32,
                    || event.set(),
                );
                assert!(!event.is_set());
            }
        }
        "semaphore" => {
            for point in ["sync.awake", "sync.taking", "sync.taken"] {
                let permits = Semaphore::new(0).unwrap();
                passed_on(
                    point,
                    &permits,
                    |permits: Semaphore| {
                        drop(permits.acquire());
                        true
                    },
                    |n| permits.waiting() == n as u32,
                    || permits.release(1).unwrap(),
                );
                assert_eq!(permits.available(), 1, "{point}");
            }
        }
        "rwlock" => {
            for point in ["sync.awake", "sync.taking"] {
                let lock = RwLock::new(0u64).unwrap();
                let held = std::cell::Cell::new(Some(lock.write().unwrap()));
                passed_on(
                    point,
                    &lock,
                    // The one before had only been given the lock: it has changed nothing.
                    |lock: RwLock<u64>| lock.write().is_ok(),
                    |n| lock.waiting() == n as u32,
                    || drop(held.take()),
                );
                assert!(lock.try_write().is_ok());
            }
        }
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
fn what_a_dying_waiter_was_given_goes_to_the_next() {
    ["condvar", "event", "semaphore", "rwlock"].into_iter().for_each(succeeds);
}

#[test]
fn an_event_with_dead_waiters_can_be_set_and_used() {
    let _dog = watchdog(60);
    let pool = pool_of(3);
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
    let pool = pool_of(3);
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

// What a review found --------------------------------------------------------------------------

/// A worker died while it held the lock, and its successor, which had the same participant id and whose
/// thread lay at the same address, was taken for the owner: it got the lock beside the next one.
#[test]
fn the_successor_of_a_worker_that_died_with_a_reentrant_lock_does_not_have_it() {
    let _dog = watchdog(60);
    let pool = pool_of(1);
    let (lock, pid) = (ReentrantMutex::new().unwrap(), Value::new(0u32).unwrap());
    let hold = |(lock, pid): (ReentrantMutex, Value<u32>)| {
        let _held = lock.lock().unwrap();
        pid.store(std::process::id());
        hang();
    };
    let holder = pool.submit(hold, (lock.clone(), pid.clone())).unwrap();
    kill_when_there(&pid, holder);
    let successor = |lock: ReentrantMutex| match lock.try_lock() {
        Ok(guard) => (false, guard.depth()),
        Err(TryLockError::OwnerDied(guard)) => (true, guard.depth()),
        Err(_) => (false, 0),
    };
    assert_eq!(pool.submit(successor, lock.clone()).unwrap().join().unwrap(), (true, 1));
    assert_eq!(pool.submit(successor, lock).unwrap().join().unwrap(), (false, 1));
}

/// A thread that forgot its guard ended, and another one that lay in the same place had the lock.
#[test]
fn a_later_thread_does_not_have_what_an_earlier_one_forgot() {
    let lock = ReentrantMutex::new().unwrap();
    let other = lock.clone();
    std::thread::spawn(move || std::mem::forget(other.lock().unwrap())).join().unwrap();
    for _ in 0..20 {
        let other = lock.clone();
        let depth = std::thread::spawn(move || match other.lock_timeout(SHORT) {
            Ok(guard) | Err(TryLockError::OwnerDied(guard)) => guard.depth(),
            Err(_) => 0,
        });
        assert!(depth.join().unwrap() <= 1);
    }
}

/// A process forgot a guard, dropped its handle, and died: nobody found it as the writer.
#[test]
fn what_was_forgotten_is_given_back_when_its_process_dies() {
    let _dog = watchdog(60);
    let pool = pool_of(1);
    let shared = (RwLock::new(0u64).unwrap(), Semaphore::new(2).unwrap());
    let forget = |(lock, permits): (RwLock<u64>, Semaphore)| {
        std::mem::forget(lock.write().unwrap());
        std::mem::forget(permits.acquire());
    };
    pool.submit(forget, shared.clone()).unwrap().join().unwrap();
    let (lock, permits) = shared;
    assert!(lock.try_read().is_err());
    assert_eq!(permits.available(), 1);
    let lost = pool.submit(|()| die(), ()).unwrap().join().unwrap_err();
    assert!(lost.is_worker_lost());
    assert!(lock.write().unwrap_err().is_owner_died());
    assert_eq!(permits.available(), 2);
}
