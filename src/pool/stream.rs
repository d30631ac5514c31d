//! Calls whose outcomes are taken one by one: [`Imap`], and what is made of it.
//!
//! An `Imap` is a map (`map.rs`) that goes on only while somebody asks for outcomes: its inputs are taken
//! within a window, and what was not asked for waits.

use super::Pool;
use super::inner::Inner;
use super::map::{self, Map};
use super::submit::Job;
use super::terms::Terms;
use super::trampolines;
use super::with::With;
use super::with_options::WithOptions;
use crate::error::{Error, TaskError};
use crate::limits::BATCH_CALLS_MAX;
use serde::{Serialize, de::DeserializeOwned};
use std::collections::VecDeque;
use std::fmt;
use std::ops::ControlFlow;
use std::sync::Arc;

const WINDOW_CALLS: usize = 10_000;
const WINDOW_BYTES: usize = 64 << 20;

/// The outcomes of many calls, one by one, while the workers go on; from [`Pool::imap`] and
/// [`Pool::imap_unordered`].
///
/// It is lazy: inputs are taken while outcomes are asked for, and no more of them than the window allows
/// are taken before their outcome. So an endless input works, and memory stays as it is. Dropping it
/// gives up what has not started; calls that run go on to their end. When the pool is closed no more
/// inputs are taken, and that is the last outcome.
///
/// # If a worker dies
/// The call that it was running has [`TaskError::is_worker_lost`] as its outcome; all others go on.
#[must_use = "an iterator does nothing until outcomes are asked for"]
pub struct Imap<A, R, I: Iterator<Item = A>> {
    map: Map<A, R, I>,
    ready: VecDeque<Result<R, TaskError>>,
    over: bool,
}

impl<A, R, I> Imap<A, R, I>
where
    A: Serialize + DeserializeOwned + 'static,
    R: Serialize + DeserializeOwned + 'static,
    I: Iterator<Item = A>,
{
    pub(super) fn start(pool: &Pool, job: &Job, inputs: I, ordered: bool) -> Result<Self, Error> {
        let terms = Terms {
            batch: None,
            window: WINDOW_CALLS,
            window_bytes: WINDOW_BYTES,
            ordered,
            whole: false,
        };
        let map = Map::start(&pool.inner, job, inputs, terms)?;
        Ok(Self { map, ready: VecDeque::new(), over: false })
    }

    /// Sets how many inputs may be taken whose outcome has not been returned, at least 1. Default: 10,000.
    pub fn window(mut self, calls: usize) -> Self {
        self.map.terms.window = calls.max(1);
        self
    }

    /// Sets about how many bytes the arguments and results of these may have, encoded; one call is always
    /// under way, however long. Default: 64 MiB.
    pub fn window_bytes(mut self, bytes: usize) -> Self {
        self.map.terms.window_bytes = bytes;
        self
    }

    /// How many outcomes are to come, if the input says how long it is.
    #[cfg(feature = "progress")]
    pub(super) fn left(&self) -> Option<usize> {
        self.map.left().map(|left| left + self.ready.len())
    }

    /// Sets how many calls travel together, 1 to 65,536. Default: as many as take 0.2 ms, by measurement.
    #[doc(alias = "chunksize")]
    pub fn batch(mut self, calls: usize) -> Self {
        self.map.terms.batch = Some(calls.clamp(1, BATCH_CALLS_MAX));
        self.map.sizer.set_fixed(calls.clamp(1, BATCH_CALLS_MAX));
        self
    }
}

impl<A, R, I> Iterator for Imap<A, R, I>
where
    A: Serialize + DeserializeOwned + 'static,
    R: Serialize + DeserializeOwned + 'static,
    I: Iterator<Item = A>,
{
    type Item = Result<R, TaskError>;

    fn next(&mut self) -> Option<Result<R, TaskError>> {
        loop {
            if let Some(outcome) = self.ready.pop_front() {
                return Some(outcome);
            }
            if self.over {
                return None;
            }
            let ready = &mut self.ready;
            let advanced = self.map.advance(&mut |outcome| {
                ready.push_back(outcome);
                ControlFlow::Continue(())
            });
            match advanced {
                Ok(ControlFlow::Continue(())) => {}
                Ok(ControlFlow::Break(())) => self.over = true,
                // What concerns the whole, as the last outcome.
                Err(error) => {
                    self.over = true;
                    self.ready.push_back(Err(TaskError::not_sent(&error)));
                }
            }
        }
    }
}

