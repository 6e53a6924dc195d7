//! JWTs of configured issuers: verified with the issuers' keys, and kept for a while.
//!
//! In: bearer tokens, and the `AuthenticationConfiguration` that `authentication.configFile` names. Out: a
//! [`VerifiedToken`], or a [`RefusedToken`]. A token's text is never kept, logged or part of an error.
//!
//! | file | holds |
//! |---|---|
//! | `signature` | the algorithms, and their check by ring |
//! | `keys` | the keys of an issuer, as its JWKS has them |
//! | `fetch` | a GET of an issuer's document, bounded in time and size |
//! | `remote` | one issuer's keys, fetched again and again by a task of their own |
//! | `cache` | tokens that were verified |
//! | `file` | the configuration's file, read again when it changes |
//! | `metrics` | what operators see |

#[cfg(test)]
mod bad_input_tests;
mod cache;
mod fetch;
mod file;
mod keys;
mod metrics;
mod remote;
mod signature;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::{ArcSwap, ArcSwapOption};
use http::HeaderValue;
use jiff::Timestamp;
use picket_policy::jwt::{AuthenticationConfiguration, TokenError, VerifiedToken};
use picket_policy::token::TOKEN_LIMIT;
use serde_json::Value;
use thiserror::Error;
use tokio::sync::watch;

use crate::metrics::MetricsRegistry;

pub use cache::LastToken;
pub use file::AuthenticationError;
pub use metrics::JwtMetrics;

use cache::{KeyGeneration, TokenCache, TokenHash};
use fetch::IssuerClient;
use remote::{IssuerKeys, Limits};
use signature::UnverifiedToken;

/// Why a token is not taken.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum JwtError {
    /// It is refused.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// The node's authentication configuration could not be used since the agent's start, so no issuer is known.
    #[error("the token cannot be checked: the authentication configuration of this node cannot be used")]
    NoConfiguration,
    /// Its issuer's keys are not at hand, so nobody knows yet.
    #[error("the token cannot be checked now: its issuer {issuer} does not answer with its keys")]
    Unavailable {
        /// The issuer's URL.
        issuer: String,
    },
}

impl JwtError {
    /// What to do about it, as in [`TokenError::remedy`].
    #[must_use]
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::Token(error) => error.remedy(),
            Self::NoConfiguration => {
                "A cluster operator can correct the file; Picket reads it again by itself"
            }
            Self::Unavailable { .. } => {
                "Allowed instead: the same request later; Picket asks the issuer again by itself. A cluster operator finds the cause in \
                 the agent's log"
            }
        }
    }

    /// A stable name of low cardinality, for metrics and records.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Token(error) => error.code(),
            Self::NoConfiguration => "jwt_no_configuration",
            Self::Unavailable { .. } => "jwt_issuer_unavailable",
        }
    }

    /// Whether nobody could look, so that another try may go better.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::NoConfiguration | Self::Unavailable { .. })
    }
}

/// A token that is not taken: why, and what is known of whose it is. Its text and its other claims are not kept.
#[derive(Clone, PartialEq, Eq, Error)]
#[error("{error}")]
pub struct RefusedToken {
    /// Why.
    pub error: JwtError,
    /// The claim `iss`, where the token could be read so far. Anybody may have written it, unless there is a subject.
    pub issuer: Option<String>,
    /// The claim `sub`, which is kept only of a token that its issuer signed; empty where there is none.
    pub subject: Option<String>,
}

impl fmt::Debug for RefusedToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Who a person is belongs into the record, not into a log.
        f.debug_struct("RefusedToken")
            .field("error", &self.error)
            .finish_non_exhaustive()
    }
}

impl RefusedToken {
    /// One of which nothing is known.
    fn unreadable(error: impl Into<JwtError>) -> Self {
        Self {
            error: error.into(),
            issuer: None,
            subject: None,
        }
    }
}

/// The issuers in force, and the tokens of theirs that were verified. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Issuers(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    file: Option<PathBuf>,
    loaded: ArcSwap<LoadedIssuers>,
    /// Why the file as it is now cannot be used.
    fault: ArcSwapOption<String>,
    cache: TokenCache,
    generation: KeyGeneration,
    limits: Limits,
    metrics: JwtMetrics,
    changed: watch::Sender<()>,
}

/// The issuers of one reading of the file.
#[derive(Debug, Default)]
struct LoadedIssuers {
    /// The file's text; none where it was never good.
    text: Option<String>,
    issuers: Vec<Arc<IssuerKeys>>,
}

impl LoadedIssuers {
    fn find(&self, url: &str) -> Result<&Arc<IssuerKeys>, TokenError> {
        let issuer = self.issuers.iter().find(|issuer| issuer.issuer.url == url);
        issuer.ok_or(TokenError::UnknownIssuer)
    }
}

