//! Telling that a chain of links leads round in a circle. None of ours does: a process has written there that does
//! not go by the rules, and whoever walks the chain stops.
//!
//! Brent's algorithm (R. P. Brent, "An improved Monte Carlo factorization algorithm", BIT 20, 1980): one link is
//! remembered, and another after twice as many steps as the last time. A walk ends after at most three times as many
//! steps as there are links; until then it may see some of them again.

/// What a walk remembers.
#[derive(Debug)]
pub(crate) struct Circle {
    remembered: u64,
    steps: u64,
    limit: u64,
}

impl Circle {
    /// At the beginning of a walk.
    pub(crate) fn new() -> Self {
        Self { remembered: 0, steps: 0, limit: 1 }
    }

    /// Whether the walk, which has now come to the link `at` (not 0), goes round in a circle.
    #[inline]
    pub(crate) fn is_closed_by(&mut self, at: u64) -> bool {
        if at == self.remembered {
            return true;
        }
        self.steps += 1;
        if self.steps == self.limit {
            (self.remembered, self.steps, self.limit) = (at, 0, self.limit.saturating_mul(2));
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_walk_sees_every_link_and_ends() {
        for before in 0..40u64 {
            for round in 0..40u64 {
                // 1, 2, .. before + round, and back to before + 1.
                let (mut circle, mut at, mut steps, mut seen) = (Circle::new(), 1, 0, Vec::new());
                while at != 0 && !circle.is_closed_by(at) {
                    (steps, at) = (steps + 1, {
                        seen.push(at);
                        match (at < before + round, round) {
                            (true, _) => at + 1,
                            (false, 0) => 0,
                            (false, _) => before + 1,
                        }
                    });
                }
                let links = (before + round).max(1);
                assert!((1..=links).all(|link| seen.contains(&link)), "{before} {round}");
                assert!(steps <= 3 * links && (round > 0 || steps == links), "{before} {round}");
            }
        }
    }
}
