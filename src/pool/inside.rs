//! What a task can ask about itself and its worker.
//!
//! # If a process dies
//! Nothing here is written; what is read is the worker's own entry, its slot, and what its supervisor
//! says.

use super::area::Area;
use super::deadlines::Running;
use crate::prim::{Acquire, Relaxed};
use crate::shm::ParticipantId;
use std::sync::OnceLock;

/// The worker that this process is.
#[derive(Debug)]
struct Myself {
    area: Area,
    id: ParticipantId,
    number: usize,
}

static MYSELF: OnceLock<Myself> = OnceLock::new();

/// Says what worker this process is, once.
pub(super) fn enter(area: Area, id: ParticipantId, number: usize) {
    let _ = MYSELF.set(Myself { area, id, number });
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
        || (asked != 0
            && asked == Running::stamp(index as u32, generation, slot.progress.load(Relaxed)))
}

/// The number of this worker in its pool, from 0; `None` outside of workers. A worker that replaces another
/// has its number.
#[must_use]
pub fn number() -> Option<usize> {
    MYSELF.get().map(|myself| myself.number)
}
