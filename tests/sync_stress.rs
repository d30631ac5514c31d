//! Workers that use shared objects in every way, and are killed at random, some at once, now and then
//! with their guardian: nobody hangs, nothing is lost, and nothing is left.
//!
//! Guardians are killed, which all pools of a program share: the only test of its program.
//! `PROCPOOL_STRESS_SEED` repeats a run's choices; the seed is printed.
#![cfg(any(debug_assertions, feature = "fault"))]

mod support;

use procpool::sync::*;
use procpool::{Pool, fault};
use serde::{Deserialize, Serialize};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};
use support::*;

const WORKERS: usize = 4;
const PERMITS: u32 = 3;

/// What the workers share.
#[derive(Clone, Serialize, Deserialize)]
struct Shared {
    pair: Mutex<[u64; 2]>,
    again: ReentrantMutex,
    table: RwLock<[u64; 2]>,
    text: Mutex<Encoded<String>>,
    changed: Condvar,
    manual: Event,
    automatic: Event,
    permits: Semaphore,
    barrier: Barrier,
    cell: OnceCell<u64>,
    value: Value<[u64; 4]>,
    count: Value<u64>,
}

impl Shared {
    fn make() -> Self {
        Self {
            pair: Mutex::new([0; 2]).unwrap(),
            again: ReentrantMutex::new().unwrap(),
            table: RwLock::new([0; 2]).unwrap(),
            text: Mutex::encoded(&String::new()).unwrap(),
            changed: Condvar::new().unwrap(),
            manual: Event::new().unwrap(),
            automatic: Event::automatic().unwrap(),
            permits: Semaphore::bounded(PERMITS).unwrap(),
            barrier: Barrier::new(2).unwrap(),
            cell: OnceCell::new().unwrap(),
            value: Value::new([0; 4]).unwrap(),
            count: Value::new(0).unwrap(),
        }
    }

    /// Locks the pair, whose halves are equal unless the last owner died.
    fn pair(&self) -> MutexGuard<'_, [u64; 2]> {
        match self.pair.lock() {
            Ok(pair) => {
                assert_eq!(pair[0], pair[1], "half-changed, and nobody was told");
                pair
            }
            Err(error) => {
                let mut pair = error.into_guard();
                pair[1] = pair[0];
                pair
            }
        }
    }

    fn change_table(&self) {
        match self.table.write() {
            Ok(mut table) => {
                assert_eq!(table[0], table[1], "half-changed, and nobody was told");
                table[0] += 1;
                table[1] += 1;
            }
            Err(error) => {
                let mut table = error.into_guard();
                table[1] = table[0];
            }
        }
    }

    /// Does one of all that can be done.
    fn act(&self, choice: u64) {
        let short = Duration::from_micros(choice >> 8 & 127);
        match choice % 16 {
            0 | 1 => {
                let mut pair = self.pair();
                pair[0] += 1;
                pair[1] += 1;
            }
            2 => {
                let outer = self.again.lock().unwrap_or_else(LockError::into_guard);
                drop(self.again.lock());
                drop(outer);
            }
            3 => self.change_table(),
            4 | 5 => {
                if let Ok(table) = self.table.read() {
                    assert_eq!(table[0], table[1]);
                }
            }
            6 => {
                let mut text = self.text.lock().unwrap_or_else(LockError::into_guard);
                let long = "x".repeat((choice >> 16 & 1023) as usize);
                text.set(&long).unwrap();
                assert_eq!(text.get().unwrap(), long);
            }
            7 => {
                let pair = self.pair();
                drop(self.changed.wait(pair).map_err(LockError::into_guard));
            }
            8 => {
                drop(self.changed.wait_timeout(self.pair(), short));
            }
            9 => {
                self.changed.notify(2);
                self.manual.set();
                self.manual.clear();
                self.automatic.set();
            }
            10 => {
                self.manual.wait();
                self.automatic.wait_timeout(short);
            }
            11 => drop(self.permits.acquire_many(1 + (choice >> 16) as u32 % PERMITS).unwrap()),
            12 => drop(self.permits.acquire_many_timeout(PERMITS, short).unwrap()),
            13 => {
                if self.barrier.wait_timeout(short * 10).is_err() {
                    self.barrier.reset();
                }
            }
            14 => {
                self.cell.get_or_init(|| 5);
                let fresh = OnceCell::<u64>::new().unwrap();
                assert_eq!(fresh.clone().get_or_init(|| choice), &choice);
            }
            _ => {
                self.value.update(|value| value.map(|word| word + 1));
                let seen = self.value.load();
                assert!(seen.iter().all(|word| *word == seen[0]), "torn: {seen:?}");
                self.count.fetch_add(1);
            }
        }
    }

    /// What somebody has to do for those who wait for something to happen.
    fn nudge(&self) {
        self.changed.notify_all();
        self.manual.set();
        self.manual.clear();
        self.automatic.set();
    }

    fn check(&self) {
        drop(self.pair());
        self.change_table();
        assert!(self.table.try_write().is_ok() && self.pair.try_lock().is_ok());
        assert_eq!(self.permits.available(), PERMITS);
        assert_eq!((self.changed.waiting(), self.manual.waiting()), (0, 0));
        assert_eq!((self.automatic.waiting(), self.permits.waiting()), (0, 0));
        self.barrier.reset();
        assert_eq!(self.barrier.waiting(), 0);
    }
}

