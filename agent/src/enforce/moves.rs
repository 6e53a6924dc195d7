//! Moves a pod's listener to another port when a program of the pod wants the one that it has.
//!
//! In: binds that the kernel reported, which failed (`EADDRINUSE`). Out: a listener on another port of the pod, and the former one
//! closed, so that the program gets the port when it binds again. No connection is lost: both listeners accept until nothing is on
//! its way to the former one. What comes there later is dropped by the kernel programs, whoever listens there.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::enforcer::{KernelEnforcer, MARK};
use super::table::{Accepting, EnforcedPod};
use super::wanted_ports::{WantedPort, WantedPorts};
use crate::kernel::KernelError;
use crate::kernel::destroy_sockets::destroy_dials;
use crate::kernel::lease::KernelWriteLease;
use crate::listener::{DRAIN_LIMIT, InPodListener, Owner, Sockets};
use crate::upgrade::{ListenerOffer, TransferredListener};
use crate::workload::{EnforceError, Netns, PodNetwork};

/// How often one pod's listener moves: a pod has a few ports, and one that tries all of them has no right to each.
const MOVES_MAX: usize = 16;

/// How long a connect may take from its redirect to its first packet; it takes microseconds where its process is not held up.
const ON_THE_WAY: Duration = Duration::from_millis(20);

/// What has to be known to move a listener.
struct Move {
    from: TransferredListener,
    netns: Netns,
    owner: Owner,
    /// Ends the serving of both listeners.
    cancel: CancellationToken,
    /// The ports that the pod wants or declares.
    wanted: BTreeSet<u16>,
}

/// Why a listener does not move.
#[derive(Debug, PartialEq, Eq)]
enum Stays {
    /// It has left that port already, or is none of its own.
    Elsewhere,
    /// It has moved so often.
    TooOften,
}

/// Moves listeners while the agent holds the kernel write lease.
pub(crate) async fn moves(
    enforcer: Arc<KernelEnforcer>,
    mut lease: KernelWriteLease,
    wanted_ports: WantedPorts,
) {
    let mut closing = JoinSet::new();
    loop {
        let wanted = tokio::select! {
            wanted = wanted_ports.next() => wanted,
            Some(_) = closing.join_next() => continue,
        };
        let Some(guard) = lease.acquire().await else {
            break;
        };
        let moved = enforcer.move_listener(wanted).await;
        drop(guard);
        match moved {
            Ok(None) => {}
            // What the former listener still takes changes nothing in the kernel, and no other pod is to wait for it. A pod has
            // MOVES_MAX of them at most.
            Ok(Some(former)) => drop(closing.spawn(former.closes(wanted.port))),
            Err(error) => {
                enforcer.metrics.listener("failed");
                tracing::error!(%error, port = wanted.port, "a listener cannot move from a port that a program of its pod wants");
            }
        }
    }
    std::future::pending().await
}

impl KernelEnforcer {
    /// Moves the pod's listener away from the port, if it is there.
    async fn move_listener(&self, wanted: WantedPort) -> Result<Option<Accepting>, EnforceError> {
        let WantedPort { cgroup, number, port } = wanted;
        let plan = match self.served.with(cgroup, number, |pod| plan(pod, port)) {
            Some(Ok(plan)) => plan,
            None | Some(Err(Stays::Elsewhere)) => return Ok(None),
            Some(Err(Stays::TooOften)) => {
                self.metrics.listener("stayed");
                // Its audit records tell of each, as far as the pod has not too many.
                tracing::debug!(
                    port,
                    "a program of a pod wants its listener's port, and the listener has moved {MOVES_MAX} times: it stays"
                );
                return Ok(None);
            }
        };
        let (kernel, netns, avoid) = (Arc::clone(&self.kernel), plan.netns.clone(), plan.wanted.clone());
        let opened = tokio::task::spawn_blocking(move || {
            let listener = InPodListener::open(&netns, &avoid)
                .map_err(EnforceError::at("open a listener in the pod"))?;
            kernel
                .mark_listener(listener.sockets())
                .map_err(EnforceError::at(MARK))?;
            Ok(listener)
        });
        let listener = opened
            .await
            .map_err(EnforceError::at("open a listener in the pod"))??;
        let to = listener.port();
        let offer =
            offer(&plan.from, &listener).map_err(EnforceError::at("keep descriptors of a listener"))?;
        let sockets = Sockets::new(listener).map_err(EnforceError::at("serve a listener"))?;
        let new = self.listen(sockets, cgroup, number, plan.owner, plan.cancel);
        match self.replace(wanted, to, offer, new)? {
            Some(former) => self.leave(wanted, to, plan.netns, former).await.map(Some),
            None => Ok(None),
        }
    }

    /// Has the kernel redirect to the new listener. Gives the former one, unless the pod is not enforced any more.
    fn replace(
        &self,
        wanted: WantedPort,
        to: u16,
        offer: ListenerOffer,
        new: Accepting,
    ) -> Result<Option<Accepting>, EnforceError> {
        let WantedPort { cgroup, number, port } = wanted;
        let mut new = Some(new);
        let replaced = |pod: &mut EnforcedPod| -> Result<Option<Accepting>, KernelError> {
            // Under the table's lock: who puts the pod's class in force again takes it from there.
            if !self.kernel.move_listener(cgroup, number, port, to)? {
                return Ok(None);
            }
            pod.left.insert(port);
            pod.offer = Arc::new(offer.counted());
            Ok(std::mem::replace(&mut pod.accepting, new.take()))
        };
        let former = self.served.with(cgroup, number, replaced).transpose();
        if let Some(unused) = new {
            unused.leave.cancel();
        }
        Ok(former
            .map_err(EnforceError::at("redirect to another listener"))?
            .flatten())
    }

