//! Walking a type through fault points: a worker is killed exactly there, and everybody else goes on.
//!
//! For each type, three workers use one object in ways that pass its points. Over and over a point is
//! armed, with some passes let through so that each role is hit, and one worker dies there. Then the
//! others must have come to their end, the object must be as good as new, and, once the handles are
//! dropped, nothing may be left of it. The user's process is spared.

use super::*;
use procpool::sync::*;
use procpool::{Pool, TaskHandle, fault};
use serde::{Deserialize, Serialize};

pub(crate) const WORKERS: usize = 3;

/// Longer than anybody looks before sleeping, so that those who wait sleep.
pub(crate) fn linger() {
    std::thread::sleep(Duration::from_micros(300));
}

/// One object of a type under test, used by workers.
pub(crate) trait Scenario: Serialize + for<'de> Deserialize<'de> + Clone + 'static {
    fn make() -> Self;
    /// What worker `number` does with it.
    fn work(self, number: usize);
    /// What the user's process does, again and again, until the workers have ended: whatever a dead
    /// one would have done so that the others need not wait.
    fn nudge(&self) {}
    /// That the object is as good as new.
    fn check(&self);
}

/// Lets the workers do their work; how many of them were lost.
pub(crate) fn run<S: Scenario>(pool: &Pool, object: &S) -> usize {
    let work = |(object, number): (S, usize)| {
        S::work(object.clone(), number);
        // The result carries the object back.
        object
    };
    wait_for_all(
        object,
        (0..WORKERS).map(|n| pool.submit(work, (object.clone(), n)).unwrap()).collect(),
    )
}

/// Waits for the workers; how many of them were lost.
fn wait_for_all<S: Scenario>(object: &S, tasks: Vec<TaskHandle<S>>) -> usize {
    while tasks.iter().any(|task| !task.is_finished()) {
        object.nudge();
        std::thread::sleep(Duration::from_micros(500));
    }
    let mut lost = 0;
    for task in tasks {
        match task.join() {
            Ok(back) => back.check_is_alive(),
            Err(error) if error.is_worker_lost() => lost += 1,
            Err(error) => panic!("{error}"),
        }
    }
    lost
}

trait CheckIsAlive {
    fn check_is_alive(&self);
}

impl<S: Scenario> CheckIsAlive for S {
    fn check_is_alive(&self) {
        drop(self.clone());
    }
}

/// The passes of a point at which somebody is killed there.
const PASSES: [u32; 5] = [1, 2, 3, 6, 100];

/// Tries to come to a point that a type must pass. Which worker waits, gives and wakes is chance.
const TRIES: usize = 100;

/// How many objects and holdings there are, and how many bytes of the arena are in use.
type Used = ((usize, usize), u64);

/// A pool whose workers have used objects of a type, and what is in use then.
fn warm_pool<S: Scenario>() -> (Pool, Used) {
    let pool = Pool::builder().workers(WORKERS).name("walk").build().unwrap();
    fault::spare_this_process();
    // Tables have grown as far as they will: objects, holdings, and threads that wait.
    Event::new().unwrap().wait_timeout(Duration::from_micros(1));
    for _ in 0..20 {
        let object = S::make();
        assert_eq!(run(&pool, &object), 0);
        object.check();
    }
    let used = (fault::objects(), pool.stats().arena_used_bytes);
    (pool, used)
}

/// Walks a type through the points from the first that begins with `first` on; those that killed
/// somebody. It tries hard for those that begin with one of `expected`.
pub(crate) fn walk<S: Scenario>(first: &str, expected: &[&str]) -> Vec<&'static str> {
    let (pool, before) = warm_pool::<S>();
    let points: Vec<&str> =
        fault::POINTS.iter().copied().skip_while(|point| !point.starts_with(first)).collect();
    let (mut reached, mut killed) = (Vec::new(), 0);
    let mut reports = std::collections::BTreeMap::<&str, Vec<u32>>::new();
    let only = std::env::var("PROCPOOL_FAULT_POINT").ok();
    for point in points {
        if only.as_ref().is_some_and(|only| only != point) {
            continue;
        }
        let must = expected.iter().any(|prefix| point.starts_with(prefix));
        let mut tries = if must { TRIES } else { 1 };
        let mut skips = PASSES.map(|pass| pass - 1).into_iter().peekable();
        while let Some(skip) = skips.peek().copied() {
            let object = S::make();
            fault::arm(point, skip).unwrap();
            // For a late pass the work is done again and again, with the same object.
            let mut again = if skip > 20 { skip } else { 0 };
            let lost = loop {
                let lost = run(&pool, &object);
                if fault::fired().is_some() || lost > 0 || again == 0 {
                    break lost;
                }
                object.check();
                again -= 1;
            };
            let fired = fault::fired().is_some();
            fault::disarm();
            reports.entry(point).or_default().extend(fired.then_some(skip + 1));
            assert!(fired || lost == 0, "{point} {skip}: {lost} lost and nobody killed");
            // Between a worker's result and its next task it dies without costing a task.
            assert!(lost <= 1, "{point} {skip}: {lost} tasks lost with one worker");
            killed += u64::from(fired);
            check_after(&pool, object, killed, before, &format!("{point} {skip}"));
            if fired {
                reached.push(point);
                tries = 1;
                skips.next();
                continue;
            }
            tries -= 1;
            if tries == 0 {
                break;
            }
        }
    }
    pool.join().unwrap();
    for (point, passes) in reports.iter().filter(|(_, passes)| !passes.is_empty()) {
        println!("{point}: killed at passes {passes:?}");
    }
    reached.dedup();
    reached
}

