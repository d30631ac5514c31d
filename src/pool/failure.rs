//! Failures of single calls, on their way from the worker to the user's process.
//!
//! # Shared state
//! A record is one block: next record (8 B), call (8 B), length (8 B), encoded [`FailureRecord`].
//! The slot's `failures` word leads to the newest; the chain ends with 0.
//!
//! # If a process dies
//! A record is linked by one store after it is complete. If the worker dies between that store and
//! the progress that follows, settlement finds the record and does not report the call lost as well.
#![allow(unsafe_code)] // Copies bytes into and out of blocks.

use super::slot::Slot;
use crate::error::{Step, TaskError};
use crate::prim::{AtomicU64, Relaxed};
use crate::shm::{Arena, Offset, ParticipantId};
use serde::{Deserialize, Serialize};
use std::any::Any;
use std::cell::RefCell;

const HEADER_BYTES: u64 = 24;
/// Longest message that crosses; a longer one is cut.
const MESSAGE_BYTES_MAX: usize = 1 << 16;

/// What a worker says of a failed call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum FailureRecord {
    Panic { message: String, location: String },
    Codec { step: Step, message: String },
}

impl FailureRecord {
    pub(crate) fn into_error(self) -> TaskError {
        match self {
            Self::Panic { message, location } => TaskError::panicked(message, location),
            Self::Codec { step, message } => TaskError::codec(step, message),
        }
    }
}

thread_local! {
    static LAST_PANIC: RefCell<Option<FailureRecord>> = const { RefCell::new(None) };
}

/// Has every panic of this process noted for [`of_panic`], and then reported as before.
pub(crate) fn note_panics() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        let message = text_of(info.payload());
        let location = info.location().map(ToString::to_string).unwrap_or_default();
        LAST_PANIC.with_borrow_mut(|last| *last = Some(FailureRecord::Panic { message, location }));
        report(info);
    }));
}

/// The message that `panic!` makes, literal or formatted; not all of it if it is very long.
fn text_of(payload: &dyn Any) -> String {
    let formatted = || payload.downcast_ref::<String>().map(String::as_str);
    let literal = payload.downcast_ref::<&'static str>().copied();
    let message = literal.or_else(formatted).unwrap_or("(no message)");
    let mut end = message.len().min(MESSAGE_BYTES_MAX);
    while !message.is_char_boundary(end) {
        end -= 1;
    }
    message[..end].to_owned()
}

/// The panic that was just caught in this thread, from its payload and, unless it was raised again or
/// without being reported (`resume_unwind`), from what was noted then.
#[cold]
pub(crate) fn of_panic(payload: &(dyn Any + Send)) -> FailureRecord {
    let raised = text_of(payload);
    match LAST_PANIC.with_borrow_mut(Option::take) {
        // The last one that was reported may have been another, which the task has caught itself.
        Some(FailureRecord::Panic { message, location }) if message == raised => {
            FailureRecord::Panic { message, location }
        }
        _ => FailureRecord::Panic { message: raised, location: "unknown place".into() },
    }
}

/// Links a record for `call` to the slot. Without room for it, the slot notes the call; without
/// that either, the worker ends, which also is a definite outcome.
#[cold]
pub(crate) fn publish(
    arena: &Arena,
    slot: &Slot,
    me: ParticipantId,
    call: u32,
    record: &FailureRecord,
) {
    if write(arena, slot, me, call, record).is_some() {
        return;
    }
    if slot.unrecorded.load(Relaxed) != 0 {
        std::process::abort();
    }
    slot.unrecorded.store(call + 1, Relaxed);
}

fn write(
    arena: &Arena,
    slot: &Slot,
    me: ParticipantId,
    call: u32,
    record: &FailureRecord,
) -> Option<()> {
    let encoded = postcard::to_stdvec(record).ok()?;
    let block = arena.allocate(HEADER_BYTES + encoded.len() as u64, me).ok()?;
    let words: &[AtomicU64] = arena.slice_at(Offset::new(block.offset), 3)?;
    words[0].store(slot.failures.peek(), Relaxed);
    words[1].store(u64::from(call), Relaxed);
    words[2].store(encoded.len() as u64, Relaxed);
    let to = arena.bytes_at(block.offset + HEADER_BYTES, encoded.len() as u64)?;
    // SAFETY: the block is new and ours, and has room.
    unsafe { std::ptr::copy_nonoverlapping(encoded.as_ptr(), to.as_ptr(), encoded.len()) };
    // SYNC(failure): pairs with the Acquire in `blocks`; carries the record.
    slot.failures.publish(block.offset);
    Some(())
}

/// The blocks of a slot's records, newest first.
fn blocks(arena: &Arena, slot: &Slot) -> Vec<u64> {
    // SYNC(failure): pairs with the Release in `write`.
    let mut offset = slot.failures.get().unwrap_or(0);
    let mut blocks = Vec::new();
    // No call has more than one record; the bound ends a chain that a dying process spoiled.
    while offset != 0 && blocks.len() <= slot.calls() as usize {
        blocks.push(offset);
        offset = arena.at(Offset::<AtomicU64>::new(offset)).map_or(0, |next| next.load(Relaxed));
    }
    blocks
}

/// Makes `user` the owner of the records.
pub(crate) fn hand_over(arena: &Arena, slot: &Slot, user: ParticipantId) {
    for block in blocks(arena, slot) {
        arena.set_owner(block, user);
    }
}

/// Reads the failures of a slot that the caller has claimed: call and what happened.
pub(crate) fn read(arena: &Arena, slot: &Slot) -> Vec<(u32, TaskError)> {
    let mut found = Vec::new();
    let unrecorded = slot.unrecorded.load(Relaxed);
    if unrecorded != 0 {
        let message = "it failed, and the arena had no room to say how".to_owned();
        found.push((unrecorded - 1, TaskError::codec(Step::EncodeResult, message)));
    }
    for block in blocks(arena, slot) {
        let Some([_, call, length]) = arena.slice_at(Offset::<AtomicU64>::new(block), 3) else {
            break;
        };
        let (call, length) = (call.load(Relaxed) as u32, length.load(Relaxed));
        let Some(start) = arena.bytes_at(block + HEADER_BYTES, length) else { break };
        // SAFETY: the range is inside the arena, and records do not change once linked.
        let bytes = unsafe { std::slice::from_raw_parts(start.as_ptr(), length as usize) };
        let Ok(record) = postcard::from_bytes::<FailureRecord>(bytes) else { break };
        found.push((call, record.into_error()));
    }
    found
}

/// Frees the records.
pub(crate) fn free(arena: &Arena, slot: &Slot) {
    for block in blocks(arena, slot) {
        arena.free(block);
    }
    slot.failures.set(0);
}
