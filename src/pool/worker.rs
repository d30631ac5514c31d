//! The worker's loop: find a task, claim it, run it, announce it, sleep when there is none.
//!
//! # Protocol
//! 1. Write the position down in the ledger, claim the ring cell.
//! 2. Write the slot down, claim the slot, release the cell.
//! 3. Run the batch (`task.rs`).
//! 4. DONE, announce, clear the ledger. Or, if the batch has more calls than this worker may run: READY
//!    again, queued again, clear the ledger.
//!
//! A worker that is to be recycled (`recycle.rs`) asks for its successor when its end is near, and leaves
//! between two tasks: it writes that down, ends its turn (`seat.rs`), and exits.
//!
//! With nothing to do: search for a bounded time if nobody else does and there are enough cores,
//! then sleep on the pool's event count (`sleep.rs`).
//!
//! # If a process dies
//! After each step `settle.rs` finds in the ledger what was held; the fault points below mark them.

#[cfg(all(test, shuttle))]
#[path = "path_models.rs"]
mod path_models;

use super::area::{Area, AreaAddress, CellPlace};
use super::context::ContextCache;
use super::failure;
use super::recycle::{Life, Recycle};
use super::seat::Seat;
use super::setup::Setup;
use super::slot::Slot;
use super::startup::{self, StartupSpec, WorkerState};
use super::task::Invocation;
use super::trampolines::{self, Request};
use crate::prim::{Relaxed, SeqCst, compiler_fence, prefetch_to_write};
use crate::process::bell;
use crate::process::identity::CodeOffset;
use crate::queue::ring::{Claim, Ring};
use crate::shm::participants::Reserved;
use crate::shm::{Arena, ParticipantId, fault};
use crate::sync::search::search;
use crate::sys;
use serde::{Deserialize, Serialize};
use std::cell::Cell;
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// What a worker is told when it is forked.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct WorkerSpec {
    pub(crate) area: AreaAddress,
    pub(crate) participant: Reserved,
    pub(crate) user: ParticipantId,
    pub(crate) name: String,
    pub(crate) stack_bytes: usize,
    /// How long it may search before it sleeps; 0 if there are no cores to spare.
    pub(crate) search_ns: u64,
    /// Its seat, and its turn there.
    pub(crate) number: usize,
    pub(crate) turn: u32,
    pub(crate) recycle: Recycle,
    pub(super) setup: Setup,
    pub(crate) startup: Option<StartupSpec>,
    /// Whether the pool has more workers when more is to be done (`size.rs`).
    pub(crate) grows: bool,
    /// Whether this process is there for one task (`process.rs`).
    pub(crate) once: bool,
}

/// The first function of a worker process; the guardian forks into it.
pub(crate) fn main(argument: &[u8]) {
    let Ok(spec) = postcard::from_bytes::<WorkerSpec>(argument) else {
        sys::process::exit_now(1);
    };
    let name = spec.name.clone();
    sys::membarrier::take_part();
    let is_set_up = spec.setup.apply(spec.number);
    // Tasks run on a thread of the standard library's making: it has a name, a guard page and the
    // stack that the builder asks for, none of which the main thread of a constructor has.
    let stack_bytes = Some(spec.stack_bytes);
    match sys::thread::start(&name, stack_bytes, move || attach_and_run(&spec, is_set_up)) {
        Ok(thread) => {
            let ended = thread.join();
            sys::process::exit_now(if ended.is_ok() { 0 } else { 101 });
        }
        Err(error) => {
            eprintln!("procpool: a worker cannot start its thread: {error}");
            sys::process::exit_now(1);
        }
    }
}

