//! A root for tests, which signs node CAs as Picket's controller does.

use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;

use super::ca::{self, BACKDATE};

const HOUR: Duration = Duration::from_secs(3600);

/// A root that clients trust.
pub(crate) struct Root {
    issuer: Issuer<'static, KeyPair>,
    pub(crate) pem: String,
}

impl Root {
    pub(crate) fn new(name: &str) -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(1));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key).expect("a root");
        Self {
            pem: certificate.pem(),
            issuer: Issuer::new(params, key),
        }
    }

    pub(crate) fn der(&self) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(self.pem.as_bytes()).expect("PEM")
    }

    /// A node CA for a request, of three days from `now` on.
    pub(crate) fn sign(&self, request: &str, now: SystemTime) -> String {
        self.sign_with(request, now, |_| {})
    }

    /// Likewise, with something else about it.
    pub(crate) fn sign_with(
        &self,
        request: &str,
        now: SystemTime,
        change: impl FnOnce(&mut CertificateSigningRequestParams),
    ) -> String {
        let mut request = CertificateSigningRequestParams::from_pem(request).expect("a request");
        request.params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        request.params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        request.params.use_authority_key_identifier_extension = true;
        request.params.not_before = (now - BACKDATE).into();
        request.params.not_after = (now + 72 * HOUR).into();
        change(&mut request);
        request.signed_by(&self.issuer).expect("a node CA").pem()
    }
}

/// A key and certificate of their own, which no root signed.
pub(crate) fn stranger(name: &str) -> String {
    ca::create(name).expect("a CA").certificate_pem
}
