//! Taking results out of finished slots, and setting aside those whose handles wait.
//!
//! # Rules
//! R1. Taking a finished slot is the swap DONE -> TAKEN in its state word. Whoever wins reads the
//!     results, frees the blocks, frees the slot, puts it on the list and tells who waits for one.
//! R2. When slots run out, a submitting thread *harvests*: it takes finished submitted tasks whose
//!     handles have not been joined and sets their bytes aside in its own memory, under the lock of
//!     `aside`. A joiner that finds its slot reused looks there, under the same lock.
//! R3. A handle that is dropped early leaves a note in `aside`; whoever takes the slot later throws
//!     the result away.
//! R4. The outcome of a condemned task (`deadlines.rs`) is set aside like a harvested one, while the slot, and
//!     the context, stay until its worker is dead.
#![allow(unsafe_code)] // Reads the output side of slots that it has taken.

use super::context::Context;
use super::failure;
use super::inner::{Inner, Place, Tally, lock};
use super::slot::Slot;
use super::state::Phase;
use super::stats::Took;
use super::task::give_up_input;
use crate::codec::{Shape, Stream, shape_of};
use crate::error::{Step, TaskError};
use crate::prim::Relaxed;
use crate::prim::{SeqCst, fence};
use crate::shm::fault;
use crate::sync::crossing::CarriedByResult;
use serde::de::DeserializeOwned;
use std::collections::HashMap;
use std::sync::Arc;

/// What is said of results whose place makes no sense.
const OUTSIDE: &str = "its bytes are not inside the arena";

/// How many finished tasks one harvest takes at most.
pub(super) const HARVEST_MAX: usize = 256;

/// What is kept for a slot beside its shared memory.
#[derive(Debug, Default)]
pub(super) struct Aside {
    /// Calls that were lost with their worker, of the task that is in the slot now.
    lost: Vec<(u32, TaskError)>,
    /// Results of earlier tasks, by generation, whose handles have not been joined (R2).
    pub(super) harvested: Vec<(u32, Harvested)>,
    /// Generations whose results nobody wants, and the context that they need while they run (R3).
    pub(super) unwanted: Vec<(u32, Option<Arc<Context>>)>,
}

impl Aside {
    fn is_empty(&self) -> bool {
        self.lost.is_empty() && self.harvested.is_empty() && self.unwanted.is_empty()
    }
}

/// The outcome of one submitted task, out of the arena.
#[derive(Debug)]
pub(super) enum Harvested {
    Bytes(Vec<u8>, Option<CarriedByResult>),
    Failed(TaskError),
}

/// A taken batch whose outcomes are being given out. Dropping it frees its blocks and its slot.
struct Retiring<'a> {
    inner: &'a Inner,
    index: u32,
    calls: usize,
    failed: u64,
    /// If the slot does not say.
    bytes_out: Option<u64>,
}

impl Drop for Retiring<'_> {
    fn drop(&mut self) {
        let Self { inner, index, calls, failed, bytes_out } = *self;
        let mut took = Took::of(inner, index);
        took.bytes_out = bytes_out.unwrap_or(took.bytes_out);
        let is_of_map = inner.slot(index).is_of_map();
        inner.free_blocks(index);
        let ended = calls as u64;
        // The calls of a map's batch, were not counted before.
        let submitted = if is_of_map { ended } else { 0 };
        inner.free_slot(index, Tally { submitted, ended, failed }, Some(&took));
    }
}

impl Inner {
    /// Notes that `call` of the batch in a slot was lost; by the settler, before it is DONE.
    pub(crate) fn note_lost(&self, index: u32, call: u32, error: TaskError) {
        lock(&self.aside).entry(index).or_default().lost.push((call, error));
        // Tells the taker to look here.
        self.slot(index).attempts.fetch_add(1, Relaxed);
    }

