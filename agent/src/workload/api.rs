//! The pods of this node as the API server tells of them.
//!
//! In: a kubeconfig and the node's name. Out: the node's pods by the UID that their cgroups carry, through a watch
//! channel; `None` until the first whole list was read. While the API server is away the last known pods stand.
//!
//! Only [`Pod`] is kept of each object; the rest is dropped as it is read.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Debug;
use std::hash::{BuildHasher, RandomState};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1 as core;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::watcher;
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::layout::is_manifest_hash;
use super::{Pod, PodUid};

/// A watch that tells nothing for this many seconds is begun anew, so that a connection that died in silence is
/// noticed; the API server's own default is five to ten minutes.
const WATCH_SECONDS: u32 = 120;

/// How long a response may be silent: longer than a watch lasts, and short enough that a connection which died unheard does
/// not keep the pods as they were for TCP's quarter of an hour.
const READ_LIMIT: Duration = Duration::from_secs(WATCH_SECONDS as u64 + 60);

/// Pods of one node come in one page nearly always; a page bounds what a list holds in memory.
const PAGE: u32 = 100;

/// The pause after a first failure.
const RETRY_FIRST: Duration = Duration::from_millis(100);

/// The longest pause; a node must be back soon after its API server is.
const RETRY_LONGEST: Duration = Duration::from_secs(10);

/// After so many failures in a row the client is made anew, which reads the kubeconfig and its certificates again: they
/// may have been rotated.
const FAILURES_PER_CLIENT: u32 = 3;

/// The kubelet's mark on the mirror of a static pod (`pkg/kubelet/types/pod_update.go`).
const MIRROR_ANNOTATION: &str = "kubernetes.io/config.mirror";

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// The kubeconfig cannot be read or makes no sense.
    #[error("{}: cannot use the kubeconfig: {source}", path.display())]
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: Box<kube::config::KubeconfigError>,
    },
    /// What it says makes no client.
    #[error("{}: cannot make a client: {source}", path.display())]
    Client {
        /// The kubeconfig.
        path: PathBuf,
        /// What is wrong.
        source: Box<kube::Error>,
    },
}

/// Makes clients from a kubeconfig that may change with time.
#[derive(Debug, Clone)]
pub struct Connector {
    kubeconfig: PathBuf,
}

impl Connector {
    /// Clients by the current context of this file.
    #[must_use]
    pub fn new(kubeconfig: &Path) -> Self {
        Self {
            kubeconfig: kubeconfig.to_owned(),
        }
    }

    /// A client with what the files say now. Nothing is sent yet.
    ///
    /// # Errors
    /// [`ApiError`] with the file and what is wrong with it; worth calling once at start, to stop early.
    pub async fn connect(&self) -> Result<Client, ApiError> {
        let mut config = self.read().await?;
        config.read_timeout = Some(READ_LIMIT);
        Client::try_from(config).map_err(|source| ApiError::Client {
            path: self.kubeconfig.clone(),
            source: Box::new(source),
        })
    }

    /// The URL of the API server that the clients ask.
    ///
    /// # Errors
    /// As [`Connector::connect`].
    pub async fn server(&self) -> Result<http::Uri, ApiError> {
        Ok(self.read().await?.cluster_url)
    }

    async fn read(&self) -> Result<kube::Config, ApiError> {
        let bad = |source| ApiError::Kubeconfig {
            path: self.kubeconfig.clone(),
            source: Box::new(source),
        };
        let file = Kubeconfig::read_from(&self.kubeconfig).map_err(bad)?;
        kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default())
            .await
            .map_err(bad)
    }
}

/// Follows objects until it is cancelled, whatever fails meanwhile; `on` gets each event.
pub(super) async fn follow<K>(
    connector: &Connector,
    what: &'static str,
    scope: impl Fn(Client) -> Api<K>,
    config: watcher::Config,
    cancel: &CancellationToken,
    mut on: impl FnMut(watcher::Event<K>),
) where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let config = watcher::Config {
        timeout: Some(WATCH_SECONDS),
        page_size: Some(PAGE),
        ..config
    };
    let follow = async {
        let mut failures = 0_u32;
        loop {
            match connector.connect().await {
                Err(error) => tracing::warn!(what, %error, "cannot reach the API server"),
                Ok(client) => {
                    let mut events = pin!(watcher(scope(client), config.clone()));
                    while let Some(event) = events.next().await {
                        match event {
                            Ok(event) => {
                                // The mark of a new list is made before the API server was asked.
                                if !matches!(event, watcher::Event::Init) {
                                    failures = 0;
                                }
                                on(event);
                            }
                            Err(error) => {
                                tracing::warn!(
                                    what,
                                    error = causes(&error),
                                    "following at the API server failed, trying again"
                                );
                                failures += 1;
                                if failures.is_multiple_of(FAILURES_PER_CLIENT) {
                                    break;
                                }
                                tokio::time::sleep(pause(failures)).await;
                            }
                        }
                    }
                }
            }
            failures = failures.max(1);
            tokio::time::sleep(pause(failures)).await;
        }
    };
    tokio::select! {
        () = cancel.cancelled() => {}
        () = follow => {}
    }
}

/// The error with what it comes from: `client error (Connect)` alone helps nobody.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        // Some tell their source themselves.
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        next = cause.source();
    }
    text
}

