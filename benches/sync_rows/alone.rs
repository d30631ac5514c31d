//! Locks that nobody else wants: one process, one thread.
//!
//! A mutex is locked, the number in it grows by one, and it is unlocked; CPython's lock has no
//! number. A permit, or a lock for reading, is taken and given back.

use super::timed;
use crate::measure::{Limit, ROUNDS, Side, Table};
use crate::sync_peers::python::Python;
use crate::sync_peers::raw;
use crate::sync_peers::stage::Mapping;
use procpool::sync::{Mutex, RwLock, Semaphore};
use std::hint::black_box;
use std::time::Duration;

const MILLION: u64 = 1_000_000;
const PYTHON_CALLS: u64 = 100_000;

pub(crate) fn lock(mutex: &Mutex<u64>, calls: u64) -> Duration {
    timed(calls, || *mutex.lock().unwrap() += 1)
}

pub(crate) fn acquire(semaphore: &Semaphore, calls: u64) -> Duration {
    timed(calls, || drop(semaphore.acquire()))
}

pub(crate) fn read(lock: &RwLock<u64>, calls: u64) -> Duration {
    timed(calls, || {
        black_box(*lock.read().unwrap());
    })
}

pub(crate) fn rows(table: &mut Table, python: &mut Option<Python>) {
    let mut board = Mapping::new();
    mutex(table, &mut board, python);
    board.semaphore.0.initialise();
    let permit = &board.semaphore.0;
    let posted = |calls| timed(calls, || permit.wait_and_post());
    let name = "Semaphore acquire and release, uncontended";
    if table.wants(name) {
        let semaphore = Semaphore::new(1).unwrap();
        let ours = Side::new("", MILLION, |calls| acquire(&semaphore, calls));
        let peer = Side::new("sem_t, process-shared", MILLION, posted);
        table.compare(name, Limit::AtMost(3.0), ROUNDS, ours, peer);
    }
    let name = "RwLock read and unlock, uncontended";
    if table.wants(name) {
        let lock = RwLock::new(1u64).unwrap();
        let ours = Side::new("", MILLION, |calls| read(&lock, calls));
        let peer = Side::new("sem_t, process-shared", MILLION, posted);
        table.compare(name, Limit::AtMost(3.0), ROUNDS, ours, peer);
    }
}

fn mutex(table: &mut Table, board: &mut Mapping, python: &mut Option<Python>) {
    let name = "Mutex lock and unlock, uncontended";
    if !table.wants(name) {
        return;
    }
    let mutex = Mutex::new(0u64).unwrap();
    let ours = || Side::new("", MILLION, |calls| lock(&mutex, calls));

    board.mutex.0.initialise();
    let robust = &board.mutex.0;
    let peer = Side::new("pthread mutex, robust and process-shared", MILLION, |calls| {
        timed(calls, || robust.add_one())
    });
    table.compare(name, Limit::AtMost(1.3), ROUNDS, ours(), peer);

    let raw_mutex = board.raw.0.new_mutex();
    let peer = Side::new("raw_sync Mutex, not robust", MILLION, |calls| {
        timed(calls, || raw::add_one(&*raw_mutex))
    });
    table.compare(name, Limit::AtMost(2.0), ROUNDS, ours(), peer);

    let (limit, peer) = (Limit::TimesFaster(5.0), "CPython multiprocessing.Lock");
    match python {
        Some(python) => {
            let peer = Side::new(peer, PYTHON_CALLS, |calls| python.ask(&format!("lock {calls}")));
            table.compare(name, limit, ROUNDS, ours(), peer);
        }
        None => table.skipped(name, limit, peer, "skipped: no python3 that runs"),
    }
}
