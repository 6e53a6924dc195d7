//! One issuer's keys: fetched by a task of their own, and asked for by requests.
//!
//! In: the issuer's discovery document and JWKS. Out: the claims of a token that one of the keys signed. No request fetches
//! anything: one that finds no key asks the task and waits for a limited time, together with all others that wait.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use picket_policy::jwt::{JwtIssuer, TokenError, VerifiedToken};
use serde::Deserialize;
use serde_json::{Map, Value};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until, timeout};

use super::JwtError;
use super::cache::KeyGeneration;
use super::fetch::{FetchError, IssuerClient};
use super::keys::{KeySet, LeftOut, MAX_KEYS};
use super::metrics::JwtMetrics;
use super::signature::UnverifiedToken;
use crate::pki::Authorities;
use crate::runtime::backoff::Backoff;

/// The claims of a token, and the fingerprint of the key that signed it.
type SignedClaims = (Map<String, Value>, u64);

/// How long things may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// How often keys are fetched that are at hand. A key that the issuer takes back counts for so long.
    pub(super) refresh: Duration,
    /// The shortest time between two fetches that requests ask for, whatever key ids their tokens name.
    pub(super) refetch: Duration,
    /// How long keys are used while the issuer is away.
    pub(super) keys: Duration,
    /// How long a request waits for keys.
    pub(super) wait: Duration,
    /// The first and the longest pause after fetches that failed.
    pub(super) retry: (Duration, Duration),
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            refresh: Duration::from_secs(300),
            refetch: Duration::from_secs(2),
            keys: Duration::from_secs(6 * 3600),
            wait: Duration::from_secs(5),
            retry: (Duration::from_secs(1), Duration::from_secs(30)),
        }
    }
}

/// An issuer and its keys.
#[derive(Debug)]
pub(super) struct IssuerKeys {
    pub(super) issuer: Arc<JwtIssuer>,
    client: IssuerClient,
    state: watch::Sender<KeyState>,
    wanted: Notify,
    metrics: JwtMetrics,
    generation: KeyGeneration,
    limits: Limits,
}

#[derive(Debug, Clone, Default)]
struct KeyState {
    keys: Option<Arc<KeySet>>,
    /// Counts the fetches that ended.
    fetches: u64,
    /// When the last one ended.
    ended: Option<Instant>,
    /// When one succeeded last.
    succeeded: Option<Instant>,
    /// Whether the last one failed.
    failed: bool,
}

#[derive(Deserialize)]
struct Discovery {
    issuer: String,
    jwks_uri: String,
}

impl IssuerKeys {
    pub(super) fn new(
        issuer: Arc<JwtIssuer>,
        client: IssuerClient,
        (metrics, generation): (JwtMetrics, KeyGeneration),
        limits: Limits,
    ) -> Self {
        Self {
            issuer,
            client,
            state: watch::Sender::new(KeyState::default()),
            wanted: Notify::new(),
            metrics,
            generation,
            limits,
        }
    }

    /// The issuer's own CAs.
    pub(super) fn authorities(&self) -> &Authorities {
        self.client.authorities()
    }

    /// Whether another issuer is the same one by the same rules.
    pub(super) fn is_like(&self, other: &JwtIssuer) -> bool {
        *self.issuer == *other
    }

    /// Takes the keys of an issuer over that another one by other rules has, if they come from the same place by the same CA. An
    /// issuer that is away would otherwise lose them with each change of a rule.
    pub(super) fn take_keys_of(&self, known: &Self) {
        let source = |issuer: &JwtIssuer| {
            let ca = issuer.certificate_authority.as_ref();
            (
                issuer.url.clone(),
                issuer.discovery(),
                ca.map(|ca| ca.value.clone()),
            )
        };
        if source(&self.issuer) == source(&known.issuer) {
            self.state.send_replace(known.state.borrow().clone());
        }
    }

    /// The claims of a token that this issuer signed, and the key's fingerprint.
    pub(super) async fn verify(&self, token: &UnverifiedToken<'_>) -> Result<SignedClaims, JwtError> {
        let known = self.state.borrow().clone();
        if let Some(claims) = known.try_keys(token) {
            return Ok(claims?);
        }
        let is_recent = |ended: Instant| ended.elapsed() < self.limits.refetch;
        if known.failed && known.ended.is_some_and(is_recent) {
            return Err(self.unavailable());
        }
        self.wanted.notify_one();
        let mut states = self.state.subscribe();
        let next = states.wait_for(|state| state.fetches > known.fetches);
        match timeout(self.limits.wait, next).await {
            Ok(Ok(state)) => self.conclude(&state, token),
            Ok(Err(_)) | Err(_) => Err(self.unavailable()),
        }
    }

    /// A key that nobody publishes, or one that nobody can ask for.
    fn conclude(&self, state: &KeyState, token: &UnverifiedToken<'_>) -> Result<SignedClaims, JwtError> {
        match state.try_keys(token) {
            Some(claims) => Ok(claims?),
            None if state.failed || state.keys.is_none() => Err(self.unavailable()),
            None => Err(TokenError::UnknownKey.into()),
        }
    }

