//! Signatures of tokens: which algorithms count, and their check by ring.
//!
//! In: a token. Out: its header and issuer, not verified yet ([`UnverifiedToken`]); later, with a key, its claims. Shared
//! secrets (`HS256` and so on) and `none` have no name here, so that no key of an issuer can be taken for a secret.

use std::sync::LazyLock;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use jsonwebtoken::crypto::{CryptoProvider, JwtSigner, JwtVerifier, KeyUtils};
use jsonwebtoken::errors::{Error, ErrorKind};
use jsonwebtoken::signature::{self, Verifier};
use jsonwebtoken::{Algorithm, DecodingKey, DecodingKeyKind, EncodingKey, Validation};
use picket_policy::jwt::TokenError;
use ring::signature::{
    self as ring_signature, RsaPublicKeyComponents, UnparsedPublicKey, VerificationAlgorithm,
};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::RefusedToken;

/// The algorithms that count: those of the API server but for ES512, which ring has not, and EdDSA.
const ALGORITHMS: [(&str, Algorithm); 9] = [
    ("RS256", Algorithm::RS256),
    ("RS384", Algorithm::RS384),
    ("RS512", Algorithm::RS512),
    ("PS256", Algorithm::PS256),
    ("PS384", Algorithm::PS384),
    ("PS512", Algorithm::PS512),
    ("ES256", Algorithm::ES256),
    ("ES384", Algorithm::ES384),
    ("EdDSA", Algorithm::EdDSA),
];

/// The algorithm of a name that counts.
pub(super) fn algorithm(name: &str) -> Option<Algorithm> {
    let found = ALGORITHMS.iter().find(|(known, _)| *known == name);
    found.map(|(_, algorithm)| *algorithm)
}

/// A token that was taken apart. Nothing of it is true yet.
pub(super) struct UnverifiedToken<'t> {
    token: &'t [u8],
    pub(super) algorithm: Algorithm,
    pub(super) key_id: Option<String>,
    pub(super) issuer: String,
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    #[serde(default)]
    kid: Option<String>,
}

#[derive(Deserialize)]
struct Issuer {
    iss: String,
}

impl<'t> UnverifiedToken<'t> {
    /// Takes a token apart.
    pub(super) fn read(token: &'t [u8]) -> Result<Self, RefusedToken> {
        let mut parts = token.split(|byte| *byte == b'.');
        let (Some(header), Some(payload), Some(_), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(RefusedToken::unreadable(TokenError::Malformed));
        };
        let header: Header = json(header).map_err(RefusedToken::unreadable)?;
        let Issuer { iss } = json(payload).map_err(RefusedToken::unreadable)?;
        match algorithm(&header.alg) {
            Some(algorithm) => Ok(Self {
                token,
                algorithm,
                key_id: header.kid,
                issuer: iss,
            }),
            None => Err(RefusedToken {
                issuer: Some(iss),
                ..RefusedToken::unreadable(TokenError::Algorithm)
            }),
        }
    }

    /// The claims, where this key made the signature. Times, audience and issuer are the issuer's rules to judge.
    pub(super) fn claims(&self, key: &DecodingKey) -> Result<Map<String, Value>, TokenError> {
        LazyLock::force(&INSTALLED);
        let mut validation = Validation::new(self.algorithm);
        validation.required_spec_claims.clear();
        validation.validate_exp = false;
        validation.validate_nbf = false;
        validation.validate_aud = false;
        match jsonwebtoken::decode(self.token, key, &validation) {
            Ok(token) => Ok(token.claims),
            Err(error) => Err(match error.kind() {
                ErrorKind::InvalidAlgorithm | ErrorKind::InvalidKeyFormat => TokenError::UnknownKey,
                ErrorKind::InvalidSignature => TokenError::Signature,
                _ => TokenError::Malformed,
            }),
        }
    }
}

fn json<'a, T: for<'de> Deserialize<'de>>(part: &'a [u8]) -> Result<T, TokenError> {
    let bytes = BASE64_URL_SAFE_NO_PAD
        .decode(part)
        .map_err(|_| TokenError::Malformed)?;
    serde_json::from_slice(&bytes).map_err(|_| TokenError::Malformed)
}

/// The crate jsonwebtoken asks one provider a process.
static INSTALLED: LazyLock<()> = LazyLock::new(|| {
    // Nothing else in the agent installs one. If something did, its provider would check the same signatures.
    let _ = RING.install_default();
});

/// Signatures by ring, which is in the agent for TLS already. Nothing here signs.
static RING: CryptoProvider = CryptoProvider {
    signer_factory: refuse_to_sign,
    verifier_factory: verifier,
    key_utils: KeyUtils::new_unimplemented(),
};

fn refuse_to_sign(_: &Algorithm, _: &EncodingKey) -> Result<Box<dyn JwtSigner>, Error> {
    Err(ErrorKind::UnsupportedAlgorithm.into())
}

fn verifier(algorithm: &Algorithm, key: &DecodingKey) -> Result<Box<dyn JwtVerifier>, Error> {
    if algorithm.family() != key.family() {
        return Err(ErrorKind::InvalidAlgorithm.into());
    }
    let params = Params::of(*algorithm).ok_or(ErrorKind::UnsupportedAlgorithm)?;
    let kind = key.kind().clone();
    Ok(Box::new(RingVerifier {
        algorithm: *algorithm,
        params,
        kind,
    }))
}

enum Params {
    Rsa(&'static ring_signature::RsaParameters),
    Other(&'static dyn VerificationAlgorithm),
}

impl Params {
    /// RSA keys have 2048 bits or more.
    fn of(algorithm: Algorithm) -> Option<Self> {
        Some(match algorithm {
            Algorithm::RS256 => Self::Rsa(&ring_signature::RSA_PKCS1_2048_8192_SHA256),
            Algorithm::RS384 => Self::Rsa(&ring_signature::RSA_PKCS1_2048_8192_SHA384),
            Algorithm::RS512 => Self::Rsa(&ring_signature::RSA_PKCS1_2048_8192_SHA512),
            Algorithm::PS256 => Self::Rsa(&ring_signature::RSA_PSS_2048_8192_SHA256),
            Algorithm::PS384 => Self::Rsa(&ring_signature::RSA_PSS_2048_8192_SHA384),
            Algorithm::PS512 => Self::Rsa(&ring_signature::RSA_PSS_2048_8192_SHA512),
            Algorithm::ES256 => Self::Other(&ring_signature::ECDSA_P256_SHA256_FIXED),
            Algorithm::ES384 => Self::Other(&ring_signature::ECDSA_P384_SHA384_FIXED),
            Algorithm::EdDSA => Self::Other(&ring_signature::ED25519),
            _ => return None,
        })
    }
}

struct RingVerifier {
    algorithm: Algorithm,
    params: Params,
    kind: DecodingKeyKind,
}

impl Verifier<Vec<u8>> for RingVerifier {
    fn verify(&self, message: &[u8], signature: &Vec<u8>) -> Result<(), signature::Error> {
        let verified = match (&self.params, &self.kind) {
            (Params::Rsa(params), DecodingKeyKind::RsaModulusExponent { n, e }) => {
                RsaPublicKeyComponents { n, e }.verify(params, message, signature)
            }
            (Params::Other(algorithm), DecodingKeyKind::SecretOrDer(point)) => {
                UnparsedPublicKey::new(*algorithm, point).verify(message, signature)
            }
            _ => return Err(signature::Error::new()),
        };
        verified.map_err(|_| signature::Error::new())
    }
}

impl JwtVerifier for RingVerifier {
    fn algorithm(&self) -> Algorithm {
        self.algorithm
    }
}
