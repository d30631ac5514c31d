//! Two sides of a comparison, measured in turn, and the table of their ratios.
//!
//! Sides alternate round by round, so that a change of clock speed or foreign load meets both. A
//! cell shows the median of the rounds and, in brackets, the fastest and the slowest round. The
//! ratio is that of the medians. A requirement that is missed stays in the table.
#![allow(dead_code, unused_imports)] // Each bench uses a part of it.

mod cores;
mod record;
mod run;

pub(crate) use cores::{pin, pinned, two_cores};
pub(crate) use run::{criterion, finish, table};
use std::fmt;
use std::time::Duration;

/// Rounds of a comparison whose sides take milliseconds.
pub(crate) const ROUNDS: usize = 15;
/// Rounds of a comparison whose sides take tenths of a second.
pub(crate) const ROUNDS_LONG: usize = 7;

/// What a row must reach.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Limit {
    /// At most this many times the peer's time.
    AtMost(f64),
    /// At least this many times as fast as the peer.
    TimesFaster(f64),
    /// At most this many nanoseconds per call.
    Nanos(f64),
    /// At least this many calls per second.
    PerSecond(f64),
    /// Nothing: the row is there to be read.
    Nothing,
}

impl Limit {
    fn is_met(self, ours_ns: f64, peer_ns: f64) -> Option<bool> {
        match self {
            Self::AtMost(times) => Some(ours_ns <= times * peer_ns),
            Self::TimesFaster(times) => Some(ours_ns * times <= peer_ns),
            Self::Nanos(nanos) => Some(ours_ns <= nanos),
            Self::PerSecond(calls) => Some(1e9 / ours_ns >= calls),
            Self::Nothing => None,
        }
    }

    fn ratio(self, ours_ns: f64, peer_ns: f64) -> String {
        match self {
            Self::TimesFaster(_) => format!("{} x faster", digits(peer_ns / ours_ns)),
            Self::PerSecond(_) => format!("{} M/s", digits(1e3 / ours_ns)),
            _ if !peer_ns.is_finite() => String::new(),
            _ => digits(ours_ns / peer_ns),
        }
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtMost(times) => write!(formatter, "at most {times}"),
            Self::TimesFaster(times) => write!(formatter, "{times} x faster"),
            Self::Nanos(nanos) => write!(formatter, "at most {}", unit(*nanos)),
            Self::PerSecond(calls) => write!(formatter, "{} M/s", calls / 1e6),
            Self::Nothing => formatter.write_str("none"),
        }
    }
}

/// Nanoseconds per call over the rounds of one side.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Spread {
    pub(crate) median_ns: f64,
    least_ns: f64,
    most_ns: f64,
}

impl Spread {
    pub(crate) fn of(rounds: &mut [f64]) -> Self {
        rounds.sort_by(f64::total_cmp);
        let (first, last) = (rounds[0], rounds[rounds.len() - 1]);
        Self { median_ns: median(rounds), least_ns: first, most_ns: last }
    }

    /// The same for a part of each call.
    pub(crate) fn part(self, share: f64) -> Self {
        let Self { median_ns, least_ns, most_ns } = self;
        Self { median_ns: median_ns * share, least_ns: least_ns * share, most_ns: most_ns * share }
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { median_ns, least_ns, most_ns } = *self;
        let (median, least, most) = (unit(median_ns), unit(least_ns), unit(most_ns));
        write!(formatter, "{median} ({least} to {most})")
    }
}

/// The middle of sorted values.
pub(crate) fn median(sorted: &[f64]) -> f64 {
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 { sorted[middle] } else { (sorted[middle - 1] + sorted[middle]) / 2.0 }
}

/// One side of a comparison: what it is, how many calls a round makes, and how to make them.
///
/// `run` makes the given number of calls and returns how long they took.
pub(crate) struct Side<'a> {
    name: &'a str,
    iterations: u64,
    run: Box<dyn FnMut(u64) -> Duration + 'a>,
}

impl<'a> Side<'a> {
    pub(crate) fn new(
        name: &'a str,
        iterations: u64,
        run: impl FnMut(u64) -> Duration + 'a,
    ) -> Self {
        Self { name, iterations, run: Box::new(run) }
    }

    /// One round: a few calls to wake everything up, then the calls that count.
    fn round(&mut self) -> f64 {
        let warm_up = self.iterations / 20;
        if warm_up > 0 {
            (self.run)(warm_up);
        }
        (self.run)(self.iterations).as_nanos() as f64 / self.iterations as f64
    }
}

/// The rows so far.
#[derive(Debug)]
pub(crate) struct Table {
    filter: Option<String>,
    rows: Vec<String>,
}

impl Table {
    /// A table of the rows whose name contains `filter`; of all without one.
    pub(crate) fn new(filter: Option<String>) -> Self {
        Self { filter, rows: Vec::new() }
    }

