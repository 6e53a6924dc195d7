//! What the agent reads from files that others write, and that requests are judged by: issuers of tokens, the node CA, the gateway's
//! certificate, trust bundles, and the credential for the API server.
//!
//! In: the configuration. Out: each part, whatever its files say. A file that cannot be used refuses what depends on it, and is
//! read again; none of them stops a start. An agent that ended instead would leave a node open that it never enforced on.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::metrics::ModuleMetrics;
use super::settings::{server_names, upstream_config};
use crate::cluster::Connector;
use crate::config::{Config, MetricsSection, NodeCaSource};
use crate::identity::jwt::Issuers;
use crate::node_ca::{self, KeptNodeCa, NodeCaExchange};
use crate::pki::{LeafNames, PkiError, TrustBundles};
use crate::tls::{Certificates, EndpointTls, OwnCertificate};
use crate::upstream::Upstream;

/// The name in `/readyz` of the credential for the API server.
const UPSTREAM: &str = "upstream";

/// The parts that are read from files; cheap to clone.
#[derive(Clone)]
pub(super) struct FileParts {
    pub(super) issuers: Issuers,
    pub(super) certificates: Arc<Certificates>,
    pub(super) upstream: Upstream,
    /// Of the metrics' port. It is in none of the faults below: an agent without that port enforces as well.
    pub(super) metrics_tls: Option<Arc<EndpointTls>>,
    /// Where Picket's controller signs the node CA.
    pub(super) node_ca: Option<NodeCaExchange>,
}

impl FileParts {
    /// Reads the files, for a data path of so many threads. `kept` is the node CA of the node's state folder.
    ///
    /// # Errors
    /// What is wrong with the configuration itself.
    pub(super) fn open(
        config: &Config,
        kept: KeptNodeCa,
        metrics: &ModuleMetrics,
        threads: NonZeroUsize,
    ) -> anyhow::Result<Self> {
        let trust_bundles = TrustBundles::open(config.tls.trust_bundles.clone());
        let own = config.gateway.as_ref().and_then(|gateway| gateway.tls.as_ref());
        let gateway = own.map(|own| OwnCertificate::open("gateway", own.files.clone()));
        let names = server_names(config);
        let (ca, node_ca) = match &config.tls.node_ca {
            NodeCaSource::Files(files) => (files.clone(), None),
            NodeCaSource::Cluster => {
                let connector = Connector::new(&config.cluster.kubeconfig);
                let (names, metrics) = (LeafNames::new(&names)?, metrics.node_ca.clone());
                let files = kept.files();
                let exchange = NodeCaExchange::new(kept, &config.node_name, names, connector, metrics);
                (files, Some(exchange))
            }
        };
        let certificates = Certificates::open_with_gateway(ca, &names, trust_bundles, gateway)?;
        let of_metrics = config.metrics.as_ref();
        let metrics_tls = of_metrics.map(|given| metrics_tls(given, &certificates));
        Ok(Self {
            issuers: Issuers::open(config.authentication.config_file.clone(), metrics.jwt.clone()),
            certificates,
            upstream: Upstream::open(upstream_config(config)?, threads)?,
            metrics_tls: metrics_tls.transpose()?,
            node_ca,
        })
    }

    /// Gets a node CA where there is none that can be used and the controller signs it, within a time.
    pub(super) async fn first_node_ca(&self, limit: Duration) {
        let Some(exchange) = &self.node_ca else { return };
        if self.certificates.fault().is_some() {
            exchange.first(limit).await;
            self.certificates.renew_due(SystemTime::now());
        }
    }

    /// What no good file was read of since the start, with the file and what is wrong with it.
    pub(super) fn faults(&self) -> Vec<(&'static str, String)> {
        let faults = [
            ("authentication", self.issuers.fault()),
            (node_ca::PART, self.certificates.fault()),
            ("gateway-certificate", self.certificates.gateway_fault()),
            ("trust-bundles", self.certificates.trust_bundles().fault()),
            (UPSTREAM, self.upstream.credential_fault()),
        ];
        let faults = faults.into_iter();
        faults.filter_map(|(part, fault)| Some((part, fault?))).collect()
    }

    /// What `/readyz` says of them. A changed credential that cannot be used counts too, since the last good one expires.
    pub(super) fn failing(&self) -> Vec<(&'static str, String)> {
        let mut failing = self.faults();
        // What gets the CA says more of it.
        failing.retain(|(part, _)| *part != node_ca::PART || self.node_ca.is_none());
        if failing.iter().all(|(part, _)| *part != UPSTREAM)
            && let Some(error) = self.upstream.credential_error()
        {
            failing.push((UPSTREAM, error));
        }
        failing
    }
}

/// The certificate of the metrics' port: its own, or one of the node CA.
fn metrics_tls(
    given: &MetricsSection,
    certificates: &Arc<Certificates>,
) -> Result<Arc<EndpointTls>, PkiError> {
    let clients = given.client_ca_file.clone();
    let tls = match &given.tls {
        Some(files) => EndpointTls::with_own(OwnCertificate::open("metrics", files.clone()), clients),
        None => EndpointTls::with_node_ca(Arc::clone(certificates), &given.names, clients),
    };
    tls.map(Arc::new)
}
