//! Collections that processes share: what CPython's `Manager` offers, without a server process.
//!
//! | type | is | a process dies while it changes it |
//! |---|---|---|
//! | [`Dict`] | keys to values | that change has happened, or it has not |
//! | [`List`] | values in order | likewise |
//! | [`Array`] | numbers or other plain data, of a fixed number | an element: likewise; under the lock: the next owner is told |
//! | [`Namespace`] | named values of any types | likewise |
//!
//! The data is in the arena, and every process works on it directly. Keys and values are any `serde`
//! types; handles to collections, queues and locks are, too, so collections nest.
//!
//! **What is read from a collection is a copy.** Changing it changes nothing in the collection until
//! it is put back. (CPython's managed `dict` and `list` behave so as well.) [`Dict::update`] and
//! [`List::update`] read, change and put back, atomically.
//!
//! # Lifetimes
//! As for [`sync`](crate::sync): a collection lives while any process has a handle to it, or one is on
//! its way, or is stored in another collection that lives. A collection that contains a handle to
//! itself, directly or through others, lives as long as the arena.

pub(crate) mod array;
#[cfg(all(test, not(any(loom, shuttle))))]
mod array_fuzz;
mod buckets;
pub(crate) mod dict;
mod elements;
pub(crate) mod entry;
pub(crate) mod heap;
pub(crate) mod keep;
mod kept;
pub(crate) mod list;
mod map;
pub(crate) mod namespace;
mod pairs;
pub(crate) mod scratch;
mod sequence;
pub(crate) mod stripe;

pub use array::{Array, ArrayGuard};
pub use dict::Dict;
pub use kept::{Kept, KeyFor};
pub use list::List;
pub use namespace::Namespace;
