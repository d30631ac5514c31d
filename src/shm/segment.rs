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
//! Private: nothing to do. Named: the owner's guardian unlinks it at once; if that is dead, too, the
//! next creation on the machine does.
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
    Named { mapping: Shmem, creator: u32, fd: OwnedFd },
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

    /// The memory file, to hand to a child.
    pub(crate) fn descriptor(&self) -> BorrowedFd<'_> {
        match &self.backing {
            Backing::Private(fd) | Backing::Named { fd, .. } => fd.as_fd(),
        }
    }
}

/// Named segments: files of `/dev/shm` whose names carry their owners.
pub(crate) mod named {
    use super::*;

    const FOLDER: &str = "/dev/shm";

    /// Why a named segment cannot be had.
    #[derive(Debug)]
    pub(crate) enum NamedError {
        /// There is none of that name.
        Missing,
        /// Its owner is dead, and nobody has swept it yet.
        OwnerDead {
            pid: u32,
        },
        /// A living process owns one of that name.
        Exists {
            pid: u32,
        },
        /// Another user's.
        WrongUser {
            uid: u32,
        },
        /// Its owner has not finished making it.
        Unfinished,
        Failed(Error),
    }

    /// A file that is a segment: `procpool.PID.START.NAME`.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub(crate) struct File {
        pub(crate) file: String,
        pub(crate) pid: u32,
        start_time_ticks: u64,
        name: String,
    }

    impl File {
        fn parse(file: String) -> Option<Self> {
            let mut parts = file.strip_prefix("procpool.")?.splitn(3, '.');
            let (pid, start) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
            let name = parts.next()?.to_owned();
            Some(Self { file, pid, start_time_ticks: start, name })
        }

        fn is_alive(&self) -> bool {
            !sys::process::is_gone(self.pid, self.start_time_ticks)
        }

        fn unlink(&self) {
            // Somebody else may have been faster.
            let _ = sys::memory::unlink_named(&format!("/{}", self.file));
        }
    }

    #[cfg(test)]
    pub(crate) fn parse_for_test(file: String) {
        if let Some(parsed) = File::parse(file.clone()) {
            assert!(file.ends_with(&parsed.name) && parsed.file == file);
        }
    }

    fn files() -> std::io::Result<Vec<File>> {
        let names = sys::folder::names_in(FOLDER.as_ref())?;
        Ok(names.into_iter().filter_map(File::parse).collect())
    }

    fn failed(doing: &str, name: &str, error: impl fmt::Display) -> NamedError {
        NamedError::Failed(Error::invalid(format!(
            "cannot {doing} the named segment {name:?}: {error}"
        )))
    }

    /// The segment that a living process owns under `name`.
    pub(crate) fn find(name: &str) -> Result<File, NamedError> {
        let files = files().map_err(|error| failed("look for", name, error))?;
        let (alive, dead): (Vec<File>, Vec<File>) =
            files.into_iter().filter(|file| file.name == name).partition(File::is_alive);
        match (alive.into_iter().next(), dead.first()) {
            (Some(file), _) => Ok(file),
            (None, Some(file)) => Err(NamedError::OwnerDead { pid: file.pid }),
            (None, None) => Err(NamedError::Missing),
        }
    }

    /// Whether a process owns a segment, or may own one, if that cannot be learnt.
    pub(crate) fn has_segment(pid: u32) -> bool {
        files().map_or(true, |files| files.iter().any(|file| file.pid == pid))
    }

    /// Unlinks the segments of dead owners.
    pub(crate) fn sweep() {
        let files = files().unwrap_or_default();
        files.iter().filter(|file| !file.is_alive()).for_each(File::unlink);
    }

    impl Segment {
        /// Creates a segment under `name`, all of it reserved.
        pub(crate) fn create_named(name: &str, bytes: usize) -> Result<(Self, File), NamedError> {
            // A file's name has 255 bytes, of which the owner takes up to 41.
            if name.is_empty() || name.len() > 200 || name.contains(['/', '\0']) {
                return Err(NamedError::Failed(Error::invalid(format!(
                    "the name {name:?} is empty, longer than 200 bytes, or contains a slash or a NUL"
                ))));
            }
            sweep();
            match find(name) {
                Ok(other) => return Err(NamedError::Exists { pid: other.pid }),
                Err(error @ NamedError::Failed(_)) => return Err(error),
                Err(_) => {}
            }
            let pid = sys::process::own_pid();
            let start = sys::process::start_time_ticks(pid).unwrap_or(0);
            let file = format!("procpool.{pid}.{start}.{name}");
            sys::fail::attempt("shared_memory").map_err(|error| failed("create", name, error))?;
            let mapping = ShmemConf::new()
                .os_id(format!("/{file}"))
                .size(bytes)
                .create()
                .map_err(|error| failed("create", name, error))?;
            // From here on, dropping `mapping` unlinks the name again.
            let others = files().map_err(|error| failed("look for others of", name, error))?;
            let other = others.into_iter().find(|other| other.name == name && other.file != file);
            if let Some(other) = other {
                // Two at the same moment: whoever sees the other leaves.
                return Err(NamedError::Exists { pid: other.pid });
            }
            sys::memory::reserve_named(&format!("/{file}"), bytes as u64)
                .map_err(|error| failed(&format!("reserve {bytes} bytes for"), name, error))?;
            let found = File::parse(file).ok_or(NamedError::Missing)?;
            Ok((Self::over_mapping(mapping, pid, &found)?, found))
        }

        /// Opens a segment that was found.
        pub(crate) fn open_named(file: &File) -> Result<Self, NamedError> {
            use std::os::unix::fs::MetadataExt;
            let metadata = sys::folder::metadata(format!("{FOLDER}/{}", file.file));
            let metadata = metadata.map_err(|error| match error.kind() {
                std::io::ErrorKind::NotFound => NamedError::Missing,
                _ => failed("look at", &file.name, error),
            })?;
            if metadata.uid() != sys::process::own_uid() {
                return Err(NamedError::WrongUser { uid: metadata.uid() });
            }
            // Its owner gives it a length after it has made it, and pages after that.
            if metadata.len() == 0 || metadata.blocks() * 512 < metadata.len() {
                return Err(NamedError::Unfinished);
            }
            sys::fail::attempt("shared_memory")
                .map_err(|error| failed("open", &file.name, error))?;
            let mapping = ShmemConf::new()
                .os_id(format!("/{}", file.file))
                .open()
                .map_err(|error| failed("open", &file.name, error))?;
            Self::over_mapping(mapping, 0, file)
        }

        fn over_mapping(mapping: Shmem, creator: u32, file: &File) -> Result<Self, NamedError> {
            let fd = sys::memory::open_named(&format!("/{}", file.file))
                .map_err(|error| failed("open", &file.name, error))?;
            let base = NonNull::new(mapping.as_ptr())
                .ok_or_else(|| failed("map", &file.name, "the mapping is at address 0"))?;
            let bytes = mapping.len();
            Ok(Self { base, bytes, backing: Backing::Named { mapping, creator, fd } })
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
            let (first, file) = Segment::create_named(&name, 8192).unwrap();
            let second = Segment::open_named(&find(&name).unwrap()).unwrap();
            assert_ne!(first.base(), second.base());
            // SAFETY: both mappings are at least one byte long and nobody else uses them.
            unsafe { first.base().write(7) };
            // SAFETY: as above.
            assert_eq!(unsafe { second.base().read() }, 7);
            let refused = Segment::create_named(&name, 4096);
            assert!(matches!(refused, Err(NamedError::Exists { pid }) if pid == file.pid));
            drop(first);
            assert!(matches!(find(&name), Err(NamedError::Missing)), "the owner has gone");
        }

        #[test]
        fn nobody_else_may_open_it() {
            use std::os::unix::fs::MetadataExt;
            let (_segment, file) = Segment::create_named(&unique("mode"), 4096).unwrap();
            let metadata = std::fs::metadata(format!("{FOLDER}/{}", file.file)).unwrap();
            assert_eq!(metadata.mode() & 0o777, 0o600);
        }

        #[test]
        fn the_name_of_a_dead_owner_is_said_to_be_and_swept() {
            let name = unique("left-behind");
            let (pid, folder) = (u32::MAX / 4, FOLDER);
            let file = format!("{folder}/procpool.{pid}.1.{name}");
            std::fs::write(&file, b"x").unwrap();
            assert!(
                matches!(find(&name), Err(NamedError::OwnerDead { pid: found }) if found == pid)
            );
            drop(Segment::create_named(&name, 4096).unwrap());
            assert!(!std::path::Path::new(&file).exists());
        }

        #[test]
        fn more_than_the_file_system_holds_is_an_error_and_leaves_no_name() {
            let name = unique("huge");
            assert!(Segment::create_named(&name, 1 << 45).is_err());
            assert!(matches!(find(&name), Err(NamedError::Missing)));
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
            Backing::Named { mapping, creator, .. } => {
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
