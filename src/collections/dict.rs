//! A dictionary that processes share.

use super::kept::{Kept, KeyFor};
use super::map::{Changed, Expected, Found, MapState, STRIPES};
use super::pairs::PairBytes;
use super::scratch::{Scratch, with_scratch};
use crate::codec::kept::{append_key, append_value, is_number, key_of, value_of};
use crate::error::{Error, crossing as type_and};
use crate::sync::crossing::crossing;
use crate::sync::handle::{Handle, Parts};
use crate::sync::settle::Kind;

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::marker::PhantomData;

/// A dictionary from any `serde` keys to any `serde` values, which all processes read and change.
///
/// There is no server: the data is in the arena, and each process works on it directly. Reading takes
/// no lock. A change locks one of 32 stripes of the dictionary for less than a microsecond, never
/// while code of yours runs. The dictionary grows as long as the arena has room; an empty one takes
/// 12 KiB, and what it has grown to is freed by [`clear`](Self::clear) or with the dictionary.
///
/// **A value that was read is a copy.** Changing it changes nothing in the dictionary until it is put
/// back; [`update`](Self::update) does both. (CPython's `Manager().dict()` behaves in the same way.)
///
/// Keys are compared by their encoding. So a key must be encoded in one way only: a `HashMap` is no
/// good key. Handles to other collections can be values, and nest.
///
/// # If a process dies
/// While it changes the dictionary: the change has happened, or it has not. Others go on.
///
/// # Examples
/// ```
/// use procpool::{Pool, collections::Dict};
///
/// let lengths = Dict::<String, usize>::new()?;
/// let pool = Pool::builder().workers(2).build()?;
/// let measure = |lengths: &Dict<String, usize>, word: String| {
///     lengths.insert(&word, &word.len()).unwrap();
/// };
/// pool.with(&lengths).map(measure, ["one", "two", "three"].map(String::from))?;
/// assert_eq!(lengths.get("three")?, Some(5));
/// assert_eq!(lengths.update("one", |length| *length += 10)?, Some(()));
/// assert_eq!((lengths.get("one")?, lengths.len()), (Some(13), 3));
/// # Ok::<(), procpool::Error>(())
/// ```
pub struct Dict<K: Kept, V: Kept> {
    handle: Handle<MapState>,
    of: PhantomData<fn() -> (K, V)>,
}

const PARTS: Parts = Parts::of(Kind::Dict);

crossing!(Dict<K: Kept, V: Kept>, PARTS);

/// A key and its value, or why one of them cannot be decoded.
type Decoded<K, V> = Result<(K, V), Error>;

/// How long keys and values are, if they are numbers of at most 8 bytes.
fn pair_bytes<K: 'static, V: 'static>() -> Option<PairBytes> {
    let bytes = PairBytes { key: size_of::<K>(), value: size_of::<V>() };
    let numbers = is_number::<K>() && is_number::<V>();
    (numbers && bytes.key <= 8 && bytes.value <= 8).then_some(bytes)
}

fn cannot<T>(doing: &str, why: String) -> Error {
    Error::invalid(format!("cannot {doing} {}", type_and::<T>(why)))
}

fn encode_key<K, Q: KeyFor<K> + ?Sized>(key: &Q, scratch: &mut Scratch) -> Result<(), Error> {
    append_key(key, &mut scratch.key).map_err(|why| cannot::<K>("encode a key:", why))
}

fn encode<V: Kept>(value: &V, scratch: &mut Scratch) -> Result<(), Error> {
    scratch.value.clear();
    scratch.carried.clear();
    append_value(value, &mut scratch.value, &mut scratch.carried)
        .map_err(|why| cannot::<V>("encode a value:", why))
}

fn decode<V: Kept>(bytes: &[u8]) -> Result<V, Error> {
    value_of(bytes).map_err(|why| cannot::<V>("decode a value:", why))
}

impl<K: Kept, V: Kept> Dict<K, V> {
    /// Makes an empty dictionary.
    ///
    /// # Errors
    /// The arena is full, or cannot be made.
    pub fn new() -> Result<Self, Error> {
        Ok(Self { handle: MapState::create(&PARTS, pair_bytes::<K, V>())?, of: PhantomData })
    }

    /// The value of a key: a copy.
    ///
    /// # Errors
    /// The key cannot be encoded, or the value not be decoded.
    pub fn get<Q>(&self, key: &Q) -> Result<Option<V>, Error>
    where
        Q: KeyFor<K> + ?Sized,
    {
        with_scratch(|scratch| {
            encode_key::<K, Q>(key, scratch)?;
            self.get_encoded(scratch)
        })
    }

