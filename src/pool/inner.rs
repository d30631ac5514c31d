//! What the user's process knows of a pool: its free slots, its contexts, whether it is open.
//!
//! # Shared state
//! Everything here is private to the user's process; if that dies, all is over. The slots
//! themselves are in the pool's [`Area`].
//!
//! # Rules
//! R1. A slot whose state is FREE is on the free list, or in the hands of one thread that took it
//!     from there.
//! R2. What becomes of finished slots is in `results.rs`.

use super::area::Area;
use super::deadlines::Special;
use super::free_slot::{FreeSlot, Sent};
use super::options::TaskOptions;
use super::process::Once;
use super::recycle::Recycle;
use super::results::{Aside, HARVEST_MAX};
use super::setup::Setup;
use super::slot::Slot;
use super::startup::Prepared;
use super::state::Phase;
use super::stats::{Counters, Entered, Measured, Took};
use super::supervisor::Mailbox;
use super::watched::Wakers;
use crate::error::{Error, TaskError};
use crate::prim::{AtomicU32, AtomicU64, Condvar, Mutex, MutexGuard, Relaxed, SeqCst};
use crate::process::identity::CodeOffset;
use crate::shm::arena::is_forked_copy;
use crate::shm::{ParticipantId, fault};
use crate::sys;
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, OnceLock, PoisonError};
use std::time::Duration;

/// Of so many submitted tasks, the wait of one is measured: reading the clock takes as long as much of the
/// rest of submitting.
const SAMPLED_EACH: u64 = 8;

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
    /// Seats that are to have a worker, and the most that may be.
    pub(super) workers: AtomicU32,
    pub(super) most_workers: AtomicU32,
    /// Seats that have ever had one.
    pub(super) seats_ever: AtomicU32,
    /// After how long an idle worker is too many, and how many never are.
    pub(super) idle_timeout: Option<(Duration, usize)>,
    pub(crate) cores: usize,
    pub(crate) area: Area,
    pub(crate) user: ParticipantId,
    pub(crate) search_ns: u64,
    pub(crate) stack_bytes: usize,
    pub(crate) recycle: Recycle,
    pub(super) setup: Setup,
    /// If it is there for one task and one worker (`process.rs`).
    pub(super) once: Option<Once>,
    pub(crate) startup: Option<Prepared>,
    /// Deaths of workers that have ended no task, and the time in which they may happen.
    pub(crate) restarts: (u32, Duration),
    pub(super) slots: Mutex<Slots>,
    /// What was sent in each slot.
    pub(super) sent: Box<[Sent]>,
    /// The workers, as the supervisor knows them.
    pub(super) roster: Mutex<Vec<Entered>>,
    /// Batches for which there was no cell (`requeue.rs`).
    pub(super) put_off: Mutex<Vec<Place>>,
    /// Workers that hold a cell for which somebody has waited for too long.
    pub(super) stuck: Mutex<Vec<ParticipantId>>,
    pub(super) aside: Mutex<HashMap<u32, Aside>>,
    /// What holds the shared objects to which the inputs carry handles, by slot.
    jobs_taken: AtomicU64,
    next_context: AtomicU64,
    closed: AtomicU32,
    why_broken: Mutex<Option<String>>,
    pub(super) maps_running: Mutex<usize>,
    pub(super) map_ended: Condvar,
    /// What is asked for tasks beyond running them (`deadlines.rs`).
    pub(super) special: Special,
    /// How long calls take, by function.
    known_ns: Mutex<HashMap<CodeOffset, f64>>,
    /// Held by the one broadcast that is under way.
    pub(super) broadcasting: Mutex<()>,
    /// Who is to be told that tasks have ended (`watched.rs`).
    pub(super) wakers: Mutex<Wakers>,
    /// The way to the supervisor, once it knows the pool.
    pub(super) mailbox: OnceLock<Arc<Mailbox>>,
    pub(crate) counters: Counters,
}

/// Which slots are free.
#[derive(Debug)]
pub(super) struct Slots {
    free: Vec<u32>,
    /// Submitted tasks in the order of submission; some of them taken since.
    pub(super) submitted: VecDeque<Place>,
    pub(super) tally: Tally,
    pub(super) measured: Measured,
}

/// Tasks counted so far, or to be counted. Under the lock of the slots, which is taken anyway.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Tally {
    pub(crate) submitted: u64,
    pub(crate) ended: u64,
    pub(crate) failed: u64,
}

impl Tally {
    fn add(&mut self, Self { submitted, ended, failed }: Self) {
        self.submitted += submitted;
        self.ended += ended;
        self.failed += failed;
    }
}

/// Locks, whether or not another thread panicked while it held the lock.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What the builder decided.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) id: u64,
    pub(crate) name: String,
    pub(crate) workers: usize,
    pub(crate) cores: usize,
    pub(crate) search_ns: u64,
    pub(crate) stack_bytes: usize,
    pub(crate) recycle: Recycle,
    pub(crate) restarts: (u32, Duration),
    pub(crate) defaults: TaskOptions,
    pub(crate) idle_timeout: Option<(Duration, usize)>,
    pub(super) setup: Setup,
}

