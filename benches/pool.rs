//! The pool against its peers.
//!
//! ```text
//!   this process                       guardian ── workers 1, 2
//!   submit, map ──── shared memory ──────────────────┘
//!       │
//!       ├── socket, two shared words ── helper process     (ping-pong; fork, exit and wait)
//!       ├── ipc-channel sockets ─────── procspawn's two processes
//!       ├── pipes ───────────────────── python3 ── its two workers
//!       └── channel ─────────────────── two threads        (crossbeam, rayon)
//! ```
//!
//! # What is measured
//! First criterion's groups, one for each kind of work, for comparing a change with the state
//! before it. Then the ratio table: each row runs the pool and a peer in turn and compares their
//! medians with what the pool must reach (`rows/`, which also say what each row does). Absolute
//! times drift between machines and days; the ratios are what to look at.
//!
//! - `cargo bench --bench pool`: everything; a table at the end, and in the file that
//!   `PROCPOOL_RECORD` names, if it does.
//! - `cargo bench --bench pool -- NAME`: the groups that match, and the rows whose names contain
//!   NAME.
//! - `benches/record`: everything, into `benches/RESULTS.md`.
//!
//! # What it does not tell
//! Nothing about large payloads, many submitting threads, tasks of uneven length, or more than one
//! NUMA node. The calls are tiny: the figures are the pool's own cost, not the speed-up of real
//! work. Both sides of a row have warm code and memory. The submitting thread shares the two cores
//! with the two workers, as it would in a program on such a machine; foreign load is not held off,
//! so run it on an idle one.
#![deny(unsafe_code)]

mod measure;
mod peers;
mod rows;

use criterion::{BenchmarkId, Criterion, Throughput};
use peers::helper::Helper;
use peers::spawned;
use std::process::ExitCode;

fn main() -> ExitCode {
    // procspawn's processes go their own way here; the pool's did so before `main`.
    procspawn::init();
    let mut helper = Helper::fork();
    let mut criterion = measure::criterion();
    map_groups(&mut criterion);
    submit_groups(&mut criterion, &mut helper);
    life_groups(&mut criterion, &mut helper);
    criterion.final_summary();
    let Some(mut table) = measure::table() else { return ExitCode::SUCCESS };
    let note = rows::map::rows(&mut table);
    rows::submit::rows(&mut table, &mut helper);
    rows::granularity::rows(&mut table);
    rows::life::rows(&mut table, &mut helper);
    rows::surface::rows(&mut table);
    measure::finish(&table, note.as_slice())
}

fn map_groups(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("map_u64");
    let pool = rows::pool(2);
    for calls in [1_000, 100_000, 1_000_000] {
        group.throughput(Throughput::Elements(calls));
        group.bench_with_input(BenchmarkId::from_parameter(calls), &calls, |bencher, calls| {
            bencher.iter_custom(|maps| (0..maps).map(|_| rows::map::squares(&pool, *calls)).sum());
        });
    }
    group.finish();
    let mut group = criterion.benchmark_group("map_structs");
    let calls = 20_000;
    group.throughput(Throughput::Elements(calls));
    group.bench_function("pool", |bencher| {
        let map = || rows::map::corrected(&pool, rows::map::readings(calls));
        bencher.iter_custom(|maps| (0..maps).map(|_| map()).sum());
    });
    group.bench_function("codec_in_one_thread", |bencher| {
        let map = || rows::map::in_one_thread(rows::map::readings(calls));
        bencher.iter_custom(|maps| (0..maps).map(|_| map()).sum());
    });
    group.finish();
    let mut group = criterion.benchmark_group("map_spins");
    let calls = 100_000;
    group.throughput(Throughput::Elements(calls));
    group.bench_function("50_steps", |bencher| {
        let map = || rows::granularity::map_spins(&pool, 50, calls);
        bencher.iter_custom(|maps| (0..maps).map(|_| map()).sum());
    });
    group.finish();
}

fn submit_groups(criterion: &mut Criterion, helper: &mut Helper) {
    let mut group = criterion.benchmark_group("submit_and_wait");
    for workers in [1, 2] {
        let pool = rows::pool(workers);
        group.bench_function(BenchmarkId::new("busy", workers), |bencher| {
            bencher.iter_custom(|calls| rows::submit::back_to_back(&pool, calls));
        });
        group.bench_function(BenchmarkId::new("asleep", workers), |bencher| {
            bencher.iter_custom(|calls| rows::submit::after_pauses(&pool, calls));
        });
    }
    group.bench_function("ping_pong", |bencher| {
        bencher.iter_custom(|calls| helper.spin(calls));
    });
    let peer = spawned::pool(2);
    group.bench_function("procspawn", |bencher| {
        bencher.iter_custom(|calls| spawned::submit_and_wait(&peer, calls));
    });
    group.finish();
    let mut group = criterion.benchmark_group("submit_window");
    group.throughput(Throughput::Elements(1));
    for workers in [1, 2] {
        let pool = rows::pool(workers);
        group.bench_function(BenchmarkId::new("pool", workers), |bencher| {
            let run = |calls| rows::submit::in_window(&pool, rows::submit::plus_one, 1, calls);
            bencher.iter_custom(run);
        });
    }
    group.finish();
}

fn life_groups(criterion: &mut Criterion, helper: &mut Helper) {
    let mut group = criterion.benchmark_group("first_result");
    group.bench_function("pool", |bencher| {
        bencher.iter_custom(|starts| (0..starts).map(|_| rows::life::first_result().0).sum());
    });
    group.bench_function("procspawn", |bencher| {
        bencher.iter_custom(|starts| (0..starts).map(|_| spawned::first_result().0).sum());
    });
    group.finish();
    let mut group = criterion.benchmark_group("replace_worker");
    let pool = rows::pool(1);
    group.bench_function("pool", |bencher| {
        bencher.iter_custom(|times| rows::life::replace(&pool, times));
    });
    group.bench_function("fork_exit_wait", |bencher| {
        bencher.iter_custom(|forks| helper.fork_exit_wait(forks) * forks as u32);
    });
    group.finish();
}
