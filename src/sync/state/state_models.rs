//! Loom models of the primitives, one race each, on the code as it runs: SYNC(event-set), SYNC(given),
//! SYNC(latch), SYNC(once-done), SYNC(queued), SYNC(room).
//!
//! Run: `RUSTFLAGS="--cfg loom" cargo test --release --lib models`. Two or three threads stand for
//! processes; a limited wait is over as soon as it begins.

use super::barrier::{BarrierState, Passage};
use super::condvar::CondvarState;
use super::event::EventState;
use super::once::{OnceState, Turn};
use super::queue::OUTCOME;
use super::room::Room;
use super::rwlock::RwLockState;
use super::semaphore::SemaphoreState;
use super::{Caller, Deadline, Records, WaitQueue, Waiter};
use crate::prim::{AcqRel, AtomicU32, AtomicU64, Relaxed};
use loom::sync::Arc;
use loom::thread;
use std::time::Duration;

const THREADS: usize = 3;

/// One object's state, and what lies beside it.
struct Memory<S> {
    state: S,
    waiters: Vec<Waiter>,
    held: Vec<AtomicU64>,
    /// Written and read without order of its own: what the primitive must carry.
    payload: AtomicU32,
}

/// Thread `number`, from 1.
struct Thread<S> {
    memory: Arc<Memory<S>>,
    number: u32,
}

impl<S> Thread<S> {
    fn state(&self) -> &S {
        &self.memory.state
    }
}

impl<S> Records for Thread<S> {
    fn waiter(&self, index: u32) -> Option<&Waiter> {
        self.memory.waiters.get((index as usize).checked_sub(1)?)
    }

    fn each_waiter(&self, visit: &mut dyn FnMut(u32, &Waiter)) {
        (1..).zip(&self.memory.waiters).for_each(|(index, waiter)| visit(index, waiter));
    }

    fn held_by_others(&self, _: u32, _: u32) -> u64 {
        0
    }

    fn patience(&self) -> Option<Duration> {
        None
    }

    fn look_around(&self) {}
}

impl<S> Caller for Thread<S> {
    fn me(&self) -> u32 {
        self.number
    }

    fn object(&self) -> u32 {
        1
    }

    fn held(&self) -> &AtomicU64 {
        &self.memory.held[self.number as usize - 1]
    }

    fn own_waiter(&self, _: Deadline) -> Option<(u32, &Waiter)> {
        Some((self.number, &self.memory.waiters[self.number as usize - 1]))
    }

    fn search(&self, found: &mut dyn FnMut() -> bool) -> bool {
        found()
    }
}

/// Explores what `threads` do: two of them up to four switches that nothing forces, three up to two.
/// (One more, or all of them, takes minutes.)
fn explore<S: Send + Sync + 'static>(
    make: fn() -> S,
    threads: &'static [fn(&Thread<S>)],
    after: fn(&Memory<S>),
) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(if threads.len() > 2 { 2 } else { 4 });
    model.check(move || {
        let memory = Arc::new(Memory {
            state: make(),
            waiters: (1..=THREADS as u32).map(Waiter::new).collect(),
            held: (0..THREADS).map(|_| AtomicU64::new(0)).collect(),
            payload: AtomicU32::new(0),
        });
        let mut running = Vec::new();
        for (number, work) in (1..).zip(threads) {
            let thread = Thread { memory: memory.clone(), number };
            running.push(thread::spawn(move || work(&thread)));
        }
        running.into_iter().for_each(|thread| thread.join().unwrap());
        after(&memory);
    });
}

// Latch -------------------------------------------------------------------------------------

#[test]
fn latch_models_of_three_that_want_it_each_gets_it() {
    fn take(thread: &Thread<WaitQueue>) {
        let locked = thread.state().lock(thread);
        let inside = &thread.memory.payload;
        inside.store(inside.load(Relaxed) + 1, Relaxed);
        drop(locked);
    }
    explore(WaitQueue::new, &[take, take, take], |memory| {
        assert_eq!(memory.payload.load(Relaxed), 3);
    });
}

