//! The certificates of the public authorities, as programs expect them in a file.
//!
//! In: the crate `webpki-root-certs`, at the version of Cargo.lock. Out: PEM text, so no file of the build machine is in the image.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// The crate the certificates come from: Mozilla's list.
pub(super) const CRATE: &str = "webpki-root-certs";

/// Where the agent looks first, in the image.
pub(super) const PATH: &str = "etc/ssl/certs/ca-certificates.crt";

/// All of them.
pub(super) fn pem() -> String {
    let certificates = webpki_root_certs::TLS_SERVER_ROOT_CERTS.iter();
    certificates.map(|certificate| block(certificate)).collect()
}

/// One certificate, in lines of 64 characters.
fn block(der: &[u8]) -> String {
    let mut text = "-----BEGIN CERTIFICATE-----\n".to_owned();
    for (at, character) in STANDARD.encode(der).chars().enumerate() {
        if at > 0 && at % 64 == 0 {
            text.push('\n');
        }
        text.push(character);
    }
    text + "\n-----END CERTIFICATE-----\n"
}

#[cfg(test)]
mod tests {
    use super::{block, pem};

    #[test]
    fn a_block_has_full_lines_and_a_last_one() {
        let lines: Vec<String> = block(&[0; 49]).lines().map(str::to_owned).collect();
        assert_eq!(lines.len(), 4);
        assert_eq!((lines[1].len(), lines[2].len()), (64, 4));
        // 48 bytes are one full line, and no empty one follows.
        assert_eq!(block(&[0; 48]).lines().count(), 3);
    }

    #[test]
    fn every_certificate_is_in_the_file() {
        let text = pem();
        let count = text.matches("-----BEGIN CERTIFICATE-----\n").count();
        assert_eq!(count, webpki_root_certs::TLS_SERVER_ROOT_CERTS.len());
        assert!(count > 100, "{count}");
        assert_eq!(text.matches("-----END CERTIFICATE-----\n").count(), count);
    }
}
