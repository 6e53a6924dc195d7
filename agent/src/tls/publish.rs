//! Keeps the leaves that are served right: for the address that a client dialled, renewed in time, signed by the CA of now.
//!
//! In: CA files, names, the address of each dial. Out: a rustls configuration. How many protected endpoints there are costs
//! nothing here: a leaf has the API server's names and one address, and is minted when the first client dials that.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwapOption;
use parking_lot::{Mutex, MutexGuard};
use rustls::ServerConfig;
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio_util::sync::CancellationToken;

use super::client_certificate::ProofOfKey;
use super::own_certificate::OwnCertificate;
use crate::pki::PkiError;
use crate::pki::ca::{CaFiles, CaSource, NodeCa};
use crate::pki::{LEAF_LIFETIME, Leaf, LeafNames, TrustBundles, mint};

/// How often the CA's files are looked at. They are two small files; reading them sees every way in which they are
/// replaced (the symbolic links of a Secret volume, a rename, a write in place), which file events do not.
pub(super) const CHECK_INTERVAL: Duration = Duration::from_secs(5);

/// Leaves for dialled addresses that are kept; each takes some 2 KB here and a tenth of a millisecond to make. Pods dial one or
/// two addresses; whoever dials many has the others' minted anew at most.
const SINGLE_LEAVES: usize = 1024;

/// How the last look at the files went.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CertificateReload {
    /// How many leaves have been published since the start. None before the first good CA: no client gets a session then.
    pub published: u64,
    /// Why the files as they are now cannot be used; the last good ones still serve, where there are such.
    pub error: Option<String>,
}

/// Why there is no leaf for a client.
#[derive(Debug, thiserror::Error)]
pub enum LeafError {
    /// The CA's files could not be used since the agent's start.
    #[error("the node has had no usable CA since the agent's start")]
    NoCa,
    /// The files of the port's own certificate could not be used since the agent's start.
    #[error("there has been no usable certificate of the port's own since the agent's start")]
    NoOwn,
    /// It could not be made.
    #[error(transparent)]
    Pki(#[from] PkiError),
}

/// The node's server certificates, and the trust bundles that clients' certificates are judged by.
#[derive(Debug)]
pub struct Certificates {
    files: CaFiles,
    trust_bundles: Arc<TrustBundles>,
    base: LeafNames,
    /// The last good CA.
    source: Mutex<Option<Source>>,
    /// The names alone, for clients whose dialled address is among the configured names; none before the first good CA.
    current: ArcSwapOption<Leaf>,
    /// Leaves for dialled addresses; emptied when the current one is replaced, so that they are renewed with it.
    single: Mutex<HashMap<IpAddr, Arc<ServerConfig>>>,
    status: ArcSwapOption<CertificateReload>,
    gateway: Option<Arc<OwnCertificate>>,
}

struct Source {
    bytes: CaSource,
    ca: NodeCa,
}

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Source")
            .field("ca", &self.ca)
            .finish_non_exhaustive()
    }
}

impl Certificates {
    /// Reads the CA and mints the first leaf for the service's names and `extra` ones. Where the files cannot be used no client
    /// gets a session until they can: see [`Certificates::fault`].
    ///
    /// # Errors
    /// A name that is none.
    pub fn open(
        files: CaFiles,
        extra: &[String],
        trust_bundles: Arc<TrustBundles>,
    ) -> Result<Arc<Certificates>, PkiError> {
        Self::open_with_gateway(files, extra, trust_bundles, None)
    }

