//! The gateway's own server certificate, where an operator brings one.
//!
//! In: its files, which are read again when they change. Out: the certificate for each handshake. Files that cannot be used change
//! nothing: the last good certificate serves on, and the log says so.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use crate::pki::{PkiError, ServerCertificate, ServerCertificateFiles, ServerCertificateSource};

/// The gateway's certificate.
pub struct GatewayCertificate {
    files: ServerCertificateFiles,
    source: Mutex<ServerCertificateSource>,
    current: ArcSwap<ServerCertificate>,
    /// What was last said of files that cannot be used.
    told: Mutex<Option<String>>,
}

impl fmt::Debug for GatewayCertificate {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("GatewayCertificate")
            .field("files", &self.files)
            .finish_non_exhaustive()
    }
}

impl GatewayCertificate {
    /// Reads the files.
    ///
    /// # Errors
    /// What is wrong with them, with file and line: without a certificate there is no gateway.
    pub fn open(files: ServerCertificateFiles) -> Result<Self, PkiError> {
        let source = ServerCertificateSource::read(&files)?;
        let current = source.parse(&files, SystemTime::now())?;
        Ok(Self {
            files,
            source: Mutex::new(source),
            current: ArcSwap::from_pointee(current),
            told: Mutex::default(),
        })
    }

    /// When the certificate that is served now expires.
    pub fn not_after(&self) -> SystemTime {
        self.current.load().not_after
    }

    /// One look at the files. Trouble is logged once.
    pub(super) fn renew(&self, now: SystemTime) {
        let outcome = self.read_again(now);
        let mut told = self.told.lock();
        match outcome {
            Ok(changed) => {
                let was_unusable = told.take().is_some();
                if changed || was_unusable {
                    tracing::info!(file = %self.files.certificate.display(), "the gateway's certificate was read again");
                }
            }
            Err(error) => {
                let error = error.to_string();
                if told.as_ref() != Some(&error) {
                    tracing::error!(%error, "the gateway's certificate cannot be used; the last good one still serves");
                }
                *told = Some(error);
            }
        }
    }

    fn read_again(&self, now: SystemTime) -> Result<bool, PkiError> {
        let read = ServerCertificateSource::read(&self.files)?;
        let mut source = self.source.lock();
        if *source == read {
            return Ok(false);
        }
        self.current.store(Arc::new(read.parse(&self.files, now)?));
        *source = read;
        Ok(true)
    }
}

impl ResolvesServerCert for GatewayCertificate {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.current.load().key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(folder: &std::path::Path, name: &str) -> ServerCertificateFiles {
        let made = crate::pki::ca::create(name).unwrap();
        let files = ServerCertificateFiles {
            certificate: folder.join("gateway.crt"),
            key: folder.join("gateway.key"),
        };
        std::fs::write(&files.certificate, made.certificate_pem).unwrap();
        std::fs::write(&files.key, made.key_pem).unwrap();
        files
    }

    fn served(gateway: &GatewayCertificate) -> Vec<u8> {
        gateway.current.load().key.cert[0].to_vec()
    }

    #[test]
    fn a_new_pair_is_served_and_half_a_pair_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let files = write(folder.path(), "one");
        let gateway = GatewayCertificate::open(files.clone()).unwrap();
        let (first, now) = (served(&gateway), SystemTime::now());
        gateway.renew(now);
        assert_eq!(served(&gateway), first);
        // The certificate comes before its key.
        let next = crate::pki::ca::create("two").unwrap();
        std::fs::write(&files.certificate, next.certificate_pem).unwrap();
        gateway.renew(now);
        assert_eq!(served(&gateway), first);
        let told = gateway.told.lock().clone().unwrap();
        assert!(
            told.contains("gateway.key:1: this is not the key of the certificate in"),
            "{told}"
        );
        std::fs::write(&files.key, next.key_pem).unwrap();
        gateway.renew(now);
        assert_ne!(served(&gateway), first);
        assert_eq!(*gateway.told.lock(), None);
        std::fs::remove_file(&files.key).unwrap();
        gateway.renew(now);
        assert!(gateway.told.lock().is_some());
        // No key is shown.
        assert!(!format!("{gateway:?}").contains("PRIVATE"));
    }

    #[test]
    fn files_that_cannot_be_served_are_refused_at_the_start_with_their_place() {
        let folder = tempfile::tempdir().unwrap();
        let files = write(folder.path(), "one");
        let said = |now| {
            let source = ServerCertificateSource::read(&files).unwrap();
            source.parse(&files, now).map(drop).unwrap_err().to_string()
        };
        let year = std::time::Duration::from_secs(400 * 24 * 3600);
        assert!(said(SystemTime::now() + year).contains("gateway.crt:1: valid from"));
        std::fs::write(&files.key, "nothing").unwrap();
        assert!(said(SystemTime::now()).contains("gateway.key:1: no private key in it"));
        std::fs::write(&files.certificate, "nothing").unwrap();
        assert!(GatewayCertificate::open(files).is_err());
    }
}
