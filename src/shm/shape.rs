//! What names an object, and what says of which type it is.

use crate::error::Error;
use serde::{Deserialize, Serialize};

/// Names an object for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct ObjectId {
    pub(super) index: u32,
    pub(super) uid: u64,
}

impl ObjectId {
    #[cfg(feature = "raw_sync")]
    pub(crate) const BYTES: usize = 12;

    #[cfg(feature = "raw_sync")]
    pub(crate) fn to_bytes(self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[..4].copy_from_slice(&self.index.to_ne_bytes());
        bytes[4..].copy_from_slice(&self.uid.to_ne_bytes());
        bytes
    }

    #[cfg(feature = "raw_sync")]
    pub(crate) fn from_bytes(bytes: [u8; Self::BYTES]) -> Self {
        let [a, b, c, d, uid @ ..] = bytes;
        Self { index: u32::from_ne_bytes([a, b, c, d]), uid: u64::from_ne_bytes(uid) }
    }

    pub(crate) fn of(index: u32, uid: u64) -> Self {
        Self { index, uid }
    }

    pub(crate) fn uid(self) -> u64 {
        self.uid
    }

    /// The place in the table: unique among the objects that live at the same time.
    pub(crate) fn index(self) -> u32 {
        self.index
    }
}

/// What an object is: checked whenever a handle arrives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shape {
    /// One number for each type of object.
    pub(crate) kind: u32,
    /// Size and alignment of the value inside.
    pub(crate) value_bytes: u32,
    pub(crate) value_align: u32,
    /// Whether the value is kept encoded, and what lies inside is a word that leads to it.
    pub(crate) encoded: bool,
}

impl Shape {
    /// Refuses a handle of another shape than the object's.
    pub(crate) fn check(self, handle: Self) -> Result<(), Error> {
        if self == handle {
            return Ok(());
        }
        Err(Error::invalid(format!("a handle of {handle:?} leads to an object of {self:?}")))
    }

    pub(super) fn to_raw(self) -> u64 {
        u64::from(self.encoded) << 63
            | u64::from(self.kind) << 48
            | u64::from(self.value_align) << 32
            | u64::from(self.value_bytes)
    }

    pub(super) fn from_raw(raw: u64) -> Self {
        Self {
            encoded: raw >> 63 != 0,
            kind: (raw >> 48) as u32 & 0x7fff,
            value_align: (raw >> 32) as u32 & 0xffff,
            value_bytes: raw as u32,
        }
    }
}
