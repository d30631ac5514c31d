//! The processes that this one has started: workers and [`Process`](super::Process)es.

use super::inner::{Inner, lock};
use super::stats::Entered;
use crate::prim::Mutex;
use crate::shm::arena::is_forked_copy;
use crate::sys;
use std::sync::{Arc, Weak};

/// A process that this one has started and that has not ended, from [`active_children`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ActiveChild {
    /// Its name: of a [`Process`](crate::Process), or of a pool's worker.
    pub name: String,
    /// Its process id.
    pub pid: u32,
}

/// Returns the processes and workers of the calling process that have not ended.
///
/// # Examples
/// ```
/// use procpool::{Process, active_children};
///
/// let nap = |ms: u64| std::thread::sleep(std::time::Duration::from_millis(ms));
/// let process = Process::builder().name("sleeper").spawn(nap, 60_000)?;
/// assert!(active_children().iter().any(|child| child.name == "sleeper"));
/// process.kill();
/// assert!(process.join().is_err());
/// assert!(active_children().is_empty());
/// # Ok::<(), procpool::Error>(())
/// ```
#[must_use]
pub fn active_children() -> Vec<ActiveChild> {
    Inner::all_open().iter().flat_map(|inner| inner.active_workers()).collect()
}

/// Returns the number of cores that the calling process may use: affinity mask and CPU quota considered.
#[must_use]
pub fn cpu_count() -> usize {
    sys::host::usable_cores()
}

/// The pools of this process.
static POOLS: Mutex<Vec<Weak<Inner>>> = Mutex::new(Vec::new());

impl Inner {
    /// Has [`active_children`] know of a pool.
    pub(super) fn enter_among_all(self: &Arc<Self>) {
        let mut pools = lock(&POOLS);
        pools.retain(|pool| pool.strong_count() > 0);
        pools.push(Arc::downgrade(self));
    }

    fn all_open() -> Vec<Arc<Self>> {
        if is_forked_copy() {
            return Vec::new();
        }
        lock(&POOLS).iter().filter_map(Weak::upgrade).collect()
    }

    fn active_workers(&self) -> Vec<ActiveChild> {
        let roster = lock(&self.roster);
        let named = roster.iter().map(|Entered { number, pid, .. }| {
            let name = self.name_of_worker(*number);
            ActiveChild { name, pid: *pid }
        });
        named.collect()
    }

    pub(super) fn name_of_worker(&self, number: usize) -> String {
        match self.once {
            Some(_) => self.name.clone(),
            None => format!("{}-worker-{number}", self.name),
        }
    }
}
