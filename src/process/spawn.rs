//! The user's side of the guardian: starting it, asking it, ending it.
//!
//! Starting is a `posix_spawn` of `/proc/self/exe` (never the path: the file may have been
//! replaced), so its cost does not depend on the size of this process. The arena's descriptor is
//! passed over the doorbell, and not opened through `/proc/PID/fd`: that fails in a process that
//! made itself undumpable.

use super::control::{Bootstrap, Command, Control, ForkRequest, Forked, Reply};
use super::guardian::{
    BEFORE_MAIN, FOLDER_PREFIX, IN_MAIN, REFUSAL, RemoveOnDrop, VARIABLE, exit_of,
    program_calls_init,
};
use super::identity::Identity;
use crate::error::{Error, WorkerExit};
use crate::shm::Arena;
use crate::sys;
use ipc_channel::ipc::{self, IpcReceiver, IpcSender};
use serde::{Serialize, de::DeserializeOwned};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Stdio;
use std::time::Duration;

/// How long a guardian may take for one step. A dead one is noticed at once; this is for a stopped
/// or starved one.
const PATIENCE: Duration = Duration::from_secs(30);

/// A running guardian.
#[derive(Debug)]
pub(crate) struct Guardian {
    control: Control<Command, Reply>,
    pidfd: OwnedFd,
}

impl Guardian {
    /// Starts the guardian of this process, whose workers ring `bell`.
    pub(crate) fn start(arena: &Arena, bell: impl AsFd) -> Result<Self, Error> {
        if sys::process::is_privileged_exec() {
            return Err(Error::invalid(
                "this process runs with raised privileges (set-uid): it may not start workers"
                    .into(),
            ));
        }
        let base = std::env::temp_dir();
        let (pid, now_ns) = (sys::process::own_pid(), sys::clock::monotonic_ns());
        let folder = format!("{FOLDER_PREFIX}{pid}-{now_ns}");
        // The guardian removes it, unless it dies, or the system does not let it.
        let place = base.join(&folder);
        let _removed = RemoveOnDrop(&place);
        Self::start_at(arena, bell.as_fd(), &base, &folder)
    }

    fn start_at(
        arena: &Arena,
        bell: BorrowedFd<'_>,
        base: &std::path::Path,
        folder: &str,
    ) -> Result<Self, Error> {
        let (doorbell, theirs) =
            sys::fd::socket_pair().map_err(|error| Error::os("make a socket pair", error))?;
        sys::fd::send(&doorbell, b"arena", Some(arena.descriptor()))
            .map_err(|error| Error::os("send the arena's descriptor", error))?;
        sys::fd::send(&doorbell, b"bell", Some(bell))
            .map_err(|error| Error::os("send the supervisor's bell", error))?;
        let pid = spawn(folder, theirs)?;
        let starting = match sys::process::open_pidfd(pid) {
            Ok(pidfd) => Starting { pidfd: Some(pidfd) },
            Err(error) => {
                sys::process::kill_child(pid);
                let _ = sys::process::reap(pid);
                return Err(Error::os("watch the guardian process", error));
            }
        };
        let control = meet(base, folder, doorbell, starting.pidfd()?)?;
        let pidfd = starting.keep();
        let pidfd =
            pidfd.ok_or_else(|| Error::broken("the guardian process was given up".into()))?;
        Ok(Self { control, pidfd })
    }

    /// Becomes readable when the guardian is dead.
    pub(crate) fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Has the guardian look at what was asked.
    pub(crate) fn ring(&self) {
        if self.control.ring().is_err() {
            // It will not answer; who waits for that sees it die.
            let _ = sys::process::kill_pidfd(&self.pidfd);
        }
    }

    /// Posts the request for a new process: [`Guardian::ring`], then [`Guardian::forked`] for the
    /// answer.
    pub(crate) fn ask_fork(&self, request: ForkRequest) -> Result<(), Error> {
        self.control.post(Command::Fork(request))
    }

    /// Passes a standard stream for the next [`Guardian::ask_fork`].
    pub(crate) fn pass(&self, stream: impl AsFd) -> Result<(), Error> {
        self.control.pass(stream)
    }

    /// The answer to [`Guardian::ask_fork`].
    pub(crate) fn forked(&self) -> Result<Forked, Error> {
        match self.control.receive(self.pidfd(), PATIENCE)? {
            Reply::Forked(forked) => Ok(forked),
            other => Err(Error::broken(format!("the guardian answered {other:?} to a fork"))),
        }
    }

    /// Posts the request to reap a dead child: [`Guardian::ring`], then [`Guardian::reaped`] for the
    /// answer.
    pub(crate) fn ask_reap(&self, pid: u32) -> Result<(), Error> {
        self.control.post(Command::Reap { pid })
    }

    /// The answer to [`Guardian::ask_reap`].
    pub(crate) fn reaped(&self) -> Result<Option<WorkerExit>, Error> {
        match self.control.receive(self.pidfd(), PATIENCE)? {
            Reply::Reaped(exit) => Ok(exit),
            other => Err(Error::broken(format!("the guardian answered {other:?} to a reap"))),
        }
    }

