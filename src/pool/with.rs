//! [`With`]: the calls that users make on a pool and a context.

use super::Pool;
use super::context::Context;
use super::options::TaskOptions;
use super::pools::{collect, collect_each, without_argument};
use super::submit::{self, Job, TaskHandle};
use super::trampolines;
use crate::error::{Error, TaskError, TrySubmitError};
use serde::{Serialize, de::DeserializeOwned};
use std::marker::PhantomData;
use std::sync::Arc;

/// A pool and a context that its tasks may read; from [`Pool::with`].
///
/// # If a worker dies
/// Its replacement decodes the context again when it runs its first such task.
#[derive(Debug, Clone)]
#[must_use = "a context does nothing until tasks are started with it"]
pub struct With<'a, C> {
    pool: &'a Pool,
    context: Result<Arc<Context>, Error>,
    options: TaskOptions,
    of: PhantomData<fn(&C)>,
}

impl<'a, C> With<'a, C> {
    pub(super) fn new(pool: &'a Pool, context: Result<Arc<Context>, Error>) -> Self {
        Self { pool, context, options: TaskOptions::new(), of: PhantomData }
    }

    /// Has the tasks that are started through it run with `options`; see [`Pool::with_options`].
    ///
    /// # Errors
    /// Options that make no sense are reported by the calls on it.
    pub fn options(mut self, options: TaskOptions) -> Self {
        self.options = options;
        self
    }
}

impl<C: Serialize + DeserializeOwned + 'static> With<'_, C> {
    pub(super) fn pool(&self) -> &Pool {
        self.pool
    }

    pub(super) fn job<F, A, R>(&self, function: &F) -> Result<Job, Error>
    where
        F: Fn(&C, A) -> R + Copy + Send + 'static,
        A: Serialize + DeserializeOwned + 'static,
        R: Serialize + DeserializeOwned + 'static,
    {
        let code = trampolines::code_with_context_of::<F, C, A, R>(function)?;
        Job { context: Some(self.context.clone()?), ..Job::new(code) }.with(self.options)
    }

    /// Runs `function` on the context and every input; see [`Pool::map`].
    ///
    /// # Errors
    /// As [`Pool::map`], and a context that could not be encoded.
    pub fn map<F, A, R, I>(&self, function: F, inputs: I) -> Result<Vec<R>, Error>
    where
        F: Fn(&C, A) -> R + Copy + Send + 'static,
        A: Serialize + DeserializeOwned + 'static,
        R: Serialize + DeserializeOwned + 'static,
        I: IntoIterator<Item = A>,
    {
        collect(&self.pool.inner, &self.job(&function)?, inputs.into_iter())
    }

    /// Runs `function` on the context and every input, one outcome per call; see
    /// [`Pool::map_each`].
    ///
    /// # Errors
    /// As [`Pool::map_each`], and a context that could not be encoded.
    pub fn map_each<F, A, R, I>(
        &self,
        function: F,
        inputs: I,
    ) -> Result<Vec<Result<R, TaskError>>, Error>
    where
        F: Fn(&C, A) -> R + Copy + Send + 'static,
        A: Serialize + DeserializeOwned + 'static,
        R: Serialize + DeserializeOwned + 'static,
        I: IntoIterator<Item = A>,
    {
        collect_each(&self.pool.inner, &self.job(&function)?, inputs.into_iter())
    }

    /// Queues one call on the context; see [`Pool::submit`].
    ///
    /// # Errors
    /// As [`Pool::submit`], and a context that could not be encoded.
    pub fn submit<F, A, R>(&self, function: F, argument: A) -> Result<TaskHandle<R>, Error>
    where
        F: Fn(&C, A) -> R + Copy + Send + 'static,
        A: Serialize + DeserializeOwned + 'static,
        R: Serialize + DeserializeOwned + 'static,
    {
        let job = self.job(&function)?;
        submit::submit(&self.pool.inner, &job, argument, None).map_err(without_argument)
    }

    /// Queues one call on the context unless the queue is full; see [`Pool::try_submit`].
    ///
    /// # Errors
    /// Gives the argument back.
    pub fn try_submit<F, A, R>(
        &self,
        function: F,
        argument: A,
    ) -> Result<TaskHandle<R>, TrySubmitError<A>>
    where
        F: Fn(&C, A) -> R + Copy + Send + 'static,
        A: Serialize + DeserializeOwned + 'static,
        R: Serialize + DeserializeOwned + 'static,
    {
        match self.job(&function) {
            Ok(job) => submit::try_submit(&self.pool.inner, &job, argument),
            Err(error) => Err(TrySubmitError::Failed(argument, error)),
        }
    }
}
