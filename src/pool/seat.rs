//! Seats: which of a line of workers runs tasks, and what is for that one only.
//!
//! A pool has one seat per worker number. A worker that is about to be recycled has a successor, which is
//! forked and waits until the seat is its own. A task that every worker is to run once (`broadcast.rs`) is
//! mail for a seat: its worker takes it before it looks at the queue.
//!
//! # Shared state
//! ```text
//! word | STOP 1 | READY 1 | RETIRED 1 | turn 29 |      a futex; 0 at first
//! mail | slot index, plus one; 0 for none
//! ```
//!
//! # Rules
//! R1. The worker with the seat's turn runs tasks. A successor has a later turn, and waits. Who comes when its
//!     turn is over (half the turns ahead, as the numbers wrap) leaves.
//! R2. A turn is ended by one swap to the next, by the worker that leaves or, when it died, by the
//!     supervisor. Whoever comes second finds another turn there, and nothing to do.
//! R3. READY: the next turn's worker waits. It sets that itself; the swap to its turn clears it.
//! R4. STOP: who waits for a turn here leaves. It is set when the pool stops, and with RETIRED.
//! R5. RETIRED: the pool has become smaller. The worker with the turn leaves after its task. Both flags go
//!     when the pool grows again.
//! R6. Mail is posted by the user's process, one at a time, and cleared by the worker that has claimed the
//!     slot, or found that nobody can.
//!
//! # If a process dies
//! With the turn: R2. A successor that waits: the supervisor has another one forked for the same turn;
//! READY may then be early, which costs a short gap. Before it has claimed its mail: the next worker finds it.
//! After that: settlement posts it again, if the task had not begun.
//!
//! # Tests
//! Below; `seat_models.rs` (loom); `worker.leaving` and `worker.left` fault points.

use crate::prim::{AcqRel, Acquire, AtomicU32, Relaxed, Release};
use crate::sys::futex;

const STOP: u32 = 1 << 31;
const READY: u32 = 1 << 30;
const RETIRED: u32 = 1 << 29;
const TURN: u32 = RETIRED - 1;

/// See the module documentation.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Seat {
    word: AtomicU32,
    mail: AtomicU32,
}

/// The turn after `turn`.
pub(crate) fn next(turn: u32) -> u32 {
    turn.wrapping_add(1) & TURN
}

/// Whether `turn` is over when it is `now`'s (R1).
fn is_over(turn: u32, now: u32) -> bool {
    turn.wrapping_sub(now) & TURN > TURN / 2
}

impl Seat {
    #[cfg(any(test, loom))]
    pub(crate) fn new() -> Self {
        Self { word: AtomicU32::new(0), mail: AtomicU32::new(0) }
    }

    pub(crate) fn reset(&self) {
        self.word.store(0, Relaxed);
        self.mail.store(0, Relaxed);
    }

    /// Whose turn it is.
    pub(crate) fn turn(&self) -> u32 {
        self.word.load(Acquire) & TURN
    }

    /// Whether the next turn's worker waits (R3).
    pub(crate) fn has_successor(&self) -> bool {
        self.word.load(Relaxed) & READY != 0
    }

    /// Waits until it is `turn`'s; `false` if the pool's workers are to leave, or the turn is over.
    pub(crate) fn wait_for(&self, turn: u32) -> bool {
        loop {
            let raw = self.word.load(Acquire);
            if raw & STOP != 0 || is_over(turn, raw & TURN) {
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
            let ended = raw & (STOP | RETIRED) | next(turn);
            match self.word.compare_exchange(raw, ended, AcqRel, Relaxed) {
                Ok(_) => return futex::wake_all(&self.word),
                Err(now) => raw = now,
            }
        }
    }

    /// Whether the worker with the turn is wanted for something else than the queue.
    #[inline]
    pub(crate) fn calls(&self) -> bool {
        self.mail.load(Relaxed) != 0 || self.is_retired()
    }

    #[inline]
    pub(crate) fn is_retired(&self) -> bool {
        self.word.load(Relaxed) & RETIRED != 0
    }

    /// Has the worker with the turn, and who waits, leave (R5).
    pub(crate) fn retire(&self) {
        self.word.fetch_or(STOP | RETIRED, AcqRel);
        futex::wake_all(&self.word);
    }

    /// The pool has grown to this seat again (R5).
    pub(crate) fn reopen(&self) {
        self.word.fetch_and(!(STOP | RETIRED), AcqRel);
    }

    /// Leaves a slot for the worker with the turn (R6).
    pub(crate) fn post(&self, index: u32) {
        // SYNC(mail): pairs with the Acquire in `mail`; the slot is READY.
        self.mail.store(index + 1, Release);
    }

    /// The slot that was posted.
    pub(crate) fn mail(&self) -> Option<u32> {
        // SYNC(mail): pairs with the Release in `post`.
        self.mail.load(Acquire).checked_sub(1)
    }

    /// The slot has been claimed, or cannot be.
    pub(crate) fn clear_mail(&self, index: u32) {
        let _ = self.mail.compare_exchange(index + 1, 0, AcqRel, Relaxed);
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
        Seat::new()
    }

    #[test]
    fn a_turn_ends_once_and_successors_come_in_order() {
        let seat = seat();
        assert!(seat.wait_for(0) && !seat.has_successor());
        std::thread::scope(|scope| {
            let [first, second] = [1, 2].map(|turn| {
                let seat = &seat;
                scope.spawn(move || seat.wait_for(turn))
            });
            while !seat.has_successor() {
                std::thread::yield_now();
            }
            seat.end(1);
            assert_eq!(seat.turn(), 0, "not its turn");
            seat.end(0);
            seat.end(0);
            assert_eq!(seat.turn(), 1);
            assert!(first.join().unwrap());
            while !seat.has_successor() {
                std::thread::yield_now();
            }
            seat.end(1);
            assert!(second.join().unwrap());
        });
    }

    #[test]
    fn who_comes_after_its_turn_leaves() {
        let seat = seat();
        seat.end(0);
        seat.end(1);
        assert!(!seat.wait_for(1) && seat.wait_for(2));
        assert!(is_over(TURN, 0) && !is_over(0, TURN) && !is_over(7, 7), "the numbers wrap");
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
    fn a_retired_seat_can_be_taken_again() {
        let seat = seat();
        seat.retire();
        assert!(seat.calls() && seat.is_retired() && !seat.wait_for(0));
        seat.end(0);
        assert!(seat.is_retired(), "the flags stay when the turn ends");
        seat.reopen();
        assert!(!seat.calls() && seat.wait_for(1));
    }

    #[test]
    fn mail_is_cleared_by_whoever_read_it() {
        let seat = seat();
        assert_eq!(seat.mail(), None);
        seat.post(0);
        assert!(seat.calls() && seat.mail() == Some(0));
        seat.post(7);
        seat.clear_mail(0);
        assert_eq!(seat.mail(), Some(7), "that was other mail");
        seat.clear_mail(7);
        assert!(!seat.calls());
    }

    #[test]
    fn turns_begin_anew_after_the_last() {
        let seat = seat();
        seat.word.store(TURN, Relaxed);
        seat.end(TURN);
        assert_eq!((seat.turn(), next(TURN)), (0, 0));
    }
}
