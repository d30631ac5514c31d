//! A queue that knows which of its values have been dealt with.
//!
//! # Shared state
//! A stripe (`collections/stripe.rs`) with a chain of entries, in the order in which they were put. The
//! key of an entry is two words of the queue's own:
//!
//! ```text
//! | next entry, or 0 | QUEUED 1, or TAKEN 2 and the participant from bit 8 |
//! ```
//! Beside it: where the chain begins and ends, where the first QUEUED entry may be, how many there are
//! of each (caches, but for the beginning); `orphans`, a bit for each participant that died while it may
//! have had something; `closed`; three rooms.
//!
//! # States of an entry
//! QUEUED -> TAKEN (`get`) -> cut off (`task_done`). Of a consumer that died: TAKEN -> QUEUED, or cut off.
//!
//! # Rules
//! R1. The chain and its entries' words are the truth. A change is one store: into the link before an
//!     entry, or into its state.
//! R2. Settlement sets the dead one's bit in `orphans`, before its id can be another's. Whoever locks the
//!     stripe next deals with its entries before it does anything else.
//!
//! # If a process dies
//! With something taken: R2, and whoever waits looks again. While it changes the chain: `stripe.rs`.

use super::buffer::settle_room;
use super::errors::{GetError, PutError};
use super::transfer::{Ended, damaged, decode_bytes, encode};
use crate::collections::Kept;
use crate::collections::entry::{CarriedBy, Entry, NewEntry};
use crate::collections::scratch::with_scratch;
use crate::collections::stripe::{Changing, Stripe};
use crate::error::Error;
use crate::limits::PARTICIPANTS_MAX;
use crate::prim::{AcqRel, Acquire, AtomicU32, AtomicU64, Relaxed, Release};
use crate::shm::keeper::Part;
use crate::shm::offset::Shared;
use crate::shm::{Arena, Offset, ParticipantId, fault};
use crate::sync::crossing::crossing;
use crate::sync::handle::{Handle, Parts, own_participant};
use crate::sync::settle::Kind;
use crate::sync::state::Deadline;
use crate::sync::state::room::Room;
use std::collections::HashSet;
use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

const QUEUED: u64 = 1;
const TAKEN: u64 = 2;
const BITS: usize = 64;

/// See the module documentation.
#[derive(Debug)]
#[repr(C)]
pub(super) struct JoinableState {
    stripe: Stripe,
    first: AtomicU64,
    last: AtomicU64,
    /// No entry before this one is QUEUED; 0: it is not known.
    from: AtomicU64,
    queued: AtomicU64,
    unfinished: AtomicU64,
    capacity: AtomicU64,
    redelivers: AtomicU32,
    closed: AtomicU32,
    /// Not 0 if a bit is set below.
    has_orphans: AtomicU32,
    orphans: [AtomicU64; PARTICIPANTS_MAX / BITS],
    getters: Room,
    putters: Room,
    joiners: Room,
}

#[allow(unsafe_code)] // The marker asserts what the line above it says.
// SAFETY: atomics, and a mutex that the C library accesses.
unsafe impl Shared for JoinableState {}

/// What becomes of a value whose consumer died before it said that it was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnDeath {
    /// It is in the queue again, in its old place.
    #[default]
    Redeliver,
    /// It is dropped, and counts as done.
    Drop,
}

/// What taking came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Took {
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

