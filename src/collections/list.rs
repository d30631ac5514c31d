//! A list that processes share.

use super::elements::{Elements, OutOfRange};
use super::entry::NewEntry;
use super::kept::Kept;
use super::scratch::{Scratch, with_scratch};
use super::sequence::SequenceState;
use crate::codec::kept::{append_value, value_of};
use crate::error::{Error, crossing as type_and};
use crate::shm::Arena;
use crate::sync::crossing::{Carried, crossing};
use crate::sync::handle::{Handle, Parts};
use crate::sync::settle::Kind;
use std::cmp::Ordering;
use std::fmt;
use std::marker::PhantomData;

/// A list of any `serde` values, which all processes read and change.
///
/// There is no server: the data is in the arena, and each process works on it directly. Reading takes
/// no lock; a change locks the list, never while code of yours runs. [`insert`](Self::insert) and
/// [`remove`](Self::remove) in the middle take time in proportion to the length, everything else that
/// concerns one element does not. The list grows as long as the arena has room.
///
/// **A value that was read is a copy.** Changing it changes nothing in the list until it is put back;
/// [`update`](Self::update) does both.
///
/// # If a process dies
/// While it changes the list: the change has happened, or it has not. Others go on.
///
/// # Examples
/// ```
/// use procpool::{Pool, collections::List};
///
/// let seen = List::<String>::new()?;
/// let pool = Pool::builder().workers(2).build()?;
/// pool.with(&seen).map(|seen: &List<String>, n: u32| seen.push(&n.to_string()).unwrap(), 0..10u32)?;
/// assert_eq!(seen.len(), 10);
/// seen.sort_by(|a, b| a.cmp(b))?;
/// assert_eq!(seen.get(3)?.as_deref(), Some("3"));
/// # Ok::<(), procpool::Error>(())
/// ```
pub struct List<T: Kept> {
    handle: Handle<SequenceState>,
    of: PhantomData<fn() -> T>,
}

const PARTS: Parts = Parts::of(Kind::List);

crossing!(List<T: Kept>, PARTS);

/// How often [`List::sort_by`] begins again.
const SORTS_MAX: usize = 64;

fn decode<T: Kept>(bytes: &[u8]) -> Result<T, Error> {
    value_of(bytes)
        .map_err(|why| Error::invalid(format!("cannot decode an element: {}", type_and::<T>(why))))
}

fn encode<T: Kept>(
    value: &T,
    bytes: &mut Vec<u8>,
    carried: &mut Vec<Carried>,
) -> Result<(), Error> {
    append_value(value, bytes, carried)
        .map_err(|why| Error::invalid(format!("cannot encode an element: {}", type_and::<T>(why))))
}

impl<T: Kept> List<T> {
    /// Makes an empty list.
    ///
    /// # Errors
    /// The arena is full, or cannot be made.
    pub fn new() -> Result<Self, Error> {
        Ok(Self { handle: SequenceState::create(&PARTS)?, of: PhantomData })
    }

    fn state(&self) -> &SequenceState {
        self.handle.state()
    }

