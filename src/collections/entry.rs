//! One entry of a collection: a key (or none) and a value, encoded, in one piece.
//!
//! # Shared state
//! Two words, then the key, then the value, each filled up to whole words:
//!
//! ```text
//! | key bytes 24 | in a block of its own 1 | value bytes 39 |
//! | what marks its slot (`heap.rs`), or list of what is stored in it 32 | hash of the key 32 |
//! ```
//! It lies in a slot of the stripe (`heap.rs`), or in a block of its own if it is long or carries
//! handles.
//!
//! # Rules
//! R1. An entry does not change from when it is reachable until it no longer is (except the words of a
//!     key that its collection calls its own: `queue/chain.rs`).
//! R2. Its lengths are those of a slot, or fit its block: else there is no entry.
//! R3. `shm/keeper.rs` says to whom a block and what is stored in it belong, and when.

use super::heap::{SLOT_BYTES_MAX, slot_word};
use super::stripe::Changing;
use crate::error::Error;
use crate::prim::{AtomicU64, Relaxed, Release};
use crate::shm::arena::own_id;
use crate::shm::keeper::Part;
use crate::shm::words::{load_bytes, store_bytes, words_for};
use crate::shm::{Arena, Offset, ParticipantId, fault};
use crate::sync::crossing::{self, Carried};

const HEADER_BYTES: u64 = 16;
const KEY_BYTES_MAX: usize = (1 << 24) - 1;
const VALUE_BYTES_MAX: u64 = (1 << 39) - 1;
const OWN_BLOCK: u64 = 1 << 39;

/// An entry, somewhere in the arena. While it is read without a lock it may be anything.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Entry<'a> {
    arena: &'a Arena,
    offset: u64,
    first: u64,
    second: u64,
}

impl<'a> Entry<'a> {
    /// The entry at an offset; `None` if there cannot be one.
    #[inline]
    pub(crate) fn at(arena: &'a Arena, offset: u64) -> Option<Self> {
        let [first, second] = arena.slice_at::<AtomicU64>(Offset::new(offset), 2)? else {
            return None;
        };
        let (first, second) = (first.load(Relaxed), second.load(Relaxed));
        let entry = Self { arena, offset, first, second };
        // R2.
        let bytes = HEADER_BYTES
            + (words_for(entry.key_bytes()) + words_for(entry.value_bytes())) as u64 * 8;
        let fits = match entry.has_block() {
            false => bytes <= SLOT_BYTES_MAX,
            true => arena.is_block_of(offset, bytes),
        };
        fits.then_some(entry)
    }

    pub(crate) fn offset(&self) -> u64 {
        self.offset
    }

    #[inline]
    pub(crate) fn key_bytes(&self) -> usize {
        (self.first >> 40) as usize
    }

    #[inline]
    pub(crate) fn value_bytes(&self) -> usize {
        (self.first & VALUE_BYTES_MAX) as usize
    }

    pub(crate) fn hash(&self) -> u32 {
        self.second as u32
    }

    /// Whether it lies in a block of its own.
    pub(crate) fn has_block(&self) -> bool {
        self.first & OWN_BLOCK != 0
    }

    /// The list of what is stored in it; 0 if nothing is.
    pub(crate) fn stored(&self) -> u32 {
        if self.has_block() { (self.second >> 32) as u32 } else { 0 }
    }

    #[inline]
    pub(crate) fn key(&self) -> Option<&'a [AtomicU64]> {
        let count = words_for(self.key_bytes());
        self.arena.slice_at(Offset::new(self.offset + HEADER_BYTES), count)
    }

    #[inline]
    pub(crate) fn value(&self) -> Option<&'a [AtomicU64]> {
        let start = self.offset + HEADER_BYTES + words_for(self.key_bytes()) as u64 * 8;
        self.arena.slice_at(Offset::new(start), words_for(self.value_bytes()))
    }

    /// Appends the bytes of the value; `None` if it cannot be one.
    #[inline]
    pub(crate) fn load_value(&self, into: &mut Vec<u8>) -> Option<()> {
        load_bytes(self.value()?, self.value_bytes(), into);
        Some(())
    }

    /// Appends the bytes of the key; `None` if it cannot be one.
    pub(crate) fn load_key(&self, into: &mut Vec<u8>) -> Option<()> {
        load_bytes(self.key()?, self.key_bytes(), into);
        Some(())
    }

    /// Visits what belongs to it beside a slot.
    pub(crate) fn each_part(&self, visit: &mut dyn FnMut(Part)) {
        if self.has_block() {
            visit(Part::Block(self.offset));
            if self.stored() != 0 {
                visit(Part::Stored(self.stored()));
            }
        }
    }

    /// Makes nobody's what belongs to it: repair.
    pub(crate) fn adopt(&self) {
        if self.has_block() {
            self.arena.set_owner(self.offset, ParticipantId::NOBODY);
            if self.stored() != 0 {
                self.arena.lock_objects().hand_over(self.stored(), ParticipantId::NOBODY);
            }
        }
    }
}

/// An entry that is not in the collection yet. Dropping it frees what it has.
#[derive(Debug)]
pub(crate) struct NewEntry<'a> {
    arena: &'a Arena,
    key: &'a [u8],
    value: &'a [u8],
    hash: u32,
    /// Its own block; 0 if it is to lie in a slot.
    block: u64,
    stored: u32,
}

