//! The table of processes attached to the arena, and each one's ledger.
//!
//! # Shared state
//! One entry per process, 128 bytes, zero at first. Whose it is, and its states: `membership.rs`.
//!
//! # Rules
//! R1. Only the process itself writes its ledger while it lives; only its settler afterwards.
//! R2. A ledger entry is written *before* the act that it describes, and cleared after the act has
//!     been undone or handed on: *write down, act, confirm*. It may therefore name something that
//!     was never taken; settlement checks the thing itself, whose word names its owner.
//! R3. An entry becomes FREE only when nothing in the arena names it any more.
//!
//! # If a process dies
//! In RESERVED: it never touched the arena. A worker that starts late finds its entry no longer
//! RESERVED and exits. In ALIVE: `pool::settle` reads the ledger and gives everything back. A dead
//! process may itself have been the parent of others (a worker with a pool of its own): those are
//! ended first, then their blocks and entries are freed.

use super::arena::{Arena, own_id};
use super::membership::{Member, Membership};
use super::offset::{Offset, Shared};
use super::published::Published;
use crate::error::Error;
use crate::limits::PARTICIPANTS_MAX;
use crate::prim::{AcqRel, AtomicU32, AtomicU64, Relaxed};
use crate::sys;
use serde::{Deserialize, Serialize};

/// An index into the table; 0 is nobody.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct ParticipantId(u16);

impl ParticipantId {
    /// No process: the owner of what belongs to a structure.
    pub(crate) const NOBODY: Self = Self(0);

    /// The id in the low bits of a shared word; whatever is out of range is nobody.
    pub(crate) fn from_raw(raw: u64) -> Self {
        Self(u16::try_from(raw).ok().filter(|id| usize::from(*id) < PARTICIPANTS_MAX).unwrap_or(0))
    }

    pub(crate) fn to_raw(self) -> u64 {
        u64::from(self.0)
    }
}

/// What a process holds at this moment (R1, R2).
#[derive(Debug, Default)]
#[repr(C)]
pub(crate) struct Ledger {
    /// Ring position, plus one, of the cell that it is about to claim or has claimed.
    pub(crate) cell: AtomicU64,
    /// Slot index, plus one, that it is about to claim or has claimed.
    pub(crate) slot: AtomicU64,
    /// 1 while it is counted among the sleepers of its pool's event count.
    pub(crate) asleep: AtomicU32,
    /// 1 once it has reached its loop: it can start. 2 once it has ended a task.
    pub(crate) started: AtomicU32,
    /// 1 when it is about to be recycled, 2 when it leaves by itself: its end is no loss.
    pub(crate) leaving: AtomicU32,
    /// 1 while it gives the rest of a batch back.
    pub(crate) returning: AtomicU32,
    /// Block that says why it did not start, or 0.
    pub(crate) note: Published,
    /// Monotonic time at which its turn came; 0 if it has not.
    pub(crate) begun_ns: AtomicU64,
    /// Monotonic time since when it runs what it runs, or is idle; 0 if it has not begun.
    pub(crate) since_ns: AtomicU64,
    /// How long it has run tasks, before what it runs now.
    pub(crate) busy_ns: AtomicU64,
    /// Calls that it has run, before those of the batch that it runs now.
    pub(crate) calls: AtomicU64,
}

/// An entry that was reserved for a process which is about to start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Reserved {
    pub(crate) id: ParticipantId,
    generation: u8,
}

/// One attached process.
#[derive(Debug)]
#[repr(C, align(128))]
pub(crate) struct Participant {
    membership: Membership,
    pub(crate) ledger: Ledger,
    /// The call that is asked to end by itself, as its supervisor says it; 0 for none. Not in the ledger,
    /// because it is another's to write.
    pub(crate) stop_asked: AtomicU64,
}

#[allow(unsafe_code)] // The marker asserts what the line above says.
// SAFETY: atomics only, padding is never read.
unsafe impl Shared for Participant {}

pub(super) const TABLE_BYTES: u64 = (PARTICIPANTS_MAX * size_of::<Participant>()) as u64;

/// Who has started a process; whatever is out of range is nobody.
fn parent_of(member: Member) -> ParticipantId {
    ParticipantId::from_raw(u64::from(member.parent))
}

impl Arena {
    fn participants(&self) -> &[Participant] {
        let table = Offset::new(super::arena::HEADER_BYTES);
        self.slice_at(table, PARTICIPANTS_MAX).unwrap_or(&[])
    }

    /// The entry of a process.
    pub(crate) fn participant(&self, id: ParticipantId) -> &Participant {
        // What was sent as an id may be anything.
        &self.participants()[usize::from(id.0) % PARTICIPANTS_MAX]
    }

