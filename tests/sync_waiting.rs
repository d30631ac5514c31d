//! What events, condition variables and barriers do while nobody dies: the behaviour that CPython tests
//! of its own (`lock_tests.py`, `_test_multiprocessing.py`), and what is ours beyond that.

mod support;

use procpool::sync::*;
use procpool::{Pool, TaskHandle};
use std::collections::BTreeSet;
use std::time::Duration;
use support::*;

const LONG: Duration = Duration::from_secs(50);

// Event -------------------------------------------------------------------------------------

#[test]
fn a_manual_event_releases_everybody_until_it_is_cleared() {
    let _dog = watchdog(60);
    let pool = pool_of(3);
    let event = Event::new().unwrap();
    assert!(!event.is_set());
    times_out(|| event.wait_timeout(SHORT));
    let wait = |event: Event| event.wait_timeout(LONG);
    for _ in 0..20 {
        let waiting: Vec<_> = (0..3).map(|_| pool.submit(wait, event.clone()).unwrap()).collect();
        wait_until("all wait", || event.waiting() == 3);
        event.set();
        // Also if it is cleared before any of them runs.
        event.clear();
        assert!(waiting.into_iter().all(|task| task.join().unwrap()));
        assert_eq!((event.is_set(), event.waiting()), (false, 0));
    }
    event.set();
    event.set();
    assert!(event.is_set() && event.wait_timeout(Duration::ZERO) && event.wait_timeout(SHORT));
    event.wait();
    assert!(pool.submit(wait, event.clone()).unwrap().join().unwrap());
    event.clear();
    assert!(!event.wait_timeout(Duration::ZERO));
}

#[test]
fn an_automatic_event_releases_one_for_each_setting() {
    let _dog = watchdog(60);
    let pool = pool_of(3);
    let event = Event::automatic().unwrap();
    assert!(event.is_automatic());
    let wait = |event: Event| event.wait();
    let mut waiting: Vec<_> = (0..3).map(|_| pool.submit(wait, event.clone()).unwrap()).collect();
    wait_until("all wait", || event.waiting() == 3);
    for left in [2, 1, 0] {
        event.set();
        wait_until("one is released", || {
            waiting.iter().filter(|task| !task.is_finished()).count() == left
        });
        assert_eq!((event.waiting(), event.is_set()), (left as u32, false));
    }
    waiting.drain(..).for_each(|task| task.join().unwrap());
    // Set while nobody waits, twice: one who comes is released.
    event.set();
    event.set();
    assert!(event.is_set() && event.wait_timeout(SHORT) && !event.is_set());
    times_out(|| event.wait_timeout(SHORT));
    event.set();
    event.clear();
    assert!(!event.wait_timeout(Duration::ZERO));
}

#[test]
fn what_was_done_before_an_event_is_seen_after_it() {
    let _dog = watchdog(60);
    let pool = pool_of(1);
    let shared =
        (Event::automatic().unwrap(), Event::automatic().unwrap(), Value::new(0u64).unwrap());
    let echo = |(ping, pong, value): (Event, Event, Value<u64>)| {
        for round in 1..=2000 {
            ping.wait();
            assert_eq!(value.load(), 2 * round - 1);
            value.store(2 * round);
            pong.set();
        }
    };
    let task = pool.submit(echo, shared.clone()).unwrap();
    for round in 1..=2000 {
        shared.2.store(2 * round - 1);
        shared.0.set();
        shared.1.wait();
        assert_eq!(shared.2.load(), 2 * round);
    }
    task.join().unwrap();
}

// Condition variable ------------------------------------------------------------------------

type Stage = (Mutex<u32>, Condvar);

/// Three tasks and three threads of this process that wait on `changed`, once each.
fn six_waiting(
    pool: &Pool,
    stage: &Stage,
) -> (Vec<TaskHandle<()>>, Vec<std::thread::JoinHandle<()>>) {
    let wait = |(mutex, changed): Stage| drop(changed.wait(mutex.lock().unwrap()).unwrap());
    let tasks = (0..3).map(|_| pool.submit(wait, stage.clone()).unwrap()).collect();
    let threads = (0..3).map(|_| {
        let stage = stage.clone();
        std::thread::spawn(move || wait(stage))
    });
    let threads = threads.collect();
    wait_until("all six wait", || stage.1.waiting() == 6);
    (tasks, threads)
}

