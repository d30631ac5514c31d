//! What the fuzz targets of shared objects have in common: an object, a process that holds it and dies, and a peer that
//! scribbles in what belongs to the object.
//!
//! The words of mutexes and latches are left alone: what the kernel and the C library keep there is theirs, and a lock
//! that a peer has taken is held.

use super::handle::Reference;
use super::settle;
use crate::prim::{AtomicU64, Relaxed};
use crate::shm::arena::own_id;
use crate::shm::{Arena, Offset, ParticipantId};
use std::collections::HashSet;
use std::ops::Range;

/// One step: which one, how to scribble, where, and what.
pub(crate) type Step = (u8, u8, u16, u64);
pub(crate) type Steps = Vec<Step>;

/// Whether this process is a target's own, a test of this name. If not, runs it in one: the arena of this one is other tests',
/// too. A fuzzer that chooses the bytes has only that one target in its process.
pub(crate) fn is_alone(name: &str) -> bool {
    const ALONE: &str = "PROCPOOL_FUZZ_ALONE";
    if cfg!(fuzzing) || std::env::var_os(ALONE).is_some() {
        return true;
    }
    let Ok(program) = std::env::current_exe() else { panic!("no program") };
    let mut command = std::process::Command::new(program);
    let ended = command.args(["--exact", name, "--nocapture"]).env(ALONE, "1").output();
    let Ok(ended) = ended else { panic!("{ended:?}") };
    let [text, errors] =
        [&ended.stdout, &ended.stderr].map(|text| String::from_utf8_lossy(text).into_owned());
    assert!(ended.status.success() && text.contains("1 passed"), "{text}{errors}");
    false
}

/// A round of a target: from before its objects are made until after they are gone.
pub(crate) struct Round {
    arena: &'static Arena,
    before: HashSet<u64>,
    /// The process that dies.
    pub(crate) dead: ParticipantId,
    kept: Vec<Range<u64>>,
    /// Whether records of waiting threads are scribbled in, too; and what they were.
    waiters: Vec<(u64, u64)>,
}

impl Round {
    pub(crate) fn begin() -> Self {
        // A record for this thread, and the tables, before anything is compared.
        let Ok(event) = super::Event::new() else { panic!("no arena") };
        event.wait_timeout(std::time::Duration::ZERO);
        drop(event);
        let Ok(arena) = Arena::tree(None) else { panic!("no arena") };
        let Ok(dead) = arena.reserve_participant(own_id()) else { panic!("no place") };
        let before = used(arena);
        let (dead, kept, waiters) = (dead.id, Vec::new(), Vec::new());
        Self { arena, before, dead, kept, waiters }
    }

    /// Has the process that dies hold an object, too.
    pub(crate) fn share(&self, reference: &Reference) {
        let held = self.arena.lock_objects().hold_for(reference.id(), self.dead);
        assert!(held.is_ok());
    }

    /// Leaves something alone from now on.
    pub(crate) fn keep<T>(&mut self, kept: &T) {
        let start = self.arena.offset_of(std::ptr::from_ref(kept).cast());
        self.kept.push(start..start + size_of::<T>() as u64);
    }

    /// Leaves the latch of a lock or the like alone: it is the first thing there.
    pub(crate) fn keep_latch(&mut self, reference: &Reference) {
        self.keep_bytes(reference.block(), 4);
    }

    /// Leaves all of an object alone.
    pub(crate) fn keep_block(&mut self, reference: &Reference) {
        self.keep_bytes(reference.block(), reference.block_bytes());
    }

    /// Leaves some bytes of the arena alone.
    pub(crate) fn keep_bytes(&mut self, start: u64, bytes: u64) {
        self.kept.push(start..start + bytes);
    }

    /// From now on scribbles in the records of waiting threads, too.
    pub(crate) fn with_waiters(&mut self) {
        let places = self.arena.table_chunks()[2].first().copied().into_iter();
        let places = places.flat_map(|chunk| (chunk..chunk + 64 * 8).step_by(8));
        self.waiters = places.map(|place| (place, self.word(place).load(Relaxed))).collect();
    }

    fn word(&self, place: u64) -> &AtomicU64 {
        let Some(word) = self.arena.at(Offset::new(place)) else {
            panic!("{place:#x} is not in the arena")
        };
        word
    }

    /// Blocks that have come since the round began.
    fn new_blocks(&self) -> Vec<Range<u64>> {
        let tables: HashSet<u64> = self.arena.table_chunks().into_iter().flatten().collect();
        let blocks = self.arena.used_blocks().into_iter().map(|(block, _)| block);
        let new = blocks.filter(|block| {
            !self.before.contains(&block.offset) && !tables.contains(&block.offset)
        });
        new.map(|block| block.offset..block.offset + block.bytes).collect()
    }

