//! A task slot: one batch of calls on its way to a worker and back.
//!
//! # Shared state
//! ```text
//!   0 | state | code | context, table | calls, job+flags | input bytes | queued at | inline input ..
//! 128 | progress | output bytes | output | failures | busy | waited | inline output .. | attempts, unrecorded | carried, input's
//! ```
//! Of the four cache lines, a call of small argument and result (16 bytes each) makes only the first and the third
//! go from one core to the other. Created by the user's process with all words zero.
//!
//! # Rules
//! R1. Who may touch a slot follows from its state word (`state.rs`): the input side is written by
//!     the user's process before READY, the output side by the claimer.
//! R2. `progress` is `2 k` when calls 0 to k-1 have an outcome, `2 k + 1` while call k runs. It is
//!     stored *before* a call starts and *after* its result is written: it says which call died
//!     with its worker, and which results are whole.
//! R3. `output` leads to the block with the results; 0 means the inline bytes. `failures` leads to
//!     a chain of records, newest first. Both are published by one store of an offset.
//! R4. A worker's blocks carry its id until the batch is finished; it then makes the user's process
//!     their owner, one store each, before DONE.
//!
//! R5. What holds the objects whose handles the input carries is given up when the batch is finished, by
//!     the worker, or by settlement in its place: the tag tells whether it has been already.
//!
//! # If a process dies
//! See `settle.rs`: from `progress` it knows what has an outcome, what was lost, and what is to be
//! run again.
#![allow(unsafe_code)] // Defines memory that several processes use by these rules.

use super::state::StateWord;
use super::verdict::{Flags, Steps, is_cancelled};
use crate::limits::BATCH_CALLS_MAX;
use crate::prim::{AtomicU32, AtomicU64, Relaxed, prefetch_to_write};
use crate::shm::offset::Shared;
use crate::shm::published::Published;
use std::cell::UnsafeCell;

/// Bytes of argument that need no block.
pub(crate) const INLINE_INPUT_BYTES: usize = 80;
/// Bytes of result that need no block.
pub(crate) const INLINE_OUTPUT_BYTES: usize = 64;

/// Flag: the input lies in a block, whose offset is in the first inline bytes.
const INPUT_IN_BLOCK: u32 = 1;
/// Flag: a batch of a map. The time that its calls take is measured, and it is counted when it has ended.
const OF_MAP: u32 = 2;
/// Flag: the output block starts with a table of ends.
const OUTPUT_HAS_TABLE: u32 = 4;
// 8 and 16 are in `verdict.rs`.
/// Flag: the user's process keeps options for this batch (`Inner::options`).
const HAS_OPTIONS: u32 = 32;
/// Flag: the batch is one seat's, and waits there (`seat.rs`).
const MAILED: u32 = 64;
/// The priority, two bits: which of the rings it waits in.
const PRIORITY_SHIFT: u32 = 8;

/// One slot.
#[derive(Debug)]
#[repr(C, align(128))]
pub(crate) struct Slot {
    pub(crate) state: StateWord,
    pub(crate) code: AtomicU64,
    /// Place of the context in the pool's table, plus one; 0 for none.
    pub(crate) context: AtomicU32,
    /// Entries in the input's table of ends.
    pub(crate) table_calls: AtomicU32,
    calls: AtomicU32,
    /// Waiting place to notify in the high half, flags in the low half.
    job_and_flags: Flags,
    pub(crate) input_bytes: AtomicU64,
    /// Monotonic time at which it was queued; 0 if that is not measured.
    pub(crate) queued_ns: AtomicU64,
    inline_input: Inline<INLINE_INPUT_BYTES>,
    pub(crate) progress: Steps,
    pub(crate) output_bytes: AtomicU64,
    pub(crate) output: Published,
    pub(crate) failures: Published,
    pub(crate) busy_ns: AtomicU64,
    /// How long the batch was queued; 0 if that is not measured, or it has not begun.
    pub(crate) waited_ns: AtomicU64,
    inline_output: Inline<INLINE_OUTPUT_BYTES>,
    // Written seldom: the line of these stays where it is.
    /// How often settlement has touched the batch.
    pub(crate) attempts: AtomicU32,
    /// A call, plus one, whose failure could not be recorded because the arena was full.
    pub(crate) unrecorded: AtomicU32,
    /// First holding on the list of those that hold the shared objects to which the results carry
    /// handles; 0 for none.
    pub(crate) carried: AtomicU32,
    /// The same for the input; they carry the slot's place as their tag (R5).
    pub(crate) input_carried: AtomicU32,
}

const _: () = assert!(size_of::<Slot>() == 256);

#[derive(Debug)]
#[repr(C, align(8))]
struct Inline<const BYTES: usize>(UnsafeCell<[u8; BYTES]>);

// SAFETY: atomics, and bytes that are only reached through raw pointers by the owner (R1).
unsafe impl Shared for Slot {}
// SAFETY: as above; the state word hands the bytes from one owner to the next.
unsafe impl<const BYTES: usize> Sync for Inline<BYTES> {}

/// How a batch is to be run.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Routing {
    pub(crate) job: u16,
    pub(crate) of_map: bool,
    pub(crate) output_has_table: bool,
    pub(crate) has_options: bool,
    pub(crate) mailed: bool,
    /// 0 is the highest.
    pub(crate) priority: usize,
}

