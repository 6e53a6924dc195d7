//! Connections that never became requests: each is counted and recorded.
//!
//! In: what the kernel denied, what listeners closed, processes that escaped their pods' cgroups. Out: counts, and audit
//! records to write.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::cause::{DenialCause, DeniedConnection};
use super::write::Denials;
use crate::audit::{Caller, Connection, KernelFacts, Outcome, PodRef, ProcessRef};
use crate::endpoints::ProtectedEndpoints;
use crate::endpoints::denied_as;
use crate::enforce::{WantedPort, WantedPorts};
use crate::kernel::{CgroupId, DenyReason, Kernel, KernelEvent, KernelEvents};
use crate::listener::{ProcessView, UnattributedConnection};
use crate::runtime::phase::{Phase, PhaseWatch};
use crate::workload::escapes::CgroupEscape;
use crate::workload::{Names, Pod, container_of, source_for};

/// When the kernel's events are this agent's to read: from the moment that no agent before it does, until it ends.
pub(crate) struct EventReader {
    /// Where they come from.
    pub(crate) kernel: Arc<Kernel>,
    /// How far the agent is: a predecessor reads them until it stops.
    pub(crate) phase: PhaseWatch,
    /// Fires when the agent ends.
    pub(crate) cancel: CancellationToken,
    /// Held while events are read.
    pub(crate) _reading: TaskTrackerToken,
}

impl EventReader {
    async fn opened(&self) -> Option<KernelEvents> {
        tokio::select! {
            reached = self.phase.reached(Phase::PredecessorStopped) => reached.ok()?,
            () = self.cancel.cancelled() => return None,
        }
        self.kernel
            .events()
            .inspect_err(|error| tracing::error!(%error, "the kernel's events cannot be read"))
            .ok()
    }
}

/// Counts every connect that the kernel denied, and submits it for its record. Binds to a listener's port go to `wanted_ports`
/// too: the listener moves away.
pub(crate) async fn kernel_events(
    reader: EventReader,
    endpoints: watch::Receiver<ProtectedEndpoints>,
    names: Arc<Names>,
    wanted_ports: WantedPorts,
    denials: Denials,
) {
    let Some(mut events) = reader.opened().await else {
        return;
    };
    let mut lookups = ProcessLookups::default();
    loop {
        let event = tokio::select! {
            event = events.next() => event,
            () = reader.cancel.cancelled() => {
                // The next agent reads from here.
                drop((events, reader));
                return std::future::pending().await;
            }
        };
        let event = match event {
            Ok(event) => event,
            Err(error) => {
                tracing::error!(%error, "the kernel's events cannot be read");
                return;
            }
        };
        if is_own(event.reason, event.pid) {
            continue;
        }
        if event.reason == Some(DenyReason::ListenerPort) {
            wanted_ports.report(WantedPort {
                cgroup: event.cgroup,
                number: event.pod,
                port: event.origin.port(),
            });
        }
        let cause = DenialCause::Kernel(event.reason);
        denials
            .metrics
            .denied(cause.code(), endpoint(event.origin, &endpoints.borrow()));
        let seen = if event.pid != 0 && lookups.take(event.cgroup, Instant::now()) {
            ProcessView::of(event.pid, event.at_ns).unwrap_or_default()
        } else {
            ProcessView::default()
        };
        let pod = names.find(event.cgroup, seen.cgroup.as_deref().map(Path::new));
        let pod = pod.as_ref().map(|pod| &pod.pod);
        denials.submit(denied(&event, pod, seen), pod);
    }
}

/// Whether it is the agent itself that binds a listener's port: after a restart the pod's class still has the listener of the agent before.
fn is_own(reason: Option<DenyReason>, pid: u32) -> bool {
    reason == Some(DenyReason::ListenerPort) && pid == std::process::id()
}

/// What is at a denied address, for metrics.
fn endpoint(address: SocketAddr, endpoints: &ProtectedEndpoints) -> &'static str {
    if endpoints.redirects(address) {
        return "api-server";
    }
    denied_as(address)
}

