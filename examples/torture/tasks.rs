//! Everything that a pool can be asked for, at random; each outcome is checked.

use super::program::{Loss, World, lock, now_ns};
use super::shared::{Act, Done};
use super::support::Random;
use super::tally::{many, one};
use procpool::{
    Error, Pool, Priority, Process, Retry, Shutdown, TaskError, TaskHandle, TaskOptions, WorkerExit,
};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// What tasks panic with, without a word to standard error.
const ON_PURPOSE: &str = "on purpose";
/// What tasks exit with.
const EXIT_CODE: i32 = 7;

/// What takes longer is reported, though it is no failure: everything is stopped for a while, now and then.
const SLOW: Duration = Duration::from_secs(2);

type Verb = fn(&World, &mut Random) -> Result<(), Error>;

/// How often each is chosen, its name, and itself.
const VERBS: [(u64, &str, Verb); 19] = [
    (30, "acts", acts),
    (6, "map", map),
    (4, "map of many", map_of_many),
    (6, "map_each", map_each),
    (8, "submit", submit),
    (4, "time limits", time_limits),
    (4, "retries", retries),
    (4, "cancel", cancel),
    (3, "abort", abort),
    (4, "imap", imap),
    (3, "broadcast", broadcast),
    (4, "context", context),
    (3, "map_reduce", map_reduce),
    (3, "submit_map", submit_map),
    (2, "resize", resize),
    (2, "exit", exit),
    (1, "process", process),
    (6, "callbacks", callbacks),
    (2, "another pool", another_pool),
];

/// Uses the pool until `end`.
pub(crate) fn torment(world: &World, seed: u64, end: Instant) {
    let mut random = Random(seed);
    let all = VERBS.iter().map(|(weight, ..)| weight).sum::<u64>();
    while Instant::now() < end {
        let mut choice = random.next() % all;
        for (weight, name, verb) in VERBS {
            if choice < weight {
                let began = Instant::now();
                let ended = world.watched(name, || verb(world, &mut random));
                let took = world.tally.waited(began);
                if took > SLOW {
                    println!("slow: {name} took {took:?}");
                }
                if let Err(error) = ended {
                    panic!("{name}: {error}");
                }
                break;
            }
            choice -= weight;
        }
    }
}

/// Uses, once, what starts a thread that stays.
pub(crate) fn warm_up(world: &World) {
    for verb in [callbacks, another_pool, process] {
        verb(world, &mut Random(1)).unwrap_or_else(|error| panic!("warming up: {error}"));
    }
}

/// The causes, besides a killed worker, that a failure may have.
#[derive(Default, Clone, Copy)]
struct May {
    panic: bool,
    late: bool,
    aborted: bool,
    cancelled: bool,
    exit: bool,
    closed: bool,
    /// When the outcome was there, if that is known.
    seen_ns: Option<u64>,
}

/// Counts an outcome, and checks that its cause can be true.
fn outcome<R>(world: &World, outcome: Result<R, TaskError>, may: May) -> Option<R> {
    let tally = &world.tally;
    one(&tally.tasks);
    let error = match outcome {
        Ok(value) => {
            one(&tally.values);
            return Some(value);
        }
        Err(error) => error,
    };
    let exit = error.worker_exit();
    if error.is_worker_lost() && exit == Some(WorkerExit::Code(EXIT_CODE)) && may.exit {
        one(&tally.exits);
    } else if let Some(WorkerExit::Signal(signal @ (9 | 15))) = exit
        && error.is_worker_lost()
    {
        one(&tally.lost);
        let pid = error.pid().unwrap_or(0);
        world.report_lost(Loss { pid, signal: Some(signal), seen_ns: may.seen_ns });
    } else if exit == Some(WorkerExit::Unknown) && error.is_worker_lost() {
        one(&tally.lost);
        let pid = error.pid().unwrap_or(0);
        world.report_lost(Loss { pid, signal: None, seen_ns: may.seen_ns });
    } else if error.is_panic() && may.panic && error.panic_message() == Some(ON_PURPOSE) {
        one(&tally.panics);
    } else if error.is_timed_out() && may.late {
        one(&tally.late);
    } else if error.is_aborted() && may.aborted {
        one(&tally.aborted);
    } else if error.is_cancelled() && may.cancelled {
        one(&tally.cancelled);
    } else if error.is_pool_closed() && !error.is_pool_broken() && may.closed {
        one(&tally.closed);
    } else {
        panic!("a task cannot have ended like this: {error} ({error:?})");
    }
    None
}

