//! A lock around a part of a collection: one writes at a time, and reading takes no lock.
//!
//! # Shared state
//! In each stripe: a robust mutex; `version`, odd while somebody changes the stripe; `changing`, the
//! participant that does; and the memory of its entries (`heap.rs`).
//!
//! # Rules
//! R1. Whatever belongs to the stripe changes under the mutex, while `version` is odd and `changing`
//!     names the process.
//! R2. Each change is committed by one store. Counts and lists of free memory are caches, which the
//!     next one to lock makes anew if the last one died.
//! R3. A reader looks at the version, reads, and looks again: if it is the same and even, it has read
//!     one state. What it reads meanwhile may be anything, so it checks every offset and length, and
//!     reads atomic words (`shm/words.rs`). One that takes the mutex leaves the version alone, so that
//!     readers do not disturb each other.
//! R4. Nothing waits, and no code of the user runs, while the mutex is held: values are encoded before
//!     and decoded after.
//! R5. Order of locks: a stripe's, then the objects', then the allocator's.
//!
//! # Orderings
//! Those of `sync/state/version.rs`, which has the version, and its models.
//!
//! # If a process dies
//! While it changes a stripe: the kernel tells the next one to lock, which repairs (R2) before it does
//! anything else, and makes the version another odd one, because the dead one's change may have
//! happened; readers find it odd and lock. What the dead one had added or was about to
//! remove is found by what is reachable (`shm/keeper.rs`): `changing` says where to look, and stays
//! until the repair is done.
//!
//! # Fairness
//! None among writers. A reader that was disturbed a few times takes the mutex.

use super::heap::Heap;
use crate::prim::{Acquire, AtomicU32, Release, spin_hint};
use crate::shm::{Arena, ParticipantId, fault};
use crate::sync::handle::own_participant;
use crate::sync::state::version::Version;
use crate::sys::robust::{Locked, RobustMutex};

/// How often a reader begins again before it takes the mutex.
const TRIES: usize = 16;

/// See the module documentation; all zero at first, but for the mutex.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Stripe {
    lock: RobustMutex,
    version: Version,
    changing: AtomicU32,
    pub(crate) heap: Heap,
}

/// The stripe, locked and being changed. Dropping it ends the change.
#[derive(Debug)]
pub(crate) struct Changing<'a> {
    pub(super) stripe: &'a Stripe,
    pub(crate) arena: &'a Arena,
}

impl Stripe {
    /// Makes the mutex usable.
    ///
    /// # Safety
    /// Nobody else uses the stripe yet.
    #[allow(unsafe_code)] // Passes the promise on.
    pub(crate) unsafe fn initialise(&self) {
        // SAFETY: the caller's promise.
        unsafe { self.lock.initialise() };
    }

    /// Locks the stripe for a change. If the last one died in the middle of its own, `repair` is called
    /// first.
    pub(crate) fn change<'a>(
        &'a self,
        arena: &'a Arena,
        repair: impl FnOnce(&Changing<'_>),
    ) -> Changing<'a> {
        let me = own_participant();
        self.begin(me, self.lock.lock_eagerly(), arena, repair)
    }

    /// Begins a change of the stripe, which was just locked.
    fn begin<'a>(
        &'a self,
        me: u32,
        locked: Locked,
        arena: &'a Arena,
        repair: impl FnOnce(&Changing<'_>),
    ) -> Changing<'a> {
        // Whoever died in the middle may have changed something.
        self.version.begin();
        let changing = Changing { stripe: self, arena };
        if locked == Locked::OwnerDied {
            repair(&changing);
            fault::point("stripe.repaired");
        }
        self.changing.store(me, Release);
        fault::point("stripe.locked");
        changing
    }

    /// Reads one state of the stripe (R3): `look` may be called several times, and returns `None` for
    /// what makes no sense.
    #[inline]
    pub(crate) fn read<R>(
        &self,
        arena: &Arena,
        repair: impl FnOnce(&Changing<'_>),
        mut look: impl FnMut(&dyn Fn() -> bool) -> Option<R>,
    ) -> Option<R> {
        for _ in 0..TRIES {
            if let Some(version) = self.version.read() {
                let is_same = || self.version.is_still(version);
                let found = look(&is_same);
                if is_same() {
                    return found;
                }
            }
            spin_hint();
        }
        let me = own_participant();
        match self.lock.lock_eagerly() {
            Locked::OwnerDied => {
                let changing = self.begin(me, Locked::OwnerDied, arena, repair);
                let found = look(&|| true);
                drop(changing);
                found
            }
            _ => {
                let found = look(&|| true);
                self.lock.unlock();
                found
            }
        }
    }

    /// The mutex, for a test that scribbles elsewhere.
    #[cfg(test)]
    pub(crate) fn mutex(&self) -> &RobustMutex {
        &self.lock
    }

    /// Changes with every change.
    pub(super) fn version(&self) -> u64 {
        self.version.now()
    }

    /// Whether `participant` may have been changing the stripe when it died.
    pub(crate) fn is_changed_by(&self, participant: Option<ParticipantId>) -> bool {
        participant.is_none_or(|id| u64::from(self.changing.load(Acquire)) == id.to_raw())
    }
}

impl Drop for Changing<'_> {
    #[inline]
    fn drop(&mut self) {
        fault::point("stripe.unlocking");
        self.stripe.changing.store(0, Release);
        self.stripe.version.end();
        self.stripe.lock.unlock();
    }
}
