//! Agents: an identity as it was read and checked, and the principal that a request comes from.
//!
//! In: an AgentIdentity, the caller that was attested as it, the time. Out: a [`Principal`], or why it may not act now.

use std::net::IpAddr;
use std::sync::Arc;

use jiff::Timestamp;

use crate::api::v1alpha1::{AgentIdentity, AgentIdentitySpec, Attest, State};
use crate::person::Person;

/// An AgentIdentity that was read and checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Its name.
    pub name: String,
    /// Who answers for it.
    pub owner: String,
    /// Its groups.
    pub groups: Vec<String>,
    /// Whether it may act.
    pub state: State,
    /// From this moment on it may not act.
    pub expires_at: Option<Timestamp>,
    /// By this moment someone should look at it again.
    pub review_by: Option<Timestamp>,
    /// From this moment on it may not act because nobody looked at it.
    pub suspended_from: Option<Timestamp>,
    /// Whether one workload at most may be it at a time.
    pub exclusive: bool,
    /// How its workload is recognised; all that is given must hold.
    pub attest: Attest,
}

impl Identity {
    /// Whether it may act at `now`. Revocation outweighs suspension, and that expiry.
    #[must_use]
    pub fn standing(&self, now: Timestamp) -> Standing {
        Standing::of(self.state, self.expires_at, self.suspended_from, now)
    }

    /// The first moment at which time alone ends what it may do.
    #[must_use]
    pub fn ends_at(&self) -> Option<Timestamp> {
        self.expires_at.into_iter().chain(self.suspended_from).min()
    }
}

impl From<AgentIdentity> for Identity {
    fn from(object: AgentIdentity) -> Self {
        Self {
            suspended_from: object.spec.suspended_from(),
            name: object.metadata.name,
            owner: object.spec.owner,
            groups: object.spec.groups,
            state: object.spec.state,
            expires_at: object.spec.expires_at,
            review_by: object.spec.review_by,
            exclusive: object.spec.exclusive,
            attest: object.spec.attest,
        }
    }
}

/// Whether an identity may act at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It may.
    Active,
    /// Its state is Suspended.
    Suspended,
    /// Its state is Revoked.
    Revoked,
    /// It expired then.
    Expired(Timestamp),
    /// Its review was due then, and it is suspended until somebody looks at it.
    Overdue(Timestamp),
}

impl Standing {
    /// The standing at `now` of an identity with this state and this `expiresAt`, which is suspended from a moment on where nobody
    /// looked at it. Revocation outweighs suspension, that expiry, and that an overdue review.
    #[must_use]
    pub fn of(
        state: State,
        expires_at: Option<Timestamp>,
        suspended_from: Option<Timestamp>,
        now: Timestamp,
    ) -> Self {
        match (state, expires_at, suspended_from) {
            (State::Revoked, ..) => Self::Revoked,
            (State::Suspended, ..) => Self::Suspended,
            (State::Active, Some(at), _) if now >= at => Self::Expired(at),
            (State::Active, _, Some(at)) if now >= at => Self::Overdue(at),
            (State::Active, ..) => Self::Active,
        }
    }

    /// The standing at `now` of an AgentIdentity with this spec.
    #[must_use]
    pub fn of_spec(spec: &AgentIdentitySpec, now: Timestamp) -> Self {
        Self::of(spec.state, spec.expires_at, spec.suspended_from(), now)
    }
}

/// Where a principal's requests come from.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum PrincipalOrigin {
    /// A pod that Picket enforces on this node.
    Pod {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// A client of the gateway, which is no enforced pod.
    Gateway {
        /// Its address.
        peer: IpAddr,
    },
}

impl PrincipalOrigin {
    /// A pod's.
    #[must_use]
    pub fn pod(namespace: &str, name: &str) -> Self {
        Self::Pod {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        }
    }
}

/// The agent that a request comes from: an identity that was active when the principal was made, in one pod or at the gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    identity: Arc<Identity>,
    origin: PrincipalOrigin,
    attestation: &'static str,
    person: Option<Arc<Person>>,
}

impl Principal {
    /// The principal of an identity at its origin; `attestation` says how the identity was proven.
    ///
    /// # Errors
    /// The identity's standing, where the identity may not act at `now`.
    pub fn new(
        identity: Arc<Identity>,
        origin: PrincipalOrigin,
        attestation: &'static str,
        now: Timestamp,
    ) -> Result<Self, Standing> {
        match identity.standing(now) {
            Standing::Active => Ok(Self {
                identity,
                origin,
                attestation,
                person: None,
            }),
            standing => Err(standing),
        }
    }

    /// The same agent, which asks for a person.
    #[must_use]
    pub fn on_behalf_of(&self, person: Arc<Person>) -> Self {
        Self {
            person: Some(person),
            ..self.clone()
        }
    }

    /// The person for whom the agent asks, where it shows a person's token.
    #[must_use]
    pub fn person(&self) -> Option<&Arc<Person>> {
        self.person.as_ref()
    }

    /// The AgentIdentity.
    #[must_use]
    pub fn identity(&self) -> &Arc<Identity> {
        &self.identity
    }

    /// The AgentIdentity's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.identity.name
    }

    /// The groups that the AgentIdentity names.
    #[must_use]
    pub fn groups(&self) -> &[String] {
        &self.identity.groups
    }

    /// Where its requests come from.
    #[must_use]
    pub fn origin(&self) -> &PrincipalOrigin {
        &self.origin
    }

    /// The namespace that the agent's pod runs in; `None` for a client of the gateway.
    #[must_use]
    pub fn namespace(&self) -> Option<&str> {
        match &self.origin {
            PrincipalOrigin::Pod { namespace, .. } => Some(namespace),
            PrincipalOrigin::Gateway { .. } => None,
        }
    }

    /// The agent's pod; `None` for a client of the gateway.
    #[must_use]
    pub fn pod(&self) -> Option<&str> {
        match &self.origin {
            PrincipalOrigin::Pod { name, .. } => Some(name),
            PrincipalOrigin::Gateway { .. } => None,
        }
    }

    /// How the identity was proven, such as `pod`.
    #[must_use]
    pub fn attestation(&self) -> &'static str {
        self.attestation
    }
}
