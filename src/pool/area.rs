//! The memory of one pool: queue, slots, waiting places, contexts.
//!
//! ```text
//! block | Area: hints, sleep, control, jobs, contexts, seats | ring cells (8 B each) | slots (256 B each)
//! ```
//!
//! The user's process makes it (all zero) and frees it when the last handle has gone. The ring has
//! twice as many cells as there are slots, so that a slot always finds a cell.

use super::seat::Seat;
use super::sleep::{EventCount, Searcher};
use super::slot::Slot;
#[cfg(any(debug_assertions, feature = "fault"))]
use super::state::Phase;
use crate::error::Error;
use crate::limits::{CONTEXTS_MAX, JOBS_MAX, WORKERS_MAX};
use crate::prim::{AtomicU32, AtomicU64, Relaxed};
use crate::queue::ring::Ring;
use crate::shm::offset::Shared;
use crate::shm::{Arena, Block, Offset, ParticipantId};
use serde::{Deserialize, Serialize};

/// Keeps a word off its neighbours' cache lines (and the line that is fetched with it).
#[derive(Debug)]
#[repr(C, align(128))]
struct Apart<T>(T);

/// A waiting place: one cache line, so that two maps do not disturb each other.
#[derive(Debug)]
#[repr(C, align(64))]
struct JobPlace(EventCount);

/// Where an encoded context lies.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct ContextPlace {
    /// Never used twice in a pool; 0 while the place is free.
    pub(crate) id: AtomicU64,
    pub(crate) offset: AtomicU64,
    pub(crate) bytes: AtomicU64,
}

#[derive(Debug)]
#[repr(C)]
struct Header {
    head: Apart<AtomicU64>,
    tail: Apart<AtomicU64>,
    searcher: Apart<Searcher>,
    idle: Apart<EventCount>,
    stopping: Apart<AtomicU32>,
    jobs: [JobPlace; JOBS_MAX],
    contexts: [ContextPlace; CONTEXTS_MAX],
    seats: [Seat; WORKERS_MAX],
}

#[allow(unsafe_code)] // The marker asserts what the line above says.
// SAFETY: atomics only; padding is never read.
unsafe impl Shared for Header {}

/// Where a pool's area lies: what a worker is told.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct AreaAddress {
    offset: u64,
    slots: u32,
}

/// A view of the area in this process.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Area {
    pub(crate) arena: &'static Arena,
    address: AreaAddress,
    header: &'static Header,
    pub(crate) ring: Ring<'static>,
    pub(crate) slots: &'static [Slot],
}

impl Area {
    fn cells(slots: u32) -> usize {
        (slots as usize * 2).next_power_of_two()
    }

    fn bytes(slots: u32) -> u64 {
        let cells = (Self::cells(slots) * 8).next_multiple_of(128);
        (size_of::<Header>() + cells + slots as usize * size_of::<Slot>()) as u64
    }

    /// Makes the area of a new pool.
    pub(crate) fn create(
        arena: &'static Arena,
        slots: u32,
        owner: ParticipantId,
    ) -> Result<Self, Error> {
        let Block { offset, .. } = arena.allocate(Self::bytes(slots), owner)?;
        let area = Self::open(arena, AreaAddress { offset, slots })?;
        area.header.head.0.store(0, Relaxed);
        area.header.tail.0.store(0, Relaxed);
        area.header.searcher.0.reset();
        area.header.idle.0.reset();
        area.header.stopping.0.store(0, Relaxed);
        area.header.jobs.iter().for_each(|job| job.0.reset());
        area.header.contexts.iter().for_each(|context| context.id.store(0, Relaxed));
        area.header.seats.iter().for_each(Seat::reset);
        area.ring.cells.iter().for_each(|cell| cell.store(0, Relaxed));
        area.slots.iter().for_each(Slot::reset);
        Ok(area)
    }

