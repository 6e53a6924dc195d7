//! A token bucket in one word, for threads that take from it at once without a lock.
//!
//! In: the moment of a request, and the rate. Out: whether it may pass, or how long until one may.
//!
//! It is the generic cell rate algorithm (ITU-T I.371): the word is the moment at which the bucket is full again.

use std::sync::atomic::{AtomicU64, Ordering};

use picket_policy::Rate;

use super::SECOND;

/// A token bucket. Moments are nanoseconds since a start that is the same for all calls.
#[derive(Debug, Default)]
pub(super) struct TokenBucket {
    full_at: AtomicU64,
}

impl TokenBucket {
    /// Takes a token at `now`.
    ///
    /// # Errors
    /// The nanoseconds until there is one. Nothing is taken then.
    pub(super) fn take(&self, now: u64, rate: Rate) -> Result<(), u64> {
        let each = SECOND / u64::from(rate.per_second.max(1));
        let whole = each * u64::from(rate.burst.max(1));
        let next = |full_at: u64| {
            // A bucket of a lower rate or a larger burst may have been emptier than this one can be.
            let full_at = full_at.clamp(now, now + whole) + each;
            if full_at > now + whole {
                Err(full_at - whole - now)
            } else {
                Ok(full_at)
            }
        };
        let taken = self
            .full_at
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |full_at| next(full_at).ok());
        taken
            .map(drop)
            .map_err(|full_at| next(full_at).err().unwrap_or(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(per_second: u32, burst: u32) -> Rate {
        Rate { per_second, burst }
    }

    #[test]
    fn a_burst_passes_and_then_one_each_interval() {
        let (bucket, rate) = (TokenBucket::default(), rate(4, 10));
        let start = 7 * SECOND;
        let passed = (0..100).filter(|_| bucket.take(start, rate).is_ok()).count();
        assert_eq!(passed, 10);
        assert_eq!(bucket.take(start, rate), Err(SECOND / 4));
        assert_eq!(bucket.take(start + SECOND / 4 - 1, rate), Err(1));
        assert_eq!(bucket.take(start + SECOND / 4, rate), Ok(()));
        assert!(bucket.take(start + SECOND / 4, rate).is_err());
        // Whoever was refused all the time waits no longer for it.
        let passed = (0..100).filter(|_| bucket.take(start + 3 * SECOND, rate).is_ok());
        assert_eq!(passed.count(), 10, "full again, and no fuller");
    }

    #[test]
    fn over_a_minute_as_many_pass_as_the_rate_says() {
        let (bucket, rate) = (TokenBucket::default(), rate(5, 20));
        let passed = (0..60_000).filter(|milli| bucket.take(milli * 1_000_000, rate).is_ok());
        assert!((319..=320).contains(&passed.count()));
    }

    #[test]
    fn another_rate_goes_on_where_the_first_was_and_no_further_back() {
        let bucket = TokenBucket::default();
        let (slow, quick) = (rate(1, 100), rate(100, 10));
        assert!((0..100).all(|_| bucket.take(0, slow).is_ok()));
        assert_eq!(
            bucket.take(0, quick),
            Err(SECOND / 100),
            "empty, and not for 100 seconds"
        );
        let same = TokenBucket::default();
        assert!((0..10).all(|_| same.take(0, quick).is_ok()));
        assert!(same.take(0, quick).is_err(), "a reload fills nothing");
    }

    #[test]
    fn threads_that_take_at_once_get_no_more_than_there_is() {
        let (bucket, rate) = (TokenBucket::default(), rate(1, 1000));
        let take = || (0..1000).filter(|_| bucket.take(0, rate).is_ok()).count();
        let passed: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(take)).collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap_or_default())
                .sum()
        });
        assert_eq!(passed, 1000);
    }
}
