//! Calls whose outcomes are taken one by one: [`Imap`], and what is made of it.
//!
//! An `Imap` is a map (`map/`) that goes on only while somebody asks for outcomes: its inputs are taken
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
use std::time::{Duration, Instant};

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

    /// Waits for the next outcome for at most `timeout`; `None` if there are no more.
    ///
    /// # Errors
    /// The time was up ([`Error::is_timed_out`]): nothing is lost, the outcome comes later.
    ///
    /// # Blocking
    /// For as long as `timeout`; if the input takes long to say what comes next, longer.
    ///
    /// # Examples
    /// ```
    /// use std::time::Duration;
    ///
    /// let pool = procpool::Pool::builder().workers(1).build()?;
    /// let nap = |ms: u64| std::thread::sleep(Duration::from_millis(ms));
    /// let mut naps = pool.imap(nap, [200])?;
    /// assert!(naps.next_timeout(Duration::from_millis(10)).is_err_and(|error| error.is_timed_out()));
    /// assert_eq!(naps.next_timeout(Duration::MAX)?, Some(Ok(())));
    /// assert_eq!(naps.next_timeout(Duration::ZERO)?, None);
    /// # Ok::<(), procpool::Error>(())
    /// ```
    pub fn next_timeout(
        &mut self,
        timeout: Duration,
    ) -> Result<Option<Result<R, TaskError>>, Error> {
        let deadline = Instant::now().checked_add(timeout);
        loop {
            if let Some(next) = self.next_until(deadline) {
                return Ok(next);
            }
            if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                return Err(Error::timed_out(format!(
                    "no outcome has come within {timeout:?}; there are more to come"
                )));
            }
        }
    }

    /// The next outcome, or `Some(None)` if there are no more; `None` if none has come yet.
    #[inline]
    fn next_until(&mut self, deadline: Option<Instant>) -> Option<Option<Result<R, TaskError>>> {
        if self.ready.is_empty() && !self.over {
            let ready = &mut self.ready;
            let mut keep = |outcome| {
                ready.push_back(outcome);
                ControlFlow::Continue(())
            };
            match self.map.advance(&mut keep, deadline) {
                Ok(ControlFlow::Continue(())) => {}
                Ok(ControlFlow::Break(())) => self.over = true,
                // What concerns the whole, as the last outcome.
                Err(error) => {
                    self.over = true;
                    self.ready.push_back(Err(TaskError::not_sent(&error)));
                }
            }
        }
        let next = self.ready.pop_front();
        (next.is_some() || self.over).then_some(next)
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
            if let Some(next) = self.next_until(None) {
                return next;
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
