//! Schemes: the ways in which a caller is proven to be an agent.
//!
//! In: [`Evidence`], all that is known of a caller. Out: from each scheme an [`Attestation`]. A scheme is one file; another
//! one gets a file beside [`pod`], a name in [`SCHEMES`], and its part of the cache's comparison.
//!
//! pipeline/session.rs judges sessions again without a request's headers, so [`Evidence::bearer`] is `None` there. A scheme that
//! reads the bearer (a JWT) needs the header kept for that first.

pub mod pod;

use std::net::IpAddr;
use std::sync::Arc;

use http::HeaderValue;
use picket_policy::{Identity, PolicySet, PrincipalOrigin};
use rustls_pki_types::CertificateDer;

use super::IdentityError;
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
    /// The client's certificate chain, leaf first; empty where it showed none.
    pub peer_certificates: &'a [CertificateDer<'static>],
    /// The `Authorization` header of the request.
    pub bearer: Option<&'a HeaderValue>,
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
    /// No identity asks for this scheme as far as this caller is concerned.
    NotRequested,
    /// The caller is this agent.
    Authenticated(Arc<Identity>),
    /// The evidence contradicts itself or the policies; the caller is nobody.
    Failed(IdentityError),
}

/// One way of proving.
#[derive(Debug, Clone, Copy)]
pub struct Scheme {
    /// The name in the record's `agent.attestation`.
    pub name: &'static str,
    /// Tries it.
    pub attest: fn(&PolicySet, &Evidence<'_>) -> Attestation,
}

/// Every scheme there is.
pub const SCHEMES: [Scheme; 1] = [Scheme {
    name: "pod",
    attest: pod::attest,
}];