    /// Likewise, where the gateway has a certificate of its own.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_with_gateway(
        files: CaFiles,
        extra: &[String],
        trust_bundles: Arc<TrustBundles>,
        gateway: Option<OwnCertificate>,
    ) -> Result<Arc<Certificates>, PkiError> {
        let certificates = Arc::new(Certificates {
            files,
            trust_bundles,
            base: LeafNames::new(extra)?,
            source: Mutex::new(None),
            current: ArcSwapOption::empty(),
            single: Mutex::default(),
            status: ArcSwapOption::empty(),
            gateway: gateway.map(Arc::new),
        });
        certificates.renew_due(SystemTime::now());
        Ok(certificates)
    }

    /// Why no client gets a session: what is wrong with the CA's files, where they were never good.
    pub fn fault(&self) -> Option<String> {
        self.status().error.filter(|_| self.current.load().is_none())
    }

    /// Why no caller of the gateway gets a session, where its own certificate was never good.
    pub fn gateway_fault(&self) -> Option<String> {
        self.gateway.as_ref()?.fault()
    }

    /// When the gateway's own certificate expires, where there is one.
    pub fn gateway_not_after(&self) -> Option<SystemTime> {
        self.gateway.as_ref()?.not_after()
    }

    /// A configuration that serves the gateway's own certificate, where there is one; `shared` is what [`Self::server_config`]
    /// made.
    pub fn gateway_config(&self, shared: &ServerConfig) -> Option<Arc<ServerConfig>> {
        let gateway = self.gateway.as_ref()?;
        let mut config = shared.clone();
        config.cert_resolver = Arc::clone(gateway) as Arc<dyn ResolvesServerCert>;
        Some(Arc::new(config))
    }

    /// The CAs of clients' certificates.
    pub fn trust_bundles(&self) -> &Arc<TrustBundles> {
        &self.trust_bundles
    }

    /// When the leaf that is served now expires.
    pub fn not_after(&self) -> Option<SystemTime> {
        self.current.load().as_ref().map(|leaf| leaf.not_after)
    }

    /// When the node CA itself expires.
    pub fn ca_not_after(&self) -> Option<SystemTime> {
        self.source.lock().as_ref().map(|source| source.ca.not_after)
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
                () = tokio::time::sleep(CHECK_INTERVAL) => {}
            }
            self.renew_due(SystemTime::now());
            if let Some(gateway) = &self.gateway {
                gateway.renew(SystemTime::now());
            }
        }
    }

    /// One look: re-reads changed files and renews what is due. Trouble is logged once and kept in [`Self::status`].
    pub fn renew_due(&self, now: SystemTime) {
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
                let effect = match self.current.load().is_some() {
                    true => "the last good one still serves",
                    false => "no client gets a session until it can be used",
                };
                if self.files.are_awaited() && self.current.load().is_none() {
                    tracing::info!(%error, effect, "the node has no CA yet");
                } else {
                    tracing::error!(%error, effect, "cannot use the node CA as it is now");
                }
                status.error = Some(error);
            }
        }
        self.status.store(Some(Arc::new(status)));
    }

    fn refresh(&self, now: SystemTime) -> Result<(), PkiError> {
        let bytes = CaSource::read(&self.files);
        let mut source = self.source.lock();
        let changed = match bytes {
            Ok(bytes) if source.as_ref().is_none_or(|known| known.bytes != bytes) => {
                NodeCa::parse(&self.files, &bytes, now).map(|ca| {
                    *source = Some(Source { bytes, ca });
                    true
                })
            }
            Ok(_) => Ok(false),
            Err(error) => Err(error.into()),
        };
        let renewal = match (&changed, &*source) {
            (Ok(true), Some(source)) => self.replace(source, now),
            (_, Some(source)) => self.publish(source, now),
            (_, None) => Ok(()),
        };
        changed.and(renewal)
    }

    /// Publishes a new leaf when it is time.
    fn publish(&self, source: &Source, now: SystemTime) -> Result<(), PkiError> {
        let current = self.current.load();
        let Some(current) = &*current else {
            return self.replace(source, now);
        };
        // A clock that was set back far would otherwise keep a leaf that is not valid yet.
        let early = current
            .not_after
            .duration_since(now)
            .is_ok_and(|left| left > 2 * LEAF_LIFETIME);
        if now < current.renew_at && !early {
            return Ok(());
        }
        self.replace(source, now)
    }

    fn replace(&self, source: &Source, now: SystemTime) -> Result<(), PkiError> {
        let leaf = mint(&source.ca, self.base.clone(), now)?;
        tracing::info!(names = %leaf.names, "published a server certificate");
        self.current.store(Some(Arc::new(leaf)));
        self.lock_single().clear();
        let mut status = self.status();
        status.published += 1;
        self.status.store(Some(Arc::new(status)));
        Ok(())
    }

    /// The configuration for [`super::accept`]. Make it once; it follows every change. Where there are trust bundles,
    /// clients are asked for a certificate, and may have none.
    pub fn server_config(self: &Arc<Self>) -> Result<Arc<ServerConfig>, PkiError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(PkiError::Rustls)?;
        let builder = match self.trust_bundles.is_empty() {
            true => builder.with_no_client_auth(),
            false => builder.with_client_cert_verifier(ProofOfKey::new()),
        };
        let mut config = builder.with_cert_resolver(Arc::new(Resolver(Arc::clone(self))));
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        // Go and Python clients do not resume, and a session must not outlive what was attested for its connection: a resumed
        // one would show the certificate of an earlier connection without a proof of its key. So no tickets, and no memory.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Arc::new(config))
    }

    /// A configuration whose leaf has the address that a client dialled: `shared`, which [`Self::server_config`] made, where
    /// that is a configured name. The kernel tells the address, so it is a protected endpoint's.
    ///
    /// # Errors
    /// When a leaf cannot be made, and where there never was a good CA.
    pub fn config_for(
        &self,
        shared: &Arc<ServerConfig>,
        dialled: IpAddr,
    ) -> Result<Arc<ServerConfig>, LeafError> {
        match &*self.current.load() {
            None => return Err(LeafError::NoCa),
            Some(leaf) if leaf.names.has(dialled) => return Ok(Arc::clone(shared)),
            Some(_) => {}
        }
        if let Some(config) = self.lock_single().get(&dialled.to_canonical()) {
            return Ok(Arc::clone(config));
        }
        // Made and kept under the lock of what it is made from: a leaf of the CA before this one must not come to be kept.
        let source = self.source.lock();
        let leaf = self.leaf_for(source.as_ref().ok_or(LeafError::NoCa)?, dialled)?;
        let mut config = ServerConfig::clone(shared);
        config.cert_resolver = Arc::new(Single(leaf.key));
        let config = Arc::new(config);
        let mut single = self.lock_single();
        if single.len() >= SINGLE_LEAVES {
            single.clear();
        }
        single.insert(dialled.to_canonical(), Arc::clone(&config));
        Ok(config)
    }

    /// A leaf of the node CA for a port that is not the API server's: with these names alone.
    ///
    /// # Errors
    /// As [`Self::config_for`].
    pub(super) fn mint_other(&self, names: LeafNames) -> Result<Leaf, LeafError> {
        let source = self.source.lock();
        let ca = &source.as_ref().ok_or(LeafError::NoCa)?.ca;
        Ok(mint(ca, names, SystemTime::now())?)
    }

    fn leaf_for(&self, source: &Source, dialled: IpAddr) -> Result<Leaf, PkiError> {
        mint(&source.ca, self.base.with_addresses([dialled]), SystemTime::now())
    }

    fn lock_single(&self) -> MutexGuard<'_, HashMap<IpAddr, Arc<ServerConfig>>> {
        self.single.lock()
    }
}

