//! Settling what a dead worker held.
//!
//! # Protocol
//! In this order, by the supervisor, which knows that the process is dead:
//! 1. The searcher's seat.
//! 2. The ring cell in its ledger: if it is claimed by the dead and the slot was not handed over,
//!    the slot is queued again; the cell is released.
//! 3. Processes that the dead one had started (a pool of its own): ended, and settled from here on like it. First,
//!    because until they are ended they may hand over to it what their results carry.
//! 4. What it held of shared objects (`sync/settle.rs`), except what its results carry. Before the
//!    slot, so that whoever learns that a call is lost finds the locks free that it held, and those that its
//!    own workers held; and before the blocks.
//! 5. The slot in its ledger, if claimed by the dead: its blocks become ours; the call that was
//!    running is lost; if calls are left, the batch is queued again and goes on behind it; else it
//!    is finished. If it is not claimed by it any more, who sleeps on it is woken (again: that does no harm).
//! 6. Its remaining blocks.
//! 7. Its place among the sleepers; everybody is woken, because a wake-up may have died with its receiver.
//! 8. Its participant entry: from then on it is nobody that could be settled, again, after a panic in the middle of this.
//!
//! # If a process dies
//! The settler is in the user's process; if that dies, the guardian ends everything.

use super::area::CellPlace;
use super::deadlines::Condemned;
use super::events::event;
use super::failure;
use super::inner::{Inner, Place};
use super::requeue::Pausing;
use super::restarts::Had;
use super::slot::Slot;
use super::state::Phase;
use super::task::{give_up_input, hand_over_carried};
use super::worker::{LEAVING, RETIRING};
use crate::error::{TaskError, WorkerExit};
use crate::prim::{AtomicU64, Relaxed};
use crate::shm::{Arena, Offset, ParticipantId, fault};
use crate::sync;
use crate::sys;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

/// How often a batch is queued again when its workers die *between* calls, which is nobody's fault.
const ATTEMPTS_MAX: u32 = 1000;

/// How long an orphan is waited for that was killed and does not end.
const ORPHAN_ENDS_WITHIN: Duration = Duration::from_secs(10);
/// How often it is tried again to learn what could not be learnt.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// A worker that is dead.
#[derive(Debug, Clone, Copy)]
pub(super) struct Dead<'a> {
    pub(crate) id: ParticipantId,
    pub(crate) pid: u32,
    pub(crate) exit: WorkerExit,
    /// Its pool is being dropped, which killed it: the call that it was running ends with that.
    pub(crate) closing: bool,
    /// The call for which the supervisor killed it.
    pub(super) condemned: Option<&'a Condemned>,
}

/// How far a worker had come.
pub(super) fn had(arena: &Arena, worker: ParticipantId) -> Had {
    let ledger = &arena.participant(worker).ledger;
    match (ledger.leaving.load(Relaxed), ledger.started.load(Relaxed)) {
        (LEAVING | RETIRING, _) => Had::EndedTasks,
        (_, 0) => Had::NotStarted,
        (_, 1) => Had::EndedNothing,
        _ => Had::EndedTasks,
    }
}

/// Gives back everything that a dead worker held.
pub(super) fn settle(inner: &Inner, dead: Dead<'_>) -> Option<Pausing> {
    let area = &inner.area;
    let ledger = &area.arena.participant(dead.id).ledger;
    area.searcher().evict(dead.id.to_raw() as u32);
    settle_cell(inner, dead, ledger.cell.load(Relaxed));
    let slot = ledger.slot.load(Relaxed).checked_sub(1).map(|index| index as u32);
    if let Some(slot) = slot.and_then(|index| claimed_by(inner, dead, index)) {
        hand_over_carried(area.arena, slot, inner.user);
    }
    settle_children(area.arena, dead.id);
    sync::settle::settle(area.arena, dead.id);
    fault::point("main.holdings-settled");
    let pausing = slot.and_then(|index| settle_slot(inner, dead, index));
    event!(DEBUG, "worker settled", pool = &*inner.name, pid = dead.pid);
    let asleep = ledger.asleep.load(Relaxed) != 0;
    area.arena.free_owned_by(dead.id);
    if asleep {
        // Once: should this be interrupted here, they are counted too high, which does no harm (R3 of `sleep.rs`).
        ledger.asleep.store(0, Relaxed);
        area.idle().uncount();
    }
    area.wake_everybody();
    area.arena.release_participant(dead.id);
    pausing
}

