//! Judges a node's request for a CA of its own.
//!
//! In: a CertificateSigningRequest as the API server stored it. Out: for which node and which key a CA is to be signed, or why none
//! is, in words that a person can act on.
//!
//! The API server writes `spec.username` and `spec.extra` from the credential of whoever created the object, and nobody can change
//! them later. A token that is bound to a pod names the pod's node there. So the node's name is proved, and no second question
//! (TokenReview) is needed.

use std::time::Duration;

use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestSpec};
use rcgen::{PKCS_ECDSA_P256_SHA256, PublicKeyData as _, SubjectPublicKeyInfo};
use rustls_pki_types::CertificateSigningRequestDer;
use rustls_pki_types::pem::PemObject as _;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer as _;
use x509_parser::x509::X509Name;

use crate::authority::NODE_CA_LIFETIME;
use crate::names::node_ca_subject;

/// Where the API server notes the node of a pod's token (k8s.io/apiserver pkg/authentication/serviceaccount, `NodeNameKey`).
const NODE_NAME: &str = "authentication.kubernetes.io/node-name";

/// The usages of a node's CA, in alphabetical order.
const USAGES: [&str; 2] = ["cert sign", "digital signature"];

/// A request that is to be answered with a certificate.
#[derive(Debug, Clone)]
pub(crate) struct NodeCaRequest {
    pub(crate) node: String,
    pub(crate) key: SubjectPublicKeyInfo,
    pub(crate) lifetime: Duration,
}

/// Why a request is denied.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error(
        "the request is {found}'s: only {expected}, the service account of Picket's agents, gets a node CA"
    )]
    OtherAccount { found: String, expected: String },
    #[error(
        "the token names no node: use the token that the kubelet projects into the agent's pod, which is bound to the pod and its node"
    )]
    NoNode,
    #[error("the token names {0} nodes in place of one")]
    SeveralNodes(usize),
    #[error("spec.usages must be `cert sign` and `digital signature`, and nothing else")]
    Usages,
    #[error(
        "spec.expirationSeconds is {0}: a node CA is valid for {max} seconds at most",
        max = NODE_CA_LIFETIME.as_secs()
    )]
    Lifetime(i64),
    #[error("spec.request is not one PKCS#10 request in PEM")]
    Unreadable,
    #[error("the signature of spec.request is not its key's")]
    Signature,
    #[error("the key of spec.request is not ECDSA P-256")]
    Key,
    #[error(
        "the subject of spec.request is {found:?}: the token is of node {node}, so that it must be {expected:?}"
    )]
    OtherNode {
        found: String,
        node: String,
        expected: String,
    },
}

impl Refusal {
    /// Every reason.
    pub(crate) const REASONS: [&str; 8] = [
        "NotAnAgent",
        "TokenNotBoundToNode",
        "UsagesNotPermitted",
        "LifetimeTooLong",
        "RequestUnreadable",
        "SignatureInvalid",
        "KeyNotPermitted",
        "SubjectNotTheNode",
    ];

    /// The reason of the condition.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::OtherAccount { .. } => "NotAnAgent",
            Self::NoNode | Self::SeveralNodes(_) => "TokenNotBoundToNode",
            Self::Usages => "UsagesNotPermitted",
            Self::Lifetime(_) => "LifetimeTooLong",
            Self::Unreadable => "RequestUnreadable",
            Self::Signature => "SignatureInvalid",
            Self::Key => "KeyNotPermitted",
            Self::OtherNode { .. } => "SubjectNotTheNode",
        }
    }
}

/// Judges a request. `account` is the user name of the agents. Nothing else of the request is honoured: no extension of it comes into
/// the certificate.
pub(crate) fn judge(csr: &CertificateSigningRequest, account: &str) -> Result<NodeCaRequest, Refusal> {
    let spec = &csr.spec;
    if spec.username.as_deref() != Some(account) {
        return Err(Refusal::OtherAccount {
            found: spec.username.clone().unwrap_or_default(),
            expected: account.to_owned(),
        });
    }
    let node = node_of(spec)?;
    let mut usages: Vec<&str> = spec.usages.iter().flatten().map(String::as_str).collect();
    usages.sort_unstable();
    if usages != USAGES {
        return Err(Refusal::Usages);
    }
    let lifetime = match spec.expiration_seconds {
        None => NODE_CA_LIFETIME,
        Some(seconds) => u64::try_from(seconds)
            .map(Duration::from_secs)
            .ok()
            .filter(|lifetime| *lifetime <= NODE_CA_LIFETIME)
            .ok_or(Refusal::Lifetime(seconds.into()))?,
    };
    let key = key_of(&spec.request.0, node)?;
    Ok(NodeCaRequest {
        node: node.to_owned(),
        key,
        lifetime,
    })
}

/// The node of the token that created the object.
fn node_of(spec: &CertificateSigningRequestSpec) -> Result<&str, Refusal> {
    let names = spec.extra.as_ref().and_then(|extra| extra.get(NODE_NAME));
    match names.map(Vec::as_slice) {
        None | Some([]) => Err(Refusal::NoNode),
        Some([name]) if name.is_empty() => Err(Refusal::NoNode),
        Some([name]) => Ok(name),
        Some(several) => Err(Refusal::SeveralNodes(several.len())),
    }
}

/// The key of a PKCS#10 request for this node, which signed the request.
fn key_of(pem: &[u8], node: &str) -> Result<SubjectPublicKeyInfo, Refusal> {
    let mut all = CertificateSigningRequestDer::pem_slice_iter(pem);
    let (Some(Ok(der)), None) = (all.next(), all.next()) else {
        return Err(Refusal::Unreadable);
    };
    let (rest, request) = X509CertificationRequest::from_der(&der).map_err(|_| Refusal::Unreadable)?;
    if !rest.is_empty() {
        return Err(Refusal::Unreadable);
    }
    let info = &request.certification_request_info;
    let key = SubjectPublicKeyInfo::from_der(info.subject_pki.raw)
        .ok()
        .filter(|key| *key.algorithm() == PKCS_ECDSA_P256_SHA256)
        .ok_or(Refusal::Key)?;
    request.verify_signature().map_err(|_| Refusal::Signature)?;
    let expected = node_ca_subject(node);
    if !is_common_name(&info.subject, &expected) {
        return Err(Refusal::OtherNode {
            found: info.subject.to_string(),
            node: node.to_owned(),
            expected: format!("CN={expected}"),
        });
    }
    Ok(key)
}

/// Whether a subject is this common name and nothing else.
fn is_common_name(subject: &X509Name<'_>, expected: &str) -> bool {
    let mut attributes = subject.iter_attributes();
    let mut names = subject.iter_common_name();
    let (Some(_), None, Some(name)) = (attributes.next(), attributes.next(), names.next()) else {
        return false;
    };
    name.as_str().is_ok_and(|found| found == expected)
}

#[cfg(test)]
#[path = "request_tests.rs"]
pub(crate) mod tests;
