//! Every kind of socket that a pod may try a protected endpoint with, tried.
//!
//! In: a cgroup to try in. Out: a [`Check`] for each kind: redirected to Picket, denied, dropped, or past it. The trial's
//! protected endpoint is on loopback, and a server behind it says whether anything got there.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::attempt::{LISTENER, NOTHING, REPLY_TIMEOUT, SERVER, TrialOutcome};
use super::error::TrialError;
use super::kind::{SocketKind, Wanted};
use super::test_network::{LOOPBACK, TestNetwork};
use super::{Check, CheckStatus, NEEDS_BPFFS, Surroundings, Trial};
use crate::kernel::{
    CgroupId, Class, DenyReason, FailMode, Kernel, KernelConfig, NodeState, ProtectedEndpoint, within,
};

/// Starts a process that makes an attempt, in the network namespace of the calling thread; [`super::attempt`] is what it has to
/// do.
pub type TrySocket<'a> = dyn Fn(SocketKind, &Path, SocketAddr) -> io::Result<TrialOutcome> + Sync + 'a;

/// Tries every kind.
pub(super) fn checks(surroundings: &Surroundings, cgroup: &Trial, try_socket: &TrySocket<'_>) -> Vec<Check> {
    let Some(bpffs) = super::trial_pins(surroundings, "sockets") else {
        return untried(NEEDS_BPFFS);
    };
    let failed = |reason: String| {
        let advice = "run as root, and remove other programs that attach to the same cgroup exclusively";
        Check::bad("sockets", CheckStatus::Missing, reason, advice)
    };
    let mut checks = match TrialSetup::new(&bpffs, cgroup) {
        Ok(setup) => SocketKind::ALL
            .into_iter()
            .map(|kind| setup.check(kind, try_socket))
            .collect(),
        Err(error) => {
            let mut checks = vec![failed(error.to_string())];
            checks.extend(untried("the check `sockets` above to pass"));
            checks
        }
    };
    if let Err(error) = Kernel::unload(&bpffs) {
        checks.push(failed(format!("cannot clean up: {error}")));
    }
    checks
}

/// Every kind, where none can be tried.
pub(super) fn untried(needs: &str) -> Vec<Check> {
    SocketKind::ALL
        .into_iter()
        .map(|kind| Check::untried(kind.title(), needs))
        .collect()
}

/// What the trials need: a loaded kernel, a cgroup and test networks.
struct TrialSetup {
    kernel: Kernel,
    pod: PathBuf,
    id: CgroupId,
    node: TestNetwork,
    /// Where the pod has a network of its own.
    apart: TestNetwork,
    /// The same, where nothing passes but what is sent past the network stack: whatever else is for loopback counts as dropped.
    bare: TestNetwork,
}

impl TrialSetup {
    fn new(bpffs: &Path, cgroup: &Trial) -> Result<Self, TrialError> {
        let pod = cgroup.path.join("pod");
        fs::create_dir(&pod)?;
        let node = TestNetwork::node()?;
        let [apart, bare] =
            [TestNetwork::apart(), TestNetwork::apart()].map(|made| made.map_err(TrialError::Namespace));
        let (apart, bare) = (apart?, bare?);
        let kernel = Kernel::load(&KernelConfig {
            cgroup_root: cgroup.path.clone(),
            bpffs: bpffs.to_owned(),
        })?;
        kernel.set_node(NodeState {
            netns: node.cookie,
            port: Some(node.port),
            unclassified: FailMode::Closed,
        })?;
        let endpoints = [Some(node.endpoint), node.endpoint6, Some(apart.endpoint)];
        kernel.set_endpoints(
            &endpoints
                .into_iter()
                .flatten()
                .map(ProtectedEndpoint::redirect)
                .collect(),
        )?;
        let id = CgroupId::of(&pod)?;
        Ok(Self {
            kernel,
            pod,
            id,
            node,
            apart,
            bare,
        })
    }

    fn check(&self, kind: SocketKind, try_socket: &TrySocket<'_>) -> Check {
        const REFUSED: &str = "denied with EPERM";
        const DROPPED: &str = "packets dropped";
        const ADVICE: &str = "pods with such sockets bypass Picket: run no AI agents on this node";
        const PACKET_ADVICE: &str = "TCX needs Linux 6.6; before that, forbid pods CAP_NET_RAW";
        let advice = if kind.passes_stack() {
            PACKET_ADVICE
        } else {
            ADVICE
        };
        let title = kind.title();
        match (self.outcome(kind, try_socket), kind.wanted()) {
            (Ok(TrialOutcome::Absent), _) => Check::ok(title, "this kernel has no such sockets"),
            (Ok(TrialOutcome::Redirected), Wanted::Redirected) => Check::ok(title, "redirected to Picket"),
            (Ok(TrialOutcome::Denied), Wanted::Denied | Wanted::Dropped) => Check::ok(title, REFUSED),
            (Ok(TrialOutcome::Dropped), Wanted::Denied | Wanted::Dropped) => Check::ok(title, DROPPED),
            // Stricter than wanted: nothing gets out, and clients that need it do not work.
            (Ok(stricter @ (TrialOutcome::Denied | TrialOutcome::Dropped)), Wanted::Redirected) => {
                Check::bad(
                    title,
                    CheckStatus::Degraded,
                    if stricter == TrialOutcome::Denied {
                        REFUSED
                    } else {
                        DROPPED
                    },
                    "clients with such sockets do not work here",
                )
            }
            (Ok(TrialOutcome::Past | TrialOutcome::Redirected), _) => {
                Check::bad(title, CheckStatus::Open, "bypassed Picket", advice)
            }
            (Err(error), _) => Check::bad(title, CheckStatus::Open, format!("not known: {error}"), advice),
        }
    }