    /// The value of the key in `scratch.key`; its bytes are then in `scratch.before`.
    fn get_encoded(&self, scratch: &mut Scratch) -> Result<Option<V>, Error> {
        let (state, arena) = (self.handle.state(), self.handle.caller().arena());
        loop {
            scratch.before.clear();
            let Found::Value { carries } = state.get(arena, &scratch.key, &mut scratch.before)?
            else {
                return Ok(None);
            };
            match decode(&scratch.before) {
                // What it led to may have gone since, with the value.
                Err(_) if carries && self.is_another(&scratch.key, &scratch.before)? => {}
                decoded => return decoded.map(Some),
            }
        }
    }

    /// Returns whether the key is there.
    ///
    /// # Errors
    /// The key cannot be encoded.
    pub fn contains_key<Q>(&self, key: &Q) -> Result<bool, Error>
    where
        Q: KeyFor<K> + ?Sized,
    {
        with_scratch(|scratch| {
            encode_key::<K, Q>(key, scratch)?;
            let arena = self.handle.caller().arena();
            let found = self.handle.state().get(arena, &scratch.key, &mut scratch.before)?;
            Ok(found != Found::Nothing)
        })
    }

    /// Changes the entry of the key in `scratch.key` to the value in `scratch.value`, or removes it.
    fn change(
        &self,
        scratch: &mut Scratch,
        put: bool,
        expected: Expected<'_>,
    ) -> Result<Changed<'_>, Error> {
        let Scratch { key, value, before, carried } = scratch;
        before.clear();
        let new = put.then_some((&value[..], &carried[..]));
        let arena = self.handle.caller().arena();
        self.handle.state().change(arena, key, new, expected, before)
    }

    /// The value that a change has found.
    fn value_before(&self, scratch: &Scratch, changed: Changed<'_>) -> Result<Option<V>, Error> {
        let before = if changed.had { Some(decode(&scratch.before)?) } else { None };
        // Only now, because what is decoded may lead to what is given up.
        drop(changed.removed);
        Ok(before)
    }

    /// Sets the value of a key; returns the one before.
    ///
    /// # Errors
    /// Key or value cannot be encoded, or the arena has no room for them: nothing has changed. Or the
    /// value before cannot be decoded: it has been replaced.
    pub fn insert<Q>(&self, key: &Q, value: &V) -> Result<Option<V>, Error>
    where
        Q: KeyFor<K> + ?Sized,
    {
        with_scratch(|scratch| {
            encode_key::<K, Q>(key, scratch)?;
            encode(value, scratch)?;
            let changed = self.change(scratch, true, Expected::Anything)?;
            self.value_before(scratch, changed)
        })
    }

    /// Removes a key; returns its value.
    ///
    /// # Errors
    /// The key cannot be encoded. Or the value cannot be decoded: it is removed all the same.
    #[doc(alias = "pop")]
    pub fn remove<Q>(&self, key: &Q) -> Result<Option<V>, Error>
    where
        Q: KeyFor<K> + ?Sized,
    {
        with_scratch(|scratch| {
            encode_key::<K, Q>(key, scratch)?;
            let changed = self.change(scratch, false, Expected::Anything)?;
            self.value_before(scratch, changed)
        })
    }

    /// The value of a key; if there is none, the one that `make` returns is put there.
    ///
    /// If another process puts one there meanwhile, that one is returned.
    ///
    /// # Errors
    /// As [`get`](Self::get) and [`insert`](Self::insert).
    #[doc(alias = "setdefault")]
    pub fn get_or_insert_with<Q>(&self, key: &Q, make: impl FnOnce() -> V) -> Result<V, Error>
    where
        Q: KeyFor<K> + ?Sized,
    {
        with_scratch(|scratch| {
            encode_key::<K, Q>(key, scratch)?;
            if let Some(value) = self.get_encoded(scratch)? {
                return Ok(value);
            }
            let value = make();
            encode(&value, scratch)?;
            loop {
                if self.change(scratch, true, Expected::Missing)?.done {
                    return Ok(value);
                }
                if let Some(value) = self.get_encoded(scratch)? {
                    return Ok(value);
                }
            }
        })
    }

    /// Changes the value of a key, atomically: `change` gets a copy, which then replaces it. Returns what
    /// `change` returned, or `None` if there is no such key.
    ///
    /// `change` runs without any lock. If another process has changed the value meanwhile, it is called
    /// again with that one's. (Some process always succeeds, but one that takes long may wait for long
    /// while others keep changing the same key.)
    ///
    /// # Errors
    /// As [`get`](Self::get) and [`insert`](Self::insert).
    pub fn update<Q, R>(
        &self,
        key: &Q,
        mut change: impl FnMut(&mut V) -> R,
    ) -> Result<Option<R>, Error>
    where
        Q: KeyFor<K> + ?Sized,
    {
        with_scratch(|scratch| {
            encode_key::<K, Q>(key, scratch)?;
            while let Some(value) = self.get_encoded(scratch)? {
                if let Some(returned) = self.try_update(scratch, value, &mut change)? {
                    return Ok(Some(returned));
                }
            }
            Ok(None)
        })
    }

    /// Replaces a value whose bytes are in `scratch.before` by a changed one.
    fn try_update<R>(
        &self,
        scratch: &mut Scratch,
        mut value: V,
        change: &mut impl FnMut(&mut V) -> R,
    ) -> Result<Option<R>, Error> {
        let returned = change(&mut value);
        encode(&value, scratch)?;
        let expected = std::mem::take(&mut scratch.before);
        let changed = self.change(scratch, true, Expected::Bytes(&expected))?;
        Ok(changed.done.then_some(returned))
    }

    /// As [`update`](Self::update); a key that is not there gets the value that `make` returns first.
    ///
    /// # Errors
    /// As [`get`](Self::get) and [`insert`](Self::insert).
    ///
    /// # Examples
    /// ```
    /// let counts = procpool::collections::Dict::<char, u64>::new()?;
    /// for letter in "abracadabra".chars() {
    ///     counts.update_or_insert_with(&letter, || 0, |count| *count += 1)?;
    /// }
    /// assert_eq!(counts.get(&'a')?, Some(5));
    /// # Ok::<(), procpool::Error>(())
    /// ```
    pub fn update_or_insert_with<Q, R>(
        &self,
        key: &Q,
        mut make: impl FnMut() -> V,
        mut change: impl FnMut(&mut V) -> R,
    ) -> Result<R, Error>
    where
        Q: KeyFor<K> + ?Sized,
    {
        with_scratch(|scratch| {
            encode_key::<K, Q>(key, scratch)?;
            loop {
                if let Some(value) = self.get_encoded(scratch)? {
                    if let Some(returned) = self.try_update(scratch, value, &mut change)? {
                        return Ok(returned);
                    }
                    continue;
                }
                let mut value = make();
                let returned = change(&mut value);
                encode(&value, scratch)?;
                if self.change(scratch, true, Expected::Missing)?.done {
                    return Ok(returned);
                }
            }
        })
    }

    /// Replaces `current` (`None`: no such key) by `new` (`None`: removes the key), if the value is
    /// `current`, compared by its encoding; returns whether it was.
    ///
    /// # Errors
    /// Key or values cannot be encoded, or the arena has no room.
    pub fn compare_and_swap<Q>(
        &self,
        key: &Q,
        current: Option<&V>,
        new: Option<&V>,
    ) -> Result<bool, Error>
    where
        Q: KeyFor<K> + ?Sized,
    {
        with_scratch(|scratch| {
            encode_key::<K, Q>(key, scratch)?;
            let mut expected = None;
            if let Some(current) = current {
                encode(current, scratch)?;
                expected = Some(scratch.value.clone());
            }
            if let Some(new) = new {
                encode(new, scratch)?;
            }
            let expected = expected.as_deref().map_or(Expected::Missing, Expected::Bytes);
            Ok(self.change(scratch, new.is_some(), expected)?.done)
        })
    }

    /// Inserts many.
    ///
    /// # Errors
    /// As [`insert`](Self::insert), for the first one that fails; those before it are inserted.
    #[doc(alias = "update")]
    pub fn extend(&self, entries: impl IntoIterator<Item = (K, V)>) -> Result<(), Error> {
        entries.into_iter().try_for_each(|(key, value)| self.insert(&key, &value).map(drop))
    }

    /// How many keys there are: exact while nobody adds or removes any.
    #[must_use]
    pub fn len(&self) -> usize {
        self.handle.state().len(self.handle.caller().arena())
    }

    /// Returns whether there is no key.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Removes everything, stripe by stripe, and frees the memory.
    pub fn clear(&self) {
        self.handle.state().clear(self.handle.caller().arena());
    }

    /// All keys and values, in no order.
    ///
    /// The iterator takes a snapshot of one stripe of the dictionary (a 32nd of it) at a time: what it
    /// returns from one stripe was there at one moment. Others may go on writing.
    pub fn iter(&self) -> impl Iterator<Item = Result<(K, V), Error>> + '_ {
        let mut next = 0;
        let mut ready = VecDeque::new();
        std::iter::from_fn(move || {
            while ready.is_empty() && next < STRIPES {
                match self.entries_of(next) {
                    Ok(entries) => ready.extend(entries),
                    Err(error) => ready.push_back(Err(error)),
                }
                next += 1;
            }
            ready.pop_front()
        })
    }

    fn entries_of(&self, stripe: usize) -> Result<Vec<Decoded<K, V>>, Error> {
        let arena = self.handle.caller().arena();
        let snapshot = self.handle.state().snapshot(arena, stripe)?;
        let decode_entry = |(key, value, carries): (&[u8], &[u8], bool)| {
            let key = match key_of::<K>(key) {
                Ok(key) => key,
                Err(why) => return Some(Err(cannot::<K>("decode a key:", why))),
            };
            match decode(value) {
                Ok(value) => Some(Ok((key, value))),
                // What it led to may have gone since, with the value.
                Err(_) if carries => match self.get(&key) {
                    Ok(value) => value.map(|value| Ok((key, value))),
                    Err(error) => Some(Err(error)),
                },
                Err(error) => Some(Err(error)),
            }
        };
        Ok(snapshot.entries().filter_map(decode_entry).collect())
    }

    /// All keys, in no order: see [`iter`](Self::iter).
    ///
    /// # Errors
    /// One cannot be decoded.
    pub fn keys(&self) -> Result<Vec<K>, Error> {
        self.iter().map(|entry| Ok(entry?.0)).collect()
    }

    /// All values, in no order: see [`iter`](Self::iter).
    ///
    /// # Errors
    /// One cannot be decoded.
    pub fn values(&self) -> Result<Vec<V>, Error> {
        self.iter().map(|entry| Ok(entry?.1)).collect()
    }

    /// A copy of the whole: see [`iter`](Self::iter).
    ///
    /// # Errors
    /// Something cannot be decoded.
    pub fn to_map(&self) -> Result<HashMap<K, V>, Error>
    where
        K: std::hash::Hash + Eq,
    {
        self.iter().collect()
    }

    /// Removes the entries that `keep` does not want; returns how many.
    ///
    /// `keep` runs without any lock. An entry that another process has changed meanwhile stays.
    ///
    /// # Errors
    /// Something cannot be decoded.
    pub fn retain(&self, mut keep: impl FnMut(&K, &V) -> bool) -> Result<usize, Error> {
        let (state, arena) = (self.handle.state(), self.handle.caller().arena());
        let mut removed = 0;
        for stripe in 0..STRIPES {
            // Compared as they were read: encoding a value again may give other bytes.
            for (key_bytes, bytes, carries) in state.snapshot(arena, stripe)?.entries() {
                let key =
                    key_of::<K>(key_bytes).map_err(|why| cannot::<K>("decode a key:", why))?;
                let value = match decode(bytes) {
                    Ok(value) => value,
                    Err(_) if carries && self.is_another(key_bytes, bytes)? => continue,
                    Err(error) => return Err(error),
                };
                if !keep(&key, &value) {
                    let expected = Expected::Bytes(bytes);
                    let changed =
                        state.change(arena, key_bytes, None, expected, &mut Vec::new())?;
                    removed += usize::from(changed.done);
                }
            }
        }
        Ok(removed)
    }

    /// Whether a key's value is no longer `bytes`.
    fn is_another(&self, key: &[u8], bytes: &[u8]) -> Result<bool, Error> {
        let mut now = Vec::new();
        let found = self.handle.state().get(self.handle.caller().arena(), key, &mut now)?;
        Ok(found == Found::Nothing || now != bytes)
    }

    /// Checks everything: for tests.
    ///
    /// # Errors
    /// What is wrong.
    #[doc(hidden)]
    pub fn check_invariants(&self) -> Result<(), String> {
        self.handle.state().check(self.handle.caller().arena())
    }
}

impl<K: Kept, V: Kept> fmt::Debug for Dict<K, V> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Dict")
            .field("object", &self.handle)
            .field("len", &self.len())
            .finish()
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
#[path = "dict_fuzz.rs"]
mod fuzz;
