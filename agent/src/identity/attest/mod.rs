//! Schemes: the ways in which a caller is proven to be an agent.
//!
//! In: [`Evidence`], all that is known of a caller. Out: from each scheme an [`Attestation`]. A scheme is one file; another
//! one gets a file beside [`pod`], a name in [`SCHEMES`], and what it reads in the comparison of cache.rs.
//!
//! pipeline/session.rs judges sessions again by the verified token that their request showed: its text is not kept. A session ends
//! with its credential: when that expires, and when the trust in its issuer or in its key ends.

pub mod bearer;
pub mod pod;
pub mod x509;

use std::net::IpAddr;
use std::sync::Arc;

use jiff::Timestamp;
use picket_policy::api::v1alpha1::Attest;
use picket_policy::jwt::VerifiedToken;
use picket_policy::{Identity, PolicySet, PrincipalOrigin};

use self::x509::ClientCertificate;
use super::IdentityError;
use super::jwt::JwtError;
use crate::listener::Process;
use crate::workload::Pod;

/// What is known of a caller.
#[derive(Debug, Clone, Copy)]
pub struct Evidence<'a> {
    /// The pod that the kernel attributed the connection to; `None` at the gateway, whose clients are no enforced pods.
    pub pod: Option<&'a Arc<Pod>>,
    /// The process that dialled, where the kernel knows it.
    pub process: Option<&'a Process>,
    /// The client's end of the connection; a pod's is its own loopback.
    pub peer: IpAddr,
    /// The client's certificate, where it showed one.
    pub certificate: Option<&'a ClientCertificate>,
    /// The request's bearer token, verified or refused; `None` where there is none, or nobody asks for it.
    pub token: Option<Result<&'a Arc<VerifiedToken>, &'a JwtError>>,
}

impl Evidence<'_> {
    /// Where the caller's requests come from.
    #[must_use]
    pub fn origin(&self) -> PrincipalOrigin {
        match self.pod {
            Some(pod) => PrincipalOrigin::pod(&pod.namespace, &pod.name),
            None => PrincipalOrigin::Gateway { peer: self.peer },
        }
    }

    /// The caller in words, for refusals.
    #[must_use]
    pub fn caller(&self) -> String {
        match self.pod {
            Some(pod) => format!("pod {}/{}", pod.namespace, pod.name),
            None => format!("the gateway's client {}", self.peer),
        }
    }
}

/// What one scheme says of a caller.
#[derive(Debug)]
pub enum Attestation {
    /// The caller shows nothing that this scheme is about.
    NotRequested,
    /// What the caller shows is proven. These identities name it, whatever else they ask for.
    Authenticated(Vec<Arc<Identity>>),
    /// The evidence contradicts itself or the policies; the caller is nobody.
    Failed(IdentityError),
}

/// One way of proving.
#[derive(Debug, Clone, Copy)]
pub struct Scheme {
    /// What a caller shows, in words.
    pub shows: &'static str,
    /// Whether an identity asks for it.
    pub asked_by: fn(&Attest) -> bool,
    /// Whether the caller chooses to show it: one whose identity does not ask for it claims to be somebody else.
    pub is_credential: bool,
    /// Whether what is shown may be a person's, for whom the agent asks: where it names no agent, and the agent is known by something else.
    pub may_be_persons: bool,
    /// Tries it.
    pub attest: fn(&PolicySet, &Evidence<'_>, Timestamp) -> Attestation,
}

/// Every scheme there is.
pub const SCHEMES: [Scheme; 3] = [
    Scheme {
        shows: "its pod",
        asked_by: |attest| attest.pod.is_some(),
        is_credential: false,
        may_be_persons: false,
        attest: pod::attest,
    },
    Scheme {
        shows: "a token",
        asked_by: |attest| attest.jwt.is_some(),
        is_credential: true,
        may_be_persons: true,
        attest: bearer::attest,
    },
    Scheme {
        shows: "a client certificate",
        asked_by: |attest| attest.spiffe.is_some(),
        is_credential: true,
        may_be_persons: false,
        attest: x509::attest,
    },
];

/// How an identity is proven: the schemes that it asks for, as the record's `agent.attestation` names them.
#[must_use]
pub fn attestation_of(attest: &Attest) -> &'static str {
    attestation_by(
        attest.pod.is_some(),
        attest.jwt.is_some(),
        attest.spiffe.is_some(),
    )
}

/// Likewise, by the schemes themselves.
pub(crate) fn attestation_by(pod: bool, token: bool, certificate: bool) -> &'static str {
    match (pod, token, certificate) {
        (true, true, true) => "pod+jwt+x509",
        (true, true, false) => "pod+jwt",
        (true, false, true) => "pod+x509",
        (false, true, true) => "jwt+x509",
        (false, true, false) => "jwt",
        (false, false, true) => "x509",
        (_, false, false) => "pod",
    }
}
