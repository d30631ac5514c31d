//! The memory of a stripe's entries: pages cut into slots of a few sizes.
//!
//! # Shared state
//! A chain of pages, the newest first. A page begins with the offset of the next one and how many of
//! its bytes are cut into slots so far. Each slot's second word has [`SLOT`] and its size class in the upper half,
//! from before it is cut off until the page goes. A free slot's first word leads to the next free one
//! of its class, and the lower half of its second word is a mark that depends on its place.
//!
//! # Rules
//! R1. Pages, and what is cut, are the truth. Which slots are in use is for the collection to say: all
//!     that it does not reach are free. The lists are caches of that.
//! R2. A page goes only with everything in the collection, or with the collection.
//! R3. What leads to a page or a slot may have been written by anybody. Nothing is written where there is no slot,
//!     nor taken that is not marked as free, nor freed that is no page.
//!
//! # If a process dies
//! While it adds a page: `shm/keeper.rs`. While it takes or gives a slot: the lists are made anew.

use super::stripe::Changing;
use crate::error::Error;
use crate::prim::{AtomicU64, Relaxed, Release};
use crate::shm::arena::own_id;
use crate::shm::circle::Circle;
use crate::shm::{Arena, Offset, ParticipantId, fault};
use std::collections::HashSet;

/// Size of a slot in units of 16 bytes, for each class.
const CLASS_UNITS: [u64; 23] =
    [2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 56, 64, 80, 96, 112, 128];
const UNIT_BYTES: u64 = 16;
/// Longest slot.
pub(super) const SLOT_BYTES_MAX: u64 = CLASS_UNITS[CLASS_UNITS.len() - 1] * UNIT_BYTES;
const PAGE_HEADER_BYTES: u64 = 16;
const PAGE_BYTES_MIN: u64 = 1024;
const PAGE_BYTES_MAX: u64 = 256 << 10;

/// See the module documentation; all zero at first.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Heap {
    pages: AtomicU64,
    /// Where the newest page ends.
    end: AtomicU64,
    free: [AtomicU64; CLASS_UNITS.len()],
}

/// The smallest class whose slots hold so many bytes.
fn class_of(bytes: u64) -> Option<usize> {
    let units = bytes.div_ceil(UNIT_BYTES);
    match units {
        0..=8 => Some(units.saturating_sub(2) as usize),
        _ => CLASS_UNITS.iter().position(|class| *class >= units),
    }
}

fn slot_bytes(class: usize) -> u64 {
    CLASS_UNITS.get(class).map_or(0, |units| units * UNIT_BYTES)
}

/// In the upper half of the second word of every slot, over the class: what is no slot has other words there.
const SLOT: u64 = 0x51_07e5 << 8;

/// What is in the second word of a slot of a class, beside the lower half.
pub(super) fn slot_word(class: usize) -> u64 {
    (SLOT | class as u64) << 32
}

/// The class of the slot that has this second word; `None` if that is none's.
fn class_in(second: u64) -> Option<usize> {
    let class = (second >> 32 ^ SLOT) as usize;
    (class < CLASS_UNITS.len()).then_some(class)
}

/// What is in the second word of a slot while it is free. (The factor is of Steele and Vigna's, for congruential
/// generators.)
fn free_word(slot: u64, class: usize) -> u64 {
    slot_word(class) | (slot.wrapping_mul(0xd134_2543_de82_ef95) >> 32 | 1)
}

/// The first two words of a page (the next one, bytes that are cut) or of a slot.
fn words(arena: &Arena, offset: u64) -> Option<&[AtomicU64]> {
    arena.slice_at(Offset::new(offset), 2)
}

fn broken(what: &str, offset: u64) -> Error {
    Error::broken(format!("there is no {what} of a collection at {offset:#x} in the arena"))
}

impl Heap {
    /// Visits every page.
    pub(crate) fn each_page(&self, arena: &Arena, mut visit: impl FnMut(u64)) {
        let (mut page, mut circle) = (self.pages.load(Relaxed), Circle::new());
        while page != 0
            && !circle.is_closed_by(page)
            && let Some([next, cut]) = words(arena, page)
            // R3.
            && (PAGE_HEADER_BYTES..=arena.bytes_of_used(page)).contains(&cut.load(Relaxed))
        {
            let next = next.load(Relaxed);
            visit(page);
            page = next;
        }
    }

    /// Visits every slot that was ever cut: its place and its class.
    fn each_slot(&self, arena: &Arena, mut visit: impl FnMut(u64, usize)) {
        // No more than there is room for: pages that overlap are none.
        let mut left = arena.bytes() as u64;
        self.each_page(arena, |page| {
            let cut = words(arena, page).map_or(0, |words| words[1].load(Relaxed));
            let cut = cut.min(arena.bytes_of_used(page));
            let mut at = PAGE_HEADER_BYTES;
            while at < cut
                && let Some([_, second]) = words(arena, page + at)
                && let Some(class) = class_in(second.load(Relaxed))
                && slot_bytes(class) <= left
            {
                visit(page + at, class);
                at += slot_bytes(class);
                left -= slot_bytes(class);
            }
        });
    }
}

