//! The standard library's atomics, each of whose operations is a step: of shuttle's model (`model.rs`), or, in
//! builds with fault points, of a process that is to die at one of them (`countdown.rs`).
//!
//! They may lie in shared memory, which shuttle's own cannot. Shuttle knows one order of everything only,
//! so the orderings are for loom to prove.

#[cfg(not(shuttle))]
use super::countdown::{before_load, before_store};
#[cfg(shuttle)]
use super::model::{step as before_load, step as before_store};
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

            #[inline]
            pub(crate) fn load(&self, order: Ordering) -> $value {
                before_load();
                self.0.load(order)
            }

            #[inline]
            pub(crate) fn store(&self, value: $value, order: Ordering) {
                before_store();
                self.0.store(value, order);
            }

            #[inline]
            pub(crate) fn swap(&self, value: $value, order: Ordering) -> $value {
                before_store();
                self.0.swap(value, order)
            }

            #[inline]
            pub(crate) fn compare_exchange(
                &self,
                current: $value,
                new: $value,
                success: Ordering,
                failure: Ordering,
            ) -> Result<$value, $value> {
                before_store();
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

            pub(crate) fn as_std(&self) -> &std::sync::atomic::$name {
                &self.0
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
                before_store();
                self.0.$operation(value, order)
            })*
        }
    };
}

stepped!(AtomicU32, u32);
stepped!(AtomicU64, u64);
