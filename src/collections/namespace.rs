//! Named values of any types, which processes share.

use super::kept::Kept;
use super::map::{Expected, Found, MapState, STRIPES};
use super::scratch::with_scratch;
use crate::codec::kept::{append_value, value_of};
use crate::error::{Error, crossing as type_and};
use crate::shm::shape::ObjectId;
use crate::sync::crossing::crossing;
use crate::sync::handle::{Handle, Parts};
use crate::sync::settle::Kind;
use std::any::type_name;
use std::fmt;

/// Values with names, each of any `serde` type, which all processes read and change.
///
/// Each value is kept with the name of its type, and can be read only as that type. (Programs that
/// share a named arena must call a type of their own by the same path.)
///
/// **A value that was read is a copy**: changing it changes nothing until it is [`set`](Self::set)
/// again.
///
/// # If a process dies
/// While it sets or removes a value: that has happened, or it has not.
///
/// # Examples
/// ```
/// let shared = procpool::collections::Namespace::new()?;
/// shared.set("limit", &10u32)?;
/// shared.set("names", &vec!["Ada".to_string()])?;
/// assert_eq!(shared.get::<u32>("limit")?, Some(10));
/// let error = shared.get::<String>("limit").unwrap_err();
/// assert!(error.to_string().contains("u32") && error.to_string().contains("String"));
/// assert_eq!(shared.get::<u8>("nothing")?, None);
/// # Ok::<(), procpool::Error>(())
/// ```
pub struct Namespace {
    pub(crate) handle: Handle<MapState>,
}

const PARTS: Parts = Parts::of(Kind::Namespace);

crossing!(Namespace, PARTS);

/// A value's bytes are the length of its type's name, the name, and the value.
fn split(bytes: &[u8]) -> Option<(&str, &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<2>()?;
    let (name, value) = rest.split_at_checked(usize::from(u16::from_le_bytes(*length)))?;
    Some((std::str::from_utf8(name).ok()?, value))
}

impl Namespace {
    /// Makes an empty namespace.
    ///
    /// # Errors
    /// The arena is full, or cannot be made.
    pub fn new() -> Result<Self, Error> {
        Ok(Self { handle: MapState::create(&PARTS, None)? })
    }

    /// Holds the namespace of this name.
    pub(crate) fn open(id: ObjectId) -> Result<Self, Error> {
        Ok(Self { handle: Handle::open(id, &PARTS)? })
    }

    /// Sets the value of a name, of whatever type the one before was.
    ///
    /// # Errors
    /// The value cannot be encoded, or the arena has no room for it.
    pub fn set<T: Kept>(&self, name: &str, value: &T) -> Result<(), Error> {
        self.put(name, value, Expected::Anything).map(drop)
    }

    /// Sets the value of a name that is free; returns whether it was.
    pub(crate) fn set_new<T: Kept>(&self, name: &str, value: &T) -> Result<bool, Error> {
        self.put(name, value, Expected::Missing)
    }

    fn put<T: Kept>(&self, name: &str, value: &T, expected: Expected<'_>) -> Result<bool, Error> {
        let of = type_name::<T>();
        let length = u16::try_from(of.len())
            .map_err(|_| Error::limit(format!("the type's name has {} bytes", of.len())))?;
        with_scratch(|scratch| {
            scratch.value.extend_from_slice(&length.to_le_bytes());
            scratch.value.extend_from_slice(of.as_bytes());
            append_value(value, &mut scratch.value, &mut scratch.carried).map_err(|why| {
                Error::invalid(format!("cannot encode {name:?}: {}", type_and::<T>(why)))
            })?;
            let new = Some((&scratch.value[..], &scratch.carried[..]));
            let (state, arena) = (self.handle.state(), self.handle.caller().arena());
            let changed =
                state.change(arena, name.as_bytes(), new, expected, &mut scratch.before)?;
            Ok(changed.done)
        })
    }

    /// The value of a name: a copy.
    ///
    /// # Errors
    /// The value is of another type, or cannot be decoded: the message names both types.
    pub fn get<T: Kept>(&self, name: &str) -> Result<Option<T>, Error> {
        let (state, arena) = (self.handle.state(), self.handle.caller().arena());
        loop {
            let mut bytes = Vec::new();
            let Found::Value { carries } = state.get(arena, name.as_bytes(), &mut bytes)? else {
                return Ok(None);
            };
            let Some((of, value)) = split(&bytes) else {
                return Err(Error::broken(format!("the value of {name:?} has no type")));
            };
            if of != type_name::<T>() {
                return Err(Error::invalid(format!(
                    "{name:?} is of type {of}, and was asked for as {}",
                    type_name::<T>()
                )));
            }
            match value_of(value) {
                Ok(value) => return Ok(Some(value)),
                Err(why) => {
                    let mut now = Vec::new();
                    let found = state.get(arena, name.as_bytes(), &mut now)?;
                    // What it led to may have gone since, with the value.
                    if !carries || (found != Found::Nothing && now == bytes) {
                        return Err(Error::invalid(format!(
                            "cannot decode {name:?}: {}",
                            type_and::<T>(why)
                        )));
                    }
                }
            }
        }
    }

    /// Removes a name; returns whether it was there.
    pub fn remove(&self, name: &str) -> bool {
        let (state, arena) = (self.handle.state(), self.handle.caller().arena());
        let mut before = Vec::new();
        // Only a damaged arena makes it fail, which everything else reports.
        state
            .change(arena, name.as_bytes(), None, Expected::Anything, &mut before)
            .is_ok_and(|changed| changed.had)
    }

    /// Returns whether a name is there.
    #[must_use]
    pub fn contains(&self, name: &str) -> bool {
        let (state, arena) = (self.handle.state(), self.handle.caller().arena());
        let found = state.get(arena, name.as_bytes(), &mut Vec::new());
        found.is_ok_and(|found| found != Found::Nothing)
    }

    /// The names, in alphabetical order.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        let (state, arena) = (self.handle.state(), self.handle.caller().arena());
        let mut names = Vec::new();
        for stripe in 0..STRIPES {
            let Ok(snapshot) = state.snapshot(arena, stripe) else { continue };
            names.extend(
                snapshot.entries().map(|(name, ..)| String::from_utf8_lossy(name).into_owned()),
            );
        }
        names.sort_unstable();
        names
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

impl fmt::Debug for Namespace {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Namespace")
            .field("object", &self.handle)
            .field("names", &self.handle.state().len(self.handle.caller().arena()))
            .finish()
    }
}
