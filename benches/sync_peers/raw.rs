//! `raw_sync`: the crate that Rust programs use for locks and events in shared memory.
//!
//! Its mutex is the C library's without robustness: it stays locked if its holder dies.
#![allow(unsafe_code)] // Its functions take pointers.

use raw_sync::events::{Event, EventImpl, EventInit};
use raw_sync::locks::{LockImpl, LockInit, Mutex};
use std::cell::UnsafeCell;

/// Room for one object, and a number behind it.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Room {
    object: UnsafeCell<[u64; 24]>,
    value: UnsafeCell<u64>,
}

// SAFETY: the objects are made for use by many threads, and the value is used under a mutex.
unsafe impl Sync for Room {}

impl Room {
    fn start(&self) -> *mut u8 {
        self.object.get().cast()
    }

    /// Makes a mutex around the number.
    pub(crate) fn new_mutex(&mut self) -> Box<dyn LockImpl + '_> {
        assert!(Mutex::size_of(None) <= size_of_val(&self.object), "room for a mutex");
        // SAFETY: there is room, borrowed as long as the mutex lives.
        let made = unsafe { Mutex::new(self.start(), self.value.get().cast()) };
        made.expect("a mutex").0
    }

    /// Makes an event that is clear again when it has released one thread. No other process may use
    /// the room yet.
    pub(crate) fn new_event(&mut self) {
        assert!(Event::size_of(None) <= size_of_val(&self.object), "room for an event");
        // SAFETY: there is room, borrowed for this alone.
        unsafe { Event::new(self.start(), true) }.expect("an event");
    }

    /// The event that was made here, maybe by another process.
    pub(crate) fn event(&self) -> Box<dyn EventImpl + '_> {
        // SAFETY: it was made before the other process was told to begin.
        unsafe { Event::from_existing(self.start()) }.expect("an event").0
    }
}

/// Locks, adds one to the room's number and unlocks.
#[inline]
pub(crate) fn add_one(mutex: &(dyn LockImpl + '_)) {
    let held = mutex.lock().expect("the lock");
    // SAFETY: the pointer leads to the room's number, which is used with the lock held.
    unsafe { *held.cast::<u64>() += 1 };
}