impl Issuers {
    /// Reads the configuration's file, if there is one. Nothing is fetched before [`Issuers::run`]. Where the file cannot be used
    /// no token can be verified until it can: see [`Issuers::fault`].
    #[must_use]
    pub fn open(file: Option<PathBuf>, metrics: JwtMetrics) -> Self {
        Self::open_with(file, metrics, Limits::default())
    }

    /// None, which verify no token.
    #[cfg(test)]
    pub(crate) fn none() -> Self {
        let metrics = JwtMetrics::register(&MetricsRegistry::default());
        Self::open(None, metrics)
    }

    fn open_with(file: Option<PathBuf>, metrics: JwtMetrics, limits: Limits) -> Self {
        let inner = Inner {
            loaded: ArcSwap::default(),
            fault: ArcSwapOption::default(),
            cache: TokenCache::default(),
            generation: KeyGeneration::default(),
            limits,
            file,
            metrics,
            changed: watch::Sender::new(()),
        };
        if let Some(file) = &inner.file {
            match file::read(&inner, file) {
                Ok(Some(loaded)) => inner.loaded.store(Arc::new(loaded)),
                Ok(None) => {}
                Err(error) => inner.report(&error),
            }
        }
        Self(Arc::new(inner))
    }

    /// Wakes whenever other issuers are in force.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<()> {
        self.0.changed.subscribe()
    }

    /// Whether there is an issuer of this URL.
    #[must_use]
    pub fn has(&self, url: &str) -> bool {
        let loaded = self.0.loaded.load();
        loaded.issuers.iter().any(|issuer| issuer.issuer.url == url)
    }

    /// Why no token can be verified: what is wrong with the file, where it was never good.
    #[must_use]
    pub fn fault(&self) -> Option<String> {
        let fault = self.0.fault.load();
        fault.as_deref().filter(|_| self.0.is_without()).cloned()
    }

    /// When the first issuer's own CAs have all expired.
    #[must_use]
    pub fn ca_not_after(&self) -> Option<SystemTime> {
        let loaded = self.0.loaded.load();
        let issuers = loaded.issuers.iter();
        issuers.filter_map(|issuer| issuer.authorities().not_after).min()
    }

    /// What is doubtful about the issuers' own CAs, by the URL of each.
    #[must_use]
    pub fn doubtful_authorities(&self) -> Vec<(String, String)> {
        let loaded = self.0.loaded.load();
        let doubts = loaded.issuers.iter().flat_map(|issuer| {
            let doubts = issuer.authorities().doubts.iter();
            doubts.map(|doubt| (issuer.issuer.url.clone(), doubt.clone()))
        });
        doubts.collect()
    }

    /// What is known of the bearer token of an `Authorization` header, where that suffices and its times hold: at no cost but for
    /// a hash. `last` is of the connection.
    #[must_use]
    pub fn known(
        &self,
        authorization: &HeaderValue,
        last: &LastToken,
        now: Timestamp,
    ) -> Option<Arc<VerifiedToken>> {
        let token = bearer(authorization.as_bytes())?;
        if token.len() > TOKEN_LIMIT {
            return None;
        }
        let inner = &*self.0;
        let known = last.find(&inner.cache, TokenHash::of(token), inner.generation.current())?;
        known.check_times(now).is_ok().then_some(known)
    }

    /// Verifies the bearer token of an `Authorization` header. `None` where it holds none, or another scheme than `Bearer`.
    ///
    /// # Errors
    /// A [`RefusedToken`].
    pub async fn verify(
        &self,
        authorization: &HeaderValue,
        now: Timestamp,
    ) -> Option<Result<Arc<VerifiedToken>, RefusedToken>> {
        let token = bearer(authorization.as_bytes())?;
        Some(self.verify_token(token, now).await)
    }

    async fn verify_token(&self, token: &[u8], now: Timestamp) -> Result<Arc<VerifiedToken>, RefusedToken> {
        if token.len() > TOKEN_LIMIT {
            return Err(RefusedToken::unreadable(TokenError::TooLong));
        }
        let inner = &*self.0;
        if inner.is_without() {
            return Err(RefusedToken::unreadable(JwtError::NoConfiguration));
        }
        let hash = TokenHash::of(token);
        // Taken before the keys are, so that a token is never kept for keys that are newer than those it was verified with.
        let generation = inner.generation.current();
        if let Some(verified) = inner.cache.get(hash, generation) {
            return match verified.check_times(now) {
                Ok(()) => Ok(verified),
                Err(error) => Err(RefusedToken {
                    error: error.into(),
                    issuer: Some(verified.issuer().to_owned()),
                    subject: Some(verified.subject().to_owned()),
                }),
            };
        }
        let unverified = UnverifiedToken::read(token)?;
        let mut subject = None;
        match self.judge(&unverified, now, &mut subject).await {
            Ok(verified) => {
                let verified = Arc::new(verified);
                inner
                    .cache
                    .put(hash, generation, Arc::clone(&verified), token.len());
                Ok(verified)
            }
            Err(error) => Err(RefusedToken {
                error,
                issuer: Some(unverified.issuer),
                subject,
            }),
        }
    }

    /// Checks signature, times, audience and rules. `subject` gets the claim `sub` once the signature holds.
    async fn judge(
        &self,
        unverified: &UnverifiedToken<'_>,
        now: Timestamp,
        subject: &mut Option<String>,
    ) -> Result<VerifiedToken, JwtError> {
        let loaded = self.0.loaded.load_full();
        let issuer = loaded.find(&unverified.issuer)?;
        let (claims, key) = issuer.verify(unverified).await?;
        let signed = claims.get("sub").and_then(Value::as_str).unwrap_or_default();
        *subject = Some(signed.to_owned());
        Ok(issuer.issuer.judge(claims, now)?.signed_by(key))
    }

    /// Whether a token that was verified would be taken now: its issuer is configured, its key published, and its time not over. What a
    /// token permitted lasts no longer than that.
    ///
    /// # Errors
    /// A [`JwtError`].
    pub fn verify_again(&self, token: &VerifiedToken, now: Timestamp) -> Result<(), JwtError> {
        let loaded = self.0.loaded.load();
        let issuer = loaded.find(token.issuer())?;
        issuer.still_has_key_of(token)?;
        Ok(token.judge_again(&issuer.issuer, now)?)
    }

    /// Has `act` called after each change of the issuers and of their keys. The first such act stays.
    pub fn when_changed(&self, act: impl Fn() + Send + Sync + 'static) {
        self.0.generation.when_advanced(act);
    }

    /// Counts a caller that did not prove who it is.
    pub fn count_failure(&self, reason: &'static str) {
        self.0.metrics.failed(reason);
    }

    /// Fetches the issuers' keys, and reads the file again when it changes, as long as it is polled.
    pub async fn run(self) {
        file::follow(&self.0).await;
    }
}

