//! Processes: fork, identity, death notices, signals.
#![allow(unsafe_code)] // `fork` and the signal mask have no safe form.

use super::{again, fail};
use rustix::io::{self, Errno};
use rustix::process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions};
use std::ffi::CString;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Which side of a fork the caller is on.
#[derive(Debug)]
pub(crate) enum Fork {
    /// In the new process.
    Child,
    /// In the old process, with the new one's id.
    Parent(u32),
}

/// How a process ended, as the kernel reports it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    /// It called `exit` with this code.
    Code(i32),
    /// A signal ended it.
    Signal(i32),
}

/// Forks the calling process.
///
/// # Safety
/// The calling process has one thread.
pub(crate) unsafe fn fork() -> io::Result<Fork> {
    fail::attempt("fork")?;
    // SAFETY: with a single thread no lock can be held by somebody who does not exist in the child.
    match unsafe { libc::fork() } {
        -1 => Err(last_error()),
        0 => Ok(Fork::Child),
        pid => Ok(Fork::Parent(pid as u32)),
    }
}

fn last_error() -> Errno {
    std::io::Error::last_os_error().raw_os_error().map_or(Errno::IO, Errno::from_raw_os_error)
}

/// Has `notice` called in every child that this process forks from now on (and that does not exec).
pub(crate) fn on_fork_in_child(notice: unsafe extern "C" fn()) {
    // SAFETY: the handler is a function of this program, which stays loaded. It fails only without
    // memory, and then a forked child goes unnoticed.
    unsafe { libc::pthread_atfork(None, None, Some(notice)) };
}

/// The calling process.
pub(crate) fn own_pid() -> u32 {
    std::process::id()
}

/// The parent of the calling process; 0 if it is in another pid namespace.
pub(crate) fn parent_pid() -> u32 {
    rustix::process::getppid().map_or(0, |pid| pid.as_raw_nonzero().get() as u32)
}

/// What a file of `/proc` that holds some numbers says; `None` if it cannot be read now, which says nothing about any
/// process.
fn read_proc(path: &str) -> Option<String> {
    fail::attempt("proc").ok()?;
    // 52 numbers of at most 20 digits: the kernel gives them all at once.
    let mut numbers = [0; 2048];
    let length = std::fs::File::open(path).ok()?.read(&mut numbers).ok()?;
    // The name of a process may be cut in the middle of a character.
    Some(String::from_utf8_lossy(&numbers[..length]).into_owned())
}

/// The start time of a process in clock ticks since boot; with its pid, an identity.
pub(crate) fn start_time_ticks(pid: u32) -> Option<u64> {
    let line = read_proc(&format!("/proc/{pid}/stat"))?;
    // The second field is the name in parentheses and may hold anything; count after the last one.
    line.rsplit_once(')')?.1.split_ascii_whitespace().nth(19)?.parse().ok()
}

/// Whether the process that had `pid` and began at `start_time_ticks` (0: not known) is known to have ended. One
/// that is dead and not reaped yet has. Of one about which nothing can be learnt now (no descriptor is left, its
/// entry may not be read) that is not known, and whoever takes it for dead would settle the living.
pub(crate) fn is_gone(pid: u32, start_time_ticks: u64) -> bool {
    match read_proc(&format!("/proc/{pid}/stat")) {
        Some(line) => has_ended(&line, start_time_ticks) == Some(true),
        None => is_nobodys(pid),
    }
}

/// Whether a line of `/proc/PID/stat` shows that a process has ended; `None` for a line that makes no sense.
fn has_ended(line: &str, start_time_ticks: u64) -> Option<bool> {
    let mut fields = line.rsplit_once(')')?.1.split_ascii_whitespace();
    let ended = matches!(fields.next()?, "Z" | "X");
    // That is its first thread's state; others may go on.
    let threads: u64 = fields.nth(16)?.parse().ok()?;
    let started: u64 = fields.nth(1)?.parse().ok()?;
    Some((ended && threads <= 1) || (start_time_ticks != 0 && started != start_time_ticks))
}

