//! The supervisor: one thread in the user's process that keeps every pool's workers alive.
//!
//! It polls one pidfd per worker, the guardian's, and an event counter for requests; no signals are
//! involved. It starts with the first pool and ends, with the guardian, when the last one has gone.
//!
//! # Protocol
//! A worker's pidfd is readable: have the guardian reap it and fork its replacement (both requests
//! go out together), settle what it held, enter the new one. The guardian's is readable: its workers
//! are dying too (parent-death signal); wait for each, settle each, start another guardian.
//!
//! # Limits
//! A pool whose workers die before they reach their loop [`FAILED_STARTS_MAX`] times in a row is
//! broken: its tasks fail and say so. A worker that dies later is replaced at once, however often.

use super::inner::Inner;
use super::settle::{Dead, settle};
use super::worker::{self, WorkerSpec};
use crate::error::{Error, WorkerExit};
use crate::prim::Relaxed;
use crate::process::identity::{CodeOffset, Entry};
use crate::process::{Forked, Guardian};
use crate::shm::{Arena, ParticipantId};
use crate::sys;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::mpsc;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Starts in a row that may fail before a pool is given up.
const FAILED_STARTS_MAX: u32 = 10;

/// The way to the supervisor of this process.
#[derive(Debug)]
pub(crate) struct Supervisor {
    mailbox: Arc<Mailbox>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Mailbox {
    requests: Mutex<Vec<Request>>,
    bell: OwnedFd,
}

#[derive(Debug)]
enum Request {
    Add { inner: Arc<Inner>, done: mpsc::Sender<Result<(), Error>> },
    /// End a pool's workers: at once, or after they had `grace` to leave by themselves.
    Remove { id: u64, grace: Duration, done: mpsc::Sender<Result<(), Error>> },
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
        sys::fd::signal_event(&self.mailbox.bell);
    }

    fn wait_for(answer: &mpsc::Receiver<Result<(), Error>>) -> Result<(), Error> {
        answer.recv().unwrap_or_else(|_| Err(Error::broken("the supervisor thread has ended".into())))
    }

