//! Naming a function across processes, and making sure that both sides run the same program.
//!
//! A function is sent as its distance from one function of this crate in the same image. The
//! address space of every process is laid out anew, but distances inside an image are fixed.
#![allow(unsafe_code)] // Turns a checked distance back into a function pointer.

use crate::error::Error;
use crate::shm::Arena;
use crate::sys;
use serde::{Deserialize, Serialize};
use std::ops::Range;
use std::sync::OnceLock;

/// The function that distances are measured from.
#[inline(never)]
fn anchor() -> usize {
    anchor as fn() -> usize as usize
}

/// The code of the image that contains this crate.
fn text() -> &'static Range<usize> {
    static TEXT: OnceLock<Range<usize>> = OnceLock::new();
    TEXT.get_or_init(|| sys::image::text_range_around(anchor()).unwrap_or(0..0))
}

/// The place of a function, as a distance from [`anchor`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct CodeOffset(u64);

impl CodeOffset {
    /// Names the function at `address`.
    ///
    /// # Errors
    /// If it lives in another image (a library loaded at run time), which the workers may not have.
    #[inline]
    pub(crate) fn of(address: usize) -> Result<Self, Error> {
        if text().contains(&address) {
            Ok(Self(address.wrapping_sub(anchor()) as u64))
        } else {
            Err(Error::invalid(format!(
                "the function at {address:#x} is outside the program's own code {:#x?}: \
                 functions of libraries loaded at run time cannot be tasks",
                text()
            )))
        }
    }

    pub(crate) fn from_raw(raw: u64) -> Self {
        Self(raw)
    }

    pub(crate) fn to_raw(self) -> u64 {
        self.0
    }

    /// The address in this process, if it is inside the program's code.
    #[inline]
    pub(crate) fn resolve(self) -> Option<usize> {
        let address = anchor().wrapping_add(self.0 as usize);
        text().contains(&address).then_some(address)
    }
}

/// What the guardian forks into: never returns to the caller.
pub(crate) type Entry = fn(argument: &[u8]);

/// The entry function at `offset`.
pub(crate) fn resolve_entry(offset: CodeOffset) -> Option<Entry> {
    let address = offset.resolve()?;
    // SAFETY: entry offsets are made from `Entry` functions by this same program (the handshake
    // compared identities), and the address lies in its code.
    Some(unsafe { std::mem::transmute::<usize, Entry>(address) })
}

/// Which program this is: equal in two processes exactly if they run the same file with the same
/// layout of shared structures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Identity {
    device: u64,
    inode: u64,
    layout: u64,
}

impl Identity {
    /// Of the running program.
    pub(crate) fn own() -> Result<Self, Error> {
        use std::os::unix::fs::MetadataExt;
        let file = crate::sys::folder::metadata("/proc/self/exe")
            .map_err(|error| Error::os("identify the running executable", error))?;
        Ok(Self { device: file.dev(), inode: file.ino(), layout: layout_hash() })
    }
}

/// A number that changes with the crate's version, its shared layout and the place of its code.
fn layout_hash() -> u64 {
    let facts = [
        size_of::<Arena>() as u64,
        crate::limits::PARTICIPANTS_MAX as u64,
        crate::shm::allocator::UNIT_BYTES,
        (text().end - text().start) as u64,
        anchor().wrapping_sub(text().start) as u64,
    ];
    let version = env!("CARGO_PKG_VERSION").bytes().map(u64::from);
    // FNV-1a over 64-bit items.
    facts
        .into_iter()
        .chain(version)
        .fold(0xcbf2_9ce4_8422_2325, |hash, fact| (hash ^ fact).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_functions_have_a_name_and_strange_addresses_have_none() {
        let here = layout_hash as fn() -> u64 as usize;
        assert_eq!(CodeOffset::of(here).unwrap().resolve(), Some(here));
        let library = libc::getpid as *const () as usize;
        let error = CodeOffset::of(library).unwrap_err().to_string();
        assert!(error.contains("loaded at run time"), "{error}");
        assert_eq!(CodeOffset::from_raw(1 << 60).resolve(), None);
    }
}