/// Whether no process has `pid`. Asking takes neither a descriptor nor a right.
fn is_nobodys(pid: u32) -> bool {
    let asked = to_pid(pid).and_then(rustix::process::test_kill_process);
    asked == Err(Errno::SRCH)
}

fn to_pid(pid: u32) -> io::Result<Pid> {
    i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(Errno::SRCH)
}

/// The user in whose name the calling process acts.
pub(crate) fn own_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// Bytes of memory that the calling process has for itself: resident, and not shared with others.
pub(crate) fn private_bytes() -> u64 {
    let Some(line) = read_proc("/proc/self/statm") else { return 0 };
    let mut pages = line.split_ascii_whitespace().skip(1).map_while(|field| field.parse().ok());
    let (resident, shared): (u64, u64) = (pages.next().unwrap_or(0), pages.next().unwrap_or(0));
    resident.saturating_sub(shared) * rustix::param::page_size() as u64
}

/// A descriptor that becomes readable when process `pid` dies.
pub(crate) fn open_pidfd(pid: u32) -> io::Result<OwnedFd> {
    fail::attempt("pidfd_open")?;
    rustix::process::pidfd_open(to_pid(pid)?, PidfdFlags::empty())
}

/// Sends SIGKILL through a pidfd; a process that is already dead is not an error.
pub(crate) fn kill_pidfd(pidfd: impl AsFd) -> io::Result<()> {
    let sent = again::persist(|| {
        fail::attempt("pidfd_send_signal")?;
        rustix::process::pidfd_send_signal(&pidfd, Signal::KILL)
    });
    match sent {
        Err(Errno::SRCH) => Ok(()),
        other => other,
    }
}

/// Ends a child of ours; one that is already dead is not an error.
pub(crate) fn kill_child(pid: u32) {
    // Our unreaped child keeps its id, so this cannot reach a stranger.
    kill_by_pid(pid);
}

/// Ends the process that has `pid`: the caller has just seen that it is the one that is meant.
pub(crate) fn kill_by_pid(pid: u32) {
    if let Ok(pid) = to_pid(pid) {
        let _ = rustix::process::kill_process(pid, Signal::KILL);
    }
}

/// Stops the calling process until somebody continues it.
#[cfg(any(debug_assertions, feature = "fault"))]
pub(crate) fn stop_self() {
    // To this thread: sent to the process, it might go on for a while before another thread takes the signal.
    // SAFETY: runs no code.
    unsafe { libc::raise(libc::SIGSTOP) };
}

/// Ends the calling process at once, running nothing.
#[cfg(any(debug_assertions, feature = "fault"))]
pub(crate) fn kill_self() -> ! {
    let _ = rustix::process::kill_process(rustix::process::getpid(), Signal::KILL);
    std::process::abort()
}

/// Leaves without destructors, exit handlers or flushing.
pub(crate) fn exit_now(code: i32) -> ! {
    // SAFETY: `_exit` only ends the process.
    unsafe { libc::_exit(code) }
}

/// Waits for a dead (or dying) child of ours and frees its entry in the process table.
pub(crate) fn reap(pid: u32) -> io::Result<Ended> {
    let pid = to_pid(pid)?;
    wait_for(WaitId::Pid(pid))
}

/// As [`reap`], through a pidfd.
pub(crate) fn reap_pidfd(pidfd: BorrowedFd<'_>) -> io::Result<Ended> {
    wait_for(WaitId::PidFd(pidfd))
}

