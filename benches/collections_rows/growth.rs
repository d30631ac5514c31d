//! What an insert and a get cost in dicts of a thousand and up to ten million entries.
//!
//! Inserts fill a dict that is empty at first, its growth included; small dicts are filled again and
//! again. Gets are of one of the keys, in no visible order. Each size is compared with the smallest.
//! They do not take turns: the small dicts come first, before the large ones, when dropped, leave their
//! memory to be reused in the order of their hashes.
//!
//! A thousand entries stay in the core's own cache, ten million do not even have their page tables
//! there: memory costs the more, the more there is of it. What that comes to without us tells `dashmap`
//! in rows of its own, from which nothing is required.

use super::{mix, one_below};
use crate::measure::{Limit, Spread, Table};
use dashmap::DashMap;
use procpool::Error;
use procpool::collections::Dict;
use std::hint::black_box;
use std::time::{Duration, Instant};

/// How many entries, and what that is called.
const SIZES: [(u64, &str); 5] = [
    (1_000, "10^3"),
    (10_000, "10^4"),
    (100_000, "10^5"),
    (1_000_000, "10^6"),
    (10_000_000, "10^7"),
];
const ROUNDS: usize = 5;
/// Inserts in a round at least, and gets.
const INSERTS: u64 = 200_000;
const GETS: u64 = 500_000;
/// An entry's memory at most while a table grows. Sizes for which the machine lacks it are left out.
const ENTRY_BYTES: u64 = 256;

const CALLS: [&str; 2] = ["insert", "get"];

/// A map of numbers that begins empty.
trait Map: Sized {
    const NAME: &'static str;
    const LIMIT: Limit;

    fn empty() -> Result<Self, Error>;
    fn insert(&self, key: u64, value: u64) -> Result<Option<u64>, Error>;
    fn get(&self, key: u64) -> Result<Option<u64>, Error>;
    fn len(&self) -> usize;
}

impl Map for Dict<u64, u64> {
    const NAME: &'static str = "Dict";
    const LIMIT: Limit = Limit::AtMost(3.0);

    fn empty() -> Result<Self, Error> {
        Dict::new()
    }

    fn insert(&self, key: u64, value: u64) -> Result<Option<u64>, Error> {
        Dict::insert(self, &key, &value)
    }

    fn get(&self, key: u64) -> Result<Option<u64>, Error> {
        Dict::get(self, &key)
    }

    fn len(&self) -> usize {
        Dict::len(self)
    }
}

impl Map for DashMap<u64, u64> {
    const NAME: &'static str = "dashmap";
    const LIMIT: Limit = Limit::Nothing;

    fn empty() -> Result<Self, Error> {
        Ok(DashMap::new())
    }

    fn insert(&self, key: u64, value: u64) -> Result<Option<u64>, Error> {
        Ok(DashMap::insert(self, key, value))
    }

    fn get(&self, key: u64) -> Result<Option<u64>, Error> {
        Ok(DashMap::get(self, &key).map(|entry| *entry.value()))
    }

    fn len(&self) -> usize {
        DashMap::len(self)
    }
}

/// Nanoseconds per insert and per get.
type Times = [f64; CALLS.len()];

fn measured<M: Map>(entries: u64) -> Result<Times, Error> {
    let fills = INSERTS.div_ceil(entries);
    let mut inserting = Duration::ZERO;
    for _ in 1..fills {
        inserting += filled::<M>(entries)?.1;
    }
    let (map, last) = filled::<M>(entries)?;
    inserting += last;
    let start = Instant::now();
    for call in 0..GETS {
        let index = one_below(entries, call);
        assert_eq!(black_box(map.get(mix(index))?), Some(index));
    }
    let getting = start.elapsed();
    let per_call = |time: Duration, calls| time.as_nanos() as f64 / calls as f64;
    Ok([per_call(inserting, fills * entries), per_call(getting, GETS)])
}

/// A map with so many entries, and how long it took to insert them.
fn filled<M: Map>(entries: u64) -> Result<(M, Duration), Error> {
    let map = M::empty()?;
    let start = Instant::now();
    for index in 0..entries {
        black_box(map.insert(mix(index), index)?);
    }
    let elapsed = start.elapsed();
    assert_eq!(map.len() as u64, entries);
    Ok((map, elapsed))
}

pub(crate) fn rows(table: &mut Table) {
    of::<Dict<u64, u64>>(table);
    of::<DashMap<u64, u64>>(table);
}

fn name<M: Map>(call: &str, size: &str) -> String {
    format!("{} growth: {call}, {size} u64 keys", M::NAME)
}

fn of<M: Map>(table: &mut Table) {
    let (_, smallest) = SIZES[0];
    let mut wanted = CALLS.iter().flat_map(|call| SIZES.map(|(_, size)| name::<M>(call, size)));
    if !wanted.any(|name| table.wants(&name)) {
        return;
    }
    let (times, reason) = all_sizes::<M>();
    let peer = format!("{smallest} keys");
    for (index, call) in CALLS.iter().enumerate() {
        let spread = |rounds: &Vec<Times>| {
            let mut rounds: Vec<f64> = rounds.iter().map(|times| times[index]).collect();
            Spread::of(&mut rounds)
        };
        let base = times.first().map(spread);
        for (place, (_, size)) in SIZES.iter().enumerate().skip(1) {
            let name = name::<M>(call, size);
            match (base, times.get(place)) {
                (Some(base), Some(rounds)) => {
                    table.pair(&name, M::LIMIT, spread(rounds), &peer, base);
                }
                _ => table.skipped(&name, M::LIMIT, &peer, &format!("skipped: {reason}")),
            }
        }
    }
}

/// The rounds of each size, and why there are not all sizes, if so.
fn all_sizes<M: Map>() -> (Vec<Vec<Times>>, String) {
    let mut times = Vec::new();
    for (entries, size) in SIZES {
        if available_bytes().is_some_and(|bytes| bytes < entries * ENTRY_BYTES) {
            return (times, "not enough memory".to_owned());
        }
        eprintln!("measuring {} growth, {size} keys", M::NAME);
        let rounds = (0..=ROUNDS).map(|_| measured::<M>(entries));
        match rounds.collect::<Result<Vec<Times>, Error>>() {
            // The first round does not count: code and memory are cold.
            Ok(rounds) => times.push(rounds[1..].to_vec()),
            // The larger ones have no room either.
            Err(error) => return (times, error.to_string()),
        }
    }
    (times, String::new())
}

/// The memory that can be had without taking it from others.
fn available_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes * 1024)
}