/// One certificate, whatever the client asks for.
#[derive(Debug)]
pub(super) struct Single(pub(super) Arc<CertifiedKey>);

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
        // Without one rustls answers by the alert access_denied.
        let current = self.0.current.load();
        current.as_ref().map(|leaf| Arc::clone(&leaf.key))
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
        certificates.current.load().as_ref().unwrap().key.cert[0].to_vec()
    }

    #[test]
    fn renewed_at_two_thirds_and_not_before() {
        let now = SystemTime::now();
        let (_folder, files) = files();
        let certificates = Certificates::open(files, &[], Arc::default()).unwrap();
        let first = served(&certificates);
        certificates.renew_due(now + LEAF_LIFETIME / 2);
        assert_eq!(served(&certificates), first);
        certificates.renew_due(now + LEAF_LIFETIME * 2 / 3 + Duration::from_secs(60));
        assert_ne!(served(&certificates), first);
        assert!(certificates.not_after().unwrap() > now + LEAF_LIFETIME);
    }

    /// Whether a configuration serves the leaf of one dialled address.
    fn has_own_leaf(config: &ServerConfig) -> bool {
        format!("{:?}", config.cert_resolver).contains("Single")
    }

    #[test]
    fn a_leaf_has_the_names_and_the_dialled_address() {
        let (_folder, files) = files();
        let certificates =
            Certificates::open(files, &["api.example".into(), "192.0.2.7".into()], Arc::default()).unwrap();
        let shared = certificates.server_config().unwrap();
        let source = certificates.source.lock();
        let leaf = certificates
            .leaf_for(source.as_ref().unwrap(), "::ffff:10.96.0.1".parse().unwrap())
            .unwrap();
        drop(source);
        let (_, leaf) = x509_parser::parse_x509_certificate(&leaf.key.cert[0]).unwrap();
        assert!(!leaf.is_ca());
        let names = leaf.subject_alternative_name().unwrap().unwrap().value;
        let text = format!("{:?}", names.general_names);
        for wanted in [
            "kubernetes.default.svc.cluster.local",
            "api.example",
            "[10, 96, 0, 1]",
            "[192, 0, 2, 7]",
        ] {
            assert!(text.contains(wanted), "{wanted} in {text}");
        }
        assert!(!text.contains("localhost"));
        assert_eq!(
            names.general_names.len(),
            7,
            "four names of the Service, two configured, the dialled one"
        );
        let own = certificates
            .config_for(&shared, "192.0.2.7".parse().unwrap())
            .unwrap();
        assert!(Arc::ptr_eq(&own, &shared), "a configured address");
    }

    #[test]
    fn a_leaf_does_not_outlive_its_ca() {
        let (_folder, files) = files();
        let certificates = Certificates::open(files, &[], Arc::default()).unwrap();
        let mut source = certificates.source.lock();
        let source = source.as_mut().unwrap();
        source.ca.not_after = SystemTime::now() + Duration::from_secs(3600);
        let leaf = certificates
            .leaf_for(source, "10.96.0.1".parse().unwrap())
            .unwrap();
        assert_eq!(leaf.not_after, source.ca.not_after);
        let (_, signed) = x509_parser::parse_x509_certificate(&leaf.key.cert[0]).unwrap();
        let left = signed.validity().time_to_expiration().unwrap();
        assert!(left <= Duration::from_secs(3600), "{left}");
    }

    #[test]
    fn many_dialled_addresses_have_small_leaves_and_a_bounded_cache() {
        let (_folder, files) = files();
        let certificates = Certificates::open(files.clone(), &[], Arc::default()).unwrap();
        let shared = certificates.server_config().unwrap();
        let many: Vec<IpAddr> = (1..=30_000_u32)
            .map(|number| IpAddr::from(number.to_be_bytes()))
            .collect();
        let own = |dialled| certificates.config_for(&shared, dialled).unwrap();
        let last = own(many[29_999]);
        assert!(Arc::ptr_eq(&last, &own(many[29_999])), "minted once");
        let mapped = format!("::ffff:{}", many[29_999]).parse().unwrap();
        assert!(Arc::ptr_eq(&last, &own(mapped)), "by any spelling");
        let by_mapped = own("::ffff:10.9.8.7".parse().unwrap());
        assert!(Arc::ptr_eq(&by_mapped, &own("10.9.8.7".parse().unwrap())));
        assert_eq!(
            certificates.status().published,
            1,
            "dials publish nothing for others"
        );
        assert!(has_own_leaf(&own("fe80::1".parse().unwrap())));
        // Under a new CA, leaves of the old one are not served.
        write(&files, "two");
        certificates.renew_due(SystemTime::now());
        assert!(!Arc::ptr_eq(&last, &own(many[29_999])));
        let last = own(many[29_999]);
        certificates.renew_due(SystemTime::now() + LEAF_LIFETIME * 2 / 3 + Duration::from_secs(60));
        assert!(!Arc::ptr_eq(&last, &own(many[29_999])), "renewed with the others");
        for dialled in &many[..SINGLE_LEAVES + 10] {
            own(*dialled);
        }
        assert!(certificates.lock_single().len() <= SINGLE_LEAVES);
    }

    #[test]
    fn without_a_good_ca_there_is_no_leaf_until_there_is_one() {
        let (_folder, files) = files();
        std::fs::write(&files.certificate, "broken").unwrap();
        let certificates = Certificates::open(files.clone(), &["192.0.2.7".into()], Arc::default()).unwrap();
        let shared = certificates.server_config().unwrap();
        let config = |dialled: &str| certificates.config_for(&shared, dialled.parse().unwrap());
        for dialled in ["10.96.0.1", "192.0.2.7"] {
            assert!(matches!(config(dialled), Err(LeafError::NoCa)), "{dialled}");
        }
        let fault = certificates.fault().unwrap();
        assert!(fault.contains("ca.crt:1: no certificate"), "{fault}");
        write(&files, "one");
        certificates.renew_due(SystemTime::now());
        assert_eq!((certificates.fault(), certificates.status().published), (None, 1));
        assert!(config("10.96.0.1").is_ok() && config("192.0.2.7").is_ok());
        std::fs::write(&files.certificate, "broken").unwrap();
        certificates.renew_due(SystemTime::now());
        assert_eq!(certificates.fault(), None, "the last good one serves");
    }

    #[test]
    fn a_new_ca_signs_at_once_and_a_broken_one_is_reported() {
        let (_folder, files) = files();
        let certificates = Certificates::open(files.clone(), &[], Arc::default()).unwrap();
        let first = served(&certificates);
        std::fs::write(&files.certificate, "broken").unwrap();
        certificates.renew_due(SystemTime::now());
        assert_eq!(served(&certificates), first);
        let error = certificates.status().error.unwrap();
        assert!(error.contains("ca.crt:1: no certificate"), "{error}");

        write(&files, "two");
        certificates.renew_due(SystemTime::now());
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
