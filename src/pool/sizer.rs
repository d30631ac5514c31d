//! How many calls travel together.
//!
//! The first batches carry one call. Each finished batch tells how long its calls took; the next
//! ones carry as many as take [`TARGET_NS`], growing at most 16-fold per step, never more than
//! [`BATCH_BYTES`] of input, and towards the end no more than half of a worker's share of what is
//! left (if the input says how much), so that all finish together; but not less than is worth the
//! way ([`WORTHWHILE_NS`]).
//!
//! The pool remembers how long a function's calls took. If the input says how long it is, the next
//! map of that function starts with up to 64 calls: if those turn out slow this time, a batch still is
//! at most half of a worker's share.

use crate::limits::BATCH_CALLS_MAX;

/// How long the calls of one batch should take.
const TARGET_NS: f64 = 200_000.0;
/// Most input bytes that a batch of several calls carries: it stays in the cache.
pub(super) const BATCH_BYTES: usize = 128 << 10;
/// How much larger than the last measured batch the next may be.
const GROWTH: usize = 16;
/// Most calls in the first batches of a function that the pool knows.
const FIRST_CALLS: usize = 64;
/// A batch shorter than this costs more to hand over than it saves by being shared.
const WORTHWHILE_NS: f64 = 5_000.0;

/// Decides how many calls the next batch carries.
#[derive(Debug)]
pub(super) struct Sizer {
    pub(super) ns_per_call: Option<f64>,
    /// Whether that was measured in this map.
    measured: bool,
    last_calls: usize,
    /// Average encoded sizes, for choosing blocks.
    pub(super) input_bytes: usize,
    pub(super) output_bytes: usize,
    /// What the caller asks for.
    fixed: Option<usize>,
}

impl Sizer {
    pub(super) fn new(known_ns: Option<f64>, fixed: Option<usize>) -> Self {
        let last_calls = if known_ns.is_some() { FIRST_CALLS / GROWTH } else { 1 };
        let (input_bytes, output_bytes) = (32, 32);
        Self {
            ns_per_call: known_ns,
            measured: false,
            last_calls,
            input_bytes,
            output_bytes,
            fixed,
        }
    }

    /// Has all batches carry so many calls.
    pub(super) fn set_fixed(&mut self, calls: usize) {
        self.fixed = Some(calls);
    }

    /// How many calls the next batch carries, of so many that are left.
    pub(super) fn calls(&self, left: Option<usize>, workers: usize) -> usize {
        if let Some(fixed) = self.fixed {
            return fixed;
        }
        let Some(ns_per_call) = self.ns_per_call else { return 1 };
        let by_time = (TARGET_NS / ns_per_call.max(0.1)) as usize;
        let bytes = self.input_bytes.max(self.output_bytes).max(1);
        let worthwhile =
            if self.measured { (WORTHWHILE_NS / ns_per_call.max(0.1)) as usize } else { 1 };
        let by_share = left.map_or(usize::MAX, |left| (left / (2 * workers)).max(worthwhile));
        by_time
            .min(self.last_calls * GROWTH)
            .min(BATCH_BYTES / bytes)
            .min(by_share)
            .clamp(1, BATCH_CALLS_MAX)
    }

    pub(super) fn learn(&mut self, calls: usize, busy_ns: u64, output_bytes: usize) {
        let measured = busy_ns as f64 / calls as f64;
        self.ns_per_call = Some(match self.ns_per_call {
            // A longer batch knows better than a shorter one.
            Some(known) if calls < self.last_calls => known * 0.75 + measured * 0.25,
            _ => measured,
        });
        self.measured = true;
        self.last_calls = self.last_calls.max(calls);
        self.output_bytes = output_bytes.div_ceil(calls).max(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_calls_travel_together_and_long_ones_alone() {
        let mut sizer = Sizer::new(None, None);
        assert_eq!(sizer.calls(None, 2), 1, "nothing is known yet");
        sizer.learn(1, 100, 8);
        assert_eq!(sizer.calls(None, 2), 16, "grows step by step");
        sizer.learn(16, 1600, 128);
        sizer.learn(256, 25_600, 2048);
        assert_eq!(sizer.calls(None, 2), 2000);
        assert_eq!(sizer.calls(Some(1000), 2), 250, "everybody gets a share of the end");
        assert_eq!(sizer.calls(Some(20), 2), 50, "but not less than is worth the way");
        sizer.learn(256, 256 * 1_000_000_000, 2048);
        assert_eq!(sizer.calls(None, 2), 1);
    }

    #[test]
    fn a_known_function_starts_with_more_but_never_more_than_half_a_share() {
        let sizer = Sizer::new(Some(10.0), None);
        assert_eq!(sizer.calls(Some(1_000_000), 2), FIRST_CALLS);
        assert_eq!(sizer.calls(Some(100), 2), 25);
        assert_eq!(Sizer::new(Some(1e9), None).calls(Some(1_000_000), 2), 1);
    }

    #[test]
    fn large_results_limit_a_batch() {
        let mut sizer = Sizer::new(None, None);
        sizer.learn(1, 1000, BATCH_BYTES);
        assert_eq!(sizer.calls(None, 2), 1);
        assert_eq!(Sizer::new(None, Some(7)).calls(Some(1), 2), 7, "whoever asks knows");
    }
}