    /// Views an area, made by this process or another.
    pub(crate) fn open(arena: &'static Arena, address: AreaAddress) -> Result<Self, Error> {
        let AreaAddress { offset, slots } = address;
        let cells_at = offset + size_of::<Header>() as u64;
        let slots_at = cells_at + (Self::cells(slots) as u64 * 8).next_multiple_of(128);
        let view = || {
            let header: &Header = arena.at(Offset::new(offset))?;
            let cells: &[AtomicU64] = arena.slice_at(Offset::new(cells_at), Self::cells(slots))?;
            let slots: &[Slot] = arena.slice_at(Offset::new(slots_at), slots as usize)?;
            let ring = Ring { head: &header.head.0, tail: &header.tail.0, cells };
            Some(Self { arena, address, header, ring, slots })
        };
        view().ok_or_else(|| Error::broken(format!("no pool at {offset:#x} in the arena")))
    }

    pub(crate) fn address(&self) -> AreaAddress {
        self.address
    }

    /// Frees the area; no view of it may be used afterwards.
    pub(crate) fn free(&self) {
        self.arena.free(self.address.offset);
    }

    pub(crate) fn searcher(&self) -> &'static Searcher {
        &self.header.searcher.0
    }

    /// Where workers sleep.
    pub(crate) fn idle(&self) -> &'static EventCount {
        &self.header.idle.0
    }

    /// Where a `map` sleeps; place 0 is for whoever needs a slot, and for maps beyond the limit.
    pub(crate) fn job(&self, place: usize) -> &'static EventCount {
        &self.header.jobs[place % JOBS_MAX].0
    }

    /// The seat of the workers of this number.
    pub(crate) fn seat(&self, number: usize) -> &'static Seat {
        &self.header.seats[number % WORKERS_MAX]
    }

    pub(crate) fn contexts(&self) -> &'static [ContextPlace] {
        &self.header.contexts
    }

    /// Tells the workers, of so many seats, to leave when they find nothing to do.
    pub(crate) fn stop(&self, seats: usize) {
        self.header.stopping.0.store(1, Relaxed);
        self.header.seats.iter().take(seats).for_each(Seat::stop);
        self.wake_everybody();
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.header.stopping.0.load(Relaxed) != 0
    }

    /// Wakes all workers and all who wait for results: a wake-up may have died with its receiver.
    pub(crate) fn wake_everybody(&self) {
        self.idle().notify_everybody();
        // Only threads of the user's process sleep here, so their count is exact.
        self.header.jobs.iter().for_each(|job| job.0.notify(u32::MAX >> 1));
    }

    /// Queues a slot that is READY, and has a worker look at it.
    #[inline]
    pub(crate) fn queue(&self, index: u32) {
        while self.ring.push(index).is_err() {
            // The ring has a cell for every slot twice over: only a consumer that has claimed one
            // and not yet released it, a few instructions apart, can be in the way. If it died
            // there, settlement releases the cell.
            crate::sys::process::yield_now();
        }
        crate::shm::fault::point("main.cell-published");
        super::sleep::task_queued(self.searcher(), self.idle());
    }

    /// Announces that a slot is DONE: to who sleeps on it, and to its waiting place.
    #[inline]
    pub(crate) fn announce(&self, slot: &Slot, finished: super::state::Finished) {
        if finished.waited_for {
            slot.state.wake_sleepers();
        }
        // Waking the sleepers of the slot, if any, came after the swap to DONE and stored nothing.
        self.job(slot.job()).notify_after_rmw(u32::MAX >> 1);
    }

    /// What must hold whenever no operation is under way; for tests.
    #[cfg(any(debug_assertions, feature = "fault"))]
    pub(crate) fn check_invariants(&self, free: &[u32]) -> Result<(), String> {
        for index in free {
            let phase = self.slots[*index as usize].state.load().phase;
            if phase != Phase::Free {
                return Err(format!("slot {index} is on the free list but {phase:?}"));
            }
        }
        for (index, slot) in self.slots.iter().enumerate() {
            let state = slot.state.load();
            let listed = free.contains(&(index as u32));
            if state.phase == Phase::Free && !listed {
                return Err(format!("slot {index} is free but not on the free list"));
            }
            if state.phase == Phase::Claimed {
                return Err(format!(
                    "slot {index} is still claimed by participant {}",
                    state.owner
                ));
            }
        }
        if self.ring.has_value() {
            return Err("a task is still queued".into());
        }
        Ok(())
    }
}
