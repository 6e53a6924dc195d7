//! Trust bundles: the CAs of each trust domain whose client certificates count.
//!
//! In: a PEM file for each trust domain, looked at again while the agent runs. Out: [`TrustedRoots`], which verify a chain up to the
//! CAs of its own trust domain. A file that cannot be used leaves its domain as the last good one had it, and is reported; without a
//! last good one, the domain trusts nobody.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use picket_controller::x509::may_sign;
use rustls::RootCertStore;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls_pki_types::{CertificateDer, UnixTime};
use tokio_util::sync::CancellationToken;

use super::authorities::Authorities;
use super::pem::{self, PemError};

/// How often the files are looked at. Reading them sees every way in which they are replaced, which file events do not.
const CHECK_INTERVAL: Duration = Duration::from_secs(5);

/// Certificates of a chain, the leaf included. SPIRE sends two or three; each costs a parse, and a signature check.
const CHAIN_LIMIT: usize = 8;

/// Where the CAs of a trust domain lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustBundle {
    /// The trust domain, as SPIFFE IDs name it.
    pub trust_domain: String,
    /// PEM certificates of its CAs.
    pub file: PathBuf,
}

/// Why a chain does not lead to a CA of its trust domain.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChainError {
    /// No trust bundle is of that domain.
    #[error("this node has no trust bundle of trust domain {0}")]
    UnknownTrustDomain(String),
    /// The file of that domain's trust bundle could not be used since the agent's start.
    #[error(
        "the trust bundle of trust domain {0} on this node cannot be used; a cluster operator can correct its file, which Picket \
         reads again by itself"
    )]
    NoBundle(String),
    /// It has more than [`CHAIN_LIMIT`] certificates.
    #[error("its chain has more than {CHAIN_LIMIT} certificates")]
    TooLong,
    /// No CA of the trust domain signed it, or another check of RFC 5280 failed.
    #[error("its chain does not lead to a CA of trust domain {trust_domain}: {reason}")]
    Untrusted {
        /// The domain.
        trust_domain: String,
        /// What the verifier said.
        reason: String,
    },
}

/// The CAs of all trust domains, as their files had them; none of a domain whose file was never good.
#[derive(Debug, Default)]
pub struct TrustedRoots(BTreeMap<String, Option<Domain>>);

#[derive(Debug, Clone)]
struct Domain {
    bytes: Arc<[u8]>,
    verifier: Arc<dyn ClientCertVerifier>,
    authorities: Authorities,
}

impl Domain {
    fn read(bundle: &TrustBundle) -> Result<Self, PemError> {
        let bytes = pem::read(&bundle.file)?;
        let mut roots = RootCertStore::empty();
        let fault = |line, reason| PemError::content(&bundle.file, line, reason);
        let certificates = pem::certificates(&bundle.file, &bytes)?;
        let authorities = Authorities::inspect(&bundle.file, &certificates, SystemTime::now());
        for (line, certificate) in certificates {
            // rustls takes any certificate for a CA: a workload's own would let that workload name itself as it likes.
            let (_, parsed) = x509_parser::parse_x509_certificate(&certificate)
                .map_err(|error| fault(line, format!("not a certificate: {error}")))?;
            if !may_sign(&parsed) {
                let reason = "not a CA: its basicConstraints have no CA:TRUE, or its keyUsage no keyCertSign";
                return Err(fault(line, reason.to_owned()));
            }
            roots
                .add(certificate)
                .map_err(|error| fault(line, format!("not a CA that can be trusted: {error}")))?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
            .build()
            .map_err(|error| fault(1, error.to_string()))?;
        Ok(Self {
            bytes: bytes.into(),
            verifier,
            authorities,
        })
    }
}

impl TrustedRoots {
    /// Verifies a chain, leaf first, up to a CA of the trust domain.
    ///
    /// # Errors
    /// Where it does not lead there.
    pub fn verify(
        &self,
        trust_domain: &str,
        chain: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), ChainError> {
        let domain = self
            .0
            .get(trust_domain)
            .ok_or_else(|| ChainError::UnknownTrustDomain(trust_domain.to_owned()))?
            .as_ref()
            .ok_or_else(|| ChainError::NoBundle(trust_domain.to_owned()))?;
        let untrusted = |reason: String| ChainError::Untrusted {
            trust_domain: trust_domain.to_owned(),
            reason,
        };
        if chain.len() > CHAIN_LIMIT {
            return Err(ChainError::TooLong);
        }
        let (leaf, between) = chain
            .split_first()
            .ok_or_else(|| untrusted("it is empty".to_owned()))?;
        match domain.verifier.verify_client_cert(leaf, between, now) {
            Ok(_) => Ok(()),
            Err(error) => Err(untrusted(error.to_string())),
        }
    }
}

/// The trust bundles of a node; by default none.
#[derive(Debug, Default)]
pub struct TrustBundles {
    bundles: Vec<TrustBundle>,
    current: ArcSwap<TrustedRoots>,
    /// Why a file cannot be used as it is now, as the log has it already.
    reported: Mutex<BTreeMap<PathBuf, String>>,
}

impl TrustBundles {
    /// Reads every file. A domain whose file cannot be used trusts nobody until it can: see [`TrustBundles::fault`].
    #[must_use]
    pub fn open(bundles: Vec<TrustBundle>) -> Arc<Self> {
        let none = bundles.iter().map(|bundle| (bundle.trust_domain.clone(), None));
        let read = Arc::new(Self {
            current: ArcSwap::from_pointee(TrustedRoots(none.collect())),
            bundles,
            reported: Mutex::default(),
        });
        read.refresh();
        read
    }

