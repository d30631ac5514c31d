//! The standard library's atomics, each of whose operations is a step of the model (`model.rs`).
//!
//! They may lie in shared memory, which shuttle's own cannot. Shuttle knows one order of everything only,
//! so the orderings are for loom to prove.

use super::model::step;
use std::sync::atomic::Ordering;

macro_rules! stepped {
    ($name:ident, $value:ty) => {
        /// See the module documentation.
        #[derive(Debug, Default)]
        #[repr(transparent)]
        pub(crate) struct $name(std::sync::atomic::$name);

        #[allow(dead_code)] // Both have the same operations, whichever are used.
        impl $name {
            pub(crate) const fn new(value: $value) -> Self {
                Self(std::sync::atomic::$name::new(value))
            }

            pub(crate) fn load(&self, order: Ordering) -> $value {
                step();
                self.0.load(order)
            }

            pub(crate) fn store(&self, value: $value, order: Ordering) {
                step();
                self.0.store(value, order);
            }

            pub(crate) fn swap(&self, value: $value, order: Ordering) -> $value {
                step();
                self.0.swap(value, order)
            }

            pub(crate) fn compare_exchange(
                &self,
                current: $value,
                new: $value,
                success: Ordering,
                failure: Ordering,
            ) -> Result<$value, $value> {
                step();
                self.0.compare_exchange(current, new, success, failure)
            }

            pub(crate) fn compare_exchange_weak(
                &self,
                current: $value,
                new: $value,
                success: Ordering,
                failure: Ordering,
            ) -> Result<$value, $value> {
                self.compare_exchange(current, new, success, failure)
            }

            pub(crate) fn fetch_update(
                &self,
                set: Ordering,
                fetch: Ordering,
                mut update: impl FnMut($value) -> Option<$value>,
            ) -> Result<$value, $value> {
                let mut before = self.load(fetch);
                while let Some(next) = update(before) {
                    match self.compare_exchange(before, next, set, fetch) {
                        Ok(value) => return Ok(value),
                        Err(now) => before = now,
                    }
                }
                Err(before)
            }

            pub(crate) fn as_ptr(&self) -> *mut $value {
                self.0.as_ptr()
            }

            /// The value, for the model itself: no step.
            pub(crate) fn peek(&self) -> $value {
                self.0.load(Ordering::SeqCst)
            }

            /// Sets the value, for the model itself: no step.
            pub(crate) fn set(&self, value: $value) {
                self.0.store(value, Ordering::SeqCst);
            }
        }

        stepped!(@modify $name, $value, fetch_add, fetch_sub, fetch_or, fetch_and, fetch_max);
    };
    (@modify $name:ident, $value:ty, $($operation:ident),*) => {
        #[allow(dead_code)] // As above.
        impl $name {
            $(pub(crate) fn $operation(&self, value: $value, order: Ordering) -> $value {
                step();
                self.0.$operation(value, order)
            })*
        }
    };
}

stepped!(AtomicU32, u32);
stepped!(AtomicU64, u64);
