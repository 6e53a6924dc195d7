//! One attempt to enforce a pod, or to see that it still is.
//!
//! In: a pod's cgroup and what is known of the pod. Out: how it went. An attempt runs beside the others, for a limited time.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::task::JoinSet;

use super::Pod;
use super::enforce::{CoverageReport, EnforceError, Enforcement, Enforcer, PodNetwork};
use super::levels::{self, TooDeep};
use super::netns::{Netns, NetnsError, NetnsId};
use super::pods::NodePod;
use super::slot::{Applied, DESTROYING_CHECKS, Slot};

/// How long one attempt may take; opening a listener takes milliseconds.
const ATTEMPT_LIMIT: Duration = Duration::from_secs(5);

/// Finds the network namespace of the pod with this cgroup.
pub(super) type FindNetns = Arc<dyn Fn(&Path) -> Result<Netns, NetnsError> + Send + Sync>;

/// How an attempt ended.
pub(super) enum Outcome<H> {
    /// It is served already where it should be; how the look after it ended.
    Same(Result<CoverageReport, String>),
    /// A listener serves the pod: it is enforced.
    Enforced {
        handle: H,
        own: Option<NetnsId>,
        pod: Arc<ArcSwap<Pod>>,
    },
    /// There is no namespace yet.
    NotYet,
    /// The kernel programs do not look as deep as its cgroup lies: they find the class of a folder above it at most.
    TooDeep(TooDeep),
    /// It failed; what the kernel holds may have changed.
    Failed(String),
}

/// One attempt to enforce a pod, or to see that it still is.
pub(super) fn attempt<E: Enforcer>(
    enforcer: Arc<E>,
    find: FindNetns,
    slot: &Slot<E::Handle>,
    pod: Arc<NodePod>,
) -> impl Future<Output = Outcome<E::Handle>> + Send + use<E> {
    let served = match &slot.applied {
        Applied::Enforced { own, pod, checks, .. } => Some((*own, pod.clone(), *checks)),
        _ => None,
    };
    let group = slot.found.group.clone();
    let facts = Arc::new(ArcSwap::from_pointee(slot.facts(&pod)));
    let reach = levels::check(group.level);
    async move {
        if let Err(error) = reach {
            return Outcome::TooDeep(error);
        }
        let network = if pod.pod.host_network {
            PodNetwork::Node
        } else {
            let path: PathBuf = group.path.clone();
            match tokio::task::spawn_blocking(move || find(&path)).await {
                Ok(Ok(netns)) => PodNetwork::Own(netns),
                Ok(Err(NetnsError::NotYet)) => return Outcome::NotYet,
                Ok(Err(error)) => return Outcome::Failed(error.to_string()),
                Err(error) => return Outcome::Failed(error.to_string()),
            }
        };
        let own = network.own();
        if let Some((_, pod, checks)) = served.filter(|(served, ..)| *served == own) {
            let enforcement = Enforcement { group, network, pod };
            let destroy = checks < DESTROYING_CHECKS;
            return Outcome::Same(
                guarded(async move { enforcer.maintain(enforcement, destroy).await }).await,
            );
        }
        let enforcement = Enforcement {
            group,
            network,
            pod: facts.clone(),
        };
        match guarded(async move { enforcer.enforce(enforcement).await }).await {
            Ok(handle) => Outcome::Enforced {
                handle,
                own,
                pod: facts,
            },
            Err(error) => Outcome::Failed(error),
        }
    }
}

/// Runs one of an enforcer's calls for a limited time, in a task of its own, so that a panic in it is one pod's failure and
/// nobody else's.
async fn guarded<T: Send + 'static>(
    call: impl Future<Output = Result<T, EnforceError>> + Send + 'static,
) -> Result<T, String> {
    let mut tasks = JoinSet::new();
    tasks.spawn(call);
    match tokio::time::timeout(ATTEMPT_LIMIT, tasks.join_next()).await {
        Ok(Some(Ok(outcome))) => outcome.map_err(|error| error.to_string()),
        Ok(Some(Err(error))) => Err(error.to_string()),
        Ok(None) | Err(_) => Err(format!("it took longer than {} s", ATTEMPT_LIMIT.as_secs())),
    }
}
