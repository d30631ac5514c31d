//! An array of plain data that processes share.
//!
//! # Shared state
//! A robust mutex and some words; behind them the elements, and room for one more, the spare:
//!
//! ```text
//! journal    0, or the place + 1 of the element that is to get the spare's value
//! guarded    1 while somebody has the whole array
//! condition  POISONED 1 (a holder of the array panicked) | OWNER_DIED 2 (one died)
//! ```
//!
//! # Rules
//! R1. Elements and words are read and written under the mutex.
//! R2. A single element is changed by writing the value to the spare and then the journal, which
//!     commits; whoever locks the mutex next with the journal not 0 copies the spare to its place.
//! R3. OWNER_DIED is cleared by the next holder of the array that was told.
//! R4. The length is read once, when a process first has a handle, and is no more than there is room for: what is
//!     written there later makes nobody look for elements elsewhere.
//!
//! # If a process dies
//! While it changes an element: R2. While it has the array (a guard): the next holder is told. The
//! mutex is the kernel's to hand on.
#![allow(unsafe_code)] // Hands out the elements to whoever has the lock.

use crate::error::Error;
use crate::prim::{AtomicU32, AtomicU64, Relaxed, Release, SeqCst, compiler_fence};
use crate::shm::fault;
use crate::shm::offset::Shared;
use crate::sync::crossing::crossing;
use crate::sync::handle::{Handle, Parts, Reference, is_copy, own_participant};
use crate::sync::settle::Kind;
use crate::sync::state::Deadline;
use crate::sync::{LockError, Number, Plain, TryLockError};
use crate::sys::robust::{Locked, RobustMutex};
use std::fmt;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::time::Duration;

const POISONED: u32 = 1;
const OWNER_DIED: u32 = 2;

/// See the module documentation.
#[derive(Debug)]
#[repr(C, align(64))]
pub(super) struct ArrayState {
    lock: RobustMutex,
    length: AtomicU64,
    journal: AtomicU64,
    holder: AtomicU32,
    guarded: AtomicU32,
    condition: AtomicU32,
}

// SAFETY: atomics, and a mutex that the C library accesses.
unsafe impl Shared for ArrayState {}

/// An array of [`Plain`] data with a fixed length, which all processes read and change.
///
/// Operations on one element are atomic. [`lock`](Self::lock) gives the whole array as a slice.
/// (CPython: `Array`; its elements are not atomic.)
///
/// # If a process dies
/// While it changes one element: the change has happened, or it has not. While it holds the array:
/// the next one to lock it is told, with [`LockError::OwnerDied`], and may repair it.
///
/// # Examples
/// ```
/// use procpool::{Pool, collections::Array};
///
/// let sums = Array::<u64>::zeroed(3)?;
/// let pool = Pool::builder().workers(2).build()?;
/// pool.with(&sums).map(|sums: &Array<u64>, n: u64| sums.fetch_add(n as usize % 3, n), 0..9u64)?;
/// assert_eq!(sums.load(2), 2 + 5 + 8);
/// let mut all = sums.lock().unwrap();
/// all.sort_unstable_by(|a, b| b.cmp(a));
/// assert_eq!(*all, [15, 12, 9]);
/// # Ok::<(), procpool::Error>(())
/// ```
pub struct Array<T: Plain> {
    handle: Handle<ArrayState>,
    of: PhantomData<fn() -> T>,
}

impl<T: Plain> Array<T> {
    const PARTS: Parts = Parts {
        kind: Kind::Array,
        value_bytes: size_of::<T>(),
        value_align: align_of::<T>(),
        encoded: false,
        may_be_given_up: is_not_held_here,
    };
}

/// As for a `Mutex`: a guard that was forgotten still locks it.
fn is_not_held_here(reference: &Reference) -> bool {
    let state = reference.state::<ArrayState>();
    state.is_none_or(|state| state.holder.load(Relaxed) != own_participant())
}

crossing!(Array<T: Plain>, Self::PARTS);

/// The mutex, locked; dropping it unlocks.
struct Held<'a, T: Plain> {
    array: &'a Array<T>,
    /// The C library wants the thread that locked to unlock.
    not_send: PhantomData<*const ()>,
}

