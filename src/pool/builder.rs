//! Settings of a pool, and making one.

use super::Pool;
use super::area::Area;
use super::inner::{Inner, Settings};
use super::recycle::Recycle;
use super::supervisor::Supervisor;
use crate::error::Error;
use crate::limits::{NAME_BYTES_MAX, QUEUE_CAPACITY_DEFAULT, QUEUE_CAPACITY_MAX, WORKERS_MAX};
use crate::prim::{AtomicU64, Relaxed};
use crate::shm::{Arena, arena::own_id};
use crate::sys;
use std::sync::Arc;

/// How long a worker, or a waiting caller, looks before it sleeps: as long as waking it costs.
const SEARCH_NS: u64 = 50_000;
/// Stack of the thread that runs tasks: what the main thread of a program usually has.
const STACK_BYTES_DEFAULT: usize = 8 << 20;
const STACK_BYTES_MIN: usize = 64 << 10;

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// Sets up a [`Pool`].
///
/// # Examples
/// ```
/// let pool = procpool::Pool::builder().workers(2).name("thumbs").queue_capacity(64).build()?;
/// assert_eq!(pool.workers(), 2);
///
/// let refused = procpool::Pool::builder().workers(0).build().unwrap_err();
/// assert!(refused.to_string().contains("workers"));
/// # Ok::<(), procpool::Error>(())
/// ```
#[derive(Clone)]
#[must_use = "a builder does nothing until `build` is called"]
pub struct PoolBuilder {
    workers: Option<usize>,
    name: String,
    queue_capacity: usize,
    arena_bytes: Option<usize>,
    stack_bytes: usize,
    recycle: Recycle,
}

impl PoolBuilder {
    pub(crate) fn new() -> Self {
        Self {
            workers: None,
            name: "pool".into(),
            queue_capacity: QUEUE_CAPACITY_DEFAULT,
            arena_bytes: None,
            stack_bytes: STACK_BYTES_DEFAULT,
            recycle: Recycle::default(),
        }
    }

    /// Sets the number of worker processes, 1 to [`WORKERS_MAX`]. Default: one per
    /// usable core (affinity mask and CPU quota considered).
    #[doc(alias = "processes")]
    pub fn workers(mut self, workers: usize) -> Self {
        self.workers = Some(workers);
        self
    }

    /// Sets the pool's name, which its workers carry in `ps` as `NAME-worker-N`. Default: `pool`.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// Sets how many tasks and batches may be queued, running or finished but not taken at a time,
    /// 1 to [`QUEUE_CAPACITY_MAX`]. Each costs 272 bytes of arena when first used. Default: 4096.
    pub fn queue_capacity(mut self, tasks: usize) -> Self {
        self.queue_capacity = tasks;
        self
    }

    /// Sets the size of the arena in bytes; memory is used only as it is touched.
    ///
    /// The arena belongs to the process tree, and the first pool fixes its size: a later pool must
    /// ask for the same or not at all. Default: the environment variable `PROCPOOL_ARENA_BYTES`,
    /// or else half of the memory that this process may use (cgroup limits considered).
    pub fn arena_bytes(mut self, bytes: usize) -> Self {
        self.arena_bytes = Some(bytes);
        self
    }

    /// Sets the stack size of the thread that runs tasks in each worker, at least 64 KiB. Default:
    /// 8 MiB; memory is used only as it is touched.
    pub fn stack_bytes(mut self, bytes: usize) -> Self {
        self.stack_bytes = bytes;
        self
    }

    /// Sets when a worker is replaced by a fresh one. Default: never, while it lives.
    pub fn recycle(mut self, policy: Recycle) -> Self {
        self.recycle = policy;
        self
    }

    fn validate(&self) -> Result<(), Error> {
        let Self { workers, name, queue_capacity, arena_bytes: _, stack_bytes, recycle } = self;
        if let Some(workers) = workers.filter(|workers| !(1..=WORKERS_MAX).contains(workers)) {
            return Err(Error::invalid(format!("workers is {workers}, outside 1..={WORKERS_MAX}")));
        }
        if name.is_empty() || name.len() > NAME_BYTES_MAX || name.contains(['/', '\0']) {
            return Err(Error::invalid(format!(
                "name is {name:?}: it must have 1 to {NAME_BYTES_MAX} bytes, no slash and no NUL"
            )));
        }
        if !(1..=QUEUE_CAPACITY_MAX).contains(queue_capacity) {
            return Err(Error::invalid(format!(
                "queue_capacity is {queue_capacity}, outside 1..={QUEUE_CAPACITY_MAX}"
            )));
        }
        if *stack_bytes < STACK_BYTES_MIN {
            return Err(Error::invalid(format!(
                "stack_bytes is {stack_bytes}, below {STACK_BYTES_MIN}"
            )));
        }
        recycle.validate()
    }

    /// Starts the pool.
    ///
    /// # Errors
    /// The first setting that is out of range, by name; an arena size that conflicts with the arena
    /// that exists; a system that refuses memory or processes.
    ///
    /// # Blocking
    /// Until every worker has been forked: about 2 ms for the first pool of a process.
    pub fn build(self) -> Result<Pool, Error> {
        self.validate()?;
        let cores = sys::host::usable_cores();
        let workers = self.workers.unwrap_or(cores.min(WORKERS_MAX));
        let arena = Arena::tree(self.arena_bytes)?;
        let area = Area::create(arena, self.queue_capacity as u32, own_id())?;
        let settings = Settings {
            id: NEXT_ID.fetch_add(1, Relaxed),
            name: self.name,
            workers,
            cores,
            search_ns: if cores > 1 { SEARCH_NS } else { 0 },
            stack_bytes: self.stack_bytes,
            recycle: self.recycle,
        };
        let inner = Arc::new(Inner::new(settings, area, own_id()));
        let supervisor = Supervisor::get(arena)?;
        supervisor.add(inner.clone())?;
        Ok(Pool::from_parts(inner, supervisor))
    }
}

impl std::fmt::Debug for PoolBuilder {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { workers, name, queue_capacity, arena_bytes, stack_bytes, recycle } = self;
        formatter
            .debug_struct("PoolBuilder")
            .field("workers", workers)
            .field("name", name)
            .field("queue_capacity", queue_capacity)
            .field("arena_bytes", arena_bytes)
            .field("stack_bytes", stack_bytes)
            .field("recycle", recycle)
            .finish()
    }
}