    /// Reserves an entry for a process that `parent` is about to have started.
    pub(crate) fn reserve_participant(&self, parent: ParticipantId) -> Result<Reserved, Error> {
        if parent == ParticipantId::NOBODY {
            // Before and not after: too many roots cost some looks, too few hide a death.
            self.header().roots.fetch_add(1, AcqRel);
        }
        let pid = if parent == ParticipantId::NOBODY { sys::process::own_pid() } else { 0 };
        for (index, entry) in self.participants().iter().enumerate().skip(1) {
            if let Some(generation) = entry.membership.reserve(pid, parent.0) {
                return Ok(Reserved { id: ParticipantId::from_raw(index as u64), generation });
            }
        }
        if parent == ParticipantId::NOBODY {
            self.header().roots.fetch_sub(1, AcqRel);
        }
        Err(Error::limit(format!(
            "all {} places for processes attached to the arena are taken",
            PARTICIPANTS_MAX - 1
        )))
    }

    /// Attaches the calling process to its reserved entry; `false` if the parent gave it up.
    #[must_use]
    pub(crate) fn attach(&self, reserved: Reserved) -> bool {
        let entry = self.participant(reserved.id);
        entry.membership.attach(reserved.generation, sys::process::own_pid())
    }

    /// Takes a reservation back; if its process has attached, `false`: it has to be ended first.
    #[must_use]
    pub(crate) fn withdraw(&self, reserved: Reserved) -> bool {
        let before = self.participant(reserved.id).membership.withdraw(reserved.generation);
        if before.is_some_and(|member| parent_of(member) == ParticipantId::NOBODY) {
            self.header().roots.fetch_sub(1, AcqRel);
        }
        before.is_some()
    }

    /// Frees an entry that a process reserved which is dead; `false` if somebody has attached to it.
    pub(crate) fn withdraw_for_dead(&self, id: ParticipantId) -> bool {
        let generation = self.participant(id).membership.look().generation;
        self.withdraw(Reserved { id, generation })
    }

    /// Makes a process one that nobody watches: its parent does not care for it any more.
    pub(crate) fn disown(&self, id: ParticipantId) {
        // Before it is one, so that nobody overlooks it.
        self.header().roots.fetch_add(1, AcqRel);
        if !self.participant(id).membership.disown() {
            self.header().roots.fetch_sub(1, AcqRel);
        }
    }

    /// Enters the calling process's start time, once: reading it costs more than all the rest of
    /// attaching, so a worker does it when it first has nothing to do.
    pub(crate) fn record_start_time(&self, id: ParticipantId) {
        let ticks = || sys::process::start_time_ticks(sys::process::own_pid());
        self.participant(id).membership.enter_start_time(ticks);
    }

    /// Pid and start time of a process; a pid of 0 if it is another's child and has not attached, a time of 0 if
    /// it has not been entered yet.
    pub(crate) fn identity_of(&self, id: ParticipantId) -> (u32, u64) {
        self.participant(id).membership.identity()
    }

    /// Whether an entry is a process's, dead or alive.
    pub(crate) fn is_attached(&self, id: ParticipantId) -> bool {
        self.participant(id).membership.look().is_alive()
    }

    /// Whether the process of an entry is dead, though perhaps not settled yet.
    pub(crate) fn is_dead(&self, id: ParticipantId) -> bool {
        match self.identity_of(id) {
            (0, _) => true,
            (pid, ticks) => sys::process::is_gone(pid, ticks),
        }
    }

    /// Whether there may be processes that nobody in the tree watches.
    #[inline]
    pub(crate) fn has_strangers(&self) -> bool {
        self.header().roots.load(Relaxed) > 1
    }

    /// The attached processes that nobody in the tree watches, because nobody there started them.
    pub(crate) fn strangers(&self) -> impl Iterator<Item = ParticipantId> {
        self.children_of(ParticipantId::NOBODY).into_iter().filter(|id| *id != own_id())
    }

    /// The pids of all attached processes.
    pub(crate) fn attached(&self) -> Vec<u32> {
        let words = self.participants().iter().skip(1);
        let words = words.map(|entry| entry.membership.look());
        words.filter(|word| word.is_alive()).map(|word| word.pid).collect()
    }

    /// How many entries are not FREE.
    #[cfg(any(debug_assertions, feature = "fault"))]
    pub(super) fn places_taken(&self) -> usize {
        let words = self.participants().iter().skip(1);
        words.filter(|entry| !entry.membership.look().is_free()).count()
    }

