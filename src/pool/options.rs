//! What may be asked for a single task, or for all tasks of a pool: a time limit, retries, a priority.

use crate::error::Error;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Longest pause before a retry.
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// What is asked for a task beyond running it; for [`Pool::submit_with`](crate::Pool::submit_with) and
/// [`Pool::with_options`](crate::Pool::with_options). What is not set is as the pool's builder says.
///
/// # Examples
/// ```
/// use procpool::{Pool, Priority, TaskOptions};
/// use std::time::Duration;
///
/// let pool = Pool::builder().workers(1).build()?;
/// let options = TaskOptions::new().timeout(Duration::from_millis(50)).priority(Priority::High);
/// let stuck = |_: u32| loop { std::thread::sleep(Duration::from_secs(1)) };
/// let task = pool.submit_with::<_, _, u32>(options, stuck, 7)?;
/// let error = task.join().unwrap_err();
/// assert!(error.is_timed_out() && error.ran_for() >= Some(Duration::from_millis(50)));
/// # Ok::<(), procpool::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[must_use = "options do nothing until a task is started with them"]
pub struct TaskOptions {
    timeout: Option<Duration>,
    grace: Option<Duration>,
    retry: Option<Retry>,
    priority: Priority,
    batch: Option<usize>,
    #[cfg(feature = "progress")]
    progress: bool,
}

/// Which of the queued tasks are begun first.
///
/// A task that runs is not interrupted for another. Of sixteen tasks that a worker takes, it takes one
/// from the lowest priority that has any, so that none waits for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Priority {
    /// Before all others.
    High,
    /// As usual.
    #[default]
    Normal,
    /// When nothing else is to be done.
    Low,
}

impl Priority {
    pub(crate) fn to_index(self) -> usize {
        self as usize
    }
}

/// What becomes of a task whose worker died while it ran.
///
/// Only that is retried: a panic, an error that the function returns, and a time limit are outcomes. What
/// the task had done before its worker died is done again.
///
/// # Examples
/// ```
/// use procpool::{Pool, Retry};
/// use std::time::Duration;
///
/// let pool = Pool::builder().workers(1).retry(Retry::lost(2).backoff(Duration::from_millis(1))).build()?;
/// let error = pool.submit(|_: u32| -> u32 { std::process::exit(3) }, 1)?.join().unwrap_err();
/// assert!(error.is_worker_lost());
/// assert_eq!(error.attempts(), 3);
/// # Ok::<(), procpool::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[must_use = "a policy does nothing until a builder or options have it"]
pub struct Retry {
    most: u32,
    backoff: Duration,
}

impl Retry {
    /// A task is begun once.
    pub fn never() -> Self {
        Self::default()
    }

    /// A task whose worker died is begun again, up to `times` times.
    pub fn lost(times: u32) -> Self {
        Self { most: times, backoff: Duration::ZERO }
    }

    /// Waits for `pause` before the first retry, and each time twice as long as the time before, up to a
    /// minute. Default: not at all.
    pub fn backoff(mut self, pause: Duration) -> Self {
        self.backoff = pause;
        self
    }

    /// How long to wait before retry number `retry`, from 1; `None` if that is one too many.
    pub(crate) fn pause(&self, retry: u32) -> Option<Duration> {
        let doubled = 1u32.checked_shl(retry.saturating_sub(1)).unwrap_or(u32::MAX);
        (retry <= self.most).then(|| self.backoff.saturating_mul(doubled).min(PAUSE_MAX))
    }
}

impl TaskOptions {
    /// Nothing special.
    pub fn new() -> Self {
        Self::default()
    }

    /// Ends the task when it has run for so long: [`worker::cancelled`](crate::worker::cancelled) tells it,
    /// and when the [`grace`](Self::grace) is over its worker is killed. Time in the queue does not count.
    #[doc(alias = "deadline")]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// How long a task that has run for its [`timeout`](Self::timeout) may go on before it is killed. What
    /// it returns until then counts. Default: not at all.
    pub fn grace(mut self, grace: Duration) -> Self {
        self.grace = Some(grace);
        self
    }

    /// Sets what becomes of a task whose worker died.
    pub fn retry(mut self, retry: Retry) -> Self {
        self.retry = Some(retry);
        self
    }

