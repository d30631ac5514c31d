//! The arena: the one piece of memory that a tree of processes shares.
//!
//! The first use anywhere in a process creates it and fixes its size; the guardian receives its
//! descriptor, workers inherit the mapping, and a worker that makes a pool of its own uses the same
//! one. `Arena::tree` is that one; tests make others.

use super::allocator::{self, AllocatorState};
use super::objects::ObjectsState;
use super::offset::Shared;
use super::participants::{ParticipantId, Reserved, TABLE_BYTES};
use super::published::Published;
use super::segment::Segment;
use super::shape::ObjectId;
use crate::error::Error;
use crate::limits::{ARENA_BYTES_MAX, ARENA_BYTES_MIN};
use crate::prim::{AtomicU32, AtomicU64, Relaxed};
use crate::sys;
use std::ptr::NonNull;
use std::sync::{Mutex, OnceLock, PoisonError};

/// Environment variable with the size of the arena in bytes, for programs that cannot be changed.
pub(crate) const ARENA_BYTES_VARIABLE: &str = "PROCPOOL_ARENA_BYTES";

pub(super) const HEADER_BYTES: u64 = 4096;

/// Words in the header for the key.
pub(crate) const KEY_WORDS: usize = 6;

/// A number that changes with everything that lies in the arena.
pub(crate) const LAYOUT: u64 = layout();

const fn layout() -> u64 {
    let version = env!("CARGO_PKG_VERSION").as_bytes();
    let mut hash = fnv(0xcbf2_9ce4_8422_2325, crate::limits::LAYOUT_VERSION);
    hash = fnv(hash, size_of::<Header>() as u64);
    hash = fnv(hash, TABLE_BYTES);
    hash = fnv(hash, allocator::UNIT_BYTES);
    let mut at = 0;
    while at < version.len() {
        hash = fnv(hash, version[at] as u64);
        at += 1;
    }
    hash
}

/// One step of FNV-1a (Fowler, Noll and Vo), over 64 bits at a time.
const fn fnv(hash: u64, item: u64) -> u64 {
    (hash ^ item).wrapping_mul(0x0100_0000_01b3)
}

const MAGIC: u64 = u64::from_le_bytes(*b"procpool");

