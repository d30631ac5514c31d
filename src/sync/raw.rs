//! [`Event`] behind the event traits of the crate `raw_sync` (feature `raw_sync`).
//!
//! `raw_sync` puts an event into memory that the caller provides. Ours lies in the arena; what goes
//! into that memory is the event's name, by which other processes of the tree open it.
//!
//! # If a process dies
//! As for [`Event`]. The memory holds nothing: the event lives while a process of the tree has it.
#![allow(unsafe_code)] // The traits hand over raw memory.

use super::event::Event;
use crate::shm::shape::ObjectId;
use raw_sync::Timeout;
use raw_sync::events::{EventImpl, EventInit, EventState};

/// What `raw_sync` returns everywhere.
type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

impl EventImpl for Event {
    /// # Errors
    /// The time was up.
    fn wait(&self, timeout: Timeout) -> Result<()> {
        match timeout {
            Timeout::Infinite => Event::wait(self),
            Timeout::Val(timeout) if self.wait_timeout(timeout) => {}
            Timeout::Val(timeout) => {
                return Err(format!("the event was not set within {timeout:?}").into());
            }
        }
        Ok(())
    }

    fn set(&self, state: EventState) -> Result<()> {
        match state {
            EventState::Clear => self.clear(),
            EventState::Signaled => Event::set(self),
        }
        Ok(())
    }
}

impl EventInit for Event {
    fn size_of(_: Option<*mut u8>) -> usize {
        ObjectId::BYTES
    }

    unsafe fn new(memory: *mut u8, auto_reset: bool) -> Result<(Box<dyn EventImpl>, usize)> {
        let event = if auto_reset { Event::automatic()? } else { Event::new()? };
        let name = event.id().to_bytes();
        // SAFETY: the caller provides as many bytes as `size_of` says.
        unsafe { memory.copy_from_nonoverlapping(name.as_ptr(), name.len()) };
        Ok((Box::new(event), name.len()))
    }

    unsafe fn from_existing(memory: *mut u8) -> Result<(Box<dyn EventImpl>, usize)> {
        let mut name = [0; ObjectId::BYTES];
        // SAFETY: the caller's memory was filled by `new`.
        unsafe { memory.copy_to_nonoverlapping(name.as_mut_ptr(), name.len()) };
        Ok((Box::new(Event::open(ObjectId::from_bytes(name))?), name.len()))
    }
}
