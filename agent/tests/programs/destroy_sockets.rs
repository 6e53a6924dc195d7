//! Cutting connections and finding interfaces, in namespaces alone.
//!
//! Clients are shells, since a socket's cgroup is that of the process that made it.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use picket::kernel::CgroupId;
use picket::kernel::destroy_sockets::{DestroyedSockets, destroy_sockets};
use picket::kernel::interface::host_side;

use super::testbed::{inside, ip, namespace, unified};
use super::{ENDPOINT4, ENDPOINT6, PATIENCE};

const OTHER: &str = "10.96.0.2:443";

/// How long nothing must happen for it to count as not happening.
const SILENCE: Duration = Duration::from_millis(300);

fn is_protected(address: SocketAddr) -> bool {
    [ENDPOINT4, ENDPOINT6]
        .iter()
        .any(|endpoint| endpoint.parse::<SocketAddr>().unwrap() == address)
}

/// What a server saw of a connection.
#[derive(Debug, PartialEq, Eq)]
enum Seen {
    Bytes(Vec<u8>),
    End,
}

/// A server that tells of all that reaches it, over all connections.
fn serve(netns: &File, address: &str) -> Receiver<Seen> {
    let listener = inside(netns, || TcpListener::bind(address).unwrap());
    let (tell, told) = channel();
    thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            let tell = tell.clone();
            thread::spawn(move || {
                let mut buffer = [0; 64];
                loop {
                    let seen = match stream.read(&mut buffer) {
                        Ok(0) | Err(_) => Seen::End,
                        Ok(length) => Seen::Bytes(buffer[..length].to_vec()),
                    };
                    let ended = seen == Seen::End;
                    if tell.send(seen).is_err() || ended {
                        return;
                    }
                }
            });
        }
    });
    told
}

fn dial(netns: &File, address: &str) -> TcpStream {
    inside(netns, || TcpStream::connect(address).unwrap())
}

/// As much as has to arrive, and whatever else does until nothing does any more.
fn drain(told: &Receiver<Seen>, least: usize) -> Vec<Seen> {
    let wanted = (0..least).map(|_| told.recv_timeout(PATIENCE).unwrap());
    wanted
        .chain(std::iter::from_fn(|| told.recv_timeout(SILENCE).ok()))
        .collect()
}

#[test]
fn an_open_connection_to_an_endpoint_ends_within_the_call_and_others_live() {
    for (listens, dialled) in [
        (ENDPOINT4, ENDPOINT4),
        (ENDPOINT6, ENDPOINT6),
        // An IPv6 socket that speaks IPv4.
        (ENDPOINT4, "[::ffff:10.96.0.1]:443"),
    ] {
        // Servers live as long as the test; the addresses are free in a new namespace.
        let netns = namespace();
        let endpoint = serve(&netns, listens);
        let other = serve(&netns, OTHER);
        let (mut cut_off, mut lives) = (dial(&netns, dialled), dial(&netns, OTHER));
        for stream in [&mut cut_off, &mut lives] {
            stream.write_all(b"before").unwrap();
        }
        for told in [&endpoint, &other] {
            assert_eq!(
                told.recv_timeout(PATIENCE).unwrap(),
                Seen::Bytes(b"before".to_vec())
            );
        }

        let outcome = destroy_sockets(&netns, &is_protected, None).unwrap();
        assert_eq!(
            outcome,
            DestroyedSockets {
                destroyed: 1,
                ..DestroyedSockets::default()
            },
            "{dialled}"
        );
        assert!(cut_off.write_all(b"after").is_err(), "{dialled}");
        assert_eq!(drain(&endpoint, 1), [Seen::End], "{dialled}");
        lives.write_all(b"after").unwrap();
        assert_eq!(drain(&other, 1), [Seen::Bytes(b"after".to_vec())], "{dialled}");
        assert_eq!(
            destroy_sockets(&netns, &is_protected, None).unwrap(),
            DestroyedSockets::default(),
            "{dialled}"
        );
    }
}

#[test]
fn a_connected_udp_socket_loses_its_endpoint_and_another_keeps_its_peer() {
    let netns = namespace();
    let server = inside(&netns, || UdpSocket::bind(ENDPOINT4).unwrap());
    server.set_read_timeout(Some(SILENCE)).unwrap();
    let connected = |to: &str| {
        inside(&netns, || {
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            socket.connect(to).unwrap();
            socket
        })
    };
    let (cut_off, lives) = (connected(ENDPOINT4), connected(OTHER));
    cut_off.send(b"before").unwrap();
    assert_eq!(server.recv(&mut [0; 16]).unwrap(), 6);
    assert_eq!(destroy_sockets(&netns, &is_protected, None).unwrap().destroyed, 1);
    assert!(cut_off.send(b"after").is_err());
    assert!(cut_off.send(b"again").is_err(), "it has no peer any more");
    assert!(server.recv(&mut [0; 16]).is_err(), "nothing arrives");
    assert_eq!(lives.peer_addr().unwrap(), OTHER.parse().unwrap());
}

