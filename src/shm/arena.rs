//! The arena: the one piece of memory that a tree of processes shares.
//!
//! The first use anywhere in a process creates it and fixes its size; the guardian receives its
//! descriptor, workers inherit the mapping, and a worker that makes a pool of its own uses the same
//! one. `Arena::tree` is that one; tests make others.

use super::allocator::{self, AllocatorState};
use super::objects::ObjectsState;
use super::offset::Shared;
use super::participants::{ParticipantId, Reserved, TABLE_BYTES};
use super::segment::Segment;
use crate::error::Error;
use crate::limits::{ARENA_BYTES_MAX, ARENA_BYTES_MIN};
use crate::prim::{AtomicU32, AtomicU64, Relaxed};
use crate::sys;
use std::ptr::NonNull;
use std::sync::{Mutex, OnceLock, PoisonError};

/// Environment variable with the size of the arena in bytes, for programs that cannot be changed.
pub(crate) const ARENA_BYTES_VARIABLE: &str = "PROCPOOL_ARENA_BYTES";

pub(super) const HEADER_BYTES: u64 = 4096;

const MAGIC: u64 = u64::from_le_bytes(*b"procpool");

/// The first page of the arena.
#[derive(Debug)]
#[repr(C)]
pub(super) struct Header {
    magic: AtomicU64,
    /// The armed fault point (index plus one; 0: none) and how many passes it lets through.
    pub(super) fault_armed: AtomicU32,
    pub(super) fault_skip: AtomicU32,
    pub(super) fault_fired: AtomicU32,
    /// The process that no point kills; 0 for none.
    pub(super) fault_spared: AtomicU32,
    /// Participants that nobody in the tree has started: one, unless other programs take part.
    pub(super) roots: AtomicU32,
    pub(super) allocator: AllocatorState,
    pub(super) objects: ObjectsState,
}

#[allow(unsafe_code)] // The marker asserts what the line above says.
// SAFETY: atomics and a mutex that the C library accesses; padding is never read.
unsafe impl Shared for Header {}

/// A mapped arena.
#[derive(Debug)]
pub(crate) struct Arena {
    segment: Segment,
}

static TREE: OnceLock<Arena> = OnceLock::new();
static CREATING: Mutex<()> = Mutex::new(());
/// This process's own entry among the participants; set again in every worker after the fork.
static OWN: AtomicU32 = AtomicU32::new(0);

/// Set in a child that the user's program has forked from a process with an arena.
static FORKED: AtomicU32 = AtomicU32::new(0);

/// Whether this process is such a child. It has copies of everything private and none of the
/// threads: whatever it did with a pool would be done twice. So it may do nothing.
#[inline]
pub(crate) fn is_forked_copy() -> bool {
    FORKED.load(Relaxed) != 0
}

#[allow(unsafe_code)] // The type that the C library wants.
unsafe extern "C" fn note_fork() {
    FORKED.store(1, Relaxed);
    // What it did in the name of this participant would be written down as done by its original.
    OWN.store(0, Relaxed);
}

impl Arena {
    /// Creates a private arena.
    pub(crate) fn create(bytes: usize) -> Result<Self, Error> {
        if !(ARENA_BYTES_MIN..=ARENA_BYTES_MAX).contains(&bytes) {
            return Err(Error::invalid(format!(
                "arena_bytes is {bytes}, outside {ARENA_BYTES_MIN}..={ARENA_BYTES_MAX}"
            )));
        }
        let bytes = bytes.next_multiple_of(4096);
        let arena = Self { segment: Segment::private(bytes)? };
        arena.header().magic.store(MAGIC, Relaxed);
        arena.initialise_allocator();
        arena.initialise_objects();
        Ok(arena)
    }

