//! Objects in the arena that any process of the tree may hold: which exist, and who holds them.
//!
//! An object is a lock, an event, a collection: some blocks of the arena. It lives while anybody
//! *holds* it: a process that has a handle to it, or a result that carries one and has not been
//! read yet.
//!
//! # Shared state
//! Two tables (`table.rs`). An **object** names its blocks; its `uid` is never used twice, in any
//! arena, and is 0 while the record is free. A **holding** says that a process holds an object, and
//! how much of it (permits, read locks):
//!
//! ```text
//! | object 32 | participant 16 | state 16 |          FREE 0, HELD 1, TRAVELLING 2
//! ```
//! A travelling one is on the list of a result, and belongs to the process that will read the result
//! (until the worker has handed the result over: to the worker). Or it is on the list of something
//! stored in a collection, and is nobody's (`keeper.rs`).
//!
//! # Rules
//! R1. Records, lists and counts change under one robust lock. `held` is written by the process
//!     itself, under the latch of the object (`sync`).
//! R2. **The words of the holdings are the truth.** An object's count of references is a cache.
//! R3. A block belongs to its creator until the object is entered, to nobody while the object lives,
//!     and to the process that destroys the object from before its `uid` is cleared. So does what is
//!     stored in the object (`keeper.rs`).
//!
//! # If a process dies
//! Holding the lock: the next one makes lists and counts anew, makes the blocks of living objects
//! nobody's, and destroys objects that nobody holds: then each block is either part of a living
//! object or still the dead process's (R3). That comes before the dead one's blocks are freed,
//! because settlement takes this lock first. Holding objects: [`Objects::settle`].

mod describe;
mod lists;

use super::arena::{Arena, own_id};
use super::fault;
use super::keeper::{self, Part};
use super::offset::Shared;
use super::participants::ParticipantId;
use super::shape::{ObjectId, Shape};
use super::table::{Directory, Record, Table};
use crate::error::Error;
use crate::prim::{AtomicU32, AtomicU64, Relaxed, Release};
use crate::sys::robust::{Locked, RobustMutex};
use std::hash::{BuildHasher, Hasher, RandomState};

/// Most blocks of one object.
pub(crate) const BLOCKS_MAX: usize = 3;

/// The objects' part of the arena header.
#[derive(Debug)]
#[repr(C)]
pub(super) struct ObjectsState {
    lock: RobustMutex,
    next_uid: AtomicU64,
    pub(super) objects: Directory,
    pub(super) holdings: Directory,
    pub(super) waiters: Directory,
}

#[derive(Debug)]
#[repr(C)]
struct Object {
    uid: AtomicU64,
    shape: AtomicU64,
    blocks: [AtomicU64; BLOCKS_MAX],
    references: AtomicU32,
    link: AtomicU32,
}

/// That a process holds an object, and how much of it.
#[derive(Debug)]
#[repr(C, align(64))]
pub(crate) struct Holding {
    word: AtomicU64,
    /// Permits, or read locks, of all threads of the process. Of a travelling one: its tag.
    pub(crate) held: AtomicU64,
    /// The next free one, or the next in the list of a result.
    link: AtomicU32,
}

#[allow(unsafe_code)] // The markers assert what the lines above say.
mod shared {
    // SAFETY: atomics only; padding is never read.
    unsafe impl super::Shared for super::Object {}
    // SAFETY: as above.
    unsafe impl super::Shared for super::Holding {}
}

impl Object {
    fn add_reference(&self) {
        self.references.store(self.references.load(Relaxed).saturating_add(1), Relaxed);
    }

    fn describe(&self, index: u32) -> Described {
        let kind = Shape::from_raw(self.shape.load(Relaxed)).kind;
        Described { object: index, kind, block: self.blocks[0].load(Relaxed) }
    }
}

impl Record for Object {
    fn is_free(&self) -> bool {
        self.uid.load(Relaxed) == 0
    }

