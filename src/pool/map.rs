//! Many calls of one function: cutting the input into batches, keeping workers busy, collecting
//! results in order.
//!
//! # Protocol
//! Keep up to `2 * workers + 1` batches under way: one running and one queued per worker, and one
//! being filled. Calls that are too short to have waited for anything need a core each, so for them
//! workers beyond the number of cores do not count (waking those would only cost). Collect the oldest; while it is not done, collect those behind it, so that one slow
//! batch does not stop the others; when nothing is done, search briefly, then sleep on the map's own
//! waiting place, where every finished batch of this map notifies: one hop, no thread in between.
//!
//! # Batch size
//! The first batches carry one call. Each finished batch tells how long its calls took; the next
//! ones carry as many as take [`TARGET_NS`], growing at most 16-fold per step, never more than
//! [`BATCH_BYTES`] of input, and towards the end no more than half of a worker's share of what is
//! left (if the input says how much), so that all finish together; but not less than is worth the
//! way ([`WORTHWHILE_NS`]).
//!
//! The pool remembers how long a function's calls took. If the input says how long it is, the next
//! map of that function starts with up to 64 calls: if those turn out slow this time, a batch still is
//! at most half of a worker's share.
//!
//! # If a process dies
//! A worker: settlement keeps the results before the culprit and queues the rest of the batch again.

use super::inner::{Inner, Place};
use super::slot::Routing;
use super::state::Phase;
use super::submit::Job;
use super::task::carry_input;
use crate::codec::{self, ArenaWriter, EncodeError, Shape, shape_of};
use crate::error::{Error, Step, TaskError};
use crate::limits::BATCH_CALLS_MAX;
use crate::prim::Relaxed;
use crate::sync::crossing::Carried;
use crate::sync::search::search;
use serde::{Serialize, de::DeserializeOwned};
use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::sync::Arc;

/// How long the calls of one batch should take.
const TARGET_NS: f64 = 200_000.0;
/// Most input bytes that a batch of several calls carries: it stays in the cache.
const BATCH_BYTES: usize = 128 << 10;
/// How much larger than the last measured batch the next may be.
const GROWTH: usize = 16;
/// Most calls in the first batches of a function that the pool knows.
const FIRST_CALLS: usize = 64;
/// A batch shorter than this costs more to hand over than it saves by being shared.
const WORTHWHILE_NS: f64 = 5_000.0;

/// A call that waits for something takes longer than this: two changes of context at the least.
const BLOCKING_NS: f64 = 5_000.0;

/// Runs `job` on every input; `sink` gets each outcome, in input order, until it breaks.
pub(crate) fn run<A, R>(
    inner: &Arc<Inner>,
    job: &Job,
    inputs: impl Iterator<Item = A>,
    sink: impl FnMut(Result<R, TaskError>) -> ControlFlow<()>,
) -> Result<(), Error>
where
    A: Serialize + 'static,
    R: DeserializeOwned + 'static,
{
    inner.enter_map()?;
    let (least, most) = inputs.size_hint();
    let known_ns = if most == Some(least) { inner.known_ns(job.code) } else { None };
    let mut map = Map {
        inner,
        job,
        waiting_place: inner.take_job(),
        inputs: inputs.fuse(),
        ahead: None,
        refused: None,
        flights: VecDeque::new(),
        under_way: 0,
        sent: 0,
        sizer: Sizer::new(known_ns),
        sink,
    };
    map.run()
}

/// Decides how many calls the next batch carries.
#[derive(Debug)]
struct Sizer {
    ns_per_call: Option<f64>,
    /// Whether that was measured in this map.
    measured: bool,
    last_calls: usize,
    /// Average encoded sizes, for choosing blocks.
    input_bytes: usize,
    output_bytes: usize,
}

impl Sizer {
    fn new(known_ns: Option<f64>) -> Self {
        let last_calls = if known_ns.is_some() { FIRST_CALLS / GROWTH } else { 1 };
        let (input_bytes, output_bytes) = (32, 32);
        Self { ns_per_call: known_ns, measured: false, last_calls, input_bytes, output_bytes }
    }

    fn calls(&self, left: Option<usize>, workers: usize) -> usize {
        let Some(ns_per_call) = self.ns_per_call else { return 1 };
        let by_time = (TARGET_NS / ns_per_call.max(0.1)) as usize;
        let bytes = self.input_bytes.max(self.output_bytes).max(1);
        let worthwhile =
            if self.measured { (WORTHWHILE_NS / ns_per_call.max(0.1)) as usize } else { 1 };
        let by_share = left.map_or(usize::MAX, |left| (left / (2 * workers)).max(worthwhile));
        by_time
            .min(self.last_calls * GROWTH)
            .min(BATCH_BYTES / bytes)
            .min(by_share)
            .clamp(1, BATCH_CALLS_MAX)
    }