impl<T: Plain> Drop for Held<'_, T> {
    #[inline]
    fn drop(&mut self) {
        if !is_copy() {
            let state = self.array.handle.state();
            state.holder.store(0, Relaxed);
            fault::point("array.unlocking");
            state.lock.unlock();
        }
    }
}

impl<T: Plain> Array<T> {
    /// Makes an array of these elements.
    ///
    /// # Errors
    /// The arena is full, or cannot be made.
    pub fn new(elements: &[T]) -> Result<Self, Error> {
        let array = Self::zeroed(elements.len())?;
        array.held().slice_mut().copy_from_slice(elements);
        Ok(array)
    }

    /// Makes an array of so many elements whose bytes are all 0.
    ///
    /// # Errors
    /// The arena is full, or cannot be made.
    pub fn zeroed(length: usize) -> Result<Self, Error> {
        const { assert!(align_of::<T>() <= align_of::<ArrayState>(), "aligned to 64 at most") };
        let bytes = length.checked_add(1).and_then(|count| count.checked_mul(size_of::<T>()));
        let bytes =
            bytes.filter(|bytes| *bytes <= crate::limits::ARENA_BYTES_MAX).ok_or_else(|| {
                Error::limit(format!(
                    "an array of {length} elements of {} bytes is longer than any arena",
                    size_of::<T>()
                ))
            })?;
        let handle = Handle::create_with_tail(&Self::PARTS, bytes, None, |state: &ArrayState| {
            state.length.store(length as u64, Relaxed);
            // SAFETY: the object is new and nobody else's yet.
            unsafe { state.lock.initialise() };
        })?;
        Ok(Self { handle, of: PhantomData })
    }

    fn state(&self) -> &ArrayState {
        self.handle.state()
    }

    /// How many elements there are.
    #[must_use]
    pub fn len(&self) -> usize {
        match self.handle.caller().remembered().load(Relaxed) {
            0 => self.len_slow(),
            remembered => remembered as usize - 1,
        }
    }

    /// R4.
    #[cold]
    fn len_slow(&self) -> usize {
        let caller = self.handle.caller();
        let bytes = caller.block_bytes().saturating_sub(size_of::<ArrayState>() as u64);
        let room = (bytes / size_of::<T>().max(1) as u64).saturating_sub(1);
        let length = self.state().length.load(Relaxed).min(room);
        let remembered = caller.remembered();
        // Another thread may have been faster.
        match remembered.compare_exchange(0, length + 1, Relaxed, Relaxed) {
            Ok(_) => length as usize,
            Err(before) => before as usize - 1,
        }
    }

    /// Returns whether there is no element.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The elements, and the spare behind them.
    fn elements_and_spare(&self) -> *mut [T] {
        let count = self.len() + 1;
        let start = self.handle.caller().block() + size_of::<ArrayState>() as u64;
        let arena = self.handle.caller().arena();
        match arena.bytes_at(start, (count * size_of::<T>()) as u64) {
            Some(start) => std::ptr::slice_from_raw_parts_mut(start.as_ptr().cast(), count),
            None => std::ptr::slice_from_raw_parts_mut(std::ptr::NonNull::dangling().as_ptr(), 0),
        }
    }

