//! Private memory that operations on collections encode into, kept from one to the next.

use crate::sync::crossing::Carried;
use std::cell::Cell;

/// The memory of one operation; empty at its beginning.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    pub(crate) key: Vec<u8>,
    pub(crate) value: Vec<u8>,
    /// The value that was there before.
    pub(crate) before: Vec<u8>,
    pub(crate) carried: Vec<Carried>,
}

/// Longer memory is not kept.
const KEPT_BYTES: usize = 64 << 10;

thread_local! {
    static KEPT: Cell<Option<Scratch>> = const { Cell::new(None) };
}

/// Lends the thread's memory. An operation inside another one (in the code of a user's type) gets
/// memory of its own.
#[inline]
pub(crate) fn with_scratch<R>(operation: impl FnOnce(&mut Scratch) -> R) -> R {
    let mut scratch = KEPT.try_with(Cell::take).ok().flatten().unwrap_or_default();
    let returned = operation(&mut scratch);
    scratch.carried.clear();
    for bytes in [&mut scratch.key, &mut scratch.value, &mut scratch.before] {
        bytes.clear();
        bytes.shrink_to(KEPT_BYTES);
    }
    let _ = KEPT.try_with(|kept| kept.set(Some(scratch)));
    returned
}
