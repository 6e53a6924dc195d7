//! Whose token a request showed, and for whom an agent asks, as records have it.
//!
//! In: what a token says of its issuer and subject. Out: as much of that as a record keeps, without secrets. The token itself is
//! never part of it.

use picket_policy::Person;
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

/// The person for whom an agent asks: the last link of the chain, before which stand the agent and its pod. The person's groups are
/// those of `impersonatedUser`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PersonFacts {
    /// The issuer of the person's token.
    pub issuer: String,
    /// The claim `sub`.
    pub subject: String,
    /// The user that the issuer's mappings make of the token.
    pub username: String,
    /// Who used the token before the agent, by the claim `act` (RFC 8693 section 4.1): the last one first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub actors: Vec<ActorFacts>,
    /// Whether the token names more actors than are kept.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub more_actors: bool,
}

/// Who used a token for its subject.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ActorFacts {
    /// Its issuer, where the claim names one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub issuer: Option<String>,
    /// Its subject.
    pub subject: String,
}

impl PersonFacts {
    /// The facts of a person.
    #[must_use]
    pub fn of(person: &Person) -> Self {
        let actors = person.actors().iter().map(|actor| ActorFacts {
            issuer: actor.issuer.clone(),
            subject: actor.subject.clone(),
        });
        Self {
            issuer: person.issuer().to_owned(),
            subject: person.subject().to_owned(),
            username: person.username().to_owned(),
            actors: actors.collect(),
            more_actors: person.has_more_actors(),
        }
    }

    /// What is kept of them.
    pub(super) fn kept(self, redactor: &Redactor) -> Self {
        let kept = |text: String| bounds::name(redactor, text);
        let actors = self.actors.into_iter().map(|actor| ActorFacts {
            issuer: actor.issuer.map(kept),
            subject: kept(actor.subject),
        });
        Self {
            actors: actors.collect(),
            issuer: kept(self.issuer),
            subject: kept(self.subject),
            username: kept(self.username),
            more_actors: self.more_actors,
        }
    }

    /// About how many bytes they are.
    pub(super) fn size(&self) -> usize {
        let actor = |actor: &ActorFacts| actor.subject.len() + actor.issuer.as_ref().map_or(0, String::len);
        let actors: usize = self.actors.iter().map(actor).sum();
        self.issuer.len() + self.subject.len() + self.username.len() + actors
    }
}
