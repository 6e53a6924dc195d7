//! How the node shows itself to the API server: a client certificate or a token file, and the CA it trusts there.
//!
//! In: file paths. Out: rustls client configurations and, for tokens, the header. Files are looked at before each new
//! connection and at an interval; what cannot be used is reported, and the last good set stays. Without a last good set nothing is
//! sent: there is no CA that a server could be trusted by.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::{ArcSwap, ArcSwapOption};
use http::HeaderValue;
use parking_lot::Mutex;
use picket_controller::x509::validity;
use rustls::client::{Resumption, WantsClientCert};
use rustls::{ClientConfig, ConfigBuilder, RootCertStore};

use crate::pki::pem;
use crate::pki::{Authorities, PemError};

/// The node's credential.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NodeCredential {
    /// Mutual TLS: PEM certificate chain and key (they may be one file, as kubelet's are).
    ClientCertificate {
        /// The chain, leaf first.
        certificate: PathBuf,
        /// Its private key.
        key: PathBuf,
    },
    /// A file that holds a bearer token alone, as a projected service-account token does.
    TokenFile(PathBuf),
}

/// Why the credential cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CredentialError {
    /// A file is missing or unfit.
    #[error(transparent)]
    Pem(#[from] PemError),
    /// rustls refused a certificate, a key, or the two together.
    #[error("{}: {source}", file.display())]
    Rustls {
        /// The file it came from.
        file: PathBuf,
        /// What rustls said.
        source: rustls::Error,
    },
}

/// How the node showed itself on one connection, for the audit record; never the secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsedCredential {
    /// `token` or `client-certificate` for the node's own, or `service-account-token`.
    pub method: &'static str,
    /// The client certificate or the token as the API server's own audit names it
    /// (`authentication.kubernetes.io/credential-id`).
    pub id: Option<Arc<str>>,
}

/// What a connection to the API server shows of its client.
///
/// The API server looks at a client certificate before it looks at a token (k8s.io/kubernetes pkg/kubeapiserver/authenticator),
/// so that a token on a connection with the node's certificate would act as the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ConnectionIdentity {
    /// The node's client certificate, where it has one.
    Node,
    /// Nothing.
    Bare,
}

/// Both ways to begin a session.
#[derive(Clone)]
struct TlsConfigs {
    /// For shared connections: HTTP/2, or HTTP/1.1 where the server has no other.
    shared: Arc<ClientConfig>,
    /// For upgrades, which HTTP/2 does not carry here.
    http1: Arc<ClientConfig>,
}

impl TlsConfigs {
    fn new(mut config: ClientConfig) -> TlsConfigs {
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let http1 = Arc::new(config.clone());
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        TlsConfigs {
            shared: Arc::new(config),
            http1,
        }
    }
}

/// One consistent reading of all files.
pub(super) struct Loaded {
    /// Counts changes of what a connection is made with; connections of an older one take no new requests.
    pub(super) generation: u64,
    /// For connections that show the node's credential.
    node: TlsConfigs,
    /// For connections that show nothing: each of their requests has a token of its own.
    bare: TlsConfigs,
    /// `Authorization` for each request of the node's.
    pub(super) authorization: Option<HeaderValue>,
    /// When the client certificate expires.
    pub(super) not_after: Option<SystemTime>,
    /// When the CAs that the API server's certificate is checked against have all expired.
    pub(super) ca_not_after: Option<SystemTime>,
    /// What the record says of it.
    used: UsedCredential,
    /// Whether files were read. Before the first that can be used there is no credential, and no CA: no session comes about.
    is_usable: bool,
}

impl Loaded {
    /// Before the first files that can be used.
    fn none() -> Result<Loaded, rustls::Error> {
        let tls = TlsConfigs::new(trusting(RootCertStore::empty())?.with_no_client_auth());
        Ok(Loaded {
            generation: 0,
            node: tls.clone(),
            bare: tls,
            authorization: None,
            not_after: None,
            ca_not_after: None,
            used: UsedCredential {
                method: "none",
                id: None,
            },
            is_usable: false,
        })
    }

    /// How a connection that shows this begins.
    pub(super) fn tls(&self, identity: ConnectionIdentity, upgradable: bool) -> &Arc<ClientConfig> {
        let configs = match identity {
            ConnectionIdentity::Node => &self.node,
            ConnectionIdentity::Bare => &self.bare,
        };
        if upgradable {
            &configs.http1
        } else {
            &configs.shared
        }
    }

    /// What the record says of such a connection. The requests of a bare one have each their own.
    pub(super) fn used(&self, identity: ConnectionIdentity) -> UsedCredential {
        match identity {
            ConnectionIdentity::Node => self.used.clone(),
            ConnectionIdentity::Bare => UsedCredential {
                method: "none",
                id: None,
            },
        }
    }
}

/// The bytes of the files, to tell changes.
#[derive(Default, PartialEq, Eq)]
struct Source {
    ca: Vec<u8>,
    certificate: Vec<u8>,
    key: Vec<u8>,
    token: Vec<u8>,
}

