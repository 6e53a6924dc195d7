//! A node CA that somebody else signs for a key of the node's own.
//!
//! In: the name that the CA is to have, and the certificates that were issued for the request. Out: one PEM text with key and certificates
//! that the node can sign with, or why the certificates are refused. The key is in that text and nowhere else.
//!
//! The node does not hold the root, so that it cannot tell whose signature ends the chain. All else is tried before the CA is used: a leaf
//! of it must pass for a client that trusts the last certificate of the chain.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};
use rustls::RootCertStore;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier as _;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use x509_parser::prelude::X509Certificate;

use super::ca::{CaFiles, CaSource, NodeCa};
use super::leaf::{LeafNames, mint};
use super::pem;
use super::{PemError, PkiError};

/// How messages call what was issued, in place of a file.
const ISSUED: &str = "the issued certificate";

/// A name of every leaf.
const SERVICE: &str = "kubernetes.default.svc";

/// Why a certificate that was issued is refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IssuedCaError {
    /// It is no CA that signs by the node's key now.
    #[error(transparent)]
    Pki(#[from] PkiError),
    /// It is another's.
    #[error("the issued certificate is of `{found}`, and `CN={wanted}` was asked for")]
    Name {
        /// Its subject.
        found: String,
        /// What it was to be.
        wanted: String,
    },
    /// A stolen key would be worth something for too long.
    #[error(
        "the issued certificate is valid until {until}, which is more than twice as long as was asked for"
    )]
    TooLong {
        /// Its end.
        until: String,
    },
    /// No client would accept a leaf of it.
    #[error("a leaf of the issued certificate is not valid: {0}")]
    Chain(rustls::Error),
}

impl From<PemError> for IssuedCaError {
    fn from(error: PemError) -> Self {
        Self::Pki(error.into())
    }
}

/// A new key, and the request for a certificate of it.
pub(crate) struct CaRequest {
    name: String,
    key: KeyPair,
    /// PKCS#10, as PEM.
    pub(crate) pem: String,
}

impl fmt::Debug for CaRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CaRequest")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// A CA that the node can sign with.
pub(crate) struct IssuedCa {
    /// The key, and the certificates after it, as PEM.
    pub(crate) pem: String,
    /// Until when it is valid.
    pub(crate) not_after: SystemTime,
}

impl fmt::Debug for IssuedCa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IssuedCa")
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

impl CaRequest {
    /// A new ECDSA P-256 key, and a request for a certificate with this common name and nothing else.
    ///
    /// # Errors
    /// [`PkiError::Mint`] where neither can be made.
    pub(crate) fn new(name: &str) -> Result<Self, PkiError> {
        let key = KeyPair::generate().map_err(PkiError::Mint)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        let request = params.serialize_request(&key).map_err(PkiError::Mint)?;
        Ok(Self {
            name: name.to_owned(),
            pem: request.pem().map_err(PkiError::Mint)?,
            key,
        })
    }

    /// Checks what was issued for the request, by a leaf with these names. `asked` is the life that was asked for.
    ///
    /// # Errors
    /// [`IssuedCaError`]: nothing must be signed with it.
    pub(crate) fn check(
        &self,
        issued: &[u8],
        asked: Duration,
        names: &LeafNames,
        now: SystemTime,
    ) -> Result<IssuedCa, IssuedCaError> {
        let certificates = pem::certificates(Path::new(ISSUED), issued)?;
        let (_, first) = x509_parser::parse_x509_certificate(&certificates[0].1)
            .map_err(|error| PemError::content(Path::new(ISSUED), certificates[0].0, error.to_string()))?;
        if !is_only_name(&first, &self.name) {
            return Err(IssuedCaError::Name {
                found: first.subject().to_string(),
                wanted: self.name.clone(),
            });
        }
        // The key comes first: it is this one that counts, whatever else is in the text.
        let pem = format!("{}{}", self.key.serialize_pem(), String::from_utf8_lossy(issued));
        let source = CaSource::in_one(pem.clone().into_bytes());
        let ca = NodeCa::parse(&CaFiles::in_one(ISSUED.into()), &source, now)?;
        if ca.not_after > now + 2 * asked {
            let until = first.validity().not_after.to_string();
            return Err(IssuedCaError::TooLong { until });
        }
        let chain: Vec<_> = certificates.into_iter().map(|(_, der)| der).collect();
        verify_leaf(&ca, &chain, names, now)?;
        Ok(IssuedCa {
            pem,
            not_after: ca.not_after,
        })
    }
}

/// Whether the subject is this common name and nothing else.
fn is_only_name(certificate: &X509Certificate<'_>, name: &str) -> bool {
    let subject = certificate.subject();
    let mut names = subject.iter_common_name();
    let first = names.next().and_then(|found| found.as_str().ok());
    first == Some(name) && subject.iter_attributes().count() == 1
}

/// Verifies a leaf of the CA as a client does that trusts the last certificate of the chain.
fn verify_leaf(
    ca: &NodeCa,
    chain: &[CertificateDer<'static>],
    names: &LeafNames,
    now: SystemTime,
) -> Result<(), IssuedCaError> {
    let leaf = mint(ca, names.clone(), now)?;
    let (last, between) = chain
        .split_last()
        .ok_or(IssuedCaError::Chain(rustls::Error::NoCertificatesPresented))?;
    let mut roots = RootCertStore::empty();
    roots.add(last.clone()).map_err(IssuedCaError::Chain)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
        .build()
        .map_err(|error| IssuedCaError::Chain(rustls::Error::General(error.to_string())))?;
    let name = ServerName::try_from(SERVICE)
        .map_err(|error| IssuedCaError::Chain(rustls::Error::General(error.to_string())))?;
    // A signer whose clock is a little ahead is no fault: clients are told of it by their own clocks.
    let at = now.max(ca.not_before).duration_since(SystemTime::UNIX_EPOCH);
    let at = UnixTime::since_unix_epoch(at.unwrap_or_default());
    verifier
        .verify_server_cert(&leaf.key.cert[0], between, &name, &[], at)
        .map(drop)
        .map_err(IssuedCaError::Chain)
}

#[cfg(test)]
#[path = "issued_tests.rs"]
mod tests;
