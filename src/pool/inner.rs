//! What the user's process knows of a pool: free slots, tasks under way, what was set aside.
//!
//! # Shared state
//! Everything here is private to the user's process; if that dies, all is over. The slots
//! themselves are in the pool's [`Area`].
//!
//! # Rules
//! R1. A slot whose state is FREE is on the free list, or in the hands of one thread that took it
//!     from there.
//! R2. Taking a finished slot is the swap DONE -> TAKEN in its state word. Whoever wins reads the
//!     results, frees the blocks, frees the slot, puts it on the list and tells who waits for one.
//! R3. When slots run out, a submitting thread *harvests*: it takes finished submitted tasks whose
//!     handles have not been joined and sets their bytes aside in its own memory, under the lock of
//!     `aside`. A joiner that finds its slot reused looks there, under the same lock.
//! R4. A handle that is dropped early leaves a note in `aside`; whoever takes the slot later throws
//!     the result away.
#![allow(unsafe_code)] // Reads the output side of slots that it has taken.

use super::area::Area;
use super::context::Context;
use super::failure;
use super::slot::Slot;
use super::state::Phase;
use crate::codec::{Shape, Stream, shape_of};
use crate::error::{Error, Step, TaskError};
use crate::prim::{AtomicU32, AtomicU64, Relaxed, SeqCst};
use crate::shm::{ParticipantId, fault};
use serde::de::DeserializeOwned;
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// How many finished tasks one harvest takes at most.
const HARVEST_MAX: usize = 256;

/// A task in a slot: the slot and the task's generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) index: u32,
    pub(crate) generation: u32,
}

/// The private side of a pool.
#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) id: u64,
    pub(crate) name: String,
    pub(crate) workers: usize,
    pub(crate) area: Area,
    pub(crate) user: ParticipantId,
    pub(crate) search_ns: u64,
    pub(crate) stack_bytes: usize,
    slots: Mutex<Slots>,
    aside: Mutex<HashMap<u32, Aside>>,
    jobs_taken: AtomicU64,
    next_context: AtomicU64,
    closed: AtomicU32,
    why_broken: Mutex<Option<String>>,
    maps_running: Mutex<usize>,
    map_ended: Condvar,
    pub(crate) counters: Counters,
}

#[derive(Debug)]
struct Slots {
    free: Vec<u32>,
    /// Submitted tasks in the order of submission; some of them taken since.
    submitted: VecDeque<Place>,
}

/// What is kept for a slot beside its shared memory.
#[derive(Debug, Default)]
struct Aside {
    /// Calls that were lost with their worker, of the task that is in the slot now.
    lost: Vec<(u32, TaskError)>,
    /// Results of earlier tasks, by generation, whose handles have not been joined (R3).
    harvested: Vec<(u32, Harvested)>,
    /// Generations whose results nobody wants, and the context that they need while they run (R4).
    unwanted: Vec<(u32, Option<Arc<Context>>)>,
}

impl Aside {
    fn is_empty(&self) -> bool {
        self.lost.is_empty() && self.harvested.is_empty() && self.unwanted.is_empty()
    }
}

/// The outcome of one submitted task, out of the arena.
#[derive(Debug)]
enum Harvested {
    Bytes(Vec<u8>),
    Failed(TaskError),
}

/// Numbers for `stats`.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) submitted: AtomicU64,
    pub(crate) ended: AtomicU64,
    pub(crate) failed: AtomicU64,
    pub(crate) workers_started: AtomicU64,
    pub(crate) workers_lost: AtomicU64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What the builder decided.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) id: u64,
    pub(crate) name: String,
    pub(crate) workers: usize,
    pub(crate) search_ns: u64,
    pub(crate) stack_bytes: usize,
}

impl Inner {
    pub(crate) fn new(settings: Settings, area: Area, user: ParticipantId) -> Self {
        let Settings { id, name, workers, search_ns, stack_bytes } = settings;
        let free = (0..area.slots.len() as u32).rev().collect();
        Self {
            id,
            name,
            workers,
            area,
            user,
            search_ns,
            stack_bytes,
            slots: Mutex::new(Slots { free, submitted: VecDeque::new() }),
            aside: Mutex::default(),
            jobs_taken: AtomicU64::new(1),
            next_context: AtomicU64::new(1),
            closed: AtomicU32::new(0),
            why_broken: Mutex::default(),
            maps_running: Mutex::default(),
            map_ended: Condvar::new(),
            counters: Counters::default(),
        }
    }

