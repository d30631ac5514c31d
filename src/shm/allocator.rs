//! Blocks of arena memory, each with an owner until it belongs to a structure.
//!
//! # Shared state
//! The data area is cut into units of 256 bytes. A table beside it has one word per unit; the word
//! of a block's first unit is its **head**, the others mean nothing:
//!
//! ```text
//! | units 40 | owner 16 | state 8 |          FREE 1, USED 2
//! ```
//!
//! `top` is the first unit that never belonged to a block. From unit 0, each head's length leads to
//! the next one, up to `top`. **The heads and `top` are the truth.** The free lists (one per size
//! class, last in first out because a warm page is 200 times cheaper than a fresh one) and the
//! count of used units are caches that a walk over the heads rebuilds.
//!
//! # Rules
//! R1. Heads, `top` and lists are written only under the lock, except that a block's user may
//!     change its owner with one store.
//! R2. Each change of the truth is one store. Carving from the top: write the new head (still beyond
//!     `top`, so meaningless), then move `top`. Splitting: write the remainder's head (still inside,
//!     so meaningless), then shorten the first. Merging: lengthen the first; the second's head then
//!     means nothing.
//! R3. A block is USED from the store that names its owner, so there is no moment at which a dead
//!     process's block cannot be found.
//!
//! # If a process dies
//! Holding the lock: the next one is told and rebuilds the lists (R2: the truth is whole). Owning
//! blocks: [`Arena::free_owned_by`] walks the heads.
//!
//! # Tests
//! A proptest against a model (below); the `alloc.` fault points in `tests/faults.rs`.

use super::arena::Arena;
use super::fault;
use super::offset::{Offset, Shared};
use super::participants::ParticipantId;
use crate::error::Error;
use crate::prim::{AcqRel, AtomicU64, Relaxed, Release};
use crate::sys::robust::{Locked, RobustMutex};

/// Bytes in a unit; every block starts at a multiple of it.
pub(crate) const UNIT_BYTES: u64 = 256;

/// From this many units on, lengths are multiples of 64 KiB instead of size classes.
const LARGE_UNITS: u64 = 4096;
const LARGE_STEP_UNITS: u64 = 256;
const CLASSES: usize = 160;
/// How far into a list of large blocks the quick search looks.
const QUICK_LOOKS: usize = 16;

const FREE: u64 = 1;
const USED: u64 = 2;

/// The allocator's part of the arena header.
#[derive(Debug)]
#[repr(C)]
pub(super) struct AllocatorState {
    lock: RobustMutex,
    top: AtomicU64,
    used: AtomicU64,
    /// First free unit of each class, plus one.
    lists: [AtomicU64; CLASSES],
}

/// Where the tables lie.
#[derive(Debug, Clone, Copy)]
pub(super) struct Layout {
    heads: u64,
    data: u64,
    units: u64,
}

impl Layout {
    pub(super) fn of(start: u64, end: u64) -> Self {
        let units = (end - start - UNIT_BYTES) / (UNIT_BYTES + 8);
        let data = (start + units * 8).next_multiple_of(UNIT_BYTES);
        Self { heads: start, data, units }
    }
}

/// A block: its place and how many bytes it really has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Block {
    pub(crate) offset: u64,
    pub(crate) bytes: u64,
}

/// How full the arena is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Usage {
    pub(crate) capacity_bytes: u64,
    pub(crate) used_bytes: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Head {
    units: u64,
    owner: ParticipantId,
    state: u64,
}

impl Head {
    fn from_raw(raw: u64) -> Self {
        Self {
            units: raw >> 24,
            owner: ParticipantId::from_raw(raw >> 8 & 0xffff),
            state: raw & 0xff,
        }
    }

    fn to_raw(self) -> u64 {
        self.units << 24 | self.owner.to_raw() << 8 | self.state
    }
}

/// The class whose smallest block is the longest one not above `units`: 1 to 8, then four per
/// doubling (10, 12, 14, 16, 20, ...).
fn class_below(units: u64) -> usize {
    if units <= 8 {
        return units.max(1) as usize - 1;
    }
    let log = units.ilog2() as usize;
    let step = (units >> (log - 2) & 3) as usize;
    (7 + (log - 3) * 4 + step).min(CLASSES - 1)
}

/// The length that a request of `units` is given.
fn rounded(units: u64) -> u64 {
    match units {
        0..=8 => units.max(1),
        LARGE_UNITS.. => units.next_multiple_of(LARGE_STEP_UNITS),
        _ => units.next_multiple_of(1 << ((units - 1).ilog2() - 2)),
    }
}

