//! The addresses that are protected endpoints: the API server's, by whatever name, and those that no enforced pod may reach.
//!
//! In: Services, endpoint slices and nodes of the whole cluster, the node's own addresses, DNS, and addresses from the
//! configuration. Out: [`ProtectedEndpoints`] through a watch channel. While the API server is away, or says that it has no
//! address at all, the last ones stand.
//!
//! - [`projections`] reads objects, [`cache`] keeps them; [`dns`] does so for names, [`node_addresses`] for this node's interfaces;
//! - [`derive`] (derive.rs) says which addresses are protected endpoints: an API server's, those to be denied, and Services
//!   that lead there;
//! - [`bounded`] keeps what counts as the API server itself to a few hundred addresses;
//! - [`index`] holds all of it, with what was withdrawn a short time ago ([`grace`]).
//!
//! enforce/endpoints.rs puts the set into the kernel.

mod bounded;
mod cache;
mod derive;
mod dns;
mod grace;
mod index;
mod node_addresses;
mod projections;
mod target;
#[cfg(test)]
mod testing;

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use futures::StreamExt;
use kube::Api;
use kube::runtime::watcher;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub use derive::{by_link, denied_as};
pub use dns::{Resolve, SystemResolver};
pub use target::{EndpointTarget, EndpointTargetError};

use crate::cluster::{Connector, follow};
use index::EndpointIndex;

/// How often names are looked up: load balancers' records live a minute, and change in part.
const RESOLVE_EVERY: Duration = Duration::from_secs(30);

/// How long one lookup may take. The machine's resolver gives up after five to thirty seconds by itself.
const RESOLVE_LIMIT: Duration = Duration::from_secs(15);

/// Lookups at a time; each may hold a thread.
const RESOLVE_AT_ONCE: usize = 8;

/// How often the node's own addresses are read although the kernel reported no change. One reading takes a fraction of a
/// millisecond.
const NODE_ADDRESSES_INTERVAL: Duration = Duration::from_secs(1);

/// The shortest time between two readings.
const NODE_ADDRESSES_GAP: Duration = Duration::from_millis(10);

/// How often the protected endpoints are looked at although nothing changed, for those whose time is over.
const REFRESH_INTERVAL: Duration = Duration::from_secs(10);

/// The shortest time between two looks: events come in bursts, and a look at the largest clusters takes some 20 ms.
const REFRESH_GAP: Duration = Duration::from_millis(50);

/// How often a kubeconfig is read that could not be used at the start.
const KUBECONFIG_INTERVAL: Duration = Duration::from_secs(1);

/// How many addresses of a change go into the log.
const LOGGED_ADDRESSES: usize = 16;

/// The addresses that are protected endpoints. No address is in both sets.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProtectedEndpoints {
    /// Those that are the API server: enforced pods are taken to Picket instead.
    pub redirect: BTreeSet<SocketAddr>,
    /// Those that no enforced pod may reach.
    pub deny: BTreeSet<SocketAddr>,
    /// Whether the cluster has told its own. Until then the sets hold what is known without it and must be added to
    /// what the kernel holds, never put in its place: that would open the protected endpoints that are missing.
    pub whole: bool,
    /// How many addresses, names and objects of protected endpoints are left out, because there are more than a limit allows; at least
    /// so many. Enforced pods can reach them.
    pub omitted: usize,
    /// Of those, how many are the API server's own addresses, configured ones, or the cloud's metadata.
    pub essential_omitted: usize,
}

impl ProtectedEndpoints {
    /// Whether a connection to this address is redirected.
    #[must_use]
    pub fn redirects(&self, address: SocketAddr) -> bool {
        let link = SocketAddr::new(by_link(address.ip()), address.port());
        self.redirect.contains(&address) || self.redirect.contains(&link)
    }
}

/// The settings of this part.
#[derive(Debug, Clone, Default)]
pub struct ProtectedEndpointsConfig {
    /// This node's name.
    pub node: String,
    /// Where the API server is, besides the addresses that the cluster names.
    pub redirect: Vec<EndpointTarget>,
    /// What enforced pods may not reach, besides kubelets, etcd, container runtimes and cloud metadata.
    pub deny: Vec<EndpointTarget>,
    /// Ports that they may not reach on any node: those of gateways and metrics.
    pub deny_on_nodes: Vec<u16>,
    /// What of all that they may reach after all.
    pub allow: BTreeSet<SocketAddr>,
    /// The protected endpoints that the kernel has already, from an agent before this one.
    pub inherited: ProtectedEndpoints,
}

