//! Tables of small records in the arena that grow without moving.
//!
//! # Shared state
//! A [`Directory`] of chunks, each twice as long as the one before; chunk `k` holds
//! `FIRST_RECORDS << k` records. Index 0 is nobody's, so that 0 can mean "none" in a link.
//!
//! # Rules
//! R1. A chunk is zeroed before its offset is stored in the directory, and never freed: a record has
//!     one address for as long as the arena lives.
//! R2. Whether a record is in use is said by the record itself. `used` (records handed out so far)
//!     and the list of free ones are caches, changed under the lock of `objects.rs`. What they lead to is taken
//!     only if it is free.
//!
//! # If a process dies
//! While it adds a chunk: the chunk's block carries its id until it is in the directory, and the
//! next one to lock the objects makes every chunk of a directory nobody's before anything is freed.

use super::arena::{Arena, HEADER_BYTES};
use super::offset::{Offset, Shared};
use super::participants::{ParticipantId, TABLE_BYTES};
use super::published::Published;
use crate::error::Error;
use crate::prim::{AtomicU32, Relaxed};

const FIRST_RECORDS: u32 = 64;
const CHUNKS_MAX: usize = 24;

/// Where a table's chunks lie.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Directory {
    chunks: [Published; CHUNKS_MAX],
    /// Highest index handed out so far.
    used: AtomicU32,
    /// First of the free records, chained by their links.
    free: AtomicU32,
}

impl Directory {
    /// Makes every chunk nobody's: a process may have died before it did so itself.
    pub(super) fn adopt(&self, arena: &Arena) {
        for chunk in &self.chunks {
            arena.set_owner(chunk.peek(), ParticipantId::NOBODY);
        }
    }
}

impl Arena {
    /// Bytes of the tables of objects, holdings and waiting threads: they grow, and never shrink (R1).
    pub(crate) fn tables_bytes(&self) -> u64 {
        let tables = &self.header().objects;
        let directories = [&tables.objects, &tables.holdings, &tables.waiters];
        let chunks = directories.into_iter().flat_map(|directory| &directory.chunks);
        let chunks = chunks.map(Published::peek).filter(|chunk| *chunk != 0);
        chunks.map(|chunk| self.block_bytes(chunk)).sum()
    }
}

#[cfg(test)]
impl Directory {
    /// Empties a table, for a test that has freed its chunks.
    pub(super) fn forget(&self) {
        self.chunks.iter().for_each(|chunk| chunk.set(0));
        self.used.store(0, Relaxed);
        self.free.store(0, Relaxed);
    }
}

#[cfg(test)]
impl Arena {
    /// Where the chunks of the tables lie, for a test that scribbles elsewhere, or there.
    pub(crate) fn table_chunks(&self) -> [Vec<u64>; 3] {
        let tables = &self.header().objects;
        [&tables.objects, &tables.holdings, &tables.waiters].map(|directory| {
            let chunks = directory.chunks.iter().map(Published::peek);
            chunks.filter(|chunk| *chunk != 0).collect()
        })
    }
}

/// A record that can be on a list of free ones.
pub(crate) trait Record: Shared {
    /// Whether nobody uses it (R2).
    fn is_free(&self) -> bool;
    /// The next free record, while this one is free.
    fn link(&self) -> &AtomicU32;
}

/// The records behind a directory.
#[derive(Debug)]
pub(crate) struct Table<'a, T> {
    arena: &'a Arena,
    directory: &'a Directory,
    of: std::marker::PhantomData<fn() -> T>,
}

/// The chunk of an index, and the place in it.
fn place_of(index: u32) -> (usize, u64) {
    let chunk = (index / FIRST_RECORDS + 1).ilog2();
    let first = FIRST_RECORDS * ((1 << chunk) - 1);
    (chunk as usize, u64::from(index - first))
}

impl<T> Clone for Table<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Table<'_, T> {}

