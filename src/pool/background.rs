//! A map that goes on in the background: [`MapHandle`].
//!
//! A map is driven by a thread that takes inputs and collects results; this one has a thread of its own for
//! that.

use super::Pool;
use super::inner::{Inner, lock};
use super::map::Map;
use super::submit::Job;
use super::terms::Terms;
use super::trampolines;
use super::with_options::WithOptions;
use crate::error::{Error, TaskError};
use crate::prim::{Condvar, Mutex};
use serde::{Serialize, de::DeserializeOwned};
use std::fmt;
use std::ops::ControlFlow;
use std::sync::{Arc, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Waits for the results of a map in the background, from [`Pool::submit_map`].
///
/// Dropping it does not stop the map; its results are thrown away.
#[must_use = "the results of the map are lost if its handle is dropped"]
pub struct MapHandle<R> {
    state: Arc<State>,
    thread: JoinHandle<Result<Vec<R>, Error>>,
}

/// What the handle and the thread share.
#[derive(Debug, Default)]
struct State {
    flags: Mutex<Flags>,
    ended: Condvar,
}

#[derive(Debug, Default, Clone, Copy)]
struct Flags {
    cancelled: bool,
    ended: bool,
}

/// Says that the map has ended, also when its input has panicked.
struct SayEnded(Arc<State>);

impl Drop for SayEnded {
    fn drop(&mut self) {
        lock(&self.0.flags).ended = true;
        self.0.ended.notify_all();
    }
}

impl Pool {
    /// Runs `function` on every input in the background; see [`map`](Self::map).
    ///
    /// # Errors
    /// The pool is closed, or the system refuses a thread. What happens to the map is told by the handle.
    ///
    /// # Examples
    /// ```
    /// let pool = procpool::Pool::builder().workers(2).build()?;
    /// let squares = pool.submit_map(|n: u64| n * n, 0..1000)?;
    /// // Something else meanwhile.
    /// assert_eq!(squares.join()?[10], 100);
    /// # Ok::<(), procpool::Error>(())
    /// ```
    #[doc(alias = "map_async")]
    #[doc(alias = "starmap_async")]
    pub fn submit_map<F, A, R, I>(&self, function: F, inputs: I) -> Result<MapHandle<R>, Error>
    where
        F: Fn(A) -> R + Copy + Send + 'static,
        A: Serialize + DeserializeOwned + Send + 'static,
        R: Serialize + DeserializeOwned + Send + 'static,
        I: IntoIterator<Item = A>,
        I::IntoIter: Send + 'static,
    {
        let job = Job::new(trampolines::code_of::<F, A, R>(&function)?);
        start(&self.inner, &job, inputs.into_iter())
    }
}

impl WithOptions<'_> {
    /// Runs `function` on every input in the background; see [`Pool::submit_map`].
    ///
    /// # Errors
    /// As [`Pool::submit_map`], and options that make no sense.
    pub fn submit_map<F, A, R, I>(&self, function: F, inputs: I) -> Result<MapHandle<R>, Error>
    where
        F: Fn(A) -> R + Copy + Send + 'static,
        A: Serialize + DeserializeOwned + Send + 'static,
        R: Serialize + DeserializeOwned + Send + 'static,
        I: IntoIterator<Item = A>,
        I::IntoIter: Send + 'static,
    {
        let job = self.job(trampolines::code_of::<F, A, R>(&function))?;
        start(self.inner(), &job, inputs.into_iter())
    }
}

fn start<A, R, I>(inner: &Arc<Inner>, job: &Job, inputs: I) -> Result<MapHandle<R>, Error>
where
    A: Serialize + Send + 'static,
    R: DeserializeOwned + Send + 'static,
    I: Iterator<Item = A> + Send + 'static,
{
    // Started here, so that a shutdown that comes before the thread does waits for the map.
    let mut map = Map::start(inner, job, inputs, Terms::WHOLE)?;
    let state = Arc::new(State::default());
    let theirs = state.clone();
    let run = move || {
        let ended = SayEnded(theirs);
        let (mut values, mut failure) = (Vec::new(), None);
        let mut sink = |outcome| match outcome {
            Ok(_) if lock(&ended.0.flags).cancelled => {
                failure = Some(TaskError::cancelled());
                ControlFlow::Break(())
            }
            Ok(value) => {
                values.push(value);
                ControlFlow::Continue(())
            }
            Err(error) => {
                failure = Some(error);
                ControlFlow::Break(())
            }
        };
        while map.advance(&mut sink, None)?.is_continue() {}
        failure.map_or(Ok(values), |error| Err(error.into()))
    };
    let thread = crate::sys::thread::start("procpool-map", None, run);
    let thread = thread.map_err(|error| Error::os("start a thread for a map", error))?;
    Ok(MapHandle { state, thread })
}

impl<R> MapHandle<R> {
    /// Returns whether the map has ended, well or not.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        lock(&self.state.flags).ended
    }

    /// Has the map end at its next outcome, as cancelled: no more inputs are taken, calls that have not
    /// started do not.
    pub fn cancel(&self) {
        lock(&self.state.flags).cancelled = true;
    }

    /// Waits until the map has ended, for at most `timeout`; whether it has.
    #[must_use]
    pub fn wait_timeout(&self, timeout: Duration) -> bool {
        let deadline = Instant::now().checked_add(timeout);
        let mut flags = lock(&self.state.flags);
        while !flags.ended {
            let left = match deadline {
                None => Duration::MAX,
                Some(deadline) => deadline.saturating_duration_since(Instant::now()),
            };
            if left.is_zero() {
                return false;
            }
            let waited = self.state.ended.wait_timeout(flags, left);
            flags = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    /// Waits for the map, and returns its results in input order.
    ///
    /// # Errors
    /// As [`Pool::map`].
    ///
    /// # Panics
    /// With the panic of the input, if that has panicked.
    ///
    /// # Blocking
    /// Until the map has ended.
    pub fn join(self) -> Result<Vec<R>, Error> {
        self.thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

impl<R> fmt::Debug for MapHandle<R> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Flags { cancelled, ended } = *lock(&self.state.flags);
        formatter
            .debug_struct("MapHandle")
            .field("ended", &ended)
            .field("cancelled", &cancelled)
            .finish_non_exhaustive()
    }
}