    /// Whether rows with this name are asked for.
    pub(crate) fn wants(&self, name: &str) -> bool {
        self.filter.as_ref().is_none_or(|filter| name.contains(filter.as_str()))
    }

    pub(crate) fn is_whole(&self) -> bool {
        self.filter.is_none()
    }

    /// Measures both sides in turn, adds the row and returns the two medians' spreads.
    pub(crate) fn compare(
        &mut self,
        name: &str,
        limit: Limit,
        rounds: usize,
        mut ours: Side<'_>,
        mut peer: Side<'_>,
    ) -> (Spread, Spread) {
        eprintln!("measuring {name} against {}", peer.name);
        let (mut ours_ns, mut peer_ns) = (Vec::new(), Vec::new());
        // The first round of each side is thrown away: code and memory are cold.
        let _ = (ours.round(), peer.round());
        for round in 0..rounds {
            if round % 2 == 0 {
                ours_ns.push(ours.round());
                peer_ns.push(peer.round());
            } else {
                peer_ns.push(peer.round());
                ours_ns.push(ours.round());
            }
        }
        let (ours_ns, peer_ns) = (Spread::of(&mut ours_ns), Spread::of(&mut peer_ns));
        self.pair(name, limit, ours_ns, peer.name, peer_ns);
        (ours_ns, peer_ns)
    }

    /// Adds a row for two sides that have been measured.
    pub(crate) fn pair(
        &mut self,
        name: &str,
        limit: Limit,
        ours: Spread,
        peer_name: &str,
        peer: Spread,
    ) {
        let verdict = limit.is_met(ours.median_ns, peer.median_ns);
        let ratio = limit.ratio(ours.median_ns, peer.median_ns);
        self.row(name, &ours.to_string(), peer_name, &peer.to_string(), &ratio, limit, verdict);
    }

    /// Adds a row for a requirement that needs no peer.
    pub(crate) fn absolute(&mut self, name: &str, limit: Limit, ours: Spread) {
        let verdict = limit.is_met(ours.median_ns, f64::INFINITY);
        let ratio = limit.ratio(ours.median_ns, f64::INFINITY);
        self.row(name, &ours.to_string(), "", "", &ratio, limit, verdict);
    }

    /// Adds a row for two sides of one figure each: its text and its nanoseconds, which are
    /// infinite where there is none.
    pub(crate) fn figures(
        &mut self,
        name: &str,
        limit: Limit,
        (ours, ours_ns): (&str, f64),
        (peer_name, peer, peer_ns): (&str, &str, f64),
    ) {
        let verdict = limit.is_met(ours_ns, peer_ns);
        let both = ours_ns.is_finite() && peer_ns.is_finite();
        let ratio = if both { limit.ratio(ours_ns, peer_ns) } else { String::new() };
        self.row(name, ours, peer_name, peer, &ratio, limit, verdict);
    }

    /// Adds a row that was not measured, with the reason.
    pub(crate) fn skipped(&mut self, name: &str, limit: Limit, peer_name: &str, reason: &str) {
        self.row(name, "", peer_name, reason, "", limit, None);
    }

    #[expect(clippy::too_many_arguments, reason = "one for each column")]
    fn row(
        &mut self,
        name: &str,
        ours: &str,
        peer_name: &str,
        peer: &str,
        ratio: &str,
        limit: Limit,
        met: Option<bool>,
    ) {
        let met = match met {
            Some(true) => "yes",
            Some(false) => "**no**",
            None => "",
        };
        let row = format!("| {name} | {ours} | {peer_name} | {peer} | {ratio} | {limit} | {met} |");
        eprintln!("{row}");
        self.rows.push(row);
    }
}

impl fmt::Display for Table {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(formatter, "| work | procpool | peer | peer's time | ratio | must reach | met |")?;
        writeln!(formatter, "|---|---|---|---|---|---|---|")?;
        self.rows.iter().try_for_each(|row| writeln!(formatter, "{row}"))
    }
}

/// Nanoseconds in the unit that suits their size.
pub(crate) fn unit(nanos: f64) -> String {
    match nanos {
        nanos if nanos < 1e3 => format!("{} ns", digits(nanos)),
        nanos if nanos < 1e6 => format!("{} µs", digits(nanos / 1e3)),
        nanos if nanos < 1e9 => format!("{} ms", digits(nanos / 1e6)),
        nanos => format!("{} s", digits(nanos / 1e9)),
    }
}

/// Three digits or all before the point.
fn digits(value: f64) -> String {
    match value {
        value if value < 10.0 => format!("{value:.2}"),
        value if value < 100.0 => format!("{value:.1}"),
        value => format!("{value:.0}"),
    }
}
