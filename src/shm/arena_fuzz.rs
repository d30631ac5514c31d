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

/// Words of the header before the fault points, and of the first entries of the table of processes.
fn scribble_header(arena: &Arena, writes: &[(u16, u64)]) {
    let header = std::mem::offset_of!(super::arena::Header, fault_armed) as u64 / 8;
    for (place, value) in writes {
        let place = u64::from(*place);
        let at = match place % 2 {
            0 => place / 2 % header * 8,
            _ => super::arena::HEADER_BYTES + place / 2 % (8 * 16) * 8,
        };
        // Pids that may be somebody's, ids that may be in the table, anything.
        let value = if value % 3 == 0 {
            (value % 4096) << 32 | ((value >> 20) & 0x3f_ff02)
        } else {
            *value
        };
        if let Some(word) = arena.at(Offset::<AtomicU64>::new(at)) {
            word.store(value, Relaxed);
        }
    }
}

#[test]
fn fuzz_headers() {
    type Input = (Vec<(u16, u64)>, u8, u16);
    let Ok(arena) = Arena::create(ARENA_BYTES_MIN) else { panic!("no arena") };
    bolero::check!().with_type::<Input>().for_each(|(writes, pages, id)| {
        scribble_header(&arena, writes);
        let me = ParticipantId::from_raw(u64::from(*id));
        arena.note_death(me);
        let seen = (arena.layout_hash(), arena.is_named(), arena.root(), arena.owner());
        assert_eq!(seen.0, arena.layout_hash());
        assert!(arena.attached().len() < crate::limits::PARTICIPANTS_MAX);
        assert!(arena.depth_of(me) <= crate::limits::PARTICIPANTS_MAX);
        assert!(arena.children_of(me).iter().all(|child| *child != me));
        let dead = arena.strangers().take(3).filter(|id| arena.is_dead(*id)).count();
        assert!(dead <= 3);
        assert!(arena.ledgers().count() < crate::limits::PARTICIPANTS_MAX);
        if let Ok(reserved) = arena.reserve_participant(me) {
            assert!(arena.withdraw(reserved));
        }
        arena.release_participant(me);
        // A segment of any size that somebody else has made, and filled with anything.
        let Ok(segment) = super::segment::Segment::private(4096 * (usize::from(*pages) + 1)) else {
            panic!("no memory")
        };
        let small = segment.bytes() < ARENA_BYTES_MIN;
        let Ok(fd) = segment.descriptor().try_clone_to_owned() else { panic!("no descriptor") };
        assert!(Arena::look_at(segment).is_none());
        assert!(Arena::from_descriptor(fd).is_err(), "small: {small}");
    });
}