#[test]
fn nobody_hangs_and_nothing_is_lost_while_workers_are_killed_at_random() {
    let _dog = watchdog(300);
    let mut random = Random(seed());
    // Whoever kills so often does not want the pool to give up.
    let pool = Pool::builder().workers(WORKERS).name("syncstress");
    let pool = pool.restart_limit(1_000_000, Duration::from_secs(1)).build().unwrap();
    let shared = Shared::make();
    let over = AtomicBool::new(false);
    let (mut lost, mut done) = (0u64, 0u64);
    let mut seeds = Random(random.next());
    std::thread::scope(|scope| {
        let (over, nudged) = (&over, shared.clone());
        scope.spawn(move || {
            while !over.load(Relaxed) {
                nudged.nudge();
                std::thread::sleep(Duration::from_micros(300));
            }
        });
        scope.spawn(move || {
            while !over.load(Relaxed) {
                std::thread::sleep(Duration::from_micros(random.next() % 10_000));
                let workers = workers_of(std::process::id(), "syncstress");
                // Up to three at once.
                for _ in 0..1 + random.next() % 3 {
                    if let Some(pid) = workers.get(random.next() as usize % workers.len().max(1)) {
                        kill(*pid, libc::SIGKILL);
                    }
                }
                if random.next().is_multiple_of(16)
                    && let Some(guardian) = guardian_of(std::process::id())
                {
                    kill(guardian, libc::SIGKILL);
                }
            }
        });
        let end = Instant::now() + Duration::from_secs(5);
        let work = |(shared, seed): (Shared, u64)| {
            let mut random = Random(seed);
            for _ in 0..100 {
                shared.act(random.next());
            }
        };
        // On a machine that is slow just now, it takes longer.
        while Instant::now() < end || lost <= 50 || done <= 50 {
            let tasks: Vec<_> = (0..2 * WORKERS)
                .map(|_| pool.submit(work, (shared.clone(), seeds.next())).unwrap())
                .collect();
            for task in tasks {
                match task.join() {
                    Ok(()) => done += 1,
                    Err(error) if error.is_worker_lost() => lost += 1,
                    Err(error) => panic!("{error}"),
                }
            }
        }
        over.store(true, Relaxed);
    });
    println!("{lost} tasks lost, {done} done");
    assert!(lost > 50 && done > 50);
    wait_until("the pool is whole", || pool.check_invariants().is_ok());
    wait_until("only ours are held", || fault::objects() == (12, 12));
    shared.check();
    drop(shared);
    assert_eq!(fault::objects(), (0, 0));
}
