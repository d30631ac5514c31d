//! A second process that does nothing but what the hardware and the kernel must do anyway.
//!
//! It is forked first thing in `main`, while this process is small and has one thread, and sleeps
//! in `read` until it is asked for one of three things:
//!
//! - answer a spinning ping-pong: `ping` and `pong` are counters on cache lines of their own;
//! - answer a futex ping-pong on the same words, from a core of its own if so asked;
//! - fork, exit and wait for a process a number of times and report the median.
//!
//! # If a process dies
//! The helper has the kernel kill it when its parent dies, and leaves when its socket hangs up.
//! A parent that gets no answer for ten seconds panics.
#![allow(unsafe_code)] // Forks, and reads words of a mapping that two processes share.

use super::line::{Line, spin_until};
use crate::measure::{median, pin};
use rustix::mm::{MapFlags, ProtFlags};
use rustix::process::{Pid, Signal, WaitOptions};
use rustix::thread::{futex, sched_getaffinity, sched_setaffinity};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Ends a ping-pong; no counter gets that far.
const STOP: u32 = u32::MAX;
/// Most forks that one request may ask for.
const FORKS_MAX: usize = 256;
const PATIENCE: Duration = Duration::from_secs(10);

#[repr(C)]
struct Lines {
    ping: Line<AtomicU32>,
    pong: Line<AtomicU32>,
}

/// What the helper is asked for; the argument comes after it.
#[derive(Clone, Copy)]
#[repr(u8)]
enum Request {
    Spin = 1,
    Futex = 2,
    Fork = 3,
}

/// The helper process, seen from its parent. Ends it when dropped.
pub(crate) struct Helper {
    socket: UnixStream,
    lines: &'static Lines,
    pid: Pid,
}

impl Helper {
    /// Forks the helper.
    ///
    /// To be called while the process has one thread.
    pub(crate) fn fork() -> Self {
        let (ours, theirs) = UnixStream::pair().expect("socket pair");
        let lines = shared_lines();
        let parent = rustix::process::getpid();
        // SAFETY: the caller sees to it that there is one thread, so that the copy of the process
        // is a whole one: no lock is held by a thread that it lacks.
        match unsafe { libc::fork() } {
            -1 => panic!("fork: {}", std::io::Error::last_os_error()),
            0 => {
                drop(ours);
                let _ = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
                if rustix::process::getppid() == Some(parent) {
                    serve(theirs, lines);
                }
                // SAFETY: ends this process, without the exit handlers that belong to the parent.
                unsafe { libc::_exit(0) }
            }
            pid => Self { socket: ours, lines, pid: Pid::from_raw(pid).expect("a child's id") },
        }
    }

    /// `rounds` trips to the other process and back, both spinning.
    pub(crate) fn spin(&mut self, rounds: u64) -> Duration {
        self.ask(Request::Spin, 0);
        self.trip_spinning(1);
        let start = Instant::now();
        for round in 2..=rounds as u32 + 1 {
            self.trip_spinning(round);
        }
        let elapsed = start.elapsed();
        self.stop();
        elapsed
    }

    fn trip_spinning(&self, round: u32) {
        self.lines.ping.0.store(round, Ordering::Release);
        let seen = spin_until(PATIENCE, || self.lines.pong.0.load(Ordering::Acquire) == round);
        assert!(seen, "the helper process does not answer");
    }

    /// `rounds` trips to the other process and back, both asleep while they wait, `pause` apart
    /// (not counted). The other process runs on `core` if one is named.
    pub(crate) fn futex(&mut self, rounds: u64, pause: Duration, core: Option<usize>) -> Duration {
        self.ask(Request::Futex, core.map_or(0, |core| core as u64 + 1));
        let Lines { ping, pong } = self.lines;
        let mut total = Duration::ZERO;
        for round in 1..=rounds as u32 {
            std::thread::sleep(pause);
            let start = Instant::now();
            ping.0.store(round, Ordering::Release);
            let _ = futex::wake(&ping.0, futex::Flags::empty(), 1);
            wait_for_change(&pong.0, round - 1);
            total += start.elapsed();
        }
        self.stop();
        total
    }

    /// The median time of one fork, exit and wait, of `forks` in the helper process.
    pub(crate) fn fork_exit_wait(&mut self, forks: u64) -> Duration {
        self.ask(Request::Fork, forks.min(FORKS_MAX as u64));
        Duration::from_nanos(self.answer())
    }