    /// Where the words of the objects' blocks are, and of the records.
    fn words(&self) -> Words {
        let mut ranges = self.new_blocks();
        if let (Some((first, _)), Some((last, _))) = (self.waiters.first(), self.waiters.last()) {
            ranges.push(*first..last + 8);
        }
        Words { count: ranges.iter().map(|range| (range.end - range.start) / 8).sum(), ranges }
    }

    /// Writes into one of the objects' words: small numbers, places in the arena, participants, what is in another word,
    /// nearly what was there, anything.
    pub(crate) fn scribble(&self, (_, how, at, value): Step) {
        let words = self.words();
        let Some(first) = words.at(0) else { return };
        let pick = |number: u64, used: bool| {
            let mut all = (0..words.count).filter_map(|ahead| words.at(number + ahead));
            // Most words say nothing yet.
            all.find(|place| !used || self.word(*place).load(Relaxed) != 0).unwrap_or(first)
        };
        let place = pick(u64::from(at), how & 0x80 != 0);
        let at = self.word(place);
        let now = at.load(Relaxed);
        let (dead, me) = (self.dead.to_raw(), own_id().to_raw());
        let other = pick(value >> 8, true);
        let new = match how % 16 {
            0 => value % 8,
            1 => other,
            2 => other & !0xff | value & 0x3f,
            3 => [dead, me, (dead << 16) | (value % 4), (me << 16) | (value % 4)]
                [value as usize >> 8 & 3],
            4 => now & !0xffff_ffff | dead << 16 | (value % 4),
            5 => now ^ 1 << (value % 64),
            6 => now.wrapping_add(value % 16).wrapping_sub(8),
            7 => now & !0xffff_ffff | value & 0xffff_ffff,
            8 => now & 0xffff_ffff | value << 32,
            9 => u64::MAX - value % 4,
            10 => (value & 0xff) << 32 | now & 0xffff_ffff,
            11 => (value % (1 << 22)) & !7,
            12..15 => self.word(other).load(Relaxed),
            _ => value,
        };
        self.write(place, new);
    }

    /// Writes a word, but for the halves that are left alone.
    fn write(&self, place: u64, new: u64) {
        let is_kept = |half: u64| self.kept.iter().any(|kept| kept.contains(&half));
        let lower = u64::from(u32::MAX) * u64::from(!is_kept(place));
        let upper = (u64::from(u32::MAX) << 32) * u64::from(!is_kept(place + 4));
        let word = self.word(place);
        word.store(word.load(Relaxed) & !(lower | upper) | new & (lower | upper), Relaxed);
    }

    /// Makes a lock or the like look as if somebody waited for it: some record, in some state, on a chain that leads
    /// somewhere. (The queue is the first thing in the object: latch, head, tail, length.)
    pub(crate) fn tangle(&self, reference: &Reference, (_, how, at, value): Step) {
        let Some((records, _)) = self.waiters.first() else { return };
        let (first, next) = (u64::from(at) % 7 + 1, value % 8);
        let record = records + first * 64;
        let owner = [self.dead.to_raw(), own_id().to_raw(), 0, value >> 16][usize::from(how) & 3];
        let state = [1, 3, 3, value >> 8 & 7][usize::from(how) >> 2 & 3];
        self.write(record, state << 32 | owner);
        self.write(record + 8, (value >> 4 & 3) << 32 | u64::from(reference.id().index()));
        self.write(record + 16, next);
        self.write(reference.block(), first << 32);
        self.write(reference.block() + 8, value >> 32 & 0xf << 32 | value >> 24 & 7);
    }

    /// The other process dies, and is settled; another one takes its place.
    pub(crate) fn die(&mut self, references: &[&Reference]) {
        self.settle();
        let Ok(dead) = self.arena.reserve_participant(own_id()) else { panic!("no place") };
        self.dead = dead.id;
        references.iter().for_each(|reference| self.share(reference));
    }

    fn settle(&self) {
        settle::settle(self.arena, self.dead);
        self.arena.free_owned_by(self.dead);
        self.arena.release_participant(self.dead);
    }

    /// After the objects are gone: as good as new, for the next.
    pub(crate) fn end(self) {
        for (place, was) in &self.waiters {
            self.word(*place).store(*was, Relaxed);
        }
        self.settle();
        self.arena.lock_objects().give_up_travelling();
        for block in self.new_blocks() {
            self.arena.free(block.start);
        }
    }
}

/// Words in several places, by number; there are too many to list them for every step.
struct Words {
    ranges: Vec<Range<u64>>,
    count: u64,
}

impl Words {
    /// The place of one; numbers go round.
    fn at(&self, number: u64) -> Option<u64> {
        let mut left = number.checked_rem(self.count)?;
        for range in &self.ranges {
            let words = (range.end - range.start) / 8;
            if left < words {
                return Some(range.start + left * 8);
            }
            left -= words;
        }
        None
    }
}

fn used(arena: &Arena) -> HashSet<u64> {
    arena.used_blocks().into_iter().map(|(block, _)| block.offset).collect()
}
