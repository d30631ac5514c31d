//! The elements of a sequence: the block that leads to them, and copies of them.
//!
//! The layout of the block is in `sequence.rs`.

use crate::error::Error;
use crate::prim::{AtomicU64, Relaxed};
use crate::shm::arena::own_id;
use crate::shm::{Arena, Offset, fault};

const ARRAY_HEADER_WORDS: usize = 2;
const CAPACITY_MIN: usize = 30;

/// Which element, of how many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct OutOfRange {
    pub(super) index: usize,
    pub(super) length: usize,
}

impl From<OutOfRange> for Error {
    fn from(OutOfRange { index, length }: OutOfRange) -> Self {
        Self::invalid(format!("index {index} is out of range: the list has {length} elements"))
    }
}

/// The elements at one moment.
#[derive(Debug, Default)]
pub(super) struct Elements {
    pub(super) bytes: Vec<u8>,
    /// Where each one ends, whether it carries handles, and the entry.
    pub(super) ends: Vec<(usize, bool, u64)>,
    pub(super) version: u64,
}

impl Elements {
    /// Bytes of each element, and whether it carries handles.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&[u8], bool)> {
        let mut start = 0;
        self.ends.iter().map(move |(end, carries, _)| {
            let from = std::mem::replace(&mut start, *end);
            (&self.bytes[from..*end], *carries)
        })
    }

    /// The entry of an element.
    pub(super) fn word(&self, index: usize) -> u64 {
        self.ends[index].2
    }
}

/// Above this length a reader makes sure that it has read a real one before it copies so much.
pub(super) const CHECKED_BYTES: usize = 1024;

/// The array: its length, and the words that it has room for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Block<'a> {
    pub(super) length: &'a AtomicU64,
    pub(super) words: &'a [AtomicU64],
}

impl Block<'_> {
    pub(super) fn len(&self) -> usize {
        (self.length.load(Relaxed) as usize).min(self.words.len())
    }
}

pub(super) fn block_at(arena: &Arena, block: u64) -> Option<Block<'_>> {
    let [length, capacity] = arena.slice_at::<AtomicU64>(Offset::new(block), 2)? else {
        return None;
    };
    let capacity = capacity.load(Relaxed);
    // An array takes all of its block: what has led to something else is not written to, or freed.
    if (capacity.checked_add(ARRAY_HEADER_WORDS as u64)?) != arena.bytes_of_used(block) / 8 {
        return None;
    }
    let start = Offset::new(block + ARRAY_HEADER_WORDS as u64 * 8);
    Some(Block { length, words: arena.slice_at(start, usize::try_from(capacity).ok()?)? })
}

/// A new array, this process's own, with room for `capacity` words.
pub(super) fn new_block(arena: &Arena, capacity: usize) -> Result<(u64, Block<'_>), Error> {
    let bytes = (capacity.max(CAPACITY_MIN) + ARRAY_HEADER_WORDS) as u64 * 8;
    let block = arena.allocate(bytes, own_id())?;
    fault::point("list.allocated");
    let words = block.bytes / 8 - ARRAY_HEADER_WORDS as u64;
    if let Some([length, capacity]) = arena.slice_at::<AtomicU64>(Offset::new(block.offset), 2) {
        length.store(0, Relaxed);
        capacity.store(words, Relaxed);
    }
    let array = block_at(arena, block.offset).filter(|array| array.words.len() >= capacity);
    if array.is_none() {
        arena.free(block.offset);
    }
    array.map(|array| (block.offset, array)).ok_or_else(broken)
}

#[cold]
pub(super) fn broken() -> Error {
    Error::broken("a list leads to something that is not inside the arena".into())
}
