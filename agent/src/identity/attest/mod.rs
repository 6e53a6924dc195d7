//! Schemes: the ways in which a caller is proven to be an agent.
//!
//! In: [`Evidence`], all that is known of a caller. Out: from each scheme an [`Attestation`]. A scheme is one file; another
//! one gets a file beside [`pod`], a name in [`SCHEMES`], and its part of the cache's comparison.
//!
//! pipeline/session.rs judges sessions again without a request's headers, so [`Evidence::bearer`] is `None` there. A scheme that
//! reads the bearer (a JWT) needs the header kept for that first.

pub mod pod;

use std::sync::Arc;

use http::HeaderValue;
use picket_policy::{Identity, PolicySet};
use rustls_pki_types::CertificateDer;

use super::IdentityError;
use crate::listener::Process;
use crate::workload::Pod;

/// What is known of a caller.
#[derive(Debug, Clone, Copy)]
pub struct Evidence<'a> {
    /// The pod that the kernel attributed the connection to.
    pub pod: &'a Arc<Pod>,
    /// The process that dialled.
    pub process: &'a Process,
    /// The client's certificate chain, leaf first; empty where it showed none.
    pub peer_certificates: &'a [CertificateDer<'static>],
    /// The `Authorization` header of the request.
    pub bearer: Option<&'a HeaderValue>,
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