impl Slot {
    /// Makes every word zero.
    pub(crate) fn reset(&self) {
        self.state.reset();
        self.clear_output();
        self.queued_ns.store(0, Relaxed);
        self.input_carried.store(0, Relaxed);
    }

    /// Fetches the lines that a call of small argument and result writes.
    #[inline]
    pub(crate) fn prefetch(&self) {
        prefetch_to_write(&self.state);
        prefetch_to_write(&self.progress);
    }

    /// Whether a call has failed in its worker.
    #[inline]
    pub(crate) fn has_failures(&self) -> bool {
        self.failures.peek() != 0 || self.unrecorded.load(Relaxed) != 0
    }

    /// Prepares the output side for a new batch.
    pub(crate) fn clear_output(&self) {
        self.progress.reset();
        self.output_bytes.store(0, Relaxed);
        self.output.set(0);
        self.failures.set(0);
        self.busy_ns.store(0, Relaxed);
        self.attempts.store(0, Relaxed);
        self.unrecorded.store(0, Relaxed);
        self.carried.store(0, Relaxed);
        self.waited_ns.store(0, Relaxed);
    }

    pub(crate) fn inline_input(&self) -> *mut u8 {
        self.inline_input.0.get().cast()
    }

    pub(crate) fn inline_output(&self) -> *mut u8 {
        self.inline_output.0.get().cast()
    }

    /// Says where the input is: a block, or inline. By the owner of a free slot.
    pub(crate) fn set_input(&self, block: Option<u64>, bytes: u64, routing: Routing) {
        let mut flags = u32::from(routing.job) << 16 | (routing.priority as u32) << PRIORITY_SHIFT;
        let wanted = [
            (routing.of_map, OF_MAP),
            (routing.output_has_table, OUTPUT_HAS_TABLE),
            (routing.has_options, HAS_OPTIONS),
            (routing.mailed, MAILED),
        ];
        wanted.iter().filter(|(wanted, _)| *wanted).for_each(|(_, flag)| flags |= flag);
        if let Some(offset) = block {
            flags |= INPUT_IN_BLOCK;
            // SAFETY: R1: the slot is free and ours; the inline bytes are 8-aligned.
            unsafe { self.inline_input().cast::<u64>().write(offset) };
        }
        self.job_and_flags.set(flags);
        self.input_bytes.store(bytes, Relaxed);
    }

    /// The block of the input, if it is in one. By whoever may read the slot.
    pub(crate) fn input_block(&self) -> Option<u64> {
        let in_block = self.job_and_flags.has(INPUT_IN_BLOCK);
        // SAFETY: R1: nobody writes the input side outside FREE; the bytes are 8-aligned.
        in_block.then(|| unsafe { self.inline_input().cast::<u64>().read() })
    }

    pub(crate) fn job(&self) -> usize {
        (self.job_and_flags.get() >> 16) as usize
    }

    #[inline]
    pub(crate) fn job_and_whether_cancelled(&self) -> (usize, bool) {
        let word = self.job_and_flags.get();
        ((word >> 16) as usize, is_cancelled(word))
    }

    fn has(&self, flag: u32) -> bool {
        self.job_and_flags.has(flag)
    }

    #[inline]
    pub(crate) fn is_of_map(&self) -> bool {
        self.has(OF_MAP)
    }

    #[inline]
    pub(crate) fn has_options(&self) -> bool {
        self.has(HAS_OPTIONS)
    }

    pub(crate) fn is_mailed(&self) -> bool {
        self.has(MAILED)
    }

    /// Which ring it waits in.
    #[inline]
    pub(crate) fn priority(&self) -> usize {
        (self.job_and_flags.get() >> PRIORITY_SHIFT & 3) as usize
    }

    /// The flags, also those that change while the batch runs.
    #[inline]
    pub(crate) fn flags(&self) -> &Flags {
        &self.job_and_flags
    }

    /// Asks whoever runs the batch, or will, to leave it at the calls that have started.
    pub(crate) fn cancel(&self) {
        self.flags().cancel();
    }

    #[inline]
    pub(crate) fn is_cancelled(&self) -> bool {
        self.flags().is_cancelled()
    }

    /// How many calls the batch has. Bounded, whatever stands there: it is gone through one by one.
    #[inline]
    pub(crate) fn calls(&self) -> u32 {
        self.calls.load(Relaxed).min(BATCH_CALLS_MAX as u32)
    }

    /// Says how many calls the batch has. By the owner of a free slot.
    #[inline]
    pub(crate) fn set_calls(&self, calls: usize) {
        self.calls.store(calls as u32, Relaxed);
    }

    /// Whether calls have no outcome that somebody wants.
    pub(crate) fn is_unfinished(&self) -> bool {
        let done = self.progress.done() as u32;
        done < self.calls() && !self.is_cancelled()
    }

    pub(crate) fn output_has_table(&self) -> bool {
        self.has(OUTPUT_HAS_TABLE)
    }

    /// The block of the output, if it is in one.
    pub(crate) fn output_block(&self) -> Option<u64> {
        // SYNC(output-block): pairs with the Release in `ArenaWriter::grow`.
        self.output.get()
    }
}
