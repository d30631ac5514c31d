//! The state word of a task slot: who may touch the slot now.
//!
//! # Shared state
//! ```text
//! | generation 32 | owner 16 | generation's low bits 6 | flags 2 | state 8 |      flags: WAITED_FOR 1, WATCHED 2
//! ```
//! Created zero: FREE in generation 0. The low half is a futex: it says something of the generation too, lest
//! who is about to sleep for one task sleep for the next.
//!
//! # States
//! ```text
//! FREE -> READY -> CLAIMED(worker) -> DONE -> TAKEN -> FREE of the next generation
//!           |          '-> READY (settlement: the worker died, calls are left)
//!           |          '-> CONDEMNED -> TAKEN (its time is up; the worker is being killed)
//!           '-> ENDING -> DONE (cancelled before a worker came)
//! ```
//!
//! # Rules
//! R1. FREE, TAKEN, ENDING: the user's process owns the slot (its private free list says which thread). ENDING
//!     has not ended yet, for its handle: its outcome is being noted.
//! R2. READY: nobody writes. CLAIMED: the named worker owns the output side, nobody writes the
//!     input side. If that process is dead, its settler owns what it owned.
//! R3. DONE: nobody writes. One thread of the user's process wins the swap to TAKEN and owns all.
//! R4. The generation grows when a slot is freed, so a handle of an earlier task cannot take it.
//! R5. WAITED_FOR is set while READY, CLAIMED or ENDING by who is about to sleep on the low half. Whoever
//!     makes it DONE swaps the whole word and wakes the sleepers if the old word had the flag.
//!
//! R6. WATCHED is set while READY, CLAIMED or ENDING by who wants somebody told through the supervisor. Whoever
//!     makes it DONE rings the supervisor if the old word had the flag.
//!
//! R7. CONDEMNED: the task has ended, as its handle sees it (`results.rs` keeps the error), but its worker may
//!     still write the output side. The slot becomes TAKEN when that is dead.
//!
//! # Orderings
//! SYNC(slot-ready): Release store in `publish` and `give_back`, Acquire swap in `claim`; the input.
//! SYNC(slot-done): Release swap in `finish`, Acquire in `try_take` and `load`; the output.
//!
//! # If a process dies
//! CLAIMED by the dead: settlement, which found the slot in the ledger, either finishes it or gives
//! it back. DONE with sleepers not yet woken: settlement wakes them, whatever the slot is by then.
//!
//! # Tests
//! `state_models.rs` (loom); `worker.slot-*`, `worker.done`, `worker.announced` fault points.

use crate::prim::{AcqRel, Acquire, AtomicU32, AtomicU64, Relaxed, Release};
use crate::sys::futex;
use std::time::Duration;

/// Where a slot is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Phase {
    Free = 0,
    Ready = 1,
    Claimed = 2,
    Done = 3,
    Taken = 4,
    Condemned = 5,
    Ending = 6,
}

/// A decoded state word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct State {
    pub(crate) generation: u32,
    pub(crate) owner: u16,
    pub(crate) waited_for: bool,
    pub(crate) watched: bool,
    pub(crate) phase: Phase,
}

impl State {
    #[inline]
    pub(crate) fn from_raw(raw: u64) -> Self {
        let phase = match raw & 0xff {
            1 => Phase::Ready,
            2 => Phase::Claimed,
            3 => Phase::Done,
            4 => Phase::Taken,
            5 => Phase::Condemned,
            6 => Phase::Ending,
            _ => Phase::Free,
        };
        Self {
            generation: (raw >> 32) as u32,
            owner: (raw >> 16) as u16,
            waited_for: raw >> 8 & 1 == 1,
            watched: raw >> 9 & 1 == 1,
            phase,
        }
    }

    #[inline]
    pub(crate) fn to_raw(self) -> u64 {
        u64::from(self.generation) << 32
            | u64::from(self.owner) << 16
            | u64::from(self.waited_for) << 8
            | u64::from(self.watched) << 9
            | u64::from(self.generation & 63) << 10
            | self.phase as u64
    }

    /// Whether the task has not ended.
    #[inline]
    pub(crate) fn is_pending(self) -> bool {
        matches!(self.phase, Phase::Ready | Phase::Claimed | Phase::Ending)
    }

    fn new(generation: u32, phase: Phase) -> Self {
        Self { generation, owner: 0, waited_for: false, watched: false, phase }
    }
}

/// Who is to be told that a task has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub(crate) struct Finished {
    /// Sleepers are to be woken (R5).
    pub(crate) waited_for: bool,
    /// The supervisor is to be rung (R6).
    pub(crate) watched: bool,
}

