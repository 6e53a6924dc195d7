//! A token whose signature, times, audience and rules hold.
//!
//! In: what [`JwtIssuer::judge`](super::JwtIssuer::judge) found. Out: a [`VerifiedToken`] that identities are compared with. The
//! token's own text is not in it.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Map, Value as Json};

use super::{CLOCK_SKEW_SECONDS, JwtIssuer, TokenError};
use crate::token::TokenClaims;

/// The user that an issuer's mappings make of a token.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TokenUser {
    /// Its name; never empty.
    pub username: String,
    /// Its groups.
    pub groups: Vec<String>,
    /// Its UID; empty where the issuer maps none.
    pub uid: String,
    /// Further facts.
    pub extra: BTreeMap<String, Vec<String>>,
}

/// What a verified token says.
#[derive(Clone, PartialEq)]
pub struct VerifiedToken {
    pub(super) issuer: Arc<JwtIssuer>,
    pub(super) claims: Map<String, Json>,
    pub(super) user: TokenUser,
    pub(super) expires_at: i64,
    pub(super) not_before: Option<i64>,
    pub(super) key: Option<u64>,
}

impl fmt::Debug for VerifiedToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Claims may hold what a person would not want in a log.
        f.debug_struct("VerifiedToken")
            .field("issuer", &self.issuer.url)
            .finish_non_exhaustive()
    }
}

impl VerifiedToken {
    /// The issuer's URL.
    #[must_use]
    pub fn issuer(&self) -> &str {
        &self.issuer.url
    }

    /// The claim `sub`; empty where there is none.
    #[must_use]
    pub fn subject(&self) -> &str {
        self.text("sub").unwrap_or_default()
    }

    /// Whether the token is for this audience.
    #[must_use]
    pub fn is_for(&self, audience: &str) -> bool {
        audiences(&self.claims).any(|one| one == audience)
    }

    /// A claim that is text.
    #[must_use]
    pub fn text(&self, claim: &str) -> Option<&str> {
        self.claims.get(claim).and_then(Json::as_str)
    }

    /// A claim of any type.
    #[must_use]
    pub fn claim(&self, claim: &str) -> Option<&Json> {
        self.claims.get(claim)
    }

    /// The user that the issuer's mappings make of the token.
    #[must_use]
    pub fn user(&self) -> &TokenUser {
        &self.user
    }

    /// The service account that a token of the API server is for, and the pod that the token is bound to.
    #[must_use]
    pub fn service_account(&self) -> Option<TokenClaims> {
        TokenClaims::of(&self.claims)
    }

    /// The same token, with what the verifier knows the key by that signed it.
    #[must_use]
    pub fn signed_by(self, key: u64) -> Self {
        Self {
            key: Some(key),
            ..self
        }
    }

    /// What the verifier knows the key by that signed it.
    #[must_use]
    pub fn key(&self) -> Option<u64> {
        self.key
    }

    /// When the token's time is over, with the skew that clocks may have; `None` where no clock will show it.
    #[must_use]
    pub fn until(&self) -> Option<Timestamp> {
        Timestamp::from_second(self.expires_at.saturating_add(CLOCK_SKEW_SECONDS)).ok()
    }

    /// Whether the token would be taken from its issuer as the issuer's rules are now, for the same user. That one of the issuer's keys
    /// signed it is the caller's to know.
    ///
    /// # Errors
    /// A [`TokenError`].
    pub fn judge_again(&self, issuer: &Arc<JwtIssuer>, now: Timestamp) -> Result<(), TokenError> {
        if Arc::ptr_eq(&self.issuer, issuer) || self.issuer == *issuer {
            return self.check_times(now);
        }
        let judged = issuer.judge(self.claims.clone(), now)?;
        match judged.user == self.user {
            true => Ok(()),
            // What the token permitted was permitted to the user that it was then.
            false => Err(TokenError::UserChanged),
        }
    }

    /// Whether the token's times hold, with the skew that clocks may have.
    ///
    /// # Errors
    /// [`TokenError::Expired`] or [`TokenError::NotYetValid`].
    pub fn check_times(&self, now: Timestamp) -> Result<(), TokenError> {
        check_times(self.expires_at, self.not_before, now)
    }
}

pub(super) fn check_times(
    expires_at: i64,
    not_before: Option<i64>,
    now: Timestamp,
) -> Result<(), TokenError> {
    let now = now.as_second();
    if now >= expires_at.saturating_add(CLOCK_SKEW_SECONDS) {
        return Err(TokenError::Expired);
    }
    if not_before.is_some_and(|moment| now < moment.saturating_sub(CLOCK_SKEW_SECONDS)) {
        return Err(TokenError::NotYetValid);
    }
    Ok(())
}

/// `aud` is one text or several (RFC 7519 section 4.1.3); whatever else it is, it names nobody.
pub(super) fn audiences(claims: &Map<String, Json>) -> impl Iterator<Item = &str> {
    let (one, several) = match claims.get("aud") {
        Some(Json::String(one)) => (Some(one.as_str()), None),
        Some(Json::Array(several)) => (None, Some(several)),
        _ => (None, None),
    };
    let several = several.into_iter().flatten().filter_map(Json::as_str);
    one.into_iter().chain(several)
}
