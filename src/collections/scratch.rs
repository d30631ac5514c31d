//! Private memory that operations on collections encode into, kept from one to the next.

use crate::sync::crossing::Carried;
use std::cell::RefCell;

/// The memory of one operation; empty at its beginning.
#[derive(Debug)]
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
    static KEPT: RefCell<Scratch> = const { RefCell::new(Scratch::new()) };
}

impl Scratch {
    const fn new() -> Self {
        Self { key: Vec::new(), value: Vec::new(), before: Vec::new(), carried: Vec::new() }
    }

    /// Forgets what an operation has left.
    #[inline]
    fn clear(&mut self) {
        for bytes in [&mut self.key, &mut self.value, &mut self.before] {
            bytes.clear();
            if bytes.capacity() > KEPT_BYTES {
                *bytes = Vec::new();
            }
        }
        self.carried.clear();
    }
}

/// Lends the thread's memory. An operation inside another one (in the code of a user's type), or of a
/// thread that is just ending, gets memory of its own.
#[inline]
pub(crate) fn with_scratch<R>(operation: impl FnOnce(&mut Scratch) -> R) -> R {
    let mut operation = Some(operation);
    let lent = KEPT.try_with(|kept| {
        let (Ok(mut scratch), Some(operation)) = (kept.try_borrow_mut(), operation.take()) else {
            return None;
        };
        // A panic may have left something.
        scratch.clear();
        let returned = operation(&mut scratch);
        scratch.carried.clear();
        Some(returned)
    });
    match (lent, operation) {
        (Ok(Some(returned)), _) => returned,
        (_, Some(operation)) => operation(&mut Scratch::new()),
        // Taken and not returned: it has panicked, and this is not reached.
        (_, None) => unreachable!("an operation neither ran nor is left"),
    }
}
