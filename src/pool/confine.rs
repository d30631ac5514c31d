//! What a worker's process may not do, for tasks that run code or read input that is not trusted.
//!
//! Each is a limit of the kernel's on the calling process, which nothing in that process can lift. They are
//! set when the worker has attached and before its initialiser: from then on also the crate's own code in it
//! lives with them.
//!
//! # If it fails
//! The worker leaves a note and ends: nothing ever runs with fewer limits than were asked for.

use crate::error::Error;
use crate::sys;
use serde::{Deserialize, Serialize};
#[cfg(feature = "landlock")]
use std::path::PathBuf;
use std::time::Duration;

/// Takes rights away from a pool's workers, or from a [`Process`](crate::Process): see
/// [`PoolBuilder::confine`](crate::PoolBuilder::confine).
///
/// A worker shares the arena with the program, whatever it is confined to: what it may scribble there is said
/// in the page [`security`](crate::guide::security).
///
/// # Examples
/// ```
/// use procpool::{Confinement, Pool};
///
/// let confined = Confinement::new().no_new_privileges().descriptors(32).file_bytes(0);
/// let pool = Pool::builder().workers(1).confine(confined).build()?;
/// let write = |path: String| std::fs::write(path, "a").is_ok();
/// let path = std::env::temp_dir().join(format!("procpool-doc-{}", std::process::id()));
/// # let name = path.clone();
/// // The signal for a file that grows too large ends the worker.
/// let ended = pool.submit(write, path.display().to_string())?.join();
/// assert!(ended.is_err_and(|error| error.is_worker_lost()));
/// # std::fs::remove_file(name).ok();
/// # Ok::<(), procpool::Error>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[must_use = "a confinement does nothing until it is given to a builder"]
pub struct Confinement {
    no_new_privileges: bool,
    cpu_seconds: Option<u64>,
    descriptors: Option<u64>,
    file_bytes: Option<u64>,
    core_bytes: Option<u64>,
    processes: Option<u64>,
    #[cfg(feature = "landlock")]
    paths: Option<Paths>,
}

/// What may be reached in the file system.
#[cfg(feature = "landlock")]
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Paths {
    readable: Vec<PathBuf>,
    writable: Vec<PathBuf>,
}

impl Confinement {
    /// No limits.
    pub fn new() -> Self {
        Self::default()
    }

    /// Has programs that the worker executes not gain rights: set-uid bits count for nothing
    /// (`PR_SET_NO_NEW_PRIVS`).
    pub fn no_new_privileges(mut self) -> Self {
        self.no_new_privileges = true;
        self
    }

    /// Lets a worker use so much processor time in its life, rounded up to seconds. After that the kernel
    /// ends it with signal 24, SIGXCPU (and a second later with SIGKILL, if it ignores that); together with
    /// [`Recycle`](crate::Recycle), it is a limit for so many calls.
    ///
    /// It is the kernel that counts, and most kernels charge whole ticks (1 to 10 ms) to whoever runs at their
    /// end: a worker that shares its processor with others may use twice as much before it is ended.
    pub fn cpu_time(mut self, time: Duration) -> Self {
        self.cpu_seconds = Some(time.as_secs() + u64::from(time.subsec_nanos() > 0));
        self
    }

    /// Lets a worker have so many descriptors open, at least 16: it needs some itself. Opening more fails.
    pub fn descriptors(mut self, most: u64) -> Self {
        self.descriptors = Some(most);
        self
    }

    /// Lets files that a worker writes grow to so many bytes. Beyond that the kernel ends it with signal 25,
    /// SIGXFSZ. Pipes, sockets and the arena do not count.
    pub fn file_bytes(mut self, most: u64) -> Self {
        self.file_bytes = Some(most);
        self
    }

    /// Lets a core dump have so many bytes; 0 for none: a worker's memory has the arguments of tasks in it, and
    /// the whole arena.
    pub fn core_bytes(mut self, most: u64) -> Self {
        self.core_bytes = Some(most);
        self
    }

    /// Lets a worker start processes and threads only as long as its user has fewer than so many, at least 2
    /// (`RLIMIT_NPROC`). All processes and threads of the user count, the program's and other workers' as well;
    /// so it ends a fork bomb, but says nothing about one worker alone. The kernel exempts root, and who has
    /// `CAP_SYS_RESOURCE` or `CAP_SYS_ADMIN`.
    ///
    /// A worker's tasks run in a second thread, which must still be within the limit.
    pub fn processes(mut self, most: u64) -> Self {
        self.processes = Some(most);
        self
    }

