//! A number or a small struct in shared memory that changes as a whole.
//!
//! # Shared state
//! A value of 4 or 8 bytes lies in an atomic of its own, and of 1 or 2 bytes in the one of 4. Any
//! other has two places and a version (`state/places.rs`), and is changed under a robust mutex.
//!
//! # Rules
//! R1. The store of the atomic, or of the version, commits.
//!
//! # If a process dies
//! While it fills a place: the value stands. The mutex is the kernel's to hand on.
//!
//! # Fairness
//! Readers do not wait, but begin again when two writes overlapped with one read.
#![allow(unsafe_code)] // Copies plain data in and out of words.

use super::crossing::crossing;
use super::handle::{Handle, Parts, With};
use super::settle::Kind;
use super::state::places::Places;
use super::stored::Plain;
use crate::error::Error;
use crate::prim::{AcqRel, Acquire, AtomicU32, AtomicU64, Relaxed, Release};
use crate::shm::fault;
use crate::shm::offset::Shared;
use crate::sys::robust::RobustMutex;
use std::fmt;
use std::marker::PhantomData;
use std::mem::MaybeUninit;

#[derive(Debug)]
#[repr(C)]
pub struct ValueState {
    word64: AtomicU64,
    word32: AtomicU32,
    places: Places,
    writers: RobustMutex,
}

// SAFETY: atomics, and a mutex that the C library accesses.
unsafe impl Shared for ValueState {}

/// How a value lies in memory.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Layout {
    Word32,
    Word64,
    Places,
}

const fn layout_of<T>() -> Layout {
    match size_of::<T>() {
        1 | 2 | 4 => Layout::Word32,
        8 => Layout::Word64,
        _ => Layout::Places,
    }
}

/// A number or a small struct that all processes read and change without a lock of their own.
///
/// Every operation is all or nothing, whatever dies. A value of 1, 2, 4 or 8 bytes is an atomic; a
/// larger one is kept twice, so that readers never wait.
///
/// What a process did before it stored a value is visible to whoever loads that value.
///
/// # Examples
/// ```
/// use procpool::{Pool, sync::Value};
///
/// let total = Value::new(0u64)?;
/// let pool = Pool::builder().workers(2).build()?;
/// let add = |total: &Value<u64>, n: u64| total.fetch_add(n);
/// pool.with(&total).map(add, 1..=10u64)?;
/// assert_eq!(total.load(), 55);
///
/// let extremes = Value::new([f64::MAX, f64::MIN])?; // smallest and largest so far
/// extremes.update(|[least, most]| [least.min(3.5), most.max(3.5)]);
/// assert_eq!(extremes.load(), [3.5, 3.5]);
/// # Ok::<(), procpool::Error>(())
/// ```
pub struct Value<T: Plain> {
    handle: Handle<With<ValueState, [T; 2]>>,
    of: PhantomData<fn() -> T>,
}

impl<T: Plain> Value<T> {
    const PARTS: Parts = Parts {
        value_bytes: size_of::<T>(),
        value_align: align_of::<T>(),
        ..Parts::of(Kind::Value)
    };
}

crossing!(Value<T: Plain>, Self::PARTS);

fn to_u64<T: Plain>(value: T) -> u64 {
    let mut bytes = [0; 8];
    bytes[..size_of::<T>()].copy_from_slice(bytemuck::bytes_of(&value));
    u64::from_le_bytes(bytes)
}

fn from_u64<T: Plain>(raw: u64) -> T {
    bytemuck::pod_read_unaligned(&raw.to_le_bytes()[..size_of::<T>()])
}

impl<T: Plain> Value<T> {
    /// Makes a value.
    ///
    /// # Errors
    /// The arena is full, or cannot be made.
    pub fn new(value: T) -> Result<Self, Error> {
        let handle = Handle::create(&Self::PARTS, None, |memory: &With<ValueState, [T; 2]>| {
            // SAFETY: the object is new and nobody else's yet.
            unsafe {
                memory.state.writers.initialise();
                memory.value().write([value; 2]);
            }
            match layout_of::<T>() {
                Layout::Word32 => memory.state.word32.store(to_u64(value) as u32, Relaxed),
                Layout::Word64 => memory.state.word64.store(to_u64(value), Relaxed),
                Layout::Places => {}
            }
        })?;
        Ok(Self { handle, of: PhantomData })
    }

    #[inline]
    fn state(&self) -> &ValueState {
        &self.handle.state().state
    }

    /// The value.
    #[inline]
    #[must_use]
    pub fn load(&self) -> T {
        match layout_of::<T>() {
            // SYNC(value-word): pairs with the Release in `store` and the swaps.
            Layout::Word32 => from_u64(u64::from(self.state().word32.load(Acquire))),
            // SYNC(value-word): as above.
            Layout::Word64 => from_u64(self.state().word64.load(Acquire)),
            Layout::Places => self.load_place().1,
        }
    }

