//! The chain of a `JoinableQueue`: its values, and who has got which.
//!
//! # Shared state
//! A stripe (`collections/stripe.rs`) with a chain of entries, in the order in which they were put. The
//! key of an entry is two words of the queue's own:
//!
//! ```text
//! | next entry, or 0 | QUEUED 1, or TAKEN 2 and the participant from bit 8 |
//! ```
//! Beside it: where the chain begins and ends, where the first QUEUED entry may be, how many there are
//! of each (caches, but for the beginning); `orphans.rs`, the participants that died while they may
//! have had something; whether it is closed; three rooms.
//!
//! # States of an entry
//! QUEUED -> TAKEN (`get`) -> cut off (`task_done`). Of a consumer that died: TAKEN -> QUEUED, or cut off.
//!
//! # Rules
//! R1. The chain and its entries' words are the truth. A change is one store: into the link before an
//!     entry, or into its state.
//! R2. What links, counts and hints say may have been written by anybody: a walk ends where the chain closes to a
//!     circle or leads to no entry, and counts saturate.
//! R3. Settlement notes the dead one in `orphans`, before its id can be another's. Whoever locks the
//!     stripe next deals with its entries before it does anything else.
//!
//! # If a process dies
//! With something taken: R3, and whoever waits looks again. While it changes the chain: `stripe.rs`.

use super::buffer::settle_room;
use super::closed::Closed;
use super::orphans::Orphans;
use super::transfer::damaged;
use crate::collections::entry::{CarriedBy, Entry, NewEntry};
use crate::collections::stripe::{Changing, Stripe};
use crate::error::Error;
use crate::prim::{AtomicU32, AtomicU64, Relaxed, Release};
use crate::shm::circle::Circle;
use crate::shm::keeper::Part;
use crate::shm::offset::Shared;
use crate::shm::{Arena, Offset, ParticipantId, fault};
use crate::sync::state::room::Room;
use std::collections::HashSet;

pub(super) const QUEUED: u64 = 1;
const TAKEN: u64 = 2;

/// See the module documentation.
#[derive(Debug)]
#[repr(C)]
pub(super) struct ChainState {
    pub(super) stripe: Stripe,
    first: AtomicU64,
    last: AtomicU64,
    /// No entry before this one is QUEUED; 0: it is not known.
    from: AtomicU64,
    pub(super) queued: AtomicU64,
    pub(super) unfinished: AtomicU64,
    pub(super) capacity: AtomicU64,
    pub(super) redelivers: AtomicU32,
    pub(super) closed: Closed,
    orphans: Orphans,
    pub(super) getters: Room,
    pub(super) putters: Room,
    pub(super) joiners: Room,
}

#[allow(unsafe_code)] // The marker asserts what the line above it says.
// SAFETY: atomics, and a mutex that the C library accesses.
unsafe impl Shared for ChainState {}

/// What taking came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Took {
    Value,
    Nothing {
        /// What others have taken comes back if they die. (Who has something himself should deal with
        /// that, and not wait for others who may wait for him.)
        more_may_come: bool,
    },
}

/// An entry of the chain.
#[derive(Debug, Clone, Copy)]
struct Node<'a> {
    entry: Entry<'a>,
    next: &'a AtomicU64,
    state: &'a AtomicU64,
}

impl<'a> Node<'a> {
    fn at(arena: &'a Arena, offset: u64) -> Option<Self> {
        let entry = Entry::at(arena, offset).filter(|entry| entry.key_bytes() == 16)?;
        let [next, state] = entry.key()? else { return None };
        Some(Self { entry, next, state })
    }
}

impl ChainState {
    pub(super) fn change<'a>(&'a self, arena: &'a Arena) -> Changing<'a> {
        let changing = self.stripe.change(arena, |changing| self.repair(changing));
        if self.orphans.may_be() {
            self.reclaim(&changing);
        }
        changing
    }

