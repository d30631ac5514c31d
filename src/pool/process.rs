//! [`Process`]: one function in one process of its own.
//!
//! It is a pool of one worker, which leaves after its one task and has no successor: so arguments, results,
//! locks that it held and blocks that it owned are sent and settled as any worker's are.
//!
//! # If a process dies
//! This one, at any moment: its task is settled if it had begun, and ended as lost if it had not. The
//! guardian: then the process dies too, unless it is detached; the exit status of one that is detached is
//! lost with the guardian, and given as signal 9. The user's process: as the guardian's.

use super::Pool;
use super::builder::PoolBuilder;
use super::confine::Confinement;
use super::inner::{Inner, lock};
use super::submit::{self, Job, TaskHandle};
use super::trampolines;
use crate::error::{Error, TaskError, WorkerExit};
use crate::prim::{AtomicU32, Condvar, Mutex, Relaxed};
use crate::sys;
use serde::{Serialize, de::DeserializeOwned};
use std::ffi::OsString;
use std::fmt;
use std::io::{PipeReader, PipeWriter};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

/// One function that runs in a process of its own, from [`Process::spawn`].
///
/// Dropping it kills the process, unless it was [detached](ProcessBuilder::detached).
///
/// # Examples
/// ```
/// use procpool::Process;
///
/// let process = Process::spawn(|name: String| format!("hello, {name}"), "world".to_string())?;
/// assert_eq!(process.join()?, "hello, world");
///
/// let process: Process<()> = Process::spawn(|code: i32| std::process::exit(code), 3)?;
/// let error = process.join().unwrap_err();
/// assert_eq!(error.worker_exit(), Some(procpool::WorkerExit::Code(3)));
/// # Ok::<(), procpool::Error>(())
/// ```
///
/// # If the process dies
/// [`join`](Self::join) says what ended it. What it held is given back, as of any worker.
#[must_use = "the process is killed when this is dropped"]
pub struct Process<R> {
    handle: Option<TaskHandle<R>>,
    pid: u32,
    pidfd: Option<OwnedFd>,
    stdin: Option<PipeWriter>,
    stdout: Option<PipeReader>,
    stderr: Option<PipeReader>,
    /// Last: dropping it ends the process.
    pool: Pool,
}

/// Where a standard stream of a [`Process`] leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Stdio {
    /// To where the program's own leads.
    #[default]
    Inherit,
    /// To nowhere: nothing is read, and what is written is gone.
    Null,
    /// To the program, which has the other end: see [`Process::take_stdin`] and its siblings.
    Piped,
}

/// What the user's process keeps of a process that runs once.
#[derive(Debug, Default)]
pub(super) struct Once {
    pid: AtomicU32,
    exit: Mutex<Option<WorkerExit>>,
    ended: Condvar,
    /// What becomes its standard streams; let go of when it has them.
    stdio: Mutex<[Option<OwnedFd>; 3]>,
    pub(super) detached: bool,
}

impl Once {
    /// It was forked.
    pub(super) fn begin(&self, pid: u32) {
        self.pid.store(pid, Relaxed);
        *lock(&self.stdio) = Default::default();
    }

    /// It is dead, and settled.
    pub(super) fn end(&self, exit: WorkerExit) {
        lock(&self.exit).get_or_insert(exit);
        self.ended.notify_all();
    }

    pub(super) fn has_ended(&self) -> bool {
        lock(&self.exit).is_some()
    }

    /// Gives the streams to `pass`, one after the other; which of them there are.
    pub(super) fn pass_stdio(
        &self,
        mut pass: impl FnMut(&OwnedFd) -> Result<(), Error>,
    ) -> Result<[bool; 3], Error> {
        let stdio = lock(&self.stdio);
        for fd in stdio.iter().flatten() {
            pass(fd)?;
        }
        Ok(stdio.each_ref().map(Option::is_some))
    }
}

/// Sets up a [`Process`].
///
/// # Examples
/// ```
/// use procpool::{Process, Stdio};
/// use std::io::Read;
///
/// let mut process = Process::builder()
///     .name("speaker")
///     .env("GREETING", "good morning")
///     .stdout(Stdio::Piped)
///     .spawn(|_: ()| println!("{}", std::env::var("GREETING").unwrap()), ())?;
/// let mut said = String::new();
/// process.take_stdout().unwrap().read_to_string(&mut said).unwrap();
/// assert_eq!(said, "good morning\n");
/// process.join()?;
/// # Ok::<(), procpool::Error>(())
/// ```
#[derive(Debug, Clone)]
#[must_use = "a builder does nothing until `spawn` is called"]
pub struct ProcessBuilder {
    pool: PoolBuilder,
    stdio: [Stdio; 3],
    detached: bool,
}