    fn settle_lock(&self, locked: Locked, me: u32) -> Held<'_, T> {
        let state = self.state();
        state.holder.store(me, Relaxed);
        let mut held = Held { array: self, not_send: PhantomData };
        if locked == Locked::OwnerDied {
            // R2.
            if let Some(index) = state.journal.load(Relaxed).checked_sub(1) {
                held.finish(index as usize);
            }
            if state.guarded.load(Relaxed) != 0 {
                state.condition.fetch_or(OWNER_DIED, Relaxed);
                state.guarded.store(0, Relaxed);
            }
        }
        fault::point("array.locked");
        held
    }

    #[inline]
    fn held(&self) -> Held<'_, T> {
        let me = own_participant();
        self.settle_lock(self.state().lock.lock_eagerly(), me)
    }

    fn guard<'a>(
        &self,
        held: Held<'a, T>,
    ) -> Result<ArrayGuard<'a, T>, LockError<ArrayGuard<'a, T>>> {
        let state = held.array.state();
        let condition = state.condition.load(Relaxed);
        state.guarded.store(1, Relaxed);
        // Before anything that the holder stores, as this process's death sees it.
        compiler_fence(SeqCst);
        // R3.
        state.condition.fetch_and(!OWNER_DIED, Relaxed);
        let guard = ArrayGuard { held, panicking: std::thread::panicking() };
        match condition {
            condition if condition & OWNER_DIED != 0 => Err(LockError::OwnerDied(guard)),
            0 => Ok(guard),
            _ => Err(LockError::Poisoned(guard)),
        }
    }

    /// Waits for the whole array. While a thread has it, its operations on single elements wait for
    /// ever: it has the slice instead.
    ///
    /// # Errors
    /// The array was got, and its previous holder died or panicked: see [`LockError`].
    ///
    /// # Panics
    /// In a copy of the program's process that it has forked itself.
    pub fn lock(&self) -> Result<ArrayGuard<'_, T>, LockError<ArrayGuard<'_, T>>> {
        self.guard(self.held())
    }

    /// Takes the whole array if nobody has it.
    ///
    /// # Errors
    /// [`TryLockError::Busy`], or as [`lock`](Self::lock).
    pub fn try_lock(&self) -> Result<ArrayGuard<'_, T>, TryLockError<ArrayGuard<'_, T>>> {
        let me = own_participant();
        match self.state().lock.try_lock() {
            Some(locked) => Ok(self.guard(self.settle_lock(locked, me))?),
            None => Err(TryLockError::Busy(Duration::ZERO)),
        }
    }

    /// Waits for the whole array for at most `timeout`.
    ///
    /// # Errors
    /// [`TryLockError::Busy`] with the time that was waited, or as [`lock`](Self::lock).
    pub fn lock_timeout(
        &self,
        timeout: Duration,
    ) -> Result<ArrayGuard<'_, T>, TryLockError<ArrayGuard<'_, T>>> {
        let me = own_participant();
        let locked = match Deadline::after(timeout) {
            Deadline::Never => Some(self.state().lock.lock()),
            Deadline::At(ns) => self.state().lock.lock_until(ns),
        };
        match locked {
            Some(locked) => Ok(self.guard(self.settle_lock(locked, me))?),
            None => Err(TryLockError::Busy(timeout)),
        }
    }

    /// The element at `index`.
    ///
    /// # Panics
    /// If `index` is not less than the length, as a slice does.
    #[must_use]
    pub fn load(&self, index: usize) -> T {
        self.held().slice()[index]
    }

    /// Replaces the element at `index`.
    ///
    /// # Panics
    /// As [`load`](Self::load).
    pub fn store(&self, index: usize, value: T) {
        self.swap(index, value);
    }

    /// Replaces the element at `index`; returns the one before.
    ///
    /// # Panics
    /// As [`load`](Self::load).
    pub fn swap(&self, index: usize, value: T) -> T {
        self.held().replace(index, value)
    }

    /// Replaces the element at `index` by `change(element)`; returns the one before.
    ///
    /// The array is not locked while `change` runs: if the element is another meanwhile, it is called
    /// again with that one.
    ///
    /// # Panics
    /// As [`load`](Self::load).
    pub fn update(&self, index: usize, mut change: impl FnMut(T) -> T) -> T {
        loop {
            let before = self.load(index);
            let new = change(before);
            let mut held = self.held();
            if bytemuck::bytes_of(&held.slice()[index]) == bytemuck::bytes_of(&before) {
                return held.replace(index, new);
            }
        }
    }

    /// Replaces the element at `index` by `new` if it is `current`, compared byte by byte.
    ///
    /// # Errors
    /// The element, if it is another.
    ///
    /// # Panics
    /// As [`load`](Self::load).
    ///
    /// # Examples
    /// ```
    /// let seats = procpool::collections::Array::<u32>::zeroed(4)?;
    /// assert_eq!(seats.compare_exchange(2, 0, 77), Ok(0));
    /// assert_eq!(seats.compare_exchange(2, 0, 78), Err(77));
    /// # Ok::<(), procpool::Error>(())
    /// ```
    pub fn compare_exchange(&self, index: usize, current: T, new: T) -> Result<T, T> {
        let mut held = self.held();
        let now = held.slice()[index];
        if bytemuck::bytes_of(&now) == bytemuck::bytes_of(&current) {
            Ok(held.replace(index, new))
        } else {
            Err(now)
        }
    }
}

