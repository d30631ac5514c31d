//! The way to the supervisor: one thread in the user's process that keeps every pool's workers alive.
//!
//! It starts with the first pool and ends, with the guardian, when the last one has gone. What it
//! does is in `watch.rs`; here are the requests that other threads make of it.

use super::inner::Inner;
use super::watch::Watch;
use crate::error::Error;
use crate::shm::Arena;
use crate::shm::arena::is_forked_copy;
use crate::sys;
use std::os::fd::OwnedFd;
use std::sync::mpsc;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

/// The way to the supervisor of this process.
#[derive(Debug)]
pub(crate) struct Supervisor {
    mailbox: Arc<Mailbox>,
    thread: Option<JoinHandle<()>>,
}

/// Where requests wait, and the event counter that the supervisor polls.
#[derive(Debug)]
pub(super) struct Mailbox {
    requests: Mutex<Vec<Request>>,
    pub(super) bell: OwnedFd,
}

impl Mailbox {
    /// Has the supervisor look.
    pub(super) fn ring(&self) {
        sys::fd::signal_event(&self.bell);
    }

    /// The requests since the last call.
    pub(super) fn take(&self) -> Vec<Request> {
        std::mem::take(&mut *self.requests.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// What other threads ask of the supervisor.
#[derive(Debug)]
pub(super) enum Request {
    /// Start a pool's workers.
    Add {
        inner: Arc<Inner>,
        done: mpsc::Sender<Result<(), Error>>,
    },
    /// End a pool's workers: at once, or after they had `grace` to leave by themselves.
    Remove {
        id: u64,
        grace: Duration,
        done: mpsc::Sender<Result<(), Error>>,
    },
    Quit,
}

static RUNNING: Mutex<Weak<Supervisor>> = Mutex::new(Weak::new());

impl Supervisor {
    /// The supervisor of this process, started if there is none.
    pub(crate) fn get(arena: &'static Arena) -> Result<Arc<Self>, Error> {
        let mut running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(supervisor) = running.upgrade() {
            return Ok(supervisor);
        }
        let bell = sys::fd::event_counter().map_err(|error| Error::os("make an event", error))?;
        let mailbox = Arc::new(Mailbox { requests: Mutex::default(), bell });
        let thread = std::thread::Builder::new().name("procpool-supervisor".into());
        let theirs = mailbox.clone();
        let thread = thread
            .spawn(move || Watch::new(arena, theirs).run())
            .map_err(|error| Error::os("start the supervisor thread", error))?;
        let supervisor = Arc::new(Self { mailbox, thread: Some(thread) });
        *running = Arc::downgrade(&supervisor);
        Ok(supervisor)
    }

    fn ask(&self, request: Request) {
        self.mailbox.requests.lock().unwrap_or_else(PoisonError::into_inner).push(request);
        self.mailbox.ring();
    }

    fn wait_for(answer: &mpsc::Receiver<Result<(), Error>>) -> Result<(), Error> {
        answer
            .recv()
            .unwrap_or_else(|_| Err(Error::broken("the supervisor thread has ended".into())))
    }

    /// Starts the workers of a pool.
    pub(crate) fn add(&self, inner: Arc<Inner>) -> Result<(), Error> {
        // It has none yet.
        let _ = inner.mailbox.set(self.mailbox.clone());
        let (done, answer) = mpsc::channel();
        self.ask(Request::Add { inner, done });
        Self::wait_for(&answer)
    }

    /// Ends the workers of a pool.
    pub(crate) fn remove(&self, id: u64, grace: Duration) -> Result<(), Error> {
        let (done, answer) = mpsc::channel();
        self.ask(Request::Remove { id, grace, done });
        Self::wait_for(&answer)
    }
}

impl Drop for Supervisor {
    /// The last pool has gone: ends the guardian too.
    fn drop(&mut self) {
        if is_forked_copy() {
            return;
        }
        self.ask(Request::Quit);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
