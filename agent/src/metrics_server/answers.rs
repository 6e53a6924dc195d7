//! What the API server said of callers, kept for a moment: a scraper comes every few seconds with the same token.
//!
//! In: a credential and what was said of it. Out: the same again while it is fresh. A credential is known by its hash alone.

use std::collections::HashMap;
use std::time::Duration;

use parking_lot::Mutex;
use ring::digest;
use tokio::time::Instant;

use super::access::{ScrapeCredential, ScrapeVerdict};

/// How long a right is taken for granted. A right that is taken away ends within that time.
pub(super) const ALLOWED_FOR: Duration = Duration::from_secs(60);

/// How long a refusal is: whoever got the right meanwhile does not wait for long.
pub(super) const REFUSED_FOR: Duration = Duration::from_secs(10);

/// Most credentials that are kept, at some 200 bytes each. Beyond, refusals go first.
const KEPT: usize = 512;

/// SHA-256 of a credential.
type Key = [u8; 32];

/// The answers.
#[derive(Debug, Default)]
pub(super) struct Answers(Mutex<HashMap<Key, (ScrapeVerdict, Instant)>>);

impl Answers {
    /// What was said of a credential, while it is fresh.
    pub(super) fn get(&self, credential: &ScrapeCredential) -> Option<ScrapeVerdict> {
        let kept = self.0.lock();
        let (verdict, until) = kept.get(&key(credential))?;
        (Instant::now() < *until).then(|| verdict.clone())
    }

    /// Keeps what was said.
    pub(super) fn keep(&self, credential: &ScrapeCredential, verdict: ScrapeVerdict) {
        let now = Instant::now();
        let fresh = match verdict {
            ScrapeVerdict::Allowed => ALLOWED_FOR,
            ScrapeVerdict::Unauthenticated | ScrapeVerdict::Forbidden(_) => REFUSED_FOR,
        };
        let mut kept = self.0.lock();
        if kept.len() >= KEPT {
            kept.retain(|_, (_, until)| now < *until);
        }
        if kept.len() >= KEPT {
            // Tokens that nobody knows can be made without end; rights cannot.
            kept.retain(|_, (verdict, _)| *verdict == ScrapeVerdict::Allowed);
        }
        if kept.len() < KEPT {
            kept.insert(key(credential), (verdict, now + fresh));
        }
    }
}

fn key(credential: &ScrapeCredential) -> Key {
    let mut hash = digest::Context::new(&digest::SHA256);
    match credential {
        ScrapeCredential::Token(token) => {
            hash.update(b"token:");
            hash.update(token.text().as_bytes());
        }
        ScrapeCredential::Certificate(der) => {
            hash.update(b"certificate:");
            hash.update(der);
        }
    }
    let mut key = Key::default();
    key.copy_from_slice(hash.finish().as_ref());
    key
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics_server::access::BearerToken;

    fn token(text: &str) -> ScrapeCredential {
        ScrapeCredential::Token(BearerToken::new(text).expect("a token"))
    }

    #[tokio::test(start_paused = true)]
    async fn a_right_is_kept_for_a_minute_and_a_refusal_for_seconds() {
        let answers = Answers::default();
        answers.keep(&token("good"), ScrapeVerdict::Allowed);
        answers.keep(&token("bad"), ScrapeVerdict::Unauthenticated);
        assert_eq!(answers.get(&token("good")), Some(ScrapeVerdict::Allowed));
        assert_eq!(answers.get(&token("bad")), Some(ScrapeVerdict::Unauthenticated));
        assert_eq!(answers.get(&token("other")), None);
        tokio::time::sleep(REFUSED_FOR).await;
        assert_eq!(answers.get(&token("bad")), None);
        assert!(answers.get(&token("good")).is_some());
        tokio::time::sleep(ALLOWED_FOR - REFUSED_FOR).await;
        assert_eq!(answers.get(&token("good")), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_of_tokens_drives_no_right_out_and_is_bounded() {
        let answers = Answers::default();
        answers.keep(&token("good"), ScrapeVerdict::Allowed);
        for number in 0..3 * KEPT {
            answers.keep(
                &token(&format!("made-up-{number}")),
                ScrapeVerdict::Unauthenticated,
            );
        }
        assert!(answers.0.lock().len() <= KEPT);
        assert_eq!(answers.get(&token("good")), Some(ScrapeVerdict::Allowed));
        // No token is kept as it is.
        let shown = format!("{answers:?}");
        assert!(!shown.contains("good") && !shown.contains("made-up"), "{shown}");
    }
}