    fn ask(&mut self, request: Request, argument: u64) {
        self.lines.ping.0.store(0, Ordering::Release);
        self.lines.pong.0.store(0, Ordering::Release);
        let mut message = [0u8; 9];
        message[0] = request as u8;
        message[1..].copy_from_slice(&argument.to_le_bytes());
        self.socket.write_all(&message).expect("the helper process listens");
    }

    fn answer(&mut self) -> u64 {
        let mut bytes = [0u8; 8];
        self.socket.set_read_timeout(Some(PATIENCE)).expect("a timeout above zero");
        self.socket.read_exact(&mut bytes).expect("the helper process answers");
        u64::from_le_bytes(bytes)
    }

    fn stop(&mut self) {
        self.lines.ping.0.store(STOP, Ordering::Release);
        let _ = futex::wake(&self.lines.ping.0, futex::Flags::empty(), 1);
        self.answer();
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        let _ = rustix::process::kill_process(self.pid, Signal::KILL);
        let _ = rustix::process::waitpid(Some(self.pid), WaitOptions::empty());
    }
}

fn shared_lines() -> &'static Lines {
    let access = ProtFlags::READ | ProtFlags::WRITE;
    let bytes = size_of::<Lines>();
    // SAFETY: a new mapping at an address of the kernel's choice touches nothing that exists.
    let place = unsafe {
        rustix::mm::mmap_anonymous(std::ptr::null_mut(), bytes, access, MapFlags::SHARED)
    };
    // SAFETY: the mapping is page-aligned, zeroed (which is a valid `Lines`), large enough, and is
    // never unmapped; both processes use only atomic operations on it.
    unsafe { &*place.expect("shared memory").cast::<Lines>() }
}

/// The helper's own loop.
fn serve(mut socket: UnixStream, lines: &Lines) {
    let anywhere = sched_getaffinity(None);
    let mut message = [0u8; 9];
    while socket.read_exact(&mut message).is_ok() {
        let mut argument = [0u8; 8];
        argument.copy_from_slice(&message[1..]);
        let argument = u64::from_le_bytes(argument);
        let answer = if message[0] == Request::Spin as u8 {
            answer_spinning(lines);
            0
        } else if message[0] == Request::Futex as u8 {
            if let Some(core) = argument.checked_sub(1) {
                pin(core as usize);
            }
            answer_sleeping(lines);
            if let Ok(anywhere) = &anywhere {
                let _ = sched_setaffinity(None, anywhere);
            }
            0
        } else {
            fork_exit_wait(argument as usize)
        };
        if socket.write_all(&answer.to_le_bytes()).is_err() {
            return;
        }
    }
}

fn answer_spinning(Lines { ping, pong }: &Lines) {
    let mut last = 0;
    loop {
        let mut next = last;
        spin_until(PATIENCE, || {
            next = ping.0.load(Ordering::Acquire);
            next != last
        });
        if next == STOP {
            return;
        }
        last = next;
        pong.0.store(next, Ordering::Release);
    }
}

fn answer_sleeping(Lines { ping, pong }: &Lines) {
    let mut last = 0;
    loop {
        last = wait_for_change(&ping.0, last);
        if last == STOP {
            return;
        }
        pong.0.store(last, Ordering::Release);
        let _ = futex::wake(&pong.0, futex::Flags::empty(), 1);
    }
}

/// Sleeps while the word has the old value; returns the new one.
fn wait_for_change(word: &AtomicU32, old: u32) -> u32 {
    loop {
        let value = word.load(Ordering::Acquire);
        if value != old {
            return value;
        }
        let _ = futex::wait(word, futex::Flags::empty(), old, None);
    }
}

/// The median of `forks` times fork, exit and wait, in nanoseconds; 0 if it fails.
fn fork_exit_wait(forks: usize) -> u64 {
    let mut times = [0f64; FORKS_MAX];
    let times = &mut times[..forks.clamp(1, FORKS_MAX)];
    for time in times.iter_mut() {
        let start = Instant::now();
        // SAFETY: this process has one thread, and the copy does nothing but end.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            // SAFETY: as above.
            unsafe { libc::_exit(0) };
        }
        let Some(pid) = Pid::from_raw(pid).filter(|_| pid > 0) else { return 0 };
        if rustix::process::waitpid(Some(pid), WaitOptions::empty()).is_err() {
            return 0;
        }
        *time = start.elapsed().as_nanos() as f64;
    }
    times.sort_unstable_by(f64::total_cmp);
    median(times) as u64
}