/// The lock, held. Dropping it unlocks.
struct Held<'a> {
    arena: &'a Arena,
    state: &'a AllocatorState,
    heads: &'a [AtomicU64],
    layout: Layout,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.state.lock.unlock();
    }
}

impl Arena {
    #[allow(unsafe_code)] // The mutex is initialised in place.
    pub(super) fn initialise_allocator(&self) {
        // SAFETY: the arena is new; no other process has its descriptor yet.
        unsafe { self.header().allocator.lock.initialise() };
    }

    fn lock_allocator(&self) -> Held<'_> {
        let locked = self.header().allocator.lock.lock();
        self.hold_allocator(locked)
    }

    fn hold_allocator(&self, locked: Locked) -> Held<'_> {
        let (layout, state) = (self.layout(), &self.header().allocator);
        let heads = self.slice_at(Offset::new(layout.heads), layout.units as usize);
        let held = Held { arena: self, state, heads: heads.unwrap_or(&[]), layout };
        if locked == Locked::OwnerDied {
            held.rebuild();
        }
        fault::point("alloc.locked");
        held
    }

    /// Takes a block of at least `bytes` for `owner`.
    ///
    /// # Errors
    /// A full arena, with what was asked, what is free and the capacity.
    pub(crate) fn allocate(&self, bytes: u64, owner: ParticipantId) -> Result<Block, Error> {
        let held = self.lock_allocator();
        let units = rounded(bytes.div_ceil(UNIT_BYTES));
        match held.take(units, owner) {
            Some(unit) => Ok(held.block(unit)),
            None => {
                let Usage { capacity_bytes, used_bytes } = held.usage();
                Err(Error::arena_full(bytes, capacity_bytes - used_bytes, capacity_bytes))
            }
        }
    }

    /// Gives a block back. An offset that is not a used block's is ignored: it came from memory
    /// that a dying process may have been writing.
    pub(crate) fn free(&self, offset: u64) {
        let held = self.lock_allocator();
        if let Some(unit) = held.used_unit(offset) {
            held.release(unit);
        }
    }

    /// Makes `owner` answerable for a block (R1: one store, by the block's user).
    pub(crate) fn set_owner(&self, offset: u64, owner: ParticipantId) {
        let Some(word) = self.head_word(offset) else { return };
        let head = Head::from_raw(word.load(Relaxed));
        if head.state == USED {
            word.store(Head { owner, ..head }.to_raw(), Release);
        }
    }

    /// Makes `to` answerable for a block, if `from` is: for whoever cannot know whether the block has
    /// been freed and given to another meanwhile.
    pub(crate) fn pass_on(&self, offset: u64, from: ParticipantId, to: ParticipantId) {
        let Some(word) = self.head_word(offset) else { return };
        let raw = word.load(Relaxed);
        let head = Head::from_raw(raw);
        if head.state == USED && head.owner == from {
            let passed = Head { owner: to, ..head }.to_raw();
            // Whoever changed it meanwhile is another owner.
            let _ = word.compare_exchange(raw, passed, AcqRel, Relaxed);
        }
    }

    /// Whether `offset` is that of a block in use which was taken for about so many bytes: what leads to a block
    /// may have been written by anybody, and is asked before the block is written to or freed. A moment's view,
    /// without the lock, and the truth for a block that is the caller's or a structure's that he has locked.
    #[inline]
    pub(crate) fn is_block_of(&self, offset: u64, bytes: u64) -> bool {
        let has = self.bytes_of_used(offset);
        if bytes > has {
            return false;
        }
        let wanted = rounded(bytes.div_ceil(UNIT_BYTES));
        // A remainder that is shorter stays with a block.
        has / UNIT_BYTES <= wanted + wanted / 8
    }

    /// As [`block_bytes`](Self::block_bytes), a moment's view without the lock.
    #[inline]
    pub(crate) fn bytes_of_used(&self, offset: u64) -> u64 {
        let layout = self.layout();
        let head = self.head_word(offset).map(|word| Head::from_raw(word.load(Relaxed)));
        let used = head
            .filter(|head| head.state == USED && (offset - layout.data).is_multiple_of(UNIT_BYTES));
        let left = (self.bytes() as u64).saturating_sub(offset);
        used.map_or(0, |head| head.units.saturating_mul(UNIT_BYTES).min(left))
    }

    /// Who is answerable for a block; for tests.
    pub(crate) fn owner_of(&self, offset: u64) -> Option<ParticipantId> {
        let head = Head::from_raw(self.head_word(offset)?.load(Relaxed));
        (head.state == USED).then_some(head.owner)
    }

    fn head_word(&self, offset: u64) -> Option<&AtomicU64> {
        let layout = self.layout();
        let unit = offset.wrapping_sub(layout.data) / UNIT_BYTES;
        if offset < layout.data || unit >= layout.units {
            return None;
        }
        self.at(Offset::<AtomicU64>::new(layout.heads + unit * 8))
    }

    /// The bytes that a used block has; 0 for anything else.
    pub(crate) fn block_bytes(&self, offset: u64) -> u64 {
        let held = self.lock_allocator();
        held.used_unit(offset).map_or(0, |unit| held.block(unit).bytes)
    }

    /// Frees every block of a dead process; returns how many there were.
    pub(crate) fn free_owned_by(&self, owner: ParticipantId) -> usize {
        let held = self.lock_allocator();
        let mut found = Vec::new();
        held.walk(|unit, head| {
            if head.state == USED && head.owner == owner {
                found.push(unit);
            }
        });
        for unit in &found {
            held.release(*unit);
        }
        found.len()
    }

    pub(crate) fn usage(&self) -> Usage {
        self.lock_allocator().usage()
    }

    /// Every block in use, with who is answerable for it; `None` if the lock cannot be had until then: in a dump of a program that hangs.
    pub(crate) fn used_blocks_until(
        &self,
        deadline_ns: u64,
    ) -> Option<Vec<(Block, ParticipantId)>> {
        let locked = self.header().allocator.lock.lock_until(deadline_ns)?;
        Some(self.hold_allocator(locked).used_blocks())
    }

    /// Gives the memory behind large free blocks back to the system.
    #[allow(unsafe_code)] // Discards pages.
    ///
    /// Not in a named arena: its pages were reserved when it was created, so that writing cannot fail.
    pub(crate) fn trim(&self) {
        if self.is_named() {
            return;
        }
        let held = self.lock_allocator();
        held.rebuild();
        held.walk(|unit, head| {
            let offset = held.layout.data + unit * UNIT_BYTES;
            let start = (offset + 8).next_multiple_of(4096);
            let end = (offset + head.units * UNIT_BYTES) & !4095;
            if head.state == FREE
                && head.units >= LARGE_UNITS
                && start < end
                && let Some(address) = held.arena.bytes_at(start, end - start)
            {
                // SAFETY: the pages lie in a free block behind its link, and we hold the lock.
                unsafe { crate::sys::memory::discard(address, (end - start) as usize) };
            }
        });
    }
}

