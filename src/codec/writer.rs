//! Writing into arena memory that grows as needed.
//!
//! # Rules
//! R1. The writer is the only one that touches its region; it starts in a slot's inline bytes or in
//!     a block, and moves to a larger block when it runs out.
//! R2. With a `published` word, a new block's offset is stored there before the old block is freed,
//!     so that at every moment the word leads to all bytes written so far.
//!
//! # If a process dies
//! Its blocks carry its id as owner: settlement keeps the published one and frees the others.
#![allow(unsafe_code)] // Writes through raw pointers into memory that it has sole use of.

use super::EncodeError;
use crate::shm::published::Published;
use crate::shm::{Arena, Block, ParticipantId, fault};
use std::mem::MaybeUninit;
use std::ptr::NonNull;

/// Smallest block that replaces the inline bytes.
const FIRST_BLOCK_BYTES: u64 = 4096;

/// Appends bytes to a growing region of the arena; a `postcard` flavor.
#[derive(Debug)]
pub(crate) struct ArenaWriter<'a> {
    arena: &'a Arena,
    owner: ParticipantId,
    published: Option<&'a Published>,
    block: Option<Block>,
    start: NonNull<u8>,
    length: usize,
    capacity: usize,
    error: Option<EncodeError>,
}

impl<'a> ArenaWriter<'a> {
    /// A writer that starts in `capacity` bytes at `start`.
    ///
    /// # Safety
    /// The bytes are arena memory that nobody else touches while the writer lives.
    pub(crate) unsafe fn over(
        arena: &'a Arena,
        owner: ParticipantId,
        start: NonNull<u8>,
        capacity: usize,
    ) -> Self {
        let (block, published, error) = (None, None, None);
        Self { arena, owner, published, block, start, length: 0, capacity, error }
    }

    /// A writer that starts in a block of its own.
    pub(crate) fn in_new_block(
        arena: &'a Arena,
        owner: ParticipantId,
        bytes: u64,
    ) -> Result<Self, crate::error::Error> {
        let block = arena.allocate(bytes, owner)?;
        let mut writer = Self {
            arena,
            owner,
            published: None,
            block: None,
            start: NonNull::dangling(),
            length: 0,
            capacity: 0,
            error: None,
        };
        writer.enter(block);
        Ok(writer)
    }

    /// Goes on in a block that already holds `length` bytes.
    pub(crate) fn resume(
        arena: &'a Arena,
        owner: ParticipantId,
        block: Block,
        length: u64,
    ) -> Self {
        let mut writer = Self {
            arena,
            owner,
            published: None,
            block: None,
            start: NonNull::dangling(),
            length: length.min(block.bytes) as usize,
            capacity: 0,
            error: None,
        };
        writer.enter(block);
        writer
    }

    /// Keeps `word` up to date with the offset of the block (R2).
    pub(crate) fn publish_in(mut self, word: &'a Published) -> Self {
        self.published = Some(word);
        self
    }

    fn enter(&mut self, block: Block) {
        match self.arena.bytes_at(block.offset, block.bytes) {
            Some(start) => (self.start, self.capacity) = (start, block.bytes as usize),
            None => (self.length, self.capacity) = (0, 0),
        }
        self.block = Some(block);
    }

    pub(crate) fn length(&self) -> usize {
        self.length
    }

    /// Forgets everything after the first `length` bytes.
    pub(crate) fn truncate(&mut self, length: usize) {
        self.length = self.length.min(length);
    }

    /// Ends writing: the block that holds the bytes (`None`: they are inline), now the caller's, and
    /// how many they are.
    pub(crate) fn finish(mut self) -> (Option<Block>, usize) {
        (self.block.take(), self.length)
    }

    pub(crate) fn take_error(&mut self) -> Option<EncodeError> {
        self.error.take()
    }

    #[inline]
    pub(crate) fn append(&mut self, bytes: &[MaybeUninit<u8>]) -> Result<(), EncodeError> {
        if bytes.len() > self.capacity - self.length {
            self.grow(bytes.len())?;
        }
        // SAFETY: R1: the region is ours and has room, as just made sure of.
        unsafe {
            let end = self.start.as_ptr().add(self.length);
            std::ptr::copy_nonoverlapping(bytes.as_ptr().cast(), end, bytes.len());
        }
        self.length += bytes.len();
        Ok(())
    }

    /// Skips `bytes` bytes, which [`ArenaWriter::put_u64`] fills in later.
    pub(crate) fn skip(&mut self, bytes: usize) -> Result<(), EncodeError> {
        if bytes > self.capacity - self.length {
            self.grow(bytes)?;
        }
        self.length += bytes;
        Ok(())
    }

    /// Writes a number at `position`, which lies in what was appended or skipped.
    #[inline]
    pub(crate) fn put_u64(&mut self, position: usize, value: u64) {
        if position + 8 <= self.length {
            // SAFETY: R1, and the eight bytes are inside the region.
            unsafe { self.start.as_ptr().add(position).cast::<u64>().write_unaligned(value) };
        }
    }