/// The issuers of a file, whose keys nobody fetches: for a look before an agent is started.
///
/// # Errors
/// An [`AuthenticationError`] with all that is wrong.
pub fn check(file: &Path) -> Result<Issuers, AuthenticationError> {
    let metrics = JwtMetrics::register(&MetricsRegistry::default());
    let issuers = Issuers::open(None, metrics);
    if let Some(loaded) = file::read(&issuers.0, file)? {
        issuers.0.loaded.store(Arc::new(loaded));
    }
    Ok(issuers)
}

impl Inner {
    /// Whether there is a file, and it was never good.
    fn is_without(&self) -> bool {
        self.file.is_some() && self.loaded.load().text.is_none()
    }

    /// Says once that the file cannot be used as it is now.
    fn report(&self, error: &AuthenticationError) {
        let error = error.to_string();
        if self.fault.load().as_deref() == Some(&error) {
            return;
        }
        self.metrics.reloaded(false);
        let effect = match self.is_without() {
            true => "tokens are refused with 503 until it can be used",
            false => "the last good one stays in force",
        };
        tracing::error!(%error, effect, "the authentication configuration cannot be used");
        self.fault.store(Some(Arc::new(error)));
    }

    fn issuers_of(&self, file: &Path, text: &str) -> Result<Vec<Arc<IssuerKeys>>, AuthenticationError> {
        let name = file.display().to_string();
        let read = AuthenticationConfiguration::read(&name, text);
        let configuration = read.map_err(|errors| AuthenticationError::Invalid { errors })?;
        let issuers = configuration.issuers.into_iter();
        issuers
            .map(|issuer| {
                let client = IssuerClient::new(&issuer, file)?;
                client
                    .authorities()
                    .warn(&format!("certificateAuthority of issuer {}", issuer.url));
                let seen = (self.metrics.clone(), self.generation.clone());
                let keys = IssuerKeys::new(issuer, client, seen, self.limits);
                Ok(Arc::new(keys))
            })
            .collect()
    }
}

/// The token of an `Authorization` of scheme `Bearer`, unless it is empty.
fn bearer(value: &[u8]) -> Option<&[u8]> {
    let value = value.trim_ascii();
    let end = value.iter().position(u8::is_ascii_whitespace)?;
    let (scheme, token) = value.split_at(end);
    let token = token.trim_ascii();
    (scheme.eq_ignore_ascii_case(b"bearer") && !token.is_empty()).then_some(token)
}
