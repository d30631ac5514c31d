//! How often the workers of a pool may die before it is given up.
//!
//! # Rules
//! R1. Workers in a row that die before they can start (in their initialiser, say): [`STARTS_MAX`].
//! R2. Workers that die before they have ended a task, within the builder's window: its limit. From half
//!     of it on each replacement waits for [`PAUSE`].
//! R3. A worker that has ended a task, or leaves by itself, ends a row of R1 and does not count in R2. One that
//!     was entered later than the first of a row, and has started, ends that, too.

use crate::error::WorkerExit;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Starts in a row that may fail.
pub(super) const STARTS_MAX: u32 = 10;
const PAUSE: Duration = Duration::from_millis(5);
/// How many deaths are told of when the pool is given up.
const CAUSES_MAX: usize = 3;

/// What a worker had done when it died.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Had {
    NotStarted,
    EndedNothing,
    EndedTasks,
}

/// The deaths in one pool.
#[derive(Debug)]
pub(super) struct Restarts {
    most: u32,
    window: Duration,
    failed_starts: u32,
    /// The first worker of the row (R1), by the order in which they were entered.
    row_began: u64,
    deaths: VecDeque<Instant>,
    causes: VecDeque<String>,
    paused_until: Option<Instant>,
}

impl Restarts {
    pub(super) fn new((most, window): (u32, Duration)) -> Self {
        let (deaths, causes) = (VecDeque::new(), VecDeque::new());
        Self { most, window, failed_starts: 0, row_began: 0, deaths, causes, paused_until: None }
    }

    /// Notes what a worker died of.
    pub(super) fn note(&mut self, had: Had, exit: WorkerExit, note: Option<String>) {
        let when = match had {
            Had::NotStarted => "before it could start",
            Had::EndedNothing => "in its first task",
            Had::EndedTasks => return,
        };
        let cause = match note {
            Some(note) => note,
            None => format!("it ended {when}, with {exit}"),
        };
        self.causes.truncate(CAUSES_MAX - 1);
        self.causes.push_front(cause);
    }

    /// Counts the death of worker number `serial`, before it is replaced. `started` is the last one that has
    /// started and lives.
    pub(super) fn died(&mut self, now: Instant, had: Had, serial: u64, started: Option<u64>) {
        if had == Had::EndedTasks {
            self.failed_starts = 0;
            return;
        }
        if had == Had::NotStarted {
            if self.failed_starts == 0 || started.is_some_and(|started| started > self.row_began) {
                (self.failed_starts, self.row_began) = (0, serial);
            }
            self.failed_starts += 1;
            return;
        }
        self.failed_starts = 0;
        self.deaths.push_back(now);
        let is_old = |first: &Instant| now.saturating_duration_since(*first) > self.window;
        while self.deaths.front().is_some_and(is_old) {
            self.deaths.pop_front();
        }
        if self.deaths.len() as u32 > self.most / 2 {
            self.paused_until = Some(now + PAUSE);
        }
    }

    /// No worker can be forked at all.
    pub(super) fn give_up(&mut self) {
        self.failed_starts = STARTS_MAX;
    }

    /// Whether nobody is replaced any more.
    pub(super) fn is_over(&self) -> bool {
        self.failed_starts >= STARTS_MAX || self.deaths.len() as u32 >= self.most
    }

    /// Until when nobody is replaced.
    pub(super) fn paused_until(&self, now: Instant) -> Option<Instant> {
        self.paused_until.filter(|until| *until > now)
    }

    /// Why the pool is given up.
    pub(super) fn why(&self) -> String {
        let causes = Vec::from_iter(self.causes.iter().map(String::as_str)).join("; ");
        if self.failed_starts >= STARTS_MAX {
            format!(
                "the pool is broken: its workers died {STARTS_MAX} times in a row before they could start; the last: {causes}"
            )
        } else {
            format!(
                "the pool is broken: {} workers died within {:?} and had ended no task; the last: {causes}",
                self.deaths.len(),
                self.window
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXIT: WorkerExit = WorkerExit::Signal(6);

    #[test]
    fn starts_that_fail_in_a_row_are_bounded_and_the_last_notes_are_told() {
        let (mut restarts, now) = (Restarts::new((100, Duration::from_secs(1))), Instant::now());
        for round in 0..STARTS_MAX {
            assert!(!restarts.is_over(), "{round}");
            restarts.note(Had::NotStarted, EXIT, Some(format!("no file {round}")));
            restarts.died(now, Had::NotStarted, u64::from(round), None);
        }
        assert!(restarts.is_over() && restarts.why().contains("no file 9"), "{}", restarts.why());
        assert!(!restarts.why().contains("no file 1"), "{}", restarts.why());
    }

    #[test]
    fn one_that_starts_in_between_ends_a_row() {
        let (mut restarts, now) = (Restarts::new((100, Duration::from_secs(1))), Instant::now());
        for serial in (0..90).step_by(3) {
            // The others of three have started and live.
            restarts.died(now, Had::NotStarted, serial, serial.checked_sub(1));
            assert!(!restarts.is_over(), "{serial}");
        }
        // One that had started before them all says nothing.
        for serial in 100..100 + u64::from(STARTS_MAX) {
            restarts.died(now, Had::NotStarted, serial, Some(87));
        }
        assert!(restarts.is_over());
    }

    #[test]
    fn deaths_count_within_the_window_and_slow_down() {
        let (mut restarts, start) = (Restarts::new((4, Duration::from_secs(1))), Instant::now());
        let at = |ms| start + Duration::from_millis(ms);
        for ms in [0, 10] {
            restarts.died(at(ms), Had::EndedNothing, 0, None);
            assert_eq!(restarts.paused_until(at(ms)), None);
        }
        restarts.died(at(20), Had::EndedTasks, 0, None);
        restarts.died(at(30), Had::EndedNothing, 0, None);
        assert!(restarts.paused_until(at(30)).is_some() && !restarts.is_over());
        assert_eq!(restarts.paused_until(at(40)), None);
        restarts.died(at(1020), Had::EndedNothing, 0, None);
        assert!(!restarts.is_over(), "two are too long ago");
        restarts.died(at(1021), Had::EndedNothing, 0, None);
        restarts.note(Had::EndedNothing, EXIT, None);
        restarts.died(at(1022), Had::EndedNothing, 0, None);
        assert!(restarts.is_over() && restarts.why().contains("signal 6"), "{}", restarts.why());
    }
}
