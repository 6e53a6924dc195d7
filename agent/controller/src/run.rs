//! Composes the controller: one replica leads and does everything, the others wait. The webhooks are every replica's.
//!
//! In: [`ControllerSettings`], and a future that ends when the process is asked to stop. Out: the controller runs until then.

use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use futures::join;
use k8s_openapi::api::coordination::v1::Lease;
use kube::client::ClientBuilder;
use kube::config::{InClusterError, KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use picket_metrics::MetricsRegistry;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tower::util::{MapResponseLayer, MapResultLayer};

use crate::admission::{WebhookBundles, Webhooks};
use crate::authority::PermittedNames;
use crate::bundles::Bundles;
use crate::ended_watch::EndedWatchLayer;
use crate::health::Health;
use crate::kubernetes::{READ_LIMIT, printable};
use crate::lease::Candidate;
use crate::metrics::{self, ControllerMetrics};
use crate::nodes::NodeLabels;
use crate::root::{RootKeeper, RootSource};
use crate::signer::Signer;
use crate::utf8;

/// What the controller is told at its start.
#[derive(Debug, Clone)]
pub struct ControllerSettings {
    /// The release's namespace: of the Lease, the root's Secret, the agents and their service account.
    pub namespace: String,
    /// This replica's name, which no other has.
    pub identity: String,
    /// How to reach the API server; in-cluster by the pod's service account when absent.
    pub kubeconfig: Option<PathBuf>,
    /// Where the root CA comes from.
    pub root: RootSource,
    /// To what names node CAs are bounded.
    pub permitted: PermittedNames,
    /// Where the probes are answered.
    pub health: SocketAddr,
    /// Where metrics are served, over plain HTTP; nowhere when absent.
    pub metrics: Option<SocketAddr>,
    /// Where the API servers reach the webhooks; none where the cluster enrols pods by policies.
    pub webhooks: Option<SocketAddr>,
}

/// Why the controller cannot start.
#[derive(Debug, thiserror::Error)]
pub enum ControllerError {
    /// The kubeconfig cannot be used. Its text is not quoted, since a credential may stand wherever it is wrong.
    #[error("{}: the kubeconfig cannot be used", .0.display())]
    Kubeconfig(PathBuf),
    /// The process runs in no pod.
    #[error("there is no service account of a pod ({0}); give --kubeconfig outside a cluster")]
    InCluster(InClusterError),
    /// There is no client.
    #[error("cannot make a client of the API server: {}", printable(.0))]
    Client(kube::Error),
    /// The address of the probes, of the metrics or of the webhooks is taken, or is none of this machine's.
    #[error("cannot listen on {0}: {1}")]
    Listen(SocketAddr, std::io::Error),
    /// The TLS library refuses its settings.
    #[error("cannot serve TLS: {0}")]
    Tls(rustls::Error),
}

/// How long the webhooks serve on after a stop: the API server sends requests until each node has heard that the replica ends.
const LINGER: Duration = Duration::from_secs(10);

/// Runs the controller until `stop` ends.
///
/// # Errors
/// [`ControllerError`] where it cannot start. What fails later is tried again.
pub async fn run(
    settings: ControllerSettings,
    stop: impl Future<Output = ()>,
) -> Result<(), ControllerError> {
    let registry = MetricsRegistry::default();
    let metrics = ControllerMetrics::register(&registry);
    let client = client(&settings, &metrics).await?;
    let (fault, faults) = watch::channel(None);
    let health = Health::new(faults);
    let probes = listen(settings.health).await?;
    let scrapes = match settings.metrics {
        Some(address) => Some(listen(address).await?),
        None => None,
    };
    let leases = Api::<Lease>::namespaced(client.clone(), &settings.namespace);
    let candidate = Candidate::new(leases, settings.identity.clone(), health.clone(), metrics.clone());
    let work = || work(&settings, client.clone(), fault.clone(), health.clone(), &metrics);
    let webhooks = webhooks(&settings, client.clone(), health.clone(), &metrics).await?;
    tokio::select! {
        () = async {
            candidate.run(stop, work).await;
            if settings.webhooks.is_some() {
                tokio::time::sleep(LINGER).await;
            }
        } => {}
        () = health.clone().serve(probes) => {}
        () = metrics::serve(scrapes, registry) => {}
        () = webhooks => {}
    }
    Ok(())
}

/// What each replica does for the webhooks until it is dropped; nothing where there are none.
async fn webhooks(
    settings: &ControllerSettings,
    client: Client,
    health: Health,
    metrics: &ControllerMetrics,
) -> Result<impl Future<Output = ()>, ControllerError> {
    let serving = match settings.webhooks {
        None => None,
        Some(address) => {
            let listener = listen(address).await?;
            let (namespace, source) = (&settings.namespace, settings.root.clone());
            let roots = RootKeeper::new(client.clone(), namespace, source, metrics.clone());
            let webhooks = Webhooks::new(client, &settings.namespace, roots, health, metrics.clone());
            Some((webhooks.map_err(ControllerError::Tls)?, listener))
        }
    };
    Ok(async {
        match serving {
            Some((webhooks, listener)) => webhooks.run(listener).await,
            None => std::future::pending().await,
        }
    })
}

/// All that the leader does, for as long as it is polled.
async fn work(
    settings: &ControllerSettings,
    client: Client,
    fault: watch::Sender<Option<String>>,
    health: Health,
    metrics: &ControllerMetrics,
) {
    let _leads = metrics.lead();
    let (namespace, identity) = (settings.namespace.as_str(), settings.identity.as_str());
    let keeper = RootKeeper::new(client.clone(), namespace, settings.root.clone(), metrics.clone());
    fault.send_replace(None);
    let (trust, trusted) = watch::channel(None);
    let (published, mut everywhere) = watch::channel(None);
    // A rotation waits for the webhooks too.
    let webhooks = settings.webhooks.is_some().then(|| {
        let (both, told) = watch::channel(None);
        let of_maps = std::mem::replace(&mut everywhere, told);
        WebhookBundles::new(client.clone(), trusted.clone(), of_maps, both, metrics.clone())
    });
    let webhooks = async {
        if let Some(webhooks) = webhooks {
            webhooks.run().await;
        }
    };
    let signer = Signer::new(
        client.clone(),
        namespace,
        settings.permitted.clone(),
        trusted.clone(),
        metrics.clone(),
    );
    let bundles = Bundles::new(
        client.clone(),
        namespace,
        trusted,
        published,
        health,
        metrics.clone(),
    );
    let labels = NodeLabels::new(client, namespace, identity, metrics.clone());
    join!(
        keeper.keep(trust, everywhere, fault),
        signer.run(),
        bundles.run(),
        labels.run(),
        webhooks,
    );
}

async fn listen(address: SocketAddr) -> Result<TcpListener, ControllerError> {
    let bound = TcpListener::bind(address).await;
    bound.map_err(|error| ControllerError::Listen(address, error))
}

async fn client(
    settings: &ControllerSettings,
    metrics: &ControllerMetrics,
) -> Result<Client, ControllerError> {
    let mut config = match &settings.kubeconfig {
        None => Config::incluster().map_err(ControllerError::InCluster)?,
        Some(path) => {
            let bad = || ControllerError::Kubeconfig(path.clone());
            let file = Kubeconfig::read_from(path).map_err(|_| bad())?;
            Config::from_custom_kubeconfig(file, &KubeConfigOptions::default())
                .await
                .map_err(|_| bad())?
        }
    };
    config.read_timeout = Some(READ_LIMIT);
    let builder = ClientBuilder::try_from(config).map_err(ControllerError::Client)?;
    let counting = MapResultLayer::new(metrics.count_answers());
    let builder = builder.with_layer(&MapResponseLayer::new(utf8::response));
    let builder = builder.with_layer(&EndedWatchLayer);
    Ok(builder.with_layer(&counting).build())
}
