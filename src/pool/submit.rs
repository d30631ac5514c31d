//! One task at a time: filling a slot, and the handle that waits for the outcome.
#![allow(unsafe_code)] // Writes the argument into a slot that it has taken.

use super::context::Context;
use super::inner::{Inner, Place};
use super::options::TaskOptions;
use super::slot::{INLINE_INPUT_BYTES, Routing};
use super::task::carry_input;
use super::watched::Ticket;
use crate::codec::{ArenaWriter, EncodeError, encode};
use crate::error::{Error, Step, TaskError, TrySubmitError};
use crate::prim::{Relaxed, fence_after_rmw};
use crate::process::identity::CodeOffset;
use crate::shm::arena::is_forked_copy;
use crate::shm::fault;
use crate::sync::search::search;
use serde::{Serialize, de::DeserializeOwned};
use std::fmt;
use std::marker::PhantomData;
use std::ptr::NonNull;
use std::sync::Arc;
use std::task::Waker;
use std::time::{Duration, Instant};

/// What a task runs, and how.
#[derive(Debug, Clone)]
pub(crate) struct Job {
    pub(crate) code: CodeOffset,
    pub(crate) context: Option<Arc<Context>>,
    pub(crate) options: TaskOptions,
}

impl Job {
    pub(crate) fn new(code: CodeOffset) -> Self {
        Self { code, context: None, options: TaskOptions::default() }
    }

    /// The same with options.
    ///
    /// # Errors
    /// They make no sense.
    pub(crate) fn with(self, options: TaskOptions) -> Result<Self, Error> {
        options.validate()?;
        Ok(Self { options, ..self })
    }

    /// Adds to a slot's routing what the options ask for, and keeps the rest.
    #[inline]
    pub(super) fn route(&self, inner: &Inner, index: u32, routing: Routing) -> Routing {
        let has_options = self.options.concern_supervisor();
        if has_options {
            inner.enter_options(index, self.options);
        }
        Routing { has_options, priority: self.options.priority_index(), ..routing }
    }

    /// Has limits enforced, once a task was sent.
    #[inline]
    pub(super) fn watch_limits(&self, inner: &Inner) {
        if self.options.or(&inner.special.defaults).limit().is_some() {
            inner.watch_limits();
        }
    }

    pub(crate) fn context_word(&self) -> u32 {
        self.context.as_ref().map_or(0, |context| context.to_raw())
    }
}

/// Queues one task, or gives the argument back.
pub(crate) fn try_submit<A, R>(
    inner: &Arc<Inner>,
    job: &Job,
    argument: A,
) -> Result<TaskHandle<R>, TrySubmitError<A>>
where
    A: Serialize + 'static,
    R: DeserializeOwned + 'static,
{
    if let Err(error) = inner.check_open() {
        return Err(match error.is_closed() {
            true => TrySubmitError::Closed(argument),
            false => TrySubmitError::Failed(argument, error),
        });
    }
    inner.area.prefetch_for_sending();
    let Some(slot) = inner.take_slot(true) else {
        return Err(TrySubmitError::Full(argument));
    };
    let mut filled = fill(inner, job, slot.place.index, &argument, Routing::default());
    if filled.as_ref().is_err_and(Error::is_arena_full) && inner.harvest(usize::MAX / 2) > 0 {
        filled = fill(inner, job, slot.place.index, &argument, Routing::default());
    }
    if let Err(error) = filled {
        return Err(TrySubmitError::Failed(argument, error));
    }
    let place = slot.send();
    job.watch_limits(inner);
    // A close or a break that came while the slot was filled may have missed it.
    // The last thing that sending did was a swap.
    fence_after_rmw();
    if inner.check_open().is_err() {
        inner.end_task(place);
    }
    let context = job.context.clone();
    Ok(TaskHandle {
        context,
        inner: inner.clone(),
        place,
        joined: false,
        watching: None,
        cancel_on_drop: false,
        result: PhantomData,
    })
}

/// Queues one task, waiting for a slot at most until `deadline`.
pub(crate) fn submit<A, R>(
    inner: &Arc<Inner>,
    job: &Job,
    mut argument: A,
    deadline: Option<Instant>,
) -> Result<TaskHandle<R>, TrySubmitError<A>>
where
    A: Serialize + 'static,
    R: DeserializeOwned + 'static,
{
    loop {
        argument = match try_submit(inner, job, argument) {
            Err(TrySubmitError::Full(argument)) => argument,
            other => return other,
        };
        let space = inner.area.job(0);
        let epoch = space.prepare();
        let again = try_submit(inner, job, argument);
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let full = matches!(again, Err(TrySubmitError::Full(_)));
        if full && left != Some(Duration::ZERO) {
            space.sleep(epoch, left);
        }
        space.uncount();
        argument = match again {
            Err(TrySubmitError::Full(argument)) if left != Some(Duration::ZERO) => argument,
            other => return other,
        };
    }
}

