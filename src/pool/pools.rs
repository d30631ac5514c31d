//! [`Pool`]: the calls that users make.

use super::builder::PoolBuilder;
use super::context::Context;
use super::inner::Inner;
use super::leaving::Grace;
use super::map;
use super::stats::Stats;
use super::submit::{self, Job, TaskHandle};
use super::supervisor::Supervisor;
use super::trampolines;
use super::with::With;
use crate::error::{Error, TaskError, TrySubmitError};
use crate::shm::arena::is_forked_copy;
use serde::{Serialize, de::DeserializeOwned};
use std::fmt;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A pool of worker processes.
///
/// Tasks are functions, or closures that capture nothing; arguments and results are `serde` types.
/// The pool may be shared between threads, which may all submit and map at once.
///
/// # Examples
/// ```
/// use procpool::Pool;
///
/// let pool = Pool::new()?;
/// let squares = pool.map(|x: u64| x * x, 0..1000u64)?;
/// assert_eq!(squares[999], 998_001);
/// # Ok::<(), procpool::Error>(())
/// ```
///
/// A closure that captures something cannot run in another process, and does not compile; share
/// what it needs with [`with`](Pool::with):
/// ```compile_fail
/// let pool = procpool::Pool::new()?;
/// let factor = 3;
/// pool.map(move |x: u64| x * factor, 0..10u64)?;
/// # Ok::<(), procpool::Error>(())
/// ```
///
/// # If a worker dies
/// The call that it was running fails with [`TaskError::is_worker_lost`]; every other call goes on
/// in a fresh worker.
///
/// # Dropping
/// A dropped pool kills its workers at once, and waits for their death (at most ten seconds, should some be
/// stuck in the kernel); tasks that have not ended fail with
/// [`TaskError::is_pool_closed`]. [`shutdown`](Pool::shutdown) lets them end first.
pub struct Pool {
    pub(super) inner: Arc<Inner>,
    pub(super) supervisor: Arc<Supervisor>,
}

impl Pool {
    /// Starts a pool with one worker per usable core and default settings.
    ///
    /// # Errors
    /// See [`PoolBuilder::build`].
    pub fn new() -> Result<Self, Error> {
        Self::builder().build()
    }

    /// Returns a builder for a pool with other settings.
    pub fn builder() -> PoolBuilder {
        PoolBuilder::new()
    }

    pub(super) fn from_parts(inner: Arc<Inner>, supervisor: Arc<Supervisor>) -> Self {
        Self { inner, supervisor }
    }

    /// Runs `function` on every input in the workers and returns the results in input order.
    ///
    /// Calls travel in batches whose size follows the time that they take; inputs are consumed as
    /// workers become free, so that a long input need not be in memory at once.
    ///
    /// # Errors
    /// The first failure in input order, with its index ([`TaskError::index`]); inputs behind it may
    /// or may not have run. A `Result` returned by `function` is a value like any other.
    ///
    /// # Blocking
    /// Until all results have arrived.
    ///
    /// # If a worker dies
    /// The call that it was running fails and so does the map; use [`map_each`](Self::map_each) to
    /// get all the others.
    #[doc(alias = "starmap")]
    pub fn map<F, A, R, I>(&self, function: F, inputs: I) -> Result<Vec<R>, Error>
    where
        F: Fn(A) -> R + Copy + Send + 'static,
        A: Serialize + DeserializeOwned + 'static,
        R: Serialize + DeserializeOwned + 'static,
        I: IntoIterator<Item = A>,
    {
        let job = Job::new(trampolines::code_of::<F, A, R>(&function)?);
        collect(&self.inner, &job, inputs.into_iter())
    }

