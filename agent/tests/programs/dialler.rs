//! The child's part: joins a cgroup, dials, and tells.
//!
//! In: an order in the environment, without which it is no test at all. Out: one line.

use std::fs;
use std::io::{Error, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::path::Path;
use std::thread;
use std::time::Duration;

use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, SockaddrStorage, connect, socket};

use crate::PATIENCE;
use crate::testbed::{self, Dialled};

/// How long a dial waits that most likely reaches nobody; the kernel sends a first packet again after a second.
const SHORT: Duration = Duration::from_secs(1);

#[test]
fn dialler() {
    let Ok(order) = std::env::var(testbed::ORDER) else {
        return;
    };
    let [cgroup, how, address]: [&str; 3] = order.split(' ').collect::<Vec<_>>().try_into().unwrap();
    let address: SocketAddr = address.parse().unwrap();
    let cgroup = Path::new(cgroup);
    let outcome = if how == "late" {
        late(cgroup, address)
    } else {
        join(cgroup);
        match how {
            "udp" => udp(|socket| socket.connect(address), address),
            "send" => udp(|socket| socket.send_to(b"u", address).map(drop), address),
            "tcp-repeat" => repeat(address),
            "raw" => made(AddressFamily::Inet, SockProtocol::Raw),
            "raw6" => made(AddressFamily::Inet6, SockProtocol::Raw),
            "icmp" => made(AddressFamily::Inet, SockProtocol::Icmp),
            "talk" => talk(address),
            "says" => says(address),
            "serve" => crate::listener_port::serves(address),
            "bind" => crate::listener_port::binds(address),
            "thousand" => thousand(address),
            "brief" => brief(address),
            _ => tcp(address),
        }
    };
    println!("\n{}{outcome}", testbed::MARK);
}

fn join(cgroup: &Path) {
    fs::write(cgroup.join("cgroup.procs"), "0").unwrap();
}

fn failed(error: impl Into<Error>) -> Dialled {
    Dialled::failed(&format!("{:?}", error.into().kind()))
}

fn tcp(address: SocketAddr) -> Dialled {
    match TcpStream::connect_timeout(&address, PATIENCE) {
        Ok(stream) => heard(stream),
        Err(error) => failed(error),
    }
}

/// Dials for a short time, says something, and waits for an answer.
fn says(address: SocketAddr) -> Dialled {
    match TcpStream::connect_timeout(&address, 4 * SHORT) {
        Ok(mut stream) => {
            let _ = stream.write(b"secret");
            answer(stream, 2 * SHORT)
        }
        Err(error) => failed(error),
    }
}

fn heard(stream: TcpStream) -> Dialled {
    answer(stream, PATIENCE)
}

fn answer(mut stream: TcpStream, patience: Duration) -> Dialled {
    stream.set_read_timeout(Some(patience)).unwrap();
    let peer = stream.peer_addr();
    let mut answer = [0_u8; 1];
    match (peer, stream.read(&mut answer)) {
        (Ok(peer), Ok(1)) => Dialled::Reached {
            peer,
            answer: char::from(answer[0]),
        },
        _ => Dialled::Closed,
    }
}

fn udp(act: impl Fn(&UdpSocket) -> std::io::Result<()>, address: SocketAddr) -> Dialled {
    let socket = UdpSocket::bind(if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }).unwrap();
    match act(&socket) {
        Ok(()) => Dialled::Closed,
        Err(error) => failed(error),
    }
}

/// Dials until standard input ends, and stops early where it gets through.
fn repeat(address: SocketAddr) -> Dialled {
    let stop = thread::spawn(|| std::io::stdin().read_to_end(&mut Vec::new()));
    loop {
        let outcome = tcp(address);
        if stop.is_finished() || outcome != Dialled::failed("PermissionDenied") {
            return outcome;
        }
    }
}

/// Dials a thousand times; the last outcome.
fn thousand(address: SocketAddr) -> Dialled {
    for _ in 1..1000 {
        tcp(address);
    }
    tcp(address)
}

/// Dials a hundred times and hangs up at once.
fn brief(address: SocketAddr) -> Dialled {
    for _ in 0..100 {
        drop(TcpStream::connect_timeout(&address, PATIENCE));
    }
    Dialled::Closed
}

/// Makes the socket outside the pod, below the cgroup that the programs are attached to, and joins then.
fn late(cgroup: &Path, address: SocketAddr) -> Dialled {
    join(cgroup.ancestors().nth(2).unwrap());
    let made = socket(AddressFamily::Inet, SockType::Stream, SockFlag::empty(), None).unwrap();
    join(cgroup);
    match connect(made.as_raw_fd(), &SockaddrStorage::from(address)) {
        Ok(()) => heard(TcpStream::from(made)),
        Err(error) => failed(error),
    }
}

/// Makes a raw socket and nothing else.
fn made(family: AddressFamily, protocol: SockProtocol) -> Dialled {
    match socket(family, SockType::Raw, SockFlag::empty(), protocol) {
        Ok(_) => Dialled::Closed,
        Err(error) => failed(error),
    }
}

/// Sends a byte every few milliseconds until standard input ends.
fn talk(address: SocketAddr) -> Dialled {
    let stop = thread::spawn(|| std::io::stdin().read_to_end(&mut Vec::new()));
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE).unwrap();
    stream
        .set_write_timeout(Some(Duration::from_millis(100)))
        .unwrap();
    while !stop.is_finished() {
        let _ = stream.write(b"t");
        thread::sleep(Duration::from_millis(5));
    }
    Dialled::Closed
}