/// A shell in a cgroup that holds a connection open and sends it each line of its input.
struct Client {
    shell: Child,
    says: BufReader<ChildStdout>,
    cgroup: PathBuf,
}

impl Client {
    fn start(netns: &File, name: &str, endpoint: &SocketAddr) -> Self {
        let cgroup = unified().join(format!("picket-cut-{}-{name}", std::process::id()));
        fs::create_dir(&cgroup).unwrap();
        let script = format!(
            "echo $$ > {}/cgroup.procs; exec 3<>/dev/tcp/{}/{}; echo open; while read line; do echo $line >&3 && echo sent || echo broken; done",
            cgroup.display(),
            endpoint.ip(),
            endpoint.port()
        );
        let mut shell = inside(netns, || {
            Command::new("bash")
                .args(["-c", &script])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::null())
                .spawn()
                .unwrap()
        });
        let says = BufReader::new(shell.stdout.take().unwrap());
        let mut client = Self { shell, says, cgroup };
        assert_eq!(client.line(), "open");
        client
    }

    fn id(&self) -> CgroupId {
        CgroupId::of(&self.cgroup).unwrap()
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.says.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    fn send(&mut self, text: &str) -> String {
        writeln!(self.shell.stdin.as_mut().unwrap(), "{text}").unwrap();
        self.line()
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.shell.kill();
        let _ = self.shell.wait();
        let begun = Instant::now();
        // A process' exit reaches the cgroup a moment after it is waited for.
        while fs::remove_dir(&self.cgroup).is_err() && begun.elapsed() < Duration::from_secs(5) {
            thread::sleep(Duration::from_millis(20));
        }
    }
}

#[test]
fn in_a_shared_namespace_only_the_pods_own_connections_end() {
    let netns = namespace();
    let endpoint: SocketAddr = ENDPOINT4.parse().unwrap();
    let told = serve(&netns, ENDPOINT4);
    let mut pods = Client::start(&netns, "pod", &endpoint);
    let mut others = Client::start(&netns, "other", &endpoint);
    assert_eq!((pods.send("1"), others.send("2")), ("sent".into(), "sent".into()));
    assert_eq!(drain(&told, 2).len(), 2);

    let only = HashSet::from([pods.id()]);
    assert_eq!(
        destroy_sockets(&netns, &is_protected, Some(&HashSet::new())).unwrap(),
        DestroyedSockets::default()
    );
    let outcome = destroy_sockets(&netns, &is_protected, Some(&only)).unwrap();
    assert_eq!(
        outcome,
        DestroyedSockets {
            destroyed: 1,
            ..DestroyedSockets::default()
        }
    );
    assert_eq!(
        (pods.send("3"), others.send("4")),
        ("broken".into(), "sent".into())
    );
    // Each connection's server tells for itself, in no order.
    let seen = drain(&told, 2);
    let other = Seen::Bytes(b"4\n".to_vec());
    assert!(
        seen.len() == 2 && seen.contains(&Seen::End) && seen.contains(&other),
        "{seen:?}"
    );
}

/// Moves an interface of this thread's namespace; `ip` wants a process in the other one.
fn move_interface(interface: &str, to: &File) {
    let mut held = inside(to, || Command::new("sleep").arg("30").spawn().unwrap());
    ip(&format!("link set {interface} netns {}", held.id()));
    let _ = held.kill();
    let _ = held.wait();
}

#[test]
fn the_nodes_side_of_each_interface_is_found() {
    // The "node" is a namespace too, so that nothing is made in the machine's own.
    let (node, pod) = (namespace(), namespace());
    let lonely = inside(&node, || host_side(&pod).unwrap());
    assert!(!lonely.covers() && lonely.interfaces.is_empty(), "{lonely:?}");

    let index = inside(&node, || {
        // So that the pod's index and the node's differ.
        ip("link add h1 type veth peer name h2");
        ip("link add h0 type veth peer name eth0");
        move_interface("eth0", &pod);
        nix::net::if_::if_nametoindex("h0").unwrap()
    });
    let found = inside(&node, || host_side(&pod).unwrap());
    assert_eq!((&found.interfaces[..], found.covers()), (&[index][..], true));
    // Seen from elsewhere the other end is not the node's.
    let elsewhere = namespace();
    let found = inside(&elsewhere, || host_side(&pod).unwrap());
    assert!(found.interfaces.is_empty() && !found.covers(), "{found:?}");

    inside(&node, || {
        ip("link add link h0 name mv0 type macvlan");
        move_interface("mv0", &pod);
    });
    let found = inside(&node, || host_side(&pod).unwrap());
    assert_eq!(found.interfaces, [index]);
    assert_eq!(found.others, ["mv0"]);
}