    /// Whether the key that signed a token is still the issuer's.
    pub(super) fn still_has_key_of(&self, token: &VerifiedToken) -> Result<(), JwtError> {
        let state = self.state.borrow();
        match &state.keys {
            Some(keys) if token.key().is_some_and(|key| keys.has(key)) => Ok(()),
            Some(_) => Err(TokenError::UnknownKey.into()),
            // The file has the issuer since a moment ago, and the first fetch is under way. Its end is looked at again.
            None if state.fetches == 0 => Ok(()),
            None => Err(self.unavailable()),
        }
    }

    fn unavailable(&self) -> JwtError {
        JwtError::Unavailable {
            issuer: self.issuer.url.clone(),
        }
    }

    /// Fetches the keys, at times and when a request wants them, as long as it is polled.
    pub(super) async fn run(self: Arc<Self>) {
        let mut retries = Backoff::jittered(self.limits.retry.0, self.limits.retry.1);
        loop {
            let fetched = self.fetch().await;
            let pause = if fetched.is_ok() {
                retries.reset();
                self.limits.refresh
            } else {
                retries.pause()
            };
            self.note(fetched);
            // Who asked while it was under way has its answer.
            let _ = self.wanted.notified().now_or_never();
            let now = Instant::now();
            let asked = async {
                sleep_until(now + self.limits.refetch).await;
                self.wanted.notified().await;
            };
            tokio::select! {
                () = sleep_until(now + pause) => {}
                () = asked => {}
            }
        }
    }

    async fn fetch(&self) -> Result<KeySet, KeysError> {
        let discovery = self.client.get(&self.issuer.discovery()).await?;
        let discovery: Discovery = serde_json::from_slice(&discovery).map_err(|_| KeysError::Discovery)?;
        if discovery.issuer != self.issuer.url {
            return Err(KeysError::OtherIssuer);
        }
        let keys = self.client.get(&discovery.jwks_uri).await?;
        // An empty one is believed: so an issuer takes back all its keys.
        KeySet::read(&keys).ok_or(KeysError::Keys)
    }

    fn note(&self, fetched: Result<KeySet, KeysError>) {
        let now = Instant::now();
        let issuer = &self.issuer.url;
        self.metrics.fetched(fetched.is_ok());
        let mut is_changed = false;
        self.state.send_modify(|state| {
            state.fetches += 1;
            is_changed = state.fetches == 1;
            state.ended = Some(now);
            let failed_before = std::mem::replace(&mut state.failed, fetched.is_err());
            match fetched {
                Ok(keys) => {
                    state.succeeded = Some(now);
                    if failed_before || state.keys.is_none() {
                        tracing::info!(issuer, keys = keys.len(), "the issuer's keys are at hand");
                    }
                    if state.keys.as_deref() != Some(&keys) {
                        if keys.len() == 0 {
                            tracing::warn!(issuer, "the issuer publishes no key that can be used: none of its tokens counts");
                        }
                        let left_out = keys.left_out();
                        if left_out != LeftOut::default() {
                            tracing::warn!(
                                issuer, left_out.unusable, left_out.beyond_limit, limit = MAX_KEYS,
                                "keys of the issuer are not used: those for other purposes than signatures or of algorithms that do not \
                                 count, and those beyond the limit; tokens that they signed are refused"
                            );
                        }
                        state.keys = Some(Arc::new(keys));
                        is_changed = true;
                    }
                }
                Err(error) => {
                    let is_over = state.succeeded.is_some_and(|last| now.duration_since(last) >= self.limits.keys);
                    if is_over && state.keys.take().is_some() {
                        is_changed = true;
                        tracing::error!(issuer, %error, "the issuer has been away for too long: its tokens are refused with 503");
                    } else if !failed_before {
                        let at_hand = state.keys.is_some();
                        tracing::warn!(
                            issuer, %error, at_hand,
                            "the issuer's keys cannot be fetched; those at hand are used for {} h, and tokens of other keys are refused \
                             with 503", self.limits.keys.as_secs() / 3600
                        );
                    }
                }
            }
        });
        if is_changed {
            self.generation.advance();
        }
    }
}

impl KeyState {
    /// What the keys say of a token; `None` where none of them fits it.
    fn try_keys(&self, token: &UnverifiedToken<'_>) -> Option<Result<SignedClaims, TokenError>> {
        let keys = self.keys.as_deref()?;
        let mut last = None;
        for (key, fingerprint) in keys.candidates(token.key_id.as_deref(), token.algorithm) {
            match token.claims(key) {
                Err(TokenError::Signature) if token.key_id.is_none() => {
                    last = Some(Err(TokenError::Signature))
                }
                judged => return Some(judged.map(|claims| (claims, fingerprint))),
            }
        }
        last
    }
}

/// Why there are no keys.
#[derive(Debug, thiserror::Error)]
enum KeysError {
    #[error(transparent)]
    Fetch(#[from] FetchError),
    #[error("its discovery document is no JSON with issuer and jwks_uri")]
    Discovery,
    #[error("its discovery document names another issuer")]
    OtherIssuer,
    #[error("its key set is no JSON with keys")]
    Keys,
}
