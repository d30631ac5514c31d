//! Control messages, and the channel that carries them both ways.
//!
//! The messages go over `ipc-channel`. Beside them runs a socket pair, the doorbell, rung once per
//! message: it can be polled together with pidfds, which an `ipc-channel` receiver cannot.

use crate::error::{Error, WorkerExit};
use crate::sys;
use ipc_channel::TryRecvError;
use ipc_channel::ipc::{IpcReceiver, IpcSender};
use ipc_channel::platform::OsIpcSender;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use super::identity::{CodeOffset, Identity};

/// What the supervisor asks of the guardian.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Command {
    /// Fork a process.
    Fork(ForkRequest),
    /// Reap a dead child and say how it ended.
    Reap { pid: u32 },
    /// End: the user's process goes on without it.
    End,
}

/// A process that the guardian is to fork: it runs `entry(argument)` and is called `name`.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ForkRequest {
    pub(crate) entry: CodeOffset,
    pub(crate) argument: Vec<u8>,
    pub(crate) name: String,
    /// Which of its standard streams were passed over the doorbell, before this request.
    pub(crate) streams: [bool; 3],
    /// It goes on when the guardian ends.
    pub(crate) detached: bool,
}

/// What the guardian answers, in the order of the commands.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Reply {
    Hello(Identity),
    Forked(Forked),
    Reaped(Option<WorkerExit>),
}

/// The outcome of a fork: the pid, or the system's error number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Forked {
    Pid(u32),
    Failed(i32),
}

/// The first message: the two channels, as seen by the guardian.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Bootstrap {
    pub(crate) commands: IpcReceiver<Command>,
    pub(crate) replies: IpcSender<Reply>,
}

/// The other side has closed its sockets, which a dying process does before its pidfd tells.
fn hung_up(doing: &str, error: &dyn std::fmt::Display) -> Error {
    Error::broken(format!("the guardian process does not {doing} control messages: {error}"))
}

/// Has `ipc-channel` measure how much a socket holds, which it does once, with two more descriptors. If it does not get them
/// it panics; and from then on so does everything that sends or receives.
pub(crate) fn measure_sockets() -> Result<(), Error> {
    static MEASURED: OnceLock<usize> = OnceLock::new();
    if MEASURED.get().is_none() {
        // Two that are there now are there in a moment.
        drop(sys::fd::socket_pair().map_err(|error| Error::os("make a control channel", error))?);
        MEASURED.get_or_init(OsIpcSender::get_max_fragment_size);
    }
    Ok(())
}

/// One side's end: sends `S`, receives `R`.
#[derive(Debug)]
pub(crate) struct Control<S: Serialize, R> {
    pub(crate) sender: IpcSender<S>,
    pub(crate) receiver: IpcReceiver<R>,
    pub(crate) doorbell: OwnedFd,
}

impl<S: Serialize, R: DeserializeOwned + Serialize> Control<S, R> {
    /// Sends a message and rings.
    pub(crate) fn send(&self, message: S) -> Result<(), Error> {
        self.post(message)?;
        self.ring()
    }

    /// Sends a message that more will follow before the ring.
    pub(crate) fn post(&self, message: S) -> Result<(), Error> {
        sys::fail::attempt("ipc_send").map_err(|error| hung_up("take", &error))?;
        self.sender.send(message).map_err(|error| hung_up("take", &error))
    }

    /// Has the other side look.
    pub(crate) fn ring(&self) -> Result<(), Error> {
        match sys::fd::send(&self.doorbell, b"!", None) {
            // A full socket has rings enough.
            Ok(()) | Err(sys::fd::WOULD_BLOCK) => Ok(()),
            Err(error) => Err(hung_up("hear of", &error)),
        }
    }

    /// The next message, if one is there.
    pub(crate) fn try_receive(&self) -> Result<Option<R>, Error> {
        sys::fail::attempt("ipc_receive").map_err(|error| hung_up("answer", &error))?;
        match self.receiver.try_recv() {
            Ok(message) => Ok(Some(message)),
            Err(TryRecvError::Empty) => Ok(None),
            Err(error) => Err(hung_up("answer", &error)),
        }
    }

    /// Waits for a message, at most until `timeout`, and no longer than `peer` lives.
    pub(crate) fn receive(&self, peer: BorrowedFd<'_>, timeout: Duration) -> Result<R, Error> {
        let deadline = Instant::now() + timeout;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let ready = sys::fd::poll(&[self.doorbell.as_fd(), peer], Some(left))
                .map_err(|error| hung_up("let itself be waited for with", &error))?;
            match ready[..] {
                [true, _] if self.answer_doorbell() => {
                    if let Some(message) = self.try_receive()? {
                        return Ok(message);
                    }
                }
                [false, false] => {
                    return Err(Error::broken(format!(
                        "the guardian process did not answer within {timeout:?}"
                    )));
                }
                _ => return Err(Error::broken("the guardian process died".into())),
            }
        }
    }

    /// Takes one ring; `false` if the other side has hung up.
    pub(crate) fn answer_doorbell(&self) -> bool {
        self.answer_doorbell_keeping(|_| {})
    }

    /// As [`Control::answer_doorbell`]; `keep` gets a descriptor that was passed.
    pub(crate) fn answer_doorbell_keeping(&self, keep: impl FnOnce(OwnedFd)) -> bool {
        let mut ring = [0u8; 8];
        match sys::fd::receive(&self.doorbell, &mut ring) {
            Ok((0, _)) => return false,
            Ok((_, Some(passed))) => keep(passed),
            Ok((_, None)) | Err(sys::fd::WOULD_BLOCK) => {}
            // It would fail again and again.
            Err(_) => return false,
        }
        true
    }

    /// Passes a descriptor, for a request that comes after it.
    pub(crate) fn pass(&self, fd: impl AsFd) -> Result<(), Error> {
        sys::fd::send(&self.doorbell, b"fd", Some(fd.as_fd())).map_err(|error| match error {
            sys::fd::HUNG_UP | sys::fd::RESET => hung_up("take the streams of", &error),
            error => Error::os("pass a stream to the guardian process", error),
        })
    }
}
