//! How far a batch has come, and whether its worker may go on: what a worker and the supervisor, which is about to kill it
//! for a call that takes too long, have to agree upon.
//!
//! # Shared state
//! ```text
//! Steps | 2 k: calls 0 to k-1 have an outcome; 2 k + 1: call k runs
//! Flags | waiting place 16 | flags 16 (`slot.rs`); here: CANCELLED, CONDEMNED
//! ```
//!
//! # Rules
//! R1. Only who has claimed the slot stores how far it has come: before a call, and after it, when its result is
//!     written. If that process is dead, its settler does.
//! R2. A worker looks at the flags after each call, before its next step: to begin another, or to finish the batch. While
//!     CONDEMNED is set it goes no further.
//! R3. The supervisor sets CONDEMNED, has every worker pass a barrier, and then looks what the worker runs. If that is
//!     still the same call, it is killed; if not, the flag is taken back.
//! R4. Looking what a worker runs, steps come before the state: the slot may be another task's in between, also of the
//!     same worker, and then has another generation when the state is looked at.
//!
//! # Orderings
//! `condemned`: the worker stores its step, then loads the flags; the supervisor stores the flag, then loads the step.
//! With a full barrier in between on both sides, one of them sees the other's store. The worker's hot path has none: the
//! supervisor has the kernel make one there (`sys/membarrier.rs`), between any two of its instructions.
//! `call-begun`: release when a call begins, acquire by who looks what a worker runs; carries the state in which the
//! slot was claimed for it (R4), and when its worker began the batch.
//! `call-done`: release when a call has an outcome, acquire by who looks; carries the result.
//!
//! # If a process dies
//! The worker: settlement finds the call running, or ended (`settle.rs`).
//!
//! # Tests
//! `verdict_models.rs` (loom); `tests/deadlines.rs`.

use super::state::{Phase, StateWord};
use crate::prim::{
    Acquire, AtomicU32, AtomicU64, Relaxed, Release, SeqCst, compiler_fence, light_fence,
};
use crate::sys::membarrier;

/// Flag: nobody wants the results; calls that have not started need not run. Of the input side, the user's
/// process may change these two while a worker reads it.
const CANCELLED: u32 = 8;
/// Flag: the supervisor is about to kill the worker for the call that runs (R2).
const CONDEMNED: u32 = 16;

/// How far a batch has come.
#[derive(Debug)]
#[repr(transparent)]
pub(crate) struct Steps {
    word: AtomicU64,
}

impl Steps {
    #[cfg(loom)]
    pub(super) fn new() -> Self {
        Self { word: AtomicU64::new(0) }
    }

    /// No call has begun.
    pub(crate) fn reset(&self) {
        self.word.store(0, Relaxed);
    }

    /// A call begins.
    #[inline]
    pub(crate) fn begin(&self, call: u64) {
        // SYNC(call-begun): pairs with the Acquire in `running`; carries whose task it is.
        self.word.store(2 * call + 1, Release);
        // The store comes before anything that the call does, as this process's death sees it.
        compiler_fence(SeqCst);
    }

    /// A call has an outcome; the caller is to look at the flags next (R2).
    #[inline]
    pub(crate) fn end(&self, call: u64) {
        self.note_end(call);
        // SYNC(condemned): pairs with the barrier in `condemn`.
        light_fence();
    }

    #[inline]
    pub(super) fn note_end(&self, call: u64) {
        // SYNC(call-done): pairs with the Acquire in `now`; carries the result.
        self.word.store(2 * (call + 1), Release);
    }

    /// Settlement, or the retry of a call: calls 0 to `calls - 1` have an outcome, and none runs.
    pub(crate) fn settle(&self, calls: u32) {
        self.word.store(u64::from(calls) * 2, Release);
    }

    /// How far it is, with what has an outcome.
    #[inline]
    pub(crate) fn now(&self) -> u64 {
        // SYNC(call-done): pairs with the Release in `end`.
        self.word.load(Acquire)
    }

    /// The same, without what has an outcome.
    #[inline]
    pub(crate) fn peek(&self) -> u64 {
        self.word.load(Relaxed)
    }

    /// How many calls have an outcome, for who does not look at it, or has it himself.
    #[inline]
    pub(crate) fn done(&self) -> u64 {
        self.peek() >> 1
    }
}

/// What is to be done with a batch: flags, most of which do not change while it is queued or runs.
#[derive(Debug)]
#[repr(transparent)]
pub(crate) struct Flags {
    word: AtomicU32,
}

impl Flags {
    #[cfg(loom)]
    pub(super) fn new() -> Self {
        Self { word: AtomicU32::new(0) }
    }

    /// All of them, by the owner of a free slot.
    pub(crate) fn set(&self, flags: u32) {
        self.word.store(flags, Relaxed);
    }

    /// All of them.
    #[inline]
    pub(crate) fn get(&self) -> u32 {
        self.word.load(Relaxed)
    }

    #[inline]
    pub(crate) fn has(&self, flag: u32) -> bool {
        self.get() & flag != 0
    }

    /// Asks whoever runs the batch, or will, to leave it at the calls that have started.
    pub(crate) fn cancel(&self) {
        self.word.fetch_or(CANCELLED, Relaxed);
    }

    #[inline]
    pub(crate) fn is_cancelled(&self) -> bool {
        is_cancelled(self.get())
    }

    /// The flag of [`condemn`] is taken back, or its worker is dead.
    pub(crate) fn pardon(&self) {
        self.word.fetch_and(!CONDEMNED, SeqCst);
    }

    #[inline]
    pub(crate) fn is_condemned(&self) -> bool {
        self.has(CONDEMNED)
    }

    /// Whether the next call is not to start as a matter of course: one of the two flags is set.
    #[inline]
    pub(crate) fn is_held_up(&self) -> bool {
        self.has(CANCELLED | CONDEMNED)
    }
}

#[inline]
pub(crate) fn is_cancelled(flags: u32) -> bool {
    flags & CANCELLED != 0
}

/// What a participant runs of a slot: the task's generation, and its steps. (R4)
#[inline]
pub(crate) fn running(state: &StateWord, steps: &Steps, worker: u64) -> Option<(u32, u64)> {
    // SYNC(call-begun): pairs with the Release in `begin`.
    let steps = steps.now();
    let state = state.load();
    let claimed = state.phase == Phase::Claimed && u64::from(state.owner) == worker;
    claimed.then_some((state.generation, steps))
}

/// Has a worker go no further, if it `still` runs a call; whether it does, and is to be killed (R3).
pub(crate) fn condemn(flags: &Flags, still: impl FnOnce() -> bool) -> bool {
    // SYNC(condemned): pairs with the light fence in `Steps::end`.
    condemn_with(flags, membarrier::everywhere, still)
}

/// The same, with what makes every worker pass a barrier.
pub(super) fn condemn_with(
    flags: &Flags,
    barrier: impl FnOnce(),
    still: impl FnOnce() -> bool,
) -> bool {
    flags.word.fetch_or(CONDEMNED, SeqCst);
    barrier();
    let condemned = still();
    if !condemned {
        flags.pardon();
    }
    condemned
}
