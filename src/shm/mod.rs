//! Bytes shared between processes: the segment, the arena in it, its allocator, and who is attached.
//!
//! ```text
//! arena   | header | participants | block heads (8 B per 256 B of data) | data ............... |
//!         0        4 KiB          + 512 KiB                             + 8/264 of the rest
//! ```
//!
//! Every reference inside is an [`Offset`]; `offset.rs` is the only file that turns one into an
//! address. The whole range is mapped but sparse: a page costs memory when it is first touched.

#[cfg(not(loom))]
pub(crate) mod allocator;
#[cfg(not(loom))]
pub(crate) mod arena;
#[cfg(all(test, not(any(loom, shuttle))))]
mod arena_fuzz;
pub(crate) mod circle;
#[cfg(not(loom))]
mod describe;
#[cfg(all(not(loom), any(debug_assertions, feature = "fault")))]
pub mod fault;
#[cfg(all(not(loom), not(any(debug_assertions, feature = "fault"))))]
pub(crate) mod fault;
#[cfg(not(loom))]
pub(crate) mod keeper;
pub(crate) mod membership;
#[cfg(all(test, loom))]
mod membership_models;
#[cfg(not(loom))]
pub(crate) mod objects;
#[cfg(not(loom))]
pub(crate) mod offset;
#[cfg(not(loom))]
pub(crate) mod participants;
pub(crate) mod published;
#[cfg(all(test, loom))]
mod published_models;
#[cfg(not(loom))]
pub(crate) mod segment;
#[cfg(not(loom))]
pub(crate) mod shape;
#[cfg(not(loom))]
pub(crate) mod table;
#[cfg(not(loom))]
pub(crate) mod words;

#[cfg(not(loom))]
pub(crate) use allocator::Block;
#[cfg(not(loom))]
pub(crate) use arena::Arena;
#[cfg(not(loom))]
pub(crate) use offset::Offset;
#[cfg(not(loom))]
pub(crate) use participants::ParticipantId;