    fn learn(&mut self, calls: usize, busy_ns: u64, output_bytes: usize) {
        let measured = busy_ns as f64 / calls as f64;
        self.ns_per_call = Some(match self.ns_per_call {
            // A longer batch knows better than a shorter one.
            Some(known) if calls < self.last_calls => known * 0.75 + measured * 0.25,
            _ => measured,
        });
        self.measured = true;
        self.last_calls = self.last_calls.max(calls);
        self.output_bytes = output_bytes.div_ceil(calls).max(1);
    }
}

/// A batch that has been sent, oldest first.
enum Flight<R> {
    UnderWay(Place),
    /// Out of its slot, waiting for an older one.
    Collected(Vec<Result<R, TaskError>>),
}

struct Map<'a, A, R, I: Iterator<Item = A>, S> {
    inner: &'a Arc<Inner>,
    job: &'a Job,
    waiting_place: u16,
    inputs: std::iter::Fuse<I>,
    /// An input that was taken but has not been sent.
    ahead: Option<A>,
    /// The failure of an input that could not be encoded, to come after the batch before it.
    refused: Option<TaskError>,
    flights: VecDeque<Flight<R>>,
    under_way: usize,
    /// Index of the next outcome.
    sent: usize,
    sizer: Sizer,
    sink: S,
}

/// What an attempt to send a batch came to.
enum Sent {
    Yes,
    InputEnded,
    /// No slot, or no room in the arena, while others are under way.
    Later,
}

