//! JWT issuers as the API server's own `AuthenticationConfiguration` writes them, and what a verified token of one says.
//!
//! In: the text of such a file; later the claims of a token whose signature was verified, and the time. Out: an
//! [`AuthenticationConfiguration`], or everything that is wrong in the text; later a [`VerifiedToken`] or a [`TokenError`].
//!
//! Sources: k8s.io/apiserver pkg/apis/apiserver/validation/validation.go and plugin/pkg/authenticator/token/oidc/oidc.go.

mod error;
mod issuer;
mod judge;
mod read;
#[cfg(test)]
mod tests;
mod verified;

use std::sync::Arc;

pub use error::TokenError;
pub use issuer::{ClaimRule, Extra, JwtIssuer, Mapping, UserRule};
pub use verified::{TokenUser, VerifiedToken};

use crate::yaml::Diagnostic;

/// How far the clocks of an issuer and of this node may differ, in seconds.
pub const CLOCK_SKEW_SECONDS: i64 = 60;

/// The most issuers of a file; the API server's own limit.
pub const MAX_ISSUERS: usize = 64;

/// The issuers of a file.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AuthenticationConfiguration {
    /// In the order of the file, each with a URL of its own.
    pub issuers: Vec<Arc<JwtIssuer>>,
}

impl AuthenticationConfiguration {
    /// Reads a file's text; `file` is the name that errors carry.
    ///
    /// # Errors
    /// All that is wrong, in the order of the file.
    pub fn read(file: &str, text: &str) -> Result<Self, Vec<Diagnostic>> {
        read::configuration(file, text)
    }

    /// The issuer of this URL.
    #[must_use]
    pub fn issuer(&self, url: &str) -> Option<&Arc<JwtIssuer>> {
        self.issuers.iter().find(|issuer| issuer.url == url)
    }
}