impl Inner {
    pub(crate) fn new(settings: Settings, area: Area, user: ParticipantId) -> Self {
        let Settings {
            id,
            name,
            workers,
            cores,
            search_ns,
            stack_bytes,
            recycle,
            restarts,
            defaults,
            idle_timeout,
            setup,
        } = settings;
        let free = (0..area.slots.len() as u32).rev().collect();
        Self {
            id,
            name,
            workers: AtomicU32::new(workers as u32),
            most_workers: AtomicU32::new(workers as u32),
            seats_ever: AtomicU32::new(workers as u32),
            idle_timeout,
            cores,
            area,
            user,
            search_ns,
            stack_bytes,
            recycle,
            setup,
            once: None,
            startup: None,
            restarts,
            slots: Mutex::new(Slots {
                free,
                submitted: VecDeque::new(),
                tally: Tally::default(),
                measured: Measured::default(),
            }),
            sent: area.slots.iter().map(|_| Sent::default()).collect(),
            roster: Mutex::default(),
            put_off: Mutex::default(),
            stuck: Mutex::default(),
            aside: Mutex::default(),
            jobs_taken: AtomicU64::new(1),
            next_context: AtomicU64::new(1),
            closed: AtomicU32::new(0),
            why_broken: Mutex::default(),
            maps_running: Mutex::default(),
            map_ended: Condvar::new(),
            special: Special::new(defaults),
            known_ns: Mutex::default(),
            broadcasting: Mutex::default(),
            wakers: Mutex::default(),
            mailbox: OnceLock::new(),
            counters: Counters::default(),
        }
    }

