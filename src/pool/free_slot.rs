//! A free slot in the hands of one thread, until it is sent or goes back to the list; and what was sent in it.

use super::inner::{Inner, Place, Tally, lock};
use super::trampolines;
use crate::prim::{AtomicU32, AtomicU64, Relaxed};
use crate::process::identity::CodeOffset;
use crate::shm::fault;

/// What was sent in a slot, in this process's own memory: what stands in the slot, a worker that runs wild may
/// have changed, and this process calls the code to learn the function's name.
#[derive(Debug, Default)]
pub(super) struct Sent {
    code: AtomicU64,
    calls: AtomicU32,
}

impl Inner {
    /// Says what a batch runs, and how often. By the owner of a free slot.
    #[inline]
    pub(super) fn set_sent(&self, index: u32, code: CodeOffset, calls: usize) {
        let (slot, sent) = (self.slot(index), &self.sent[index as usize]);
        slot.code.store(code.to_raw(), Relaxed);
        slot.set_calls(calls);
        sent.code.store(code.to_raw(), Relaxed);
        sent.calls.store(calls as u32, Relaxed);
    }

    /// How many calls the batch in a slot has.
    #[inline]
    pub(super) fn calls_of(&self, index: u32) -> u32 {
        self.sent[index as usize].calls.load(Relaxed)
    }

    #[inline]
    pub(super) fn code_of(&self, index: u32) -> CodeOffset {
        CodeOffset::from_raw(self.sent[index as usize].code.load(Relaxed))
    }

    /// What the function of a slot is called.
    #[cold]
    pub(super) fn function_of(&self, index: u32) -> &'static str {
        trampolines::name_of(self.code_of(index))
    }
}

/// A free slot in the hands of one thread; goes back to the list unless it is sent.
#[derive(Debug)]
pub(crate) struct FreeSlot<'a> {
    pub(super) inner: &'a Inner,
    pub(crate) place: Place,
    pub(super) for_submit: bool,
    pub(super) sent: bool,
}

impl FreeSlot<'_> {
    /// The slot is filled: makes it READY and queues it.
    #[inline]
    pub(crate) fn send(mut self) -> Place {
        self.sent = true;
        self.inner.slot(self.place.index).state.publish();
        fault::point("main.slot-filled");
        self.inner.queue(self.place.index);
        self.inner.grow_on_demand();
        self.place
    }
}

impl FreeSlot<'_> {
    /// The slot is filled, for one seat: makes it READY and leaves it there.
    pub(super) fn mail(mut self) -> Place {
        self.sent = true;
        self.inner.slot(self.place.index).state.publish();
        self.inner.area.mail(self.place.index);
        self.place
    }
}

impl Drop for FreeSlot<'_> {
    fn drop(&mut self) {
        if self.sent {
            return;
        }
        let slot = self.inner.slot(self.place.index);
        if let Some(block) = slot.output_block() {
            self.inner.area.arena.free(block);
            slot.output.set(0);
        }
        if self.for_submit {
            lock(&self.inner.slots).tally.submitted -= 1;
        }
        self.inner.free_slot(self.place.index, Tally::default(), None);
    }
}