/// Writes everything that a worker needs into a free slot.
pub(super) fn fill<A: Serialize + 'static>(
    inner: &Inner,
    job: &Job,
    index: u32,
    argument: &A,
    routing: Routing,
) -> Result<(), Error> {
    let slot = inner.slot(index);
    let start = NonNull::new(slot.inline_input()).unwrap_or(NonNull::dangling());
    // SAFETY: slot rule R1: the slot is free and this thread took it from the list.
    let mut writer =
        unsafe { ArenaWriter::over(inner.area.arena, inner.user, start, INLINE_INPUT_BYTES) };
    let mut carried = Vec::new();
    match encode(argument, &mut writer, &mut carried) {
        Ok(()) => {}
        Err(EncodeError::Arena(error)) => return Err(error),
        Err(EncodeError::Refused(message)) => {
            return Err(TaskError::cannot_cross::<A>(Step::EncodeArgument, message).into());
        }
    }
    carry_input(inner.area.arena, slot, &carried)?;
    fault::point("main.argument-encoded");
    inner.set_sent(index, job.code, 1);
    slot.context.store(job.context_word(), Relaxed);
    slot.table_calls.store(0, Relaxed);
    let (block, bytes) = writer.finish();
    let routing = job.route(inner, index, routing);
    slot.set_input(block.map(|block| block.offset), bytes as u64, routing);
    Ok(())
}

/// Waits for the outcome of one submitted task.
///
/// Dropping it does not stop the task; its result is thrown away.
///
/// # Examples
/// ```
/// let pool = procpool::Pool::builder().workers(1).build()?;
/// let task = pool.submit(|n: u32| n.to_string(), 7)?;
/// assert_eq!(task.join()?, "7");
/// # Ok::<(), procpool::Error>(())
/// ```
#[must_use = "the result of the task is lost if its handle is dropped"]
pub struct TaskHandle<R> {
    /// Before `inner`, in whose memory it lies: fields are dropped in this order.
    context: Option<Arc<Context>>,
    inner: Arc<Inner>,
    place: Place,
    joined: bool,
    /// Under which it is to be told of the end, as a future.
    watching: Option<Ticket>,
    cancel_on_drop: bool,
    result: PhantomData<fn() -> R>,
}

impl<R> TaskHandle<R> {
    /// Returns whether the task has ended, well or not: [`join`](Self::join) will not wait.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.inner.has_ended(self.place)
    }

    /// Returns whether the task has ended without a value. A value that cannot be decoded is only found out by
    /// [`join`](Self::join).
    #[must_use]
    pub fn has_failed(&self) -> bool {
        self.inner.has_failed(self.place)
    }

    /// Cancels the task if it has not started; whether that was so. Its outcome is then
    /// [`TaskError::is_cancelled`]. A task that has started goes on, also if its worker died and it waits for
    /// a retry: [`abort`](Self::abort) ends that.
    pub fn cancel(&self) -> bool {
        !is_forked_copy() && self.inner.cancel_unstarted(self.place)
    }

    /// Ends the task, whether it has started or not: if it runs, its worker is killed, and its outcome is
    /// [`TaskError::is_aborted`]; if it does not, it is [cancelled](Self::cancel). `false` if it has ended.
    ///
    /// # Blocking
    /// Until that is decided: some microseconds, unless the supervisor has much else to do.
    ///
    /// # Examples
    /// ```
    /// let pool = procpool::Pool::builder().workers(1).build()?;
    /// let task = pool.submit(|_: u8| loop { std::thread::yield_now() }, 0)?;
    /// # let task: procpool::TaskHandle<u8> = task;
    /// assert!(task.abort());
    /// let error = task.join().unwrap_err();
    /// assert!(error.is_aborted() || error.is_cancelled());
    /// # Ok::<(), procpool::Error>(())
    /// ```
    #[doc(alias = "terminate")]
    pub fn abort(&self) -> bool {
        !is_forked_copy() && (self.inner.cancel(self.place) || self.inner.abort(self.place))
    }

    /// Has the task cancelled, if it has not started, when the handle is dropped.
    pub fn cancel_on_drop(mut self) -> Self {
        self.cancel_on_drop = true;
        self
    }

    pub(super) fn whereabouts(&self) -> (&Arc<Inner>, Place) {
        (&self.inner, self.place)
    }

    /// Has `waker` woken at the end; `false` if it has come.
    pub(super) fn watch(&mut self, waker: &Waker) -> bool {
        let ticket = *self.watching.get_or_insert_with(Ticket::take);
        self.inner.watch(self.place, ticket, waker)
    }

    /// Whether the outcome was taken.
    pub(super) fn is_taken(&self) -> bool {
        self.joined
    }

    /// Waits until the task has ended or `deadline` has come; `true` if it has ended.
    fn wait_until(&self, deadline: Option<Instant>) -> bool {
        let state = &self.inner.slot(self.place.index).state;
        if search(self.inner.search_ns, || self.is_finished()) {
            // It will be taken, read, and used again.
            self.inner.slot(self.place.index).prefetch();
            return true;
        }
        self.inner.area.wake_past_searcher();
        while !self.is_finished() {
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if left == Some(Duration::ZERO) {
                return false;
            }
            state.wait(self.place.generation, left);
        }
        true
    }
}

