//! Descriptors: socket pairs, passing one along, polling, the event counter.
#![allow(unsafe_code)] // Adopts a descriptor number that the standard library does not own.

use super::{again, fail};
use rustix::event::{EventfdFlags, PollFd, PollFlags};
use rustix::io::{self, Errno};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

/// The error number of a descriptor that is not there.
pub(crate) const BAD_DESCRIPTOR: i32 = Errno::BADF.raw_os_error();

/// That a socket was full, or empty.
pub(crate) const WOULD_BLOCK: Errno = Errno::AGAIN;
/// The other side of a socket is closed.
pub(crate) const HUNG_UP: Errno = Errno::PIPE;
/// There is no number left for a descriptor.
pub(crate) const TOO_MANY: Errno = Errno::MFILE;
/// The other side of a socket was closed with something unread in it.
pub(crate) const RESET: Errno = Errno::CONNRESET;

/// Two connected sockets that keep message boundaries; neither survives `exec`.
pub(crate) fn socket_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    fail::attempt("socketpair")?;
    rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
}

/// Sends `bytes` and, with them, an optional descriptor. Never raises SIGPIPE, never blocks for the other
/// side; if the system is short of memory, it is tried again for a while.
pub(crate) fn send(
    socket: impl AsFd,
    bytes: &[u8],
    passed: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    let passed = passed.map(|fd| [fd]);
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    again::persist(|| {
        fail::attempt("sendmsg")?;
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if let Some(passed) = &passed {
            control.push(SendAncillaryMessage::ScmRights(passed));
        }
        rustix::net::sendmsg(&socket, &[IoSlice::new(bytes)], &mut control, flags).map(drop)
    })
}

/// Receives one message: its length (0: the peer is gone) and the descriptor that came with it.
pub(crate) fn receive(
    socket: impl AsFd,
    buffer: &mut [u8],
) -> io::Result<(usize, Option<OwnedFd>)> {
    again::persist(|| receive_once(&socket, buffer))
}

fn receive_once(socket: impl AsFd, buffer: &mut [u8]) -> io::Result<(usize, Option<OwnedFd>)> {
    fail::attempt("recvmsg")?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    let message =
        rustix::net::recvmsg(socket, &mut [IoSliceMut::new(buffer)], &mut control, flags)?;
    let passed = control.drain().find_map(|part| match part {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    Ok((message.bytes, passed))
}

/// A pipe: what is written to the second can be read from the first.
pub(crate) fn pipe() -> std::io::Result<(std::io::PipeReader, std::io::PipeWriter)> {
    fail::attempt("pipe")?;
    std::io::pipe()
}

/// A copy of the standard input of this process; `None` if it has none.
pub(crate) fn copy_of_standard_input() -> io::Result<Option<OwnedFd>> {
    let copied = fail::attempt("fcntl")
        .and_then(|()| rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3));
    match copied {
        Err(Errno::BADF) => Ok(None),
        other => other.map(Some),
    }
}

/// The device that is empty, and takes everything.
pub(crate) fn open_null() -> io::Result<OwnedFd> {
    fail::attempt("open")?;
    let flags = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::CLOEXEC;
    rustix::fs::open("/dev/null", flags, rustix::fs::Mode::empty())
}

/// Makes the given descriptors the standard streams of the calling process.
pub(crate) fn set_standard_streams(streams: &[Option<OwnedFd>; 3]) -> io::Result<()> {
    fail::attempt("dup2")?;
    let [stdin, stdout, stderr] = streams;
    stdin.as_ref().map_or(Ok(()), rustix::stdio::dup2_stdin)?;
    stdout.as_ref().map_or(Ok(()), rustix::stdio::dup2_stdout)?;
    stderr.as_ref().map_or(Ok(()), rustix::stdio::dup2_stderr)
}

/// An event counter for waking a thread that polls.
pub(crate) fn event_counter() -> io::Result<OwnedFd> {
    fail::attempt("eventfd")?;
    rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
}

/// Adds one to an event counter.
pub(crate) fn signal_event(counter: impl AsFd) {
    // It can only fail when the counter is at its maximum, and then the poller is awake anyway.
    let _ = rustix::io::write(counter, &1u64.to_ne_bytes());
}

/// Sets an event counter back to zero.
pub(crate) fn clear_event(counter: impl AsFd) {
    let mut value = [0u8; 8];
    // Fails with EAGAIN when it already is zero.
    let _ = rustix::io::read(counter, &mut value);
}

/// Waits until one of `fds` is readable or hung up; `true` for each that is.
///
/// An empty time limit means no limit; interruptions do not shorten or lengthen the wait.
pub(crate) fn poll(fds: &[BorrowedFd<'_>], timeout: Option<Duration>) -> io::Result<Vec<bool>> {
    let deadline = timeout.map(|timeout| Instant::now() + timeout);
    let mut tries = again::TRIES;
    let mut entries: Vec<PollFd<'_>> =
        fds.iter().map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN)).collect();
    loop {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let left = left.map(|left| rustix::time::Timespec {
            tv_sec: left.as_secs() as i64,
            tv_nsec: i64::from(left.subsec_nanos()),
        });
        let polled =
            fail::attempt("poll").and_then(|()| rustix::event::poll(&mut entries, left.as_ref()));
        match polled {
            Ok(_) => return Ok(entries.iter().map(|entry| !entry.revents().is_empty()).collect()),
            Err(Errno::INTR) => {}
            Err(Errno::NOMEM) if tries > 0 => {
                tries -= 1;
                std::thread::sleep(Duration::from_millis(1));
            }
            Err(error) => return Err(error),
        }
    }
}

