//! Many calls of one function: cutting the input into batches, keeping workers busy, collecting
//! results in order.
//!
//! # Protocol
//! Keep up to `2 * workers + 1` batches under way: one running and one queued per worker, and one
//! being filled. Calls that are too short to have waited for anything need a core each, so for them
//! workers beyond the number of cores do not count (waking those would only cost). Collect the oldest;
//! while it is not done, collect those behind it, so that one slow batch does not stop the others; when nothing is done, search briefly, then sleep on the map's own
//! waiting place, where every finished batch of this map notifies: one hop, no thread in between.
//!
//! # If a process dies
//! A worker: settlement keeps the results before the culprit and queues the rest of the batch again.

use super::inner::{InMap, Inner, Place};
use super::sizer::{BATCH_BYTES, Sizer};
use super::slot::Routing;
use super::state::Phase;
use super::submit::Job;
use super::task::carry_input;
use super::terms::Terms;
use crate::codec::{self, ArenaWriter, EncodeError, Shape, shape_of};
use crate::error::{Error, Step, TaskError};
use crate::limits::BATCH_CALLS_MAX;
use crate::prim::{Relaxed, fence_after_rmw};
use crate::shm::arena::is_forked_copy;
use crate::sync::crossing::Carried;
use crate::sync::search::search;
use serde::{Serialize, de::DeserializeOwned};
use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::sync::Arc;

/// A call that waits for something takes longer than this: two changes of context at the least.
const BLOCKING_NS: f64 = 5_000.0;

/// Runs `job` on every input; `sink` gets each outcome, in input order, until it breaks.
pub(crate) fn run<A, R>(
    inner: &Arc<Inner>,
    job: &Job,
    inputs: impl Iterator<Item = A>,
    mut sink: impl FnMut(Result<R, TaskError>) -> ControlFlow<()>,
) -> Result<(), Error>
where
    A: Serialize + 'static,
    R: DeserializeOwned + 'static,
{
    let mut map = Map::start(inner, job, inputs, Terms::WHOLE)?;
    while map.advance(&mut sink)?.is_continue() {}
    Ok(())
}

/// A batch that has been sent, oldest first.
#[derive(Debug)]
struct Flight<R> {
    /// Index of its first call.
    first: usize,
    calls: usize,
    at: At<R>,
}

#[derive(Debug)]
enum At<R> {
    UnderWay(Place),
    /// Out of its slot, waiting for an older one.
    Collected(Vec<Result<R, TaskError>>),
}

/// A map under way. Dropping it gives up what has not been collected.
pub(crate) struct Map<A, R, I: Iterator<Item = A>> {
    /// First, so that it is dropped after all else has been given up by `drop`.
    _entered: Option<InMap>,
    /// Before `inner`, in whose memory its context lies: fields are dropped in this order.
    job: Job,
    inner: Arc<Inner>,
    pub(crate) terms: Terms,
    waiting_place: u16,
    inputs: std::iter::Fuse<I>,
    /// An input that was taken but has not been sent.
    ahead: Option<A>,
    /// The failure of an input that could not be encoded, to come after the batch before it.
    refused: Option<TaskError>,
    flights: VecDeque<Flight<R>>,
    under_way: usize,
    input_ended: bool,
    /// Why no more inputs are sent: told when what was sent has been given out.
    failed: Option<Error>,
    /// Calls that were sent, and those of them whose outcome was given out.
    sent: usize,
    given: usize,
    pub(crate) sizer: Sizer,
}

/// What an attempt to send a batch came to.
enum Sent {
    Yes,
    InputEnded,
    /// No slot, or no room in the arena, while others are under way.
    Later,
}

