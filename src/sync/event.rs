//! Something that happens, and that any number of threads of any processes may wait for.

use super::crossing::crossing;
use super::handle::{Handle, Parts};
use super::settle::Kind;
use super::state::Deadline;
use super::state::event::EventState;
use crate::error::Error;
use std::fmt;
use std::time::Duration;

/// An event, which is set or not, and can be waited for.
///
/// A **manual** event releases everybody who waits when it is set, and stays set until it is cleared.
/// Setting releases all waits that had begun, even if it is cleared at once. An **automatic** one
/// releases the thread that has waited longest, or the next that comes, and is clear again.
///
/// # If a process dies
/// While it waits: nothing happens. If it had just been released by an automatic event and not run
/// yet, the next one is released instead.
///
/// # Examples
/// ```
/// use procpool::{Pool, sync::Event};
/// use std::time::Duration;
///
/// let event = Event::new()?;
/// let pool = Pool::builder().workers(1).build()?;
/// let waiting = pool.submit(|event: Event| event.wait_timeout(Duration::from_secs(60)), event.clone())?;
/// event.set();
/// assert!(waiting.join()?);
/// # Ok::<(), procpool::Error>(())
/// ```
pub struct Event {
    handle: Handle<EventState>,
}

const PARTS: Parts = Parts::of(Kind::Event);

crossing!(Event, PARTS);

impl Event {
    /// Makes a manual event, not set.
    ///
    /// # Errors
    /// The arena is full, or cannot be made.
    pub fn new() -> Result<Self, Error> {
        Self::of(false)
    }

    /// Makes an automatic event, not set: each `set` releases one thread.
    ///
    /// # Errors
    /// The arena is full, or cannot be made.
    pub fn automatic() -> Result<Self, Error> {
        Self::of(true)
    }

    /// Its name, and the event of a name.
    #[cfg(feature = "raw_sync")]
    pub(super) fn id(&self) -> crate::shm::shape::ObjectId {
        self.handle.caller().id()
    }

    #[cfg(feature = "raw_sync")]
    pub(super) fn open(id: crate::shm::shape::ObjectId) -> Result<Self, Error> {
        Ok(Self { handle: Handle::open(id, &PARTS)? })
    }

    fn of(automatic: bool) -> Result<Self, Error> {
        let fill = |state: &EventState| state.initialise(automatic);
        Ok(Self { handle: Handle::create(&PARTS, None, fill)? })
    }

    /// Sets the event. What was done before is visible to whoever is released.
    pub fn set(&self) {
        self.handle.state().set(self.handle.caller());
    }

    /// Makes the event not set.
    pub fn clear(&self) {
        self.handle.state().clear(self.handle.caller());
    }

    /// Returns whether the event is set.
    #[inline]
    #[must_use]
    pub fn is_set(&self) -> bool {
        self.handle.state().is_set()
    }

    /// Returns whether setting it releases one thread and not all.
    #[must_use]
    pub fn is_automatic(&self) -> bool {
        self.handle.state().is_automatic()
    }

    /// How many threads wait at this moment.
    #[must_use]
    pub fn waiting(&self) -> u32 {
        self.handle.state().waiting()
    }

    /// Waits until the event is set; an automatic one is then clear again.
    #[inline]
    pub fn wait(&self) {
        self.handle.state().wait(self.handle.caller(), Deadline::Never);
    }

    /// Waits for at most `timeout`; `true` if the event was set.
    pub fn wait_timeout(&self, timeout: Duration) -> bool {
        self.handle.state().wait(self.handle.caller(), Deadline::after(timeout))
    }
}

impl fmt::Debug for Event {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Event")
            .field("object", &self.handle)
            .field("set", &self.is_set())
            .field("automatic", &self.is_automatic())
            .finish()
    }
}
