//! A dict of 100 000 entries: one process, and two at the same time.
//!
//! - *get*: a key that is there, in another order than they were inserted; the value is checked.
//! - *insert of a new key*: into a dict that is empty when the round begins, up to all the keys, the
//!   dict's growth included.
//! - *insert of a present key*: into the full dict; the old value comes back.
//!
//! `dashmap` clones what it gets, and its `String` keys before it inserts them; LMDB does not return
//! old values, and its map is emptied and not made anew between rounds. A `Manager`'s dict is always
//! full: its times are those of a message to another process and back.
//!
//! With two processes each makes half of the calls, on halves of the keys for new ones, from a signal
//! until both are done; the other side of the row is one process, on a core as well, that makes all of
//! them.

use super::{KEYS, Key, PYTHON_CALLS, against_python};
use crate::collections_peers::lmdb::Lmdb;
use crate::measure::{Limit, ROUNDS, Side, Table, pinned};
use crate::sync_peers::python::Python;
use crate::sync_peers::stage::{Act, Board, Stage};
use dashmap::DashMap;
use procpool::collections::Dict;
use serde::{Deserialize, Serialize};
use std::hint::black_box;
use std::time::{Duration, Instant};

const ALL: u64 = KEYS as u64;
/// Gets of two processes: more, for the time until both begin to be nothing.
const GETS: u64 = 4 * ALL;

const DASHMAP: &str = "dashmap, in-process";
const LMDB: &str = "LMDB on /dev/shm, a transaction each";
const MANAGER: &str = "CPython Manager().dict";

type Ours<K> = Dict<K, <K as Key>::Value>;
type Threads<K> = DashMap<K, <K as Key>::Value>;

/// Times gets of keys that are there.
fn gets<K: Key>(from: usize, calls: u64, get: impl Fn(&K) -> Option<K::Value>) -> Duration {
    let keys = K::keys();
    let start = Instant::now();
    for (number, key) in keys.visited(from, calls) {
        let value = black_box(get(key)).expect("every key is there");
        assert!(K::fits(&value, *number), "the value of another key");
    }
    start.elapsed()
}

/// Times inserts, which must return an old value exactly if the keys are `present`.
fn inserts<'a, K: Key>(
    entries: impl Iterator<Item = &'a (u64, K)>,
    insert: impl Fn(&K, K::Value) -> Option<K::Value>,
    present: bool,
) -> Duration {
    let start = Instant::now();
    for (number, key) in entries {
        let old = black_box(insert(key, K::value(*number)));
        assert_eq!(old.is_some(), present, "a key that is there exactly if it should be");
    }
    start.elapsed()
}

/// A dict with all the keys.
pub(crate) fn full<K: Key>() -> Ours<K> {
    let dict = Dict::new().unwrap();
    fill(&dict, 0, ALL);
    dict
}

pub(crate) fn get<K: Key>(dict: &Ours<K>, from: usize, calls: u64) -> Duration {
    gets(from, calls, |key: &K| dict.get(key).unwrap())
}

fn fill<K: Key>(dict: &Ours<K>, from: usize, calls: u64) -> Duration {
    let entries = K::keys().filled(from, calls);
    inserts(entries, |key: &K, value| dict.insert(key, &value).unwrap(), false)
}

pub(crate) fn replace<K: Key>(dict: &Ours<K>, from: usize, calls: u64) -> Duration {
    let entries = K::keys().visited(from, calls);
    inserts(entries, |key: &K, value| dict.insert(key, &value).unwrap(), true)
}

/// Times inserts into a dict that is empty at first.
fn fill_new<K: Key>(calls: u64) -> Duration {
    let dict: Ours<K> = Dict::new().unwrap();
    let elapsed = fill(&dict, 0, calls);
    assert_eq!(dict.len() as u64, calls);
    elapsed
}

fn get_threads<K: Key>(map: &Threads<K>, calls: u64) -> Duration {
    gets(0, calls, |key: &K| map.get(key).map(|entry| entry.value().clone()))
}