    fn arena(&self) -> &'static Arena {
        self.handle.caller().arena()
    }

    /// Encodes `value`, and has `change` put it into the list.
    fn put<R>(
        &self,
        scratch: &mut Scratch,
        value: &T,
        change: impl FnOnce(NewEntry<'_>) -> Result<R, Error>,
    ) -> Result<R, Error> {
        let Scratch { value: bytes, carried, .. } = scratch;
        bytes.clear();
        carried.clear();
        encode(value, bytes, carried)?;
        change(NewEntry::prepare(self.arena(), &[], 0, bytes, carried)?)
    }

    /// Appends a value.
    ///
    /// # Errors
    /// It cannot be encoded, or the arena has no room for it.
    #[doc(alias = "append")]
    pub fn push(&self, value: &T) -> Result<(), Error> {
        with_scratch(|scratch| self.put(scratch, value, |new| self.state().push(self.arena(), new)))
    }

    /// Appends many values, all at once: others see none of them or all.
    ///
    /// # Errors
    /// One cannot be encoded, or the arena has no room for all: none is appended.
    pub fn extend(&self, values: impl IntoIterator<Item = T>) -> Result<(), Error> {
        let mut encoded = Vec::new();
        for value in values {
            let (mut bytes, mut carried) = (Vec::new(), Vec::new());
            encode(&value, &mut bytes, &mut carried)?;
            encoded.push((bytes, carried));
        }
        let mut new = Vec::with_capacity(encoded.len());
        for (bytes, carried) in &encoded {
            new.push(NewEntry::prepare(self.arena(), &[], 0, bytes, carried)?);
        }
        self.state().append(self.arena(), new)
    }

    /// Removes the last value and returns it; `None` if the list is empty.
    ///
    /// # Errors
    /// It cannot be decoded: it is removed all the same.
    pub fn pop(&self) -> Result<Option<T>, Error> {
        self.take(None, false)
    }

    fn take(&self, index: Option<usize>, swap: bool) -> Result<Option<T>, Error> {
        with_scratch(|scratch| {
            let removed = self.state().remove(self.arena(), index, swap, &mut scratch.before)?;
            let Some(removed) = removed else { return Ok(None) };
            let value = decode(&scratch.before);
            // Only now, because what is decoded may lead to what is given up.
            drop(removed);
            value.map(Some)
        })
    }

    fn take_at(&self, index: usize, swap: bool) -> Result<T, Error> {
        let taken = self.take(Some(index), swap)?;
        taken.ok_or_else(|| OutOfRange { index, length: 0 }.into())
    }

    /// The value at `index`: a copy. `None` behind the end.
    ///
    /// # Errors
    /// It cannot be decoded.
    pub fn get(&self, index: usize) -> Result<Option<T>, Error> {
        with_scratch(|scratch| self.get_with(scratch, index))
    }

    /// The same; its bytes are then in `scratch.before`.
    fn get_with(&self, scratch: &mut Scratch, index: usize) -> Result<Option<T>, Error> {
        loop {
            scratch.before.clear();
            let found = self.state().get(self.arena(), index, &mut scratch.before)?;
            let Some(carries) = found else { return Ok(None) };
            match decode(&scratch.before) {
                // What it led to may have gone since, with the value.
                Err(_) if carries && self.has_changed(index, &scratch.before)? => {}
                decoded => return decoded.map(Some),
            }
        }
    }

    fn has_changed(&self, index: usize, bytes: &[u8]) -> Result<bool, Error> {
        let mut now = Vec::new();
        let found = self.state().get(self.arena(), index, &mut now)?;
        Ok(found.is_none() || now != bytes)
    }

    /// Replaces the value at `index`.
    ///
    /// # Errors
    /// There is none at `index`, the value cannot be encoded, or the arena has no room for it.
    pub fn set(&self, index: usize, value: &T) -> Result<(), Error> {
        with_scratch(|scratch| {
            self.put(scratch, value, |new| {
                self.state().set(self.arena(), index, new, None).map(drop)
            })
        })
    }

    /// Changes the value at `index`, atomically: `change` gets a copy, which then replaces it. Returns
    /// what `change` returned.
    ///
    /// `change` runs without any lock. If the value at `index` is another meanwhile, it is called again
    /// with that one.
    ///
    /// # Errors
    /// There is none at `index`, or as [`get`](Self::get) and [`set`](Self::set).
    pub fn update<R>(&self, index: usize, mut change: impl FnMut(&mut T) -> R) -> Result<R, Error> {
        with_scratch(|scratch| {
            loop {
                let Some(mut value) = self.get_with(scratch, index)? else {
                    let length = self.len();
                    return Err(OutOfRange { index, length }.into());
                };
                let returned = change(&mut value);
                let expected = std::mem::take(&mut scratch.before);
                let (_, done) = self.put(scratch, &value, |new| {
                    self.state().set(self.arena(), index, new, Some(&expected))
                })?;
                if done {
                    return Ok(returned);
                }
            }
        })
    }

    /// Inserts a value in front of the one at `index`, or at the end if `index` is the length.
    ///
    /// # Errors
    /// `index` is behind the end, the value cannot be encoded, or the arena has no room.
    pub fn insert(&self, index: usize, value: &T) -> Result<(), Error> {
        with_scratch(|scratch| {
            self.put(scratch, value, |new| self.state().insert(self.arena(), index, new))
        })
    }

    /// Removes the value at `index` and returns it; those behind it move up.
    ///
    /// # Errors
    /// There is none at `index`. Or the arena has no room for 8 bytes per element, which are freed again:
    /// [`swap_remove`](Self::swap_remove) and [`pop`](Self::pop) need none. Or it cannot be decoded: it is
    /// removed all the same.
    pub fn remove(&self, index: usize) -> Result<T, Error> {
        self.take_at(index, false)
    }

    /// Removes the value at `index` and returns it; the last one takes its place.
    ///
    /// # Errors
    /// There is none at `index`. Or it cannot be decoded: it is removed all the same.
    pub fn swap_remove(&self, index: usize) -> Result<T, Error> {
        self.take_at(index, true)
    }

    /// Removes all values from the one at `length` on.
    pub fn truncate(&self, length: usize) {
        self.state().truncate(self.arena(), length);
    }

    /// Removes everything, and frees the memory.
    pub fn clear(&self) {
        self.truncate(0);
    }

    /// How many values there are.
    #[must_use]
    pub fn len(&self) -> usize {
        // The only error is an arena that is damaged; whatever else is done with the list reports it.
        self.state().len(self.arena()).unwrap_or(0)
    }

    /// Returns whether there is no value.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Copies of all values, as they were at one moment.
    ///
    /// # Errors
    /// One cannot be decoded.
    pub fn to_vec(&self) -> Result<Vec<T>, Error> {
        Ok(self.snapshot()?.1)
    }

    fn snapshot(&self) -> Result<(Elements, Vec<T>), Error> {
        loop {
            let elements = self.state().elements(self.arena())?;
            let decoded: Result<Vec<T>, (Error, bool)> = elements
                .iter()
                .map(|(bytes, carries)| decode(bytes).map_err(|error| (error, carries)))
                .collect();
            match decoded {
                Ok(values) => return Ok((elements, values)),
                // What a value led to may have gone since, with the value.
                Err((_, true)) if self.state().version() != elements.version => {}
                Err((error, _)) => return Err(error),
            }
        }
    }

    /// Copies of all values, as they were at one moment: others may go on writing.
    ///
    /// # Errors
    /// One cannot be decoded.
    pub fn iter(&self) -> Result<std::vec::IntoIter<T>, Error> {
        Ok(self.to_vec()?.into_iter())
    }

    /// Returns whether a value is in the list.
    ///
    /// # Errors
    /// Something cannot be decoded.
    pub fn contains(&self, value: &T) -> Result<bool, Error>
    where
        T: PartialEq,
    {
        Ok(self.index_of(value)?.is_some())
    }

    /// The first place of a value.
    ///
    /// # Errors
    /// Something cannot be decoded.
    pub fn index_of(&self, value: &T) -> Result<Option<usize>, Error>
    where
        T: PartialEq,
    {
        Ok(self.iter()?.position(|element| element == *value))
    }

    /// Sorts the list, keeping the order of equal values; others see it as it was, or sorted.
    ///
    /// `compare` runs without any lock. If another process changes the list meanwhile, it is sorted
    /// again.
    ///
    /// # Errors
    /// The list was changed each of the 64 times that it was sorted. Or something cannot be decoded, or
    /// the arena has no room for 8 bytes per element.
    pub fn sort_by(&self, mut compare: impl FnMut(&T, &T) -> Ordering) -> Result<(), Error> {
        for _ in 0..SORTS_MAX {
            let (elements, values) = self.snapshot()?;
            let mut sorted: Vec<(usize, T)> = values.into_iter().enumerate().collect();
            sorted.sort_by(|(_, a), (_, b)| compare(a, b));
            let order = sorted.iter().map(|(index, _)| elements.word(*index));
            if self.state().reorder(self.arena(), &elements, order)? {
                return Ok(());
            }
        }
        Err(Error::limit(format!("the list was changed {SORTS_MAX} times while it was sorted")))
    }

    /// Checks everything: for tests.
    ///
    /// # Errors
    /// What is wrong.
    #[doc(hidden)]
    pub fn check_invariants(&self) -> Result<(), String> {
        self.state().check(self.arena())
    }
}

impl<T: Kept> fmt::Debug for List<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("List")
            .field("object", &self.handle)
            .field("len", &self.len())
            .finish()
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
#[path = "list_fuzz.rs"]
mod fuzz;
