//! `map`: a million small calls, calls on structs, and how the cost of a call follows their number.
//!
//! The calls do next to nothing, so the rows show what the pool adds to a call. They do not show
//! how a map speeds real work up: that is the rows of `granularity.rs`.

use super::pool;
use crate::measure::{Limit, ROUNDS, ROUNDS_LONG, Side, Spread, Table};
use crate::peers::python::Python;
use procpool::Pool;
use serde::{Deserialize, Serialize};
use std::hint::black_box;
use std::time::{Duration, Instant};

const MILLION: u64 = 1_000_000;
const STRUCTS: u64 = 200_000;
const PYTHON_POOL: &str = include_str!("../python_pool.py");

pub(crate) fn square_plus_one(x: u64) -> u64 {
    x * x + 1
}

/// Maps over that many numbers. Dropping the results is not counted.
pub(crate) fn squares(pool: &Pool, calls: u64) -> Duration {
    let start = Instant::now();
    let results = pool.map(square_plus_one, 0..calls).expect("results");
    let elapsed = start.elapsed();
    assert_eq!(results.len() as u64, calls);
    assert_eq!(results.last().copied(), calls.checked_sub(1).map(square_plus_one));
    elapsed
}

/// A struct of about 80 bytes as postcard writes it, with a string and a list.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Reading {
    station: u64,
    sequence: u64,
    taken_ns: u64,
    value: f64,
    correction: f64,
    unit: String,
    samples: Vec<u16>,
}

pub(crate) fn readings(count: u64) -> Vec<Reading> {
    let reading = |sequence| Reading {
        station: u64::MAX / 3 * 2,
        sequence,
        taken_ns: 1_700_000_000_000_000_000 + sequence,
        value: sequence as f64 / 7.0,
        correction: 0.25,
        unit: "degrees Celsius".to_owned(),
        samples: (0..8).map(|sample| 20_000 + sample).collect(),
    };
    let readings: Vec<Reading> = (0..count).map(reading).collect();
    let bytes = readings.last().map_or(0, |last| encode(last, &mut [0; 256]).len());
    assert!(count == 0 || (70..=90).contains(&bytes), "a reading has {bytes} bytes");
    readings
}

fn encode<'a>(reading: &Reading, buffer: &'a mut [u8]) -> &'a [u8] {
    postcard::to_slice(reading, buffer).expect("room for a reading")
}

fn correct(mut reading: Reading) -> Reading {
    reading.value += reading.correction;
    reading
}

/// Maps over the readings; consumes them as it goes, as [`in_one_thread`] does.
pub(crate) fn corrected(pool: &Pool, readings: Vec<Reading>) -> Duration {
    let count = readings.len();
    let start = Instant::now();
    let results = pool.map(correct, readings).expect("results");
    let elapsed = start.elapsed();
    assert_eq!(results.len(), count);
    elapsed
}

/// What one thread takes to encode and decode every argument and result, and to make the calls.
pub(crate) fn in_one_thread(readings: Vec<Reading>) -> Duration {
    let mut buffer = [0u8; 256];
    let start = Instant::now();
    let mut results = Vec::with_capacity(readings.len());
    for reading in readings {
        let bytes = black_box(encode(&reading, &mut buffer));
        let result = correct(postcard::from_bytes(bytes).expect("a reading"));
        let bytes = black_box(encode(&result, &mut buffer));
        results.push(postcard::from_bytes::<Reading>(bytes).expect("a reading"));
    }
    let elapsed = start.elapsed();
    black_box(&results);
    elapsed
}

/// All rows of this file; returns what is to be noted above the table.
pub(crate) fn rows(table: &mut Table) -> Option<String> {
    let note = million(table);
    structs(table);
    by_calls(table);
    by_workers(table);
    note
}

