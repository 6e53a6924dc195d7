//! A server certificate that an operator brings, with its key.
//!
//! In: two PEM files. Out: what TLS serves, and when that ends; or what is wrong, with file and line.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use picket_controller::x509::validity;
use rustls::crypto::ring::sign::any_supported_type;
use rustls::sign::CertifiedKey;

use super::PkiError;
use super::pem::{self, PemError};

/// Where a server certificate lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerCertificateFiles {
    /// PEM certificates: the server's first, then those between it and the root.
    pub certificate: PathBuf,
    /// PEM private key of the first certificate.
    pub key: PathBuf,
}

/// The bytes of both files, to tell a change from a mere touch. They hold a secret and are not shown.
#[derive(PartialEq, Eq)]
pub(crate) struct ServerCertificateSource {
    certificate: Vec<u8>,
    key: Vec<u8>,
}

/// A server certificate that can be served.
pub(crate) struct ServerCertificate {
    pub(crate) key: Arc<CertifiedKey>,
    pub(crate) not_after: SystemTime,
}

impl ServerCertificateSource {
    pub(crate) fn read(files: &ServerCertificateFiles) -> Result<Self, PemError> {
        Ok(Self {
            certificate: pem::read(&files.certificate)?,
            key: pem::read(&files.key)?,
        })
    }

    /// Checks both files together: a certificate that is valid now, with its own key.
    pub(crate) fn parse(
        &self,
        files: &ServerCertificateFiles,
        now: SystemTime,
    ) -> Result<ServerCertificate, PkiError> {
        let certificates = pem::certificates(&files.certificate, &self.certificate)?;
        let (line, leaf) = &certificates[0];
        let (_, leaf) = x509_parser::parse_x509_certificate(leaf).map_err(|error| {
            PemError::content(&files.certificate, *line, format!("not a certificate: {error}"))
        })?;
        let (not_before, not_after) = validity(&leaf);
        if now < not_before || now >= not_after {
            let reason = format!(
                "valid from {} to {} only",
                leaf.validity().not_before,
                leaf.validity().not_after
            );
            return Err(PemError::content(&files.certificate, *line, reason).into());
        }
        let (line, key) = pem::private_key(&files.key, &self.key)?;
        let key = any_supported_type(&key).map_err(|error| {
            let reason = format!("{error}; an ECDSA, Ed25519 or RSA key is needed");
            PemError::content(&files.key, line, reason)
        })?;
        let chain = certificates.iter().map(|(_, der)| der.clone()).collect();
        let key = CertifiedKey::new(chain, key);
        if key.keys_match().is_err() {
            let reason = format!(
                "this is not the key of the certificate in {}",
                files.certificate.display()
            );
            return Err(PemError::content(&files.key, line, reason).into());
        }
        Ok(ServerCertificate {
            key: Arc::new(key),
            not_after,
        })
    }
}

/// Whether the files can be served, for a look before an agent is started.
///
/// # Errors
/// What is wrong with them.
pub fn check_server_certificate(files: &ServerCertificateFiles) -> Result<(), PkiError> {
    let source = ServerCertificateSource::read(files)?;
    source.parse(files, SystemTime::now()).map(drop)
}
