//! Queues and pipes between processes.
//!
//! | type | for | a process dies |
//! |---|---|---|
//! | [`Queue`] | many producers, many consumers | what it was putting is in the queue or not; what it was getting is still there or was got |
//! | [`JoinableQueue`] | knowing when all is done | what it had got and not done is delivered again |
//! | [`Pipe`], [`one_way`] | two ends | the other end is told, after everything that was sent |
//!
//! Handles cross to other processes as part of a task's argument, context or result, or through
//! collections and queues. All waiting has forms with a time limit, and errors give the value back.
//!
//! ```text
//! ring.rs                  the ring of the pools' tasks
//! cells.rs, buffer.rs, transfer.rs   a ring that carries values, and putting and getting them
//! queue.rs, pipe.rs        made of that
//! closed.rs                that a queue is closed
//! chain.rs, joinable.rs    a chain of values under a lock
//! orphans.rs               whose consumers have died
//! keep.rs                  what settlement has to know of all collections and queues
//! ```

#[cfg(not(loom))]
mod buffer;
mod cells;
#[cfg(all(test, not(any(loom, shuttle))))]
mod cells_fuzz;
#[cfg(all(test, loom))]
mod cells_models;
#[cfg(not(loom))]
mod chain;
mod closed;
#[cfg(all(test, loom))]
mod closed_models;
#[cfg(not(loom))]
mod errors;
#[cfg(all(test, any(debug_assertions, feature = "fault"), not(any(loom, shuttle))))]
mod handle_fuzz;
#[cfg(not(loom))]
mod joinable;
#[cfg(not(loom))]
pub(crate) mod keep;
mod orphans;
#[cfg(all(test, loom))]
mod orphans_models;
#[cfg(not(loom))]
mod pipe;
#[cfg(not(loom))]
#[allow(clippy::module_inception)] // The folder is named for all queues, the file for this one.
mod queue;
pub(crate) mod ring;
#[cfg(all(test, not(any(loom, shuttle))))]
mod ring_fuzz;
#[cfg(all(test, loom))]
mod ring_models;
#[cfg(not(loom))]
mod transfer;

#[cfg(not(loom))]
pub use errors::{GetError, PutError};
#[cfg(not(loom))]
pub use joinable::{JoinableQueue, OnDeath};
#[cfg(not(loom))]
pub use pipe::{Pipe, RecvEnd, SendEnd, one_way};
#[cfg(not(loom))]
pub use queue::Queue;