/// The first page of the arena.
#[derive(Debug)]
#[repr(C)]
pub(super) struct Header {
    /// Stored last: who sees it sees an arena that is whole.
    magic: Published,
    /// [`LAYOUT`] of the program that made the arena. These two words stay where they are for ever.
    layout: AtomicU64,
    /// Of a named arena: its owner's participant id, pid and start time.
    pub(super) owner: AtomicU32,
    owner_pid: AtomicU32,
    owner_ticks: AtomicU64,
    /// The object with the names that programs share: its index and uid.
    pub(super) root: AtomicU32,
    pub(super) root_uid: AtomicU64,
    /// What shows that somebody knows the arena's key (`named/key.rs`); 0 if there is none.
    key: [AtomicU64; KEY_WORDS],
    /// The armed fault point (index plus one; 0: none) and how many passes it lets through.
    pub(super) fault_armed: AtomicU32,
    pub(super) fault_skip: AtomicU32,
    pub(super) fault_fired: AtomicU32,
    /// The point to be armed when the armed one has gone off.
    pub(super) fault_next: AtomicU32,
    /// 1 if the armed point stops the process, and does not kill it.
    pub(super) fault_stops: AtomicU32,
    /// The process that no point kills; 0 for none.
    pub(super) fault_spared: AtomicU32,
    /// Participants that nobody in the tree has started: one, unless other programs take part.
    pub(super) roots: AtomicU32,
    /// Counts what is to have a number of its own.
    numbers: AtomicU64,
    /// 1 once the owner of a named arena has been found dead.
    pub(super) orphaned: AtomicU32,
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
        let arena = Self::over(Segment::private(bytes.next_multiple_of(4096))?);
        arena.publish();
        Ok(arena)
    }

    /// A new arena, which is not said to be one yet.
    fn over(segment: Segment) -> Self {
        let arena = Self { segment };
        arena.header().layout.store(LAYOUT, Relaxed);
        arena.initialise_allocator();
        arena.initialise_objects();
        arena
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
        Self::create(bytes)?.make_own()
    }

    /// Makes this the arena of the calling process and of those that it starts.
    ///
    /// # Errors
    /// The process has an arena.
    fn make_own(self) -> Result<&'static Self, Error> {
        let own = self.reserve_participant(ParticipantId::NOBODY)?;
        if TREE.get().is_some() {
            let _ = self.withdraw(own);
            return Err(has_arena());
        }
        let arena = Self::adopt(self)?.become_participant(own)?;
        arena.record_start_time(own.id);
        Ok(arena)
    }

    /// Makes a named arena this process's own, before [`publish`](Self::publish).
    pub(crate) fn own_named(segment: Segment) -> Result<&'static Self, Error> {
        let _creating = CREATING.lock().unwrap_or_else(PoisonError::into_inner);
        if is_forked_copy() {
            return Err(Error::forked());
        }
        if TREE.get().is_some() {
            return Err(has_arena());
        }
        let arena = Self::over(segment).make_own()?;
        let (pid, ticks) = arena.identity_of(own_id());
        arena.header().owner.store(own_raw(), Relaxed);
        arena.header().owner_pid.store(pid, Relaxed);
        arena.header().owner_ticks.store(ticks, Relaxed);
        Ok(arena)
    }

    /// Lets others attach.
    pub(crate) fn publish(&self) {
        // SYNC(arena-magic): pairs with the Acquire in `is_published`; carries the whole arena.
        self.header().magic.publish(MAGIC);
    }

    fn is_published(&self) -> bool {
        // SYNC(arena-magic): pairs with the Release in `publish`.
        self.header().magic.get() == Some(MAGIC)
    }

    /// What a segment that is not this process's arena says of itself: `None` if it is none (yet).
    pub(crate) fn look_at(segment: Segment) -> Option<Self> {
        let arena = Self { segment };
        (arena.bytes() >= ARENA_BYTES_MIN && arena.is_published()).then_some(arena)
    }

    /// Makes the arena of another program that of this process.
    pub(crate) fn join(self) -> Result<&'static Self, Error> {
        let _creating = CREATING.lock().unwrap_or_else(PoisonError::into_inner);
        if is_forked_copy() {
            return Err(Error::forked());
        }
        self.make_own()
    }

    /// [`LAYOUT`] of the program that made the arena.
    pub(crate) fn layout_hash(&self) -> u64 {
        self.header().layout.load(Relaxed)
    }

    /// Whether other programs can attach.
    pub(crate) fn is_named(&self) -> bool {
        self.header().root_uid.load(Relaxed) != 0
    }

    /// The words that belong to the key.
    pub(crate) fn key(&self) -> &[AtomicU64; KEY_WORDS] {
        &self.header().key
    }

    /// The object with the names that programs share.
    pub(crate) fn root(&self) -> ObjectId {
        ObjectId::of(self.header().root.load(Relaxed), self.header().root_uid.load(Relaxed))
    }

    pub(crate) fn set_root(&self, root: ObjectId) {
        self.header().root.store(root.index(), Relaxed);
        self.header().root_uid.store(root.uid(), Relaxed);
    }

    /// Pid and start time of the owner of a named arena.
    pub(crate) fn owner(&self) -> (u32, u64) {
        let header = self.header();
        (header.owner_pid.load(Relaxed), header.owner_ticks.load(Relaxed))
    }

    /// Notes that a participant has been found dead: it may have been the owner.
    pub(crate) fn note_death(&self, dead: ParticipantId) {
        if dead != ParticipantId::NOBODY
            && u64::from(self.header().owner.load(Relaxed)) == dead.to_raw()
        {
            self.header().orphaned.store(1, Relaxed);
            // The id may become another's.
            self.header().owner.store(0, Relaxed);
        }
    }

    /// Takes part, from now on, in the arena of another program whose descriptor this process has.
    #[cfg(any(debug_assertions, feature = "fault"))]
    pub(super) fn join_descriptor(fd: std::os::fd::OwnedFd) -> Result<&'static Self, Error> {
        Self::from_descriptor(fd)?.join()
    }

    /// Makes `arena` the arena of this process tree.
    pub(crate) fn adopt(arena: Self) -> Result<&'static Self, Error> {
        TREE.set(arena).map_err(|_| has_arena())?;
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
        // Also in a worker, whose tasks may fork: it was forked itself by a process that has no part.
        static NOTICING: std::sync::Once = std::sync::Once::new();
        NOTICING.call_once(|| sys::process::on_fork_in_child(note_fork));
        OWN.store(reserved.id.to_raw() as u32, Relaxed);
        Ok(self)
    }

    /// Maps the arena whose memory file another process handed over.
    pub(crate) fn from_descriptor(fd: std::os::fd::OwnedFd) -> Result<Self, Error> {
        let arena = Self { segment: Segment::from_descriptor(fd)? };
        let large_enough = arena.bytes() >= ARENA_BYTES_MIN;
        if !large_enough || arena.layout_hash() != LAYOUT {
            return Err(Error::invalid("the memory that was handed over is not an arena".into()));
        }
        Ok(arena)
    }

    pub(crate) fn descriptor(&self) -> std::os::fd::BorrowedFd<'_> {
        self.segment.descriptor()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.segment.bytes()
    }

    /// A number that nobody else gets, not 0.
    pub(crate) fn next_number(&self) -> u64 {
        self.header().numbers.fetch_add(1, Relaxed).wrapping_add(1)
    }

    /// Whether the program that owns the arena has been found dead.
    #[inline]
    pub(crate) fn is_orphaned(&self) -> bool {
        self.header().orphaned.load(Relaxed) != 0
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

#[cold]
fn has_arena() -> Error {
    Error::invalid(
        "this process has an arena already: a named one is created or attached to before the first \
         pool or shared object"
            .into(),
    )
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
