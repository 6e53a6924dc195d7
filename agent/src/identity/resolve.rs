//! What the schemes said of a caller, put together: one principal that may act now, or why there is none.
//!
//! In: the policies, the evidence, the time. Out: a [`Principal`] or an [`IdentityError`].

use std::net::IpAddr;
use std::sync::Arc;

use jiff::Timestamp;
use picket_policy::{Absence, Identity, PersonError, PolicySet, Principal, Standing};
use thiserror::Error;

use super::attest::x509::CertificateError;
use super::attest::{Attestation, Evidence, SCHEMES, Scheme, attestation_of};
use super::jwt::JwtError;

/// Why a caller has no usable identity. The text is for the client and the record alike.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum IdentityError {
    /// The node has had no valid set of objects since the agent's start, so nobody is known.
    #[error(
        "Picket denies every request on this node, because its objects are not valid ({reason}). Nothing is allowed until a \
         cluster operator corrects the objects; Picket reads them again by itself"
    )]
    NoPolicySet {
        /// Where the fault is.
        reason: String,
    },
    /// The API server has not told of the objects since the agent's start, so nobody is known yet.
    #[error(
        "Picket cannot tell yet what is allowed on this node: {reason}. Try again; Picket asks the API server by itself"
    )]
    Unlisted {
        /// Which objects are missing, and what to do where nothing will change by itself.
        reason: String,
    },
    /// No AgentIdentity names the pod.
    #[error(
        "pod {pod} (service account {service_account}) is no known agent: no AgentIdentity's attest.pod matches it. A \
         cluster operator can add one"
    )]
    None {
        /// `namespace/name`.
        pod: String,
        /// Its service account.
        service_account: String,
    },
    /// A client of the gateway shows nothing by which anybody could be recognised. The text has no word that a record would take for
    /// the name of a secret.
    #[error(
        "the gateway's client {peer} shows neither a bearer token nor a client certificate, so nobody knows who it is. Allowed \
         instead: the same request with one of them; `picket kubeconfig` writes a kubeconfig for either"
    )]
    NoCredential {
        /// Its address.
        peer: IpAddr,
    },
    /// A client of the gateway has the address of an enforced pod.
    #[error(
        "{peer} is the address of a pod that Picket enforces, and the gateway serves no such pod. Allowed instead: the same \
         request to the API server's own address, which reaches Picket as the pod's agent"
    )]
    EnforcedPod {
        /// Its address.
        peer: IpAddr,
    },
    /// More than one AgentIdentity names the caller.
    #[error(
        "{caller} matches more than one AgentIdentity ({}), and Picket never chooses one. A cluster operator can make \
         their `attest` exclude each other, such as by the labels of their selectors",
        identities.join(", ")
    )]
    Ambiguous {
        /// The caller in words.
        caller: String,
        /// The identities' names.
        identities: Vec<String>,
    },
    /// The identity is exclusive, and several workloads of the node claim it.
    #[error(
        "agent {identity} is exclusive, and {workload} and {} of this node claim it at once, so nobody can tell which of them is \
         meant: every request of all of them is denied until one is left. The agent's owner {owner} can remove the others, or a \
         cluster operator can give each an AgentIdentity of its own",
        others.join(" and ")
    )]
    Contested {
        /// The identity's name.
        identity: String,
        /// Who answers for it.
        owner: String,
        /// The caller's workload.
        workload: String,
        /// Other workloads that claim the identity.
        others: Vec<String>,
    },
    /// A client certificate that does not count.
    #[error("{0}. Allowed instead: the same request with a certificate of this node's trust domains")]
    Certificate(#[from] CertificateError),
    /// A client certificate that counts, of nobody who is known.
    #[error(
        "{caller} shows a client certificate of {id}, which no AgentIdentity's attest.spiffe names. A cluster operator can add \
         one"
    )]
    UnknownCertificate {
        /// The caller in words.
        caller: String,
        /// The certificate's SPIFFE ID.
        id: String,
    },
    /// A token that counts, of nobody who is known.
    #[error(
        "{caller} shows a token of subject {subject} of issuer {issuer}, which no AgentIdentity's attest.jwt names (issuer, subject, \
         audience and claims must all be equal). A cluster operator can add one"
    )]
    UnknownToken {
        /// The caller in words.
        caller: String,
        /// The token's issuer.
        issuer: String,
        /// As much of its subject as a message has.
        subject: String,
    },
    /// An AgentIdentity matches, and asks for more than the caller shows.
    #[error(
        "{caller} is agent {identity} only with {missing}, and shows none that the AgentIdentity names. Allowed instead: the \
         same request with it, since all that the AgentIdentity's `attest` has must hold"
    )]
    Incomplete {
        /// The caller in words.
        caller: String,
        /// The identity's name.
        identity: String,
        /// What is missing.
        missing: &'static str,
    },
    /// The caller shows a credential that its identity does not ask for.
    #[error(
        "{caller} is agent {identity} and shows {credential} that is not the agent's. Allowed instead: the same request \
         without it"
    )]
    ForeignCredential {
        /// The caller in words.
        caller: String,
        /// The identity's name.
        identity: String,
        /// What it shows.
        credential: &'static str,
    },
    /// The caller's token does not count, or nobody could look.
    #[error("{0}. {remedy}", remedy = .0.remedy())]
    Token(#[from] JwtError),
    /// The caller's token is another pod's, or is bound to no pod.
    #[error(
        "{caller} shows a token of agent {identity} that is bound to another pod, or to none. Allowed instead: the same request \
         with the token that is mounted into the pod"
    )]
    TokenOfAnother {
        /// The caller in words.
        caller: String,
        /// The identity's name.
        identity: String,
    },
    /// The agent sends a verified token of a user for whom nobody may ask.
    #[error(
        "agent {identity} cannot ask on behalf of the token's user: {error}. Allowed instead: the same request with a token of a \
         person, or with the agent's own credential alone"
    )]
    UnfitPerson {
        /// The identity's name.
        identity: String,
        /// What is wrong with the user.
        error: PersonError,
    },
    /// The agent sends a verified token of a person for whom it may not ask.
    #[error(
        "agent {identity} may not ask on behalf of {username} of issuer {issuer}: no AgentGrant of the agent has such a person under \
         upstream.onBehalfOf. Allowed instead: the same request with the agent's own credential alone. A cluster operator can add a grant"
    )]
    NotOnBehalfOf {
        /// The identity's name.
        identity: String,
        /// The person's user name.
        username: String,
        /// The token's issuer.
        issuer: String,
    },
    /// A client of the gateway shows the token of an enforced pod.
    #[error(
        "the token is of pod {pod}, which Picket enforces, and the gateway serves no such pod. Allowed instead: the same request \
         from inside the pod to https://kubernetes.default.svc, which reaches Picket as the pod's agent"
    )]
    TokenOfEnforcedPod {
        /// `namespace/name`.
        pod: String,
    },
    /// The identity's state is Suspended.
    #[error("agent {identity} is suspended; its owner {owner} can set its state to Active again")]
    Suspended {
        /// The identity's name.
        identity: String,
        /// Who answers for it.
        owner: String,
    },
    /// The identity's state is Revoked.
    #[error("agent {identity} is revoked; its owner is {owner}. Nothing is allowed to it")]
    Revoked {
        /// The identity's name.
        identity: String,
        /// Who answers for it.
        owner: String,
    },
    /// The identity's review is overdue, and the identity is suspended then.
    #[error(
        "agent {identity} is suspended: its review was due at {at}; its owner {owner} can review it and set a later reviewBy"
    )]
    Overdue {
        /// The identity's name.
        identity: String,
        /// Who answers for it.
        owner: String,
        /// When its review was due.
        at: Timestamp,
    },
    /// The identity's time is over.
    #[error("agent {identity} expired at {at}; its owner {owner} can set a later expiresAt")]
    Expired {
        /// The identity's name.
        identity: String,
        /// Who answers for it.
        owner: String,
        /// When it expired.
        at: Timestamp,
    },
}