/// The same for a call that gives everything or the first failure.
fn whole<R>(world: &World, ended: Result<R, Error>, may: May) -> Result<Option<R>, Error> {
    match ended {
        Ok(all) => Ok(Some(all)),
        Err(error) => match error.task_error() {
            Some(failure) => Ok(outcome(world, Err(failure.clone()), may)),
            None => Err(error),
        },
    }
}

fn panic_quietly() -> ! {
    std::panic::resume_unwind(Box::new(ON_PURPOSE.to_owned()))
}

fn square(n: u64) -> u64 {
    n.wrapping_mul(n) + 1
}

fn nap(micros: u64) -> u64 {
    std::thread::sleep(Duration::from_micros(micros));
    micros
}

/// A text of so many bytes; larger than what a slot holds, and than what was guessed.
fn text(n: u64) -> String {
    n.to_string().repeat((n % 1000) as usize)
}

/// Changes of the shared objects.
fn acts(world: &World, random: &mut Random) -> Result<(), Error> {
    type Acted = Result<(Done, bool), String>;
    let act =
        |shared: &super::shared::Shared, (act, id): (Act, u64)| -> Acted { shared.act(act, id) };
    let pool = world.pool.with(&*world.shared);
    let tasks: Vec<(Act, u64, TaskHandle<Acted>)> = (0..8 + random.next() % 40)
        .map(|_| {
            let (chosen, id) = (Act::random(random), world.next_id());
            Ok((chosen, id, pool.submit(act, (chosen, id))?))
        })
        .collect::<Result<_, Error>>()?;
    for (act, id, task) in tasks {
        one(&world.tally.acts);
        match outcome(world, task.join(), May::default()) {
            Some(Ok((done, repaired))) => {
                world.tally.repaired.fetch_add(u64::from(repaired), Relaxed);
                world.acknowledged(act, id, done);
            }
            Some(Err(wrong)) => panic!("{wrong}"),
            None => {
                one(&world.tally.acts_lost);
                world.in_doubt(act, id);
            }
        }
    }
    Ok(())
}

fn map(world: &World, random: &mut Random) -> Result<(), Error> {
    let count = random.next() % 2000;
    if let Some(values) = whole(world, world.pool.map(square, 0..count), May::default())? {
        assert!(values.into_iter().eq((0..count).map(square)), "a map of {count}");
        many(&world.tally.tasks, count as usize);
        many(&world.tally.values, count as usize);
    }
    Ok(())
}

fn map_of_many(world: &World, random: &mut Random) -> Result<(), Error> {
    let count = 100_000 + random.next() % 400_000;
    let outcomes = world.pool.map_each(square, 0..count)?;
    assert_eq!(outcomes.len() as u64, count);
    let mut values = 0;
    for (n, ended) in outcomes.into_iter().enumerate() {
        match ended {
            Ok(value) => {
                assert_eq!(value, square(n as u64));
                values += 1;
            }
            Err(error) => drop(outcome::<u64>(world, Err(error), May::default())),
        }
    }
    many(&world.tally.tasks, values);
    many(&world.tally.values, values);
    Ok(())
}

