//! A bounded buffer of encoded values in the arena, and the rooms to wait in: what `Queue` and `Pipe`
//! are made of.
//!
//! # Shared state
//! Two hints and two rooms; cells (`cells.rs`) lie elsewhere in the object. A cell, behind its state:
//!
//! ```text
//! | bytes of the value 32 | list of what is stored in it 32 | its block, or 0 | the value, if it fits |
//! ```
//!
//! # Rules
//! R1. Block and list are written into the cell *before* they become nobody's, and while it is FILLING;
//!     they are taken over *before* the cell says TAKEN (in place of the length), which commits, and
//!     while it is TAKING. It says so until the next value is written into it, which has no part in what was there.
//!     So a claimer that dies leaves them to be found.
//! R2. A value without a block and a list is taken by the swap to EMPTY.
//! R3. What leads to cells, or from a cell to a block, may have been written by anybody: cells lie in the object's
//!     own block, and a block that is taken over is one in use, and of the value's length.
//! R4. No code of the user runs while a cell is claimed: but for numbers and vectors of them, values are
//!     encoded before and decoded after.
//!
//! # If a process dies
//! FILLING: the value is dropped, it was not put. TAKING and not TAKEN: the value is given back in its
//! old place. TAKEN: it was taken; the cell is freed. With the advice to look, or before it gives one:
//! `sync/state/room.rs`.
//!
//! # Fairness
//! Values leave in the order in which their cells were claimed. Who waits is advised first come, first
//! served; one that comes just then may be faster.

#![allow(unsafe_code)] // Reads and writes cells that are claimed.

use super::cells::{Cells, Claim, Orphan};
use crate::collections::entry::CarriedBy;
use crate::error::Error;
use crate::prim::{AtomicU64, Relaxed, Release};
use crate::shm::arena::own_id;
use crate::shm::keeper::Part;
use crate::shm::objects::Objects;
use crate::shm::words::{bytes_alone, store_bytes_alone, words_for};
use crate::shm::{Arena, Offset, ParticipantId, fault};
use crate::sync::crossing::{self, Carried};
use crate::sync::state::Death;
use crate::sync::state::room::Room;

/// The value has been taken, and the cell has not been freed yet.
const TAKEN: u64 = u32::MAX as u64;
const BYTES_MAX: usize = u32::MAX as usize - 1;
/// Words of a cell before the value.
const CELL_HEADER_WORDS: usize = 3;
const LINE_BYTES: usize = 64;

/// 128 bytes: neighbouring lines are fetched in pairs.
#[derive(Debug)]
#[repr(C, align(128))]
pub(super) struct Line<T>(pub(super) T);

/// See the module documentation; all zero at first, but for the sizes.
#[derive(Debug)]
#[repr(C)]
pub(super) struct BufferState {
    head: Line<AtomicU64>,
    tail: Line<AtomicU64>,
    count: AtomicU64,
    cell_words: AtomicU64,
    /// Where the cells begin, in bytes behind the object's state.
    start: AtomicU64,
    pub(super) getters: Line<Room>,
    pub(super) putters: Line<Room>,
}

/// Where the cells of an object may lie: behind its state, in its block.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    start: u64,
    bytes: u64,
}

impl Place {
    /// Behind the `S` at the beginning of a block that has so many bytes.
    #[inline]
    pub(super) fn of<S>(block: u64, block_bytes: u64) -> Self {
        let state_bytes = size_of::<S>() as u64;
        let start = block.saturating_add(state_bytes);
        Self { start, bytes: block_bytes.saturating_sub(state_bytes) }
    }
}

/// How many bytes cells take, and how many words each.
pub(super) fn size_of_cells(count: usize, value_bytes: usize) -> Option<(usize, usize)> {
    let bytes =
        (CELL_HEADER_WORDS * 8).checked_add(value_bytes)?.checked_next_multiple_of(LINE_BYTES)?;
    Some((bytes.checked_mul(count)?, bytes / 8))
}

/// A buffer, found in the arena.
#[derive(Debug, Clone, Copy)]
pub(super) struct Buffer<'a> {
    arena: &'a Arena,
    state: &'a BufferState,
    cells: Cells<'a>,
}

/// A value that is to be put. Dropping it frees what it has.
#[derive(Debug)]
pub(super) struct Message<'a> {
    arena: &'a Arena,
    bytes: &'a [u8],
    block: u64,
    stored: u32,
}

impl Drop for Message<'_> {
    fn drop(&mut self) {
        drop(CarriedBy::new(self.arena, self.block, self.stored));
    }
}

/// A value that was taken.
#[derive(Debug)]
pub(super) struct Taken<'a, R> {
    /// What was made of its bytes; `None` if they are in a block.
    pub(super) read: Option<R>,
    pub(super) block: u64,
    pub(super) bytes: usize,
    /// What holds the objects whose handles it carries, and the block; to be dropped after decoding.
    pub(super) carried: CarriedBy<'a>,
}