// A queue after a death ---------------------------------------------------------------------

/// Who was given something leaves the queue without its latch, and may queue up elsewhere at once: whoever makes the
/// queue anew after a death does not take it for one that waits here.
#[test]
fn queue_models_who_has_left_for_another_queue_is_not_taken_back() {
    type Two = [WaitQueue; 2];
    fn wait_here_and_there(thread: &Thread<Two>) {
        let (index, waiter) = thread.own_waiter(Deadline::Never).unwrap();
        for (queue, object) in thread.state().iter().zip(1..) {
            queue.lock(thread).push(index, waiter, object, 0);
            while object == 1 && waiter.outcome().is_none() {
                loom::thread::yield_now();
            }
            if object == 1 {
                waiter.take();
            }
        }
    }
    fn give_and_settle(thread: &Thread<Two>) {
        let [here, _] = thread.state();
        while !here.lock(thread).give_first(OUTCOME) {
            loom::thread::yield_now();
        }
        let dead = 3;
        assert!(here.lock(thread).rebuild(1, dead, None).is_empty());
    }
    explore(
        || [WaitQueue::new(), WaitQueue::new()],
        &[wait_here_and_there, give_and_settle],
        |memory| assert_eq!(memory.state.each_ref().map(WaitQueue::length), [0, 1]),
    );
}

// Semaphore ---------------------------------------------------------------------------------

fn enter_alone(thread: &Thread<SemaphoreState>) {
    assert!(thread.state().acquire(thread, 1, Deadline::Never));
    let inside = thread.memory.payload.load(Relaxed);
    assert_eq!(inside, 0, "one permit, and another inside");
    thread.memory.payload.store(1, Relaxed);
    thread.memory.payload.store(0, Relaxed);
    thread.state().put_back(thread, 1);
}

#[test]
fn semaphore_models_one_permit_is_held_by_one_and_nobody_is_forgotten() {
    explore(
        || SemaphoreState::new(1, 1),
        &[enter_alone, enter_alone],
        |memory| {
            assert_eq!(memory.state.available(), 1);
        },
    );
}

#[test]
fn semaphore_models_a_permit_that_is_released_reaches_whoever_waits() {
    fn wait(thread: &Thread<SemaphoreState>) {
        assert!(thread.state().acquire(thread, 1, Deadline::Never));
    }
    fn release(thread: &Thread<SemaphoreState>) {
        thread.state().release(thread, 2).unwrap();
    }
    explore(
        || SemaphoreState::new(0, 9),
        &[wait, wait, release],
        |memory| {
            assert_eq!(memory.state.available(), 0);
        },
    );
}

#[test]
fn semaphore_models_a_permit_is_not_lost_on_one_whose_time_is_up() {
    fn wait_shortly(thread: &Thread<SemaphoreState>) {
        if thread.state().acquire(thread, 1, Deadline::At(0)) {
            thread.state().put_back(thread, 1);
        }
    }
    fn release(thread: &Thread<SemaphoreState>) {
        thread.state().release(thread, 1).unwrap();
    }
    explore(
        || SemaphoreState::new(0, 9),
        &[wait_shortly, release],
        |memory| {
            assert_eq!(memory.state.available(), 1);
        },
    );
}

// Reader-writer lock ------------------------------------------------------------------------

fn write_one(thread: &Thread<RwLockState>) {
    assert!(thread.state().write(thread, Deadline::Never));
    thread.memory.payload.store(thread.memory.payload.load(Relaxed) + 1, Relaxed);
    thread.state().unlock_write(thread, false);
}

fn read_twice(thread: &Thread<RwLockState>) {
    assert!(thread.state().read(thread, Deadline::Never));
    let seen = thread.memory.payload.load(Relaxed);
    assert_eq!(thread.memory.payload.load(Relaxed), seen, "written while it was read");
    thread.state().unlock_read(thread);
}

#[test]
fn rwlock_models_no_write_is_lost() {
    explore(RwLockState::new, &[write_one, write_one], |memory| {
        assert_eq!((memory.payload.load(Relaxed), memory.state.holders()), (2, (0, 0)));
    });
}

