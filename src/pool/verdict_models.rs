//! Loom models of the verdict over a call that takes too long, SYNC(condemned), SYNC(call-begun), and of
//! SYNC(call-done).
//!
//! The supervisor's barrier (`membarrier`) makes the kernel order a worker's instructions at some point between the
//! beginning and the end of the system call: all that the worker has done before that point is seen by what the supervisor does
//! afterwards, and all that the supervisor has done before is seen by what the worker does after it. The point may be
//! between any two instructions. If it is before the worker's store of its step, the look at the flags, which comes
//! later, sees the flag; if it is behind, the supervisor's look sees the step. This is what two fences say that
//! stand in one order of all of them (`SeqCst`), one in the supervisor, and one in the worker between store and look:
//! so they stand here. It is the asymmetric fence of P1202 (D. Goldblatt, "Asymmetric Fences"). The last model has
//! no fence in the worker, and an interrupt at each of the places where it may come.
//!
//! The fence in the worker says more than there is: it orders that worker's accesses also when nobody calls
//! `membarrier`, and with the fences of other workers. So there is one worker in each model, and what is asserted
//! of what it carries (`call-done`) is about one call, whose fence comes after the store in question.
//! Not seen: that the compiler keeps the order (`light_fence` is a `compiler_fence` where this is no model); that
//! a machine without the call waits for a millisecond instead; and the death itself: who is killed stands still here.

use super::state::{Phase, StateWord};
use super::verdict::{Flags, Steps, condemn, condemn_with, running};
use crate::prim::{Acquire, AtomicU32, AtomicU64, Relaxed, Release, SeqCst, fence, spin_hint};
use loom::sync::Arc;
use loom::thread;

const WORKER: u16 = 3;

struct Slot {
    state: StateWord,
    steps: Steps,
    flags: Flags,
    result: AtomicU64,
    /// Whether the supervisor has killed the worker: no word of the slot's.
    killed: AtomicU32,
}

impl Slot {
    /// One that the worker has claimed.
    fn new() -> Arc<Self> {
        let slot = Self {
            state: StateWord::new(),
            steps: Steps::new(),
            flags: Flags::new(),
            result: AtomicU64::new(0),
            killed: AtomicU32::new(0),
        };
        let _ = slot.state.publish();
        assert!(slot.state.claim(WORKER));
        Arc::new(slot)
    }

    /// As `Batch::await_verdict`; `false` if the worker is dead.
    fn await_verdict(&self) -> bool {
        while self.flags.is_condemned() {
            if self.killed.load(SeqCst) != 0 {
                return false;
            }
            spin_hint();
        }
        true
    }

    /// As `Batch::run_calls`; `false` if the worker is dead.
    fn run(&self, calls: u64) -> bool {
        for call in 0..calls {
            if self.flags.is_held_up() && !self.await_verdict() {
                return false;
            }
            self.steps.begin(call);
            self.steps.end(call);
        }
        self.await_verdict()
    }

    fn running(&self) -> Option<(u32, u64)> {
        running(&self.state, &self.steps, u64::from(WORKER))
    }

    /// As the supervisor, which has seen this before: whether it kills the worker.
    fn kill_for(&self, seen: (u32, u64)) -> bool {
        let killed = condemn(&self.flags, || self.running() == Some(seen));
        if killed {
            self.killed.store(1, SeqCst);
        }
        killed
    }
}

#[test]
fn verdict_models_who_is_killed_has_begun_nothing_else_and_who_is_not_goes_on() {
    loom::model(|| {
        let slot = Slot::new();
        let theirs = slot.clone();
        let worker = thread::spawn(move || {
            let lives = theirs.run(2);
            if lives {
                let _ = theirs.state.finish();
            }
            lives
        });
        // One that is to be aborted may not have begun yet; whose last call has ended, that looks at no flag any more.
        let seen = slot.running().filter(|(_, steps)| *steps < 4);
        let killed = seen.is_some_and(|seen| slot.kill_for(seen));
        // It ends in any case: pardoned, it waits no more.
        let lives = worker.join().unwrap();
        assert_eq!(killed, !lives, "who is to be killed has come to its end");
        let now = slot.steps.now();
        if let Some((_, seen)) = seen.filter(|_| killed) {
            // It may have ended the call that it is killed for: that was too late.
            assert!(now <= (seen | 1) + 1, "{seen} became {now}: another call has begun");
            assert_eq!(slot.state.load().phase, Phase::Claimed);
        } else {
            assert_eq!((now, slot.state.load().phase), (4, Phase::Done));
        }
    });
}