fn attach_and_run(spec: &WorkerSpec, is_set_up: Result<(), String>) {
    fault::point("worker.attach");
    let Some(arena) = Arena::existing() else { return };
    let me = spec.participant.id;
    // An error here means that the pool has given this worker up meanwhile.
    if arena.become_participant(spec.participant).is_err() {
        return;
    }
    fault::point("worker.attached");
    let Ok(area) = Area::open(arena, spec.area) else { return };
    failure::note_panics();
    let WorkerSpec { user, search_ns, number, turn, ref recycle, ref startup, .. } = *spec;
    super::inside::enter(area, me, spec);
    let begun = is_set_up.and_then(|()| match startup {
        Some(startup) => {
            startup.begin(&area).map_err(|why| format!("its initializer failed: {why}"))
        }
        None => Ok(WorkerState::default()),
    });
    let mut state = match begun {
        Ok(state) => state,
        Err(why) => {
            startup::leave_note(arena, me, &why);
            std::process::exit(1);
        }
    };
    let ledger = &arena.participant(me).ledger;
    ledger.started.store(1, Relaxed);
    let seat = area.seat(number);
    fault::point("worker.waiting-for-turn");
    let failed = Cell::new(false);
    if seat.wait_for(turn) {
        let now_ns = sys::clock::monotonic_ns();
        ledger.begun_ns.store(now_ns, Relaxed);
        ledger.since_ns.store(now_ns, Relaxed);
        let (contexts, life) = (ContextCache::default(), Life::begin(recycle));
        Worker {
            area,
            me,
            user,
            search_ns,
            contexts,
            seat,
            turn,
            life,
            grows: spec.grows,
            once: spec.once,
            failed: &failed,
            // It goes on where the one before it began, and a bit: that may have lived for one look.
            looks: Cell::new(turn),
            now_ns: Cell::new(0),
            state: &mut state,
        }
        .run();
    } else {
        ledger.leaving.store(RETIRING, Relaxed);
    }
    if let Some(startup) = startup.as_ref().filter(|startup| startup.has_finalizer()) {
        ledger.started.store(FINALIZING, Relaxed);
        // The supervisor looks whether it ends (R3 of `leaving.rs`).
        bell::ring();
        startup.end(state);
        ledger.started.store(2, Relaxed);
    }
    // Leave as a program leaves: buffers flushed, exit handlers run.
    std::process::exit(if failed.get() { 101 } else { 0 });
}

/// Tasks that run for longer are always measured.
const LONG_NS: u64 = 10_000_000;

struct Worker<'a> {
    area: Area,
    me: ParticipantId,
    user: ParticipantId,
    search_ns: u64,
    contexts: ContextCache,
    seat: &'static Seat,
    turn: u32,
    life: Life,
    state: &'a mut WorkerState,
    /// Whether the supervisor adds workers when tasks wait.
    grows: bool,
    /// Whether it leaves after one task, and whether that has failed.
    once: bool,
    failed: &'a Cell<bool>,
    /// How often it has looked for a task.
    looks: Cell<u32>,
    /// The time, if hardly any has passed since it was read; else 0.
    now_ns: Cell<u64>,
}

/// Values of `leaving` in the ledger.
pub(super) const ENDING: u32 = 1;
pub(super) const LEAVING: u32 = 2;
pub(super) const RETIRING: u32 = 3;

/// Of `started`: its finaliser runs. (0: it has not started; 1: it has; 2: it has ended tasks, or all.)
pub(super) const FINALIZING: u32 = 3;

