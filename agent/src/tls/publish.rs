//! Keeps the leaf that is served right: renewed in time, for the protected endpoints of now, signed by the CA of now.
//!
//! In: CA files, names, the protected endpoints' addresses as they change. Out: a rustls configuration whose certificate follows.
//! Handshakes read the current leaf without a lock.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::{ArcSwap, ArcSwapOption};
use parking_lot::{Mutex, MutexGuard};
use rustls::ServerConfig;
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio_util::sync::CancellationToken;

use crate::pki::PkiError;
use crate::pki::ca::{CaFiles, CaSource, NodeCa};
use crate::pki::{LEAF_LIFETIME, Leaf, LeafNames, mint};

/// How often the CA's files are looked at. They are two small files; reading them sees every way in which they are
/// replaced (the symbolic links of a Secret volume, a rename, a write in place), which file events do not.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);

/// Addresses in the leaf that all share. Where there are more protected endpoints (a node port on every node of a large cluster), a dial of
/// another one gets a leaf of its own: with all of them, a handshake would be larger than clients take.
const SHARED_ADDRESSES: usize = 256;

/// Leaves for single addresses that are kept; each takes some 2 KB here and a tenth of a millisecond to make.
const SINGLE_LEAVES: usize = 1024;

/// How the last look at the files went.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CertificateReload {
    /// How many leaves have been published since the start.
    pub published: u64,
    /// Why the files as they are now cannot be used; the last good ones still serve.
    pub error: Option<String>,
}

/// The node's server certificates.
#[derive(Debug)]
pub struct Certificates {
    files: CaFiles,
    base: LeafNames,
    source: Mutex<Source>,
    current: ArcSwap<Leaf>,
    /// Leaves for addresses that are not in the current one; emptied when that one is replaced.
    single: Mutex<HashMap<IpAddr, Arc<ServerConfig>>>,
    status: ArcSwapOption<CertificateReload>,
}

struct Source {
    bytes: CaSource,
    ca: NodeCa,
    endpoints: BTreeSet<IpAddr>,
}

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Source")
            .field("ca", &self.ca)
            .field("endpoints", &self.endpoints)
            .finish_non_exhaustive()
    }
}

impl Certificates {
    /// Reads the CA and mints the first leaf for the service's names and `extra` ones.
    ///
    /// # Errors
    /// Whatever is wrong with the files, with file and line: nothing is served without a good CA.
    pub fn open(files: CaFiles, extra: &[String]) -> Result<Arc<Certificates>, PkiError> {
        let now = SystemTime::now();
        let base = LeafNames::new(extra)?;
        let bytes = CaSource::read(&files)?;
        let ca = NodeCa::parse(&files, &bytes, now)?;
        let first = mint(&ca, base.clone(), now)?;
        Ok(Arc::new(Certificates {
            files,
            base,
            source: Mutex::new(Source {
                bytes,
                ca,
                endpoints: BTreeSet::new(),
            }),
            current: ArcSwap::from_pointee(first),
            single: Mutex::default(),
            status: ArcSwapOption::from_pointee(CertificateReload {
                published: 1,
                error: None,
            }),
        }))
    }

    /// Serves the protected endpoints' addresses from now on; the same set again costs nothing.
    pub fn set_endpoints(&self, endpoints: BTreeSet<IpAddr>) -> Result<(), PkiError> {
        let mut source = self.source.lock();
        source.endpoints = endpoints.into_iter().take(SHARED_ADDRESSES).collect();
        self.publish(&source, SystemTime::now())
    }

    /// When the leaf that is served now expires.
    pub fn not_after(&self) -> SystemTime {
        self.current.load().not_after
    }

    /// When the node CA itself expires.
    pub fn ca_not_after(&self) -> SystemTime {
        self.source.lock().ca.not_after
    }

    /// How the last look at the files went.
    pub fn status(&self) -> CertificateReload {
        self.status.load().as_deref().cloned().unwrap_or_default()
    }

    /// Looks after the leaf until cancelled.
    pub async fn run(self: Arc<Self>, cancel: CancellationToken) {
        loop {
            tokio::select! {
                () = cancel.cancelled() => return,
                () = tokio::time::sleep(LOOK_INTERVAL) => {}
            }
            self.look(SystemTime::now());
        }
    }

