//! A principal with what is derived from it once, for all requests of its connection.
//!
//! In: a [`Principal`] that identity resolved. Out: a [`ResolvedPrincipal`], which records and requests share.

use std::sync::Arc;

use jiff::Timestamp;
use picket_policy::jwt::VerifiedToken;
use picket_policy::{Person, Principal};

/// A principal and its name as records share it.
#[derive(Debug)]
pub struct ResolvedPrincipal {
    /// The agent, in its pod.
    pub principal: Arc<Principal>,
    /// The identity's name.
    pub name: Arc<str>,
    /// When time alone ends this, unless something else does before: the identity's end, its certificate's or
    /// its token's.
    pub until: Option<Timestamp>,
    /// The token that proved the identity, for what is judged again without the request's headers.
    pub token: Option<Arc<VerifiedToken>>,
    /// The token of the person for whom the agent asks, likewise. It proves nothing of the agent.
    pub person_token: Option<Arc<VerifiedToken>>,
}

impl ResolvedPrincipal {
    /// A principal whose credentials hold until then.
    pub(super) fn new(
        principal: Principal,
        credentials: Option<Timestamp>,
        token: Option<Arc<VerifiedToken>>,
    ) -> Self {
        let asks = principal.identity().attest.jwt.is_some();
        let token = token.filter(|_| asks);
        let identity = principal.identity().ends_at();
        let of_token = token.as_ref().and_then(|token| token.until());
        Self {
            until: identity.into_iter().chain(credentials).chain(of_token).min(),
            token,
            person_token: None,
            name: principal.name().into(),
            principal: Arc::new(principal),
        }
    }

    /// Whether the agent is the actor of its token, and so asks for the token's subject and never for itself.
    #[must_use]
    pub fn is_actor(&self) -> bool {
        let jwt = self.principal.identity().attest.jwt.as_ref();
        match (jwt, &self.token) {
            (Some(jwt), Some(token)) => token.subject() != jwt.subject,
            _ => false,
        }
    }

    /// The same agent, which asks for the person of this token.
    pub(super) fn on_behalf_of(&self, person: Person, token: &Arc<VerifiedToken>) -> Self {
        Self {
            principal: Arc::new(self.principal.on_behalf_of(Arc::new(person))),
            name: Arc::clone(&self.name),
            until: self.until.into_iter().chain(token.until()).min(),
            token: self.token.clone(),
            person_token: Some(Arc::clone(token)),
        }
    }
}