    /// Visits the entries in order, each with the link that leads to it, until `visit` returns `false`.
    fn walk<'a>(
        &'a self,
        arena: &'a Arena,
        from: u64,
        mut visit: impl FnMut(Node<'a>, Option<&'a AtomicU64>) -> bool,
    ) {
        let (mut link, mut at) = match Node::at(arena, from) {
            None => (Some(&self.first), self.first.load(Relaxed)),
            Some(_) => (None, from),
        };
        let mut circle = Circle::new();
        while at != 0
            && !circle.is_closed_by(at)
            && let Some(node) = Node::at(arena, at)
        {
            let next = node.next.load(Relaxed);
            if !visit(node, link) {
                break;
            }
            // Cut off, it is no link any more.
            if link.is_none_or(|link| link.load(Relaxed) == at) {
                link = Some(node.next);
            }
            at = next;
        }
    }

    /// Appends an entry, unless there are as many QUEUED ones as there may be, or the queue is closed.
    pub(super) fn append(
        &self,
        arena: &Arena,
        new: &mut Option<NewEntry<'_>>,
    ) -> Result<bool, Error> {
        let changing = self.change(arena);
        // Closed under the lock, too: nothing is put after it.
        let full =
            self.queued.load(Relaxed) >= self.capacity.load(Relaxed) || self.closed.is_closed();
        let Some(entry) = new.take_if(|_| !full) else { return Ok(false) };
        let place = changing.place(&entry)?;
        let last = Node::at(arena, self.last.load(Relaxed));
        let link = last.map_or(&self.first, |last| last.next);
        fault::point("joinable.appending");
        changing.publish(link, place, entry);
        self.last.store(place, Relaxed);
        self.queued.store(self.queued.load(Relaxed).saturating_add(1), Relaxed);
        self.unfinished.store(self.unfinished.load(Relaxed).saturating_add(1), Relaxed);
        Ok(true)
    }

    /// Takes the first QUEUED entry for participant `me`; its value is appended to `into`.
    pub(super) fn take(&self, arena: &Arena, me: u32, into: &mut Vec<u8>) -> Result<Took, Error> {
        let changing = self.change(arena);
        let mut found = None;
        self.walk(arena, self.from.load(Relaxed), |node, _| {
            let queued = node.state.load(Relaxed) == QUEUED;
            if queued {
                found = Some(node);
            }
            !queued
        });
        let Some(node) = found else {
            self.from.store(self.last.load(Relaxed), Relaxed);
            let (mine, mut has_mine) = (u64::from(me) << 8 | TAKEN, false);
            self.walk(arena, 0, |node, _| {
                has_mine = node.state.load(Relaxed) == mine;
                !has_mine
            });
            let more_may_come = !has_mine && self.unfinished.load(Relaxed) > 0;
            return Ok(Took::Nothing { more_may_come });
        };
        node.entry.load_value(into).ok_or_else(damaged)?;
        fault::point("joinable.taking");
        node.state.store(u64::from(me) << 8 | TAKEN, Release);
        fault::point("joinable.taken");
        self.from.store(node.entry.offset(), Relaxed);
        self.queued.store(self.queued.load(Relaxed).saturating_sub(1), Relaxed);
        drop(changing);
        Ok(Took::Value)
    }

    /// Cuts off the first entry that participant `me` has taken; `None` if there is none.
    pub(super) fn finish<'a>(&'a self, arena: &'a Arena, me: u32) -> Option<Option<CarriedBy<'a>>> {
        let changing = self.change(arena);
        let mine = u64::from(me) << 8 | TAKEN;
        let mut found = None;
        self.walk(arena, 0, |node, link| {
            if node.state.load(Relaxed) == mine {
                found = link.map(|link| (node, link));
            }
            found.is_none()
        });
        let (node, link) = found?;
        Some(self.cut_off(&changing, node, link))
    }

    /// Cuts an entry off: one store.
    fn cut_off<'a>(
        &self,
        changing: &Changing<'a>,
        node: Node<'a>,
        link: &AtomicU64,
    ) -> Option<CarriedBy<'a>> {
        let at = node.entry.offset();
        let next = node.next.load(Relaxed);
        let removed = changing.take_over(&node.entry);
        fault::point("joinable.cutting-off");
        link.store(next, Release);
        fault::point("joinable.cut-off");
        if self.from.load(Relaxed) == at {
            self.from.store(next, Relaxed);
        }
        if self.last.load(Relaxed) == at {
            self.find_last(changing.arena);
        }
        self.unfinished.store(self.unfinished.load(Relaxed).saturating_sub(1), Relaxed);
        changing.discard(removed)
    }

    fn find_last(&self, arena: &Arena) {
        let mut last = 0;
        self.walk(arena, 0, |node, _| {
            last = node.entry.offset();
            true
        });
        self.last.store(last, Relaxed);
    }

    /// Deals with what dead consumers had taken (R3).
    #[cold]
    fn reclaim(&self, changing: &Changing<'_>) {
        let arena = changing.arena;
        let dead = self.orphans.see();
        let is_dead = |state: u64| state & 0xff == TAKEN && dead.has(state >> 8);
        let redelivers = self.redelivers.load(Relaxed) != 0;
        let mut dropped = Vec::new();
        self.walk(arena, 0, |node, link| {
            if is_dead(node.state.load(Relaxed)) {
                if redelivers {
                    fault::point("joinable.redelivering");
                    node.state.store(QUEUED, Release);
                } else if let Some(link) = link {
                    dropped.extend(self.cut_off(changing, node, link));
                }
            }
            true
        });
        self.from.store(0, Relaxed);
        self.count(arena);
        fault::point("joinable.reclaimed");
        self.orphans.forget(&dead);
        // Gives up handles, which locks the objects: in order (R5 of `stripe.rs`).
        drop(dropped);
    }

    fn count(&self, arena: &Arena) {
        let (mut queued, mut all) = (0, 0);
        self.walk(arena, 0, |node, _| {
            all += 1;
            queued += u64::from(node.state.load(Relaxed) == QUEUED);
            true
        });
        self.queued.store(queued, Relaxed);
        self.unfinished.store(all, Relaxed);
    }

    fn slots_in_use(&self, arena: &Arena) -> HashSet<u64> {
        let mut slots = HashSet::new();
        self.walk(arena, 0, |node, _| {
            if !node.entry.has_block() {
                slots.insert(node.entry.offset());
            }
            true
        });
        slots
    }

    fn repair(&self, changing: &Changing<'_>) {
        let arena = changing.arena;
        self.walk(arena, 0, |node, _| {
            node.entry.adopt();
            true
        });
        self.from.store(0, Relaxed);
        self.orphans.suspect();
        self.find_last(arena);
        self.count(arena);
        changing.rebuild_heap(&self.slots_in_use(arena));
    }
}

