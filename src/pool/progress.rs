//! A progress bar, for outcomes as they are taken one by one or arrive.

use super::stream::Imap;
use indicatif::{ProgressBar, ProgressStyle};
use serde::{Serialize, de::DeserializeOwned};
use std::fmt;

/// Outcomes, and a bar on standard error that says how many there were, how many come in a second, and how
/// long it will take; from [`Imap::progress`].
#[must_use = "an iterator does nothing until outcomes are asked for"]
pub struct Progress<I> {
    outcomes: I,
    bar: ProgressBar,
}

impl<A, R, I> Imap<A, R, I>
where
    A: Serialize + DeserializeOwned + 'static,
    R: Serialize + DeserializeOwned + 'static,
    I: Iterator<Item = A>,
{
    /// Shows a bar while outcomes are taken, if standard error is a terminal.
    ///
    /// # Examples
    /// ```
    /// let pool = procpool::Pool::builder().workers(2).build()?;
    /// let squares: Result<Vec<u64>, _> = pool.imap(|n: u64| n * n, 0..1000)?.progress().collect();
    /// assert_eq!(squares?[10], 100);
    /// # Ok::<(), procpool::Error>(())
    /// ```
    pub fn progress(self) -> Progress<Self> {
        let bar = bar(self.left());
        Progress { outcomes: self, bar }
    }
}

/// A bar for so many outcomes, if that is known.
pub(super) fn bar(left: Option<usize>) -> ProgressBar {
    const TEMPLATE: &str = "{wide_bar} {human_pos}/{human_len} {per_sec} {eta} left";
    let bar = match left {
        Some(left) => ProgressBar::new(left as u64),
        None => ProgressBar::no_length(),
    };
    if let Ok(style) = ProgressStyle::with_template(TEMPLATE) {
        bar.set_style(style);
    }
    bar
}

impl<I> Progress<I> {
    /// The bar, to be changed.
    #[must_use]
    pub fn bar(&self) -> &ProgressBar {
        &self.bar
    }
}

impl<I: Iterator> Iterator for Progress<I> {
    type Item = I::Item;

    fn next(&mut self) -> Option<I::Item> {
        let next = self.outcomes.next();
        match next {
            Some(_) => self.bar.inc(1),
            None => self.bar.finish(),
        }
        next
    }
}

impl<I: fmt::Debug> fmt::Debug for Progress<I> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { outcomes, bar } = self;
        formatter
            .debug_struct("Progress")
            .field("outcomes", outcomes)
            .field("position", &bar.position())
            .finish()
    }
}