impl IdentityError {
    /// A stable name of low cardinality, for metrics and records.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::NoPolicySet { .. } => "no_policy_set",
            Self::Unlisted { .. } => "objects_unlisted",
            Self::NoCredential { .. } => "no_credential",
            Self::None { .. } | Self::UnknownToken { .. } => "identity_none",
            Self::EnforcedPod { .. } => "enforced_pod",
            Self::Ambiguous { .. } => "identity_ambiguous",
            Self::Contested { .. } => "identity_contested",
            Self::Certificate(error) => error.code(),
            Self::UnknownCertificate { .. } => "identity_none",
            Self::Incomplete { .. } => "identity_incomplete",
            Self::ForeignCredential { .. } => "foreign_credential",
            Self::Token(error) => error.code(),
            Self::TokenOfAnother { .. } => "jwt_pod",
            Self::UnfitPerson { .. } => "person_unfit",
            Self::NotOnBehalfOf { .. } => "not_on_behalf_of",
            Self::TokenOfEnforcedPod { .. } => "jwt_enforced_pod",
            Self::Suspended { .. } => "identity_suspended",
            Self::Revoked { .. } => "identity_revoked",
            Self::Expired { .. } => "identity_expired",
            Self::Overdue { .. } => "identity_overdue",
        }
    }

    /// The identity's name, where one was found.
    #[must_use]
    pub fn identity(&self) -> Option<&str> {
        match self {
            Self::NoPolicySet { .. }
            | Self::Unlisted { .. }
            | Self::None { .. }
            | Self::NoCredential { .. }
            | Self::UnknownToken { .. }
            | Self::EnforcedPod { .. }
            | Self::Ambiguous { .. }
            | Self::Certificate(_)
            | Self::Token(_)
            | Self::TokenOfAnother { .. }
            | Self::TokenOfEnforcedPod { .. }
            | Self::UnknownCertificate { .. } => None,
            Self::Suspended { identity, .. }
            | Self::Revoked { identity, .. }
            | Self::Expired { identity, .. }
            | Self::Overdue { identity, .. }
            | Self::Contested { identity, .. }
            | Self::Incomplete { identity, .. }
            | Self::ForeignCredential { identity, .. }
            | Self::UnfitPerson { identity, .. }
            | Self::NotOnBehalfOf { identity, .. } => Some(identity),
        }
    }

    /// Whether the caller did not prove who it is, as opposed to one who is known and may not act.
    #[must_use]
    pub fn is_unauthenticated(&self) -> bool {
        matches!(
            self,
            Self::NoCredential { .. }
                | Self::Certificate(_)
                | Self::Token(JwtError::Token(_))
                | Self::TokenOfAnother { .. }
                | Self::TokenOfEnforcedPod { .. }
                | Self::Incomplete { .. }
                | Self::ForeignCredential { .. }
        )
    }
}

