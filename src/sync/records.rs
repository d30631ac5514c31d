//! The records that the state machines work on, as they lie in the arena, and each thread's own.
//!
//! A thread that waits for the first time claims a record and keeps it until it ends. How long it
//! looks before it sleeps is adapted to how that went the last times.
//!
//! # If a process dies
//! Its records are freed by settlement (`settle.rs`), after those objects have been settled of which
//! it held a handle: a thread waits only through a handle.

use super::search::search;
use super::settle;
use super::state::{Deadline, Records, Waiter};
use crate::shm::arena::{is_forked_copy, own_id};
use crate::shm::table::Table;
use crate::shm::{Arena, ParticipantId};
use std::cell::Cell;
use std::time::Duration;

/// How often whoever waits looks for dead processes that nobody watches, if there may be any.
pub(crate) const STRANGERS_LOOKED_AT: Duration = Duration::from_millis(100);

/// Longest search before sleeping: what waking a sleeper on another core costs. Longer would not
/// pay even if it were always successful.
const SEARCH_NS_MAX: u64 = 50_000;
/// Shortest: still more than a hand-over between two running threads takes.
const SEARCH_NS_MIN: u64 = 2_000;

#[allow(unsafe_code)] // The marker asserts what the line above says.
mod shared {
    use crate::shm::offset::Shared;
    use crate::sync::state;
    // SAFETY: atomics only; padding is never read.
    unsafe impl Shared for state::Waiter {}
    // SAFETY: as above.
    unsafe impl Shared for state::semaphore::SemaphoreState {}
    // SAFETY: as above.
    unsafe impl Shared for state::rwlock::RwLockState {}
    // SAFETY: as above.
    unsafe impl Shared for state::condvar::CondvarState {}
    // SAFETY: as above.
    unsafe impl Shared for state::event::EventState {}
    // SAFETY: as above.
    unsafe impl Shared for state::barrier::BarrierState {}
    // SAFETY: as above.
    unsafe impl Shared for state::once::OnceState {}
}

fn waiters(arena: &Arena) -> Table<'_, Waiter> {
    Table::new(arena, arena.waiters())
}

impl Records for Arena {
    fn waiter(&self, index: u32) -> Option<&Waiter> {
        waiters(self).get(index)
    }

    fn each_waiter(&self, visit: &mut dyn FnMut(u32, &Waiter)) {
        for (index, waiter) in waiters(self).iter() {
            visit(index, waiter);
        }
    }

    fn held_by_others(&self, object: u32, dead: u32) -> u64 {
        Arena::held_by_others(self, object, ParticipantId::from_raw(u64::from(dead)))
    }

    fn patience(&self) -> Option<Duration> {
        // Others may attach to a named arena while the caller sleeps.
        (self.is_named() || self.has_strangers()).then_some(STRANGERS_LOOKED_AT)
    }

    fn look_around(&self) {
        if self.patience().is_some() {
            settle::settle_strangers(self);
        }
    }
}

/// What a thread keeps while it lives.
struct OwnRecord {
    index: Cell<u32>,
    search_ns: Cell<u64>,
}

impl Drop for OwnRecord {
    fn drop(&mut self) {
        let index = self.index.get();
        if let (Some(arena), true, false) = (Arena::existing(), index != 0, is_forked_copy())
            && let Some(waiter) = waiters(arena).get(index)
        {
            waiter.free();
        }
    }
}

thread_local! {
    static OWN: OwnRecord = const {
        OwnRecord { index: Cell::new(0), search_ns: Cell::new(SEARCH_NS_MAX / 2) }
    };
}

/// The calling thread's record. `None` if the arena has no room for one and the time is up.
pub(super) fn own_waiter(arena: &Arena, deadline: Deadline) -> Option<(u32, &Waiter)> {
    // A thread that is just ending has no place to remember it: it claims one more, which is freed
    // with the process.
    let remembered = OWN.try_with(|own| own.index.get()).unwrap_or(0);
    if let Some(waiter) = waiters(arena).get(remembered) {
        return Some((remembered, waiter));
    }
    let (index, waiter) = claim(arena, deadline)?;
    let _ = OWN.try_with(|own| own.index.set(index));
    Some((index, waiter))
}

#[cold]
fn claim(arena: &Arena, deadline: Deadline) -> Option<(u32, &Waiter)> {
    let me = own_id().to_raw() as u32;
    loop {
        let mut all = waiters(arena).iter();
        if let Some(found) = all.find(|(_, waiter)| waiter.try_claim(me)) {
            return Some(found);
        }
        let grown = {
            let _locked = arena.lock_objects();
            waiters(arena).grow(own_id()).is_ok()
        };
        if !grown {
            // Every byte of the arena is in use. Others may give some back.
            if deadline.left().is_some_and(|left| left.is_zero()) {
                return None;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Looks for a bounded time whether `found`: longer if that was worth it lately.
///
/// How many cores there are is not asked: this thread may be pinned to one and the one that it waits
/// for to another. With all on one core, looking is in vain but yields, and soon is at its shortest.
pub(super) fn adapted_search(found: &mut dyn FnMut() -> bool) -> bool {
    let search_ns = OWN.try_with(|own| own.search_ns.get()).unwrap_or(SEARCH_NS_MIN);
    let worth_it = search(search_ns, found);
    let next = if worth_it { search_ns * 2 } else { search_ns / 2 };
    let _ = OWN.try_with(|own| own.search_ns.set(next.clamp(SEARCH_NS_MIN, SEARCH_NS_MAX)));
    worth_it
}
