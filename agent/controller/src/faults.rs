//! What is wrong with a kubeconfig, a client or a request to the API server, in words that quote no credential. Picket's agent says its
//! errors with them too.
//!
//! In: kube's errors, some of which quote the file, a proxy's URL or the output of a plugin. Out: faults that name the kind and
//! the place alone, since a credential may stand wherever a file is wrong.

use std::error::Error;
use std::io;

use kube::client::AuthError;
use kube::config::{KubeconfigError, LoadDataError};

/// What is wrong with a kubeconfig. No variant holds text of the file.
#[derive(Debug, thiserror::Error)]
pub enum KubeconfigFault {
    /// The file cannot be read.
    #[error("{}", unread(*.0))]
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
    #[error("names a file that cannot be read: {}", unread(*.0))]
    Read(io::ErrorKind),
    /// There is neither.
    #[error("is missing")]
    Missing,
}

/// Why a file cannot be read, in the system's words.
fn unread(kind: io::ErrorKind) -> String {
    match kind {
        io::ErrorKind::NotFound => "no such file".to_owned(),
        other => other.to_string(),
    }
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

/// The text of an error with its causes, or of the kind alone where a cause may quote a credential.
#[must_use]
pub fn printable(error: &(dyn Error + 'static)) -> String {
    let mut next = Some(error);
    while let Some(cause) = next {
        if let Some(text) = instead(cause) {
            return text;
        }
        next = cause.source();
    }
    with_causes(error)
}

/// The error with its causes: `client error (Connect)` alone helps nobody. Most of the agent's own messages tell their cause, so
/// each cause is named once.
#[must_use]
pub fn with_causes(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        next = cause.source();
    }
    text
}

/// What to say in place of an error whose own text may quote a credential, or tells the same several times.
fn instead(error: &(dyn Error + 'static)) -> Option<String> {
    const CREDENTIAL: &str = "the credential, its plugin or its token file cannot be used";
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
        // Its own text has the whole status twice.
        kube::Error::Api(status) if !status.message.is_empty() => Some(status.message.clone()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use kube::client::RustlsTlsError;
    use kube::core::Status;
    use kube::runtime::watcher;

    use super::*;

    const SECRET: &str = "hunter2hunter2";

    /// What a watch makes of it, whose own text has the cause's.
    fn wrapped(error: kube::Error) -> watcher::Error {
        watcher::Error::InitialListFailed(error)
    }

    #[test]
    fn no_text_of_an_error_has_a_secret_of_its_cause() {
        let proxy = || Box::new(format!("http://me:{SECRET}@127.0.0.1:1").parse().unwrap());
        let run = || AuthError::AuthExecRun {
            cmd: format!("sh -c 'echo {SECRET}'"),
            out: Box::new(std::process::Output {
                status: std::process::ExitStatus::default(),
                stdout: SECRET.into(),
                stderr: SECRET.into(),
            }),
        };
        let load = || {
            let read = LoadDataError::ReadFile(io::ErrorKind::NotFound.into(), SECRET.into());
            KubeconfigError::LoadClientKey(read)
        };
        let odd_key = RustlsTlsError::AddRootCertificate(SECRET.into());
        let cases = [
            (kube::Error::Auth(run()), "the credential, its plugin"),
            (
                kube::Error::ProxyProtocolUnsupported { proxy_url: proxy() },
                "Picket does not use proxies",
            ),
            (
                kube::Error::ProxyProtocolDisabled {
                    proxy_url: proxy(),
                    protocol_feature: "socks5",
                },
                "Picket does not use proxies",
            ),
            (
                kube::Error::InferKubeconfig(load()),
                "client-key names a file that cannot be read: no such file",
            ),
            (
                kube::Error::Service(Box::new(run())),
                "the credential, its plugin",
            ),
            (kube::Error::Service(Box::new(load())), "client-key names a file"),
            (
                kube::Error::RustlsTls(odd_key),
                "the CA bundle, the client certificate or its key cannot be used",
            ),
        ];
        for (error, said) in cases {
            let debug = format!("{error:?}");
            let own = printable(&error);
            assert!(own.starts_with(said) && !own.contains(SECRET), "{debug}: {own}");
            assert_eq!(printable(&wrapped(error)), own, "{debug}, below another error");
        }
        assert!(!printable(&run()).contains(SECRET));
        assert!(!printable(&load()).contains(SECRET));
    }

    #[test]
    fn what_the_api_server_says_is_said_once() {
        let refused = |message: &str| {
            let status = Status::failure(message, "Forbidden").with_code(403);
            kube::Error::Api(Box::new(status))
        };
        assert_eq!(printable(&refused("no, and here is why")), "no, and here is why");
        assert_eq!(
            printable(&wrapped(refused("no, and here is why"))),
            "no, and here is why"
        );
        assert!(printable(&refused("")).contains("403"), "there is no message");
        let error = kube::Error::Service(Box::new(io::Error::from(io::ErrorKind::ConnectionRefused)));
        assert_eq!(printable(&error), "ServiceError: connection refused");
    }
}
