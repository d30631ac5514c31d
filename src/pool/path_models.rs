//! Shuttle's models of a task's whole path, with processes as threads that die anywhere.
//!
//! The code is the pool's own: submitting, the rings, the worker's loop, the arena under results and
//! arguments, collecting, settlement. In the place of processes there are threads (`prim/model.rs`); in the
//! place of the supervisor's, which waits for pidfds, one that is told who died.
//!
//! `RUSTFLAGS="--cfg shuttle" cargo test --release --lib path_models`; `PROCPOOL_MODEL_RUNS` says how many
//! schedules of each (default 300), `PROCPOOL_MODEL_SEED` which. In those, who dies when is chosen at random, too; of the
//! smallest scenario there are besides schedules that stay as they are while each step of a worker is its last in turn.

use super::*;
use crate::error::{TaskError, WorkerExit};
use crate::limits::ARENA_BYTES_MIN;
use crate::pool::inner::{Inner, Settings};
use crate::pool::options::{Priority, TaskOptions};
use crate::pool::requeue::Pausing;
use crate::pool::settle::{Dead, settle};
use crate::pool::submit::{Job, TaskHandle, submit};
use crate::pool::{map, results, seat};
use crate::prim::model::{self, ENDED, End};
use crate::sys::futex;
use shuttle::rand::Rng;
use shuttle::scheduler::{PctScheduler, RandomScheduler};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

const WORKERS: usize = 2;
/// Fewer than there are tasks, so that slots and cells are used again.
const SLOTS: u32 = 4;
/// A worker dies after up to so many steps; a task takes about a hundred.
const STEPS: u64 = 300;
const DEATHS_MAX: u32 = 3;

/// Who dies when.
#[derive(Debug, Clone, Copy)]
enum Deaths {
    AtRandom,
    /// The worker of this number that is started first, at that step; nobody else.
    At(usize, u64),
}

thread_local! {
    static PLAN: Cell<Deaths> = const { Cell::new(Deaths::AtRandom) };
    /// How often each call has begun.
    static BEGUN: RefCell<HashMap<u64, u32>> = RefCell::default();
    /// How many processes have died in this execution, and in all.
    static DEATHS: Cell<(u32, u64)> = const { Cell::new((0, 0)) };
    /// How many calls were lost in all.
    static LOST: Cell<u64> = const { Cell::new(0) };
    /// The pool of the execution, to be described if that fails.
    static AREA: Cell<Option<Area>> = const { Cell::new(None) };
    /// The arena of the execution: its threads may look at it until the next begins.
    static ARENA: Cell<Option<&'static Arena>> = const { Cell::new(None) };
}

#[allow(unsafe_code)] // Unmaps what nobody uses any more.
fn fresh_arena() -> &'static Arena {
    let arena: &'static Arena = Box::leak(Box::new(Arena::create(ARENA_BYTES_MIN).unwrap()));
    if let Some(before) = ARENA.replace(Some(arena)) {
        // SAFETY: it was leaked above, and the execution that used it is over.
        drop(unsafe { Box::from_raw(std::ptr::from_ref(before).cast_mut()) });
    }
    arena
}

fn begun(n: u64) -> u32 {
    BEGUN.with_borrow(|begun| begun.get(&n).copied().unwrap_or(0))
}

fn note_begun(n: u64) {
    BEGUN.with_borrow_mut(|begun| *begun.entry(n).or_default() += 1);
}

/// A call with a result that needs a block, or not.
fn call(n: u64) -> String {
    note_begun(n);
    n.to_string().repeat(if n % 2 == 0 { 1 } else { 40 })
}

fn expect(n: u64, outcome: &Result<String, TaskError>) {
    match outcome {
        Ok(value) => {
            assert_eq!(*value, n.to_string().repeat(if n % 2 == 0 { 1 } else { 40 }));
            assert_eq!(begun(n), 1, "call {n} was run {} times", begun(n));
        }
        Err(error) => {
            assert!(error.is_worker_lost() && DEATHS.get().0 > 0, "{error}");
            // It may have died before the function began.
            assert!(begun(n) <= 1, "call {n} was lost, and run {} times", begun(n));
            LOST.set(LOST.get() + 1);
        }
    }
}

