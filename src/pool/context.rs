//! Contexts: a value that every call of a `map` may read, sent once and decoded once per worker.
//!
//! # Rules
//! R1. A thread of the user's process enters it in a free place (`context_place.rs`). Ids are never reused in a pool.
//! R2. A place is freed when no handle, map or unfinished task refers to it (an `Arc` in the user's
//!     process), so a worker that runs a task with a context always finds it.
//! R3. A worker keeps what it decoded until the place has another id or none, which it looks at
//!     before it sleeps and before it runs a task with a context. A context that carried handles
//!     wakes the workers when it goes, so that what they hold goes too.

use super::area::Area;
use super::context_place::{ContextPlace, Entered};
use crate::codec::{ArenaWriter, EncodeError, Stream, encode};
use crate::error::{Error, Step, TaskError};
use crate::limits::CONTEXTS_MAX;
use crate::shm::ParticipantId;
use crate::shm::arena::is_forked_copy;
use crate::sync::crossing::Carried;
use serde::{Serialize, de::DeserializeOwned};
use std::any::{Any, type_name};

/// A context in the arena; dropping it frees its place.
#[derive(Debug)]
pub(crate) struct Context {
    area: Area,
    place: u32,
    block: u64,
    /// What holds the shared objects to which it carries handles.
    carried: Vec<Carried>,
}

impl Context {
    /// Encodes `value` and enters it under `id`.
    pub(crate) fn create<C: Serialize + 'static>(
        area: Area,
        id: u64,
        value: &C,
        user: ParticipantId,
    ) -> Result<Self, Error> {
        let mut writer = ArenaWriter::in_new_block(area.arena, user, size_of::<C>() as u64)?;
        let mut carried = Vec::new();
        match encode(value, &mut writer, &mut carried) {
            Ok(()) => {}
            Err(EncodeError::Arena(error)) => return Err(error),
            Err(EncodeError::Refused(message)) => {
                return Err(TaskError::cannot_cross::<C>(Step::DecodeContext, message).into());
            }
        }
        let free = area.contexts().iter().position(ContextPlace::take);
        let Some(place) = free else {
            return Err(Error::limit(format!(
                "all {CONTEXTS_MAX} places for contexts of this pool are taken"
            )));
        };
        let (block, bytes) = writer.finish();
        let block = block.map_or(0, |block| block.offset);
        area.contexts()[place].enter(Entered { id, offset: block, bytes: bytes as u64 });
        Ok(Self { area, place: place as u32, block, carried })
    }

    /// What a slot's context word says.
    pub(crate) fn to_raw(&self) -> u32 {
        self.place + 1
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        if is_forked_copy() {
            return;
        }
        debug_assert!(self.area.is_there(), "the area goes after its contexts");
        self.area.contexts()[self.place as usize].leave();
        self.area.arena.free(self.block);
        if !self.carried.is_empty() {
            // Workers that sleep hold the objects too, through what they have decoded.
            self.area.idle().notify_everybody();
        }
    }
}

/// A worker's decoded contexts.
#[derive(Debug, Default)]
pub(crate) struct ContextCache {
    places: Vec<(u64, Option<Box<dyn Any>>)>,
}

impl ContextCache {
    /// Whether something is gone in the user's process that is still here (R3).
    pub(crate) fn has_gone(&self, area: &Area) -> bool {
        let mut places = self.places.iter().zip(area.contexts());
        places.any(|((id, _), entry)| *id != 0 && *id != entry.id())
    }

    /// Lets go of what is gone in the user's process (R3).
    pub(crate) fn forget_gone(&mut self, area: &Area) {
        for ((id, value), entry) in self.places.iter_mut().zip(area.contexts()) {
            if *id != 0 && *id != entry.id() {
                *id = 0;
                *value = None;
            }
        }
    }

    /// The context that a slot's context word names.
    pub(crate) fn get<C: DeserializeOwned + 'static>(
        &mut self,
        area: &Area,
        raw: u32,
    ) -> Result<&C, String> {
        self.places.resize_with(CONTEXTS_MAX, Default::default);
        self.forget_gone(area);
        let place = (raw as usize).checked_sub(1).filter(|place| *place < CONTEXTS_MAX);
        let place = place.ok_or("the task names no context")?;
        let Entered { id, offset, bytes } = area.contexts()[place].look();
        let (cached, value) = &mut self.places[place];
        if *cached != id || value.is_none() {
            let stream = read_stream::<C>(area, offset, bytes);
            let decoded = stream.ok_or("it is not inside the arena")?.value(0)?;
            *value = Some(Box::new(decoded));
            *cached = id;
        }
        let value = value.as_ref().and_then(|value| value.downcast_ref());
        value.ok_or_else(|| format!("the context is not a {}", type_name::<C>()))
    }
}

/// The context that a context word names, once.
pub(crate) fn decode<C: DeserializeOwned + 'static>(area: &Area, raw: u32) -> Result<C, String> {
    let place = (raw as usize).checked_sub(1).and_then(|place| area.contexts().get(place));
    let place = place.ok_or("it is named by nothing")?;
    let Entered { offset, bytes, .. } = place.look();
    let stream = read_stream::<C>(area, offset, bytes);
    stream.ok_or("it is not inside the arena")?.value(0)
}

#[allow(unsafe_code)] // Reads a block that does not change.
fn read_stream<C: DeserializeOwned + 'static>(
    area: &Area,
    offset: u64,
    bytes: u64,
) -> Option<Stream<'_, C>> {
    // SAFETY: R2: the context lives as long as a task that names it, and is never written again.
    unsafe { Stream::at(area.arena, offset, bytes, 0) }
}