impl<A, R, I: Iterator<Item = A>> fmt::Debug for Imap<A, R, I> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Imap")
            .field("terms", &self.map.terms)
            .field("ready", &self.ready.len())
            .field("over", &self.over)
            .finish()
    }
}

impl Pool {
    /// Runs `function` on every input; returns an iterator over the outcomes, in input order, that takes
    /// inputs as it goes.
    ///
    /// # Errors
    /// The pool is closed. If it closes later, or the arena is too full for an argument, that is the last
    /// outcome. What happens to a call is in its own outcome.
    ///
    /// # Examples
    /// ```
    /// let pool = procpool::Pool::builder().workers(2).build()?;
    /// // An endless input: no more is taken than is needed.
    /// let mut squares = pool.imap(|n: u64| n * n, 0..)?.window(100);
    /// let large = squares.find(|square| square.as_ref().is_ok_and(|square| *square > 1000));
    /// assert_eq!(large, Some(Ok(1024)));
    /// # Ok::<(), procpool::Error>(())
    /// ```
    pub fn imap<F, A, R, I>(&self, function: F, inputs: I) -> Result<Imap<A, R, I::IntoIter>, Error>
    where
        F: Fn(A) -> R + Copy + Send + 'static,
        A: Serialize + DeserializeOwned + 'static,
        R: Serialize + DeserializeOwned + 'static,
        I: IntoIterator<Item = A>,
    {
        let job = Job::new(trampolines::code_of::<F, A, R>(&function)?);
        Imap::start(self, &job, inputs.into_iter(), true)
    }

    /// As [`imap`](Self::imap), with the outcomes of each batch as soon as it has ended.
    ///
    /// [`TaskError::index`] tells which call failed; a value tells only if the function returns it.
    ///
    /// # Errors
    /// As [`imap`](Self::imap).
    pub fn imap_unordered<F, A, R, I>(
        &self,
        function: F,
        inputs: I,
    ) -> Result<Imap<A, R, I::IntoIter>, Error>
    where
        F: Fn(A) -> R + Copy + Send + 'static,
        A: Serialize + DeserializeOwned + 'static,
        R: Serialize + DeserializeOwned + 'static,
        I: IntoIterator<Item = A>,
    {
        let job = Job::new(trampolines::code_of::<F, A, R>(&function)?);
        Imap::start(self, &job, inputs.into_iter(), false)
    }

    /// Runs `function` on every input, for what it does.
    ///
    /// # Errors
    /// As [`map`](Self::map).
    ///
    /// # Blocking
    /// Until all calls have ended, or one has failed.
    pub fn for_each<F, A, I>(&self, function: F, inputs: I) -> Result<(), Error>
    where
        F: Fn(A) + Copy + Send + 'static,
        A: Serialize + DeserializeOwned + 'static,
        I: IntoIterator<Item = A>,
    {
        let job = Job::new(trampolines::code_of::<F, A, ()>(&function)?);
        drive(&self.inner, &job, inputs.into_iter())
    }

    /// Runs `function` on every input, and combines the results two by two with `fold`, most of them in the
    /// workers: only one result for each chunk of inputs comes back. `None` if there is no input.
    ///
    /// `fold` must be associative: it is given neighbours, in input order, but in any grouping.
    ///
    /// For what the pool counts and limits, a chunk (of up to 1024 inputs) is a call. If the pool has a time limit,
    /// retries, or workers that are [recycled](crate::Recycle::after_tasks) after so many calls, each input
    /// travels alone, and is one.
    ///
    /// # Errors
    /// As [`map`](Self::map); the index of a failure is that of its chunk.
    ///
    /// # Examples
    /// ```
    /// let pool = procpool::Pool::builder().workers(2).build()?;
    /// let sum = pool.map_reduce(|n: u64| n * n, |a, b| a + b, 0..1000u64)?;
    /// assert_eq!(sum, Some(332_833_500));
    /// # Ok::<(), procpool::Error>(())
    /// ```
    pub fn map_reduce<F, G, A, R, I>(
        &self,
        function: F,
        fold: G,
        inputs: I,
    ) -> Result<Option<R>, Error>
    where
        F: Fn(A) -> R + Copy + Send + 'static,
        G: Fn(R, R) -> R + Copy + Send + 'static,
        A: Serialize + DeserializeOwned + 'static,
        R: Serialize + DeserializeOwned + 'static,
        I: IntoIterator<Item = A>,
    {
        let code = trampolines::code_of_fold::<F, G, A, R>(&function, &fold)?;
        let most = if self.inner.counts_calls() { 1 } else { CHUNK_MAX };
        let inputs = inputs.into_iter().fuse();
        let chunks = Chunks { inputs, workers: self.workers(), most, last: 0 };
        let (mut folded, mut failure) = (None, None);
        let job = Job::new(code);
        map::run::<Vec<A>, R>(&self.inner, &job, chunks, |outcome| match outcome {
            Ok(next) => {
                folded = Some(match folded.take() {
                    Some(before) => fold(before, next),
                    None => next,
                });
                ControlFlow::Continue(())
            }
            Err(error) => {
                failure = Some(error);
                ControlFlow::Break(())
            }
        })?;
        failure.map_or(Ok(folded), |error| Err(error.into()))
    }
}

