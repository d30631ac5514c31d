//! Two processes that want the same thing at the same time.
//!
//! For mutex and value both begin at a signal and each makes half of the calls, one after the other
//! with nothing in between; the time ends when both are done, and is divided by the calls of both. A
//! process that gets the lock several times in a row makes this cheaper, on either side of a row.
//!
//! A barrier's call is one cycle: both arrive, both go on. There one row has each process on a core
//! of its own, and one lets the kernel place them, as CPython's users do.

use super::{Both, Operation};
use crate::measure::{Limit, ROUNDS, ROUNDS_LONG, Side, Table};
use crate::sync_peers::python::Python;
use crate::sync_peers::stage::{Act, Board, Stage};
use procpool::sync::{Barrier, Mutex, Value};
use serde::{Deserialize, Serialize};
use std::hint::black_box;
use std::sync::atomic::Ordering;
use std::time::Duration;

const MILLION: u64 = 1_000_000;
const CYCLES: u64 = 50_000;
const PYTHON_CYCLES: u64 = 500;

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Lock(pub(crate) Mutex<u64>);

impl Operation for Lock {
    fn repeat(&self, _: &Board, calls: u64) {
        for _ in 0..calls {
            *self.0.lock().unwrap() += 1;
        }
    }
}

/// The C library's mutex.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct RobustLock;

impl Operation for RobustLock {
    fn prepare(&self, board: &mut Board) {
        board.mutex.0.initialise();
    }

    fn repeat(&self, board: &Board, calls: u64) {
        for _ in 0..calls {
            board.mutex.0.add_one();
        }
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Add(pub(crate) Value<u64>);

impl Operation for Add {
    fn repeat(&self, _: &Board, calls: u64) {
        for _ in 0..calls {
            black_box(self.0.fetch_add(1));
        }
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct AtomicAdd;

impl Operation for AtomicAdd {
    fn repeat(&self, board: &Board, calls: u64) {
        for _ in 0..calls {
            black_box(board.counter.0.fetch_add(1, Ordering::AcqRel));
        }
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Cycle(pub(crate) Barrier);

impl Act for Cycle {
    fn here(&self, board: &Board, calls: u64) -> Option<Duration> {
        self.there(board, calls);
        None
    }

    fn there(&self, _: &Board, calls: u64) {
        for _ in 0..calls {
            self.0.wait().unwrap();
        }
    }
}

pub(crate) fn rows(table: &mut Table, stage: &Stage, python: &mut Option<Python>) {
    let name = "Mutex contended by 2 processes, per operation";
    if table.wants(name) {
        let mutex = Mutex::new(0u64).unwrap();
        let (act, mut expected) = (Both(Lock(mutex.clone())), 0);
        let ours = Side::new("", MILLION, |calls| {
            expected += calls;
            stage.run(&act, calls)
        });
        let peer = Side::new("pthread mutex, robust and process-shared", MILLION, |calls| {
            stage.run(&Both(RobustLock), calls)
        });
        table.compare(name, Limit::AtMost(1.5), ROUNDS, ours, peer);
        assert_eq!(*mutex.lock().unwrap(), expected);
    }
    let name = "Value::fetch_add by 2 processes, per operation";
    if table.wants(name) {
        let value = Value::new(0u64).unwrap();
        let (act, mut expected) = (Both(Add(value.clone())), 0);
        let ours = Side::new("", MILLION, |calls| {
            expected += calls;
            stage.run(&act, calls)
        });
        let peer =
            Side::new("AtomicU64 on a line", MILLION, |calls| stage.run(&Both(AtomicAdd), calls));
        table.compare(name, Limit::AtMost(1.2), ROUNDS, ours, peer);
        assert_eq!(value.load(), expected);
    }
    barrier(table, stage, python);
}

fn barrier(table: &mut Table, stage: &Stage, python: &mut Option<Python>) {
    let kind = "Barrier of 2 processes, one cycle";
    let (limit, peer) = (Limit::TimesFaster(10.0), "CPython multiprocessing.Barrier");
    let act = Cycle(Barrier::new(2).unwrap());
    for (place, pinned) in [("on two cores", true), ("placed by the kernel", false)] {
        let name = format!("{kind}, {place}");
        if !table.wants(&name) {
            continue;
        }
        let Some(python) = python else {
            table.skipped(&name, limit, peer, "skipped: no python3 that runs");
            continue;
        };
        let cores = match stage.cores() {
            (here, there) if pinned => format!("{here} {there}"),
            _ => String::new(),
        };
        let ours = Side::new("", CYCLES, |calls| match pinned {
            true => stage.run(&act, calls),
            false => stage.run_anywhere(&act, calls),
        });
        let peer =
            Side::new(peer, PYTHON_CYCLES, |calls| python.ask(&format!("barrier {calls} {cores}")));
        table.compare(&name, limit, ROUNDS_LONG, ours, peer);
    }
}
