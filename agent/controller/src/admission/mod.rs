//! Admission by webhook, where the cluster serves no MutatingAdmissionPolicy: the same changes, answered by each replica.
//!
//! In: AdmissionReviews of the API servers, and the root CA. Out: patches of pods and workloads, a certificate that the root signed, and
//! the `caBundle` of the MutatingWebhookConfiguration. The chart makes the configuration, whose selectors and conditions decide which
//! objects come here; no setting bears on what is changed in one.

mod body_capacity;
mod ca_bundle;
mod certificate;
mod counts;
mod patch;
mod pods;
mod review;
mod server;
mod workloads;

use std::sync::Arc;

use kube::{Api, Client};
use tokio::net::TcpListener;

use crate::health::Health;
use crate::metrics::ControllerMetrics;
use crate::root::RootKeeper;

pub(crate) use ca_bundle::WebhookBundles;
use certificate::{CertificateKeeper, ServingCertificate};
use counts::AdmissionCounts;
use server::AdmissionServer;

/// The Service in front of all replicas. The chart makes it.
const SERVICE: &str = "picket-webhook";

/// The webhooks' part of every replica, whether it leads or not.
pub(crate) struct Webhooks {
    server: Arc<AdmissionServer>,
    keeper: CertificateKeeper,
}

impl Webhooks {
    pub(crate) fn new(
        client: Client,
        namespace: &str,
        roots: RootKeeper,
        health: Health,
        metrics: ControllerMetrics,
    ) -> Result<Self, rustls::Error> {
        let serving = ServingCertificate::default();
        health.set_without_certificate(true);
        Ok(Self {
            server: AdmissionServer::new(serving.clone(), AdmissionCounts::new(metrics.admission_answers()))?,
            keeper: CertificateKeeper {
                roots,
                configurations: Api::all(client),
                name: format!("{SERVICE}.{namespace}.svc"),
                serving,
                health,
                metrics,
            },
        })
    }

    /// Serves until it is dropped.
    pub(crate) async fn run(self, listener: TcpListener) {
        let server = Arc::clone(&self.server);
        futures::join!(
            self.keeper.keep(),
            Arc::clone(&server).run(listener),
            server.counts.tell()
        );
    }
}
