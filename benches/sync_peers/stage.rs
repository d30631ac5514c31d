//! Two processes, this one and a worker of a pool, and memory for the peers' objects.
//!
//! Whatever is compared runs in the same two processes on the same two cores. Our objects cross to
//! the worker as a task's argument. The peers' lie in a mapping of a memfd, which is what the arena is
//! too; the worker opens it through `/proc`.
#![allow(unsafe_code)] // Maps memory that two processes share.

use super::bare::{RobustMutex, Semaphore};
use super::raw::Room;
use super::{Line, until};
use crate::measure::{pinned, two_cores};
use procpool::Pool;
use rustix::fs::MemfdFlags;
use rustix::mm::{MapFlags, ProtFlags};
use serde::{Serialize, de::DeserializeOwned};
use std::cell::RefCell;
use std::fs::File;
use std::ops::{Deref, DerefMut};
use std::os::fd::AsRawFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// What lies in the shared memory; all zero at first.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Board {
    ready: Line<AtomicU32>,
    go: Line<AtomicU32>,
    done: Line<AtomicU32>,
    pub(crate) mutex: Line<RobustMutex>,
    pub(crate) semaphore: Line<Semaphore>,
    pub(crate) raw: Line<Room>,
    pub(crate) counter: Line<AtomicU64>,
    pub(crate) ping: Line<AtomicU32>,
    pub(crate) pong: Line<AtomicU32>,
    pub(crate) stamp_ns: Line<AtomicU64>,
}

/// A mapping of a board.
#[derive(Debug)]
pub(crate) struct Mapping {
    board: NonNull<Board>,
    file: File,
}

impl Mapping {
    pub(crate) fn new() -> Self {
        let file = rustix::fs::memfd_create("bench", MemfdFlags::CLOEXEC).expect("a memfd");
        let file = File::from(file);
        file.set_len(size_of::<Board>() as u64).expect("room in memory");
        Self::of(file)
    }

    /// Where another process finds it.
    fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.file.as_raw_fd())
    }

    fn open(path: &str) -> Self {
        let file = File::options().read(true).write(true).open(path);
        Self::of(file.expect("the memory of the other process"))
    }

    fn of(file: File) -> Self {
        let access = ProtFlags::READ | ProtFlags::WRITE;
        let (place, bytes) = (std::ptr::null_mut(), size_of::<Board>());
        // SAFETY: a new mapping at an address of the kernel's choice touches nothing that exists.
        let place = unsafe {
            rustix::mm::mmap(place, bytes, access, MapFlags::SHARED | MapFlags::POPULATE, &file, 0)
        };
        let board = NonNull::new(place.expect("shared memory").cast()).expect("not at address 0");
        Self { board, file }
    }
}

impl Deref for Mapping {
    type Target = Board;

    fn deref(&self) -> &Board {
        // SAFETY: the mapping is page-aligned, large enough, of bytes that are valid (zeros at
        // first), and lives as long as this value.
        unsafe { self.board.as_ref() }
    }
}

impl DerefMut for Mapping {
    fn deref_mut(&mut self) -> &mut Board {
        // SAFETY: as above; no other value of this process leads to this mapping.
        unsafe { self.board.as_mut() }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: it is this value's own, and no borrow of it is left.
        let _ = unsafe { rustix::mm::munmap(self.board.as_ptr().cast(), size_of::<Board>()) };
    }
}

/// What two processes do together.
pub(crate) trait Act: Clone + Serialize + DeserializeOwned + 'static {
    /// Makes the peer's objects, before the other process comes.
    fn prepare(&self, _board: &mut Board) {}

    /// The part of this process; how long that took, if it is not the time until both are done.
    fn here(&self, board: &Board, calls: u64) -> Option<Duration>;

    /// The part of the other process.
    fn there(&self, board: &Board, calls: u64);
}

/// This process, the other one, and what they share.
pub(crate) struct Stage {
    pool: Pool,
    board: RefCell<Mapping>,
    cores: (usize, usize),
}

impl Stage {
    /// Starts the other process; `None` if there is only one core.
    pub(crate) fn start() -> Option<Self> {
        let cores = two_cores()?;
        let pool = Pool::builder().workers(1).name("bench").build().expect("a pool");
        Some(Self { pool, board: RefCell::new(Mapping::new()), cores })
    }

    /// The cores of this process and of the other one.
    pub(crate) fn cores(&self) -> (usize, usize) {
        self.cores
    }

    /// Acts once, each process on a core of its own.
    pub(crate) fn run<A: Act>(&self, act: &A, calls: u64) -> Duration {
        let (here, there) = self.cores;
        pinned(here, || self.act(act, calls, Some(there)))
    }

    /// The same where the kernel likes.
    pub(crate) fn run_anywhere<A: Act>(&self, act: &A, calls: u64) -> Duration {
        self.act(act, calls, None)
    }

    fn act<A: Act>(&self, act: &A, calls: u64, core: Option<usize>) -> Duration {
        act.prepare(&mut self.board.borrow_mut());
        let board = &*self.board.borrow();
        for word in [&board.ready, &board.go, &board.done] {
            word.0.store(0, Ordering::Relaxed);
        }
        let argument = (board.path(), act.clone(), calls, core);
        let other = self.pool.submit(other::<A>, argument).expect("a handle");
        until(|| board.ready.0.load(Ordering::Acquire) == 1);
        let start = Instant::now();
        board.go.0.store(1, Ordering::Release);
        let taken = act.here(board, calls);
        until(|| board.done.0.load(Ordering::Acquire) == 1);
        let elapsed = start.elapsed();
        other.join().expect("the other process did its part");
        taken.unwrap_or(elapsed)
    }
}

/// What the worker does.
fn other<A: Act>((path, act, calls, core): (String, A, u64, Option<usize>)) {
    let board = Mapping::open(&path);
    let part = || {
        board.ready.0.store(1, Ordering::Release);
        until(|| board.go.0.load(Ordering::Acquire) == 1);
        act.there(&board, calls);
        board.done.0.store(1, Ordering::Release);
    };
    match core {
        Some(core) => pinned(core, part),
        None => part(),
    }
}
