//! Attestation by a client certificate: an X.509 SVID whose SPIFFE ID an AgentIdentity's `attest.spiffe` names.
//!
//! In: the chain that the client showed and whose key it proved in the handshake, the trust bundles, the time. Out: an [`Svid`], or
//! a [`CertificateError`]. The leaf is read once a connection. Its chain is verified again when a trust bundle changed, or when the
//! time that the last verification holds for is over: a connection may outlive its certificate.
//!
//! What a leaf must be is X509-SVID.md sections 2 to 5: one URI name, which is the SPIFFE ID; no CA; a key for signatures and
//! not for certificates.

use std::sync::Arc;

use jiff::{Timestamp, ToSpan as _};
use parking_lot::Mutex;
use picket_policy::spiffe::SpiffeIdError;
use picket_policy::{PolicySet, SpiffeId};
use rustls_pki_types::{CertificateDer, UnixTime};
use x509_parser::prelude::{GeneralName, X509Certificate, parse_x509_certificate};

use super::{Attestation, Evidence};
use crate::pki::{ChainError, TrustBundles, TrustedRoots};

/// Why a client certificate does not count. The text is for the client and the record alike.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    /// It cannot be read.
    #[error("the client certificate cannot be read")]
    Malformed,
    /// It has no URI name, or several: nobody could say which one counts.
    #[error("the client certificate has {0} URI names; an SVID has exactly one, its SPIFFE ID")]
    UriNames(usize),
    /// Its URI is no SPIFFE ID of a workload.
    #[error("the client certificate's URI name is no SPIFFE ID: {0}")]
    SpiffeId(SpiffeIdError),
    /// It is a CA's.
    #[error("the client certificate is a CA's, and not a workload's")]
    Ca,
    /// Its key is not for what it is used for.
    #[error(
        "the client certificate's key usage must have digitalSignature, and neither keyCertSign nor cRLSign"
    )]
    KeyUsage,
    /// Its time has not come.
    #[error("the client certificate is valid from {0} on")]
    NotYetValid(Timestamp),
    /// Its time is over.
    #[error("the client certificate expired at {0}")]
    Expired(Timestamp),
    /// It is not proven.
    #[error("the client certificate does not count: {0}")]
    Chain(#[from] ChainError),
}

impl CertificateError {
    /// A stable name of low cardinality, for metrics and records.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Malformed => "certificate_malformed",
            Self::UriNames(_) | Self::SpiffeId(_) => "certificate_spiffe_id",
            Self::Ca => "certificate_ca",
            Self::KeyUsage => "certificate_key_usage",
            Self::NotYetValid(_) => "certificate_not_yet_valid",
            Self::Expired(_) => "certificate_expired",
            Self::Chain(_) => "certificate_untrusted",
        }
    }
}

/// A client certificate that counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Svid {
    /// Whose it is.
    pub id: SpiffeId,
    /// When it, or a certificate of its chain, expires.
    pub until: Timestamp,
}

/// The certificate that a client showed.
#[derive(Debug)]
pub struct ClientCertificate {
    chain: Vec<CertificateDer<'static>>,
    leaf: Result<Leaf, CertificateError>,
    bundles: Arc<TrustBundles>,
    verified: Mutex<Option<Verified>>,
}

/// What is read of the leaf once.
#[derive(Debug)]
struct Leaf {
    id: SpiffeId,
    not_before: Timestamp,
    not_after: Timestamp,
}

/// What the last verification found, and how long that holds while the roots stay.
#[derive(Debug)]
struct Verified {
    roots: Arc<TrustedRoots>,
    found: Result<Arc<Svid>, CertificateError>,
    until: Timestamp,
}

