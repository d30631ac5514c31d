//! What the pool is measured against.

pub(crate) mod helper;
pub(crate) mod line;
pub(crate) mod python;
pub(crate) mod spawned;
pub(crate) mod threads;
