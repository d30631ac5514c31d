//! The index of a stripe of a map: where the entry of a key is.
//!
//! # Shared state
//! A block of words, a power of two of them, in which the entry of a key is looked for from the place
//! that its hash names, one word after the other (open addressing, linear probing):
//!
//! ```text
//! EMPTY 0 | REMOVED 1 | a part of the hash 16 | offset of the entry 48 |
//! ```
//! The stripe has the block's offset and, in its lowest bits, the logarithm of the number of words.
//!
//! # Rules
//! R1. The words are the truth about what the map contains. One store into one of them adds, replaces
//!     or removes an entry. `count` (entries) and `used` (words that are not EMPTY) are caches.
//! R2. At most four fifths of the words are used, so that a search ends. Before there would be more,
//!     the entries' words are copied to a new block, twice as large unless many were REMOVED; one store
//!     replaces the old block.
//! R3. Counts and words may have been written by anybody: no loop counts on an EMPTY word, and nothing is written to a
//!     block that cannot be the index's, nor is that walked or freed.
//!
//! # If a process dies
//! While it copies: the new block is not reachable, and its own. Else `stripe.rs`.

use super::entry::Entry;
use super::stripe::{Changing, Stripe};
use crate::error::Error;
use crate::prim::{AtomicU64, Relaxed, Release};
use crate::shm::arena::own_id;
use crate::shm::keeper::Part;
use crate::shm::words::are_bytes;
use crate::shm::{Arena, Offset, ParticipantId, fault};
use std::collections::HashSet;

const EMPTY: u64 = 0;
const REMOVED: u64 = 1;
const OFFSET_BITS: u32 = 48;
const LOG_MASK: u64 = 0xff;
/// A whole unit of the allocator.
const WORDS_LOG_MIN: u32 = 5;

/// A stripe of a map; all zero at first, but for the mutex.
#[derive(Debug)]
#[repr(C, align(128))]
pub(crate) struct MapStripe {
    pub(super) stripe: Stripe,
    index: AtomicU64,
    pub(super) count: AtomicU64,
    used: AtomicU64,
}

/// The word that leads to an entry.
#[inline]
pub(super) fn word_of(offset: u64, hash: u64) -> u64 {
    hash >> 32 << OFFSET_BITS | offset
}

/// Whether a word was used before, by an entry that has gone: using it again takes no room.
#[inline]
pub(super) fn is_reusable(word: &AtomicU64) -> bool {
    word.load(Relaxed) == REMOVED
}

/// The logarithm of how many places an index has, for so many entries and one more.
pub(super) fn log_for(entries: usize) -> u32 {
    ((entries + 1) * 2).next_power_of_two().ilog2().max(WORDS_LOG_MIN)
}

/// An index that nothing leads to yet, all EMPTY. Dropping it frees its block.
#[derive(Debug)]
pub(super) struct NewIndex<'a> {
    arena: &'a Arena,
    block: u64,
    log: u32,
    words: &'a [AtomicU64],
}

impl<'a> NewIndex<'a> {
    /// Takes the block, for places of `cell_bytes`.
    pub(super) fn new(arena: &'a Arena, cell_bytes: u64, log: u32) -> Result<Self, Error> {
        let block = arena.allocate(cell_bytes << log, own_id())?.offset;
        let words =
            arena.slice_at::<AtomicU64>(Offset::new(block), (cell_bytes as usize / 8) << log);
        let words = words.unwrap_or_default();
        words.iter().for_each(|word| word.store(EMPTY, Relaxed));
        Ok(Self { arena, block, log, words })
    }

    /// The words of the first free place for a hash, each place having so many.
    pub(super) fn place(&self, hash: u32, cell_words: usize) -> Result<&'a [AtomicU64], Error> {
        let mask = (1usize << self.log) - 1;
        let mut at = hash as usize & mask;
        for cell in std::iter::repeat_with(|| {
            let cell = self.words.get(at * cell_words..(at + 1) * cell_words);
            at = (at + 1) & mask;
            cell
        })
        .take(mask + 1)
        {
            if let Some(cell) = cell.filter(|cell| cell[0].load(Relaxed) == EMPTY) {
                return Ok(cell);
            }
        }
        Err(Error::broken("the index of a collection has more entries than it had before".into()))
    }

    fn take(mut self) -> (u64, u32) {
        (std::mem::take(&mut self.block), self.log)
    }
}

impl Drop for NewIndex<'_> {
    fn drop(&mut self) {
        if self.block != 0 {
            self.arena.free(self.block);
        }
    }
}

/// What a search has found.
#[derive(Debug, Clone, Copy)]
pub(super) enum Place<'a> {
    /// The key's entry, and the word that leads to it.
    Found(Entry<'a>, &'a AtomicU64),
    /// The word to store it in.
    Free(&'a AtomicU64),
    /// There is no index yet.
    Nowhere,
}

