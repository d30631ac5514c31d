//! Walking a type through fault points: a worker is killed exactly there, and everybody else goes on.
//!
//! For each type, three workers use one object in ways that pass its points. Over and over a point is
//! armed, with some passes let through so that each role is hit, and one worker dies there. Then the
//! others must have come to their end, the object must be as good as new, and, once the handles are
//! dropped, nothing may be left of it. The user's process is spared.

use super::*;
use procpool::sync::*;
use procpool::{Pool, PoolBuilder, TaskHandle, fault};
use serde::{Deserialize, Serialize};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

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

/// The passes of a point at which somebody is killed there. There are no exceptions: each point comes so often in one of the
/// scenarios that have to pass it.
pub(crate) const PASSES: [u32; 5] = [1, 2, 3, 6, 100];

/// How many objects and holdings there are, and how many bytes of the arena are in use.
type Used = ((usize, usize), u64);

/// For pools with few slots: all of them are looked at after each death.
pub(crate) fn builder() -> PoolBuilder {
    Pool::builder().workers(WORKERS).name("walk").queue_capacity(16)
}

/// A pool whose workers have used objects of a type, and what is in use then.
fn warm_pool<S: Scenario>() -> (Pool, Used) {
    let pool = builder().build().unwrap();
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

/// Walks a type through the points from the first that begins with `first` on. Those that begin with one of `expected` are the type's
/// own: there, somebody must be killed at each of [`PASSES`]. What it passes besides, it is killed at until a pass does not come.
pub(crate) fn walk<S: Scenario>(first: &str, expected: &[&str]) {
    let (pool, before) = warm_pool::<S>();
    let points: Vec<&str> =
        fault::POINTS.iter().copied().skip_while(|point| !point.starts_with(first)).collect();
    let mut killed = 0;
    let only = std::env::var("PROCPOOL_FAULT_POINT").ok();
    for point in points {
        if only.as_ref().is_some_and(|only| only != point) {
            continue;
        }
        let must = expected.iter().any(|prefix| point.starts_with(prefix));
        let (mut passes, began) = (Vec::new(), Instant::now());
        for pass in PASSES {
            // Which worker waits, gives and wakes is chance.
            let runs = match (must, pass) {
                (true, _) => 100 + 4 * pass,
                (false, 0..=20) => 1,
                (false, _) => pass,
            };
            let fired = kill_at::<S>(&pool, (point, pass, runs), &mut killed, before);
            passes.extend(fired.then_some(pass));
            if !fired && !must {
                break;
            }
            assert!(fired, "{point} has no pass {pass} in {runs} runs");
        }
        if !passes.is_empty() {
            println!("{point}: killed at passes {passes:?}, within {:.1?}", began.elapsed());
        }
    }
    pool.join().unwrap();
}

/// How many runs use the same object.
const RUNS_WITH_ONE: u32 = 3;

/// Has a worker killed at a pass of a point, if it comes to that in so many runs.
fn kill_at<S: Scenario>(
    pool: &Pool,
    (point, pass, runs): (&str, u32, u32),
    killed: &mut u64,
    before: Used,
) -> bool {
    let mut object = S::make();
    fault::arm(point, pass - 1).unwrap();
    // For a late pass the work is done again and again, now with an object that has been used, now with a new one.
    let mut run_now = 0;
    let lost = loop {
        let lost = run(pool, &object);
        run_now += 1;
        if fault::fired().is_some() || lost > 0 || run_now == runs {
            break lost;
        }
        object.check();
        if run_now % RUNS_WITH_ONE == 0 {
            object = S::make();
        }
    };
    let fired = fault::fired().is_some();
    fault::disarm();
    assert!(fired || lost == 0, "{point} {pass}: {lost} lost and nobody killed");
    // Between a worker's result and its next task it dies without costing a task.
    assert!(lost <= 1, "{point} {pass}: {lost} tasks lost with one worker");
    *killed += u64::from(fired);
    check_after(pool, object, *killed, before, &format!("{point} {pass}"));
    fired
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
        None if stores < 30 => stores + 1,
        None => stores + (stores / 7).max(5),
    }
}

/// What `PROCPOOL_STORES=100..200` says: only those stores, for a part of a walk that takes long.
pub(crate) fn range() -> Option<(u64, u64)> {
    let text = std::env::var("PROCPOOL_STORES").ok()?;
    let (first, end) = text.split_once("..")?;
    Some((first.parse().ok()?, end.parse().ok()?))
}

/// The stores after which to die, one after the other.
fn all_stores() -> impl Iterator<Item = u64> + Send {
    let (first, end) = range().unwrap_or((0, u64::MAX));
    let all = std::iter::successors(Some(first), |stores| Some(next_store(*stores)));
    all.take_while(move |stores| *stores < end)
}

/// A walk through the stores of a process, which dies before each of them, until it lives some times in a row: others are in
/// its way now and then, and it makes more stores, so that not each run is as long.
pub(crate) struct StoresWalk {
    what: String,
    began: Instant,
    alive: AtomicU64,
    died: AtomicU64,
    last: AtomicU64,
}

/// How often in a row it has to live.
const ALIVE_AT_THE_END: u64 = 3;

impl StoresWalk {
    pub(crate) fn new(what: &str) -> Self {
        let (alive, died, last) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
        Self { what: what.into(), began: Instant::now(), alive, died, last }
    }

    /// Whether only a part is to be walked through.
    pub(crate) fn is_partial(&self) -> bool {
        range().is_some()
    }

    fn note(&self, stores: u64, died: bool) {
        if !died {
            self.alive.fetch_add(1, Relaxed);
            return;
        }
        self.alive.store(0, Relaxed);
        self.died.fetch_add(1, Relaxed);
        self.last.fetch_max(stores + 1, Relaxed);
    }

