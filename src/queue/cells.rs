//! A bounded multi-producer multi-consumer ring whose cells carry the values themselves. Each cell is
//! claimed by one compare-and-swap *on the cell*, to be filled and again to be emptied.
//!
//! # Shared state
//! `count` cells of `cell_words` words each, of which the first is the cell's state, and two hints,
//! each a lap in the upper half and an index in the lower:
//!
//! ```text
//! state   | lap 32 | claimer 16 | state 16 |      EMPTY 0, FILLING 1, FULL 2, TAKING 3
//! ```
//! First value: all zero, which is EMPTY in lap 0.
//!
//! # States
//! EMPTY(lap) -> FILLING(lap, producer) -> FULL(lap) -> TAKING(lap, consumer) -> EMPTY(lap + 1). A
//! producer that gives up, or dies: FILLING(lap) -> EMPTY(lap + 1). A consumer that dies: TAKING(lap) ->
//! FULL(lap).
//!
//! # Rules
//! R1. A claim is one compare-and-swap, which stores the claimer. The rest of a cell belongs to the
//!     claimer while it is FILLING or TAKING, and to nobody otherwise.
//! R2. `head` and `tail` are hints, which anybody moves on who finds them behind; but `head` moves past a
//!     cell that is TAKING only by its claimer. Settlement moves `head` back to a value before it gives
//!     that back.
//! R3. Cells are claimed for filling in order of position. So an EMPTY cell at a position in its own lap
//!     means that no later position is filled.
//! R4. A consumer passes over cells that are FILLING, so a producer that is stopped, or dead and not
//!     settled yet, keeps nobody from what others have put. When it has found a value behind such
//!     cells, it looks at them again: one that is still FILLING had not been put when that value was.
//!
//! # Orderings
//! `cell-full`: release in `fill`, acquire in `claim_full`; carries the cell's words. `cell-emptied`:
//! release in `empty`, acquire in `claim_empty`; they may be written again. Both are swaps, so that
//! looking for somebody to wake comes after (`sync/state/room.rs`).
//! `closed`: a producer claims and then looks whether the queue is closed; whoever closes it stores that
//! and then looks for claimed cells: one of them sees the other.
//!
//! # If a process dies
//! FILLING or TAKING: settlement looks at every cell for the dead one's claims (`buffer.rs`). With a
//! hint not moved on: R2.
//!
//! # Tests
//! `cells_models.rs` (loom); `queue.` fault points; below.

use crate::prim::{AcqRel, Acquire, AtomicU64, Relaxed};

const EMPTY: u64 = 0;
const FILLING: u64 = 1;
const FULL: u64 = 2;
const TAKING: u64 = 3;

/// The words of a ring, wherever they lie.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cells<'a> {
    pub(crate) head: &'a AtomicU64,
    pub(crate) tail: &'a AtomicU64,
    pub(crate) words: &'a [AtomicU64],
    pub(crate) count: u32,
    pub(crate) cell_words: usize,
}

/// A claimed cell.
#[derive(Debug, Clone, Copy)]
#[must_use]
pub(crate) struct Claim<'a> {
    at: Position,
    /// The cell's words, without its state.
    pub(crate) words: &'a [AtomicU64],
}

