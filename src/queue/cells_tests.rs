//! The cells, by one thread: order, laps, what the dead leave, and hints that lie.

use super::*;

struct Memory {
    head: AtomicU64,
    tail: AtomicU64,
    words: Vec<AtomicU64>,
    count: u32,
}

impl Memory {
    fn new(count: u32) -> Self {
        let words = (0..count * 2).map(|_| AtomicU64::new(0)).collect();
        Self { head: AtomicU64::new(0), tail: AtomicU64::new(0), words, count }
    }

    fn cells(&self) -> Cells<'_> {
        Cells {
            head: &self.head,
            tail: &self.tail,
            words: &self.words,
            count: self.count,
            cell_words: 2,
        }
    }
}

fn put(cells: Cells<'_>, value: u64) -> bool {
    let Some(claim) = cells.claim_empty(1) else { return false };
    claim.words[0].store(value, Relaxed);
    cells.fill(claim);
    true
}

fn get(cells: Cells<'_>) -> Option<u64> {
    let claim = cells.claim_full(2)?;
    let value = claim.words[0].load(Relaxed);
    cells.empty(claim);
    Some(value)
}

#[test]
fn values_come_out_in_order_and_the_count_is_the_limit() {
    for count in [1, 2, 3, 7] {
        let memory = Memory::new(count);
        let cells = memory.cells();
        let (mut next, mut expected) = (0, 0);
        for round in 0..1000u32 {
            for _ in 0..round % (count + 2) {
                next += u64::from(put(cells, next));
            }
            assert!(cells.counts().0 <= count as usize);
            for _ in 0..round % 3 {
                if let Some(value) = get(cells) {
                    assert_eq!(value, expected);
                    expected += 1;
                }
            }
            assert_eq!(cells.counts(), ((next - expected) as usize, 0));
            assert_eq!(cells.has_value(), next > expected);
        }
    }
}

#[test]
fn laps_begin_anew_after_the_last() {
    let memory = Memory::new(2);
    let last = u64::from(u32::MAX) << 32;
    memory.words[0].store(last, Relaxed);
    memory.words[2].store(last, Relaxed);
    memory.head.store(last, Relaxed);
    memory.tail.store(last, Relaxed);
    for value in 0..9 {
        assert!(put(memory.cells(), value));
        assert_eq!(get(memory.cells()), Some(value));
    }
}

#[test]
fn a_producer_that_is_not_done_keeps_nobody_from_later_values() {
    let memory = Memory::new(3);
    let cells = memory.cells();
    let slow = cells.claim_empty(1).unwrap();
    assert!(put(cells, 7));
    assert_eq!((get(cells), get(cells)), (Some(7), None));
    slow.words[0].store(6, Relaxed);
    cells.fill(slow);
    assert_eq!((get(cells), get(cells)), (Some(6), None));
    // Two more laps, with the head where it belongs.
    for value in 0..6 {
        assert!(put(cells, value));
        assert_eq!(get(cells), Some(value));
    }
}

#[test]
fn claims_of_the_dead_are_found_and_a_value_comes_back_in_its_place() {
    let memory = Memory::new(3);
    let cells = memory.cells();
    assert!(put(cells, 1) && put(cells, 2));
    let _taken = cells.claim_full(9).unwrap();
    let _filled = cells.claim_empty(9).unwrap();
    cells.each_orphan(9, |orphan| match orphan {
        Orphan::Filling(claim) => cells.empty(claim),
        Orphan::Taking(claim) => cells.give_back(claim),
    });
    assert!(!put(cells, 3), "until a value has gone there is one cell less");
    assert_eq!(get(cells), Some(1));
    assert!(put(cells, 3), "the position that was not filled is passed over");
    assert_eq!((get(cells), get(cells), get(cells)), (Some(2), Some(3), None));
}

#[test]
fn hints_left_behind_are_moved_on() {
    let memory = Memory::new(4);
    let cells = memory.cells();
    for value in 0..3 {
        assert!(put(cells, value));
    }
    memory.tail.store(0, Relaxed);
    assert_eq!(get(cells), Some(0));
    memory.head.store(0, Relaxed);
    assert!(put(cells, 3));
    assert_eq!((get(cells), get(cells), get(cells)), (Some(1), Some(2), Some(3)));
    assert_eq!(get(cells), None);
}

/// Hints of any value made the index run out of the cells, or the loops go round for ever.
#[test]
fn hints_that_lead_anywhere_are_bounded() {
    for count in [1, 3, 64] {
        let memory = Memory::new(count);
        let cells = memory.cells();
        let laps =
            [0, 1, 2, 3, 1000, 1 << 30, u32::MAX / 2, u32::MAX / 2 + 1, u32::MAX - 1, u32::MAX];
        let indexes = [0, count - 1, count, count + 1, u32::MAX - 1, u32::MAX];
        for (head, tail) in [(true, false), (false, true), (true, true)] {
            for lap in laps {
                for index in indexes {
                    let raw = u64::from(lap) << 32 | u64::from(index);
                    if head {
                        memory.head.store(raw, Relaxed);
                    }
                    if tail {
                        memory.tail.store(raw, Relaxed);
                    }
                    for value in 0..2 {
                        cells.has_room();
                        put(cells, value);
                        cells.has_value();
                        get(cells);
                    }
                }
            }
        }
        assert!(cells.counts().0 <= count as usize);
    }
}

/// A lap that has long gone by, in a hint or in a cell, is caught up with at once.
#[test]
fn hints_far_behind_catch_up() {
    let memory = Memory::new(4);
    let cells = memory.cells();
    for value in 0..4_000_000 / 100 {
        assert!(put(cells, value));
        assert_eq!(get(cells), Some(value));
    }
    memory.tail.store(0, Relaxed);
    memory.head.store(0, Relaxed);
    assert!(put(cells, 7) && put(cells, 8));
    assert_eq!((get(cells), get(cells), get(cells)), (Some(7), Some(8), None));
}