    /// Ends the guardian (and with it every worker that is left) and frees its process entry.
    pub(crate) fn end(self) {
        let Self { control, pidfd } = self;
        // Hanging up lets it end its workers in order; being killed would do the same. It need not wait
        // for the death of this process, which hanging up alone would announce.
        let _ = control.send(Command::End);
        drop(control);
        if !sys::fd::poll_one(pidfd.as_fd(), Some(Duration::from_secs(1))).unwrap_or(false) {
            let _ = sys::process::kill_pidfd(&pidfd);
        }
        reap_own(pidfd.as_fd());
    }

    /// Frees the process entry of a guardian that is dead, dying or of no use any more.
    pub(crate) fn bury(self) -> Option<WorkerExit> {
        let _ = sys::process::kill_pidfd(&self.pidfd);
        reap_own(self.pidfd())
    }
}

/// Reaps the guardian; `None` if the program has reaped it (it may wait for any child).
fn reap_own(pidfd: BorrowedFd<'_>) -> Option<WorkerExit> {
    sys::process::reap_pidfd(pidfd).ok().map(exit_of)
}

/// A guardian that is killed and reaped unless it is kept.
struct Starting {
    pidfd: Option<OwnedFd>,
}

impl Starting {
    fn keep(mut self) -> Option<OwnedFd> {
        self.pidfd.take()
    }

    fn pidfd(&self) -> Result<BorrowedFd<'_>, Error> {
        let pidfd = self.pidfd.as_ref();
        pidfd
            .map(AsFd::as_fd)
            .ok_or_else(|| Error::broken("the guardian process was given up".into()))
    }
}

impl Drop for Starting {
    fn drop(&mut self) {
        if let Some(pidfd) = &self.pidfd {
            let _ = sys::process::kill_pidfd(pidfd);
            reap_own(pidfd.as_fd());
        }
    }
}

/// Connects to the guardian and makes sure that it runs this program.
///
/// # Errors
/// One that is `broken` if the guardian died over it: another one may not. One that is not if the system refused
/// something, to this process or to the guardian.
fn meet(
    base: &std::path::Path,
    folder: &str,
    doorbell: OwnedFd,
    guardian: BorrowedFd<'_>,
) -> Result<Control<Command, Reply>, Error> {
    let died = |error| because_it_died(error, guardian);
    let (said, listener) = invitation(&doorbell, guardian).map_err(died)?;
    if let Some(reason) = said.strip_prefix(REFUSAL) {
        let reason = std::io::Error::other(reason.to_owned());
        return Err(Error::os("start the guardian process", reason));
    }
    // The system drops a descriptor that this process has no number for.
    let listener =
        listener.ok_or_else(|| Error::os("receive the guardian's socket", sys::fd::TOO_MANY))?;
    rendezvous(&base.join(folder).join(said), &listener, doorbell)
        .and_then(|control| greet(&control, guardian).map(|()| control))
        .map_err(died)
}

/// What the guardian says when it is ready: where its server is, or why there is none.
///
/// And the server's socket, to be kept until it is connected ([`rendezvous`]).
fn invitation(
    doorbell: &OwnedFd,
    guardian: BorrowedFd<'_>,
) -> Result<(String, Option<OwnedFd>), Error> {
    let ready = sys::fd::poll(&[doorbell.as_fd(), guardian], Some(PATIENCE))
        .map_err(|error| Error::os("wait for the guardian process", error))?;
    let mut said = [0u8; 1024];
    let (length, listener) = match ready[..] {
        [true, _] => sys::fd::receive(doorbell, &mut said)
            .map_err(|error| Error::os("hear from the guardian process", error))?,
        [_, true] => (0, None),
        _ => return Err(Error::broken(format!("no guardian process within {PATIENCE:?}"))),
    };
    if length == 0 {
        return Err(Error::broken(
            "the guardian process ended before it was ready (its standard error may say why)"
                .into(),
        ));
    }
    Ok((String::from_utf8_lossy(&said[..length]).into_owned(), listener))
}

/// How long a process that hangs up may take to be dead.
const DYING_TAKES: Duration = Duration::from_millis(200);

/// Tells a guardian that died while it started, which another one may not, from a system that refuses something.
/// Both look alike to who connects: a dying process hangs up before its pidfd tells of its death.
fn because_it_died(error: Error, guardian: BorrowedFd<'_>) -> Error {
    if error.is_broken() || !sys::fd::poll_one(guardian, Some(DYING_TAKES)).unwrap_or(false) {
        return error;
    }
    Error::broken(format!("the guardian process died while it started: {error}"))
}

/// Makes sure that the guardian runs this program.
fn greet(control: &Control<Command, Reply>, guardian: BorrowedFd<'_>) -> Result<(), Error> {
    match control.receive(guardian, PATIENCE)? {
        Reply::Hello(identity) if identity == Identity::own()? => Ok(()),
        other => {
            Err(Error::broken(format!("the guardian process runs another program: {other:?}")))
        }
    }
}