    /// All failures of the batch in a slot that the caller has taken.
    fn failures(
        &self,
        index: u32,
        aside: Option<&mut HashMap<u32, Aside>>,
    ) -> Vec<(u32, TaskError)> {
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
        let own = match slot.failures.peek() != 0 || slot.unrecorded.load(Relaxed) != 0 {
            true => failure::read(self.area.arena, slot),
            false => Vec::new(),
        };
        if failures.is_empty() && own.is_empty() {
            return failures;
        }
        let function = self.function_of(index);
        let lost = failures.into_iter().map(|(call, error)| (call, error.of(function, 1)));
        let own = own
            .into_iter()
            .map(|(call, error)| (call, error.of(function, self.times_begun(index, call))));
        lost.chain(own).collect()
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
        failures.sort_by_key(|(call, _)| *call);
        failures.dedup_by_key(|(call, _)| *call);
        let mut failures = failures.into_iter().peekable();
        let calls = self.calls_of(index) as usize;
        // Decoding, and what is done with an outcome, may panic: then the rest is thrown away.
        let mut retiring = Retiring { inner: self, index, calls, failed: 0, bytes_out: None };
        if calls > 1 && shape_of::<R>() == Shape::Plain {
            retiring.bytes_out = Some((calls * size_of::<R>()) as u64);
        }
        let stream = self.output::<R>(slot, calls);
        for call in 0..calls {
            let failure = failures.next_if(|(failed, _)| *failed as usize == call);
            let outcome = match (failure, &stream) {
                (Some((_, error)), _) => Err(error),
                (None, Some(stream)) => stream
                    .value(call)
                    .map_err(|message| TaskError::cannot_cross::<R>(Step::DecodeResult, message)),
                (None, None) => Err(TaskError::cannot_cross::<R>(Step::DecodeResult, OUTSIDE)),
            };
            retiring.failed += u64::from(outcome.is_err());
            sink(call, outcome);
        }
    }