/// What must hold when `killed` workers have died: the object is as good as new, and nothing is left of it.
fn check_after<S: Scenario>(pool: &Pool, object: S, killed: u64, before: Used, what: &str) {
    wait_until("the dead one is settled", || pool.check_invariants().is_ok());
    wait_until("the dead one is replaced", || {
        let stats = pool.stats();
        stats.workers_lost == killed && stats.workers_started == WORKERS as u64 + stats.workers_lost
    });
    object.check();
    assert_eq!(run(pool, &object), 0, "{what}");
    object.check();
    drop(object);
    let after = || (fault::objects(), pool.stats().arena_used_bytes);
    let limit = std::time::Instant::now() + Duration::from_secs(5);
    while after() != before {
        assert!(
            std::time::Instant::now() < limit,
            "{what}: objects, holdings and bytes were {before:?} and are {:?}",
            after()
        );
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// The store to die before next. Without `PROCPOOL_EVERY_STORE` fewer and fewer, because all of them take long.
fn next_store(stores: u64) -> u64 {
    match std::env::var_os("PROCPOOL_EVERY_STORE") {
        Some(_) => stores + 1,
        None => stores + (stores / 7).max(5),
    }
}

/// Has one worker die before each of its stores to words that others see, one after the other, until it gets
/// through with its work; how many times it died.
pub(crate) fn walk_stores<S: Scenario>() -> u64 {
    let (pool, before) = warm_pool::<S>();
    let mut killed = 0;
    // Others are in its way now and then, and it makes more stores: not each run is as long.
    let mut alive = 0;
    for stores in std::iter::successors(Some(0), |stores| Some(next_store(*stores))) {
        let object = S::make();
        let lost = run_dying(&pool, &object, stores);
        assert!(lost <= 1, "{stores}: {lost} tasks lost with one worker");
        alive = if lost == 0 { alive + 1 } else { 0 };
        wait_until("who was to die is dead", || pool.stats().workers_lost >= killed + lost as u64);
        // It may have died behind its result.
        killed = pool.stats().workers_lost;
        check_after(&pool, object, killed, before, &format!("before store {}", stores + 1));
        if alive == 3 {
            break;
        }
    }
    pool.join().unwrap();
    killed
}

/// As [`run`]; the worker with number 0 makes so many stores.
fn run_dying<S: Scenario>(pool: &Pool, object: &S, stores: u64) -> usize {
    let work = |(object, number, stores): (S, usize, u64)| {
        if number == 0 {
            fault::die_after(stores);
        }
        S::work(object.clone(), number);
        fault::die_after(u64::MAX);
        object
    };
    let arguments = (0..WORKERS).map(|number| (object.clone(), number, stores));
    wait_for_all(object, arguments.map(|one| pool.submit(work, one).unwrap()).collect())
}

/// Has every scenario walked in a program of its own, and checks that each was killed at all points
/// that begin with one of its prefixes.
pub(crate) fn walk_all(scenarios: &[(&str, &[&str])]) {
    let _dog = watchdog(900);
    several_at_a_time(wanted(scenarios), |(scenario, prefixes), folder| {
        walk_one(scenario, prefixes, folder);
    });
}

/// What is to be walked through: all, or what `PROCPOOL_FAULT_SCENARIO` says.
fn wanted<'a>(
    scenarios: &'a [(&'a str, &'a [&'a str])],
) -> impl Iterator<Item = &'a (&'a str, &'a [&'a str])> + Send {
    let only = std::env::var("PROCPOOL_FAULT_SCENARIO").ok();
    scenarios.iter().filter(move |(scenario, _)| only.as_ref().is_none_or(|only| only == scenario))
}

fn walk_one(scenario: &str, prefixes: &[&str], folder: &std::path::Path) {
    let (status, text, errors) = run_to_end(&mut program_in_role(scenario, folder));
    assert!(status.success(), "{scenario}: {text}{errors}");
    for line in text.lines().filter(|line| line.contains("killed at passes")) {
        println!("{scenario}: {line}");
    }
    let reached = text.split("reached: ").nth(1).unwrap_or_default();
    let reached: Vec<&str> = reached.lines().next().unwrap_or_default().split(' ').collect();
    let expected = fault::POINTS
        .iter()
        .filter(|point| prefixes.iter().any(|prefix| point.starts_with(prefix)));
    for point in expected {
        assert!(reached.contains(point), "{scenario} never dies at {point}: {reached:?}");
    }
}

/// Has one worker of every scenario die before each of its stores, in a program of its own.
pub(crate) fn walk_all_stores(scenarios: &[(&str, &[&str])]) {
    let _dog = watchdog(3600);
    several_at_a_time(wanted(scenarios), |(scenario, _), folder| {
        let mut program = program_in_role(&format!("{STORES}{scenario}"), folder);
        let (status, text, errors) = run_to_end(&mut program);
        assert!(status.success(), "{scenario}: {text}{errors}");
        let died = text.split("died: ").nth(1).and_then(|rest| rest.lines().next());
        let died: u64 = died.unwrap().parse().unwrap();
        println!("{scenario}: died {died} times");
        assert!(died >= 5, "{scenario}: {died}");
    });
}

/// Whether this is a program that walks through stores.
pub(crate) fn walks_stores() -> bool {
    role().is_some_and(|role| role.starts_with(STORES))
}

/// Begins the role of a program that walks through stores.
pub(crate) const STORES: &str = "stores of ";