    /// Runs `function` on every input and returns one outcome per call, in input order.
    ///
    /// # Errors
    /// Only what concerns the whole map: a closed pool, a full arena. What happens to a call is in
    /// its own outcome.
    ///
    /// # Examples
    /// ```
    /// let pool = procpool::Pool::builder().workers(2).build()?;
    /// let outcomes = pool.map_each(|x: u32| { assert!(x != 2, "no twos"); x * 10 }, 0..4u32)?;
    /// assert_eq!(outcomes[3], Ok(30));
    /// assert_eq!(outcomes[2].as_ref().unwrap_err().panic_message(), Some("no twos"));
    /// # Ok::<(), procpool::Error>(())
    /// ```
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
        let job = Job::new(trampolines::code_of::<F, A, R>(&function)?);
        collect_each(&self.inner, &job, inputs.into_iter())
    }

    /// Queues one call and returns a handle to its outcome.
    ///
    /// # Errors
    /// The pool is closed, the argument cannot be encoded, or the arena has no room for it.
    ///
    /// # Blocking
    /// While the queue is full. Finished tasks whose handles have not been joined do not fill it:
    /// their results are moved to this process's own memory.
    #[doc(alias = "apply_async")]
    pub fn submit<F, A, R>(&self, function: F, argument: A) -> Result<TaskHandle<R>, Error>
    where
        F: Fn(A) -> R + Copy + Send + 'static,
        A: Serialize + DeserializeOwned + 'static,
        R: Serialize + DeserializeOwned + 'static,
    {
        let job = Job::new(trampolines::code_of::<F, A, R>(&function)?);
        submit::submit(&self.inner, &job, argument, None).map_err(without_argument)
    }

    /// Queues one call unless the queue is full.
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
        match trampolines::code_of::<F, A, R>(&function) {
            Ok(code) => submit::try_submit(&self.inner, &Job::new(code), argument),
            Err(error) => Err(TrySubmitError::Failed(argument, error)),
        }
    }

    /// Queues one call, waiting at most `timeout` for a place in the queue.
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
        match trampolines::code_of::<F, A, R>(&function) {
            Ok(code) => submit::submit(&self.inner, &Job::new(code), argument, deadline),
            Err(error) => Err(TrySubmitError::Failed(argument, error)),
        }
    }

    /// Shares `context` with the tasks started through the returned value.
    ///
    /// It is encoded now, once, and decoded once in each worker that runs such a task.
    ///
    /// # Examples
    /// ```
    /// let pool = procpool::Pool::builder().workers(2).build()?;
    /// let words = vec!["one".to_string(), "three".to_string()];
    /// let lengths = pool.with(&words).map(|words: &Vec<String>, i: usize| words[i].len(), 0..2usize)?;
    /// assert_eq!(lengths, [3, 5]);
    /// # Ok::<(), procpool::Error>(())
    /// ```
    ///
    /// # Errors
    /// A context that cannot be encoded is reported by the calls on the returned value.
    pub fn with<C>(&self, context: &C) -> With<'_, C>
    where
        C: Serialize + DeserializeOwned + 'static,
    {
        let Inner { area, user, .. } = *self.inner;
        let id = self.inner.next_context_id();
        let context = Context::create(area, id, context, user).map(Arc::new);
        With::new(self, context)
    }

    /// The number of workers.
    #[must_use]
    pub fn workers(&self) -> usize {
        self.inner.workers()
    }

    /// What the pool has done so far.
    #[must_use]
    pub fn stats(&self) -> Stats {
        Stats::of(&self.inner)
    }

    /// Stops accepting work; what was accepted goes on. [`shutdown`](Self::shutdown) waits for it.
    ///
    /// A `map` that runs goes on to its end; an [`imap`](Self::imap) takes no more inputs.
    pub fn close(&self) {
        if !is_forked_copy() {
            self.inner.close();
        }
    }

    /// Checks what must hold while no task is under way; for tests.
    ///
    /// # Errors
    /// What does not hold.
    #[doc(hidden)]
    pub fn check_invariants(&self) -> Result<(), String> {
        self.inner.harvest(usize::MAX / 2);
        self.inner.area.check_invariants(&self.inner.free_list())
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        if is_forked_copy() {
            return;
        }
        self.inner.close();
        // One in the background would wait for workers that do not come.
        self.inner.give_up_maps();
        // It can only fail when the supervisor is gone, and then so are the workers.
        let _ = self.supervisor.remove(self.inner.id, Grace::NONE);
        if Arc::strong_count(&self.supervisor) == 1 {
            self.inner.area.arena.trim();
        }
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { inner, supervisor: _ } = self;
        formatter
            .debug_struct("Pool")
            .field("name", &inner.name)
            .field("workers", &inner.workers())
            .field("queue_capacity", &inner.area.slots.len())
            .field("open", &inner.check_open().is_ok())
            .finish()
    }
}

pub(super) fn without_argument<A>(error: TrySubmitError<A>) -> Error {
    match error {
        TrySubmitError::Full(_) => Error::limit("the pool's queue is full".into()),
        TrySubmitError::Closed(_) => Error::closed(),
        TrySubmitError::Failed(_, error) => error,
    }
}

pub(super) fn collect<A, R>(
    inner: &Arc<Inner>,
    job: &Job,
    inputs: impl Iterator<Item = A>,
) -> Result<Vec<R>, Error>
where
    A: Serialize + 'static,
    R: DeserializeOwned + 'static,
{
    let mut values = Vec::with_capacity(inputs.size_hint().0);
    let mut failure = None;
    map::run(inner, job, inputs, |outcome| match outcome {
        Ok(value) => {
            values.push(value);
            ControlFlow::Continue(())
        }
        Err(error) => {
            failure = Some(error);
            ControlFlow::Break(())
        }
    })?;
    failure.map_or(Ok(values), |error| Err(error.into()))
}

pub(super) fn collect_each<A, R>(
    inner: &Arc<Inner>,
    job: &Job,
    inputs: impl Iterator<Item = A>,
) -> Result<Vec<Result<R, TaskError>>, Error>
where
    A: Serialize + 'static,
    R: DeserializeOwned + 'static,
{
    let mut outcomes = Vec::with_capacity(inputs.size_hint().0);
    map::run(inner, job, inputs, |outcome| {
        outcomes.push(outcome);
        ControlFlow::Continue(())
    })?;
    Ok(outcomes)
}
