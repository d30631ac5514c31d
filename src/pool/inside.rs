//! What a task can ask about itself and its worker.
//!
//! # If a process dies
//! Nothing here is written; what is read is the worker's own entry, its slot, and what its supervisor
//! says.

use super::area::Area;
use super::deadlines::Running;
use super::worker::WorkerSpec;
use crate::prim::{Acquire, Relaxed};
use crate::shm::ParticipantId;
use crate::sys;
use std::sync::OnceLock;

/// The worker that this process is.
#[derive(Debug)]
struct Myself {
    area: Area,
    id: ParticipantId,
    number: usize,
    name: String,
    user: ParticipantId,
}

static MYSELF: OnceLock<Myself> = OnceLock::new();

/// Says what worker this process is, once.
pub(super) fn enter(area: Area, id: ParticipantId, spec: &WorkerSpec) {
    let WorkerSpec { number, user, ref name, .. } = *spec;
    let _ = MYSELF.set(Myself { area, id, number, user, name: name.clone() });
}

/// The calling process, from [`current_process`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CurrentProcess {
    name: String,
    pid: u32,
}

impl CurrentProcess {
    /// Its name: that of the [`Process`](crate::Process), `POOL-worker-NUMBER` in a worker of a pool, and
    /// `main` in a program that this crate has not started.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }
}

/// Returns what the calling process is called, and its id.
///
/// # Examples
/// ```
/// use procpool::{Process, current_process};
///
/// let name = |_: ()| current_process().name().to_string();
/// assert_eq!(Process::builder().name("clock").spawn(name, ())?.join()?, "clock");
/// assert_eq!(current_process().name(), "main");
/// # Ok::<(), procpool::Error>(())
/// ```
#[must_use]
pub fn current_process() -> CurrentProcess {
    let name = MYSELF.get().map_or_else(|| "main".to_string(), |myself| myself.name.clone());
    CurrentProcess { name, pid: sys::process::own_pid() }
}

/// The process that has started the calling one, from [`parent_process`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ParentProcess {
    pid: u32,
    start_time_ticks: u64,
}

impl ParentProcess {
    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Returns whether it has not ended. (A process that is not
    /// [detached](crate::ProcessBuilder::detached) ends with it.)
    #[must_use]
    pub fn is_alive(&self) -> bool {
        !sys::process::is_gone(self.pid, self.start_time_ticks)
    }
}

/// Returns the process that had the calling one started by this crate; `None` in one that was not.
#[must_use]
pub fn parent_process() -> Option<ParentProcess> {
    let Myself { area, user, .. } = MYSELF.get()?;
    let (pid, start_time_ticks) = area.arena.identity_of(*user);
    Some(ParentProcess { pid, start_time_ticks })
}

/// Returns whether nobody waits for the outcome of the running task any more, so that it should end: it has
/// run for its [`timeout`](crate::TaskOptions::timeout) and is in its grace, its pool is shut down with
/// [`Shutdown::Now`](crate::Shutdown::Now), or its map was given up. `false` outside of tasks.
///
/// It costs some nanoseconds: a long loop may ask in each round.
///
/// # Examples
/// ```
/// use procpool::{Pool, TaskOptions, worker};
/// use std::time::Duration;
///
/// let pool = Pool::builder().workers(1).build()?;
/// let count = |_: u8| {
///     let mut rounds = 0u64;
///     while !worker::cancelled() {
///         rounds += 1;
///         std::thread::sleep(Duration::from_millis(1));
///     }
///     rounds
/// };
/// let limit = TaskOptions::new().timeout(Duration::from_millis(20)).grace(Duration::from_secs(5));
/// assert!(pool.submit_with(limit, count, 0)?.join()? > 0);
/// assert!(!worker::cancelled(), "this is no task");
/// # Ok::<(), procpool::Error>(())
/// ```
#[must_use]
pub fn cancelled() -> bool {
    let Some(Myself { area, id, .. }) = MYSELF.get() else { return false };
    if area.is_cancelling() {
        return true;
    }
    let me = area.arena.participant(*id);
    let Some(index) = me.ledger.slot.load(Relaxed).checked_sub(1) else { return false };
    let Some(slot) = area.slots.get(index as usize) else { return false };
    let asked = me.stop_asked.load(Acquire);
    let generation = slot.state.load().generation;
    slot.is_cancelled()
        || (asked != 0 && asked == Running::stamp(index as u32, generation, slot.progress.peek()))
}

/// The number of this worker in its pool, from 0; `None` outside of workers. A worker that replaces another
/// has its number.
#[must_use]
pub fn number() -> Option<usize> {
    MYSELF.get().map(|myself| myself.number)
}