#[test]
fn rwlock_models_nothing_is_written_while_it_is_read() {
    explore(RwLockState::new, &[read_twice, write_one], |memory| {
        assert_eq!(memory.state.holders(), (0, 0));
    });
}

// Event -------------------------------------------------------------------------------------

fn set_event(thread: &Thread<EventState>) {
    thread.memory.payload.store(7, Relaxed);
    thread.state().set(thread);
}

fn wait_for_event(thread: &Thread<EventState>) {
    assert!(thread.state().wait(thread, Deadline::Never));
    assert_eq!(thread.memory.payload.load(Relaxed), 7, "what was done before is not visible");
}

#[test]
fn event_models_setting_reaches_everybody_with_what_was_done_before() {
    explore(|| EventState::new(false), &[wait_for_event, set_event, wait_for_event], |_| ());
}

#[test]
fn event_models_who_sees_that_it_is_set_sees_what_was_done_before() {
    fn look(thread: &Thread<EventState>) {
        assert!(!thread.state().is_set() || thread.memory.payload.load(Relaxed) == 7);
    }
    explore(|| EventState::new(true), &[set_event, look], |_| ());
    explore(|| EventState::new(false), &[set_event, look], |_| ());
}

#[test]
fn event_models_an_automatic_event_releases_one_for_each_setting() {
    fn wait_shortly(thread: &Thread<EventState>) {
        if thread.state().wait(thread, Deadline::At(0)) {
            thread.memory.payload.fetch_add(1, Relaxed);
        }
    }
    fn set(thread: &Thread<EventState>) {
        thread.state().set(thread);
    }
    explore(
        || EventState::new(true),
        &[wait_shortly, wait_shortly, set],
        |memory| {
            let left = u32::from(memory.state.is_set());
            assert_eq!(memory.payload.load(Relaxed) + left, 1, "one setting, one release");
        },
    );
}

// Condition variable ------------------------------------------------------------------------

/// The mutex is the C library's: a semaphore stands for it.
struct Guarded {
    mutex: SemaphoreState,
    changed: CondvarState,
}

impl Guarded {
    fn new() -> Self {
        Self { mutex: SemaphoreState::new(1, 1), changed: CondvarState::new() }
    }
}

fn wait_for_change(thread: &Thread<Guarded>) {
    let Guarded { mutex, changed } = thread.state();
    assert!(mutex.acquire(thread, 1, Deadline::Never));
    while thread.memory.payload.load(Relaxed) == 0 {
        let queued = changed.enter(thread, Deadline::Never).unwrap();
        mutex.put_back(thread, 1);
        assert!(changed.wait(thread, &queued, Deadline::Never));
        CondvarState::leave(&queued);
        assert!(mutex.acquire(thread, 1, Deadline::Never));
    }
    mutex.put_back(thread, 1);
}

fn change(thread: &Thread<Guarded>) {
    let Guarded { mutex, changed } = thread.state();
    assert!(mutex.acquire(thread, 1, Deadline::Never));
    thread.memory.payload.store(1, Relaxed);
    mutex.put_back(thread, 1);
    changed.notify(thread, 1);
}

#[test]
fn condvar_models_a_notification_after_the_change_is_never_missed() {
    explore(Guarded::new, &[wait_for_change, change], |_| ());
}

// Barrier -----------------------------------------------------------------------------------

fn pass_once(thread: &Thread<BarrierState>) {
    thread.memory.payload.fetch_add(1, Relaxed);
    match thread.state().wait(thread, None::<fn()>, Deadline::Never) {
        Passage::Passed { .. } => {}
        other => panic!("{other:?}"),
    }
    assert_eq!(thread.memory.payload.load(Relaxed), 2, "passed before all had arrived");
}

#[test]
fn barrier_models_nobody_passes_before_all_have_arrived() {
    explore(|| BarrierState::new(2), &[pass_once, pass_once], |_| ());
}