    /// Short for [`retry`](Self::retry) with [`Retry::lost`].
    pub fn retries(self, times: u32) -> Self {
        self.retry(Retry::lost(times))
    }

    /// Sets which tasks are begun first.
    pub fn priority(mut self, priority: Priority) -> Self {
        self.priority = priority;
        self
    }

    /// Sends so many calls of a `map` together. Default: chosen by the time that they take.
    #[doc(alias = "chunksize")]
    pub fn batch(mut self, calls: usize) -> Self {
        self.batch = Some(calls);
        self
    }

    /// Shows a bar on standard error, if that is a terminal, while the outcomes of a map arrive: for `map`,
    /// `map_each`, `map_state`, `for_each` and `map_reduce`. An [`Imap`](crate::Imap) has a
    /// [bar of its own](crate::Imap::progress).
    ///
    /// # Examples
    /// ```
    /// use procpool::{Pool, TaskOptions};
    ///
    /// let pool = Pool::builder().workers(2).build()?;
    /// let squares = pool.with_options(TaskOptions::new().progress()).map(|n: u64| n * n, 0..1000)?;
    /// assert_eq!(squares[10], 100);
    /// # Ok::<(), procpool::Error>(())
    /// ```
    #[cfg(feature = "progress")]
    pub fn progress(mut self) -> Self {
        self.progress = true;
        self
    }

    #[cfg(feature = "progress")]
    pub(crate) fn shows_progress(&self) -> bool {
        self.progress
    }

    pub(crate) fn batch_calls(&self) -> Option<usize> {
        self.batch
    }

    pub(crate) fn priority_index(&self) -> usize {
        self.priority.to_index()
    }

    /// Whether the supervisor has to know of them.
    pub(crate) fn concern_supervisor(&self) -> bool {
        self.timeout.is_some() || self.grace.is_some() || self.retry.is_some()
    }

    pub(crate) fn limit(&self) -> Option<Limit> {
        Some(Limit { timeout: self.timeout?, grace: self.grace.unwrap_or_default() })
    }

    pub(crate) fn retry_policy(&self) -> Retry {
        self.retry.unwrap_or_default()
    }

    /// These, and for what they do not say, `defaults`.
    pub(crate) fn or(self, defaults: &Self) -> Self {
        Self {
            timeout: self.timeout.or(defaults.timeout),
            grace: self.grace.or(defaults.grace),
            retry: self.retry.or(defaults.retry),
            priority: self.priority,
            batch: self.batch.or(defaults.batch),
            #[cfg(feature = "progress")]
            progress: self.progress,
        }
    }

    pub(crate) fn validate(&self) -> Result<(), Error> {
        if self.timeout == Some(Duration::ZERO) {
            return Err(Error::invalid("the timeout of a task is 0: it must be more".into()));
        }
        if self.batch == Some(0) {
            return Err(Error::invalid("batch is 0 calls: it must be at least 1".into()));
        }
        Ok(())
    }
}

/// How long a call may run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limit {
    pub(crate) timeout: Duration,
    pub(crate) grace: Duration,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_and_end() {
        let ms = Duration::from_millis;
        let retry = Retry::lost(40).backoff(ms(10));
        assert_eq!([1, 2, 3].map(|n| retry.pause(n)), [Some(ms(10)), Some(ms(20)), Some(ms(40))]);
        assert_eq!(retry.pause(40), Some(PAUSE_MAX));
        assert_eq!(retry.pause(41), None);
        assert_eq!((Retry::never().pause(1), Retry::lost(1).pause(1)), (None, Some(ms(0))));
    }

    #[test]
    fn what_is_not_said_is_as_the_pool_says() {
        let pool = TaskOptions::new().timeout(Duration::from_secs(1)).retries(3);
        let task = TaskOptions::new().grace(Duration::from_secs(2)).retry(Retry::never());
        let both = task.or(&pool);
        let limit = Limit { timeout: Duration::from_secs(1), grace: Duration::from_secs(2) };
        assert_eq!((both.limit(), both.retry_policy()), (Some(limit), Retry::never()));
        assert!(TaskOptions::new().timeout(Duration::ZERO).validate().is_err());
        assert!(TaskOptions::new().batch(0).validate().is_err());
    }
}