/// Where the protected endpoints are made known, and their sources beside the API server.
pub struct LocalSources<R, O> {
    /// Looks names up.
    pub resolver: R,
    /// The node's own addresses.
    pub node_addresses: O,
}

impl LocalSources<SystemResolver, fn() -> io::Result<BTreeSet<IpAddr>>> {
    /// Those of this machine.
    #[must_use]
    pub fn machine() -> Self {
        Self {
            resolver: SystemResolver,
            node_addresses: node_addresses::addresses,
        }
    }
}

/// Everything that the tasks share. Locks are held for a moment, never over an await.
struct Shared {
    index: Mutex<EndpointIndex>,
    /// The protected endpoints may have changed.
    changed: Notify,
    /// There are names nobody has looked up yet.
    names: Notify,
    endpoints: watch::Sender<ProtectedEndpoints>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, EndpointIndex> {
        self.index.lock()
    }

    /// Lets `on` take something in; it says whether that may change the protected endpoints.
    fn update(&self, on: impl FnOnce(&mut EndpointIndex) -> bool) {
        if on(&mut self.lock()) {
            self.changed.notify_one();
        }
    }

    /// Finds the protected endpoints of now and hands them out.
    fn refresh(&self) {
        let (endpoints, new_names) = self.lock().refresh(Instant::now());
        if new_names {
            self.names.notify_one();
        }
        self.endpoints.send_if_modified(|last| {
            let changed = *last != endpoints;
            if changed {
                log(last, &endpoints);
                *last = endpoints;
            }
            changed
        });
    }
}

/// The protected endpoints that are known without the cluster and without DNS, at this moment.
#[must_use]
pub fn known_at_start(config: ProtectedEndpointsConfig) -> ProtectedEndpoints {
    let mut index = EndpointIndex::new(config, kernel_limit());
    match node_addresses::addresses() {
        Ok(addresses) => drop(index.set_node_addresses(addresses)),
        Err(error) => tracing::warn!(%error, "the agent cannot read the node's addresses at its start"),
    }
    index.refresh(Instant::now()).0
}

/// How many protected endpoints the kernel holds.
fn kernel_limit() -> usize {
    usize::try_from(picket_common::ENDPOINTS_MAX).unwrap_or(usize::MAX)
}

/// Begins: the protected endpoints that are known without the cluster, and the part that finds the others when it is run.
pub fn start<R, O>(
    config: ProtectedEndpointsConfig,
    sources: LocalSources<R, O>,
) -> (watch::Receiver<ProtectedEndpoints>, Finder<R, O>)
where
    R: Resolve,
    O: Fn() -> io::Result<BTreeSet<IpAddr>> + Send + Sync,
{
    let (sender, endpoints) = watch::channel(ProtectedEndpoints::default());
    let shared = Shared {
        index: Mutex::new(EndpointIndex::new(config, kernel_limit())),
        changed: Notify::new(),
        names: Notify::new(),
        endpoints: sender,
    };
    let finder = Finder {
        shared,
        sources,
        resolve_every: RESOLVE_EVERY,
        learns_server: false,
    };
    finder.read_node_addresses();
    finder.shared.refresh();
    (endpoints, finder)
}

/// Finds protected endpoints.
pub struct Finder<R, O> {
    shared: Shared,
    sources: LocalSources<R, O>,
    resolve_every: Duration,
    learns_server: bool,
}

