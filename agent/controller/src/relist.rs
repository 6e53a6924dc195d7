//! The pauses before lists that follow an event which a watch could not read.
//!
//! In: time. Out: the next pause is over. Pauses grow while such lists follow one another: whoever may write an object can write one that no
//! watch can read, again and again, and each list costs the API server all objects of the kind.

use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBackoff, ExponentialBuilder};
use tokio::time::{Instant, sleep};

/// The first and the longest pause. A random share makes them up to twice as long, so that not all nodes list at once.
const FIRST: Duration = Duration::from_millis(50);
const LONGEST: Duration = Duration::from_secs(5);

/// The pauses of one watch.
#[derive(Debug, Default)]
pub struct RelistPauses {
    growing: Option<ExponentialBackoff>,
    /// When the last pause ended.
    ended: Option<Instant>,
}

impl RelistPauses {
    /// Waits for as long as the next list has to.
    pub async fn pause(&mut self) {
        // A list that can be read is no reason to begin with the first pause again: the next event may be the same.
        if self.ended.is_none_or(|ended| ended.elapsed() > 2 * LONGEST) {
            self.growing = None;
        }
        let growing = self.growing.get_or_insert_with(|| {
            ExponentialBuilder::new()
                .with_jitter()
                .with_min_delay(FIRST)
                .with_max_delay(LONGEST)
                .without_max_times()
                .build()
        });
        // It gives pauses without end.
        sleep(growing.next().unwrap_or(LONGEST)).await;
        self.ended = Some(Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn pauses_grow_while_lists_follow_one_another() {
        let mut pauses = RelistPauses::default();
        let mut took = Vec::new();
        for _ in 0..12 {
            let begun = Instant::now();
            pauses.pause().await;
            took.push(begun.elapsed());
            // What a list takes.
            sleep(Duration::from_secs(1)).await;
        }
        assert!(took[0] <= 2 * FIRST, "{took:?}");
        assert!(took[8..].iter().all(|pause| *pause >= LONGEST), "{took:?}");
        assert!(took.iter().all(|pause| *pause <= 2 * LONGEST + FIRST), "{took:?}");
        sleep(3 * LONGEST).await;
        let begun = Instant::now();
        pauses.pause().await;
        assert!(begun.elapsed() <= 2 * FIRST, "{:?}", begun.elapsed());
    }
}