fn million(table: &mut Table) -> Option<String> {
    let name = "map of x*x+1 over 1M u64";
    if !table.wants(name) {
        return None;
    }
    let pool = pool(2);
    let peer = "Python Pool(2).map";
    let limit = Limit::TimesFaster(20.0);
    let ours = |calls| squares(&pool, calls);
    let (spread, note) = if let Some(mut python) = Python::start(PYTHON_POOL) {
        let note = format!("Python: {}", python.version);
        let theirs = Side::new(peer, MILLION, |calls| python.ask(&calls.to_string()));
        let sides = table.compare(name, limit, ROUNDS, Side::new("", MILLION, ours), theirs);
        (sides.0, note)
    } else {
        let mut rounds: Vec<f64> =
            (0..ROUNDS).map(|_| ours(MILLION).as_nanos() as f64 / MILLION as f64).collect();
        table.skipped(name, limit, peer, "skipped: no python3 that runs");
        (Spread::of(&mut rounds), "Python: none found".to_owned())
    };
    table.absolute(name, Limit::Nanos(15.0), spread);
    Some(note)
}

fn structs(table: &mut Table) {
    let name = "map over structs of 80 bytes";
    if !table.wants(name) {
        return;
    }
    let pool = pool(2);
    table.compare(
        name,
        Limit::AtMost(0.75),
        ROUNDS,
        Side::new("", STRUCTS, |calls| corrected(&pool, readings(calls))),
        Side::new("codec in one thread", STRUCTS, |calls| in_one_thread(readings(calls))),
    );
}

/// From a thousand to ten million calls: the cost of a call must stay within a factor of two.
fn by_calls(table: &mut Table) {
    let kind = "map by number of calls";
    if !table.wants(kind) {
        return;
    }
    let pool = pool(2);
    let sizes = [1_000, 10_000, 100_000, 1_000_000, 10_000_000];
    let spreads = in_turn(&sizes, |calls| {
        // Short maps are repeated, so that every figure stands for some milliseconds.
        let repeats = (100_000 / calls).max(1);
        let total: Duration = (0..repeats).map(|_| squares(&pool, calls)).sum();
        total.as_nanos() as f64 / (calls * repeats) as f64
    });
    let cheapest = cheapest(&spreads);
    for (calls, spread) in sizes.iter().zip(&spreads) {
        let name = format!("{kind}: {calls}, 2 workers");
        table.pair(&name, Limit::AtMost(2.0), *spread, "cheapest of these", cheapest);
    }
}

/// More workers than cores must not cost more than twice what the best number costs.
fn by_workers(table: &mut Table) {
    let kind = "map by number of workers";
    if !table.wants(kind) {
        return;
    }
    let counts = [1, 2, 8, 64];
    let pools: Vec<Pool> = counts.iter().map(|workers| pool(*workers as usize)).collect();
    let spreads = in_turn(&counts, |workers| {
        let pool = pools.iter().find(|pool| pool.workers() as u64 == workers);
        let elapsed = pool.map_or(Duration::ZERO, |pool| squares(pool, MILLION));
        elapsed.as_nanos() as f64 / MILLION as f64
    });
    let cheapest = cheapest(&spreads);
    for (workers, spread) in counts.iter().zip(&spreads) {
        let name = format!("{kind}: {workers}, 1M calls");
        table.pair(&name, Limit::AtMost(2.0), *spread, "cheapest of these", cheapest);
    }
}

/// Measures every value in every round.
fn in_turn(values: &[u64], measure: impl Fn(u64) -> f64) -> Vec<Spread> {
    eprintln!("measuring map by {values:?}");
    let mut times = vec![Vec::new(); values.len()];
    for _ in 0..ROUNDS_LONG {
        for (value, times) in values.iter().zip(&mut times) {
            times.push(measure(*value));
        }
    }
    times.iter_mut().map(|times| Spread::of(times)).collect()
}

fn cheapest(spreads: &[Spread]) -> Spread {
    let by_median = |a: &&Spread, b: &&Spread| a.median_ns.total_cmp(&b.median_ns);
    *spreads.iter().min_by(by_median).expect("at least one spread")
}