fn fill_threads<K: Key>(map: &Threads<K>, calls: u64) -> Duration {
    let entries = K::keys().filled(0, calls);
    let elapsed = inserts(entries, |key: &K, value| map.insert(key.clone(), value), false);
    assert_eq!(map.len() as u64, calls);
    elapsed
}

fn replace_threads<K: Key>(map: &Threads<K>, calls: u64) -> Duration {
    let entries = K::keys().visited(0, calls);
    inserts(entries, |key: &K, value| map.insert(key.clone(), value), true)
}

fn insert_lmdb<'a, K: Key>(map: &Lmdb<K>, entries: impl Iterator<Item = &'a (u64, K)>) -> Duration {
    let insert = |key: &K, value| {
        map.insert(key, &value);
        None
    };
    inserts(entries, insert, false)
}

pub(crate) fn rows(table: &mut Table, stage: Option<&Stage>, python: &mut Option<Python>) {
    alone::<u64>(table, python);
    alone::<String>(table, python);
    match stage {
        Some(stage) => {
            together::<u64>(table, stage);
            together::<String>(table, stage);
        }
        None => {
            let name = "Dict by 2 processes";
            table.skipped(name, Limit::Nothing, "", "skipped: no second core");
        }
    }
}

/// Rows of one process.
fn alone<K: Key>(table: &mut Table, python: &mut Option<Python>) {
    let name = format!("Dict get, {}", K::KIND);
    if table.wants(&name) {
        let dict = full::<K>();
        let ours = || Side::new("", ALL, |calls| get(&dict, 0, calls));

        let map = Threads::<K>::new();
        fill_threads(&map, ALL);
        let peer = Side::new(DASHMAP, ALL, |calls| get_threads(&map, calls));
        table.compare(&name, Limit::AtMost(5.0), ROUNDS, ours(), peer);

        lmdb_row(table, &name, ours(), |map: &Lmdb<K>, calls| {
            gets(0, calls, |key: &K| map.get(key))
        });
        let request = format!("{}_get", K::PYTHON);
        let (limit, peer) = (Limit::TimesFaster(200.0), (MANAGER, &*request, PYTHON_CALLS));
        against_python(table, &name, limit, ours(), peer, python);
        assert_eq!(dict.len() as u64, ALL);
    }

    let name = format!("Dict insert of a new key, {}", K::KIND);
    if table.wants(&name) {
        let ours = || Side::new("", ALL, fill_new::<K>);
        let peer = Side::new(DASHMAP, ALL, |calls| fill_threads(&Threads::<K>::new(), calls));
        table.compare(&name, Limit::AtMost(5.0), ROUNDS, ours(), peer);

        lmdb_row(table, &name, ours(), |map, calls| {
            map.clear();
            let elapsed = insert_lmdb(map, K::keys().filled(0, calls));
            assert_eq!(map.len(), calls);
            elapsed
        });
        let request = format!("{}_set", K::PYTHON);
        let (limit, peer) = (Limit::TimesFaster(200.0), (MANAGER, &*request, PYTHON_CALLS));
        against_python(table, &name, limit, ours(), peer, python);
    }

    let name = format!("Dict insert of a present key, {}", K::KIND);
    if table.wants(&name) {
        let dict = full::<K>();
        let ours = || Side::new("", ALL, |calls| replace(&dict, 0, calls));

        let map = Threads::<K>::new();
        fill_threads(&map, ALL);
        let peer = Side::new(DASHMAP, ALL, |calls| replace_threads(&map, calls));
        table.compare(&name, Limit::AtMost(5.0), ROUNDS, ours(), peer);

        lmdb_row(table, &name, ours(), |map, calls| insert_lmdb(map, K::keys().visited(0, calls)));
        let request = format!("{}_set", K::PYTHON);
        let (limit, peer) = (Limit::TimesFaster(200.0), (MANAGER, &*request, PYTHON_CALLS));
        against_python(table, &name, limit, ours(), peer, python);
        assert_eq!(dict.len() as u64, ALL);
    }
}