impl JoinableState {
    fn change<'a>(&'a self, arena: &'a Arena) -> Changing<'a> {
        let changing = self.stripe.change(arena, |changing| self.repair(changing));
        // SYNC(joinable-orphans): pairs with the Release in `note_death`.
        if self.has_orphans.load(Acquire) != 0 {
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
        let (mut link, mut at) = match from {
            0 => (Some(&self.first), self.first.load(Relaxed)),
            from => (None, from),
        };
        while at != 0
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

    /// Appends an entry, unless there are as many QUEUED ones as there may be.
    fn append(&self, arena: &Arena, new: &mut Option<NewEntry<'_>>) -> Result<bool, Error> {
        let changing = self.change(arena);
        let full = self.queued.load(Relaxed) >= self.capacity.load(Relaxed);
        let Some(entry) = new.take_if(|_| !full) else { return Ok(false) };
        let place = changing.place(&entry)?;
        let last = Node::at(arena, self.last.load(Relaxed));
        let link = last.map_or(&self.first, |last| last.next);
        fault::point("joinable.appending");
        changing.publish(link, place, entry);
        self.last.store(place, Relaxed);
        self.queued.store(self.queued.load(Relaxed) + 1, Relaxed);
        self.unfinished.store(self.unfinished.load(Relaxed) + 1, Relaxed);
        Ok(true)
    }

    /// Takes the first QUEUED entry for participant `me`; its value is appended to `into`.
    fn take(&self, arena: &Arena, me: u32, into: &mut Vec<u8>) -> Result<Took, Error> {
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
    fn finish<'a>(&'a self, arena: &'a Arena, me: u32) -> Option<Option<CarriedBy<'a>>> {
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

    /// Deals with what dead consumers had taken (R2).
    #[cold]
    fn reclaim(&self, changing: &Changing<'_>) {
        let arena = changing.arena;
        let dead: Vec<u64> = self.orphans.iter().map(|bits| bits.load(Relaxed)).collect();
        let is_dead = |state: u64| {
            let id = (state >> 8) as usize;
            state & 0xff == TAKEN
                && dead.get(id / BITS).is_some_and(|bits| bits >> (id % BITS) & 1 != 0)
        };
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
        self.has_orphans.store(0, Relaxed);
        for (bits, seen) in self.orphans.iter().zip(dead) {
            bits.fetch_and(!seen, AcqRel);
        }
        if self.orphans.iter().any(|bits| bits.load(Acquire) != 0) {
            self.has_orphans.store(1, Relaxed);
        }
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
        self.find_last(arena);
        self.count(arena);
        changing.rebuild_heap(&self.slots_in_use(arena));
    }
}

/// A bounded queue whose consumers say when they are done with a value, and that can be waited for until
/// all are done.
///
/// # If a process dies
/// As for a [`Queue`](super::Queue). And what a consumer had got and not reported as done is in the
/// queue again, in its old place, or dropped: see [`OnDeath`]. So [`join`](Self::join) returns once the
/// living have done everything.
///
/// # Examples
/// ```
/// use procpool::{Pool, queue::JoinableQueue};
///
/// let tasks = JoinableQueue::<u32>::new(16)?;
/// let pool = Pool::builder().workers(2).build()?;
/// let consume = |tasks: JoinableQueue<u32>| {
///     let mut sum = 0;
///     while let Ok(n) = tasks.get() {
///         sum += n;
///         tasks.task_done().unwrap();
///     }
///     sum
/// };
/// let consumers: Vec<_> =
///     (0..2).map(|_| pool.submit(consume, tasks.clone())).collect::<Result<_, _>>()?;
/// for n in 1..=10 {
///     tasks.put(n)?;
/// }
/// tasks.join(); // all ten are done
/// tasks.close();
/// let sums: Vec<u32> = consumers.into_iter().map(|task| task.join().unwrap()).collect();
/// assert_eq!(sums.iter().sum::<u32>(), 55);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct JoinableQueue<T: Kept> {
    handle: Handle<JoinableState>,
    of: PhantomData<fn() -> T>,
}

const PARTS: Parts = Parts::of(Kind::JoinableQueue);

crossing!(JoinableQueue<T: Kept>, PARTS);

impl<T: Kept> JoinableQueue<T> {
    /// Makes a queue for at most `capacity` values, not counting those that have been got; what a dead
    /// consumer had got is redelivered.
    ///
    /// # Errors
    /// `capacity` is 0, or the arena is full or cannot be made.
    pub fn new(capacity: usize) -> Result<Self, Error> {
        Self::with_policy(capacity, OnDeath::Redeliver)
    }

    /// The same, with what is to become of what a dead consumer had got.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn with_policy(capacity: usize, on_death: OnDeath) -> Result<Self, Error> {
        if capacity == 0 {
            return Err(Error::invalid("a queue's capacity is 0, and must be at least 1".into()));
        }
        let handle = Handle::create(&PARTS, None, |state: &JoinableState| {
            state.capacity.store(capacity as u64, Relaxed);
            state.redelivers.store(u32::from(on_death == OnDeath::Redeliver), Relaxed);
            #[allow(unsafe_code)] // As the comment says.
            // SAFETY: the object is new and nobody else's yet.
            unsafe {
                state.stripe.initialise();
            }
        })?;
        Ok(Self { handle, of: PhantomData })
    }

    fn arena(&self) -> &'static Arena {
        self.handle.caller().arena()
    }

    fn ended(&self) -> Option<Ended> {
        if self.is_closed() {
            return Some(Ended::Closed);
        }
        self.arena().is_orphaned().then_some(Ended::OwnerDied)
    }

    fn put_until(&self, value: T, deadline: Deadline) -> Result<(), PutError<T>> {
        let (state, caller) = (self.handle.state(), self.handle.caller());
        own_participant();
        let put = with_scratch(|scratch| -> Result<Option<Result<(), Ended>>, Error> {
            encode(&value, scratch)?;
            let mut node = [0; 16];
            node[8..].copy_from_slice(&QUEUED.to_ne_bytes());
            let new = NewEntry::prepare(self.arena(), &node, 0, &scratch.value, &scratch.carried)?;
            let mut new = Some(new);
            let attempt = || {
                if let Some(ended) = self.ended() {
                    return Some(Ok(Err(ended)));
                }
                match state.append(self.arena(), &mut new) {
                    Ok(true) => Some(Ok(Ok(()))),
                    Ok(false) => None,
                    Err(error) => Some(Err(error)),
                }
            };
            wait(&state.putters, caller, deadline, attempt).transpose()
        });
        match put {
            Ok(Some(Ok(()))) => {
                state.getters.notify(caller, 1);
                Ok(())
            }
            Ok(Some(Err(ended))) => Err(ended.put(value)),
            Ok(None) => Err(PutError::Full(value)),
            Err(error) => Err(PutError::Failed(value, error)),
        }
    }

    fn get_until(&self, deadline: Deadline) -> Result<T, GetError> {
        let (state, caller) = (self.handle.state(), self.handle.caller());
        let me = own_participant();
        with_scratch(|scratch| {
            let before = &mut scratch.before;
            let attempt = || {
                // Looked at first: what was put before the end comes before the end.
                let ended = self.ended();
                before.clear();
                match (state.take(self.arena(), me, before), ended) {
                    (Ok(Took::Value), _) => Some(Ok(())),
                    (Ok(Took::Nothing { more_may_come: true }), Some(Ended::Closed)) => None,
                    (Ok(Took::Nothing { .. }), ended) => ended.map(|ended| Err(ended.get())),
                    (Err(error), _) => Some(Err(GetError::Failed(error))),
                }
            };
            match wait(&state.getters, caller, deadline, attempt) {
                Some(Ok(())) => {
                    state.putters.notify(caller, 1);
                    // What it leads to is held by the entry until it is done.
                    decode_bytes(&scratch.before)
                }
                Some(Err(error)) => Err(error),
                None => Err(GetError::Empty),
            }
        })
    }

    /// Puts a value; waits while the queue is full.
    ///
    /// # Errors
    /// The queue is closed, the value cannot be encoded, or the arena has no room for it.
    pub fn put(&self, value: T) -> Result<(), PutError<T>> {
        self.put_until(value, Deadline::Never)
    }

    /// Puts a value if there is room.
    ///
    /// # Errors
    /// [`PutError::Full`], or as [`put`](Self::put).
    pub fn try_put(&self, value: T) -> Result<(), PutError<T>> {
        self.put_until(value, Deadline::At(0))
    }

    /// Puts a value; waits for room for at most `timeout`.
    ///
    /// # Errors
    /// [`PutError::Full`], or as [`put`](Self::put).
    pub fn put_timeout(&self, value: T, timeout: Duration) -> Result<(), PutError<T>> {
        self.put_until(value, Deadline::after(timeout))
    }

    /// Gets the oldest value; waits while the queue is empty. [`task_done`](Self::task_done) says that it
    /// has been dealt with.
    ///
    /// # Errors
    /// [`GetError::Closed`] when the queue is closed and everything in it is done (until then a consumer
    /// may die, and what it had got come back); [`GetError::Failed`] if the value cannot be decoded: it
    /// counts as got.
    pub fn get(&self) -> Result<T, GetError> {
        self.get_until(Deadline::Never)
    }

    /// Gets the oldest value if there is one.
    ///
    /// # Errors
    /// [`GetError::Empty`], or as [`get`](Self::get).
    pub fn try_get(&self) -> Result<T, GetError> {
        self.get_until(Deadline::At(0))
    }

    /// Gets the oldest value; waits for one for at most `timeout`.
    ///
    /// # Errors
    /// [`GetError::Empty`], or as [`get`](Self::get).
    pub fn get_timeout(&self, timeout: Duration) -> Result<T, GetError> {
        self.get_until(Deadline::after(timeout))
    }

    /// Says that this process is done with the first value that it has got and not been done with.
    ///
    /// # Errors
    /// This process has got nothing that is not done.
    pub fn task_done(&self) -> Result<(), Error> {
        let (state, caller) = (self.handle.state(), self.handle.caller());
        let Some(carried) = state.finish(self.arena(), own_participant()) else {
            return Err(Error::invalid(format!(
                "task_done was called too often: of {} unfinished values this process has got none",
                self.unfinished()
            )));
        };
        drop(carried);
        if self.unfinished() == 0 {
            state.joiners.notify(caller, u32::MAX);
            if self.is_closed() {
                state.getters.notify(caller, u32::MAX);
            }
        }
        Ok(())
    }

    /// How many values have been put and not been done with.
    #[must_use]
    pub fn unfinished(&self) -> usize {
        self.handle.state().unfinished.load(Relaxed) as usize
    }

    fn join_until(&self, deadline: Deadline) -> bool {
        let (state, caller) = (self.handle.state(), self.handle.caller());
        let attempt = || {
            // Deals with what the dead had taken.
            drop(state.change(self.arena()));
            (self.unfinished() == 0).then_some(())
        };
        wait(&state.joiners, caller, deadline, attempt).is_some()
    }

    /// Waits until everything that was put has been done with.
    pub fn join(&self) {
        self.join_until(Deadline::Never);
    }

    /// Waits for that for at most `timeout`; returns whether it is so.
    pub fn join_timeout(&self, timeout: Duration) -> bool {
        self.join_until(Deadline::after(timeout))
    }

    /// How many values are in the queue, not counting those that have been got.
    #[must_use]
    pub fn len(&self) -> usize {
        drop(self.handle.state().change(self.arena()));
        self.handle.state().queued.load(Relaxed) as usize
    }

    /// Returns whether there is nothing to get.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many values there may be to get.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.handle.state().capacity.load(Relaxed) as usize
    }

