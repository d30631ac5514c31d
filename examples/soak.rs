//! Works for a long time, and watches whether anything grows: memory, descriptors, threads, processes, arena.
//!
//! ```sh
//! cargo run --release --example soak -- [--minutes 1] [--out soak.svg]
//! ```
//!
//! All the while, workers are recycled and killed, the pool changes its size, tasks fail, shared objects
//! come and go. It takes a quarter of the machine, and sleeps in between. What is sampled each second is drawn as an
//! SVG; after the first fifth of the time, nothing may grow: the medians of the second and the last fifth are
//! compared, and the program fails if a curve has risen by more than a tenth (and a little).
//!
//! The shared memory that the program has touched is what all that lived at the same time ever took, at most: it rises whenever
//! chance has more of it alive than before, less and less often. So it may rise by a fixed amount, which is what one round
//! can have alive, however long the run: what leaks a page a second is found in less than an hour and a half.
#![deny(missing_docs)]

#[path = "../tests/support/mod.rs"]
mod support;

use plotters::prelude::*;
use procpool::collections::Dict;
use procpool::queue::Queue;
use procpool::sync::{Encoded, Mutex};
use procpool::{Pool, Recycle, TaskOptions};
use std::time::{Duration, Instant};
use support::{Random, children, descendants, guardian_of, kill};

type Failure = Box<dyn std::error::Error>;

/// What is looked at, and how much more of it at the end is still "the same".
const CURVES: [(&str, f64); 8] = [
    ("private memory of the program, KiB", 256.0),
    ("shared memory that the program has touched, KiB", 4096.0),
    ("resident memory of the guardian, KiB", 256.0),
    ("resident memory of a worker, KiB (mean)", 512.0),
    ("descriptors of the program", 4.0),
    ("threads of the program", 1.0),
    ("processes", 3.0),
    ("arena in use, KiB", 128.0),
];

/// A line of a process's status that is in KiB.
fn status_kib(what: &str) -> f64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(what));
    let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    number.unwrap_or(0.0)
}

type Sample = [f64; CURVES.len()];

fn resident_kib(pid: u32) -> f64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/statm")).unwrap_or_default();
    text.split(' ').nth(1).and_then(|pages| pages.parse().ok()).unwrap_or(0.0) * 4.0
}

fn count(folder: &str) -> f64 {
    std::fs::read_dir(folder).map_or(0.0, |entries| entries.count() as f64)
}

/// What there is of everything; nothing, if somebody who is looked at has just died.
fn sample(pool: &Pool) -> Option<Sample> {
    let own = std::process::id();
    let guardian = guardian_of(own)?;
    let workers = children(guardian);
    let of_workers: Vec<f64> =
        workers.iter().map(|pid| resident_kib(*pid)).filter(|kib| *kib > 0.0).collect();
    let count_of_workers = of_workers.len();
    let sample = [
        status_kib("RssAnon:"),
        status_kib("RssShmem:"),
        resident_kib(guardian),
        of_workers.iter().sum::<f64>() / count_of_workers.max(1) as f64,
        count("/proc/self/fd"),
        count("/proc/self/task"),
        descendants(own).len() as f64,
        pool.stats().arena_used_bytes as f64 / 1024.0,
    ];
    sample.iter().all(|value| *value > 0.0).then_some(sample)
}

/// A little of everything.
fn work(pool: &Pool, random: &mut Random) -> Result<(), Failure> {
    let squares = pool.map_each(|n: u64| n * n, 0..20_000)?;
    assert!(squares.into_iter().zip(0..).all(|(ended, n)| ended.is_ok_and(|value| value == n * n)));
    let texts = pool.map(|n: usize| "x".repeat(n), (0..50).map(|n| n * 997 % 60_000))?;
    assert_eq!(texts.len(), 50);
    let shared =
        (Dict::<u64, String>::new()?, Queue::<Vec<u8>>::new(8)?, Mutex::encoded(&Vec::new())?);
    type Shared = (Dict<u64, String>, Queue<Vec<u8>>, Mutex<Encoded<Vec<u64>>>);
    let change = |(dict, queue, list): &Shared, n: u64| {
        dict.insert(&n, &n.to_string().repeat(20)).is_ok()
            && queue.try_put(vec![0; 2000]).is_ok_and(|()| queue.try_get().is_ok())
            && list.lock().is_ok_and(|mut list| list.update(|list| list.push(n)).is_ok())
    };
    let changed = pool.with(&shared).map(change, 0..200)?;
    assert_eq!(changed.len(), 200);
    let late = TaskOptions::new().timeout(Duration::from_millis(2)).grace(Duration::ZERO);
    let nap = |ms: u64| std::thread::sleep(Duration::from_millis(ms));
    assert!(pool.submit_with(late, nap, 10_000)?.join().is_err());
    assert!(pool.submit(|(): ()| -> u8 { std::process::exit(3) }, ())?.join().is_err());
    pool.resize(1 + random.next() as usize % 4)?;
    // Whatever it does just now: what is lost is not asked for.
    let victim = guardian_of(std::process::id()).and_then(|pid| children(pid).first().copied());
    let doomed: Vec<_> = (0..8).map(|_| pool.submit(nap, 1)).collect::<Result<_, _>>()?;
    if let Some(pid) = victim {
        kill(pid, 9);
    }
    doomed.into_iter().for_each(|task| drop(task.join()));
    Ok(())
}

