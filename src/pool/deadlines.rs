//! Calls that run too long, or are aborted: the supervisor ends the worker that runs them, and no other.
//!
//! # Protocol
//! While a task with a limit is queued or runs, the supervisor looks every [`LOOK`] at what each worker
//! does: the slot in its ledger and the progress there. The same call seen again has run since it was
//! first seen; the first of a batch, since its worker began the batch, which the ledger says. So a call costs its
//! worker nothing, and is ended at most one look late.
//!
//! At its timeout the call is asked to stop, by a word that [`worker::cancelled`](crate::worker::cancelled)
//! compares with what runs. At the end of its grace its worker is killed (`verdict.rs`):
//! 1. CONDEMNED is set in the slot. A worker looks at that word between two steps and goes no further.
//! 2. A barrier in every worker (`sys/membarrier.rs`): either sees what the other has stored.
//! 3. If the progress is still the same, the worker cannot begin anything else: it is killed. If it is not,
//!    the call has ended in time: the flag is taken back.
//! 4. The outcome of a submitted task is given to its handle at once (CONDEMNED in `state.rs`): on a machine
//!    with more busy workers than cores it may take long until the killed one has had its turn to die.
//!    A map's calls, and the slot, are settled when it is dead.
//!
//! # If a process dies
//! The worker, at any step: settlement finds the call running, or ended. If it was condemned, the cause is
//! what the supervisor decided. The user's process: then the guardian ends everything.
//!
//! # Tests
//! `tests/deadlines.rs`; `verdict_models.rs` (loom).

use super::events::event;
use super::inner::{Inner, Place, lock};
use super::options::{Limit, TaskOptions};
use super::results::Harvested;
use super::state::Phase;
use super::verdict::{condemn, running};
use super::watch::Watch;
use crate::error::TaskError;
use crate::prim::{Acquire, AtomicU32, Mutex, Relaxed, Release, SeqCst, fence};
use crate::shm::{Arena, ParticipantId};
use crate::sys;
use std::collections::HashMap;
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// How often the supervisor looks.
const LOOK: Duration = Duration::from_millis(5);

/// How often it looks at a task that is to be aborted, and whose worker has not been entered yet, or not been
/// settled.
const ABORT_LOOK: Duration = Duration::from_millis(1);

/// That a task is to be ended, and who wants to know whether that came in time.
#[derive(Debug)]
pub(super) struct Abort {
    pub(super) pool: u64,
    pub(super) place: Place,
    pub(super) done: mpsc::Sender<bool>,
}

/// A call that a worker runs, or is about to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Running {
    pub(super) index: u32,
    pub(super) generation: u32,
    pub(super) progress: u64,
}

impl Running {
    /// What a participant runs just now.
    fn of(inner: &Inner, worker: ParticipantId) -> Option<Self> {
        let ledger = &inner.area.arena.participant(worker).ledger;
        let index = ledger.slot.load(Acquire).checked_sub(1)? as u32;
        let slot = inner.area.slots.get(index as usize)?;
        let (generation, progress) = running(&slot.state, &slot.progress, worker.to_raw())?;
        Some(Self { index, generation, progress })
    }

    pub(super) fn call(&self) -> u32 {
        (self.progress >> 1) as u32
    }

    /// A word that names the call, never 0: for a worker to compare with its own.
    pub(super) fn stamp(index: u32, generation: u32, progress: u64) -> u64 {
        (1 << 63)
            | u64::from(index & 0xf_ffff) << 43
            | u64::from(generation & 0x7f_ffff) << 20
            | (progress & 0xf_ffff)
    }
}

/// What a worker was seen doing, and since when.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seen {
    running: Running,
    since: Instant,
    asked: bool,
}

/// Why the supervisor has killed a worker.
#[derive(Debug)]
pub(super) struct Condemned {
    pub(super) running: Running,
    pub(super) error: TaskError,
}

/// What is asked for tasks beyond running them, and whether the supervisor watches for it.
#[derive(Debug)]
pub(super) struct Special {
    /// For all tasks.
    pub(super) defaults: TaskOptions,
    /// Of the batches whose slots say so, by slot: entered before the slot is sent, removed before it is
    /// freed.
    options: Mutex<HashMap<u32, TaskOptions>>,
    /// How often a call was begun whose worker died: generation, call, times.
    pub(super) tries: Mutex<HashMap<u32, (u32, u32, u32)>>,
    watching: AtomicU32,
}

impl Special {
    pub(super) fn new(defaults: TaskOptions) -> Self {
        let watching = AtomicU32::new(0);
        Self { defaults, options: Mutex::default(), tries: Mutex::default(), watching }
    }
}

impl Inner {
    /// Whether it matters what is one call, and what are many.
    pub(super) fn counts_calls(&self) -> bool {
        self.recycle.counts_calls() || self.special.defaults.concern_supervisor()
    }

    /// Keeps the options of a batch whose slot is about to be sent.
    pub(super) fn enter_options(&self, index: u32, options: TaskOptions) {
        lock(&self.special.options).insert(index, options);
    }

