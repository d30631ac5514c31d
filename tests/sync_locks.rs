//! What locks, semaphores and values do while nobody dies: the behaviour that CPython tests of its own
//! (`lock_tests.py`, `_test_multiprocessing.py`), and what is ours beyond that.

mod support;

use procpool::sync::*;
use std::time::{Duration, Instant};
use support::*;

// Mutex -------------------------------------------------------------------------------------

#[test]
fn a_mutex_is_had_by_one_thread_of_one_process() {
    let _dog = watchdog(60);
    let pool = pool_of(1);
    let mutex = Mutex::new(7u32).unwrap();
    let held = mutex.lock().unwrap();
    // Not again, neither by this thread, nor another, nor another process.
    assert!(mutex.try_lock().is_err_and(|error| error.is_busy()));
    let busy = |mutex: Mutex<u32>| mutex.try_lock().is_err_and(|error| error.is_busy());
    let theirs = mutex.clone();
    assert!(std::thread::spawn(move || busy(theirs)).join().unwrap());
    assert!(pool.submit(busy, mutex.clone()).unwrap().join().unwrap());
    times_out(|| mutex.lock_timeout(SHORT).is_ok());
    drop(held);
    assert_eq!(*mutex.try_lock().unwrap(), 7);
    assert!(!pool.submit(busy, mutex.clone()).unwrap().join().unwrap());
    assert_eq!(*mutex.lock_timeout(SHORT).unwrap(), 7);
    let text = mutex.lock_timeout(Duration::ZERO).map(|_| ()).map_err(|error| error.to_string());
    assert_eq!(text, Ok(()));
}

#[test]
fn who_waits_for_a_mutex_gets_it_with_what_was_written_under_it() {
    let _dog = watchdog(60);
    let pool = pool_of(3);
    let mutex = Mutex::new([0u64; 8]).unwrap();
    let add = |mutex: &Mutex<[u64; 8]>, _: u32| {
        let mut held = mutex.lock().unwrap();
        let next = held[0] + 1;
        held.iter_mut().for_each(|word| *word = next);
    };
    pool.with(&mutex).map(add, 0..3000u32).unwrap();
    assert_eq!(*mutex.lock().unwrap(), [3000; 8]);
}

#[test]
fn a_panic_with_the_lock_poisons_it_until_that_is_cleared() {
    let _dog = watchdog(60);
    let pool = pool_of(1);
    let (mutex, lock) = (Mutex::new(1u32).unwrap(), RwLock::new(1u32).unwrap());
    let panic = |(mutex, lock): (Mutex<u32>, RwLock<u32>)| {
        let (mut held, mut written) = (mutex.lock().unwrap(), lock.write().unwrap());
        (*held, *written) = (2, 2);
        panic!("with both locks");
    };
    let task = pool.submit::<_, _, ()>(panic, (mutex.clone(), lock.clone())).unwrap();
    assert!(task.join().unwrap_err().is_panic());
    assert!(mutex.is_poisoned() && lock.is_poisoned());
    for _ in 0..2 {
        assert!(mutex.lock().is_err_and(|error| error.is_poisoned() && *error.into_guard() == 2));
        assert!(lock.read().is_err_and(|error| error.is_poisoned() && *error.into_guard() == 2));
        assert!(lock.write().is_err_and(|error| error.is_poisoned()));
        assert!(matches!(mutex.try_lock(), Err(TryLockError::Poisoned(_))));
    }
    mutex.clear_poison();
    lock.clear_poison();
    assert!(mutex.lock().is_ok() && lock.write().is_ok() && lock.read().is_ok());
    // A reader that panics has changed nothing.
    let panic = |lock: RwLock<u32>| {
        let _held = lock.read().unwrap();
        panic!("while reading");
    };
    assert!(pool.submit::<_, _, ()>(panic, lock.clone()).unwrap().join().unwrap_err().is_panic());
    assert!(lock.write().is_ok());
}

