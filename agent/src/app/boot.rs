//! The node's first moments: the kernel programs, and what they close before anybody has answered.
//!
//! In: the configuration, and the checkpoint of the agent before. Out: kernel programs that know this agent and its listener, and
//! where no other agent serves, a node that is closed to every protected endpoint that is known. Then nothing ends a start before
//! the node is closed but another agent, and what closing it takes: the programs themselves and the cgroup folder.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context;

use super::checkpoint::{self, NodeCheckpoint};
use super::settings::{cgroup_root, endpoints_config};
use crate::admin::{self, ConfiguredName, PrivateSocket, SocketError};
use crate::cluster::Connector;
use crate::config::Config;
use crate::endpoints::{self, EndpointTarget, ProtectedEndpoints};
use crate::enforce::{self, watchdog};
use crate::kernel::{Kernel, KernelConfig, NodeState};
use crate::listener::InPodListener;
use crate::runtime::readiness::Readiness;
use crate::upgrade::{self, Successor};
use crate::workload::Netns;
use crate::workload::tree::Tree;

/// What an agent has from its first moments on.
pub(super) struct Beginning {
    /// Its admin socket. Alone, an agent that cannot make it closes the node before it ends.
    pub(super) socket: Result<(PrivateSocket, ConfiguredName), SocketError>,
    pub(super) node: ProgrammedNode,
}

/// Kernel programs that know this agent.
pub(super) struct ProgrammedNode {
    pub(super) kernel: Arc<Kernel>,
    /// The node's own network namespace, and the listener for pods that share it.
    pub(super) netns: Netns,
    pub(super) listener: InPodListener,
}

impl ProgrammedNode {
    /// Loads the kernel programs. Without a predecessor they close the node at once; otherwise its programs hold the pods.
    ///
    /// # Errors
    /// They cannot be loaded, or not be told of this agent.
    pub(super) async fn start(
        config: &Config,
        checkpoint: &NodeCheckpoint,
        readiness: &Readiness,
        successor: Option<&Successor>,
    ) -> anyhow::Result<Self> {
        let kernel = load_kernel(config, checkpoint, readiness, successor.is_none()).await?;
        let (netns, listener) = node_listener(successor)?;
        prepare_kernel(&kernel, config, &listener)?;
        Ok(Self {
            kernel,
            netns,
            listener,
        })
    }
}

/// Begins as the only agent of the node, where that is so; `None` where another one serves. Nothing has been read by then that could
/// be at fault, and nobody been asked who could take long.
///
/// # Errors
/// Another agent starts at this moment, upgrades or hangs; or as [`ProgrammedNode::start`].
pub(super) async fn begin_alone(
    config: &Config,
    checkpoint: &NodeCheckpoint,
    readiness: &Readiness,
) -> anyhow::Result<Option<Beginning>> {
    let socket = config.admin.upgrade_socket();
    if upgrade::has_predecessor(&socket, upgrade::REQUEST_LIMIT).await? {
        return Ok(None);
    }
    begin_first(config, checkpoint, readiness).await.map(Some)
}

/// Likewise, where it is known that nobody serves.
pub(super) async fn begin_first(
    config: &Config,
    checkpoint: &NodeCheckpoint,
    readiness: &Readiness,
) -> anyhow::Result<Beginning> {
    let socket = admin::open_own_socket(&config.admin.socket, true).await;
    // The other agent closes the node.
    if let Err(error @ SocketError::Taken(_)) = socket {
        return Err(error.into());
    }
    let node = ProgrammedNode::start(config, checkpoint, readiness, None).await?;
    Ok(Beginning { socket, node })
}

/// Loads the kernel programs. `alone`, they close the node at once; otherwise the predecessor's hold its pods.
async fn load_kernel(
    config: &Config,
    checkpoint: &NodeCheckpoint,
    readiness: &Readiness,
    alone: bool,
) -> anyhow::Result<Arc<Kernel>> {
    let cgroup_root = cgroup_root(config)?;
    let settings = KernelConfig {
        cgroup_root: cgroup_root.clone(),
        bpffs: config.kernel.bpffs.clone(),
    };
    let kernel = watchdog::load(&settings, readiness, alone)?;
    if alone {
        let known = known_at_start(config, checkpoint, &kernel, readiness).await?;
        let (_, scan) = Tree::open(cgroup_root)?;
        enforce::close_node(&kernel, &known, &scan.borrow(), config.enforce.static_pods)
            .context("the node cannot be closed")?;
    }
    Ok(kernel)
}

/// Closes the node as an agent with this configuration would whose start fails; whether it did: nothing is changed while an agent
/// serves.
///
/// # Errors
/// The kernel programs cannot be loaded, or an agent is there that does not answer.
pub async fn close_node(config: &Config, checkpoint: &NodeCheckpoint) -> anyhow::Result<bool> {
    let socket = config.admin.upgrade_socket();
    if upgrade::has_predecessor(&socket, upgrade::REQUEST_LIMIT).await? {
        return Ok(false);
    }
    ProgrammedNode::start(config, checkpoint, &Readiness::default(), None).await?;
    Ok(true)
}

/// The protected endpoints that are known before anybody has answered: those of the configuration and of the node, and those that
/// were in force last.
pub(super) async fn known_at_start(
    config: &Config,
    checkpoint: &NodeCheckpoint,
    kernel: &Kernel,
    readiness: &Readiness,
) -> anyhow::Result<ProtectedEndpoints> {
    let mut settings = endpoints_config(config, ProtectedEndpoints::default());
    // The API server that the agent itself asks.
    if let Ok(server) = Connector::new(&config.cluster.kubeconfig).server().await {
        settings.redirect.extend(EndpointTarget::of_url(&server));
    }
    let service = checkpoint::service_of_environment(|name| std::env::var(name).ok());
    settings.redirect.extend(service.map(EndpointTarget::Address));
    let allow = settings.allow.clone();
    let mut known = endpoints::known_at_start(settings);
    let last = checkpoint.endpoints().unwrap_or_else(|error| {
        tracing::warn!(%error, "the agent cannot use the protected endpoints that were in force before the boot");
        None
    });
    let is_known = service.is_some()
        || last.is_some()
        || !config.protected_endpoints.api_server.is_empty()
        // An earlier agent learned more from the cluster, and the kernel holds it.
        || !enforce::in_kernel(kernel)?.redirect.is_subset(&known.redirect);
    if !is_known {
        checkpoint::service_is_open(readiness);
    }
    if let Some(last) = last {
        checkpoint::add_last_known(&mut known, last, &allow);
    }
    Ok(known)
}

/// The node's own network namespace, with the listener of the predecessor there or a new one.
fn node_listener(successor: Option<&Successor>) -> anyhow::Result<(Netns, InPodListener)> {
    let node = Netns::open(Path::new("/proc/self/ns/net"))?;
    let inherited = successor.and_then(|successor| successor.inherited.claim_node(node.id()));
    let listener = match inherited {
        Some(listener) => listener,
        None => InPodListener::open(&node, &Default::default())
            .context("the listener for pods in the node's network")?,
    };
    Ok((node, listener))
}

/// Tells the kernel programs of this agent.
fn prepare_kernel(kernel: &Kernel, config: &Config, listener: &InPodListener) -> anyhow::Result<()> {
    kernel.mark_listener(listener.sockets())?;
    kernel.set_node(NodeState {
        netns: listener.netns_cookie(),
        port: Some(listener.port()),
        unclassified: config.enforce.unclassified_pods,
    })?;
    kernel.heartbeat()?;
    Ok(())
}