    /// The options of a batch.
    pub(super) fn options_of(&self, index: u32) -> TaskOptions {
        let own = match self.slot(index).has_options() {
            true => lock(&self.special.options).get(&index).copied(),
            false => None,
        };
        own.unwrap_or_default().or(&self.special.defaults)
    }

    pub(super) fn forget_options(&self, index: u32) {
        lock(&self.special.options).remove(&index);
    }

    /// Has the supervisor look at running calls, once a task with a limit was queued.
    #[inline]
    pub(super) fn watch_limits(&self) {
        // Pairs with the fence in `is_limited`: the task is seen there, or its end of looking here.
        fence(SeqCst);
        if self.special.watching.load(Relaxed) == 0
            && self.special.watching.swap(1, SeqCst) == 0
            && let Some(mailbox) = self.mailbox.get()
        {
            mailbox.ring();
        }
    }

    /// Notes that a call is lost once more; how often it was begun by now.
    pub(super) fn count_try(&self, index: u32, call: u32) -> u32 {
        let generation = self.slot(index).state.load().generation;
        let mut tries = lock(&self.special.tries);
        let (of, last, times) = tries.entry(index).or_default();
        if (*of, *last) != (generation, call) {
            (*of, *last, *times) = (generation, call, 0);
        }
        *times += 1;
        *times
    }

    /// How often a call has begun that has run to its end, or was ended.
    pub(super) fn times_begun(&self, index: u32, call: u32) -> u32 {
        let generation = self.slot(index).state.load().generation;
        let tries = lock(&self.special.tries);
        let lost = tries.get(&index).filter(|(of, last, _)| (*of, *last) == (generation, call));
        lost.map_or(1, |(.., times)| times + 1)
    }

    /// Whether a task with a limit is queued or runs.
    fn may_run_limited(&self, is_busy: impl Fn() -> bool) -> bool {
        let own = lock(&self.special.options).iter().any(|(index, options)| {
            let phase = self.slot(*index).state.load().phase;
            options.limit().is_some() && matches!(phase, Phase::Ready | Phase::Claimed)
        });
        own || (self.special.defaults.limit().is_some() && is_busy())
    }

    /// Whether to go on looking.
    fn is_limited(&self, is_busy: impl Fn() -> bool) -> bool {
        if self.special.watching.load(Relaxed) == 0 {
            return false;
        }
        if self.may_run_limited(&is_busy) {
            return true;
        }
        self.special.watching.store(0, SeqCst);
        fence(SeqCst);
        let limited = self.may_run_limited(is_busy);
        if limited {
            self.special.watching.store(1, SeqCst);
        }
        limited
    }

    /// Gives the handle of a condemned task its outcome, while the worker is still dying.
    fn end_early(&self, running: Running, error: TaskError) {
        let Running { index, generation, .. } = running;
        let finished = {
            let mut aside = lock(&self.aside);
            let entry = aside.entry(index).or_default();
            if !entry.unwanted.iter().any(|(of, _)| *of == generation) {
                entry.harvested.push((generation, Harvested::Failed(error)));
            }
            self.slot(index).state.end_early(generation)
        };
        if let Some(finished) = finished {
            self.area.announce(self.slot(index), finished);
        }
    }
}

fn asked(arena: &Arena, worker: ParticipantId, stamp: u64) {
    arena.participant(worker).stop_asked.store(stamp, Release);
}

impl Watch {
    /// Asks calls to stop that have run for their time, and ends those whose grace is over.
    pub(super) fn enforce_limits(&mut self) {
        let now = Instant::now();
        let limited: Vec<u64> = self
            .pools
            .iter()
            .filter(|watched| watched.inner.is_limited(|| self.is_busy(&watched.inner)))
            .map(|watched| watched.inner.id)
            .collect();
        self.look_at = (!limited.is_empty()).then(|| now + LOOK);
        for at in 0..self.workers.len() {
            if limited.contains(&self.workers[at].pool) {
                self.look_at_worker(at, now);
            } else if self.workers[at].seen.take().is_some_and(|seen| seen.asked) {
                asked(self.arena, self.workers[at].id, 0);
            }
        }
    }

    fn is_busy(&self, inner: &Inner) -> bool {
        // First rings and seats: who takes a task out has written that down before.
        inner.area.has_task()
            || inner.seats().any(|(_, seat)| seat.mail().is_some())
            || self.workers.iter().filter(|worker| worker.pool == inner.id).any(|worker| {
                let ledger = &self.arena.participant(worker.id).ledger;
                ledger.slot.load(Acquire) != 0 || ledger.cell.load(Acquire) != 0
            })
    }

