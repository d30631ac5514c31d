//! Walks through every fault point of shared objects and of `sync`, for every type: a worker is
//! killed exactly there, and everybody else goes on.
//!
//! What the walk does is in `support/walk.rs`. Here the three workers hold an object, wait for it, and
//! are woken. What becomes of everything when the user's process dies is in `crash.rs`.
#![cfg(any(debug_assertions, feature = "fault"))]

mod support;

use procpool::sync::*;
use serde::{Deserialize, Serialize};
use std::time::Duration;
use support::walk::*;
use support::*;

/// Whoever has it, whatever was said of its last owner.
fn whatever<G>(got: Result<G, LockError<G>>) -> G {
    got.unwrap_or_else(LockError::into_guard)
}

#[derive(Clone, Serialize, Deserialize)]
struct Locks(Mutex<[u64; 2]>, ReentrantMutex);

impl Scenario for Locks {
    fn make() -> Self {
        Self(Mutex::new([0; 2]).unwrap(), ReentrantMutex::new().unwrap())
    }
    fn work(self, _: usize) {
        for _ in 0..10 {
            let mut pair = match self.0.lock() {
                Ok(pair) => {
                    assert_eq!(pair[0], pair[1], "half-changed, and nobody was told");
                    pair
                }
                Err(error) => {
                    assert!(error.is_owner_died());
                    let mut pair = error.into_guard();
                    pair[1] = pair[0];
                    pair
                }
            };
            pair[0] += 1;
            std::thread::yield_now();
            pair[1] += 1;
            drop(pair);
            let outer = whatever(self.1.lock());
            let inner = whatever(self.1.lock());
            assert_eq!(inner.depth(), 2);
            drop((inner, outer));
        }
    }
    fn check(&self) {
        drop(whatever(self.0.lock()));
        drop(whatever(self.1.lock()));
        assert!(self.0.try_lock().is_ok() && self.1.lock().is_ok_and(|guard| guard.depth() == 1));
    }
}

#[derive(Clone, Serialize, Deserialize)]
struct ReadWrite(RwLock<[u64; 2]>);

impl Scenario for ReadWrite {
    fn make() -> Self {
        Self(RwLock::new([0; 2]).unwrap())
    }
    fn work(self, number: usize) {
        for round in 0..8 {
            if (round + number).is_multiple_of(2) {
                match self.0.write() {
                    Ok(mut pair) => {
                        assert_eq!(pair[0], pair[1], "half-changed, and nobody was told");
                        pair[0] += 1;
                        if round < 2 {
                            linger();
                        }
                        pair[1] += 1;
                    }
                    Err(error) => {
                        assert!(error.is_owner_died());
                        let mut pair = error.into_guard();
                        pair[1] = pair[0];
                    }
                }
            } else if let Ok(pair) = self.0.read() {
                assert_eq!(pair[0], pair[1]);
            }
            // Leaves the queue again, most of the time.
            drop(self.0.write_timeout(Duration::from_micros(20)));
            drop(self.0.read_timeout(Duration::from_micros(20)));
        }
    }
    fn check(&self) {
        drop(whatever(self.0.write()));
        assert!(self.0.try_write().is_ok(), "{:?}", self.0);
        assert!(self.0.try_read().is_ok());
    }
}

#[derive(Clone, Serialize, Deserialize)]
struct Changes(Mutex<u64>, Condvar);

impl Scenario for Changes {
    fn make() -> Self {
        Self(Mutex::new(0).unwrap(), Condvar::new().unwrap())
    }
    fn work(self, number: usize) {
        for round in 0..4 {
            let mut turn = whatever(self.0.lock());
            if (round + number).is_multiple_of(3) {
                linger();
                *turn += 1;
                self.1.notify_one();
            } else {
                let before = *turn;
                turn = whatever(self.1.wait_while(turn, |turn| *turn == before));
                drop(turn);
                let turn = whatever(self.0.lock());
                let short = Duration::from_micros(20);
                drop(self.1.wait_timeout(turn, short));
            }
        }
    }
    fn nudge(&self) {
        *whatever(self.0.lock()) += 1;
        self.1.notify_all();
    }
    fn check(&self) {
        drop(whatever(self.0.lock()));
        assert_eq!((self.1.waiting(), self.1.notify_all()), (0, 0));
    }
}

