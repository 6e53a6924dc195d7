//! Whose token a request showed, as its record has it.
//!
//! In: what a token says of its issuer and subject. Out: as much of that as a record keeps, without secrets. The token itself is
//! never part of it.

use serde::Serialize;

use super::bounds;
use super::redact::Redactor;

/// Whose token a request showed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct TokenFacts {
    /// The claim `iss`, where the token could be read so far.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub issuer: Option<String>,
    /// The claim `sub`, where `verified`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// The user that the issuer's mappings make of the token, where the token was taken.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// Whether the issuer signed the token. Where not, anybody may have written `issuer`.
    pub verified: bool,
}

impl TokenFacts {
    /// What is kept of them.
    pub(super) fn kept(self, redactor: &Redactor) -> Self {
        let kept = |text: Option<String>| text.map(|text| bounds::name(redactor, text));
        Self {
            issuer: kept(self.issuer),
            subject: kept(self.subject),
            username: kept(self.username),
            verified: self.verified,
        }
    }

    /// About how many bytes they are.
    pub(super) fn size(&self) -> usize {
        let texts = [&self.issuer, &self.subject, &self.username];
        texts.into_iter().flatten().map(String::len).sum()
    }
}
