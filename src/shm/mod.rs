//! Bytes shared between processes: the segment, the arena in it, its allocator, and who is attached.
//!
//! ```text
//! arena   | header | participants | block heads (8 B per 256 B of data) | data ............... |
//!         0        4 KiB          + 512 KiB                             + 8/264 of the rest
//! ```
//!
//! Every reference inside is an [`Offset`]; `offset.rs` is the only file that turns one into an
//! address. The whole range is mapped but sparse: a page costs memory when it is first touched.

pub(crate) mod allocator;
pub(crate) mod arena;
#[cfg(all(test, not(any(loom, shuttle))))]
mod arena_fuzz;
pub(crate) mod circle;
mod describe;
#[cfg(any(debug_assertions, feature = "fault"))]
pub mod fault;
#[cfg(not(any(debug_assertions, feature = "fault")))]
pub(crate) mod fault;
pub(crate) mod keeper;
pub(crate) mod objects;
pub(crate) mod offset;
pub(crate) mod participants;
pub(crate) mod segment;
pub(crate) mod shape;
pub(crate) mod table;
pub(crate) mod words;

pub(crate) use allocator::Block;
pub(crate) use arena::Arena;
pub(crate) use offset::Offset;
pub(crate) use participants::ParticipantId;
