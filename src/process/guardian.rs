//! The guardian's side: from the constructor before `main` to the loop that serves commands.
//!
//! # Protocol
//! 1. The constructor finds `PROCPOOL_GUARDIAN`, removes it, takes standard input (the doorbell)
//!    away, closes what else was inherited, and receives the arena's descriptor and the supervisor's bell
//!    (`bell.rs`) over the doorbell.
//! 2. It makes the folder whose name it was given, a one-shot server inside, and sends the server's
//!    path, and a copy of its socket: while the user's process has that, connecting does not fail. (If it does, `ipc-channel`
//!    never closes the socket that it has made for it.) A watcher thread removes the folder and exits if the user's process dies meanwhile,
//!    because accepting has no time limit.
//! 3. The user's process connects and sends the two channels; the folder goes; the guardian says
//!    hello with its identity, and serves.
//!
//! If the program calls [`init`](crate::init), the constructor only does step 1 and `main` runs up
//! to that call.
//!
//! # If a process dies
//! This one before step 3: the user's process sees the pidfd, removes the folder, reports an error. (If it only
//! fails, it says over the doorbell why, in place of the server's path.) Both within
//! those milliseconds: the folder stays until the next guardian there ends.
//! The user's process at any time: the doorbell hangs up (and, if a copy of it went astray into
//! another child, the pidfd tells): kill all, reap all, exit.

use super::control::{Bootstrap, Command, Control, ForkRequest, Forked, Reply};
use super::identity::{Identity, resolve_entry};
use crate::error::{Error, WorkerExit};
use crate::shm::segment::named;
use crate::shm::{Arena, fault};
use crate::sys::{self, process::Ended, process::Fork};
use ipc_channel::ipc::IpcOneShotServer;
use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Says that this process is to become a guardian, where `main` may run, and the folder's name.
pub(crate) const VARIABLE: &str = "PROCPOOL_GUARDIAN";
/// What the name of the folder of a rendezvous begins with; then come the user's process and the time.
pub(crate) const FOLDER_PREFIX: &str = "procpool-";
/// What the guardian says over the doorbell, before the reason, when there will be no invitation.
pub(crate) const REFUSAL: &str = "!";
/// The guardian takes over before `main`.
pub(crate) const BEFORE_MAIN: &str = "before-main";
/// The guardian takes over in [`init`](crate::init).
pub(crate) const IN_MAIN: &str = "in-main";

/// What the constructor leaves for `init`, in a guardian that starts in `main`.
#[derive(Debug)]
struct Role {
    doorbell: OwnedFd,
    arena: OwnedFd,
    folder: String,
}

static WAITING_FOR_MAIN: Mutex<Option<Role>> = Mutex::new(None);

/// Whether the running program calls [`init`](crate::init) in its `main`.
static PROGRAM_CALLS_INIT: Mutex<bool> = Mutex::new(false);

pub(crate) fn program_calls_init() -> bool {
    *PROGRAM_CALLS_INIT.lock().unwrap_or_else(PoisonError::into_inner)
}

mod constructor {
    #![allow(unsafe_code)] // Runs before `main`, which the attribute calls unsafe.

    /// Runs in every program that links this crate, before its `main`.
    #[ctor::ctor(unsafe)]
    fn before_main() {
        super::before_main();
    }
}

fn before_main() {
    crate::queue::keep::install();
    let Some(value) = std::env::var_os(VARIABLE) else { return };
    remove_variable();
    let Some((mode, folder)) = value.to_str().and_then(|value| value.split_once(' ')) else {
        return;
    };
    if sys::process::is_privileged_exec() {
        return;
    }
    sys::fail::set_role(sys::fail::Role::Guardian);
    // Whatever goes wrong from here on, `main` must not run in this process: it would start another.
    let Ok(doorbell) = sys::fd::take_standard_input() else { sys::process::exit_now(1) };
    if sys::fd::close_inherited().is_err() {
        sys::process::exit_now(1);
    }
    // The descriptors were sent before we were started, so they are there unless nobody meant us.
    let mut text = [0u8; 8];
    let Ok((_, Some(arena))) = sys::fd::receive(&doorbell, &mut text) else {
        sys::process::exit_now(1);
    };
    let Ok((_, Some(bell))) = sys::fd::receive(&doorbell, &mut text) else {
        sys::process::exit_now(1);
    };
    super::bell::keep(bell);
    let role = Role { doorbell, arena, folder: folder.to_owned() };
    if mode == IN_MAIN {
        *WAITING_FOR_MAIN.lock().unwrap_or_else(PoisonError::into_inner) = Some(role);
    } else {
        become_guardian(role);
    }
}

