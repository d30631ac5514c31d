//! [`TaskError`]: what happened to one task.

use super::{Error, ErrorKind, WorkerExit};
use serde::{Deserialize, Serialize};
use std::any::type_name;
use std::fmt;
use std::time::Duration;

/// Why one task has no value.
///
/// # Examples
/// ```
/// let pool = procpool::Pool::builder().workers(1).build()?;
/// let task = pool.submit(|n: u32| if n > 2 { panic!("{n} is too much") } else { n }, 3)?;
/// let error = task.join().unwrap_err();
/// assert!(error.is_panic());
/// assert_eq!(error.panic_message(), Some("3 is too much"));
/// # Ok::<(), procpool::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct TaskError {
    inner: Box<TaskErrorInner>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct TaskErrorInner {
    index: Option<usize>,
    /// What the function is called; empty if that is not known.
    function: &'static str,
    /// How often the task was begun, if its worker died.
    attempts: u32,
    kind: TaskErrorKind,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum TaskErrorKind {
    Panic { message: String, location: String },
    WorkerLost { pid: u32, exit: WorkerExit },
    Codec { step: Step, message: String },
    PoolClosed,
    PoolBroken(String),
    NotSent(String),
    Cancelled,
    TimedOut { pid: u32, ran: Duration, timeout: Duration, grace: Duration },
    Aborted { pid: u32, ran: Duration },
}

/// Which crossing between processes failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Step {
    EncodeArgument,
    DecodeArgument,
    DecodeContext,
    EncodeResult,
    DecodeResult,
    UseState,
}

impl fmt::Display for Step {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::EncodeArgument => "encode its argument",
            Self::DecodeArgument => "decode its argument",
            Self::DecodeContext => "decode its context",
            Self::EncodeResult => "encode its result",
            Self::DecodeResult => "decode its result",
            Self::UseState => "use the worker's state",
        })
    }
}

/// The message of a value of type `T` that could not cross.
pub(crate) fn crossing<T>(message: impl fmt::Display) -> String {
    format!("{}: {message}", type_name::<T>())
}

impl TaskError {
    fn new(kind: TaskErrorKind) -> Self {
        let inner = TaskErrorInner { index: None, function: "", attempts: 1, kind };
        Self { inner: Box::new(inner) }
    }

    pub(crate) fn panicked(message: String, location: String) -> Self {
        Self::new(TaskErrorKind::Panic { message, location })
    }

    pub(crate) fn worker_lost(pid: u32, exit: WorkerExit) -> Self {
        Self::new(TaskErrorKind::WorkerLost { pid, exit })
    }

    pub(crate) fn codec(step: Step, message: String) -> Self {
        Self::new(TaskErrorKind::Codec { step, message })
    }

    pub(crate) fn cannot_cross<T>(step: Step, message: impl fmt::Display) -> Self {
        Self::codec(step, crossing::<T>(message))
    }

    pub(crate) fn pool_closed() -> Self {
        Self::new(TaskErrorKind::PoolClosed)
    }

    pub(crate) fn cancelled() -> Self {
        Self::new(TaskErrorKind::Cancelled)
    }

    pub(crate) fn timed_out(
        pid: u32,
        ran: Duration,
        (timeout, grace): (Duration, Duration),
    ) -> Self {
        Self::new(TaskErrorKind::TimedOut { pid, ran, timeout, grace })
    }

    pub(crate) fn aborted(pid: u32, ran: Duration) -> Self {
        Self::new(TaskErrorKind::Aborted { pid, ran })
    }

    pub(crate) fn pool_broken(why: String) -> Self {
        Self::new(TaskErrorKind::PoolBroken(why))
    }

    /// A call that could not be sent at all.
    pub(crate) fn not_sent(error: &Error) -> Self {
        match &*error.kind {
            ErrorKind::Closed => Self::pool_closed(),
            ErrorKind::Broken(why) => Self::pool_broken(why.clone()),
            ErrorKind::Task(error) => error.clone(),
            _ => Self::new(TaskErrorKind::NotSent(error.to_string())),
        }
    }

    pub(crate) fn at(mut self, index: usize) -> Self {
        self.inner.index = Some(index);
        self
    }

    /// Says which function it was, and how often it was begun.
    pub(crate) fn of(mut self, function: &'static str, attempts: u32) -> Self {
        self.inner.function = function;
        self.inner.attempts = self.inner.attempts.max(attempts);
        self
    }

    /// Returns whether the task's function panicked.
    #[must_use]
    pub fn is_panic(&self) -> bool {
        matches!(self.inner.kind, TaskErrorKind::Panic { .. })
    }

    /// Returns whether the worker died while it ran the task.
    #[must_use]
    pub fn is_worker_lost(&self) -> bool {
        matches!(self.inner.kind, TaskErrorKind::WorkerLost { .. })
    }

    /// Returns whether an argument, a context or a result could not be encoded or decoded.
    #[must_use]
    pub fn is_codec(&self) -> bool {
        matches!(self.inner.kind, TaskErrorKind::Codec { .. })
    }