impl<A, R, I, S> Map<'_, A, R, I, S>
where
    A: Serialize + 'static,
    R: DeserializeOwned + 'static,
    I: Iterator<Item = A>,
    S: FnMut(Result<R, TaskError>) -> ControlFlow<()>,
{
    fn run(&mut self) -> Result<(), Error> {
        let mut input_ended = false;
        loop {
            let most = 2 * self.useful_workers() + 1;
            while !input_ended && self.under_way < most {
                match self.send()? {
                    Sent::Yes => {}
                    Sent::InputEnded => input_ended = true,
                    Sent::Later => break,
                }
                // Results that are ready make room for batches that are better sized.
                if self.front_is_done() {
                    break;
                }
            }
            if self.flights.is_empty() && input_ended {
                return Ok(());
            }
            if self.front_is_done() {
                if self.collect_front().is_break() {
                    return Ok(());
                }
            } else if self.under_way > 0 && !self.collect_behind() {
                self.wait();
            }
        }
    }

    fn useful_workers(&self) -> usize {
        let Inner { workers, cores, .. } = *self.inner.as_ref();
        let short = self.sizer.ns_per_call.is_some_and(|ns| ns < BLOCKING_NS);
        if short { workers.min(cores) } else { workers }
    }

    fn is_done(&self, place: Place) -> bool {
        self.inner.slot(place.index).state.load().phase == Phase::Done
    }

    fn front_is_done(&self) -> bool {
        match self.flights.front() {
            Some(Flight::UnderWay(place)) => self.is_done(*place),
            Some(Flight::Collected(_)) => true,
            None => false,
        }
    }

    fn next_input(&mut self) -> Option<A> {
        self.ahead.take().or_else(|| self.inputs.next())
    }

    // Sending -------------------------------------------------------------------------------

    fn send(&mut self) -> Result<Sent, Error> {
        if self.ahead.is_none() {
            self.ahead = self.inputs.next();
        }
        if self.ahead.is_none() {
            return Ok(Sent::InputEnded);
        }
        let inner: &Inner = self.inner;
        let Some(slot) = inner.take_slot(false) else {
            return Ok(self.wait_for_slot());
        };
        match self.fill(slot.place.index) {
            Ok(true) => {
                let place = slot.send();
                self.flights.push_back(Flight::UnderWay(place));
                self.under_way += 1;
                self.collect_refused();
                if inner.check_open().is_err_and(|error| !error.is_closed()) {
                    inner.end_all_tasks();
                }
                Ok(Sent::Yes)
            }
            Ok(false) => {
                self.collect_refused();
                Ok(Sent::Yes)
            }
            Err(error) => {
                drop(slot);
                let room_may_come = error.is_arena_full()
                    && (self.under_way > 0 || inner.harvest(usize::MAX / 2) > 0);
                if room_may_come { Ok(Sent::Later) } else { Err(error) }
            }
        }
    }

    /// Other threads hold all slots: with batches under way ours come free first, else sleep.
    fn wait_for_slot(&mut self) -> Sent {
        if self.under_way == 0 {
            let space = self.inner.area.job(0);
            let epoch = space.prepare();
            if self.inner.take_slot(false).is_none() {
                space.sleep(epoch, None);
            }
            space.uncount();
        }
        Sent::Later
    }

    /// Encodes inputs into the slot; `false` if the only one could not be encoded, which is then a
    /// collected failure.
    fn fill(&mut self, index: u32) -> Result<bool, Error> {
        let (inner, slot) = (self.inner, self.inner.slot(index));
        let left = match self.inputs.size_hint() {
            (low, Some(high)) if low == high => Some(high + 1),
            _ => None,
        };
        let planned = self.sizer.calls(left, self.useful_workers());
        let plain = shape_of::<A>() == Shape::Plain;
        let table_calls = if plain || planned == 1 { 0 } else { planned };
        let estimate = planned * (self.sizer.input_bytes + self.sizer.input_bytes / 4)
            + table_calls * 8
            + size_of::<A>();
        if planned > 1 {
            let each = match shape_of::<R>() {
                Shape::Plain => size_of::<R>(),
                Shape::Varying => 8 + self.sizer.output_bytes + self.sizer.output_bytes / 4,
            };
            let block = inner.area.arena.allocate((planned * each) as u64, inner.user)?;
            slot.output.store(block.offset, Relaxed);
        }
        let mut writer = ArenaWriter::in_new_block(inner.area.arena, inner.user, estimate as u64)?;
        let (calls, carried) = self.encode(&mut writer, planned, table_calls)?;
        if calls == 0 {
            return Ok(false);
        }
        let output_has_table = calls > 1 && shape_of::<R>() == Shape::Varying;
        slot.code.store(self.job.code.to_raw(), Relaxed);
        slot.context.store(self.job.context_word(), Relaxed);
        slot.table_calls.store(table_calls as u32, Relaxed);
        slot.calls.store(calls as u32, Relaxed);
        let job = self.waiting_place;
        carry_input(inner.area.arena, slot, &carried)?;
        let routing = Routing { job, timed: true, output_has_table };
        let (block, bytes) = writer.finish();
        slot.set_input(block.map(|block| block.offset), bytes as u64, routing);
        Ok(true)
    }

    /// Appends up to `planned` inputs; returns how many, and what they carry. The one that did not
    /// fit stays ahead.
    fn encode(
        &mut self,
        writer: &mut ArenaWriter<'_>,
        planned: usize,
        table_calls: usize,
    ) -> Result<(usize, Vec<Carried>), Error> {
        if writer.skip(table_calls * 8).is_err() {
            return Err(
                TaskError::codec(Step::EncodeArgument, "no room for the table".into()).into()
            );
        }
        let start = writer.length();
        let (mut calls, mut carried) = (0, Vec::new());
        while calls < planned && (calls == 0 || writer.length() < BATCH_BYTES) {
            let Some(argument) = self.next_input() else { break };
            let mark = writer.length();
            match codec::encode(&argument, writer, &mut carried) {
                Ok(()) => {}
                Err(EncodeError::Arena(error)) => {
                    writer.truncate(mark);
                    self.ahead = Some(argument);
                    if calls == 0 {
                        return Err(error);
                    }
                    break;
                }
                Err(EncodeError::Refused(message)) => {
                    writer.truncate(mark);
                    self.refused =
                        Some(TaskError::cannot_cross::<A>(Step::EncodeArgument, message));
                    break;
                }
            }
            calls += 1;
            if table_calls > 0 {
                writer.put_u64((calls - 1) * 8, writer.length() as u64);
            }
        }
        if let Some(bytes) = (writer.length() - start).checked_div(calls) {
            self.sizer.input_bytes = bytes.max(1);
        }
        Ok((calls, carried))
    }

    fn collect_refused(&mut self) {
        if let Some(error) = self.refused.take() {
            self.flights.push_back(Flight::Collected(vec![Err(error)]));
        }
    }

    // Collecting ----------------------------------------------------------------------------

    /// Takes a finished batch out of its slot.
    fn retire(&mut self, place: Place, mut sink: impl FnMut(&mut S, Result<R, TaskError>)) {
        let slot = self.inner.slot(place.index);
        // Nobody else knows this task: the swap only moves the word on.
        if !slot.state.try_take(place.generation) {
            return;
        }
        let calls = slot.calls.load(Relaxed) as usize;
        let busy_ns = slot.busy_ns.load(Relaxed);
        if busy_ns > 0 && calls > 0 {
            self.sizer.learn(calls, busy_ns, slot.output_bytes.load(Relaxed) as usize);
        }
        self.under_way -= 1;
        let map_sink = &mut self.sink;
        self.inner.retire(place.index, |_, outcome| sink(map_sink, outcome));
    }

    fn collect_front(&mut self) -> ControlFlow<()> {
        let mut flow = ControlFlow::Continue(());
        let mut index = self.sent;
        match self.flights.pop_front() {
            Some(Flight::UnderWay(place)) => self.retire(place, |sink, outcome| {
                if flow.is_continue() {
                    flow = sink(outcome.map_err(|error| error.at(index)));
                    index += 1;
                }
            }),
            Some(Flight::Collected(outcomes)) => {
                for outcome in outcomes {
                    if flow.is_continue() {
                        flow = (self.sink)(outcome.map_err(|error| error.at(index)));
                        index += 1;
                    }
                }
            }
            None => {}
        }
        self.sent = index;
        flow
    }

    /// Collects finished batches behind an unfinished first one; `false` if there are none.
    fn collect_behind(&mut self) -> bool {
        let mut any = false;
        for at in 1..self.flights.len() {
            let Some(Flight::UnderWay(place)) = self.flights.get(at) else { continue };
            let place = *place;
            if self.is_done(place) {
                let mut outcomes = Vec::new();
                self.retire(place, |_, outcome| outcomes.push(outcome));
                self.flights[at] = Flight::Collected(outcomes);
                any = true;
            }
        }
        any
    }

    fn any_is_done(&self) -> bool {
        let mut under_way = self.flights.iter().filter_map(|flight| match flight {
            Flight::UnderWay(place) => Some(*place),
            Flight::Collected(_) => None,
        });
        under_way.any(|place| self.is_done(place))
    }

    /// Waits until a batch is done: searches briefly, then sleeps.
    fn wait(&self) {
        if search(self.inner.search_ns, || self.any_is_done()) {
            return;
        }
        let bell = self.inner.area.job(usize::from(self.waiting_place));
        let epoch = bell.prepare();
        if !self.any_is_done() {
            bell.sleep(epoch, None);
        }
        bell.uncount();
    }
}

