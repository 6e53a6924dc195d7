//! A certificate authority of the controller: made, read, and used to sign a node's CA or a certificate of the controller's own.
//!
//! In: PEM certificates and a key, or a name for a new root. Out: the root as PEM, and what it signed.
//!
//! Each certificate carries what strict verifiers ask for (Python 3.13 and later set `VERIFY_X509_STRICT`; RFC 5280 section
//! 4.2.1): critical basicConstraints and keyUsage with keyCertSign, subject and authority key identifiers.

use std::fmt;
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{
    BasicConstraints, CertificateParams, CidrSubnet, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
    GeneralSubtree, IsCa, Issuer, KeyPair, KeyUsagePurpose, NameConstraints, PublicKeyData, SerialNumber,
};
use ring::rand::{SecureRandom as _, SystemRandom};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::prelude::X509Certificate;

use crate::ec_key;
use crate::names::node_ca_subject;
use crate::x509::{has_cert_sign, is_ca, is_self_issued, validity};

/// How long a root that the controller makes is valid. It is replaced when two thirds are over, with an overlap.
pub(crate) const ROOT_LIFETIME: Duration = Duration::from_secs(5 * 365 * 24 * 3600);

/// How long a node CA is valid at most, and by default: agents renew theirs after a third of it, so that a controller may be away
/// for two days.
pub(crate) const NODE_CA_LIFETIME: Duration = Duration::from_secs(72 * 3600);

/// Clocks of nodes differ; a certificate that starts "now" is refused on a node whose clock is behind. An hour, as after a wrong time
/// zone, and five minutes.
pub(crate) const BACKDATE: Duration = Duration::from_secs(65 * 60);

/// What is wrong with a certificate or a key. No text quotes a key.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AuthorityError {
    /// There is no certificate where one has to be.
    #[error("{0} holds no PEM certificate")]
    NoCertificate(&'static str),
    /// A certificate that cannot be read.
    #[error("{0} holds a certificate that cannot be read")]
    Unreadable(&'static str),
    /// It may not sign CAs of nodes.
    #[error("the certificate is not a CA's that may sign other CAs: {0}")]
    NotAnAuthority(&'static str),
    /// Its time is over, or is still to come.
    #[error("the CA is valid from {0} to {1} only")]
    NotValidNow(String, String),
    /// The key is none, or of a kind that is not supported.
    #[error("the key cannot be used: a PEM private key is needed, ECDSA P-256 or P-384, Ed25519 or RSA")]
    Key,
    /// The key belongs to another certificate.
    #[error("the key is not the key of the first certificate")]
    OtherKey,
    /// Clients could not build the chain up to a root.
    #[error(
        "the CA is not self-signed, and {0} has no root above it: clients trust a self-signed certificate alone"
    )]
    NoRoot(&'static str),
    /// The signing library refused.
    #[error("cannot make a certificate: {0}")]
    Sign(#[from] rcgen::Error),
    /// The system gives no random numbers.
    #[error("the system gives no random numbers")]
    Random,
}

/// A private key as PEM text, which no log shows.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct KeyPem(pub(crate) String);

impl fmt::Debug for KeyPem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyPem(hidden)")
    }
}

/// A CA as it is stored: certificates, the signing one first, and its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CaPem {
    /// The signing certificate, then those above it, if any.
    pub(crate) certificates: String,
    pub(crate) key: KeyPem,
    /// The roots above, where the signing certificate is not self-signed.
    pub(crate) roots: Option<String>,
}

/// The DNS names and address ranges to which node CAs are bounded. Empty: no bound.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PermittedNames(Vec<PermittedName>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum PermittedName {
    Dns(String),
    Range(IpAddr, u8),
}

/// A text that is neither a DNS name nor a range.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is neither a DNS name nor a range of addresses such as 10.0.0.0/8")]
pub struct NotAName(String);

/// The names of the Service `kubernetes`, which every leaf certificate has; the first covers those below itself only.
const SERVICE_NAMES: [&str; 4] = [
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
    "kubernetes.default.svc.cluster.local",
];

impl PermittedNames {
    /// Reads names and ranges; the names of the Service `kubernetes` are added where any is given.
    ///
    /// # Errors
    /// [`NotAName`] for the first text that is neither.
    pub fn new(texts: &[String]) -> Result<Self, NotAName> {
        let mut names = Vec::new();
        for text in texts {
            names.push(PermittedName::read(text).ok_or_else(|| NotAName(text.clone()))?);
        }
        if !names.is_empty() {
            names.extend(SERVICE_NAMES.map(|name| PermittedName::Dns(name.to_owned())));
        }
        Ok(Self(names))
    }