fn wait_for(id: WaitId<'_>) -> io::Result<Ended> {
    loop {
        let waited = fail::attempt("waitid")
            .and_then(|()| rustix::process::waitid(id.clone(), WaitIdOptions::EXITED));
        match waited {
            Ok(Some(status)) => {
                return Ok(match (status.exit_status(), status.terminating_signal()) {
                    (Some(code), _) => Ended::Code(code),
                    (None, signal) => Ended::Signal(signal.unwrap_or(libc::SIGKILL)),
                });
            }
            Ok(None) | Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
}

/// Has the kernel kill this process when the thread that forked it ends.
pub(crate) fn die_with_parent() -> io::Result<()> {
    fail::attempt("prctl")?;
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
}

/// Makes the calling process the first of a session of its own: no terminal, no Ctrl-C.
pub(crate) fn leave_session() {
    // A process that was just forked leads no group, so this succeeds.
    let _ = rustix::process::setsid();
}

/// Sends SIGTERM through a pidfd; a process that is already dead is not an error.
pub(crate) fn terminate_pidfd(pidfd: impl AsFd) -> io::Result<()> {
    let sent = again::persist(|| {
        fail::attempt("pidfd_send_signal")?;
        rustix::process::pidfd_send_signal(&pidfd, Signal::TERM)
    });
    match sent {
        Err(Errno::SRCH) => Ok(()),
        other => other,
    }
}

/// Sets the name that `ps` shows (cut to 15 bytes by the kernel).
pub(crate) fn set_name(name: &str) {
    if let Ok(name) = CString::new(name) {
        let _ = rustix::thread::set_name(&name);
    }
}

/// Ignores `signal` in this process from now on.
fn ignore(signal: i32) {
    // SAFETY: ignoring a signal installs no code.
    unsafe { libc::signal(signal, libc::SIG_IGN) };
}

/// Ctrl-C stops the user's process, which stops its workers; they do not race it.
pub(crate) fn ignore_interrupt() {
    ignore(libc::SIGINT);
}

/// Children are to be reaped by us, whatever our parent did with its own.
pub(crate) fn keep_dead_children() {
    // SAFETY: the default action runs no code.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_DFL) };
}

/// What the standard library does before `main`: writing to a closed pipe is an error, not death.
pub(crate) fn ignore_broken_pipe() {
    ignore(libc::SIGPIPE);
}

/// Gives every signal mask bit back to the default: a worker starts with nothing blocked.
pub(crate) fn unblock_signals() {
    let mut set = std::mem::MaybeUninit::uninit();
    // SAFETY: the set is initialised by the first call and only read by the second.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        libc::pthread_sigmask(libc::SIG_SETMASK, set.as_ptr(), std::ptr::null_mut());
    }
}

/// Blocks every signal in the calling thread, so that the program's handlers run elsewhere.
pub(crate) fn block_signals_in_this_thread() {
    let mut set = std::mem::MaybeUninit::uninit();
    // SAFETY: the set is initialised by the first call and only read by the second.
    unsafe {
        libc::sigfillset(set.as_mut_ptr());
        libc::pthread_sigmask(libc::SIG_SETMASK, set.as_ptr(), std::ptr::null_mut());
    }
}

/// Keeps the calling thread, and those that it starts, on one of the cores that it may use: the `number`th,
/// counted round and round.
pub(crate) fn pin_to_core(number: usize) -> io::Result<()> {
    fail::attempt("sched_getaffinity")?;
    let may = rustix::thread::sched_getaffinity(None)?;
    let cores: Vec<usize> =
        (0..rustix::thread::CpuSet::MAX_CPU).filter(|core| may.is_set(*core)).collect();
    let mut one = rustix::thread::CpuSet::new();
    one.set(cores[number % cores.len().max(1)]);
    fail::attempt("sched_setaffinity")?;
    rustix::thread::sched_setaffinity(None, &one)
}

/// Adds to the calling process's nice value.
pub(crate) fn be_nice(value: i32) -> io::Result<()> {
    fail::attempt("setpriority")?;
    rustix::process::setpriority_process(None, value)
}

/// Lets the calling process map so many bytes more than it has.
pub(crate) fn limit_address_space(bytes: u64) -> io::Result<()> {
    let line = read_proc("/proc/self/statm").unwrap_or_default();
    let pages: u64 =
        line.split(' ').next().and_then(|pages| pages.parse().ok()).ok_or(Errno::INVAL)?;
    let most = (pages * rustix::param::page_size() as u64).saturating_add(bytes);
    let limit = rustix::process::Rlimit { current: Some(most), maximum: Some(most) };
    fail::attempt("setrlimit")?;
    rustix::process::setrlimit(rustix::process::Resource::As, limit)
}

/// What the kernel limits for one process.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Limit {
    CpuSeconds,
    Descriptors,
    FileBytes,
    CoreBytes,
    Processes,
}

