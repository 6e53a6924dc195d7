//! A server outside every node that counts who comes, and a watch on each packet that comes in for it.
//!
//! Its address is a protected endpoint by the agents' configuration. It says `TARGET` to whoever reaches it, by TCP or UDP.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, UdpSocket};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use picket_tests::cluster::Cluster;
use picket_tests::net;
use picket_tests::sys::Placement;

/// The server's address; the outer namespace's own.
pub(crate) const HOST: &str = "10.250.0.254";
/// The same server by version 6.
pub(crate) const HOST6: &str = "fd00:250::254";
/// The port that is a protected endpoint.
pub(crate) const ENDPOINT: u16 = 7443;
/// A port that is none: what is sent there shows that all before it has come.
const MARK: u16 = 7999;
/// Ports that are none and answer too: DNS', and one for TCP.
pub(crate) const DNS: u16 = 53;

/// What the server says.
pub(crate) const GREETING: &str = "TARGET";

/// How long a packet may take from node to node.
const LIMIT: Duration = Duration::from_secs(10);

/// The running server.
#[derive(Debug)]
pub(crate) struct Target {
    seen: Arc<Mutex<Vec<String>>>,
    watch: Child,
}

impl Target {
    /// Listens and watches.
    pub(crate) fn open(cluster: &Cluster, attack: &Path) -> Result<Self> {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let outer = cluster.outer_netns();
        for port in [ENDPOINT, DNS] {
            // Sockets stay in the namespace they were made in.
            let (tcp, udp) = net::inside(&outer, || {
                Ok((
                    TcpListener::bind(("::", port)).context("listen")?,
                    UdpSocket::bind(("::", port)).context("listen by UDP")?,
                ))
            })?;
            let counted = (port == ENDPOINT).then(|| Arc::clone(&seen));
            thread::spawn(move || serve(&tcp, counted.as_deref()));
            thread::spawn(move || answer(&udp));
        }
        let mut command = Command::new(attack);
        command.args(["watch", "br0", &ENDPOINT.to_string(), &MARK.to_string()]);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        // In the node's cgroup, so that it ends with the cluster whatever becomes of this process.
        let place = Placement::new()
            .net(&outer)
            .cgroup(&cluster.node().cgroup.join("system"));
        place.apply(&mut command)?;
        let mut watch = command.spawn().context("run picket-attack watch")?;
        let mut lines = BufReader::new(watch.stdout.take().context("no output")?).lines();
        let first = lines.next().context("the watch ended")??;
        ensure!(first == "watching", "the watch says {first}");
        let packets = Arc::clone(&seen);
        thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                lock(&packets).push(line);
            }
        });
        Ok(Self { seen, watch })
    }

    /// What has come since the last call, all packets sent until now included.
    pub(crate) fn arrived(&self, node: &Path) -> Result<Vec<String>> {
        // By the way that pods' packets take from their node, so that it comes behind them.
        net::inside(node, || {
            let marker = UdpSocket::bind("0.0.0.0:0")?;
            Ok(marker.send_to(b"mark", (HOST, MARK))?)
        })?;
        let is_mark = |line: &String| line.contains(&format!("\"port\":{MARK}"));
        let deadline = Instant::now() + LIMIT;
        loop {
            let mut seen = lock(&self.seen);
            if let Some(place) = seen.iter().position(is_mark) {
                let mut arrived: Vec<String> = seen.drain(..=place).collect();
                arrived.pop();
                return Ok(arrived);
            }
            drop(seen);
            ensure!(Instant::now() < deadline, "the watch sees nothing");
            thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        let _ = self.watch.kill();
        let _ = self.watch.wait();
    }
}

fn lock(seen: &Mutex<Vec<String>>) -> MutexGuard<'_, Vec<String>> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

fn serve(listener: &TcpListener, counted: Option<&Mutex<Vec<String>>>) {
    while let Ok((mut stream, from)) = listener.accept() {
        if let Some(seen) = counted {
            lock(seen).push(format!("a connection from {from}"));
        }
        thread::spawn(move || {
            let _ = stream.set_read_timeout(Some(Duration::from_secs(2)));
            let _ = writeln!(stream, "{GREETING}");
            let _ = stream.shutdown(std::net::Shutdown::Write);
            // What was sent is read, or its end would be a reset that overtakes the greeting.
            let _ = stream.read_to_end(&mut Vec::new());
        });
    }
}

fn answer(socket: &UdpSocket) {
    let mut buffer = [0; 512];
    while let Ok((_, from)) = socket.recv_from(&mut buffer) {
        let _ = socket.send_to(GREETING.as_bytes(), from);
    }
}
