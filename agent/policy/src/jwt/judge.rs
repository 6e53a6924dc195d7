//! From a token's claims to its user, by the rules of its issuer.
//!
//! In: claims whose signature was verified, the issuer, the time. Out: a [`VerifiedToken`], or the first [`TokenError`]. What
//! the API server refuses is refused: an expression that errs, a claim of another type, an email that is not verified.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Map, Value as Json, json};

use super::verified::{audiences, check_times};
use super::{ClaimRule, JwtIssuer, Mapping, TokenError, TokenUser, VerifiedToken};
use crate::cel::{CelOutcome, Expression};

impl JwtIssuer {
    /// Judges the claims of a token that this issuer signed.
    ///
    /// # Errors
    /// A [`TokenError`].
    pub fn judge(
        self: &Arc<Self>,
        claims: Map<String, Json>,
        now: Timestamp,
    ) -> Result<VerifiedToken, TokenError> {
        if claims.get("iss").and_then(Json::as_str) != Some(self.url.as_str()) {
            return Err(TokenError::UnknownIssuer);
        }
        let expires_at =
            seconds(&claims, "exp")?.ok_or_else(|| TokenError::MissingClaim("exp".to_owned()))?;
        let not_before = seconds(&claims, "nbf")?;
        check_times(expires_at, not_before, now)?;
        let is_ours = |audience: &str| self.audiences.iter().any(|ours| ours == audience);
        if !audiences(&claims).any(is_ours) {
            return Err(TokenError::Audience);
        }
        let claims = Json::Object(claims);
        self.check_claims(&claims)?;
        let user = self.user(&claims)?;
        self.check_user(&user)?;
        let Json::Object(claims) = claims else {
            return Err(TokenError::Malformed);
        };
        Ok(VerifiedToken {
            issuer: Arc::clone(self),
            claims,
            user,
            expires_at,
            not_before,
            key: None,
        })
    }

    fn check_claims(&self, claims: &Json) -> Result<(), TokenError> {
        for rule in &self.claim_rules {
            match rule {
                ClaimRule::Required { claim, value } => {
                    let found = claims.get(claim);
                    let found = found.ok_or_else(|| TokenError::MissingClaim(claim.clone()))?;
                    if found.as_str() != Some(value) {
                        return Err(TokenError::RequiredClaim(claim.clone()));
                    }
                }
                ClaimRule::Expression { expression, message } => {
                    check_rule(expression, message, ("claims", claims), "claimValidationRules")?;
                }
            }
        }
        Ok(())
    }

    fn user(&self, claims: &Json) -> Result<TokenUser, TokenError> {
        const USERNAME: &str = "claimMappings.username";
        let username = self.username.text(claims, USERNAME)?;
        if let Mapping::Claim { name, .. } = &self.username
            && name == "email"
            && let Some(verified) = claims.get("email_verified")
            && *verified != Json::Bool(true)
        {
            return Err(TokenError::EmailNotVerified);
        }
        if username.is_empty() {
            return Err(TokenError::Expression(USERNAME));
        }
        let groups = match &self.groups {
            None => Vec::new(),
            Some(mapping) => mapping.texts(claims, "claimMappings.groups")?,
        };
        let uid = match &self.uid {
            None => String::new(),
            Some(mapping) => mapping.text(claims, "claimMappings.uid")?,
        };
        let mut extra = BTreeMap::new();
        for one in &self.extra {
            let values = texts(&one.value, claims, "claimMappings.extra")?;
            if !values.is_empty() {
                extra.insert(one.key.clone(), values);
            }
        }
        Ok(TokenUser {
            username,
            groups,
            uid,
            extra,
        })
    }

    fn check_user(&self, user: &TokenUser) -> Result<(), TokenError> {
        if self.user_rules.is_empty() {
            return Ok(());
        }
        let user = json!({
            "username": user.username, "groups": user.groups, "uid": user.uid, "extra": user.extra,
        });
        self.user_rules.iter().try_for_each(|rule| {
            check_rule(
                &rule.expression,
                &rule.message,
                ("user", &user),
                "userValidationRules",
            )
        })
    }
}