/// Limits the calling process, for good: it cannot be raised again.
pub(crate) fn limit(which: Limit, most: u64) -> io::Result<()> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    fail::attempt("setrlimit")?;
    let resource = match which {
        Limit::CpuSeconds => Resource::Cpu,
        Limit::Descriptors => Resource::Nofile,
        Limit::FileBytes => Resource::Fsize,
        Limit::CoreBytes => Resource::Core,
        Limit::Processes => Resource::Nproc,
    };
    // The limit that there is already may be tighter.
    let within = |most: u64| getrlimit(resource).maximum.map_or(most, |maximum| maximum.min(most));
    // SIGXCPU comes at the lower one, and SIGKILL at the upper.
    let more = if matches!(which, Limit::CpuSeconds) { 1 } else { 0 };
    let (current, maximum) = (Some(within(most)), Some(within(most.saturating_add(more))));
    setrlimit(resource, Rlimit { current, maximum })
}

/// What the calling process executes from now on gains no rights by that.
pub(crate) fn no_new_privileges() -> io::Result<()> {
    fail::attempt("prctl")?;
    rustix::thread::set_no_new_privs(true)
}

/// Sets a variable of the environment, in a process with one thread.
pub(crate) fn set_variable(name: &std::ffi::OsStr, value: &std::ffi::OsStr) {
    // SAFETY: the caller has one thread, so nobody reads the environment now.
    unsafe { std::env::set_var(name, value) };
}

/// Asks the kernel to prefer this process over others when memory runs out.
pub(crate) fn prefer_as_oom_victim() {
    if fail::attempt("open").is_err() {
        return;
    }
    // 500 of 1000: above any ordinary process, below one marked expendable.
    let _ = std::fs::write("/proc/self/oom_score_adj", "500");
}

/// Whether the process runs with more rights than its caller (set-uid and the like).
pub(crate) fn is_privileged_exec() -> bool {
    // SAFETY: reads the auxiliary vector.
    unsafe { libc::getauxval(libc::AT_SECURE) != 0 }
}

/// Lets others run; used where the peer is a few instructions away from finishing.
pub(crate) fn yield_now() {
    #[cfg(shuttle)]
    crate::prim::model::yield_now();
    rustix::thread::sched_yield();
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = "7 (a) b) S 1 7 7 0 -1 4194560 0 0 0 0 1 2 0 0 20 0 3 0 12345 1000 20";

    #[test]
    fn only_what_is_known_to_have_ended_has() {
        assert_eq!(has_ended(LINE, 12345), Some(false));
        assert_eq!(has_ended(LINE, 0), Some(false));
        assert_eq!(has_ended(LINE, 12346), Some(true), "the pid is another's now");
        let zombie = LINE.replace(" S 1", " Z 1");
        assert_eq!(has_ended(&zombie, 12345), Some(false), "its other threads go on");
        assert_eq!(has_ended(&zombie.replace(" 3 0 ", " 1 0 "), 12345), Some(true));
        for cut in 0..LINE.len() - 15 {
            assert_eq!(has_ended(&LINE[..cut], 1), None, "{cut}");
        }
        let (me, ticks) = (own_pid(), start_time_ticks(own_pid()).unwrap());
        assert!(!is_gone(me, ticks) && !is_gone(me, 0) && is_gone(me, ticks + 1));
        let name = std::fs::read("/proc/self/comm").unwrap();
        std::fs::write("/proc/self/comm", b"\xd0\xbe\xd0").unwrap();
        let seen = (start_time_ticks(me), is_gone(me, ticks), is_gone(me, ticks + 1));
        std::fs::write("/proc/self/comm", name).unwrap();
        assert_eq!(seen, (Some(ticks), false, true), "a name that is no text");
        assert!(is_nobodys(0) && is_nobodys(u32::MAX / 4) && !is_nobodys(me) && !is_nobodys(1));
    }
}