#[derive(Clone, Serialize, Deserialize)]
struct Events(Event, Event);

impl Scenario for Events {
    fn make() -> Self {
        Self(Event::new().unwrap(), Event::automatic().unwrap())
    }
    fn work(self, number: usize) {
        for round in 0..4 {
            if (round + number).is_multiple_of(3) {
                linger();
                self.0.set();
                self.1.set();
                self.0.clear();
            } else {
                self.0.wait();
                self.1.wait();
                self.1.wait_timeout(Duration::from_micros(20));
            }
        }
    }
    fn nudge(&self) {
        self.0.set();
        self.1.set();
        self.0.clear();
    }
    fn check(&self) {
        let Self(manual, automatic) = self;
        automatic.wait_timeout(Duration::ZERO);
        assert!(!manual.is_set() && !automatic.is_set());
        automatic.set();
        assert!(automatic.is_set(), "it was given to nobody who lives");
        assert!(automatic.wait_timeout(Duration::ZERO) && !automatic.is_set());
    }
}

#[derive(Clone, Serialize, Deserialize)]
struct Permits(Semaphore, Value<u32>, Semaphore);

impl Scenario for Permits {
    fn make() -> Self {
        let scratch = Semaphore::new(1000).unwrap();
        Self(Semaphore::bounded(2).unwrap(), Value::new(0).unwrap(), scratch)
    }
    fn work(self, number: usize) {
        for round in 0..6 {
            if (round + number).is_multiple_of(3) {
                let both = self.0.acquire_many(2).unwrap();
                linger();
                drop(both);
            } else {
                let permit = self.0.acquire();
                std::thread::yield_now();
                drop(permit);
            }
            drop(self.0.acquire_many_timeout(2, Duration::from_micros(20)));
            self.2.acquire().forget();
            self.2.release(1).unwrap();
        }
    }
    fn check(&self) {
        assert_eq!(self.0.available(), 2, "permits did not come back");
        assert_eq!(self.0.try_acquire_many(2).unwrap().map(|permit| permit.count()), Some(2));
        // What was forgotten and not released again is gone.
        assert!(self.2.available() >= 999);
    }
}

#[derive(Clone, Serialize, Deserialize)]
struct Meetings(Barrier);

impl Scenario for Meetings {
    fn make() -> Self {
        Self(Barrier::new(WORKERS as u32).unwrap())
    }
    fn work(self, number: usize) {
        let short = Duration::from_micros(50);
        for round in 0..6 {
            if round == number {
                linger();
            }
            // Who arrives after a survivor has mended the barrier is alone.
            let limit = Duration::from_millis(100);
            let passed = match round % 2 {
                0 => self.0.wait_timeout(limit),
                _ => self.0.wait_timeout_with(limit, std::thread::yield_now),
            };
            if passed.is_err() {
                break;
            }
        }
        if number == 0 {
            // Withdraws, which breaks it, and mends it.
            let _ = self.0.wait_timeout(short);
            self.0.reset();
        }
        let _ = self.0.wait_timeout(short);
    }
    fn check(&self) {
        self.0.reset();
        assert_eq!(self.0.waiting(), 0);
        assert!(self.0.wait_timeout(Duration::ZERO).is_err());
        assert!(self.0.is_broken());
        self.0.reset();
    }
}

#[derive(Clone, Serialize, Deserialize)]
struct First(Once, OnceCell<u64>, OnceCell<Encoded<String>>, Value<u32>);

impl Scenario for First {
    fn make() -> Self {
        let (once, cell) = (Once::new().unwrap(), OnceCell::new().unwrap());
        Self(once, cell, OnceCell::encoded().unwrap(), Value::new(0).unwrap())
    }
    fn work(self, number: usize) {
        self.0.call_once_timeout(Duration::from_micros(20), std::thread::yield_now);
        self.0.call_once(|| {
            self.3.fetch_add(1);
        });
        let init = || {
            std::thread::yield_now();
            7 + number as u64
        };
        assert!(*self.1.get_or_init(init) >= 7);
        assert_eq!(self.2.get_or_init(|| "a".repeat(100)).unwrap(), "a".repeat(100));
    }
    fn check(&self) {
        assert!(self.0.is_completed() && self.1.is_set() && self.2.is_set());
        assert!(self.3.load() <= 2, "done again only if the first was killed at it");
    }
}