    fn outcome(&self, kind: SocketKind, try_socket: &TrySocket<'_>) -> Result<TrialOutcome, TrialError> {
        let place = match kind {
            SocketKind::Outside => &self.apart,
            SocketKind::Packet | SocketKind::Xdp => &self.bare,
            _ => &self.node,
        };
        let Some(address) = address(kind, place) else {
            return Ok(TrialOutcome::Absent);
        };
        let before = if kind == SocketKind::Open {
            Class::Exempt
        } else {
            place.class()
        };
        self.kernel
            .mark_listener(place.listeners.iter().map(AsFd::as_fd))?;
        self.kernel.set_class(self.id, before)?;
        if kind == SocketKind::OutsideNode {
            self.kernel.attach_egress_filter(&self.pod, self.id, true)?;
        }
        if kind.passes_stack() {
            within(&place.netns, || {
                self.kernel.attach_interface_filter(LOOPBACK, self.id)
            })??;
        }
        let before = self.stopped()?;
        let (done, heard) = (AtomicBool::new(false), AtomicBool::new(false));
        let attempt = thread::scope(|scope| {
            scope.spawn(|| self.serve(place, kind, &done, &heard));
            let attempt = within(&place.netns, || try_socket(kind, &self.pod, address));
            done.store(true, Ordering::Relaxed);
            attempt.flatten()
        });
        let silent = kind.wanted() == Wanted::Dropped && matches!(attempt, Ok(TrialOutcome::Past));
        let stopped = self.stopped_since(before, if silent { NOTHING } else { Duration::ZERO })?;
        if heard.load(Ordering::Relaxed) {
            return Ok(TrialOutcome::Past);
        }
        match attempt? {
            TrialOutcome::Past if silent && stopped => Ok(TrialOutcome::Dropped),
            TrialOutcome::Past if silent && !kind.passes_stack() => Err(TrialError::Lost),
            // Somebody else's refusal, for want of a capability for instance, is none where that somebody is not.
            TrialOutcome::Denied if !stopped => Err(TrialError::DeniedElsewhere),
            attempt => Ok(attempt),
        }
    }

    /// How often Picket's programs have denied something or dropped a packet.
    fn stopped(&self) -> Result<u64, TrialError> {
        let counters = self.kernel.counters()?;
        let refusals = (1..=u8::MAX).map_while(DenyReason::from_code);
        Ok(refusals.map(|refusal| counters.get(refusal.counter())).sum())
    }

    /// Whether that is more than `before`. A packet that nobody waits for may take a moment on a busy machine.
    fn stopped_since(&self, before: u64, patience: Duration) -> Result<bool, TrialError> {
        let begun = Instant::now();
        loop {
            let stopped = self.stopped()? > before;
            if stopped || begun.elapsed() >= patience {
                return Ok(stopped);
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Answers at the listeners and behind the protected endpoints until the attempt is done; `heard` tells that something came to a
    /// protected endpoint which had to stay away.
    fn serve(&self, place: &TestNetwork, kind: SocketKind, done: &AtomicBool, heard: &AtomicBool) {
        let begun = Instant::now();
        let mut datagram = [0; 16];
        loop {
            // One look more after it is done: what came last would count as the next one's.
            let last = done.load(Ordering::Relaxed) || begun.elapsed() > 4 * REPLY_TIMEOUT;
            for listener in &place.listeners {
                if let Ok((mut stream, _)) = listener.accept() {
                    let _ = stream.write_all(LISTENER);
                }
            }
            for endpoint in &place.endpoints {
                if let Ok((stream, _)) = endpoint.accept() {
                    let got_through = kind != SocketKind::Open || self.talks_on(stream).unwrap_or(true);
                    heard.fetch_or(got_through, Ordering::Relaxed);
                }
            }
            for endpoint in &place.datagrams {
                if endpoint.recv_from(&mut datagram).is_ok() {
                    heard.store(true, Ordering::Relaxed);
                }
            }
            if last {
                return;
            }
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Enforces the pod while its connection is open, and listens whether it goes on talking.
    fn talks_on(&self, mut stream: TcpStream) -> io::Result<bool> {
        stream.set_nonblocking(false)?;
        self.kernel
            .set_class(self.id, self.node.class())
            .and_then(|()| self.kernel.attach_egress_filter(&self.pod, self.id, true))
            .map_err(io::Error::other)?;
        stream.write_all(SERVER)?;
        stream.set_read_timeout(Some(NOTHING))?;
        Ok(matches!(stream.read(&mut [0; 4]), Ok(1..)))
    }
}

impl Drop for TrialSetup {
    fn drop(&mut self) {
        for _ in 0..50 {
            if fs::remove_dir(&self.pod).is_ok() {
                return;
            }
            thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Where the attempt goes; `None` where there is no such address.
fn address(kind: SocketKind, place: &TestNetwork) -> Option<SocketAddr> {
    match (kind, place.endpoint.ip()) {
        (SocketKind::Tcp6 | SocketKind::Udp6, _) => place.endpoint6,
        (SocketKind::Mapped, IpAddr::V4(endpoint)) => Some(SocketAddr::new(
            endpoint.to_ipv6_mapped().into(),
            place.endpoint.port(),
        )),
        _ => Some(place.endpoint),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_read_back() {
        for kind in SocketKind::ALL {
            assert_eq!(SocketKind::from_word(kind.as_str()), Some(kind));
        }
        for attempt in [
            TrialOutcome::Redirected,
            TrialOutcome::Past,
            TrialOutcome::Denied,
            TrialOutcome::Dropped,
            TrialOutcome::Absent,
        ] {
            assert_eq!(TrialOutcome::from_word(attempt.as_str()), Some(attempt));
        }
    }
}