impl<'a> NewEntry<'a> {
    /// Prepares an entry, before the stripe is locked.
    ///
    /// # Errors
    /// It is too long, or the arena has no room for it.
    pub(crate) fn prepare(
        arena: &'a Arena,
        key: &'a [u8],
        hash: u32,
        value: &'a [u8],
        carried: &[Carried],
    ) -> Result<Self, Error> {
        if key.len() > KEY_BYTES_MAX || value.len() as u64 > VALUE_BYTES_MAX {
            return Err(Error::limit(format!(
                "a key of {} bytes and a value of {} are more than {KEY_BYTES_MAX} and \
                 {VALUE_BYTES_MAX}",
                key.len(),
                value.len()
            )));
        }
        let mut entry = Self { arena, key, value, hash, block: 0, stored: 0 };
        if entry.bytes() > SLOT_BYTES_MAX || !carried.is_empty() {
            entry.block = arena.allocate(entry.bytes(), own_id())?.offset;
            fault::point("entry.allocated");
            entry.stored = crossing::send_along(carried, 0, 0)?;
            entry.write(entry.block, OWN_BLOCK, entry.stored);
            fault::point("entry.written");
        }
        Ok(entry)
    }

    fn bytes(&self) -> u64 {
        HEADER_BYTES + (words_for(self.key.len()) + words_for(self.value.len())) as u64 * 8
    }

    fn write(&self, offset: u64, flag: u64, upper: u32) {
        let words =
            self.arena.slice_at::<AtomicU64>(Offset::new(offset), self.bytes() as usize / 8);
        let Some([first, second, rest @ ..]) = words else { return };
        first.store((self.key.len() as u64) << 40 | flag | self.value.len() as u64, Relaxed);
        second.store(u64::from(upper) << 32 | u64::from(self.hash), Relaxed);
        let (key, value) = rest.split_at(words_for(self.key.len()));
        store_bytes(key, self.key);
        store_bytes(value, self.value);
    }
}

impl Drop for NewEntry<'_> {
    fn drop(&mut self) {
        drop(CarriedBy::new(self.arena, self.block, self.stored));
    }
}

/// A block and what is stored in it, in the hands of this process; dropping it frees both.
#[derive(Debug)]
pub(crate) struct CarriedBy<'a> {
    arena: &'a Arena,
    block: u64,
    stored: u32,
}

impl<'a> CarriedBy<'a> {
    pub(crate) fn new(arena: &'a Arena, block: u64, stored: u32) -> Self {
        Self { arena, block, stored }
    }
}

impl Drop for CarriedBy<'_> {
    fn drop(&mut self) {
        if self.stored != 0 {
            self.arena.lock_objects().give_up_list(self.stored);
        }
        if self.block != 0 {
            self.arena.free(self.block);
        }
    }
}

impl<'a> Changing<'a> {
    /// Gives a new entry its place; if it is not published then, [`take_back`](Self::take_back).
    pub(crate) fn place(&self, new: &NewEntry<'_>) -> Result<u64, Error> {
        if new.block != 0 {
            return Ok(new.block);
        }
        let (slot, class) = self.take_slot(new.bytes())?;
        new.write(slot, 0, (slot_word(class) >> 32) as u32);
        fault::point("entry.placed");
        Ok(slot)
    }

    /// Takes back a place that has not been published.
    pub(crate) fn take_back(&self, new: &NewEntry<'_>, place: u64) {
        if new.block == 0 {
            self.give_slot(place);
        }
    }

    /// Stores `word`, which makes a new entry reachable.
    pub(crate) fn publish(&self, at: &AtomicU64, word: u64, mut new: NewEntry<'_>) {
        // Release: whatever the entry consists of comes before.
        at.store(word, Release);
        fault::point("entry.published");
        self.give_away(&mut new);
    }

    /// Makes nobody's what belongs to an entry that has become reachable.
    pub(crate) fn give_away(&self, new: &mut NewEntry<'_>) {
        let (block, stored) = (std::mem::take(&mut new.block), std::mem::take(&mut new.stored));
        if block != 0 {
            self.arena.set_owner(block, ParticipantId::NOBODY);
            if stored != 0 {
                self.arena.lock_objects().hand_over(stored, ParticipantId::NOBODY);
            }
            fault::point("entry.given-away");
        }
    }

    /// Takes over an entry that is about to be cut off: before the store that does it.
    pub(crate) fn take_over(&self, entry: &Entry<'a>) -> Removed<'a> {
        if !entry.has_block() {
            return Removed { slot: entry.offset, carried: None };
        }
        self.arena.set_owner(entry.offset, own_id());
        if entry.stored() != 0 {
            self.arena.lock_objects().hand_over(entry.stored(), own_id());
        }
        fault::point("entry.taken-over");
        let carried = CarriedBy::new(self.arena, entry.offset, entry.stored());
        Removed { slot: 0, carried: Some(carried) }
    }

    /// Frees the slot of an entry that was cut off; what it has beside is freed when the returned value
    /// is dropped, for which the stripe need not be locked.
    pub(crate) fn discard(&self, removed: Removed<'a>) -> Option<CarriedBy<'a>> {
        fault::point("entry.cut-off");
        if removed.slot != 0 {
            self.give_slot(removed.slot);
        }
        removed.carried
    }
}

/// An entry that is being cut off.
#[derive(Debug)]
#[must_use]
pub(crate) struct Removed<'a> {
    slot: u64,
    carried: Option<CarriedBy<'a>>,
}