impl MapStripe {
    /// The block of the index, and the logarithm of how many places it has.
    #[inline]
    pub(super) fn index(&self) -> Option<(u64, u32)> {
        let index = self.index.load(Relaxed);
        let log = index & LOG_MASK;
        (index != 0 && log < u64::from(OFFSET_BITS)).then_some((index & !LOG_MASK, log as u32))
    }

    #[inline]
    fn words<'a>(&self, arena: &'a Arena) -> Option<&'a [AtomicU64]> {
        let (block, log) = self.index()?;
        arena.slice_at(Offset::new(block), 1 << log)
    }

    /// All of them, or none if the index is no block of its length (R3): to walk as far as the arena goes would touch
    /// pages that nobody has used.
    fn all_words<'a>(&self, arena: &'a Arena) -> &'a [AtomicU64] {
        self.words(arena).filter(|_| self.is_sound(arena, 8)).unwrap_or_default()
    }

    /// Looks for a key. While the stripe is not locked, `None` is for what makes no sense.
    #[inline]
    pub(super) fn search<'a>(&self, arena: &'a Arena, key: &[u8], hash: u64) -> Option<Place<'a>> {
        let Some(words) = self.words(arena) else { return Some(Place::Nowhere) };
        let mask = words.len() - 1;
        let mut free = None;
        let mut at = hash as usize & mask;
        for _ in 0..words.len() {
            let place = &words[at];
            match place.load(Relaxed) {
                EMPTY => return Some(Place::Free(free.unwrap_or(place))),
                REMOVED => free = free.or(Some(place)),
                word if word >> OFFSET_BITS == hash >> 32 & 0xffff => {
                    let entry = Entry::at(arena, word & ((1 << OFFSET_BITS) - 1))?;
                    if entry.key_bytes() == key.len() && are_bytes(entry.key()?, key) {
                        return Some(Place::Found(entry, place));
                    }
                }
                _ => {}
            }
            at = (at + 1) & mask;
        }
        None
    }

    /// Visits every entry, and the word that leads to it.
    pub(super) fn each_entry<'a>(
        &self,
        arena: &'a Arena,
        mut visit: impl FnMut(Entry<'a>, &'a AtomicU64),
    ) {
        for place in self.all_words(arena) {
            let word = place.load(Relaxed);
            if word > REMOVED
                && let Some(entry) = Entry::at(arena, word & ((1 << OFFSET_BITS) - 1))
            {
                visit(entry, place);
            }
        }
    }

    /// Visits what is reachable.
    pub(super) fn each_part(&self, arena: &Arena, visit: &mut dyn FnMut(Part)) {
        self.stripe.heap.each_page(arena, |page| visit(Part::Block(page)));
        self.each_entry(arena, |entry, _| entry.each_part(visit));
        self.each_part_of_index(arena, 8, visit);
    }

    /// Visits what is reachable without entries.
    pub(super) fn each_part_of_index(
        &self,
        arena: &Arena,
        cell_bytes: u64,
        visit: &mut dyn FnMut(Part),
    ) {
        if let Some((block, _)) = self.index().filter(|_| self.is_sound(arena, cell_bytes)) {
            visit(Part::Block(block));
        }
    }

    /// Whether the index, if there is one, is a block of its length: before it is written to (R3). `cell_bytes` are
    /// those of a place.
    #[inline]
    pub(super) fn is_sound(&self, arena: &Arena, cell_bytes: u64) -> bool {
        match self.index() {
            Some((block, log)) => arena.is_block_of(block, cell_bytes << log),
            None => self.index.load(Relaxed) == 0,
        }
    }

    fn slots_in_use(&self, arena: &Arena) -> HashSet<u64> {
        let mut slots = HashSet::new();
        self.each_entry(arena, |entry, _| {
            if !entry.has_block() {
                slots.insert(entry.offset());
            }
        });
        slots
    }

    /// Makes nobody's what is reachable, and the caches anew: the last one to change it has died.
    pub(super) fn repair(&self, changing: &Changing<'_>) {
        let arena = changing.arena;
        if let Some((block, _)) = self.index() {
            arena.set_owner(block, ParticipantId::NOBODY);
        }
        let mut count = 0;
        self.each_entry(arena, |entry, _| {
            entry.adopt();
            count += 1;
        });
        let words = self.all_words(arena);
        let used = words.iter().filter(|word| word.load(Relaxed) != EMPTY).count();
        self.set_counts(count, used as u64);
        changing.rebuild_heap(&self.slots_in_use(arena));
    }

    /// Whether there must be more places for one more to be used (R2).
    #[inline]
    pub(super) fn needs_room(&self, places: usize) -> bool {
        self.used.load(Relaxed) >= places as u64 / 5 * 4
    }

    /// Makes sure that one more word may be used. Whatever was found before is out of date if it
    /// returns `true`.
    pub(super) fn make_room(&self, changing: &Changing<'_>) -> Result<bool, Error> {
        let arena = changing.arena;
        if !self.needs_room(self.words(arena).map_or(0, <[_]>::len)) {
            return Ok(false);
        }
        let mut moving = Vec::new();
        self.each_entry(arena, |entry, place| moving.push((entry.hash(), place.load(Relaxed))));
        let log = log_for(moving.len());
        let new = NewIndex::new(arena, 8, log)?;
        for (hash, word) in &moving {
            new.place(*hash, 1)?[0].store(*word, Relaxed);
        }
        self.replace_index(changing, new, moving.len() as u64);
        Ok(true)
    }

    /// Puts another index in place of the one that is there: one store.
    pub(super) fn replace_index(&self, changing: &Changing<'_>, new: NewIndex<'_>, count: u64) {
        let arena = changing.arena;
        let (block, log) = new.take();
        let before = self.index().map_or(0, |(block, _)| block);
        arena.set_owner(before, own_id());
        fault::point("dict.growing");
        self.index.store(block | u64::from(log), Release);
        fault::point("dict.grown");
        arena.set_owner(block, ParticipantId::NOBODY);
        self.set_counts(count, count);
        if before != 0 {
            arena.free(before);
        }
    }

    /// Has the index be of another length than it is, for a test; says what it was.
    #[cfg(test)]
    pub(super) fn lie_about_length(&self, log: u64) -> u64 {
        let before = self.index.load(Relaxed);
        self.index.store(before & !LOG_MASK | log, Relaxed);
        before & LOG_MASK
    }

    pub(super) fn set_counts(&self, count: u64, used: u64) {
        self.count.store(count, Relaxed);
        self.used.store(used, Relaxed);
    }

    /// Counts an entry that was put into `place`, which held `before`.
    pub(super) fn count_added(&self, before: u64) {
        self.count.store(self.count.load(Relaxed).saturating_add(1), Relaxed);
        if before == EMPTY {
            self.used.store(self.used.load(Relaxed).saturating_add(1), Relaxed);
        }
    }

    /// Cuts off the entry at `place`: one store.
    pub(super) fn cut_off(&self, place: &AtomicU64) {
        place.store(REMOVED, Release);
        self.count.store(self.count.load(Relaxed).saturating_sub(1), Relaxed);
    }

    /// Cuts off everything at once, and frees the memory.
    pub(super) fn clear(&self, changing: &Changing<'_>, has_entries: bool) {
        let arena = changing.arena;
        let cell_bytes = if has_entries { 8 } else { super::pairs::CELL_BYTES };
        let index = self.index().filter(|_| self.is_sound(arena, cell_bytes));
        let Some((block, _)) = index else {
            // None, or what is none (R3).
            self.index.store(0, Release);
            return self.set_counts(0, 0);
        };
        let mut removed = Vec::new();
        if has_entries {
            self.each_entry(arena, |entry, _| {
                if entry.has_block() {
                    removed.push(changing.take_over(&entry));
                }
            });
        }
        arena.set_owner(block, own_id());
        fault::point("dict.clearing");
        self.index.store(0, Release);
        fault::point("dict.cleared");
        self.set_counts(0, 0);
        arena.free(block);
        changing.free_pages();
        for removed in removed {
            drop(changing.discard(removed));
        }
    }

    /// Checks the stripe, which is locked: counts, chains, memory.
    pub(super) fn check(
        &self,
        changing: &Changing<'_>,
        hash_of: impl Fn(&[u8]) -> u64,
    ) -> Result<(), String> {
        let arena = changing.arena;
        let (mut count, mut wrong, mut key) = (0, None, Vec::new());
        self.each_entry(arena, |entry, place| {
            count += 1;
            key.clear();
            let found = entry.load_key(&mut key).and_then(|()| {
                match self.search(arena, &key, hash_of(&key)) {
                    Some(Place::Found(_, found)) => Some(std::ptr::eq(found, place)),
                    _ => None,
                }
            });
            if found != Some(true) {
                wrong = Some(format!("the entry at {:#x} is not found by its key", entry.offset()));
            }
        });
        let words = self.all_words(arena);
        let used = words.iter().filter(|word| word.load(Relaxed) != EMPTY).count() as u64;
        self.check_counts((count, used))?;
        wrong.map_or(Ok(()), Err)?;
        changing.check_heap(&self.slots_in_use(arena))?;
        super::keep::check_parts(arena, |visit| self.each_part(arena, visit))
    }

    pub(super) fn check_counts(&self, real: (u64, u64)) -> Result<(), String> {
        let counted = (self.count.load(Relaxed), self.used.load(Relaxed));
        if counted == real {
            return Ok(());
        }
        Err(format!("{real:?} entries and words are counted as {counted:?}"))
    }
}
