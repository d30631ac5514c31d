//! A pool of worker processes on one Linux machine, fed through shared memory.
//!
//! It is what Python's `multiprocessing` does, for Rust: a task runs in another process, so that a
//! crash, a leak or a runaway thread there cannot touch your program. Killing any process of the
//! tree at any moment loses nothing but the call that it was running, and hangs nobody.
//!
//! ```
//! use procpool::Pool;
//!
//! let pool = Pool::new()?; // one worker per usable core
//! let squares = pool.map(|x: u64| x * x, 0..1_000_000)?; // Vec<u64>, in input order
//! assert_eq!(squares[999], 998_001);
//! # Ok::<(), procpool::Error>(())
//! ```
//!
//! - [`Pool::map`], [`Pool::map_each`]: one function, many inputs; all results or one outcome each.
//! - [`Pool::imap`], [`Pool::map_reduce`]: outcomes one by one, or folded into one in the workers.
//! - [`Pool::submit`]: one call; a [`TaskHandle`] waits for its outcome, and is a future.
//! - [`PoolBuilder::initializer`], [`Pool::map_state`]: a state for each worker; [`Recycle`]: fresh workers
//!   now and then.
//! - [`Pool::with`]: a value that all calls may read, sent once.
//! - [`sync`], [`collections`], [`queue`]: what processes share: locks and events, dicts and lists, queues
//!   and pipes; [`Arena`] shares them with programs that were started separately.
//! - [`TaskError`]: what happened to a call: a panic, or the worker's pid and how it ended.
//!
//! Nothing needs to be registered, and the same code works in a program, an example, a bench and a
//! test; see [`init`] for the rare program that needs more. How it works is in [`guide`].
#![deny(unsafe_code)]
#![cfg_attr(loom, allow(dead_code, unused_imports))] // The models use a part of each layer.

#[cfg(not(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64"))))]
compile_error!("procpool runs on Linux only, on x86-64 and aarch64");

#[cfg(not(loom))]
mod codec;
#[cfg(not(loom))]
pub mod collections;
#[cfg(not(loom))]
mod error;
#[cfg(not(loom))]
pub mod guide;
#[cfg(not(loom))]
pub mod limits;
#[cfg(not(loom))]
mod named;
mod pool;
mod prim;
#[cfg(not(loom))]
mod process;
pub mod queue;
mod shm;
pub mod sync;
mod sys;

#[cfg(not(loom))]
pub use error::{Error, TaskError, TrySubmitError, WorkerExit};
#[cfg(not(loom))]
pub use named::{Arena, ArenaBuilder, ArenaError};
#[cfg(not(loom))]
pub use pool::{
    ActiveChild, CurrentProcess, ParentProcess, Process, ProcessBuilder, ProcessTimeoutError,
    Stdio, active_children, cpu_count, current_process, parent_process,
};
#[cfg(not(loom))]
pub use pool::{AsCompleted, as_completed, wait_all, wait_any, wait_failed};
#[cfg(not(loom))]
pub use pool::{
    Confinement, Durations, Imap, JoinTimeoutError, MapHandle, Pool, PoolBuilder, Priority,
    Recycle, Retry, Shutdown, SlowCall, Stats, TaskHandle, TaskOptions, With, WithOptions,
    WorkerState, WorkerStats,
};

#[cfg(all(not(loom), feature = "progress"))]
pub use pool::Progress;

/// What a task can ask about itself and its worker.
#[cfg(not(loom))]
pub mod worker {
    pub use crate::pool::inside::{cancelled, number};
}

/// Named places where a test can have one process of the tree killed; not part of the interface.
#[doc(hidden)]
#[cfg(all(not(loom), any(debug_assertions, feature = "fault")))]
pub use shm::fault;

/// System calls that a test can have fail; not part of the interface.
#[doc(hidden)]
#[cfg(all(not(loom), any(debug_assertions, feature = "fault")))]
pub mod sys_failures {
    pub use crate::sys::fail::CALLS;
}

/// How long workers that have left their pool may take to end, for a test of that; not part of the interface.
#[doc(hidden)]
#[cfg(all(not(loom), any(debug_assertions, feature = "fault")))]
pub mod lingering {
    pub use crate::pool::leaving::set_linger;
}

/// Says where in `main` the processes that the crate starts may take over.
///
/// Without it they take over before `main`, which is all that most programs need. A program whose
/// tasks depend on what happens before (registrations made by other constructors, a logger that
/// `main` sets up) calls it as early as possible: everything before the call then runs in those
/// processes too, in which it does not return.
///
/// # Examples
/// ```
/// procpool::init(); // the first line of `main`
/// let pool = procpool::Pool::new()?;
/// assert_eq!(pool.map(|x: u8| x + 1, [1u8, 2])?, [2, 3]);
/// # Ok::<(), procpool::Error>(())
/// ```
#[cfg(not(loom))]
pub fn init() {
    process::guardian::init();
}