    #[cold]
    fn grow(&mut self, more: usize) -> Result<(), EncodeError> {
        let wanted = (self.length + more).max(self.capacity * 2) as u64;
        let exact = (self.length + more) as u64;
        let block = self
            .arena
            .allocate(wanted.max(FIRST_BLOCK_BYTES), self.owner)
            .or_else(|_| self.arena.allocate(exact, self.owner))
            .map_err(EncodeError::Arena)?;
        let (old, old_start) = (self.block, self.start);
        self.enter(block);
        // SAFETY: both regions are ours, distinct, and hold at least `length` bytes.
        unsafe {
            std::ptr::copy_nonoverlapping(old_start.as_ptr(), self.start.as_ptr(), self.length);
        }
        if let Some(word) = self.published {
            fault::point("worker.output-grown");
            if let Some(old) = old {
                // It may belong to the user's process. If we die before freeing it, it is ours.
                self.arena.set_owner(old.offset, self.owner);
            }
            // SYNC(output-block): pairs with the Acquire in `Slot::output_block`; carries the bytes.
            word.publish(block.offset);
            fault::point("worker.output-published");
        }
        if let Some(old) = old {
            self.arena.free(old.offset);
        }
        Ok(())
    }

    #[inline]
    fn append_or_note(&mut self, bytes: &[u8]) -> postcard::Result<()> {
        // SAFETY: initialised bytes are also possibly uninitialised ones.
        let bytes = unsafe { std::slice::from_raw_parts(bytes.as_ptr().cast(), bytes.len()) };
        self.append(bytes).map_err(|error| self.note(error))
    }

    #[cold]
    fn note(&mut self, error: EncodeError) -> postcard::Error {
        self.error = Some(error);
        postcard::Error::SerializeBufferFull
    }
}

impl Drop for ArenaWriter<'_> {
    /// Frees the block of a value that was not finished (its type's `Serialize` may panic), unless
    /// a published word leads to it.
    fn drop(&mut self) {
        if let (Some(block), None) = (self.block, self.published) {
            self.arena.free(block.offset);
        }
    }
}

impl postcard::ser_flavors::Flavor for &mut ArenaWriter<'_> {
    type Output = ();

    #[inline]
    fn try_extend(&mut self, data: &[u8]) -> postcard::Result<()> {
        self.append_or_note(data)
    }

    #[inline]
    fn try_push(&mut self, data: u8) -> postcard::Result<()> {
        if self.length == self.capacity {
            return self.append_or_note(&[data]);
        }
        // SAFETY: R1, and there is room for one more byte.
        unsafe { self.start.as_ptr().add(self.length).write(data) };
        self.length += 1;
        Ok(())
    }

    fn finalize(self) -> postcard::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec;
    use crate::limits::ARENA_BYTES_MIN;

    #[test]
    fn a_value_outgrows_its_block_and_arrives_whole() {
        let arena = Arena::create(ARENA_BYTES_MIN).unwrap();
        let owner = ParticipantId::from_raw(1);
        let published = Published::new();
        let value: Vec<String> = (0..2000).map(|n| n.to_string()).collect();
        let mut writer =
            ArenaWriter::in_new_block(&arena, owner, 10).unwrap().publish_in(&published);
        codec::encode(&value, &mut writer, &mut Vec::new()).unwrap();
        let length = writer.length();
        let (block, _) = writer.finish();
        let block = block.unwrap();
        assert_eq!(published.peek(), block.offset);
        let start = arena.bytes_at(block.offset, length as u64).unwrap();
        // SAFETY: the writer is done with the bytes and nobody else has them.
        let bytes = unsafe { std::slice::from_raw_parts(start.as_ptr(), length) };
        assert_eq!(codec::decode::<Vec<String>>(bytes).unwrap(), value);
        assert!(codec::decode::<Vec<String>>(&bytes[1..]).is_err());
        assert_eq!(arena.usage().used_bytes, block.bytes, "the outgrown blocks are free");
        arena.free(block.offset);
        drop(ArenaWriter::in_new_block(&arena, owner, 10).unwrap());
        assert_eq!(arena.usage().used_bytes, 0, "an unfinished block is freed");
    }

    #[test]
    fn a_value_larger_than_the_arena_is_an_error_with_numbers() {
        let arena = Arena::create(ARENA_BYTES_MIN).unwrap();
        let mut writer = ArenaWriter::in_new_block(&arena, ParticipantId::NOBODY, 10).unwrap();
        let error = codec::encode(&vec![0u8; 2 * ARENA_BYTES_MIN], &mut writer, &mut Vec::new())
            .unwrap_err();
        assert!(matches!(error, EncodeError::Arena(_)), "{error}");
        assert!(error.to_string().contains(&(2 * ARENA_BYTES_MIN).to_string()), "{error}");
    }
}
