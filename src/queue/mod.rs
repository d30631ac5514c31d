//! Bounded queues between processes.

pub(crate) mod ring;
#[cfg(all(test, loom))]
mod ring_models;
