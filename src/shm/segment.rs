//! A stretch of memory that several processes map: private (a sealed memfd) or named.
//!
//! A private segment has no name, so nothing can be left behind: it goes with its last process, and
//! it does not count against the size of `/dev/shm`. A named one is a `shared_memory` segment that
//! unrelated programs find by name; around that crate we add what it leaves open:
//!
//! - its pages are reserved before use, so that a full `/dev/shm` is an error here and not SIGBUS
//!   at some later write;
//! - its name carries the owner (`NAME` is kept as `procpool.PID.START.NAME`), and creating one
//!   first unlinks those whose owner is dead;
//! - a forked child never unlinks its parent's segment: only the creating process does.
//!
//! # If a process dies
//! Private: nothing to do. Named: the name stays until the next creation on the machine sweeps it.
//! (The guardian unlinks it at once; that arrives with named arenas.)
#![allow(unsafe_code)] // Shares a raw mapping between threads.

use crate::error::Error;
use crate::sys;
use shared_memory::{Shmem, ShmemConf};
use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;

/// A shared mapping and what keeps it alive.
pub(crate) struct Segment {
    base: NonNull<u8>,
    bytes: usize,
    backing: Backing,
}

enum Backing {
    Private(OwnedFd),
    Named { mapping: Shmem, creator: u32 },
}

// SAFETY: the mapping stays where it is until drop, and all access to its content goes through
// atomics or claims (see `offset.rs`), which hold across threads as they hold across processes.
unsafe impl Send for Segment {}
// SAFETY: as above.
unsafe impl Sync for Segment {}

impl Segment {
    /// Creates a private segment.
    pub(crate) fn private(bytes: usize) -> Result<Self, Error> {
        let fd = sys::memory::sealed_memfd("procpool", bytes as u64)
            .map_err(|error| Error::os("create the arena's memory file", error))?;
        Self::over(fd, bytes)
    }

    /// Maps the private segment that another process of this tree handed over.
    pub(crate) fn from_descriptor(fd: OwnedFd) -> Result<Self, Error> {
        let bytes = sys::memory::file_bytes(fd.as_fd())
            .map_err(|error| Error::os("measure the arena", error))?;
        Self::over(fd, bytes as usize)
    }

    fn over(fd: OwnedFd, bytes: usize) -> Result<Self, Error> {
        let base = sys::memory::map_shared(&fd, bytes)
            .map_err(|error| Error::os(&format!("map an arena of {bytes} bytes"), error))?;
        Ok(Self { base, bytes, backing: Backing::Private(fd) })
    }

    pub(crate) fn base(&self) -> NonNull<u8> {
        self.base
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The memory file of a private segment, to hand to a child.
    pub(crate) fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        match &self.backing {
            Backing::Private(fd) => Some(fd.as_fd()),
            Backing::Named { .. } => None,
        }
    }
}

#[cfg_attr(not(test), expect(dead_code, reason = "named arenas open here"))]
mod named {
    use super::*;

    const FOLDER: &str = "/dev/shm";

    fn failed(doing: &str, name: &str, error: impl fmt::Display) -> Error {
        Error::invalid(format!("cannot {doing} the named segment {name:?}: {error}"))
    }

