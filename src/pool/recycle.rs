//! When a worker leaves, so that a fresh one takes its place.

use crate::error::Error;
use crate::sys;
use serde::{Deserialize, Serialize};
use std::cell::Cell;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

/// How often a worker looks how much memory it has.
const LOOK_NS: u64 = 1_000_000;

/// When a worker is replaced by a fresh one: after so many calls, at some age, or above so much memory,
/// whichever comes first.
///
/// A worker that leaves has a successor, which was forked before, so that there is no gap. It finishes
/// the call that it runs; the rest of its batch goes on in another worker (or, until the successor of one
/// that is too old or too large is there, in itself). Its end is no loss: see
/// [`Stats::workers_recycled`](crate::Stats::workers_recycled).
///
/// # Examples
/// ```
/// use procpool::{Pool, Recycle};
/// use std::time::Duration;
///
/// let policy = Recycle::after_tasks(100).jitter(0.1).or(Recycle::after_age(Duration::from_secs(60)));
/// let pool = Pool::builder().workers(2).recycle(policy).build()?;
/// pool.map(|x: u32| x + 1, 0..1000u32)?;
/// assert!(pool.stats().workers_recycled >= 5);
/// # Ok::<(), procpool::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[must_use = "a policy does nothing until a builder has it"]
pub struct Recycle {
    tasks: Option<Limit>,
    age_ns: Option<Limit>,
    memory_bytes: Option<Limit>,
}

/// A bound, and by how much it is lowered at random.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Limit {
    most: u64,
    jitter: f64,
}

impl Limit {
    fn new(most: u64) -> Option<Self> {
        Some(Self { most, jitter: 0.0 })
    }

    /// The bound of one worker: at least 1.
    fn draw(self) -> u64 {
        let random = RandomState::new().build_hasher().finish() as f64 / u64::MAX as f64;
        let less = (self.most as f64 * self.jitter * random) as u64;
        self.most.saturating_sub(less).max(1)
    }
}

impl Recycle {
    /// A worker runs at most so many calls. With 1, each call has a process of its own.
    #[doc(alias = "maxtasksperchild")]
    #[doc(alias = "max_tasks_per_child")]
    pub fn after_tasks(calls: u64) -> Self {
        Self { tasks: Limit::new(calls), ..Self::default() }
    }

    /// A worker is replaced when it has run for so long, idle or not. A call is not interrupted.
    pub fn after_age(age: Duration) -> Self {
        let age_ns = u64::try_from(age.as_nanos()).unwrap_or(u64::MAX);
        Self { age_ns: Limit::new(age_ns), ..Self::default() }
    }

    /// A worker is replaced when it has more than so many bytes of memory of its own after a call. (What
    /// it shares with others does not count: the arena, the program.)
    pub fn above_memory(bytes: u64) -> Self {
        Self { memory_bytes: Limit::new(bytes), ..Self::default() }
    }

    /// Lowers each bound of this policy, for each worker, by up to this fraction of it (0 to 1) at random:
    /// so that the workers are not all replaced at the same time.
    pub fn jitter(mut self, fraction: f64) -> Self {
        let limits = [&mut self.tasks, &mut self.age_ns, &mut self.memory_bytes];
        limits.into_iter().flatten().for_each(|limit| limit.jitter = fraction);
        self
    }

    /// Both policies: whichever bound comes first. Where both bound the same, `other` counts.
    pub fn or(self, other: Self) -> Self {
        Self {
            tasks: other.tasks.or(self.tasks),
            age_ns: other.age_ns.or(self.age_ns),
            memory_bytes: other.memory_bytes.or(self.memory_bytes),
        }
    }

    pub(crate) fn validate(&self) -> Result<(), Error> {
        let limits = [
            ("after_tasks", self.tasks),
            ("after_age", self.age_ns),
            ("above_memory", self.memory_bytes),
        ];
        for (name, limit) in limits {
            let Some(Limit { most, jitter }) = limit else { continue };
            if most == 0 {
                return Err(Error::invalid(format!("recycle: {name} is 0: it must be more")));
            }
            if !(0.0..=1.0).contains(&jitter) {
                return Err(Error::invalid(format!(
                    "recycle: jitter of {name} is {jitter}, outside 0..=1"
                )));
            }
        }
        Ok(())
    }

    /// Whether it counts calls.
    pub(crate) fn counts_calls(&self) -> bool {
        self.tasks.is_some()
    }

    /// How many successors wait: more than one for workers that live for few calls only, so that forking
    /// goes on while they do.
    pub(crate) fn successors(&self) -> u32 {
        match self.tasks {
            Some(Limit { most: 0..=8, .. }) => 3,
            _ => 1,
        }
    }
}