/// The credential, kept current.
pub(super) struct Credentials {
    ca: PathBuf,
    credential: NodeCredential,
    source: Mutex<Source>,
    current: ArcSwap<Loaded>,
    error: ArcSwapOption<String>,
}

impl Credentials {
    /// Reads the files. Where they cannot be used nothing can be sent until they can: see [`Credentials::fault`].
    ///
    /// # Errors
    /// Where TLS cannot be set up at all.
    pub(super) fn open(ca: PathBuf, credential: NodeCredential) -> Result<Credentials, CredentialError> {
        let none = Loaded::none().map_err(|source| CredentialError::Rustls {
            file: ca.clone(),
            source,
        })?;
        let credentials = Credentials {
            ca,
            credential,
            source: Mutex::default(),
            current: ArcSwap::from_pointee(none),
            error: ArcSwapOption::empty(),
        };
        credentials.refresh();
        Ok(credentials)
    }

    /// Why nothing can be sent: what is wrong with the files, where they were never good.
    pub(super) fn fault(&self) -> Option<String> {
        match self.current.load().is_usable {
            true => None,
            false => Some(self.error().unwrap_or_default()),
        }
    }

    pub(super) fn current(&self) -> arc_swap::Guard<Arc<Loaded>> {
        self.current.load()
    }

    /// Why the files as they are now cannot be used.
    pub(super) fn error(&self) -> Option<String> {
        self.error.load().as_deref().cloned()
    }

    /// Re-reads the files; keeps the last good set when they are unfit, and says so once.
    pub(super) fn refresh(&self) {
        match self.reload() {
            Ok(()) => {
                if self.error.swap(None).is_some() {
                    tracing::info!("the API server credential is usable again");
                }
            }
            Err(error) => {
                let error = error.to_string();
                if self.error.load().as_deref() != Some(&error) {
                    let effect = match self.current.load().is_usable {
                        true => "the last good one stays in use",
                        false => "every request is refused until it can be used",
                    };
                    tracing::error!(%error, effect, "cannot use the API server credential as it is now");
                    self.error.store(Some(Arc::new(error)));
                }
            }
        }
    }

    fn reload(&self) -> Result<(), CredentialError> {
        // Read under the lock: of two readings at once, the older one must not be the last that is taken.
        let mut source = self.source.lock();
        let fresh = read(&self.ca, &self.credential)?;
        if *source == fresh {
            return Ok(());
        }
        let current = self.current.load_full();
        let same_tls = current.is_usable
            && source.ca == fresh.ca
            && source.certificate == fresh.certificate
            && source.key == fresh.key;
        let loaded = load(&self.ca, &self.credential, &fresh, (&current, same_tls))?;
        tracing::info!(
            generation = loaded.generation,
            "read a changed API server credential"
        );
        self.current.store(Arc::new(loaded));
        *source = fresh;
        Ok(())
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("ca", &self.ca)
            .field("credential", &self.credential)
            .finish_non_exhaustive()
    }
}

fn read(ca: &std::path::Path, credential: &NodeCredential) -> Result<Source, CredentialError> {
    let mut source = Source {
        ca: pem::read(ca)?,
        certificate: Vec::new(),
        key: Vec::new(),
        token: Vec::new(),
    };
    match credential {
        NodeCredential::ClientCertificate { certificate, key } => {
            source.certificate = pem::read(certificate)?;
            source.key = pem::read(key)?;
        }
        NodeCredential::TokenFile(file) => source.token = pem::read(file)?,
    }
    Ok(source)
}

fn load(
    ca: &PathBuf,
    credential: &NodeCredential,
    source: &Source,
    (previous, same_tls): (&Loaded, bool),
) -> Result<Loaded, CredentialError> {
    let authorization = match credential {
        NodeCredential::TokenFile(file) => Some(bearer(file, &source.token)?),
        NodeCredential::ClientCertificate { .. } => None,
    };
    if same_tls {
        return Ok(Loaded {
            generation: previous.generation,
            node: previous.node.clone(),
            bare: previous.bare.clone(),
            authorization,
            not_after: previous.not_after,
            ca_not_after: previous.ca_not_after,
            used: previous.used.clone(),
            is_usable: true,
        });
    }

    let rustls_error = |file: &PathBuf| {
        let file = file.clone();
        move |source| CredentialError::Rustls { file, source }
    };
    let mut roots = RootCertStore::empty();
    let certificates = pem::certificates(ca, &source.ca)?;
    let authorities = Authorities::inspect(ca, &certificates, SystemTime::now());
    for (line, der) in certificates {
        roots
            .add(der)
            .map_err(|error| PemError::content(ca, line, error.to_string()))?;
    }
    let builder = trusting(roots).map_err(rustls_error(ca))?;
    authorities.warn("upstream.caFile");
    let mut bare = builder.clone().with_no_client_auth();
    // A session that was resumed would show what the first one did.
    bare.resumption = Resumption::disabled();
    let (config, not_after, used) = match credential {
        NodeCredential::ClientCertificate { certificate, key } => {
            let chain = pem::certificates(certificate, &source.certificate)?;
            let not_after = x509_parser::parse_x509_certificate(&chain[0].1)
                .ok()
                .map(|(_, leaf)| validity(&leaf).1);
            let id = fingerprint(&chain[0].1);
            let (_, private) = pem::private_key(key, &source.key)?;
            let chain = chain.into_iter().map(|(_, der)| der).collect();
            (
                builder
                    .with_client_auth_cert(chain, private)
                    .map_err(rustls_error(key))?,
                not_after,
                UsedCredential {
                    method: "client-certificate",
                    id: Some(id),
                },
            )
        }
        NodeCredential::TokenFile(_) => {
            let used = UsedCredential {
                method: "token",
                id: None,
            };
            (builder.with_no_client_auth(), None, used)
        }
    };
    Ok(Loaded {
        generation: previous.generation + u64::from(previous.is_usable),
        node: TlsConfigs::new(config),
        bare: TlsConfigs::new(bare),
        authorization,
        not_after,
        ca_not_after: authorities.not_after,
        used,
        is_usable: true,
    })
}