#[allow(unsafe_code)] // The marker asserts what the line above says.
// SAFETY: a single atomic.
unsafe impl Shared for AtomicU64 {}

impl Held<'_> {
    fn used_blocks(&self) -> Vec<(Block, ParticipantId)> {
        let mut blocks = Vec::new();
        self.walk(|unit, head| {
            if head.state == USED {
                blocks.push((self.block(unit), head.owner));
            }
        });
        blocks
    }

    fn head(&self, unit: u64) -> Option<Head> {
        if unit >= self.state.top.load(Relaxed) {
            return None;
        }
        let head = Head::from_raw(self.heads.get(unit as usize)?.load(Relaxed));
        let fits = head.units > 0 && unit + head.units <= self.layout.units;
        (fits && (head.state == FREE || head.state == USED)).then_some(head)
    }

    fn set_head(&self, unit: u64, units: u64, owner: ParticipantId, state: u64) {
        if let Some(word) = self.heads.get(unit as usize) {
            word.store(Head { units, owner, state }.to_raw(), Release);
        }
    }

    fn block(&self, unit: u64) -> Block {
        let units = self.head(unit).map_or(0, |head| head.units);
        Block { offset: self.layout.data + unit * UNIT_BYTES, bytes: units * UNIT_BYTES }
    }

    fn used_unit(&self, offset: u64) -> Option<u64> {
        let distance = offset.checked_sub(self.layout.data)?;
        let unit = distance / UNIT_BYTES;
        let head = self.head(unit)?;
        (distance.is_multiple_of(UNIT_BYTES) && head.state == USED).then_some(unit)
    }

    fn usage(&self) -> Usage {
        Usage {
            capacity_bytes: self.layout.units * UNIT_BYTES,
            // A count that makes no sense is not passed on.
            used_bytes: self.state.used.load(Relaxed).min(self.layout.units) * UNIT_BYTES,
        }
    }

    /// The link to the next free block, in the first bytes of a free one.
    fn link(&self, unit: u64) -> Option<&AtomicU64> {
        if unit >= self.layout.units {
            return None;
        }
        self.arena.at(Offset::new(self.layout.data + unit * UNIT_BYTES))
    }

    fn take(&self, units: u64, owner: ParticipantId) -> Option<u64> {
        let class = class_below(units);
        let quick = (class..(class + 4).min(CLASSES))
            .find_map(|class| self.unlink(class, units, QUICK_LOOKS))
            .or_else(|| self.carve(units, owner));
        let unit = quick.or_else(|| self.take_slow(class, units, owner))?;
        fault::point("alloc.unlinked");
        let head = self.head(unit)?;
        let mut length = head.units;
        if head.state == FREE {
            // A remainder shorter than an eighth stays with the block.
            if length - units > units / 8 {
                self.set_head(unit + units, length - units, ParticipantId::NOBODY, FREE);
                length = units;
            }
            let remainder = head.units - length;
            self.set_head(unit, length, owner, USED);
            if remainder > 0 {
                self.push(unit + length);
            }
        }
        fault::point("alloc.taken");
        self.state.used.store(self.state.used.load(Relaxed).saturating_add(length), Relaxed);
        Some(unit)
    }

    #[cold]
    fn take_slow(&self, class: usize, units: u64, owner: ParticipantId) -> Option<u64> {
        self.rebuild();
        (class..CLASSES)
            .find_map(|class| self.unlink(class, units, usize::MAX))
            .or_else(|| self.carve(units, owner))
    }

    /// Takes a block from the never used rest (R2).
    fn carve(&self, units: u64, owner: ParticipantId) -> Option<u64> {
        let top = self.state.top.load(Relaxed);
        if units > self.layout.units.checked_sub(top)? {
            return None;
        }
        self.set_head(top, units, owner, USED);
        self.state.top.store(top + units, Release);
        Some(top)
    }

    /// Removes the first block of at least `units` among the first `looks` of a list.
    fn unlink(&self, class: usize, units: u64, looks: usize) -> Option<u64> {
        let mut place = &self.state.lists[class];
        for _ in 0..looks {
            let unit = place.load(Relaxed).checked_sub(1)?;
            let next = self.link(unit)?;
            let head = self.head(unit).filter(|head| head.state == FREE)?;
            if head.units >= units {
                place.store(next.load(Relaxed), Relaxed);
                return Some(unit);
            }
            place = next;
        }
        None
    }

    fn push(&self, unit: u64) {
        let (Some(head), Some(link)) = (self.head(unit), self.link(unit)) else { return };
        let list = &self.state.lists[class_below(head.units)];
        link.store(list.load(Relaxed), Relaxed);
        list.store(unit + 1, Relaxed);
    }

    fn release(&self, unit: u64) {
        let Some(head) = self.head(unit) else { return };
        self.set_head(unit, head.units, ParticipantId::NOBODY, FREE);
        fault::point("alloc.freed");
        self.state.used.store(self.state.used.load(Relaxed).saturating_sub(head.units), Relaxed);
        self.push(unit);
        fault::point("alloc.linked");
    }

    fn walk(&self, mut visit: impl FnMut(u64, Head)) {
        let mut unit = 0;
        while let Some(head) = self.head(unit) {
            visit(unit, head);
            unit += head.units;
        }
    }

    /// Merges neighbouring free blocks, lowers `top` past a free end, and makes the lists and the
    /// count anew from the heads.
    fn rebuild(&self) {
        let mut used = 0;
        let mut open: Option<u64> = None;
        let mut free = Vec::new();
        self.walk(|unit, head| match (head.state, open) {
            (FREE, Some(first)) => {
                let merged = unit + head.units - first;
                self.set_head(first, merged, ParticipantId::NOBODY, FREE);
            }
            (FREE, None) => {
                open = Some(unit);
                free.push(unit);
            }
            _ => {
                open = None;
                used += head.units;
            }
        });
        if let Some(last) = open {
            // SYNC: none needed beyond the lock; a single store, R2.
            self.state.top.store(last, Release);
            free.pop();
        }
        self.state.used.store(used, Relaxed);
        for list in &self.state.lists {
            list.store(0, Relaxed);
        }
        free.iter().rev().for_each(|unit| self.push(*unit));
    }
}

#[cfg(not(any(loom, shuttle)))]
#[cfg(test)]
#[path = "allocator_tests.rs"]
mod tests;
