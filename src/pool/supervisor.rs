//! The way to the supervisor: one thread in the user's process that keeps every pool's workers alive.
//!
//! It starts with the first pool and ends, with the guardian, when the last one has gone. What it
//! does is in `watch.rs`; here are the requests that other threads make of it.

use super::deadlines::Abort;
use super::inner::{Inner, Place, lock};
use super::leaving::Grace;
use super::watch::Watch;
use crate::error::Error;
use crate::prim::Mutex;
use crate::shm::Arena;
use crate::shm::arena::is_forked_copy;
use crate::sys;
use std::cell::Cell;
use std::os::fd::OwnedFd;
use std::sync::mpsc;
use std::sync::{Arc, PoisonError, Weak};
use std::thread::JoinHandle;

/// The way to the supervisor of this process.
#[derive(Debug)]
pub(crate) struct Supervisor {
    mailbox: Arc<Mailbox>,
    thread: Option<JoinHandle<()>>,
}

/// Where requests wait, and the event counter that the supervisor polls.
#[derive(Debug)]
pub(super) struct Mailbox {
    /// None once nobody will serve them.
    requests: Mutex<Option<Vec<Request>>>,
    pub(super) bell: OwnedFd,
}

impl Mailbox {
    /// Has the supervisor look.
    pub(super) fn ring(&self) {
        sys::fd::signal_event(&self.bell);
    }

    fn ask(&self, request: Request) {
        match &mut *lock(&self.requests) {
            Some(requests) => requests.push(request),
            // Whoever waits for the answer sees that there will be none.
            None => return,
        }
        self.ring();
    }

    /// Refuses requests from now on, and drops those that nobody has served.
    pub(super) fn shut(&self) {
        let unserved = lock(&self.requests).take();
        drop(unserved);
    }

    fn is_shut(&self) -> bool {
        lock(&self.requests).is_none()
    }

    /// The requests since the last call.
    pub(super) fn take(&self) -> Vec<Request> {
        lock(&self.requests).as_mut().map(std::mem::take).unwrap_or_default()
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
        grace: Grace,
        done: mpsc::Sender<Result<(), Error>>,
    },
    /// End a task, queued or running; whether that came in time.
    Abort(Abort),
    /// Change the number of a pool's workers.
    Resize {
        pool: u64,
        workers: usize,
        done: mpsc::Sender<Result<(), Error>>,
    },
    Quit,
}

impl Inner {
    /// Ends a task that runs; `false` if it has ended.
    pub(super) fn abort(&self, place: Place) -> bool {
        let Some(mailbox) = self.mailbox.get().filter(|_| !self.has_ended(place)) else {
            return false;
        };
        let (done, answer) = mpsc::channel();
        mailbox.ask(Request::Abort(Abort { pool: self.id, place, done }));
        if is_supervisor() {
            return false;
        }
        // If nobody answers, the pool has gone, and the task has ended with it.
        answer.recv().unwrap_or(false)
    }
}

thread_local! {
    static IS_SUPERVISOR: Cell<bool> = const { Cell::new(false) };
}

/// Whether this is a supervisor's own thread, in which wakers of the user's run: it cannot wait for itself.
fn is_supervisor() -> bool {
    IS_SUPERVISOR.with(Cell::get)
}

static RUNNING: Mutex<Weak<Supervisor>> = Mutex::new(Weak::new());

impl Supervisor {
    /// The supervisor of this process, started if there is none.
    pub(crate) fn get(arena: &'static Arena) -> Result<Arc<Self>, Error> {
        let mut running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
        // One whose thread has panicked serves nobody; its pools say so.
        if let Some(supervisor) = running.upgrade().filter(|running| !running.mailbox.is_shut()) {
            return Ok(supervisor);
        }
        let bell = sys::fd::event_counter().map_err(|error| Error::os("make an event", error))?;
        let mailbox = Arc::new(Mailbox { requests: Mutex::new(Some(Vec::new())), bell });
        let theirs = mailbox.clone();
        let run = move || {
            IS_SUPERVISOR.with(|is| is.set(true));
            Watch::new(arena, theirs).run();
        };
        let thread = sys::thread::start("procpool-supervisor", None, run)
            .map_err(|error| Error::os("start the supervisor thread", error))?;
        let supervisor = Arc::new(Self { mailbox, thread: Some(thread) });
        *running = Arc::downgrade(&supervisor);
        Ok(supervisor)
    }

    pub(super) fn ask(&self, request: Request) {
        self.mailbox.ask(request);
    }

    fn wait_for(answer: &mpsc::Receiver<Result<(), Error>>) -> Result<(), Error> {
        answer
            .recv()
            .unwrap_or_else(|_| Err(Error::broken("the supervisor thread has ended".into())))
    }

    /// As [`Request::Resize`].
    pub(super) fn resize(&self, pool: u64, workers: usize) -> Result<(), Error> {
        if is_supervisor() {
            return Err(Error::invalid("a waker cannot resize a pool".into()));
        }
        let (done, answer) = mpsc::channel();
        self.ask(Request::Resize { pool, workers, done });
        answer.recv().unwrap_or_else(|_| Err(Error::closed()))
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
    pub(super) fn remove(&self, id: u64, grace: Grace) -> Result<(), Error> {
        let (done, answer) = mpsc::channel();
        self.ask(Request::Remove { id, grace, done });
        match is_supervisor() {
            true => Ok(()),
            false => Self::wait_for(&answer),
        }
    }
}

impl Drop for Supervisor {
    /// The last pool has gone: ends the guardian too.
    fn drop(&mut self) {
        if is_forked_copy() {
            return;
        }
        self.ask(Request::Quit);
        if let Some(thread) = self.thread.take().filter(|_| !is_supervisor()) {
            let _ = thread.join();
        }
    }
}