impl<A, R, I: Iterator<Item = A>, S> Drop for Map<'_, A, R, I, S> {
    /// Gives up what is under way, if the caller stopped early or its input panicked.
    fn drop(&mut self) {
        if let Some(ns) = self.sizer.ns_per_call {
            self.inner.remember_ns(self.job.code, ns);
        }
        for flight in self.flights.drain(..) {
            if let Flight::UnderWay(place) = flight {
                self.inner.give_up_batch(place, self.job.context.clone());
            }
        }
        self.inner.return_job(self.waiting_place);
        self.inner.leave_map();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_calls_travel_together_and_long_ones_alone() {
        let mut sizer = Sizer::new(None);
        assert_eq!(sizer.calls(None, 2), 1, "nothing is known yet");
        sizer.learn(1, 100, 8);
        assert_eq!(sizer.calls(None, 2), 16, "grows step by step");
        sizer.learn(16, 1600, 128);
        sizer.learn(256, 25_600, 2048);
        assert_eq!(sizer.calls(None, 2), 2000);
        assert_eq!(sizer.calls(Some(1000), 2), 250, "everybody gets a share of the end");
        assert_eq!(sizer.calls(Some(20), 2), 50, "but not less than is worth the way");
        sizer.learn(256, 256 * 1_000_000_000, 2048);
        assert_eq!(sizer.calls(None, 2), 1);
    }

    #[test]
    fn a_known_function_starts_with_more_but_never_more_than_half_a_share() {
        let sizer = Sizer::new(Some(10.0));
        assert_eq!(sizer.calls(Some(1_000_000), 2), FIRST_CALLS);
        assert_eq!(sizer.calls(Some(100), 2), 25);
        assert_eq!(Sizer::new(Some(1e9)).calls(Some(1_000_000), 2), 1);
    }

    #[test]
    fn large_results_limit_a_batch() {
        let mut sizer = Sizer::new(None);
        sizer.learn(1, 1000, BATCH_BYTES);
        assert_eq!(sizer.calls(None, 2), 1);
    }
}
