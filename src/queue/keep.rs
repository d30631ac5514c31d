//! What the arena's keeper (`shm/keeper.rs`) is told of everything above it: installed before `main`.

use super::{chain, pipe, queue};
use crate::collections;
use crate::prim::{SeqCst, fence};
use crate::shm::keeper::{self, Keeper, Part};
use crate::shm::objects::{Described, Objects};
use crate::shm::{Arena, ParticipantId};
use crate::sync::settle::Kind;
use crate::sync::state::Records;

const QUEUE: u32 = Kind::Queue as u32;
const JOINABLE: u32 = Kind::JoinableQueue as u32;
const PIPE: u32 = Kind::Pipe as u32;
const END: u32 = Kind::PipeEnd as u32;

/// Installs the functions.
pub(crate) fn install() {
    keeper::install(Keeper { each_part, settle, gone });
}

fn each_part(
    arena: &Arena,
    object: Described,
    changed_by: Option<ParticipantId>,
    visit: &mut dyn FnMut(Part),
) {
    if collections::keep::each_part(arena, object, changed_by, visit) {
        return;
    }
    match object.kind {
        // What a dead process had claimed in a buffer is found cell by cell: `settle`.
        QUEUE if changed_by.is_none() => queue::each_part(arena, object.block, visit),
        PIPE if changed_by.is_none() => {
            pipe::buffers_at(arena, object.block).for_each(|buffer| buffer.each_part(visit));
        }
        END => pipe::each_part_of_end(arena, object.block, visit),
        JOINABLE => chain::each_part(arena, object.block, changed_by, visit),
        _ => {}
    }
}

fn settle(locked: &Objects<'_>, described: Described, dead: ParticipantId) {
    let (arena, Described { object, kind, block }) = (locked.arena(), described);
    match kind {
        QUEUE => {
            if let Some(buffer) = queue::at(arena, block) {
                buffer.settle(locked, object, dead);
            }
        }
        PIPE => {
            for buffer in pipe::buffers_at(arena, block) {
                buffer.settle(locked, object, dead);
            }
        }
        JOINABLE => chain::settle(arena, block, object, dead),
        _ => collections::keep::settle(arena, described, dead),
    }
}

fn gone(arena: &Arena, kind: u32) {
    if kind == END {
        // Whoever waits at the other end looks whether this one is still there. It has entered itself before
        // it looked: the barrier has us see it, or it the end.
        fence(SeqCst);
        arena.each_waiter(&mut |_, waiter| waiter.poke());
    }
}
