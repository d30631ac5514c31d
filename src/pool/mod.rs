//! The pool: workers that run tasks, and the calls that feed them.
//!
//! ```text
//! submit.rs, completion.rs, watched.rs, map/, sizer.rs, stream.rs, reduce.rs, broadcast.rs
//!                     fill slots, collect results       (user's process, any thread)
//! process.rs          a pool of one worker and one task
//! inner.rs, free_slot.rs, results.rs  free slots, what was set aside  (user's process, private)
//! supervisor.rs, watch.rs, starting.rs, restarts.rs, deadlines.rs, size.rs, settle.rs, requeue.rs,
//! leaving.rs
//!                     keep workers alive                (user's process, one thread)
//! worker.rs, trampolines.rs, task.rs
//!                     claim, run, announce              (workers)
//! startup.rs          the initialiser and its state      (workers)
//! inside.rs           what a task can ask               (workers)
//! recycle.rs          when a worker leaves              (workers)
//! area.rs, slot.rs, state.rs, verdict.rs, priority.rs, sleep.rs, seat.rs, failure.rs, context.rs,
//! context_place.rs    what they share
//! ```

#[cfg(not(loom))]
mod area;
#[cfg(not(loom))]
mod background;
#[cfg(not(loom))]
mod broadcast;
#[cfg(not(loom))]
mod builder;
#[cfg(not(loom))]
mod children;
#[cfg(not(loom))]
mod completion;
#[cfg(not(loom))]
mod confine;
#[cfg(not(loom))]
mod context;
mod context_place;
#[cfg(all(test, loom))]
mod context_place_models;
#[cfg(not(loom))]
mod deadlines;
#[cfg(not(loom))]
mod dump;
#[cfg(not(loom))]
mod events;
#[cfg(not(loom))]
mod failure;
#[cfg(not(loom))]
mod free_slot;
#[cfg(not(loom))]
mod histogram;
#[cfg(not(loom))]
mod inner;
#[cfg(not(loom))]
pub(crate) mod inside;
#[cfg(not(loom))]
pub(crate) mod leaving;
#[cfg(not(loom))]
mod map;
#[cfg(not(loom))]
mod options;
#[cfg(not(loom))]
mod pools;
mod priority;
#[cfg(all(test, loom))]
mod priority_models;
#[cfg(not(loom))]
mod process;
#[cfg(all(not(loom), feature = "progress"))]
mod progress;
#[cfg(not(loom))]
mod recycle;
#[cfg(not(loom))]
mod reduce;
#[cfg(not(loom))]
mod replacing;
#[cfg(not(loom))]
mod requeue;
#[cfg(not(loom))]
mod restarts;
#[cfg(not(loom))]
mod results;
mod seat;
#[cfg(all(test, loom))]
mod seat_models;
#[cfg(not(loom))]
mod settle;
#[cfg(not(loom))]
mod setup;
#[cfg(not(loom))]
mod shutdown;
#[cfg(not(loom))]
mod size;
#[cfg(not(loom))]
mod sizer;
mod sleep;
#[cfg(all(test, loom))]
mod sleep_models;
#[cfg(not(loom))]
mod slot;
#[cfg(all(test, not(any(loom, shuttle))))]
mod slot_fuzz;
#[cfg(not(loom))]
mod starting;
#[cfg(not(loom))]
mod startup;
mod state;
#[cfg(all(test, loom))]
mod state_models;
#[cfg(not(loom))]
mod stateful;
#[cfg(not(loom))]
mod stats;
#[cfg(not(loom))]
mod stream;
#[cfg(not(loom))]
mod submit;
#[cfg(not(loom))]
mod supervisor;
#[cfg(not(loom))]
mod task;
#[cfg(not(loom))]
mod terms;
#[cfg(not(loom))]
mod trampolines;
mod verdict;
#[cfg(all(test, loom))]
mod verdict_models;
#[cfg(not(loom))]
mod watch;
#[cfg(not(loom))]
mod watched;
#[cfg(not(loom))]
mod with;
#[cfg(not(loom))]
mod with_options;
#[cfg(not(loom))]
mod worker;

#[cfg(not(loom))]
pub use background::MapHandle;
#[cfg(not(loom))]
pub use builder::PoolBuilder;
#[cfg(not(loom))]
pub use children::{ActiveChild, active_children, cpu_count};
#[cfg(not(loom))]
pub use completion::{AsCompleted, as_completed, wait_all, wait_any, wait_failed};
#[cfg(not(loom))]
pub use confine::Confinement;
#[cfg(not(loom))]
pub use histogram::Durations;
#[cfg(not(loom))]
pub use inside::{CurrentProcess, ParentProcess, current_process, parent_process};
#[cfg(not(loom))]
pub use options::{Priority, Retry, TaskOptions};
#[cfg(not(loom))]
pub use pools::Pool;
#[cfg(not(loom))]
pub use process::{Process, ProcessBuilder, ProcessTimeoutError, Stdio};
#[cfg(all(not(loom), feature = "progress"))]
pub use progress::Progress;
#[cfg(not(loom))]
pub use recycle::Recycle;
#[cfg(not(loom))]
pub use shutdown::Shutdown;
#[cfg(not(loom))]
pub use stats::{SlowCall, Stats, WorkerState, WorkerStats};
#[cfg(not(loom))]
pub use stream::Imap;
#[cfg(not(loom))]
pub use submit::{JoinTimeoutError, TaskHandle};
#[cfg(not(loom))]
pub use with::With;
#[cfg(not(loom))]
pub use with_options::WithOptions;
