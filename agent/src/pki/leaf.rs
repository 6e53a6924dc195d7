//! Leaf certificates: minted in memory for the names and addresses by which pods dial the API server.
//!
//! In: the node CA and the names. Out: a rustls key with its chain. The private key never leaves the process.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, SanType};
use rustls::crypto::ring::sign::any_ecdsa_type;
use rustls::sign::CertifiedKey;
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use super::PkiError;
use super::ca::{BACKDATE, NodeCa};

/// How long a leaf is valid: a day, so that a stolen one is soon worth nothing; nodes may be without the CA's renewal
/// for longer than that only when the CA itself still holds.
pub const LEAF_LIFETIME: Duration = Duration::from_secs(24 * 3600);

/// The names of the service `kubernetes`, as clients in a pod dial it (in-cluster configurations use the address).
const SERVICE_NAMES: [&str; 4] = [
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
    "kubernetes.default.svc.cluster.local",
];

/// What a leaf is good for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeafNames {
    dns: BTreeSet<String>,
    addresses: BTreeSet<IpAddr>,
}

impl LeafNames {
    /// The service's names and those of the configuration, each a DNS name or an address.
    pub fn new(extra: &[String]) -> Result<LeafNames, PkiError> {
        let mut names = Self::without_service(extra)?;
        names.dns.extend(SERVICE_NAMES.map(str::to_owned));
        Ok(names)
    }

    /// These names alone: what has such a leaf is not taken for the API server by its name.
    pub fn without_service(given: &[String]) -> Result<LeafNames, PkiError> {
        let mut names = LeafNames {
            dns: BTreeSet::new(),
            addresses: BTreeSet::new(),
        };
        for name in given {
            if let Ok(address) = name.parse::<IpAddr>() {
                names.addresses.insert(address.to_canonical());
            } else if rustls_pki_types::DnsName::try_from(name.as_str()).is_ok() {
                names.dns.insert(name.to_ascii_lowercase());
            } else {
                return Err(PkiError::Name(name.clone()));
            }
        }
        Ok(names)
    }

    /// Whether a client that dials this address finds it among the names.
    pub(crate) fn has(&self, dialled: IpAddr) -> bool {
        self.addresses.contains(&dialled.to_canonical())
    }

    /// The same with the addresses of the protected endpoints, mapped IPv4 addresses as plain ones.
    pub fn with_addresses(&self, endpoints: impl IntoIterator<Item = IpAddr>) -> LeafNames {
        let mut names = self.clone();
        names
            .addresses
            .extend(endpoints.into_iter().map(|address| address.to_canonical()));
        names
    }
}

/// All DNS names, and of the addresses, which may be hundreds, the first ones.
impl fmt::Display for LeafNames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = 16;
        let addresses: Vec<_> = self.addresses.iter().take(shown).collect();
        write!(f, "{:?} {addresses:?}", self.dns)?;
        match self.addresses.len().saturating_sub(shown) {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

/// A leaf that can be served.
pub(crate) struct Leaf {
    pub(crate) key: Arc<CertifiedKey>,
    pub(crate) names: LeafNames,
    pub(crate) not_after: SystemTime,
    /// From then on a fresh one is due: at two thirds of the validity.
    pub(crate) renew_at: SystemTime,
}

impl fmt::Debug for Leaf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Leaf")
            .field("names", &self.names)
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

/// Mints a leaf that is valid from five minutes ago until the end of its day or of the CA, whichever comes first.
pub(crate) fn mint(ca: &NodeCa, names: LeafNames, now: SystemTime) -> Result<Leaf, PkiError> {
    let not_after = ca.not_after.min(now + LEAF_LIFETIME);
    let key = KeyPair::generate().map_err(PkiError::Mint)?;
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "kubernetes");
    params.not_before = (now - BACKDATE).into();
    params.not_after = not_after.into();
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    for name in &names.dns {
        let name = name
            .as_str()
            .try_into()
            .map_err(|_| PkiError::Name(name.clone()))?;
        params.subject_alt_names.push(SanType::DnsName(name));
    }
    params
        .subject_alt_names
        .extend(names.addresses.iter().copied().map(SanType::IpAddress));
    let certificate = params.signed_by(&key, &ca.issuer).map_err(PkiError::Mint)?;

    let signing = any_ecdsa_type(&PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(
        key.serialize_der(),
    )))
    .map_err(PkiError::Rustls)?;
    let mut chain = vec![certificate.der().clone()];
    chain.extend(ca.chain.iter().cloned());
    let left = not_after.duration_since(now).unwrap_or_default();
    Ok(Leaf {
        key: Arc::new(CertifiedKey::new(chain, signing)),
        names,
        not_after,
        renew_at: now + left * 2 / 3,
    })
}
