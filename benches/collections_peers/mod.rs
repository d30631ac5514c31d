//! What the collections and queues of procpool are measured against.
//!
//! CPython and the stage of two processes are those of `sync_peers`.

pub(crate) mod channel;
pub(crate) mod lmdb;