    /// One look: re-reads changed files and renews what is due. Trouble is logged once and kept in [`Self::status`].
    pub fn look(&self, now: SystemTime) {
        let outcome = self.refresh(now);
        let mut status = self.status();
        match outcome {
            Ok(()) if status.error.is_some() => {
                tracing::info!(file = %self.files.certificate.display(), "node CA is usable again");
                status.error = None;
            }
            Ok(()) => return,
            Err(error) => {
                let error = error.to_string();
                if status.error.as_deref() == Some(&error) {
                    return;
                }
                tracing::error!(%error, "cannot use the node CA as it is now; the last good one still serves");
                status.error = Some(error);
            }
        }
        self.status.store(Some(Arc::new(status)));
    }

    fn refresh(&self, now: SystemTime) -> Result<(), PkiError> {
        let bytes = CaSource::read(&self.files);
        let mut source = self.source.lock();
        let changed = match bytes {
            Ok(bytes) if bytes != source.bytes => NodeCa::parse(&self.files, &bytes, now).map(|ca| {
                source.bytes = bytes;
                source.ca = ca;
                true
            }),
            Ok(_) => Ok(false),
            Err(error) => Err(error.into()),
        };
        let renewal = match changed {
            Ok(true) => self.replace(&source, now),
            _ => self.publish(&source, now),
        };
        changed.and(renewal)
    }

    /// Publishes a new leaf when names or time ask for it.
    fn publish(&self, source: &Source, now: SystemTime) -> Result<(), PkiError> {
        let names = self.base.with_addresses(source.endpoints.iter().copied());
        let current = self.current.load();
        // A clock that was set back far would otherwise keep a leaf that is not valid yet.
        let early = current
            .not_after
            .duration_since(now)
            .is_ok_and(|left| left > 2 * LEAF_LIFETIME);
        if current.names == names && now < current.renew_at && !early {
            return Ok(());
        }
        self.replace(source, now)
    }

    fn replace(&self, source: &Source, now: SystemTime) -> Result<(), PkiError> {
        let names = self.base.with_addresses(source.endpoints.iter().copied());
        let leaf = mint(&source.ca, names, now)?;
        tracing::info!(names = %leaf.names, "published a server certificate");
        self.current.store(Arc::new(leaf));
        self.lock_single().clear();
        let mut status = self.status();
        status.published += 1;
        self.status.store(Some(Arc::new(status)));
        Ok(())
    }

    /// The configuration for [`super::accept`]. Make it once; it follows every change.
    pub fn server_config(self: &Arc<Self>) -> Result<Arc<ServerConfig>, PkiError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(PkiError::Rustls)?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(Resolver(Arc::clone(self))));
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        // Go and Python clients do not resume, and a session must not outlive what was attested for its connection:
        // no tickets, and no memory for them.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Arc::new(config))
    }

    /// `shared`, which [`Self::server_config`] made, or where its leaf has not the address that a client dialled, one whose
    /// leaf has. The kernel tells the address, so it is a protected endpoint's.
    ///
    /// # Errors
    /// When a leaf cannot be made.
    pub fn config_for(
        &self,
        shared: &Arc<ServerConfig>,
        dialled: IpAddr,
    ) -> Result<Arc<ServerConfig>, PkiError> {
        if self.current.load().names.has(dialled) {
            return Ok(Arc::clone(shared));
        }
        if let Some(config) = self.lock_single().get(&dialled) {
            return Ok(Arc::clone(config));
        }
        // Made and kept under the lock of what it is made from: a leaf of the CA before this one must not come to be kept.
        let source = self.source.lock();
        let leaf = mint(&source.ca, self.base.with_addresses([dialled]), SystemTime::now())?;
        let mut config = ServerConfig::clone(shared);
        config.cert_resolver = Arc::new(Single(leaf.key));
        let config = Arc::new(config);
        let mut single = self.lock_single();
        if single.len() >= SINGLE_LEAVES {
            single.clear();
        }
        single.insert(dialled, Arc::clone(&config));
        Ok(config)
    }

    fn lock_single(&self) -> MutexGuard<'_, HashMap<IpAddr, Arc<ServerConfig>>> {
        self.single.lock()
    }
}

#[derive(Debug)]
struct Single(Arc<CertifiedKey>);

impl ResolvesServerCert for Single {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
}

#[derive(Debug)]
struct Resolver(Arc<Certificates>);

