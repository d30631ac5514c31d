//! Fuzz targets: an allocator and a segment in whose tables a peer has scribbled. Operations may fail, and what
//! they give may be another's; but they come to an end, and every block lies in the arena.

use super::arena::Arena;
use super::offset::Offset;
use super::participants::ParticipantId;
use crate::limits::ARENA_BYTES_MIN;
use crate::prim::{AtomicU64, Relaxed};

/// Words of the allocator's own, all but its lock: what the kernel and the C library keep in that is theirs.
fn scribble(arena: &Arena, writes: &[(u16, u64)]) {
    for (place, value) in writes {
        let words = arena.allocator_words();
        if let Some(word) = words.get(usize::from(*place) % words.len().max(1)) {
            word.store(*value, Relaxed);
        }
    }
}

#[test]
fn fuzz_allocator() {
    let Ok(arena) = Arena::create(ARENA_BYTES_MIN) else { panic!("no arena") };
    let me = ParticipantId::from_raw(3);
    type Input = Vec<(u8, u32, Vec<(u16, u64)>)>;
    bolero::check!().with_type::<Input>().for_each(|steps| {
        let mut taken = Vec::new();
        for (step, size, writes) in steps.iter().take(20) {
            match step % 8 {
                0..3 => {
                    if let Ok(block) = arena.allocate(u64::from(*size % (1 << 18)) + 1, me) {
                        if let Some(word) = arena.at(Offset::<AtomicU64>::new(block.offset)) {
                            word.store(u64::from(*size), Relaxed);
                        }
                        taken.push(block.offset);
                    }
                }
                3 => taken.pop().into_iter().for_each(|offset| arena.free(offset)),
                4 => arena.free(u64::from(*size)),
                5 => drop(arena.block_bytes(u64::from(*size))),
                6 => arena.set_owner(u64::from(*size), me),
                _ => scribble(&arena, writes),
            }
        }
        let usage = arena.usage();
        assert!(usage.capacity_bytes < ARENA_BYTES_MIN as u64);
        arena.free_owned_by(me);
        arena.used_blocks();
        arena.trim();
        // As good as new, for the next.
        arena.reset_allocator();
    });
}

#[test]
fn fuzz_names() {
    bolero::check!().with_type::<String>().for_each(|name| {
        for name in [name.clone(), format!("procpool.{name}"), format!("procpool.1.2.{name}")] {
            super::segment::named::parse_for_test(name);
        }
    });
}
