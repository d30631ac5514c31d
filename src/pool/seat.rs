//! Seats: which of a line of workers runs tasks.
//!
//! A pool has one seat per worker number. A worker that is about to be recycled has a successor, which is
//! forked and waits until the seat is its own.
//!
//! # Shared state
//! ```text
//! | STOP 1 | READY 1 | turn 30 |      one word, a futex; 0 at first
//! ```
//!
//! # Rules
//! R1. The worker with the seat's turn runs tasks. A successor has a later turn, and waits.
//! R2. A turn is ended by one swap to the next, by the worker that leaves or, when it died, by the
//!     supervisor. Whoever comes second finds another turn there, and nothing to do.
//! R3. READY: the next turn's worker waits. It sets that itself; the swap to its turn clears it.
//! R4. STOP: the pool's workers are to leave. It is set once.
//!
//! # If a process dies
//! With the turn: R2. A successor that waits: the supervisor has another one forked for the same turn;
//! READY may then be early, which costs a short gap.
//!
//! # Tests
//! Below; `worker.leaving` and `worker.left` fault points.

use crate::prim::{AcqRel, Acquire, AtomicU32, Relaxed};
use crate::sys::futex;

const STOP: u32 = 1 << 31;
const READY: u32 = 1 << 30;
const TURN: u32 = READY - 1;

/// See the module documentation.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Seat {
    word: AtomicU32,
}

/// The turn after `turn`.
pub(crate) fn next(turn: u32) -> u32 {
    turn.wrapping_add(1) & TURN
}

impl Seat {
    pub(crate) fn reset(&self) {
        self.word.store(0, Relaxed);
    }

    /// Whose turn it is.
    pub(crate) fn turn(&self) -> u32 {
        self.word.load(Acquire) & TURN
    }

    /// Whether the next turn's worker waits (R3).
    pub(crate) fn has_successor(&self) -> bool {
        self.word.load(Relaxed) & READY != 0
    }

    /// Waits until it is `turn`'s; `false` if the pool's workers are to leave.
    pub(crate) fn wait_for(&self, turn: u32) -> bool {
        loop {
            let raw = self.word.load(Acquire);
            if raw & STOP != 0 {
                return false;
            }
            if raw & TURN == turn {
                return true;
            }
            let mut seen = raw;
            if next(raw & TURN) == turn && raw & READY == 0 {
                seen = raw | READY;
                if self.word.compare_exchange(raw, seen, AcqRel, Relaxed).is_err() {
                    continue;
                }
            }
            futex::wait(&self.word, seen, None);
        }
    }

    /// Ends `turn`, if it is not over (R2).
    pub(crate) fn end(&self, turn: u32) {
        let mut raw = self.word.load(Relaxed);
        while raw & TURN == turn {
            let ended = raw & STOP | next(turn);
            match self.word.compare_exchange(raw, ended, AcqRel, Relaxed) {
                Ok(_) => return futex::wake_all(&self.word),
                Err(now) => raw = now,
            }
        }
    }

    /// Has all who wait leave (R4).
    pub(crate) fn stop(&self) {
        self.word.fetch_or(STOP, AcqRel);
        futex::wake_all(&self.word);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn seat() -> Seat {
        Seat { word: AtomicU32::new(0) }
    }

    #[test]
    fn a_turn_ends_once_and_successors_come_in_order() {
        let seat = seat();
        assert!(seat.wait_for(0) && !seat.has_successor());
        std::thread::scope(|scope| {
            let waiters = [1, 2].map(|turn| {
                scope.spawn({
                    let seat = &seat;
                    move || seat.wait_for(turn)
                })
            });
            while !seat.has_successor() {
                std::thread::yield_now();
            }
            seat.end(1);
            assert_eq!(seat.turn(), 0, "not its turn");
            seat.end(0);
            seat.end(0);
            assert_eq!(seat.turn(), 1);
            while !seat.has_successor() {
                std::thread::yield_now();
            }
            seat.end(1);
            assert!(waiters.into_iter().all(|waiter| waiter.join().unwrap()));
        });
    }

    #[test]
    fn who_waits_leaves_when_the_pool_stops() {
        let seat = seat();
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| seat.wait_for(3));
            seat.stop();
            assert!(!waiter.join().unwrap());
        });
        assert!(!seat.wait_for(0));
        seat.end(0);
        assert!(!seat.wait_for(1), "it stays stopped");
    }

    #[test]
    fn turns_begin_anew_after_the_last() {
        let seat = seat();
        seat.word.store(TURN, Relaxed);
        seat.end(TURN);
        assert_eq!((seat.turn(), next(TURN)), (0, 0));
    }
}