    fn output<R: DeserializeOwned + 'static>(
        &self,
        slot: &Slot,
        calls: usize,
    ) -> Option<Stream<'_, R>> {
        let plain = calls > 1 && shape_of::<R>() == Shape::Plain;
        let (bytes, table_calls) = match (calls, plain) {
            (_, true) => (calls as u64 * size_of::<R>() as u64, 0),
            (1, _) => (slot.output_bytes.load(Relaxed), 0),
            _ => (slot.output_bytes.load(Relaxed), calls),
        };
        // SAFETY: R1: we have taken the slot, so nobody writes its output.
        unsafe { Stream::at(self.area.arena, self.output_offset(slot), bytes, table_calls) }
    }

    /// Where the results of a slot lie: in a block, or inline.
    fn output_offset(&self, slot: &Slot) -> u64 {
        slot.output_block().unwrap_or(self.area.arena.offset_of(slot.inline_output()))
    }

    /// Frees the blocks of a batch that the caller has taken.
    pub(super) fn free_blocks(&self, index: u32) {
        let (arena, slot) = (self.area.arena, self.slot(index));
        if slot.has_options() {
            self.forget_options(index);
        }
        drop(self.take_carried(slot));
        give_up_input(arena, slot);
        if let Some(block) = slot.input_block() {
            arena.free(block);
        }
        if let Some(block) = slot.output_block() {
            arena.free(block);
        }
        failure::free(arena, slot);
    }

    /// What holds the objects to which the results of a taken batch carry handles.
    fn take_carried(&self, slot: &Slot) -> Option<CarriedByResult> {
        let first = slot.carried.load(Relaxed);
        (first != 0).then(|| {
            slot.carried.store(0, Relaxed);
            CarriedByResult::new(self.area.arena, first)
        })
    }

    /// Throws the results of a taken batch away.
    pub(crate) fn discard(&self, index: u32) {
        self.failures(index, None);
        let took = Took::of(self, index);
        self.free_blocks(index);
        self.free_slot(index, Tally::default(), Some(&took));
    }

    /// Takes up to `most` finished submitted tasks out of their slots (R2).
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
        let took = Took::of(self, place.index);
        self.free_blocks(place.index);
        self.free_slot(place.index, Tally::default(), Some(&took));
        true
    }

    fn copy_output(&self, slot: &Slot) -> Harvested {
        let bytes = slot.output_bytes.load(Relaxed);
        match self.area.arena.bytes_at(self.output_offset(slot), bytes) {
            Some(start) => {
                // SAFETY: R1: we have taken the slot, so nobody writes its output.
                let copy =
                    unsafe { std::slice::from_raw_parts(start.as_ptr(), bytes as usize).to_vec() };
                Harvested::Bytes(copy, self.take_carried(slot))
            }
            None => Harvested::Failed(TaskError::codec(Step::DecodeResult, OUTSIDE.into())),
        }
    }

    /// The outcome of a task that was harvested.
    pub(crate) fn take_aside<R: DeserializeOwned + 'static>(
        &self,
        place: Place,
        context: Option<Arc<Context>>,
    ) -> Option<Result<R, TaskError>> {
        let mut context = Some(context);
        let harvested = {
            let mut aside = lock(&self.aside);
            let entry = aside.get_mut(&place.index)?;
            let at = entry.harvested.iter().position(|(of, _)| *of == place.generation)?;
            let (_, harvested) = entry.harvested.swap_remove(at);
            if self.is_condemned(place)
                && let Some(context) = context.take()
            {
                // R4: its worker may still read it.
                entry.unwanted.push((place.generation, context));
            }
            if entry.is_empty() {
                aside.remove(&place.index);
            }
            harvested
        };
        let failed = u64::from(matches!(harvested, Harvested::Failed(_)));
        self.count(Tally { submitted: 0, ended: 1, failed });
        Some(match harvested {
            Harvested::Failed(error) => Err(error),
            Harvested::Bytes(bytes, _carried) => Stream::of_one(&bytes)
                .value(0)
                .map_err(|message| TaskError::cannot_cross::<R>(Step::DecodeResult, message)),
        })
    }

    /// Nobody wants the result of this task any more (R3).
    pub(crate) fn give_up(&self, place: Place, context: Option<Arc<Context>>) {
        let state = &self.slot(place.index).state;
        if state.try_take(place.generation) {
            self.discard(place.index);
            return;
        }
        let mut given_up = Vec::new();
        let mut aside = lock(&self.aside);
        let entry = aside.entry(place.index).or_default();
        let now = state.load();
        let mut gone = Some(context);
        if now.generation == place.generation && now.phase != Phase::Taken {
            entry.unwanted.extend(gone.take().map(|context| (place.generation, context)));
        }
        given_up.extend(entry.harvested.extract_if(.., |(of, _)| *of == place.generation));
        if entry.is_empty() {
            aside.remove(&place.index);
        }
        // What is dropped may take locks of its own.
        drop(aside);
    }

    /// Whether the task has ended for its handle, and its worker is being killed for it.
    fn is_condemned(&self, place: Place) -> bool {
        let state = self.slot(place.index).state.load();
        state.generation == place.generation && state.phase == Phase::Condemned
    }

    /// Frees the slot of a condemned task whose worker is dead (R4).
    pub(super) fn bury_condemned(&self, index: u32) {
        let slot = self.slot(index);
        let unwanted = {
            let mut aside = lock(&self.aside);
            let generation = slot.state.load().generation;
            slot.state.take_condemned();
            let unwanted = aside.get_mut(&index).map(|entry| {
                let unwanted = entry.unwanted.extract_if(.., |(of, _)| *of == generation);
                let unwanted: Vec<_> = unwanted.collect();
                (unwanted, entry.is_empty())
            });
            if let Some((_, true)) = unwanted {
                aside.remove(&index);
            }
            unwanted
        };
        drop(unwanted);
        self.discard(index);
    }

    /// As [`Inner::give_up`], for a batch of a map: asks the worker to leave it, and enters it for
    /// harvesting. It stays queued until a worker passes it: a slot that was freed before that would
    /// leave its ring cell behind, and abandoned maps could fill the ring.
    pub(crate) fn give_up_batch(&self, place: Place, context: Option<Arc<Context>>) {
        self.slot(place.index).cancel();
        // It ends later and its announcer sees the flag, or it has ended and is taken here.
        fence(SeqCst);
        self.enter_submitted(place);
        self.give_up(place, context);
    }
}
