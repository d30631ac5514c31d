//! How long tasks wait and run: a histogram of durations, and the slowest calls.
//!
//! A bucket is a power of two of nanoseconds, cut in four: what is read from it is at most an eighth off.

use std::time::Duration;

const BUCKETS: usize = 64 * 4;
/// How many of the slowest calls are kept.
const SLOWEST: usize = 8;

/// Counts durations.
#[derive(Debug, Clone)]
pub(super) struct Histogram {
    buckets: Box<[u64; BUCKETS]>,
    count: u64,
    max_ns: u64,
}

/// How long things took, from a histogram.
///
/// Half of the durations are at most `p50`, 99 of 100 at most `p99`; both are at most an eighth off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Durations {
    /// How many were measured.
    pub count: u64,
    /// The median.
    pub p50: Duration,
    /// The 99th percentile.
    pub p99: Duration,
    /// The longest.
    pub max: Duration,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { buckets: Box::new([0; BUCKETS]), count: 0, max_ns: 0 }
    }
}

#[inline]
fn bucket_of(ns: u64) -> usize {
    let ns = ns.max(4);
    let power = 63 - ns.leading_zeros() as usize;
    power * 4 + (ns >> (power - 2) & 3) as usize
}

/// The middle of a bucket.
fn ns_of(bucket: usize) -> u64 {
    let power = (bucket / 4).max(2) as u32;
    let width = 1u64 << (power - 2);
    (1 << power) + (bucket as u64 % 4) * width + width / 2
}

impl Histogram {
    /// Counts `times` durations.
    #[inline]
    pub(super) fn add(&mut self, ns: u64, times: u64) {
        self.buckets[bucket_of(ns)] += times;
        self.count += times;
        self.max_ns = self.max_ns.max(ns);
    }

    fn quantile(&self, of_100: u64) -> Duration {
        let wanted = (self.count * of_100).div_ceil(100).max(1);
        let mut seen = 0;
        let bucket = self.buckets.iter().position(|count| {
            seen += count;
            seen >= wanted
        });
        Duration::from_nanos(bucket.map_or(0, ns_of).min(self.max_ns))
    }

    pub(super) fn to_durations(&self) -> Durations {
        Durations {
            count: self.count,
            p50: self.quantile(50),
            p99: self.quantile(99),
            max: Duration::from_nanos(self.max_ns),
        }
    }
}

/// The slowest calls: function and nanoseconds, slowest first.
#[derive(Debug, Clone, Default)]
pub(super) struct Slowest {
    calls: Vec<(u64, u64)>,
}

impl Slowest {
    #[inline]
    pub(super) fn add(&mut self, code: u64, ns: u64) {
        if self.calls.len() < SLOWEST || self.calls.last().is_some_and(|(_, least)| *least < ns) {
            self.insert_slow(code, ns);
        }
    }

    #[cold]
    fn insert_slow(&mut self, code: u64, ns: u64) {
        let at = self.calls.partition_point(|(_, other)| *other >= ns);
        self.calls.insert(at, (code, ns));
        self.calls.truncate(SLOWEST);
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, Duration)> {
        self.calls.iter().map(|(code, ns)| (*code, Duration::from_nanos(*ns)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_at_most_an_eighth_off() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.to_durations(), Durations::default());
        (1..=10_000u64).for_each(|us| histogram.add(us * 1000, 1));
        let Durations { count, p50, p99, max } = histogram.to_durations();
        assert_eq!((count, max), (10_000, Duration::from_millis(10)));
        for (found, exact) in [(p50, 5_000.0), (p99, 9_900.0)] {
            let off = (found.as_micros() as f64 - exact).abs() / exact;
            assert!(off <= 0.125, "{found:?}");
        }
        for ns in [0, 1, 5, 1 << 20, u64::MAX / 2, u64::MAX] {
            let middle = ns_of(bucket_of(ns)) as f64;
            assert!(ns < 8 || (middle - ns as f64).abs() / ns as f64 <= 0.125, "{ns} {middle}");
        }
    }

    #[test]
    fn the_slowest_stay() {
        let mut slowest = Slowest::default();
        (0..100).for_each(|n| slowest.add(n, (n * 37) % 100));
        let kept: Vec<u64> = slowest.iter().map(|(_, took)| took.as_nanos() as u64).collect();
        assert_eq!(kept, [99, 98, 97, 96, 95, 94, 93, 92]);
    }
}