impl<'a, T: Shared + 'a> Table<'a, T> {
    pub(crate) fn new(arena: &'a Arena, directory: &'a Directory) -> Self {
        Self { arena, directory, of: std::marker::PhantomData }
    }

    /// The record at `index`; `None` for 0 and for what was never added.
    pub(crate) fn get(&self, index: u32) -> Option<&'a T> {
        if index == 0 {
            return None;
        }
        let (chunk, place) = place_of(index);
        // SYNC(table-chunk): pairs with the Release in `grow`; carries the zeroed records.
        let offset = self.directory.chunks.get(chunk)?.get()?;
        // No chunk lies where the arena has its own.
        if offset < HEADER_BYTES + TABLE_BYTES {
            return None;
        }
        self.arena.at(Offset::new(offset.checked_add(place * size_of::<T>() as u64)?))
    }

    /// Every record that there is room for.
    pub(crate) fn iter(self) -> impl Iterator<Item = (u32, &'a T)> {
        (1..).map_while(move |index| Some((index, self.get(index)?)))
    }

    /// The first chunk that is not there.
    fn missing(&self) -> Option<usize> {
        self.directory.chunks.iter().position(|chunk| chunk.peek() == 0)
    }

    /// Adds a chunk. The caller holds the lock of the objects.
    #[allow(unsafe_code)] // Zeroes a new block.
    pub(crate) fn grow(&self, me: ParticipantId) -> Result<(), Error> {
        let Some(chunk) = self.missing() else {
            return Err(Error::limit("a table of the arena has reached its longest".into()));
        };
        let bytes = u64::from(FIRST_RECORDS << chunk) * size_of::<T>() as u64;
        let block = self.arena.allocate(bytes, me)?;
        if let Some(start) = self.arena.bytes_at(block.offset, bytes) {
            // SAFETY: the block is ours, it has that many bytes, and nobody else knows it yet.
            unsafe { start.write_bytes(0, bytes as usize) };
        }
        // SYNC(table-chunk): pairs with the Acquire in `get`.
        self.directory.chunks[chunk].publish(block.offset);
        self.arena.set_owner(block.offset, ParticipantId::NOBODY);
        Ok(())
    }
}

impl<'a, T: Record + 'a> Table<'a, T> {
    /// A record that is free, off the list. The caller holds the lock of the objects.
    pub(crate) fn take(&self, me: ParticipantId) -> Result<(u32, &'a T), Error> {
        let index = self.directory.free.load(Relaxed);
        if let Some(record) = self.get(index).filter(|record| record.is_free()) {
            self.directory.free.store(record.link().load(Relaxed), Relaxed);
            return Ok((index, record));
        }
        // The list is empty, or leads to what is not free: those on it are found when it is made anew (R2).
        self.directory.free.store(0, Relaxed);
        let mut index = self.directory.used.load(Relaxed);
        loop {
            index = index.wrapping_add(1).max(1);
            let record = match self.get(index) {
                Some(record) => record,
                None => {
                    if self.missing() == Some(place_of(index).0) {
                        self.grow(me)?;
                    }
                    self.get(index).ok_or_else(|| {
                        Error::broken(format!("record {index} of a table is not in the arena"))
                    })?
                }
            };
            self.directory.used.store(index, Relaxed);
            if record.is_free() {
                return Ok((index, record));
            }
        }
    }

    /// Puts a record that is free on the list. The caller holds the lock of the objects.
    pub(crate) fn put_back(&self, index: u32) {
        if let Some(record) = self.get(index) {
            record.link().store(self.directory.free.load(Relaxed), Relaxed);
            self.directory.free.store(index, Relaxed);
        }
    }

    /// Most records that may be in use: no more than there is room for.
    pub(crate) fn most(&self) -> usize {
        let room: u64 = match self.missing() {
            Some(chunks) => u64::from(FIRST_RECORDS) * ((1 << chunks) - 1),
            None => u64::from(u32::MAX),
        };
        room.min(u64::from(self.directory.used.load(Relaxed))) as usize
    }

    /// The records that may be in use.
    pub(crate) fn in_use(self) -> impl Iterator<Item = (u32, &'a T)> {
        let used = self.directory.used.load(Relaxed);
        self.iter().take(used as usize).filter(|(_, record)| !record.is_free())
    }

    /// Makes the list anew from the records (R2).
    pub(crate) fn rebuild(&self) {
        self.directory.adopt(self.arena);
        self.directory.free.store(0, Relaxed);
        let used = self.directory.used.load(Relaxed);
        for (index, record) in self.iter().take(used as usize) {
            if record.is_free() {
                self.put_back(index);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_follow_one_another_without_gaps() {
        let mut expected = (0, 0);
        for index in 0..5000 {
            assert_eq!(place_of(index), expected);
            expected.1 += 1;
            if expected.1 == u64::from(FIRST_RECORDS << expected.0) {
                expected = (expected.0 + 1, 0);
            }
        }
        let most: u64 = (0..CHUNKS_MAX).map(|chunk| u64::from(FIRST_RECORDS) << chunk).sum();
        assert!(most > 1 << 29 && most < u64::from(u32::MAX));
    }
}