    fn constraints(&self) -> Option<NameConstraints> {
        let subtree = |name: &PermittedName| match name {
            PermittedName::Dns(name) => GeneralSubtree::DnsName(name.clone()),
            PermittedName::Range(address, prefix) => {
                GeneralSubtree::IpAddress(CidrSubnet::from_addr_prefix(*address, *prefix))
            }
        };
        (!self.0.is_empty()).then(|| NameConstraints {
            permitted_subtrees: self.0.iter().map(subtree).collect(),
            excluded_subtrees: Vec::new(),
        })
    }
}

impl PermittedName {
    fn read(text: &str) -> Option<Self> {
        if let Some((address, prefix)) = text.split_once('/') {
            let (address, prefix): (IpAddr, u8) = (address.parse().ok()?, prefix.parse().ok()?);
            let most = if address.is_ipv4() { 32 } else { 128 };
            return (prefix <= most).then_some(Self::Range(address, prefix));
        }
        if let Ok(address) = text.parse::<IpAddr>() {
            return Some(Self::Range(address, if address.is_ipv4() { 32 } else { 128 }));
        }
        let is_name = rustls_pki_types::DnsName::try_from(text).is_ok();
        is_name.then(|| Self::Dns(text.to_ascii_lowercase()))
    }
}

/// Makes a self-signed root: ECDSA P-256, for one level of CAs below it.
pub(crate) fn make_root(now: SystemTime) -> Result<CaPem, AuthorityError> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::default();
    // The day tells two roots apart in a bundle, for people; verifiers go by the key identifier.
    let day = jiff::Timestamp::try_from(now)
        .map_or_else(|_| String::new(), |at| format!(" {}", at.strftime("%Y-%m-%d")));
    params
        .distinguished_name
        .push(DnType::CommonName, format!("picket root CA{day}"));
    params.not_before = (now - BACKDATE).into();
    params.not_after = (now + ROOT_LIFETIME).into();
    params.serial_number = Some(serial()?);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(1));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.use_authority_key_identifier_extension = true;
    let certificate = params.self_signed(&key)?;
    Ok(CaPem {
        certificates: certificate.pem(),
        key: KeyPem(key.serialize_pem()),
        roots: None,
    })
}

/// 128 random bits.
fn serial() -> Result<SerialNumber, AuthorityError> {
    let mut bytes = [0_u8; 16];
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| AuthorityError::Random)?;
    Ok(SerialNumber::from_slice(&bytes))
}

/// A CA that signs CAs of nodes.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// Its own certificate.
    certificate: CertificateDer<'static>,
    /// What is sent after a node CA: the certificates between the node CA and the root, none where the root signs.
    chain: String,
    /// What clients trust, PEM.
    pub(crate) anchors: String,
    pub(crate) not_before: SystemTime,
    pub(crate) not_after: SystemTime,
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority")
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

impl Authority {
    /// Reads a CA, and checks that it may sign CAs of nodes and that the key is its own.
    pub(crate) fn read(pem: &CaPem) -> Result<Self, AuthorityError> {
        const WHERE: &str = "the CA's certificate file";
        let certificates = certificates(&pem.certificates, WHERE)?;
        let first = certificates.first().ok_or(AuthorityError::NoCertificate(WHERE))?;
        let (_, ca) =
            x509_parser::parse_x509_certificate(first).map_err(|_| AuthorityError::Unreadable(WHERE))?;
        check_authority(&ca)?;
        let key = PrivateKeyDer::from_pem_slice(pem.key.0.as_bytes()).map_err(|_| AuthorityError::Key)?;
        let key = ec_key::key_pair(&key).map_err(|_| AuthorityError::Key)?;
        if key.subject_public_key_info() != ca.public_key().raw {
            return Err(AuthorityError::OtherKey);
        }
        let (not_before, not_after) = validity(&ca);
        let (anchors, chain) = if ca.subject() == ca.issuer() {
            (encode(first), String::new())
        } else {
            const ROOTS: &str = "the file with the root";
            let roots = pem.roots.as_deref().ok_or(AuthorityError::NoRoot(ROOTS))?;
            let roots = self::certificates(roots, ROOTS)?;
            let anchors: String = roots
                .iter()
                .filter(|der| is_self_issued(der))
                .map(encode)
                .collect();
            if anchors.is_empty() {
                return Err(AuthorityError::NoRoot(ROOTS));
            }
            let between = certificates.iter().filter(|der| !is_self_issued(der));
            (anchors, between.map(encode).collect())
        };
        Ok(Self {
            issuer: Issuer::from_ca_cert_der(first, key)?,
            certificate: first.clone(),
            chain,
            anchors,
            not_before,
            not_after,
        })
    }

