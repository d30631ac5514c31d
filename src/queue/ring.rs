//! A bounded multi-producer multi-consumer ring of small numbers whose cells are claimed by one
//! compare-and-swap *on the cell*.
//!
//! # Shared state
//! `cells.len()` (a power of two) words, and two positions that only ever grow:
//!
//! ```text
//! cell   | lap 26 | claimer 12 | state 2 | value 24 |      EMPTY 0, READY 1, CLAIMED 2
//! ```
//!
//! The lap is `position / cells.len()`. First value: all zero, which is EMPTY in lap 0.
//!
//! # States
//! EMPTY(lap) -> READY(lap, value) -> CLAIMED(lap, value, claimer) -> EMPTY(lap + 1).
//!
//! # Rules
//! R1. A transition is one compare-and-swap on the cell. The value and the claimer are in the word,
//!     so there is no moment at which a cell is taken but does not say by whom.
//! R2. `head` and `tail` are hints. A process may be killed after changing a cell and before moving
//!     the hint, so everybody who finds a hint behind the cells moves it on.
//! R3. Cells are filled in order of position: a producer fills position `t` only when it found
//!     `tail == t`, and `tail` passes `t` only after `t` was filled. So an EMPTY cell at `head`
//!     means that the ring is empty.
//! R4. The claimer hands the value to its own structure while the cell is CLAIMED, then releases.
//! R5. A value that nobody is to claim any more may be withdrawn: READY becomes EMPTY of the next lap, as
//!     if it had been claimed and released. Consumers pass such a cell, and so does whoever withdrew it.
//!
//! R6. Who finds the ring full for long may free cells that hold nothing (`clear_out`). There are none, unless a
//!     process has written here that does not go by these rules.
//!
//! # Protocol
//! Producer: read `tail`; if its cell is EMPTY in that lap, swap in READY, move `tail` on. If the
//! cell is of an earlier lap, the ring is full, or its consumer has claimed and not yet released.
//! Consumer: read `head`; write the position down in the ledger; swap READY for CLAIMED; move `head`
//! on; after the hand-over, store EMPTY of the next lap.
//!
//! # Orderings
//! SYNC(cell-ready): Release swap in `push`, Acquire load in `claim`; carries what the value names.
//! SYNC(cell-empty): Release store in `release`, Acquire load in `push`; the cell may be reused.
//!
//! # If a process dies
//! A producer before its swap: nothing happened. After it: `tail` is behind; R2. A consumer before
//! its swap: nothing happened. CLAIMED: settlement finds the position in the dead process's ledger,
//! checks that the cell names it (`claimed_at`), looks whether the value was handed over, pushes it
//! again if not, and releases the cell. Until then producers that come round to that cell see the
//! ring full.
//!
//! # Tests
//! `ring_models.rs` (loom) for the races; `worker.cell-*` fault points; the tests below.

use crate::prim::{AcqRel, Acquire, AtomicU64, Relaxed, Release};

const EMPTY: u64 = 0;
const READY: u64 = 1;
const CLAIMED: u64 = 2;
const LAPS: u64 = 1 << 26;
const VALUES: u64 = 1 << 24;

/// The words of a ring, wherever they lie.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ring<'a> {
    pub(crate) head: &'a AtomicU64,
    pub(crate) tail: &'a AtomicU64,
    pub(crate) cells: &'a [AtomicU64],
}

/// A claimed cell: hand the value over, then release the position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub(crate) struct Claim {
    pub(crate) position: u64,
    pub(crate) value: u32,
}

/// The cell after the one that was wanted is not free yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Full;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Cell {
    lap: u64,
    claimer: u64,
    state: u64,
    value: u64,
}

impl Cell {
    #[inline]
    fn from_raw(raw: u64) -> Self {
        Self {
            lap: raw >> 38,
            claimer: raw >> 26 & 0xfff,
            state: raw >> 24 & 3,
            value: raw & (VALUES - 1),
        }
    }

