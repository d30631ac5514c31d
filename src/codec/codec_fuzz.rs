//! Fuzz targets: whatever bytes a peer has left, decoding gives a value or an error.
//!
//! `cargo test fuzz_` runs each for a second or so; `BOLERO_RANDOM_TEST_TIME_MS` sets how long, and
//! `cargo bolero test` lets a fuzzer with feedback choose the bytes.
#![allow(unsafe_code)] // Puts bytes into arena memory.

use super::Stream;
use crate::limits::ARENA_BYTES_MIN;
use crate::shm::Arena;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::sync::LazyLock;

#[derive(Debug, Serialize, Deserialize)]
enum Tree {
    Leaf(Option<char>),
    Named { name: String, weights: Vec<f32> },
    Pair(Box<(Tree, Tree)>),
}

/// Reads every value of a stream that claims to have so many.
fn read_all<T: DeserializeOwned + 'static>(bytes: &[u8], table_calls: usize) {
    let whole = Stream::<T>::of_one(bytes);
    let _ = whole.value(0);
    static ARENA: LazyLock<Option<Arena>> = LazyLock::new(|| Arena::create(ARENA_BYTES_MIN).ok());
    let Some(arena) = &*ARENA else { return };
    let Ok(block) = arena.allocate(bytes.len().max(1) as u64, crate::shm::ParticipantId::NOBODY)
    else {
        return;
    };
    if let Some(start) = arena.bytes_at(block.offset, bytes.len() as u64) {
        // SAFETY: the block is new and ours, and has room.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), start.as_ptr(), bytes.len()) };
        // SAFETY: nobody else knows the block.
        let stream =
            unsafe { Stream::<T>::at(arena, block.offset, bytes.len() as u64, table_calls) };
        for call in 0..table_calls.min(20) + 2 {
            let _ = stream.as_ref().map(|stream| stream.value(call));
        }
    }
    arena.free(block.offset);
}

#[test]
fn fuzz_values() {
    bolero::check!().with_type::<(u8, Vec<u8>)>().for_each(|(calls, bytes)| {
        let calls = usize::from(*calls);
        read_all::<u64>(bytes, 0);
        read_all::<(u8, f64)>(bytes, 0);
        read_all::<Vec<u32>>(bytes, calls);
        read_all::<String>(bytes, calls);
        read_all::<Tree>(bytes, calls);
        read_all::<Option<Box<[u8]>>>(bytes, calls);
        read_all::<BTreeMap<String, Vec<(u16, bool)>>>(bytes, calls);
        read_all::<HashMap<u64, ()>>(bytes, calls);
        read_all::<Result<(), String>>(bytes, calls);
    });
}

/// Places and lengths outside the arena, and more ends than bytes.
#[test]
fn fuzz_streams() {
    let Ok(arena) = Arena::create(ARENA_BYTES_MIN) else { panic!("no arena") };
    bolero::check!().with_type::<(u64, u64, usize, usize)>().cloned().for_each(
        |(offset, bytes, table_calls, call)| {
            // SAFETY: nobody writes to this arena.
            let stream = unsafe { Stream::<String>::at(&arena, offset, bytes, table_calls) };
            if let Some(stream) = stream {
                assert!(offset + bytes <= arena.bytes() as u64);
                let _ = stream.value(call);
            }
        },
    );
}

/// Handles: names of objects that are not there, of another type, or of another arena.
#[test]
fn fuzz_handles() {
    use crate::sync::{Event, Mutex, Semaphore};
    let Ok(event) = Event::new() else { panic!("no arena") };
    bolero::check!().with_type::<Vec<u8>>().for_each(|bytes| {
        let _ = super::decode::<Event>(bytes).map(|event| event.is_set());
        let _ = super::decode::<Mutex<u64>>(bytes).map(|mutex| mutex.is_poisoned());
        let _ = super::decode::<(Semaphore, Vec<Event>)>(bytes);
    });
    assert!(!event.is_set());
}