impl<T: Number> Array<T> {
    /// Adds to the element at `index`, wrapping around at the type's limits; returns the one before.
    ///
    /// # Panics
    /// As [`load`](Self::load).
    pub fn fetch_add(&self, index: usize, by: T) -> T {
        let mut held = self.held();
        let before = held.slice()[index];
        held.replace(index, before.wrapping_sum(by))
    }

    /// Subtracts from the element at `index`, wrapping around at the type's limits; returns the one
    /// before.
    ///
    /// # Panics
    /// As [`load`](Self::load).
    pub fn fetch_sub(&self, index: usize, by: T) -> T {
        let mut held = self.held();
        let before = held.slice()[index];
        held.replace(index, before.wrapping_difference(by))
    }
}

impl<T: Plain> Held<'_, T> {
    fn slice(&self) -> &[T] {
        // SAFETY: R1; the range is the object's own, and any bytes are elements (Plain).
        let all = unsafe { &*self.array.elements_and_spare() };
        &all[..all.len().saturating_sub(1)]
    }

    fn slice_mut(&mut self) -> &mut [T] {
        match self.slice_and_spare() {
            Some((_, slice)) => slice,
            None => &mut [],
        }
    }

    fn slice_and_spare(&mut self) -> Option<(&mut T, &mut [T])> {
        // SAFETY: as in `slice`; who has `self` alone has the lock, which no other thread has.
        unsafe { &mut *self.array.elements_and_spare() }.split_last_mut()
    }

    /// R2.
    fn replace(&mut self, index: usize, value: T) -> T {
        let before = self.slice()[index];
        if let Some((spare, _)) = self.slice_and_spare() {
            *spare = value;
        }
        fault::point("array.written");
        self.array.state().journal.store(index as u64 + 1, Release);
        // Before the element is written, as this process's death sees it.
        compiler_fence(SeqCst);
        fault::point("array.committed");
        self.finish(index);
        before
    }

    fn finish(&mut self, index: usize) {
        if let Some((spare, slice)) = self.slice_and_spare()
            && let Some(element) = slice.get_mut(index)
        {
            *element = *spare;
        }
        fault::point("array.copied");
        self.array.state().journal.store(0, Release);
    }
}

impl<T: Plain> fmt::Debug for Array<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Array")
            .field("object", &self.handle)
            .field("len", &self.len())
            .field("locked", &(self.state().holder.load(Relaxed) != 0))
            .finish()
    }
}

/// The whole array, held; dropping it unlocks.
///
/// If it is dropped by a panic, the array is poisoned.
#[must_use = "the array is unlocked when the guard is dropped"]
pub struct ArrayGuard<'a, T: Plain> {
    held: Held<'a, T>,
    panicking: bool,
}

impl<T: Plain> ArrayGuard<'_, T> {
    /// The elements.
    #[must_use]
    pub fn as_slice(&self) -> &[T] {
        self
    }

    /// The elements, to be changed.
    pub fn as_mut_slice(&mut self) -> &mut [T] {
        self
    }
}

impl<T: Plain> Drop for ArrayGuard<'_, T> {
    fn drop(&mut self) {
        if !is_copy() {
            let state = self.held.array.state();
            if !self.panicking && std::thread::panicking() {
                state.condition.fetch_or(POISONED, Relaxed);
            }
            state.guarded.store(0, Release);
        }
    }
}

impl<T: Plain> Deref for ArrayGuard<'_, T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        self.held.slice()
    }
}

impl<T: Plain> DerefMut for ArrayGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut [T] {
        self.held.slice_mut()
    }
}

impl<T: Plain> Array<T> {
    /// Declares the array sound again after a panic.
    pub fn clear_poison(&self) {
        self.state().condition.fetch_and(!POISONED, Relaxed);
    }
}

impl ArrayState {
    /// Takes a dead process's name out of `holder`: its participant id may become another's.
    pub(super) fn forget_holder(&self, dead: u32) {
        let _ = self.holder.compare_exchange(dead, 0, Relaxed, Relaxed);
    }
}

impl<T: Plain> fmt::Debug for ArrayGuard<'_, T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("ArrayGuard").field("array", self.held.array).finish()
    }
}
