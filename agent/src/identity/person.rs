//! For whom an agent asks: a bearer token beside the kernel's word on the pod, or beside a client certificate at the gateway, which is
//! neither the agent's own nor evidence of who it is. Or a token that its issuer gave to the agent for a person: that proves both.
//!
//! In: a request's `Authorization`, the agent behind the connection, the policies, then the verified token. Out: whether the token is
//! to be verified, and the principal that asks for its person, or an [`IdentityError`].
//!
//! No token is verified for an agent without a grant on behalf of people: such an agent must not learn from Picket whose token counts.

use std::sync::Arc;

use http::HeaderValue;
use picket_policy::jwt::VerifiedToken;
use picket_policy::{Person, PersonError, PolicySet};

use super::claim::{OwnToken, may_be_person_token};
use super::{IdentityError, ResolvedPrincipal};
use crate::workload::Pod;

/// Whether a request's bearer token, beside what proves the agent, is to be verified as one of a person for whom the agent asks. `pod` is
/// `None` at the gateway.
#[must_use]
pub fn carries_person_token(
    policies: &PolicySet,
    agent: &ResolvedPrincipal,
    pod: Option<&Pod>,
    own: &OwnToken,
    authorization: &HeaderValue,
) -> bool {
    // An agent that is known by its token has no place for another one: `is_actor` says whether that one is a person's.
    agent.token.is_none()
        && policies.acts_for_people(&agent.name)
        && may_be_person_token(authorization.as_bytes(), pod, own)
}

/// The agent that asks for the person of a verified token.
///
/// # Errors
/// Nobody may ask for such a user, or this agent may not ask for this one.
pub fn on_behalf_of(
    policies: &PolicySet,
    agent: &ResolvedPrincipal,
    token: &Arc<VerifiedToken>,
) -> Result<ResolvedPrincipal, IdentityError> {
    let unfit = |error| IdentityError::UnfitPerson {
        identity: agent.name.to_string(),
        error,
    };
    let person = Person::of(token).map_err(unfit)?;
    if policies.is_agents_user(person.username()) {
        return Err(unfit(PersonError::AgentsUser));
    }
    if !policies.acts_for(&agent.name, &person) {
        return Err(IdentityError::NotOnBehalfOf {
            identity: agent.name.to_string(),
            username: person.username().to_owned(),
            issuer: person.issuer().to_owned(),
        });
    }
    Ok(agent.on_behalf_of(person, token))
}
