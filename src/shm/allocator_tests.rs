//! The allocator against a model, its classes, and its numbers.

use super::*;
use crate::limits::ARENA_BYTES_MIN;
use proptest::prelude::*;

fn arena() -> Arena {
    Arena::create(ARENA_BYTES_MIN).unwrap()
}

impl Arena {
    /// Every block in use, with who is answerable for it.
    pub(crate) fn used_blocks(&self) -> Vec<(Block, ParticipantId)> {
        self.lock_allocator().used_blocks()
    }

    /// The words that the lock protects, for a test that scribbles in them.
    pub(in crate::shm) fn allocator_words(&self) -> Vec<&AtomicU64> {
        let held = self.lock_allocator();
        let AllocatorState { lock: _, top, used, lists } = held.state;
        [top, used].into_iter().chain(lists).chain(held.heads.iter().take(4096)).collect()
    }

    /// Makes all of it free and never used, for a test.
    pub(crate) fn reset_allocator(&self) {
        self.allocator_words().into_iter().for_each(|word| word.store(0, Relaxed));
    }
}

fn owner(id: u64) -> ParticipantId {
    ParticipantId::from_raw(id)
}

#[test]
fn a_length_is_served_from_its_own_class() {
    for units in 1..100_000 {
        let given = rounded(units);
        assert!(given >= units);
        assert!(given <= units + units / 4 + 1 || given - units < LARGE_STEP_UNITS);
        if given < LARGE_UNITS {
            assert_eq!(class_below(given), class_below(given + 1).min(class_below(given)));
            assert!(given == 1 || class_below(given) > class_below(given - 1), "{units} {given}");
        }
    }
}

#[test]
fn head_words_survive_a_round_trip() {
    let head = Head { units: (1 << 40) - 1, owner: owner(2047), state: USED };
    assert_eq!(Head::from_raw(head.to_raw()), head);
}

#[test]
fn a_full_arena_says_what_was_asked_what_is_free_and_its_capacity() {
    let arena = arena();
    let Usage { capacity_bytes, used_bytes } = arena.usage();
    assert_eq!(used_bytes, 0);
    let text = arena.allocate(capacity_bytes + 1, owner(1)).unwrap_err().to_string();
    for number in [capacity_bytes + 1, capacity_bytes] {
        assert!(text.contains(&number.to_string()), "{text}");
    }
    let block = arena.allocate(1 << 20, owner(1)).unwrap();
    assert_eq!(arena.usage().used_bytes, block.bytes);
    arena.free(block.offset);
    arena.free(block.offset);
    assert_eq!(arena.usage().used_bytes, 0, "freeing twice changes nothing");
}

#[test]
fn the_block_freed_last_is_reused_first() {
    let arena = arena();
    let blocks: Vec<Block> = (0..4).map(|_| arena.allocate(1000, owner(1)).unwrap()).collect();
    blocks.iter().for_each(|block| arena.free(block.offset));
    assert_eq!(arena.allocate(1000, owner(1)).unwrap(), blocks[3]);
}

#[test]
fn the_blocks_of_a_dead_process_are_found_and_those_handed_on_are_kept() {
    let arena = arena();
    let mine = arena.allocate(300, owner(1)).unwrap();
    let given_away = arena.allocate(300, owner(2)).unwrap();
    arena.allocate(70_000, owner(2)).unwrap();
    arena.set_owner(given_away.offset, owner(1));
    assert_eq!(arena.free_owned_by(owner(2)), 1);
    assert_eq!(arena.usage().used_bytes, mine.bytes + given_away.bytes);
}

#[test]
fn neighbours_merge_when_a_long_block_is_needed() {
    let arena = arena();
    let mut blocks = Vec::new();
    while let Ok(block) = arena.allocate(4096, owner(1)) {
        blocks.push(block.offset);
    }
    assert!(arena.allocate(1 << 20, owner(1)).is_err());
    blocks.iter().for_each(|offset| arena.free(*offset));
    arena.allocate(2 << 20, owner(1)).expect("all is free again");
}

#[test]
fn trimming_keeps_the_lists_whole() {
    let arena = arena();
    let long = arena.allocate(2 << 20, owner(1)).unwrap();
    let guard = arena.allocate(256, owner(1)).unwrap();
    arena.free(long.offset);
    arena.trim();
    assert_eq!(arena.allocate(2 << 20, owner(1)).unwrap(), long);
    arena.free(guard.offset);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn blocks_never_overlap_and_the_count_is_right(
        steps in prop::collection::vec((0u64..3, 1u64..200_000, 0usize..32), 1..200)
    ) {
        let arena = arena();
        let mut live: Vec<Block> = Vec::new();
        for (kind, bytes, pick) in steps {
            if kind == 0 && !live.is_empty() {
                arena.free(live.swap_remove(pick % live.len()).offset);
            } else if let Ok(block) = arena.allocate(bytes, owner(1)) {
                prop_assert!(block.bytes >= bytes);
                for other in &live {
                    let apart = block.offset + block.bytes <= other.offset
                        || other.offset + other.bytes <= block.offset;
                    prop_assert!(apart, "{block:?} overlaps {other:?}");
                }
                live.push(block);
            }
            let used: u64 = live.iter().map(|block| block.bytes).sum();
            prop_assert_eq!(arena.usage().used_bytes, used);
        }
        prop_assert_eq!(arena.free_owned_by(owner(1)), live.len());
        prop_assert_eq!(arena.usage().used_bytes, 0);
    }
}
