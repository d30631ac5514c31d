//! The smallest call that two workers run with at least half of what two cores could do (METG,
//! the minimum effective task granularity of Task Bench, Slaughter and others 2020).
//!
//! A call spins for a number of steps. What a step takes is calibrated with two threads at once,
//! so that cores which share their execution units, or clock down together, are not held against
//! the pool. For calls of duration `d`, efficiency is `n * d / 2` over the time that `n` calls
//! took. Durations go down by factors of 1.5 until some in a row miss one half (one or two may do
//! so because of foreign load); the result lies on the line (over the logarithm of `d`) between the
//! shortest that reached it and the next. "Up to" marks the shortest duration that was tried.
//!
//! Foreign load makes these rows worse than any other: a single figure far off the ones of other
//! runs means nothing.

use super::pool;
use super::submit::{WINDOW, in_window};
use crate::measure::{Limit, Table, median, unit};
use crate::peers::threads::{Rayon, Threads};
use procpool::Pool;
use std::hint::black_box;
use std::sync::Barrier;
use std::time::{Duration, Instant};

const WORKERS: f64 = 2.0;
const SHORTEST_NS: f64 = 20.0;
const LONGEST_NS: f64 = 50_000.0;
const STEP: f64 = 1.5;
/// How long a measurement should take if there were no overhead.
const ROUND_NS: f64 = 25e6;
const CALLS_MAX: f64 = 400_000.0;
/// Measurements of one duration, of which the median counts.
const REPEATS: usize = 5;
/// Durations in a row that miss one half before the search ends.
const MISSES: u32 = 4;

/// Spins for that many steps.
pub(crate) fn spin(steps: u64) -> u64 {
    let mut value = steps;
    for _ in 0..steps {
        value = black_box(value.wrapping_mul(3).wrapping_add(1));
    }
    value
}

/// Maps that many calls of `spin`.
pub(crate) fn map_spins(pool: &Pool, steps: u64, calls: u64) -> Duration {
    let start = Instant::now();
    let results = pool.map(spin, (0..calls).map(|_| steps)).expect("results");
    let elapsed = start.elapsed();
    assert_eq!(results.len() as u64, calls);
    elapsed
}

/// What one call takes, in nanoseconds, while another thread does the same: the median of nine
/// measurements of about a millisecond, since whatever disturbs it would count as useful work.
fn calibrate(steps: u64, calls: u64) -> f64 {
    let barrier = Barrier::new(2);
    let time = || {
        let mut times = [0f64; 9];
        for time in &mut times {
            barrier.wait();
            let start = Instant::now();
            for _ in 0..calls {
                black_box(spin(black_box(steps)));
            }
            *time = start.elapsed().as_nanos() as f64 / calls as f64;
        }
        times.sort_unstable_by(f64::total_cmp);
        median(&times)
    };
    std::thread::scope(|scope| {
        let other = scope.spawn(time);
        let own = time();
        other.join().map_or(own, |other| own.midpoint(other))
    })
}

/// The search on one side: runs calls of so many steps, and what came out so far.
struct Search<'a> {
    run: Box<dyn FnMut(u64, u64) -> Duration + 'a>,
    /// Duration and efficiency of the shortest call that reached one half.
    reached: Option<(f64, f64)>,
    /// The same of the first below it that did not.
    missed: Option<(f64, f64)>,
    misses: u32,
}

impl<'a> Search<'a> {
    fn new(run: impl FnMut(u64, u64) -> Duration + 'a) -> Self {
        Self { run: Box::new(run), reached: None, missed: None, misses: 0 }
    }

    fn is_over(&self) -> bool {
        self.misses == MISSES
    }

    fn efficiency(&mut self, steps: u64, duration_ns: f64, calls: u64) -> f64 {
        let elapsed_ns = (self.run)(steps, calls).as_nanos() as f64;
        calls as f64 * duration_ns / WORKERS / elapsed_ns
    }

    fn note(&mut self, duration_ns: f64, efficiency: f64) {
        if efficiency >= 0.5 {
            (self.reached, self.missed, self.misses) = (Some((duration_ns, efficiency)), None, 0);
        } else {
            self.missed = self.missed.or(Some((duration_ns, efficiency)));
            self.misses += 1;
        }
    }

    /// The duration at which one half is reached, in nanoseconds.
    fn result(&self) -> Option<f64> {
        let (long, above) = self.reached?;
        let Some((short, below)) = self.missed else { return Some(long) };
        let share = (0.5 - below) / (above - below);
        Some((short.ln() + share * (long.ln() - short.ln())).exp())
    }

    /// The cell of the table.
    fn text(&self) -> String {
        match self.result() {
            None => format!("none up to {}", unit(LONGEST_NS)),
            Some(nanos) if self.missed.is_none() => format!("up to {}", unit(nanos)),
            Some(nanos) => unit(nanos),
        }
    }
}

fn search(name: &str, sides: &mut [Search<'_>; 2]) {
    eprintln!("measuring {name}");
    let step_ns = calibrate(1_000_000, 1) / 1e6;
    let mut wanted_ns = LONGEST_NS;
    while wanted_ns >= SHORTEST_NS && !sides.iter().all(Search::is_over) {
        let steps = (wanted_ns / step_ns).round().max(1.0) as u64;
        let duration_ns = calibrate(steps, (1e6 / wanted_ns) as u64);
        let calls = (ROUND_NS * WORKERS / duration_ns).min(CALLS_MAX) as u64;
        let mut efficiencies = [const { Vec::new() }; 2];
        for _ in 0..REPEATS {
            for (side, efficiencies) in sides.iter_mut().zip(&mut efficiencies) {
                if !side.is_over() {
                    efficiencies.push(side.efficiency(steps, duration_ns, calls));
                }
            }
        }
        for (side, efficiencies) in sides.iter_mut().zip(&mut efficiencies) {
            if !efficiencies.is_empty() {
                efficiencies.sort_unstable_by(f64::total_cmp);
                side.note(duration_ns, median(efficiencies));
            }
        }
        wanted_ns /= STEP;
    }
}

fn row<'a>(
    table: &mut Table,
    name: &str,
    limit: Limit,
    ours: Search<'a>,
    (peer_name, peer): (&str, Search<'a>),
) {
    let mut sides = [ours, peer];
    search(name, &mut sides);
    let [ours, peer] = sides;
    let figures = (ours.result().unwrap_or(f64::INFINITY), peer.result().unwrap_or(f64::INFINITY));
    table.figures(name, limit, (&ours.text(), figures.0), (peer_name, &peer.text(), figures.1));
}

pub(crate) fn rows(table: &mut Table) {
    let name = "smallest call with 50% efficiency, by submit";
    if table.wants(name) {
        let pool = pool(2);
        let threads = Threads::start(spin, WINDOW as u64);
        let ours = Search::new(|steps, calls| in_window(&pool, spin, steps, calls));
        let peer = Search::new(|steps, calls| threads.submit_in_window(steps, calls));
        row(table, name, Limit::Nanos(1_000.0), ours, ("crossbeam channel, 2 threads", peer));
    }
    let name = "smallest call with 50% efficiency, by map";
    if table.wants(name) {
        let pool = pool(2);
        let rayon = Rayon::start();
        let ours = Search::new(|steps, calls| map_spins(&pool, steps, calls));
        let peer = Search::new(|steps, calls| rayon.map(spin, steps, calls));
        row(table, name, Limit::Nanos(50.0), ours, ("rayon, 2 threads", peer));
    }
}
