//! Named arenas: shared objects of programs that were started separately.
//!
//! # Shared state
//! A named segment (`shm/segment.rs`) that is the arena of the program that creates it, and of every
//! program that attaches. In it a namespace with what the programs register.
//!
//! # Protocol
//! The owner starts a guardian, which removes the names of dead owners when this process is gone, and keeps
//! one (`keeper.rs`); then it creates the segment, fills the header, makes the namespace, and publishes the arena by storing the
//! magic number. Who attaches finds the file by its name, maps it,
//! waits for the magic number, compares layout and key, and takes a place among the participants.
//!
//! # If a process dies
//! The owner: its guardians remove the name, also those of its pools; who is attached keeps the memory, finds the owner dead when
//! it looks, and is told by whatever it waits for. An attached program: whoever waits settles it
//! (`sync/settle.rs`), attaches, or asks who takes part. Owner and guardian together: the name is swept by the next creation.

mod keeper;
mod key;

use crate::collections::{Kept, Namespace};
use crate::error::Error;
use crate::limits::{ARENA_BYTES_MAX, ARENA_BYTES_MIN, NAMED_ARENA_BYTES_DEFAULT};
use crate::shm;
use crate::shm::arena::LAYOUT;
use crate::shm::segment::Segment;
use crate::shm::segment::named::{self, NamedError};
use crate::sync::settle::settle_strangers;
use crate::sys;
use keeper::Keeper;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// An arena with a name, which programs share that were started separately.
///
/// One program creates it, and others attach; each registers and looks up objects by name. From then on
/// it is *the* arena of the program: all its pools and shared objects are in it. So a program has one,
/// and creates it or attaches to it before its first pool or shared object.
///
/// Only programs of the same user can attach (the segment has mode 0600). With a key, only those that
/// know it. All must be built with the same version of this crate.
///
/// # If a process dies
/// The owner, in any way: the name goes within moments. Programs that are attached keep what they have;
/// those that wait in a queue or pipe get an `OwnerDied` error, and
/// [`is_owner_alive`](Self::is_owner_alive) says so. An attached program: what it held is given back
/// within 100 milliseconds, when somebody waits for it.
///
/// # Examples
/// In one program:
/// ```
/// use procpool::{Arena, queue::Queue};
///
/// let name = format!("example-{}", std::process::id());
/// let arena = Arena::builder(&name).key(b"secret").create()?;
/// let tasks = Queue::<u32>::new(16)?;
/// arena.register("tasks", &tasks)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
/// In another:
/// ```no_run
/// use procpool::{Arena, queue::Queue};
///
/// let arena = Arena::builder("example").key(b"secret").attach()?;
/// if let Some(tasks) = arena.lookup::<Queue<u32>>("tasks")? {
///     println!("{}", tasks.get()?);
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[doc(alias = "BaseManager")]
#[derive(Clone)]
pub struct Arena {
    inner: Arc<Inner>,
}

struct Inner {
    arena: &'static shm::Arena,
    names: Namespace,
    name: String,
    /// The owner's: the segment, and who removes its name at the end.
    owned: Option<(String, Keeper)>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Some((segment, _keeper)) = &self.owned
            && !shm::arena::is_forked_copy()
        {
            // Swept already, at worst.
            let _ = sys::memory::unlink_named(segment);
        }
    }
}

/// Sets up an [`Arena`].
#[derive(Clone)]
#[must_use = "a builder does nothing until `create` or `attach` is called"]
pub struct ArenaBuilder {
    name: String,
    bytes: usize,
    key: Option<Vec<u8>>,
    timeout: Duration,
}

/// How often `attach` looks for a name that is not there yet.
const LOOKED_EVERY: Duration = Duration::from_millis(5);
/// How long an arena that is being created may take to be ready.
const READY_WITHIN: Duration = Duration::from_secs(5);

impl ArenaBuilder {
    /// Sets the size of the arena, for `create`. All of it is reserved at once. Default:
    /// [`NAMED_ARENA_BYTES_DEFAULT`].
    pub fn bytes(mut self, bytes: usize) -> Self {
        self.bytes = bytes;
        self
    }

    /// Sets a key that whoever attaches must know. Default: none.
    #[doc(alias = "authkey")]
    pub fn key(mut self, key: &[u8]) -> Self {
        self.key = Some(key.to_vec());
        self
    }