    fn left(&self) -> impl Iterator<Item = u64> + Send {
        all_stores().take_while(|_| self.alive.load(Relaxed) < ALIVE_AT_THE_END)
    }

    /// Has `once` kill a process after so many stores, or not if it makes no more: whether it did.
    pub(crate) fn one_by_one(&self, mut once: impl FnMut(u64) -> bool) {
        self.left().for_each(|stores| self.note(stores, once(stores)));
    }

    /// The same, for some at a time, with a temporary directory.
    pub(crate) fn some_at_a_time(&self, once: impl Fn(u64, &std::path::Path) -> bool + Sync) {
        several_at_a_time(self.left(), |stores, folder| self.note(stores, once(stores, folder)));
    }

    /// Says what it has come to, and checks that it was a walk at all.
    pub(crate) fn report(&self) {
        let (died, last) = (self.died.load(Relaxed), self.last.load(Relaxed));
        let line = format!(
            "{}: died {died} times, before stores 1 to {last}, within {:.1?}",
            self.what,
            self.began.elapsed()
        );
        println!("{line}");
        report(&format!("stores of {}", self.what), &line);
        assert!(self.is_partial() || died > 0, "{line}");
    }
}

/// Has one worker die before each of its stores to words that others see, one after the other, until it gets
/// through with its work.
pub(crate) fn walk_stores<S: Scenario>(what: &str) {
    let (pool, before) = warm_pool::<S>();
    let mut killed = 0;
    let walk = StoresWalk::new(what);
    walk.one_by_one(|stores| {
        let object = S::make();
        let lost = run_dying(&pool, &object, stores);
        assert!(lost <= 1, "{stores}: {lost} tasks lost with one worker");
        wait_until("who was to die is dead", || pool.stats().workers_lost >= killed + lost as u64);
        // It may have died behind its result.
        killed = pool.stats().workers_lost;
        check_after(&pool, object, killed, before, &format!("before store {}", stores + 1));
        lost > 0
    });
    pool.join().unwrap();
    walk.report();
}

/// As [`run`]; the worker with number 0 makes so many stores.
pub(crate) fn run_dying<S: Scenario>(pool: &Pool, object: &S, stores: u64) -> usize {
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

/// Has every scenario walked in a program of its own: each comes to all passes of all points that begin with one of its
/// prefixes. `others` are points that another test takes care of. Together, these are all from `first` to before `end`.
pub(crate) fn walk_all(
    name: &str,
    (first, end): (&str, Option<&str>),
    scenarios: &[(&str, &[&str])],
    others: &[&str],
) {
    let _dog = watchdog(900);
    let begins = |point: &&str, with: &str| point.starts_with(with);
    let all = fault::POINTS.iter().skip_while(|point| !begins(point, first));
    let all: Vec<&str> =
        all.take_while(|point| end.is_none_or(|end| !begins(point, end))).copied().collect();
    for point in all.iter().filter(|point| !others.contains(point)) {
        let mut prefixes = scenarios.iter().flat_map(|(_, prefixes)| prefixes.iter());
        assert!(prefixes.any(|prefix| begins(point, prefix)), "no scenario has to pass {point}");
    }
    let lines = std::sync::Mutex::new(Vec::new());
    several_at_a_time(wanted(scenarios), |(scenario, _), folder| {
        let found = walk_one(scenario, folder);
        println!("{}", found.join("\n"));
        lines.lock().unwrap().extend(found);
    });
    let mut lines = lines.into_inner().unwrap();
    lines.sort();
    let summary = format!(
        "{} points, each with a death at passes {PASSES:?}; {} pairs of scenario and point",
        all.len() - others.len(),
        lines.len()
    );
    println!("{summary}");
    lines.push(summary);
    if std::env::var_os("PROCPOOL_FAULT_SCENARIO").is_none() {
        report(name, &lines.join("\n"));
    }
}

/// What is to be walked through: all, or what `PROCPOOL_FAULT_SCENARIO` says.
fn wanted<'a>(
    scenarios: &'a [(&'a str, &'a [&'a str])],
) -> impl Iterator<Item = &'a (&'a str, &'a [&'a str])> + Send {
    let only = std::env::var("PROCPOOL_FAULT_SCENARIO").ok();
    scenarios.iter().filter(move |(scenario, _)| only.as_ref().is_none_or(|only| only == scenario))
}

/// What a walk has found.
fn walk_one(scenario: &str, folder: &std::path::Path) -> Vec<String> {
    let (status, text, errors) = run_to_end(&mut program_in_role(scenario, folder));
    assert!(status.success(), "{scenario}: {text}{errors}");
    let lines = text.lines().filter(|line| line.contains("killed at passes"));
    // The first stands behind what the harness says.
    let lines = lines.map(|line| line.rsplit("... ").next().unwrap_or(line));
    lines.map(|line| format!("{scenario}: {line}")).collect()
}

/// Has one worker of every scenario die before each of its stores, in a program of its own.
pub(crate) fn walk_all_stores(scenarios: &[(&str, &[&str])]) {
    let _dog = watchdog(3600);
    several_at_a_time(wanted(scenarios), |(scenario, _), folder| {
        let mut program = program_in_role(&format!("{STORES}{scenario}"), folder);
        let (status, text, errors) = run_to_end(&mut program);
        assert!(status.success(), "{scenario}: {text}{errors}");
        let line = text.lines().find_map(|line| line.split_once(": died "));
        println!("{scenario}: died {}", line.unwrap().1);
    });
}

/// Whether this is a program that walks through stores.
pub(crate) fn walks_stores() -> bool {
    role().is_some_and(|role| role.starts_with(STORES))
}

/// Begins the role of a program that walks through stores.
pub(crate) const STORES: &str = "stores of ";
