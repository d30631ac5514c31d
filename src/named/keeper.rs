//! Keeps a guardian for the sake of a name: while an arena's owner lives, there is one that removes the
//! name when it dies.
//!
//! A thread waits for the death of the guardian, and starts another. It sleeps, and needs no processor time.
//!
//! # If a process dies
//! The guardian: another one is there some milliseconds later. Both within those: if the owner has a pool,
//! that pool's guardian removes the name; if not, the next creation of any named arena does.

use crate::error::Error;
use crate::limits::ARENA_BYTES_MIN;
use crate::process::Guardian;
use crate::shm::Arena;
use crate::shm::arena::is_forked_copy;
use crate::sys;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

/// How long until it is tried again to start one, when that has failed.
const AGAIN_AFTER: Duration = Duration::from_millis(100);

/// See the module documentation.
pub(super) struct Keeper {
    ending: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl Keeper {
    /// Returns when there is a guardian.
    pub(super) fn start() -> Result<Self, Error> {
        let ending = event()?;
        let kept = Kept(Some(new_guardian()?));
        let ended = ending.clone();
        let thread = sys::thread::start("procpool-keeper", None, move || keep(kept, &ended))
            .map_err(|error| Error::os("start the thread that keeps a name", error))?;
        Ok(Self { ending, thread: Some(thread) })
    }
}

/// A guardian that ends with its keeper, also if there is no thread for that.
struct Kept(Option<Guardian>);

impl Drop for Kept {
    fn drop(&mut self) {
        self.0.take().into_iter().for_each(Guardian::end);
    }
}

/// Ends guardian and thread.
impl Drop for Keeper {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take().filter(|_| !is_forked_copy()) {
            sys::fd::signal_event(&self.ending);
            // It does not panic; and if it did, it is over.
            let _ = thread.join();
        }
    }
}

fn event() -> Result<Arc<OwnedFd>, Error> {
    sys::fd::event_counter().map(Arc::new).map_err(|error| Error::os("make an event", error))
}

/// A guardian without workers: any arena will do for it, and nobody rings its bell.
fn new_guardian() -> Result<Guardian, Error> {
    Guardian::start(&Arena::create(ARENA_BYTES_MIN)?, event()?)
}

fn keep(mut kept: Kept, ending: &OwnedFd) {
    sys::process::block_signals_in_this_thread();
    loop {
        let ready = match &kept.0 {
            Some(guardian) => sys::fd::poll(&[ending.as_fd(), guardian.pidfd()], None),
            None => sys::fd::poll(&[ending.as_fd()], Some(AGAIN_AFTER)),
        };
        match (ready.as_deref(), kept.0.take()) {
            (Ok([true, ..]), guardian) => {
                kept.0 = guardian;
                return;
            }
            (Ok([false, true]), Some(guardian)) => {
                guardian.bury();
                kept.0 = new_guardian().ok();
            }
            (_, None) => kept.0 = new_guardian().ok(),
            (_, guardian) => kept.0 = guardian,
        }
    }
}