/// What a dead process had claimed.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Orphan<'a> {
    Filling(Claim<'a>),
    Taking(Claim<'a>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Position {
    lap: u32,
    index: u32,
}

impl Position {
    #[inline]
    fn from_raw(raw: u64) -> Self {
        Self { lap: (raw >> 32) as u32, index: raw as u32 }
    }

    #[inline]
    fn to_raw(self) -> u64 {
        u64::from(self.lap) << 32 | u64::from(self.index)
    }

    /// Whether it comes before `other`; laps may have begun anew.
    fn is_before(self, other: Self) -> bool {
        match self.lap.wrapping_sub(other.lap) as i32 {
            0 => self.index < other.index,
            laps => laps < 0,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct State {
    lap: u32,
    claimer: u64,
    state: u64,
}

impl State {
    #[inline]
    fn from_raw(raw: u64) -> Self {
        Self { lap: (raw >> 32) as u32, claimer: raw >> 16 & 0xffff, state: raw & 0xffff }
    }

    #[inline]
    fn to_raw(self) -> u64 {
        u64::from(self.lap) << 32 | self.claimer << 16 | self.state
    }
}

/// How a cell's lap compares with a position's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lap {
    Earlier,
    Same,
    Later,
}

impl<'a> Cells<'a> {
    #[inline]
    fn cell(&self, index: u32) -> (&'a AtomicU64, &'a [AtomicU64]) {
        let start = index as usize * self.cell_words;
        (&self.words[start], &self.words[start + 1..start + self.cell_words])
    }

    #[inline]
    fn look(&self, at: Position) -> (&'a AtomicU64, u64, State, Lap) {
        let word = self.cell(at.index).0;
        // SYNC(cell-full): pairs with the swap in `fill`.
        // SYNC(cell-emptied): pairs with the swap in `empty`.
        let raw = word.load(Acquire);
        let state = State::from_raw(raw);
        let lap = match state.lap.wrapping_sub(at.lap) as i32 {
            0 => Lap::Same,
            1.. => Lap::Later,
            _ => Lap::Earlier,
        };
        (word, raw, state, lap)
    }

    #[inline]
    fn after(&self, at: Position) -> Position {
        match at.index + 1 {
            index if index < self.count => Position { index, ..at },
            _ => Position { lap: at.lap.wrapping_add(1), index: 0 },
        }
    }

    /// Moves a hint past a position (R2).
    #[inline]
    fn pass(&self, hint: &AtomicU64, at: Position) {
        let next = self.after(at).to_raw();
        // Whoever fails found that somebody else has moved it.
        let _ = hint.compare_exchange(at.to_raw(), next, Relaxed, Relaxed);
    }

    /// Claims the next cell for filling; `None` if there is none.
    #[inline]
    pub(crate) fn claim_empty(&self, me: u64) -> Option<Claim<'a>> {
        loop {
            let at = Position::from_raw(self.tail.load(Relaxed));
            let (word, raw, state, lap) = self.look(at);
            match (lap, state.state) {
                (Lap::Same, EMPTY) => {
                    let filling = State { lap: at.lap, claimer: me, state: FILLING };
                    if word.compare_exchange(raw, filling.to_raw(), AcqRel, Relaxed).is_ok() {
                        self.pass(self.tail, at);
                        return Some(Claim { at, words: self.cell(at.index).1 });
                    }
                }
                (Lap::Same | Lap::Later, _) => self.pass(self.tail, at),
                (Lap::Earlier, _) => {
                    if self.tail.load(Relaxed) == at.to_raw() {
                        return None;
                    }
                }
            }
        }
    }

    /// Whether the next cell can be claimed for filling; a moment's view.
    pub(crate) fn has_room(&self) -> bool {
        loop {
            let at = Position::from_raw(self.tail.load(Relaxed));
            let (_, _, state, lap) = self.look(at);
            match (lap, state.state) {
                (Lap::Same, EMPTY) => return true,
                (Lap::Same | Lap::Later, _) => self.pass(self.tail, at),
                (Lap::Earlier, _) if self.tail.load(Relaxed) == at.to_raw() => return false,
                (Lap::Earlier, _) => {}
            }
        }
    }

    /// Publishes a cell that has been filled.
    #[inline]
    pub(crate) fn fill(&self, claim: Claim<'_>) {
        let full = State { lap: claim.at.lap, claimer: 0, state: FULL };
        // SYNC(cell-full): pairs with the Acquire in `look`.
        self.cell(claim.at.index).0.swap(full.to_raw(), AcqRel);
    }

    /// Claims the oldest value; `None` if there is none (R4).
    #[inline]
    pub(crate) fn claim_full(&self, me: u64) -> Option<Claim<'a>> {
        'again: loop {
            let start = Position::from_raw(self.head.load(Relaxed));
            let (mut at, mut at_head) = (start, true);
            loop {
                let (word, raw, state, lap) = self.look(at);
                match (lap, state.state) {
                    (Lap::Same, FULL) => {
                        if !at_head && self.has_value_between(start, at) {
                            continue 'again;
                        }
                        let taking = State { lap: at.lap, claimer: me, state: TAKING };
                        if word.compare_exchange(raw, taking.to_raw(), AcqRel, Relaxed).is_err() {
                            continue;
                        }
                        if at_head {
                            self.pass(self.head, at);
                        }
                        return Some(Claim { at, words: self.cell(at.index).1 });
                    }
                    // Not done: it may be given back, and then the head must not be behind it.
                    (Lap::Same, FILLING | TAKING) => at_head = false,
                    (Lap::Later, _) => {
                        if at_head {
                            self.pass(self.head, at);
                        }
                    }
                    _ if at_head && self.head.load(Relaxed) != at.to_raw() => continue 'again,
                    _ => return None,
                }
                at = self.after(at);
            }
        }
    }

    /// Whether a cell that was passed over has been filled (R4).
    #[cold]
    fn has_value_between(&self, start: Position, end: Position) -> bool {
        let mut at = start;
        while at != end {
            let (_, _, state, lap) = self.look(at);
            if (lap, state.state) == (Lap::Same, FULL) {
                return true;
            }
            at = self.after(at);
        }
        false
    }

    /// Frees the cell of a value that has been taken, or of one that is not put after all.
    #[inline]
    pub(crate) fn empty(&self, claim: Claim<'_>) {
        let empty = State { lap: claim.at.lap.wrapping_add(1), claimer: 0, state: EMPTY };
        // SYNC(cell-emptied): pairs with the Acquire in `look`.
        self.cell(claim.at.index).0.swap(empty.to_raw(), AcqRel);
    }

    /// Gives a value back that was claimed, in its old place.
    pub(crate) fn give_back(&self, claim: Claim<'_>) {
        // R2.
        let mut head = self.head.load(Relaxed);
        while claim.at.is_before(Position::from_raw(head)) {
            match self.head.compare_exchange(head, claim.at.to_raw(), AcqRel, Relaxed) {
                Ok(_) => break,
                Err(now) => head = now,
            }
        }
        self.fill(claim);
    }

    /// How many values there are, and how many cells are being filled or emptied.
    pub(crate) fn counts(&self) -> (usize, usize) {
        let (mut full, mut busy) = (0, 0);
        for index in 0..self.count {
            // SYNC(cell-full): as in `look`.
            match State::from_raw(self.cell(index).0.load(Acquire)).state {
                FULL => full += 1,
                FILLING | TAKING => busy += 1,
                _ => {}
            }
        }
        (full, busy)
    }

    /// Whether there is a value.
    pub(crate) fn has_value(&self) -> bool {
        let mut at = Position::from_raw(self.head.load(Relaxed));
        for _ in 0..self.count {
            let (_, _, state, lap) = self.look(at);
            match (lap, state.state) {
                (Lap::Same, FULL) => return true,
                (Lap::Same, EMPTY) | (Lap::Earlier, _) => return false,
                _ => at = self.after(at),
            }
        }
        self.counts().0 > 0
    }

    /// Visits what a dead process had claimed.
    #[cfg(not(loom))]
    pub(crate) fn each_orphan(&self, dead: u64, mut visit: impl FnMut(Orphan<'a>)) {
        for index in 0..self.count {
            let (word, words) = self.cell(index);
            // SYNC(cell-full): as in `look`; what the dead one stored is visible because it is dead.
            let state = State::from_raw(word.load(Acquire));
            let claim = Claim { at: Position { lap: state.lap, index }, words };
            match state.state {
                FILLING if state.claimer == dead => visit(Orphan::Filling(claim)),
                TAKING if state.claimer == dead => visit(Orphan::Taking(claim)),
                _ => {}
            }
        }
    }

    /// The claim on the first cell, for a model of settlement.
    #[cfg(all(test, loom))]
    pub(crate) fn claim_again_for_model(&self) -> Claim<'a> {
        let (word, words) = self.cell(0);
        Claim { at: Position { lap: State::from_raw(word.load(Acquire)).lap, index: 0 }, words }
    }

    /// Visits the words of every cell that is not EMPTY.
    #[cfg(not(loom))]
    pub(crate) fn each_used(&self, mut visit: impl FnMut(&'a [AtomicU64])) {
        for index in 0..self.count {
            let (word, words) = self.cell(index);
            if State::from_raw(word.load(Acquire)).state != EMPTY {
                visit(words);
            }
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
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
}
