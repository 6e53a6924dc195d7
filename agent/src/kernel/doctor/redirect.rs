//! The redirect of one connection, tried from end to end.
//!
//! In: a trial cgroup, and a probe process that dials one loopback port. Out: a [`Check`]: the connection ends at another port,
//! the client does not notice, and the flow is there.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use super::error::TrialError;
use super::{Check, CheckStatus, NEEDS_BPFFS, Surroundings, Trial, trial_pins};
use crate::kernel::{
    CgroupId, Class, FailMode, Flow, Kernel, KernelConfig, KernelError, NodeState, ProtectedEndpoint,
    netns_cookie,
};

/// The check's name.
pub(super) const NAME: &str = "redirect";

/// How long the probe may take; loopback takes a millisecond, starting a process some more.
const REPLY_TIMEOUT: Duration = Duration::from_secs(5);

/// What the redirected listener says, which nobody else does.
const WORD: &[u8] = b"picket";

/// Starts a process that joins the cgroup, dials the address, and returns the peer that getpeername told it.
/// [`dial`] is what that process has to do.
pub type Probe<'a> = dyn Fn(&Path, SocketAddr) -> io::Result<SocketAddr> + 'a;

/// The probe's own part: joins the cgroup, dials, and reports the peer once the right one has answered.
///
/// # Errors
/// When the cgroup cannot be joined, and when the dial fails or ends at the wrong listener.
pub fn dial(cgroup: &Path, address: SocketAddr) -> io::Result<SocketAddr> {
    fs::write(cgroup.join("cgroup.procs"), "0")?;
    let mut stream = TcpStream::connect_timeout(&address, REPLY_TIMEOUT)?;
    stream.set_read_timeout(Some(REPLY_TIMEOUT))?;
    let mut answer = [0; WORD.len()];
    stream.read_exact(&mut answer)?;
    if answer != WORD {
        return Err(io::Error::other("the connection was not redirected"));
    }
    stream.peer_addr()
}

pub(super) fn check(surroundings: &Surroundings, cgroup: &Trial, probe: &Probe<'_>) -> Check {
    const ADVICE: &str =
        "another program on a parent cgroup may rewrite or deny connections: see `bpftool cgroup tree`";
    let Some(bpffs) = trial_pins(surroundings, "redirect") else {
        return Check::untried(NAME, NEEDS_BPFFS);
    };
    let outcome = attempt(&bpffs, &cgroup.path, probe);
    if let Err(error) = Kernel::unload(&bpffs) {
        return Check::bad(
            NAME,
            CheckStatus::Degraded,
            format!("cannot clean up: {error}"),
            "remove the folder by hand",
        );
    }
    match outcome {
        Ok(()) => Check::ok(
            NAME,
            "a connection was redirected, the client saw the dialled address, the kernel recorded the connection",
        ),
        Err(error) => Check::bad(NAME, CheckStatus::Missing, error.to_string(), ADVICE),
    }
}

/// One dial, redirected.
fn attempt(bpffs: &Path, cgroup: &Path, probe: &Probe<'_>) -> Result<(), TrialError> {
    let endpoint = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    listener.set_nonblocking(true)?;
    let address = endpoint.local_addr()?;
    let port = listener.local_addr()?.port();

    let config = KernelConfig {
        cgroup_root: cgroup.to_owned(),
        bpffs: bpffs.to_owned(),
    };
    let kernel = Kernel::load(&config)?;
    let id = CgroupId::of(cgroup)?;
    let netns = netns_cookie(&listener)?;
    // The dial is of this namespace's own loopback, which is a protected endpoint where the namespace is the node's.
    kernel.set_node(NodeState {
        netns,
        port: Some(port),
        unclassified: FailMode::Closed,
    })?;
    kernel.set_class(id, Class::Enforced { pod: 1, port, netns })?;
    kernel.set_endpoints(&[ProtectedEndpoint::redirect(address)].into())?;

    let peer = std::thread::scope(|scope| {
        let answering = scope.spawn(|| answer(&listener, &kernel));
        let peer = probe(cgroup, address).map_err(TrialError::Connect);
        let accepted = answering
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("the listener panicked")));
        let found = match (peer.is_ok(), accepted) {
            (_, Ok(found)) => found?,
            // The probe's failure is the cause of the listener's.
            (false, Err(_)) => return peer,
            (true, Err(error)) => return Err(error.into()),
        };
        match found {
            Some(flow) if flow.origin == address && flow.cgroup == id => peer,
            Some(flow) => Err(TrialError::OtherFlow(flow)),
            None => Err(TrialError::NoFlow),
        }
    })?;
    if peer != address {
        return Err(TrialError::OtherPeer {
            dialled: address,
            seen: peer,
        });
    }
    Ok(())
}

/// Accepts the dial and finds its flow, and only then says the word: a flow goes with its socket, and the probe closes its
/// own once it has heard.
fn answer(listener: &TcpListener, kernel: &Kernel) -> io::Result<Result<Option<Flow>, KernelError>> {
    let begun = Instant::now();
    loop {
        match listener.accept() {
            Ok((mut stream, from)) => {
                let flow = kernel.take_flow(netns_cookie(&stream)?, stream.local_addr()?, from);
                stream.write_all(WORD)?;
                return Ok(flow);
            }
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
            Err(_) if begun.elapsed() > REPLY_TIMEOUT => {
                return Err(io::Error::other("the connection did not arrive"));
            }
            Err(_) => std::thread::sleep(Duration::from_millis(5)),
        }
    }
}