impl ProcessBuilder {
    /// Sets its name, which `ps` shows and [`current_process`](crate::current_process) tells it. Default:
    /// `process`.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.pool = self.pool.name(name);
        self
    }

    /// Sets a variable of its environment, beside what it has from the program.
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.pool = self.pool.env(name, value);
        self
    }

    /// Sets its working directory. Default: what the program's was when its first pool or process was made.
    pub fn current_dir(mut self, directory: impl Into<PathBuf>) -> Self {
        self.pool = self.pool.current_dir(directory);
        self
    }

    /// Sets its nice value, -20 to 19. Default: that of the program.
    pub fn nice(mut self, value: i32) -> Self {
        self.pool = self.pool.nice(value);
        self
    }

    /// Lets it map so many bytes more than it has when it starts; see
    /// [`PoolBuilder::address_space_bytes`].
    pub fn address_space_bytes(mut self, bytes: u64) -> Self {
        self.pool = self.pool.address_space_bytes(bytes);
        self
    }

    /// Takes rights away from it; see [`Confinement`].
    pub fn confine(mut self, confinement: Confinement) -> Self {
        self.pool = self.pool.confine(confinement);
        self
    }

    /// Sets the stack size of the thread that runs the function, at least 64 KiB. Default: 8 MiB.
    pub fn stack_bytes(mut self, bytes: usize) -> Self {
        self.pool = self.pool.stack_bytes(bytes);
        self
    }

    /// Sets where its standard input comes from. Default: inherited.
    pub fn stdin(mut self, stdin: Stdio) -> Self {
        self.stdio[0] = stdin;
        self
    }

    /// Sets where its standard output goes. Default: inherited.
    pub fn stdout(mut self, stdout: Stdio) -> Self {
        self.stdio[1] = stdout;
        self
    }

    /// Sets where its standard error goes. Default: inherited.
    pub fn stderr(mut self, stderr: Stdio) -> Self {
        self.stdio[2] = stderr;
        self
    }

    /// Has it go on when the [`Process`] is dropped, and when the program ends: in a session of its own.
    /// What it has of the arena is not used again by the program. Default: it ends with either.
    #[doc(alias = "daemon")]
    pub fn detached(mut self) -> Self {
        self.detached = true;
        self
    }

    /// Starts the process, which runs `function(argument)`.
    ///
    /// # Errors
    /// A setting is out of range; the argument cannot be encoded, or the arena has no room; the system
    /// refuses a process.
    ///
    /// # Blocking
    /// Until it has been forked: about 0.3 ms, 2 ms for the first of a program.
    pub fn spawn<F, A, R>(self, function: F, argument: A) -> Result<Process<R>, Error>
    where
        F: Fn(A) -> R + Copy + Send + 'static,
        A: Serialize + DeserializeOwned + 'static,
        R: Serialize + DeserializeOwned + 'static,
    {
        let os = |error| Error::os("make a pipe for a process", error);
        let mut given = [None, None, None];
        let (mut stdin, mut stdout, mut stderr) = (None, None, None);
        for (at, stdio) in self.stdio.into_iter().enumerate() {
            given[at] = match stdio {
                Stdio::Inherit if at > 0 => None,
                Stdio::Inherit => sys::fd::copy_of_standard_input()
                    .map_err(|error| Error::os("pass standard input to a process", error))?,
                Stdio::Null => Some(
                    sys::fd::open_null()
                        .map_err(|error| Error::os("open the null device for a process", error))?,
                ),
                Stdio::Piped => {
                    let (reader, writer) = sys::fd::pipe().map_err(os)?;
                    Some(match at {
                        0 => {
                            stdin = Some(writer);
                            reader.into()
                        }
                        1 => {
                            stdout = Some(reader);
                            writer.into()
                        }
                        _ => {
                            stderr = Some(reader);
                            writer.into()
                        }
                    })
                }
            };
        }
        let once = Once { stdio: Mutex::new(given), detached: self.detached, ..Once::default() };
        let job = Job::new(trampolines::code_of::<F, A, R>(&function)?);
        let mut handle = None;
        // The task is there before the worker, so that it finds it whenever it comes, and dies.
        let pool = self.pool.build_once(once, |inner| {
            let sent = submit::submit(inner, &job, argument, None);
            handle = Some(sent.map_err(super::pools::without_argument)?);
            Ok(())
        })?;
        let pid = pool.inner.once().pid.load(Relaxed);
        let pidfd = sys::process::open_pidfd(pid).ok();
        // If it has ended by now, that pid may be another's.
        let pidfd = pidfd.filter(|_| !pool.inner.once().has_ended());
        Ok(Process { handle, pid, pidfd, stdin, stdout, stderr, pool })
    }
}

impl Inner {
    /// What there is of a process that runs once.
    fn once(&self) -> &Once {
        static NONE: Once = Once {
            pid: AtomicU32::new(0),
            exit: Mutex::new(None),
            ended: Condvar::new(),
            stdio: Mutex::new([None, None, None]),
            detached: false,
        };
        self.once.as_ref().unwrap_or(&NONE)
    }
}

