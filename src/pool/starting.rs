//! The supervisor's requests for new workers, and their answers.
//!
//! # If a process dies
//! The guardian, before it has answered: the worker may have been forked, and dies with it. A *stray*,
//! which cannot be watched, is ended and settled like any other worker.

use super::events::event;
use super::inner::{Inner, lock};
use super::requeue::Pausing;
use super::settle::{Dead, end_orphan, settle};
use super::startup::Prepared;
use super::stats::Entered;
use super::watch::{Place, Watch, Worker};
use super::worker::{self, WorkerSpec};
use crate::error::{Error, WorkerExit};
use crate::prim::Relaxed;
use crate::process::identity::{CodeOffset, Entry};
use crate::process::{ForkRequest, Forked};
use crate::shm::participants::Reserved;
use crate::sys;

/// A worker that the guardian was asked for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked {
    pool: u64,
    place: Place,
    pub(super) reserved: Reserved,
}

impl Watch {
    pub(super) fn ring(&self) {
        if let Some(guardian) = &self.guardian {
            guardian.ring();
        }
    }

    /// Posts requests for workers.
    pub(super) fn ask_forks(&mut self, wanted: &[(u64, Place)]) -> Result<Vec<Asked>, Error> {
        let entry = CodeOffset::of(worker::main as Entry as usize)?;
        let mut asked = Vec::with_capacity(wanted.len());
        self.asking.clear();
        for (pool, place) in wanted {
            let Some(watched) = self.pools.iter().find(|watched| watched.inner.id == *pool) else {
                continue;
            };
            let inner = watched.inner.clone();
            match self.ask_fork(entry, &inner, *place) {
                Ok(one) => asked.push(one),
                Err(error) if asked.is_empty() => return Err(error),
                // The others are on their way; what is missing is asked for again.
                Err(_) => break,
            }
        }
        Ok(asked)
    }

    fn ask_fork(&mut self, entry: CodeOffset, inner: &Inner, place: Place) -> Result<Asked, Error> {
        let Some(guardian) = &self.guardian else {
            return Err(Error::broken("there is no guardian process".into()));
        };
        let participant = self.arena.reserve_participant(inner.user)?;
        let asked = Asked { pool: inner.id, place, reserved: participant };
        self.asking.push(asked);
        let Place { number, turn } = place;
        let name = inner.name_of_worker(number);
        let spec = WorkerSpec {
            area: inner.area.address(),
            participant,
            user: inner.user,
            name: name.clone(),
            stack_bytes: inner.stack_bytes,
            search_ns: inner.search_ns,
            number,
            turn,
            recycle: inner.recycle,
            setup: inner.setup.clone(),
            startup: inner.startup.as_ref().map(Prepared::to_spec),
            grows: inner.idle_timeout.is_some(),
            once: inner.once.is_some(),
        };
        let sent = postcard::to_stdvec(&spec)
            .map_err(|error| Error::broken(format!("cannot describe a worker: {error}")))
            .and_then(|argument| {
                let once = inner.once.as_ref();
                let streams = once.map_or(Ok([false; 3]), |once| {
                    // It has taken some of them, and would give them to the next: it is of no use any more.
                    let of_no_use = |error| Error::broken(format!("no streams passed: {error}"));
                    once.pass_stdio(|stream| guardian.pass(stream)).map_err(of_no_use)
                })?;
                let detached = once.is_some_and(|once| once.detached);
                guardian.ask_fork(ForkRequest { entry, argument, name, streams, detached })
            });
        match sent {
            Ok(()) => Ok(asked),
            Err(error) => {
                let _ = self.arena.withdraw(participant);
                self.asking.pop();
                Err(error)
            }
        }
    }

    /// Collects the answers and enters the workers.
    pub(super) fn enter_forked(&mut self, asked: Vec<Asked>) -> Result<(), Error> {
        let mut first_error = None;
        let mut strays: Vec<(Asked, Option<u32>)> = Vec::new();
        let mut answers = true;
        for asked in asked {
            let Asked { pool, place, reserved } = asked;
            let forked = match &self.guardian {
                Some(guardian) if answers => guardian.forked(),
                _ => Err(Error::broken("there is no guardian process".into())),
            };
            let entered = match forked {
                Ok(Forked::Pid(pid)) => match sys::process::open_pidfd(pid) {
                    Ok(pidfd) => Ok(Worker {
                        pool,
                        id: reserved.id,
                        place,
                        pid,
                        pidfd,
                        seen: None,
                        condemned: None,
                        serial: self.entered,
                        left_at: None,
                    }),
                    Err(error) => {
                        strays.push((asked, Some(pid)));
                        Err(Error::os("watch a worker process", error))
                    }
                },
                Ok(Forked::Failed(errno)) => {
                    strays.push((asked, None));
                    let error = std::io::Error::from_raw_os_error(errno);
                    Err(Error::os("fork a worker process", error))
                }
                // The guardian died, perhaps after the fork: the worker dies with it. Or its answer was lost, and
                // those that follow would be taken for others.
                Err(error) => {
                    answers = false;
                    strays.push((asked, None));
                    Err(error)
                }
            };
            match entered {
                Ok(worker) => {
                    let Worker { id, pid, place: Place { number, turn }, .. } = worker;
                    self.workers.push(worker);
                    self.entered += 1;
                    if let Some(watched) = self.pool(pool) {
                        if let Some(once) = &watched.inner.once {
                            once.begin(pid);
                        }
                        event!(
                            DEBUG,
                            "worker started",
                            pool = &*watched.inner.name,
                            number = number,
                            pid = pid
                        );
                        lock(&watched.inner.roster).push(Entered { number, pid, id });
                        let counters = &watched.inner.counters;
                        counters.workers_started.fetch_add(1, Relaxed);
                        counters.restarts.fetch_add(u64::from(turn != 0), Relaxed);
                    }
                }
                Err(error) => {
                    first_error.get_or_insert(error);
                }
            }
        }
        if !answers {
            self.bury_guardian();
        }
        self.asking.clear();
        for (asked, pid) in strays {
            self.end_stray(asked, pid);
        }
        first_error.map_or(Ok(()), Err)
    }

    /// Ends a worker that was forked, or may have been, but cannot be watched.
    pub(super) fn end_stray(&mut self, asked: Asked, pid: Option<u32>) {
        let Asked { pool, place: Place { number, turn }, reserved } = asked;
        if let (Some(pid), Some(guardian)) = (pid, &self.guardian) {
            sys::process::kill_child(pid);
            // Reaping waits for its end.
            if guardian.ask_reap(pid).is_ok() {
                guardian.ring();
                if guardian.reaped().is_err() {
                    self.bury_guardian();
                }
            }
        }
        if self.arena.withdraw(reserved) {
            return;
        }
        let pid = end_orphan(self.arena, reserved.id);
        let exit = WorkerExit::Signal(9);
        if let Some(watched) = self.pool(pool) {
            let dead = Dead { id: reserved.id, pid, exit, closing: false, condemned: None };
            let inner = &watched.inner;
            if let Some(Pausing { place, .. }) = settle(inner, dead) {
                inner.queue_again(place);
            }
            // A process whose function has begun does not begin again.
            if let Some(once) = inner.once.as_ref().filter(|_| !inner.area.has_task()) {
                inner.area.seat(number).end(turn);
                once.begin(pid);
                once.end(exit);
            }
        }
    }
}