    pub(crate) fn slot(&self, index: u32) -> &'static Slot {
        &self.area.slots[index as usize]
    }

    /// Refuses new work on a pool that is closed or broken.
    pub(crate) fn check_open(&self) -> Result<(), Error> {
        if self.closed.load(Relaxed) == 0 {
            return Ok(());
        }
        match &*lock(&self.why_broken) {
            Some(why) => Err(Error::broken(why.clone())),
            None => Err(Error::closed()),
        }
    }

    pub(crate) fn close(&self) {
        self.closed.store(1, SeqCst);
        self.area.wake_everybody();
    }

    /// Closes a pool that has no workers and cannot get any.
    pub(crate) fn set_broken(&self, why: String) {
        lock(&self.why_broken).get_or_insert(why);
        self.close();
        self.end_all_tasks();
    }

    /// Ends every task that is queued, when no worker is left or will come.
    pub(crate) fn end_all_tasks(&self) {
        for index in 0..self.area.slots.len() as u32 {
            self.end_task(index);
        }
        self.area.wake_everybody();
    }

    /// Ends the task in a slot if it is queued: its calls that have no outcome fail.
    #[cold]
    pub(crate) fn end_task(&self, index: u32) {
        let slot = self.slot(index);
        if !slot.state.try_cancel(slot.state.load().generation) {
            return;
        }
        let done = (slot.progress.load(Relaxed) >> 1) as u32;
        for call in done..slot.calls.load(Relaxed) {
            let why = lock(&self.why_broken).clone();
            self.note_lost(index, call, why.map_or_else(TaskError::pool_closed, TaskError::pool_broken));
        }
        self.area.announce(slot, slot.state.finish());
    }

    // Slots ---------------------------------------------------------------------------------

    /// Takes a free slot for a map's batch.
    pub(crate) fn take_slot(&self) -> Option<u32> {
        let taken = lock(&self.slots).free.pop();
        taken.or_else(|| {
            self.harvest(HARVEST_MAX);
            lock(&self.slots).free.pop()
        })
    }

    /// Takes a free slot for a submitted task, and enters it for harvesting.
    pub(crate) fn take_slot_for_submit(&self) -> Option<Place> {
        self.pop_for_submit().or_else(|| {
            self.harvest(HARVEST_MAX);
            self.pop_for_submit()
        })
    }

    fn pop_for_submit(&self) -> Option<Place> {
        let mut slots = lock(&self.slots);
        let index = slots.free.pop()?;
        let generation = self.slot(index).state.load().generation;
        let place = Place { index, generation };
        if slots.submitted.len() >= 2 * self.area.slots.len() {
            // Most were joined since: keep those that still are in their slots.
            slots
                .submitted
                .retain(|place| self.slot(place.index).state.load().generation == place.generation);
        }
        slots.submitted.push_back(place);
        Some(place)
    }

    /// Frees a slot that the caller has taken, or filled in vain.
    pub(crate) fn free_slot(&self, index: u32) {
        self.slot(index).state.free();
        fault::point("main.slot-freed");
        lock(&self.slots).free.push(index);
        self.area.job(0).notify(u32::MAX >> 1);
    }

    /// The free list, for tests.
    #[cfg(any(debug_assertions, feature = "fault"))]
    pub(crate) fn free_list(&self) -> Vec<u32> {
        lock(&self.slots).free.clone()
    }

    // Results -------------------------------------------------------------------------------

    /// Notes that `call` of the batch in a slot was lost; by the settler, before it is DONE.
    pub(crate) fn note_lost(&self, index: u32, call: u32, error: TaskError) {
        lock(&self.aside).entry(index).or_default().lost.push((call, error));
        // Tells the taker to look here.
        self.slot(index).attempts.fetch_add(1, Relaxed);
    }

    /// All failures of the batch in a slot that the caller has taken.
    fn failures(&self, index: u32, aside: Option<&mut HashMap<u32, Aside>>) -> Vec<(u32, TaskError)> {
        let slot = self.slot(index);
        let mut failures = Vec::new();
        if slot.attempts.load(Relaxed) != 0 {
            let mut take = |aside: &mut HashMap<u32, Aside>| {
                if let Some(entry) = aside.get_mut(&index) {
                    failures.append(&mut entry.lost);
                    if entry.is_empty() {
                        aside.remove(&index);
                    }
                }
            };
            match aside {
                Some(aside) => take(aside),
                None => take(&mut lock(&self.aside)),
            }
        }
        if slot.failures.load(Relaxed) != 0 || slot.unrecorded.load(Relaxed) != 0 {
            failures.append(&mut failure::read(self.area.arena, slot));
        }
        failures
    }

    /// Reads every outcome of a batch that the caller has taken, in order, and frees the slot.
    pub(crate) fn retire<R: DeserializeOwned + 'static>(
        &self,
        index: u32,
        mut sink: impl FnMut(usize, Result<R, TaskError>),
    ) {
        fault::point("main.result-taken");
        let slot = self.slot(index);
        let mut failures = self.failures(index, None);
        let calls = slot.calls.load(Relaxed) as usize;
        let stream = self.output::<R>(slot, calls);
        for call in 0..calls {
            let failed = failures.iter().position(|(failed, _)| *failed as usize == call);
            sink(call, match (failed, &stream) {
                (Some(place), _) => Err(failures.swap_remove(place).1),
                (None, Some(stream)) => stream.value(call).map_err(|message| {
                    TaskError::cannot_decode::<R>(Step::DecodeResult, message)
                }),
                (None, None) => Err(TaskError::cannot_decode::<R>(
                    Step::DecodeResult,
                    "its bytes are not inside the arena",
                )),
            });
        }
        self.free_blocks(slot);
        self.free_slot(index);
    }

    fn output<R: DeserializeOwned + 'static>(&self, slot: &Slot, calls: usize) -> Option<Stream<'_, R>> {
        let arena = self.area.arena;
        let inline = arena.offset_of(slot.inline_output());
        let offset = slot.output_block().unwrap_or(inline);
        let plain = calls > 1 && shape_of::<R>() == Shape::Plain;
        let (bytes, table_calls) = match (calls, plain) {
            (_, true) => (calls as u64 * size_of::<R>() as u64, 0),
            (1, _) => (slot.output_bytes.load(Relaxed), 0),
            _ => (slot.output_bytes.load(Relaxed), calls),
        };
        // SAFETY: R2: we have taken the slot, so nobody writes its output.
        unsafe { Stream::at(arena, offset, bytes, table_calls) }
    }

    /// Frees the blocks of a batch that the caller has taken.
    fn free_blocks(&self, slot: &Slot) {
        let arena = self.area.arena;
        if let Some(block) = slot.input_block() {
            arena.free(block);
        }
        if let Some(block) = slot.output_block() {
            arena.free(block);
        }
        failure::free(arena, slot);
    }

    /// Throws the results of a taken batch away.
    pub(crate) fn discard(&self, index: u32) {
        self.failures(index, None);
        self.free_blocks(self.slot(index));
        self.free_slot(index);
    }

    /// Takes up to `most` finished submitted tasks out of their slots (R3).
    pub(crate) fn harvest(&self, most: usize) -> usize {
        let mut taken = 0;
        let looks = lock(&self.slots).submitted.len().min(2 * most);
        for _ in 0..looks {
            let Some(place) = lock(&self.slots).submitted.pop_front() else { break };
            let state = self.slot(place.index).state.load();
            if state.generation != place.generation {
                continue;
            }
            if state.phase == Phase::Done && self.set_aside(place) {
                taken += 1;
                if taken == most {
                    break;
                }
            } else {
                lock(&self.slots).submitted.push_back(place);
            }
        }
        taken
    }

    fn set_aside(&self, place: Place) -> bool {
        let slot = self.slot(place.index);
        {
            let mut aside = lock(&self.aside);
            if !slot.state.try_take(place.generation) {
                return false;
            }
            let mut failures = self.failures(place.index, Some(&mut aside));
            let entry = aside.entry(place.index).or_default();
            let unwanted = entry.unwanted.iter().position(|(of, _)| *of == place.generation);
            match unwanted {
                Some(unwanted) => {
                    entry.unwanted.swap_remove(unwanted);
                }
                None => {
                    let harvested = match failures.pop() {
                        Some((_, error)) => Harvested::Failed(error),
                        None => self.copy_output(slot),
                    };
                    entry.harvested.push((place.generation, harvested));
                }
            }
            if entry.is_empty() {
                aside.remove(&place.index);
            }
        }
        self.free_blocks(slot);
        self.free_slot(place.index);
        true
    }

    fn copy_output(&self, slot: &Slot) -> Harvested {
        let arena = self.area.arena;
        let offset = slot.output_block().unwrap_or(arena.offset_of(slot.inline_output()));
        let bytes = slot.output_bytes.load(Relaxed);
        match arena.bytes_at(offset, bytes) {
            // SAFETY: R2: we have taken the slot, so nobody writes its output.
            Some(start) => Harvested::Bytes(unsafe {
                std::slice::from_raw_parts(start.as_ptr(), bytes as usize).to_vec()
            }),
            None => Harvested::Failed(TaskError::codec(
                Step::DecodeResult,
                "its bytes are not inside the arena".into(),
            )),
        }
    }

    /// The outcome of a task that was harvested.
    pub(crate) fn from_aside<R: DeserializeOwned + 'static>(
        &self,
        place: Place,
    ) -> Option<Result<R, TaskError>> {
        let harvested = {
            let mut aside = lock(&self.aside);
            let entry = aside.get_mut(&place.index)?;
            let at = entry.harvested.iter().position(|(of, _)| *of == place.generation)?;
            let (_, harvested) = entry.harvested.swap_remove(at);
            if entry.is_empty() {
                aside.remove(&place.index);
            }
            harvested
        };
        Some(match harvested {
            Harvested::Failed(error) => Err(error),
            Harvested::Bytes(bytes) => Stream::of_one(&bytes)
                .value(0)
                .map_err(|message| TaskError::cannot_decode::<R>(Step::DecodeResult, message)),
        })
    }

    /// Nobody wants the result of this task any more (R4).
    pub(crate) fn give_up(&self, place: Place, context: Option<Arc<Context>>) {
        let state = &self.slot(place.index).state;
        if state.try_take(place.generation) {
            self.discard(place.index);
            return;
        }
        let mut aside = lock(&self.aside);
        let entry = aside.entry(place.index).or_default();
        let now = state.load();
        if now.generation == place.generation && now.phase != Phase::Taken {
            entry.unwanted.push((place.generation, context));
        } else {
            entry.harvested.retain(|(of, _)| *of != place.generation);
        }
        if entry.is_empty() {
            aside.remove(&place.index);
        }
    }

    /// As [`Inner::give_up`], for a batch of a map: enters it for harvesting.
    pub(crate) fn give_up_batch(&self, place: Place, context: Option<Arc<Context>>) {
        if self.slot(place.index).state.try_cancel(place.generation) {
            self.discard(place.index);
            return;
        }
        lock(&self.slots).submitted.push_back(place);
        self.give_up(place, context);
    }

    // Waiting places, contexts, shutting down -----------------------------------------------

    /// A waiting place of its own for a map; 0, the shared one, if all are taken.
    pub(crate) fn take_job(&self) -> u16 {
        let taken = self.jobs_taken.fetch_update(SeqCst, Relaxed, |taken| {
            (taken != u64::MAX).then(|| taken | (taken + 1))
        });
        taken.map_or(0, |before| before.trailing_ones() as u16)
    }

    pub(crate) fn return_job(&self, job: u16) {
        if job != 0 {
            self.jobs_taken.fetch_and(!(1 << job), SeqCst);
        }
    }

    pub(crate) fn next_context_id(&self) -> u64 {
        self.next_context.fetch_add(1, Relaxed)
    }

    /// Enters a running map, unless the pool is closed.
    pub(crate) fn enter_map(&self) -> Result<(), Error> {
        let mut running = lock(&self.maps_running);
        self.check_open()?;
        *running += 1;
        Ok(())
    }

    pub(crate) fn leave_map(&self) {
        *lock(&self.maps_running) -= 1;
        self.map_ended.notify_all();
    }

    /// Waits until no map is running and no submitted task is queued or running.
    pub(crate) fn wait_until_idle(&self) {
        let mut running = lock(&self.maps_running);
        while *running > 0 {
            running = self.map_ended.wait(running).unwrap_or_else(PoisonError::into_inner);
        }
        drop(running);
        for slot in self.area.slots {
            loop {
                let state = slot.state.load();
                if !matches!(state.phase, Phase::Ready | Phase::Claimed) {
                    break;
                }
                slot.state.wait(state.generation, None);
            }
        }
    }
}

impl Drop for Inner {
    /// The last handle has gone, and the workers before it.
    fn drop(&mut self) {
        for slot in self.area.slots {
            if slot.state.load().phase != Phase::Free {
                self.free_blocks(slot);
            }
        }
        lock(&self.aside).clear();
        self.area.free();
    }
}
