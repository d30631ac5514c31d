//! What can be done with the handle of a task but join it: await it, be called back, wait for one of many.

use super::inner::lock;
use super::submit::TaskHandle;
use super::watched::Ticket;
use crate::error::{Error, TaskError};
use crate::prim::Mutex;
use crate::shm::arena::is_forked_copy;
use serde::de::DeserializeOwned;
use std::fmt;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::{Arc, mpsc};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::{Duration, Instant};

/// The outcome of the task. Needs no runtime of its own: works in any.
///
/// # Cancelling
/// Dropping the future does not stop the task, unless [`TaskHandle::cancel_on_drop`] was called.
///
/// # Examples
/// ```
/// # use std::task::{Context, Poll, Waker};
/// let pool = procpool::Pool::builder().workers(1).build()?;
/// let task = pool.submit(|n: u64| n + 1, 1)?;
/// let main = async { task.await };
/// # fn block_on<F: Future>(future: F) -> F::Output {
/// #     let mut future = std::pin::pin!(future);
/// #     loop {
/// #         if let Poll::Ready(value) = future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
/// #             return value;
/// #         }
/// #     }
/// # }
/// assert_eq!(block_on(main)?, 2);
/// # Ok::<(), procpool::Error>(())
/// ```
impl<R: DeserializeOwned + 'static> Future for TaskHandle<R> {
    type Output = Result<R, TaskError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if is_forked_copy() {
            return Poll::Ready(Err(TaskError::pool_closed()));
        }
        assert!(!self.is_taken(), "a task's handle was polled after its outcome was returned");
        if !self.is_finished() && self.watch(context.waker()) {
            return Poll::Pending;
        }
        Poll::Ready(self.take())
    }
}

impl<R: DeserializeOwned + 'static> TaskHandle<R> {
    /// Has `callback` called with the outcome, in a thread that is there for the callbacks of all tasks.
    ///
    /// A callback that panics is reported as any panic is, and disturbs no other. One that takes long
    /// holds up the others.
    ///
    /// # Errors
    /// The thread cannot be started; the outcome is then lost.
    #[doc(alias = "add_done_callback")]
    #[doc(alias = "callback")]
    pub fn on_done(
        self,
        callback: impl FnOnce(Result<R, TaskError>) + Send + 'static,
    ) -> Result<(), Error> {
        let callbacks = callbacks()?;
        let (inner, place) = self.whereabouts();
        let inner = inner.clone();
        let call = Box::new(move |mut handle: Self| callback(handle.take()));
        let pending = Mutex::new(Some((self, call as Call<R>)));
        let waker = Waker::from(Arc::new(OnDone { pending, callbacks }));
        if !inner.watch(place, Ticket::take(), &waker) {
            waker.wake();
        }
        Ok(())
    }
}

type Call<R> = Box<dyn FnOnce(TaskHandle<R>) + Send>;
type Callback = Box<dyn FnOnce() + Send>;

/// A callback that waits for its task.
struct OnDone<R> {
    pending: Mutex<Option<(TaskHandle<R>, Call<R>)>>,
    callbacks: mpsc::Sender<Callback>,
}

impl<R: 'static> Wake for OnDone<R> {
    fn wake(self: Arc<Self>) {
        if let Some((handle, call)) = lock(&self.pending).take() {
            // The thread never ends.
            let _ = self.callbacks.send(Box::new(move || call(handle)));
        }
    }
}

/// The way to the thread that runs callbacks, which is started if there is none.
fn callbacks() -> Result<mpsc::Sender<Callback>, Error> {
    static WAY: Mutex<Option<mpsc::Sender<Callback>>> = Mutex::new(None);
    let mut way = lock(&WAY);
    if let Some(way) = &*way {
        return Ok(way.clone());
    }
    let (sender, receiver) = mpsc::channel::<Callback>();
    let run = move || {
        for callback in receiver {
            // The panic hook has reported it. What it carries may panic once more when it is dropped.
            catch_unwind(AssertUnwindSafe(callback)).unwrap_or_else(std::mem::forget);
        }
    };
    crate::sys::thread::start("procpool-callbacks", None, run)
        .map_err(|error| Error::os("start the thread for callbacks", error))?;
    *way = Some(sender.clone());
    Ok(sender)
}

/// Unparks a thread.
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Waits until `enough`, which depends on which of the tasks have ended, or until the deadline; whether it was.
fn wait_for<R>(
    handles: &[TaskHandle<R>],
    deadline: Option<Instant>,
    enough: impl Fn() -> bool,
) -> bool {
    if enough() {
        return true;
    }
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let ticket = Ticket::take();
    for handle in handles {
        let (inner, place) = handle.whereabouts();
        inner.watch(place, ticket, &waker);
    }
    let mut met = enough();
    while !met {
        match deadline.map(|deadline| deadline.saturating_duration_since(Instant::now())) {
            None => std::thread::park(),
            Some(Duration::ZERO) => break,
            Some(left) => std::thread::park_timeout(left),
        }
        met = enough();
    }
    for handle in handles {
        let (inner, place) = handle.whereabouts();
        inner.unwatch(place, ticket);
    }
    met
}