fn map_each(world: &World, random: &mut Random) -> Result<(), Error> {
    let function = |n: u64| if n % 97 == 96 { panic_quietly() } else { text(n) };
    let first = random.next() % 10_000;
    let range = first..first + random.next() % 300;
    let outcomes = world.pool.map_each(function, range.clone())?;
    assert_eq!(outcomes.len() as u64, range.end - range.start);
    for (n, ended) in range.zip(outcomes) {
        let may = May { panic: n % 97 == 96, ..May::default() };
        assert!(ended.is_err() || !may.panic);
        if let Some(value) = outcome(world, ended, may) {
            assert_eq!(value, text(n));
        }
    }
    Ok(())
}

/// Single tasks, whose handles are joined in another order, dropped, or have callbacks.
fn submit(world: &World, random: &mut Random) -> Result<(), Error> {
    let mut tasks = Vec::new();
    let called = Arc::new((AtomicU64::new(0), Mutex::new(Vec::new())));
    let mut callbacks = 0;
    for _ in 0..random.next() % 200 {
        let n = random.next() % 100_000;
        let options = TaskOptions::new().priority(match random.next() % 4 {
            0 => Priority::High,
            1 => Priority::Low,
            _ => Priority::Normal,
        });
        let task = world.pool.submit_with(options, text, n)?;
        match random.next() % 20 {
            0 => drop(task),
            1 => drop(task.cancel_on_drop()),
            2 => {
                callbacks += 1;
                let called = called.clone();
                task.on_done(move |ended| {
                    if let Ok(mut all) = called.1.lock() {
                        all.push((n, ended));
                    }
                    called.0.fetch_add(1, Relaxed);
                })?;
            }
            _ => tasks.push((n, task)),
        }
    }
    while !tasks.is_empty() {
        let (n, mut task) = tasks.swap_remove(random.next() as usize % tasks.len());
        let ended = loop {
            match task.join_timeout(Duration::from_millis(random.next() % 5)) {
                Ok(value) => break Ok(value),
                Err(procpool::JoinTimeoutError::TimedOut(handle)) => task = handle,
                Err(procpool::JoinTimeoutError::Failed(error)) => break Err(error),
            }
        };
        if let Some(value) = outcome(world, ended, May::default()) {
            assert_eq!(value, text(n));
        }
    }
    while called.0.load(Relaxed) < callbacks {
        nap(200);
    }
    // None is called twice: a callback is an `FnOnce`.
    for (n, ended) in called.1.lock().map(|mut all| std::mem::take(&mut *all)).unwrap_or_default() {
        if let Some(value) = outcome(world, ended, May::default()) {
            assert_eq!(value, text(n));
        }
    }
    Ok(())
}

fn time_limits(world: &World, random: &mut Random) -> Result<(), Error> {
    let limit = 1000 + random.next() % 10_000;
    let options = TaskOptions::new().timeout(Duration::from_micros(limit)).grace(Duration::ZERO);
    let tasks: Vec<(u64, TaskHandle<u64>)> = (0..1 + random.next() % 6)
        .map(|_| {
            let micros =
                if random.next().is_multiple_of(3) { 60_000_000 } else { random.next() % 1500 };
            Ok((micros, world.pool.submit_with(options, nap, micros)?))
        })
        .collect::<Result<_, Error>>()?;
    for (micros, task) in tasks {
        // A short one may be late, too, if its worker was stopped.
        let ended = outcome(world, task.join(), May { late: true, ..May::default() });
        assert!(ended.is_none_or(|slept| slept == micros && micros < 60_000_000));
    }
    Ok(())
}

fn retries(world: &World, random: &mut Random) -> Result<(), Error> {
    let times = 1 + (random.next() % 4) as u32;
    let retry = Retry::lost(times).backoff(Duration::from_micros(random.next() % 2000));
    let options = TaskOptions::new().retry(retry);
    let tasks: Vec<TaskHandle<u64>> = (0..10)
        .map(|_| world.pool.submit_with(options, nap, random.next() % 3000))
        .collect::<Result<_, _>>()?;
    for task in tasks {
        let ended = task.join();
        if let Err(error) = &ended {
            assert_eq!(error.attempts(), times + 1, "{error}");
        }
        outcome(world, ended, May::default());
    }
    let outcomes = world.pool.with_options(options).map_each(square, 0..5000)?;
    assert_eq!(outcomes.len(), 5000);
    for (n, ended) in outcomes.into_iter().enumerate() {
        assert!(
            outcome(world, ended, May::default()).is_none_or(|value| value == square(n as u64))
        );
    }
    Ok(())
}

