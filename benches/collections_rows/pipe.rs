//! A number through a pipe to the other process, and one back.
//!
//! Spinning: without a pause, each process on a core of its own; each is still looking when its number
//! comes. The peers are two words on lines of their own, and CPython's pipe, whose ends always sleep.
//!
//! Asleep: each side rests for two milliseconds before it sends, so that the other has stopped looking
//! and is in the kernel, which its count of voluntary context switches must confirm. A call is the way
//! there and the way back, from before the send to the receiver running; the rests are not counted. The
//! peer sends by a word and a futex, in the same two processes on the same two cores. What is measured
//! is mostly the kernel and the machine bringing an idle core back.

use super::against_python;
use crate::measure::{Limit, ROUNDS, Side, Table};
use crate::sync_peers::bare::{futex_set, futex_wait, sleeps};
use crate::sync_peers::python::Python;
use crate::sync_peers::stage::{Act, Board, Stage};
use crate::sync_peers::{now_ns, until};
use procpool::queue::Pipe;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

const ROUND_TRIPS: u64 = 100_000;
const PYTHON_ROUND_TRIPS: u64 = 5_000;
/// Long enough for a receiver to stop looking and sleep.
const REST: Duration = Duration::from_millis(2);
const ASLEEP_CALLS: u64 = 25;
/// More than elsewhere: what waking costs varies by a factor of two from round to round.
const ASLEEP_ROUNDS: usize = 45;

/// The two ends of a pipe.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Ends {
    near: Pipe<u64, u64>,
    far: Pipe<u64, u64>,
}

impl Ends {
    pub(crate) fn new() -> Self {
        let (near, far) = Pipe::pair().unwrap();
        Self { near, far }
    }
}

fn send(end: &Pipe<u64, u64>, number: u64) {
    assert!(end.send(number).is_ok(), "an end that is there");
}

/// Back and forth.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct RoundTrip(pub(crate) Ends);

impl Act for RoundTrip {
    fn here(&self, _: &Board, calls: u64) -> Option<Duration> {
        for number in 0..calls {
            send(&self.0.near, number);
            assert_eq!(self.0.near.recv().unwrap(), !number);
        }
        None
    }

    fn there(&self, _: &Board, calls: u64) {
        for _ in 0..calls {
            let number = self.0.far.recv().unwrap();
            send(&self.0.far, !number);
        }
    }
}

/// Two words, back and forth.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Lines;

impl Act for Lines {
    fn prepare(&self, board: &mut Board) {
        board.ping.0.store(0, Ordering::Relaxed);
        board.pong.0.store(0, Ordering::Relaxed);
    }

    fn here(&self, board: &Board, calls: u64) -> Option<Duration> {
        for turn in 1..=calls as u32 {
            board.ping.0.store(turn, Ordering::Release);
            until(|| board.pong.0.load(Ordering::Acquire) == turn);
        }
        None
    }

    fn there(&self, board: &Board, calls: u64) {
        for turn in 1..=calls as u32 {
            until(|| board.ping.0.load(Ordering::Acquire) == turn);
            board.pong.0.store(turn, Ordering::Release);
        }
    }
}

/// A way for a number to the other side, turn by turn.
trait Way: Clone + Serialize + DeserializeOwned + 'static {
    fn prepare(&self, _board: &mut Board) {}
    fn send(&self, board: &Board, from: Sender, turn: u32, number: u64);
    fn receive(&self, board: &Board, from: Sender, turn: u32) -> u64;
}

/// Who sends.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Sender {
    Here,
    There,
}

impl Way for Ends {
    fn send(&self, _: &Board, from: Sender, _: u32, number: u64) {
        send(if from == Sender::Here { &self.near } else { &self.far }, number);
    }

    fn receive(&self, _: &Board, from: Sender, _: u32) -> u64 {
        let end = if from == Sender::Here { &self.far } else { &self.near };
        end.recv().unwrap()
    }
}

/// A word for each direction, and a number that both use in turn.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Futex;

