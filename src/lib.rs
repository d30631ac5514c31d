//! A pool of worker processes on one Linux machine, fed through shared memory.
#![deny(unsafe_code)]

#[cfg(not(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64"))))]
compile_error!("procpool runs on Linux only, on x86-64 and aarch64");

#[cfg(not(loom))]
mod codec;
#[cfg(not(loom))]
mod error;
#[cfg(not(loom))]
pub mod guide;
#[cfg(not(loom))]
pub mod limits;
mod pool;
mod prim;
#[cfg(not(loom))]
mod process;
mod queue;
#[cfg(not(loom))]
mod shm;
mod sys;

#[cfg(not(loom))]
pub use error::{Error, TaskError, TrySubmitError, WorkerExit};
#[cfg(not(loom))]
pub use pool::{JoinTimeoutError, Pool, PoolBuilder, Stats, TaskHandle, With};

/// Named places where a test can have one process of the tree killed; not part of the interface.
#[doc(hidden)]
#[cfg(all(not(loom), any(debug_assertions, feature = "fault")))]
pub use shm::fault;

/// Says where in `main` the processes that the crate starts may take over.
///
/// Without it they take over before `main`, which is all that most programs need. A program whose
/// tasks depend on what happens before (registrations made by other constructors, a logger that
/// `main` sets up) calls it as early as possible: everything before the call then runs in those
/// processes too, in which it does not return.
///
/// # Examples
/// ```
/// fn main() {
///     procpool::init();
///     // the program
/// }
/// ```
#[cfg(not(loom))]
pub fn init() {
    process::guardian::init();
}
