//! `map_reduce`: results are combined in the workers, chunk by chunk.
//!
//! # If a worker dies
//! The chunk that it was folding fails; as with `map`, so does the whole.

use super::Pool;
use super::inner::Inner;
use super::map;
use super::submit::Job;
use super::trampolines;
use super::with_options::WithOptions;
use crate::error::Error;
use serde::{Serialize, de::DeserializeOwned};
use std::ops::ControlFlow;
use std::sync::Arc;

impl Pool {
    /// Runs `function` on every input, and combines the results two by two with `fold`, most of them in the
    /// workers: only one result for each chunk of inputs comes back. `None` if there is no input.
    ///
    /// `fold` must be associative: it is given neighbours, in input order, but in any grouping.
    ///
    /// For what the pool counts and limits, a chunk (of up to 1024 inputs) is a call. If the pool has a time limit,
    /// retries, or workers that are [recycled](crate::Recycle::after_tasks) after so many calls, each input
    /// travels alone, and is one.
    ///
    /// # Errors
    /// As [`map`](Self::map); the index of a failure is that of its chunk.
    ///
    /// # Examples
    /// ```
    /// let pool = procpool::Pool::builder().workers(2).build()?;
    /// let sum = pool.map_reduce(|n: u64| n * n, |a, b| a + b, 0..1000u64)?;
    /// assert_eq!(sum, Some(332_833_500));
    /// # Ok::<(), procpool::Error>(())
    /// ```
    pub fn map_reduce<F, G, A, R, I>(
        &self,
        function: F,
        fold: G,
        inputs: I,
    ) -> Result<Option<R>, Error>
    where
        F: Fn(A) -> R + Copy + Send + 'static,
        G: Fn(R, R) -> R + Copy + Send + 'static,
        A: Serialize + DeserializeOwned + 'static,
        R: Serialize + DeserializeOwned + 'static,
        I: IntoIterator<Item = A>,
    {
        let job = Job::new(trampolines::code_of_fold::<F, G, A, R>(&function, &fold)?);
        let chunk_max = if self.inner.counts_calls() { 1 } else { CHUNK_MAX };
        reduce(&self.inner, &job, fold, inputs, chunk_max)
    }
}

impl WithOptions<'_> {
    /// Runs `function` on every input, and combines the results with `fold`; see [`Pool::map_reduce`]. Each
    /// input travels as a call of its own.
    ///
    /// # Errors
    /// As [`Pool::map_reduce`], and options that make no sense.
    pub fn map_reduce<F, G, A, R, I>(
        &self,
        function: F,
        fold: G,
        inputs: I,
    ) -> Result<Option<R>, Error>
    where
        F: Fn(A) -> R + Copy + Send + 'static,
        G: Fn(R, R) -> R + Copy + Send + 'static,
        A: Serialize + DeserializeOwned + 'static,
        R: Serialize + DeserializeOwned + 'static,
        I: IntoIterator<Item = A>,
    {
        let job = self.job(trampolines::code_of_fold::<F, G, A, R>(&function, &fold))?;
        reduce(self.inner(), &job, fold, inputs, 1)
    }
}

/// Runs `job` on chunks of at most so many inputs, and folds what comes back.
fn reduce<A, R, I>(
    inner: &Arc<Inner>,
    job: &Job,
    fold: impl Fn(R, R) -> R,
    inputs: I,
    chunk_max: usize,
) -> Result<Option<R>, Error>
where
    A: Serialize + 'static,
    R: DeserializeOwned + 'static,
    I: IntoIterator<Item = A>,
{
    let inputs = inputs.into_iter().fuse();
    let chunks = Chunks { inputs, workers: inner.workers(), most: chunk_max, last: 0 };
    let (mut folded, mut failure) = (None, None);
    map::run::<Vec<A>, R>(inner, job, chunks, |outcome| match outcome {
        Ok(next) => {
            folded = Some(match folded.take() {
                Some(before) => fold(before, next),
                None => next,
            });
            ControlFlow::Continue(())
        }
        Err(error) => {
            failure = Some(error);
            ControlFlow::Break(())
        }
    })?;
    failure.map_or(Ok(folded), |error| Err(error.into()))
}

/// Most inputs that are folded as one.
const CHUNK_MAX: usize = 1024;

/// Cuts an input into chunks: larger and larger ones, and towards the end of an input that says how long
/// it is smaller ones, so that the workers finish together.
struct Chunks<I: Iterator> {
    inputs: std::iter::Fuse<I>,
    workers: usize,
    most: usize,
    last: usize,
}

impl<I: Iterator> Iterator for Chunks<I> {
    type Item = Vec<I::Item>;

    fn next(&mut self) -> Option<Vec<I::Item>> {
        let share = match self.inputs.size_hint() {
            (low, Some(high)) if low == high => high / (4 * self.workers),
            _ => self.most,
        };
        self.last = (2 * self.last).min(share).clamp(1, self.most);
        let chunk: Vec<I::Item> = self.inputs.by_ref().take(self.last).collect();
        (!chunk.is_empty()).then_some(chunk)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        if self.most == 1 { self.inputs.size_hint() } else { (0, None) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_grow_and_shrink_and_lose_nothing() {
        let chunks = Chunks { inputs: (0..10_000u32).fuse(), workers: 2, most: CHUNK_MAX, last: 0 };
        let chunks: Vec<Vec<u32>> = chunks.collect();
        let lengths: Vec<usize> = chunks.iter().map(Vec::len).collect();
        assert_eq!(lengths[..4], [1, 2, 4, 8]);
        assert!(lengths.iter().any(|length| *length > 500) && lengths.last() == Some(&1));
        assert!(chunks.into_iter().flatten().eq(0..10_000));
        let inputs = std::iter::repeat(1).fuse();
        let mut endless = Chunks { inputs, workers: 2, most: CHUNK_MAX, last: 0 };
        assert_eq!(endless.nth(20).map(|chunk| chunk.len()), Some(CHUNK_MAX));
    }
}