/// The call ends at the last moment, its slot is used again, and the same worker claims it again: to who had looked
/// at the state first, and then at the steps, the next task's call was the one that took too long.
#[test]
fn verdict_models_nobody_is_killed_for_the_call_of_the_task_before() {
    loom::model(|| {
        let slot = Slot::new();
        slot.steps.begin(0);
        let seen = slot.running().unwrap();
        let theirs = slot.clone();
        let worker = thread::spawn(move || {
            theirs.steps.end(0);
            if !theirs.await_verdict() {
                return false;
            }
            let _ = theirs.state.finish();
            // The user's process, in the place of which this thread is.
            assert!(theirs.state.try_take(seen.0));
            theirs.steps.reset();
            theirs.state.free();
            theirs.flags.set(0);
            let _ = theirs.state.publish();
            assert!(theirs.state.claim(WORKER));
            theirs.steps.begin(0);
            true
        });
        let killed = slot.kill_for(seen);
        assert!(worker.join().unwrap() ^ killed, "killed for another's call");
    });
}

#[test]
fn verdict_models_who_sees_that_a_call_is_done_sees_its_result() {
    loom::model(|| {
        let slot = Slot::new();
        let theirs = slot.clone();
        let worker = thread::spawn(move || {
            theirs.steps.begin(0);
            theirs.result.store(7, Relaxed);
            theirs.steps.end(0);
        });
        assert!(slot.steps.now() != 2 || slot.result.load(Relaxed) == 7);
        worker.join().unwrap();
    });
}

/// The handle of a condemned task is woken by its end, and sees why, while its worker is still dying.
#[test]
fn verdict_models_the_handle_of_a_condemned_task_is_told_at_once() {
    loom::model(|| {
        let slot = Slot::new();
        let generation = slot.state.load().generation;
        let theirs = slot.clone();
        let supervisor = thread::spawn(move || {
            theirs.result.store(9, Relaxed);
            let finished = theirs.state.end_early(generation).unwrap();
            if finished.waited_for {
                theirs.state.wake_sleepers();
            }
        });
        while slot.state.load().is_pending() {
            slot.state.wait(generation, None);
        }
        assert_eq!(slot.result.load(Relaxed), 9);
        assert_eq!(slot.state.load().phase, Phase::Condemned);
        assert!(!slot.state.try_take(generation), "its worker may still write there");
        supervisor.join().unwrap();
        slot.state.take_condemned();
        slot.state.free();
        assert_eq!(slot.state.publish(), generation + 1);
    });
}

/// What the kernel does: it interrupts the worker at one place, has it pass a barrier there, and lets the supervisor go on
/// when that is so.
struct Interrupt {
    place: u32,
    requested: AtomicU32,
    served: AtomicU32,
}

impl Interrupt {
    /// The system call.
    fn everywhere(&self) {
        fence(SeqCst);
        self.requested.store(1, Release);
        while self.served.load(Acquire) == 0 {
            spin_hint();
        }
        fence(SeqCst);
    }

    /// The worker is interrupted here. (It waits for that only because it does not know that it is early.)
    fn serve(&self) {
        while self.requested.load(Acquire) == 0 {
            spin_hint();
        }
        fence(SeqCst);
        self.served.store(1, Release);
    }
}

/// The places of [`run_with_interrupt`].
const PLACES: u32 = 7;

/// The rest of two calls, of which the first runs, with no fence of the worker's own; `false` if it is dead.
fn run_with_interrupt(slot: &Slot, interrupt: &Interrupt) -> bool {
    let mut next = 0;
    let mut pass = || {
        if next == interrupt.place {
            interrupt.serve();
        }
        next += 1;
        next
    };
    let await_verdict = |passed: u32| {
        let mut is_served = passed > interrupt.place;
        while slot.flags.is_condemned() {
            // Who waits is interrupted in the loop.
            if !is_served {
                interrupt.serve();
                is_served = true;
            }
            if slot.killed.load(SeqCst) != 0 {
                return false;
            }
            spin_hint();
        }
        true
    };
    pass();
    slot.steps.note_end(0);
    let passed = pass();
    if slot.flags.is_held_up() && !await_verdict(passed) {
        return false;
    }
    pass();
    slot.steps.begin(1);
    pass();
    slot.steps.note_end(1);
    let passed = pass();
    if !await_verdict(passed) {
        return false;
    }
    pass();
    let _ = slot.state.finish();
    pass();
    true
}

#[test]
fn verdict_models_an_interrupt_anywhere_is_barrier_enough() {
    for place in 0..PLACES {
        loom::model(move || {
            let slot = Slot::new();
            slot.steps.begin(0);
            let seen = slot.running().unwrap();
            let (requested, served) = (AtomicU32::new(0), AtomicU32::new(0));
            let interrupt = Arc::new(Interrupt { place, requested, served });
            let (theirs, kernel) = (slot.clone(), interrupt.clone());
            let worker = thread::spawn(move || run_with_interrupt(&theirs, &kernel));
            let barrier = || interrupt.everywhere();
            let killed = condemn_with(&slot.flags, barrier, || slot.running() == Some(seen));
            if killed {
                slot.killed.store(1, SeqCst);
            }
            assert_eq!(killed, !worker.join().unwrap(), "interrupted at {place}");
            let (now, phase) = (slot.steps.now(), slot.state.load().phase);
            match killed {
                true => assert!(now <= 2 && phase == Phase::Claimed, "{now} {phase:?}"),
                false => assert_eq!((now, phase), (4, Phase::Done)),
            }
        });
    }
}