impl ResolvesServerCert for Resolver {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        // The name asked for does not matter: the kernel sends only dials of a protected endpoint here, and the client checks.
        Some(Arc::clone(&self.0.current.load().key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files() -> (tempfile::TempDir, CaFiles) {
        let folder = tempfile::tempdir().unwrap();
        let files = CaFiles {
            certificate: folder.path().join("ca.crt"),
            key: folder.path().join("ca.key"),
        };
        write(&files, "one");
        (folder, files)
    }

    fn write(files: &CaFiles, name: &str) {
        let made = crate::pki::ca::create(name).unwrap();
        std::fs::write(&files.certificate, made.certificate_pem).unwrap();
        std::fs::write(&files.key, made.key_pem).unwrap();
    }

    fn served(certificates: &Certificates) -> Vec<u8> {
        certificates.current.load().key.cert[0].to_vec()
    }

    #[test]
    fn renewed_at_two_thirds_and_not_before() {
        let now = SystemTime::now();
        let (_folder, files) = files();
        let certificates = Certificates::open(files, &[]).unwrap();
        let first = served(&certificates);
        certificates.look(now + LEAF_LIFETIME / 2);
        assert_eq!(served(&certificates), first);
        certificates.look(now + LEAF_LIFETIME * 2 / 3 + Duration::from_secs(60));
        assert_ne!(served(&certificates), first);
        assert!(certificates.not_after() > now + LEAF_LIFETIME);
    }

    #[test]
    fn endpoints_are_in_the_leaf_and_a_change_replaces_it() {
        let (_folder, files) = files();
        let certificates = Certificates::open(files, &["api.example".into(), "192.0.2.7".into()]).unwrap();
        let endpoints: BTreeSet<IpAddr> =
            ["::ffff:10.96.0.1".parse().unwrap(), "fd00::1".parse().unwrap()].into();
        certificates.set_endpoints(endpoints.clone()).unwrap();
        let der = served(&certificates);
        let (_, leaf) = x509_parser::parse_x509_certificate(&der).unwrap();
        let names = format!(
            "{:?}",
            leaf.subject_alternative_name()
                .unwrap()
                .unwrap()
                .value
                .general_names
        );
        for wanted in [
            "kubernetes.default.svc.cluster.local",
            "api.example",
            "[10, 96, 0, 1]",
            "[192, 0, 2, 7]",
        ] {
            assert!(names.contains(wanted), "{wanted} in {names}");
        }
        assert!(!names.contains("localhost"));
        certificates.set_endpoints(endpoints).unwrap();
        assert_eq!(
            served(&certificates),
            der,
            "the same protected endpoints again change nothing"
        );
        certificates.set_endpoints(BTreeSet::new()).unwrap();
        assert_ne!(served(&certificates), der);
    }

    #[test]
    fn of_many_endpoints_each_has_a_leaf_that_clients_take() {
        let (_folder, files) = files();
        let certificates = Certificates::open(files.clone(), &[]).unwrap();
        let many: Vec<IpAddr> = (1..=30_000_u32)
            .map(|number| IpAddr::from(number.to_be_bytes()))
            .collect();
        certificates
            .set_endpoints(many.iter().copied().collect())
            .unwrap();
        let shared = certificates.server_config().unwrap();
        assert!(
            served(&certificates).len() < 8 * 1024,
            "clients take 16 to 64 KB in all"
        );
        let own = |dialled| certificates.config_for(&shared, dialled).unwrap();
        assert!(Arc::ptr_eq(&own(many[0]), &shared));
        let last = own(many[29_999]);
        assert!(!Arc::ptr_eq(&last, &shared) && Arc::ptr_eq(&last, &own(many[29_999])));
        let single = |dialled: IpAddr| {
            let debug = format!("{:?}", own(dialled).cert_resolver);
            assert!(debug.contains("Single"), "{debug}");
        };
        single("fe80::1".parse().unwrap());
        // Under a new CA, leaves of the old one are not served.
        write(&files, "two");
        certificates.look(SystemTime::now());
        assert!(!Arc::ptr_eq(&last, &own(many[29_999])));
        for dialled in &many[300..300 + SINGLE_LEAVES + 10] {
            own(*dialled);
        }
        assert!(certificates.lock_single().len() <= SINGLE_LEAVES);
    }

    #[test]
    fn a_new_ca_signs_at_once_and_a_broken_one_is_reported() {
        let (_folder, files) = files();
        let certificates = Certificates::open(files.clone(), &[]).unwrap();
        let first = served(&certificates);
        std::fs::write(&files.certificate, "broken").unwrap();
        certificates.look(SystemTime::now());
        assert_eq!(served(&certificates), first);
        let error = certificates.status().error.unwrap();
        assert!(error.contains("ca.crt:1: no certificate"), "{error}");

        write(&files, "two");
        certificates.look(SystemTime::now());
        assert_ne!(served(&certificates), first);
        assert_eq!(
            certificates.status(),
            CertificateReload {
                published: 2,
                error: None
            }
        );
    }
}
