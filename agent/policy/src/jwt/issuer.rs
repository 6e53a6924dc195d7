//! One issuer: whose tokens are taken, and what their claims mean.
//!
//! In: what [`read`](super::read) found in a file. Out: a [`JwtIssuer`] that tokens are judged by.

use crate::cel::Expression;
use crate::yaml::Spanned;

/// An issuer of tokens.
#[derive(Debug, PartialEq, Eq)]
pub struct JwtIssuer {
    /// Its URL, exactly as tokens have it in `iss`.
    pub url: String,
    /// Where its discovery document is, if not below its URL.
    pub discovery_url: Option<String>,
    /// Whom its tokens may be for. One of these suffices.
    pub audiences: Vec<String>,
    /// The CAs of the issuer's own certificate (PEM).
    pub certificate_authority: Option<Spanned<String>>,
    /// What else the claims must fulfil.
    pub claim_rules: Vec<ClaimRule>,
    /// The user's name.
    pub username: Mapping,
    /// The user's groups.
    pub groups: Option<Mapping>,
    /// The user's UID.
    pub uid: Option<Mapping>,
    /// Further facts of the user.
    pub extra: Vec<Extra>,
    /// What the user must fulfil.
    pub user_rules: Vec<UserRule>,
}

/// From a token's claims to a fact of its user.
#[derive(Debug, PartialEq, Eq)]
pub enum Mapping {
    /// A claim, with a prefix before its text.
    Claim {
        /// Its name.
        name: String,
        /// The prefix, which may be empty.
        prefix: String,
    },
    /// An expression over `claims`.
    Expression(Expression),
}

/// One fact under a key.
#[derive(Debug, PartialEq, Eq)]
pub struct Extra {
    /// Its key, such as `example.org/tenant`.
    pub key: String,
    /// An expression over `claims`.
    pub value: Expression,
}

/// What claims must fulfil.
#[derive(Debug, PartialEq, Eq)]
pub enum ClaimRule {
    /// A claim has this text.
    Required {
        /// Its name.
        claim: String,
        /// The text.
        value: String,
    },
    /// An expression over `claims` is true.
    Expression {
        /// It.
        expression: Expression,
        /// What to say where it is not.
        message: String,
    },
}

/// What a user must fulfil.
#[derive(Debug, PartialEq, Eq)]
pub struct UserRule {
    /// An expression over `user` that must be true.
    pub expression: Expression,
    /// What to say where it is not.
    pub message: String,
}

impl JwtIssuer {
    /// Where the issuer's discovery document is.
    #[must_use]
    pub fn discovery(&self) -> String {
        match &self.discovery_url {
            Some(url) => url.clone(),
            None => format!(
                "{}/.well-known/openid-configuration",
                self.url.strip_suffix('/').unwrap_or(&self.url)
            ),
        }
    }
}