/// A client that takes servers which these roots vouch for.
fn trusting(roots: RootCertStore) -> Result<ConfigBuilder<ClientConfig, WantsClientCert>, rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(builder.with_root_certificates(roots))
}

/// As k8s.io/apiserver pkg/authentication/request/x509 writes it.
fn fingerprint(certificate: &[u8]) -> Arc<str> {
    use std::fmt::Write as _;
    let digest = ring::digest::digest(&ring::digest::SHA256, certificate);
    let mut id = String::from("X509SHA256=");
    for byte in digest.as_ref() {
        let _ = write!(id, "{byte:02x}");
    }
    id.into()
}

fn bearer(file: &std::path::Path, token: &[u8]) -> Result<HeaderValue, PemError> {
    bearer_value(token.trim_ascii()).ok_or_else(|| PemError::content(file, 1, "not a bearer token"))
}

/// A token as `Authorization`, which no debug output shows.
pub(super) fn bearer_value(token: &[u8]) -> Option<HeaderValue> {
    // RFC 6750 section 2.1: a token has neither spaces nor control characters.
    if token.is_empty() || !token.iter().all(u8::is_ascii_graphic) {
        return None;
    }
    let mut value = HeaderValue::from_bytes(&[b"Bearer ", token].concat()).ok()?;
    value.set_sensitive(true);
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rotated_token_is_taken_and_a_broken_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let (ca, token) = (folder.path().join("ca.crt"), folder.path().join("token"));
        std::fs::write(&ca, crate::pki::ca::create("api").unwrap().certificate_pem).unwrap();
        std::fs::write(&token, "first\n").unwrap();
        let credentials = Credentials::open(ca.clone(), NodeCredential::TokenFile(token.clone())).unwrap();
        let shown = |credentials: &Credentials| credentials.current().authorization.clone().unwrap();
        assert_eq!(shown(&credentials), "Bearer first");
        assert!(
            !format!("{:?}", shown(&credentials)).contains("first"),
            "never in Debug"
        );

        std::fs::write(&token, "second").unwrap();
        credentials.refresh();
        assert_eq!(shown(&credentials), "Bearer second");
        assert_eq!(
            credentials.current().generation,
            0,
            "a token replaces no connection"
        );

        std::fs::write(&token, "two words").unwrap();
        credentials.refresh();
        assert_eq!(shown(&credentials), "Bearer second");
        assert!(
            credentials
                .error()
                .unwrap()
                .ends_with("token:1: not a bearer token")
        );

        std::fs::write(&token, "third").unwrap();
        std::fs::write(&ca, crate::pki::ca::create("api").unwrap().certificate_pem).unwrap();
        credentials.refresh();
        assert_eq!((credentials.current().generation, credentials.error()), (1, None));
    }

    #[test]
    fn a_key_of_another_certificate_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let (one, other) = (
            crate::pki::ca::create("one").unwrap(),
            crate::pki::ca::create("other").unwrap(),
        );
        std::fs::write(at("ca.crt"), &one.certificate_pem).unwrap();
        std::fs::write(at("client.crt"), &one.certificate_pem).unwrap();
        std::fs::write(at("client.key"), &other.key_pem).unwrap();
        let credential = NodeCredential::ClientCertificate {
            certificate: at("client.crt"),
            key: at("client.key"),
        };
        let credentials = Credentials::open(at("ca.crt"), credential).unwrap();
        let fault = credentials.fault().unwrap();
        assert!(fault.contains("client.key"), "{fault}");
        assert!(credentials.current().not_after.is_none());
        assert!(credentials.current().ca_not_after.is_none());
        std::fs::write(at("client.key"), &one.key_pem).unwrap();
        credentials.refresh();
        assert_eq!((credentials.fault(), credentials.error()), (None, None));
        assert!(credentials.current().not_after.is_some());
        assert!(credentials.current().ca_not_after.is_some());
        std::fs::write(at("client.key"), &other.key_pem).unwrap();
        credentials.refresh();
        assert!(
            credentials.fault().is_none() && credentials.error().is_some(),
            "the last good one"
        );
    }
}