/// The supervisor: starts workers, and settles and replaces those that end, until all have left.
fn supervise(inner: &Inner) {
    let mut at = HashMap::new();
    for number in 0..WORKERS {
        at.insert(start(inner, number), (number, 0));
    }
    loop {
        let seen = ENDED.peek();
        for (name, end) in model::take_ended() {
            let (number, turn) = at.remove(&name).unwrap();
            let id = ParticipantId::from_raw(name);
            let exit = match end {
                End::Died => {
                    let (here, all) = DEATHS.get();
                    DEATHS.set((here + 1, all + 1));
                    WorkerExit::Signal(9)
                }
                End::Left => WorkerExit::Code(0),
            };
            inner.area.seat(number).end(turn);
            if !inner.area.is_stopping() {
                at.insert(start(inner, number), (number, seat::next(turn)));
            }
            let dead = Dead { id, pid: name as u32, exit, closing: false, condemned: None };
            if let Some(Pausing { place, .. }) = settle(inner, dead) {
                inner.queue_again(place);
            }
        }
        if at.is_empty() {
            return inner.end_all_tasks();
        }
        futex::wait(&ENDED, seen, None);
    }
}

/// Starts a worker, and says its name.
fn start(inner: &Inner, number: usize) -> u64 {
    let (area, user, recycle) = (inner.area, inner.user, inner.recycle);
    let turn = area.seat(number).turn();
    let reserved = area.arena.reserve_participant(user).unwrap();
    let name = reserved.id.to_raw();
    let steps = match PLAN.get() {
        Deaths::AtRandom => {
            let dies =
                DEATHS.get().0 < DEATHS_MAX && shuttle::rand::thread_rng().gen_range(0..3) > 0;
            if dies { shuttle::rand::thread_rng().gen_range(1..STEPS) } else { u64::MAX }
        }
        Deaths::At(dying, step) if dying == number && turn == 0 => step,
        Deaths::At(..) => u64::MAX,
    };
    // One that is dead is not waited for: only of a future's thread can that be said.
    drop(shuttle::future::spawn(async move {
        model::become_process(name, steps);
        if area.arena.attach(reserved) {
            work(area, reserved.id, user, (number, turn), recycle);
        }
        model::leave();
    }));
    name
}

/// What a worker does between attaching and leaving.
fn work(
    area: Area,
    me: ParticipantId,
    user: ParticipantId,
    (number, turn): (usize, u32),
    recycle: Recycle,
) {
    let seat = area.seat(number);
    area.arena.participant(me).ledger.started.store(1, Relaxed);
    if !seat.wait_for(turn) {
        return;
    }
    let failed = Cell::new(false);
    Worker {
        area,
        me,
        user,
        search_ns: 0,
        contexts: ContextCache::default(),
        seat,
        turn,
        life: Life::begin(&recycle),
        grows: false,
        once: false,
        failed: &failed,
        looks: Cell::new(1),
        now_ns: Cell::new(0),
        state: &mut WorkerState::default(),
    }
    .run();
}

/// An execution of `use_pool` in a pool whose workers die.
fn execution(
    recycle: Recycle,
    use_pool: impl Fn(&Arc<Inner>) + Send + Sync + Clone + 'static,
) -> impl Fn() + Send + Sync + Clone + 'static {
    move || {
        let arena = fresh_arena();
        BEGUN.take();
        DEATHS.set((0, DEATHS.get().1));
        let user = arena.reserve_participant(ParticipantId::NOBODY).unwrap();
        assert!(arena.attach(user));
        let (user, used_at_first) = (user.id, arena.usage().used_bytes);
        let area = Area::create(arena, SLOTS, user).unwrap();
        let settings = Settings {
            id: 1,
            name: "model".into(),
            workers: WORKERS,
            cores: WORKERS,
            search_ns: 0,
            stack_bytes: 1 << 20,
            recycle,
            restarts: (100, Duration::from_secs(1)),
            defaults: TaskOptions::default(),
            idle_timeout: None,
            setup: Setup::default(),
        };
        let inner = Arc::new(Inner::new(settings, area, user));
        AREA.set(Some(area));
        model::begin();
        let supervisor = {
            let inner = inner.clone();
            shuttle::thread::spawn(move || supervise(&inner))
        };
        use_pool(&inner);
        inner.close();
        area.stop(WORKERS);
        supervisor.join().unwrap();
        model::end();
        area.check_invariants(&inner.free_list()).unwrap();
        AREA.take();
        drop(inner);
        assert_eq!(arena.usage().used_bytes, used_at_first, "bytes in the arena");
        assert_eq!(arena.children_of(user), [], "places of workers");
    }
}