/// How much of a token's subject a message has; OpenID Connect allows 255 (Core 1.0, section 2).
const SUBJECT_LETTERS: usize = 255;

/// What a caller shows by one scheme, and the identities that name it.
struct Shown {
    scheme: &'static Scheme,
    identities: Vec<Arc<Identity>>,
}

impl Shown {
    fn has(&self, identity: &Identity) -> bool {
        self.identities.iter().any(|named| named.name == identity.name)
    }
}

/// Tries every scheme and checks that the one identity whose every demand the caller meets may act at `now`.
///
/// # Errors
/// An [`IdentityError`] where there is no valid policy set, what is shown fails, no identity's demands are all met or several
/// identities' are, a credential is shown that the identity does not ask for, or the identity may not act.
pub fn resolve(
    policies: &PolicySet,
    evidence: &Evidence<'_>,
    now: Timestamp,
) -> Result<Principal, IdentityError> {
    match policies.absent().cloned() {
        None => {}
        Some(Absence::Invalid(reason)) => return Err(IdentityError::NoPolicySet { reason }),
        Some(Absence::Unlisted(reason)) => return Err(IdentityError::Unlisted { reason }),
    }
    let mut shown = Vec::with_capacity(SCHEMES.len());
    for scheme in &SCHEMES {
        match (scheme.attest)(policies, evidence, now) {
            Attestation::NotRequested => {}
            Attestation::Failed(error) => return Err(error),
            Attestation::Authenticated(identities) => shown.push(Shown { scheme, identities }),
        }
    }
    let identity = one_identity(policies, &shown, evidence, now)?;
    let (name, owner) = (identity.name.clone(), identity.owner.clone());
    let attestation = attestation_of(&identity.attest);
    Principal::new(identity, evidence.origin(), attestation, now).map_err(|standing| match standing {
        Standing::Revoked => IdentityError::Revoked {
            identity: name,
            owner,
        },
        Standing::Expired(at) => IdentityError::Expired {
            identity: name,
            owner,
            at,
        },
        Standing::Overdue(at) => IdentityError::Overdue {
            identity: name,
            owner,
            at,
        },
        Standing::Suspended | Standing::Active => IdentityError::Suspended {
            identity: name,
            owner,
        },
    })
}

/// What an identity asks for that the caller does not show, or that is another one's.
fn missing(identity: &Identity, shown: &[Shown]) -> Option<&'static str> {
    let met = |scheme: &Scheme| {
        shown
            .iter()
            .any(|shown| shown.scheme.shows == scheme.shows && shown.has(identity))
    };
    let unmet = SCHEMES
        .iter()
        .find(|scheme| (scheme.asked_by)(&identity.attest) && !met(scheme));
    unmet.map(|scheme| scheme.shows)
}

