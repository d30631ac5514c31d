//! System calls, one file per family, no policy.
//!
//! Everything goes through `rustix`; `libc` is used only for what that lacks: `fork`, the robust
//! process-shared mutex, the signal mask, the list of loaded images and auxiliary vector entries.

#[cfg(not(loom))]
mod again;
#[cfg(not(loom))]
pub(crate) mod clock;
#[cfg(not(loom))]
pub(crate) mod fail;
#[cfg(not(loom))]
pub(crate) mod fd;
#[cfg(not(loom))]
pub(crate) mod folder;
pub(crate) mod futex;
#[cfg(not(loom))]
pub(crate) mod host;
#[cfg(not(loom))]
pub(crate) mod image;
pub(crate) mod membarrier;
#[cfg(not(loom))]
pub(crate) mod memory;
#[cfg(not(loom))]
pub(crate) mod process;
#[cfg(not(loom))]
#[cfg_attr(shuttle, path = "robust_model.rs")]
pub(crate) mod robust;
#[cfg(not(loom))]
pub(crate) mod thread;
