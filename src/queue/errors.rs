//! Why a value could not be put, or none be got.

use crate::error::Error;
use std::fmt;

/// Why a value was not put. Every variant gives it back.
pub enum PutError<T> {
    /// There was no room; in time, if there was a time limit.
    Full(T),
    /// The queue is closed.
    Closed(T),
    /// The other end of the pipe is gone.
    Disconnected(T),
    /// The program that owns the arena is gone.
    OwnerDied(T),
    /// It cannot be encoded, or the arena has no room for it.
    Failed(T, Error),
}

impl<T> PutError<T> {
    /// The value.
    pub fn into_inner(self) -> T {
        match self {
            Self::Full(value)
            | Self::Closed(value)
            | Self::Disconnected(value)
            | Self::OwnerDied(value)
            | Self::Failed(value, _) => value,
        }
    }

    /// Returns whether there was no room.
    #[must_use]
    pub fn is_full(&self) -> bool {
        matches!(self, Self::Full(_))
    }

    /// Returns whether the queue is closed.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        matches!(self, Self::Closed(_))
    }

    pub(super) fn map<R>(self, change: impl FnOnce(T) -> R) -> PutError<R> {
        match self {
            Self::Full(value) => PutError::Full(change(value)),
            Self::Closed(value) => PutError::Closed(change(value)),
            Self::Disconnected(value) => PutError::Disconnected(change(value)),
            Self::OwnerDied(value) => PutError::OwnerDied(change(value)),
            Self::Failed(value, error) => PutError::Failed(change(value), error),
        }
    }
}

impl<T> fmt::Debug for PutError<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full(_) => formatter.write_str("Full(..)"),
            Self::Closed(_) => formatter.write_str("Closed(..)"),
            Self::Disconnected(_) => formatter.write_str("Disconnected(..)"),
            Self::OwnerDied(_) => formatter.write_str("OwnerDied(..)"),
            Self::Failed(_, error) => write!(formatter, "Failed(.., {error:?})"),
        }
    }
}

impl<T> fmt::Display for PutError<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full(_) => formatter.write_str("the queue is full"),
            Self::Closed(_) => formatter.write_str("the queue is closed"),
            Self::Disconnected(_) => formatter.write_str("the other end of the pipe is gone"),
            Self::OwnerDied(_) => formatter.write_str("the program that owns the arena is gone"),
            Self::Failed(_, error) => error.fmt(formatter),
        }
    }
}

impl<T> std::error::Error for PutError<T> {}

/// Why no value was got.
#[derive(Debug, Clone)]
pub enum GetError {
    /// There was none; in time, if there was a time limit.
    Empty,
    /// The queue is closed, and everything that was put has been got.
    Closed,
    /// The other end of the pipe is gone, and everything that it sent has been received.
    Disconnected,
    /// The program that owns the arena is gone.
    OwnerDied,
    /// A value was got that cannot be decoded: it is lost.
    Failed(Error),
}

impl GetError {
    /// Returns whether there was no value.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        matches!(self, Self::Empty)
    }

    /// Returns whether the queue is closed and drained.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        matches!(self, Self::Closed)
    }

    /// Returns whether the other end of the pipe is gone.
    #[must_use]
    pub fn is_disconnected(&self) -> bool {
        matches!(self, Self::Disconnected)
    }
}

impl fmt::Display for GetError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => formatter.write_str("the queue is empty"),
            Self::Closed => formatter.write_str("the queue is closed and drained"),
            Self::Disconnected => formatter.write_str("the other end of the pipe is gone"),
            Self::OwnerDied => formatter.write_str("the program that owns the arena is gone"),
            Self::Failed(error) => error.fmt(formatter),
        }
    }
}

impl std::error::Error for GetError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Failed(error) => Some(error),
            _ => None,
        }
    }
}