impl<R: DeserializeOwned + 'static> TaskHandle<R> {
    /// Waits for the task and returns its value.
    ///
    /// # Errors
    /// The task panicked, was lost with its worker, its argument or result could not cross, or the
    /// pool was closed before it ended.
    ///
    /// # Blocking
    /// Until the task has ended. [`join_timeout`](Self::join_timeout) waits for a limited time.
    ///
    /// # If a worker dies
    /// The task that it was running ends with [`TaskError::is_worker_lost`]; a task that it had not
    /// started yet is run by another.
    pub fn join(mut self) -> Result<R, TaskError> {
        if is_forked_copy() {
            return Err(TaskError::pool_closed());
        }
        self.wait_until(None);
        self.take()
    }

    /// Waits for the task for at most `timeout`.
    ///
    /// # Errors
    /// [`JoinTimeoutError::TimedOut`] gives the handle back; [`JoinTimeoutError::Failed`] is the
    /// task's own failure.
    ///
    /// # Examples
    /// ```
    /// use procpool::JoinTimeoutError;
    /// use std::time::Duration;
    ///
    /// let pool = procpool::Pool::builder().workers(1).build()?;
    /// let nap = |ms: u64| std::thread::sleep(Duration::from_millis(ms));
    /// let task = pool.submit(nap, 200)?;
    /// match task.join_timeout(Duration::from_millis(10)) {
    ///     Err(JoinTimeoutError::TimedOut(task)) => task.join()?,
    ///     other => other?,
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn join_timeout(mut self, timeout: Duration) -> Result<R, JoinTimeoutError<R>> {
        if is_forked_copy() {
            return Err(JoinTimeoutError::Failed(TaskError::pool_closed()));
        }
        let deadline = Instant::now().checked_add(timeout);
        if !self.wait_until(deadline) {
            return Err(JoinTimeoutError::TimedOut(self));
        }
        self.take().map_err(JoinTimeoutError::Failed)
    }

    /// Takes the outcome of a task that has ended.
    pub(super) fn take(&mut self) -> Result<R, TaskError> {
        self.joined = true;
        self.stop_watching();
        let Place { index, generation } = self.place;
        if !self.inner.slot(index).state.try_take(generation) {
            // R2 of `results.rs`: a submitting thread has harvested it.
            let harvested = self.inner.take_aside(self.place, self.context.take());
            return harvested.unwrap_or_else(|| {
                Err(TaskError::codec(Step::DecodeResult, "its outcome was not kept".into()))
            });
        }
        let mut outcome = None;
        self.inner.retire(index, |_, value| outcome = Some(value));
        outcome.unwrap_or_else(|| Err(TaskError::pool_closed()))
    }
}

impl<R> TaskHandle<R> {
    #[inline]
    fn stop_watching(&mut self) {
        if let Some(ticket) = self.watching.take() {
            self.inner.unwatch(self.place, ticket);
        }
    }
}

impl<R> Drop for TaskHandle<R> {
    fn drop(&mut self) {
        if !self.joined && !is_forked_copy() {
            self.stop_watching();
            if self.cancel_on_drop {
                self.inner.cancel(self.place);
            }
            self.inner.give_up(self.place, self.context.take());
        }
    }
}

impl<R> fmt::Debug for TaskHandle<R> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { inner, place, cancel_on_drop, .. } = self;
        formatter
            .debug_struct("TaskHandle")
            .field("pool", &inner.name)
            .field("slot", &place.index)
            .field("generation", &place.generation)
            .field("finished", &self.is_finished())
            .field("cancel_on_drop", cancel_on_drop)
            .finish()
    }
}

/// Why [`TaskHandle::join_timeout`] has no value.
pub enum JoinTimeoutError<R> {
    /// The time was up; here is the handle.
    TimedOut(TaskHandle<R>),
    /// The task failed.
    Failed(TaskError),
}

impl<R> fmt::Debug for JoinTimeoutError<R> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TimedOut(handle) => formatter.debug_tuple("TimedOut").field(handle).finish(),
            Self::Failed(error) => formatter.debug_tuple("Failed").field(error).finish(),
        }
    }
}

impl<R> fmt::Display for JoinTimeoutError<R> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TimedOut(_) => formatter.write_str("the task has not ended in time"),
            Self::Failed(error) => error.fmt(formatter),
        }
    }
}

impl<R> std::error::Error for JoinTimeoutError<R> {}
