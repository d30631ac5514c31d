//! Processes: the guardian that forks workers, how it is started and spoken to, and how a function
//! is named across processes.
//!
//! ```text
//!  user's process                              guardian                    workers
//!  supervisor --Command (ipc-channel)--------> serve() --fork-------------> entry(argument)
//!             <-Reply (ipc-channel)----------/
//!             ==doorbell (socket pair)======= rung after each message, hung up at death
//! ```
//!
//! # Rules
//! R1. The guardian runs one thread whenever it forks, and that thread lives as long as the
//!     process; so the workers' parent-death signal means the guardian's death exactly.
//! R2. It reaps a worker only when told to: until then the pid cannot belong to anybody else.
//! R3. Every wait on either side is a poll that includes the other side's pidfd: no peer that died
//!     can be waited for, and no message can block (a doorbell ring is dropped when the socket is
//!     full, which means that enough rings are waiting).
//!
//! # If a process dies
//! The user's process: the guardian's poll returns, it kills and reaps its workers and exits. The
//! guardian: the kernel kills its workers, the supervisor sees all the pidfds and starts another.

pub(crate) mod bell;
pub(crate) mod control;
#[cfg(all(test, not(any(loom, shuttle))))]
mod control_fuzz;
pub(crate) mod guardian;
pub(crate) mod identity;
pub(crate) mod spawn;

pub(crate) use control::{ForkRequest, Forked};
pub(crate) use spawn::Guardian;