/// The word, with its transitions.
///
/// The futex needs the low half as a word of its own; loom's atomics have no halves, so there the
/// sleepers' word is beside it and is bumped by `wake_sleepers`.
#[repr(C)]
pub(crate) struct StateWord {
    word: AtomicU64,
    #[cfg(loom)]
    bell: AtomicU32,
}

impl std::fmt::Debug for StateWord {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.load().fmt(formatter)
    }
}

impl StateWord {
    #[cfg(any(test, loom))]
    pub(crate) fn new() -> Self {
        Self {
            word: AtomicU64::new(0),
            #[cfg(loom)]
            bell: AtomicU32::new(0),
        }
    }

    /// A fresh word for a slot in memory that was used before.
    pub(crate) fn reset(&self) {
        self.word.store(0, Relaxed);
    }

    #[inline]
    pub(crate) fn load(&self) -> State {
        // SYNC(slot-done): pairs with the Release in `finish`.
        State::from_raw(self.word.load(Acquire))
    }

    /// FREE -> READY, by the owner of the free slot; returns the task's generation.
    #[inline]
    pub(crate) fn publish(&self) -> u32 {
        let generation = State::from_raw(self.word.load(Relaxed)).generation;
        // SYNC(slot-ready): pairs with the Acquire in `claim`.
        self.word.store(State::new(generation, Phase::Ready).to_raw(), Release);
        generation
    }

    /// READY -> CLAIMED by `me`; `false` if it is not READY (any more).
    #[inline]
    #[must_use]
    pub(crate) fn claim(&self, me: u16) -> bool {
        let mut raw = self.word.load(Relaxed);
        loop {
            let state = State::from_raw(raw);
            if state.phase != Phase::Ready {
                return false;
            }
            let claimed = State { owner: me, phase: Phase::Claimed, ..state };
            // SYNC(slot-ready): pairs with the Release in `publish` and `give_back`.
            match self.word.compare_exchange(raw, claimed.to_raw(), AcqRel, Relaxed) {
                Ok(_) => return true,
                Err(now) => raw = now,
            }
        }
    }

    /// -> DONE, by the claimer, its settler, or whoever ends a task that will not run.
    #[inline]
    pub(crate) fn finish(&self) -> Finished {
        // Only the generation is needed, and it does not change while the caller owns the slot.
        let generation = State::from_raw(self.word.load(Relaxed)).generation;
        // SYNC(slot-done): pairs with the Acquire in `try_take` and `load`.
        let old = self.word.swap(State::new(generation, Phase::Done).to_raw(), AcqRel);
        let State { waited_for, watched, .. } = State::from_raw(old);
        Finished { waited_for, watched }
    }

    /// CLAIMED -> READY, by the settler of a dead claimer; sleepers go on waiting.
    pub(crate) fn give_back(&self) {
        let mut raw = self.word.load(Relaxed);
        loop {
            let ready = State { owner: 0, phase: Phase::Ready, ..State::from_raw(raw) };
            // SYNC(slot-ready): pairs with the Acquire in `claim`.
            match self.word.compare_exchange(raw, ready.to_raw(), Release, Relaxed) {
                Ok(_) => return,
                Err(now) => raw = now,
            }
        }
    }

    /// DONE -> TAKEN for the task of `generation`; `false` if somebody else has it or it is not done.
    #[inline]
    #[must_use]
    pub(crate) fn try_take(&self, generation: u32) -> bool {
        let done = State::new(generation, Phase::Done).to_raw();
        let taken = State::new(generation, Phase::Taken).to_raw();
        // SYNC(slot-done): pairs with the Release in `finish`.
        self.word.compare_exchange(done, taken, Acquire, Relaxed).is_ok()
    }

    /// READY -> ENDING for the task of `generation`: it will not run, and the caller
    /// [finishes](Self::finish) it. A worker that finds the slot in the queue later passes over it.
    #[must_use]
    pub(crate) fn try_cancel(&self, generation: u32) -> bool {
        let mut raw = self.word.load(Relaxed);
        loop {
            let state = State::from_raw(raw);
            if state.generation != generation || state.phase != Phase::Ready {
                return false;
            }
            let ending = State { phase: Phase::Ending, ..state };
            match self.word.compare_exchange(raw, ending.to_raw(), Acquire, Relaxed) {
                Ok(_) => return true,
                Err(now) => raw = now,
            }
        }
    }

    /// Sets WATCHED (R6), unless the task of `generation` has ended.
    #[must_use]
    pub(crate) fn set_watched(&self, generation: u32) -> bool {
        let mut raw = self.word.load(Acquire);
        loop {
            let state = State::from_raw(raw);
            if state.generation != generation || !state.is_pending() {
                return false;
            }
            let flagged = State { watched: true, ..state };
            match self.word.compare_exchange(raw, flagged.to_raw(), AcqRel, Acquire) {
                Ok(_) => return true,
                Err(now) => raw = now,
            }
        }
    }