impl ClientCertificate {
    /// The chain of a client, leaf first; `None` where it showed none.
    #[must_use]
    pub fn of(chain: &[CertificateDer<'static>], bundles: &Arc<TrustBundles>) -> Option<Self> {
        let leaf = read_leaf(chain.first()?);
        Some(Self {
            chain: chain.to_vec(),
            leaf,
            bundles: Arc::clone(bundles),
            verified: Mutex::new(None),
        })
    }

    /// Whose it is, if it counts at `now`.
    ///
    /// # Errors
    /// Why it does not.
    pub fn check(&self, now: Timestamp) -> Result<Arc<Svid>, CertificateError> {
        let leaf = self.leaf.as_ref().map_err(Clone::clone)?;
        if now < leaf.not_before {
            return Err(CertificateError::NotYetValid(leaf.not_before));
        }
        if now >= leaf.not_after {
            return Err(CertificateError::Expired(leaf.not_after));
        }
        let roots = self.bundles.current();
        let mut verified = self.verified.lock();
        if let Some(known) = &*verified
            && Arc::ptr_eq(&known.roots, &roots)
            && now < known.until
        {
            return known.found.clone();
        }
        let found = self.verify(leaf, &roots, now);
        let until = match &found {
            Ok(svid) => svid.until,
            // A client that goes on asking costs one verification a second.
            Err(_) => now.saturating_add(1.second()).unwrap_or(now),
        };
        *verified = Some(Verified {
            roots,
            found: found.clone(),
            until,
        });
        found
    }

    fn verify(
        &self,
        leaf: &Leaf,
        roots: &TrustedRoots,
        now: Timestamp,
    ) -> Result<Arc<Svid>, CertificateError> {
        let seconds = u64::try_from(now.as_second()).map_err(|_| CertificateError::Malformed)?;
        let at = UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds));
        roots.verify(leaf.id.trust_domain(), &self.chain, at)?;
        // The verifier counts whole seconds, and takes a CA through the second that `notAfter` names (RFC 5280 section 4.1.2.5). One
        // whose last second is over was not needed.
        let ends = self.chain.iter().skip(1).filter_map(|between| {
            let (_, between) = parse_x509_certificate(between).ok()?;
            let end = validity(&between)?.1.saturating_add(1.second());
            end.ok().filter(|end| *end > now)
        });
        Ok(Arc::new(Svid {
            id: leaf.id.clone(),
            until: ends.fold(leaf.not_after, Timestamp::min),
        }))
    }
}

fn validity(certificate: &X509Certificate<'_>) -> Option<(Timestamp, Timestamp)> {
    let moment = |seconds| Timestamp::from_second(seconds).ok();
    let validity = certificate.validity();
    Some((
        moment(validity.not_before.timestamp())?,
        moment(validity.not_after.timestamp())?,
    ))
}

fn read_leaf(der: &CertificateDer<'_>) -> Result<Leaf, CertificateError> {
    let malformed = |_| CertificateError::Malformed;
    let Ok((rest, leaf)) = parse_x509_certificate(der) else {
        return Err(CertificateError::Malformed);
    };
    if !rest.is_empty() {
        return Err(CertificateError::Malformed);
    }
    let names = leaf.subject_alternative_name().map_err(malformed)?;
    let names = names.as_ref().map_or(&[][..], |names| &names.value.general_names);
    let mut uris = names.iter().filter_map(|name| match name {
        GeneralName::URI(uri) => Some(*uri),
        _ => None,
    });
    let (first, more) = (uris.next(), uris.count());
    let (Some(uri), 0) = (first, more) else {
        return Err(CertificateError::UriNames(usize::from(first.is_some()) + more));
    };
    let id = SpiffeId::parse(uri).map_err(CertificateError::SpiffeId)?;
    let constraints = leaf.basic_constraints().map_err(malformed)?;
    if constraints.is_some_and(|constraints| constraints.value.ca) {
        return Err(CertificateError::Ca);
    }
    let usage = leaf.key_usage().map_err(malformed)?;
    let usage = usage.ok_or(CertificateError::KeyUsage)?.value;
    if !usage.digital_signature() || usage.key_cert_sign() || usage.crl_sign() {
        return Err(CertificateError::KeyUsage);
    }
    let (not_before, not_after) = validity(&leaf).ok_or(CertificateError::Malformed)?;
    Ok(Leaf {
        id,
        not_before,
        not_after,
    })
}

/// Finds the identities that name the certificate's SPIFFE ID.
pub fn attest(policies: &PolicySet, evidence: &Evidence<'_>, now: Timestamp) -> Attestation {
    let Some(certificate) = evidence.certificate else {
        return Attestation::NotRequested;
    };
    match certificate.check(now) {
        Ok(svid) => Attestation::Authenticated(
            policies
                .identities_of_spiffe_id(svid.id.as_str())
                .cloned()
                .collect(),
        ),
        Err(error) => Attestation::Failed(error.into()),
    }
}

#[cfg(test)]
#[path = "x509_tests.rs"]
mod tests;