#[test]
fn notify_releases_exactly_as_many_as_it_says() {
    let _dog = watchdog(60);
    let pool = pool_of(3);
    let stage: Stage = (Mutex::new(0).unwrap(), Condvar::new().unwrap());
    for counts in [&[1, 1, 1, 1, 1, 1][..], &[2, 4], &[3, 1, 2], &[6], &[5, 9]] {
        let (tasks, threads) = six_waiting(&pool, &stage);
        let mut left = 6usize;
        for count in counts {
            let released = (*count as usize).min(left);
            assert_eq!(stage.1.notify(*count) as usize, released);
            left -= released;
            wait_until("so many have gone on", || {
                tasks.iter().filter(|task| !task.is_finished()).count()
                    + threads.iter().filter(|thread| !thread.is_finished()).count()
                    == left
            });
            assert_eq!(stage.1.waiting() as usize, left);
        }
        tasks.into_iter().for_each(|task| task.join().unwrap());
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    }
    let (tasks, threads) = six_waiting(&pool, &stage);
    assert!(stage.1.notify_one());
    assert_eq!(stage.1.notify_all(), 5);
    tasks.into_iter().for_each(|task| task.join().unwrap());
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    // Nobody waits: nobody is released later.
    assert!(!stage.1.notify_one() && stage.1.notify_all() == 0);
    times_out(|| stage.1.wait_timeout(stage.0.lock().unwrap(), SHORT).unwrap().1);
}

#[test]
fn a_wait_ends_with_the_mutex_locked_and_the_change_visible() {
    let _dog = watchdog(60);
    let pool = pool_of(2);
    let stage: Stage = (Mutex::new(0).unwrap(), Condvar::new().unwrap());
    let follow = |((mutex, changed), parity): (Stage, u32)| {
        let mut turn = mutex.lock().unwrap();
        while *turn < 2000 {
            if *turn % 2 == parity {
                *turn += 1;
                changed.notify_one();
            } else {
                turn =
                    changed.wait_while(turn, |turn| *turn < 2000 && *turn % 2 != parity).unwrap();
            }
        }
        changed.notify_all();
        assert!(mutex.try_lock().is_err_and(|error| error.is_busy()), "it is this task's");
        *turn
    };
    let tasks: Vec<_> = (0..2).map(|n| pool.submit(follow, (stage.clone(), n)).unwrap()).collect();
    for task in tasks {
        assert!(task.join().unwrap() >= 2000);
    }
}

#[test]
fn a_wait_for_a_condition_ends_when_it_holds_or_the_time_is_up() {
    let _dog = watchdog(60);
    let pool = pool_of(1);
    let (mutex, changed): Stage = (Mutex::new(0).unwrap(), Condvar::new().unwrap());
    // It holds already: nobody has to notify.
    assert_eq!(*changed.wait_while(mutex.lock().unwrap(), |value| *value > 0).unwrap(), 0);
    let (guard, held) =
        changed.wait_timeout_while(mutex.lock().unwrap(), SHORT, |value| *value > 0).unwrap();
    assert!(held && *guard == 0);
    drop(guard);
    times_out(|| {
        let waited = changed.wait_timeout_while(mutex.lock().unwrap(), SHORT, |value| *value == 0);
        waited.unwrap().1
    });
    // Notified, but not of what it waits for, and then of that.
    let shared = (mutex.clone(), changed.clone());
    let wait = |(mutex, changed): Stage| {
        let guard = mutex.lock().unwrap();
        let (guard, held) = changed.wait_timeout_while(guard, LONG, |value| *value < 3).unwrap();
        held && *guard == 3
    };
    let waiting = pool.submit(wait, shared).unwrap();
    for value in 1..=3 {
        wait_until("it waits", || changed.waiting() == 1);
        *mutex.lock().unwrap() = value;
        changed.notify_one();
    }
    assert!(waiting.join().unwrap());
}

// Barrier -----------------------------------------------------------------------------------

/// What the parties of a test share: the barrier, and how many have arrived in this round.
type Meeting = (Barrier, Value<u64>, Value<u64>);

#[test]
fn five_parties_pass_a_thousand_times_and_always_together() {
    let _dog = watchdog(120);
    let pool = pool_of(5);
    let meeting: Meeting =
        (Barrier::new(5).unwrap(), Value::new(0).unwrap(), Value::new(0).unwrap());
    let attend = |(barrier, arrived, acted): Meeting| {
        let mut seen = Vec::new();
        for round in 1..=1000u64 {
            arrived.fetch_add(1);
            let passed = match round % 2 {
                0 => barrier.wait().unwrap(),
                _ => barrier
                    .wait_with(|| {
                        assert_eq!(arrived.load(), 5 * round, "before all had arrived");
                        acted.fetch_add(1);
                    })
                    .unwrap(),
            };
            assert!(arrived.load() >= 5 * round, "passed before all had arrived");
            assert_eq!(acted.load(), round.div_ceil(2), "acted once, before anybody passed");
            seen.push((passed.index(), passed.is_leader()));
            // Nobody is in the next round before all have looked.
            barrier.wait().unwrap();
        }
        seen
    };
    let tasks: Vec<_> = (0..5).map(|_| pool.submit(attend, meeting.clone()).unwrap()).collect();
    let seen: Vec<Vec<(u32, bool)>> = tasks.into_iter().map(|task| task.join().unwrap()).collect();
    for round in 0..1000 {
        let indexes: BTreeSet<u32> = seen.iter().map(|party| party[round].0).collect();
        assert_eq!(indexes, BTreeSet::from([0, 1, 2, 3, 4]));
        let leaders: Vec<u32> =
            seen.iter().filter(|party| party[round].1).map(|party| party[round].0).collect();
        assert_eq!(leaders, [4], "the last to arrive leads");
    }
    assert_eq!((meeting.0.waiting(), meeting.0.parties()), (0, 5));
}