impl Worker<'_> {
    fn run(&mut self) {
        loop {
            if self.once && self.ledger().started.load(Relaxed) == 2 {
                return self.leave(LEAVING);
            }
            if self.seat.calls() {
                // One that has run all its calls leaves the mail to its successor.
                if !self.life.is_spent()
                    && let Some(slot) = self.take_mail()
                {
                    self.execute(slot);
                    continue;
                }
                if self.seat.is_retired() {
                    return self.leave(RETIRING);
                }
            }
            if self.life.is_ending() && self.is_to_leave() {
                return self.leave(LEAVING);
            }
            if let Some(slot) = self.claim() {
                self.execute(slot);
                continue;
            }
            self.now_ns.set(0);
            if self.area.is_stopping() {
                return;
            } else if let Some(slot) = self.search() {
                self.execute(slot);
            } else if self.life.is_over_now() {
                // Nothing is to be done: a gap costs nobody anything. (R3 of `leaving.rs`.)
                bell::ring();
                return self.leave(LEAVING);
            } else {
                self.sleep();
                if self.life.is_over() {
                    continue;
                }
                if let Some(slot) = self.claim() {
                    self.wake_another();
                    self.execute(slot);
                }
            }
        }
    }

    fn ledger(&self) -> &'static crate::shm::participants::Ledger {
        &self.area.arena.participant(self.me).ledger
    }

    /// Asks for the successor, once; whether this worker leaves now.
    #[cold]
    fn is_to_leave(&self) -> bool {
        let ledger = self.ledger();
        if ledger.leaving.load(Relaxed) == 0 {
            ledger.leaving.store(ENDING, Relaxed);
            fault::point("worker.ending");
            bell::ring();
        }
        self.life.is_spent() || (self.life.is_over() && self.seat.has_successor())
    }

    /// Lets the successor run.
    fn leave(&self, why: u32) {
        self.ledger().leaving.store(why, Relaxed);
        compiler_fence(SeqCst);
        fault::point("worker.leaving");
        self.seat.end(self.turn);
        fault::point("worker.left");
    }

    /// Claims the slot that was left at this worker's seat; none if nobody can.
    #[cold]
    fn take_mail(&self) -> Option<u32> {
        let index = self.seat.mail()?;
        let ledger = self.ledger();
        ledger.slot.store(u64::from(index) + 1, Relaxed);
        compiler_fence(SeqCst);
        fault::point("worker.mail-written-down");
        let slot = self.area.slots.get(index as usize);
        let claimed = slot.is_some_and(|slot| slot.state.claim(self.me.to_raw() as u16));
        fault::point("worker.mail-claimed");
        self.seat.clear_mail(index);
        if !claimed {
            ledger.slot.store(0, Relaxed);
        }
        claimed.then_some(index)
    }

    /// Steps 1 and 2 of the protocol.
    fn claim(&self) -> Option<u32> {
        let ledger = self.ledger();
        let me = self.me.to_raw();
        loop {
            let (ring, claim) = self.claim_cell()?;
            fault::point("worker.cell-claimed");
            ledger.slot.store(u64::from(claim.value) + 1, Relaxed);
            compiler_fence(SeqCst);
            fault::point("worker.slot-written-down");
            let slot = self.area.slots.get(claim.value as usize);
            let claimed = slot.is_some_and(|slot| slot.state.claim(me as u16));
            fault::point("worker.slot-claimed");
            ring.release(claim.position);
            fault::point("worker.cell-released");
            ledger.cell.store(0, Relaxed);
            if claimed {
                return Some(claim.value);
            }
            // A task that was cancelled while it was queued.
            ledger.slot.store(0, Relaxed);
        }
    }

    /// Step 1 of the protocol, in the first ring that has a task.
    #[inline]
    fn claim_cell(&self) -> Option<(&Ring<'static>, Claim)> {
        let looks = self.looks.get();
        self.looks.set(looks.wrapping_add(1));
        let ledger = self.ledger();
        let rings = self.area.rings_to_look_at(looks);
        let claimed = rings.iter().find_map(|priority| {
            let ring = &self.area.rings[*priority];
            let claim = ring.claim(self.me.to_raw(), |Claim { position, value }| {
                if let Some(slot) = self.area.slots.get(value as usize) {
                    slot.prefetch();
                }
                ledger.cell.store(CellPlace { position, priority: *priority }.to_raw(), Relaxed);
                // Written down before the claim, as this process's death sees it.
                compiler_fence(SeqCst);
                fault::point("worker.cell-written-down");
            });
            claim.map(|claim| (ring, claim))
        });
        if claimed.is_none() {
            // Another was faster at what it has written down.
            ledger.cell.store(0, Relaxed);
        }
        claimed
    }

    /// Steps 3 and 4 of the protocol.
    fn execute(&mut self, index: u32) {
        let slot = &self.area.slots[index as usize];
        let started_ns = self.begin(slot);
        let code = CodeOffset::from_raw(slot.code.load(Relaxed));
        // An offset outside the program's code cannot come from a live `submit`.
        let Some(trampoline) = trampolines::resolve(code) else { std::process::abort() };
        let (me, user) = (self.me, self.user);
        trampoline(Request::Run(&mut Invocation {
            area: &self.area,
            slot,
            me,
            user,
            contexts: &mut self.contexts,
            life: &self.life,
            state: self.state,
        }));
        self.measure(slot, started_ns);
        if (self.life.is_spent() || self.life.is_over()) && slot.is_unfinished() {
            self.give_back(index);
            self.ended(started_ns);
            return;
        }
        if self.once {
            self.failed.set(slot.failures.peek() != 0);
        }
        let finished = slot.state.finish();
        fault::point("worker.done");
        self.area.announce(slot, finished);
        if finished.watched {
            bell::ring();
        }
        fault::point("worker.announced");
        let ledger = self.ledger();
        self.ended(started_ns);
        ledger.slot.store(0, Relaxed);
        ledger.started.store(2, Relaxed);
        fault::point("worker.settled-own-ledger");
    }

    /// Notes that a batch begins, and how long it has waited; the time.
    #[inline]
    fn begin(&self, slot: &Slot) -> u64 {
        // If nothing was looked for since the last task ended, that is when this one begins.
        let now_ns = match self.now_ns.take() {
            0 => sys::clock::monotonic_ns(),
            now_ns => now_ns,
        };
        let queued_ns = slot.queued_ns.load(Relaxed);
        if queued_ns != 0 && slot.waited_ns.load(Relaxed) == 0 {
            slot.waited_ns.store(now_ns.saturating_sub(queued_ns).max(1), Relaxed);
        }
        self.ledger().since_ns.store(now_ns, Relaxed);
        now_ns
    }

    /// Notes how long a batch has run, or the part of it that this worker ran: a map's batch, a task that
    /// was chosen for it, and one that took long. For the others, reading the clock would make whoever
    /// waits wait longer.
    #[inline]
    fn measure(&self, slot: &Slot, started_ns: u64) {
        if slot.queued_ns.load(Relaxed) == 0
            && sys::clock::recent_ns().saturating_sub(started_ns) < LONG_NS
        {
            return;
        }
        let now_ns = sys::clock::monotonic_ns();
        let busy_ns = now_ns.saturating_sub(started_ns).max(1);
        // Another may have run calls of it before.
        slot.busy_ns.store(slot.busy_ns.load(Relaxed) + busy_ns, Relaxed);
        self.now_ns.set(now_ns);
    }

    /// Notes when this worker became idle, or begins its next task.
    #[inline]
    fn ended(&self, started_ns: u64) {
        if self.now_ns.get() == 0 {
            self.now_ns.set(sys::clock::monotonic_ns());
        }
        let (now_ns, ledger) = (self.now_ns.get(), self.ledger());
        let busy_ns = now_ns.saturating_sub(started_ns);
        ledger.busy_ns.store(ledger.busy_ns.load(Relaxed) + busy_ns, Relaxed);
        ledger.since_ns.store(now_ns, Relaxed);
    }

    /// Has another worker run the rest of a batch.
    #[cold]
    fn give_back(&self, index: u32) {
        let ledger = self.ledger();
        ledger.returning.store(1, Relaxed);
        compiler_fence(SeqCst);
        fault::point("worker.giving-back");
        self.area.slots[index as usize].state.give_back();
        fault::point("worker.given-back");
        // The user's process sees to it that there is one, if nobody else does.
        while !self.area.queue(index) {}
        fault::point("worker.queued-again");
        ledger.slot.store(0, Relaxed);
        compiler_fence(SeqCst);
        ledger.returning.store(0, Relaxed);
    }

    /// Looks for work for a bounded time, if nobody else does, and claims what it finds.
    fn search(&self) -> Option<u32> {
        let me = self.me.to_raw() as u32;
        if self.search_ns == 0 || !self.area.searcher().try_sit(me) {
            return None;
        }
        fault::point("worker.searching");
        search(self.search_ns, || self.area.has_task());
        // The seat is left after the claim, because its line comes meanwhile; and then comes the look at the queue
        // that R5 of `sleep.rs` asks for.
        prefetch_to_write(self.area.searcher());
        let claimed = self.claim();
        self.area.searcher().leave();
        let slot = claimed.or_else(|| self.claim())?;
        self.wake_another();
        Some(slot)
    }

    /// Sees to it that what is still queued is not left lying while we run a task: producers wake
    /// one worker per task at most, and none while somebody searches (R4 of `sleep.rs`).
    fn wake_another(&self) {
        if self.area.has_task() {
            self.area.idle().notify(1);
            if self.grows && !self.area.idle().has_sleepers() {
                bell::ring();
            }
        }
    }

    fn sleep(&mut self) {
        let (area, contexts) = (&self.area, &mut self.contexts);
        // What is let go of here may have a `drop` that panics.
        let _ = catch_unwind(AssertUnwindSafe(|| contexts.forget_gone(area)));
        // A task may have printed half a line: nobody flushes while we sleep.
        let _ = std::io::stdout().flush();
        self.area.arena.record_start_time(self.me);
        let (idle, ledger) = (self.area.idle(), self.ledger());
        let epoch = idle.prepare();
        fault::point("worker.counted-asleep");
        ledger.asleep.store(1, Relaxed);
        compiler_fence(SeqCst);
        let nothing_to_do = !self.area.has_task()
            && !self.area.is_stopping()
            && !self.seat.calls()
            && !self.contexts.has_gone(&self.area);
        if nothing_to_do {
            fault::point("worker.asleep");
            idle.sleep(epoch, self.life.time_left());
            fault::point("worker.awake");
        }
        ledger.asleep.store(0, Relaxed);
        compiler_fence(SeqCst);
        idle.uncount();
    }
}
