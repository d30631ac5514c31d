//! Fetching cache lines before they are written, so that several come at once.
//!
//! A line that another core has written last takes as long as a message to it, and a locked instruction waits for
//! its own line before anything behind it begins. Whoever knows the lines that it will write next asks for all of
//! them first, and waits once.
#![allow(unsafe_code)] // One instruction that Rust has no other name for.

/// Has the processor fetch the line of `place`, to write to it. A hint: nothing changes that anybody could see.
#[inline(always)]
pub(crate) fn prefetch_to_write<T>(place: &T) {
    #[cfg(all(target_arch = "x86_64", not(any(loom, shuttle, miri))))]
    // SAFETY: the instruction neither faults nor reads or writes anything that the program can see, whatever the
    // address; a processor that does not have it takes it for one that does nothing.
    unsafe {
        std::arch::asm!(
            "prefetchw [{}]",
            in(reg) std::ptr::from_ref(place),
            options(nostack, preserves_flags, readonly)
        );
    }
    #[cfg(not(all(target_arch = "x86_64", not(any(loom, shuttle, miri)))))]
    let _ = place;
}
