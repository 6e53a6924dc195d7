//! Composes the controller: one replica leads and does everything, the others wait. The webhooks are every replica's.
//!
//! In: [`ControllerSettings`], and a future that ends when the process is asked to stop. Out: the controller runs until then.

use std::future::Future;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
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
use crate::lenient::Lenient;
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
    Listen(SocketAddr, io::Error),
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
    let leases = Api::<Lenient<Lease>>::namespaced(client.clone(), &settings.namespace);
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

/// Listens there. `[::]` takes IPv4 too, unless net.ipv6.bindv6only is 1, which a new network namespace never has.
async fn listen(address: SocketAddr) -> Result<TcpListener, ControllerError> {
    let error = match TcpListener::bind(address).await {
        Ok(listener) => return Ok(listener),
        Err(error) => error,
    };
    let Some(instead) = without_ipv6(address, &error) else {
        return Err(ControllerError::Listen(address, error));
    };
    tracing::info!(%address, %instead, %error, "the node has no IPv6: the controller listens for IPv4 alone");
    let bound = TcpListener::bind(instead).await;
    bound.map_err(|error| ControllerError::Listen(instead, error))
}

/// Every IPv4 address in place of every address, where the node has no IPv6.
fn without_ipv6(address: SocketAddr, error: &io::Error) -> Option<SocketAddr> {
    /// The kernel has no IPv6, as after `ipv6.disable=1`. `std` has no name for it.
    const EAFNOSUPPORT: i32 = 97;
    let is_off =
        error.kind() == io::ErrorKind::AddrNotAvailable || error.raw_os_error() == Some(EAFNOSUPPORT);
    let is_every = address.is_ipv6() && address.ip().is_unspecified();
    (is_off && is_every).then(|| SocketAddr::from((Ipv4Addr::UNSPECIFIED, address.port())))
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

#[cfg(test)]
mod tests {
    use futures::StreamExt as _;
    use k8s_openapi::api::core::v1::Pod;
    use kube::runtime::watcher;
    use serde_json::json;

    use super::*;
    use crate::kubernetes::follow;
    use crate::testing::FakeServer;

    #[test]
    fn a_node_without_ipv6_is_listened_on_by_ipv4() {
        let (every, port): (SocketAddr, _) = ("[::]:9443".parse().unwrap(), 9443);
        let instead = Some(SocketAddr::from(([0, 0, 0, 0], port)));
        for off in [97, 99] {
            assert_eq!(without_ipv6(every, &io::Error::from_raw_os_error(off)), instead);
        }
        // EADDRINUSE is no matter of IPv6, and what is asked for by its address is not another.
        assert_eq!(without_ipv6(every, &io::Error::from_raw_os_error(98)), None);
        let off = io::Error::from_raw_os_error(99);
        for one in ["[::1]:9443", "0.0.0.0:9443", "192.0.2.1:9443"] {
            assert_eq!(without_ipv6(one.parse().unwrap(), &off), None, "{one}");
        }
    }

    /// The client's watches end before their first event; a list goes past whatever the API server could not send.
    #[tokio::test]
    async fn a_watch_that_ends_at_once_is_followed_by_a_list() {
        let server = FakeServer::start(|request| match request.is_watch() {
            true => (200, String::new()),
            false => {
                let list = json!({"kind": "PodList", "apiVersion": "v1", "metadata": {"resourceVersion": "1"}, "items": []});
                (200, list.to_string())
            }
        })
        .await;
        let folder = tempfile::tempdir().unwrap();
        let kubeconfig = folder.path().join("kubeconfig");
        let content = json!({
            "clusters": [{"name": "c", "cluster": {"server": server.url}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
            "users": [{"name": "u", "user": {}}],
            "current-context": "c",
        });
        std::fs::write(&kubeconfig, content.to_string()).unwrap();
        let settings = ControllerSettings {
            namespace: "picket-system".to_owned(),
            identity: "one".to_owned(),
            kubeconfig: Some(kubeconfig),
            root: RootSource::Own,
            permitted: PermittedNames::new(&[]).unwrap(),
            health: "127.0.0.1:0".parse().unwrap(),
            metrics: None,
            webhooks: None,
        };
        let metrics = ControllerMetrics::register(&MetricsRegistry::default());
        let client = client(&settings, &metrics).await.unwrap();
        let pods = Api::<Lenient<Pod>>::all(client);
        let mut events = follow(pods, watcher::Config::default(), "pods", || {});
        let listed = async {
            while server.lists() < 3 {
                events.next().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), listed)
            .await
            .unwrap();
    }

    #[tokio::test]
    async fn every_address_is_listened_on() {
        let listener = listen("[::]:0".parse().unwrap()).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    }
}