/// So many workers that wait at a barrier of one more, and what they are told.
fn arrive(pool: &Pool, barrier: &Barrier, count: u32) -> Vec<TaskHandle<bool>> {
    let wait = |barrier: Barrier| barrier.wait().map(|_| ()) == Err(BarrierError::Broken);
    let tasks = (0..count).map(|_| pool.submit(wait, barrier.clone()).unwrap()).collect();
    wait_until("they wait", || barrier.waiting() == count);
    tasks
}

/// That all are told that the barrier broke.
fn all_told(tasks: Vec<TaskHandle<bool>>) {
    assert!(tasks.into_iter().all(|task| task.join().unwrap()));
}

#[test]
fn who_waits_or_comes_is_told_that_a_barrier_broke_until_it_is_reset() {
    let _dog = watchdog(60);
    let pool = pool_of(2);
    let barrier = Barrier::new(3).unwrap();
    for _ in 0..20 {
        // Aborted.
        let waiting = arrive(&pool, &barrier, 2);
        barrier.abort();
        all_told(waiting);
        assert!(barrier.is_broken() && barrier.wait() == Err(BarrierError::Broken));
        barrier.reset();
        assert!(!barrier.is_broken());
        // Reset while two wait: they are told, and it is as new.
        let waiting = arrive(&pool, &barrier, 2);
        barrier.reset();
        all_told(waiting);
        assert_eq!((barrier.is_broken(), barrier.waiting()), (false, 0));
        // One runs out of time.
        let waiting = arrive(&pool, &barrier, 1);
        times_out(|| match barrier.wait_timeout(SHORT) {
            Err(BarrierError::TimedOut(waited)) => waited != SHORT,
            other => panic!("{other:?}"),
        });
        all_told(waiting);
        assert!(barrier.is_broken());
        barrier.reset();
        // And it works.
        let waiting = arrive(&pool, &barrier, 2);
        assert!(barrier.wait_timeout(LONG).unwrap().is_leader());
        assert!(waiting.into_iter().all(|task| !task.join().unwrap()));
    }
}

#[test]
fn an_action_that_panics_breaks_the_barrier() {
    let _dog = watchdog(60);
    let pool = pool_of(2);
    let barrier = Barrier::new(2).unwrap();
    let waiting = arrive(&pool, &barrier, 1);
    let act = |barrier: Barrier| barrier.wait_with(|| panic!("the action")).is_ok();
    assert!(pool.submit(act, barrier.clone()).unwrap().join().unwrap_err().is_panic());
    all_told(waiting);
    assert!(barrier.is_broken());
    // Reset in the middle of an action: nobody passes.
    barrier.reset();
    let waiting = arrive(&pool, &barrier, 1);
    let reset = barrier.clone();
    assert_eq!(barrier.wait_with(|| reset.reset()), Err(BarrierError::Broken));
    all_told(waiting);
    assert!(!barrier.is_broken() && barrier.waiting() == 0);
}

#[test]
fn those_who_come_during_an_action_pass_in_the_next_round() {
    let _dog = watchdog(60);
    let pool = pool_of(3);
    let shared = (Barrier::new(2).unwrap(), Value::new(0u32).unwrap());
    let wait = |(barrier, acted): (Barrier, Value<u32>)| {
        let act = || {
            acted.fetch_add(1);
        };
        barrier.wait_with(act).map(|passed| passed.is_leader()).unwrap()
    };
    let mut tasks = vec![pool.submit(wait, shared.clone()).unwrap()];
    wait_until("it waits", || shared.0.waiting() == 1);
    let (meanwhile, barrier) = (shared.clone(), &shared.0);
    let led = barrier.wait_with(|| {
        // Two more: enough for a round of their own, which none of them can lead yet.
        tasks.extend((0..2).map(|_| pool.submit(wait, meanwhile.clone()).unwrap()));
        wait_until("they wait", || barrier.waiting() == 4);
    });
    assert!(led.unwrap().is_leader());
    let leaders = tasks.into_iter().map(|task| task.join().unwrap());
    assert_eq!(leaders.filter(|leader| *leader).count(), 1);
    assert_eq!((shared.1.load(), shared.0.waiting()), (1, 0));
}