#[allow(unsafe_code)] // Changing the environment is unsafe once there are threads.
fn remove_variable() {
    // SAFETY: this runs before `main`, when the process has one thread.
    unsafe { std::env::remove_var(VARIABLE) };
}

/// See [`crate::init`].
pub(crate) fn init() {
    *PROGRAM_CALLS_INIT.lock().unwrap_or_else(PoisonError::into_inner) = true;
    let role = WAITING_FOR_MAIN.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(role) = role {
        become_guardian(role);
    }
}

fn become_guardian(role: Role) -> ! {
    sys::process::set_name("procpool-guard");
    // Who ends a whole group with SIGTERM has the user's process end: this one is then there to clean up. (The
    // thread that starts it has them blocked, too. Workers have them again: they begin with nothing blocked.)
    sys::process::block_signals_in_this_thread();
    sys::process::ignore_interrupt();
    // A program that ignores SIGCHLD hands that down through exec, and then there are no statuses.
    sys::process::keep_dead_children();
    sys::process::ignore_broken_pipe();
    sys::process::prefer_as_oom_victim();
    let code = match run(role) {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("procpool: the guardian process cannot start: {error}");
            1
        }
    };
    sys::process::exit_now(code)
}

fn run(role: Role) -> Result<(), Error> {
    let Role { doorbell, arena, folder } = role;
    let (user, bootstrap) = match prepare(&doorbell, arena, &folder) {
        Ok(prepared) => prepared,
        Err(error) => {
            // The user's process waits for an invitation. (If it has got that already, it will not read this.)
            let _ = sys::fd::send(&doorbell, format!("{REFUSAL}{error}").as_bytes(), None);
            return Err(error);
        }
    };
    let Bootstrap { commands, replies } = bootstrap;
    let control = Control { sender: replies, receiver: commands, doorbell };
    control.send(Reply::Hello(Identity::own()?))?;
    fault::point("guardian.ready");
    serve(control, user);
    Ok(())
}

/// What can fail for want of something: until the channels are there.
fn prepare(doorbell: &OwnedFd, arena: OwnedFd, folder: &str) -> Result<(User, Bootstrap), Error> {
    let pid = sys::process::parent_pid();
    let os = |error| Error::os("watch the user's process", error);
    let user = User { pid, pidfd: sys::process::open_pidfd(pid).map_err(os)? };
    Arena::adopt(Arena::from_descriptor(arena)?)?;
    let bootstrap = connect(folder, doorbell, &user)?;
    Ok((user, bootstrap))
}

/// The user's process.
struct User {
    pid: u32,
    pidfd: OwnedFd,
}

/// Longest wait for the end of a process that has closed its descriptors.
const END_WITHIN: Duration = Duration::from_millis(900);

impl User {
    /// Removes the names of dead owners, of which this process, which is dying, may be one.
    fn sweep_names(&self) {
        // The doorbell hangs up a moment before a dying process is dead.
        if named::has_segment(self.pid) {
            let _ = sys::fd::poll_one(self.pidfd.as_fd(), Some(END_WITHIN));
        }
        named::sweep();
        sweep_folders();
    }
}

/// Removes the folders of rendezvous that never were: of programs that died when their guardian had just
/// been killed while it started.
fn sweep_folders() {
    let base = std::env::temp_dir();
    for name in sys::folder::names_in(&base).unwrap_or_default() {
        let rest = name.strip_prefix(FOLDER_PREFIX);
        let pid = rest.and_then(|rest| rest.split_once('-')?.0.parse().ok());
        if pid.is_some_and(|pid| sys::process::is_gone(pid, 0)) {
            // If it is another user's, it stays.
            sys::folder::remove(&base.join(name));
        }
    }
}

/// Step 2 and 3 of the protocol.
fn connect(folder: &str, doorbell: &OwnedFd, user: &User) -> Result<Bootstrap, Error> {
    let place = std::env::temp_dir().join(folder);
    // Others must not enter: who connects gets the arena.
    sys::folder::make_private(&place)
        .map_err(|error| Error::os("make the rendezvous folder", error))?;
    fault::point("guardian.folder-made");
    let cleanup = RemoveOnDrop(&place);
    let accepted = accept_in(&place, doorbell, user);
    drop(cleanup);
    let bootstrap = accepted?;
    fault::point("guardian.connected");
    Ok(bootstrap)
}

