//! Reading the values of a batch; the layout is in the module documentation.
#![allow(unsafe_code)] // Reads arena memory that the caller has claimed.

use super::{Shape, decode, shape_of};
use crate::shm::Arena;
use serde::de::DeserializeOwned;
use std::marker::PhantomData;

/// The values of one batch, in arena memory.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stream<'a, T> {
    bytes: &'a [u8],
    /// Entries in the table of ends; 0 if there is none.
    table_calls: usize,
    of: PhantomData<fn() -> T>,
}

impl<'a, T: DeserializeOwned + 'static> Stream<'a, T> {
    /// The stream at `offset`; `None` if it is not inside the arena.
    ///
    /// # Safety
    /// Nobody writes to those bytes while the stream is used.
    pub(crate) unsafe fn at(
        arena: &'a Arena,
        offset: u64,
        bytes: u64,
        table_calls: usize,
    ) -> Option<Self> {
        let start = arena.bytes_at(offset, bytes)?;
        // SAFETY: the range is inside the arena, and the caller promises that it does not change.
        let bytes = unsafe { std::slice::from_raw_parts(start.as_ptr(), bytes as usize) };
        if table_calls.checked_mul(8)? > bytes.len() {
            return None;
        }
        Some(Self { bytes, table_calls, of: PhantomData })
    }

    /// A stream of one value.
    pub(crate) fn of_one(bytes: &'a [u8]) -> Self {
        Self { bytes, table_calls: 0, of: PhantomData }
    }

    fn end(&self, index: usize) -> Option<usize> {
        let place = index.checked_mul(8)?;
        let bytes = self.bytes.get(place..place + 8)?;
        usize::try_from(u64::from_ne_bytes(bytes.try_into().ok()?)).ok()
    }

    #[inline]
    fn bytes_of(&self, index: usize) -> Option<&'a [u8]> {
        if self.table_calls > 0 {
            if index >= self.table_calls {
                return None;
            }
            let start = match index {
                0 => self.table_calls * 8,
                _ => self.end(index - 1)?,
            };
            return self.bytes.get(start..self.end(index)?);
        }
        match shape_of::<T>() {
            Shape::Plain => self.bytes.get(index * size_of::<T>()..(index + 1) * size_of::<T>()),
            Shape::Varying => (index == 0).then_some(self.bytes),
        }
    }

    /// Decodes value `index`.
    #[inline]
    pub(crate) fn value(&self, index: usize) -> Result<T, String> {
        match self.bytes_of(index) {
            Some(bytes) => decode(bytes),
            None => Err(format!("value {index} is not inside its {} bytes", self.bytes.len())),
        }
    }
}