#[test]
fn the_owner_of_a_reentrant_mutex_gets_it_again_to_any_depth_and_nobody_else() {
    let _dog = watchdog(60);
    let pool = pool_of(1);
    let mutex = ReentrantMutex::new().unwrap();
    let busy = |mutex: ReentrantMutex| mutex.try_lock().is_err_and(|error| error.is_busy());
    let elsewhere = |what: bool| {
        let theirs = mutex.clone();
        assert_eq!(std::thread::spawn(move || busy(theirs)).join().unwrap(), what);
        assert_eq!(pool.submit(busy, mutex.clone()).unwrap().join().unwrap(), what);
    };
    let mut guards = Vec::new();
    for depth in 1..=100 {
        guards.push(mutex.lock().unwrap());
        assert_eq!(guards.last().unwrap().depth(), depth);
    }
    guards.push(mutex.try_lock().unwrap());
    guards.push(mutex.lock_timeout(SHORT).unwrap());
    while let Some(guard) = guards.pop() {
        elsewhere(true);
        drop(guard);
    }
    elsewhere(false);
    let wait = |mutex: ReentrantMutex| mutex.lock_timeout(SHORT).is_ok();
    let _held = mutex.lock().unwrap();
    let began = Instant::now();
    assert!(!pool.submit(wait, mutex.clone()).unwrap().join().unwrap());
    assert!(began.elapsed() >= SHORT);
}

#[test]
fn an_encoded_value_is_replaced_as_a_whole_or_not_at_all() {
    let _dog = watchdog(60);
    let pool = pool_of(2);
    let names = Mutex::encoded(&vec!["Ada".to_string()]).unwrap();
    let add = |names: &Mutex<Encoded<Vec<String>>>, n: u32| {
        names.lock().unwrap().update(|names| names.push("x".repeat(n as usize))).unwrap();
    };
    pool.with(&names).map(add, 0..300u32).unwrap();
    let mut lengths: Vec<usize> =
        names.lock().unwrap().get().unwrap().iter().map(String::len).collect();
    lengths.sort_unstable();
    let mut expected: Vec<usize> = (0..300).chain([3]).collect();
    expected.sort_unstable();
    assert_eq!(lengths, expected);
    // Shorter, empty, longer.
    for length in [1, 0, 5000, 2] {
        let mut held = names.lock().unwrap();
        held.set(&vec!["y".into(); length]).unwrap();
        assert_eq!(held.get().unwrap().len(), length);
    }
    // A value that refuses to be encoded, and one that carries a handle.
    let stubborn = RwLock::encoded(&Stubborn(false)).unwrap();
    assert!(stubborn.write().unwrap().set(&Stubborn(true)).is_err());
    assert!(!stubborn.read().unwrap().get().unwrap().0, "the old value stands");
    let event = Event::new().unwrap();
    let error = Mutex::encoded(&event).unwrap_err().to_string();
    assert!(error.contains("argument, context or result"), "{error}");
}

#[derive(serde::Deserialize)]
struct Stubborn(bool);

impl serde::Serialize for Stubborn {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            true => Err(serde::ser::Error::custom("no")),
            false => serializer.serialize_newtype_struct("Stubborn", &false),
        }
    }
}

// Reader-writer lock ------------------------------------------------------------------------

#[test]
fn readers_read_together_and_a_writer_writes_alone() {
    let _dog = watchdog(60);
    let pool = pool_of(2);
    let lock = RwLock::new([0u64; 4]).unwrap();
    let state = |lock: RwLock<[u64; 4]>| {
        let read = lock.try_read().is_ok();
        (read, lock.try_write().is_ok())
    };
    let elsewhere = || pool.submit(state, lock.clone()).unwrap().join().unwrap();
    assert_eq!(elsewhere(), (true, true));
    let (first, second) = (lock.read().unwrap(), lock.try_read().unwrap());
    assert_eq!(elsewhere(), (true, false));
    times_out(|| lock.write_timeout(SHORT).is_ok());
    drop((first, second));
    let writing = lock.write().unwrap();
    assert_eq!(elsewhere(), (false, false));
    times_out(|| lock.read_timeout(SHORT).is_ok());
    drop(writing);
    let work = |lock: &RwLock<[u64; 4]>, n: u64| {
        if n.is_multiple_of(3) {
            lock.write().unwrap().iter_mut().for_each(|word| *word += 1);
        }
        let seen = *lock.read().unwrap();
        seen.iter().all(|word| *word == seen[0])
    };
    assert!(pool.with(&lock).map(work, 0..3000u64).unwrap().into_iter().all(|whole| whole));
    assert_eq!(*lock.read().unwrap(), [1000; 4]);
}