/// Removes a folder, however its user ends. Both sides do it.
pub(super) struct RemoveOnDrop<'a>(pub(super) &'a Path);

impl Drop for RemoveOnDrop<'_> {
    fn drop(&mut self) {
        sys::folder::remove(self.0);
    }
}

fn accept_in(place: &Path, doorbell: &OwnedFd, user: &User) -> Result<Bootstrap, Error> {
    let os = |doing: &str, error: std::io::Error| Error::os(doing, error);
    // A socket's path holds 107 bytes and temporary directories can be deeper: go through /proc.
    let handle = sys::fd::open_place(place)
        .map_err(|error| Error::os("open the rendezvous folder", error))?;
    let short = sys::fd::proc_path(&handle);
    super::control::measure_sockets()?;
    let make = || {
        sys::fail::attempt("ipc")?;
        IpcOneShotServer::<Bootstrap>::new()
    };
    let server = with_temporary_directory(&short, make);
    let (server, path) = server.map_err(|error| os("make the rendezvous socket", error))?;
    let inside = path.strip_prefix(&short).unwrap_or(&path).trim_start_matches('/').to_owned();
    let listener =
        sys::fd::socket_at(&path).map_err(|error| os("copy the rendezvous socket", error))?;
    let done = sys::fd::event_counter().map_err(|error| Error::os("make an event", error))?;
    let accepted = std::thread::scope(|scope| {
        let watch = || exit_if_orphaned(doorbell, &done, place, user);
        let watcher =
            sys::thread::start_scoped(scope, watch).map_err(|error| os("start a thread", error))?;
        let sent = sys::fd::send(doorbell, inside.as_bytes(), Some(listener.as_fd()))
            .map_err(|error| Error::os("send the rendezvous", error));
        fault::point("guardian.invited");
        let accepted = sent.and_then(|()| {
            let other = |error: String| {
                Error::os("accept the user's process", std::io::Error::other(error))
            };
            sys::fail::attempt("ipc").map_err(|error| other(error.to_string()))?;
            server.accept().map_err(|error| other(error.to_string()))
        });
        // However it went: the scope waits for the watcher.
        sys::fd::signal_event(&done);
        // R1: one thread from here on.
        let _ = watcher.join();
        accepted
    });
    Ok(accepted?.1)
}

/// Runs `make` with the temporary directory elsewhere: in this process, for this moment.
#[allow(unsafe_code)] // Changes the environment of a process with one thread.
fn with_temporary_directory<T>(place: &str, make: impl FnOnce() -> T) -> T {
    const NAME: &str = "TMPDIR";
    let before = std::env::var_os(NAME);
    // SAFETY: R1: the guardian has one thread here.
    unsafe { std::env::set_var(NAME, place) };
    let made = make();
    match before {
        // SAFETY: as above.
        Some(value) => unsafe { std::env::set_var(NAME, value) },
        // SAFETY: as above.
        None => unsafe { std::env::remove_var(NAME) },
    }
    made
}

/// Ends the process if the doorbell hangs up before `done` is signalled.
fn exit_if_orphaned(doorbell: &OwnedFd, done: &OwnedFd, place: &Path, user: &User) {
    let ready = sys::fd::poll(&[done.as_fd(), doorbell.as_fd()], None);
    // Until it is connected, the user's process sends nothing: readable means hung up.
    if matches!(ready.as_deref(), Ok([false, true])) {
        sys::folder::remove(place);
        user.sweep_names();
        sys::process::exit_now(0);
    }
}

/// Serves until the user's process is gone.
fn serve(control: Control<Reply, Command>, user: User) {
    let (control, user, children) = (Some(control), Some(user), Vec::new());
    let (passed, detached) = (VecDeque::new(), Vec::new());
    let mut guardian = Serving { control, user, passed, children, detached, dismissed: false };
    while guardian.serve_once().is_some() {}
    for pid in &guardian.children {
        sys::process::kill_child(*pid);
    }
    for pid in &guardian.children {
        let _ = sys::process::reap(*pid);
    }
    match &guardian.user {
        Some(user) if !guardian.dismissed => user.sweep_names(),
        _ => {
            named::sweep();
            sweep_folders();
        }
    }
}

