//! What is doubtful about CA certificates that others' certificates are checked against.
//!
//! In: the certificates of a bundle, and the time. Out: what the verifier would not say until a connection fails: certificates that
//! are no CA's, or are not valid now; and until when the bundle can vouch for anybody.
//!
//! Such a certificate is no reason to refuse a file: a bundle keeps old CAs for a while, and a server's self-signed certificate can
//! stand for itself.

use std::path::Path;
use std::time::SystemTime;

use picket_controller::x509::{may_sign, validity};
use rustls_pki_types::CertificateDer;

use super::ca::BACKDATE;
use super::pem::{self, PemError};

/// A bundle of CAs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Authorities {
    /// When the last of them expires: from then on the bundle vouches for nobody.
    pub not_after: Option<SystemTime>,
    /// What is doubtful, with file and line.
    pub doubts: Vec<String>,
}

impl Authorities {
    /// Looks at a PEM file.
    ///
    /// # Errors
    /// [`PemError`] where it cannot be read or holds no certificate.
    pub fn of_file(file: &Path, now: SystemTime) -> Result<Self, PemError> {
        let bytes = pem::read(file)?;
        Ok(Self::inspect(file, &pem::certificates(file, &bytes)?, now))
    }

    /// Looks at the certificates of a file, each with its line.
    pub(crate) fn inspect(
        file: &Path,
        certificates: &[(usize, CertificateDer<'_>)],
        now: SystemTime,
    ) -> Self {
        let mut found = Self::default();
        for (line, der) in certificates {
            let Ok((_, certificate)) = x509_parser::parse_x509_certificate(der) else {
                continue;
            };
            let (not_before, not_after) = validity(&certificate);
            found.not_after = found.not_after.max(Some(not_after));
            let period = certificate.validity();
            let reason = if now >= not_after {
                format!("it expired on {}", period.not_after)
            } else if now + BACKDATE < not_before {
                format!("it is not valid before {}", period.not_before)
            } else if !may_sign(&certificate) {
                "it is no CA's: its basicConstraints have no CA:TRUE, or its keyUsage no keyCertSign"
                    .to_owned()
            } else {
                continue;
            };
            let (file, subject) = (file.display(), certificate.subject());
            found
                .doubts
                .push(format!("{file}:{line}: certificate `{subject}`: {reason}"));
        }
        found
    }

    /// Warns of each doubt; `whose` says what the CAs are for.
    pub(crate) fn warn(&self, whose: &str) {
        for doubt in &self.doubts {
            tracing::warn!("{whose}: {doubt}");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair};

    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 3600);

    fn certificate(name: &str, is_ca: bool, (from, to): (SystemTime, SystemTime)) -> CertificateDer<'static> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        (params.not_before, params.not_after) = (from.into(), to.into());
        if is_ca {
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        }
        let key = KeyPair::generate().expect("a key");
        params.self_signed(&key).expect("a certificate").der().clone()
    }

    #[test]
    fn what_is_no_ca_or_not_valid_now_is_named_by_its_line() {
        let now = SystemTime::now();
        let bundle = [
            (1, certificate("good", true, (now - DAY, now + DAY))),
            (20, certificate("old", true, (now - 2 * DAY, now - DAY))),
            (40, certificate("new", true, (now + DAY, now + 2 * DAY))),
            (60, certificate("server", false, (now - DAY, now + DAY))),
        ];
        let found = Authorities::inspect(Path::new("ca.crt"), &bundle, now);
        let expected = [
            ("ca.crt:20: certificate `CN=old`", "it expired on "),
            ("ca.crt:40: certificate `CN=new`", "it is not valid before "),
            ("ca.crt:60: certificate `CN=server`", "it is no CA's"),
        ];
        assert_eq!(found.doubts.len(), expected.len(), "{found:?}");
        for (doubt, (whose, reason)) in found.doubts.iter().zip(expected) {
            assert!(doubt.starts_with(whose) && doubt.contains(reason), "{doubt}");
        }
        let until = found.not_after.expect("some");
        assert!(
            until > now + DAY && until <= now + 2 * DAY,
            "the last one decides"
        );
        assert_eq!(
            Authorities::inspect(Path::new("ca.crt"), &bundle[..1], now).doubts,
            [""; 0]
        );
    }
}