    /// Closes the queue, for all processes: nothing more can be put.
    pub fn close(&self) {
        let (state, caller) = (self.handle.state(), self.handle.caller());
        // Under the lock, so that nothing is put after it.
        let changing = state.change(self.arena());
        // SYNC(joinable-closed): pairs with the Acquire in `is_closed`.
        state.closed.swap(1, AcqRel);
        drop(changing);
        for room in [&state.getters, &state.putters] {
            room.notify(caller, u32::MAX);
        }
    }

    /// Returns whether the queue is closed.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        // SYNC(joinable-closed): pairs with the swap in `close`.
        self.handle.state().closed.load(Acquire) != 0
    }

    /// Checks everything: for tests.
    ///
    /// # Errors
    /// What is wrong.
    #[doc(hidden)]
    #[cfg(any(debug_assertions, feature = "fault"))]
    pub fn check_invariants(&self) -> Result<(), String> {
        let (state, arena) = (self.handle.state(), self.arena());
        let changing = state.change(arena);
        let counted = (state.queued.load(Relaxed), state.unfinished.load(Relaxed));
        let last = state.last.load(Relaxed);
        state.count(arena);
        state.find_last(arena);
        let real = (state.queued.load(Relaxed), state.unfinished.load(Relaxed));
        if counted != real || last != state.last.load(Relaxed) {
            return Err(format!("{real:?} entries are counted as {counted:?}"));
        }
        changing.check_heap(&state.slots_in_use(arena))?;
        crate::collections::keep::check_parts(arena, |visit| state.each_part(arena, None, visit))
    }
}

