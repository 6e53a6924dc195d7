//! The node CA: read from PEM files, and made for people and tests who have none yet.
//!
//! In: a certificate file (the node CA first, intermediates after it) and its key. Out: an issuer that can sign leaf
//! certificates, with the chain to send after a leaf. The root stays elsewhere.

use std::fmt;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use picket_controller::x509::{is_self_issued, may_sign, validity};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData,
};
use rustls_pki_types::CertificateDer;

use super::PkiError;
use super::ec_key;
use super::pem::{self, PemError};

/// How long a CA made by [`create`] is valid: a year, long enough for a cluster that is set up by hand and short enough
/// to be renewed by somebody who still knows of it. Nodes get shorter ones from the controller.
pub const CREATED_LIFETIME: Duration = Duration::from_secs(365 * 24 * 3600);

/// Clocks of nodes and pods differ; a certificate that starts "now" is refused by a client whose clock is behind.
pub const BACKDATE: Duration = Duration::from_secs(5 * 60);

/// Where the node CA lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CaFiles {
    /// PEM certificates: the node CA first, then the ones between it and the root.
    pub certificate: PathBuf,
    /// PEM private key of the first certificate: PKCS#8, or `EC PRIVATE KEY`.
    pub key: PathBuf,
}

impl CaFiles {
    /// One file with both, which is replaced in one step.
    pub(crate) fn in_one(file: PathBuf) -> Self {
        Self {
            certificate: file.clone(),
            key: file,
        }
    }

    /// Whether they are not there yet: the agent of a new node waits for the first one that the controller signs.
    pub(crate) fn are_awaited(&self) -> bool {
        self.key == self.certificate && !self.certificate.exists()
    }
}

/// A CA certificate and its key as PEM text.
pub struct CreatedCa {
    /// The certificate, also the bundle that clients are to trust.
    pub certificate_pem: String,
    /// The private key, PKCS#8.
    pub key_pem: String,
}

impl fmt::Debug for CreatedCa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CreatedCa")
            .field("certificate_pem", &self.certificate_pem)
            .finish_non_exhaustive()
    }
}

/// Makes a self-signed ECDSA P-256 CA of that name.
///
/// It carries what strict verifiers ask for (Python 3.13 and later set `VERIFY_X509_STRICT`; RFC 5280 section 4.2.1):
/// critical basicConstraints and keyUsage with keyCertSign, subject and authority key identifiers.
pub fn create(common_name: &str) -> Result<CreatedCa, PkiError> {
    let now = SystemTime::now();
    let key = KeyPair::generate().map_err(PkiError::Mint)?;
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.not_before = (now - BACKDATE).into();
    params.not_after = (now + CREATED_LIFETIME).into();
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.use_authority_key_identifier_extension = true;
    let certificate = params.self_signed(&key).map_err(PkiError::Mint)?;
    Ok(CreatedCa {
        certificate_pem: certificate.pem(),
        key_pem: key.serialize_pem(),
    })
}

/// The bytes of both files, to tell a change from a mere touch.
#[derive(PartialEq, Eq)]
pub(crate) struct CaSource {
    certificate: Vec<u8>,
    key: Vec<u8>,
}

impl CaSource {
    pub(crate) fn read(files: &CaFiles) -> Result<CaSource, PemError> {
        let certificate = pem::read(&files.certificate)?;
        // One file is read once: it may be replaced between two reads.
        if files.key == files.certificate {
            return Ok(Self::in_one(certificate));
        }
        Ok(CaSource {
            certificate,
            key: pem::read(&files.key)?,
        })
    }

    /// The bytes of a file with both.
    pub(crate) fn in_one(bytes: Vec<u8>) -> Self {
        Self {
            key: bytes.clone(),
            certificate: bytes,
        }
    }
}

/// An issuer of leaf certificates.
pub(crate) struct NodeCa {
    pub(crate) issuer: Issuer<'static, KeyPair>,
    /// What is sent after the leaf: the node CA and those above it, self-signed ones left out as clients hold them.
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) not_before: SystemTime,
    pub(crate) not_after: SystemTime,
}

