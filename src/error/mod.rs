//! What can go wrong: [`Error`] for the pool's own operations, [`TaskError`] for one task.

mod task;

pub use task::TaskError;
pub(crate) use task::{Step, crossing};

use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::Arc;

/// How a worker process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum WorkerExit {
    /// It ended by itself, with this exit code.
    Code(i32),
    /// A signal ended it: 9 is SIGKILL, 11 SIGSEGV, 6 SIGABRT.
    Signal(i32),
    /// Not known: the guardian process, which alone is told, died before it could pass it on.
    Unknown,
}

impl fmt::Display for WorkerExit {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(formatter, "exit code {code}"),
            Self::Signal(signal) => write!(formatter, "signal {signal}"),
            Self::Unknown => write!(formatter, "a status that was lost with the guardian process"),
        }
    }
}

/// Why an operation of the pool failed.
///
/// For a failed `map` it carries the first failure, and the predicates of [`TaskError`] can be
/// asked of it directly.
#[derive(Clone)]
pub struct Error {
    kind: Box<ErrorKind>,
}

#[derive(Debug, Clone)]
enum ErrorKind {
    Invalid(String),
    Limit(String),
    Os { doing: String, source: Arc<std::io::Error> },
    ArenaFull { asked: u64, free: u64, capacity: u64 },
    Closed,
    TimedOut(String),
    Broken(String),
    Task(TaskError),
}

impl Error {
    fn new(kind: ErrorKind) -> Self {
        Self { kind: Box::new(kind) }
    }

    pub(crate) fn invalid(what: String) -> Self {
        Self::new(ErrorKind::Invalid(what))
    }

    pub(crate) fn limit(what: String) -> Self {
        Self::new(ErrorKind::Limit(what))
    }

    pub(crate) fn os(doing: &str, source: impl Into<std::io::Error>) -> Self {
        Self::new(ErrorKind::Os { doing: doing.to_owned(), source: Arc::new(source.into()) })
    }

    pub(crate) fn arena_full(asked: u64, free: u64, capacity: u64) -> Self {
        Self::new(ErrorKind::ArenaFull { asked, free, capacity })
    }

    pub(crate) fn forked() -> Self {
        Self::invalid(
            "this process is a forked copy of one that has pools: they belong to that one, and a \
             copy cannot make others unless it executes a program"
                .into(),
        )
    }

    pub(crate) fn timed_out(what: String) -> Self {
        Self::new(ErrorKind::TimedOut(what))
    }

    pub(crate) fn closed() -> Self {
        Self::new(ErrorKind::Closed)
    }

    pub(crate) fn broken(why: String) -> Self {
        Self::new(ErrorKind::Broken(why))
    }

    /// The task whose failure this is, if it is one.
    #[must_use]
    pub fn task_error(&self) -> Option<&TaskError> {
        match &*self.kind {
            ErrorKind::Task(error) => Some(error),
            _ => None,
        }
    }

    /// Returns whether a task panicked.
    #[must_use]
    pub fn is_panic(&self) -> bool {
        self.task_error().is_some_and(TaskError::is_panic)
    }

    /// Returns whether a worker died while it ran a task.
    #[must_use]
    pub fn is_worker_lost(&self) -> bool {
        self.task_error().is_some_and(TaskError::is_worker_lost)
    }

    /// How the worker ended, if a task was lost with it.
    #[must_use]
    pub fn worker_exit(&self) -> Option<WorkerExit> {
        self.task_error()?.worker_exit()
    }

