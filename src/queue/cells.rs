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
//! R5. What a hint says is bounded before use, and so is how often a loop goes round that waits for hints and cells
//!     to agree: anybody may have written there.
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

/// Rounds of a loop, beside those over all cells, in which others may be faster. More are not lost to them.
const ROUNDS: u32 = if cfg!(loom) { 64 } else { 1 << 16 };

impl<'a> Cells<'a> {
    /// How often a loop goes round at most (R5).
    #[inline]
    fn rounds(&self) -> std::ops::Range<u64> {
        0..u64::from(self.count) * 4 + u64::from(ROUNDS)
    }

    /// The position that a hint names (R5).
    #[inline]
    fn position(&self, hint: &AtomicU64) -> Position {
        let at = Position::from_raw(hint.load(Relaxed));
        if at.index < self.count { at } else { self.bound(hint, at) }
    }

    #[cold]
    fn bound(&self, hint: &AtomicU64, at: Position) -> Position {
        let bounded = Position { index: 0, ..at };
        let _ = hint.compare_exchange(at.to_raw(), bounded.to_raw(), Relaxed, Relaxed);
        bounded
    }

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

    /// The same if the cell is in `lap` by now: all values are at most two laps behind that (R5).
    #[inline]
    fn catch_up(&self, hint: &AtomicU64, at: Position, lap: u32) {
        let behind = lap.wrapping_sub(at.lap);
        if behind <= 2 {
            return self.pass(hint, at);
        }
        let next = self.after(Position { lap: lap.wrapping_sub(2), ..at }).to_raw();
        let _ = hint.compare_exchange(at.to_raw(), next, Relaxed, Relaxed);
    }

    /// Claims the next cell for filling; `None` if there is none.
    #[inline]
    pub(crate) fn claim_empty(&self, me: u64) -> Option<Claim<'a>> {
        for _ in self.rounds() {
            let at = self.position(self.tail);
            let (word, raw, state, lap) = self.look(at);
            match (lap, state.state) {
                (Lap::Same, EMPTY) => {
                    let filling = State { lap: at.lap, claimer: me, state: FILLING };
                    if word.compare_exchange(raw, filling.to_raw(), AcqRel, Relaxed).is_ok() {
                        self.pass(self.tail, at);
                        return Some(Claim { at, words: self.cell(at.index).1 });
                    }
                }
                (Lap::Same | Lap::Later, _) => self.catch_up(self.tail, at, state.lap),
                (Lap::Earlier, _) => {
                    if self.tail.load(Relaxed) == at.to_raw() {
                        return None;
                    }
                }
            }
        }
        None
    }

    /// Whether the next cell can be claimed for filling; a moment's view.
    pub(crate) fn has_room(&self) -> bool {
        for _ in self.rounds() {
            let at = self.position(self.tail);
            let (_, _, state, lap) = self.look(at);
            match (lap, state.state) {
                (Lap::Same, EMPTY) => return true,
                (Lap::Same | Lap::Later, _) => self.catch_up(self.tail, at, state.lap),
                (Lap::Earlier, _) if self.tail.load(Relaxed) == at.to_raw() => return false,
                (Lap::Earlier, _) => {}
            }
        }
        false
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
        let mut start = self.position(self.head);
        let (mut at, mut at_head) = (start, true);
        for _ in self.rounds() {
            let (word, raw, state, lap) = self.look(at);
            match (lap, state.state) {
                (Lap::Same, FULL) => {
                    if !at_head && self.has_value_between(start, at) {
                        start = self.position(self.head);
                        (at, at_head) = (start, true);
                        continue;
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
                (Lap::Later, _) if at_head && state.lap.wrapping_sub(at.lap) > 2 => {
                    self.catch_up(self.head, at, state.lap);
                    start = self.position(self.head);
                    at = start;
                    continue;
                }
                (Lap::Later, _) => {
                    if at_head {
                        self.pass(self.head, at);
                    }
                }
                _ if at_head && self.head.load(Relaxed) != at.to_raw() => {
                    start = self.position(self.head);
                    at = start;
                    continue;
                }
                _ => return None,
            }
            at = self.after(at);
        }
        None
    }

    /// Whether a cell that was passed over has been filled (R4).
    #[cold]
    fn has_value_between(&self, start: Position, end: Position) -> bool {
        let mut at = start;
        for _ in 0..self.count {
            if at == end {
                break;
            }
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
        for _ in self.rounds() {
            if !claim.at.is_before(Position::from_raw(head)) {
                break;
            }
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
        let mut at = self.position(self.head);
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
#[path = "cells_tests.rs"]
mod tests;
