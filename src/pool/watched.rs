//! Telling somebody that a task has ended: wakers, for futures, callbacks and waiting for any of many.
//!
//! # Protocol
//! Who wants to be told enters a waker under the task's place and a ticket of its own, and then sets WATCHED in
//! the slot's state word. Whoever ends the task sees that and rings the supervisor, which wakes those whose tasks
//! have ended. If the task had ended before the flag was set, the one who asked is told at once.
//!
//! # If a process dies
//! A worker before it rings: settlement ends or gives back its task, and the supervisor looks at the wakers
//! whenever it has done something. The list is private to the user's process.

use super::inner::{Inner, Place, lock};
use crate::error::TaskError;
use crate::prim::{AtomicU64, Relaxed};
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::task::Waker;

/// The wakers of a pool, by slot, generation, and who asked.
pub(super) type Wakers = HashMap<(u32, u32, Ticket), Waker>;

/// Who asked to be told: several may wait for the same task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Ticket(u64);

impl Ticket {
    /// One that nobody else has.
    pub(super) fn take() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self(NEXT.fetch_add(1, Relaxed))
    }
}

impl Inner {
    /// Whether a task has ended, well or not.
    #[inline]
    pub(super) fn has_ended(&self, place: Place) -> bool {
        let state = self.slot(place.index).state.load();
        state.generation != place.generation || !state.is_pending()
    }

    /// Has `waker` woken when a task ends; `false` if it has ended already.
    pub(super) fn watch(&self, place: Place, ticket: Ticket, waker: &Waker) -> bool {
        let key = (place.index, place.generation, ticket);
        let waker = waker.clone();
        let before = lock(&self.wakers).insert(key, waker);
        // Not under the lock: it may lead to code of the user's.
        drop(before);
        if self.slot(place.index).state.set_watched(place.generation) {
            return true;
        }
        self.unwatch(place, ticket);
        false
    }

    /// Ends a task that has never started; whether that was so.
    pub(super) fn cancel_unstarted(&self, place: Place) -> bool {
        let cancelled = {
            // With the lock held: one that started before it was queued again was counted there before.
            let tries = lock(&self.special.tries);
            let started = tries.get(&place.index).is_some_and(|(of, ..)| *of == place.generation);
            !started && self.slot(place.index).state.try_cancel(place.generation)
        };
        if cancelled {
            self.end_cancelled(place, &TaskError::cancelled(), |area| area.withdraw(place.index));
        }
        cancelled
    }

    /// Ends a task that is queued; whether it was. (It may have started before, and wait for a retry.)
    pub(super) fn cancel(&self, place: Place) -> bool {
        // Its cell is of no use to anybody. A worker that has claimed it finds the slot not READY.
        self.end_queued(place, &TaskError::cancelled(), |area| area.withdraw(place.index))
    }

    /// Who asked need not be told any more.
    pub(super) fn unwatch(&self, place: Place, ticket: Ticket) {
        let waker = lock(&self.wakers).remove(&(place.index, place.generation, ticket));
        // Dropped here and not under the lock: it may lead to code of the user's.
        drop(waker);
    }

    /// Wakes those whose tasks have ended.
    pub(super) fn wake_watchers(&self) {
        let ended: Vec<Waker> = {
            let mut wakers = lock(&self.wakers);
            let ended = |(index, generation, _): &(u32, u32, Ticket)| {
                self.has_ended(Place { index: *index, generation: *generation })
            };
            wakers.extract_if(|key, _| ended(key)).map(|(_, waker)| waker).collect()
        };
        for waker in ended {
            // It is code of the user's; the panic hook has reported what it does wrong. What a panic carries may
            // panic once more when it is dropped.
            catch_unwind(AssertUnwindSafe(|| waker.wake())).unwrap_or_else(std::mem::forget);
        }
    }
}