fn cancel(world: &World, random: &mut Random) -> Result<(), Error> {
    let tasks: Vec<TaskHandle<u64>> =
        (0..20).map(|_| world.pool.submit(nap, random.next() % 300)).collect::<Result<_, _>>()?;
    for task in tasks {
        let cancelled = random.next().is_multiple_of(2) && task.cancel();
        let ended = task.join();
        assert_eq!(ended.as_ref().is_err_and(TaskError::is_cancelled), cancelled, "{ended:?}");
        outcome(world, ended, May { cancelled, ..May::default() });
    }
    Ok(())
}

fn abort(world: &World, random: &mut Random) -> Result<(), Error> {
    for _ in 0..3 {
        let task = world.pool.submit(nap, 60_000_000)?;
        nap(random.next() % 3000);
        let aborted = task.abort();
        let ended = task.join();
        assert!(ended.is_err());
        outcome(world, ended, May { aborted, cancelled: aborted, ..May::default() });
    }
    Ok(())
}

fn imap(world: &World, random: &mut Random) -> Result<(), Error> {
    let taken = random.next() as usize % 3000;
    let window = 1 + random.next() as usize % 500;
    let ended = world.pool.imap(text, 0..)?.window(window).take(taken);
    let mut count = 0;
    for (n, ended) in (0..).zip(ended) {
        count += 1;
        if let Some(value) = outcome(world, ended, May::default()) {
            assert_eq!(value, text(n));
        }
    }
    assert_eq!(count, taken);
    let mut seen = vec![false; taken];
    let mut missing = taken;
    for ended in world.pool.imap_unordered(|n: u64| n, 0..taken as u64)?.window(window) {
        missing -= 1;
        if let Some(n) = outcome(world, ended, May::default()) {
            assert!(!std::mem::replace(&mut seen[n as usize], true), "{n} came twice");
        }
    }
    assert_eq!(missing, 0);
    Ok(())
}

fn broadcast(world: &World, random: &mut Random) -> Result<(), Error> {
    one(&world.tally.broadcasts);
    let token = random.next();
    let mut numbers = Vec::new();
    let on_each = |token: u64| (procpool::worker::number(), token);
    for ended in world.pool.broadcast(on_each, &token)? {
        // One that leaves before it has begun.
        let ended = outcome(world, ended, May { cancelled: true, ..May::default() });
        if let Some((number, echo)) = ended {
            assert_eq!(echo, token);
            numbers.push(number);
        }
    }
    let count = numbers.len();
    numbers.sort_unstable();
    numbers.dedup();
    assert_eq!(numbers.len(), count, "two have the same number");
    Ok(())
}

fn context(world: &World, random: &mut Random) -> Result<(), Error> {
    let table: Vec<u64> = (0..random.next() % 20_000).map(square).collect();
    let look = |table: &Vec<u64>, n: usize| table.get(n).copied();
    let outcomes = world.pool.with(&table).map_each(look, 0..500)?;
    assert_eq!(outcomes.len(), 500);
    for (n, ended) in outcomes.into_iter().enumerate() {
        if let Some(value) = outcome(world, ended, May::default()) {
            assert_eq!(value, table.get(n).copied());
        }
    }
    Ok(())
}

fn map_reduce(world: &World, random: &mut Random) -> Result<(), Error> {
    let count = random.next() % 20_000;
    let sum = world.pool.map_reduce(|n: u64| n * 3, |a, b| a + b, 0..count);
    if let Some(sum) = whole(world, sum, May::default())? {
        assert_eq!(sum.unwrap_or(0), (0..count).sum::<u64>() * 3);
        many(&world.tally.tasks, count as usize);
        many(&world.tally.values, count as usize);
    }
    Ok(())
}

