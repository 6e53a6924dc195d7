//! SPIFFE IDs: the names that client certificates carry.
//!
//! In: a text. Out: a [`SpiffeId`] of a workload, or why the text is none (SPIFFE-ID.md sections 2.1 to 2.4). A workload's ID has a
//! path; one without is the trust domain's own, which no leaf certificate may carry (X509-SVID.md section 2).

use std::fmt;

/// The longest ID that implementations must take (SPIFFE-ID.md section 2.3).
pub const SPIFFE_ID_BYTES: usize = 2048;

/// The longest trust domain's name (SPIFFE-ID.md section 2.3).
const TRUST_DOMAIN_BYTES: usize = 255;

/// How IDs begin. The scheme is compared exactly: other spellings are no canonical ones.
const SCHEME: &str = "spiffe://";

/// A workload's SPIFFE ID, in its one canonical form.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SpiffeId {
    text: String,
    /// Where the path begins.
    path: usize,
}

/// Why a text is no SPIFFE ID of a workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SpiffeIdError {
    /// It begins otherwise.
    #[error("it must begin with `spiffe://`")]
    Scheme,
    /// It is too long.
    #[error("it is longer than {SPIFFE_ID_BYTES} bytes")]
    TooLong,
    /// The trust domain cannot be one.
    #[error(
        "its trust domain must have 1 to {TRUST_DOMAIN_BYTES} lower-case letters, digits, `.`, `-` and `_`"
    )]
    TrustDomain,
    /// There is no path, so that it names a trust domain and no workload.
    #[error("it must have a path, such as /ns/agents/sa/triage")]
    NoPath,
    /// The path cannot be one.
    #[error("its path must have segments of letters, digits, `.`, `-` and `_`; none is empty, `.` or `..`")]
    Path,
}

impl SpiffeId {
    /// Reads an ID.
    ///
    /// # Errors
    /// Where it is no ID of a workload.
    pub fn parse(text: &str) -> Result<Self, SpiffeIdError> {
        if text.len() > SPIFFE_ID_BYTES {
            return Err(SpiffeIdError::TooLong);
        }
        let rest = text.strip_prefix(SCHEME).ok_or(SpiffeIdError::Scheme)?;
        let (domain, path) = match rest.find('/') {
            Some(place) => rest.split_at(place),
            None => (rest, ""),
        };
        if !is_trust_domain(domain) {
            return Err(SpiffeIdError::TrustDomain);
        }
        let Some(segments) = path.strip_prefix('/') else {
            return Err(SpiffeIdError::NoPath);
        };
        let letter = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
        let fits = |segment: &str| !matches!(segment, "" | "." | "..") && segment.bytes().all(letter);
        if !segments.split('/').all(fits) {
            return Err(SpiffeIdError::Path);
        }
        Ok(Self {
            text: text.to_owned(),
            path: SCHEME.len() + domain.len(),
        })
    }

    /// The whole ID.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The trust domain.
    #[must_use]
    pub fn trust_domain(&self) -> &str {
        &self.text[SCHEME.len()..self.path]
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.text)
    }
}

/// Whether a trust domain can be called so.
#[must_use]
pub fn is_trust_domain(name: &str) -> bool {
    let letter =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'.' | b'-' | b'_');
    (1..=TRUST_DOMAIN_BYTES).contains(&name.len()) && name.bytes().all(letter)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_has_one_spelling_only() {
        for (text, read) in [
            ("spiffe://example.org/ci/deploy", Ok("example.org")),
            ("spiffe://a_b-1/X", Ok("a_b-1")),
            ("SPIFFE://example.org/x", Err(SpiffeIdError::Scheme)),
            ("https://example.org/x", Err(SpiffeIdError::Scheme)),
            ("spiffe://example.org", Err(SpiffeIdError::NoPath)),
            ("spiffe://example.org/", Err(SpiffeIdError::Path)),
            ("spiffe://example.org/x/", Err(SpiffeIdError::Path)),
            ("spiffe://example.org//x", Err(SpiffeIdError::Path)),
            ("spiffe://example.org/x/../y", Err(SpiffeIdError::Path)),
            ("spiffe://example.org/./y", Err(SpiffeIdError::Path)),
            ("spiffe://example.org/x%2fy", Err(SpiffeIdError::Path)),
            ("spiffe://example.org/x?y", Err(SpiffeIdError::Path)),
            ("spiffe://example.org/x#y", Err(SpiffeIdError::Path)),
            ("spiffe://Example.org/x", Err(SpiffeIdError::TrustDomain)),
            ("spiffe://example.org:443/x", Err(SpiffeIdError::TrustDomain)),
            ("spiffe://user@example.org/x", Err(SpiffeIdError::TrustDomain)),
            ("spiffe:///x", Err(SpiffeIdError::TrustDomain)),
            ("spiffe://example.org/x\0", Err(SpiffeIdError::Path)),
        ] {
            let id = SpiffeId::parse(text);
            assert_eq!(
                id.as_ref().map(SpiffeId::trust_domain),
                read.as_ref().copied(),
                "{text}"
            );
        }
        let long = format!("spiffe://example.org/{}", "x".repeat(SPIFFE_ID_BYTES));
        assert_eq!(SpiffeId::parse(&long), Err(SpiffeIdError::TooLong));
    }
}