    /// Whether a file can be used, for a look before an agent is started.
    ///
    /// # Errors
    /// Whatever is wrong with it, with file and line.
    pub fn check(bundle: &TrustBundle) -> Result<(), PemError> {
        Domain::read(bundle).map(drop)
    }

    /// When the first of the bundles vouches for nobody any more.
    #[must_use]
    pub fn not_after(&self) -> Option<SystemTime> {
        let roots = self.current.load();
        let domains = roots.0.values().flatten();
        domains.filter_map(|domain| domain.authorities.not_after).min()
    }

    /// Why there are domains that trust nobody: what is wrong with their files.
    #[must_use]
    pub fn fault(&self) -> Option<String> {
        let roots = self.current.load();
        let reported = self.reported.lock();
        let without = self.bundles.iter().filter(|bundle| {
            let domain = roots.0.get(&bundle.trust_domain);
            domain.is_some_and(Option::is_none)
        });
        let faults: Vec<&str> = without
            .filter_map(|bundle| reported.get(&bundle.file))
            .map(String::as_str)
            .collect();
        (!faults.is_empty()).then(|| faults.join("; "))
    }

    /// Whether there is none, so that no client certificate counts.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bundles.is_empty()
    }

    /// Whether a trust domain has a bundle, good or not.
    #[must_use]
    pub fn has(&self, trust_domain: &str) -> bool {
        let mut bundles = self.bundles.iter();
        bundles.any(|bundle| bundle.trust_domain == trust_domain)
    }

    /// The CAs as they are now.
    #[must_use]
    pub fn current(&self) -> Arc<TrustedRoots> {
        self.current.load_full()
    }

    /// Looks after the files until cancelled. `changed` is called after each change.
    pub async fn run(self: Arc<Self>, cancel: CancellationToken, changed: impl Fn() + Send) {
        loop {
            tokio::select! {
                () = cancel.cancelled() => return,
                () = tokio::time::sleep(CHECK_INTERVAL) => {}
            }
            if self.refresh() {
                changed();
            }
        }
    }

    /// One look. True where a file has changed and counts as it is now.
    pub fn refresh(&self) -> bool {
        let before = self.current.load_full();
        let mut roots = before.0.clone();
        let mut changed = false;
        let mut reported = self.reported.lock();
        for bundle in &self.bundles {
            match Domain::read(bundle) {
                Ok(domain) => {
                    let known = roots.get(&bundle.trust_domain).and_then(Option::as_ref);
                    let same = known.is_some_and(|known| known.bytes == domain.bytes);
                    if reported.remove(&bundle.file).is_some() || !same {
                        tracing::info!(file = %bundle.file.display(), "trust bundle read");
                    }
                    if !same {
                        domain.authorities.warn("tls.trustBundles");
                        roots.insert(bundle.trust_domain.clone(), Some(domain));
                        changed = true;
                    }
                }
                Err(error) => {
                    let error = error.to_string();
                    if reported.get(&bundle.file) != Some(&error) {
                        let has_last = roots.get(&bundle.trust_domain).is_some_and(Option::is_some);
                        let effect = match has_last {
                            true => "the last good one still counts",
                            false => "no certificate of its trust domain counts until it can be used",
                        };
                        tracing::error!(%error, effect, "cannot use a trust bundle as it is now");
                        reported.insert(bundle.file.clone(), error);
                    }
                }
            }
        }
        if changed {
            self.current.store(Arc::new(TrustedRoots(roots)));
        }
        changed
    }
}