    /// Sets how long `attach` waits for the name to be there. Default: not at all.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Creates the arena, which this process then owns.
    ///
    /// # Errors
    /// A living program has one of that name; the size is out of range or not to be had; this process
    /// has an arena already.
    pub fn create(self) -> Result<Arena, ArenaError> {
        let Self { name, bytes, key, timeout: _ } = self;
        if !(ARENA_BYTES_MIN..=ARENA_BYTES_MAX).contains(&bytes) {
            return Err(ArenaError::Failed(Error::invalid(format!(
                "the size of the arena is {bytes}, outside {ARENA_BYTES_MIN}..={ARENA_BYTES_MAX}"
            ))));
        }
        match named::find(&name) {
            Ok(other) => return Err(ArenaError::Exists { name, pid: other.pid }),
            Err(NamedError::Failed(error)) => return Err(error.into()),
            Err(_) => {}
        }
        let bytes = bytes.next_multiple_of(4096);
        // Before there is a name, so that no name can be left behind.
        let keeper = Keeper::start()?;
        let created = Segment::create_named(&name, bytes);
        let (segment, file) = created.map_err(|error| ArenaError::of(error, &name))?;
        let segment_name = format!("/{}", file.file);
        let made = Self::make(segment, &name, key.as_deref());
        let (arena, names) = made.inspect_err(|_| {
            // The mapping stays: it may be this process's arena by now.
            let _ = sys::memory::unlink_named(&segment_name);
        })?;
        let owned = Some((segment_name, keeper));
        Ok(Arena { inner: Arc::new(Inner { arena, names, name, owned }) })
    }

    /// Makes an arena of a new segment.
    fn make(
        segment: Segment,
        name: &str,
        key: Option<&[u8]>,
    ) -> Result<(&'static shm::Arena, Namespace), Error> {
        let arena = shm::Arena::own_named(segment)?;
        if let Some(key) = key {
            key::store(arena.key(), key, name);
        }
        let names = Namespace::new()?;
        arena.set_root(names.handle.caller().id());
        arena.publish();
        Ok((arena, names))
    }

    /// Attaches to the arena of a program that lives.
    ///
    /// # Errors
    /// There is none of that name (in time), its owner is dead, it is another user's, it was made by
    /// another version of the crate, the key is wrong; or this process has an arena already.
    pub fn attach(self) -> Result<Arena, ArenaError> {
        let Self { name, key, timeout, bytes: _ } = self;
        let began = Instant::now();
        let file = loop {
            match named::find(&name) {
                Ok(file) => break file,
                Err(error) if began.elapsed() >= timeout => {
                    return Err(ArenaError::of(error, &name));
                }
                Err(_) => std::thread::sleep(LOOKED_EVERY),
            }
        };
        let began = Instant::now();
        let arena = loop {
            let arena = match Segment::open_named(&file) {
                Ok(segment) => shm::Arena::look_at(segment),
                Err(NamedError::Unfinished) => None,
                Err(error) => return Err(ArenaError::of(error, &name)),
            };
            if let Some(arena) = arena {
                break arena;
            }
            if began.elapsed() > READY_WITHIN {
                return Err(ArenaError::Failed(Error::invalid(format!(
                    "the segment {name:?} of process {} is no arena",
                    file.pid
                ))));
            }
            std::thread::sleep(LOOKED_EVERY);
        };
        let theirs = arena.layout_hash();
        if theirs != LAYOUT {
            return Err(ArenaError::WrongVersion { name, theirs, ours: LAYOUT });
        }
        if !key::is_right(arena.key(), key.as_deref(), &name) {
            return Err(ArenaError::WrongKey { name });
        }
        let arena = arena.join()?;
        // Nobody may have waited for those who were here before.
        settle_strangers(arena);
        let names = Namespace::open(arena.root())?;
        Ok(Arena { inner: Arc::new(Inner { arena, names, name, owned: None }) })
    }
}

impl Arena {
    /// Creates an arena with the usual settings, which this process then owns.
    ///
    /// # Errors
    /// See [`ArenaBuilder::create`].
    pub fn create(name: &str) -> Result<Self, ArenaError> {
        Self::builder(name).create()
    }

    /// Attaches to the arena of a program that lives.
    ///
    /// # Errors
    /// See [`ArenaBuilder::attach`].
    pub fn attach(name: &str) -> Result<Self, ArenaError> {
        Self::builder(name).attach()
    }

    /// Sets up an arena of this name: 1 to 200 bytes, without slashes.
    pub fn builder(name: &str) -> ArenaBuilder {
        ArenaBuilder {
            name: name.to_owned(),
            bytes: NAMED_ARENA_BYTES_DEFAULT,
            key: None,
            timeout: Duration::ZERO,
        }
    }