    /// The process id of the worker that died, if a task was lost with it.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.task_error()?.pid()
    }

    /// The panic's message, if a task panicked.
    #[must_use]
    pub fn panic_message(&self) -> Option<&str> {
        self.task_error()?.panic_message()
    }

    /// Returns whether the arena had no room; the message has the numbers.
    #[must_use]
    pub fn is_arena_full(&self) -> bool {
        matches!(*self.kind, ErrorKind::ArenaFull { .. })
    }

    /// Returns whether the time was up: of an operation of the pool, or of a task.
    #[must_use]
    pub fn is_timed_out(&self) -> bool {
        matches!(*self.kind, ErrorKind::TimedOut(_))
            || self.task_error().is_some_and(TaskError::is_timed_out)
    }

    /// Returns whether the pool was closed, before the call or while it was under way.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        matches!(*self.kind, ErrorKind::Closed)
            || self
                .task_error()
                .is_some_and(|error| error.is_pool_closed() && !error.is_pool_broken())
    }

    /// Returns whether the pool is broken: its workers did not start or died too often, or a process of
    /// the crate's own failed. The message says which.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        matches!(*self.kind, ErrorKind::Broken(_))
            || self.task_error().is_some_and(TaskError::is_pool_broken)
    }

    /// Returns whether a setting or an argument was refused.
    #[must_use]
    pub fn is_invalid(&self) -> bool {
        matches!(*self.kind, ErrorKind::Invalid(_))
    }
}

impl From<TaskError> for Error {
    fn from(error: TaskError) -> Self {
        Self::new(ErrorKind::Task(error))
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind } = self;
        kind.fmt(formatter)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.kind {
            ErrorKind::Invalid(what)
            | ErrorKind::Limit(what)
            | ErrorKind::TimedOut(what)
            | ErrorKind::Broken(what) => formatter.write_str(what),
            ErrorKind::Os { doing, source } => write!(formatter, "cannot {doing}: {source}"),
            ErrorKind::ArenaFull { asked, free, capacity } => write!(
                formatter,
                "the arena is full: asked for {asked} bytes, {free} of {capacity} are free"
            ),
            ErrorKind::Closed => formatter.write_str("the pool is closed"),
            ErrorKind::Task(error) => error.fmt(formatter),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &*self.kind {
            ErrorKind::Os { source, .. } => Some(&**source),
            ErrorKind::Task(error) => Some(error),
            _ => None,
        }
    }
}

/// Why [`try_submit`](crate::Pool::try_submit) did not take the argument; it gives it back.
pub enum TrySubmitError<A> {
    /// The queue is full.
    Full(A),
    /// The pool is closed.
    Closed(A),
    /// The task cannot be queued at all: it cannot be encoded, or the arena has no room.
    Failed(A, Error),
}

impl<A> TrySubmitError<A> {
    /// The argument.
    pub fn into_argument(self) -> A {
        match self {
            Self::Full(argument) | Self::Closed(argument) | Self::Failed(argument, _) => argument,
        }
    }

    /// Returns whether the queue was full.
    #[must_use]
    pub fn is_full(&self) -> bool {
        matches!(self, Self::Full(_))
    }
}

impl<A> fmt::Debug for TrySubmitError<A> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full(_) => formatter.write_str("Full(..)"),
            Self::Closed(_) => formatter.write_str("Closed(..)"),
            Self::Failed(_, error) => write!(formatter, "Failed(.., {error:?})"),
        }
    }
}

impl<A> fmt::Display for TrySubmitError<A> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full(_) => formatter.write_str("the pool's queue is full"),
            Self::Closed(_) => formatter.write_str("the pool is closed"),
            Self::Failed(_, error) => error.fmt(formatter),
        }
    }
}

impl<A> std::error::Error for TrySubmitError<A> {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_carry_the_numbers() {
        assert_eq!(
            Error::arena_full(10, 5, 7).to_string(),
            "the arena is full: asked for 10 bytes, 5 of 7 are free"
        );
        let lost = TaskError::worker_lost(42, WorkerExit::Signal(9)).at(3);
        assert_eq!(lost.to_string(), "task 3 was lost with worker 42, which ended with signal 9");
        let error = Error::from(lost);
        assert_eq!((error.pid(), error.worker_exit()), (Some(42), Some(WorkerExit::Signal(9))));
        assert!(error.is_worker_lost() && !error.is_panic());
    }
}