impl Changing<'_> {
    /// Takes a slot for so many bytes, at most [`SLOT_BYTES_MAX`]: its place and its class.
    pub(super) fn take_slot(&self, bytes: u64) -> Result<(u64, usize), Error> {
        let heap = &self.stripe.heap;
        let class = class_of(bytes).ok_or_else(|| {
            Error::limit(format!("{bytes} bytes are more than the longest slot's {SLOT_BYTES_MAX}"))
        })?;
        let free = &heap.free[class];
        let slot = free.load(Relaxed);
        if slot == 0 {
            return Ok((self.cut_slot(class)?, class));
        }
        match words(self.arena, slot) {
            // R3.
            Some([next, second]) if second.load(Relaxed) == free_word(slot, class) => {
                free.store(next.load(Relaxed), Release);
                fault::point("heap.taken");
                Ok((slot, class))
            }
            _ => {
                // What else is on the list is found when it is made anew.
                free.store(0, Release);
                Ok((self.cut_slot(class)?, class))
            }
        }
    }

    /// Gives a slot back that the collection no longer reaches.
    pub(super) fn give_slot(&self, slot: u64) {
        let Some([next, second]) = words(self.arena, slot) else { return };
        let before = second.load(Relaxed);
        // R3: not one that is free already either.
        let Some(class) = class_in(before).filter(|class| before != free_word(slot, *class)) else {
            return;
        };
        let free = &self.stripe.heap.free[class];
        // Release: the store that cut the entry off comes before.
        second.store(free_word(slot, class), Release);
        next.store(free.load(Relaxed), Release);
        fault::point("heap.given");
        free.store(slot, Release);
    }

    #[cold]
    fn cut_slot(&self, class: usize) -> Result<u64, Error> {
        let heap = &self.stripe.heap;
        let bytes = slot_bytes(class);
        let room = |page: u64| {
            let cut = &words(self.arena, page)?[1];
            let (begun, has) = (cut.load(Relaxed), self.arena.bytes_of_used(page));
            let end = begun.checked_add(bytes)?;
            // R3.
            let fits = begun >= PAGE_HEADER_BYTES && begun.is_multiple_of(UNIT_BYTES) && end <= has;
            (fits && page + end <= heap.end.load(Relaxed)).then_some((page + begun, cut))
        };
        let newest = room(heap.pages.load(Relaxed)).filter(|_| heap.pages.load(Relaxed) != 0);
        let (slot, cut) = match newest {
            Some(found) => found,
            None => {
                let page = self.add_page(bytes)?;
                room(page).ok_or_else(|| broken("page", page))?
            }
        };
        let second = &words(self.arena, slot).ok_or_else(|| broken("slot", slot))?[1];
        second.store(slot_word(class), Release);
        fault::point("heap.cutting");
        cut.store(cut.load(Relaxed).wrapping_add(bytes), Release);
        fault::point("heap.cut");
        Ok(slot)
    }

    /// Adds a page that has room for a slot of so many bytes.
    fn add_page(&self, bytes: u64) -> Result<u64, Error> {
        let heap = &self.stripe.heap;
        let mut had = 0;
        heap.each_page(self.arena, |_| had += 1);
        // Doubling, up to a limit: a small collection stays small.
        let wanted = (PAGE_BYTES_MIN << had.min(16)).min(PAGE_BYTES_MAX);
        let smallest = bytes + PAGE_HEADER_BYTES;
        let block = self
            .arena
            .allocate(wanted.max(smallest), own_id())
            .or_else(|_| self.arena.allocate(smallest, own_id()))?;
        fault::point("heap.allocated");
        let [next, cut] = words(self.arena, block.offset).ok_or_else(|| broken("page", 0))? else {
            return Err(broken("page", block.offset));
        };
        next.store(heap.pages.load(Relaxed), Relaxed);
        cut.store(PAGE_HEADER_BYTES, Relaxed);
        heap.pages.store(block.offset, Release);
        fault::point("heap.added");
        self.arena.set_owner(block.offset, ParticipantId::NOBODY);
        heap.end.store(block.offset + block.bytes, Release);
        Ok(block.offset)
    }

    /// Frees all pages: the collection reaches nothing in them any more.
    pub(super) fn free_pages(&self) {
        let heap = &self.stripe.heap;
        let mut pages = Vec::new();
        heap.each_page(self.arena, |page| pages.push(page));
        for page in &pages {
            self.arena.set_owner(*page, own_id());
        }
        heap.pages.store(0, Release);
        fault::point("heap.emptied");
        heap.free.iter().for_each(|free| free.store(0, Release));
        pages.into_iter().for_each(|page| self.arena.free(page));
    }

    /// Makes the lists anew: `in_use` are the slots that the collection reaches (R1).
    pub(crate) fn rebuild_heap(&self, in_use: &HashSet<u64>) {
        let heap = &self.stripe.heap;
        let newest = heap.pages.load(Relaxed);
        heap.end.store(newest + self.arena.block_bytes(newest), Relaxed);
        heap.each_page(self.arena, |page| self.arena.set_owner(page, ParticipantId::NOBODY));
        heap.free.iter().for_each(|free| free.store(0, Relaxed));
        let mut free = Vec::new();
        heap.each_slot(self.arena, |slot, class| {
            if !in_use.contains(&slot) {
                free.push((slot, class));
            }
        });
        for (slot, class) in free {
            // Whether it was free before is not known.
            if let Some([_, second]) = words(self.arena, slot) {
                second.store(slot_word(class), Relaxed);
            }
            self.give_slot(slot);
        }
    }

    /// Checks that every slot is either reached by the collection or on the list of its class, once.
    pub(crate) fn check_heap(&self, in_use: &HashSet<u64>) -> Result<(), String> {
        let heap = &self.stripe.heap;
        let mut cut = std::collections::HashMap::new();
        heap.each_slot(self.arena, |slot, class| {
            cut.insert(slot, class);
        });
        if let Some(slot) = in_use.iter().find(|slot| !cut.contains_key(slot)) {
            return Err(format!("the entry at {slot:#x} is in no slot"));
        }
        let mut free = HashSet::new();
        for (class, first) in heap.free.iter().enumerate() {
            let mut slot = first.load(Relaxed);
            while slot != 0 {
                if cut.get(&slot) != Some(&class) || in_use.contains(&slot) || !free.insert(slot) {
                    return Err(format!("the slot {slot:#x} is on the list of class {class}"));
                }
                slot = words(self.arena, slot).map_or(0, |words| words[0].load(Relaxed));
            }
        }
        match cut.len().saturating_sub(in_use.len() + free.len()) {
            0 => Ok(()),
            lost => Err(format!("{lost} of {} slots are neither used nor free", cut.len())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::ARENA_BYTES_MIN;

    #[test]
    fn pages_that_lead_in_a_circle_or_nowhere_are_visited_and_left() {
        let arena = Arena::create(ARENA_BYTES_MIN).unwrap();
        let page = |next: u64| {
            let block = arena.allocate(1024, ParticipantId::NOBODY).unwrap().offset;
            let [first, cut] = words(&arena, block).unwrap() else { panic!("no words") };
            first.store(next, Relaxed);
            cut.store(PAGE_HEADER_BYTES, Relaxed);
            block
        };
        let last = page(0);
        let second = page(last);
        let first = page(second);
        let new = || AtomicU64::new(0);
        let heap =
            Heap { pages: AtomicU64::new(first), end: new(), free: [(); 23].map(|()| new()) };
        let visited = || {
            let mut visited = Vec::new();
            heap.each_page(&arena, |page| visited.push(page));
            visited
        };
        assert_eq!(visited(), [first, second, last]);
        let link = &words(&arena, last).unwrap()[0];
        for next in [first, second, last] {
            link.store(next, Relaxed);
            assert!(visited().len() <= 9 && visited().starts_with(&[first, second, last]));
        }
        for nowhere in [8, last + 8, last + 256, u64::MAX, arena.bytes() as u64 - 8] {
            link.store(nowhere, Relaxed);
            assert_eq!(visited(), [first, second, last], "{nowhere:#x}");
        }
        link.store(0, Relaxed);
        words(&arena, second).unwrap()[1].store(1 << 40, Relaxed);
        assert_eq!(visited(), [first], "cut beyond its end");
    }

    #[test]
    fn what_is_no_slot_has_no_class() {
        for class in 0..CLASS_UNITS.len() {
            assert_eq!(class_in(slot_word(class) | 0xffff_ffff), Some(class));
            assert_eq!(class_in(free_word(4096, class)), Some(class));
            assert_ne!(free_word(4096, class), free_word(4096 + 16, class));
            assert_ne!(free_word(0, class), slot_word(class), "no entry's without a hash");
        }
        assert_eq!([0, 1, u64::MAX, slot_word(CLASS_UNITS.len())].map(class_in), [None; 4]);
    }

    #[test]
    fn every_length_has_the_smallest_class_that_holds_it() {
        for bytes in 1..=SLOT_BYTES_MAX {
            let class = class_of(bytes).unwrap();
            assert!(slot_bytes(class) >= bytes);
            assert!(class == 0 || slot_bytes(class - 1) < bytes, "{bytes}");
        }
        assert_eq!(class_of(SLOT_BYTES_MAX + 1), None);
    }
}
