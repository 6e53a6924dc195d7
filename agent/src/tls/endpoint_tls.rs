//! TLS of a port that is the agent's own, such as that of the metrics: not the one that pods see, and not the gateway's.
//!
//! In: the node CA or an own certificate, and a file with the CA of clients, if there is one. Out: the rustls configuration for each
//! connection. A client may show a certificate of that CA; any other one ends the handshake. Both files are read again when they
//! change, and what cannot be used changes nothing. Where no CA of clients was ever good, no client certificate is taken.

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, ServerConfig};
use tokio_util::sync::CancellationToken;

use super::own_certificate::OwnCertificate;
use super::publish::{CHECK_INTERVAL, Certificates, LeafError, Single};
use crate::pki::{LeafNames, PkiError, pem};

/// Leaves for dialled addresses that are kept. A node has a few addresses of its own.
const LEAVES: usize = 64;

/// Where the certificate comes from.
enum Source {
    Own(OwnCertificate),
    NodeCa {
        certificates: Arc<Certificates>,
        names: LeafNames,
        /// By the dialled address; with how many leaves the node had published when this one was made, since each change of the CA
        /// publishes one.
        made: Mutex<HashMap<IpAddr, (u64, Arc<CertifiedKey>)>>,
    },
}

/// TLS of a port of the agent's own.
pub struct EndpointTls {
    source: Source,
    client_ca: Option<ClientCa>,
    base: ArcSwap<ServerConfig>,
}

/// The CA of clients' certificates.
struct ClientCa {
    file: PathBuf,
    state: Mutex<ClientCaState>,
}

#[derive(Default)]
struct ClientCaState {
    /// What is in force.
    bytes: Option<Vec<u8>>,
    /// What was last said of a file that cannot be used.
    told: Option<String>,
}

impl fmt::Debug for EndpointTls {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("EndpointTls")
            .field("client_ca", &self.client_ca.as_ref().map(|ca| &ca.file))
            .finish_non_exhaustive()
    }
}

impl EndpointTls {
    /// With a certificate of its own.
    ///
    /// # Errors
    /// Where rustls takes no configuration at all.
    pub fn with_own(own: OwnCertificate, client_ca: Option<PathBuf>) -> Result<Self, PkiError> {
        Self::open(Source::Own(own), client_ca)
    }

    /// With leaves of the node CA, for these names and the address that a client dials.
    ///
    /// # Errors
    /// As [`Self::with_own`], and a name that is none.
    pub fn with_node_ca(
        certificates: Arc<Certificates>,
        names: &[String],
        client_ca: Option<PathBuf>,
    ) -> Result<Self, PkiError> {
        let names = LeafNames::without_service(names)?;
        let made = Mutex::default();
        Self::open(
            Source::NodeCa {
                certificates,
                names,
                made,
            },
            client_ca,
        )
    }

    fn open(source: Source, client_ca: Option<PathBuf>) -> Result<Self, PkiError> {
        let tls = Self {
            source,
            client_ca: client_ca.map(|file| ClientCa {
                file,
                state: Mutex::default(),
            }),
            base: ArcSwap::new(Arc::new(base(None)?)),
        };
        tls.renew(SystemTime::now());
        Ok(tls)
    }

    /// When the own certificate expires, where there is one.
    pub fn own_not_after(&self) -> Option<SystemTime> {
        match &self.source {
            Source::Own(own) => own.not_after(),
            Source::NodeCa { .. } => None,
        }
    }

    /// Looks after the files until cancelled.
    pub async fn run(self: Arc<Self>, cancel: CancellationToken) {
        loop {
            tokio::select! {
                () = cancel.cancelled() => return,
                () = tokio::time::sleep(CHECK_INTERVAL) => {}
            }
            self.renew(SystemTime::now());
        }
    }

    /// One look at the files. Trouble is logged once.
    pub(crate) fn renew(&self, now: SystemTime) {
        if let Source::Own(own) = &self.source {
            own.renew(now);
        }
        let Some(ca) = &self.client_ca else { return };
        let mut state = ca.state.lock();
        let outcome = ca.read(state.bytes.as_deref());
        match outcome {
            Ok(None) => state.told = None,
            Ok(Some((bytes, config))) => {
                let file = ca.file.display();
                tracing::info!(%file, "the CA of clients' certificates was read");
                self.base.store(Arc::new(config));
                *state = ClientCaState {
                    bytes: Some(bytes),
                    told: None,
                };
            }
            Err(error) => {
                let error = error.to_string();
                if state.told.as_ref() != Some(&error) {
                    let last_good = state.bytes.is_some();
                    tracing::error!(%error, last_good_serves = last_good, "the CA of clients' certificates cannot be used");
                }
                state.told = Some(error);
            }
        }
    }

    /// The configuration for a client that dialled this address of the node.
    ///
    /// # Errors
    /// Where there is no certificate to serve.
    pub fn config_for(&self, dialled: IpAddr) -> Result<Arc<ServerConfig>, LeafError> {
        let key = match &self.source {
            Source::Own(own) => own.key().ok_or(LeafError::NoOwn)?,
            Source::NodeCa {
                certificates,
                names,
                made,
            } => leaf(certificates, names, made, dialled.to_canonical())?,
        };
        let mut config = ServerConfig::clone(&self.base.load());
        config.cert_resolver = Arc::new(Single(key));
        Ok(Arc::new(config))
    }
}

