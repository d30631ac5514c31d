//! What the layers above know of their objects: a collection has more in the arena than the blocks
//! that its object names.
//!
//! # Rules
//! R1. What is reachable from a living object is nobody's: its blocks, and the holdings of what is
//!     stored in it. What is not yet reachable, or no longer, belongs to the process that is adding
//!     or removing it. So a process that adds something gives it away *after* the store that makes it
//!     reachable, and one that removes something takes it over *before* the store that cuts it off.
//! R2. Whoever dies in between leaves something reachable that carries its id. Settlement makes it
//!     nobody's before it frees what is the dead one's.
//!
//! The functions are installed before `main`, by a layer above all that have such objects.

use super::arena::Arena;
use super::objects::{Described, Objects};
use super::participants::ParticipantId;
use std::sync::OnceLock;

/// Something that belongs to an object beside its own blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Part {
    Block(u64),
    /// The first of a list of holdings: what is stored in the object.
    Stored(u32),
}

type EachPart = fn(&Arena, Described, Option<ParticipantId>, &mut dyn FnMut(Part));

/// See the module documentation.
#[derive(Debug)]
pub(crate) struct Keeper {
    /// Visits what is reachable from an object; with a participant, only where that one may have been
    /// changing it.
    pub(crate) each_part: EachPart,
    /// Brings an object in order of which a dead process held a handle. What that one was adding or
    /// removing is nobody's by then, as far as it is reachable.
    pub(crate) settle: fn(&Objects<'_>, Described, ParticipantId),
    /// An object is gone: whoever waits for something of it looks again.
    pub(crate) gone: fn(&Arena, kind: u32),
}

static KEEPER: OnceLock<Keeper> = OnceLock::new();

/// Installs the functions.
pub(crate) fn install(keeper: Keeper) {
    // A second one would be the same.
    let _ = KEEPER.set(keeper);
}

/// Calls [`Keeper::each_part`].
pub(super) fn each_part(
    arena: &Arena,
    object: Described,
    changed_by: Option<ParticipantId>,
    visit: &mut dyn FnMut(Part),
) {
    if let Some(keeper) = KEEPER.get() {
        (keeper.each_part)(arena, object, changed_by, visit);
    }
}

/// Calls [`Keeper::settle`].
pub(crate) fn settle(locked: &Objects<'_>, object: Described, dead: ParticipantId) {
    if let Some(keeper) = KEEPER.get() {
        (keeper.settle)(locked, object, dead);
    }
}

/// Calls [`Keeper::gone`].
pub(super) fn gone(arena: &Arena, kind: u32) {
    if let Some(keeper) = KEEPER.get() {
        (keeper.gone)(arena, kind);
    }
}