impl<R, O> Finder<R, O>
where
    R: Resolve,
    O: Fn() -> io::Result<BTreeSet<IpAddr>> + Send + Sync,
{
    /// Takes the API server of the connector's kubeconfig in once that can be read. Until then nothing is asked of the cluster, so
    /// that the set is not whole.
    #[must_use]
    pub fn learning_server(mut self) -> Self {
        self.learns_server = true;
        self
    }

    /// Follows everything until it is cancelled.
    pub async fn run(self, connector: Connector, cancel: CancellationToken) {
        let shared = &self.shared;
        // The API server's lists are of the whole cluster: anyone's Service may lead to a protected endpoint.
        let all = watcher::Config::default;
        let follow_all = async {
            if self.learns_server {
                self.learn_server(&connector).await;
            }
            tokio::join!(
                follow(&connector, "services", Api::all, all(), &cancel, |event| shared
                    .update(|index| index.service(event))),
                follow(&connector, "endpoint slices", Api::all, all(), &cancel, |event| {
                    shared.update(|index| index.slice(event))
                }),
                follow(&connector, "nodes", Api::all, all(), &cancel, |event| shared
                    .update(|index| index.node(event))),
            )
        };
        let here = async {
            tokio::join!(
                self.follow_node_addresses(),
                self.follow_names(),
                self.follow_changes()
            )
        };
        tokio::select! {
            () = cancel.cancelled() => {}
            _ = async { tokio::join!(follow_all, here) } => {}
        }
    }

    async fn learn_server(&self, connector: &Connector) {
        let server = loop {
            if let Ok(server) = connector.server().await {
                break server;
            }
            tokio::time::sleep(KUBECONFIG_INTERVAL).await;
        };
        if let Some(target) = EndpointTarget::of_url(&server) {
            self.shared.update(|index| index.redirect_too(target));
        }
    }

    async fn follow_node_addresses(&self) {
        let changes = node_addresses::Changes::open().inspect_err(|error| {
            tracing::warn!(%error, "the kernel does not report new addresses of the node; the agent reads the addresses every second");
        });
        loop {
            let changed = async {
                let told = match &changes {
                    Ok(changes) => changes.next().await.is_ok(),
                    Err(_) => false,
                };
                if !told {
                    std::future::pending::<()>().await;
                }
            };
            // Elapsed or reported: both are reasons to read.
            let _ = tokio::time::timeout(NODE_ADDRESSES_INTERVAL, changed).await;
            self.read_node_addresses();
            tokio::time::sleep(NODE_ADDRESSES_GAP).await;
        }
    }

    fn read_node_addresses(&self) {
        match (self.sources.node_addresses)() {
            Ok(addresses) => self.shared.update(|index| index.set_node_addresses(addresses)),
            Err(error) => {
                tracing::warn!(%error, "the agent cannot read the node's addresses, and keeps the last ones");
            }
        }
    }

    async fn follow_names(&self) {
        let mut tick = tokio::time::interval(self.resolve_every);
        loop {
            tokio::select! {
                _ = tick.tick() => {}
                () = self.shared.names.notified() => {}
            }
            let wanted = self.shared.lock().wanted();
            let lookups = futures::stream::iter(wanted).map(|host| async move {
                let found = tokio::time::timeout(RESOLVE_LIMIT, self.sources.resolver.resolve(&host)).await;
                let found = found.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
                (host, found)
            });
            let mut lookups = lookups.buffer_unordered(RESOLVE_AT_ONCE);
            while let Some((host, found)) = lookups.next().await {
                match found {
                    Ok(addresses) => self.shared.update(|index| {
                        index.answer(&host, &addresses, Instant::now());
                        true
                    }),
                    Err(error) => {
                        tracing::warn!(host, %error, "the agent cannot resolve the name of a protected endpoint, and keeps the last addresses");
                    }
                }
            }
            if let Some(host) = self.shared.lock().waiting_for_name() {
                tracing::error!(
                    host,
                    "DNS has not resolved a configured name yet; until then the agent removes no protected endpoint"
                );
            }
        }
    }

    async fn follow_changes(&self) {
        loop {
            // Elapsed or reported: both are reasons to look.
            let _ = tokio::time::timeout(REFRESH_INTERVAL, self.shared.changed.notified()).await;
            self.shared.refresh();
            tokio::time::sleep(REFRESH_GAP).await;
        }
    }
}

/// Writes down what changed.
fn log(last: &ProtectedEndpoints, now: &ProtectedEndpoints) {
    let first = |of: &BTreeSet<SocketAddr>, without: &BTreeSet<SocketAddr>| -> Vec<SocketAddr> {
        of.difference(without).take(LOGGED_ADDRESSES).copied().collect()
    };
    tracing::info!(
        redirect = now.redirect.len(), deny = now.deny.len(), whole = now.whole,
        redirected = ?first(&now.redirect, &last.redirect), denied = ?first(&now.deny, &last.deny),
        no_longer_redirected = ?first(&last.redirect, &now.redirect), no_longer_denied = ?first(&last.deny, &now.deny),
        "the protected endpoints changed"
    );
    if now.omitted > last.omitted {
        tracing::error!(
            omitted = now.omitted,
            limit = picket_common::ENDPOINTS_MAX,
            "the agent leaves protected endpoints out because a limit is reached: enforced pods can reach them"
        );
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