fn submit_map(world: &World, random: &mut Random) -> Result<(), Error> {
    let count = random.next() % 20_000;
    let map = world.pool.submit_map(square, 0..count)?;
    let cancelled = random.next().is_multiple_of(3);
    if cancelled {
        nap(random.next() % 500);
        map.cancel();
    }
    if let Some(values) = whole(world, map.join(), May { cancelled, ..May::default() })? {
        assert!(values.into_iter().eq((0..count).map(square)), "a map of {count} behind");
        many(&world.tally.tasks, count as usize);
        many(&world.tally.values, count as usize);
    }
    Ok(())
}

fn resize(world: &World, random: &mut Random) -> Result<(), Error> {
    one(&world.tally.resizes);
    world.pool.resize(1 + random.next() as usize % 5)
}

fn exit(world: &World, _random: &mut Random) -> Result<(), Error> {
    let leave = |(): ()| -> u64 { std::process::exit(EXIT_CODE) };
    let ended = world.pool.submit(leave, ())?.join();
    assert!(ended.is_err());
    outcome(world, ended, May { exit: true, ..May::default() });
    Ok(())
}

fn process(world: &World, random: &mut Random) -> Result<(), Error> {
    one(&world.tally.processes);
    let process = Process::spawn(nap, random.next() % 1000)?;
    outcome(world, process.join(), May::default());
    Ok(())
}

/// Outcomes as soon as they are there: the harness knows when it has killed whom.
fn callbacks(world: &World, random: &mut Random) -> Result<(), Error> {
    let all = Arc::new(Mutex::new(Vec::new()));
    let count = 4 + random.next() as usize % 12;
    for _ in 0..count {
        let (all, micros) = (all.clone(), random.next() % 8000);
        world.pool.submit(nap, micros)?.on_done(move |ended| {
            lock(&all).push((micros, ended, now_ns()));
        })?;
    }
    while lock(&all).len() < count {
        nap(200);
    }
    for (micros, ended, seen_ns) in std::mem::take(&mut *lock(&all)) {
        let may = May { seen_ns: Some(seen_ns), ..May::default() };
        assert!(outcome(world, ended, may).is_none_or(|slept| slept == micros));
    }
    Ok(())
}

/// A pool beside the other, which ends with tasks queued and running, in one of all ways.
fn another_pool(world: &World, random: &mut Random) -> Result<(), Error> {
    one(&world.tally.pools);
    let builder = Pool::builder().workers(2).name("second").queue_capacity(64);
    let builder = builder.restart_limit(1_000_000, Duration::from_secs(1));
    let builder = builder.initializer(|n: u64| n + 1, 1).idle_timeout(Duration::from_millis(3));
    let pool = builder.build()?;
    let tasks: Vec<TaskHandle<u64>> = (0..random.next() % 40)
        .map(|_| pool.submit(nap, random.next() % 2000))
        .collect::<Result<_, _>>()?;
    nap(random.next() % 4000);
    let mode = random.next() % 6;
    match mode {
        0 => drop(pool),
        1 => pool.shutdown(Shutdown::Drain)?,
        2 => pool.shutdown(Shutdown::CancelQueued)?,
        3 => pool.shutdown(Shutdown::Now)?,
        4 => pool.join()?,
        _ => match pool.shutdown_timeout(Shutdown::Drain, Duration::from_millis(3)) {
            Err(error) if error.is_timed_out() => {}
            ended => ended?,
        },
    }
    let (cancelled, closed) = (![1, 4].contains(&mode), [0, 3, 5].contains(&mode));
    for task in tasks {
        outcome(world, task.join(), May { cancelled, closed, ..May::default() });
    }
    Ok(())
}
