//! The memory of a stripe's entries: pages cut into slots of a few sizes.
//!
//! # Shared state
//! A chain of pages, the newest first. A page begins with the offset of the next one and how many of
//! its bytes are cut into slots so far. Each slot's second word has its size class in the upper half,
//! from before it is cut off until the page goes. A free slot's first word leads to the next free one
//! of its class.
//!
//! # Rules
//! R1. Pages, and what is cut, are the truth. Which slots are in use is for the collection to say: all
//!     that it does not reach are free. The lists are caches of that.
//! R2. A page goes only with everything in the collection, or with the collection.
//!
//! # If a process dies
//! While it adds a page: `shm/keeper.rs`. While it takes or gives a slot: the lists are made anew.

use super::stripe::Changing;
use crate::error::Error;
use crate::prim::{AtomicU64, Relaxed, Release};
use crate::shm::arena::own_id;
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
        let mut page = self.pages.load(Relaxed);
        while page != 0
            && let Some([next, _]) = words(arena, page)
        {
            let next = next.load(Relaxed);
            visit(page);
            page = next;
        }
    }

    /// Visits every slot that was ever cut: its place and its class.
    fn each_slot(&self, arena: &Arena, mut visit: impl FnMut(u64, usize)) {
        self.each_page(arena, |page| {
            let cut = words(arena, page).map_or(0, |words| words[1].load(Relaxed));
            let mut at = PAGE_HEADER_BYTES;
            while at < cut
                && let Some([_, second]) = words(arena, page + at)
            {
                let class = (second.load(Relaxed) >> 32) as usize;
                if slot_bytes(class) == 0 {
                    break;
                }
                visit(page + at, class);
                at += slot_bytes(class);
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
        let [next, _] = words(self.arena, slot).ok_or_else(|| broken("slot", slot))? else {
            return Err(broken("slot", slot));
        };
        free.store(next.load(Relaxed), Release);
        fault::point("heap.taken");
        Ok((slot, class))
    }

    /// Gives a slot back that the collection no longer reaches.
    pub(super) fn give_slot(&self, slot: u64) {
        let Some([next, second]) = words(self.arena, slot) else { return };
        let class = (second.load(Relaxed) >> 32) as usize;
        let Some(free) = self.stripe.heap.free.get(class) else { return };
        // Release: the store that cut the entry off comes before.
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
            let slot = page + cut.load(Relaxed);
            (slot + bytes <= heap.end.load(Relaxed)).then_some((slot, cut))
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
        second.store((class as u64) << 32, Release);
        fault::point("heap.cutting");
        cut.store(cut.load(Relaxed) + bytes, Release);
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
        heap.each_slot(self.arena, |slot, _| {
            if !in_use.contains(&slot) {
                free.push(slot);
            }
        });
        free.into_iter().for_each(|slot| self.give_slot(slot));
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
        match cut.len() - in_use.len() - free.len() {
            0 => Ok(()),
            lost => Err(format!("{lost} of {} slots are neither used nor free", cut.len())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