/// Waits until one of the tasks has ended; the place of the first that has. `None` if the time was up, or
/// there are none.
///
/// # Examples
/// ```
/// use std::time::Duration;
///
/// let pool = procpool::Pool::builder().workers(2).build()?;
/// let nap = |ms: u64| std::thread::sleep(Duration::from_millis(ms));
/// let tasks = [pool.submit(nap, 500)?, pool.submit(nap, 1)?];
/// assert_eq!(procpool::wait_any(&tasks, Duration::MAX), Some(1));
/// # Ok::<(), procpool::Error>(())
/// ```
#[doc(alias = "FIRST_COMPLETED")]
pub fn wait_any<R>(tasks: &[TaskHandle<R>], timeout: Duration) -> Option<usize> {
    if tasks.is_empty() {
        return None;
    }
    let any = || tasks.iter().any(TaskHandle::is_finished);
    let met = wait_for(tasks, Instant::now().checked_add(timeout), any);
    if met { tasks.iter().position(TaskHandle::is_finished) } else { None }
}

/// Waits until all of the tasks have ended; `false` if the time was up.
#[doc(alias = "ALL_COMPLETED")]
pub fn wait_all<R>(tasks: &[TaskHandle<R>], timeout: Duration) -> bool {
    let all = || tasks.iter().all(TaskHandle::is_finished);
    wait_for(tasks, Instant::now().checked_add(timeout), all)
}

/// Waits until one of the tasks has failed, or all have ended; the place of the first that has failed. `None` if
/// none has, or the time was up.
///
/// That a function returns an `Err` is no failure of its task.
///
/// # Examples
/// ```
/// use std::time::Duration;
///
/// let pool = procpool::Pool::builder().workers(2).build()?;
/// let nap = |ms: u64| { assert!(ms < 100); std::thread::sleep(Duration::from_millis(ms)) };
/// let tasks = [pool.submit(nap, 50)?, pool.submit(nap, 1000)?, pool.submit(nap, 1)?];
/// assert_eq!(procpool::wait_failed(&tasks, Duration::MAX), Some(1));
/// assert_eq!(procpool::wait_failed(&tasks[2..], Duration::MAX), None);
/// # Ok::<(), procpool::Error>(())
/// ```
#[doc(alias = "FIRST_EXCEPTION")]
pub fn wait_failed<R>(tasks: &[TaskHandle<R>], timeout: Duration) -> Option<usize> {
    let first = || tasks.iter().position(TaskHandle::has_failed);
    let enough = || first().is_some() || tasks.iter().all(TaskHandle::is_finished);
    wait_for(tasks, Instant::now().checked_add(timeout), enough);
    first()
}

/// The outcomes of tasks in the order in which they end, each with the task's place in what was given.
///
/// # Examples
/// ```
/// use std::time::Duration;
///
/// let pool = procpool::Pool::builder().workers(2).build()?;
/// let nap = |ms: u64| { std::thread::sleep(Duration::from_millis(ms)); ms };
/// let tasks = vec![pool.submit(nap, 300)?, pool.submit(nap, 1)?];
/// let ended: Vec<usize> = procpool::as_completed(tasks).map(|(place, _)| place).collect();
/// assert_eq!(ended, [1, 0]);
/// # Ok::<(), procpool::Error>(())
/// ```
pub fn as_completed<R>(tasks: Vec<TaskHandle<R>>) -> AsCompleted<R> {
    AsCompleted { places: (0..tasks.len()).collect(), tasks }
}

/// Tasks that are taken as they end; from [`as_completed`].
#[derive(Debug)]
#[must_use = "outcomes come when they are asked for"]
pub struct AsCompleted<R> {
    tasks: Vec<TaskHandle<R>>,
    /// Where each was in what was given.
    places: Vec<usize>,
}

impl<R: DeserializeOwned + 'static> AsCompleted<R> {
    /// Waits for the next outcome for at most `timeout`. `None` if the time was up, or there are no more:
    /// see [`left`](Self::left).
    pub fn next_timeout(&mut self, timeout: Duration) -> Option<(usize, Result<R, TaskError>)> {
        let next = wait_any(&self.tasks, timeout)?;
        let place = self.places.swap_remove(next);
        Some((place, self.tasks.swap_remove(next).join()))
    }
}

impl<R> AsCompleted<R> {
    /// How many outcomes have not been taken.
    #[must_use]
    pub fn left(&self) -> usize {
        self.tasks.len()
    }
}

impl<R: DeserializeOwned + 'static> Iterator for AsCompleted<R> {
    type Item = (usize, Result<R, TaskError>);

    fn next(&mut self) -> Option<Self::Item> {
        self.next_timeout(Duration::MAX)
    }
}

impl<R> fmt::Debug for OnDone<R> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("OnDone").finish_non_exhaustive()
    }
}
