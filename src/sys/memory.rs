//! Shared mappings: the sealed memfd, mapping a descriptor, giving pages back.
#![allow(unsafe_code)] // Mapping memory is the purpose of this file.

use super::{again, fail};
use rustix::fs::{FallocateFlags, MemfdFlags, SealFlags};
use rustix::io;
use rustix::mm::{Advice, MapFlags, ProtFlags};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;

/// Creates a memory file of `bytes` that can no longer grow or shrink, so that no access inside
/// its mapping can fault for want of a file.
pub(crate) fn sealed_memfd(name: &str, bytes: u64) -> io::Result<OwnedFd> {
    fail::attempt("memfd_create")?;
    let fd = rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    fail::attempt("ftruncate")?;
    rustix::fs::ftruncate(&fd, bytes)?;
    fail::attempt("fcntl")?;
    rustix::fs::fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
    Ok(fd)
}

/// The length of the file behind `fd`.
pub(crate) fn file_bytes(fd: BorrowedFd<'_>) -> io::Result<u64> {
    fail::attempt("fstat")?;
    Ok(rustix::fs::fstat(fd)?.st_size as u64)
}

/// Maps `bytes` of `fd`, shared, read and write, without reserving memory for it.
pub(crate) fn map_shared(fd: impl AsFd, bytes: usize) -> io::Result<NonNull<u8>> {
    fail::attempt("mmap")?;
    // SAFETY: a fresh mapping at an address that the kernel chooses overlaps nothing of ours.
    let base = unsafe {
        rustix::mm::mmap(
            std::ptr::null_mut(),
            bytes,
            ProtFlags::READ | ProtFlags::WRITE,
            MapFlags::SHARED | MapFlags::NORESERVE,
            fd,
            0,
        )?
    };
    NonNull::new(base.cast()).ok_or(io::Errno::NOMEM)
}

/// Removes a mapping.
///
/// # Safety
/// `base` and `bytes` are those of a mapping from [`map_shared`] that nobody uses any more.
pub(crate) unsafe fn unmap(base: NonNull<u8>, bytes: usize) {
    // SAFETY: the caller's promise. It fails only for addresses that were never mapped.
    let _ = unsafe { rustix::mm::munmap(base.as_ptr().cast(), bytes) };
}

/// Gives the pages in `bytes` bytes from `base` back to the system; they read as zero afterwards.
///
/// # Safety
/// The range lies in a shared mapping of a memory file and nobody uses its content any more.
pub(crate) unsafe fn discard(base: NonNull<u8>, bytes: usize) {
    if fail::attempt("madvise").is_err() {
        return;
    }
    // SAFETY: the caller promises that the range is mapped and unused. Failure leaves the pages.
    let _ = unsafe { rustix::mm::madvise(base.as_ptr().cast(), bytes, Advice::LinuxRemove) };
}

/// Reserves every page of the named segment `name`, so that writing to it cannot fault later.
pub(crate) fn reserve_named(name: &str, bytes: u64) -> io::Result<()> {
    let segment = open_named(name)?;
    // A signal has all of it given back.
    again::persist(|| {
        fail::attempt("fallocate")?;
        rustix::fs::fallocate(&segment, FallocateFlags::empty(), 0, bytes)
    })
}

/// A descriptor of the named segment `name`.
pub(crate) fn open_named(name: &str) -> io::Result<OwnedFd> {
    fail::attempt("shm_open")?;
    rustix::shm::open(name, rustix::shm::OFlags::RDWR, rustix::fs::Mode::empty())
}

/// Removes the name of a segment; its memory lives until the last mapping goes.
pub(crate) fn unlink_named(name: &str) -> io::Result<()> {
    fail::attempt("shm_unlink")?;
    rustix::shm::unlink(name)
}