impl ChainState {
    /// Visits what is reachable.
    fn each_part(
        &self,
        arena: &Arena,
        changed_by: Option<ParticipantId>,
        visit: &mut dyn FnMut(Part),
    ) {
        if self.stripe.is_changed_by(changed_by) {
            self.stripe.heap.each_page(arena, |page| visit(Part::Block(page)));
            self.walk(arena, 0, |node, _| {
                node.entry.each_part(visit);
                true
            });
        }
    }

    /// Checks everything: counts, every block and slot reachable once or free.
    pub(super) fn check(&self, arena: &Arena) -> Result<(), String> {
        let changing = self.change(arena);
        let counted = (self.queued.load(Relaxed), self.unfinished.load(Relaxed));
        let last = self.last.load(Relaxed);
        self.count(arena);
        self.find_last(arena);
        let real = (self.queued.load(Relaxed), self.unfinished.load(Relaxed));
        if counted != real || last != self.last.load(Relaxed) {
            return Err(format!("{real:?} entries are counted as {counted:?}"));
        }
        changing.check_heap(&self.slots_in_use(arena))?;
        crate::collections::keep::check_parts(arena, |visit| self.each_part(arena, None, visit))
    }

    /// Notes that a participant has died (R3), and takes its threads out of the rooms.
    fn note_death(&self, arena: &Arena, object: u32, dead: ParticipantId) {
        self.orphans.note(dead.to_raw());
        for room in [&self.getters, &self.putters, &self.joiners] {
            settle_room(arena, room, object, dead);
        }
    }
}

/// See [`Keeper::each_part`](crate::shm::keeper::Keeper).
pub(super) fn each_part(
    arena: &Arena,
    block: u64,
    changed_by: Option<ParticipantId>,
    visit: &mut dyn FnMut(Part),
) {
    if let Some(state) = arena.at(Offset::<ChainState>::new(block)) {
        state.each_part(arena, changed_by, visit);
    }
}

/// See [`Keeper::settle`](crate::shm::keeper::Keeper).
pub(super) fn settle(arena: &Arena, block: u64, object: u32, dead: ParticipantId) {
    if let Some(state) = arena.at(Offset::<ChainState>::new(block)) {
        state.note_death(arena, object, dead);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::handle::{Handle, Parts};
    use crate::sync::settle::Kind;

    /// Whoever died while it forgot the dead, after the flag and before the bits, left a bit that was taken for a later
    /// process's with the same id: what that one had got was given to another, though it lived.
    #[test]
    fn a_bit_that_was_not_forgotten_is_seen_by_the_next_one_to_repair() {
        let handle = Handle::create(&Parts::of(Kind::JoinableQueue), None, |state: &ChainState| {
            #[allow(unsafe_code)] // As the comment says.
            // SAFETY: the object is new and nobody else's yet.
            unsafe {
                state.stripe.initialise();
            }
        });
        let Ok(handle) = handle else { panic!("no arena") };
        let (state, arena) = (handle.state(), handle.caller().arena());
        let (bits, any) = state.orphans.raw();
        bits[0].store(1 << 7, Relaxed);
        state.repair(&state.change(arena));
        drop(state.change(arena));
        assert_eq!((bits[0].load(Relaxed), any.load(Relaxed)), (0, 0));
        // And one that is noted meanwhile.
        state.note_death(arena, handle.caller().id().index(), ParticipantId::from_raw(70));
        assert_eq!((bits[1].load(Relaxed), any.load(Relaxed)), (1 << 6, 1));
        drop(state.change(arena));
        assert_eq!((bits[1].load(Relaxed), any.load(Relaxed)), (0, 0));
    }
}
