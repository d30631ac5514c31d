//! Settings of a pool, and making one.

use super::Pool;
use super::area::Area;
use super::confine::Confinement;
use super::inner::{Inner, Settings};
use super::options::{Retry, TaskOptions};
use super::process::Once;
use super::recycle::Recycle;
use super::setup::Setup;
use super::startup::Startup;
use super::supervisor::Supervisor;
use crate::error::Error;
use crate::limits::{
    NAME_BYTES_MAX, NESTING_MAX, QUEUE_CAPACITY_DEFAULT, QUEUE_CAPACITY_MAX, WORKERS_MAX,
};
use crate::prim::{AtomicU64, Relaxed};
use crate::shm::{Arena, arena::own_id};
use crate::sys;
use serde::{Serialize, de::DeserializeOwned};
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// How long a worker, or a waiting caller, looks before it sleeps: as long as waking it costs.
const SEARCH_NS: u64 = 50_000;
/// Stack of the thread that runs tasks: what the main thread of a program usually has.
const STACK_BYTES_DEFAULT: usize = 8 << 20;
const STACK_BYTES_MIN: usize = 64 << 10;

/// Deaths of workers that have ended no task, and the time in which they may happen.
const RESTARTS_DEFAULT: (u32, Duration) = (1000, Duration::from_secs(10));

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
    startup: Startup,
    restarts: (u32, Duration),
    defaults: TaskOptions,
    idle_timeout: Option<Duration>,
    workers_min: Option<usize>,
    setup: Setup,
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
            startup: Startup::default(),
            restarts: RESTARTS_DEFAULT,
            defaults: TaskOptions::default(),
            idle_timeout: None,
            workers_min: None,
            setup: Setup::default(),
        }
    }

    /// Sets the number of worker processes, 1 to [`WORKERS_MAX`]. Default: one per
    /// usable core (affinity mask and CPU quota considered).
    #[doc(alias = "processes")]
    pub fn workers(mut self, workers: usize) -> Self {
        self.workers = Some(workers);
        self
    }

    /// Has workers that have been idle for so long leave, down to the [minimum](Self::workers_min). They
    /// come back, up to the number of [workers](Self::workers), when tasks wait. Default: they stay.
    ///
    /// # Examples
    /// ```
    /// use std::time::Duration;
    ///
    /// let pool = procpool::Pool::builder().workers(4).idle_timeout(Duration::from_millis(20)).build()?;
    /// while pool.workers() > 1 {
    ///     std::thread::sleep(Duration::from_millis(5));
    /// }
    /// assert_eq!(pool.map(|x: u32| x + 1, 0..100u32)?.len(), 100);
    /// # Ok::<(), procpool::Error>(())
    /// ```
    pub fn idle_timeout(mut self, timeout: Duration) -> Self {
        self.idle_timeout = Some(timeout);
        self
    }

    /// Sets how many workers stay however long they are idle, 1 to the number of
    /// [workers](Self::workers). Default: 1. Without an [idle timeout](Self::idle_timeout) all stay.
    pub fn workers_min(mut self, workers: usize) -> Self {
        self.workers_min = Some(workers);
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

    /// Has each worker run `function(argument)` before its first task. What that returns is the worker's
    /// state, which [`map_state`](Pool::map_state) gives to its tasks.
    ///
    /// The argument is encoded once, and may carry handles.
    ///
    /// # Errors
    /// If it panics, or its worker dies in it, ten times in a row, the pool is broken: calls fail with the
    /// message ([`Error::is_broken`]). `build` fails if the argument cannot be encoded.
    ///
    /// # Examples
    /// ```
    /// use procpool::Pool;
    /// use std::collections::HashMap;
    ///
    /// // Stands for something that takes long to load.
    /// let load = |words: Vec<String>| -> HashMap<String, usize> {
    ///     words.into_iter().map(|word| (word.clone(), word.len())).collect()
    /// };
    /// let words = vec!["one".to_string(), "three".to_string()];
    /// let pool = Pool::builder().workers(2).initializer(load, words).build()?;
    /// let look_up = |model: &mut HashMap<String, usize>, word: String| model.get(&word).copied();
    /// let found = pool.map_state(look_up, ["three".to_string(), "six".to_string()])?;
    /// assert_eq!(found, [Some(5), None]);
    /// # Ok::<(), procpool::Error>(())
    /// ```
    pub fn initializer<F, A, S>(mut self, function: F, argument: A) -> Self
    where
        F: Fn(A) -> S + Copy + Send + 'static,
        A: Serialize + DeserializeOwned + Send + Sync + 'static,
        S: 'static,
    {
        self.startup.set_infallible_initialiser(&function, argument);
        self
    }

    /// As [`initializer`](Self::initializer), for a function that may fail; the pool is then broken with
    /// its error's text, after ten times in a row.
    pub fn try_initializer<F, A, S, E>(mut self, function: F, argument: A) -> Self
    where
        F: Fn(A) -> Result<S, E> + Copy + Send + 'static,
        A: Serialize + DeserializeOwned + Send + Sync + 'static,
        S: 'static,
        E: std::fmt::Display,
    {
        self.startup.set_initialiser(&function, argument);
        self
    }

    /// Has each worker run `function` on its state when it leaves: recycled, or because the pool is
    /// [shut down](Pool::shutdown), which waits for it for ten seconds, or as long as
    /// [`shutdown_timeout`](Pool::shutdown_timeout) says. Not when it is killed, or its pool is dropped.
    ///
    /// # Errors
    /// `build` fails if the state is not what the initializer makes.
    pub fn finalizer<F, S>(mut self, function: F) -> Self
    where
        F: Fn(S) + Copy + Send + 'static,
        S: 'static,
    {
        self.startup.set_finaliser(&function);
        self
    }

    /// Sets how many workers that have not ended any task may die within `window`. Then the pool is
    /// broken: what it has not begun fails, and says what the last ones died of. From half of that many on
    /// replacing them takes some milliseconds. Default: 1000 (or 100 per worker, if that is more) within 10
    /// seconds.
    ///
    /// A worker that dies after it has ended a task does not count: tasks that kill their workers now and
    /// then break no pool.
    #[doc(alias = "crash_loop")]
    pub fn restart_limit(mut self, deaths: u32, window: Duration) -> Self {
        self.restarts = (deaths, window);
        self
    }

    /// Sets how long any task may run, each call of a map too; see [`TaskOptions::timeout`]. Default: for
    /// ever.
    ///
    /// # Examples
    /// ```
    /// use std::time::Duration;
    ///
    /// let pool = procpool::Pool::builder().workers(2).task_timeout(Duration::from_millis(50)).build()?;
    /// let nap = |ms: u64| { std::thread::sleep(Duration::from_millis(ms)); ms };
    /// let outcomes = pool.map_each(nap, [1, 60_000, 2])?;
    /// assert!(outcomes[1].as_ref().is_err_and(|error| error.is_timed_out()));
    /// assert_eq!((&outcomes[0], &outcomes[2]), (&Ok(1), &Ok(2)));
    /// # Ok::<(), procpool::Error>(())
    /// ```
    pub fn task_timeout(mut self, timeout: Duration) -> Self {
        self.defaults = self.defaults.timeout(timeout);
        self
    }

    /// Sets how long a task may go on after it was asked to stop; see [`TaskOptions::grace`]. Default: not
    /// at all.
    pub fn task_grace(mut self, grace: Duration) -> Self {
        self.defaults = self.defaults.grace(grace);
        self
    }

    /// Sets what becomes of tasks whose workers died. Default: they fail.
    pub fn retry(mut self, retry: Retry) -> Self {
        self.defaults = self.defaults.retry(retry);
        self
    }

    /// Keeps each worker on one core, of those that the program may use: worker 0 on the first, and so on,
    /// round and round. Default: the kernel moves them about.
    ///
    /// It pays for tasks that live off a core's cache, on a machine that does nothing else.
    pub fn pin_workers(mut self) -> Self {
        self.setup.pinned = true;
        self
    }

    /// Sets the nice value of the workers, -20 to 19: what is above 0 makes them give way to other
    /// programs, what is below needs rights. Default: that of the program.
    pub fn nice(mut self, value: i32) -> Self {
        self.setup.nice = value;
        self
    }

    /// Sets a variable of the workers' environment, beside what they have from the program.
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.setup.environment.push((name.into(), value.into()));
        self
    }

    /// Sets the working directory of the workers. Default: what the program's was when its first pool was
    /// made.
    pub fn current_dir(mut self, directory: impl Into<PathBuf>) -> Self {
        self.setup.directory = Some(directory.into());
        self
    }

    /// Lets each worker map so many bytes more than it has when it starts: what wants more fails to
    /// allocate, which by default aborts the worker. Default: what the system allows.
    ///
    /// # Examples
    /// ```
    /// let pool = procpool::Pool::builder().workers(1).address_space_bytes(64 << 20).build()?;
    /// let fill = |bytes: usize| vec![1u8; bytes].len();
    /// assert_eq!(pool.submit(fill, 1 << 20)?.join()?, 1 << 20);
    /// assert!(pool.submit(fill, 1 << 30)?.join().unwrap_err().is_worker_lost());
    /// # Ok::<(), procpool::Error>(())
    /// ```
    pub fn address_space_bytes(mut self, bytes: u64) -> Self {
        self.setup.address_space_bytes = Some(bytes);
        self
    }

    /// Takes rights away from the workers; see [`Confinement`]. Default: they may do what the program may.
    pub fn confine(mut self, confinement: Confinement) -> Self {
        self.setup.confinement = confinement;
        self
    }

    fn validate(&self) -> Result<(), Error> {
        let Self {
            workers, name, queue_capacity, stack_bytes, recycle, restarts, defaults, ..
        } = self;
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
        if self.idle_timeout == Some(Duration::ZERO) {
            return Err(Error::invalid("idle_timeout is 0: it must be more".into()));
        }
        if restarts.0 == 0 || restarts.1.is_zero() {
            return Err(Error::invalid(format!(
                "restart_limit is {} within {:?}: both must be more than 0",
                restarts.0, restarts.1
            )));
        }
        defaults.validate()?;
        self.setup.validate()?;
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
        self.build_with(None, |_| Ok(()))
    }

    /// A pool for one worker, and for the one task that `fill` sends.
    pub(super) fn build_once(
        self,
        once: Once,
        fill: impl FnOnce(&Arc<Inner>) -> Result<(), Error>,
    ) -> Result<Pool, Error> {
        self.build_with(Some(once), fill)
    }

    fn build_with(
        self,
        once: Option<Once>,
        fill: impl FnOnce(&Arc<Inner>) -> Result<(), Error>,
    ) -> Result<Pool, Error> {
        self.validate()?;
        let cores = sys::host::usable_cores();
        let workers = self.workers.unwrap_or(cores.min(WORKERS_MAX));
        let least = self.workers_min.unwrap_or(1);
        if !(1..=workers).contains(&least) {
            return Err(Error::invalid(format!("workers_min is {least}, outside 1..={workers}")));
        }
        let idle_timeout = self.idle_timeout.map(|timeout| (timeout, least));
        let arena = Arena::tree(self.arena_bytes)?;
        if arena.depth_of(own_id()) >= NESTING_MAX {
            return Err(Error::limit(format!(
                "pools are nested {NESTING_MAX} deep already: each task that makes a pool would have its \
                 tasks make another"
            )));
        }
        let area = Area::create(arena, self.queue_capacity as u32, own_id())?;
        let restarts = match self.restarts {
            RESTARTS_DEFAULT => (RESTARTS_DEFAULT.0.max(100 * workers as u32), RESTARTS_DEFAULT.1),
            asked => asked,
        };
        // From here on dropping it frees the area.
        let settings = Settings {
            restarts,
            id: NEXT_ID.fetch_add(1, Relaxed),
            name: self.name,
            workers,
            cores,
            search_ns: if cores > 1 { SEARCH_NS } else { 0 },
            stack_bytes: self.stack_bytes,
            recycle: self.recycle,
            defaults: self.defaults,
            idle_timeout,
            setup: self.setup,
        };
        let mut inner = Inner::new(settings, area, own_id());
        let id = inner.next_context_id();
        inner.startup = self.startup.prepare(area, id, own_id())?;
        inner.once = once;
        let inner = Arc::new(inner);
        fill(&inner)?;
        inner.enter_among_all();
        let supervisor = Supervisor::get(arena)?;
        supervisor.add(inner.clone())?;
        Ok(Pool::from_parts(inner, supervisor))
    }
}

impl std::fmt::Debug for PoolBuilder {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            workers,
            name,
            queue_capacity,
            arena_bytes,
            stack_bytes,
            recycle,
            startup: _,
            restarts,
            defaults,
            idle_timeout,
            workers_min,
            setup,
        } = self;
        formatter
            .debug_struct("PoolBuilder")
            .field("workers", workers)
            .field("name", name)
            .field("queue_capacity", queue_capacity)
            .field("arena_bytes", arena_bytes)
            .field("stack_bytes", stack_bytes)
            .field("recycle", recycle)
            .field("restart_limit", restarts)
            .field("task_options", defaults)
            .field("idle_timeout", idle_timeout)
            .field("workers_min", workers_min)
            .field("setup", setup)
            .finish()
    }
}
