//! What lies in shared memory behind each primitive, and the protocol on it.
//!
//! ```text
//! latch.rs   a short lock that names its holder
//! queue.rs   the latch, and the threads that wait, first come first served
//! semaphore.rs  rwlock.rs  condvar.rs  event.rs  barrier.rs  once.rs   one primitive each, on both
//! places.rs  two places for a value that is read without a lock
//! version.rs reading without a lock, and seeing whether that was right
//! room.rs    waiting for what is not under the latch: a value in a queue, or room for one
//! ```
//!
//! Every primitive here is the same kind of thing: some words that change under the object's latch,
//! and a queue of waiting threads. Nobody takes what it waited for; it is **given** to the thread at
//! the front, by one store into that thread's own record. So there is one store that commits, one
//! word for each thread to sleep on, and after a death the records say who waits for what, who was
//! given what, and what is to be passed on.
//!
//! Whatever is read here may have been written by a process that does not go by the rules: counts saturate, walks and
//! loops end, and nothing is counted on that was not looked at under the same latch.
//!
//! This folder knows no arena: records come through [`Records`], so that loom can model the code as
//! it is.

pub(crate) mod barrier;
pub(crate) mod condvar;
pub(crate) mod event;
pub(crate) mod latch;
pub(crate) mod once;
pub(crate) mod places;
pub(crate) mod queue;
pub(crate) mod room;
pub(crate) mod rwlock;
pub(crate) mod semaphore;
pub(crate) mod version;

#[cfg(all(test, loom))]
mod places_models;
#[cfg(all(test, loom))]
mod state_models;
#[cfg(all(test, loom))]
mod version_models;

use crate::shm::circle;
#[cfg(not(loom))]
use crate::shm::fault;
use std::time::Duration;

#[cfg(loom)]
mod fault {
    pub(super) fn point(_: &'static str) {}
}

pub(crate) use queue::{WaitQueue, Waiter};

/// The records that lie beside the objects: who waits, who holds how much.
pub(crate) trait Records {
    /// The record of a waiting thread; `None` for 0 and for what does not exist.
    fn waiter(&self, index: u32) -> Option<&Waiter>;

    /// Visits the record of every thread that ever waited.
    fn each_waiter(&self, visit: &mut dyn FnMut(u32, &Waiter));

    /// What processes hold of an object, except the dead one (permits, read locks).
    fn held_by_others(&self, object: u32, dead: u32) -> u64;

    /// How long to sleep before looking whether a process has died that nobody watches; `None` if
    /// there is none such.
    fn patience(&self) -> Option<Duration>;

    /// Looks for dead processes that nobody watches, and settles them.
    fn look_around(&self);
}

/// A thread that does something with one object.
pub(crate) trait Caller: Records {
    /// The calling process: its participant id.
    fn me(&self) -> u32;

    /// The object: its index, unique among the living.
    fn object(&self) -> u32;

    /// How much the calling process holds of it. Read and written under the latch.
    fn held(&self) -> &crate::prim::AtomicU64;

    /// The calling thread's own record. `None` if there is no room for one and the time is up.
    fn own_waiter(&self, deadline: Deadline) -> Option<(u32, &Waiter)>;

    /// Looks for a bounded, adapted time whether `found`.
    fn search(&self, found: &mut dyn FnMut() -> bool) -> bool;
}

/// The death of a process, for one object of which it held a handle.
#[cfg(not(loom))]
pub(crate) struct Death<'a, R> {
    pub(crate) records: &'a R,
    pub(crate) object: u32,
    /// The process: its participant id.
    pub(crate) of: u32,
    /// Whether another one is dead, too.
    pub(crate) is_dead: &'a dyn Fn(u32) -> bool,
}

#[cfg(not(loom))]
impl<R: Records> Death<'_, R> {
    /// What the living hold of the object.
    pub(crate) fn held_by_others(&self) -> u64 {
        self.records.held_by_others(self.object, self.of)
    }

    /// Visits the threads that have been given something by the object, and have not taken it.
    pub(crate) fn each_given(&self, visit: &mut dyn FnMut(&Waiter)) {
        self.records.each_waiter(&mut |_, waiter| {
            // The state first, as in `WaitQueue::rebuild`.
            if waiter.outcome().is_some() && waiter.object() == self.object {
                visit(waiter);
            }
        });
    }
}

/// When to stop waiting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Deadline {
    Never,
    /// Nanoseconds of the monotonic clock.
    At(u64),
}

impl Deadline {
    #[cfg(not(loom))]
    pub(crate) fn after(timeout: Duration) -> Self {
        let now = crate::sys::clock::monotonic_ns();
        let timeout = u64::try_from(timeout.as_nanos()).unwrap_or(u64::MAX);
        now.checked_add(timeout).map_or(Self::Never, Self::At)
    }

    /// The time that is left; `None` without a limit.
    #[cfg(not(loom))]
    pub(crate) fn left(self) -> Option<Duration> {
        match self {
            Self::Never => None,
            Self::At(ns) => {
                Some(Duration::from_nanos(ns.saturating_sub(crate::sys::clock::monotonic_ns())))
            }
        }
    }

    /// In a model a limited wait is over as soon as it begins.
    #[cfg(loom)]
    pub(crate) fn left(self) -> Option<Duration> {
        (self != Self::Never).then_some(Duration::ZERO)
    }
}
