//! Fuzz target: the tables of objects and holdings in which a peer scribbles. Operations may fail, and what they give up or
//! free may be another's; but they come to an end, and nothing is read that is not in the arena.

use super::*;
use crate::limits::ARENA_BYTES_MIN;
use crate::shm::Offset;
use std::sync::OnceLock;

/// Writes into the directories, or into a chunk of a table.
fn scribble(arena: &Arena, how: u8, at: u16, value: u64) {
    let state = std::mem::offset_of!(crate::shm::arena::Header, objects) as u64;
    let lock = size_of::<RobustMutex>() as u64;
    let directories = (state + lock)..(state + size_of::<ObjectsState>() as u64);
    let chunks: Vec<u64> = arena.table_chunks().into_iter().flatten().collect();
    let place = match chunks.get(usize::from(at) % (chunks.len() + 1)) {
        Some(chunk) => chunk.wrapping_add(u64::from(at >> 3) % (64 * 8) * 8),
        None => directories.start + u64::from(at) % ((directories.end - directories.start) / 8) * 8,
    };
    // Mutexes are the C library's: all are in the header.
    let is_header = place < crate::shm::arena::HEADER_BYTES && !directories.contains(&place);
    let Some(word) = arena.at(Offset::<AtomicU64>::new(place)).filter(|_| !is_header) else {
        return;
    };
    let now = word.load(Relaxed);
    let new = match how % 9 {
        0 => value % 70,
        1 => (value % (1 << 20) + (1 << 18)) & !7,
        2 => chunks
            .get(value as usize % chunks.len().max(1))
            .map_or(0, |chunk| chunk.wrapping_add(value / 8 % 512 * 8)),
        3 => (value % 70) << 32 | (value >> 16 & 7) << 16 | ((value >> 20) % 3),
        4 => now & !0xffff_ffff | (value % 70),
        5 => now ^ 1 << (value % 64),
        6 => (value & 0x1f) << 48 | value >> 60,
        7 => u64::MAX - value % 4096,
        _ => value,
    };
    word.store(new, Relaxed);
}

#[test]
fn fuzz_objects() {
    // This process is somebody.
    let Ok(_) = Arena::tree(None) else { panic!("no arena") };
    let Ok(arena) = Arena::create(ARENA_BYTES_MIN) else { panic!("no arena") };
    static ARENA: OnceLock<Arena> = OnceLock::new();
    let arena = ARENA.get_or_init(|| arena);
    let fresh = arena.next_uid();
    type Input = Vec<(u8, u8, u16, u64)>;
    bolero::check!().with_type::<Input>().for_each(|steps| {
        let (mut ids, mut holdings, mut list) = (Vec::new(), Vec::new(), 0);
        for (step, how, at, value) in steps.iter().take(60) {
            let locked = arena.lock_objects();
            let id: Option<ObjectId> = ids.get(usize::from(*at) % ids.len().max(1)).copied();
            // Kinds that `keeper.rs` tells of, and others.
            let kind = u32::from(how % 24);
            let shape = Shape { kind, value_bytes: 8, value_align: 8, encoded: how % 2 == 0 };
            let other = ParticipantId::from_raw(value % 6);
            match step % 16 {
                0 | 1 => {
                    let Ok(block) = arena.allocate(u64::from(*at) + 1, own_id()) else { continue };
                    if let Ok((id, holding)) = locked.enter(shape, [block.offset, 0, 0]) {
                        ids.push(id);
                        holdings.push(holding);
                    }
                }
                2 => holdings.extend(id.and_then(|id| locked.hold(id, shape).ok())),
                3 => holdings.extend(id.and_then(|id| locked.hold_for(id, other).ok())),
                4 => {
                    let sent = id.and_then(|id| locked.send_along(id, list, value % 3).ok());
                    list = sent.unwrap_or(0);
                }
                5 => locked.hand_over(list, other),
                6 => holdings.pop().into_iter().for_each(|holding| locked.give_up(holding)),
                7 => match how % 3 {
                    0 => locked.give_up_list(std::mem::take(&mut list)),
                    1 => locked.give_up_tagged(list, value % 3),
                    _ => locked.give_up_list_until(list, u32::from(*at)),
                },
                8 => {
                    locked.adopt_list(list, other);
                    let block = id.map_or(0, |id| arena.object_block(id, usize::from(how % 3)));
                    assert!(arena.bytes_of_used(block) <= arena.bytes() as u64);
                }
                9 => locked.settle(other, |described| assert!(described.kind < 1 << 15)),
                10 => locked.repair(),
                11 => {
                    let new = arena.allocate(300, own_id()).map_or(0, |block| block.offset);
                    let replaced = id.map(|id| locked.replace_block(id, usize::from(how % 3), new));
                    drop(replaced);
                }
                12 if how.is_multiple_of(2) => {
                    drop(locked);
                    arena.describe_objects(u64::MAX, |_| String::new());
                    arena.held_by_others(u32::from(*at) % 70, other);
                    arena.tables_bytes();
                }
                _ => scribble(arena, *how, *at, *value),
            }
        }
        // As good as new, for the next.
        arena.forget_tables(fresh);
        arena.reset_allocator();
    });
}

impl Arena {
    fn next_uid(&self) -> u64 {
        self.header().objects.next_uid.load(Relaxed)
    }

    fn forget_tables(&self, uid: u64) {
        let ObjectsState { lock: _, next_uid, objects, holdings, waiters } = &self.header().objects;
        next_uid.store(uid, Relaxed);
        [objects, holdings, waiters].into_iter().for_each(Directory::forget);
    }
}