    fn look_at_worker(&mut self, at: usize, now: Instant) {
        let (pool, id) = (self.workers[at].pool, self.workers[at].id);
        let Some(inner) = self.pool(pool).map(|watched| watched.inner.clone()) else { return };
        let running = Running::of(&inner, id).filter(|running| running.progress & 1 == 1);
        let before = self.workers[at].seen;
        let same = before.filter(|seen| Some(seen.running) == running);
        let Some(mut seen) = same else {
            if before.is_some_and(|seen| seen.asked) {
                asked(self.arena, id, 0);
            }
            let since = |running: Running| {
                if running.progress == 1 { self.begun_at(id, now) } else { now }
            };
            let seen = running.map(|running| Seen { running, since: since(running), asked: false });
            self.workers[at].seen = seen;
            let due = seen.and_then(|seen| {
                let limit = inner.options_of(seen.running.index).limit()?;
                seen.since.checked_add(limit.timeout)
            });
            self.look_at = self.look_at.map(|at| due.map_or(at, |due| at.min(due)));
            return;
        };
        let Running { index, generation, progress } = seen.running;
        let Some(Limit { timeout, grace }) = inner.options_of(index).limit() else { return };
        let ran = now.duration_since(seen.since);
        if ran >= timeout.saturating_add(grace) {
            let pid = self.workers[at].pid;
            let error = TaskError::timed_out(pid, ran, (timeout, grace));
            self.condemn(at, &inner, seen.running, error);
            return;
        }
        if ran >= timeout && !seen.asked {
            asked(self.arena, id, Running::stamp(index, generation, progress));
            seen.asked = true;
        }
        self.workers[at].seen = Some(seen);
        let due = if ran < timeout { timeout } else { timeout.saturating_add(grace) };
        // A time that the clock cannot show never comes.
        if let Some(due) = seen.since.checked_add(due) {
            self.look_at = self.look_at.map(|look_at| look_at.min(due));
        }
    }

    /// When a worker began the batch that it runs; `now` at the latest.
    fn begun_at(&self, worker: ParticipantId, now: Instant) -> Instant {
        let since_ns = self.arena.participant(worker).ledger.since_ns.load(Relaxed);
        let ran = Duration::from_nanos(sys::clock::monotonic_ns().saturating_sub(since_ns));
        now.checked_sub(ran).unwrap_or(now)
    }

    /// Kills a worker for a call, if it still runs that; whether it was killed.
    fn condemn(&mut self, at: usize, inner: &Inner, running: Running, error: TaskError) -> bool {
        let (slot, id) = (inner.slot(running.index), self.workers[at].id);
        if !condemn(slot.flags(), || Running::of(inner, id) == Some(running)) {
            return false;
        }
        let times = inner.times_begun(running.index, running.call());
        let error = error.of(inner.function_of(running.index), times);
        let (pool, pid) = (&*inner.name, self.workers[at].pid);
        event!(WARN, "task ended", pool = pool, pid = pid, why = &*error.to_string());
        if !slot.is_of_map() {
            inner.end_early(running, error.clone());
        }
        self.workers[at].condemned = Some(Condemned { running, error });
        let _ = sys::process::kill_pidfd(&self.workers[at].pidfd);
        true
    }

    /// Ends a task, whether it is queued or runs; `false` if it has ended. `None` if that is decided only when
    /// its worker has been entered, or settled.
    fn abort(&mut self, pool: u64, place: Place) -> Option<bool> {
        let Some(inner) = self.pool(pool).map(|watched| watched.inner.clone()) else {
            return Some(false);
        };
        loop {
            let state = inner.slot(place.index).state.load();
            if state.generation != place.generation {
                return Some(false);
            }
            match state.phase {
                Phase::Ready if inner.cancel(place) => return Some(true),
                Phase::Ready => {}
                Phase::Claimed => {
                    let owner = u64::from(state.owner);
                    let runs = |at: &usize| self.workers[*at].id.to_raw() == owner;
                    let at = (0..self.workers.len()).find(runs)?;
                    // It may have ended meanwhile, and its worker run another's. And one whose only call has
                    // ended is DONE in a moment: its worker looks at no flag any more.
                    let running = Running::of(&inner, self.workers[at].id).filter(|running| {
                        (running.index, running.generation) == (place.index, place.generation)
                            && running.call() == 0
                    });
                    let Some(running) = running else {
                        match inner.slot(place.index).state.load() == state {
                            true => return None,
                            false => continue,
                        }
                    };
                    let since = self.workers[at].seen.filter(|seen| seen.running == running);
                    let ran = since.map_or(Duration::ZERO, |seen| seen.since.elapsed());
                    let error = TaskError::aborted(self.workers[at].pid, ran);
                    if self.condemn(at, &inner, running, error) {
                        return Some(true);
                    }
                }
                _ => return Some(false),
            }
        }
    }

    /// Answers those who want tasks ended, as far as that can be decided now.
    pub(super) fn serve_aborts(&mut self) {
        for abort in std::mem::take(&mut self.aborts) {
            match self.abort(abort.pool, abort.place) {
                // Who asked may have gone.
                Some(ended) => drop(abort.done.send(ended)),
                None => self.aborts.push(abort),
            }
        }
    }

    /// When to look again at what could not be decided.
    pub(super) fn abort_at(&self) -> Option<Instant> {
        (!self.aborts.is_empty()).then(|| Instant::now() + ABORT_LOOK)
    }
}
