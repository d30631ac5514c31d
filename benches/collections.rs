//! Dicts, lists, queues and pipes that processes share, against their peers.
//!
//! ```text
//!   this process, core A                             worker of a pool of one, core B
//!      │                                                  │
//!      ├── arena: Dict, List, Queue, Pipe ────────────────┤   ours
//!      ├── socket: ipc-channel ───────────────────────────┤   the peers, in the same two
//!      ├── mapping of a memfd: futex words, two lines ────┘   processes on the same cores
//!      │
//!      ├── arena: Queue ── three workers of another pool      2 producers, 2 consumers
//!      ├── heap: dashmap                                      no other process takes part
//!      ├── file on /dev/shm: LMDB                             nor here
//!      │
//!      └── pipe ── python3 ──┬── socket ── Manager's process  CPython, in processes of its own
//!                            └── forks of it
//! ```
//!
//! # What is measured
//! First criterion's groups, for comparing a change with the state before it. Then the ratio table:
//! each row runs our side and a peer in turn, round by round, and compares their medians with what
//! ours must reach (`collections_rows/`, which also say what each row does). Absolute times drift
//! between machines and days; the ratios are what to look at.
//!
//! - `cargo bench --bench collections`: everything; a table at the end, and in the file that
//!   `PROCPOOL_RECORD` names, if it does.
//! - `cargo bench --bench collections -- NAME`: the groups that match, and the rows whose names
//!   contain NAME.
//! - `benches/record collections`: everything, into `benches/RESULTS.md`.
//!
//! # What it does not tell
//! Nothing about more than two processes at a dict, nor about several that want the same key all the
//! time: two processes at random keys of a hundred thousand seldom meet. Nothing is done between two
//! calls, so that a queue's ends run at each other's heels as in no sensible program. The arena's memory
//! is warm after the first round: a program that fills its dict once also pays the kernel for the pages.
//! `dashmap` stays in one process and keeps values as they are, where ours are encoded; LMDB's keys are
//! sorted and its readers never wait; neither is told when a process dies, and what a death costs is
//! not measured here. Waking a sleeper is mostly the kernel's and the machine's work, and differs
//! between machines more than anything else here. So does the way of a cache line from core to core,
//! which is all that a queue's ends at each other's heels wait for: on the machine of the record it takes
//! 40 ns, and for minutes at a time 175 ns (two threads passing one word to and fro), when the host has
//! put the two cores far from each other. Then a value of 1 KiB takes 900 ns in place of 200. Foreign
//! load is not held off, so run it on an idle machine.
#![deny(unsafe_code)]

mod collections_peers;
mod collections_rows;
mod measure;
#[allow(dead_code)] // The stage, the futex calls and CPython; the rest is for `sync.rs`.
mod sync_peers;

use collections_rows::{Key, dict, growth, list, pipe, queue};
use criterion::Criterion;
use measure::Limit;
use procpool::Pool;
use std::process::ExitCode;
use sync_peers::python::Python;
use sync_peers::stage::Stage;

const PYTHON_COLLECTIONS: &str = include_str!("python_collections.py");

/// Room for a dict of ten million entries that grows; memory is used only as it is touched.
const ARENA_BYTES: usize = 4 << 30;

fn main() -> ExitCode {
    let mut criterion = measure::criterion();
    // The first pool of a process decides how large the arena is.
    let crew = Pool::builder().workers(3).name("crew").arena_bytes(ARENA_BYTES).build();
    let crew = crew.expect("a pool");
    let stage = Stage::start();
    dict_group::<u64>(&mut criterion, "dict_u64");
    dict_group::<String>(&mut criterion, "dict_record");
    list_group(&mut criterion);
    if let Some(stage) = &stage {
        together_group(&mut criterion, stage);
    }
    criterion.final_summary();
    let Some(mut table) = measure::table() else { return ExitCode::SUCCESS };
    let mut python = Python::start(PYTHON_COLLECTIONS);
    dict::rows(&mut table, stage.as_ref(), &mut python);
    list::rows(&mut table, &mut python);
    match &stage {
        Some(stage) => {
            queue::rows(&mut table, stage, &crew, &mut python);
            pipe::rows(&mut table, stage, &mut python);
        }
        None => {
            let name = "rows of two processes";
            table.skipped(name, Limit::Nothing, "", "skipped: no second core");
        }
    }
    growth::rows(&mut table);
    let version = python.as_ref().map_or("none found", |python| &python.version);
    measure::finish(&table, &[format!("Python: {version}")])
}

fn dict_group<K: Key>(criterion: &mut Criterion, name: &str) {
    let mut group = criterion.benchmark_group(name);
    let dict = dict::full::<K>();
    group.bench_function("get", |bencher| {
        bencher.iter_custom(|calls| dict::get(&dict, 0, calls));
    });
    group.bench_function("insert_present", |bencher| {
        bencher.iter_custom(|calls| dict::replace(&dict, 0, calls));
    });
    group.finish();
}

fn list_group(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("list_u64");
    let list = list::full();
    group.bench_function("get", |bencher| {
        bencher.iter_custom(|calls| list::get(&list, calls));
    });
    group.finish();
}

fn together_group(criterion: &mut Criterion, stage: &Stage) {
    let mut group = criterion.benchmark_group("two_processes");
    let small = queue::Flow::<u64>::new();
    group.bench_function("queue_8", |bencher| {
        bencher.iter_custom(|calls| stage.run(&small, calls));
    });
    let large = queue::Flow::<Vec<u8>>::new();
    group.bench_function("queue_1024", |bencher| {
        bencher.iter_custom(|calls| stage.run(&large, calls));
    });
    let round_trip = pipe::RoundTrip(pipe::Ends::new());
    group.bench_function("pipe_round_trip", |bencher| {
        bencher.iter_custom(|calls| stage.run(&round_trip, calls));
    });
    group.finish();
}
