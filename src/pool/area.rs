//! The memory of one pool: queue, slots, waiting places, contexts.
//!
//! ```text
//! block | Area: hints, sleep, control, jobs, contexts, seats | cells of 3 rings (8 B each) | slots (256 B each)
//! ```
//!
//! The user's process makes it (all zero) and frees it when the last handle has gone. There is a ring for
//! each priority, and each has twice as many cells as there are slots, so that a slot always finds a cell.

use super::context_place::ContextPlace;
use super::priority::{NORMAL, Prioritised, RINGS, Rings};
use super::seat::Seat;
use super::sleep::{EventCount, Searcher};
use super::slot::Slot;
use super::state::Phase;
use crate::error::Error;
use crate::limits::{CONTEXTS_MAX, JOBS_MAX, WORKERS_MAX};
use crate::prim::{AtomicU32, AtomicU64, Relaxed, prefetch_to_write};
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

#[derive(Debug)]
#[repr(C)]
struct Header {
    heads: [Apart<AtomicU64>; RINGS],
    tails: [Apart<AtomicU64>; RINGS],
    searcher: Apart<Searcher>,
    idle: Apart<EventCount>,
    control: Apart<Control>,
    jobs: [JobPlace; JOBS_MAX],
    contexts: [ContextPlace; CONTEXTS_MAX],
    seats: [Seat; WORKERS_MAX],
}

/// What workers look at before they look for a task.
#[derive(Debug)]
#[repr(C)]
struct Control {
    /// 1 when the workers are to leave once nothing is queued.
    stopping: AtomicU32,
    /// 1 when tasks that run should give up.
    cancelling: AtomicU32,
    prioritised: Prioritised,
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
    pub(crate) rings: [Ring<'static>; RINGS],
    pub(crate) slots: &'static [Slot],
}

/// A cell of one of the rings, as the ledger says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct CellPlace {
    pub(super) position: u64,
    pub(super) priority: usize,
}

impl CellPlace {
    pub(super) fn to_raw(self) -> u64 {
        (self.position << 2 | self.priority as u64) + 1
    }

    /// The place that the ledger's word says; none if it is 0.
    pub(super) fn from_raw(raw: u64) -> Option<Self> {
        let raw = raw.checked_sub(1)?;
        let place = Self { position: raw >> 2, priority: (raw & 3) as usize };
        (place.priority < RINGS).then_some(place)
    }
}

impl Area {
    fn cells(slots: u32) -> usize {
        (slots as usize * 2).next_power_of_two()
    }

    fn bytes(slots: u32) -> u64 {
        let cells = RINGS * (Self::cells(slots) * 8).next_multiple_of(128);
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
        let hints = area.header.heads.iter().chain(&area.header.tails);
        hints.for_each(|hint| hint.0.store(0, Relaxed));
        area.header.searcher.0.reset();
        area.header.idle.0.reset();
        area.header.control.0.stopping.store(0, Relaxed);
        area.header.control.0.cancelling.store(0, Relaxed);
        area.header.control.0.prioritised.reset();
        area.header.jobs.iter().for_each(|job| job.0.reset());
        area.header.contexts.iter().for_each(ContextPlace::reset);
        area.header.seats.iter().for_each(Seat::reset);
        area.rings.iter().flat_map(|ring| ring.cells).for_each(|cell| cell.store(0, Relaxed));
        area.slots.iter().for_each(Slot::reset);
        Ok(area)
    }

    /// Views an area, made by this process or another.
    pub(crate) fn open(arena: &'static Arena, address: AreaAddress) -> Result<Self, Error> {
        let AreaAddress { offset, slots } = address;
        let cells_at = offset + size_of::<Header>() as u64;
        let cells_bytes = (Self::cells(slots) as u64 * 8).next_multiple_of(128);
        let slots_at = cells_at + RINGS as u64 * cells_bytes;
        let view = || {
            let header: &Header = arena.at(Offset::new(offset))?;
            let ring = |priority: usize| {
                let cells = Offset::new(cells_at + priority as u64 * cells_bytes);
                let cells: &[AtomicU64] = arena.slice_at(cells, Self::cells(slots))?;
                let (head, tail) = (&header.heads[priority].0, &header.tails[priority].0);
                Some(Ring { head, tail, cells })
            };
            let rings = [ring(0)?, ring(1)?, ring(2)?];
            let slots: &[Slot] = arena.slice_at(Offset::new(slots_at), slots as usize)?;
            Some(Self { arena, address, header, rings, slots })
        };
        view().ok_or_else(|| Error::broken(format!("no pool at {offset:#x} in the arena")))
    }

    pub(crate) fn address(&self) -> AreaAddress {
        self.address
    }

    /// Whether its memory has not been freed.
    pub(super) fn is_there(&self) -> bool {
        self.arena.owner_of(self.address.offset).is_some()
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
        self.header.control.0.stopping.store(1, Relaxed);
        self.header.seats.iter().take(seats).for_each(Seat::stop);
        self.wake_everybody();
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.header.control.0.stopping.load(Relaxed) != 0
    }

