//! A stripe of a map whose keys and values are numbers: they lie in the index itself.
//!
//! # Shared state
//! As in `buckets.rs`, but for cells of three words instead of one, and without entries elsewhere:
//!
//! ```text
//! | EMPTY 0, REMOVED 1, or the hash 32 and USED 2 | key | value |
//! ```
//!
//! # Rules
//! R1. Key and value are written before the first word says USED, and the key never while it does. So
//!     one store adds (the first word), replaces (the value) or removes (the first word) a pair.
//! R2. As R2 of `buckets.rs`.
//!
//! # If a process dies
//! As in `buckets.rs`; there is nothing but the block of the index to be found.

use super::buckets::{MapStripe, NewIndex, is_reusable, log_for};
use super::map::{Changed, Expected};
use super::stripe::Changing;
use crate::error::Error;
use crate::prim::{AtomicU64, Relaxed, Release};
use crate::shm::words::word_of;
use crate::shm::{Arena, Offset, ParticipantId, fault};

const EMPTY: u64 = 0;
const REMOVED: u64 = 1;
const USED: u64 = 2;
const CELL_WORDS: usize = 3;
pub(super) const CELL_BYTES: u64 = CELL_WORDS as u64 * 8;

/// How many bytes keys and values have, at most 8 each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PairBytes {
    pub(super) key: usize,
    pub(super) value: usize,
}

impl PairBytes {
    pub(super) fn from_raw(raw: u64) -> Option<Self> {
        let (key, value) = ((raw & 0xff) as usize, (raw >> 8 & 0xff) as usize);
        (1..=8).contains(&key).then_some(Self { key, value: value.min(8) })
    }

    pub(super) fn to_raw(self) -> u64 {
        (self.value << 8 | self.key) as u64
    }

    pub(super) fn append_value(self, word: u64, into: &mut Vec<u8>) {
        into.extend_from_slice(&word.to_ne_bytes()[..self.value]);
    }
}

