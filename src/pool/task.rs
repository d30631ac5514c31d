//! Running a batch: what a worker does for each call.
//!
//! # Rules
//! R1. For each call: progress `2 k + 1`, decode, run, encode, progress `2 k + 2` (see `slot.rs`).
//! R2. A panic anywhere in that, and an argument or result that cannot cross, is the failure of that
//!     call only: a record is published, then progress moves on.
//! R3. What was written of a result before its failure is cut off.
//! R4. A worker that may run only so many more calls stops there, and one that has become too old, or has too
//!     much memory, after the call in which it did; the rest is another's.
//! R5. A worker that the slot says is condemned goes no further. It looks there after the progress of one
//!     call and before the next step; the supervisor's barrier orders the two (`verdict.rs`).
#![allow(unsafe_code)] // Makes zero-sized functions; reads and writes the claimed slot.

use super::area::Area;
use super::context::ContextCache;
use super::failure::{self, FailureRecord};
use super::recycle::Life;
use super::slot::{INLINE_OUTPUT_BYTES, Slot};
use super::startup::WorkerState;
use crate::codec::{self, ArenaWriter, EncodeError, Shape, Stream, shape_of};
use crate::error::{Error, Step, crossing};
use crate::prim::{Acquire, Relaxed, Release};
use crate::shm::{Arena, Block, ParticipantId, fault};
use crate::sync::crossing::{Carried, send_along};
use serde::{Serialize, de::DeserializeOwned};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::NonNull;
use std::time::Duration;

/// How often a worker that waits for its verdict looks: it comes within microseconds, and rarely.
const VERDICT_LOOK: Duration = Duration::from_micros(200);

/// A claimed slot and what a worker needs to run it.
#[derive(Debug)]
pub(crate) struct Invocation<'a> {
    pub(crate) area: &'a Area,
    pub(crate) slot: &'a Slot,
    pub(crate) me: ParticipantId,
    /// Whose the results are once they are finished.
    pub(crate) user: ParticipantId,
    pub(crate) contexts: &'a mut ContextCache,
    /// How many calls this worker may still run, and how long: a batch with more is left unfinished.
    pub(crate) life: &'a Life,
    pub(crate) state: &'a mut WorkerState,
}

/// Where results go.
#[derive(Debug)]
enum Output<'a> {
    /// Plain results of several calls: each has its place.
    Places { start: NonNull<u8>, bytes: usize },
    /// Everything else is appended; with a table of ends if there are several calls.
    Appended(ArenaWriter<'a>),
}

/// A batch in the hands of the worker that has claimed its slot.
#[derive(Debug)]
pub(super) struct Batch<'a, A, R> {
    slot: &'a Slot,
    area: &'a Area,
    me: ParticipantId,
    user: ParticipantId,
    input: Option<Stream<'a, A>>,
    output: Output<'a>,
    /// Where this worker began.
    first: usize,
    next: usize,
    /// Where it stops: R4.
    stop: usize,
    calls: usize,
    life: &'a Life,
    /// Where the running call's result starts.
    mark: usize,
    results: std::marker::PhantomData<fn() -> R>,
}

