//! Fuzz target: slots, and the ledger of their worker, in which that scribbles. What the user's process does with
//! them may fail, and may give wrong values; but it comes to an end, and nothing is read or called that is not there.

use super::area::Area;
use super::inner::{Inner, Settings};
use super::options::TaskOptions;
use super::recycle::Recycle;
use super::requeue::Pausing;
use super::settle::{Dead, settle};
use super::setup::Setup;
use super::submit::{Job, TaskHandle, try_submit};
use super::trampolines;
use crate::error::WorkerExit;
use crate::limits::ARENA_BYTES_MIN;
use crate::prim::{AtomicU64, Relaxed};
use crate::shm::participants::Reserved;
use crate::shm::{Arena, Offset, ParticipantId};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

const SLOTS: u32 = 4;

fn settings() -> Settings {
    Settings {
        id: 1,
        name: "fuzzed".into(),
        workers: 1,
        cores: 1,
        search_ns: 0,
        stack_bytes: 1 << 20,
        recycle: Recycle::default(),
        restarts: (100, Duration::from_secs(1)),
        defaults: TaskOptions::default(),
        idle_timeout: None,
        setup: Setup::default(),
    }
}

fn start(arena: &Arena, user: ParticipantId) -> Reserved {
    let Ok(worker) = arena.reserve_participant(user) else { panic!("no place") };
    assert!(arena.attach(worker));
    worker
}

/// Writes into a slot, or into the worker's ledger: small numbers, places in the arena, anything.
fn scribble(inner: &Inner, worker: ParticipantId, at: u16, value: u64) {
    let arena = inner.area.arena;
    let value = match at >> 14 {
        0 => value % 8,
        1 => (value % ARENA_BYTES_MIN as u64) & !7,
        _ => value,
    };
    let ledger = std::ptr::from_ref(&arena.participant(worker).ledger).cast();
    let place = match usize::from(at) % (SLOTS as usize + 1) {
        slot if slot < SLOTS as usize => {
            let slot: *const u8 = std::ptr::from_ref(inner.slot(slot as u32)).cast();
            arena.offset_of(slot) + u64::from(at >> 3) % 32 * 8
        }
        _ => arena.offset_of(ledger) + u64::from(at >> 3) % 9 * 8,
    };
    if let Some(word) = arena.at(Offset::<AtomicU64>::new(place)) {
        word.store(value, Relaxed);
    }
}

/// What a worker does, without running anything.
fn work(inner: &Inner, worker: ParticipantId, value: u64) {
    let ring = &inner.area.rings[1];
    if let Some(claim) = ring.claim(worker.to_raw(), |_| ()) {
        let slot = inner.slot(claim.value % SLOTS);
        let _ = slot.state.claim(worker.to_raw() as u16);
        inner.area.arena.participant(worker).ledger.slot.store(u64::from(claim.value) + 1, Relaxed);
        ring.release(claim.position);
        if value.is_multiple_of(2) {
            let finished = slot.state.finish();
            inner.area.announce(slot, finished);
        }
    }
}

#[test]
fn fuzz_slots() {
    let Ok(arena) = Arena::create(ARENA_BYTES_MIN) else { panic!("no arena") };
    static ARENA: OnceLock<Arena> = OnceLock::new();
    let arena = ARENA.get_or_init(|| arena);
    let user = start(arena, ParticipantId::NOBODY).id;
    let double = |text: String| text.repeat(2);
    let Ok(code) = trampolines::code_of(&double) else { panic!("no code") };
    type Input = Vec<(u8, u16, u64)>;
    bolero::check!().with_type::<Input>().for_each(|steps| {
        let Ok(area) = Area::create(arena, SLOTS, user) else { panic!("no area") };
        let inner = Arc::new(Inner::new(settings(), area, user));
        let mut worker = start(arena, user);
        let mut tasks: Vec<TaskHandle<String>> = Vec::new();
        for (step, at, value) in steps.iter().take(40) {
            match step % 12 {
                0..3 => {
                    let text = "x".repeat(*value as usize % 200);
                    tasks.extend(try_submit(&inner, &Job::new(code), text));
                }
                3 | 4 => work(&inner, worker.id, *value),
                5..8 => scribble(&inner, worker.id, *at, *value),
                8 => {
                    let exit = WorkerExit::Signal(9);
                    let dead =
                        Dead { id: worker.id, pid: 1, exit, closing: false, condemned: None };
                    if let Some(Pausing { place, .. }) = settle(&inner, dead) {
                        inner.queue_again(place);
                    }
                    worker = start(arena, user);
                }
                9 => {
                    if let Some(task) = tasks.pop() {
                        drop(task.join_timeout(Duration::ZERO));
                    }
                }
                10 => drop(inner.harvest(usize::from(*at))),
                _ => {
                    drop(area.check_invariants(&inner.free_list()));
                    if let Some(task) = tasks.first() {
                        let _ = task.cancel();
                    }
                }
            }
        }
        drop(tasks);
        inner.end_all_tasks();
        drop(inner);
        arena.release_participant(worker.id);
        // As good as new, for the next.
        arena.reset_allocator();
    });
}
