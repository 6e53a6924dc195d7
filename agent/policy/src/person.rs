//! A person for whom an agent asks: who that is, as whom the API server is asked, and by whose hands the token came.
//!
//! In: a verified token. Out: a [`Person`], or why nobody may ask for such a user.
//!
//! The API server's own users and groups begin with `system:`, those of Picket's nodes with `picket:`. An issuer whose mappings make
//! such a name, by mistake or by a claim that its users choose, must not make an agent a part of the cluster: the token is refused.

use std::fmt;
use std::sync::Arc;

use serde_json::Value as Json;
use thiserror::Error;

use crate::jwt::{TokenUser, VerifiedToken};
use crate::upstream_user::{Impersonate, UpstreamUser};

/// Most groups of a person. Each is a header of every request, and without constrained impersonation a check of the API server's.
pub const MAX_GROUPS: usize = 128;

/// Most actors that are kept of a token. Chains are as long as services stand behind each other; two are usual.
pub const MAX_ACTORS: usize = 4;

/// What is kept of an actor's names; OpenID Connect allows 255 bytes for a subject (Core 1.0, section 2).
const ACTOR_BYTES: usize = 255;

/// How users and groups begin that are part of the cluster: the API server's own, and those of Picket's nodes, which may impersonate.
const RESERVED: [&str; 2] = ["system:", "picket:"];

/// The group of every user but the anonymous one, which gives nothing more.
const AUTHENTICATED: &str = "system:authenticated";

/// A person for whom an agent asks.
#[derive(Clone, PartialEq, Eq)]
pub struct Person {
    issuer: String,
    subject: String,
    user: Arc<UpstreamUser>,
    username: String,
    groups: Vec<String>,
    actors: Vec<Actor>,
    has_more_actors: bool,
}

impl fmt::Debug for Person {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Who a person is belongs into the record, not into a log.
        f.debug_struct("Person")
            .field("issuer", &self.issuer)
            .finish_non_exhaustive()
    }
}

/// Who used a token for its subject, as the issuer says (the claim `act`, RFC 8693 section 4.1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Actor {
    /// Its issuer, where the claim names one.
    pub issuer: Option<String>,
    /// Its subject.
    pub subject: String,
}

/// Why no agent may ask for a token's user.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PersonError {
    /// The user is one of the API server's own or one of Picket's nodes.
    #[error(
        "the token's user is a part of the cluster: names that begin with `system:` or `picket:` are kept for those"
    )]
    SystemUser,
    /// The user is one that grants give to agents.
    #[error("the token's user is one that an AgentGrant gives to agents under upstream")]
    AgentsUser,
    /// A group is one of the API server's own or that of Picket's nodes.
    #[error(
        "one of the token's groups is a part of the cluster: names that begin with `system:` or `picket:` are kept for those"
    )]
    SystemGroup,
    /// A name has letters that no header carries.
    #[error(
        "the token's user or one of the groups has characters other than printable ASCII, or blanks around it"
    )]
    Unprintable,
    /// There are too many groups.
    #[error("the token's user has {0} groups, and at most {MAX_GROUPS} are sent")]
    Groups(usize),
}

fn fits_header(text: &str) -> bool {
    text.trim() == text && !text.is_empty() && text.bytes().all(|byte| (0x20..0x7f).contains(&byte))
}

fn is_reserved(name: &str) -> bool {
    RESERVED.iter().any(|prefix| name.starts_with(prefix))
}

/// Whether a request may name this user and these groups.
fn check(username: &str, groups: &[String]) -> Result<(), PersonError> {
    if is_reserved(username) {
        return Err(PersonError::SystemUser);
    }
    if groups
        .iter()
        .any(|group| is_reserved(group) && group != AUTHENTICATED)
    {
        return Err(PersonError::SystemGroup);
    }
    if groups.len() > MAX_GROUPS {
        return Err(PersonError::Groups(groups.len()));
    }
    if !fits_header(username) || !groups.iter().all(|group| fits_header(group)) {
        return Err(PersonError::Unprintable);
    }
    Ok(())
}

impl Person {
    /// The person of a verified token.
    ///
    /// # Errors
    /// A [`PersonError`].
    pub fn of(token: &VerifiedToken) -> Result<Self, PersonError> {
        let TokenUser { username, groups, .. } = token.user();
        check(username, groups)?;
        let (actors, has_more_actors) = actors(token.claim("act"));
        Ok(Self {
            issuer: token.issuer().to_owned(),
            subject: token.subject().to_owned(),
            user: Arc::new(UpstreamUser::Impersonated(Impersonate::new(username, groups))),
            username: username.clone(),
            groups: groups.clone(),
            actors,
            has_more_actors,
        })
    }

    /// A person by name, for tests of policies, which verify no token.
    pub(crate) fn named(issuer: &str, username: &str, groups: &[String]) -> Result<Self, PersonError> {
        Self::recorded(issuer, username, username, groups)
    }

    /// Likewise, with the subject that an audit record has. Nothing but tests and replays makes one so.
    pub(crate) fn recorded(
        issuer: &str,
        subject: &str,
        username: &str,
        groups: &[String],
    ) -> Result<Self, PersonError> {
        check(username, groups)?;
        Ok(Self {
            issuer: issuer.to_owned(),
            subject: subject.to_owned(),
            user: Arc::new(UpstreamUser::Impersonated(Impersonate::new(username, groups))),
            username: username.to_owned(),
            groups: groups.to_vec(),
            actors: Vec::new(),
            has_more_actors: false,
        })
    }

    /// The URL of the token's issuer.
    #[must_use]
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// The token's claim `sub`.
    #[must_use]
    pub fn subject(&self) -> &str {
        &self.subject
    }

    /// The user's name, as the issuer's mappings make it.
    #[must_use]
    pub fn username(&self) -> &str {
        &self.username
    }

    /// The user's groups, likewise.
    #[must_use]
    pub fn groups(&self) -> &[String] {
        &self.groups
    }

    /// As whom the API server is asked.
    #[must_use]
    pub fn user(&self) -> &Arc<UpstreamUser> {
        &self.user
    }

    /// Who used the token before it came here, the last one first.
    #[must_use]
    pub fn actors(&self) -> &[Actor] {
        &self.actors
    }

    /// Whether the token names more actors than are kept.
    #[must_use]
    pub fn has_more_actors(&self) -> bool {
        self.has_more_actors
    }
}

/// The actors of a token, the last one first, and whether there are more. What is no actor ends the chain.
fn actors(claim: Option<&Json>) -> (Vec<Actor>, bool) {
    let mut next = claim;
    let mut found = Vec::new();
    while let Some(actor) = next {
        let text = |name: &str| {
            let text = actor.get(name).and_then(Json::as_str)?;
            Some(text[..text.floor_char_boundary(ACTOR_BYTES)].to_owned())
        };
        let Some(subject) = text("sub") else { break };
        if found.len() == MAX_ACTORS {
            return (found, true);
        }
        found.push(Actor {
            issuer: text("iss"),
            subject,
        });
        next = actor.get("act");
    }
    (found, false)
}

#[cfg(test)]
#[path = "person_tests.rs"]
mod tests;
