//! A sequence of bytes in the arena: what `List` is made of.
//!
//! # Shared state
//! A stripe (`stripe.rs`), and the offset of a block, the array:
//!
//! ```text
//! | length | capacity | offset of entry 0 | offset of entry 1 | ...
//! ```
//! Beside it three words that say how to do a change again which takes two stores:
//!
//! ```text
//! | place + 1, or 0 for none | word | length |
//! ```
//!
//! # Rules
//! R1. The array's words up to its length, and the entries that they lead to, are the truth. A change
//!     is one store: of a word, of the length, or of another array's offset.
//! R2. Removing from the middle by putting the last one there takes two, so it is written down first: the
//!     store of the place commits. Until it is 0 again, the words say what the array contains.
//! R3. What the words say may have been written by anybody: the length is bounded by the block's, and an offset that is
//!     no array's leads to nothing.
//!
//! # If a process dies
//! Before the store that commits: nothing has changed. After that of a place: the next one to lock does
//! what is written down. Else `stripe.rs`.

use super::elements::{Block, CHECKED_BYTES, Elements, OutOfRange, block_at, broken, new_block};
use super::entry::{CarriedBy, Entry, NewEntry};
use super::stripe::{Changing, Stripe};
use crate::error::Error;
use crate::prim::{AtomicU64, Relaxed, Release};
use crate::shm::arena::own_id;
use crate::shm::keeper::Part;
use crate::shm::offset::Shared;
use crate::shm::{Arena, ParticipantId, fault};
use crate::sync::handle::{Handle, Parts};
use std::collections::HashSet;

/// See the module documentation.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct SequenceState {
    stripe: Stripe,
    array: AtomicU64,
    again: [AtomicU64; 3],
}

#[allow(unsafe_code)] // The marker asserts what the line above it says.
// SAFETY: atomics, and a mutex that the C library accesses.
unsafe impl Shared for SequenceState {}

/// What an element had that was removed: to be dropped after decoding.
#[derive(Debug)]
pub(super) struct Removed<'a>(#[allow(dead_code)] Option<CarriedBy<'a>>); // Held, not read.

impl SequenceState {
    pub(super) fn create(parts: &Parts) -> Result<Handle<Self>, Error> {
        Handle::create(parts, None, |state: &Self| {
            #[allow(unsafe_code)] // As the comment says.
            // SAFETY: the object is new and nobody else's yet.
            unsafe {
                state.stripe.initialise();
            }
        })
    }

    /// For a test that scribbles elsewhere.
    #[cfg(test)]
    pub(super) fn mutex(&self) -> &crate::sys::robust::RobustMutex {
        self.stripe.mutex()
    }