fn settle_cell(inner: &Inner, dead: Dead<'_>, place: u64) {
    let Some(CellPlace { position, priority }) = CellPlace::from_raw(place) else { return };
    let ring = &inner.area.rings[priority];
    let Some(claim) = ring.claimed_at(position, dead.id.to_raw()) else { return };
    ring.release(position);
    let slot = inner.area.slots.get(claim.value as usize);
    if slot.is_some_and(|slot| slot.state.load().phase == Phase::Ready) {
        inner.queue_soon(claim.value);
    }
}

/// The slot, if the dead one had claimed it.
fn claimed_by(inner: &Inner, dead: Dead<'_>, index: u32) -> Option<&'static Slot> {
    let slot = inner.area.slots.get(index as usize)?;
    let state = slot.state.load();
    let held = matches!(state.phase, Phase::Claimed | Phase::Condemned);
    let claimed = held && u64::from(state.owner) == dead.id.to_raw();
    claimed.then_some(slot)
}

fn settle_slot(inner: &Inner, dead: Dead<'_>, index: u32) -> Option<Pausing> {
    let Some(slot) = claimed_by(inner, dead, index) else {
        let slot = inner.area.slots.get(index as usize);
        let ledger = &inner.area.arena.participant(dead.id).ledger;
        // It was giving the rest of a batch back, and may not have queued it: a second time does no harm.
        let returned = ledger.returning.load(Relaxed) != 0;
        if returned && slot.is_some_and(|slot| slot.state.load().phase == Phase::Ready) {
            inner.queue_soon(index);
        }
        // It may have made the slot DONE and have woken nobody. Since then, the slot may have been taken, and
        // have another task: who sleeps there sleeps for the one before.
        if let Some(slot) = slot {
            slot.state.wake_sleepers();
        }
        return None;
    };
    let arena = inner.area.arena;
    if let Some(block) = slot.output_block() {
        arena.set_owner(block, inner.user);
    }
    failure::hand_over(arena, slot, inner.user);
    if slot.state.load().phase == Phase::Condemned {
        inner.bury_condemned(index);
        return None;
    }
    slot.flags().pardon();
    let Next { call, pause } = settle_calls(inner, dead, index, slot);
    if call == inner.calls_of(index) {
        give_up_input(arena, slot);
        inner.finish(slot);
        return None;
    }
    slot.state.give_back();
    let place = Place { index, generation: slot.state.load().generation };
    if pause.is_zero() {
        inner.queue_again(place);
        return None;
    }
    Some(Pausing { place, pause })
}

/// How a batch goes on.
struct Next {
    /// The first call that has no outcome.
    call: u32,
    /// How long to wait before it.
    pause: Duration,
}

impl Next {
    fn at(call: u32) -> Self {
        Self { call, pause: Duration::ZERO }
    }
}

/// Decides the running call, if there was one.
fn settle_calls(inner: &Inner, dead: Dead<'_>, index: u32, slot: &Slot) -> Next {
    let arena = inner.area.arena;
    let generation = slot.state.load().generation;
    let condemned = dead.condemned.filter(|condemned| {
        (condemned.running.index, condemned.running.generation) == (index, generation)
    });
    if let Some(Condemned { running, error }) = condemned {
        // It may have ended since; that was too late.
        return lose(inner, index, running.call(), error.clone());
    }
    let progress = slot.progress.now();
    let (done, calls) = ((progress >> 1) as u32, inner.calls_of(index));
    let was_running = progress & 1 == 1 && done < calls;
    let given_up = !was_running && done < calls && slot.attempts.load(Relaxed) > ATTEMPTS_MAX;
    if !was_running && !given_up {
        slot.attempts.fetch_add(1, Relaxed);
        return Next::at(done.min(calls));
    }
    // A panic that was recorded just before the death is the call's outcome.
    if failure::read(arena, slot).iter().any(|(call, _)| *call == done) {
        return skip(inner, index, done);
    }
    if dead.closing {
        return lose(inner, index, done, TaskError::pool_closed());
    }
    let times = inner.count_try(index, done);
    if let Some(pause) = inner.options_of(index).retry_policy().pause(times) {
        slot.progress.settle(done);
        inner.counters.retries.fetch_add(1, Relaxed);
        let (function, pause_ms) = (inner.function_of(index), pause.as_millis() as u64);
        event!(INFO, "task retried", function = function, begun = times, pause_ms = pause_ms);
        return Next { call: done, pause };
    }
    let error = TaskError::worker_lost(dead.pid, dead.exit);
    lose(inner, index, done, error.of(inner.function_of(index), times))
}

/// Notes that a call has failed.
fn lose(inner: &Inner, index: u32, call: u32, error: TaskError) -> Next {
    inner.note_lost(index, call, error);
    skip(inner, index, call)
}

/// Goes on behind a call that has no result.
fn skip(inner: &Inner, index: u32, call: u32) -> Next {
    let slot = inner.slot(index);
    if slot.output_has_table() {
        skip_result(inner.area.arena, slot, call, inner.calls_of(index));
    }
    slot.progress.settle(call + 1);
    Next::at(call + 1)
}

/// Ends the lost call's result where the one before it ended.
fn skip_result(arena: &Arena, slot: &Slot, call: u32, calls: u32) {
    let Some(block) = slot.output_block() else { return };
    let word = |call: u32| arena.at(Offset::<AtomicU64>::new(block + u64::from(call) * 8));
    let end = match call.checked_sub(1) {
        Some(before) => word(before).map(|word| word.load(Relaxed)),
        None => Some(u64::from(calls) * 8),
    };
    if let (Some(word), Some(end)) = (word(call), end) {
        word.store(end, Relaxed);
    }
}

/// Ends the processes that a dead one had started, and gives back everything that they held.
fn settle_children(arena: &Arena, parent: ParticipantId) {
    for child in arena.children_of(parent) {
        // One that has not attached yet is refused when it tries.
        if !arena.is_attached(child) && arena.withdraw_for_dead(child) {
            continue;
        }
        end_orphan(arena, child);
        settle_children(arena, child);
        sync::settle::settle(arena, child);
        arena.free_owned_by(child);
        arena.release_participant(child);
    }
}

/// Ends a process that nobody watches, and waits until it can no longer write to the arena.
///
/// It is about to end anyway: its guardian kills it when it finds its own user's process dead, and
/// is not needed for that if it is dead itself (parent-death signal). What cannot be had just now, a pidfd or a
/// look at its start time, is tried again: until it is known to be gone it may write.
pub(crate) fn end_orphan(arena: &Arena, id: ParticipantId) -> u32 {
    let (pid, mut start_time_ticks) = arena.identity_of(id);
    // SIGKILL takes effect at once, except in a process that is stuck in the kernel.
    let limit = Instant::now() + ORPHAN_ENDS_WITHIN;
    let (mut pidfd, mut killed) = (None, false);
    while !sys::process::is_gone(pid, start_time_ticks) && Instant::now() < limit {
        // It may enter its time now.
        start_time_ticks = arena.identity_of(id).1;
        pidfd = pidfd.or_else(|| sys::process::open_pidfd(pid).ok());
        // One that is too young to have entered its time is not killed: it might be a stranger.
        let is_known =
            start_time_ticks != 0 && sys::process::start_time_ticks(pid) == Some(start_time_ticks);
        if is_known && !killed {
            match &pidfd {
                Some(pidfd) => killed = sys::process::kill_pidfd(pidfd).is_ok(),
                None => sys::process::kill_by_pid(pid),
            }
        }
        match pidfd.as_ref().map(|pidfd| sys::fd::poll_one(pidfd.as_fd(), Some(LOOK_AGAIN))) {
            Some(Ok(true)) => break,
            Some(Ok(false)) => {}
            _ => std::thread::sleep(Duration::from_millis(1)),
        }
    }
    pid
}