/// The one identity that the caller is by all that it shows.
fn one_identity(
    policies: &PolicySet,
    shown: &[Shown],
    evidence: &Evidence<'_>,
    now: Timestamp,
) -> Result<Arc<Identity>, IdentityError> {
    let mut whole: Vec<&Arc<Identity>> = Vec::new();
    let mut partial = None;
    for identity in shown.iter().flat_map(|shown| &shown.identities) {
        match missing(identity, shown) {
            None if whole.iter().any(|known| known.name == identity.name) => {}
            None => whole.push(identity),
            Some(missing) => partial = partial.or(Some((identity, missing))),
        }
    }
    // The kernel's word comes first: a pod that identities name is none but one of these, whatever else it shows.
    if let Some(pod) = shown.iter().find(|shown| !shown.scheme.is_credential)
        && !pod.identities.is_empty()
        && !whole.iter().any(|identity| pod.has(identity))
    {
        whole.clear();
    }
    let caller = evidence.caller();
    match whole[..] {
        [identity] => {
            // At the gateway a token that names no agent may be a person's. Where it is none, the claims are refused later.
            let may_be_persons = |shown: &&Shown| {
                evidence.pod.is_none()
                    && shown.scheme.may_be_persons
                    && shown.identities.is_empty()
                    && policies.acts_for_people(&identity.name)
            };
            let mut unasked = shown
                .iter()
                .filter(|shown| shown.scheme.is_credential && !(shown.scheme.asked_by)(&identity.attest));
            let foreign = unasked.find(|shown| !may_be_persons(shown));
            match foreign {
                None => Ok(Arc::clone(identity)),
                Some(shown) => Err(IdentityError::ForeignCredential {
                    caller,
                    identity: identity.name.clone(),
                    credential: shown.scheme.shows,
                }),
            }
        }
        [] => Err(match partial {
            Some((identity, missing)) => IdentityError::Incomplete {
                caller,
                identity: identity.name.clone(),
                missing,
            },
            None => nobody(evidence, now),
        }),
        _ => Err(IdentityError::Ambiguous {
            caller,
            identities: whole.iter().map(|identity| identity.name.clone()).collect(),
        }),
    }
}

/// Why a caller whom no identity names is nobody.
fn nobody(evidence: &Evidence<'_>, now: Timestamp) -> IdentityError {
    let svid = evidence
        .certificate
        .and_then(|certificate| certificate.check(now).ok());
    match (svid, evidence.pod, evidence.token) {
        (Some(svid), ..) => IdentityError::UnknownCertificate {
            caller: evidence.caller(),
            id: svid.id.to_string(),
        },
        (None, Some(pod), _) => IdentityError::None {
            pod: format!("{}/{}", pod.namespace, pod.name),
            service_account: pod.service_account.clone(),
        },
        (None, None, Some(Ok(token))) => IdentityError::UnknownToken {
            caller: evidence.caller(),
            issuer: token.issuer().to_owned(),
            subject: token.subject().chars().take(SUBJECT_LETTERS).collect(),
        },
        // A token that is refused has failed before.
        (None, None, _) => IdentityError::NoCredential { peer: evidence.peer },
    }
}

/// Callers for tests.
#[cfg(test)]
pub(crate) mod testing {
    use std::collections::BTreeMap;
    use std::net::Ipv4Addr;
    use std::sync::LazyLock;

    use super::*;
    use crate::listener::Process;
    use crate::workload::Pod;

    const OBJECTS: &str = r"
apiVersion: picket.dev/v1alpha1
kind: AgentIdentity
metadata: {name: fixer}
spec:
  owner: team-a
  groups: [agents]
  expiresAt: 2027-01-01T00:00:00Z
  attest: {pod: {namespace: ns, serviceAccount: fixer, selector: {matchLabels: {app: fixer}}}}
---
apiVersion: picket.dev/v1alpha1
kind: AgentGrant
metadata: {name: g}
spec:
  to: {groups: [agents]}
  upstream: {impersonate: {user: u}}
  rules: [{verbs: [get], apiGroups: [''], resources: [pods]}]
";

    pub(crate) fn policies(from: &str, to: &str) -> PolicySet {
        let documents = picket_policy::read_documents("f.yaml", &OBJECTS.replace(from, to)).expect("valid");
        PolicySet::compile(documents).expect("a policy set")
    }

