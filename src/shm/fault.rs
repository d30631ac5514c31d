//! Fault points: named places where a test can have exactly one process killed, exactly once.
//!
//! The armed point lives in the arena, so that it works whichever process of the tree passes there
//! first. Here is also what a test needs to take part in another program's arena that has no name. In release builds without the feature `fault` a point is nothing at all.

#[cfg(any(debug_assertions, feature = "fault"))]
use super::arena::Arena;
#[cfg(any(debug_assertions, feature = "fault"))]
use crate::error::Error;
#[cfg(any(debug_assertions, feature = "fault"))]
use crate::prim::{AcqRel, Acquire, Relaxed, Release};

/// Every fault point of the crate: `main.` in the user's process, `worker.` in a worker,
/// `guardian.` in the guardian. The others may fire in the user's process or a worker; from
/// `objects.` on they are those of shared objects and of `sync`, from `stripe.` on those of collections and
/// queues.
#[cfg(any(debug_assertions, feature = "fault"))]
pub const POINTS: &[&str] = &[
    "main.argument-encoded",
    "main.slot-filled",
    "main.cell-published",
    "main.result-taken",
    "main.slot-freed",
    "main.holdings-settled",
    "guardian.folder-made",
    "guardian.invited",
    "guardian.connected",
    "guardian.ready",
    "guardian.fork",
    "guardian.forked",
    "guardian.reap",
    "guardian.reaped",
    "worker.attach",
    "worker.attached",
    "worker.searching",
    "worker.counted-asleep",
    "worker.asleep",
    "worker.awake",
    "worker.cell-written-down",
    "worker.cell-claimed",
    "worker.slot-written-down",
    "worker.slot-claimed",
    "worker.cell-released",
    "worker.call-started",
    "worker.argument-decoded",
    "worker.call-returned",
    "worker.result-encoded",
    "worker.call-done",
    "worker.failure-recorded",
    "worker.output-grown",
    "worker.output-published",
    "worker.blocks-handed-over",
    "worker.done",
    "worker.announced",
    "worker.settled-own-ledger",
    "worker.waiting-for-turn",
    "worker.ending",
    "worker.leaving",
    "worker.left",
    "worker.giving-back",
    "worker.given-back",
    "worker.queued-again",
    "worker.mail-written-down",
    "worker.mail-claimed",
    "alloc.locked",
    "alloc.unlinked",
    "alloc.taken",
    "alloc.freed",
    "alloc.linked",
    "objects.locked",
    "objects.unlocking",
    "objects.holding-added",
    "objects.entered",
    "objects.block-replaced",
    "objects.given-up",
    "objects.doomed",
    "objects.removed",
    "objects.sent-along",
    "objects.carried",
    "sync.latched",
    "sync.unlatching",
    "sync.waking",
    "sync.queueing",
    "sync.queued",
    "sync.asleep",
    "sync.awake",
    "sync.giving",
    "sync.given",
    "sync.taking",
    "sync.taken",
    "sync.withdrawing",
    "mutex.locked",
    "mutex.unlocking",
    "mutex.unlocked",
    "semaphore.held",
    "semaphore.put-back",
    "semaphore.forgetting",
    "semaphore.released",
    "rwlock.read-held",
    "rwlock.write-held",
    "rwlock.read-released",
    "rwlock.write-releasing",
    "condvar.unlocked",
    "condvar.relocked",
    "event.set",
    "event.cleared",
    "barrier.acting",
    "barrier.acted",
    "barrier.letting-go",
    "barrier.resetting",
    "once.running",
    "once.stored",
    "once.finished",
    "encoded.allocated",
    "encoded.written",
    "encoded.committed",
    "value.locked",
    "value.written",
    "value.committed",
    "stripe.locked",
    "stripe.unlocking",
    "stripe.repaired",
    "heap.taken",
    "heap.given",
    "heap.allocated",
    "heap.added",
    "heap.cutting",
    "heap.cut",
    "heap.emptied",
    "entry.allocated",
    "entry.written",
    "entry.placed",
    "entry.published",
    "entry.given-away",
    "entry.taken-over",
    "entry.cut-off",
    "dict.adding",
    "dict.replacing",
    "dict.removing",
    "dict.growing",
    "dict.grown",
    "dict.clearing",
    "dict.cleared",
    "list.allocated",
    "list.pushing",
    "list.appending",
    "list.appended",
    "list.moving",
    "list.moved",
    "list.setting",
    "list.shortening",
    "list.swapping",
    "list.written-down",
    "list.swapped",
    "list.done-again",
    "list.truncating",
    "list.clearing",
    "list.truncated",
    "array.locked",
    "array.written",
    "array.committed",
    "array.copied",
    "array.unlocking",
    "queue.allocated",
    "queue.claimed",
    "queue.written-down",
    "queue.filled",
    "queue.put",
    "queue.taking",
    "queue.taken-over",
    "queue.marked",
    "queue.taken",
    "queue.emptied",
    "joinable.appending",
    "joinable.taking",
    "joinable.taken",
    "joinable.cutting-off",
    "joinable.cut-off",
    "joinable.redelivering",
    "joinable.reclaimed",
    "pipe.end-made",
];

/// Passes a fault point; does not return if it is armed and its turn has come.
#[inline]
pub(crate) fn point(name: &'static str) {
    #[cfg(any(debug_assertions, feature = "fault"))]
    if let Some(arena) = Arena::existing()
        && arena.header().fault_armed.load(Relaxed) != 0
    {
        point_slow(arena, name);
    }
    #[cfg(not(any(debug_assertions, feature = "fault")))]
    let _ = name;
}