#[test]
fn a_writer_is_not_starved_by_readers_that_keep_coming() {
    let _dog = watchdog(60);
    let pool = pool_of(3);
    let shared = (RwLock::new(0u64).unwrap(), Value::new(0u32).unwrap(), Value::new(0).unwrap());
    let read = |(lock, stop, reads): (RwLock<u64>, Value<u32>, Value<u64>)| {
        let mut held = lock.read().unwrap();
        while stop.load() == 0 {
            // The next reader comes before this one has gone: the lock is never free of readers,
            // unless a writer that waits keeps the next one out.
            drop(held);
            held = lock.read().unwrap();
            reads.fetch_add(1);
            std::thread::sleep(Duration::from_micros(50));
        }
    };
    let readers: Vec<_> = (0..3).map(|_| pool.submit(read, shared.clone()).unwrap()).collect();
    wait_until("they read", || shared.2.load() > 10);
    for _ in 0..50 {
        *shared.0.write().unwrap() += 1;
    }
    shared.1.store(1);
    readers.into_iter().for_each(|reader| reader.join().unwrap());
    assert_eq!(*shared.0.read().unwrap(), 50);
}

#[test]
fn a_writer_that_gives_up_lets_the_readers_behind_it_in() {
    let _dog = watchdog(60);
    let pool = pool_of(2);
    let lock = RwLock::new(0u64).unwrap();
    let reading = lock.read().unwrap();
    let write = |lock: RwLock<u64>| lock.write_timeout(Duration::from_millis(100)).is_ok();
    let writer = pool.submit(write, lock.clone()).unwrap();
    wait_until("the writer waits", || lock.waiting() == 1);
    let reader = pool.submit(|lock: RwLock<u64>| lock.read().is_ok(), lock.clone()).unwrap();
    assert!(!writer.join().unwrap());
    assert!(reader.join().unwrap());
    drop(reading);
}

// Semaphore ---------------------------------------------------------------------------------

#[test]
fn a_semaphore_gives_as_many_permits_as_it_has() {
    let _dog = watchdog(60);
    let pool = pool_of(1);
    let permits = Semaphore::new(2).unwrap();
    let (first, second) = (permits.acquire(), permits.try_acquire().unwrap());
    assert!(permits.try_acquire().is_none() && permits.available() == 0);
    times_out(|| permits.acquire_timeout(SHORT).is_some());
    let elsewhere = |permits: Semaphore| permits.try_acquire().is_some();
    assert!(!pool.submit(elsewhere, permits.clone()).unwrap().join().unwrap());
    drop(first);
    assert!(pool.submit(elsewhere, permits.clone()).unwrap().join().unwrap());
    drop(second);
    assert_eq!(permits.available(), 2);
    // Added to, also by another process than the one that took one for good.
    permits.acquire().forget();
    let release = |permits: Semaphore| permits.release(3).is_ok();
    assert!(pool.submit(release, permits.clone()).unwrap().join().unwrap());
    assert_eq!(permits.available(), 4);
    let all = permits.acquire_many(4).unwrap();
    assert_eq!((all.count(), permits.available()), (4, 0));
    assert!(permits.try_acquire_many(1).unwrap().is_none());
    times_out(|| permits.acquire_many_timeout(2, SHORT).unwrap().is_some());
    assert_eq!(permits.acquire_many(0).unwrap().count(), 0);
}

#[test]
fn a_bounded_semaphore_refuses_to_have_more_than_it_began_with() {
    let _dog = watchdog(60);
    let permits = Semaphore::bounded(2).unwrap();
    let error = permits.release(1).unwrap_err().to_string();
    assert!(error.contains("1 permits") && error.contains("2 (2 of them free)"), "{error}");
    permits.acquire().forget();
    permits.release(1).unwrap();
    assert!(permits.release(1).is_err());
    let held = permits.acquire();
    assert!(permits.release(1).is_err(), "a permit that is held counts");
    drop(held);
    assert!(permits.acquire_many(3).unwrap_err().to_string().contains("3 permits"));
    assert!(permits.try_acquire_many(3).is_err());
    assert!(Semaphore::new(u32::MAX).unwrap_err().is_invalid());
}