fn spawn(folder: &str, doorbell: OwnedFd) -> Result<u32, Error> {
    let mode = if program_calls_init() { IN_MAIN } else { BEFORE_MAIN };
    let mut arguments = std::env::args_os();
    let mut command = std::process::Command::new("/proc/self/exe");
    command.arg0(arguments.next().unwrap_or_default()).args(arguments);
    command.env(VARIABLE, format!("{mode} {folder}")).stdin(Stdio::from(doorbell));
    sys::fail::attempt("posix_spawn")
        .map_err(|error| Error::os("start the guardian process", error))?;
    let child = command.spawn().map_err(|error| Error::os("start the guardian process", error))?;
    Ok(child.id())
}

fn channel<T: Serialize + DeserializeOwned>() -> Result<(IpcSender<T>, IpcReceiver<T>), Error> {
    sys::fail::attempt("ipc")
        .map_err(std::io::Error::from)
        .and_then(|()| ipc::channel())
        .map_err(|error| Error::os("make a control channel", error))
}

/// Connects to the guardian's one-shot server and exchanges the channels.
///
/// `ipc-channel` loses a descriptor if it cannot connect, so it must be able to, even if the guardian dies now: the
/// place goes on to exist while it is open here, and `_listener` goes on to listen.
fn rendezvous(
    socket: &std::path::Path,
    _listener: &OwnedFd,
    doorbell: OwnedFd,
) -> Result<Control<Command, Reply>, Error> {
    let place = sys::fd::open_place(socket)
        .map_err(|error| Error::os("open the guardian's socket", error))?;
    super::control::measure_sockets()?;
    let bootstrap = sys::fail::attempt("ipc")
        .map_err(std::io::Error::from)
        .and_then(|()| IpcSender::<Bootstrap>::connect(sys::fd::proc_path(&place)))
        .map_err(|error| match error.raw_os_error() {
            // It goes on without the socket that it did not get.
            Some(sys::fd::BAD_DESCRIPTOR) => sys::fd::TOO_MANY.into(),
            _ => error,
        })
        .map_err(|error| Error::os("connect to the guardian process", error))?;
    let (sender, commands) = channel::<Command>()?;
    let (replies, receiver) = channel::<Reply>()?;
    let doing = "send the control channels";
    sys::fail::attempt("ipc_send").map_err(|error| Error::os(doing, error))?;
    bootstrap
        .send(Bootstrap { commands, replies })
        .map_err(|error| Error::os(doing, std::io::Error::other(error.to_string())))?;
    Ok(Control { sender, receiver, doorbell })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Child, Command};

    fn sleeper() -> (Child, OwnedFd) {
        let child = Command::new("sleep").arg("60").spawn().unwrap();
        let pidfd = sys::process::open_pidfd(child.id()).unwrap();
        (child, pidfd)
    }

    /// What becomes of an invitation to a server that is gone, and has removed what it had.
    fn meet_nobody(guardian: &OwnedFd) -> Error {
        meet_who_says("socket", guardian)
    }

    fn meet_who_says(said: &str, guardian: &OwnedFd) -> Error {
        let place = tempfile::tempdir().unwrap();
        std::fs::create_dir(place.path().join("folder")).unwrap();
        let (doorbell, theirs) = sys::fd::socket_pair().unwrap();
        sys::fd::send(&theirs, said.as_bytes(), Some(guardian.as_fd())).unwrap();
        meet(place.path(), "folder", doorbell, guardian.as_fd()).err().unwrap()
    }

    #[test]
    fn a_guardian_that_dies_after_its_invitation_is_told_from_a_system_that_refuses() {
        let (mut child, guardian) = sleeper();
        let refused = meet_nobody(&guardian);
        assert!(!refused.is_broken(), "{refused}");
        child.kill().unwrap();
        let died = meet_nobody(&guardian);
        assert!(died.is_broken(), "{died}");
        // One that says why, and then ends, was refused something: another one would be, too.
        let refused = meet_who_says("!cannot start a thread: no more", &guardian);
        assert!(!refused.is_broken(), "{refused}");
        assert!(refused.to_string().contains("cannot start a thread: no more"), "{refused}");
        child.wait().unwrap();
    }

    #[test]
    fn who_has_a_guardian_s_socket_connects_to_it_even_when_it_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let (server, path) = ipc::IpcOneShotServer::<Bootstrap>::new().unwrap();
        let listener = sys::fd::socket_at(&path).unwrap();
        let place = folder.path().join("socket");
        std::fs::hard_link(&path, &place).unwrap();
        drop(server);
        let (doorbell, _theirs) = sys::fd::socket_pair().unwrap();
        rendezvous(&place, &listener, doorbell).unwrap();
        drop(listener);
        let (doorbell, _theirs) = sys::fd::socket_pair().unwrap();
        // What was lost here, now nobody holds it.
        let nothing = std::fs::File::open("/dev/null").unwrap().into();
        let refused = rendezvous(&place, &nothing, doorbell).err().unwrap().to_string();
        assert!(refused.contains("refused"), "{refused}");
    }
}