/// Where a key is, or could be.
#[derive(Debug, Clone, Copy)]
enum Place<'a> {
    Found(&'a [AtomicU64]),
    Free(&'a [AtomicU64]),
    Nowhere,
}

#[inline]
fn used(hash: u64) -> u64 {
    hash << 32 | USED
}

impl MapStripe {
    #[inline]
    fn cells<'a>(&self, arena: &'a Arena) -> Option<&'a [AtomicU64]> {
        let (block, log) = self.index()?;
        arena.slice_at(Offset::new(block), CELL_WORDS << log)
    }

    /// As `all_words` of `buckets.rs`.
    fn all_cells<'a>(&self, arena: &'a Arena) -> impl Iterator<Item = &'a [AtomicU64]> {
        let cells = self.cells(arena).filter(|_| self.is_sound(arena, CELL_BYTES));
        cells.unwrap_or_default().chunks_exact(CELL_WORDS)
    }

    #[inline]
    fn search_pair<'a>(&self, arena: &'a Arena, key: u64, hash: u64) -> Option<Place<'a>> {
        let Some(cells) = self.cells(arena) else { return Some(Place::Nowhere) };
        let count = cells.len() / CELL_WORDS;
        let mut at = hash as usize & (count - 1);
        let mut free = None;
        for _ in 0..count {
            let cell = &cells[at * CELL_WORDS..][..CELL_WORDS];
            match cell[0].load(Relaxed) {
                EMPTY => return Some(Place::Free(free.unwrap_or(cell))),
                REMOVED => free = free.or(Some(cell)),
                word if word == used(hash) && cell[1].load(Relaxed) == key => {
                    return Some(Place::Found(cell));
                }
                _ => {}
            }
            at = (at + 1) & (count - 1);
        }
        None
    }

    /// The value of a key. While the stripe is not locked, `None` is for what makes no sense.
    #[inline]
    pub(super) fn get_pair(&self, arena: &Arena, key: &[u8], hash: u64) -> Option<Option<u64>> {
        match self.search_pair(arena, word_of(key), hash)? {
            Place::Found(cell) => Some(Some(cell[2].load(Relaxed))),
            _ => Some(None),
        }
    }

    /// As [`MapState::change`](super::map::MapState).
    pub(super) fn change_pair<'a>(
        &self,
        changing: &Changing<'a>,
        (key, hash): (&[u8], u64),
        bytes: PairBytes,
        new: Option<&[u8]>,
        expected: Expected<'_>,
        before: &mut Vec<u8>,
    ) -> Option<Result<Changed<'a>, Error>> {
        let arena = changing.arena;
        if !self.is_sound(arena, CELL_BYTES) {
            return None;
        }
        let key = word_of(key);
        let mut place = self.search_pair(arena, key, hash)?;
        let mut changed = Changed { done: false, had: false, removed: None };
        if let Place::Found(cell) = place {
            changed.had = true;
            bytes.append_value(cell[2].load(Relaxed), before);
        }
        changed.done = expected.is_met(changed.had, before);
        if !changed.done {
            return Some(Ok(changed));
        }
        match (new, place) {
            (None, Place::Found(cell)) => {
                fault::point("dict.removing");
                self.cut_off(&cell[0]);
            }
            (None, _) => {}
            (Some(value), Place::Found(cell)) => {
                fault::point("dict.replacing");
                cell[2].store(word_of(value), Release);
            }
            (Some(value), _) => {
                match self.make_room_for_pair(changing) {
                    Ok(true) => place = self.search_pair(arena, key, hash)?,
                    Ok(false) => {}
                    // As in `MapState::change`.
                    Err(error) if !matches!(place, Place::Free(cell) if is_reusable(&cell[0])) => {
                        return Some(Err(error));
                    }
                    Err(_) => {}
                }
                let Place::Free(cell) = place else { return None };
                let held = cell[0].load(Relaxed);
                // Relaxed: a reader that sees them sees that the version is odd.
                cell[1].store(key, Relaxed);
                cell[2].store(word_of(value), Relaxed);
                fault::point("dict.adding");
                // R1.
                cell[0].store(used(hash), Release);
                self.count_added(held);
            }
        }
        Some(Ok(changed))
    }

    fn make_room_for_pair(&self, changing: &Changing<'_>) -> Result<bool, Error> {
        let arena = changing.arena;
        let old = self.cells(arena).unwrap_or_default();
        if !self.needs_room(old.len() / CELL_WORDS) {
            return Ok(false);
        }
        let (count, _) = self.count_pairs(arena);
        let new = NewIndex::new(arena, CELL_BYTES, log_for(count as usize))?;
        for cell in old.chunks_exact(CELL_WORDS) {
            let word = cell[0].load(Relaxed);
            if word < USED {
                continue;
            }
            for (to, from) in new.place((word >> 32) as u32, CELL_WORDS)?.iter().zip(cell) {
                to.store(from.load(Relaxed), Relaxed);
            }
        }
        self.replace_index(changing, new, count);
        Ok(true)
    }

    /// Visits every pair: key and value.
    pub(super) fn each_pair(&self, arena: &Arena, mut visit: impl FnMut(u64, u64)) {
        for cell in self.all_cells(arena) {
            if cell[0].load(Relaxed) >= USED {
                visit(cell[1].load(Relaxed), cell[2].load(Relaxed));
            }
        }
    }

    /// Makes nobody's what is reachable, and the caches anew: the last one to change it has died.
    pub(super) fn repair_pairs(&self, changing: &Changing<'_>) {
        let arena = changing.arena;
        if let Some((block, _)) = self.index() {
            arena.set_owner(block, ParticipantId::NOBODY);
        }
        let (count, used) = self.count_pairs(arena);
        self.set_counts(count, used);
    }

    fn count_pairs(&self, arena: &Arena) -> (u64, u64) {
        let (mut count, mut used) = (0, 0);
        for cell in self.all_cells(arena) {
            let word = cell[0].load(Relaxed);
            count += u64::from(word >= USED);
            used += u64::from(word != EMPTY);
        }
        (count, used)
    }

    /// Checks the stripe, which is locked.
    pub(super) fn check_pairs(
        &self,
        arena: &Arena,
        bytes: PairBytes,
        hash_of: impl Fn(&[u8]) -> u64,
    ) -> Result<(), String> {
        let mut lost = 0;
        self.each_pair(arena, |key, value| {
            let key = key.to_ne_bytes();
            let key = &key[..bytes.key];
            let found = self.get_pair(arena, key, hash_of(key));
            lost += usize::from(found != Some(Some(value)));
        });
        if lost > 0 {
            return Err(format!("{lost} pairs are not found by their keys"));
        }
        self.check_counts(self.count_pairs(arena))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_survive_a_round_trip() {
        for bytes in [PairBytes { key: 1, value: 0 }, PairBytes { key: 8, value: 8 }] {
            assert_eq!(PairBytes::from_raw(bytes.to_raw()), Some(bytes));
        }
        assert_eq!(PairBytes::from_raw(0), None);
    }
}