struct Serving {
    control: Option<Control<Reply, Command>>,
    user: Option<User>,
    /// Descriptors that came over the doorbell for requests to come.
    passed: VecDeque<OwnedFd>,
    children: Vec<u32>,
    /// Those that are to outlive this process: reaped if they end before, but not ended.
    detached: Vec<u32>,
    /// The user's process lives, and wants no guardian any more.
    dismissed: bool,
}

impl Serving {
    /// Waits for commands and answers them; `None` when the user's process is gone.
    fn serve_once(&mut self) -> Option<()> {
        let (control, user) = (self.control.as_ref()?, self.user.as_ref()?);
        let ready = sys::fd::poll(&[control.doorbell.as_fd(), user.pidfd.as_fd()], None).ok()?;
        let passed = &mut self.passed;
        if ready.get(1) == Some(&true)
            || !control.answer_doorbell_keeping(|fd| passed.push_back(fd))
        {
            return None;
        }
        while let Some(command) = self.control.as_ref()?.try_receive().ok()? {
            let reply = match command {
                Command::Fork(request) => Reply::Forked(self.fork(&request)),
                Command::Reap { pid } => Reply::Reaped(self.reap(pid)),
                Command::End => {
                    self.dismissed = true;
                    return None;
                }
            };
            self.control.as_ref()?.send(reply).ok()?;
        }
        Some(())
    }

    #[allow(unsafe_code)] // Forks.
    fn fork(&mut self, request: &ForkRequest) -> Forked {
        let ForkRequest { entry, ref argument, ref name, streams, detached } = *request;
        let Some(streams) = self.take_passed(streams) else {
            return Forked::Failed(sys::fd::BAD_DESCRIPTOR);
        };
        let Some(entry) = resolve_entry(entry) else { return Forked::Failed(libc::ENOEXEC) };
        fault::point("guardian.fork");
        let guardian = sys::process::own_pid();
        // SAFETY: R1: one thread.
        match unsafe { sys::process::fork() } {
            Ok(Fork::Child) => {
                sys::fail::set_role(sys::fail::Role::Worker);
                // The channels belong to the guardian: a copy here would hide its death.
                self.control = None;
                self.user = None;
                if detached {
                    sys::process::leave_session();
                } else {
                    let armed = sys::process::die_with_parent();
                    if armed.is_err() || sys::process::parent_pid() != guardian {
                        sys::process::exit_now(1);
                    }
                }
                if sys::fd::set_standard_streams(&streams).is_err() {
                    sys::process::exit_now(1);
                }
                drop(streams);
                sys::process::set_name(name);
                sys::process::unblock_signals();
                entry(argument);
                sys::process::exit_now(0)
            }
            Ok(Fork::Parent(pid)) => {
                fault::point("guardian.forked");
                if detached { &mut self.detached } else { &mut self.children }.push(pid);
                Forked::Pid(pid)
            }
            Err(error) => Forked::Failed(error.raw_os_error()),
        }
    }

    /// The descriptors that were passed for a request: they came before it.
    fn take_passed(&mut self, streams: [bool; 3]) -> Option<[Option<OwnedFd>; 3]> {
        let wanted = streams.iter().filter(|passed| **passed).count();
        while self.passed.len() < wanted {
            let (control, passed) = (self.control.as_ref()?, &mut self.passed);
            let there = sys::fd::poll_one(control.doorbell.as_fd(), Some(Duration::ZERO)).ok()?;
            if !there || !control.answer_doorbell_keeping(|fd| passed.push_back(fd)) {
                return None;
            }
        }
        Some(streams.map(|passed| if passed { self.passed.pop_front() } else { None }))
    }

    fn reap(&mut self, pid: u32) -> Option<WorkerExit> {
        if !self.children.iter().chain(&self.detached).any(|child| *child == pid) {
            return None;
        }
        fault::point("guardian.reap");
        let ended = sys::process::reap(pid).ok()?;
        self.children.retain(|child| *child != pid);
        self.detached.retain(|child| *child != pid);
        fault::point("guardian.reaped");
        Some(exit_of(ended))
    }
}

/// The public form of a process's end.
pub(crate) fn exit_of(ended: Ended) -> WorkerExit {
    match ended {
        Ended::Code(code) => WorkerExit::Code(code),
        Ended::Signal(signal) => WorkerExit::Signal(signal),
    }
}