    /// Replaces the value.
    #[inline]
    pub fn store(&self, value: T) {
        match layout_of::<T>() {
            // SYNC(value-word): pairs with the Acquire in `load`.
            Layout::Word32 => self.state().word32.store(to_u64(value) as u32, Release),
            // SYNC(value-word): as above.
            Layout::Word64 => self.state().word64.store(to_u64(value), Release),
            Layout::Places => {
                self.replace_place(&value, |_| true);
            }
        }
    }

    /// Replaces the value; returns the one before.
    #[inline]
    pub fn swap(&self, value: T) -> T {
        match layout_of::<T>() {
            Layout::Word32 => {
                from_u64(u64::from(self.state().word32.swap(to_u64(value) as u32, AcqRel)))
            }
            Layout::Word64 => from_u64(self.state().word64.swap(to_u64(value), AcqRel)),
            Layout::Places => self.replace_place(&value, |_| true).0,
        }
    }

    /// Replaces the value by `change(value)`, unless it is changed by another meanwhile, then again
    /// with that one's; returns the value before.
    ///
    /// `change` may be called more than once; if it panics, nothing is changed.
    #[inline]
    pub fn update(&self, mut change: impl FnMut(T) -> T) -> T {
        self.try_update(|value| Some(change(value))).unwrap_or_else(|value| value)
    }

    /// As [`update`](Self::update), unless `change` returns `None`.
    ///
    /// # Errors
    /// `change` returned `None` for this value; nothing is changed.
    #[inline]
    #[doc(alias = "fetch_update")]
    pub fn try_update(&self, mut change: impl FnMut(T) -> Option<T>) -> Result<T, T> {
        let state = self.state();
        match layout_of::<T>() {
            Layout::Word32 => {
                let change = |raw| change(from_u64(u64::from(raw))).map(|new| to_u64(new) as u32);
                let before = state.word32.fetch_update(AcqRel, Acquire, change);
                before.map(|raw| from_u64(raw.into())).map_err(|raw| from_u64(raw.into()))
            }
            Layout::Word64 => {
                let change = |raw| change(from_u64(raw)).map(to_u64);
                let before = state.word64.fetch_update(AcqRel, Acquire, change);
                before.map(from_u64).map_err(from_u64)
            }
            Layout::Places => loop {
                // Not under the lock: it is the user's code.
                let (version, before) = self.load_place();
                let Some(new) = change(before) else { return Err(before) };
                if self.replace_place(&new, |now| now == version).1 {
                    return Ok(before);
                }
            },
        }
    }

    /// Replaces the value if it is, byte for byte, `current`.
    ///
    /// # Errors
    /// It is another: that one.
    pub fn compare_exchange(&self, current: T, new: T) -> Result<T, T> {
        let same = |value: &T| bytemuck::bytes_of(value) == bytemuck::bytes_of(&current);
        self.try_update(|value| same(&value).then_some(new))
    }

    // Places --------------------------------------------------------------------------------

    fn place(&self, place: usize) -> *mut T {
        // The cast does not read.
        self.handle.state().value().cast::<T>().wrapping_add(place)
    }

    /// The version, and the value that belongs to it.
    #[inline]
    fn load_place(&self) -> (u64, T) {
        self.state().places.read(|place| copy_out(self.place(place)))
    }

    /// Replaces a value that has two places, if its version is as `expected`; the one before, and whether it was
    /// replaced.
    fn replace_place(&self, new: &T, expected: impl FnOnce(u64) -> bool) -> (T, bool) {
        struct Unlock<'a>(&'a RobustMutex);
        impl Drop for Unlock<'_> {
            fn drop(&mut self) {
                self.0.unlock();
            }
        }
        super::handle::own_participant();
        let state = self.state();
        // Whatever the last holder left is whole (R1).
        let _ = state.writers.lock();
        let _unlock = Unlock(&state.writers);
        fault::point("value.locked");
        let (version, before) = self.load_place();
        if !expected(version) {
            return (before, false);
        }
        state.places.fill(version, |place| copy_in(self.place(place), new));
        fault::point("value.written");
        state.places.commit(version);
        fault::point("value.committed");
        (before, true)
    }
}

/// A place's bytes as atomics: words where they fit, which they all do if `T` is aligned to 4.
fn copy_out<T: Plain>(place: *const T) -> T {
    let mut value = MaybeUninit::<T>::uninit();
    let to = value.as_mut_ptr().cast::<u8>();
    let from = place.cast::<u8>();
    let words = match align_of::<T>() >= 4 {
        true => size_of::<T>() / 4,
        false => 0,
    };
    for word in 0..words {
        // SAFETY: inside the place, and aligned because the type is.
        let read = unsafe { (*from.add(word * 4).cast::<AtomicU32>()).load(Relaxed) };
        // SAFETY: inside the value.
        unsafe { to.add(word * 4).cast::<u32>().write_unaligned(read) };
    }
    for byte in words * 4..size_of::<T>() {
        // SAFETY: inside the place; volatile, because another process may write it meanwhile, in
        // which case the version tells and the value is thrown away.
        unsafe { to.add(byte).write(from.add(byte).read_volatile()) };
    }
    // SAFETY: every byte was written, and any bytes are a value (Plain).
    unsafe { value.assume_init() }
}

