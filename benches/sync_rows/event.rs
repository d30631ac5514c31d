//! From `set` in one process to the waiter in the other process running.
//!
//! Sleeping: two milliseconds before each `set` nothing happens, so that the waiter has stopped
//! looking and is in the kernel, which its count of voluntary context switches must confirm. The
//! setter reads the clock, sets, and looks for the time that the waiter writes down as the first
//! thing when it runs again. The difference of the two is one way. Each process has a core of its
//! own, so that the waiter's core is idle when it is woken: what is measured is mostly the kernel and
//! the machine bringing that core back.
//!
//! Spinning: two events, ping and pong, back and forth without a pause; the waiter is still looking
//! when the event is set. A call is a round trip, and one way is taken to be half of it.
//!
//! All events here are automatic ones: each `set` releases one waiter, and they need no `clear`.

use crate::measure::{Limit, ROUNDS, Side, Table};
use crate::sync_peers::bare::{futex_set, futex_wait, sleeps};
use crate::sync_peers::stage::{Act, Board, Stage};
use crate::sync_peers::{now_ns, until};
use procpool::sync::Event;
use raw_sync::{Timeout, events::EventState};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Long enough for a waiter to stop looking and sleep.
const PAUSE: Duration = Duration::from_millis(2);
const ASLEEP_CALLS: u64 = 50;
/// More than elsewhere: what waking costs varies by a factor of two from round to round.
const ASLEEP_ROUNDS: usize = 45;
const ROUND_TRIPS: u64 = 100_000;

/// Something that is set in one process and waited for in the other, turn by turn.
trait Signal: Clone + Serialize + DeserializeOwned + 'static {
    fn prepare(&self, _board: &mut Board) {}
    fn setter<'a>(&'a self, board: &'a Board) -> Box<dyn FnMut(u32) + 'a>;
    fn waiter<'a>(&'a self, board: &'a Board) -> Box<dyn FnMut(u32) + 'a>;
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Ours(Event);

impl Signal for Ours {
    fn setter<'a>(&'a self, _: &'a Board) -> Box<dyn FnMut(u32) + 'a> {
        Box::new(|_| self.0.set())
    }

    fn waiter<'a>(&'a self, _: &'a Board) -> Box<dyn FnMut(u32) + 'a> {
        Box::new(|_| self.0.wait())
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Futex;

impl Signal for Futex {
    fn prepare(&self, board: &mut Board) {
        board.ping.0.store(0, Ordering::Relaxed);
    }

    fn setter<'a>(&'a self, board: &'a Board) -> Box<dyn FnMut(u32) + 'a> {
        Box::new(|turn| futex_set(&board.ping.0, turn))
    }

    fn waiter<'a>(&'a self, board: &'a Board) -> Box<dyn FnMut(u32) + 'a> {
        Box::new(|turn| {
            while board.ping.0.load(Ordering::Acquire) != turn {
                futex_wait(&board.ping.0, turn - 1);
            }
        })
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct RawSync;

impl Signal for RawSync {
    fn prepare(&self, board: &mut Board) {
        board.raw.0.new_event();
    }

    fn setter<'a>(&'a self, board: &'a Board) -> Box<dyn FnMut(u32) + 'a> {
        let event = board.raw.0.event();
        Box::new(move |_| event.set(EventState::Signaled).unwrap())
    }

    fn waiter<'a>(&'a self, board: &'a Board) -> Box<dyn FnMut(u32) + 'a> {
        let event = board.raw.0.event();
        Box::new(move |_| event.wait(Timeout::Infinite).unwrap())
    }
}

/// A waiter that sleeps; see the top of this file.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Asleep<S>(S);

impl<S: Signal> Act for Asleep<S> {
    fn prepare(&self, board: &mut Board) {
        board.stamp_ns.0.store(0, Ordering::Relaxed);
        self.0.prepare(board);
    }

    fn here(&self, board: &Board, calls: u64) -> Option<Duration> {
        let mut set = self.0.setter(board);
        let stamp = &board.stamp_ns.0;
        let mut total_ns = 0;
        for turn in 1..=calls as u32 {
            std::thread::sleep(PAUSE);
            let set_ns = now_ns();
            set(turn);
            until(|| stamp.load(Ordering::Acquire) != 0);
            total_ns += stamp.swap(0, Ordering::Relaxed) - set_ns;
        }
        Some(Duration::from_nanos(total_ns))
    }

    fn there(&self, board: &Board, calls: u64) {
        let mut wait = self.0.waiter(board);
        let before = sleeps();
        for turn in 1..=calls as u32 {
            wait(turn);
            board.stamp_ns.0.store(now_ns(), Ordering::Release);
        }
        // A few may have been kept off their core by others instead.
        let slept = sleeps() - before;
        assert!(slept >= calls - calls / 10, "the waiter slept {slept} times of {calls}");
    }
}

/// Two events, back and forth.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct PingPong {
    ping: Event,
    pong: Event,
}

impl PingPong {
    pub(crate) fn new() -> Self {
        Self { ping: Event::automatic().unwrap(), pong: Event::automatic().unwrap() }
    }
}

impl Act for PingPong {
    fn here(&self, _: &Board, calls: u64) -> Option<Duration> {
        for _ in 0..calls {
            self.ping.set();
            self.pong.wait();
        }
        None
    }

    fn there(&self, _: &Board, calls: u64) {
        for _ in 0..calls {
            self.ping.wait();
            self.pong.set();
        }
    }
}

/// Two words on lines of their own, back and forth.
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

pub(crate) fn rows(table: &mut Table, stage: &Stage) {
    let name = "Event set to a sleeping waiter running";
    if table.wants(name) {
        let act = Asleep(Ours(Event::automatic().unwrap()));
        let ours = || Side::new("", ASLEEP_CALLS, |calls| stage.run(&act, calls));
        let peer =
            Side::new("bare futex wake", ASLEEP_CALLS, |calls| stage.run(&Asleep(Futex), calls));
        table.compare(name, Limit::AtMost(1.2), ASLEEP_ROUNDS, ours(), peer);
        let peer =
            Side::new("raw_sync Event", ASLEEP_CALLS, |calls| stage.run(&Asleep(RawSync), calls));
        table.compare(name, Limit::TimesFaster(1.0), ASLEEP_ROUNDS, ours(), peer);
    }
    let name = "Event set to a spinning waiter running";
    if table.wants(name) {
        let act = PingPong::new();
        let (round_trip, _) = table.compare(
            &format!("{name}, and back"),
            Limit::Nothing,
            ROUNDS,
            Side::new("", ROUND_TRIPS, |calls| stage.run(&act, calls)),
            Side::new("two-line ping-pong", ROUND_TRIPS, |calls| stage.run(&Lines, calls)),
        );
        table.absolute(name, Limit::Nanos(1_000.0), round_trip.part(0.5));
    }
}