    fn link(&self) -> &AtomicU32 {
        &self.link
    }
}

impl Record for Holding {
    fn is_free(&self) -> bool {
        self.word.load(Relaxed) == 0
    }

    fn link(&self) -> &AtomicU32 {
        &self.link
    }
}

const HELD: u64 = 1;
const TRAVELLING: u64 = 2;

#[derive(Debug, Clone, Copy)]
struct Word {
    object: u32,
    participant: ParticipantId,
    state: u64,
}

impl Word {
    fn from_raw(raw: u64) -> Self {
        Self {
            object: (raw >> 32) as u32,
            participant: ParticipantId::from_raw(raw >> 16 & 0xffff),
            state: raw & 0xffff,
        }
    }

    fn to_raw(self) -> u64 {
        u64::from(self.object) << 32 | self.participant.to_raw() << 16 | self.state
    }
}

/// An object, as the functions are told of it that know its kind (`keeper.rs`, settlement).
#[derive(Debug, Clone, Copy)]
pub(crate) struct Described {
    pub(crate) object: u32,
    pub(crate) kind: u32,
    /// The first block of the object.
    pub(crate) block: u64,
}

/// The lock, held. Dropping it unlocks.
#[derive(Debug)]
pub(crate) struct Objects<'a> {
    arena: &'a Arena,
    state: &'a ObjectsState,
}

impl Drop for Objects<'_> {
    fn drop(&mut self) {
        fault::point("objects.unlocking");
        self.state.lock.unlock();
    }
}

impl Arena {
    #[allow(unsafe_code)] // The mutex is initialised in place.
    pub(super) fn initialise_objects(&self) {
        let state = &self.header().objects;
        // A number that no other arena has, so that a handle from elsewhere is recognised.
        let random = RandomState::new().build_hasher().finish();
        state.next_uid.store(random << 32 | 1, Relaxed);
        // SAFETY: the arena is new; no other process has its descriptor yet.
        unsafe { state.lock.initialise() };
    }

    pub(crate) fn lock_objects(&self) -> Objects<'_> {
        let objects = Objects { arena: self, state: &self.header().objects };
        if objects.state.lock.lock() == Locked::OwnerDied {
            objects.repair();
        }
        fault::point("objects.locked");
        objects
    }

    fn objects(&self) -> Table<'_, Object> {
        Table::new(self, &self.header().objects.objects)
    }

    fn holdings(&self) -> Table<'_, Holding> {
        Table::new(self, &self.header().objects.holdings)
    }

    /// The directory of the threads that wait, whose records are `sync`'s.
    pub(crate) fn waiters(&self) -> &Directory {
        &self.header().objects.waiters
    }

    pub(crate) fn holding(&self, index: u32) -> Option<&Holding> {
        self.holdings().get(index)
    }

    /// What the processes hold of an object, all but `except`. Exact under the object's latch.
    pub(crate) fn held_by_others(&self, object: u32, except: ParticipantId) -> u64 {
        let mine = |holding: &Holding| {
            let word = Word::from_raw(holding.word.load(Relaxed));
            word.object == object && word.state == HELD && word.participant != except
        };
        let holdings = self.holdings().in_use().filter(|(_, holding)| mine(holding));
        holdings.fold(0, |sum, (_, holding)| sum.saturating_add(holding.held.load(Relaxed)))
    }

    /// One of an object's blocks; 0 if it has none there, or is not there itself.
    pub(crate) fn object_block(&self, id: ObjectId, which: usize) -> u64 {
        let object =
            self.objects().get(id.index).filter(|object| object.uid.load(Relaxed) == id.uid);
        object.map_or(0, |object| object.blocks[which].load(Relaxed))
    }
}