impl<A, R, I> Map<A, R, I>
where
    A: Serialize + 'static,
    R: DeserializeOwned + 'static,
    I: Iterator<Item = A>,
{
    /// Enters a map; nothing is sent yet.
    pub(crate) fn start(
        inner: &Arc<Inner>,
        job: &Job,
        inputs: I,
        terms: Terms,
    ) -> Result<Self, Error> {
        let entered = match terms.whole {
            true => Some(inner.enter_map()?),
            false => {
                inner.check_open()?;
                None
            }
        };
        let (least, most) = inputs.size_hint();
        let batch = terms.batch.or(job.options.batch_calls());
        let batch = batch.map(|calls| calls.min(BATCH_CALLS_MAX));
        let known_ns = if most == Some(least) { inner.known_ns(job.code) } else { None };
        Ok(Self {
            inner: inner.clone(),
            _entered: entered,
            job: job.clone(),
            terms,
            waiting_place: inner.take_job(),
            inputs: inputs.fuse(),
            ahead: None,
            refused: None,
            flights: VecDeque::new(),
            under_way: 0,
            input_ended: false,
            failed: None,
            sent: 0,
            given: 0,
            sizer: Sizer::new(known_ns, batch),
        })
    }

    /// How many outcomes have not been given out, if the input says how long it is.
    #[cfg(feature = "progress")]
    pub(super) fn left(&self) -> Option<usize> {
        let (least, most) = self.inputs.size_hint();
        let exact = most.filter(|most| *most == least)?;
        Some(exact + usize::from(self.ahead.is_some()) + self.sent - self.given)
    }

    /// How many more calls the window has room for.
    fn room(&self) -> usize {
        let open = self.sent - self.given;
        let each = (self.sizer.input_bytes + self.sizer.output_bytes).max(1);
        // One at least, however long it is.
        let most = self.terms.window.min(self.terms.window_bytes / each).max(1);
        most.saturating_sub(open)
    }

    /// Keeps the workers busy, and waits until outcomes were given to `sink`; breaks if it did, or when all
    /// is over.
    pub(crate) fn advance<S>(&mut self, sink: &mut S) -> Result<ControlFlow<()>, Error>
    where
        S: FnMut(Result<R, TaskError>) -> ControlFlow<()>,
    {
        if is_forked_copy() {
            // What is under way is the original's.
            self.flights.clear();
            return Err(Error::forked());
        }
        loop {
            let most = 2 * self.useful_workers() + 1;
            while !self.input_ended && self.under_way < most && self.room() > 0 {
                match self.send() {
                    Ok(Sent::Yes) => {}
                    Ok(Sent::InputEnded) => self.input_ended = true,
                    Ok(Sent::Later) => break,
                    Err(error) => (self.input_ended, self.failed) = (true, Some(error)),
                }
                // Results that are ready make room for batches that are better sized.
                if self.front_is_done() {
                    break;
                }
            }
            if self.flights.is_empty() && self.input_ended {
                return self.failed.take().map_or(Ok(ControlFlow::Break(())), Err);
            }
            if self.front_is_done() {
                return Ok(self.collect(0, sink));
            }
            if !self.terms.ordered
                && let Some(at) = (1..self.flights.len()).find(|at| self.flight_is_done(*at))
            {
                return Ok(self.collect(at, sink));
            }
            if self.under_way > 0 && !self.collect_behind() {
                self.wait();
            }
        }
    }

    fn useful_workers(&self) -> usize {
        let (workers, cores) = (self.inner.most_workers(), self.inner.cores);
        let short = self.sizer.ns_per_call.is_some_and(|ns| ns < BLOCKING_NS);
        if short { workers.min(cores) } else { workers }
    }

    fn is_done(&self, place: Place) -> bool {
        self.inner.slot(place.index).state.load().phase == Phase::Done
    }

    fn front_is_done(&self) -> bool {
        self.flight_is_done(0)
    }

    fn flight_is_done(&self, at: usize) -> bool {
        match self.flights.get(at).map(|flight| &flight.at) {
            Some(At::UnderWay(place)) => self.is_done(*place),
            Some(At::Collected(_)) => true,
            None => false,
        }
    }

    fn next_input(&mut self) -> Option<A> {
        self.ahead.take().or_else(|| self.inputs.next())
    }

    // Sending -------------------------------------------------------------------------------

    fn send(&mut self) -> Result<Sent, Error> {
        if !self.terms.whole || self.inner.has_given_up_maps() {
            self.inner.check_open()?;
        }
        if self.ahead.is_none() {
            self.ahead = self.inputs.next();
        }
        if self.ahead.is_none() {
            return Ok(Sent::InputEnded);
        }
        let inner = self.inner.clone();
        let Some(slot) = inner.take_slot(false) else {
            return Ok(self.wait_for_slot());
        };
        match self.fill(slot.place.index) {
            Ok(true) => {
                let calls = inner.slot(slot.place.index).calls() as usize;
                let place = slot.send();
                self.job.watch_limits(&inner);
                self.enter(calls, At::UnderWay(place));
                self.under_way += 1;
                self.collect_refused();
                // Who closes the pool says so and then ends what is queued: that sees the slot, or this the end.
                // The last thing that sending did was a swap.
                fence_after_rmw();
                match inner.check_open() {
                    Err(error) if !error.is_closed() => inner.end_all_tasks(),
                    // It came while the slot was filled, and may have missed it.
                    Err(_) if !self.terms.whole || inner.has_given_up_maps() => {
                        inner.end_task(place)
                    }
                    _ => {}
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

    fn enter(&mut self, calls: usize, at: At<R>) {
        self.flights.push_back(Flight { first: self.sent, calls, at });
        self.sent += calls;
    }

    /// Other threads hold all slots: with batches under way ours come free first, else sleep.
    fn wait_for_slot(&mut self) -> Sent {
        if self.under_way == 0 {
            self.inner.wait_for_slot();
        }
        Sent::Later
    }

    /// Encodes inputs into the slot; `false` if the only one could not be encoded, which is then a
    /// collected failure.
    fn fill(&mut self, index: u32) -> Result<bool, Error> {
        let inner = self.inner.clone();
        let slot = inner.slot(index);
        let left = match self.inputs.size_hint() {
            (low, Some(high)) if low == high => Some(high + 1),
            _ => None,
        };
        let planned = self.sizer.calls(left, self.useful_workers()).min(self.room());
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
            slot.output.set(block.offset);
        }
        let mut writer = ArenaWriter::in_new_block(inner.area.arena, inner.user, estimate as u64)?;
        let (calls, carried) = self.encode(&mut writer, planned, table_calls)?;
        if calls == 0 {
            return Ok(false);
        }
        let output_has_table = calls > 1 && shape_of::<R>() == Shape::Varying;
        inner.set_sent(index, self.job.code, calls);
        slot.context.store(self.job.context_word(), Relaxed);
        slot.table_calls.store(table_calls as u32, Relaxed);
        let job = self.waiting_place;
        carry_input(inner.area.arena, slot, &carried)?;
        let routing = Routing { job, of_map: true, output_has_table, ..Routing::default() };
        let routing = self.job.route(&inner, index, routing);
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
            self.enter(1, At::Collected(vec![Err(error)]));
        }
    }

    // Collecting ----------------------------------------------------------------------------

    /// Takes a finished batch out of its slot.
    fn retire(&mut self, place: Place, mut sink: impl FnMut(Result<R, TaskError>)) {
        let slot = self.inner.slot(place.index);
        // Nobody else knows this task: the swap only moves the word on.
        if !slot.state.try_take(place.generation) {
            return;
        }
        let calls = self.inner.calls_of(place.index) as usize;
        let busy_ns = slot.busy_ns.load(Relaxed);
        if busy_ns > 0 && calls > 0 {
            self.sizer.learn(calls, busy_ns, slot.output_bytes.load(Relaxed) as usize);
        }
        self.under_way -= 1;
        self.inner.retire(place.index, |_, outcome| sink(outcome));
    }

    /// Gives out the outcomes of the finished batch at `at`.
    fn collect<S>(&mut self, at: usize, sink: &mut S) -> ControlFlow<()>
    where
        S: FnMut(Result<R, TaskError>) -> ControlFlow<()>,
    {
        let Some(Flight { first, calls, at }) = self.flights.remove(at) else {
            return ControlFlow::Continue(());
        };
        let mut giving = Giving { flow: ControlFlow::Continue(()), index: first, sink };
        match at {
            At::UnderWay(place) => self.retire(place, |outcome| giving.give(outcome)),
            At::Collected(outcomes) => outcomes.into_iter().for_each(|one| giving.give(one)),
        }
        let flow = giving.flow;
        self.given += calls;
        flow
    }

    /// Collects finished batches behind an unfinished first one; `false` if there are none.
    fn collect_behind(&mut self) -> bool {
        let mut any = false;
        for at in 1..self.flights.len() {
            let Some(Flight { at: At::UnderWay(place), .. }) = self.flights.get(at) else {
                continue;
            };
            let place = *place;
            if self.is_done(place) {
                let mut outcomes = Vec::new();
                self.retire(place, |outcome| outcomes.push(outcome));
                self.flights[at].at = At::Collected(outcomes);
                any = true;
            }
        }
        any
    }

    fn any_is_done(&self) -> bool {
        let mut under_way = self.flights.iter().filter_map(|flight| match flight.at {
            At::UnderWay(place) => Some(place),
            At::Collected(_) => None,
        });
        under_way.any(|place| self.is_done(place))
    }

    /// Waits until a batch is done: searches briefly, then sleeps.
    fn wait(&self) {
        if search(self.inner.search_ns, || self.any_is_done()) {
            return;
        }
        self.inner.area.wake_past_searcher();
        let bell = self.inner.area.job(usize::from(self.waiting_place));
        let epoch = bell.prepare();
        if !self.any_is_done() {
            bell.sleep(epoch, None);
        }
        bell.uncount();
    }
}

/// Gives the outcomes of a batch out, until the sink breaks.
struct Giving<'a, S> {
    flow: ControlFlow<()>,
    index: usize,
    sink: &'a mut S,
}

impl<S> Giving<'_, S> {
    #[inline(always)]
    fn give<R>(&mut self, outcome: Result<R, TaskError>)
    where
        S: FnMut(Result<R, TaskError>) -> ControlFlow<()>,
    {
        if self.flow.is_continue() {
            let index = self.index;
            self.flow = (self.sink)(outcome.map_err(|error| error.at(index)));
            self.index += 1;
        }
    }
}

impl<A, R, I: Iterator<Item = A>> Drop for Map<A, R, I> {
    /// Gives up what is under way, if the caller stopped early or its input panicked.
    fn drop(&mut self) {
        if is_forked_copy() {
            return;
        }
        if let Some(ns) = self.sizer.ns_per_call {
            self.inner.remember_ns(self.job.code, ns);
        }
        for flight in self.flights.drain(..) {
            if let At::UnderWay(place) = flight.at {
                self.inner.give_up_batch(place, self.job.context.clone());
            }
        }
        self.inner.return_job(self.waiting_place);
    }
}
