//! A list of 100 000 numbers in one process: an element at the end, or one of those that are there.
//!
//! Pushes begin with an empty list, the list's growth included. A `Manager`'s list answers by message;
//! nothing else that processes share has a list.

use super::{KEYS, PYTHON_CALLS, against_python, one_below};
use crate::measure::{Limit, Side, Table};
use crate::sync_peers::python::Python;
use procpool::collections::List;
use std::hint::black_box;
use std::time::{Duration, Instant};

const ALL: u64 = KEYS as u64;
const MANAGER: &str = "CPython Manager().list";

pub(crate) fn full() -> List<u64> {
    let list = List::new().unwrap();
    list.extend(0..ALL).unwrap();
    list
}

/// Gets elements of a full list, in no visible order.
pub(crate) fn get(list: &List<u64>, calls: u64) -> Duration {
    let start = Instant::now();
    for call in 0..calls {
        let index = one_below(ALL, call);
        let element = black_box(list.get(index as usize)).unwrap();
        assert_eq!(element, Some(index));
    }
    start.elapsed()
}

/// Pushes on a list that is empty at first.
fn push(calls: u64) -> Duration {
    let list = List::new().unwrap();
    let start = Instant::now();
    for number in 0..calls {
        list.push(&number).unwrap();
    }
    let elapsed = start.elapsed();
    assert_eq!(list.len() as u64, calls);
    assert_eq!(list.get(calls as usize - 1).unwrap(), Some(calls - 1));
    elapsed
}

pub(crate) fn rows(table: &mut Table, python: &mut Option<Python>) {
    let limit = Limit::TimesFaster(200.0);
    let name = "List push, u64";
    if table.wants(name) {
        let ours = Side::new("", ALL, push);
        against_python(table, name, limit, ours, (MANAGER, "list_push", PYTHON_CALLS), python);
    }
    let name = "List get, u64";
    if table.wants(name) {
        let list = full();
        let ours = Side::new("", ALL, |calls| get(&list, calls));
        against_python(table, name, limit, ours, (MANAGER, "list_get", PYTHON_CALLS), python);
    }
}