/// Waits for a single descriptor; `false` when the time was up.
pub(crate) fn poll_one(fd: BorrowedFd<'_>, timeout: Option<Duration>) -> io::Result<bool> {
    Ok(poll(&[fd], timeout)?.first().copied().unwrap_or(false))
}

/// Moves standard input to a descriptor of our own and puts `/dev/null` in its place.
pub(crate) fn take_standard_input() -> io::Result<OwnedFd> {
    fail::attempt("fcntl")?;
    // SAFETY: descriptor 0 is open for the length of this call: our parent set it up.
    let input = unsafe { BorrowedFd::borrow_raw(0) };
    let taken = rustix::io::fcntl_dupfd_cloexec(input, 3)?;
    fail::attempt("open")?;
    let null =
        rustix::fs::open("/dev/null", rustix::fs::OFlags::RDONLY, rustix::fs::Mode::empty())?;
    fail::attempt("dup2")?;
    // SAFETY: we replace descriptor 0 and forget the handle, so nobody closes it twice.
    let mut zero = std::mem::ManuallyDrop::new(unsafe { OwnedFd::from_raw_fd(0) });
    rustix::io::dup2(&null, &mut zero)?;
    Ok(taken)
}

/// Closes every descriptor above 2 that was inherited through `exec`.
///
/// What this process opened itself carries the close-on-exec flag and stays.
///
/// # Errors
/// The list of them cannot be read; then none is closed.
pub(crate) fn close_inherited() -> std::io::Result<()> {
    fail::attempt("open")?;
    let entries = std::fs::read_dir("/proc/self/fd")?;
    let open: Vec<i32> = entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|number| *number > 2)
        .collect();
    for number in open {
        // SAFETY: the number was in our table a moment ago, and no other thread runs yet.
        let fd = unsafe { BorrowedFd::borrow_raw(number) };
        let inherited = rustix::io::fcntl_getfd(fd)
            .is_ok_and(|flags| !flags.contains(rustix::io::FdFlags::CLOEXEC));
        if inherited {
            // SAFETY: nothing in this process has taken ownership of an inherited descriptor.
            drop(unsafe { OwnedFd::from_raw_fd(number) });
        }
    }
    Ok(())
}

/// A copy of the socket of this process that is bound to a path.
pub(crate) fn socket_at(path: &str) -> std::io::Result<OwnedFd> {
    fail::attempt("open")?;
    let entries = std::fs::read_dir("/proc/self/fd")?;
    let numbers = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let numbers: Vec<i32> = numbers.collect();
    for number in numbers {
        // SAFETY: the number was in our table a moment ago; if it is another's by now, it has another path.
        let fd = unsafe { BorrowedFd::borrow_raw(number) };
        let address = rustix::net::getsockname(fd).ok();
        let address = address.and_then(|it| rustix::net::SocketAddrUnix::try_from(it).ok());
        if address.is_some_and(|it| it.path_bytes() == Some(path.as_bytes())) {
            fail::attempt("fcntl")?;
            return Ok(rustix::io::fcntl_dupfd_cloexec(fd, 3)?);
        }
    }
    Err(std::io::ErrorKind::NotFound.into())
}

/// Opens a file, or a folder to reach files through, as a place: [`proc_path`] leads there, whatever the length of its
/// path, and also when its name is gone.
pub(crate) fn open_place(path: &std::path::Path) -> io::Result<OwnedFd> {
    fail::attempt("open")?;
    use rustix::fs::{Mode, OFlags};
    rustix::fs::open(path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
}

/// The short path of an open file in this process.
pub(crate) fn proc_path(fd: impl AsFd) -> String {
    use std::os::fd::AsRawFd;
    format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd())
}