    /// Leaves the former listener's port once nothing is on its way there, and gives the listener, which closes.
    async fn leave(
        &self,
        wanted: WantedPort,
        to: u16,
        netns: Netns,
        former: Accepting,
    ) -> Result<Accepting, EnforceError> {
        let WantedPort { cgroup, number, port } = wanted;
        tokio::time::sleep(ON_THE_WAY).await;
        let dials = tokio::task::spawn_blocking(move || destroy_dials(&netns, port)).await;
        if let Ok(Err(error)) = dials {
            // Those are dropped where another socket would answer them.
            tracing::warn!(%error, port, "the agent cannot destroy unanswered connections to a listener's former port");
        }
        let left = self.kernel.leave_port(cgroup, number, port);
        former.leave.cancel();
        self.metrics.listener("moved");
        tracing::info!(
            from = port,
            to,
            "a program of a pod wants its listener's port: the listener has moved"
        );
        left.map_err(EnforceError::at("leave a listener's port"))?;
        Ok(former)
    }
}

impl Accepting {
    /// Waits until a listener that leaves its port has closed.
    async fn closes(self, port: u16) {
        if timeout(2 * DRAIN_LIMIT, self.task).await.is_err() {
            // It closes by itself once its last connection has been taken; other pods' listeners are not to wait for that.
            tracing::warn!(port, "a listener that moved takes long to close");
        }
    }
}

/// What has to be known to move the pod's listener away from `port`.
fn plan(pod: &EnforcedPod, port: u16) -> Result<Move, Stays> {
    let (PodNetwork::Own(netns), Some(accepting)) = (&pod.network, &pod.accepting) else {
        return Err(Stays::Elsewhere);
    };
    if pod.offer.listener.port != port {
        return Err(Stays::Elsewhere);
    }
    if pod.left.len() >= MOVES_MAX {
        return Err(Stays::TooOften);
    }
    let mut wanted = pod.owner.pod.load().ports.clone();
    wanted.extend(&pod.left);
    wanted.insert(port);
    Ok(Move {
        from: pod.offer.listener.clone(),
        netns: netns.clone(),
        owner: pod.owner.clone(),
        cancel: accepting.cancel.clone(),
        wanted,
    })
}

/// The new listener, as it can be transferred.
fn offer(from: &TransferredListener, listener: &InPodListener) -> std::io::Result<ListenerOffer> {
    Ok(ListenerOffer {
        listener: TransferredListener {
            port: listener.port(),
            cookie: listener.netns_cookie(),
            ..from.clone()
        },
        descriptors: listener.descriptors()?,
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::table::EnforcedPods;
    use super::super::table::tests::{POD, pod};
    use super::*;
    use crate::kernel::CgroupId;

    /// A pod with a listener of its own at this port, as far as the table goes.
    fn listening(port: u16) -> EnforcedPod {
        let plain = pod(1);
        EnforcedPod {
            network: PodNetwork::Own(Netns::open(Path::new("/proc/self/ns/net")).unwrap()),
            accepting: Some(Accepting {
                cancel: CancellationToken::new(),
                leave: CancellationToken::new(),
                task: tokio::spawn(std::future::ready(())),
            }),
            offer: Arc::new(ListenerOffer {
                listener: TransferredListener {
                    port,
                    ..plain.offer.listener.clone()
                },
                descriptors: Vec::new(),
            }),
            ..plain
        }
    }

    #[tokio::test]
    async fn a_listener_moves_from_its_own_port_alone_and_to_none_that_the_pod_wants() {
        let mut pod = listening(64_320);
        assert_eq!(plan(&pod, 64_321).err(), Some(Stays::Elsewhere));
        pod.left.insert(64_325);
        let mut facts = (*pod.owner.pod.load_full()).clone();
        facts.ports.insert(64_330);
        pod.owner.pod.store(Arc::new(facts));
        let plan = plan(&pod, 64_320).ok().unwrap();
        assert_eq!(plan.wanted, BTreeSet::from([64_320, 64_325, 64_330]));
        assert_eq!(plan.from.port, 64_320);
    }

    #[tokio::test]
    async fn a_listener_moves_so_often_and_the_nodes_never() {
        let mut often = listening(64_320);
        often.left = (0..MOVES_MAX as u16 - 1).collect();
        assert!(plan(&often, 64_320).is_ok());
        often.left.insert(9_000);
        assert_eq!(plan(&often, 64_320).err(), Some(Stays::TooOften));
        assert_eq!(plan(&pod(1), 4443).err(), Some(Stays::Elsewhere), "the node's");
    }

    #[tokio::test]
    async fn a_report_of_an_earlier_enforcement_moves_nothing() {
        let enforced = EnforcedPods::default();
        enforced.insert(POD, listening(64_320));
        assert!(enforced.with(POD, 2, |_| ()).is_none());
        assert!(enforced.with(CgroupId(8), 1, |_| ()).is_none());
        assert!(enforced.with(POD, 1, |pod| plan(pod, 64_320).is_ok()).unwrap());
    }
}