    /// Lets a worker read and execute files below `readable`, and read, write, make and remove those below
    /// `writable`; nothing else in the file system can be opened any more (Landlock). What is open already stays
    /// so. It implies [`no_new_privileges`](Self::no_new_privileges).
    ///
    /// A kernel without Landlock (before 5.13, or with it turned off) makes the workers' start, and so the
    /// pool, fail. Rules that only newer kernels know are left away on older ones.
    ///
    /// # Examples
    /// ```
    /// use procpool::{Confinement, Pool};
    ///
    /// let confined = Confinement::new().paths(["/usr"], Vec::<&str>::new());
    /// let pool = Pool::builder().workers(1).confine(confined).build()?;
    /// let list = |path: String| std::fs::read_dir(path).is_ok();
    /// assert_eq!(pool.map(list, ["/usr".to_string(), "/etc".to_string()])?, [true, false]);
    /// # Ok::<(), procpool::Error>(())
    /// ```
    #[cfg(feature = "landlock")]
    pub fn paths<R, W>(mut self, readable: R, writable: W) -> Self
    where
        R: IntoIterator<Item: Into<PathBuf>>,
        W: IntoIterator<Item: Into<PathBuf>>,
    {
        self.paths = Some(Paths {
            readable: readable.into_iter().map(Into::into).collect(),
            writable: writable.into_iter().map(Into::into).collect(),
        });
        self
    }

    pub(super) fn validate(&self) -> Result<(), Error> {
        if let Some(most) = self.descriptors.filter(|most| *most < DESCRIPTORS_MIN) {
            return Err(Error::invalid(format!(
                "confine: descriptors is {most}, below {DESCRIPTORS_MIN}"
            )));
        }
        if let Some(most) = self.processes.filter(|most| *most < PROCESSES_MIN) {
            return Err(Error::invalid(format!(
                "confine: processes is {most}, below {PROCESSES_MIN}"
            )));
        }
        if self.cpu_seconds == Some(0) {
            return Err(Error::invalid("confine: cpu_time is 0: it must be more".into()));
        }
        Ok(())
    }

    /// Confines the calling process. It has one thread.
    pub(super) fn apply(&self) -> Result<(), String> {
        use sys::process::{Limit, limit};
        let limits = [
            (Limit::CpuSeconds, self.cpu_seconds, "processor time"),
            (Limit::Descriptors, self.descriptors, "number of descriptors"),
            (Limit::FileBytes, self.file_bytes, "size of files"),
            (Limit::CoreBytes, self.core_bytes, "size of core dumps"),
            (Limit::Processes, self.processes, "number of processes"),
        ];
        for (which, most, what) in limits {
            if let Some(most) = most {
                limit(which, most)
                    .map_err(|error| format!("cannot limit its {what} to {most}: {error}"))?;
            }
        }
        if self.no_new_privileges {
            sys::process::no_new_privileges()
                .map_err(|error| format!("cannot give up new privileges: {error}"))?;
        }
        #[cfg(feature = "landlock")]
        if let Some(paths) = &self.paths {
            paths.apply().map_err(|error| format!("cannot restrict its paths: {error}"))?;
        }
        Ok(())
    }
}

/// What a worker has open itself, and a few.
const DESCRIPTORS_MIN: u64 = 16;
/// A worker's threads.
const PROCESSES_MIN: u64 = 2;

#[cfg(feature = "landlock")]
impl Paths {
    fn apply(&self) -> Result<(), String> {
        use landlock::{
            ABI, Access, AccessFs, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetStatus,
            path_beneath_rules,
        };
        let text = |error: landlock::RulesetError| error.to_string();
        for path in self.readable.iter().chain(&self.writable) {
            // A rule for what is not there would be left out in silence.
            crate::sys::folder::metadata(path)
                .map_err(|error| format!("{}: {error}", path.display()))?;
        }
        crate::sys::fail::attempt("landlock").map_err(|error| error.to_string())?;
        let all = AccessFs::from_all(ABI::V5);
        // Its own memory use, which recycling looks at.
        let own = path_beneath_rules(["/proc/self/statm"], AccessFs::ReadFile);
        let made = Ruleset::default().handle_access(all).map_err(text)?.create().map_err(text)?;
        let status = made
            .add_rules(path_beneath_rules(&self.readable, AccessFs::from_read(ABI::V5)))
            .and_then(|rules| rules.add_rules(path_beneath_rules(&self.writable, all)))
            .and_then(|rules| rules.add_rules(own))
            .and_then(|rules| rules.restrict_self())
            .map_err(text)?;
        match status.ruleset {
            RulesetStatus::NotEnforced => Err("the kernel has no Landlock".into()),
            _ => Ok(()),
        }
    }
}