/// Tries once, and then waits unless there is no time for it.
fn wait<R>(
    room: &Room,
    caller: &crate::sync::handle::Reference,
    deadline: Deadline,
    mut attempt: impl FnMut() -> Option<R>,
) -> Option<R> {
    let found = attempt();
    if found.is_some() || deadline == Deadline::At(0) {
        return found;
    }
    room.wait(caller, deadline, attempt)
}

impl<T: Kept> fmt::Debug for JoinableQueue<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("JoinableQueue")
            .field("object", &self.handle)
            .field("queued", &self.handle.state().queued.load(Relaxed))
            .field("unfinished", &self.unfinished())
            .field("closed", &self.is_closed())
            .finish()
    }
}

impl JoinableState {
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

    /// Notes that a participant has died (R2), and takes its threads out of the rooms.
    fn note_death(&self, arena: &Arena, object: u32, dead: ParticipantId) {
        let id = dead.to_raw() as usize;
        self.orphans[id / BITS].fetch_or(1 << (id % BITS), AcqRel);
        // SYNC(joinable-orphans): pairs with the Acquire in `change`; carries the bit.
        self.has_orphans.store(1, Release);
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
    if let Some(state) = arena.at(Offset::<JoinableState>::new(block)) {
        state.each_part(arena, changed_by, visit);
    }
}

/// See [`Keeper::settle`](crate::shm::keeper::Keeper).
pub(super) fn settle(arena: &Arena, block: u64, object: u32, dead: ParticipantId) {
    if let Some(state) = arena.at(Offset::<JoinableState>::new(block)) {
        state.note_death(arena, object, dead);
    }
}