    /// Registers an object, or any other value, under a name that is free. It then lives until it is
    /// unregistered, or the arena goes.
    ///
    /// # Errors
    /// The name is taken, or the arena has no room.
    pub fn register<H: Kept>(&self, name: &str, object: &H) -> Result<(), Error> {
        if self.inner.names.set_new(name, object)? {
            return Ok(());
        }
        Err(Error::invalid(format!(
            "the name {name:?} is taken in the arena {:?}",
            self.inner.name
        )))
    }

    /// The object of a name; `None` if nothing is registered under it.
    ///
    /// # Errors
    /// It is of another type: the message names both.
    pub fn lookup<H: Kept>(&self, name: &str) -> Result<Option<H>, Error> {
        self.inner.names.get(name)
    }

    /// Frees a name; returns whether it was taken.
    pub fn unregister(&self, name: &str) -> bool {
        self.inner.names.remove(name)
    }

    /// The names that are taken, in alphabetical order.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.inner.names.names()
    }

    /// The name of the arena.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// The process ids of all programs that are attached, and of their workers. What programs that have died
    /// held is given back first, if that has not been done.
    #[must_use]
    pub fn participants(&self) -> Vec<u32> {
        settle_strangers(self.inner.arena);
        self.inner.arena.attached()
    }

    /// The process id of the program that created the arena.
    #[must_use]
    pub fn owner_pid(&self) -> u32 {
        self.inner.arena.owner().0
    }

    /// Returns whether this process has created the arena.
    #[must_use]
    pub fn is_owner(&self) -> bool {
        self.owner_pid() == sys::process::own_pid()
    }

    /// Returns whether the program that created the arena lives.
    #[must_use]
    pub fn is_owner_alive(&self) -> bool {
        let (pid, ticks) = self.inner.arena.owner();
        !self.inner.arena.is_orphaned() && !sys::process::is_gone(pid, ticks)
    }
}

impl fmt::Debug for Arena {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Arena")
            .field("name", &self.inner.name)
            .field("owner_pid", &self.owner_pid())
            .field("names", &self.inner.names)
            .finish()
    }
}

impl fmt::Debug for ArenaBuilder {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, bytes, key, timeout } = self;
        formatter
            .debug_struct("ArenaBuilder")
            .field("name", name)
            .field("bytes", bytes)
            .field("has_key", &key.is_some())
            .field("timeout", timeout)
            .finish()
    }
}

/// Why a named arena could not be created or attached to.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum ArenaError {
    /// There is none of that name.
    Missing {
        /// The name.
        name: String,
    },
    /// The program that created it is dead.
    OwnerDead {
        /// The name.
        name: String,
        /// Its process id.
        pid: u32,
    },
    /// A living program has one of that name.
    Exists {
        /// The name.
        name: String,
        /// Its process id.
        pid: u32,
    },
    /// The key is another, or there is one and none was given, or the other way round.
    WrongKey {
        /// The name.
        name: String,
    },
    /// It was created by a program that was built with another version of the crate.
    WrongVersion {
        /// The name.
        name: String,
        /// A number for that version.
        theirs: u64,
        /// A number for ours.
        ours: u64,
    },
    /// It belongs to another user.
    WrongUser {
        /// The name.
        name: String,
        /// The user's id.
        uid: u32,
    },
    /// Something else went wrong.
    Failed(Error),
}

impl ArenaError {
    fn of(error: NamedError, name: &str) -> Self {
        let name = name.to_owned();
        match error {
            NamedError::Missing => Self::Missing { name },
            NamedError::OwnerDead { pid } => Self::OwnerDead { name, pid },
            NamedError::Exists { pid } => Self::Exists { name, pid },
            NamedError::WrongUser { uid } => Self::WrongUser { name, uid },
            NamedError::Unfinished => Self::Missing { name },
            NamedError::Failed(error) => Self::Failed(error),
        }
    }
}

impl From<Error> for ArenaError {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

impl fmt::Display for ArenaError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing { name } => write!(formatter, "there is no arena {name:?}"),
            Self::OwnerDead { name, pid } => {
                write!(formatter, "process {pid}, which created the arena {name:?}, is dead")
            }
            Self::Exists { name, pid } => {
                write!(formatter, "process {pid} has an arena {name:?}")
            }
            Self::WrongKey { name } => {
                write!(formatter, "the key of the arena {name:?} is another")
            }
            Self::WrongVersion { name, theirs, ours } => write!(
                formatter,
                "the arena {name:?} has layout {theirs:#x}, and this program {ours:#x}: they were built \
                 with different versions of procpool"
            ),
            Self::WrongUser { name, uid } => {
                write!(formatter, "the arena {name:?} belongs to user {uid}")
            }
            Self::Failed(error) => error.fmt(formatter),
        }
    }
}

impl std::error::Error for ArenaError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Failed(error) => Some(error),
            _ => None,
        }
    }
}
