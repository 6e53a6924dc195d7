//! Why a token is refused.
//!
//! In: what verification and the issuer's rules found. Out: a [`TokenError`], whose text repeats nothing of the token.

use thiserror::Error;

use super::CLOCK_SKEW_SECONDS;
use crate::token::TOKEN_LIMIT;

/// Why a token is refused. Names of claims, expressions and messages are those of the operator's file.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum TokenError {
    /// It is longer than [`TOKEN_LIMIT`].
    #[error("the token is longer than {TOKEN_LIMIT} bytes")]
    TooLong,
    /// It is no JWT.
    #[error("the token is no signed JWT")]
    Malformed,
    /// Its `alg` is `none`, a shared secret's, or not known.
    #[error(
        "the token's alg is not allowed; RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384 and EdDSA are"
    )]
    Algorithm,
    /// No configured issuer has its `iss`.
    #[error("the token's issuer is not one of the configured issuers")]
    UnknownIssuer,
    /// The issuer has no key that the token names.
    #[error("the token is signed with a key that its issuer does not publish")]
    UnknownKey,
    /// The signature is not the issuer's.
    #[error("the token's signature is not valid")]
    Signature,
    /// Its time is over.
    #[error("the token has expired (clock skew of {CLOCK_SKEW_SECONDS} s allowed)")]
    Expired,
    /// Its time has not come.
    #[error("the token is not valid yet (clock skew of {CLOCK_SKEW_SECONDS} s allowed)")]
    NotYetValid,
    /// It is for somebody else.
    #[error("the token is for another audience")]
    Audience,
    /// A claim is missing.
    #[error("the token has no claim `{0}`")]
    MissingClaim(String),
    /// A claim has another shape than it must.
    #[error("the token's claim `{0}` has the wrong type")]
    ClaimType(String),
    /// `email_verified` is not true.
    #[error("the token's email is not verified")]
    EmailNotVerified,
    /// A claim has another value than `claimValidationRules` requires.
    #[error("the token's claim `{0}` does not have the required value")]
    RequiredClaim(String),
    /// An expression failed for this token, or came to something else than it must.
    #[error("the expression of {0} failed for this token")]
    Expression(&'static str),
    /// A rule of `claimValidationRules` or `userValidationRules` is not fulfilled.
    #[error("the token does not fulfil a rule of its issuer: {0}")]
    Rule(String),
    /// The mappings of the issuer have changed, and make another user of the token.
    #[error("the issuer's claimMappings have changed and make another user of the token")]
    UserChanged,
}

impl TokenError {
    /// What to do about it: one sentence for each class, which ends without a full stop.
    #[must_use]
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::TooLong
            | Self::Malformed
            | Self::UnknownKey
            | Self::Signature
            | Self::Expired
            | Self::NotYetValid => {
                "Allowed instead: the same request with a new token of a configured issuer"
            }
            Self::Algorithm => {
                "Allowed instead: the same request with a token that is signed by one of these"
            }
            Self::UnknownIssuer => {
                "Allowed instead: the same request with a token of a configured issuer. A cluster operator can add the issuer to \
                 authentication.configFile of the node"
            }
            Self::Audience => {
                "Allowed instead: the same request with a token for an audience of its issuer. A cluster operator has the audiences \
                 in authentication.configFile of the node"
            }
            Self::MissingClaim(_)
            | Self::ClaimType(_)
            | Self::EmailNotVerified
            | Self::RequiredClaim(_)
            | Self::Expression(_)
            | Self::Rule(_)
            | Self::UserChanged => {
                "Allowed instead: the same request with a token that fulfils its issuer's rules. A cluster operator has the rules in \
                 authentication.configFile of the node"
            }
        }
    }

    /// A stable name of low cardinality, for metrics and records.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::TooLong => "jwt_too_long",
            Self::Malformed => "jwt_malformed",
            Self::Algorithm => "jwt_algorithm",
            Self::UnknownIssuer => "jwt_unknown_issuer",
            Self::UnknownKey => "jwt_unknown_key",
            Self::Signature => "jwt_signature",
            Self::Expired => "jwt_expired",
            Self::NotYetValid => "jwt_not_yet_valid",
            Self::Audience => "jwt_audience",
            Self::MissingClaim(_) | Self::ClaimType(_) => "jwt_claim",
            Self::EmailNotVerified
            | Self::RequiredClaim(_)
            | Self::Expression(_)
            | Self::Rule(_)
            | Self::UserChanged => "jwt_rule",
        }
    }
}
