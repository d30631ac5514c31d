//! Locks, events and the like between processes, against their peers.
//!
//! ```text
//!   this process, core A                            worker of a pool of one, core B
//!      │                                                 │
//!      ├── arena: Mutex, Event, Barrier, Value ──────────┤   ours
//!      ├── mapping of a memfd: pthread mutex, futex ─────┤   the peers, in the same two
//!      │   word, AtomicU64, raw_sync's objects ──────────┘   processes on the same cores
//!      │
//!      └── pipe ── python3 ── fork of it                     CPython, in processes of its own
//! ```
//!
//! # What is measured
//! First criterion's groups, for comparing a change with the state before it. Then the ratio table:
//! each row runs our side and a peer in turn, round by round, and compares their medians with what
//! ours must reach (`sync_rows/`, which also say what each row does). Absolute times drift between
//! machines and days; the ratios are what to look at.
//!
//! - `cargo bench --bench sync`: everything; a table at the end, and in the file that
//!   `PROCPOOL_RECORD` names, if it does.
//! - `cargo bench --bench sync -- NAME`: the groups that match, and the rows whose names contain
//!   NAME.
//! - `benches/record sync`: everything, into `benches/RESULTS.md`.
//!
//! # What it does not tell
//! Nothing about more than two processes, nor about more processes than cores, where a lock's holder
//! is kept off its core. Nothing is done between two operations: a contended lock is wanted all the
//! time, as no sensible program wants it. The peers pay for less: of them only the robust mutex tells
//! that a holder has died, and what a death costs is not measured here. Waking a sleeper is mostly the
//! kernel's and the machine's work, and differs between machines more than anything else here.
//! Foreign load is not held off, so run it on an idle machine.
#![deny(unsafe_code)]

mod measure;
mod sync_peers;
mod sync_rows;

use criterion::Criterion;
use procpool::sync::{Barrier, Mutex, RwLock, Semaphore, Value};
use std::process::ExitCode;
use sync_peers::python::Python;
use sync_peers::stage::Stage;
use sync_rows::{Both, alone, event, together};

const PYTHON_SYNC: &str = include_str!("python_sync.py");

fn main() -> ExitCode {
    let mut criterion = measure::criterion();
    let stage = Stage::start();
    alone_group(&mut criterion);
    if let Some(stage) = &stage {
        together_group(&mut criterion, stage);
    }
    criterion.final_summary();
    let Some(mut table) = measure::table() else { return ExitCode::SUCCESS };
    let mut python = Python::start(PYTHON_SYNC);
    alone::rows(&mut table, &mut python);
    match &stage {
        Some(stage) => {
            together::rows(&mut table, stage, &mut python);
            event::rows(&mut table, stage);
        }
        None => {
            let (name, limit) = ("rows of two processes", measure::Limit::Nothing);
            table.skipped(name, limit, "", "skipped: no second core");
        }
    }
    let version = python.as_ref().map_or("none found", |python| &python.version);
    measure::finish(&table, &[format!("Python: {version}")])
}

fn alone_group(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("uncontended");
    let mutex = Mutex::new(0u64).unwrap();
    group.bench_function("mutex", |bencher| {
        bencher.iter_custom(|calls| alone::lock(&mutex, calls));
    });
    let semaphore = Semaphore::new(1).unwrap();
    group.bench_function("semaphore", |bencher| {
        bencher.iter_custom(|calls| alone::acquire(&semaphore, calls));
    });
    let lock = RwLock::new(0u64).unwrap();
    group.bench_function("rwlock_read", |bencher| {
        bencher.iter_custom(|calls| alone::read(&lock, calls));
    });
    group.finish();
}

fn together_group(criterion: &mut Criterion, stage: &Stage) {
    let mut group = criterion.benchmark_group("two_processes");
    let lock = Both(together::Lock(Mutex::new(0u64).unwrap()));
    group.bench_function("mutex", |bencher| {
        bencher.iter_custom(|calls| stage.run(&lock, calls));
    });
    let add = Both(together::Add(Value::new(0u64).unwrap()));
    group.bench_function("value_add", |bencher| {
        bencher.iter_custom(|calls| stage.run(&add, calls));
    });
    let cycle = together::Cycle(Barrier::new(2).unwrap());
    group.bench_function("barrier_cycle", |bencher| {
        bencher.iter_custom(|calls| stage.run(&cycle, calls));
    });
    let ping_pong = event::PingPong::new();
    group.bench_function("event_round_trip", |bencher| {
        bencher.iter_custom(|calls| stage.run(&ping_pong, calls));
    });
    group.finish();
}