    /// CLAIMED -> CONDEMNED for the task of `generation` (R7), by the supervisor, which has seen to it that
    /// the claimer does not finish it.
    pub(crate) fn end_early(&self, generation: u32) -> Option<Finished> {
        let mut raw = self.word.load(Relaxed);
        loop {
            let state = State::from_raw(raw);
            if state.generation != generation || state.phase != Phase::Claimed {
                return None;
            }
            let State { waited_for, watched, .. } = state;
            let condemned = State { phase: Phase::Condemned, ..state };
            match self.word.compare_exchange(raw, condemned.to_raw(), AcqRel, Relaxed) {
                Ok(_) => return Some(Finished { waited_for, watched }),
                Err(now) => raw = now,
            }
        }
    }

    /// CONDEMNED -> TAKEN, by the settler of the claimer.
    pub(crate) fn take_condemned(&self) {
        let state = State::from_raw(self.word.load(Relaxed));
        self.word.store(State::new(state.generation, Phase::Taken).to_raw(), Relaxed);
    }

    /// TAKEN (or FREE: a slot that was filled in vain) -> FREE of the next generation.
    #[inline]
    pub(crate) fn free(&self) {
        let generation = State::from_raw(self.word.load(Relaxed)).generation.wrapping_add(1);
        self.word.store(State::new(generation, Phase::Free).to_raw(), Release);
    }

    /// Sleeps until the task of `generation` may be done; returns early for no reason at times.
    pub(crate) fn wait(&self, generation: u32, timeout: Option<Duration>) {
        #[cfg(loom)]
        let rung = self.bell.load(crate::prim::SeqCst);
        let mut raw = self.word.load(Acquire);
        loop {
            let state = State::from_raw(raw);
            if state.generation != generation || !state.is_pending() {
                return;
            }
            if state.waited_for {
                break;
            }
            let flagged = State { waited_for: true, ..state };
            match self.word.compare_exchange(raw, flagged.to_raw(), AcqRel, Acquire) {
                Ok(_) => {
                    raw = flagged.to_raw();
                    break;
                }
                Err(now) => raw = now,
            }
        }
        #[cfg(not(loom))]
        futex::wait(self.low_half(), raw as u32, timeout);
        #[cfg(loom)]
        {
            let _ = (raw, timeout);
            futex::wait(&self.bell, rung, None);
        }
    }

    /// Wakes everybody who sleeps in [`StateWord::wait`].
    #[cold]
    pub(crate) fn wake_sleepers(&self) {
        #[cfg(not(loom))]
        futex::wake_all(self.low_half());
        #[cfg(loom)]
        {
            self.bell.fetch_add(1, crate::prim::SeqCst);
            futex::wake_all(&self.bell);
        }
    }

    #[cfg(not(loom))]
    #[allow(unsafe_code)] // Names the half of a word that a futex needs.
    fn low_half(&self) -> &AtomicU32 {
        const { assert!(cfg!(target_endian = "little"), "the low half comes first") };
        // SAFETY: the first four bytes of an aligned, live 8-byte atomic are an aligned 4-byte one;
        // only the kernel reads through this reference.
        unsafe { &*(&raw const self.word).cast::<AtomicU32>() }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn state_words_survive_a_round_trip() {
        let state = State {
            generation: u32::MAX,
            owner: 4095,
            waited_for: true,
            watched: true,
            phase: Phase::Claimed,
        };
        assert_eq!(State::from_raw(state.to_raw()), state);
        assert_eq!(State::from_raw(0xff).phase, Phase::Free, "nonsense is not a claim");
    }

    #[test]
    fn a_task_lives_once_and_a_late_handle_gets_nothing() {
        let word = StateWord::new();
        let generation = word.publish();
        assert!(word.claim(3));
        assert!(!word.claim(4), "claimed already");
        assert!(!word.try_take(generation), "not done");
        assert_eq!(word.finish(), Finished { waited_for: false, watched: false });
        assert!(!word.try_take(generation.wrapping_sub(1)), "another task's handle");
        assert!(word.try_take(generation));
        assert!(!word.try_take(generation), "taken already");
        word.free();
        assert_eq!(word.publish(), generation + 1);
    }

    #[test]
    fn a_timed_wait_waits_at_least_its_time_and_leaves_the_flag() {
        let word = StateWord::new();
        let generation = word.publish();
        let before = std::time::Instant::now();
        word.wait(generation, Some(Duration::from_millis(20)));
        assert!(before.elapsed() >= Duration::from_millis(20));
        assert!(word.claim(1));
        assert!(word.finish().waited_for);
    }
}