    pub(crate) fn pod(service_account: &str, app: &str) -> Arc<Pod> {
        Arc::new(Pod {
            service_account: service_account.to_owned(),
            labels: BTreeMap::from([("app".to_owned(), app.to_owned())]),
            ..Pod::for_tests("ns", "p")
        })
    }

    pub(crate) fn at(moment: &str) -> Timestamp {
        moment.parse().expect("a moment")
    }

    /// What the kernel knows of a process in a pod.
    pub(crate) fn evidence(pod: &Arc<Pod>) -> Evidence<'_> {
        static PROCESS: LazyLock<Process> = LazyLock::new(Process::for_tests);
        Evidence {
            pod: Some(pod),
            process: Some(&PROCESS),
            peer: Ipv4Addr::LOCALHOST.into(),
            certificate: None,
            token: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::testing::{at, evidence, pod, policies};
    use super::*;

    #[test]
    fn a_pod_that_matches_is_its_identity() {
        let principal = resolve(
            &policies("", ""),
            &evidence(&pod("fixer", "fixer")),
            at("2026-12-31T23:59:59Z"),
        )
        .expect("one");
        assert_eq!(policies("", "").grants_of(principal.name()).len(), 1);
        assert_eq!(
            (
                principal.name(),
                principal.groups(),
                principal.namespace(),
                principal.pod()
            ),
            ("fixer", &["agents".to_owned()][..], Some("ns"), Some("p"))
        );
        assert_eq!(principal.attestation(), "pod");
    }

    #[test]
    fn a_client_of_the_gateway_is_nobody_by_its_connection_alone() {
        let fixer = pod("fixer", "fixer");
        let evidence = Evidence {
            pod: None,
            process: None,
            peer: Ipv4Addr::new(192, 0, 2, 7).into(),
            ..evidence(&fixer)
        };
        let error = resolve(&policies("", ""), &evidence, at("2026-12-31T23:59:59Z")).expect_err("nobody");
        assert_eq!((error.code(), error.identity()), ("no_credential", None));
        let said = error.to_string();
        assert!(
            said.contains("client 192.0.2.7 shows neither a bearer token"),
            "{said}"
        );
        assert!(
            said.contains("Allowed instead: the same request with one"),
            "{said}"
        );
    }

    #[test]
    fn without_a_valid_set_nobody_is_known_and_the_cause_is_said() {
        let invalid = PolicySet::deny_all(Absence::Invalid("/objects/b.yml:6:3".to_owned()));
        let now = at("2026-12-31T23:59:59Z");
        let error = resolve(&invalid, &evidence(&pod("fixer", "fixer")), now).expect_err("nobody");
        assert_eq!((error.code(), error.identity()), ("no_policy_set", None));
        let said = error.to_string();
        assert!(
            said.contains("not valid (/objects/b.yml:6:3). Nothing is allowed"),
            "{said}"
        );
        let unlisted = PolicySet::deny_all(Absence::Unlisted("nobody has listed them".to_owned()));
        let error = resolve(&unlisted, &evidence(&pod("fixer", "fixer")), now).expect_err("nobody");
        assert_eq!((error.code(), error.identity()), ("objects_unlisted", None));
    }

    #[test]
    fn each_refusal_is_its_own_and_says_what_to_do() {
        let before = at("2026-12-31T23:59:59Z");
        for (policies, pod, now, reason, told) in [
            (
                policies("", ""),
                pod("default", "fixer"),
                before,
                "identity_none",
                "pod ns/p (service account default)",
            ),
            (
                policies("", ""),
                pod("fixer", "x"),
                before,
                "identity_none",
                "no AgentIdentity's attest.pod matches it",
            ),
            (
                policies("", ""),
                pod("fixer", "fixer"),
                at("2027-01-01T00:00:00Z"),
                "identity_expired",
                "2027-01-01T00",
            ),
            (
                policies("  owner", "  state: Suspended\n  owner"),
                pod("fixer", "fixer"),
                before,
                "identity_suspended",
                "agent fixer is suspended; its owner team-a",
            ),
            (
                policies("  owner", "  state: Revoked\n  owner"),
                pod("fixer", "fixer"),
                at("2028-01-01T00:00:00Z"),
                "identity_revoked",
                "agent fixer is revoked; its owner is team-a. Nothing is allowed to it",
            ),
        ] {
            let error = resolve(&policies, &evidence(&pod), now).expect_err(reason);
            assert_eq!(error.code(), reason);
            assert!(error.to_string().contains(told), "{error}");
        }
    }
}
