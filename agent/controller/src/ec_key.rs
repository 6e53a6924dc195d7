//! EC private keys in the form of RFC 5915, `BEGIN EC PRIVATE KEY`, as openssl, Helm and Go's libraries write them.
//!
//! In: a private key of any form. Out: a key that signs. The signing library reads PKCS#8 alone, so that the older form is put into it.

use rcgen::KeyPair;
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

/// The rest of PKCS#8 before the key (RFC 5958): version 0, and the algorithm `id-ecPublicKey` (RFC 5480) with the curve.
const P256: &[u8] =
    b"\x02\x01\x00\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07";
const P384: &[u8] = b"\x02\x01\x00\x30\x10\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x05\x2b\x81\x04\x00\x22";

/// Tags of X.690.
const SEQUENCE: u8 = 0x30;
const OCTET_STRING: u8 = 0x04;

/// A key that signs.
///
/// # Errors
/// The key has another form, or its curve or size is not supported.
pub fn key_pair(key: &PrivateKeyDer<'_>) -> Result<KeyPair, rcgen::Error> {
    let PrivateKeyDer::Sec1(sec1) = key else {
        return KeyPair::try_from(key);
    };
    let wrapped = in_pkcs8(sec1.secret_sec1_der()).ok_or(rcgen::Error::CouldNotParseKeyPair)?;
    KeyPair::try_from(&PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(wrapped)))
}

/// The key inside PKCS#8. The length of the secret tells the curve; another curve of that length is refused by who reads the result.
fn in_pkcs8(sec1: &[u8]) -> Option<Vec<u8>> {
    let content = match sec1 {
        [SEQUENCE, 0x81, length, content @ ..] if content.len() == usize::from(*length) => content,
        [SEQUENCE, length @ ..=0x7f, content @ ..] if content.len() == usize::from(*length) => content,
        _ => return None,
    };
    // Version 1, then the secret (RFC 5915).
    let head = match content.strip_prefix(b"\x02\x01\x01\x04")?.first()? {
        32 => P256,
        48 => P384,
        _ => return None,
    };
    let body = [head, &element(OCTET_STRING, sec1)?].concat();
    element(SEQUENCE, &body)
}

/// A DER element of less than 256 bytes.
fn element(tag: u8, content: &[u8]) -> Option<Vec<u8>> {
    let length = u8::try_from(content.len()).ok()?;
    let head: &[u8] = match length {
        ..=0x7f => &[tag, length],
        _ => &[tag, 0x81, length],
    };
    Some([head, content].concat())
}

#[cfg(test)]
mod tests {
    use rcgen::PublicKeyData as _;
    use rustls_pki_types::PrivateSec1KeyDer;

    use super::*;

    /// The inner key of a generated PKCS#8 key, which is the older form.
    fn sec1(algorithm: &'static rcgen::SignatureAlgorithm) -> (KeyPair, Vec<u8>) {
        let pair = KeyPair::generate_for(algorithm).expect("a key");
        let whole = pair.serialize_der();
        let head: &[u8] = if algorithm == &rcgen::PKCS_ECDSA_P256_SHA256 {
            P256
        } else {
            P384
        };
        let at = whole
            .windows(head.len())
            .position(|part| part == head)
            .expect("the head");
        let inner = &whole[at + head.len()..];
        let skipped = if inner[1] == 0x81 { 3 } else { 2 };
        let key = inner[skipped..].to_vec();
        (pair, key)
    }

    #[test]
    fn the_older_form_is_the_same_key() {
        for algorithm in [&rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ECDSA_P384_SHA384] {
            let (pair, key) = sec1(algorithm);
            let read = key_pair(&PrivateKeyDer::Sec1(PrivateSec1KeyDer::from(key))).expect("a key");
            assert_eq!(read.subject_public_key_info(), pair.subject_public_key_info());
        }
    }

    #[test]
    fn what_is_no_such_key_is_refused() {
        let (_, key) = sec1(&rcgen::PKCS_ECDSA_P256_SHA256);
        let mut longer = key.clone();
        longer.push(0);
        let mut other_version = key.clone();
        let at = other_version
            .windows(4)
            .position(|part| part == b"\x02\x01\x01\x04")
            .expect("the version");
        other_version[at + 2] = 2;
        for wrong in [Vec::new(), key[..key.len() - 1].to_vec(), longer, other_version] {
            let wrong = PrivateKeyDer::Sec1(PrivateSec1KeyDer::from(wrong));
            assert!(key_pair(&wrong).is_err());
        }
    }
}
