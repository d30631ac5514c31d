//! Putting typed values into a buffer and getting them out, waiting if need be: what `Queue` and the
//! ends of a `Pipe` have in common.
#![allow(unsafe_code)] // Reads blocks that were taken over.

use super::buffer::{Buffer, BufferState, NotPut, Taken};
use super::errors::{GetError, PutError};
use crate::codec::kept::{append_value, is_plain, plain_bytes, value_of};
use crate::collections::Kept;
use crate::collections::scratch::{Scratch, with_scratch};
use crate::error::{Error, crossing as type_and};
use crate::shm::Arena;
use crate::sync::handle::{Reference, own_participant};
use crate::sync::state::Deadline;

/// Why nothing more can be put, or got when the buffer is drained.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    Closed,
    Disconnected,
    OwnerDied,
}

impl Ended {
    pub(super) fn put<T>(self, value: T) -> PutError<T> {
        match self {
            Self::Closed => PutError::Closed(value),
            Self::Disconnected => PutError::Disconnected(value),
            Self::OwnerDied => PutError::OwnerDied(value),
        }
    }

    pub(super) fn get(self) -> GetError {
        match self {
            Self::Closed => GetError::Closed,
            Self::Disconnected => GetError::Disconnected,
            Self::OwnerDied => GetError::OwnerDied,
        }
    }
}

/// A buffer, and who does something with it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Transfer<'a> {
    pub(super) caller: &'a Reference,
    pub(super) state: &'a BufferState,
    pub(super) buffer: Buffer<'a>,
}

pub(super) fn damaged() -> Error {
    Error::broken("a queue leads to something that is not inside the arena".into())
}

/// What a value was taken from, decoded.
pub(super) fn decode_bytes<T: Kept>(bytes: &[u8]) -> Result<T, GetError> {
    value_of(bytes).map_err(|why| {
        GetError::Failed(Error::invalid(format!("cannot decode a value: {}", type_and::<T>(why))))
    })
}

pub(super) fn encode<T: Kept>(value: &T, scratch: &mut Scratch) -> Result<(), Error> {
    scratch.value.clear();
    scratch.carried.clear();
    append_value(value, &mut scratch.value, &mut scratch.carried)
        .map_err(|why| Error::invalid(format!("cannot encode a value: {}", type_and::<T>(why))))
}

fn decode<T: Kept>(
    arena: &Arena,
    scratch: &Scratch,
    taken: Taken<'_, Option<Result<T, GetError>>>,
) -> Result<T, GetError> {
    let value = match (taken.read, taken.block) {
        (Some(Some(value)), _) => value,
        (Some(None), _) => decode_bytes(&scratch.before),
        (None, block) => match arena.bytes_at(block, taken.bytes as u64) {
            Some(start) => {
                // SAFETY: inside the arena, and the block is this process's alone now.
                let bytes = unsafe { std::slice::from_raw_parts(start.as_ptr(), taken.bytes) };
                decode_bytes(bytes)
            }
            None => Err(GetError::Failed(damaged())),
        },
    };
    // Only now, because what is decoded may lead to what is given up.
    drop(taken.carried);
    value
}

impl Transfer<'_> {
    /// Puts a value; waits for room until `deadline`. `ended` says why no more can be put.
    #[inline]
    pub(super) fn put<T: Kept>(
        &self,
        value: T,
        deadline: Deadline,
        ended: impl Fn() -> Option<Ended>,
    ) -> Result<(), PutError<T>> {
        let me = own_participant();
        let put = with_scratch(|scratch| -> Result<Option<Result<(), Ended>>, Error> {
            let bytes = match plain_bytes(&value) {
                Some(bytes) => bytes,
                None => {
                    encode(&value, scratch)?;
                    &scratch.value
                }
            };
            let mut message = self.buffer.prepare(bytes, &scratch.carried)?;
            let mut attempt = || match ended() {
                Some(ended) => Some(Err(ended)),
                None => match self.buffer.try_put(me, &mut message, || ended().is_some()) {
                    Ok(()) => Some(Ok(())),
                    Err(NotPut::Closed) => ended().map(Err),
                    Err(NotPut::Full) => None,
                },
            };
            let put = attempt();
            if put.is_some() || deadline == Deadline::At(0) {
                return Ok(put);
            }
            Ok(self.state.putters.0.wait(self.caller, deadline, attempt))
        });
        match put {
            Ok(Some(Ok(()))) => {
                self.state.getters.0.notify(self.caller, 1);
                // Cells may be emptied out of order: the advice for a later one came while this one was in
                // the way, and whoever was advised has found nothing. So who fills one looks for the next.
                if self.state.putters.0.waiting() > 0 && self.buffer.has_room() {
                    self.state.putters.0.notify(self.caller, 1);
                }
                Ok(())
            }
            Ok(Some(Err(ended))) => {
                // Getters may have seen the cell that was claimed in vain, and wait for its value.
                self.state.getters.0.notify(self.caller, u32::MAX);
                Err(ended.put(value))
            }
            Ok(None) => Err(PutError::Full(value)),
            Err(error) => Err(PutError::Failed(value, error)),
        }
    }

    /// Gets a value; waits for one until `deadline`. `ended` says why no more will be put.
    #[inline]
    pub(super) fn get<T: Kept>(
        &self,
        deadline: Deadline,
        ended: impl Fn() -> Option<Ended>,
    ) -> Result<T, GetError> {
        let me = own_participant();
        with_scratch(|scratch| {
            let before = &mut scratch.before;
            let mut take = || {
                self.buffer.try_get(me, |bytes| {
                    if is_plain::<T>() {
                        return Some(decode_bytes(bytes));
                    }
                    before.clear();
                    before.extend_from_slice(bytes);
                    None
                })
            };
            let mut attempt = || {
                if let Some(taken) = take() {
                    return Some(Ok(taken));
                }
                let ended = ended()?;
                // What was being put when it ended comes before the end.
                match take() {
                    Some(taken) => Some(Ok(taken)),
                    None => self.buffer.is_drained().then_some(Err(ended)),
                }
            };
            let mut got = attempt();
            if got.is_none() && deadline != Deadline::At(0) {
                got = self.state.getters.0.wait(self.caller, deadline, attempt);
            }
            match got {
                Some(Ok(taken)) => {
                    self.state.putters.0.notify(self.caller, 1);
                    if ended().is_some() {
                        // Those who saw the value being taken wait to know whether it was.
                        self.state.getters.0.notify(self.caller, u32::MAX);
                    }
                    decode(self.caller.arena(), scratch, taken)
                }
                Some(Err(ended)) => Err(ended.get()),
                None => Err(GetError::Empty),
            }
        })
    }
}
