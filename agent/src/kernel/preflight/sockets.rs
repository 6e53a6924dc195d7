//! Every kind of socket that a pod may try a door with, tried.
//!
//! In comes a cgroup to try in; out comes a [`Check`] for each kind: taken to Picket, refused, dropped, or past it. A trial
//! door stands on loopback with a server of its own behind it, which says whether anything got there.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use picket_common::Counter;

use super::attempt::{Attempt, LISTENER, NOBODY, NOTHING, PATIENCE, SERVER, loopback};
use super::kind::{Kind, Wanted};
use super::{Check, NEEDS_BPFFS, Status, Surroundings, Trial};
use crate::kernel::{CgroupId, Class, Door, Kernel, KernelConfig, KernelError, Node, Unknown, netns_cookie};

/// Starts a process that makes an attempt; [`super::attempt`] is what it has to do.
pub type TrySocket<'a> = dyn Fn(Kind, &Path, SocketAddr) -> io::Result<Attempt> + 'a;

/// Tries every kind.
pub(super) fn checks(surroundings: &Surroundings, cgroup: &Trial, try_socket: &TrySocket<'_>) -> Vec<Check> {
    let Some(bpffs) = super::trial_pins(surroundings, "sockets") else {
        return untried(NEEDS_BPFFS);
    };
    let failed = |reason: String| {
        let advice = "run as root, with nothing else that attaches to the same cgroup exclusively";
        Check::bad("sockets", Status::Missing, reason, advice)
    };
    let mut checks = match Ground::new(&bpffs, cgroup) {
        Ok(ground) => Kind::ALL
            .into_iter()
            .map(|kind| ground.check(kind, try_socket))
            .collect(),
        Err(reason) => {
            let mut checks = vec![failed(reason)];
            checks.extend(untried("what `sockets` above lacks"));
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
    Kind::ALL
        .into_iter()
        .map(|kind| Check::untried(kind.title(), needs))
        .collect()
}

/// What the trials stand on.
struct Ground {
    kernel: Kernel,
    pod: PathBuf,
    id: CgroupId,
    class: Class,
    door: TcpListener,
    datagrams: UdpSocket,
    listener: TcpListener,
}

impl Ground {
    fn new(bpffs: &Path, cgroup: &Trial) -> Result<Self, String> {
        let said = |error: io::Error| error.to_string();
        let told = |error: KernelError| error.to_string();
        let pod = cgroup.path.join("pod");
        fs::create_dir(&pod).map_err(said)?;
        let door = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(said)?;
        let address = door.local_addr().map_err(said)?;
        let datagrams = UdpSocket::bind(address).map_err(said)?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(said)?;
        for socket in [&door, &listener] {
            socket.set_nonblocking(true).map_err(said)?;
        }
        datagrams.set_nonblocking(true).map_err(said)?;
        let kernel = Kernel::load(&KernelConfig {
            cgroup_root: cgroup.path.clone(),
            bpffs: bpffs.to_owned(),
        })
        .map_err(told)?;
        let netns = netns_cookie(&listener).map_err(said)?;
        let port = listener.local_addr().map_err(said)?.port();
        let node = Node {
            netns,
            port: Some(port),
            unknown: Unknown::Closed,
        };
        kernel.set_node(node).map_err(told)?;
        kernel
            .set_doors(&[Door::redirect(address), Door::redirect(NOBODY)].into())
            .map_err(told)?;
        let id = CgroupId::of(&pod).map_err(said)?;
        let class = Class::Enforced { pod: 1, port, netns };
        Ok(Self {
            kernel,
            pod,
            id,
            class,
            door,
            datagrams,
            listener,
        })
    }

    fn check(&self, kind: Kind, try_socket: &TrySocket<'_>) -> Check {
        const REFUSED: &str = "refused with EPERM";
        const DROPPED: &str = "its packets dropped";
        const ADVICE: &str =
            "a pod that uses such sockets reaches the API server itself: do not enforce pods on this node";
        const PACKET_ADVICE: &str = "TCX needs Linux 6.6: without it, forbid pods CAP_NET_RAW";
        let advice = if kind == Kind::Packet {
            PACKET_ADVICE
        } else {
            ADVICE
        };
        let title = kind.title();
        match (self.outcome(kind, try_socket), kind.wanted()) {
            (Ok(Attempt::Absent), _) => Check::ok(title, "this kernel has none"),
            (Ok(Attempt::Taken), Wanted::Taken) => Check::ok(title, "taken to Picket"),
            (Ok(Attempt::Refused), Wanted::Stopped) => Check::ok(title, REFUSED),
            (Ok(Attempt::Dropped), Wanted::Stopped) => Check::ok(title, DROPPED),
            // Stricter than wanted: nothing gets out, and clients that need it do not work.
            (Ok(stricter @ (Attempt::Refused | Attempt::Dropped)), Wanted::Taken) => Check::bad(
                title,
                Status::Degraded,
                if stricter == Attempt::Refused {
                    REFUSED
                } else {
                    DROPPED
                },
                "clients that use it do not work here",
            ),
            (Ok(Attempt::Past | Attempt::Taken), _) => {
                Check::bad(title, Status::Open, "got past Picket", advice)
            }
            (Err(reason), _) => Check::bad(title, Status::Open, format!("cannot tell: {reason}"), advice),
        }
    }

    fn outcome(&self, kind: Kind, try_socket: &TrySocket<'_>) -> Result<Attempt, String> {
        let told = |error: KernelError| error.to_string();
        let address = self.door.local_addr().map_err(|error| error.to_string())?;
        let before = if kind == Kind::Open {
            Class::Exempt
        } else {
            self.class
        };
        self.kernel.set_class(self.id, before).map_err(told)?;
        if kind == Kind::Packet {
            let lo = loopback().map_err(|error| error.to_string())?;
            if self.kernel.cover(lo, self.id).is_err() {
                return Ok(Attempt::Past);
            }
        }
        let dropped = self.drops()?;
        let (done, heard) = (AtomicBool::new(false), AtomicBool::new(false));
        let attempt = std::thread::scope(|scope| {
            scope.spawn(|| self.serve(kind, &done, &heard));
            let attempt = try_socket(kind, &self.pod, address).map_err(|error| error.to_string());
            done.store(true, Ordering::Relaxed);
            attempt
        });
        let drops = self.drops()? - dropped;
        self.kernel.release(self.id).map_err(told)?;
        if heard.load(Ordering::Relaxed) {
            return Ok(Attempt::Past);
        }
        match (attempt?, kind) {
            (Attempt::Past, Kind::Packet | Kind::Open) if drops > 0 => Ok(Attempt::Dropped),
            (Attempt::Past, Kind::Open) => Err("nothing arrived, and nothing was dropped".to_owned()),
            (attempt, _) => Ok(attempt),
        }
    }

    fn drops(&self) -> Result<u64, String> {
        let counters = self.kernel.counters().map_err(|error| error.to_string())?;
        Ok(counters.get(Counter::DroppedPackets))
    }

    /// Answers at the listener and behind the door until the attempt is done; `heard` tells that something came to the door
    /// which had to stay away.
    fn serve(&self, kind: Kind, done: &AtomicBool, heard: &AtomicBool) {
        let begun = Instant::now();
        let mut datagram = [0; 16];
        while !done.load(Ordering::Relaxed) && begun.elapsed() < 4 * PATIENCE {
            if let Ok((mut stream, _)) = self.listener.accept() {
                let _ = stream.write_all(LISTENER);
            }
            if let Ok((stream, _)) = self.door.accept() {
                let got_through = kind != Kind::Open || self.talks_on(stream).unwrap_or(true);
                heard.fetch_or(got_through, Ordering::Relaxed);
            }
            if self.datagrams.recv_from(&mut datagram).is_ok() {
                heard.store(true, Ordering::Relaxed);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Enforces the pod while its connection is open, and listens whether it goes on talking.
    fn talks_on(&self, mut stream: TcpStream) -> io::Result<bool> {
        stream.set_nonblocking(false)?;
        self.kernel
            .set_class(self.id, self.class)
            .and_then(|()| self.kernel.hold(&self.pod, self.id, true))
            .map_err(io::Error::other)?;
        stream.write_all(SERVER)?;
        stream.set_read_timeout(Some(NOTHING))?;
        Ok(matches!(stream.read(&mut [0; 4]), Ok(1..)))
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        for _ in 0..50 {
            if fs::remove_dir(&self.pod).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_read_back() {
        for kind in Kind::ALL {
            assert_eq!(Kind::from_word(kind.as_str()), Some(kind));
        }
        for attempt in [
            Attempt::Taken,
            Attempt::Past,
            Attempt::Refused,
            Attempt::Dropped,
            Attempt::Absent,
        ] {
            assert_eq!(Attempt::from_word(attempt.as_str()), Some(attempt));
        }
    }
}