fn draw(samples: &[(f64, Sample)], path: &str) -> Result<(), Failure> {
    let area = SVGBackend::new(path, (900, 1280)).into_drawing_area();
    area.fill(&WHITE)?;
    let minutes = samples.last().map_or(1.0, |(at, _)| *at);
    for (number, part) in area.split_evenly((CURVES.len(), 1)).iter().enumerate() {
        let values = || samples.iter().map(|(_, sample)| sample[number]);
        let highest = values().fold(1.0, f64::max) * 1.15;
        let mut chart = ChartBuilder::on(part)
            .caption(CURVES[number].0, ("sans-serif", 14))
            .margin(6)
            .x_label_area_size(22)
            .y_label_area_size(60)
            .build_cartesian_2d(0.0..minutes, 0.0..highest)?;
        chart.configure_mesh().x_desc("minutes").y_labels(4).x_labels(7).draw()?;
        // The highest of each stretch: no more points than can be told apart.
        let stretches = samples.chunks(samples.len().div_ceil(300).max(1));
        let points = stretches.map(|part| {
            let highest = part.iter().map(|(_, sample)| sample[number]).fold(0.0, f64::max);
            (part[0].0, highest)
        });
        chart.draw_series(LineSeries::new(points, &BLUE))?;
    }
    area.present()?;
    Ok(())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

/// What has grown between the second fifth and the last.
fn grown(samples: &[(f64, Sample)]) -> Vec<String> {
    let fifth = samples.len() / 5;
    let mut grown = Vec::new();
    println!("| | second fifth | last fifth |\n|---|---|---|");
    for (number, (what, little)) in CURVES.iter().enumerate() {
        let of = |part: &[(f64, Sample)]| median(part.iter().map(|(_, all)| all[number]).collect());
        let (before, after) = (of(&samples[fifth..2 * fifth]), of(&samples[4 * fifth..]));
        println!("| {what} | {before:.0} | {after:.0} |");
        if after > before * 1.1 + little {
            grown.push(format!("{what}: from {before:.0} to {after:.0}"));
        }
    }
    grown
}

fn main() -> Result<(), Failure> {
    let (mut minutes, mut out) = (1.0, "soak.svg".to_owned());
    let mut arguments = std::env::args().skip(1);
    while let Some(name) = arguments.next() {
        match (name.as_str(), arguments.next()) {
            ("--minutes", Some(value)) => minutes = value.parse()?,
            ("--out", Some(value)) => out = value,
            (name, _) => return Err(format!("{name} is not understood").into()),
        }
    }
    let pool = Pool::builder()
        .workers(2)
        .name("soak")
        .recycle(Recycle::after_tasks(20_000).jitter(0.2))
        .restart_limit(1_000_000, Duration::from_secs(1))
        .build()?;
    let mut random = Random(1);
    let (began, mut samples, mut rounds, mut missed) = (Instant::now(), Vec::new(), 0u64, 0usize);
    let length = Duration::from_secs_f64(minutes * 60.0);
    // Enough samples for fifths, also of a short run.
    let every = Duration::from_secs(1).min(length / 100);
    while began.elapsed() < length {
        let round = Instant::now();
        work(&pool, &mut random)?;
        rounds += 1;
        std::thread::sleep(round.elapsed() * 3);
        if began.elapsed() >= every * samples.len() as u32 {
            match sample(&pool) {
                Some(sample) => samples.push((began.elapsed().as_secs_f64() / 60.0, sample)),
                None => missed += 1,
            }
        }
    }
    let stats = pool.stats();
    println!(
        "{rounds} rounds, {} tasks, {} workers started, {} recycled, {} lost, {} killed, {} retired, in {minutes} minutes\n",
        stats.tasks_ended,
        stats.workers_started,
        stats.workers_recycled,
        stats.workers_lost,
        stats.workers_killed,
        stats.workers_retired
    );
    println!("{} samples; {missed} times somebody had just died\n", samples.len());
    if missed > samples.len() / 20 {
        return Err(format!("{missed} samples of {} failed", samples.len()).into());
    }
    draw(&samples, &out)?;
    let grown = grown(&samples);
    if grown.is_empty() { Ok(()) } else { Err(format!("grown: {}", grown.join("; ")).into()) }
}