impl BufferState {
    /// Fills in a new buffer, all zero so far: the `number`th of its object.
    pub(super) fn initialise(&self, number: u32, count: usize, cell_words: usize, start: usize) {
        self.getters.0.initialise(number * 2);
        self.putters.0.initialise(number * 2 + 1);
        self.count.store(count as u64, Relaxed);
        self.cell_words.store(cell_words as u64, Relaxed);
        self.start.store(start as u64, Relaxed);
    }

    pub(super) fn capacity(&self) -> usize {
        self.count.load(Relaxed) as usize
    }

    /// The buffer; `None` if there cannot be one (R3).
    #[inline]
    pub(super) fn at<'a>(&'a self, arena: &'a Arena, place: Place) -> Option<Buffer<'a>> {
        let (count, cell_words) = (self.count.load(Relaxed), self.cell_words.load(Relaxed));
        let (words, start) = (count.checked_mul(cell_words)?, self.start.load(Relaxed));
        if count == 0
            || cell_words <= CELL_HEADER_WORDS as u64
            || words.checked_mul(8)?.checked_add(start)? > place.bytes
        {
            return None;
        }
        let words = arena.slice_at(Offset::new(place.start.checked_add(start)?), words as usize)?;
        let cells = Cells {
            head: &self.head.0,
            tail: &self.tail.0,
            words,
            count: u32::try_from(count).ok()?,
            cell_words: cell_words as usize,
        };
        Some(Buffer { arena, state: self, cells })
    }
}

/// What a cell says of its value.
#[derive(Debug, Clone, Copy)]
struct About {
    bytes: u64,
    stored: u32,
    block: u64,
}

impl About {
    #[inline]
    fn of(words: &[AtomicU64]) -> Self {
        let first = words[0].load(Relaxed);
        Self { bytes: first >> 32, stored: first as u32, block: words[1].load(Relaxed) }
    }

    #[inline]
    fn to_raw(self) -> u64 {
        self.bytes << 32 | u64::from(self.stored)
    }

    /// Without a block that cannot be the value's (R3).
    fn checked(self, arena: &Arena) -> Self {
        let sound = self.block == 0 || arena.is_block_of(self.block, self.bytes);
        Self { block: if sound { self.block } else { 0 }, ..self }
    }
}

