//! Fuzz targets: an allocator and a segment in whose tables a peer has scribbled. Operations may fail, and what
//! they give may be another's; but they come to an end, and every block lies in the arena.

use super::arena::Arena;
use super::offset::Offset;
use super::participants::ParticipantId;
use crate::limits::ARENA_BYTES_MIN;
use crate::prim::{AtomicU64, Relaxed};

/// Words of the allocator's own, all but its lock: what the kernel and the C library keep in that is theirs.
fn scribble(arena: &Arena, writes: &[(u16, u64)]) {
    let words = arena.allocator_words();
    for (place, value) in writes {
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
    type Input = (Vec<(u16, u64)>, u16);
    let Ok(arena) = Arena::create(ARENA_BYTES_MIN) else { panic!("no arena") };
    bolero::check!().with_type::<Input>().for_each(|(writes, id)| {
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
    });
}

/// The header of a real arena, or of a named one, of which a peer has changed something; its mutexes are as they were.
fn changed_header(real: &[u8], named: bool, has_magic: bool, writes: &[(u16, u64)]) -> Vec<u8> {
    use std::mem::offset_of;
    let mut bytes = real.to_vec();
    let mut put = |at: usize, value: u64| bytes[at..at + 8].copy_from_slice(&value.to_ne_bytes());
    if named {
        put(offset_of!(super::arena::Header, root), 1);
        put(offset_of!(super::arena::Header, root_uid), 1);
        put(offset_of!(super::arena::Header, owner), 1 | 1 << 32);
    }
    if !has_magic {
        put(0, 0);
    }
    let mutex_words = size_of::<crate::sys::robust::RobustMutex>() / 8;
    let mutexes =
        [offset_of!(super::arena::Header, allocator), offset_of!(super::arena::Header, objects)]
            .map(|at| at / 8..at / 8 + mutex_words);
    // Few words: the layout mostly stays what it is, and the rest is reached.
    for (place, value) in writes.iter().take(8) {
        let word = usize::from(*place) % (real.len() / 8);
        let value = match value % 4 {
            0 => value >> 2 & 0xff,
            1 => ((value >> 2) % ARENA_BYTES_MIN as u64) & !7,
            _ => *value,
        };
        if word > 0 && !mutexes.iter().any(|mutex| mutex.contains(&word)) {
            put(word * 8, value);
        }
    }
    bytes
}

/// Whatever an arena says of itself, each of these comes to an end.
fn use_arena(arena: &Arena, id: ParticipantId) {
    let _ = (arena.owner(), arena.is_named(), arena.is_orphaned(), arena.next_number());
    let key: Vec<u64> = arena.key().iter().map(|word| word.load(Relaxed)).collect();
    assert_eq!(key.len(), super::arena::KEY_WORDS);
    let blocks = [0, 1, 2].map(|which| arena.object_block(arena.root(), which));
    blocks.iter().for_each(|block| assert!(arena.bytes_of_used(*block) <= arena.bytes() as u64));
    let taken: Vec<u64> =
        (0..3).filter_map(|size| Some(arena.allocate(1 << (size * 6), id).ok()?.offset)).collect();
    arena.describe_objects(u64::MAX, |_| String::new());
    arena.lock_objects().settle(id, |_| ());
    arena.held_by_others(arena.root().index(), id);
    taken.into_iter().for_each(|offset| arena.free(offset));
    if let Ok(reserved) = arena.reserve_participant(ParticipantId::NOBODY) {
        assert!(arena.attach(reserved) && arena.attached().len() == 1);
        arena.note_death(reserved.id);
        arena.release_participant(reserved.id);
    }
    arena.free_owned_by(id);
    arena.trim();
    assert!(arena.usage().used_bytes <= arena.bytes() as u64);
}

/// A segment of any size that somebody else has made.
#[test]
fn fuzz_segments() {
    use std::os::unix::fs::FileExt;
    type Input = (u8, u16, Vec<(u16, u64)>);
    let Ok(real) = Arena::create(ARENA_BYTES_MIN) else { panic!("no arena") };
    let Ok(fd) = real.descriptor().try_clone_to_owned() else { panic!("no descriptor") };
    let mut header = vec![0; super::arena::HEADER_BYTES as usize];
    assert!(std::fs::File::from(fd).read_exact_at(&mut header, 0).is_ok());
    bolero::check!().with_type::<Input>().for_each(|(how, id, writes)| {
        let (named, has_magic, small) = (how & 1 != 0, how & 2 != 0, how & 12 == 0);
        let bytes = if small { 4096 * (usize::from(how >> 4) + 1) } else { ARENA_BYTES_MIN };
        let Ok(segment) = super::segment::Segment::private(bytes) else { panic!("no memory") };
        let Ok(fd) = segment.descriptor().try_clone_to_owned() else { panic!("no descriptor") };
        let file = std::fs::File::from(fd);
        let header = changed_header(&header, named, has_magic, writes);
        assert!(file.write_all_at(&header, 0).is_ok());
        let layout = u64::from_ne_bytes(header[8..16].try_into().unwrap_or_default());
        let found = Arena::look_at(segment);
        assert_eq!(found.is_some(), has_magic && !small);
        let id = ParticipantId::from_raw(u64::from(*id));
        if let Some(arena) = found {
            assert_eq!(arena.layout_hash(), layout);
            use_arena(&arena, id);
        }
        assert!(file.write_all_at(&header, 0).is_ok());
        let opened = Arena::from_descriptor(file.into());
        assert_eq!(opened.is_ok(), !small && layout == super::arena::LAYOUT);
        if let Ok(arena) = opened {
            use_arena(&arena, id);
        }
    });
}