impl Futex {
    fn word(board: &Board, from: Sender) -> &AtomicU32 {
        if from == Sender::Here { &board.ping.0 } else { &board.pong.0 }
    }
}

impl Way for Futex {
    fn prepare(&self, board: &mut Board) {
        board.ping.0.store(0, Ordering::Relaxed);
        board.pong.0.store(0, Ordering::Relaxed);
    }

    fn send(&self, board: &Board, from: Sender, turn: u32, number: u64) {
        board.stamp_ns.0.store(number, Ordering::Relaxed);
        futex_set(Self::word(board, from), turn);
    }

    fn receive(&self, board: &Board, from: Sender, turn: u32) -> u64 {
        let word = Self::word(board, from);
        while word.load(Ordering::Acquire) != turn {
            futex_wait(word, turn - 1);
        }
        board.stamp_ns.0.load(Ordering::Relaxed)
    }
}

/// Both ends sleep while they wait; see the top of this file.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Asleep<W>(W);

impl<W: Way> Asleep<W> {
    /// What was received, when, and whether this process slept until then.
    fn receive(&self, board: &Board, from: Sender, turn: u32) -> (u64, u64, bool) {
        let before = sleeps();
        let number = self.0.receive(board, from, turn);
        let came_ns = now_ns();
        (number, came_ns, sleeps() > before)
    }
}

/// A few may have been kept off their core by others instead.
fn check_sleeps(slept: u64, calls: u64) {
    assert!(slept + calls / 10 + 1 >= calls, "the receiver slept {slept} times of {calls}");
}

impl<W: Way> Act for Asleep<W> {
    fn prepare(&self, board: &mut Board) {
        self.0.prepare(board);
    }

    fn here(&self, board: &Board, calls: u64) -> Option<Duration> {
        let (mut total_ns, mut slept) = (0, 0);
        for turn in 1..=calls as u32 {
            std::thread::sleep(REST);
            self.0.send(board, Sender::Here, turn, now_ns());
            // When it was sent, less the time of the way there: what has passed since is both ways.
            let (began_ns, came_ns, asleep) = self.receive(board, Sender::There, turn);
            total_ns += came_ns - began_ns;
            slept += u64::from(asleep);
        }
        check_sleeps(slept, calls);
        Some(Duration::from_nanos(total_ns))
    }

    fn there(&self, board: &Board, calls: u64) {
        let mut slept = 0;
        for turn in 1..=calls as u32 {
            let (sent_ns, came_ns, asleep) = self.receive(board, Sender::Here, turn);
            slept += u64::from(asleep);
            std::thread::sleep(REST);
            self.0.send(board, Sender::There, turn, now_ns() - (came_ns - sent_ns));
        }
        check_sleeps(slept, calls);
    }
}

pub(crate) fn rows(table: &mut Table, stage: &Stage, python: &mut Option<Python>) {
    let name = "Pipe round trip, both spinning";
    if table.wants(name) {
        let act = RoundTrip(Ends::new());
        let ours = || Side::new("", ROUND_TRIPS, |calls| stage.run(&act, calls));
        let peer = Side::new("two-line ping-pong", ROUND_TRIPS, |calls| stage.run(&Lines, calls));
        table.compare(name, Limit::Nanos(1_000.0), ROUNDS, ours(), peer);
        let (here, there) = stage.cores();
        let request = format!("pipe {here} {there}");
        let peer = ("CPython multiprocessing.Pipe", &*request, PYTHON_ROUND_TRIPS);
        against_python(table, name, Limit::Nothing, ours(), peer, python);
    }
    let name = "Pipe round trip, both asleep";
    if table.wants(name) {
        let act = Asleep(Ends::new());
        let ours = Side::new("", ASLEEP_CALLS, |calls| stage.run(&act, calls));
        let peer =
            Side::new("futex ping-pong", ASLEEP_CALLS, |calls| stage.run(&Asleep(Futex), calls));
        table.compare(name, Limit::AtMost(1.5), ASLEEP_ROUNDS, ours, peer);
    }
}