fn number(name: &str) -> Option<usize> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

fn config() -> shuttle::Config {
    let mut config = shuttle::Config::default();
    config.stack_size = 1 << 20;
    config.max_steps = shuttle::MaxSteps::FailAfter(2_000_000);
    config
}

/// Describes the pool if `run` panics.
fn or_describe<T>(run: impl FnOnce() -> T) -> T {
    let ran = catch_unwind(AssertUnwindSafe(run));
    if ran.is_err() {
        model::end();
        if let Some(area) = AREA.get() {
            describe(&area);
        }
    }
    ran.unwrap()
}

/// Runs `use_pool` in a pool whose workers die, in many schedules.
fn check(recycle: Recycle, use_pool: impl Fn(&Arc<Inner>) + Send + Sync + Clone + 'static) {
    let runs = number("PROCPOOL_MODEL_RUNS").unwrap_or(300);
    let seed = number("PROCPOOL_MODEL_SEED").unwrap_or(1) as u64;
    let execution = execution(recycle, use_pool);
    let random = shuttle::Runner::new(RandomScheduler::new_from_seed(seed, runs), config());
    let pct = shuttle::Runner::new(PctScheduler::new_from_seed(seed, 3, runs), config());
    let again = execution.clone();
    or_describe(move || random.run(execution) + pct.run(again));
    println!("{} schedules, {} deaths, {} calls lost", 2 * runs, DEATHS.get().1, LOST.get());
    assert!(DEATHS.get().1 > 0, "nobody died");
}

/// Runs `use_pool` in one schedule after the other, and each of them so often that every step of one worker is the last of its
/// process once: until there are no more.
fn check_every_step(
    schedules: u64,
    use_pool: impl Fn(&Arc<Inner>) + Send + Sync + Clone + 'static,
) {
    let execution = execution(Recycle::default(), use_pool);
    let (mut shortest, mut longest, mut lost_at) = (u64::MAX, 0, 0);
    for (seed, dying) in (1..=schedules).flat_map(|seed| (0..WORKERS).map(move |n| (seed, n))) {
        // What it does before it dies is the same every time.
        let mut dies_at = |step: u64| {
            PLAN.set(Deaths::At(dying, step));
            let scheduler = RandomScheduler::new_from_seed(seed, 1);
            let (runner, execution) =
                (shuttle::Runner::new(scheduler, config()), execution.clone());
            let lost = LOST.get();
            or_describe(move || runner.run(execution));
            lost_at += u64::from(LOST.get() > lost);
            DEATHS.get().0 == 1
        };
        let steps = (1..).map(&mut dies_at).take_while(|died| *died).count() as u64;
        (shortest, longest) = (shortest.min(steps), longest.max(steps));
        // Each of them up to the last: beyond it, it has left. (If it had not been the same, some would be missing.)
        assert!((1..=20).all(|more| !dies_at(steps + more)), "schedule {seed}: {steps} and more");
    }
    PLAN.set(Deaths::AtRandom);
    println!(
        "{schedules} schedules, {shortest} to {longest} steps of either worker, {} deaths, {lost_at} with a call",
        DEATHS.get().1
    );
    assert!(shortest > 20 && lost_at > 0, "{shortest} steps, {lost_at} calls lost");
}

