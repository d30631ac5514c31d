//! What has been done so far: counters that any thread adds to, sent to the harness after each storm.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

macro_rules! tally {
    ($($name:ident: $text:literal,)*) => {
        /// The counters.
        #[derive(Debug, Default)]
        pub(crate) struct Tally {
            $(#[doc = $text] pub(crate) $name: AtomicU64,)*
        }

        impl Tally {
            /// All of it as a line for the harness, beginning again at zero.
            pub(crate) fn take_line(&self) -> String {
                let counters = [$((stringify!($name), &self.$name),)*];
                let words = counters.map(|(name, count)| format!("{name}={}", count.swap(0, Relaxed)));
                format!("tally {}", words.join(" "))
            }

            /// Adds what a program has sent; the longest of the longest waits.
            pub(crate) fn add_line(&self, line: &str) {
                for word in line.split(' ') {
                    let Some((name, count)) = word.split_once('=') else { continue };
                    let count = count.parse().unwrap_or(0);
                    match name {
                        "longest_ns" => drop(self.longest_ns.fetch_max(count, Relaxed)),
                        $(stringify!($name) => drop(self.$name.fetch_add(count, Relaxed)),)*
                        _ => {}
                    }
                }
            }

            /// The counters with their descriptions.
            pub(crate) fn rows(&self) -> Vec<(&'static str, u64)> {
                vec![$(($text, self.$name.load(Relaxed)),)*]
            }
        }
    };
}

tally! {
    tasks: "tasks that ended",
    values: "with a value",
    panics: "with a panic that was made",
    lost: "lost with their worker",
    late: "killed at their time limit",
    aborted: "aborted while they ran",
    cancelled: "cancelled before they began",
    closed: "ended by the end of their pool",
    exits: "that ended their worker",
    retries: "begun again after their worker had died",
    broadcasts: "broadcasts to all workers",
    resizes: "changes of a pool's size",
    processes: "single processes started",
    pools: "pools beside the first, ended in one of all ways",
    acts: "changes of shared objects by tasks",
    acts_lost: "of which the process died in the middle, or nearly",
    visits: "changes of shared objects by attached programs",
    visitors_lost: "attached programs that died",
    repaired: "locks got from an owner that had died",
    settled: "workers whose holdings were settled",
    calms: "storms after which all was right",
    longest_ns: "the longest wait, in nanoseconds",
}

impl Tally {
    /// Notes how long something took that was waited for.
    pub(crate) fn waited(&self, began: Instant) -> Duration {
        let took = began.elapsed();
        self.longest_ns.fetch_max(took.as_nanos() as u64, Relaxed);
        took
    }
}

/// Adds one.
pub(crate) fn one(counter: &AtomicU64) {
    counter.fetch_add(1, Relaxed);
}

/// Adds so many.
pub(crate) fn many(counter: &AtomicU64, count: usize) {
    counter.fetch_add(count as u64, Relaxed);
}