    #[inline]
    fn array<'a>(&self, arena: &'a Arena) -> Option<Block<'a>> {
        match self.array.load(Relaxed) {
            0 => None,
            block => block_at(arena, block),
        }
    }

    /// Changes with every change.
    pub(super) fn version(&self) -> u64 {
        self.stripe.version()
    }

    fn change<'a>(&'a self, arena: &'a Arena) -> Changing<'a> {
        self.stripe.change(arena, |changing| self.repair(changing))
    }

    pub(super) fn len(&self, arena: &Arena) -> Result<usize, Error> {
        let look = |_: &dyn Fn() -> bool| Some(self.array(arena).map_or(0, |array| array.len()));
        self.stripe.read(arena, |changing| self.repair(changing), look).ok_or_else(broken)
    }

    /// Reads an element; it is appended to `into`. Whether it carries handles, or `None` if it is not
    /// there.
    pub(super) fn get(
        &self,
        arena: &Arena,
        index: usize,
        into: &mut Vec<u8>,
    ) -> Result<Option<bool>, Error> {
        let start = into.len();
        let look = |is_same: &dyn Fn() -> bool| {
            into.truncate(start);
            let Some(array) = self.array(arena).filter(|array| index < array.len()) else {
                return Some(None);
            };
            let entry = Entry::at(arena, array.words[index].load(Relaxed))?;
            if entry.value_bytes() > CHECKED_BYTES && !is_same() {
                return None;
            }
            entry.load_value(into)?;
            Some(Some(entry.stored() != 0))
        };
        self.stripe.read(arena, |changing| self.repair(changing), look).ok_or_else(broken)
    }

    /// All elements at one moment.
    pub(super) fn elements(&self, arena: &Arena) -> Result<Elements, Error> {
        let mut elements = Elements::default();
        let look = |is_same: &dyn Fn() -> bool| {
            elements.version = self.stripe.version();
            elements.bytes.clear();
            elements.ends.clear();
            let Some(array) = self.array(arena) else { return Some(()) };
            for word in &array.words[..array.len()] {
                let entry = Entry::at(arena, word.load(Relaxed))?;
                // Entries that overlap are none: together they are no longer than the arena.
                if elements.bytes.len() > arena.bytes() {
                    return None;
                }
                if entry.value_bytes() > CHECKED_BYTES && !is_same() {
                    return None;
                }
                entry.load_value(&mut elements.bytes)?;
                elements.ends.push((elements.bytes.len(), entry.stored() != 0, entry.offset()));
            }
            Some(())
        };
        let read = self.stripe.read(arena, |changing| self.repair(changing), look);
        read.map(|()| elements).ok_or_else(broken)
    }

    /// Appends entries, all at once.
    pub(super) fn append(&self, arena: &Arena, mut new: Vec<NewEntry<'_>>) -> Result<(), Error> {
        if new.is_empty() {
            return Ok(());
        }
        let changing = self.change(arena);
        let (array, length) = self.with_room(&changing, new.len())?;
        for (number, entry) in new.iter().enumerate() {
            match changing.place(entry) {
                Ok(place) => array.words[length + number].store(place, Relaxed),
                Err(error) => {
                    for (entry, word) in new.iter().zip(&array.words[length..]).take(number) {
                        changing.take_back(entry, word.load(Relaxed));
                    }
                    drop(changing);
                    return Err(error);
                }
            }
        }
        fault::point("list.appending");
        array.length.store((length + new.len()) as u64, Release);
        fault::point("list.appended");
        new.iter_mut().for_each(|entry| changing.give_away(entry));
        Ok(())
    }

    /// Appends one entry.
    pub(super) fn push(&self, arena: &Arena, new: NewEntry<'_>) -> Result<(), Error> {
        let changing = self.change(arena);
        let (array, length) = self.with_room(&changing, 1)?;
        let place = changing.place(&new)?;
        array.words[length].store(place, Relaxed);
        fault::point("list.pushing");
        changing.publish(array.length, length as u64 + 1, new);
        Ok(())
    }

    /// The array, with room for `more` words behind its length, which is read once (R3); moved if it has to be.
    fn with_room<'a>(
        &self,
        changing: &Changing<'a>,
        more: usize,
    ) -> Result<(Block<'a>, usize), Error> {
        let arena = changing.arena;
        let old = self.array(arena);
        let length = old.map_or(0, |old| old.len());
        if let Some(old) = old
            && length + more <= old.words.len()
        {
            return Ok((old, length));
        }
        let (block, new) = new_block(arena, (length + more).max(length * 2))
            .or_else(|_| new_block(arena, length + more))?;
        for (to, from) in new.words.iter().zip(old.map_or(&[][..], |old| &old.words[..length])) {
            to.store(from.load(Relaxed), Relaxed);
        }
        new.length.store(length as u64, Relaxed);
        self.replace_array(changing, block);
        Ok((new, length))
    }

    /// Puts another array in place of the one that is there: one store.
    fn replace_array(&self, changing: &Changing<'_>, block: u64) {
        let arena = changing.arena;
        let before = self.array.load(Relaxed);
        // R3.
        let before = self.array(arena).map_or(0, |_| before);
        arena.set_owner(before, own_id());
        fault::point("list.moving");
        self.array.store(block, Release);
        fault::point("list.moved");
        arena.set_owner(block, ParticipantId::NOBODY);
        if before != 0 {
            arena.free(before);
        }
    }

    /// Replaces an element, if it is `expected` or that is `None`: what it had, and whether it was
    /// replaced.
    pub(super) fn set<'a>(
        &'a self,
        arena: &'a Arena,
        index: usize,
        new: NewEntry<'_>,
        expected: Option<&[u8]>,
    ) -> Result<(Option<CarriedBy<'a>>, bool), Error> {
        let changing = self.change(arena);
        let (array, _, entry) = self.element(&changing, index)?;
        if let Some(expected) = expected {
            let mut now = Vec::new();
            entry.load_value(&mut now).ok_or_else(broken)?;
            if now != expected {
                drop(changing);
                return Ok((None, false));
            }
        }
        let place = changing.place(&new)?;
        let removed = changing.take_over(&entry);
        fault::point("list.setting");
        changing.publish(&array.words[index], place, new);
        Ok((changing.discard(removed), true))
    }

    fn element<'a>(
        &self,
        changing: &Changing<'a>,
        index: usize,
    ) -> Result<(Block<'a>, usize, Entry<'a>), Error> {
        let array = self.array(changing.arena);
        let length = array.map_or(0, |array| array.len());
        let array = array.filter(|_| index < length).ok_or(OutOfRange { index, length })?;
        let entry = Entry::at(changing.arena, array.words[index].load(Relaxed));
        Ok((array, length, entry.ok_or_else(broken)?))
    }

    /// Inserts an element in front of the one at `index`, or at the end.
    pub(super) fn insert(
        &self,
        arena: &Arena,
        index: usize,
        new: NewEntry<'_>,
    ) -> Result<(), Error> {
        let changing = self.change(arena);
        let old = self.array(arena);
        let length = old.map_or(0, |old| old.len());
        if index > length {
            return Err(OutOfRange { index, length }.into());
        }
        let old = old.map_or(&[][..], |old| &old.words[..length]);
        let (block, array) = new_block(arena, length + 1 + length / 8)?;
        let place = match changing.place(&new) {
            Ok(place) => place,
            Err(error) => {
                arena.free(block);
                return Err(error);
            }
        };
        let (front, back) = old.split_at(index);
        let words = front.iter().map(|word| word.load(Relaxed)).chain([place]);
        for (to, from) in array.words.iter().zip(words.chain(back.iter().map(|w| w.load(Relaxed))))
        {
            to.store(from, Relaxed);
        }
        array.length.store(length as u64 + 1, Relaxed);
        let mut new = new;
        self.replace_array(&changing, block);
        changing.give_away(&mut new);
        Ok(())
    }

    /// Removes an element and appends its bytes to `into`; the last one takes its place if `swap`, else
    /// those behind it move up. `None`: the last one, and there may be none.
    pub(super) fn remove<'a>(
        &'a self,
        arena: &'a Arena,
        index: Option<usize>,
        swap: bool,
        into: &mut Vec<u8>,
    ) -> Result<Option<Removed<'a>>, Error> {
        let changing = self.change(arena);
        let index = match (index, self.array(arena).map_or(0, |array| array.len())) {
            (Some(index), _) => index,
            (None, 0) => return Ok(None),
            (None, length) => length - 1,
        };
        let (array, length, entry) = self.element(&changing, index)?;
        let last = length - 1;
        entry.load_value(into).ok_or_else(broken)?;
        if index == last {
            let removed = changing.take_over(&entry);
            fault::point("list.shortening");
            array.length.store(last as u64, Release);
            return Ok(Some(Removed(changing.discard(removed))));
        }
        if swap {
            let removed = changing.take_over(&entry);
            let [place, word, left] = &self.again;
            word.store(array.words[last].load(Relaxed), Relaxed);
            left.store(last as u64, Relaxed);
            fault::point("list.swapping");
            place.store(index as u64 + 1, Release);
            fault::point("list.written-down");
            self.do_again(arena);
            return Ok(Some(Removed(changing.discard(removed))));
        }
        let (block, new) = new_block(arena, length)?;
        let words = array.words[..index].iter().chain(&array.words[index + 1..length]);
        for (to, from) in new.words.iter().zip(words) {
            to.store(from.load(Relaxed), Relaxed);
        }
        new.length.store(last as u64, Relaxed);
        let removed = changing.take_over(&entry);
        self.replace_array(&changing, block);
        Ok(Some(Removed(changing.discard(removed))))
    }

    /// Does what is written down (R2).
    fn do_again(&self, arena: &Arena) {
        let [place, word, left] = &self.again;
        let (Some(index), Some(array)) = (place.load(Relaxed).checked_sub(1), self.array(arena))
        else {
            return;
        };
        if let Some(at) = array.words.get(index as usize) {
            at.store(word.load(Relaxed), Release);
        }
        fault::point("list.swapped");
        array.length.store(left.load(Relaxed), Release);
        fault::point("list.done-again");
        place.store(0, Release);
    }

    /// Shortens the sequence to `length`, if it is longer.
    pub(super) fn truncate(&self, arena: &Arena, length: usize) {
        let changing = self.change(arena);
        let Some(array) = self.array(arena) else { return };
        let before = array.len();
        // An empty one may have memory to free.
        if length >= before && length > 0 {
            return;
        }
        let entries: Vec<Entry<'_>> = array.words[length..before]
            .iter()
            .filter_map(|word| Entry::at(arena, word.load(Relaxed)))
            .collect();
        let removed: Vec<_> = entries.iter().map(|entry| changing.take_over(entry)).collect();
        let block = self.array.load(Relaxed);
        if length == 0 {
            arena.set_owner(block, own_id());
            fault::point("list.clearing");
            self.array.store(0, Release);
        } else {
            fault::point("list.truncating");
            array.length.store(length as u64, Release);
        }
        fault::point("list.truncated");
        let carried: Vec<_> =
            removed.into_iter().filter_map(|removed| changing.discard(removed)).collect();
        if length == 0 {
            arena.free(block);
            changing.free_pages();
        }
        drop(changing);
        drop(carried);
    }

    /// Puts the elements in another order, if nobody has changed anything since they were read.
    pub(super) fn reorder(
        &self,
        arena: &Arena,
        elements: &Elements,
        order: impl ExactSizeIterator<Item = u64>,
    ) -> Result<bool, Error> {
        let (block, array) = new_block(arena, order.len())?;
        array.length.store(order.len() as u64, Relaxed);
        for (to, from) in array.words.iter().zip(order) {
            to.store(from, Relaxed);
        }
        let changing = self.change(arena);
        if self.stripe.version() != elements.version.wrapping_add(1) {
            drop(changing);
            arena.free(block);
            return Ok(false);
        }
        self.replace_array(&changing, block);
        Ok(true)
    }

    /// Makes nobody's what is reachable, and the caches anew: the last one to change it has died.
    fn repair(&self, changing: &Changing<'_>) {
        let arena = changing.arena;
        self.do_again(arena);
        arena.set_owner(self.array.load(Relaxed), ParticipantId::NOBODY);
        self.each_entry(arena, |entry| entry.adopt());
        changing.rebuild_heap(&self.slots_in_use(arena));
    }

    /// Visits every entry, as if what is written down had been done.
    fn each_entry<'a>(&self, arena: &'a Arena, mut visit: impl FnMut(Entry<'a>)) {
        let Some(array) = self.array(arena) else { return };
        let [place, word, left] = &self.again;
        let replaced = place.load(Relaxed).checked_sub(1);
        let length = match replaced {
            Some(_) => (left.load(Relaxed) as usize).min(array.words.len()),
            None => array.len(),
        };
        for (index, at) in array.words[..length].iter().enumerate() {
            let source = if replaced == Some(index as u64) { word } else { at };
            if let Some(entry) = Entry::at(arena, source.load(Relaxed)) {
                visit(entry);
            }
        }
    }

    fn slots_in_use(&self, arena: &Arena) -> HashSet<u64> {
        let mut slots = HashSet::new();
        self.each_entry(arena, |entry| {
            if !entry.has_block() {
                slots.insert(entry.offset());
            }
        });
        slots
    }

    /// See [`Keeper::each_part`](crate::shm::keeper::Keeper).
    pub(super) fn each_part(
        &self,
        arena: &Arena,
        changed_by: Option<ParticipantId>,
        visit: &mut dyn FnMut(Part),
    ) {
        if !self.stripe.is_changed_by(changed_by) {
            return;
        }
        self.stripe.heap.each_page(arena, |page| visit(Part::Block(page)));
        self.each_entry(arena, |entry| entry.each_part(visit));
        if let block @ 1.. = self.array.load(Relaxed)
            && block_at(arena, block).is_some()
        {
            visit(Part::Block(block));
        }
    }

    /// Checks everything: every block and slot reachable once or free.
    pub(super) fn check(&self, arena: &Arena) -> Result<(), String> {
        let changing = self.change(arena);
        let (mut entries, mut short) = (0, 0);
        self.each_entry(arena, |entry| {
            entries += 1;
            short += usize::from(!entry.has_block());
        });
        let length = self.array(arena).map_or(0, |array| array.len());
        let slots = self.slots_in_use(arena);
        if entries != length || slots.len() != short {
            return Err(format!("{length} elements, {entries} entries, {} slots", slots.len()));
        }
        changing.check_heap(&slots)?;
        super::keep::check_parts(arena, |visit| self.each_part(arena, None, visit))
    }
}