impl NodeCa {
    /// Checks both files together: a CA that may sign, valid now, with its own key.
    pub(crate) fn parse(files: &CaFiles, source: &CaSource, now: SystemTime) -> Result<NodeCa, PkiError> {
        let certificates = pem::certificates(&files.certificate, &source.certificate)?;
        let wrong =
            |line, reason: String| PkiError::from(PemError::content(&files.certificate, line, reason));
        let (line, der) = &certificates[0];
        let (_, ca) = x509_parser::parse_x509_certificate(der)
            .map_err(|error| wrong(*line, format!("not a certificate: {error}")))?;
        if !may_sign(&ca) {
            return Err(wrong(
                *line,
                "the first certificate is not a CA that may sign certificates".into(),
            ));
        }
        let (not_before, not_after) = validity(&ca);
        if now + BACKDATE < not_before || now >= not_after {
            let reason = format!(
                "valid from {} to {} only",
                ca.validity().not_before,
                ca.validity().not_after
            );
            return Err(wrong(*line, reason));
        }

        let (key_line, key_der) = pem::private_key(&files.key, &source.key)?;
        let key = ec_key::key_pair(&key_der).map_err(|error| {
            let reason = format!(
                "{error}; an ECDSA, Ed25519 or RSA key in PKCS#8 form is needed, or `EC PRIVATE KEY`"
            );
            PemError::content(&files.key, key_line, reason)
        })?;
        if key.subject_public_key_info() != ca.public_key().raw {
            let reason = format!(
                "this is not the key of the certificate in {}",
                files.certificate.display()
            );
            return Err(PemError::content(&files.key, key_line, reason).into());
        }
        let issuer = Issuer::from_ca_cert_der(der, key).map_err(PkiError::Mint)?;

        let chain = certificates
            .iter()
            .filter(|(_, der)| !is_self_issued(der))
            .map(|(_, der)| der.clone())
            .collect();
        Ok(NodeCa {
            issuer,
            chain,
            not_before,
            not_after,
        })
    }
}

impl fmt::Debug for NodeCa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeCa")
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(folder: &std::path::Path, certificate: &str, key: &str) -> CaFiles {
        let files = CaFiles {
            certificate: folder.join("ca.crt"),
            key: folder.join("ca.key"),
        };
        std::fs::write(&files.certificate, certificate).unwrap();
        std::fs::write(&files.key, key).unwrap();
        files
    }

    fn load(files: &CaFiles, now: SystemTime) -> Result<NodeCa, PkiError> {
        NodeCa::parse(files, &CaSource::read(files)?, now)
    }

    #[test]
    fn a_created_ca_is_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let ca = create("picket node").unwrap();
        let files = write(folder.path(), &ca.certificate_pem, &ca.key_pem);
        let read = load(&files, SystemTime::now()).unwrap();
        assert!(read.chain.is_empty(), "a root is not sent");
        assert!(!format!("{ca:?}{read:?}").contains("PRIVATE"));
    }

    #[test]
    fn unfit_files_are_refused_with_their_place() {
        let folder = tempfile::tempdir().unwrap();
        let (one, other) = (create("one").unwrap(), create("other").unwrap());
        let now = SystemTime::now();

        let files = write(folder.path(), &one.certificate_pem, &other.key_pem);
        let error = load(&files, now).unwrap_err().to_string();
        assert!(error.contains("ca.key:1: this is not the key of"), "{error}");

        let files = write(folder.path(), &one.certificate_pem, &one.key_pem);
        let error = load(&files, now + CREATED_LIFETIME).unwrap_err().to_string();
        assert!(error.contains("ca.crt:1: valid from"), "{error}");

        let leaf = rcgen::generate_simple_self_signed(vec!["kubernetes".into()]).unwrap();
        let files = write(folder.path(), &leaf.cert.pem(), &leaf.signing_key.serialize_pem());
        let error = load(&files, now).unwrap_err().to_string();
        assert!(
            error.contains("ca.crt:1: the first certificate is not a CA"),
            "{error}"
        );

        std::fs::remove_file(&files.key).unwrap();
        assert!(
            load(&files, now)
                .unwrap_err()
                .to_string()
                .contains("ca.key: No such file")
        );
    }
}
