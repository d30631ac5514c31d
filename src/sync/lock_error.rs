//! What may be wrong with a lock that was got, and why one was not.

use std::fmt;
use std::time::Duration;

/// The lock was got, but what it protects may be half-changed.
///
/// Both variants hold the guard: look at the value, repair it, go on.
pub enum LockError<G> {
    /// The process that held the lock before died while it did. Told once: to the next owner (of an
    /// [`RwLock`](crate::sync::RwLock): to everybody until a writer has been told).
    OwnerDied(G),
    /// A holder of the lock panicked while it held it. Told to everybody until `clear_poison`.
    Poisoned(G),
}

impl<G> LockError<G> {
    /// The guard: the lock is held until that is dropped.
    pub fn into_guard(self) -> G {
        match self {
            Self::OwnerDied(guard) | Self::Poisoned(guard) => guard,
        }
    }

    /// Returns whether the holder before died.
    #[must_use]
    pub fn is_owner_died(&self) -> bool {
        matches!(self, Self::OwnerDied(_))
    }

    /// Returns whether a holder panicked.
    #[must_use]
    pub fn is_poisoned(&self) -> bool {
        matches!(self, Self::Poisoned(_))
    }

    pub(crate) fn map<H>(self, change: impl FnOnce(G) -> H) -> LockError<H> {
        match self {
            Self::OwnerDied(guard) => LockError::OwnerDied(change(guard)),
            Self::Poisoned(guard) => LockError::Poisoned(change(guard)),
        }
    }
}

impl<G> fmt::Debug for LockError<G> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::OwnerDied(_) => "OwnerDied(..)",
            Self::Poisoned(_) => "Poisoned(..)",
        })
    }
}

impl<G> fmt::Display for LockError<G> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::OwnerDied(_) => "the process that held the lock died while it did",
            Self::Poisoned(_) => "a holder of the lock panicked while it held it",
        })
    }
}

impl<G> std::error::Error for LockError<G> {}

/// Why a lock was not got at once, or in time; or it was got with an error.
pub enum TryLockError<G> {
    /// Others held the lock all the time: so long was waited (zero by the `try_` form).
    Busy(Duration),
    /// The lock was got; see [`LockError::OwnerDied`].
    OwnerDied(G),
    /// The lock was got; see [`LockError::Poisoned`].
    Poisoned(G),
}

impl<G> TryLockError<G> {
    /// The guard, if the lock was got.
    pub fn into_guard(self) -> Option<G> {
        match self {
            Self::Busy(_) => None,
            Self::OwnerDied(guard) | Self::Poisoned(guard) => Some(guard),
        }
    }

    /// Returns whether the lock was not got.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        matches!(self, Self::Busy(_))
    }
}

impl<G> From<LockError<G>> for TryLockError<G> {
    fn from(error: LockError<G>) -> Self {
        match error {
            LockError::OwnerDied(guard) => Self::OwnerDied(guard),
            LockError::Poisoned(guard) => Self::Poisoned(guard),
        }
    }
}

impl<G> fmt::Debug for TryLockError<G> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Busy(waited) => formatter.debug_tuple("Busy").field(waited).finish(),
            Self::OwnerDied(_) => formatter.write_str("OwnerDied(..)"),
            Self::Poisoned(_) => formatter.write_str("Poisoned(..)"),
        }
    }
}

impl<G> fmt::Display for TryLockError<G> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Busy(Duration::ZERO) => formatter.write_str("the lock is held by another"),
            Self::Busy(waited) => write!(formatter, "the lock was held by others for {waited:?}"),
            Self::OwnerDied(_) => LockError::OwnerDied(()).fmt(formatter),
            Self::Poisoned(_) => LockError::Poisoned(()).fmt(formatter),
        }
    }
}

impl<G> std::error::Error for TryLockError<G> {}
