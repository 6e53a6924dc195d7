//! What agent and controller read of certificates.
//!
//! In: certificates. Out: their times, and whether they are self-issued or may sign others.

use std::time::{Duration, SystemTime};

use rustls_pki_types::CertificateDer;
use x509_parser::prelude::X509Certificate;
use x509_parser::time::ASN1Time;

/// From when until when a certificate is valid.
#[must_use]
pub fn validity(certificate: &X509Certificate<'_>) -> (SystemTime, SystemTime) {
    let period = certificate.validity();
    (at(period.not_before), at(period.not_after))
}

fn at(time: ASN1Time) -> SystemTime {
    let seconds = time.timestamp();
    let distance = Duration::from_secs(seconds.unsigned_abs());
    match seconds < 0 {
        true => SystemTime::UNIX_EPOCH - distance,
        false => SystemTime::UNIX_EPOCH + distance,
    }
}

/// Whether a certificate names itself as its issuer, as a root does.
#[must_use]
pub fn is_self_issued(der: &CertificateDer<'_>) -> bool {
    x509_parser::parse_x509_certificate(der)
        .is_ok_and(|(_, certificate)| certificate.subject() == certificate.issuer())
}

/// Whether it is a CA's. One of version 1 is not: it cannot say so.
#[must_use]
pub fn is_ca(certificate: &X509Certificate<'_>) -> bool {
    let constraints = certificate.basic_constraints().ok().flatten();
    constraints.is_some_and(|found| found.value.ca)
}

/// Whether its key may sign certificates. RFC 5280 section 4.2.1.3: with a keyUsage extension the keyCertSign bit decides, without one
/// it is implied.
#[must_use]
pub fn has_cert_sign(certificate: &X509Certificate<'_>) -> bool {
    let usage = certificate.key_usage().ok().flatten();
    usage.is_none_or(|found| found.value.key_cert_sign())
}

/// Whether it is a CA's that may sign certificates.
#[must_use]
pub fn may_sign(certificate: &X509Certificate<'_>) -> bool {
    is_ca(certificate) && has_cert_sign(certificate)
}