    pub(crate) fn slot(&self, index: u32) -> &'static Slot {
        &self.area.slots[index as usize]
    }

    /// Refuses new work on a pool that is closed or broken.
    #[inline]
    pub(crate) fn check_open(&self) -> Result<(), Error> {
        if is_forked_copy() {
            return Err(Error::forked());
        }
        if self.closed.load(Relaxed) == 0 {
            return Ok(());
        }
        match &*lock(&self.why_broken) {
            Some(why) => Err(Error::broken(why.clone())),
            None => Err(Error::closed()),
        }
    }

    pub(crate) fn close(&self) {
        self.closed.fetch_max(1, SeqCst);
        self.area.wake_everybody();
    }

    /// Has maps that run send no more: the pool is closed, and will not wait for them.
    pub(super) fn give_up_maps(&self) {
        self.closed.fetch_max(2, SeqCst);
    }

    pub(super) fn has_given_up_maps(&self) -> bool {
        self.closed.load(SeqCst) == 2
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
            self.end_task(self.place_of(index));
        }
        self.area.wake_everybody();
    }

    /// Ends a task if it is queued: its calls that have no outcome fail.
    #[cold]
    pub(crate) fn end_task(&self, place: Place) {
        let why = lock(&self.why_broken).clone();
        let error = why.map_or_else(TaskError::pool_closed, TaskError::pool_broken);
        self.end_queued(place, &error, |_| {});
    }

    /// What is in a slot now.
    pub(super) fn place_of(&self, index: u32) -> Place {
        Place { index, generation: self.slot(index).state.load().generation }
    }

    /// Ends what is queued, because the one worker that might have run it is dead.
    pub(super) fn end_lost(&self, error: TaskError) {
        for (index, slot) in self.area.slots.iter().enumerate() {
            let generation = slot.state.load().generation;
            let error = error.clone().of(self.function_of(index as u32), 1);
            self.end_queued(Place { index: index as u32, generation }, &error, |_| {});
        }
    }

    /// Ends a task that is queued, with this error for each call that has no outcome; whether it was. While
    /// nobody can use the slot again, `meanwhile` is called.
    pub(super) fn end_queued(
        &self,
        place: Place,
        error: &TaskError,
        meanwhile: impl FnOnce(&Area),
    ) -> bool {
        let was_queued = self.slot(place.index).state.try_cancel(place.generation);
        if was_queued {
            self.end_cancelled(place, error, meanwhile);
        }
        was_queued
    }

    /// The rest of [`end_queued`](Self::end_queued), once nobody can claim the slot any more.
    pub(super) fn end_cancelled(
        &self,
        place: Place,
        error: &TaskError,
        meanwhile: impl FnOnce(&Area),
    ) {
        let slot = self.slot(place.index);
        let done = slot.progress.done() as u32;
        for call in done..self.calls_of(place.index) {
            self.note_lost(place.index, call, error.clone());
        }
        meanwhile(&self.area);
        self.finish(slot);
    }

    /// Makes a slot DONE, and tells whoever is to be told.
    pub(super) fn finish(&self, slot: &Slot) {
        let finished = slot.state.finish();
        self.area.announce(slot, finished);
        if finished.watched
            && let Some(mailbox) = self.mailbox.get()
        {
            mailbox.ring();
        }
    }

    // Slots ---------------------------------------------------------------------------------

    /// Takes a free slot; one for a submitted task is entered for harvesting.
    pub(crate) fn take_slot(&self, for_submit: bool) -> Option<FreeSlot<'_>> {
        let taken = self.pop_free(for_submit).or_else(|| {
            self.harvest(HARVEST_MAX);
            self.pop_free(for_submit)
        });
        taken.map(|place| {
            // The words of the task before must not be taken for this one's.
            self.slot(place.index).clear_output();
            FreeSlot { inner: self, place, for_submit, sent: false }
        })
    }

    fn pop_free(&self, for_submit: bool) -> Option<Place> {
        // Every batch of a map.
        let mut sampled = true;
        let mut slots = lock(&self.slots);
        let index = slots.free.pop()?;
        let place = Place { index, generation: self.slot(index).state.load().generation };
        if for_submit {
            slots.tally.submitted += 1;
            sampled = slots.tally.submitted.is_multiple_of(SAMPLED_EACH);
            self.enter_in(&mut slots, place);
        }
        drop(slots);
        let queued_ns = if sampled { sys::clock::monotonic_ns() } else { 0 };
        self.slot(index).queued_ns.store(queued_ns, Relaxed);
        Some(place)
    }

    fn enter_in(&self, slots: &mut Slots, place: Place) {
        slots.submitted.push_back(place);
        if slots.submitted.len() > 2 * self.area.slots.len() {
            // Most were joined since: keep those that still are in their slots.
            slots
                .submitted
                .retain(|place| self.slot(place.index).state.load().generation == place.generation);
        }
    }

    /// Enters a task for harvesting.
    pub(super) fn enter_submitted(&self, place: Place) {
        self.enter_in(&mut lock(&self.slots), place);
    }

    /// Frees a slot that the caller has taken, or filled in vain.
    pub(crate) fn free_slot(&self, index: u32, counted: Tally, took: Option<&Took>) {
        self.slot(index).state.free();
        fault::point("main.slot-freed");
        let space = self.area.job(0);
        let wanted = {
            let mut slots = lock(&self.slots);
            slots.free.push(index);
            slots.tally.add(counted);
            if let Some(took) = took {
                slots.measured.add(took);
            }
            // Who sleeps there counted itself before it looked at the list under this lock.
            space.has_sleepers()
        };
        if wanted {
            space.notify_slow(u32::MAX >> 1);
        }
    }

    /// Counts tasks that need no slot any more.
    pub(crate) fn count(&self, counted: Tally) {
        lock(&self.slots).tally.add(counted);
    }

    pub(crate) fn tally(&self) -> Tally {
        lock(&self.slots).tally
    }

    /// The free list, for whoever checks.
    pub(crate) fn free_list(&self) -> Vec<u32> {
        lock(&self.slots).free.clone()
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

    /// How long a call of this function took in the last map, in nanoseconds.
    pub(crate) fn known_ns(&self, code: CodeOffset) -> Option<f64> {
        lock(&self.known_ns).get(&code).copied()
    }

    pub(crate) fn remember_ns(&self, code: CodeOffset, ns_per_call: f64) {
        lock(&self.known_ns).insert(code, ns_per_call);
    }

    /// Enters a running map, unless the pool is closed.
    pub(crate) fn enter_map(self: &Arc<Self>) -> Result<InMap, Error> {
        let mut running = lock(&self.maps_running);
        self.check_open()?;
        *running += 1;
        Ok(InMap(self.clone()))
    }

    /// Sleeps until a slot may be free, or the time is up.
    pub(super) fn wait_for_slot(&self, timeout: Option<Duration>) {
        let space = self.area.job(0);
        let epoch = space.prepare();
        if self.take_slot(false).is_none() {
            space.sleep(epoch, timeout);
        }
        space.uncount();
    }

    /// How many workers there are to be now.
    #[inline]
    pub(crate) fn workers(&self) -> usize {
        self.workers.load(SeqCst) as usize
    }

    /// How many there may be.
    #[inline]
    pub(crate) fn most_workers(&self) -> usize {
        self.most_workers.load(Relaxed) as usize
    }
}

/// A map, or something like it, that a closing pool lets go on to its end.
#[derive(Debug)]
pub(crate) struct InMap(Arc<Inner>);

impl Drop for InMap {
    fn drop(&mut self) {
        *lock(&self.0.maps_running) -= 1;
        self.0.map_ended.notify_all();
    }
}

impl Drop for Inner {
    /// The last handle has gone, and the workers before it.
    fn drop(&mut self) {
        let is_used = |once: &Once| once.detached && !once.has_ended();
        if is_forked_copy() || self.once.as_ref().is_some_and(is_used) {
            return;
        }
        for (index, slot) in self.area.slots.iter().enumerate() {
            if slot.state.load().phase != Phase::Free {
                self.free_blocks(index as u32);
            }
        }
        lock(&self.aside).clear();
        // It is in the area.
        self.startup = None;
        self.area.free();
    }
}
