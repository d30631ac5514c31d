//! Many calls of one function: keeping workers busy, and collecting results in order. Inputs are cut into
//! batches and sent by `send.rs`.
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

mod send;

use crate::error::{Error, TaskError};
use crate::limits::BATCH_CALLS_MAX;
use crate::pool::inner::{InMap, Inner, Place};
use crate::pool::sizer::Sizer;
use crate::pool::state::Phase;
use crate::pool::submit::Job;
use crate::pool::terms::Terms;
use crate::prim::Relaxed;
use crate::shm::arena::is_forked_copy;
use crate::sync::search::search;
use serde::{Serialize, de::DeserializeOwned};
use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

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
    #[cfg(feature = "progress")]
    if job.options.shows_progress() {
        let bar = crate::pool::progress::bar(map.left());
        let mut counted = |outcome| {
            bar.inc(1);
            sink(outcome)
        };
        while map.advance(&mut counted, None)?.is_continue() {}
        // Where it is: the map may have ended early.
        bar.abandon();
        return Ok(());
    }
    while map.advance(&mut sink, None)?.is_continue() {}
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

    /// Keeps the workers busy, and waits until outcomes were given to `sink`, or until the deadline; breaks if
    /// it did, or when all is over.
    pub(crate) fn advance<S>(
        &mut self,
        sink: &mut S,
        deadline: Option<Instant>,
    ) -> Result<ControlFlow<()>, Error>
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
                match self.send(deadline) {
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
                self.wait(deadline);
            }
            if left_until(deadline) == Some(Duration::ZERO) {
                return Ok(ControlFlow::Continue(()));
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

    /// Waits until a batch is done, or until the deadline: searches briefly, then sleeps.
    fn wait(&self, deadline: Option<Instant>) {
        if search(self.inner.search_ns, || self.any_is_done()) {
            return;
        }
        self.inner.area.wake_past_searcher();
        let bell = self.inner.area.job(usize::from(self.waiting_place));
        let epoch = bell.prepare();
        if !self.any_is_done() {
            bell.sleep(epoch, left_until(deadline));
        }
        bell.uncount();
    }
}

fn left_until(deadline: Option<Instant>) -> Option<Duration> {
    deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()))
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
