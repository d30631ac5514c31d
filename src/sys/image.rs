//! Where the executable's own code lies in this process.
#![allow(unsafe_code)] // Reads the loader's list of images through its C callback.

use std::ffi::c_void;
use std::ops::Range;

/// The executable segment that contains `address`, in the image that contains it.
///
/// `None` if no loaded image has code at that address.
pub(crate) fn text_range_around(address: usize) -> Option<Range<usize>> {
    struct Search {
        address: usize,
        found: Option<Range<usize>>,
    }
    unsafe extern "C" fn visit(
        info: *mut libc::dl_phdr_info,
        _size: usize,
        data: *mut c_void,
    ) -> i32 {
        // SAFETY: the loader passes a valid description and hands our own `Search` through.
        let (info, search) = unsafe { (&*info, &mut *data.cast::<Search>()) };
        if info.dlpi_phdr.is_null() {
            return 0;
        }
        // SAFETY: the loader describes `dlpi_phnum` headers at `dlpi_phdr`.
        let headers =
            unsafe { std::slice::from_raw_parts(info.dlpi_phdr, usize::from(info.dlpi_phnum)) };
        for header in headers {
            if header.p_type != libc::PT_LOAD || header.p_flags & libc::PF_X == 0 {
                continue;
            }
            let start = (info.dlpi_addr as usize).wrapping_add(header.p_vaddr as usize);
            let range = start..start.wrapping_add(header.p_memsz as usize);
            if range.contains(&search.address) {
                search.found = Some(range);
                return 1;
            }
        }
        0
    }
    let mut search = Search { address, found: None };
    // SAFETY: `visit` has the required signature and `search` outlives the call.
    unsafe { libc::dl_iterate_phdr(Some(visit), (&raw mut search).cast()) };
    search.found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_own_code_and_nothing_at_a_heap_address() {
        let here = text_range_around as *const () as usize;
        assert!(text_range_around(here).unwrap().contains(&here));
        let heap = Box::new(1u8);
        assert_eq!(text_range_around(&raw const *heap as usize), None);
    }
}
