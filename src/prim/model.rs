//! Processes as threads of shuttle's: each atomic operation may be followed by another thread's, and may be
//! the last of its process.
//!
//! Shuttle runs the threads of an execution one after the other on one thread of the system, so what is
//! noted here needs no protection. A process that dies keeps what it holds: its thread waits for ever, and
//! no destructor runs before the execution is over.

use super::{AtomicU32, SeqCst};
use shuttle::current::{TaskId, me};
use shuttle::rand::Rng;
use shuttle::thread::Thread;
use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};

/// How a process has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Died,
    Left,
}

#[derive(Debug, Default)]
struct World {
    /// The processes besides the user's: a name, and the steps until they die.
    processes: HashMap<TaskId, (u64, u64)>,
    /// Those that ended since somebody asked.
    ended: Vec<(u64, End)>,
    dead: HashSet<TaskId>,
}

thread_local! {
    static RUNNING: Cell<bool> = const { Cell::new(false) };
    static WORLD: RefCell<World> = RefCell::default();
    /// Who sleeps on a futex: the address of the word, the sleeper's number, its thread.
    static SLEEPERS: RefCell<Vec<(usize, u32, Thread)>> = const { RefCell::new(Vec::new()) };
}

/// Counts the processes that have ended: a futex.
pub(crate) static ENDED: AtomicU32 = AtomicU32::new(0);

/// From now on, atomic operations are steps.
pub(crate) fn begin() {
    WORLD.take();
    SLEEPERS.take();
    RUNNING.set(true);
}

/// The execution has been looked at: what else runs, runs for no purpose.
pub(crate) fn end() {
    RUNNING.set(false);
}

pub(crate) fn is_running() -> bool {
    RUNNING.get() && !std::thread::panicking()
}

/// Makes the calling thread a process of this name, which dies after so many steps.
pub(crate) fn become_process(name: u64, steps: u64) {
    WORLD.with_borrow_mut(|world| world.processes.insert(me(), (name, steps)));
}

/// Whether the calling thread is a process that is going to die.
pub(crate) fn is_doomed() -> bool {
    WORLD.with_borrow(|world| {
        world.processes.get(&me()).is_some_and(|(_, steps)| *steps < u64::MAX / 2)
    })
}

/// The calling thread's process ends by itself.
pub(crate) fn leave() {
    WORLD.with_borrow_mut(|world| {
        if let Some((name, _)) = world.processes.remove(&me()) {
            world.ended.push((name, End::Left));
        }
    });
    say_ended();
}

fn say_ended() {
    ENDED.fetch_add(1, SeqCst);
    wake(&ENDED, u32::MAX);
}

/// The processes that have ended since the last time.
pub(crate) fn take_ended() -> Vec<(u64, End)> {
    WORLD.with_borrow_mut(|world| std::mem::take(&mut world.ended))
}

/// The calling thread, as a number that is not 0.
pub(crate) fn own_number() -> u32 {
    usize::from(me()) as u32 + 1
}

/// Whether the thread of that number is a dead process.
pub(crate) fn is_dead(number: u32) -> bool {
    WORLD.with_borrow(|world| world.dead.iter().any(|task| usize::from(*task) as u32 + 1 == number))
}

/// Lets others go first, or dies.
pub(crate) fn step() {
    if !is_running() {
        return;
    }
    // A word of nobody else's: only its being an operation counts.
    let _ = shuttle::sync::atomic::AtomicBool::new(false).load(std::sync::atomic::Ordering::SeqCst);
    let dies = WORLD.with_borrow_mut(|world| {
        let Some((name, left)) = world.processes.get_mut(&me()) else { return false };
        *left = left.saturating_sub(1);
        if *left > 0 {
            return false;
        }
        let name = *name;
        world.processes.remove(&me());
        world.dead.insert(me());
        world.ended.push((name, End::Died));
        true
    });
    if dies {
        forget(own_number());
        say_ended();
        loop {
            shuttle::thread::park();
        }
    }
}

/// Lets others go first for longer.
pub(crate) fn yield_now() {
    if is_running() {
        shuttle::thread::yield_now();
        step();
    }
}

/// Sleeps while `*word == expected`; `false` if the time was up, which it may be at any moment.
pub(crate) fn wait(word: &AtomicU32, expected: u32, timed: bool) -> bool {
    step();
    if word.peek() != expected || !is_running() {
        return true;
    }
    let (address, number) = (std::ptr::from_ref(word) as usize, own_number());
    SLEEPERS.with_borrow_mut(|all| all.push((address, number, shuttle::thread::current())));
    while sleepers().iter().any(|(_, sleeper)| *sleeper == number) {
        // Who may die asleep has to pass steps for it; so has who may wake up by itself.
        if !timed && !is_doomed() {
            shuttle::thread::park();
            continue;
        }
        yield_now();
        if timed && shuttle::rand::thread_rng().gen_range(0..8) == 0 {
            forget(number);
            return false;
        }
    }
    true
}

/// Wakes up to `count` sleepers of `word`.
pub(crate) fn wake(word: &AtomicU32, count: u32) {
    step();
    let (address, mut left) = (std::ptr::from_ref(word) as usize, count);
    let mut woken = Vec::new();
    SLEEPERS.with_borrow_mut(|all| {
        all.retain(|(slept_on, _, thread)| {
            let wakes = *slept_on == address && left > 0;
            if wakes {
                left -= 1;
                woken.push(thread.clone());
            }
            !wakes
        });
    });
    woken.iter().for_each(Thread::unpark);
}

/// Who sleeps, and on which words.
pub(crate) fn sleepers() -> Vec<(usize, u32)> {
    SLEEPERS.with_borrow(|all| all.iter().map(|(address, number, _)| (*address, *number)).collect())
}

/// A thread sleeps no more.
fn forget(number: u32) {
    SLEEPERS.with_borrow_mut(|all| all.retain(|(_, sleeper, _)| *sleeper != number));
}
