//! What the arena's keeper (`shm/keeper.rs`) is told of collections.

use super::array::ArrayState;
use super::map::MapState;
use super::sequence::SequenceState;
use crate::shm::keeper::Part;
use crate::shm::objects::Described;
use crate::shm::{Arena, Offset, ParticipantId};
use crate::sync::settle::Kind;

/// Visits what is reachable from a collection; with a participant, only where that one may have been
/// changing it. `false` if the object is of another kind.
pub(crate) fn each_part(
    arena: &Arena,
    object: Described,
    changed_by: Option<ParticipantId>,
    visit: &mut dyn FnMut(Part),
) -> bool {
    const DICT: u32 = Kind::Dict as u32;
    const NAMESPACE: u32 = Kind::Namespace as u32;
    const LIST: u32 = Kind::List as u32;
    match object.kind {
        DICT | NAMESPACE => {
            if let Some(map) = arena.at(Offset::<MapState>::new(object.block)) {
                map.each_part(arena, changed_by, visit);
            }
        }
        LIST => {
            if let Some(list) = arena.at(Offset::<SequenceState>::new(object.block)) {
                list.each_part(arena, changed_by, visit);
            }
        }
        _ => return false,
    }
    true
}

/// Brings a collection in order of which a dead process held a handle.
pub(crate) fn settle(arena: &Arena, object: Described, dead: ParticipantId) {
    if object.kind == Kind::Array as u32
        && let Some(array) = arena.at(Offset::<ArrayState>::new(object.block))
    {
        array.forget_holder(dead.to_raw() as u32);
    }
}

/// Checks that what is reachable is nobody's, and reachable once.
pub(crate) fn check_parts(
    arena: &Arena,
    each_part: impl FnOnce(&mut dyn FnMut(Part)),
) -> Result<(), String> {
    let (mut seen, mut wrong) = (std::collections::HashSet::new(), None);
    each_part(&mut |part| {
        if !seen.insert(part) {
            wrong = Some(format!("{part:x?} is reachable twice"));
        }
        if let Part::Block(block) = part
            && arena.owner_of(block) != Some(ParticipantId::NOBODY)
        {
            wrong = Some(format!("the block {block:#x} is {:?}'s", arena.owner_of(block)));
        }
    });
    wrong.map_or(Ok(()), Err)
}