    /// The arena of this process tree, created now if this is the first use.
    ///
    /// `wanted` is what a builder asks for; it must agree with an arena that exists.
    pub(crate) fn tree(wanted: Option<usize>) -> Result<&'static Self, Error> {
        if is_forked_copy() {
            return Err(Error::forked());
        }
        let _creating = CREATING.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(arena) = TREE.get() {
            return match wanted.map(|bytes| bytes.next_multiple_of(4096)) {
                Some(bytes) if bytes != arena.bytes() => Err(Error::invalid(format!(
                    "arena_bytes asks for {bytes}, but the arena of this process tree exists with {}",
                    arena.bytes()
                ))),
                _ => Ok(arena),
            };
        }
        let bytes = match wanted {
            Some(bytes) => bytes,
            None => size_from_environment()?,
        };
        let arena = Self::create(bytes)?;
        let own = arena.reserve_participant(ParticipantId::NOBODY)?;
        sys::process::on_fork_in_child(note_fork);
        Self::adopt(arena)?.become_participant(own)
    }

    /// Takes part, from now on, in the arena of another program.
    #[cfg(any(debug_assertions, feature = "fault"))]
    pub(super) fn join(fd: std::os::fd::OwnedFd) -> Result<&'static Self, Error> {
        let arena = Self::from_descriptor(fd)?;
        let own = arena.reserve_participant(ParticipantId::NOBODY)?;
        sys::process::on_fork_in_child(note_fork);
        let arena = Self::adopt(arena)?.become_participant(own)?;
        arena.record_start_time(own.id);
        Ok(arena)
    }

    /// Makes `arena` the arena of this process tree.
    pub(crate) fn adopt(arena: Self) -> Result<&'static Self, Error> {
        TREE.set(arena).map_err(|_| Error::invalid("this process has an arena already".into()))?;
        TREE.get().ok_or_else(|| Error::invalid("the arena vanished".into()))
    }

    /// The arena of this process tree, if there is one.
    #[inline]
    pub(crate) fn existing() -> Option<&'static Self> {
        TREE.get()
    }

    /// Attaches the calling process as the participant that was reserved for it.
    pub(crate) fn become_participant(&self, reserved: Reserved) -> Result<&Self, Error> {
        if !self.attach(reserved) {
            return Err(Error::invalid("the place reserved for this process was given up".into()));
        }
        OWN.store(reserved.id.to_raw() as u32, Relaxed);
        Ok(self)
    }

    /// Maps the arena whose memory file another process handed over.
    pub(crate) fn from_descriptor(fd: std::os::fd::OwnedFd) -> Result<Self, Error> {
        let arena = Self { segment: Segment::from_descriptor(fd)? };
        let large_enough = arena.bytes() >= ARENA_BYTES_MIN;
        if !large_enough || arena.header().magic.load(Relaxed) != MAGIC {
            return Err(Error::invalid("the memory that was handed over is not an arena".into()));
        }
        Ok(arena)
    }

    pub(crate) fn descriptor(&self) -> Option<std::os::fd::BorrowedFd<'_>> {
        self.segment.descriptor()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.segment.bytes()
    }

    pub(super) fn base(&self) -> NonNull<u8> {
        self.segment.base()
    }

    pub(super) fn header(&self) -> &Header {
        self.header_at_base()
    }

    /// Where the block heads start, and where the data.
    pub(super) fn layout(&self) -> allocator::Layout {
        allocator::Layout::of(HEADER_BYTES + TABLE_BYTES, self.bytes() as u64)
    }
}

/// The calling process's own participant id.
#[inline]
pub(crate) fn own_id() -> ParticipantId {
    ParticipantId::from_raw(u64::from(OWN.load(Relaxed)))
}

/// The same as a number, for the fast paths: 0 if this process has no part in an arena.
#[inline(always)]
pub(crate) fn own_raw() -> u32 {
    OWN.load(Relaxed)
}

fn size_from_environment() -> Result<usize, Error> {
    match std::env::var(ARENA_BYTES_VARIABLE) {
        Ok(text) => text.trim().parse().map_err(|_| {
            Error::invalid(format!("{ARENA_BYTES_VARIABLE} is {text:?}, not a number of bytes"))
        }),
        Err(_) => {
            let half = sys::host::usable_memory_bytes() / 2;
            Ok((half as usize).clamp(ARENA_BYTES_MIN, ARENA_BYTES_MAX))
        }
    }
}
