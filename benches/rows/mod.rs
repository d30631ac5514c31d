//! The rows of the ratio table, by kind of work.

pub(crate) mod granularity;
pub(crate) mod life;
pub(crate) mod map;
pub(crate) mod submit;
pub(crate) mod surface;

use procpool::Pool;

/// A pool with that many workers, all of which have run something.
pub(crate) fn pool(workers: usize) -> Pool {
    let pool = Pool::builder().workers(workers).name("bench").build().expect("a pool");
    map::squares(&pool, 10_000);
    pool
}