/// Bounds what looking processes up in /proc costs, for each classified cgroup by itself.
#[derive(Debug)]
struct ProcessLookups {
    since: Instant,
    taken: HashMap<CgroupId, u32>,
}

/// How long that goes for.
const INTERVAL: Duration = Duration::from_secs(1);

/// How many processes of one cgroup are looked up in a second: more than are written down as they are.
const LOOKUPS: u32 = 64;

/// How many cgroups that goes for; the folders of a node's pods are fewer.
const LOOKUPS_CGROUPS: usize = 1024;

impl Default for ProcessLookups {
    fn default() -> Self {
        Self {
            since: Instant::now(),
            taken: HashMap::new(),
        }
    }
}

impl ProcessLookups {
    fn take(&mut self, cgroup: CgroupId, now: Instant) -> bool {
        if now.duration_since(self.since) >= INTERVAL {
            self.since = now;
            self.taken.clear();
        }
        if self.taken.len() >= LOOKUPS_CGROUPS && !self.taken.contains_key(&cgroup) {
            return false;
        }
        let taken = self.taken.entry(cgroup).or_default();
        *taken += 1;
        *taken <= LOOKUPS
    }
}

fn denied(event: &KernelEvent, pod: Option<&Pod>, seen: ProcessView) -> DeniedConnection {
    let cause = DenialCause::Kernel(event.reason);
    let container = pod
        .zip(seen.cgroup.as_deref())
        .and_then(|(pod, cgroup)| container_of(pod, Path::new(cgroup)));
    // A packet is on its way without a process.
    let process = (event.pid != 0).then(|| ProcessRef {
        pid: event.pid,
        exe: seen.exe,
        comm: event.comm.clone(),
        uid: event.uid,
        escaped_to: None,
    });
    let address = (event.origin.port() != 0).then_some(event.origin);
    let denied = match event.reason {
        Some(DenyReason::Socket) => "denied a socket".to_owned(),
        Some(DenyReason::ListenerPort) => {
            format!("failed a bind to {}, the port of Picket's listener", event.origin)
        }
        Some(DenyReason::Packet | DenyReason::Encapsulated | DenyReason::Misdirected) => {
            format!("dropped a packet to {}", event.origin)
        }
        _ => format!("denied a connect to {}", event.origin),
    };
    let connection = Connection {
        caller: Some(Arc::new(Caller {
            container,
            ..caller(pod, process)
        })),
        source: pod.and_then(|pod| source_for(&pod.addresses, event.origin.ip())),
        kernel: KernelFacts {
            hook: event.hook.map_or("unknown", |hook| hook.as_str()).into(),
            family: family(event.origin.ip()).into(),
            protocol: protocol(event.protocol).into(),
            address,
            verdict: "deny".into(),
        },
        message: format!("the kernel {denied}: {}", cause.explain()),
        ..Connection::default()
    };
    DeniedConnection::new(cause, connection)
}

/// The record of a connection that a listener closed.
pub(crate) fn closed(unattributed_connection: &UnattributedConnection) -> DeniedConnection {
    let UnattributedConnection {
        workload,
        peer,
        local,
        cause,
    } = unattributed_connection;
    let workload = workload.as_deref();
    let connection = Connection {
        caller: Some(Arc::new(caller(workload, None))),
        source: workload.and_then(|pod| source_for(&pod.addresses, peer.ip())),
        kernel: KernelFacts {
            hook: "listener".into(),
            family: family(peer.ip()).into(),
            protocol: "tcp".into(),
            address: *local,
            verdict: "close".into(),
        },
        message: format!(
            "a connection from {peer} to Picket's listener was closed: {}",
            cause.explain()
        ),
        ..Connection::default()
    };
    DeniedConnection::new(DenialCause::Unattributed(*cause), connection)
}

