//! Showing that one knows the key of a named arena.
//!
//! The header holds a nonce and HMAC-SHA-256 (RFC 2104, FIPS 180-4) of nonce and name under the key.
//! Whoever attaches computes the same under the key that he has. Only a user who may open the segment
//! gets that far, and such a user can also read and write everything without asking: the key keeps
//! programs apart that were not meant for each other, and attackers of other users are kept out by the
//! segment's mode.

use crate::prim::{AtomicU64, Relaxed};
use crate::shm::arena::KEY_WORDS;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use std::hash::{BuildHasher, Hasher, RandomState};

const NONCE_WORDS: usize = 2;

fn mac(key: &[u8], nonce: &[u8], name: &str) -> Option<Hmac<Sha256>> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).ok()?;
    mac.update(nonce);
    mac.update(name.as_bytes());
    Some(mac)
}

fn bytes_of(words: &[AtomicU64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.load(Relaxed).to_le_bytes()).collect()
}

/// Fills the header's words for a key.
pub(super) fn store(words: &[AtomicU64; KEY_WORDS], key: &[u8], name: &str) {
    let (nonce, tag) = words.split_at(NONCE_WORDS);
    for word in nonce {
        // Not 0, which stands for no key.
        word.store(RandomState::new().build_hasher().finish() | 1, Relaxed);
    }
    let Some(mac) = mac(key, &bytes_of(nonce), name) else { return };
    let bytes = mac.finalize().into_bytes();
    for (word, bytes) in tag.iter().zip(bytes.chunks_exact(8)) {
        word.store(bytes.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte)), Relaxed);
    }
}

/// Whether this is the key whose words these are (`None`: whether there is none). Takes the same time
/// for every wrong key.
pub(super) fn is_right(words: &[AtomicU64; KEY_WORDS], key: Option<&[u8]>, name: &str) -> bool {
    let (nonce, tag) = words.split_at(NONCE_WORDS);
    let has_key = nonce.iter().any(|word| word.load(Relaxed) != 0);
    match key {
        Some(key) if has_key => mac(key, &bytes_of(nonce), name)
            .is_some_and(|mac| mac.verify_slice(&bytes_of(tag)).is_ok()),
        Some(_) => false,
        None => !has_key,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_key_and_name_are_right() {
        let words: [AtomicU64; KEY_WORDS] = Default::default();
        assert!(is_right(&words, None, "name") && !is_right(&words, Some(b"key"), "name"));
        store(&words, b"key", "name");
        assert!(is_right(&words, Some(b"key"), "name"));
        assert!(!is_right(&words, Some(b"kez"), "name") && !is_right(&words, Some(b""), "name"));
        assert!(!is_right(&words, None, "name") && !is_right(&words, Some(b"key"), "other"));
    }
}
