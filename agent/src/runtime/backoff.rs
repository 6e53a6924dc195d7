//! Pauses between attempts that fail: each twice the last, up to a longest one.
//!
//! In: the first and the longest pause. Out: the next pause, for ever.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};

/// The pauses after failures in a row.
#[derive(Debug)]
pub struct Backoff {
    builder: ExponentialBuilder,
    pauses: ExponentialBackoff,
    longest: Duration,
}

impl Backoff {
    /// Pauses of exactly these lengths, for attempts that concern this process alone.
    #[must_use]
    pub fn exact(first: Duration, longest: Duration) -> Self {
        Self::of(first, longest, ExponentialBuilder::new())
    }

    /// Pauses that are longer by a random share, at most twice as long, so that nodes do not come to a server all at once.
    #[must_use]
    pub fn jittered(first: Duration, longest: Duration) -> Self {
        Self::of(first, longest, ExponentialBuilder::new().with_jitter())
    }

    fn of(first: Duration, longest: Duration, builder: ExponentialBuilder) -> Self {
        let builder = builder
            .with_min_delay(first)
            .with_max_delay(longest)
            .without_max_times();
        Self {
            builder,
            pauses: builder.build(),
            longest,
        }
    }

    /// The pause after one more failure.
    pub fn pause(&mut self) -> Duration {
        // It gives pauses without end.
        self.pauses.next().unwrap_or(self.longest)
    }

    /// An attempt succeeded: the next pause is a first one.
    pub fn reset(&mut self) {
        self.pauses = self.builder.build();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: Duration = Duration::from_millis(100);
    const LONGEST: Duration = Duration::from_secs(1);

    #[test]
    fn pauses_double_up_to_the_longest_and_begin_anew_after_a_success() {
        let mut backoff = Backoff::exact(FIRST, LONGEST);
        let pauses: Vec<_> = (0..6).map(|_| backoff.pause().as_millis()).collect();
        assert_eq!(pauses, [100, 200, 400, 800, 1000, 1000]);
        backoff.reset();
        assert_eq!(backoff.pause(), FIRST);
    }

    #[test]
    fn jittered_pauses_differ_and_stay_within_twice_the_exact_ones() {
        let mut backoff = Backoff::jittered(FIRST, LONGEST);
        let mut exact = Backoff::exact(FIRST, LONGEST);
        let pauses: Vec<_> = (0..100).map(|_| (backoff.pause(), exact.pause())).collect();
        for (pause, exact) in &pauses {
            assert!(*exact <= *pause && *pause <= 2 * *exact, "{pause:?} {exact:?}");
        }
        let last = pauses.last().unwrap().0;
        assert!(
            pauses[10..].iter().any(|(pause, _)| *pause != last),
            "all the same"
        );
    }
}
