//! A free slot in the hands of one thread, until it is sent or goes back to the list.

use super::inner::{Inner, Place, Tally, lock};
use crate::prim::Relaxed;
use crate::shm::fault;

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
        self.inner.area.queue(self.place.index);
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
            slot.output.store(0, Relaxed);
        }
        if self.for_submit {
            lock(&self.inner.slots).tally.submitted -= 1;
        }
        self.inner.free_slot(self.place.index, Tally::default(), None);
    }
}
