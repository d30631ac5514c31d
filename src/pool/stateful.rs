//! The calls that users make on the workers' state: what a pool's initialiser has made.

use super::Pool;
use super::pools::{collect, collect_each, without_argument};
use super::submit::{self, Job, TaskHandle};
use super::trampolines;
use super::with_options::WithOptions;
use crate::error::{Error, TaskError};
use serde::{Serialize, de::DeserializeOwned};

impl Pool {
    /// Runs `function` on every input and the state of the worker that it comes to; see
    /// [`map`](Self::map) and [`PoolBuilder::initializer`](crate::PoolBuilder::initializer).
    ///
    /// Calls in one worker come one after the other, and each finds the state as the one before left it,
    /// also if that panicked.
    ///
    /// # Errors
    /// As [`map`](Self::map). A call fails if the state is of another type, or there is none.
    ///
    /// # If a worker dies
    /// Its state goes with it; its replacement runs the initializer again.
    pub fn map_state<F, S, A, R, I>(&self, function: F, inputs: I) -> Result<Vec<R>, Error>
    where
        F: Fn(&mut S, A) -> R + Copy + Send + 'static,
        S: 'static,
        A: Serialize + DeserializeOwned + 'static,
        R: Serialize + DeserializeOwned + 'static,
        I: IntoIterator<Item = A>,
    {
        let code = trampolines::code_with_state_of::<F, S, A, R>(&function)?;
        collect(&self.inner, &Job::new(code), inputs.into_iter())
    }

    /// As [`map_state`](Self::map_state), with one outcome per call; see [`map_each`](Self::map_each).
    ///
    /// # Errors
    /// Only what concerns the whole map.
    pub fn map_state_each<F, S, A, R, I>(
        &self,
        function: F,
        inputs: I,
    ) -> Result<Vec<Result<R, TaskError>>, Error>
    where
        F: Fn(&mut S, A) -> R + Copy + Send + 'static,
        S: 'static,
        A: Serialize + DeserializeOwned + 'static,
        R: Serialize + DeserializeOwned + 'static,
        I: IntoIterator<Item = A>,
    {
        let code = trampolines::code_with_state_of::<F, S, A, R>(&function)?;
        collect_each(&self.inner, &Job::new(code), inputs.into_iter())
    }

    /// Queues one call on the state of the worker that it comes to; see [`submit`](Self::submit).
    ///
    /// # Errors
    /// As [`submit`](Self::submit).
    pub fn submit_state<F, S, A, R>(&self, function: F, argument: A) -> Result<TaskHandle<R>, Error>
    where
        F: Fn(&mut S, A) -> R + Copy + Send + 'static,
        S: 'static,
        A: Serialize + DeserializeOwned + 'static,
        R: Serialize + DeserializeOwned + 'static,
    {
        let code = trampolines::code_with_state_of::<F, S, A, R>(&function)?;
        submit::submit(&self.inner, &Job::new(code), argument, None).map_err(without_argument)
    }
}

impl WithOptions<'_> {
    /// Runs `function` on every input and the state of the worker that it comes to; see
    /// [`Pool::map_state`].
    ///
    /// # Errors
    /// As [`Pool::map_state`], and options that make no sense.
    pub fn map_state<F, S, A, R, I>(&self, function: F, inputs: I) -> Result<Vec<R>, Error>
    where
        F: Fn(&mut S, A) -> R + Copy + Send + 'static,
        S: 'static,
        A: Serialize + DeserializeOwned + 'static,
        R: Serialize + DeserializeOwned + 'static,
        I: IntoIterator<Item = A>,
    {
        let job = self.job(trampolines::code_with_state_of::<F, S, A, R>(&function))?;
        collect(self.inner(), &job, inputs.into_iter())
    }

    /// As [`map_state`](Self::map_state), with one outcome per call; see [`Pool::map_state_each`].
    ///
    /// # Errors
    /// Only what concerns the whole map.
    pub fn map_state_each<F, S, A, R, I>(
        &self,
        function: F,
        inputs: I,
    ) -> Result<Vec<Result<R, TaskError>>, Error>
    where
        F: Fn(&mut S, A) -> R + Copy + Send + 'static,
        S: 'static,
        A: Serialize + DeserializeOwned + 'static,
        R: Serialize + DeserializeOwned + 'static,
        I: IntoIterator<Item = A>,
    {
        let job = self.job(trampolines::code_with_state_of::<F, S, A, R>(&function))?;
        collect_each(self.inner(), &job, inputs.into_iter())
    }

    /// Queues one call on the state of the worker that it comes to; see [`Pool::submit_state`].
    ///
    /// # Errors
    /// As [`Pool::submit_state`], and options that make no sense.
    pub fn submit_state<F, S, A, R>(&self, function: F, argument: A) -> Result<TaskHandle<R>, Error>
    where
        F: Fn(&mut S, A) -> R + Copy + Send + 'static,
        S: 'static,
        A: Serialize + DeserializeOwned + 'static,
        R: Serialize + DeserializeOwned + 'static,
    {
        let job = self.job(trampolines::code_with_state_of::<F, S, A, R>(&function))?;
        submit::submit(self.inner(), &job, argument, None).map_err(without_argument)
    }
}
