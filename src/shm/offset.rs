//! References inside the arena, and the only pointer arithmetic of the crate on shared memory.
//!
//! # Rules
//! R1. An offset counts bytes from the base of the mapping; 0 (the arena's header) means "none".
//! R2. Resolving checks bounds and alignment. What it returns for a bad offset is `None`: the value
//!     came from memory that a dying process may have been writing.
//! R3. A type may be resolved if it is [`Shared`]: valid for every bit pattern and changed only
//!     through atomics or raw pointers.
#![allow(unsafe_code)] // Turns offsets into references, after checking them.

use super::arena::Arena;
use std::fmt;
use std::marker::PhantomData;
use std::ptr::NonNull;

/// A type that may live in shared memory.
///
/// # Safety
/// Every bit pattern is a valid value, it contains no pointers and no references, and all of its
/// fields are atomics, arrays of them, or cells that are only accessed through raw pointers.
pub(crate) unsafe trait Shared {}

/// The place of a `T` in the arena, in bytes from its base.
pub(crate) struct Offset<T> {
    bytes: u64,
    of: PhantomData<fn() -> T>,
}

impl<T> Offset<T> {
    pub(crate) const fn new(bytes: u64) -> Self {
        Self { bytes, of: PhantomData }
    }
}

impl<T> Clone for Offset<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Offset<T> {}

impl<T> fmt::Debug for Offset<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Offset({:#x})", self.bytes)
    }
}

impl Arena {
    /// The address of `bytes` bytes at `offset`, or `None` if they are not all inside the arena.
    pub(crate) fn bytes_at(&self, offset: u64, bytes: u64) -> Option<NonNull<u8>> {
        let end = offset.checked_add(bytes)?;
        if offset == 0 || end > self.bytes() as u64 {
            return None;
        }
        // SAFETY: R2: offset and end are inside the mapping.
        Some(unsafe { self.base().add(offset as usize) })
    }

    /// Resolves an offset (R2).
    pub(crate) fn at<T: Shared>(&self, offset: Offset<T>) -> Option<&T> {
        self.slice_at(offset, 1)?.first()
    }

    /// Resolves `count` values that lie one after the other (R2).
    pub(crate) fn slice_at<T: Shared>(&self, offset: Offset<T>, count: usize) -> Option<&[T]> {
        let bytes = (size_of::<T>() as u64).checked_mul(count as u64)?;
        let start = self.bytes_at(offset.bytes, bytes)?.cast::<T>();
        if !start.is_aligned() {
            return None;
        }
        // SAFETY: in bounds and aligned as just checked; any bit pattern is a value (R3); the
        // mapping lives as long as the arena, which the returned lifetime borrows.
        Some(unsafe { std::slice::from_raw_parts(start.as_ptr(), count) })
    }

    /// The header at the base, which offset 0 cannot name.
    pub(super) fn header_at_base<T: Shared>(&self) -> &T {
        const { assert!(size_of::<T>() <= 4096) };
        // SAFETY: every arena is larger than one page and page-aligned; R3 for the rest.
        unsafe { self.base().cast::<T>().as_ref() }
    }

    /// The offset of an address inside the arena.
    pub(crate) fn offset_of(&self, address: *const u8) -> u64 {
        (address as usize).wrapping_sub(self.base().as_ptr() as usize) as u64
    }
}