    #[inline]
    fn to_raw(self) -> u64 {
        self.lap << 38 | self.claimer << 26 | self.state << 24 | self.value
    }
}

impl Ring<'_> {
    /// The hints, and the cells that are in use, in words.
    pub(crate) fn describe(&self) -> String {
        let cells = self.cells.iter().map(|cell| Cell::from_raw(cell.load(Relaxed))).enumerate();
        let used: Vec<String> = cells
            .filter(|(_, cell)| cell.state != EMPTY)
            .map(|(place, cell)| format!("{place}: {cell:?}"))
            .collect();
        let (head, tail) = (self.head.load(Relaxed), self.tail.load(Relaxed));
        format!(
            "head {head}, tail {tail}, {} cells, in use: [{}]",
            self.cells.len(),
            used.join(", ")
        )
    }

    #[inline]
    fn lap(&self, position: u64) -> u64 {
        (position / self.cells.len() as u64) % LAPS
    }

    #[inline]
    fn cell(&self, position: u64) -> &AtomicU64 {
        &self.cells[position as usize & (self.cells.len() - 1)]
    }

    /// Moves a hint past `position` (R2).
    #[inline]
    fn pass(hint: &AtomicU64, position: u64) {
        // Whoever fails found that somebody else has moved it. The last position is never reached, but may be written there.
        let _ = hint.compare_exchange(position, position.wrapping_add(1), Relaxed, Relaxed);
    }

    /// Appends `value`.
    pub(crate) fn push(&self, value: u32) -> Result<(), Full> {
        loop {
            let position = self.tail.load(Relaxed);
            let lap = self.lap(position);
            let word = self.cell(position);
            // SYNC(cell-empty): pairs with the Release in `release`.
            let raw = word.load(Acquire);
            let cell = Cell::from_raw(raw);
            if cell.lap == lap && cell.state == EMPTY {
                let ready = Cell { lap, claimer: 0, state: READY, value: u64::from(value) };
                // SYNC(cell-ready): pairs with the Acquire in `claim`.
                if word.compare_exchange(raw, ready.to_raw(), Release, Relaxed).is_ok() {
                    Self::pass(self.tail, position);
                    return Ok(());
                }
            } else if cell.lap == lap || cell.lap == (lap + 1) % LAPS {
                Self::pass(self.tail, position);
            } else if self.tail.load(Relaxed) == position {
                return Err(Full);
            }
        }
    }

    /// Claims the oldest value for participant `me`, after telling `write_down` which.
    #[inline]
    pub(crate) fn claim(&self, me: u64, write_down: impl Fn(Claim)) -> Option<Claim> {
        loop {
            let position = self.head.load(Relaxed);
            let lap = self.lap(position);
            let word = self.cell(position);
            // SYNC(cell-ready): pairs with the Release in `push`.
            let raw = word.load(Acquire);
            let cell = Cell::from_raw(raw);
            if cell.lap == lap && cell.state == READY {
                let claim = Claim { position, value: cell.value as u32 };
                write_down(claim);
                let claimed = Cell { claimer: me, state: CLAIMED, ..cell };
                if word.compare_exchange(raw, claimed.to_raw(), AcqRel, Relaxed).is_ok() {
                    Self::pass(self.head, position);
                    return Some(claim);
                }
            } else if self.is_behind(position, cell) {
                Self::pass(self.head, position);
            } else if self.head.load(Relaxed) == position {
                return None;
            }
        }
    }

    /// Whether a `head` at `position` is behind the cells: somebody has claimed that one. A cell of
    /// an *earlier* lap is different: its consumer has not released it, so `position` is not filled
    /// yet, and a head that passed it would leave its next value lying.
    #[inline]
    fn is_behind(&self, position: u64, cell: Cell) -> bool {
        let lap = self.lap(position);
        cell.lap == (lap + 1) % LAPS || (cell.lap == lap && cell.state == CLAIMED)
    }

    /// Whether a value waits at the head.
    #[inline]
    pub(crate) fn has_value(&self) -> bool {
        loop {
            let position = self.head.load(Relaxed);
            let cell = Cell::from_raw(self.cell(position).load(Acquire));
            if self.is_behind(position, cell) {
                Self::pass(self.head, position);
            } else {
                return cell.lap == self.lap(position) && cell.state == READY;
            }
        }
    }

    /// The cell that is likely to be filled next.
    pub(crate) fn next_cell(&self) -> &AtomicU64 {
        self.cell(self.tail.load(Relaxed))
    }

    /// About how many values there are: the hints may be behind.
    #[cfg(not(loom))]
    pub(crate) fn len(&self) -> u64 {
        self.tail.load(Relaxed).saturating_sub(self.head.load(Relaxed))
    }

    /// Frees the cell of a claim whose value has been handed over (R4).
    #[inline]
    pub(crate) fn release(&self, position: u64) {
        let empty =
            Cell { lap: (self.lap(position) + 1) % LAPS, claimer: 0, state: EMPTY, value: 0 };
        // SYNC(cell-empty): pairs with the Acquire in `push`.
        self.cell(position).store(empty.to_raw(), Release);
    }

    /// Takes a value out, wherever it is (R5); `false` if it is not there, or somebody has claimed it.
    pub(crate) fn withdraw(&self, value: u32) -> bool {
        let withdrawn = self.cells.iter().any(|word| {
            let raw = word.load(Acquire);
            let cell = Cell::from_raw(raw);
            let empty =
                Cell { lap: (cell.lap + 1) % LAPS, claimer: 0, state: EMPTY, value: 0 }.to_raw();
            cell.state == READY
                && cell.value == u64::from(value)
                && word.compare_exchange(raw, empty, AcqRel, Relaxed).is_ok()
        });
        // Moves the head on, which nobody else may do for long: it must not fall behind by a lap, or it
        // could not tell what it has missed.
        self.has_value();
        withdrawn
    }

    /// The cells of the last lap, with their positions, as long as `tail` stands still.
    fn last_lap(&self) -> impl Iterator<Item = (u64, &AtomicU64, u64)> {
        let tail = self.tail.load(Relaxed);
        let positions = tail.saturating_sub(self.cells.len() as u64)..tail;
        let cells = positions.map(|position| {
            let word = self.cell(position);
            (position, word, word.load(Acquire))
        });
        cells.take_while(move |_| self.tail.load(Relaxed) == tail)
    }

    /// The claims of the last lap: position and claimer.
    pub(crate) fn claims(&self) -> Vec<(u64, u64)> {
        let claims = self.last_lap().map(|(position, _, raw)| (position, Cell::from_raw(raw)));
        claims
            .filter(|(_, cell)| cell.state == CLAIMED)
            .map(|(position, cell)| (position, cell.claimer))
            .collect()
    }

    /// Frees the cells of a ring that stays full which hold nothing: values that nobody wants, claims that
    /// nobody holds, and words that no process can have left there by these rules.
    pub(crate) fn clear_out(
        &self,
        mut is_wanted: impl FnMut(u32) -> bool,
        is_held: impl Fn(u64, u64) -> bool,
    ) {
        for (position, word, raw) in self.last_lap() {
            let (cell, lap) = (Cell::from_raw(raw), self.lap(position));
            let next = (lap + 1) % LAPS;
            let in_use = match cell.state {
                READY if cell.lap == lap => is_wanted(cell.value as u32),
                CLAIMED if cell.lap == lap => is_held(position, cell.claimer),
                // Free, or used again since `tail` was read.
                _ => cell.lap == next,
            };
            if !in_use {
                let empty = Cell { lap: next, claimer: 0, state: EMPTY, value: 0 };
                let _ = word.compare_exchange(raw, empty.to_raw(), AcqRel, Relaxed);
            }
        }
        self.has_value();
    }

    /// The claim that participant `who` holds at `position`, if it does: for settlement.
    pub(crate) fn claimed_at(&self, position: u64, who: u64) -> Option<Claim> {
        let cell = Cell::from_raw(self.cell(position).load(Acquire));
        let held = cell.state == CLAIMED && cell.claimer == who && cell.lap == self.lap(position);
        held.then_some(Claim { position, value: cell.value as u32 })
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    struct Memory {
        head: AtomicU64,
        tail: AtomicU64,
        cells: Vec<AtomicU64>,
    }

    impl Memory {
        fn new(capacity: usize) -> Self {
            Self {
                head: AtomicU64::new(0),
                tail: AtomicU64::new(0),
                cells: (0..capacity).map(|_| AtomicU64::new(0)).collect(),
            }
        }

        fn ring(&self) -> Ring<'_> {
            Ring { head: &self.head, tail: &self.tail, cells: &self.cells }
        }
    }

    #[test]
    fn values_that_are_withdrawn_are_passed_over() {
        let memory = Memory::new(4);
        let ring = memory.ring();
        for lap in 0..10u32 {
            (0..4).for_each(|value| ring.push(lap * 4 + value).unwrap());
            assert_eq!(ring.push(99), Err(Full));
            assert!(ring.withdraw(lap * 4 + lap % 4) && !ring.withdraw(lap * 4 + lap % 4));
            assert!(ring.withdraw(lap * 4 + 3) || lap % 4 == 3);
            // Many laps without a consumer.
            for value in 100..120 {
                if ring.push(value).is_ok() {
                    assert!(ring.withdraw(value));
                }
            }
            let mut left = Vec::new();
            while let Some(claim) = ring.claim(1, |_| {}) {
                ring.release(claim.position);
                left.push(claim.value - lap * 4);
            }
            let expected: Vec<u32> = (0..3).filter(|value| *value != lap % 4).collect();
            assert_eq!(left, expected);
            assert!(!ring.has_value());
        }
    }

    #[test]
    fn cell_words_survive_a_round_trip() {
        for cell in [
            Cell { lap: LAPS - 1, claimer: 4095, state: CLAIMED, value: VALUES - 1 },
            Cell { lap: 1, claimer: 2, state: READY, value: 3 },
        ] {
            assert_eq!(Cell::from_raw(cell.to_raw()), cell);
        }
    }

    #[test]
    fn values_come_out_in_order_over_many_laps() {
        let memory = Memory::new(4);
        let ring = memory.ring();
        let mut expected = 0;
        for value in 0..1000 {
            ring.push(value).unwrap();
            if value % 3 == 2 {
                for _ in 0..3 {
                    let claim = ring.claim(1, |_| ()).unwrap();
                    assert_eq!(claim.value, expected);
                    ring.release(claim.position);
                    expected += 1;
                }
            }
        }
    }

    #[test]
    fn a_full_ring_refuses_until_a_claim_is_released() {
        let memory = Memory::new(2);
        let ring = memory.ring();
        ring.push(1).unwrap();
        ring.push(2).unwrap();
        assert_eq!(ring.push(3), Err(Full));
        let claim = ring.claim(1, |_| ()).unwrap();
        assert_eq!(ring.push(3), Err(Full), "claimed, not yet released");
        ring.release(claim.position);
        ring.push(3).unwrap();
    }

    /// A consumer was stopped between claim and release for so long that the others came round to
    /// its cell; they took the cell of the lap before for one that was already claimed, passed it,
    /// and what was pushed there next was never claimed.
    #[test]
    fn a_cell_that_is_claimed_since_the_lap_before_is_not_passed() {
        let memory = Memory::new(2);
        let ring = memory.ring();
        ring.push(1).unwrap();
        ring.push(2).unwrap();
        let slow = ring.claim(1, |_| ()).unwrap();
        let quick = ring.claim(2, |_| ()).unwrap();
        ring.release(quick.position);
        assert_eq!(ring.claim(2, |_| ()), None, "position 2 is not filled yet");
        assert!(!ring.has_value());
        ring.release(slow.position);
        ring.push(3).unwrap();
        assert!(ring.has_value());
        assert_eq!(ring.claim(2, |_| ()).unwrap().value, 3);
    }

    #[test]
    fn hints_left_behind_by_the_dead_are_moved_on() {
        let memory = Memory::new(4);
        let ring = memory.ring();
        for value in 0..3 {
            ring.push(value).unwrap();
        }
        memory.tail.store(0, Relaxed);
        let claim = ring.claim(1, |_| ()).unwrap();
        ring.release(claim.position);
        memory.head.store(0, Relaxed);
        assert!(ring.has_value());
        assert_eq!(ring.claim(1, |_| ()).unwrap().value, 1);
        ring.push(3).unwrap();
        assert_eq!(ring.claim(1, |_| ()).unwrap().value, 2);
        assert_eq!(ring.claim(1, |_| ()).unwrap().value, 3);
        assert_eq!(ring.claim(1, |_| ()), None);
        assert!(!ring.has_value());
    }

    /// No ring comes to the last position, but somebody may write there that it has. The next one overflowed.
    #[test]
    fn hints_at_their_end_begin_anew() {
        let memory = Memory::new(2);
        let ring = memory.ring();
        memory.head.store(u64::MAX, Relaxed);
        memory.tail.store(u64::MAX, Relaxed);
        let last = Cell { lap: LAPS - 1, claimer: 0, state: EMPTY, value: 0 };
        memory.cells[1].store(last.to_raw(), Relaxed);
        for value in [1, 2] {
            ring.push(value).unwrap();
        }
        for value in [1, 2] {
            let claim = ring.claim(1, |_| ()).unwrap();
            assert_eq!(claim.value, value);
            ring.release(claim.position);
        }
    }

    #[test]
    fn a_full_ring_is_cleared_of_what_does_not_belong_there() {
        for damaged in [
            Cell { lap: 0, claimer: 9, state: CLAIMED, value: 1 },
            Cell { lap: 7, claimer: 0, state: EMPTY, value: 0 },
            Cell { lap: 0, claimer: 0, state: EMPTY, value: 0 },
            Cell { lap: 0, claimer: 0, state: READY, value: 77 },
            Cell { lap: 3, claimer: 0, state: 3, value: 5 },
        ] {
            let memory = Memory::new(4);
            let ring = memory.ring();
            (0..4).for_each(|value| ring.push(value).unwrap());
            let mine = ring.claim(5, |_| ()).unwrap();
            memory.cells[1].store(damaged.to_raw(), Relaxed);
            assert_eq!(ring.push(4), Err(Full));
            ring.clear_out(|value| value < 4, |position, claimer| (position, claimer) == (0, 5));
            assert_eq!(ring.claimed_at(0, 5), Some(mine), "it is held");
            assert_eq!(ring.claims(), [(0, 5)]);
            ring.release(mine.position);
            ring.push(4).unwrap();
            ring.push(5).unwrap();
            let left: Vec<u32> = std::iter::from_fn(|| {
                let claim = ring.claim(1, |_| ())?;
                ring.release(claim.position);
                Some(claim.value)
            })
            .collect();
            assert_eq!(left, [2, 3, 4, 5], "{damaged:?}");
        }
    }

    #[test]
    fn a_claim_names_its_claimer_until_it_is_released() {
        let memory = Memory::new(2);
        let ring = memory.ring();
        ring.push(9).unwrap();
        let written = std::cell::Cell::new(None);
        let claim = ring.claim(77, |claim| written.set(Some(claim.position))).unwrap();
        assert_eq!(written.get(), Some(claim.position), "written down before the claim");
        assert_eq!(ring.claimed_at(claim.position, 77), Some(claim));
        assert_eq!(ring.claimed_at(claim.position, 78), None);
        ring.release(claim.position);
        assert_eq!(ring.claimed_at(claim.position, 77), None);
    }
}