    /// Every process that takes part, and what it holds.
    #[cfg(test)]
    pub(crate) fn ledgers(&self) -> impl Iterator<Item = (ParticipantId, u32, &Ledger)> {
        let entries = self.participants().iter().enumerate().skip(1);
        entries.filter_map(|(index, entry)| {
            let word = entry.membership.look();
            let id = ParticipantId::from_raw(index as u64);
            word.is_alive().then_some((id, word.pid, &entry.ledger))
        })
    }

    /// Every entry that is not FREE, and what its process holds, in words.
    pub(super) fn describe_participants(&self) -> Vec<String> {
        let entries = self.participants().iter().enumerate().skip(1);
        let entries = entries.filter_map(|(index, entry)| {
            let Participant { membership, ledger, stop_asked } = entry;
            let (word, (_, began)) = (membership.look(), membership.identity());
            (!word.is_free()).then(|| {
                let how = if word.is_alive() { "process" } else { "RESERVED," };
                format!(
                    "participant {index}: {how} {word:?}, began at {began}, \
                     asked to stop {stop_asked:?}, {ledger:?}"
                )
            })
        });
        entries.collect()
    }

    /// The processes that `parent` had started and that are still entered.
    pub(crate) fn children_of(&self, parent: ParticipantId) -> Vec<ParticipantId> {
        let entries = self.participants().iter().enumerate().skip(1);
        entries
            .filter_map(|(index, entry)| {
                let word = entry.membership.look();
                let id = ParticipantId::from_raw(index as u64);
                (!word.is_free() && parent_of(word) == parent && id != parent).then_some(id)
            })
            .collect()
    }

    /// How many processes of the tree are between this one and the first.
    pub(crate) fn depth_of(&self, id: ParticipantId) -> usize {
        let parent = |id: &ParticipantId| {
            Some(parent_of(self.participant(*id).membership.look()))
                .filter(|parent| *parent != ParticipantId::NOBODY)
        };
        // The table bounds it, whatever is in it.
        std::iter::successors(parent(&id), parent).take(PARTICIPANTS_MAX).count()
    }

    /// Frees an entry that nothing names any more (R3).
    pub(crate) fn release_participant(&self, id: ParticipantId) {
        let entry = self.participant(id);
        entry.ledger.cell.store(0, Relaxed);
        entry.ledger.slot.store(0, Relaxed);
        entry.ledger.asleep.store(0, Relaxed);
        entry.ledger.started.store(0, Relaxed);
        entry.ledger.leaving.store(0, Relaxed);
        entry.ledger.returning.store(0, Relaxed);
        entry.ledger.note.set(0);
        entry.ledger.begun_ns.store(0, Relaxed);
        entry.ledger.since_ns.store(0, Relaxed);
        entry.ledger.busy_ns.store(0, Relaxed);
        entry.ledger.calls.store(0, Relaxed);
        entry.stop_asked.store(0, Relaxed);
        let member = entry.membership.release();
        if parent_of(member) == ParticipantId::NOBODY && !member.is_free() {
            self.header().roots.fetch_sub(1, AcqRel);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_goes_from_reserved_to_alive_to_free_and_a_late_start_is_refused() {
        let arena = Arena::create(crate::limits::ARENA_BYTES_MIN).unwrap();
        let parent = arena.reserve_participant(ParticipantId::NOBODY).unwrap().id;
        let child = arena.reserve_participant(parent).unwrap();
        assert_eq!(arena.children_of(parent), [child.id]);
        assert_eq!(arena.identity_of(child.id).0, 0);
        assert!(arena.attach(child));
        assert_eq!(arena.identity_of(child.id).0, sys::process::own_pid());
        assert!(!arena.withdraw(child), "it has attached");
        arena.release_participant(child.id);
        assert!(!arena.attach(child), "its parent gave it up");
        let next = arena.reserve_participant(parent).unwrap();
        assert_eq!(next.id, child.id, "the entry is reused");
        assert!(!arena.attach(child), "and not its successor's");
        assert!(arena.withdraw(next) && !arena.attach(next));
        assert!(!arena.has_strangers());
        let root = arena.reserve_participant(ParticipantId::NOBODY).unwrap();
        assert!(!arena.is_dead(root.id), "it is this one, which lives");
        assert!(arena.has_strangers() && arena.withdraw(root) && !arena.has_strangers());
    }

    #[test]
    fn the_table_ends_with_an_error_that_says_its_size() {
        let arena = Arena::create(crate::limits::ARENA_BYTES_MIN).unwrap();
        while arena.reserve_participant(ParticipantId::NOBODY).is_ok() {}
        let error = arena.reserve_participant(ParticipantId::NOBODY).unwrap_err();
        assert!(error.to_string().contains("2047"), "{error}");
    }
}