#[test]
fn no_more_are_inside_than_there_are_permits() {
    let _dog = watchdog(60);
    let pool = pool_of(5);
    let shared = (Semaphore::new(3).unwrap(), Value::new(0u32).unwrap());
    let work = |(permits, inside): &(Semaphore, Value<u32>), n: u64| {
        let wanted = 1 + (n % 3) as u32;
        let permit = permits.acquire_many(wanted).unwrap();
        let now = inside.fetch_add(wanted) + wanted;
        if n.is_multiple_of(8) {
            std::thread::sleep(Duration::from_micros(100));
        }
        inside.fetch_sub(wanted);
        drop(permit);
        now
    };
    let most = pool.with(&shared).map(work, 0..2000u64).unwrap().into_iter().max().unwrap();
    assert!((2..=3).contains(&most), "{most} of 3");
    assert_eq!((shared.0.available(), shared.1.load()), (3, 0));
}

#[test]
fn who_wants_many_permits_is_not_overtaken_by_who_wants_few() {
    let _dog = watchdog(60);
    let pool = pool_of(2);
    type Shared = (Semaphore, Mutex<Encoded<Vec<u32>>>);
    let shared: Shared = (Semaphore::new(2).unwrap(), Mutex::encoded(&Vec::new()).unwrap());
    let held = shared.0.acquire();
    let mut tasks = Vec::new();
    for wanted in [2, 1] {
        let before = shared.0.waiting();
        tasks.push(
            pool.submit(
                |((permits, order), wanted): (Shared, u32)| {
                    let _permit = permits.acquire_many(wanted).unwrap();
                    order.lock().unwrap().update(|order| order.push(wanted)).unwrap();
                },
                (shared.clone(), wanted),
            )
            .unwrap(),
        );
        wait_until("it waits", || shared.0.waiting() == before + 1);
    }
    assert!(shared.0.try_acquire().is_none(), "one is free, and others came before");
    drop(held);
    tasks.into_iter().for_each(|task| task.join().unwrap());
    assert_eq!(shared.1.lock().unwrap().get().unwrap(), [2, 1]);
}

// Values ------------------------------------------------------------------------------------

#[test]
fn nothing_is_lost_that_several_processes_add() {
    let _dog = watchdog(60);
    let pool = pool_of(4);
    let values = (
        (Value::new(0u32).unwrap(), Value::new(0u64).unwrap(), Value::new(0i64).unwrap()),
        (Value::new(0f64).unwrap(), Value::new(0u8).unwrap(), Value::new(0u128).unwrap()),
        (Value::new([0u16; 9]).unwrap(), Value::new(0i32).unwrap(), Value::new(0u64).unwrap()),
    );
    type Numbers = (Value<u32>, Value<u64>, Value<i64>);
    type Others = (Value<f64>, Value<u8>, Value<u128>);
    type Last = (Value<[u16; 9]>, Value<i32>, Value<u64>);
    let add = |((a, b, c), (d, e, f), (g, h, i)): &(Numbers, Others, Last), n: u64| {
        a.fetch_add(1);
        b.fetch_add(n);
        c.fetch_sub(1);
        d.fetch_add(0.5);
        e.fetch_add(1);
        f.fetch_add(1 << 70);
        g.update(|words| words.map(|word| word.wrapping_add(1)));
        h.fetch_add(-1);
        i.fetch_max(n);
        let seen = g.load();
        seen.iter().all(|word| *word == seen[0])
    };
    assert!(pool.with(&values).map(add, 0..4000u64).unwrap().into_iter().all(|whole| whole));
    let ((a, b, c), (d, e, f), (g, h, i)) = values;
    assert_eq!((a.load(), b.load(), c.load()), (4000, 4000 * 3999 / 2, -4000));
    assert_eq!((d.load(), e.load(), f.load()), (2000.0, (4000 % 256) as u8, 4000 << 70));
    assert_eq!((g.load(), h.load(), i.load()), ([4000; 9], -4000, 3999));
}

/// It ran with the value's mutex held, if the value is longer than 8 bytes.
#[test]
fn an_update_may_use_the_value_itself() {
    let _dog = watchdog(60);
    let value = Value::new([1u64; 3]).unwrap();
    let mut calls = 0;
    let before = value.update(|words| {
        calls += 1;
        if calls == 1 {
            value.store([7; 3]);
        }
        words.map(|word| word + 1)
    });
    assert_eq!((calls, before, value.load()), (2, [7; 3], [8; 3]));
    assert_eq!(value.compare_exchange([1; 3], [2; 3]), Err([8; 3]));
    assert_eq!(value.compare_exchange([8; 3], [2; 3]), Ok([8; 3]));
}