    /// Tells the tasks that run to give up, if they ask.
    pub(crate) fn cancel_running(&self) {
        self.header.control.0.cancelling.store(1, Relaxed);
    }

    pub(crate) fn is_cancelling(&self) -> bool {
        self.header.control.0.cancelling.load(Relaxed) != 0
    }

    /// The rings, and what says which of them to look at.
    #[inline]
    fn priorities(&self) -> Rings<'_> {
        Rings { rings: &self.rings, prioritised: &self.header.control.0.prioritised }
    }

    /// Which rings to look at, in this order, at the look of this number.
    #[inline]
    pub(crate) fn rings_to_look_at(&self, look: u32) -> &'static [usize] {
        self.header.control.0.prioritised.rings_to_look_at(look)
    }

    /// Whether a task is queued.
    #[inline]
    pub(crate) fn has_task(&self) -> bool {
        self.priorities().has_task()
    }

    /// How many tasks and batches wait for a worker. Looks at every slot.
    pub(crate) fn waiting(&self) -> usize {
        let waits = |slot: &&Slot| slot.state.load().phase == Phase::Ready && !slot.is_cancelled();
        self.slots.iter().filter(waits).count()
    }

    /// About how many cells hold a task, perhaps one that was cancelled.
    pub(crate) fn queued(&self) -> u64 {
        self.rings.iter().fold(0, |sum, ring| ring.len().saturating_add(sum))
    }

    /// Fetches the line of the cell in which the next task will be queued.
    #[inline]
    pub(crate) fn prefetch_for_sending(&self) {
        prefetch_to_write(self.rings[NORMAL].next_cell());
    }

    /// Takes a slot out of its ring, if it is there.
    pub(crate) fn withdraw(&self, index: u32) {
        self.rings[self.slots[index as usize].priority() % RINGS].withdraw(index);
    }

    /// Wakes all workers and all who wait for results: a wake-up may have died with its receiver.
    pub(crate) fn wake_everybody(&self) {
        self.idle().notify_everybody();
        // Only threads of the user's process sleep here, so their count is exact.
        self.header.jobs.iter().for_each(|job| job.0.notify(u32::MAX >> 1));
    }

    /// Queues a slot that is READY, and has a worker look at it; `false` if its ring has no cell for it.
    #[inline]
    pub(crate) fn try_queue(&self, index: u32) -> bool {
        let priority = self.slots[index as usize].priority() % RINGS;
        if !self.priorities().push(index, priority) {
            return false;
        }
        crate::shm::fault::point("main.cell-published");
        super::sleep::task_queued(self.searcher(), self.idle());
        true
    }

    /// Wakes a worker though another is searching, for somebody who has waited for longer than a search takes: that
    /// one is kept off its core, or stopped.
    #[inline]
    pub(crate) fn wake_past_searcher(&self) {
        if self.searcher().is_taken() && self.has_task() {
            self.idle().notify(1);
        }
    }

    /// Leaves a mailed slot that is READY at its seat, and has the worker there look.
    pub(crate) fn mail(&self, index: u32) {
        self.seat(self.slots[index as usize].job()).post(index);
        self.idle().notify_everybody();
    }

    /// Announces that a slot is DONE: to who sleeps on it, and to its waiting place.
    #[inline]
    pub(crate) fn announce(&self, slot: &Slot, finished: super::state::Finished) {
        if finished.waited_for {
            slot.state.wake_sleepers();
        }
        // Waking the sleepers of the slot, if any, came after the swap to DONE and stored nothing.
        crate::prim::fence_after_rmw();
        // Read at once: the slot may be another task's in a moment, and its line elsewhere.
        let (job, is_cancelled) = slot.job_and_whether_cancelled();
        self.job(job).notify_after_rmw(u32::MAX >> 1);
        if is_cancelled {
            // Nobody waits for it but who needs a slot.
            self.job(0).notify_after_rmw(u32::MAX >> 1);
        }
    }

    /// What is neither of a ring, of a slot nor of a seat, in words; without what is not in use.
    pub(super) fn describe(&self) -> Vec<String> {
        let Header { control, jobs, contexts, .. } = self.header;
        let jobs = jobs.iter().enumerate().filter(|(_, job)| job.0.is_used());
        let contexts = contexts.iter().filter(|context| context.id() != 0);
        let mut lines = vec![format!("{:?}", control.0)];
        lines.extend(jobs.map(|(place, job)| format!("waiting place {place}: {:?}", job.0)));
        lines.extend(contexts.map(|context| format!("{context:?}")));
        lines
    }

    /// What must hold whenever no operation is under way; for tests.
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
            if !matches!(state.phase, Phase::Free | Phase::Done) {
                return Err(format!(
                    "slot {index} is still {:?} by participant {}",
                    state.phase, state.owner
                ));
            }
        }
        if self.has_task() {
            return Err("a task is still queued".into());
        }
        match self.rings.iter().flat_map(Ring::claims).next() {
            Some((position, who)) => {
                Err(format!("the cell at {position} is still claimed by participant {who}"))
            }
            None => Ok(()),
        }
    }
}