#[test]
fn barrier_models_the_action_runs_once_before_anybody_passes() {
    fn pass(thread: &Thread<BarrierState>) {
        let act = || {
            thread.memory.payload.fetch_add(1, Relaxed);
        };
        let passed = thread.state().wait(thread, Some(act), Deadline::Never);
        assert!(matches!(passed, Passage::Passed { .. }));
        assert_eq!(thread.memory.payload.load(Relaxed), 1);
    }
    explore(|| BarrierState::new(2), &[pass, pass], |_| ());
}

#[test]
fn barrier_models_all_pass_or_all_are_told_that_it_broke() {
    fn pass_or_not(thread: &Thread<BarrierState>) {
        match thread.state().wait(thread, None::<fn()>, Deadline::Never) {
            Passage::Passed { .. } => {
                thread.memory.payload.fetch_add(1, Relaxed);
            }
            Passage::Broken => {}
            Passage::TimedOut => panic!("there was no limit"),
        }
    }
    fn abort(thread: &Thread<BarrierState>) {
        thread.state().abort(thread);
    }
    explore(
        || BarrierState::new(2),
        &[pass_or_not, abort, pass_or_not],
        |memory| {
            let passed = memory.payload.load(Relaxed);
            assert!(passed == 0 || passed == 2, "{passed} of 2 passed");
        },
    );
}

// Once --------------------------------------------------------------------------------------

fn init(thread: &Thread<OnceState>) {
    if thread.state().enter(thread, Deadline::Never) == Turn::Mine {
        thread.memory.payload.fetch_add(1, Relaxed);
        thread.state().finish(thread, true);
    }
    assert_eq!(thread.memory.payload.load(Relaxed), 1, "not done, or not visible");
}

#[test]
fn once_models_it_is_done_once_and_visible_to_all() {
    explore(OnceState::new, &[init, init], |_| ());
}

#[test]
fn once_models_after_a_failure_the_next_one_does_it() {
    fn fail(thread: &Thread<OnceState>) {
        if thread.state().enter(thread, Deadline::Never) == Turn::Mine {
            thread.state().finish(thread, false);
        }
    }
    explore(OnceState::new, &[fail, init], |_| ());
}

// Room --------------------------------------------------------------------------------------

/// A counter of values outside the latch, and the room of those who want one.
struct Stock {
    room: Room,
    values: AtomicU32,
}

impl Stock {
    fn new() -> Self {
        Self { room: Room::new(), values: AtomicU32::new(0) }
    }

    fn put(&self, caller: &impl Caller) {
        self.values.fetch_add(1, AcqRel);
        self.room.notify(caller, 1);
    }

    fn get(&self, caller: &impl Caller, deadline: Deadline) -> bool {
        let attempt = || {
            let taken = self.values.fetch_update(AcqRel, Relaxed, |values| values.checked_sub(1));
            taken.ok()
        };
        self.room.wait(caller, deadline, attempt).is_some()
    }
}

#[test]
fn room_models_nobody_waits_while_there_is_something() {
    fn get(thread: &Thread<Stock>) {
        assert!(thread.state().get(thread, Deadline::Never));
    }
    fn put_two(thread: &Thread<Stock>) {
        thread.state().put(thread);
        thread.state().put(thread);
    }
    explore(Stock::new, &[get, get, put_two], |memory| {
        assert_eq!(memory.state.values.load(Relaxed), 0);
        assert_eq!(memory.state.room.waiting(), 0);
    });
}

#[test]
fn room_models_an_advice_to_one_whose_time_is_up_is_not_lost() {
    fn get(thread: &Thread<Stock>) {
        assert!(thread.state().get(thread, Deadline::Never));
    }
    /// Leaves at once; if it gets something, it puts it back.
    fn glance(thread: &Thread<Stock>) {
        if thread.state().get(thread, Deadline::At(0)) {
            thread.state().put(thread);
        }
    }
    fn put(thread: &Thread<Stock>) {
        thread.state().put(thread);
    }
    explore(Stock::new, &[get, glance, put], |memory| {
        assert_eq!(memory.state.values.load(Relaxed), 0);
        assert_eq!(memory.state.room.waiting(), 0);
    });
}
