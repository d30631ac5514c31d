//! [`WithOptions`]: the calls that users make on a pool with options for their tasks.

use super::Pool;
use super::inner::Inner;
use super::options::TaskOptions;
use super::pools::{collect, collect_each, without_argument};
use super::stream::Imap;
use super::submit::{self, Job, TaskHandle};
use super::trampolines;
use crate::error::{Error, TaskError, TrySubmitError};
use crate::process::identity::CodeOffset;
use serde::{Serialize, de::DeserializeOwned};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A pool, and options for the tasks that are started through it; from [`Pool::with_options`].
#[derive(Debug, Clone, Copy)]
#[must_use = "options do nothing until tasks are started with them"]
pub struct WithOptions<'a> {
    pool: &'a Pool,
    options: TaskOptions,
}

impl Pool {
    /// Has the tasks that are started through the returned value run with `options`.
    ///
    /// # Examples
    /// ```
    /// use procpool::{Pool, TaskOptions};
    /// use std::time::Duration;
    ///
    /// let pool = Pool::builder().workers(2).build()?;
    /// let careful = pool.with_options(TaskOptions::new().timeout(Duration::from_secs(5)).retries(2));
    /// assert_eq!(careful.map(|x: u64| x + 1, 0..3)?, [1, 2, 3]);
    /// # Ok::<(), procpool::Error>(())
    /// ```
    ///
    /// # Errors
    /// Options that make no sense are reported by the calls on the returned value.
    pub fn with_options(&self, options: TaskOptions) -> WithOptions<'_> {
        WithOptions { pool: self, options }
    }

    /// Queues one call with options; see [`submit`](Self::submit).
    ///
    /// # Errors
    /// As [`submit`](Self::submit), and options that make no sense.
    pub fn submit_with<F, A, R>(
        &self,
        options: TaskOptions,
        function: F,
        argument: A,
    ) -> Result<TaskHandle<R>, Error>
    where
        F: Fn(A) -> R + Copy + Send + 'static,
        A: Serialize + DeserializeOwned + 'static,
        R: Serialize + DeserializeOwned + 'static,
    {
        self.with_options(options).submit(function, argument)
    }
}

impl WithOptions<'_> {
    pub(super) fn job(&self, code: Result<CodeOffset, Error>) -> Result<Job, Error> {
        Job::new(code?).with(self.options)
    }

    pub(super) fn inner(&self) -> &Arc<Inner> {
        &self.pool.inner
    }

    /// Runs `function` on every input; see [`Pool::map`].
    ///
    /// # Errors
    /// As [`Pool::map`], and options that make no sense.
    pub fn map<F, A, R, I>(&self, function: F, inputs: I) -> Result<Vec<R>, Error>
    where
        F: Fn(A) -> R + Copy + Send + 'static,
        A: Serialize + DeserializeOwned + 'static,
        R: Serialize + DeserializeOwned + 'static,
        I: IntoIterator<Item = A>,
    {
        let job = self.job(trampolines::code_of::<F, A, R>(&function))?;
        collect(&self.pool.inner, &job, inputs.into_iter())
    }

    /// Runs `function` on every input, one outcome per call; see [`Pool::map_each`].
    ///
    /// # Errors
    /// As [`Pool::map_each`], and options that make no sense.
    pub fn map_each<F, A, R, I>(
        &self,
        function: F,
        inputs: I,
    ) -> Result<Vec<Result<R, TaskError>>, Error>
    where
        F: Fn(A) -> R + Copy + Send + 'static,
        A: Serialize + DeserializeOwned + 'static,
        R: Serialize + DeserializeOwned + 'static,
        I: IntoIterator<Item = A>,
    {
        let job = self.job(trampolines::code_of::<F, A, R>(&function))?;
        collect_each(&self.pool.inner, &job, inputs.into_iter())
    }

    /// Runs `function` on every input, outcome by outcome; see [`Pool::imap`].
    ///
    /// # Errors
    /// As [`Pool::imap`], and options that make no sense.
    pub fn imap<F, A, R, I>(&self, function: F, inputs: I) -> Result<Imap<A, R, I::IntoIter>, Error>
    where
        F: Fn(A) -> R + Copy + Send + 'static,
        A: Serialize + DeserializeOwned + 'static,
        R: Serialize + DeserializeOwned + 'static,
        I: IntoIterator<Item = A>,
    {
        let job = self.job(trampolines::code_of::<F, A, R>(&function))?;
        Imap::start(self.pool, &job, inputs.into_iter(), true)
    }

    /// As [`imap`](Self::imap), in the order in which they end; see [`Pool::imap_unordered`].
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
        let job = self.job(trampolines::code_of::<F, A, R>(&function))?;
        Imap::start(self.pool, &job, inputs.into_iter(), false)
    }

    /// Queues one call; see [`Pool::submit`].
    ///
    /// # Errors
    /// As [`Pool::submit`], and options that make no sense.
    pub fn submit<F, A, R>(&self, function: F, argument: A) -> Result<TaskHandle<R>, Error>
    where
        F: Fn(A) -> R + Copy + Send + 'static,
        A: Serialize + DeserializeOwned + 'static,
        R: Serialize + DeserializeOwned + 'static,
    {
        let job = self.job(trampolines::code_of::<F, A, R>(&function))?;
        submit::submit(&self.pool.inner, &job, argument, None).map_err(without_argument)
    }

    /// Queues one call unless the queue is full; see [`Pool::try_submit`].
    ///
    /// # Errors
    /// Gives the argument back.
    pub fn try_submit<F, A, R>(
        &self,
        function: F,
        argument: A,
    ) -> Result<TaskHandle<R>, TrySubmitError<A>>
    where
        F: Fn(A) -> R + Copy + Send + 'static,
        A: Serialize + DeserializeOwned + 'static,
        R: Serialize + DeserializeOwned + 'static,
    {
        match self.job(trampolines::code_of::<F, A, R>(&function)) {
            Ok(job) => submit::try_submit(&self.pool.inner, &job, argument),
            Err(error) => Err(TrySubmitError::Failed(argument, error)),
        }
    }

    /// Queues one call, waiting at most `timeout` for a place in the queue; see [`Pool::submit_timeout`].
    ///
    /// # Errors
    /// Gives the argument back.
    pub fn submit_timeout<F, A, R>(
        &self,
        function: F,
        argument: A,
        timeout: Duration,
    ) -> Result<TaskHandle<R>, TrySubmitError<A>>
    where
        F: Fn(A) -> R + Copy + Send + 'static,
        A: Serialize + DeserializeOwned + 'static,
        R: Serialize + DeserializeOwned + 'static,
    {
        let deadline = Instant::now().checked_add(timeout);
        match self.job(trampolines::code_of::<F, A, R>(&function)) {
            Ok(job) => submit::submit(&self.pool.inner, &job, argument, deadline),
            Err(error) => Err(TrySubmitError::Failed(argument, error)),
        }
    }
}
