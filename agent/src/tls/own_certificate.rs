//! The own server certificate of a port, where an operator brings one: the gateway's, or that of the metrics.
//!
//! In: its files, which are read again when they change. Out: the certificate for each handshake. Files that cannot be used change
//! nothing: the last good certificate serves on, and the log says so. Where none was good since the start, handshakes at that port
//! fail, and nothing else does.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use crate::pki::{PkiError, ServerCertificate, ServerCertificateFiles, ServerCertificateSource};

/// A port's own certificate.
pub struct OwnCertificate {
    /// What it is of, for the log.
    port: &'static str,
    files: ServerCertificateFiles,
    source: Mutex<Option<ServerCertificateSource>>,
    current: ArcSwapOption<ServerCertificate>,
    /// What was last said of files that cannot be used.
    told: Mutex<Option<String>>,
}

impl fmt::Debug for OwnCertificate {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("OwnCertificate")
            .field("files", &self.files)
            .finish_non_exhaustive()
    }
}

impl OwnCertificate {
    /// Reads the files.
    pub fn open(port: &'static str, files: ServerCertificateFiles) -> Self {
        let own = Self {
            port,
            files,
            source: Mutex::default(),
            current: ArcSwapOption::empty(),
            told: Mutex::default(),
        };
        own.renew(SystemTime::now());
        own
    }

    /// When the certificate that is served now expires, where there is one.
    pub fn not_after(&self) -> Option<SystemTime> {
        self.current.load().as_ref().map(|current| current.not_after)
    }

    /// Why no caller gets a session: what is wrong with the files, where they were never good.
    pub fn fault(&self) -> Option<String> {
        self.told.lock().clone().filter(|_| self.current.load().is_none())
    }

    /// One look at the files. Trouble is logged once.
    pub(super) fn renew(&self, now: SystemTime) {
        let outcome = self.read_again(now);
        let mut told = self.told.lock();
        match outcome {
            Ok(changed) => {
                let was_unusable = told.take().is_some();
                if changed || was_unusable {
                    let file = self.files.certificate.display();
                    tracing::info!(port = self.port, %file, "the port's own certificate was read again");
                }
            }
            Err(error) => {
                let error = error.to_string();
                if told.as_ref() != Some(&error) {
                    let serves = self.current.load().is_some();
                    tracing::error!(port = self.port, %error, last_good_serves = serves, "the port's own certificate cannot be used");
                }
                *told = Some(error);
            }
        }
    }

    fn read_again(&self, now: SystemTime) -> Result<bool, PkiError> {
        let read = ServerCertificateSource::read(&self.files)?;
        let mut source = self.source.lock();
        if source.as_ref() == Some(&read) {
            return Ok(false);
        }
        self.current.store(Some(Arc::new(read.parse(&self.files, now)?)));
        *source = Some(read);
        Ok(true)
    }
}

impl OwnCertificate {
    /// The certificate of now with its key.
    pub(super) fn key(&self) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.current.load().as_ref()?.key))
    }
}

impl ResolvesServerCert for OwnCertificate {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.key()
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

    fn served(gateway: &OwnCertificate) -> Vec<u8> {
        gateway.current.load().as_ref().unwrap().key.cert[0].to_vec()
    }

    #[test]
    fn a_new_pair_is_served_and_half_a_pair_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let files = write(folder.path(), "one");
        let gateway = OwnCertificate::open("gateway", files.clone());
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
        assert_eq!(gateway.fault(), None, "the last good one serves");
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
    fn files_that_cannot_be_served_are_told_with_their_place_and_serve_once_they_can() {
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
        let gateway = OwnCertificate::open("gateway", files);
        let fault = gateway.fault().expect("nothing serves");
        assert!(fault.contains("gateway.crt:1: "), "{fault}");
        assert_eq!(gateway.not_after(), None);
        write(folder.path(), "two");
        gateway.renew(SystemTime::now());
        assert_eq!(gateway.fault(), None);
        assert!(gateway.not_after().is_some());
    }
}