#[test]
fn a_barrier_of_one_never_waits_and_one_of_none_is_refused() {
    let _dog = watchdog(60);
    let barrier = Barrier::new(1).unwrap();
    for _ in 0..3 {
        assert_eq!(
            barrier.wait().map(|passed| (passed.index(), passed.is_leader())),
            Ok((0, true))
        );
    }
    assert!(Barrier::new(0).unwrap_err().is_invalid());
    assert!(Barrier::new(u32::MAX).unwrap_err().to_string().contains("1..=1048576"));
}

// Handles -----------------------------------------------------------------------------------

#[test]
fn a_handle_that_a_task_returns_outlives_the_worker_that_made_the_object() {
    let _dog = watchdog(60);
    let pool = pool_of(1);
    let make = |n: u32| (Event::new().unwrap(), Mutex::new(n).unwrap(), std::process::id());
    let (event, mutex, pid) = pool.submit(make, 7).unwrap().join().unwrap();
    kill(pid, libc::SIGKILL);
    wait_until("it is gone", || !is_running(pid));
    event.set();
    assert!(event.is_set() && *mutex.lock().unwrap() == 7);
    // By many calls at once, some of whose results nobody reads.
    let many = pool.map(make, 0..500).unwrap();
    assert!(many.iter().zip(0..).all(|((_, mutex, _), n)| *mutex.lock().unwrap() == n));
    // Results that were set aside because the queue was full of finished tasks.
    let small = Pool::builder().workers(1).queue_capacity(4).build().unwrap();
    let tasks: Vec<_> = (0..40).map(|n| small.submit(make, n).unwrap()).collect();
    for (n, task) in (0..).zip(tasks) {
        assert_eq!(*task.join().unwrap().1.lock().unwrap(), n);
    }
}

#[test]
fn handles_are_the_same_object_wherever_they_have_been() {
    let _dog = watchdog(60);
    let pool = pool_of(2);
    let event = Event::new().unwrap();
    let there_and_back = pool.submit(|event: Event| event, event.clone()).unwrap().join().unwrap();
    assert!(there_and_back == event && event.clone() == event);
    assert!(Event::new().unwrap() != event);
    there_and_back.set();
    assert!(event.is_set());
    // A worker with a pool of its own passes it on.
    let nested = |event: Event| {
        let inner = Pool::builder().workers(1).build().unwrap();
        inner.submit(|event: Event| event.clear(), event.clone()).unwrap().join().unwrap();
        event.is_set()
    };
    assert!(!pool.submit(nested, event.clone()).unwrap().join().unwrap());
    assert!(!event.is_set());
    // All of them say what they are.
    let text = format!("{event:?} {:?}", Semaphore::new(3).unwrap());
    assert!(text.contains("Event") && text.contains("available: 3"), "{text}");
}

#[test]
fn who_waits_uses_no_processor() {
    let _dog = watchdog(60);
    let pool = Pool::builder().workers(4).name("idlesync").build().unwrap();
    type Shared = (Semaphore, RwLock<u32>, Mutex<u32>, Event);
    let shared: Shared = (
        Semaphore::new(1).unwrap(),
        RwLock::new(0).unwrap(),
        Mutex::new(0).unwrap(),
        Event::automatic().unwrap(),
    );
    let held = (shared.0.acquire(), shared.1.write().unwrap(), shared.2.lock().unwrap());
    let wait = |((permits, lock, mutex, event), which): (Shared, u32)| match which {
        0 => drop(permits.acquire()),
        1 => drop(lock.read()),
        2 => drop(mutex.lock()),
        _ => event.wait(),
    };
    let tasks: Vec<_> =
        (0..4).map(|which| pool.submit(wait, (shared.clone(), which)).unwrap()).collect();
    let workers = workers_of(std::process::id(), "idlesync");
    assert_eq!(workers.len(), 4);
    wait_until("all wait", || {
        (shared.0.waiting(), shared.1.waiting(), shared.3.waiting()) == (1, 1, 1)
    });
    wait_until("all sleep", || workers.iter().all(|worker| is_asleep(*worker)));
    let ticks = || -> u64 { workers.iter().map(|worker| cpu_ticks(*worker)).sum() };
    let before = ticks();
    std::thread::sleep(Duration::from_millis(500));
    let used = ticks() - before;
    assert!(used <= 1, "{used} ticks of 10 ms used by four waits of 500 ms");
    drop(held);
    shared.3.set();
    tasks.into_iter().for_each(|task| task.join().unwrap());
}