/// As [`copy_out`], the other way.
fn copy_in<T: Plain>(place: *mut T, value: &T) {
    let from = std::ptr::from_ref(value).cast::<u8>();
    let to = place.cast::<u8>();
    let words = match align_of::<T>() >= 4 {
        true => size_of::<T>() / 4,
        false => 0,
    };
    for word in 0..words {
        // SAFETY: inside the value.
        let read = unsafe { from.add(word * 4).cast::<u32>().read_unaligned() };
        // SAFETY: inside the place, and aligned because the type is.
        unsafe { (*to.add(word * 4).cast::<AtomicU32>()).store(read, Relaxed) };
    }
    for byte in words * 4..size_of::<T>() {
        // SAFETY: inside the place; volatile, because another process may read it meanwhile.
        unsafe { to.add(byte).write_volatile(from.add(byte).read()) };
    }
}

/// A number that has atomic arithmetic in a [`Value`].
pub trait Number: Plain + number::Sealed {}

mod number {
    use super::{AcqRel, ValueState};

    pub trait Sealed: Sized {
        fn fetch_add(state: &ValueState, by: Self) -> Option<Self>;
        fn wrapping_sum(self, by: Self) -> Self;
        fn wrapping_difference(self, by: Self) -> Self;
    }

    macro_rules! integers {
        ($($number:ident $word:ident $raw:ident),* $(,)?) => {
            $(impl Sealed for $number {
                #[inline]
                fn fetch_add(state: &ValueState, by: Self) -> Option<Self> {
                    const { assert!(size_of::<Self>() == size_of::<$raw>()) };
                    Some(state.$word.fetch_add(by as $raw, AcqRel) as Self)
                }
                fn wrapping_sum(self, by: Self) -> Self {
                    self.wrapping_add(by)
                }
                fn wrapping_difference(self, by: Self) -> Self {
                    self.wrapping_sub(by)
                }
            }
            impl super::Number for $number {})*
        };
    }
    integers! { u32 word32 u32, i32 word32 u32, u64 word64 u64, i64 word64 u64 }
    integers! { usize word64 u64, isize word64 u64 }

    macro_rules! others {
        ($($number:ident: $sum:expr, $difference:expr;)*) => {
            $(impl Sealed for $number {
                fn fetch_add(_: &ValueState, _: Self) -> Option<Self> {
                    None
                }
                fn wrapping_sum(self, by: Self) -> Self {
                    let sum: fn($number, $number) -> $number = $sum;
                    sum(self, by)
                }
                fn wrapping_difference(self, by: Self) -> Self {
                    let difference: fn($number, $number) -> $number = $difference;
                    difference(self, by)
                }
            }
            impl super::Number for $number {})*
        };
    }
    others! {
        u8: u8::wrapping_add, u8::wrapping_sub;
        i8: i8::wrapping_add, i8::wrapping_sub;
        u16: u16::wrapping_add, u16::wrapping_sub;
        i16: i16::wrapping_add, i16::wrapping_sub;
        u128: u128::wrapping_add, u128::wrapping_sub;
        i128: i128::wrapping_add, i128::wrapping_sub;
        f32: |a, b| a + b, |a, b| a - b;
        f64: |a, b| a + b, |a, b| a - b;
    }
}

impl<T: Number> Value<T> {
    /// Adds, wrapping around at the type's limits; returns the value before.
    #[inline]
    pub fn fetch_add(&self, by: T) -> T {
        match T::fetch_add(self.state(), by) {
            Some(before) => before,
            None => self.update(|value| value.wrapping_sum(by)),
        }
    }

    /// Subtracts, wrapping around at the type's limits; returns the value before.
    #[inline]
    pub fn fetch_sub(&self, by: T) -> T {
        self.update(|value| value.wrapping_difference(by))
    }
}

impl<T: Number + PartialOrd> Value<T> {
    /// Keeps the larger of the value and `other`; returns the value before.
    pub fn fetch_max(&self, other: T) -> T {
        self.update(|value| if other > value { other } else { value })
    }

    /// Keeps the smaller of the value and `other`; returns the value before.
    pub fn fetch_min(&self, other: T) -> T {
        self.update(|value| if other < value { other } else { value })
    }
}

macro_rules! bits {
    ($($name:ident $operator:tt $trait:ident $what:literal;)*) => {
        $(impl<T: Number + std::ops::$trait<Output = T>> Value<T> {
            #[doc = $what]
            pub fn $name(&self, other: T) -> T {
                self.update(|value| value $operator other)
            }
        })*
    };
}

bits! {
    fetch_and & BitAnd "Keeps the bits that are in both the value and `other`; returns the value before.";
    fetch_or | BitOr "Adds the bits of `other`; returns the value before.";
    fetch_xor ^ BitXor "Flips the bits of `other`; returns the value before.";
}

impl<T: Plain + fmt::Debug> fmt::Debug for Value<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Value")
            .field("object", &self.handle)
            .field("bytes", &size_of::<T>())
            .finish()
    }
}