impl<'a, A, R> Batch<'a, A, R>
where
    A: DeserializeOwned + 'static,
    R: Serialize + DeserializeOwned + 'static,
{
    pub(super) fn open(invocation: &mut Invocation<'a>) -> Self {
        let Invocation { area, slot, me, user, life, .. } = *invocation;
        let arena = area.arena;
        let calls = slot.calls() as usize;
        let next = slot.progress.done() as usize;
        let offset = slot.input_block().unwrap_or_else(|| arena.offset_of(slot.inline_input()));
        let table_calls = slot.table_calls.load(Relaxed) as usize;
        // SAFETY: slot rule R1: nobody writes the input side while we hold the claim.
        let input =
            unsafe { Stream::at(arena, offset, slot.input_bytes.load(Relaxed), table_calls) };
        let output = Self::open_output(area, slot, me, calls, next);
        let mark = match &output {
            Output::Places { .. } => 0,
            Output::Appended(writer) => writer.length(),
        };
        let results = std::marker::PhantomData;
        let left = usize::try_from(life.calls_left.get()).unwrap_or(usize::MAX);
        let (first, stop) = (next, calls.min(next.saturating_add(left)));
        Self { slot, area, me, user, input, output, first, next, stop, calls, life, mark, results }
    }

    fn open_output(
        area: &'a Area,
        slot: &'a Slot,
        me: ParticipantId,
        calls: usize,
        next: usize,
    ) -> Output<'a> {
        let arena = area.arena;
        let block = slot.output_block();
        let block = block.map(|offset| Block { offset, bytes: slot.output_bytes.load(Relaxed) });
        if calls > 1 && shape_of::<R>() == Shape::Plain {
            let bytes = calls * size_of::<R>();
            let start = block.and_then(|block| arena.bytes_at(block.offset, bytes as u64));
            return match start {
                Some(start) => Output::Places { start, bytes },
                None => Output::Places { start: NonNull::dangling(), bytes: 0 },
            };
        }
        let writer = match block {
            Some(Block { offset, .. }) => {
                let bytes = arena.block_bytes(offset);
                let length = resume_length(area, offset, calls, next);
                ArenaWriter::resume(arena, me, Block { offset, bytes }, length)
            }
            None => {
                let start = NonNull::new(slot.inline_output()).unwrap_or(NonNull::dangling());
                // SAFETY: slot rule R1: the output side is ours while we hold the claim.
                unsafe { ArenaWriter::over(arena, me, start, INLINE_OUTPUT_BYTES) }
            }
        };
        Output::Appended(writer.publish_in(&slot.output))
    }

    pub(super) fn run(mut self, mut function: impl FnMut(A) -> R) {
        while self.next < self.stop {
            let ran = catch_unwind(AssertUnwindSafe(|| self.run_calls(&mut function)));
            if let Err(panic) = ran {
                self.fail(&failure::of_panic(&*panic));
            }
        }
        self.close();
    }

    /// Runs calls until all that this worker may run have an outcome, or one panics.
    #[inline]
    fn run_calls(&mut self, function: &mut impl FnMut(A) -> R) {
        let is_bounded = self.life.is_bounded();
        while self.next < self.stop {
            if self.slot.flags().is_held_up() {
                self.await_verdict();
                if self.slot.is_cancelled() {
                    self.stop = self.next;
                    return;
                }
            }
            let next = self.next;
            self.slot.progress.begin(next as u64);
            fault::point("worker.call-started");
            let argument = match &self.input {
                Some(input) => input.value(next),
                None => Err("its bytes are not inside the arena".into()),
            };
            fault::point("worker.argument-decoded");
            let outcome = match argument {
                Ok(argument) => {
                    let result = function(argument);
                    fault::point("worker.call-returned");
                    self.put(next, &result)
                }
                Err(message) => Err(FailureRecord::codec::<A>(Step::DecodeArgument, message)),
            };
            fault::point("worker.result-encoded");
            match outcome {
                Ok(()) => self.done(),
                Err(record) => self.fail(&record),
            }
            fault::point("worker.call-done");
            // R4. One at least, so that a batch comes to its end however old they all are.
            if is_bounded && self.life.is_over() {
                self.stop = self.next;
            }
        }
    }

    #[inline]
    fn put(&mut self, next: usize, result: &R) -> Result<(), FailureRecord> {
        match &mut self.output {
            Output::Places { start, bytes } => {
                let place = next * size_of::<R>();
                if place + size_of::<R>() > *bytes {
                    return Err(FailureRecord::codec::<R>(
                        Step::EncodeResult,
                        "its place is not inside the arena".into(),
                    ));
                }
                // SAFETY: the place is inside our output block, and R is plain: copying its bytes
                // (padding included) is what reading it back undoes.
                unsafe {
                    let from = std::ptr::from_ref(result).cast::<u8>();
                    std::ptr::copy_nonoverlapping(from, start.as_ptr().add(place), size_of::<R>());
                }
                Ok(())
            }
            Output::Appended(writer) => {
                let mut carried = Vec::new();
                let appended = append(writer, self.calls, next, result, &mut carried);
                appended.and_then(|()| self.send_along(&carried)).map_err(|error| {
                    FailureRecord::codec::<R>(Step::EncodeResult, error.to_string())
                })
            }
        }
    }

    /// Has the results hold the shared objects to which they carry handles.
    #[inline]
    fn send_along(&self, carried: &[Carried]) -> Result<(), EncodeError> {
        if carried.is_empty() {
            return Ok(());
        }
        let word = &self.slot.carried;
        let first = send_along(carried, word.load(Relaxed), 0).map_err(EncodeError::Arena)?;
        word.store(first, Release);
        fault::point("objects.carried");
        Ok(())
    }

    /// The running call has an outcome.
    #[inline]
    fn done(&mut self) {
        if let Output::Appended(writer) = &mut self.output {
            self.mark = writer.length();
            if self.calls > 1 && self.mark > 0 {
                writer.put_u64(self.next * 8, self.mark as u64);
            }
            self.slot.output_bytes.store(self.mark as u64, Relaxed);
        }
        // R5: the flags are looked at next.
        self.slot.progress.end(self.next as u64);
        self.next += 1;
    }

    /// Waits until the supervisor has decided whether the call that has just ended was in time; if it was
    /// not, this process is killed here (R5).
    #[cold]
    fn await_verdict(&self) {
        while self.slot.flags().is_condemned() {
            std::thread::sleep(VERDICT_LOOK);
        }
    }

    /// The running call has failed (R2, R3).
    #[cold]
    fn fail(&mut self, record: &FailureRecord) {
        if let Output::Appended(writer) = &mut self.output {
            writer.truncate(self.mark);
            // The table is missing if no call before this one had a result. If the arena has no room
            // for it now, the next result makes it.
            let missing = self.calls > 1 && writer.length() == 0;
            if missing && make_table(writer, self.calls, self.next).is_ok() {
                self.mark = writer.length();
            }
        }
        failure::publish(self.area.arena, self.slot, self.me, self.next as u32, record);
        fault::point("worker.failure-recorded");
        self.done();
    }

    pub(super) fn fail_all(mut self, record: &FailureRecord) {
        while self.next < self.calls {
            self.await_verdict();
            self.fail(record);
        }
        self.close();
    }

    /// Hands the blocks over (slot rule R4).
    fn close(self) {
        self.await_verdict();
        let arena = self.area.arena;
        if let Some(block) = self.slot.output_block() {
            arena.set_owner(block, self.user);
        }
        failure::hand_over(arena, self.slot, self.user);
        hand_over_carried(arena, self.slot, self.user);
        if self.next == self.calls {
            give_up_input(arena, self.slot);
        }
        let ran = (self.next - self.first) as u64;
        self.life.ran(ran);
        let ledger = &arena.participant(self.me).ledger;
        ledger.calls.store(ledger.calls.load(Relaxed) + ran, Relaxed);
        fault::point("worker.blocks-handed-over");
    }
}