    /// Starts the workers of a pool.
    pub(crate) fn add(&self, inner: Arc<Inner>) -> Result<(), Error> {
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
        self.ask(Request::Quit);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A worker process.
struct Worker {
    pool: u64,
    id: ParticipantId,
    number: usize,
    pid: u32,
    pidfd: OwnedFd,
}

struct Watched {
    inner: Arc<Inner>,
    failed_starts: u32,
    leaving: Option<Leaving>,
}

struct Leaving {
    killed_at: Instant,
    done: mpsc::Sender<Result<(), Error>>,
}

/// What the supervisor's thread keeps.
struct Watch {
    arena: &'static Arena,
    mailbox: Arc<Mailbox>,
    guardian: Option<Guardian>,
    pools: Vec<Watched>,
    workers: Vec<Worker>,
    quit: bool,
}

impl Watch {
    fn new(arena: &'static Arena, mailbox: Arc<Mailbox>) -> Self {
        let (pools, workers) = (Vec::new(), Vec::new());
        Self { arena, mailbox, guardian: None, pools, workers, quit: false }
    }

    fn run(mut self) {
        sys::process::block_signals_in_this_thread();
        while !self.quit {
            let (guardian_died, dead) = self.wait();
            if guardian_died {
                self.replace_guardian();
            } else {
                self.replace_workers(&dead);
            }
            self.serve_requests();
            self.end_leaving();
        }
        if let Some(guardian) = self.guardian.take() {
            guardian.end();
        }
    }

    /// Sleeps until something happens: whether the guardian died, and the pids of dead workers.
    fn wait(&self) -> (bool, Vec<u32>) {
        let mut fds: Vec<BorrowedFd<'_>> = vec![self.mailbox.bell.as_fd()];
        fds.extend(self.workers.iter().map(|worker| worker.pidfd.as_fd()));
        fds.extend(self.guardian.as_ref().map(Guardian::pidfd));
        let deadlines = self.pools.iter().filter_map(|pool| pool.leaving.as_ref());
        let deadline = deadlines.map(|leaving| leaving.killed_at).min();
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let ready = sys::fd::poll(&fds, left).unwrap_or_else(|_| vec![false; fds.len()]);
        sys::fd::clear_event(&self.mailbox.bell);
        let dead = self.workers.iter().zip(&ready[1..]).filter(|(_, ready)| **ready);
        let dead = dead.map(|(worker, _)| worker.pid).collect();
        let guardian_died = self.guardian.is_some() && ready.last() == Some(&true);
        (guardian_died, dead)
    }

    fn serve_requests(&mut self) {
        let requests = {
            let mut requests =
                self.mailbox.requests.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut *requests)
        };
        for request in requests {
            match request {
                Request::Add { inner, done } => {
                    let started = self.add(inner);
                    let _ = done.send(started);
                }
                Request::Remove { id, grace, done } => self.remove(id, grace, done),
                Request::Quit => self.quit = true,
            }
        }
    }

    fn add(&mut self, inner: Arc<Inner>) -> Result<(), Error> {
        if self.guardian.is_none() {
            self.guardian = Some(Guardian::start(self.arena)?);
        }
        let id = inner.id;
        let workers = inner.workers;
        self.pools.push(Watched { inner, failed_starts: 0, leaving: None });
        let started = self.fork_workers(&(0..workers).map(|number| (id, number)).collect::<Vec<_>>());
        if started.is_err() {
            let (done, _) = mpsc::channel();
            self.remove(id, Duration::ZERO, done);
        }
        started
    }

    // Starting ------------------------------------------------------------------------------

    /// Has the given workers (pool, number) forked and enters them.
    fn fork_workers(&mut self, wanted: &[(u64, usize)]) -> Result<(), Error> {
        let asked = self.ask_forks(wanted)?;
        self.enter_forked(asked)
    }

    fn pool(&mut self, id: u64) -> Option<&mut Watched> {
        self.pools.iter_mut().find(|pool| pool.inner.id == id)
    }

    fn ask_forks(
        &mut self,
        wanted: &[(u64, usize)],
    ) -> Result<Vec<(u64, usize, ParticipantId)>, Error> {
        let entry = CodeOffset::of(worker::main as Entry as usize)?;
        let mut asked = Vec::with_capacity(wanted.len());
        for (pool, number) in wanted {
            let Some(watched) = self.pools.iter().find(|watched| watched.inner.id == *pool) else {
                continue;
            };
            let inner = &watched.inner;
            let id = self.arena.reserve_participant(inner.user)?;
            let name = format!("{}-worker-{number}", inner.name);
            let spec = WorkerSpec {
                area: inner.area.address(),
                participant: id.to_raw(),
                user: inner.user.to_raw(),
                name: name.clone(),
                stack_bytes: inner.stack_bytes,
                search_ns: inner.search_ns,
            };
            let guardian = self.guardian.as_ref();
            let sent = postcard::to_stdvec(&spec)
                .map_err(|error| Error::broken(format!("cannot describe a worker: {error}")))
                .and_then(|argument| match guardian {
                    Some(guardian) => guardian.ask_fork(entry, argument, name),
                    None => Err(Error::broken("there is no guardian process".into())),
                });
            if let Err(error) = sent {
                self.arena.release_participant(id);
                return Err(error);
            }
            asked.push((*pool, *number, id));
        }
        Ok(asked)
    }

    fn enter_forked(&mut self, asked: Vec<(u64, usize, ParticipantId)>) -> Result<(), Error> {
        let mut first_error = None;
        for (pool, number, id) in asked {
            let forked = match &self.guardian {
                Some(guardian) if first_error.is_none() => guardian.forked(),
                _ => Err(Error::broken("there is no guardian process".into())),
            };
            let entered = match forked {
                Ok(Forked::Pid(pid)) => sys::process::open_pidfd(pid)
                    .map(|pidfd| Worker { pool, id, number, pid, pidfd })
                    .map_err(|error| Error::os("watch a worker process", error)),
                Ok(Forked::Failed(errno)) => {
                    let error = std::io::Error::from_raw_os_error(errno);
                    Err(Error::os("fork a worker process", error))
                }
                Err(error) => Err(error),
            };
            match entered {
                Ok(worker) => {
                    self.workers.push(worker);
                    if let Some(watched) = self.pool(pool) {
                        watched.inner.counters.workers_started.fetch_add(1, Relaxed);
                    }
                }
                Err(error) => {
                    self.arena.release_participant(id);
                    first_error.get_or_insert(error);
                }
            }
        }
        first_error.map_or(Ok(()), Err)
    }

    // Replacing -----------------------------------------------------------------------------

    fn replace_workers(&mut self, dead: &[u32]) {
        let mut gone = Vec::new();
        for pid in dead {
            let Some(at) = self.workers.iter().position(|worker| worker.pid == *pid) else { continue };
            gone.push(self.workers.swap_remove(at));
        }
        if gone.is_empty() {
            return;
        }
        // One round trip for everything: reap all, fork all.
        let reaping = match &self.guardian {
            Some(guardian) => gone.iter().try_for_each(|worker| guardian.ask_reap(worker.pid)),
            None => Ok(()),
        };
        let wanted: Vec<(u64, usize)> = gone
            .iter()
            .filter(|worker| self.is_staying(worker.pool))
            .map(|worker| (worker.pool, worker.number))
            .collect();
        let asked = reaping.and_then(|()| self.ask_forks(&wanted));
        for worker in gone {
            let reaped = self.guardian.as_ref().map(Guardian::reaped);
            let exit = match reaped {
                Some(Ok(Some(exit))) => exit,
                _ => WorkerExit::Signal(9),
            };
            self.settle_worker(worker, exit);
        }
        let entered = asked.and_then(|asked| self.enter_forked(asked));
        if let Err(error) = entered {
            self.starting_failed(&wanted, &error);
        }
        self.give_up_broken();
    }

    fn is_staying(&self, pool: u64) -> bool {
        let watched = self.pools.iter().find(|watched| watched.inner.id == pool);
        watched.is_some_and(|watched| {
            watched.leaving.is_none() && watched.failed_starts < FAILED_STARTS_MAX
        })
    }

    fn settle_worker(&mut self, worker: Worker, exit: WorkerExit) {
        let Some(watched) = self.pools.iter_mut().find(|watched| watched.inner.id == worker.pool)
        else {
            return;
        };
        let dead = Dead { id: worker.id, pid: worker.pid, exit };
        let had_started = settle(&watched.inner, dead);
        if watched.leaving.is_none() {
            watched.inner.counters.workers_lost.fetch_add(1, Relaxed);
            watched.failed_starts = if had_started { 0 } else { watched.failed_starts + 1 };
        }
    }

    /// Workers could not be forked (or the guardian died over it: then its end is handled next).
    fn starting_failed(&mut self, wanted: &[(u64, usize)], error: &Error) {
        let alive = self.guardian.as_ref().is_some_and(|guardian| {
            !sys::fd::poll_one(guardian.pidfd(), Some(Duration::ZERO)).unwrap_or(true)
        });
        if !alive {
            return;
        }
        for (id, _) in wanted {
            let left = self.workers.iter().any(|worker| worker.pool == *id);
            if let Some(watched) = self.pool(*id)
                && !left
            {
                watched.inner.set_broken(format!("no worker can be started: {error}"));
            }
        }
    }

    fn give_up_broken(&mut self) {
        for watched in &self.pools {
            let workers_left = self.workers.iter().any(|worker| worker.pool == watched.inner.id);
            if watched.failed_starts >= FAILED_STARTS_MAX && !workers_left {
                watched.inner.set_broken(format!(
                    "the pool is broken: its workers died {FAILED_STARTS_MAX} times in a row \
                     before they could start"
                ));
            }
        }
    }

    fn replace_guardian(&mut self) {
        if let Some(guardian) = self.guardian.take() {
            guardian.bury();
        }
        for worker in std::mem::take(&mut self.workers) {
            // The kernel has sent it SIGKILL already; nothing is settled before it is gone.
            let _ = sys::process::kill_pidfd(&worker.pidfd);
            let _ = sys::fd::poll_one(worker.pidfd.as_fd(), Some(Duration::from_secs(10)));
            self.settle_worker(worker, WorkerExit::Signal(9));
        }
        if self.pools.is_empty() {
            return;
        }
        let staying = self.pools.iter().filter(|pool| self.is_staying(pool.inner.id));
        let wanted: Vec<(u64, usize)> = staying
            .flat_map(|pool| (0..pool.inner.workers).map(|number| (pool.inner.id, number)))
            .collect();
        let started = Guardian::start(self.arena).and_then(|guardian| {
            self.guardian = Some(guardian);
            self.fork_workers(&wanted)
        });
        if let Err(error) = started {
            if self.guardian.is_none() {
                for watched in &self.pools {
                    watched.inner.set_broken(format!("no guardian process can be started: {error}"));
                }
            } else {
                self.starting_failed(&wanted, &error);
            }
        }
        self.give_up_broken();
    }

    // Ending --------------------------------------------------------------------------------

    fn remove(&mut self, id: u64, grace: Duration, done: mpsc::Sender<Result<(), Error>>) {
        let killed_at = Instant::now() + grace;
        match self.pool(id) {
            Some(watched) => {
                watched.leaving = Some(Leaving { killed_at, done });
                watched.inner.area.stop();
            }
            None => {
                let _ = done.send(Ok(()));
            }
        }
    }

    /// Kills what has outstayed its grace, and reports pools that have no workers left.
    fn end_leaving(&mut self) {
        let now = Instant::now();
        for watched in &self.pools {
            if watched.leaving.as_ref().is_some_and(|leaving| leaving.killed_at <= now) {
                let theirs = self.workers.iter().filter(|worker| worker.pool == watched.inner.id);
                theirs.for_each(|worker| {
                    let _ = sys::process::kill_pidfd(&worker.pidfd);
                });
            }
        }
        // Those that were just killed are waited for here, so that a drop is done when it returns.
        let doomed: Vec<u32> = self
            .workers
            .iter()
            .filter(|worker| {
                let watched = self.pools.iter().find(|pool| pool.inner.id == worker.pool);
                let leaving = watched.and_then(|watched| watched.leaving.as_ref());
                leaving.is_some_and(|leaving| leaving.killed_at <= now)
            })
            .map(|worker| {
                let _ = sys::fd::poll_one(worker.pidfd.as_fd(), Some(Duration::from_secs(10)));
                worker.pid
            })
            .collect();
        self.replace_workers(&doomed);
        let workers = &self.workers;
        self.pools.retain_mut(|watched| {
            let id = watched.inner.id;
            let empty = !workers.iter().any(|worker| worker.pool == id);
            if !empty || watched.leaving.is_none() {
                return true;
            }
            watched.inner.end_all_tasks();
            if let Some(Leaving { done, .. }) = watched.leaving.take() {
                let _ = done.send(Ok(()));
            }
            false
        });
    }
}
