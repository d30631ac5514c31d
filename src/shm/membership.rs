//! Who an entry of the table of participants belongs to: the word that says so, and what goes with it.
//!
//! # Shared state
//! ```text
//! word  | pid 32 | parent participant 16 | generation 8 | state 8 |     FREE 0, RESERVED 1, ALIVE 2
//! start time in clock ticks: with the pid, an identity that is never reused. 0: not known
//! ```
//! All zero at first. The generation counts reservations: a worker that was given up before it attached, and
//! starts late, does not take its successor's entry. The pid is that of the process from ALIVE on; a program that takes part
//! by itself enters its own when it reserves: nobody else would learn that it has died before it attached.
//!
//! # States
//! FREE -> RESERVED (the parent, before it has the worker forked) -> ALIVE (the worker itself, with
//! its pid) -> FREE (settlement, last of all). RESERVED -> FREE (the parent, which gives it up).
//!
//! # Rules
//! R1. Each step is one swap, or, of who has it alone, one store. Of the parent that gives up and the worker that comes
//!     late, one succeeds.
//! R2. What lies beside the word (the start time, the ledger) is cleared before the entry becomes FREE. So who comes
//!     late, and is refused, has written nothing.
//!
//! # Orderings
//! `participant-free`: release when an entry becomes FREE, acquire when it is reserved; carries that what is beside it is zero.
//! `participant-alive`: release when a process attaches, acquire by who asks for its identity; carries that the start
//! time is not its predecessor's any more.
//!
//! # Tests
//! `membership_models.rs` (loom); `participants.rs`.

use crate::prim::{AcqRel, Acquire, AtomicU64, Relaxed, Release};

const FREE: u64 = 0;
const RESERVED: u64 = 1;
const ALIVE: u64 = 2;

/// See the module documentation.
#[derive(Debug)]
#[repr(C)]
pub(super) struct Membership {
    word: AtomicU64,
    start_time_ticks: AtomicU64,
}

/// What an entry's word says. `parent` is a participant's id, or 0: nobody in the tree has started it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Member {
    pub(super) pid: u32,
    pub(super) parent: u16,
    pub(super) generation: u8,
    state: u64,
}

impl Member {
    fn from_raw(raw: u64) -> Self {
        Self {
            pid: (raw >> 32) as u32,
            parent: (raw >> 16) as u16,
            generation: (raw >> 8) as u8,
            state: raw & 0xff,
        }
    }

    fn to_raw(self) -> u64 {
        u64::from(self.pid) << 32
            | u64::from(self.parent) << 16
            | u64::from(self.generation) << 8
            | self.state
    }

    pub(super) fn is_free(self) -> bool {
        self.state == FREE
    }

    pub(super) fn is_alive(self) -> bool {
        self.state == ALIVE
    }

    fn freed(self) -> Self {
        Self { pid: 0, parent: 0, state: FREE, ..self }
    }
}

impl Membership {
    #[cfg(loom)]
    pub(super) fn new() -> Self {
        Self { word: AtomicU64::new(0), start_time_ticks: AtomicU64::new(0) }
    }

    /// What the word says now.
    pub(super) fn look(&self) -> Member {
        Member::from_raw(self.word.load(Acquire))
    }

    /// FREE -> RESERVED, for a process whose pid is not known yet (0), or for the calling one: the generation of the
    /// reservation, if the entry was FREE.
    pub(super) fn reserve(&self, pid: u32, parent: u16) -> Option<u8> {
        let raw = self.word.load(Relaxed);
        let free = Member::from_raw(raw);
        let generation = free.generation.wrapping_add(1);
        let reserved = Member { pid, parent, generation, state: RESERVED }.to_raw();
        // SYNC(participant-free): pairs with the Release in `release`.
        let is_ours =
            free.is_free() && self.word.compare_exchange(raw, reserved, AcqRel, Relaxed).is_ok();
        is_ours.then_some(generation)
    }

    /// RESERVED -> ALIVE, by the process itself; `false` if the reservation was given up.
    #[must_use]
    pub(super) fn attach(&self, generation: u8, pid: u32) -> bool {
        let member = self.look();
        if member.state != RESERVED || member.generation != generation {
            return false;
        }
        let alive = Member { pid, state: ALIVE, ..member }.to_raw();
        // SYNC(participant-alive): pairs with the Acquire in `identity`; carries what was cleared.
        self.word.compare_exchange(member.to_raw(), alive, AcqRel, Relaxed).is_ok()
    }

    /// RESERVED -> FREE: what the word said; `None` if a process has attached, or it is another reservation.
    #[must_use]
    pub(super) fn withdraw(&self, generation: u8) -> Option<Member> {
        let member = self.look();
        let withdrawn = member.state == RESERVED
            && member.generation == generation
            && self
                .word
                .compare_exchange(member.to_raw(), member.freed().to_raw(), AcqRel, Relaxed)
                .is_ok();
        withdrawn.then_some(member)
    }

    /// Makes a process one that nobody in the tree has started; `false` if it is so already, or not ALIVE.
    #[must_use]
    pub(super) fn disown(&self) -> bool {
        let mut member = self.look();
        while member.is_alive() && member.parent != 0 {
            let disowned = Member { parent: 0, ..member };
            match self.word.compare_exchange(member.to_raw(), disowned.to_raw(), AcqRel, Acquire) {
                Ok(_) => return true,
                Err(now) => member = Member::from_raw(now),
            }
        }
        false
    }

    /// -> FREE, by who has settled the process, when the ledger has been cleared (R2); what it said.
    pub(super) fn release(&self) -> Member {
        let member = Member::from_raw(self.word.load(Relaxed));
        self.start_time_ticks.store(0, Relaxed);
        // SYNC(participant-free): pairs with the Acquire in `reserve`; carries what was cleared.
        self.word.store(member.freed().to_raw(), Release);
        member
    }

    /// Pid and start time of the process; 0 for what is not known.
    pub(super) fn identity(&self) -> (u32, u64) {
        // SYNC(participant-alive): pairs with the swap in `attach`.
        let pid = self.look().pid;
        (pid, self.start_time_ticks.load(Relaxed))
    }

    /// Enters the process's start time, by itself, if `ticks` is known and was not entered before.
    pub(super) fn enter_start_time(&self, ticks: impl FnOnce() -> Option<u64>) {
        if self.start_time_ticks.load(Relaxed) == 0 {
            self.start_time_ticks.store(ticks().unwrap_or(0), Relaxed);
        }
    }
}