/// A row against LMDB, whose map is full before the first call.
fn lmdb_row<K: Key>(
    table: &mut Table,
    name: &str,
    ours: Side<'_>,
    work: impl Fn(&Lmdb<K>, u64) -> Duration,
) {
    let limit = Limit::TimesFaster(3.0);
    let Some(map) = Lmdb::<K>::new() else {
        table.skipped(name, limit, LMDB, "skipped: no /dev/shm");
        return;
    };
    insert_lmdb(&map, K::keys().filled(0, ALL));
    let peer = Side::new(LMDB, ALL, |calls| work(&map, calls));
    table.compare(name, limit, ROUNDS, ours, peer);
}

/// Both processes get, each half of the calls, from another place on.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(bound = "")]
struct Gets<K: Key>(Ours<K>);

impl<K: Key> Act for Gets<K> {
    fn here(&self, _: &Board, calls: u64) -> Option<Duration> {
        get(&self.0, 0, calls.div_ceil(2));
        None
    }

    fn there(&self, _: &Board, calls: u64) {
        get(&self.0, KEYS / 2, calls / 2);
    }
}

/// Both processes insert new keys, each half of them.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(bound = "")]
struct Fills<K: Key>(Ours<K>);

impl<K: Key> Act for Fills<K> {
    fn here(&self, _: &Board, calls: u64) -> Option<Duration> {
        fill(&self.0, 0, calls.div_ceil(2));
        None
    }

    fn there(&self, _: &Board, calls: u64) {
        fill(&self.0, calls.div_ceil(2) as usize, calls / 2);
    }
}

/// Both processes insert keys that are there, each half of the calls, from another place on.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(bound = "")]
struct Replaces<K: Key>(Ours<K>);

impl<K: Key> Act for Replaces<K> {
    fn here(&self, _: &Board, calls: u64) -> Option<Duration> {
        replace(&self.0, 0, calls.div_ceil(2));
        None
    }

    fn there(&self, _: &Board, calls: u64) {
        replace(&self.0, KEYS / 2, calls / 2);
    }
}

/// Rows of two processes, against one.
fn together<K: Key>(table: &mut Table, stage: &Stage) {
    let (core, one) = (stage.cores().0, "one process");
    let name = format!("Dict get by 2 processes, {}", K::KIND);
    if table.wants(&name) {
        let act = Gets::<K>(full());
        let ours = Side::new("", GETS, |calls| stage.run(&act, calls));
        let peer = Side::new(one, GETS, |calls| pinned(core, || get(&act.0, 0, calls)));
        table.compare(&name, Limit::TimesFaster(1.6), ROUNDS, ours, peer);
    }
    let name = format!("Dict insert of a new key by 2 processes, {}", K::KIND);
    if table.wants(&name) {
        let ours = Side::new("", ALL, |calls| {
            let act = Fills::<K>(Dict::new().unwrap());
            let elapsed = stage.run(&act, calls);
            assert_eq!(act.0.len() as u64, calls);
            elapsed
        });
        let peer = Side::new(one, ALL, |calls| pinned(core, || fill_new::<K>(calls)));
        table.compare(&name, Limit::TimesFaster(1.0), ROUNDS, ours, peer);
    }
    let name = format!("Dict insert of a present key by 2 processes, {}", K::KIND);
    if table.wants(&name) {
        let act = Replaces::<K>(full());
        let ours = Side::new("", GETS, |calls| stage.run(&act, calls));
        let peer = Side::new(one, GETS, |calls| pinned(core, || replace(&act.0, 0, calls)));
        table.compare(&name, Limit::TimesFaster(1.0), ROUNDS, ours, peer);
        assert_eq!(act.0.len() as u64, ALL);
    }
}