impl<'a> Buffer<'a> {
    /// Makes a value ready to be put.
    ///
    /// # Errors
    /// It is too long, or the arena has no room for it.
    pub(super) fn prepare(
        &self,
        bytes: &'a [u8],
        carried: &[Carried],
    ) -> Result<Message<'a>, Error> {
        if bytes.len() > BYTES_MAX {
            return Err(Error::limit(format!(
                "a value of {} bytes is longer than {BYTES_MAX}",
                bytes.len()
            )));
        }
        let mut message = Message { arena: self.arena, bytes, block: 0, stored: 0 };
        if words_for(bytes.len()) > self.cells.cell_words - CELL_HEADER_WORDS {
            message.block = self.arena.allocate(bytes.len() as u64, own_id())?.offset;
            fault::point("queue.allocated");
            let words = self.arena.slice_at(Offset::new(message.block), words_for(bytes.len()));
            // SAFETY: the block is new and this process's own.
            unsafe { store_bytes_alone(words.unwrap_or_default(), bytes) };
        }
        message.stored = crossing::send_along(carried, 0, 0)?;
        Ok(message)
    }

    /// Puts a value, unless there is no cell, or the queue is found to be closed.
    #[inline]
    pub(super) fn try_put(
        &self,
        me: u32,
        message: &mut Message<'_>,
        is_closed: impl FnOnce() -> bool,
    ) -> Result<(), NotPut> {
        let Some(claim) = self.cells.claim_empty(u64::from(me)) else { return Err(NotPut::Full) };
        fault::point("queue.claimed");
        // SYNC(closed): R3 of `Queue`: the claim comes before the look.
        crate::prim::fence_after_rmw();
        if is_closed() {
            self.cells.empty(claim);
            return Err(NotPut::Closed);
        }
        let (block, stored) = (message.block, message.stored);
        let [first, second, value @ ..] = claim.words else { return Err(NotPut::Closed) };
        let about = About { bytes: message.bytes.len() as u64, stored, block };
        if block != 0 || stored != 0 {
            // R1.
            second.store(block, Release);
            first.store(about.to_raw(), Release);
            fault::point("queue.written-down");
            (message.block, message.stored) = (0, 0);
            self.arena.set_owner(block, ParticipantId::NOBODY);
            if stored != 0 {
                self.arena.lock_objects().hand_over(stored, ParticipantId::NOBODY);
            }
        } else {
            first.store(about.to_raw(), Relaxed);
        }
        if block == 0 {
            // SAFETY: R1 of `cells.rs`: the cell is ours while it is FILLING.
            unsafe { store_bytes_alone(value, message.bytes) };
        }
        fault::point("queue.filled");
        self.cells.fill(claim);
        fault::point("queue.put");
        Ok(())
    }

    /// Takes the oldest value, if there is one; unless it is in a block, `read` gets its bytes, which
    /// does with them what R4 allows.
    #[inline]
    pub(super) fn try_get<R>(
        &self,
        me: u32,
        read: impl FnOnce(&[u8]) -> R,
    ) -> Option<Taken<'a, R>> {
        let claim = self.cells.claim_full(u64::from(me))?;
        fault::point("queue.taking");
        let about = About::of(claim.words);
        let (bytes, is_here) = (about.bytes as usize, about.block == 0);
        let read = is_here.then(|| {
            // SAFETY: R1 of `cells.rs`: the cell is ours while it is TAKING.
            read(unsafe { bytes_alone(&claim.words[CELL_HEADER_WORDS - 1..], bytes) })
        });
        let mut block = 0;
        if !is_here || about.stored != 0 {
            block = self.take_over(claim, about);
        }
        let carried = CarriedBy::new(self.arena, block, about.stored);
        fault::point("queue.taken");
        self.cells.empty(claim);
        fault::point("queue.emptied");
        Some(Taken { read, block, bytes, carried })
    }

    /// Takes over what a value has beside its cell; its block, if it is there.
    #[cold]
    fn take_over(&self, claim: Claim<'_>, about: About) -> u64 {
        let About { stored, block, .. } = about.checked(self.arena);
        self.arena.set_owner(block, own_id());
        if stored != 0 {
            self.arena.lock_objects().hand_over(stored, own_id());
        }
        fault::point("queue.taken-over");
        // R1.
        claim.words[0].store(TAKEN << 32, Release);
        fault::point("queue.marked");
        claim.words[1].store(0, Release);
        block
    }

    /// How many values there are.
    pub(super) fn len(&self) -> usize {
        self.cells.counts().0
    }

    /// Whether a value could be put; a moment's view.
    pub(super) fn has_room(&self) -> bool {
        self.cells.has_room()
    }

    /// Whether there is a value, or may be one when whoever is at it has ended.
    pub(super) fn is_drained(&self) -> bool {
        self.cells.counts() == (0, 0)
    }

    pub(super) fn has_value(&self) -> bool {
        self.cells.has_value()
    }

    /// Visits what is reachable.
    pub(super) fn each_part(&self, visit: &mut dyn FnMut(Part)) {
        self.cells.each_used(|words| {
            let About { bytes, stored, block } = About::of(words).checked(self.arena);
            if bytes != TAKEN && block != 0 {
                visit(Part::Block(block));
            }
            if bytes != TAKEN && stored != 0 {
                visit(Part::Stored(stored));
            }
        });
    }

    /// Gives back what a dead process had claimed; and takes its threads out of the rooms.
    pub(super) fn settle(&self, locked: &Objects<'_>, object: u32, dead: ParticipantId) {
        self.cells.each_orphan(dead.to_raw(), |orphan| match orphan {
            Orphan::Filling(claim) => {
                let About { stored, block, .. } = About::of(claim.words).checked(self.arena);
                // This process's own before nothing leads to them: it may die, too.
                self.arena.set_owner(block, own_id());
                if stored != 0 {
                    locked.hand_over(stored, own_id());
                }
                claim.words[1].store(0, Release);
                claim.words[0].store(0, Release);
                self.cells.empty(claim);
                if stored != 0 {
                    locked.give_up_list(stored);
                }
                if block != 0 {
                    self.arena.free(block);
                }
            }
            Orphan::Taking(claim) => {
                let About { bytes, stored, block } = About::of(claim.words);
                if bytes == TAKEN {
                    claim.words[1].store(0, Release);
                    self.cells.empty(claim);
                    return;
                }
                self.arena.pass_on(block, dead, ParticipantId::NOBODY);
                if stored != 0 {
                    locked.adopt_list(stored, dead);
                }
                self.cells.give_back(claim);
            }
        });
        settle_room(self.arena, &self.state.getters.0, object, dead);
        settle_room(self.arena, &self.state.putters.0, object, dead);
    }

    /// Checks that nothing is claimed, and that everything is reachable once.
    pub(super) fn check(&self) -> Result<(), String> {
        let (full, busy) = self.cells.counts();
        if busy != 0 || full > self.cells.count as usize {
            return Err(format!("{full} of {} cells are full, {busy} claimed", self.cells.count));
        }
        if self.has_value() != (full > 0) {
            return Err(format!("{full} cells are full, and none is found"));
        }
        crate::collections::keep::check_parts(self.arena, |visit| self.each_part(visit))
    }
}

/// Why a value was not put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NotPut {
    Full,
    Closed,
}

/// Takes a dead process's threads out of a room.
pub(super) fn settle_room(arena: &Arena, room: &Room, object: u32, dead: ParticipantId) {
    let is_dead = |id: u32| arena.is_dead(ParticipantId::from_raw(u64::from(id)));
    let of = dead.to_raw() as u32;
    room.settle(&Death { records: arena, object, of, is_dead: &is_dead });
}
