//! What is wrong with a kubeconfig or a client, in words that quote nothing of the files.
//!
//! In: kube's errors, some of which quote the file, a proxy's URL or the output of a plugin. Out: faults that name the kind and
//! the place alone, since a credential may stand wherever a file is wrong.

use std::error::Error;
use std::io;

use kube::client::AuthError;
use kube::config::{KubeconfigError, LoadDataError};

use crate::runtime::causes::with_causes;

/// What is wrong with a kubeconfig. No variant holds text of the file.
#[derive(Debug, thiserror::Error)]
pub enum KubeconfigFault {
    /// The file cannot be read.
    #[error("{0}")]
    Read(io::ErrorKind),
    /// It is a pipe, a socket, a device or a folder.
    #[error("it is not a regular file")]
    NotAFile,
    /// A file that it names is one of these.
    #[error("{0} names what is not a regular file")]
    NamesNoFile(&'static str),
    /// It is no kubeconfig.
    #[error("it is not a kubeconfig in YAML: line {line} column {column}")]
    Yaml {
        /// The line, from 1.
        line: u64,
        /// The column, from 1.
        column: u64,
    },
    /// A field is missing or of no use.
    #[error("{0}")]
    Field(&'static str),
    /// A field with base64 or with the name of a file.
    #[error("{field} {fault}")]
    Data {
        /// The field.
        field: &'static str,
        /// What is wrong with it.
        fault: DataFault,
    },
}

/// What is wrong with a field that has base64 in it, or names a file.
#[derive(Debug, thiserror::Error)]
pub enum DataFault {
    /// The text is no base64.
    #[error("is not base64")]
    Base64,
    /// The file cannot be read. Its name is left out, because a credential may stand there by mistake.
    #[error("names a file that cannot be read: {0}")]
    Read(io::ErrorKind),
    /// There is neither.
    #[error("is missing")]
    Missing,
}

impl From<&KubeconfigError> for KubeconfigFault {
    fn from(error: &KubeconfigError) -> Self {
        let data = |field, error: &LoadDataError| Self::Data {
            field,
            fault: match error {
                LoadDataError::DecodeBase64(_) => DataFault::Base64,
                LoadDataError::ReadFile(source, _) => DataFault::Read(source.kind()),
                LoadDataError::NoBase64DataOrFile => DataFault::Missing,
            },
        };
        match error {
            KubeconfigError::ReadConfig(source, _) => Self::Read(source.kind()),
            KubeconfigError::Parse(error) => {
                let place = error.location();
                Self::Yaml {
                    line: place.map_or(1, |place| place.line()),
                    column: place.map_or(1, |place| place.column()),
                }
            }
            KubeconfigError::CurrentContextNotSet => Self::Field("current-context is missing"),
            KubeconfigError::LoadContext(_) => Self::Field("current-context names no context of the file"),
            KubeconfigError::LoadClusterOfContext(_) => {
                Self::Field("the context names no cluster of the file")
            }
            KubeconfigError::MissingClusterUrl => Self::Field("the cluster has no server"),
            KubeconfigError::ParseClusterUrl(_) => Self::Field("server is not a URL"),
            KubeconfigError::ParseProxyUrl(_) => Self::Field("proxy-url is not a URL"),
            KubeconfigError::LoadCertificateAuthority(error) => data("certificate-authority", error),
            KubeconfigError::LoadClientCertificate(error) => data("client-certificate", error),
            KubeconfigError::LoadClientKey(error) => data("client-key", error),
            KubeconfigError::ParseCertificates(_) => Self::Field("certificate-authority is not PEM"),
            // What a later release of kube adds is not printed either, before somebody has read what it quotes.
            _ => Self::Field("it makes no sense as a kubeconfig"),
        }
    }
}

/// Why a client cannot be made, or cannot ask. The text quotes no credential, proxy or plugin.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub struct ClientFault(String);

impl ClientFault {
    /// Nobody finished it: the runtime ends, or kube panicked.
    pub(super) fn interrupted() -> Self {
        Self("making it was interrupted".to_owned())
    }
}

impl From<&kube::Error> for ClientFault {
    fn from(error: &kube::Error) -> Self {
        Self(printable(error))
    }
}

/// The text of an error with its causes, or of the kind alone where a cause may quote a credential.
#[must_use]
pub fn printable(error: &(dyn Error + 'static)) -> String {
    let mut next = Some(error);
    while let Some(cause) = next {
        if let Some(text) = quoting(cause) {
            return text;
        }
        next = cause.source();
    }
    with_causes(error)
}

/// What to say in place of an error whose own text may quote a credential.
fn quoting(error: &(dyn Error + 'static)) -> Option<String> {
    const CREDENTIAL: &str = "the user's credential, plugin or token file cannot be used";
    if error.is::<AuthError>() {
        return Some(CREDENTIAL.to_owned());
    }
    if let Some(error) = error.downcast_ref::<KubeconfigError>() {
        return Some(KubeconfigFault::from(error).to_string());
    }
    match error.downcast_ref::<kube::Error>()? {
        kube::Error::Auth(_) => Some(CREDENTIAL.to_owned()),
        kube::Error::ProxyProtocolUnsupported { .. } | kube::Error::ProxyProtocolDisabled { .. } => Some(
            "Picket does not use proxies: remove proxy-url, or HTTPS_PROXY from the environment".to_owned(),
        ),
        kube::Error::RustlsTls(_) => {
            Some("the CA bundle, the client certificate or its key cannot be used".to_owned())
        }
        _ => None,
    }
}