    /// The part of a file name that says whose it is: `procpool.PID.START.NAME`.
    fn owner_of(file: &str) -> Option<(u32, u64, &str)> {
        let mut parts = file.strip_prefix("procpool.")?.splitn(3, '.');
        Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?, parts.next()?))
    }

    fn living(name: Option<&str>) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(FOLDER) else { return Vec::new() };
        let files = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        files
            .filter(|file| {
                let Some((pid, start, found)) = owner_of(file) else { return false };
                let alive = sys::process::start_time_ticks(pid) == Some(start);
                if !alive {
                    // Somebody else may have swept it first.
                    let _ = sys::memory::unlink_named(&format!("/{file}"));
                }
                alive && name.is_none_or(|name| name == found)
            })
            .collect()
    }

    impl Segment {
        /// Unlinks the segments of dead owners.
        pub(crate) fn sweep() {
            living(None);
        }

        /// Creates a segment under `name`, all of it reserved.
        pub(crate) fn create_named(name: &str, bytes: usize) -> Result<Self, Error> {
            if name.is_empty() || name.contains(['/', '\0']) {
                return Err(Error::invalid(format!(
                    "the segment name {name:?} is empty or contains a slash or a NUL"
                )));
            }
            if !living(Some(name)).is_empty() {
                return Err(failed("create", name, "it exists and its owner is alive"));
            }
            let creator = sys::process::own_pid();
            let start = sys::process::start_time_ticks(creator).unwrap_or(0);
            let id = format!("/procpool.{creator}.{start}.{name}");
            let mapping = ShmemConf::new()
                .os_id(&id)
                .size(bytes)
                .create()
                .map_err(|error| failed("create", name, error))?;
            // From here on, dropping `mapping` unlinks the name again.
            sys::memory::reserve_named(&id, bytes as u64)
                .map_err(|error| failed(&format!("reserve {bytes} bytes for"), name, error))?;
            Self::over_mapping(mapping, creator, name)
        }

        /// Opens the segment that a living process created under `name`.
        pub(crate) fn open_named(name: &str) -> Result<Self, Error> {
            let Some(file) = living(Some(name)).pop() else {
                return Err(failed("open", name, "no living process owns one of that name"));
            };
            let mapping = ShmemConf::new()
                .os_id(format!("/{file}"))
                .open()
                .map_err(|error| failed("open", name, error))?;
            Self::over_mapping(mapping, 0, name)
        }

        fn over_mapping(mapping: Shmem, creator: u32, name: &str) -> Result<Self, Error> {
            let base = NonNull::new(mapping.as_ptr())
                .ok_or_else(|| failed("map", name, "the mapping is at address 0"))?;
            let bytes = mapping.len();
            Ok(Self { base, bytes, backing: Backing::Named { mapping, creator } })
        }
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        fn unique(name: &str) -> String {
            format!("{name}-{}", sys::process::own_pid())
        }

        #[test]
        fn two_mappings_of_a_name_see_the_same_bytes_and_drop_unlinks() {
            let name = unique("shared");
            let first = Segment::create_named(&name, 8192).unwrap();
            let second = Segment::open_named(&name).unwrap();
            assert_ne!(first.base(), second.base());
            // SAFETY: both mappings are at least one byte long and nobody else uses them.
            unsafe { first.base().write(7) };
            // SAFETY: as above.
            assert_eq!(unsafe { second.base().read() }, 7);
            assert!(Segment::create_named(&name, 4096).is_err(), "the name is taken");
            drop(first);
            assert!(Segment::open_named(&name).is_err(), "the owner has gone");
        }

        #[test]
        fn the_name_of_a_dead_owner_is_swept() {
            let file = format!("/dev/shm/procpool.{}.1.left-behind", u32::MAX / 4);
            std::fs::write(&file, b"x").unwrap();
            Segment::sweep();
            assert!(!std::path::Path::new(&file).exists());
        }

        #[test]
        fn more_than_the_file_system_holds_is_an_error_and_leaves_no_name() {
            let name = unique("huge");
            assert!(Segment::create_named(&name, 1 << 45).is_err());
            assert!(Segment::open_named(&name).is_err());
        }
    }
}

impl Drop for Segment {
    fn drop(&mut self) {
        match &mut self.backing {
            Backing::Private(_) => {
                // SAFETY: we own the mapping; borrows of it end with the arena that holds us.
                unsafe { sys::memory::unmap(self.base, self.bytes) };
            }
            Backing::Named { mapping, creator } => {
                mapping.set_owner(*creator == sys::process::own_pid());
            }
        }
    }
}

impl fmt::Debug for Segment {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.backing {
            Backing::Private(_) => "private",
            Backing::Named { .. } => "named",
        };
        formatter.debug_struct("Segment").field("kind", &kind).field("bytes", &self.bytes).finish()
    }
}
