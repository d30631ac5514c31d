//! Bytes in words that other processes may be writing at the same time.
//!
//! # Rules
//! R1. Such bytes are read and written as whole atomic words, so that a reader which is overtaken by
//!     a writer gets wrong bytes and nothing worse; whether they were is for a version to say
//!     (`collections/stripe.rs`).
//! R2. The last word is filled up with zeros, so that equal bytes are equal words.

#![allow(unsafe_code)] // Reads and writes words that nobody else uses.

use crate::prim::{AtomicU64, Relaxed};

/// How many words hold so many bytes.
#[inline]
pub(crate) const fn words_for(bytes: usize) -> usize {
    bytes.div_ceil(8)
}

/// The word of up to eight bytes (R2).
#[inline]
pub(crate) fn word_of(bytes: &[u8]) -> u64 {
    match bytes.try_into() {
        Ok(whole) => u64::from_ne_bytes(whole),
        Err(_) => {
            let mut padded = [0; 8];
            padded[..bytes.len()].copy_from_slice(bytes);
            u64::from_ne_bytes(padded)
        }
    }
}

/// Writes `bytes` into the words, which are enough for them.
#[inline]
pub(crate) fn store_bytes(words: &[AtomicU64], bytes: &[u8]) {
    for (word, bytes) in words.iter().zip(bytes.chunks(8)) {
        word.store(word_of(bytes), Relaxed);
    }
}

/// Appends the first `bytes` bytes of the words.
#[inline]
pub(crate) fn load_bytes(words: &[AtomicU64], bytes: usize, into: &mut Vec<u8>) {
    let start = into.len();
    into.resize(start + words.len() * 8, 0);
    for (word, place) in words.iter().zip(into[start..].chunks_exact_mut(8)) {
        place.copy_from_slice(&word.load(Relaxed).to_ne_bytes());
    }
    into.truncate(start + bytes);
}

/// Writes `bytes` into words that nobody else uses meanwhile, at once.
///
/// # Safety
/// Nobody else reads or writes the words during the call.
#[cfg(not(loom))]
#[inline]
pub(crate) unsafe fn store_bytes_alone(words: &[AtomicU64], bytes: &[u8]) {
    let count = bytes.len().min(words.len() * 8);
    // SAFETY: inside the words, which are for writing through a shared reference, and which nobody else
    // uses (the caller).
    unsafe {
        std::ptr::copy_nonoverlapping(
            bytes.as_ptr(),
            words.as_ptr().cast_mut().cast::<u8>(),
            count,
        );
    }
}

/// The first `bytes` bytes of words that nobody else writes meanwhile.
///
/// # Safety
/// Nobody writes the words while the slice lives.
#[cfg(not(loom))]
#[inline]
pub(crate) unsafe fn bytes_alone(words: &[AtomicU64], bytes: usize) -> &[u8] {
    let count = bytes.min(words.len() * 8);
    // SAFETY: inside the words; nobody writes them (the caller).
    unsafe { std::slice::from_raw_parts(words.as_ptr().cast::<u8>(), count) }
}

/// Whether the words hold exactly `bytes`.
#[inline]
pub(crate) fn are_bytes(words: &[AtomicU64], bytes: &[u8]) -> bool {
    words.len() == words_for(bytes.len())
        && words
            .iter()
            .zip(bytes.chunks(8))
            .all(|(word, bytes)| word.load(Relaxed) == word_of(bytes))
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn bytes_of_any_length_survive_a_round_trip() {
        for length in 0..40usize {
            let bytes: Vec<u8> = (1..=length as u8).collect();
            let words: Vec<AtomicU64> =
                (0..words_for(length)).map(|_| AtomicU64::new(u64::MAX)).collect();
            store_bytes(&words, &bytes);
            let mut back = vec![7];
            load_bytes(&words, length, &mut back);
            assert_eq!((back[0], &back[1..]), (7, &bytes[..]));
            assert!(are_bytes(&words, &bytes));
            let mut other = bytes.clone();
            other.push(0);
            assert_eq!(are_bytes(&words, &other), length % 8 != 0, "the caller compares lengths");
        }
    }
}
