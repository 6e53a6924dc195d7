//! When certificates expire, as metrics.
//!
//! In: the [`Certificates`] that pods see, the client certificate that the API server sees, and the CAs that others are checked by. Out:
//! points in time in the registry.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::Certificates;
use crate::metrics::{MetricsRegistry, TimeFamily};

/// How often the gauges are set: more often than any scraper asks.
const EVERY: Duration = Duration::from_secs(5);

/// The metrics of certificates; cheap to clone.
#[derive(Debug, Clone)]
pub struct CertificateMetrics {
    expiry: TimeFamily<1>,
}

impl CertificateMetrics {
    /// Registers them.
    pub fn register(registry: &MetricsRegistry) -> Self {
        Self {
            expiry: registry.times(
                "certificate_expiry",
                ["certificate"],
                "When a certificate in use expires, in seconds since 1970: `node-ca`, `leaf`, `gateway`, `metrics`, `upstream`; of CAs that others are checked against the last of each file, and of several files the first: `upstream-ca`, `issuer-ca`, `trust-bundle`",
            ),
        }
    }

    /// Keeps the gauges current, for as long as it is polled. `others` has the expiry of what is not served.
    pub(crate) async fn follow<const N: usize>(
        self,
        certificates: Arc<Certificates>,
        others: impl Fn() -> [(&'static str, Option<SystemTime>); N] + Send,
    ) {
        let mut tick = tokio::time::interval(EVERY);
        loop {
            tick.tick().await;
            let ends = [
                ("leaf", certificates.not_after()),
                ("node-ca", certificates.ca_not_after()),
                ("gateway", certificates.gateway_not_after()),
                ("trust-bundle", certificates.trust_bundles().not_after()),
            ];
            for (certificate, end) in ends.into_iter().chain(others()) {
                if let Some(end) = end {
                    self.set(certificate, end);
                }
            }
        }
    }

    fn set(&self, certificate: &'static str, end: SystemTime) {
        let since_epoch = end.duration_since(UNIX_EPOCH).unwrap_or_default();
        self.expiry.set([certificate], since_epoch);
    }
}