/// What is left of one worker's life.
#[derive(Debug)]
pub(crate) struct Life {
    pub(crate) calls_left: Cell<u64>,
    /// With so many calls left, the successor is asked for.
    last_calls: u64,
    ends_ns: Option<u64>,
    most_bytes: Option<u64>,
    looked_ns: Cell<u64>,
    over: Cell<bool>,
}

impl Life {
    pub(crate) fn begin(policy: &Recycle) -> Self {
        let calls = policy.tasks.map_or(u64::MAX, Limit::draw);
        let now_ns = sys::clock::monotonic_ns();
        Self {
            calls_left: Cell::new(calls),
            last_calls: if policy.tasks.is_some() { calls.div_ceil(4) } else { 0 },
            ends_ns: policy.age_ns.map(|age| now_ns.saturating_add(age.draw())),
            most_bytes: policy.memory_bytes.map(Limit::draw),
            looked_ns: Cell::new(0),
            over: Cell::new(false),
        }
    }

    /// Counts calls that have been run.
    #[inline]
    pub(crate) fn ran(&self, calls: u64) {
        self.calls_left.set(self.calls_left.get().saturating_sub(calls));
    }

    /// Whether its calls are used up: it must leave.
    #[inline]
    pub(crate) fn is_spent(&self) -> bool {
        self.calls_left.get() == 0
    }

    /// Whether its end is near, or has come.
    #[inline]
    pub(crate) fn is_ending(&self) -> bool {
        self.calls_left.get() <= self.last_calls || self.is_over()
    }

    /// Whether it is too old or has too much memory: it should leave.
    #[inline]
    pub(crate) fn is_over(&self) -> bool {
        if self.is_bounded() {
            self.look();
        }
        self.over.get()
    }

    /// Whether it may ever be too old or too large.
    #[inline]
    pub(crate) fn is_bounded(&self) -> bool {
        self.ends_ns.is_some() || self.most_bytes.is_some()
    }

    /// The same, however short ago it looked: before it sleeps.
    pub(crate) fn is_over_now(&self) -> bool {
        self.looked_ns.set(0);
        self.is_over()
    }

    fn look(&self) {
        let now_ns = sys::clock::monotonic_ns();
        if self.ends_ns.is_some_and(|ends_ns| ends_ns <= now_ns) {
            self.over.set(true);
        }
        if let Some(most) = self.most_bytes
            && now_ns - self.looked_ns.get() >= LOOK_NS
        {
            self.looked_ns.set(now_ns);
            if sys::process::private_bytes() > most {
                self.over.set(true);
            }
        }
    }

    /// How long it may sleep.
    pub(crate) fn time_left(&self) -> Option<Duration> {
        let ends_ns = self.ends_ns?;
        Some(Duration::from_nanos(ends_ns.saturating_sub(sys::clock::monotonic_ns())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_is_lowered_by_at_most_its_jitter() {
        let drawn: Vec<u64> = (0..100).map(|_| Limit { most: 1000, jitter: 0.3 }.draw()).collect();
        assert!(drawn.iter().all(|calls| (700..=1000).contains(calls)));
        assert!(drawn.iter().any(|calls| *calls != drawn[0]));
        assert_eq!(Limit { most: 7, jitter: 0.0 }.draw(), 7);
        assert_eq!(Limit { most: 1, jitter: 1.0 }.draw(), 1);
    }

    #[test]
    fn what_makes_no_sense_is_refused_by_name() {
        for (policy, name) in [
            (Recycle::after_tasks(0), "after_tasks"),
            (Recycle::after_age(Duration::ZERO), "after_age"),
            (Recycle::above_memory(0), "above_memory"),
            (Recycle::after_tasks(1).jitter(1.5), "jitter"),
            (Recycle::after_tasks(1).jitter(f64::NAN), "jitter"),
        ] {
            assert!(policy.validate().unwrap_err().to_string().contains(name));
        }
        let both = Recycle::after_tasks(5).or(Recycle::after_age(Duration::from_secs(1)));
        assert!(both.validate().is_ok() && both.tasks.is_some() && both.age_ns.is_some());
    }

    #[test]
    fn a_life_ends_after_its_calls_or_at_its_age() {
        let life = Life::begin(&Recycle::after_tasks(8));
        assert!(!life.is_ending() && !life.is_spent());
        life.calls_left.set(2);
        assert!(life.is_ending() && !life.is_spent() && !life.is_over());
        life.calls_left.set(0);
        assert!(life.is_spent());
        let life = Life::begin(&Recycle::after_age(Duration::from_nanos(1)));
        assert!(life.is_ending() && life.is_over() && !life.is_spent());
        assert!(Life::begin(&Recycle::above_memory(1)).is_over());
        assert!(!Life::begin(&Recycle::above_memory(u64::MAX)).is_over());
        assert!(!Life::begin(&Recycle::default()).is_ending());
    }
}