/// The pause after so many failures in a row: doubling, between half and whole so that nodes do not come all at once.
fn pause(failures: u32) -> Duration {
    let whole = RETRY_FIRST
        .saturating_mul(1 << failures.saturating_sub(1).min(10))
        .min(RETRY_LONGEST);
    let share = RandomState::new().hash_one(failures) % 512;
    whole / 2 + whole.mul_f64(share as f64 / 1024.0)
}

/// A pod with what ties it to its cgroup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodePod {
    /// The pod.
    pub pod: Pod,
    /// The UID that its cgroup carries.
    pub cgroup_uid: PodUid,
    /// Whether the kubelet says that it runs.
    pub running: bool,
    /// When it was made, in seconds since 1970.
    created: i64,
}

/// The node's pods by the UID that their cgroups carry.
pub type PodMap = HashMap<PodUid, Arc<NodePod>>;

impl NodePod {
    /// A running pod whose cgroup carries this UID, made so many seconds after 1970.
    pub(super) fn new(cgroup_uid: PodUid, pod: Pod, created: i64) -> Self {
        Self {
            pod,
            cgroup_uid,
            running: true,
            created,
        }
    }

    /// What is kept of the API server's object.
    fn read(object: core::Pod) -> Option<Self> {
        let meta = object.metadata;
        let spec = object.spec?;
        let status = object.status.unwrap_or_default();
        let uid = PodUid(meta.uid?);
        // A static pod's cgroup carries the hash of its manifest, not the UID of its mirror. Whoever may make pods can
        // write annotations, so only a hash is taken from them, which is never the UID of another pod from the API.
        let hash = meta.annotations.unwrap_or_default().remove(MIRROR_ANNOTATION);
        let cgroup_uid = hash
            .filter(|hash| is_manifest_hash(hash))
            .map_or_else(|| uid.clone(), PodUid);
        let running = status.phase.as_deref() == Some("Running");
        let containers = [
            status.container_statuses,
            status.init_container_statuses,
            status.ephemeral_container_statuses,
        ]
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|container| {
            let id = container.container_id?;
            let (_, id) = id.split_once("://")?;
            Some((id.to_owned(), container.name))
        })
        .collect();
        let pod = Pod {
            uid,
            namespace: meta.namespace?,
            name: meta.name?,
            service_account: spec.service_account_name.unwrap_or_default(),
            labels: meta.labels.unwrap_or_default(),
            node: spec.node_name.unwrap_or_default(),
            host_network: spec.host_network.unwrap_or_default(),
            ip: status.pod_ip.and_then(|ip| ip.parse().ok()),
            containers,
            cgroup: None,
        };
        let created = meta.creation_timestamp.map_or(0, |time| time.0.as_second());
        Some(Self {
            running,
            ..Self::new(cgroup_uid, pod, created)
        })
    }
}

/// The pods told of so far, by their own UID.
#[derive(Debug, Default)]
struct Told {
    known: BTreeMap<PodUid, Arc<NodePod>>,
    /// A new list while it is coming in.
    coming: BTreeMap<PodUid, Arc<NodePod>>,
    /// Whether a whole list has come in once.
    whole: bool,
}

impl Told {
    /// Takes an event in; says whether the known pods changed.
    fn take(&mut self, event: watcher::Event<core::Pod>) -> bool {
        match event {
            watcher::Event::Init => self.coming.clear(),
            watcher::Event::InitApply(object) => {
                if let Some(pod) = NodePod::read(object) {
                    self.coming.insert(pod.pod.uid.clone(), Arc::new(pod));
                }
            }
            watcher::Event::InitDone => {
                let first = !std::mem::replace(&mut self.whole, true);
                let before = std::mem::replace(&mut self.known, std::mem::take(&mut self.coming));
                return first || before != self.known;
            }
            watcher::Event::Apply(object) => {
                if let Some(pod) = NodePod::read(object) {
                    let pod = Arc::new(pod);
                    return self.known.insert(pod.pod.uid.clone(), pod.clone()) != Some(pod);
                }
            }
            watcher::Event::Delete(object) => {
                let uid = object.metadata.uid.map(PodUid);
                return uid.is_some_and(|uid| self.known.remove(&uid).is_some());
            }
        }
        false
    }

    /// The pods by the UID of their cgroups. Of two that claim one cgroup, which takes a forged mirror, the older one is
    /// believed.
    fn by_cgroup(&self) -> PodMap {
        let mut map = PodMap::with_capacity(self.known.len());
        for pod in self.known.values() {
            match map.entry(pod.cgroup_uid.clone()) {
                std::collections::hash_map::Entry::Vacant(free) => {
                    free.insert(pod.clone());
                }
                std::collections::hash_map::Entry::Occupied(mut taken) => {
                    tracing::warn!(
                        one = %taken.get().pod.name, other = %pod.pod.name, cgroup = %pod.cgroup_uid.0,
                        "two pods claim one cgroup, the older one is believed"
                    );
                    if pod.created < taken.get().created {
                        taken.insert(pod.clone());
                    }
                }
            }
        }
        map
    }
}

/// Follows the pods of this node until it is cancelled.
pub async fn pods(
    connector: Connector,
    node: String,
    pods: watch::Sender<Option<Arc<PodMap>>>,
    cancel: CancellationToken,
) {
    let config = watcher::Config::default().fields(&format!("spec.nodeName={node}"));
    let mut told = Told::default();
    follow(&connector, "pods", Api::all, config, &cancel, |event| {
        if told.take(event) && told.whole {
            pods.send_replace(Some(Arc::new(told.by_cgroup())));
        }
    })
    .await;
}

#[cfg(test)]
#[path = "api_tests.rs"]
mod tests;
