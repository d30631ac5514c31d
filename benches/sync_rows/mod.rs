//! The rows of the ratio table, by how many processes take part.

pub(crate) mod alone;
pub(crate) mod event;
pub(crate) mod together;

use crate::sync_peers::stage::{Act, Board};
use serde::{Deserialize, Serialize};
use std::time::{Duration, Instant};

/// Times so many calls in this process.
pub(crate) fn timed(calls: u64, mut call: impl FnMut()) -> Duration {
    let start = Instant::now();
    for _ in 0..calls {
        call();
    }
    start.elapsed()
}

/// An operation that both processes do at the same time, each half of the calls.
pub(crate) trait Operation {
    fn prepare(&self, _board: &mut Board) {}

    fn repeat(&self, board: &Board, calls: u64);
}

/// See [`Operation`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Both<O>(pub(crate) O);

impl<O> Act for Both<O>
where
    O: Operation + Clone + Serialize + serde::de::DeserializeOwned + 'static,
{
    fn prepare(&self, board: &mut Board) {
        self.0.prepare(board);
    }

    fn here(&self, board: &Board, calls: u64) -> Option<Duration> {
        self.0.repeat(board, calls.div_ceil(2));
        None
    }

    fn there(&self, board: &Board, calls: u64) {
        self.0.repeat(board, calls / 2);
    }
}