impl Mapping {
    fn text(&self, claims: &Json, what: &'static str) -> Result<String, TokenError> {
        match self {
            Self::Claim { name, prefix } => {
                let claim = claims.get(name);
                let claim = claim.ok_or_else(|| TokenError::MissingClaim(name.clone()))?;
                let text = claim
                    .as_str()
                    .ok_or_else(|| TokenError::ClaimType(name.clone()))?;
                Ok(format!("{prefix}{text}"))
            }
            Self::Expression(expression) => match evaluate(expression, ("claims", claims), what)? {
                CelOutcome::Text(text) => Ok(text),
                _ => Err(TokenError::Expression(what)),
            },
        }
    }

    /// A claim that is missing has no texts; one text is a list of it.
    fn texts(&self, claims: &Json, what: &'static str) -> Result<Vec<String>, TokenError> {
        match self {
            Self::Claim { name, prefix } => {
                let wrong = || TokenError::ClaimType(name.clone());
                let with_prefix = |item: &Json| Some(format!("{prefix}{}", item.as_str()?));
                match claims.get(name) {
                    None => Ok(Vec::new()),
                    Some(Json::Array(items)) => {
                        let items: Option<Vec<_>> = items.iter().map(with_prefix).collect();
                        items.ok_or_else(wrong)
                    }
                    Some(one) => Ok(vec![with_prefix(one).ok_or_else(wrong)?]),
                }
            }
            Self::Expression(expression) => texts(expression, claims, what),
        }
    }
}

/// What an expression comes to as a list of texts, without empty ones.
fn texts(expression: &Expression, claims: &Json, what: &'static str) -> Result<Vec<String>, TokenError> {
    let mut texts = match evaluate(expression, ("claims", claims), what)? {
        CelOutcome::Nothing => Vec::new(),
        CelOutcome::Text(text) => vec![text],
        CelOutcome::Texts(texts) => texts,
        CelOutcome::Bool(_) | CelOutcome::Other => return Err(TokenError::Expression(what)),
    };
    texts.retain(|text| !text.is_empty());
    Ok(texts)
}

fn check_rule(
    expression: &Expression,
    message: &str,
    variable: (&str, &Json),
    what: &'static str,
) -> Result<(), TokenError> {
    match evaluate(expression, variable, what)? {
        CelOutcome::Bool(true) => Ok(()),
        CelOutcome::Bool(false) if message.is_empty() => Err(TokenError::Rule(expression.text().to_owned())),
        CelOutcome::Bool(false) => Err(TokenError::Rule(message.to_owned())),
        _ => Err(TokenError::Expression(what)),
    }
}

fn evaluate(
    expression: &Expression,
    variable: (&str, &Json),
    what: &'static str,
) -> Result<CelOutcome, TokenError> {
    let evaluated = expression.evaluate(&[variable]);
    evaluated.map_err(|_| TokenError::Expression(what))
}

/// A NumericDate (RFC 7519 section 2), whose part of a second is dropped.
fn seconds(claims: &Map<String, Json>, claim: &str) -> Result<Option<i64>, TokenError> {
    /// The last second that a moment can have; the year 9999.
    const LAST: f64 = 253_402_207_200.0;
    let Some(found) = claims.get(claim) else {
        return Ok(None);
    };
    let seconds = found.as_i64().or_else(|| {
        let number = found.as_f64()?;
        // Within the limits of i64.
        #[expect(clippy::cast_possible_truncation, reason = "the range was looked at")]
        (0.0..=LAST).contains(&number).then_some(number as i64)
    });
    seconds
        .map(Some)
        .ok_or_else(|| TokenError::ClaimType(claim.to_owned()))
}