/// The leaf for a dialled address, made where the kept one is of before a change.
fn leaf(
    certificates: &Certificates,
    names: &LeafNames,
    made: &Mutex<HashMap<IpAddr, (u64, Arc<CertifiedKey>)>>,
    dialled: IpAddr,
) -> Result<Arc<CertifiedKey>, LeafError> {
    let mut made = made.lock();
    // Asked before the leaf is made: one that a change comes between is made anew the next time.
    let published = certificates.status().published;
    if let Some((_, key)) = made.get(&dialled).filter(|(of, _)| *of == published) {
        return Ok(Arc::clone(key));
    }
    let leaf = certificates.mint_other(names.with_addresses([dialled]))?;
    if made.len() >= LEAVES {
        made.clear();
    }
    made.insert(dialled, (published, Arc::clone(&leaf.key)));
    Ok(leaf.key)
}

impl ClientCa {
    /// A configuration by the file as it is now, where it is another one than these bytes.
    fn read(&self, known: Option<&[u8]>) -> Result<Option<(Vec<u8>, ServerConfig)>, PkiError> {
        let bytes = pem::read(&self.file)?;
        if known == Some(&bytes) {
            return Ok(None);
        }
        let mut roots = RootCertStore::empty();
        for (line, der) in pem::certificates(&self.file, &bytes)? {
            roots
                .add(der.into_owned())
                .map_err(|error| pem::PemError::content(&self.file, line, error.to_string()))?;
        }
        Ok(Some((bytes, base(Some(roots))?)))
    }
}

/// A configuration without a certificate yet. HTTP/1.1 alone: a scraper needs no more.
fn base(clients: Option<RootCertStore>) -> Result<ServerConfig, PkiError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(PkiError::Rustls)?;
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(roots) => {
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                .allow_unauthenticated()
                .build()
                .map_err(|error| PkiError::Rustls(rustls::Error::General(error.to_string())))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut config = builder.with_cert_resolver(Arc::new(NoCertificate));
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    // A resumed session would show a client certificate without a proof of its key.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

/// In place of the certificate, until a connection has one.
#[derive(Debug)]
struct NoCertificate;

impl rustls::server::ResolvesServerCert for NoCertificate {
    fn resolve(&self, _: rustls::server::ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pki::CaFiles;

    fn node_ca(folder: &std::path::Path, name: &str) -> CaFiles {
        let files = CaFiles {
            certificate: folder.join("ca.crt"),
            key: folder.join("ca.key"),
        };
        let made = crate::pki::ca::create(name).unwrap();
        std::fs::write(&files.certificate, made.certificate_pem).unwrap();
        std::fs::write(&files.key, made.key_pem).unwrap();
        files
    }

    #[test]
    fn a_leaf_has_its_own_names_alone_and_follows_the_ca() {
        let folder = tempfile::tempdir().unwrap();
        let files = node_ca(folder.path(), "one");
        let certificates = Certificates::open(files, &[], Arc::default()).unwrap();
        let names = ["picket-metrics.picket-system.svc".to_owned()];
        let tls = EndpointTls::with_node_ca(Arc::clone(&certificates), &names, None).unwrap();
        let dialled = "::ffff:192.0.2.1".parse().unwrap();
        let served = |tls: &EndpointTls| {
            let config = tls.config_for(dialled).unwrap();
            format!("{:?}", config.cert_resolver)
        };
        let first = served(&tls);
        assert_eq!(first, served(&tls), "made once");
        let Source::NodeCa { made, .. } = &tls.source else {
            panic!("of the node CA")
        };
        let (_, key) = made.lock().values().next().cloned().unwrap();
        let (_, leaf) = x509_parser::parse_x509_certificate(&key.cert[0]).unwrap();
        let names = leaf.subject_alternative_name().unwrap().unwrap().value;
        let text = format!("{:?}", names.general_names);
        assert!(text.contains("picket-metrics.picket-system.svc"), "{text}");
        assert!(
            text.contains("[192, 0, 2, 1]") && !text.contains("kubernetes"),
            "{text}"
        );
        node_ca(folder.path(), "two");
        certificates.renew_due(SystemTime::now());
        assert_ne!(first, served(&tls), "a new CA signs");
    }

    #[test]
    fn the_ca_of_clients_is_read_again_and_a_broken_one_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let files = node_ca(folder.path(), "node");
        let certificates = Certificates::open(files, &[], Arc::default()).unwrap();
        let clients = folder.path().join("clients.crt");
        let tls = EndpointTls::with_node_ca(certificates, &[], Some(clients.clone())).unwrap();
        let in_force = || {
            let ca = tls.client_ca.as_ref().unwrap().state.lock();
            (ca.bytes.clone(), ca.told.clone())
        };
        let (none, told) = in_force();
        assert!(none.is_none() && told.is_some_and(|told| told.contains("clients.crt")));
        let (without, good) = (tls.base.load_full(), crate::pki::ca::create("clients").unwrap());
        std::fs::write(&clients, &good.certificate_pem).unwrap();
        tls.renew(SystemTime::now());
        let with = tls.base.load_full();
        assert!(!Arc::ptr_eq(&without, &with));
        std::fs::write(&clients, "nothing").unwrap();
        tls.renew(SystemTime::now());
        let (bytes, told) = in_force();
        assert_eq!(
            bytes.as_deref(),
            Some(good.certificate_pem.as_bytes()),
            "the last good one"
        );
        assert!(told.is_some() && Arc::ptr_eq(&tls.base.load_full(), &with));
    }
}