#[test]
fn an_update_that_panics_changes_nothing_and_holds_nothing() {
    let _dog = watchdog(60);
    let (small, large) = (Value::new(1u16).unwrap(), Value::new([1u64; 3]).unwrap());
    let panics = |update: &dyn Fn()| {
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(update)).unwrap_err();
    };
    panics(&|| {
        small.update(|_| panic!("small"));
    });
    panics(&|| {
        large.update(|_| panic!("large"));
    });
    assert_eq!((small.load(), large.load()), (1, [1; 3]));
    assert_eq!(large.update(|words| words.map(|word| word * 2)), [1; 3], "the value before");
    assert_eq!(small.swap(9), 1);
    assert_eq!(large.swap([5; 3]), [2; 3]);
    assert_eq!(large.compare_exchange([4; 3], [6; 3]), Err([5; 3]));
    assert_eq!(large.compare_exchange([5; 3], [6; 3]), Ok([5; 3]));
    assert_eq!(small.compare_exchange(9, 10), Ok(9));
    assert_eq!(small.try_update(|value| value.checked_sub(11)), Err(10));
    assert_eq!((small.fetch_or(5), small.fetch_and(6), small.fetch_xor(1)), (10, 15, 6));
    assert_eq!((small.fetch_min(3), small.fetch_max(4), small.load()), (7, 3, 4));
    large.store([0; 3]);
    assert_eq!(large.load(), [0; 3]);
}

#[test]
fn a_thing_is_done_once_whoever_comes_first() {
    let _dog = watchdog(60);
    let pool = pool_of(4);
    let shared = (Once::new().unwrap(), OnceCell::<u64>::new().unwrap(), Value::new(0u32).unwrap());
    let work = |(once, cell, count): &(Once, OnceCell<u64>, Value<u32>), n: u64| {
        once.call_once(|| {
            count.fetch_add(1);
        });
        assert!(once.is_completed());
        *cell.get_or_init(|| n + 100)
    };
    let seen = pool.with(&shared).map(work, 0..200u64).unwrap();
    assert_eq!(shared.2.load(), 1);
    assert!(seen.iter().all(|value| value == shared.1.get().unwrap() && *value >= 100));
    assert_eq!(shared.1.set(3), Err(3));

    // After a failure the next one does it.
    let cell = OnceCell::<u64>::new().unwrap();
    assert_eq!(cell.get_or_try_init(|| Err("not yet")), Err("not yet"));
    let panic = |cell: OnceCell<u64>| *cell.get_or_init(|| panic!("at it"));
    assert!(pool.submit(panic, cell.clone()).unwrap().join().unwrap_err().is_panic());
    assert_eq!(cell.get(), None);
    assert_eq!(cell.get_or_try_init(|| Ok::<u64, ()>(8)), Ok(&8));
    assert_eq!(cell.get_or_init_timeout(SHORT, || 9), Some(&8));
    let named = OnceCell::<Encoded<String>>::encoded().unwrap();
    assert_eq!(named.get().unwrap(), None);
    assert_eq!(named.get_or_init(|| "first".into()).unwrap(), "first");
    assert_eq!(named.get_or_init(|| "second".into()).unwrap(), "first");

    // A wait for somebody who is at it has an end.
    let once = Once::new().unwrap();
    let theirs = once.clone();
    once.call_once(|| {
        let waited = std::thread::spawn(move || {
            times_out(|| theirs.call_once_timeout(SHORT, || panic!("not its turn")));
        });
        waited.join().unwrap();
    });
    assert!(once.call_once_timeout(Duration::ZERO, || panic!("it is done")));
}

#[test]
fn a_value_without_bytes_can_be_kept_encoded() {
    let nothing = Mutex::encoded(&()).unwrap();
    nothing.lock().unwrap().set(&()).unwrap();
    let cell = OnceCell::<Encoded<()>>::encoded().unwrap();
    assert_eq!(cell.get_or_init(|| ()).unwrap(), ());
}

/// They lie in memory alike, and a handle of one would have let safe code change where the other's
/// value is read from.
#[test]
#[cfg(any(debug_assertions, feature = "fault"))]
fn a_lock_around_an_encoded_value_is_not_one_around_a_number() {
    let text = Mutex::encoded(&"text".to_string()).unwrap();
    let bytes = encode_for_test(&text);
    assert!(decode_for_test::<Mutex<u64>>(&bytes).is_err());
    assert!(decode_for_test::<Mutex<Encoded<String>>>(&bytes).is_ok());
}