    /// Whether what it signs is the same: a CA may be renewed below the same root.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.certificate == other.certificate && self.chain == other.chain && self.anchors == other.anchors
    }

    /// Signs a CA of a node, which signs no further CA. Gives the certificate and what lies between the node CA and the root, PEM.
    pub(crate) fn sign_node_ca(
        &self,
        node: &str,
        key: &impl PublicKeyData,
        lifetime: Duration,
        permitted: &PermittedNames,
        now: SystemTime,
    ) -> Result<String, AuthorityError> {
        let mut params = CertificateParams::default();
        params
            .distinguished_name
            .push(DnType::CommonName, node_ca_subject(node));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        params.name_constraints = permitted.constraints();
        self.sign(params, key, lifetime.min(NODE_CA_LIFETIME), now)
    }

    /// Signs a server's certificate for this DNS name. Gives the certificate and what lies between it and the root, PEM.
    pub(crate) fn sign_server(
        &self,
        name: &str,
        key: &impl PublicKeyData,
        lifetime: Duration,
        now: SystemTime,
    ) -> Result<String, AuthorityError> {
        let mut params = CertificateParams::new(vec![name.to_owned()])?;
        // A common name has 64 characters at most. Clients look at the other name alone.
        params.distinguished_name = DistinguishedName::new();
        params
            .distinguished_name
            .push(DnType::CommonName, "picket controller");
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.sign(params, key, lifetime, now)
    }

    /// Signs what the parameters say, for a time within the CA's own.
    fn sign(
        &self,
        mut params: CertificateParams,
        key: &impl PublicKeyData,
        lifetime: Duration,
        now: SystemTime,
    ) -> Result<String, AuthorityError> {
        if now + BACKDATE < self.not_before || now >= self.not_after {
            return Err(AuthorityError::NotValidNow(
                shown(self.not_before),
                shown(self.not_after),
            ));
        }
        params.not_before = (now - BACKDATE).max(self.not_before).into();
        params.not_after = (now + lifetime).min(self.not_after).into();
        params.serial_number = Some(serial()?);
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(key, &self.issuer)?;
        Ok(certificate.pem() + &self.chain)
    }
}

/// RFC 5280 sections 4.2.1.3 and 4.2.1.9: with a keyUsage extension the keyCertSign bit decides, without one it is implied.
fn check_authority(ca: &X509Certificate<'_>) -> Result<(), AuthorityError> {
    let constraints = ca.basic_constraints().ok().flatten().map(|found| found.value);
    if !is_ca(ca) {
        return Err(AuthorityError::NotAnAuthority(
            "its basicConstraints have no CA:TRUE",
        ));
    }
    if constraints.is_some_and(|found| found.path_len_constraint == Some(0)) {
        return Err(AuthorityError::NotAnAuthority("its path length is 0"));
    }
    if !has_cert_sign(ca) {
        return Err(AuthorityError::NotAnAuthority("its keyUsage has no keyCertSign"));
    }
    Ok(())
}

/// The certificates of a PEM text.
pub(crate) fn certificates(
    text: &str,
    place: &'static str,
) -> Result<Vec<CertificateDer<'static>>, AuthorityError> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text.as_bytes()).collect();
    let all = all.map_err(|_| AuthorityError::Unreadable(place))?;
    if all.is_empty() {
        return Err(AuthorityError::NoCertificate(place));
    }
    Ok(all)
}

/// A time for people.
pub(crate) fn shown(time: SystemTime) -> String {
    jiff::Timestamp::try_from(time).map_or_else(
        |_| "an unknown time".to_owned(),
        |at| at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
    )
}

/// PEM of one certificate, in lines of 64 characters and without the explanations that may stand around it in a file.
fn encode(der: &CertificateDer<'_>) -> String {
    let text = STANDARD.encode(der);
    let mut pem = String::from("-----BEGIN CERTIFICATE-----\n");
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (line, after) = rest.split_at(rest.len().min(64));
        pem.push_str(line);
        pem.push('\n');
        rest = after;
    }
    pem.push_str("-----END CERTIFICATE-----\n");
    pem
}

#[cfg(test)]
#[path = "authority_tests.rs"]
mod tests;
