//! Every bound of a shared structure, with the relations that must hold between them.

/// Most worker processes that one pool may have.
pub const WORKERS_MAX: usize = 512;

/// Most processes that may be attached to one arena at a time (users' processes and workers).
pub(crate) const PARTICIPANTS_MAX: usize = 2048;

/// How deep pools and processes may be nested: a task of a pool that a task of a pool has made is two deep.
pub const NESTING_MAX: usize = 8;

/// Most tasks that a pool's queue may hold.
pub const QUEUE_CAPACITY_MAX: usize = 1 << 20;

/// Queue capacity of a pool whose builder does not say.
pub const QUEUE_CAPACITY_DEFAULT: usize = 4096;

/// Smallest arena: room for a pool with the default queue and some payload.
pub const ARENA_BYTES_MIN: usize = 4 << 20;

/// Largest arena: what a block's length field can express, far above any machine's memory.
pub const ARENA_BYTES_MAX: usize = 1 << 46;

/// Size of a named arena whose builder does not say: its pages are reserved when it is created.
pub const NAMED_ARENA_BYTES_DEFAULT: usize = 64 << 20;

/// Counts changes of what lies in an arena: programs with different numbers cannot share one.
pub(crate) const LAYOUT_VERSION: u64 = 8;

/// Contexts (`Pool::with`) that may be alive at a time in one pool.
pub const CONTEXTS_MAX: usize = 256;

/// Waiting places of `map` calls in one pool; calls beyond this share place 0.
pub(crate) const JOBS_MAX: usize = 64;

/// Longest pool name, in bytes.
pub const NAME_BYTES_MAX: usize = 64;

/// Most calls that one batch carries.
pub(crate) const BATCH_CALLS_MAX: usize = 1 << 16;

const _: () = assert!(WORKERS_MAX < PARTICIPANTS_MAX);
const _: () = assert!(PARTICIPANTS_MAX <= 1 << 12, "a ring cell has 12 bits for its claimer");
const _: () = assert!(QUEUE_CAPACITY_MAX < 1 << 24, "a ring cell has 24 bits for its value");
const _: () = assert!(QUEUE_CAPACITY_DEFAULT <= QUEUE_CAPACITY_MAX);
const _: () =
    assert!(BATCH_CALLS_MAX < u32::MAX as usize / 2, "progress counts half steps in 32 bits");