impl<'a> Objects<'a> {
    pub(crate) fn arena(&self) -> &'a Arena {
        self.arena
    }

    /// Enters an object whose first block is filled, held by this process.
    pub(crate) fn enter(
        &self,
        shape: Shape,
        blocks: [u64; BLOCKS_MAX],
    ) -> Result<(ObjectId, u32), Error> {
        let me = own_id();
        let objects = self.arena.objects();
        let (index, object) = objects.take(me)?;
        let holding = match self.add_holding(index, me, HELD, 0) {
            Ok(holding) => holding,
            Err(error) => {
                objects.put_back(index);
                return Err(error);
            }
        };
        fault::point("objects.holding-added");
        let uid = self.state.next_uid.load(Relaxed);
        self.state.next_uid.store(uid.wrapping_add(1).max(1), Relaxed);
        object.shape.store(shape.to_raw(), Relaxed);
        object.references.store(1, Relaxed);
        for (word, block) in object.blocks.iter().zip(blocks) {
            word.store(block, Relaxed);
        }
        object.uid.store(uid, Release);
        fault::point("objects.entered");
        for block in blocks {
            self.arena.set_owner(block, ParticipantId::NOBODY);
        }
        Ok((ObjectId { index, uid }, holding))
    }

    /// Has this process hold an object that lives.
    pub(crate) fn hold(&self, id: ObjectId, shape: Shape) -> Result<u32, Error> {
        let object = self.living(id)?;
        Shape::from_raw(object.shape.load(Relaxed)).check(shape)?;
        let holding = self.add_holding(id.index, own_id(), HELD, 0)?;
        object.add_reference();
        Ok(holding)
    }

    /// Has another process hold an object that lives, for a test in which that one is dead.
    #[cfg(test)]
    pub(crate) fn hold_for(&self, id: ObjectId, other: ParticipantId) -> Result<u32, Error> {
        let object = self.living(id)?;
        object.add_reference();
        self.add_holding(id.index, other, HELD, 0)
    }

    /// Has something that travels hold an object: this process answers for it until it is handed over.
    /// `next` is the list of that so far; the return value is the new one. By the tag it is told from
    /// another that has the record later.
    pub(crate) fn send_along(&self, id: ObjectId, next: u32, tag: u64) -> Result<u32, Error> {
        let object = self.living(id)?;
        let holding = self.add_holding(id.index, own_id(), TRAVELLING, next)?;
        if let Some(added) = self.arena.holding(holding) {
            added.held.store(tag, Relaxed);
        }
        object.add_reference();
        fault::point("objects.sent-along");
        Ok(holding)
    }

    /// Gives back everything that a dead process holds. `settle` is told of each object before.
    pub(crate) fn settle(&self, dead: ParticipantId, mut settle: impl FnMut(Described)) {
        let holdings = || self.arena.holdings().in_use();
        let of_dead = |holding: &Holding| {
            let word = Word::from_raw(holding.word.load(Relaxed));
            (word.participant == dead).then_some(word)
        };
        for (_, holding) in holdings() {
            if let Some(word) = of_dead(holding)
                && word.state == HELD
                && let Some(object) = self.arena.objects().get(word.object)
                && !object.is_free()
            {
                let orphaned = object.describe(word.object);
                self.adopt_parts(orphaned, dead);
                settle(orphaned);
            }
        }
        // Only now, because what was stored by the dead one may still carry its id.
        for (index, holding) in holdings() {
            if of_dead(holding).is_some() {
                self.give_up(index);
            }
        }
    }

    /// Replaces a block of an object by one that belongs to this process, and frees the old one.
    pub(crate) fn replace_block(&self, id: ObjectId, which: usize, new: u64) -> Result<(), Error> {
        let object = self.living(id)?;
        let old = object.blocks[which].load(Relaxed);
        // R3, and its repair: whoever dies here leaves a living object, all of whose blocks the
        // next one makes nobody's.
        self.arena.set_owner(old, own_id());
        object.blocks[which].store(new, Release);
        fault::point("objects.block-replaced");
        self.arena.set_owner(new, ParticipantId::NOBODY);
        if old != 0 {
            self.arena.free(old);
        }
        Ok(())
    }

    fn living(&self, id: ObjectId) -> Result<&Object, Error> {
        let object = self.arena.objects().get(id.index);
        object.filter(|object| object.uid.load(Relaxed) == id.uid && id.uid != 0).ok_or_else(|| {
            Error::invalid(
                "the handle leads nowhere: the object that it names is gone, or was made by another \
                 tree of processes"
                    .into(),
            )
        })
    }

    fn add_holding(
        &self,
        object: u32,
        participant: ParticipantId,
        state: u64,
        link: u32,
    ) -> Result<u32, Error> {
        let (index, holding) = self.arena.holdings().take(own_id())?;
        holding.held.store(0, Relaxed);
        holding.link.store(link, Relaxed);
        holding.word.store(Word { object, participant, state }.to_raw(), Release);
        Ok(index)
    }

    /// Gives up a holding, and with the last one the object; and so on, with what is stored there.
    pub(crate) fn give_up(&self, index: u32) {
        let mut stored = Vec::new();
        self.give_up_one(index, &mut stored);
        while let Some(index) = stored.pop() {
            self.give_up_one(index, &mut stored);
        }
    }

    fn give_up_one(&self, index: u32, stored: &mut Vec<u32>) {
        let holdings = self.arena.holdings();
        let Some(holding) = holdings.get(index) else { return };
        let word = Word::from_raw(holding.word.load(Relaxed));
        if word.state == 0 {
            return;
        }
        holding.word.store(0, Release);
        fault::point("objects.given-up");
        holdings.put_back(index);
        let Some(object) = self.arena.objects().get(word.object) else { return };
        let left = object.references.load(Relaxed).saturating_sub(1);
        object.references.store(left, Relaxed);
        if left == 0 && !object.is_free() {
            self.destroy(word.object, object, stored);
        }
    }

    /// Destroys an object; the holdings that were stored in it are this process's to give up.
    fn destroy(&self, index: u32, object: &Object, stored: &mut Vec<u32>) {
        let me = own_id();
        let described = object.describe(index);
        let mut blocks: Vec<u64> = object.blocks.iter().map(|block| block.load(Relaxed)).collect();
        keeper::each_part(self.arena, described, None, &mut |part| match part {
            Part::Block(block) => blocks.push(block),
            Part::Stored(first) => self.take_list(first, stored),
        });
        for block in &blocks {
            self.arena.set_owner(*block, me);
        }
        fault::point("objects.doomed");
        object.uid.store(0, Release);
        fault::point("objects.removed");
        keeper::gone(self.arena, described.kind);
        for block in blocks.into_iter().filter(|block| *block != 0) {
            self.arena.free(block);
        }
        self.arena.objects().put_back(index);
    }

    /// Makes lists, counts and the owners of blocks anew: the last holder of the lock has died.
    #[cold]
    fn repair(&self) {
        let (objects, holdings) = (self.arena.objects(), self.arena.holdings());
        for (_, object) in objects.in_use() {
            object.references.store(0, Relaxed);
        }
        for (_, holding) in holdings.in_use() {
            let object = Word::from_raw(holding.word.load(Relaxed)).object;
            match objects.get(object).filter(|object| !object.is_free()) {
                Some(object) => {
                    object.add_reference();
                }
                // Its process died before it had entered the object.
                None => holding.word.store(0, Relaxed),
            }
        }
        objects.rebuild();
        holdings.rebuild();
        self.state.waiters.adopt(self.arena);
        let mut stored = Vec::new();
        for (index, object) in objects.in_use() {
            if object.references.load(Relaxed) == 0 {
                self.destroy(index, object, &mut stored);
                continue;
            }
            for block in &object.blocks {
                self.arena.set_owner(block.load(Relaxed), ParticipantId::NOBODY);
            }
        }
        stored.into_iter().for_each(|index| self.give_up(index));
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
#[path = "objects_fuzz.rs"]
mod fuzz;