impl Process<()> {
    /// Returns a builder for a process with settings of its own.
    pub fn builder() -> ProcessBuilder {
        let pool = Pool::builder().workers(1).queue_capacity(1).name("process");
        ProcessBuilder { pool, stdio: [Stdio::Inherit; 3], detached: false }
    }
}

impl<R: Serialize + DeserializeOwned + 'static> Process<R> {
    /// Starts a process that runs `function(argument)`; see [`Process::builder`].
    ///
    /// # Errors
    /// The argument cannot be encoded, or the arena has no room; the system refuses a process.
    pub fn spawn<F, A>(function: F, argument: A) -> Result<Self, Error>
    where
        F: Fn(A) -> R + Copy + Send + 'static,
        A: Serialize + DeserializeOwned + 'static,
    {
        Process::builder().spawn(function, argument)
    }

    /// Waits until the process has ended, and returns what its function returned.
    ///
    /// # Errors
    /// What ended it: a panic, an exit, a signal.
    ///
    /// # Blocking
    /// Until the process has ended. Its standard input ends here, unless it was taken; what it writes to a
    /// pipe that nobody reads may hold it up.
    pub fn join(mut self) -> Result<R, TaskError> {
        self.stdin = None;
        self.wait_until(None);
        self.take()
    }

    /// As [`join`](Self::join), for at most `timeout`.
    ///
    /// # Errors
    /// What ended it; or the time was up, which gives the process back.
    pub fn join_timeout(mut self, timeout: Duration) -> Result<R, ProcessTimeoutError<R>> {
        self.stdin = None;
        match self.wait_until(Instant::now().checked_add(timeout)) {
            true => self.take().map_err(ProcessTimeoutError::Failed),
            false => Err(ProcessTimeoutError::TimedOut(self)),
        }
    }

    fn take(&mut self) -> Result<R, TaskError> {
        // It has ended, so the task has.
        self.handle.take().map_or_else(|| Err(TaskError::pool_closed()), TaskHandle::join)
    }
}

impl<R> Process<R> {
    /// Waits for its end; `false` if the time was up before.
    fn wait_until(&self, deadline: Option<Instant>) -> bool {
        let once = self.pool.inner.once();
        let mut exit = lock(&once.exit);
        while exit.is_none() {
            let left = match deadline {
                None => Duration::MAX,
                Some(deadline) => deadline.saturating_duration_since(Instant::now()),
            };
            if left.is_zero() {
                return false;
            }
            let waited = once.ended.wait_timeout(exit, left);
            exit = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    /// The process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.pool.inner.name
    }

    /// Returns whether it has not ended.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.exit_status().is_none()
    }

    /// How it ended; `None` while it runs. Its function returned: exit code 0; panicked: 101.
    #[must_use]
    #[doc(alias = "exitcode")]
    pub fn exit_status(&self) -> Option<WorkerExit> {
        *lock(&self.pool.inner.once().exit)
    }

    /// Asks it to end, by SIGTERM, which ends it unless its function has set that otherwise.
    pub fn terminate(&self) {
        if let Some(pidfd) = &self.pidfd {
            // It may have ended.
            let _ = sys::process::terminate_pidfd(pidfd);
        }
    }

    /// Ends it, by SIGKILL.
    pub fn kill(&self) {
        if let Some(pidfd) = &self.pidfd {
            let _ = sys::process::kill_pidfd(pidfd);
        }
    }

    /// The other end of its standard input, if that is [`Stdio::Piped`] and was not taken. Dropping it ends
    /// the input.
    pub fn take_stdin(&mut self) -> Option<PipeWriter> {
        self.stdin.take()
    }

    /// The other end of its standard output, if that is [`Stdio::Piped`] and was not taken.
    pub fn take_stdout(&mut self) -> Option<PipeReader> {
        self.stdout.take()
    }

    /// The other end of its standard error, if that is [`Stdio::Piped`] and was not taken.
    pub fn take_stderr(&mut self) -> Option<PipeReader> {
        self.stderr.take()
    }
}

impl<R> fmt::Debug for Process<R> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Process")
            .field("name", &self.name())
            .field("pid", &self.pid)
            .field("exit_status", &self.exit_status())
            .field("detached", &self.pool.inner.once().detached)
            .finish_non_exhaustive()
    }
}

/// Why [`Process::join_timeout`] has no value.
pub enum ProcessTimeoutError<R> {
    /// The time was up; here is the process.
    TimedOut(Process<R>),
    /// This ended it.
    Failed(TaskError),
}

impl<R> fmt::Debug for ProcessTimeoutError<R> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TimedOut(process) => formatter.debug_tuple("TimedOut").field(process).finish(),
            Self::Failed(error) => formatter.debug_tuple("Failed").field(error).finish(),
        }
    }
}

impl<R> fmt::Display for ProcessTimeoutError<R> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TimedOut(_) => formatter.write_str("the process has not ended in time"),
            Self::Failed(error) => error.fmt(formatter),
        }
    }
}

impl<R> std::error::Error for ProcessTimeoutError<R> {}