/// Runs `job` on every input, for what it does.
fn drive<A: Serialize + 'static>(
    inner: &Arc<Inner>,
    job: &Job,
    inputs: impl Iterator<Item = A>,
) -> Result<(), Error> {
    let mut failure = None;
    map::run::<A, ()>(inner, job, inputs, |outcome| match outcome {
        Ok(()) => ControlFlow::Continue(()),
        Err(error) => {
            failure = Some(error);
            ControlFlow::Break(())
        }
    })?;
    failure.map_or(Ok(()), |error| Err(error.into()))
}

impl WithOptions<'_> {
    /// Runs `function` on every input, for what it does; see [`Pool::for_each`].
    ///
    /// # Errors
    /// As [`Pool::for_each`], and options that make no sense.
    pub fn for_each<F, A, I>(&self, function: F, inputs: I) -> Result<(), Error>
    where
        F: Fn(A) + Copy + Send + 'static,
        A: Serialize + DeserializeOwned + 'static,
        I: IntoIterator<Item = A>,
    {
        let job = self.job(trampolines::code_of::<F, A, ()>(&function))?;
        drive(self.inner(), &job, inputs.into_iter())
    }
}

impl<C: Serialize + DeserializeOwned + 'static> With<'_, C> {
    /// Runs `function` on the context and every input, outcome by outcome; see [`Pool::imap`].
    ///
    /// # Errors
    /// As [`Pool::imap`], and a context that could not be encoded.
    pub fn imap<F, A, R, I>(&self, function: F, inputs: I) -> Result<Imap<A, R, I::IntoIter>, Error>
    where
        F: Fn(&C, A) -> R + Copy + Send + 'static,
        A: Serialize + DeserializeOwned + 'static,
        R: Serialize + DeserializeOwned + 'static,
        I: IntoIterator<Item = A>,
    {
        Imap::start(self.pool(), &self.job(&function)?, inputs.into_iter(), true)
    }
}

/// Most inputs that are folded as one.
const CHUNK_MAX: usize = 1024;

/// Cuts an input into chunks: larger and larger ones, and towards the end of an input that says how long
/// it is smaller ones, so that the workers finish together.
struct Chunks<I: Iterator> {
    inputs: std::iter::Fuse<I>,
    workers: usize,
    most: usize,
    last: usize,
}

impl<I: Iterator> Iterator for Chunks<I> {
    type Item = Vec<I::Item>;

    fn next(&mut self) -> Option<Vec<I::Item>> {
        let share = match self.inputs.size_hint() {
            (low, Some(high)) if low == high => high / (4 * self.workers),
            _ => self.most,
        };
        self.last = (2 * self.last).min(share).clamp(1, self.most);
        let chunk: Vec<I::Item> = self.inputs.by_ref().take(self.last).collect();
        (!chunk.is_empty()).then_some(chunk)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_grow_and_shrink_and_lose_nothing() {
        let chunks = Chunks { inputs: (0..10_000u32).fuse(), workers: 2, most: CHUNK_MAX, last: 0 };
        let chunks: Vec<Vec<u32>> = chunks.collect();
        let lengths: Vec<usize> = chunks.iter().map(Vec::len).collect();
        assert_eq!(lengths[..4], [1, 2, 4, 8]);
        assert!(lengths.iter().any(|length| *length > 500) && lengths.last() == Some(&1));
        assert!(chunks.into_iter().flatten().eq(0..10_000));
        let inputs = std::iter::repeat(1).fuse();
        let mut endless = Chunks { inputs, workers: 2, most: CHUNK_MAX, last: 0 };
        assert_eq!(endless.nth(20).map(|chunk| chunk.len()), Some(CHUNK_MAX));
    }
}