/// Where appending goes on in a block that an earlier claimer, or nobody yet, has written to.
fn resume_length(area: &Area, offset: u64, calls: usize, next: usize) -> u64 {
    if next == 0 || calls <= 1 {
        return 0;
    }
    let end = crate::shm::Offset::<crate::prim::AtomicU64>::new(offset + (next as u64 - 1) * 8);
    area.arena.at(end).map_or(0, |end| end.load(Relaxed))
}

#[inline]
fn append<R: Serialize + 'static>(
    writer: &mut ArenaWriter<'_>,
    calls: usize,
    next: usize,
    result: &R,
    carried: &mut Vec<Carried>,
) -> Result<(), EncodeError> {
    if calls > 1 && writer.length() == 0 {
        make_table(writer, calls, next)?;
    }
    codec::encode(result, writer, carried)
}

/// Makes room for the ends; the calls before `next` have no results.
fn make_table(writer: &mut ArenaWriter<'_>, calls: usize, next: usize) -> Result<(), EncodeError> {
    writer.skip(calls * 8)?;
    (0..next).for_each(|index| writer.put_u64(index * 8, calls as u64 * 8));
    Ok(())
}

/// Makes `user` answer for the objects that the results of a slot hold.
pub(crate) fn hand_over_carried(arena: &Arena, slot: &Slot, user: ParticipantId) {
    let first = slot.carried.load(Relaxed);
    if first != 0 {
        arena.lock_objects().hand_over(first, user);
    }
}

/// Has the input of a slot hold the objects to which it carries handles.
#[inline]
pub(crate) fn carry_input(arena: &Arena, slot: &Slot, carried: &[Carried]) -> Result<(), Error> {
    if !carried.is_empty() {
        let tag = arena.offset_of(std::ptr::from_ref(slot).cast());
        slot.input_carried.store(send_along(carried, 0, tag)?, Release);
    }
    Ok(())
}

/// Gives up what the input of a slot holds (slot rule R5).
#[inline]
pub(crate) fn give_up_input(arena: &Arena, slot: &Slot) {
    let first = slot.input_carried.load(Acquire);
    if first != 0 {
        let tag = arena.offset_of(std::ptr::from_ref(slot).cast());
        arena.lock_objects().give_up_tagged(first, tag);
        slot.input_carried.store(0, Release);
    }
}

impl FailureRecord {
    #[cold]
    pub(crate) fn codec<T>(step: Step, message: String) -> Self {
        Self::Codec { step, message: crossing::<T>(message) }
    }
}
