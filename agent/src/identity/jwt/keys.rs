//! The keys of an issuer, as its JWKS has them (RFC 7517).
//!
//! In: a JWKS document. Out: a [`KeySet`] of the keys that can be used, or that there is none.

use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey};
use serde::Deserialize;

use super::signature::algorithm;

/// The most keys that are kept of an issuer. Issuers publish two or three, and some twenty.
pub(super) const MAX_KEYS: usize = 64;

/// The most keys that one token is tried with, where its header names none.
const MAX_TRIES: usize = 8;

/// The longest number of an RSA key, in letters of base64: 8192 bits.
const MAX_NUMBER: usize = 1400;

/// The keys of an issuer.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct KeySet(Vec<IssuerKey>, LeftOut);

/// How many keys of a document are not used: tokens that they signed are refused as of an unknown key.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct LeftOut {
    /// Of another purpose than signatures, of a kind or algorithm that does not count, or malformed.
    pub(super) unusable: usize,
    /// Beyond [`MAX_KEYS`].
    pub(super) beyond_limit: usize,
}

/// One key, as it was published and as it is used.
#[derive(Debug)]
struct IssuerKey {
    published: PublishedKey,
    algorithms: Algorithms,
    key: DecodingKey,
}

impl PartialEq for IssuerKey {
    fn eq(&self, other: &Self) -> bool {
        self.published == other.published
    }
}

impl Eq for IssuerKey {}

#[derive(Debug, Clone, Copy)]
enum Algorithms {
    One(Algorithm),
    Rsa,
}

impl Algorithms {
    fn has(self, algorithm: Algorithm) -> bool {
        match self {
            Self::One(one) => one == algorithm,
            Self::Rsa => algorithm.family() == AlgorithmFamily::Rsa,
        }
    }
}

/// A JWKS has other members too; a key likewise, such as `x5c`.
#[derive(Deserialize)]
struct Document {
    keys: Vec<serde_json::Value>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct PublishedKey {
    kty: String,
    #[serde(default)]
    kid: Option<String>,
    #[serde(default)]
    alg: Option<String>,
    #[serde(default, rename = "use")]
    purpose: Option<String>,
    #[serde(default)]
    crv: Option<String>,
    #[serde(default)]
    n: String,
    #[serde(default)]
    e: String,
    #[serde(default)]
    x: String,
    #[serde(default)]
    y: String,
}

impl KeySet {
    /// Reads a JWKS. Keys for something else, of kinds that do not count, and beyond the limit are left out.
    pub(super) fn read(document: &[u8]) -> Option<Self> {
        let document: Document = serde_json::from_slice(document).ok()?;
        let mut set = Self::default();
        for key in document.keys {
            let Self(keys, left_out) = &mut set;
            if keys.len() == MAX_KEYS {
                left_out.beyond_limit += 1;
                continue;
            }
            let published = serde_json::from_value(key).ok();
            match published.and_then(IssuerKey::of) {
                Some(key) => keys.push(key),
                None => left_out.unusable += 1,
            }
        }
        Some(set)
    }

    /// How many keys of the document are not among them.
    pub(super) fn left_out(&self) -> LeftOut {
        self.1
    }

    /// How many keys there are.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// The keys that may have signed a token with this header.
    pub(super) fn candidates(
        &self,
        key_id: Option<&str>,
        algorithm: Algorithm,
    ) -> impl Iterator<Item = &DecodingKey> {
        let fits = move |key: &&IssuerKey| {
            let is_named = key_id.is_none_or(|id| key.published.kid.as_deref() == Some(id));
            is_named && key.algorithms.has(algorithm)
        };
        self.0.iter().filter(fits).map(|key| &key.key).take(MAX_TRIES)
    }
}

impl IssuerKey {
    fn of(published: PublishedKey) -> Option<Self> {
        if published
            .purpose
            .as_deref()
            .is_some_and(|purpose| purpose != "sig")
        {
            return None;
        }
        let numbers = [&published.n, &published.e, &published.x, &published.y];
        if numbers.into_iter().any(|number| number.len() > MAX_NUMBER) {
            return None;
        }
        let (key, of_kind) = match (published.kty.as_str(), published.crv.as_deref()) {
            ("RSA", _) => {
                let key = DecodingKey::from_rsa_components(&published.n, &published.e).ok()?;
                (key, Algorithms::Rsa)
            }
            ("EC", Some(curve)) => {
                let algorithm = match curve {
                    "P-256" => Algorithm::ES256,
                    "P-384" => Algorithm::ES384,
                    _ => return None,
                };
                let key = DecodingKey::from_ec_components(&published.x, &published.y).ok()?;
                (key, Algorithms::One(algorithm))
            }
            ("OKP", Some("Ed25519")) => {
                let key = DecodingKey::from_ed_components(&published.x).ok()?;
                (key, Algorithms::One(Algorithm::EdDSA))
            }
            _ => return None,
        };
        // A key that is published for one algorithm is for that one only.
        let algorithms = match &published.alg {
            None => of_kind,
            Some(name) => {
                let named = algorithm(name).filter(|named| of_kind.has(*named))?;
                Algorithms::One(named)
            }
        };
        Some(Self {
            published,
            algorithms,
            key,
        })
    }
}
