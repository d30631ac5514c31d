//! Values that are kept: in collections and queues, where another program may read them.
//!
//! Numbers and vectors of numbers are copied as bytes; everything else goes through `postcard`.
#![allow(unsafe_code)] // Copies the bytes of numbers.

use super::plain;
use crate::sync::crossing::{Carried, carrying, text_of};
use serde::{Serialize, de::DeserializeOwned};
use std::mem::MaybeUninit;

/// Appends bytes that are a number's, or several numbers'.
#[inline(always)]
fn append(bytes: &[MaybeUninit<u8>], into: &mut Vec<u8>) {
    // SAFETY: numbers have no padding: every byte is initialised.
    into.extend_from_slice(unsafe { &*(std::ptr::from_ref(bytes) as *const [u8]) });
}

/// Whether values of a type are numbers, which are kept as they are.
#[inline]
pub(crate) fn is_number<T: 'static>() -> bool {
    plain::is_number::<T>()
}

/// Whether values of a type are numbers or vectors of them: no code of the user's is needed to read one.
#[inline]
pub(crate) fn is_plain<T: 'static>() -> bool {
    plain::is_number::<T>() || plain::is_vector::<T>()
}

/// The bytes of such a value, which [`value_of`] reads.
#[inline]
pub(crate) fn plain_bytes<T: 'static>(value: &T) -> Option<&[u8]> {
    let bytes = plain::portable_bytes_of(value).or_else(|| plain::vector_bytes_of(value))?;
    // SAFETY: numbers have no padding: every byte is initialised.
    Some(unsafe { &*(std::ptr::from_ref(bytes) as *const [u8]) })
}

/// Appends the bytes of a key. A string and a slice have the bytes of a `String` and a `Vec`.
///
/// # Errors
/// The type's `Serialize` refused, or the key carries a handle: whose name says nothing about what
/// it leads to.
#[inline]
pub(crate) fn append_key<Q: Serialize + ?Sized + 'static>(
    key: &Q,
    into: &mut Vec<u8>,
) -> Result<(), String> {
    if let Some(bytes) = plain::portable_bytes_of(key) {
        append(bytes, into);
        return Ok(());
    }
    let bytes = std::mem::take(into);
    *into = postcard::to_extend(key, bytes).map_err(text_of)?;
    Ok(())
}

/// The key of these bytes.
#[inline]
pub(crate) fn key_of<K: DeserializeOwned + 'static>(bytes: &[u8]) -> Result<K, String> {
    match plain::from_portable_bytes(bytes) {
        // A vector as a key is not copied as bytes.
        plain::Read::Value(key) if plain::is_plain::<K>() => Ok(key),
        plain::Read::WrongLength if plain::is_plain::<K>() => Err(wrong_length(bytes)),
        _ => whole(bytes),
    }
}

/// Appends the bytes of a value; what holds the objects whose handles it carries goes to `carried`.
#[inline]
pub(crate) fn append_value<T: Serialize + 'static>(
    value: &T,
    into: &mut Vec<u8>,
    carried: &mut Vec<Carried>,
) -> Result<(), String> {
    if let Some(bytes) = plain_bytes(value) {
        into.extend_from_slice(bytes);
        return Ok(());
    }
    let bytes = std::mem::take(into);
    *into = carrying(carried, || postcard::to_extend(value, bytes)).map_err(text_of)?;
    Ok(())
}

/// The value of these bytes.
#[inline]
pub(crate) fn value_of<T: DeserializeOwned + 'static>(bytes: &[u8]) -> Result<T, String> {
    match plain::from_portable_bytes(bytes) {
        plain::Read::Value(value) => Ok(value),
        plain::Read::WrongLength => Err(wrong_length(bytes)),
        plain::Read::NotPlain => whole(bytes),
    }
}

fn wrong_length(bytes: &[u8]) -> String {
    format!("{} bytes are no whole number of values", bytes.len())
}

fn whole<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    match postcard::take_from_bytes(bytes) {
        Ok((value, [])) => Ok(value),
        Ok((_, rest)) => Err(format!("{} of {} bytes are left over", rest.len(), bytes.len())),
        Err(error) => Err(text_of(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn there_and_back<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug + 'static>(
        value: T,
    ) -> usize {
        let (mut bytes, mut carried) = (Vec::new(), Vec::new());
        append_value(&value, &mut bytes, &mut carried).unwrap();
        assert_eq!(value_of::<T>(&bytes).unwrap(), value);
        let mut key = Vec::new();
        append_key(&value, &mut key).unwrap();
        assert_eq!(key_of::<T>(&key).unwrap(), value);
        bytes.len()
    }

    #[test]
    fn values_and_keys_survive_a_round_trip() {
        assert_eq!(there_and_back(7u64), 8);
        assert_eq!(there_and_back(vec![1u16, 2, 3]), 6);
        assert_eq!(there_and_back((1u8, 2u64)), 2);
        there_and_back("text".to_string());
        there_and_back(Some(vec!["a".to_string()]));
    }

    #[test]
    fn a_key_has_the_bytes_of_what_it_borrows_as() {
        let (mut owned, mut borrowed) = (Vec::new(), Vec::new());
        append_key(&vec![1u8, 2], &mut owned).unwrap();
        append_key(&[1u8, 2][..], &mut borrowed).unwrap();
        assert_eq!(owned, borrowed);
    }

    #[test]
    fn bytes_of_another_length_are_refused() {
        assert!(value_of::<u64>(&[0; 7]).is_err());
        assert!(key_of::<u32>(&[0; 3]).is_err());
        assert!(value_of::<String>(&[1, b'a', 9]).unwrap_err().contains("left over"));
    }
}