    /// Returns whether the pool was closed, dropped or broken before the task ended.
    #[must_use]
    pub fn is_pool_closed(&self) -> bool {
        matches!(self.inner.kind, TaskErrorKind::PoolClosed | TaskErrorKind::PoolBroken(_))
    }

    /// Returns whether the pool broke before the task ended: its workers did not start or died too often. The
    /// message says which.
    #[must_use]
    pub fn is_pool_broken(&self) -> bool {
        matches!(self.inner.kind, TaskErrorKind::PoolBroken(_))
    }

    /// Returns whether the task was cancelled before it started.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        matches!(self.inner.kind, TaskErrorKind::Cancelled)
    }

    /// Returns whether the task ran longer than its [`timeout`](crate::TaskOptions::timeout), and its worker
    /// was killed for that.
    #[must_use]
    pub fn is_timed_out(&self) -> bool {
        matches!(self.inner.kind, TaskErrorKind::TimedOut { .. })
    }

    /// Returns whether the task ran and was ended by [`TaskHandle::abort`](crate::TaskHandle::abort).
    #[must_use]
    pub fn is_aborted(&self) -> bool {
        matches!(self.inner.kind, TaskErrorKind::Aborted { .. })
    }

    /// How long the task had run at least, if it was timed out or aborted.
    #[must_use]
    pub fn ran_for(&self) -> Option<Duration> {
        match self.inner.kind {
            TaskErrorKind::TimedOut { ran, .. } | TaskErrorKind::Aborted { ran, .. } => Some(ran),
            _ => None,
        }
    }

    /// How often the task was begun: more than once if its worker died and it was
    /// [retried](crate::Retry).
    #[must_use]
    pub fn attempts(&self) -> u32 {
        self.inner.attempts
    }

    /// What the task's function is called, if the task had been given to a worker: the name of its type.
    #[must_use]
    pub fn function(&self) -> Option<&str> {
        Some(self.inner.function).filter(|name| !name.is_empty())
    }

    /// How the worker ended, if the task was lost with it.
    #[must_use]
    pub fn worker_exit(&self) -> Option<WorkerExit> {
        match self.inner.kind {
            TaskErrorKind::WorkerLost { exit, .. } => Some(exit),
            _ => None,
        }
    }

    /// The process id of the worker that died, if the task was lost with it or it was killed for the task.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        match self.inner.kind {
            TaskErrorKind::WorkerLost { pid, .. }
            | TaskErrorKind::TimedOut { pid, .. }
            | TaskErrorKind::Aborted { pid, .. } => Some(pid),
            _ => None,
        }
    }

    /// The panic's message, if the task panicked.
    #[must_use]
    pub fn panic_message(&self) -> Option<&str> {
        match &self.inner.kind {
            TaskErrorKind::Panic { message, .. } => Some(message),
            _ => None,
        }
    }

    /// Where the task panicked, as `file:line:column`.
    #[must_use]
    pub fn panic_location(&self) -> Option<&str> {
        match &self.inner.kind {
            TaskErrorKind::Panic { location, .. } => Some(location),
            _ => None,
        }
    }

    /// The position of the task in the input of its `map`; `None` for a submitted task.
    #[must_use]
    pub fn index(&self) -> Option<usize> {
        self.inner.index
    }
}

impl fmt::Debug for TaskError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let TaskErrorInner { index, function, attempts, kind } = &*self.inner;
        formatter
            .debug_struct("TaskError")
            .field("index", index)
            .field("function", function)
            .field("attempts", attempts)
            .field("kind", kind)
            .finish()
    }
}

impl fmt::Display for TaskError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.inner.index {
            Some(index) => write!(formatter, "task {index} ")?,
            None => formatter.write_str("task ")?,
        }
        if let Some(function) = self.function() {
            write!(formatter, "({function}) ")?;
        }
        match &self.inner.kind {
            TaskErrorKind::Panic { message, location } => {
                write!(formatter, "panicked at {location}: {message}")
            }
            TaskErrorKind::WorkerLost { pid, exit } => {
                write!(formatter, "was lost with worker {pid}, which ended with {exit}")?;
                match self.inner.attempts {
                    1 => Ok(()),
                    attempts => write!(formatter, "; it was begun {attempts} times"),
                }
            }
            TaskErrorKind::TimedOut { pid, ran, timeout, grace } => {
                write!(formatter, "timed out: it ran for {ran:.1?} of the {timeout:?} allowed")?;
                if !grace.is_zero() {
                    write!(formatter, " and {grace:?} of grace")?;
                }
                write!(formatter, ", and its worker {pid} was killed")
            }
            TaskErrorKind::Aborted { pid, ran } => {
                write!(formatter, "was aborted after {ran:.1?}, and its worker {pid} killed")
            }
            TaskErrorKind::Codec { step, message } => {
                write!(formatter, "failed: cannot {step}: {message}")
            }
            TaskErrorKind::Cancelled => formatter.write_str("was cancelled before it started"),
            TaskErrorKind::PoolClosed => formatter.write_str("did not end before the pool closed"),
            TaskErrorKind::PoolBroken(why) | TaskErrorKind::NotSent(why) => {
                write!(formatter, "cannot run: {why}")
            }
        }
    }
}

impl std::error::Error for TaskError {}