/// The record of a process outside its pod's cgroup.
pub(crate) fn escaped(escape: &CgroupEscape, pod: Option<&Pod>) -> DeniedConnection {
    let seen = ProcessRef {
        pid: escape.pid,
        exe: None,
        comm: escape.comm.clone(),
        uid: escape.uid,
        escaped_to: Some(escape.cgroup.clone()),
    };
    let connection = Connection {
        caller: Some(Arc::new(caller(pod, Some(seen)))),
        source: pod.and_then(|pod| pod.addresses.first().copied()),
        kernel: KernelFacts {
            hook: "none".into(),
            verdict: "none".into(),
            ..KernelFacts::default()
        },
        outcome: Outcome::Error,
        message: format!(
            "a process of the pod is in cgroup {}, outside the pod's cgroup: its connections are {} as the pod's",
            escape.cgroup,
            if escape.held { "judged" } else { "not judged" },
        ),
        ..Connection::default()
    };
    DeniedConnection::new(DenialCause::CgroupEscape, connection)
}

fn caller(pod: Option<&Pod>, process: Option<ProcessRef>) -> Caller {
    Caller {
        pod: pod.map(|pod| PodRef {
            namespace: pod.namespace.clone(),
            name: pod.name.clone(),
            uid: pod.uid.0.clone(),
        }),
        container: None,
        service_account: pod.map(|pod| pod.service_account.clone()),
        process,
    }
}

fn family(address: IpAddr) -> &'static str {
    if address.is_ipv4() { "ipv4" } else { "ipv6" }
}

/// The IP protocol's name (IANA protocol numbers); the kernel gives 0 for a socket type's default.
fn protocol(number: u32) -> &'static str {
    match number {
        6 => "tcp",
        17 => "udp",
        132 => "sctp",
        262 => "mptcp",
        _ => "other",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::listener::UnattributedCause;

    #[test]
    fn a_connection_that_a_listener_closed_is_recorded_by_its_own_cause() {
        for cause in UnattributedCause::ALL {
            let denied = closed(&UnattributedConnection {
                workload: None,
                peer: "127.0.0.1:40000".parse().unwrap(),
                local: None,
                cause,
            });
            let connection = denied.connection();
            assert_eq!(connection.reason, cause.code());
            assert!(
                connection.message.ends_with(cause.explain()),
                "{}",
                connection.message
            );
        }
    }

    #[test]
    fn the_agents_own_listener_is_no_denial() {
        let own = std::process::id();
        assert!(is_own(Some(DenyReason::ListenerPort), own));
        assert!(!is_own(Some(DenyReason::ListenerPort), own + 1));
        assert!(!is_own(Some(DenyReason::Socket), own));
    }

    #[test]
    fn what_pods_dial_has_few_names() {
        let endpoints = ProtectedEndpoints {
            redirect: ["10.96.0.1:443".parse().unwrap()].into(),
            ..ProtectedEndpoints::default()
        };
        for (address, name) in [
            ("10.96.0.1:443", "api-server"),
            ("10.96.0.1:8443", "other"),
            ("10.0.0.7:10250", "kubelet"),
            ("[fd00::7]:10255", "kubelet"),
            ("10.0.0.7:2379", "etcd"),
            ("169.254.169.254:80", "metadata"),
            ("[fd00:ec2::254]:80", "metadata"),
            ("169.254.169.254:8080", "metadata"),
            ("10.0.0.7:988", "metadata"),
        ] {
            assert_eq!(endpoint(address.parse().unwrap(), &endpoints), name, "{address}");
        }
    }

    #[test]
    fn looks_are_bounded_for_each_cgroup_and_begin_anew() {
        let (mut lookups, now) = (ProcessLookups::default(), Instant::now());
        let flood = (0..1000).filter(|_| lookups.take(CgroupId(1), now)).count();
        assert_eq!(flood, LOOKUPS as usize);
        assert!(lookups.take(CgroupId(2), now), "another pod's are its own");
        assert!(lookups.take(CgroupId(1), now + INTERVAL));
        let cgroups = (0..100_000)
            .filter(|id| lookups.take(CgroupId(*id), now + INTERVAL))
            .count();
        assert!(cgroups <= LOOKUPS_CGROUPS + 1);
    }
}
