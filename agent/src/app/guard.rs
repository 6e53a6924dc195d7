//! The guard of a boot: closes the node's pods from before the first one starts until an agent serves, where the agent is a pod itself.
//!
//! In: the configuration and the checkpoint of the last agent that served. Out: kernel programs that close the folders of all pods as
//! soon as the kubelet makes them. Nobody is enforced and nothing is judged: that is the agent's work, which takes the programs over.
//!
//! The guard leaves classes alone that an agent set, so that both may run for a moment.

use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval_at};
use tokio_util::sync::CancellationToken;

use super::boot::{self, ProgrammedNode};
use super::checkpoint::NodeCheckpoint;
use super::settings::cgroup_root;
use crate::config::Config;
use crate::enforce;
use crate::runtime::readiness::Readiness;
use crate::runtime::signals;
use crate::upgrade;
use crate::workload::tree::Tree;

/// How often the guard looks for an agent. An agent that serves needs no guard, and is not disturbed by one.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// Why a guard ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GuardEnd {
    /// An agent serves.
    AgentServes,
    /// It was asked to stop. What is closed stays closed.
    Stopped,
}

/// Closes the node, and each folder of pods that comes, until an agent serves or the process is asked to stop.
///
/// # Errors
/// The kernel programs cannot be loaded, the cgroup tree cannot be read, or an agent is there that does not answer.
pub async fn guard_node(config: &Config, checkpoint: &NodeCheckpoint) -> anyhow::Result<GuardEnd> {
    if serves(config).await? {
        return Ok(GuardEnd::AgentServes);
    }
    let readiness = Readiness::default();
    let node = ProgrammedNode::start(config, checkpoint, &readiness, None).await?;
    let known = boot::known_at_start(config, checkpoint, &node.kernel, &readiness).await?;
    let (tree, mut scans) = Tree::open(cgroup_root(config)?)?;
    let cancel = CancellationToken::new();
    let _ends_with_this = cancel.clone().drop_guard();
    tokio::spawn(tree.run(cancel));
    let mut stop = std::pin::pin!(signals::stop_from_now()?);
    signals::at_work();
    tracing::info!("the guard closes the node's pods until an agent serves");

    let mut looks = interval_at(Instant::now() + LOOK_INTERVAL, LOOK_INTERVAL);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = &mut stop => return Ok(GuardEnd::Stopped),
            _ = looks.tick() => {
                if serves(config).await? {
                    return Ok(GuardEnd::AgentServes);
                }
                // Kernel programs deny by `unclassifiedPods` while no agent lives, so that the guard sends no heartbeat.
            }
            changed = scans.changed() => {
                changed?;
                let scan = scans.borrow_and_update().clone();
                enforce::close_node(&node.kernel, &known, &scan, config.enforce.static_pods)?;
            }
        }
    }
}

async fn serves(config: &Config) -> anyhow::Result<bool> {
    let socket = config.admin.upgrade_socket();
    Ok(upgrade::has_predecessor(&socket, upgrade::REQUEST_LIMIT).await?)
}
