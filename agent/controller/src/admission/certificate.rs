//! The certificate of the webhooks' server: each replica makes its own in memory, signed by the root, for the Service's name.
//!
//! In: the root, read anew every few seconds, and what the API server trusts so far. Out: the certificate of the next handshake. A root
//! that the API server does not trust yet signs only where there is no certificate that still works.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use kube::Api;
use parking_lot::RwLock;
use rcgen::KeyPair;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use super::ca_bundle::{CONFIGURATION, trusts};
use crate::authority::{Authority, AuthorityError, certificates};
use crate::health::Health;
use crate::kubernetes::printable;
use crate::lenient::Lenient;
use crate::metrics::{ControllerMetrics, Part};
use crate::root::{RootError, RootKeeper};

/// How long a certificate is valid. The replica makes another after a third of that, so that the API server may be away for hours.
const LIFETIME: Duration = Duration::from_secs(24 * 3600);
const RENEWAL: Duration = Duration::from_secs(8 * 3600);

/// A certificate that expires sooner than this is replaced whatever signs the next: clocks differ.
const LAST_MOMENT: Duration = Duration::from_secs(3600);

/// How often the root is read, and how soon where there is none yet.
const PERIOD: Duration = Duration::from_secs(10);
const RETRY: Duration = Duration::from_secs(1);

/// Why there is no new certificate.
#[derive(Debug, thiserror::Error)]
pub(super) enum CertificateError {
    #[error("there is no root CA yet")]
    NoRoot,
    #[error(transparent)]
    Root(#[from] RootError),
    #[error("{}", printable(.0))]
    Api(#[from] kube::Error),
    #[error(transparent)]
    Sign(#[from] AuthorityError),
    #[error("the key cannot be made or used: {0}")]
    Key(String),
}

/// The certificate that the server shows; clones share it.
#[derive(Debug, Clone, Default)]
pub(super) struct ServingCertificate(Arc<RwLock<Option<Arc<CertifiedKey>>>>);

impl ResolvesServerCert for ServingCertificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.read().clone()
    }
}

impl ServingCertificate {
    /// Signs a certificate for this name, and shows it from now on.
    pub(super) fn renew(
        &self,
        authority: &Authority,
        name: &str,
        now: SystemTime,
    ) -> Result<(), CertificateError> {
        let key = KeyPair::generate().map_err(|error| CertificateError::Key(error.to_string()))?;
        let pem = authority.sign_server(name, &key, LIFETIME, now)?;
        let chain = certificates(&pem, "the new certificate")?;
        let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let key = rustls::crypto::ring::sign::any_supported_type(&der);
        let key = key.map_err(|error| CertificateError::Key(error.to_string()))?;
        *self.0.write() = Some(Arc::new(CertifiedKey::new(chain, key)));
        Ok(())
    }
}

/// What is known of the certificate that the server shows.
#[derive(Debug, Clone, PartialEq, Eq)]
struct HeldCertificate {
    /// The root above it, PEM.
    anchors: String,
    made_at: SystemTime,
    expires_at: SystemTime,
}

/// Whether another certificate is to be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Renewal {
    No,
    /// Another root signs now: only once the API server trusts that root.
    WhenTrusted,
    Now,
}

impl HeldCertificate {
    /// Whether the API server refuses it: where no root can be read for a day.
    fn is_over(&self, now: SystemTime) -> bool {
        now >= self.expires_at
    }

    fn renewal(&self, anchors: &str, now: SystemTime) -> Renewal {
        let is_old = now >= self.made_at + RENEWAL;
        // A clock that was set back.
        let is_of_later = now < self.made_at;
        if now + LAST_MOMENT >= self.expires_at {
            Renewal::Now
        } else if anchors != self.anchors {
            Renewal::WhenTrusted
        } else if is_old || is_of_later {
            Renewal::Now
        } else {
            Renewal::No
        }
    }
}

/// Keeps the certificate for as long as it is polled.
pub(super) struct CertificateKeeper {
    pub(super) roots: RootKeeper,
    pub(super) configurations: Api<Lenient<MutatingWebhookConfiguration>>,
    /// The Service's name.
    pub(super) name: String,
    pub(super) serving: ServingCertificate,
    pub(super) health: Health,
    pub(super) metrics: ControllerMetrics,
}

impl CertificateKeeper {
    pub(super) async fn keep(self) {
        let mut held = None;
        let mut said = String::new();
        loop {
            match self.pass(&mut held, SystemTime::now()).await {
                Ok(()) => said.clear(),
                Err(error) => {
                    self.metrics.failed(Part::Webhooks);
                    let text = error.to_string();
                    if text != said {
                        tracing::warn!(
                            error = text,
                            "the webhooks' certificate cannot be made; the controller tries again"
                        );
                        said = text;
                    }
                }
            }
            let is_over = |held: &HeldCertificate| held.is_over(SystemTime::now());
            let is_without = held.as_ref().is_none_or(is_over);
            self.health.set_without_certificate(is_without);
            let pause = if is_without { RETRY } else { PERIOD };
            tokio::time::sleep(pause).await;
        }
    }

    async fn pass(
        &self,
        held: &mut Option<HeldCertificate>,
        now: SystemTime,
    ) -> Result<(), CertificateError> {
        let authority = self.roots.signing().await?.ok_or(CertificateError::NoRoot)?;
        let renewal = match held {
            Some(held) => held.renewal(&authority.anchors, now),
            None => Renewal::Now,
        };
        let is_due = match renewal {
            Renewal::No => false,
            Renewal::Now => true,
            Renewal::WhenTrusted => self.is_trusted(&authority.anchors).await?,
        };
        if !is_due {
            return Ok(());
        }
        self.serving.renew(&authority, &self.name, now)?;
        tracing::info!(name = self.name, "the webhooks' certificate is made");
        *held = Some(HeldCertificate {
            made_at: now,
            expires_at: (now + LIFETIME).min(authority.not_after),
            anchors: authority.anchors,
        });
        Ok(())
    }

    /// Whether the API server trusts this root for every webhook.
    async fn is_trusted(&self, anchors: &str) -> Result<bool, CertificateError> {
        let found = self.configurations.get_opt(CONFIGURATION).await?;
        Ok(found.is_some_and(|found| trusts(&found.0, anchors)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn a_certificate_is_renewed_early_and_moves_to_another_root_once_that_is_trusted() {
        let start = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let held = HeldCertificate {
            anchors: "one".to_owned(),
            made_at: start,
            expires_at: start + LIFETIME,
        };
        let cases = [
            ("one", start, Renewal::No),
            ("one", start + RENEWAL, Renewal::Now),
            ("one", start - HOUR, Renewal::Now),
            ("two", start, Renewal::WhenTrusted),
            ("two", start + 22 * HOUR, Renewal::WhenTrusted),
            ("two", start + 23 * HOUR, Renewal::Now),
        ];
        for (anchors, now, wanted) in cases {
            assert_eq!(held.renewal(anchors, now), wanted, "{anchors}");
        }
        assert!(!held.is_over(start + 23 * HOUR) && held.is_over(start + LIFETIME));
        let of_a_root_at_its_end = HeldCertificate {
            expires_at: start + HOUR,
            ..held
        };
        assert_eq!(of_a_root_at_its_end.renewal("one", start), Renewal::Now);
    }
}
