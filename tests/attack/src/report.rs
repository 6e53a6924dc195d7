//! What came of one dial.

use std::io;

use serde::Serialize;

/// What came of one dial.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Report {
    /// In one word.
    pub(crate) outcome: Outcome,
    /// The call that failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) step: Option<&'static str>,
    /// The number it failed with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) errno: Option<i32>,
    /// That number's meaning.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<String>,
    /// Whom the socket says it is connected to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) peer: Option<String>,
    /// Who issued the certificate that was shown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) issuer: Option<String>,
    /// Whose it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) subject: Option<String>,
    /// The answer's first line: of what came instead of TLS, or to `GET /version` by TLS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) first: Option<String>,
}

/// What came of a dial, in one word.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Outcome {
    /// Somebody answered.
    Answered,
    /// What was sent went out as far as the kernel says, and nothing came back.
    #[default]
    Sent,
    /// The socket exists, and that is all that was tried.
    Made,
    /// The kernel has no such socket.
    Unsupported,
    /// A call failed.
    Refused,
    /// The connection was made, and ended without a byte.
    Closed,
    /// Nothing came of it in time.
    Timeout,
}

/// The call that failed, and how.
#[derive(Debug)]
pub(crate) struct Failed {
    step: &'static str,
    error: io::Error,
}

impl Failed {
    /// For `map_err`: the failure of this call.
    pub(crate) fn at(step: &'static str) -> impl Fn(io::Error) -> Self {
        move |error| Self { step, error }
    }

    pub(crate) fn into_error(self) -> anyhow::Error {
        anyhow::Error::new(self.error).context(self.step)
    }
}

impl Report {
    pub(crate) fn failed(failed: Failed) -> Self {
        let errno = failed.error.raw_os_error();
        let outcome = match errno {
            Some(libc::EAFNOSUPPORT | libc::EPROTONOSUPPORT | libc::ESOCKTNOSUPPORT) => Outcome::Unsupported,
            // A blocking connect with a limit ends with EINPROGRESS, or EAGAIN in a read.
            Some(libc::EINPROGRESS | libc::EAGAIN | libc::ETIMEDOUT) => Outcome::Timeout,
            _ if failed.error.kind() == io::ErrorKind::UnexpectedEof => Outcome::Closed,
            _ => Outcome::Refused,
        };
        Self {
            outcome,
            step: Some(failed.step),
            errno,
            error: Some(failed.error.to_string()),
            ..Self::default()
        }
    }
}