#[derive(Clone, Serialize, Deserialize)]
struct Values(Value<[u64; 5]>, Mutex<Encoded<Vec<u64>>>, RwLock<Encoded<String>>);

impl Scenario for Values {
    fn make() -> Self {
        let value = Value::new([0; 5]).unwrap();
        Self(value, Mutex::encoded(&vec![1]).unwrap(), RwLock::encoded(&String::new()).unwrap())
    }
    fn work(self, number: usize) {
        for round in 0..6usize {
            self.0.update(|value| value.map(|word| word + 1));
            let seen = self.0.load();
            assert!(seen.iter().all(|word| *word == seen[0]), "torn: {seen:?}");
            let mut list = whatever(self.1.lock());
            let wanted = 100 * (1 + (round + number) % 4);
            list.update(|list| {
                assert!(list.iter().all(|element| *element == list.len() as u64), "{list:?}");
                *list = vec![wanted as u64; wanted];
            })
            .unwrap();
            drop(list);
            whatever(self.2.write()).set(&"x".repeat(wanted)).unwrap();
            let text = whatever(self.2.read()).get().unwrap();
            assert!(text.bytes().all(|byte| byte == b'x'));
        }
    }
    fn check(&self) {
        let seen = self.0.load();
        assert!(seen.iter().all(|word| *word == seen[0]));
        let list = whatever(self.1.lock()).get().unwrap();
        assert!(list.iter().all(|element| *element == list.len() as u64));
        drop(whatever(self.2.write()));
    }
}

/// Objects that workers make and send back.
#[derive(Clone, Serialize, Deserialize)]
struct Travellers(Value<u32>);

impl Scenario for Travellers {
    fn make() -> Self {
        Self(Value::new(0).unwrap())
    }
    fn work(self, _: usize) {
        for _ in 0..5 {
            let event = Event::new().unwrap();
            let cell = Mutex::encoded(&"text".to_string()).unwrap();
            cell.lock().unwrap().set(&"longer ".repeat(100)).unwrap();
            drop((event, cell.clone(), cell));
            self.0.fetch_add(1);
        }
    }
    fn check(&self) {}
}

/// Calls a function for the type of a scenario.
macro_rules! by_name {
    ($name:expr, $function:ident($($argument:expr),*)) => {
        match $name {
            "locks" => $function::<Locks>($($argument),*),
            "read-write" => $function::<ReadWrite>($($argument),*),
            "changes" => $function::<Changes>($($argument),*),
            "events" => $function::<Events>($($argument),*),
            "permits" => $function::<Permits>($($argument),*),
            "meetings" => $function::<Meetings>($($argument),*),
            "first" => $function::<First>($($argument),*),
            "values" => $function::<Values>($($argument),*),
            "travellers" => $function::<Travellers>($($argument),*),
            other => panic!("no scenario {other}"),
        }
    };
}

/// What a program does that walks through a scenario.
fn walk_by_name(role: &str) {
    if let Some(name) = role.strip_prefix(STORES) {
        return by_name!(name, walk_stores(name));
    }
    let expected = EXPECTED.iter().find(|(scenario, _)| *scenario == role);
    let expected = expected.map_or(&[][..], |(_, prefixes)| prefixes);
    by_name!(role, walk("objects.", expected))
}

/// Not a test of its own: the program that the test below runs, once for each type.
#[test]
fn child_program() {
    let Some(role) = role() else { return };
    let _dog = watchdog(3000);
    walk_by_name(&role);
}

/// The points that each type must have been killed at.
const EXPECTED: &[(&str, &[&str])] = &[
    ("locks", &["mutex."]),
    ("read-write", &["rwlock.", "sync."]),
    ("changes", &["condvar.", "sync."]),
    ("events", &["event.", "sync."]),
    ("permits", &["semaphore.", "sync."]),
    ("meetings", &["barrier.", "sync."]),
    ("first", &["once."]),
    ("values", &["value.", "encoded."]),
    ("travellers", &["objects."]),
];

#[test]
fn every_point_of_every_type_may_be_the_last_of_a_worker() {
    walk_all("points of sync", ("objects.", Some("stripe.")), EXPECTED, &[]);
}

#[test]
fn every_store_of_every_type_may_be_the_last_of_a_worker() {
    walk_all_stores(EXPECTED);
}
