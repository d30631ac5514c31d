//! Pages about how the crate works; there is no code here.
//!
//! - [`architecture`]: processes, memory, the path of one task, the layers, and where to look.
//! - [`crash_model`]: for each step of that path, who may die, what the others see, and who repairs
//!   it.
//! - [`cookbook`]: a page for each question: time limits, retries, memory, state, futures, shutting down.
//! - [`security`]: who can reach what, what a worker that was taken over can do, and how to confine it.
//! - [`proof`]: what was run to test all this, how to repeat it, and what it found; the crash matrix run against
//!   others.
//! - [`from_python`]: where everything of `multiprocessing` and `concurrent.futures` is.

#[doc = include_str!("architecture.md")]
pub mod architecture {}

#[doc = include_str!("crash_model.md")]
pub mod crash_model {}

#[doc = include_str!("cookbook.md")]
pub mod cookbook {}

#[doc = include_str!("from_python.md")]
pub mod from_python {}

#[doc = include_str!("security.md")]
pub mod security {}

#[doc = include_str!("proof.md")]
#[doc = include_str!("comparison_table.md")]
#[doc = include_str!("soak.svg")]
pub mod proof {}

/// Has the program in the README compiled and run.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
mod readme {}