/// Prints what is shared. (Not by `dump`: the locks of the user's process exist during an execution only.)
fn describe(area: &Area) {
    println!("asleep: {:x?}", model::sleepers());
    println!("jobs at {:p}, idle at {:p}: {:?}", area.job(0), area.idle(), area.idle());
    area.rings.iter().for_each(|ring| println!("ring: {}", ring.describe()));
    for slot in area.slots {
        println!("slot at {slot:p}: {slot:?}");
    }
    (0..WORKERS).for_each(|number| println!("seat {number}: {:?}", area.seat(number)));
    for (id, _, ledger) in area.arena.ledgers() {
        println!("{id:?}: {ledger:?}");
    }
}

fn job() -> Job {
    Job::new(trampolines::code_of(&call).unwrap())
}

fn join_all(tasks: Vec<(u64, TaskHandle<String>)>) {
    for (n, task) in tasks {
        expect(n, &task.join());
    }
}

#[test]
fn single_tasks_end_once_with_their_value_or_their_worker() {
    check(Recycle::default(), |inner| {
        let tasks = (0..6).map(|n| (n, submit(inner, &job(), n, None).unwrap())).collect();
        join_all(tasks);
    });
}

/// The smallest: a call whose result needs a block.
#[test]
fn each_step_of_a_worker_in_turn_may_be_its_last() {
    let schedules = number("PROCPOOL_MODEL_SCHEDULES").unwrap_or(3) as u64;
    check_every_step(schedules, |inner| {
        join_all(vec![(1, submit(inner, &job(), 1u64, None).unwrap())]);
    });
}

#[test]
fn two_threads_that_submit_share_the_slots() {
    check(Recycle::default(), |inner| {
        let other = inner.clone();
        let thread = shuttle::thread::spawn(move || {
            join_all((10..14).map(|n| (n, submit(&other, &job(), n, None).unwrap())).collect());
        });
        join_all((0..4).map(|n| (n, submit(inner, &job(), n, None).unwrap())).collect());
        thread.join().unwrap();
    });
}

#[test]
fn a_map_has_an_outcome_for_every_call_in_order() {
    check(Recycle::default(), |inner| {
        let mut next = 0;
        map::run(inner, &job(), 0..12u64, |outcome| {
            expect(next, &outcome);
            next += 1;
            ControlFlow::Continue(())
        })
        .unwrap();
        assert_eq!(next, 12);
    });
}

#[test]
fn a_worker_that_is_recycled_gives_the_rest_of_a_batch_to_others() {
    check(Recycle::after_tasks(2), |inner| {
        let mut next = 0;
        map::run(inner, &job(), 0..10u64, |outcome| {
            expect(next, &outcome);
            next += 1;
            ControlFlow::Continue(())
        })
        .unwrap();
        assert_eq!(next, 10);
        join_all((10..13).map(|n| (n, submit(inner, &job(), n, None).unwrap())).collect());
    });
}

#[test]
fn what_is_cancelled_never_runs_and_what_is_dropped_leaves_nothing() {
    check(Recycle::default(), |inner| {
        let mut tasks = Vec::new();
        for n in 0..6 {
            let options = TaskOptions::new().priority([Priority::High, Priority::Low][n % 2]);
            let job = job().with(options).unwrap();
            let task: TaskHandle<String> = submit(inner, &job, n as u64, None).unwrap();
            match n % 3 {
                0 => tasks.push((n as u64, task)),
                1 => drop(task),
                _ => {
                    let cancelled = task.cancel();
                    let outcome = task.join();
                    match cancelled {
                        true => {
                            assert!(outcome.unwrap_err().is_cancelled());
                            assert_eq!(begun(n as u64), 0, "it ran, and was cancelled");
                        }
                        false => expect(n as u64, &outcome),
                    }
                }
            }
        }
        join_all(tasks);
        inner.harvest(results::HARVEST_MAX);
        // What was dropped may still run: its slot comes back with its end.
        while inner.free_list().len() < SLOTS as usize {
            inner.harvest(results::HARVEST_MAX);
            model::yield_now();
        }
    });
}
