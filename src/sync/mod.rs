//! Synchronisation between processes that survives the death of any of them.
//!
//! Locks, events, semaphores and the like, whose handles cross to workers as part of a task's
//! argument, context or result. Killing any process that holds or waits for one, at any moment, hangs
//! nobody: each type says what happens.
//!
//! | type | for | a process dies while it holds or waits |
//! |---|---|---|
//! | [`Mutex`] | one at a time | the next owner is told, and may repair the value |
//! | [`ReentrantMutex`] | one thread at a time, as often as it likes | likewise |
//! | [`RwLock`] | many readers or one writer | readers are released; a writer as for `Mutex` |
//! | [`Condvar`] | waiting for a change under a `Mutex` | its notification goes to the next |
//! | [`Event`] | waiting for something to happen | nothing |
//! | [`Semaphore`] | a number of permits | its permits come back |
//! | [`Barrier`] | waiting for each other | the barrier breaks for all |
//! | [`Once`], [`OnceCell`] | the first one does it | the next one does it |
//! | [`Value`] | a number or small struct | its change happened, or did not |
//!
//! # Lifetimes
//! An object lives in the arena of the tree of processes while any process has a handle to it, or one
//! is on its way in a task or a result. Handles of a process that dies are given back. A handle's
//! bytes that come from elsewhere, or too late, are refused.
//!
//! # Waiting
//! Whoever waits looks for at most 50 microseconds, less if that was in vain lately, and then
//! sleeps. Nobody polls: the supervisor learns at once that a worker has died, and wakes those who
//! wait for it. The exception is a process that nobody in the tree has started: while there is one,
//! those who wait look for its death every 100 milliseconds.

#[cfg(not(loom))]
pub(crate) mod barrier;
#[cfg(not(loom))]
pub(crate) mod condvar;
#[cfg(not(loom))]
pub(crate) mod crossing;
#[cfg(not(loom))]
pub(crate) mod event;
#[cfg(not(loom))]
pub(crate) mod handle;
#[cfg(not(loom))]
mod lock_error;
#[cfg(not(loom))]
pub(crate) mod mutex;
#[cfg(not(loom))]
pub(crate) mod once;
#[cfg(all(not(loom), feature = "raw_sync"))]
mod raw;
#[cfg(not(loom))]
mod records;
#[cfg(not(loom))]
pub(crate) mod reentrant;
#[cfg(not(loom))]
pub(crate) mod rwlock;
#[cfg(all(test, not(any(loom, shuttle))))]
pub(crate) mod scribble_fuzz;
#[cfg(not(loom))]
pub(crate) mod search;
#[cfg(not(loom))]
pub(crate) mod semaphore;
#[cfg(not(loom))]
pub(crate) mod settle;
pub(crate) mod state;
#[cfg(all(test, not(any(loom, shuttle))))]
mod state_fuzz;
#[cfg(not(loom))]
mod stored;
#[cfg(not(loom))]
pub(crate) mod value;

#[cfg(not(loom))]
pub use barrier::{Barrier, BarrierError, BarrierWait};
#[cfg(not(loom))]
pub use condvar::{Condvar, Relocked, RelockedInTime};
#[doc(hidden)]
#[cfg(all(not(loom), any(debug_assertions, feature = "fault")))]
pub use crossing::{decode_for_test, encode_for_test};
#[cfg(not(loom))]
pub use event::Event;
#[cfg(not(loom))]
pub use lock_error::{LockError, TryLockError};
#[cfg(not(loom))]
pub use mutex::{Mutex, MutexGuard};
#[cfg(not(loom))]
pub use once::{Once, OnceCell};
#[cfg(not(loom))]
pub use reentrant::{ReentrantMutex, ReentrantMutexGuard};
#[cfg(not(loom))]
pub use rwlock::{ReadGuard, RwLock, WriteGuard};
#[cfg(not(loom))]
pub use semaphore::{Permit, ReleaseError, Semaphore};
#[cfg(not(loom))]
pub use stored::{Encoded, Plain, Stored};
#[cfg(not(loom))]
pub use value::{Number, Value};