#[cold]
#[cfg(any(debug_assertions, feature = "fault"))]
fn point_slow(arena: &Arena, name: &str) {
    let header = arena.header();
    let Some(index) = POINTS.iter().position(|point| *point == name) else {
        panic!("fault point {name:?} is not in the list");
    };
    let number = index as u32 + 1;
    if header.fault_armed.load(Acquire) != number
        || header.fault_spared.load(Relaxed) == crate::sys::process::own_pid()
    {
        return;
    }
    let skipped = header.fault_skip.fetch_update(AcqRel, Relaxed, |left| left.checked_sub(1));
    // The one that is armed next goes off at its first pass.
    let next = header.fault_next.load(Relaxed);
    if skipped.is_err()
        && header.fault_armed.compare_exchange(number, next, AcqRel, Relaxed).is_ok()
    {
        header.fault_next.store(0, Relaxed);
        let stops = header.fault_stops.load(Relaxed) != 0;
        header.fault_fired.store(number, Release);
        match stops {
            true => crate::sys::process::stop_self(),
            false => crate::sys::process::kill_self(),
        }
    }
}

/// Arms `name`: the process that passes there after `skip` other passes is killed.
///
/// # Errors
/// If there is no such point, or no arena and none can be made.
#[cfg(any(debug_assertions, feature = "fault"))]
pub fn arm(name: &str, skip: u32) -> Result<(), Error> {
    arm_both(name, skip, None)
}

/// As [`arm`], but the process is stopped there (SIGSTOP), and goes on when it is told to.
///
/// # Errors
/// As [`arm`].
#[cfg(any(debug_assertions, feature = "fault"))]
pub fn arm_stop(name: &str, skip: u32) -> Result<(), Error> {
    disarm();
    Arena::tree(None)?.header().fault_stops.store(1, Relaxed);
    set(name, skip, None)
}

/// As [`arm`]; and the process that passes at `then` after that one was killed is killed, too.
///
/// # Errors
/// As [`arm`].
#[cfg(any(debug_assertions, feature = "fault"))]
pub fn arm_both(name: &str, skip: u32, then: Option<&str>) -> Result<(), Error> {
    Arena::tree(None)?.header().fault_stops.store(0, Relaxed);
    set(name, skip, then)
}

#[cfg(any(debug_assertions, feature = "fault"))]
fn set(name: &str, skip: u32, then: Option<&str>) -> Result<(), Error> {
    let number_of = |name: &str| match POINTS.iter().position(|point| *point == name) {
        Some(index) => Ok(index as u32 + 1),
        None => Err(Error::invalid(format!("there is no fault point {name:?}"))),
    };
    let header = Arena::tree(None)?.header();
    header.fault_fired.store(0, Relaxed);
    header.fault_next.store(then.map_or(Ok(0), number_of)?, Relaxed);
    header.fault_skip.store(skip, Relaxed);
    header.fault_armed.store(number_of(name)?, Release);
    Ok(())
}

/// Has the calling process make so many more stores to words that others may see, and be killed before the next.
/// With `u64::MAX` it lives.
#[cfg(any(debug_assertions, feature = "fault"))]
pub fn die_after(stores: u64) {
    crate::sys::fail::die_after(stores);
}

/// Lets the calling process pass every point from now on: only others are killed.
#[cfg(any(debug_assertions, feature = "fault"))]
pub fn spare_this_process() {
    if let Ok(arena) = Arena::tree(None) {
        arena.header().fault_spared.store(crate::sys::process::own_pid(), Relaxed);
    }
}

/// Takes the armed point back, whether or not it has fired.
#[cfg(any(debug_assertions, feature = "fault"))]
pub fn disarm() {
    if let Some(arena) = Arena::existing() {
        arena.header().fault_next.store(0, Relaxed);
        arena.header().fault_armed.store(0, Release);
    }
}

/// The point that fired since the last [`arm`].
#[cfg(any(debug_assertions, feature = "fault"))]
#[must_use]
pub fn fired() -> Option<&'static str> {
    let number = Arena::existing()?.header().fault_fired.load(Acquire);
    POINTS.get((number as usize).checked_sub(1)?).copied()
}

/// How many shared objects there are, and how many holdings of them by processes and results.
#[cfg(any(debug_assertions, feature = "fault"))]
#[must_use]
pub fn objects() -> (usize, usize) {
    Arena::existing().map_or((0, 0), Arena::count_objects)
}

/// How many bytes of the arena are in use, and how many places of the table of processes.
#[cfg(any(debug_assertions, feature = "fault"))]
#[must_use]
pub fn used() -> (u64, usize) {
    let used = |arena: &Arena| (arena.usage().used_bytes, arena.places_taken());
    Arena::existing().map_or((0, 0), used)
}

/// The descriptor of this process's arena, made if there is none.
///
/// # Errors
/// The arena cannot be made.
#[cfg(any(debug_assertions, feature = "fault"))]
pub fn arena_descriptor() -> Result<std::os::fd::BorrowedFd<'static>, Error> {
    Ok(Arena::tree(None)?.descriptor())
}

/// Has this process, which has no arena, take part in that of another program.
///
/// # Errors
/// The descriptor is not an arena's, or this process has one.
#[cfg(any(debug_assertions, feature = "fault"))]
pub fn join_arena(descriptor: std::os::fd::OwnedFd) -> Result<(), Error> {
    Arena::join_descriptor(descriptor).map(|_| ())
}
