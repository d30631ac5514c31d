//! The rows of the ratio table, by object, and the keys and values that they use.

pub(crate) mod dict;
pub(crate) mod growth;
pub(crate) mod list;
pub(crate) mod pipe;
pub(crate) mod queue;

use crate::measure::{Limit, ROUNDS_LONG, Side, Table};
use crate::sync_peers::python::Python;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::fmt;
use std::hash::Hash;
use std::sync::OnceLock;

/// Entries of a dict and elements of a list; also in `python_collections.py`.
pub(crate) const KEYS: usize = 100_000;
/// Calls of CPython in a round: each takes as long as a hundred or more of ours.
pub(crate) const PYTHON_CALLS: u64 = 5_000;

/// SplitMix64's output for a state of that many steps: another number for each index, in no visible
/// order (Steele, Lea and Flood, 2014).
#[inline]
pub(crate) fn mix(index: u64) -> u64 {
    let mut mixed = index.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// One of the numbers below `bound`, in no visible order.
#[inline]
pub(crate) fn one_below(bound: u64, call: u64) -> u64 {
    ((u128::from(mix(call)) * u128::from(bound)) >> 64) as u64
}

/// A key of a dict, made from a number, and the value that comes with it.
pub(crate) trait Key:
    fmt::Debug + Clone + Eq + Hash + Serialize + DeserializeOwned + Send + Sync + 'static
{
    type Value: fmt::Debug + Clone + Serialize + DeserializeOwned + Send + Sync + 'static;

    const KIND: &'static str;
    /// How `python_collections.py` calls a dict of them.
    const PYTHON: &'static str;

    fn of(number: u64) -> Self;
    fn value(number: u64) -> Self::Value;
    /// Whether this is the value for that number.
    fn fits(value: &Self::Value, number: u64) -> bool;
    fn with_bytes<R>(&self, work: impl FnOnce(&[u8]) -> R) -> R;
    /// The keys, made when first asked for.
    fn keys() -> &'static Keys<Self>;
}

impl Key for u64 {
    type Value = u64;

    const KIND: &'static str = "u64 to u64";
    const PYTHON: &'static str = "dict";

    fn of(number: u64) -> Self {
        number
    }

    #[inline]
    fn value(number: u64) -> u64 {
        !number
    }

    #[inline]
    fn fits(value: &u64, number: u64) -> bool {
        *value == !number
    }

    fn with_bytes<R>(&self, work: impl FnOnce(&[u8]) -> R) -> R {
        work(&self.to_ne_bytes())
    }

    fn keys() -> &'static Keys<Self> {
        static MADE: OnceLock<Keys<u64>> = OnceLock::new();
        MADE.get_or_init(Keys::new)
    }
}

/// 80 bytes in memory, with numbers as large as an account has; encoded they are about 70 bytes. (Ten
/// numbers of 56 random bits take 90 ns to decode, for LMDB and for us; these take half of that.)
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Record {
    user: u64,
    account: u64,
    opened: u64,
    changed: u64,
    credit: f64,
    debit: f64,
    limit: f64,
    rate: f64,
    branch: u64,
    version: u64,
}

impl Key for String {
    type Value = Record;

    const KIND: &'static str = "16-byte String to 80-byte struct";
    const PYTHON: &'static str = "record";

    fn of(number: u64) -> Self {
        format!("{number:016x}")
    }

    #[inline]
    fn value(number: u64) -> Record {
        let first = number >> 8;
        Record {
            user: first,
            account: number % 10_000_000_000,
            opened: 1_700_000_000 + number % 100_000_000,
            changed: 1_800_000_000 + number % 100_000_000,
            credit: number as f64 / 100.0,
            debit: first as f64 / 100.0,
            limit: 5000.0,
            rate: 0.035,
            branch: number % 900,
            version: first + 9,
        }
    }

    #[inline]
    fn fits(value: &Record, number: u64) -> bool {
        value.user == number >> 8 && value.version == (number >> 8) + 9
    }

    fn with_bytes<R>(&self, work: impl FnOnce(&[u8]) -> R) -> R {
        work(self.as_bytes())
    }

    fn keys() -> &'static Keys<Self> {
        static MADE: OnceLock<Keys<String>> = OnceLock::new();
        MADE.get_or_init(Keys::new)
    }
}

/// All keys, with their numbers, in two orders that have nothing to do with each other: that in
/// which a dict is filled, and that in which it is visited. Each list is read from the front, so that
/// what is waited for is the dict's memory, not the key's.
#[derive(Debug)]
pub(crate) struct Keys<K> {
    filled: Vec<(u64, K)>,
    visited: Vec<(u64, K)>,
}

impl<K: Key> Keys<K> {
    fn new() -> Self {
        let numbers = (0..KEYS as u64).map(mix);
        let filled: Vec<(u64, K)> = numbers.map(|number| (number, K::of(number))).collect();
        let mut order: Vec<u64> = (0..KEYS as u64).collect();
        order.sort_by_key(|index| mix(KEYS as u64 + index));
        // Cloned in that order, so that the texts, too, lie in the order of the visits.
        let visited = order.into_iter().map(|index| filled[index as usize].clone()).collect();
        Self { filled, visited }
    }

    /// The keys of new entries.
    pub(crate) fn filled(&self, from: usize, calls: u64) -> impl Iterator<Item = &(u64, K)> {
        self.filled[from..from + calls as usize].iter()
    }

    /// The keys of entries that are there, again and again.
    pub(crate) fn visited(&self, from: usize, calls: u64) -> impl Iterator<Item = &(u64, K)> {
        (from..from + calls as usize).map(|call| &self.visited[call % KEYS])
    }
}

/// Adds a row against CPython, which is asked for `request` and so many calls.
pub(crate) fn against_python(
    table: &mut Table,
    name: &str,
    limit: Limit,
    ours: Side<'_>,
    (peer, request, calls): (&str, &str, u64),
    python: &mut Option<Python>,
) {
    let Some(python) = python else {
        table.skipped(name, limit, peer, "skipped: no python3 that runs");
        return;
    };
    let peer = Side::new(peer, calls, |calls| python.ask(&format!("{request} {calls}")));
    table.compare(name, limit, ROUNDS_LONG, ours, peer);
}
