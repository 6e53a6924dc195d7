//! The protected endpoints by every name they have: addresses of nodes, Services that lead there, DNS; and those that are refused.
//!
//! Each is first seen to work from a pod that is left alone. What an enforced pod then gets is told by whose certificate it
//! sees, by both audit logs, and where nobody may arrive, by a listener that counts.

use std::io::Read;
use std::net::{Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use picket_tests::audit::{Since, about};
use picket_tests::net;
use picket_tests::running::Running;
use picket_tests::tests;
use serde_json::{Value, json};

use crate::Test;
use crate::world::World;

pub(crate) const TESTS: &[Test] = tests! {
    the_pod_bridges_address_is_an_endpoint,
    a_link_local_address_is_an_endpoint,
    an_address_that_a_node_gets_is_an_endpoint,
    a_service_made_by_hand_is_an_endpoint,
    an_object_with_times_of_its_own_hides_no_endpoint,
    node_ports_and_external_addresses_are_endpoints,
    a_withdrawn_service_stays_an_endpoint,
    a_load_balancers_name_is_looked_up,
    a_connection_from_before_its_address_was_an_endpoint_is_destroyed,
    kubelets_are_refused,
    a_service_that_leads_to_a_kubelet_is_refused,
    a_udp_service_that_leads_to_a_tunnels_end_is_refused,
    etcd_and_container_runtimes_are_refused,
    cloud_metadata_is_refused,
    other_addresses_are_left_alone,
    the_operator_adds_endpoints_and_takes_some_away,
};

/// How long something may take that takes a second at most on an idle machine.
const LIMIT: Duration = Duration::from_secs(30);
/// `EPERM`.
const REFUSED: i64 = 1;
/// The pods that are enforced, on the first and the second node.
pub(crate) const ENFORCED: [&str; 2] = ["worker", "remote"];

/// Asks for a ConfigMap (argument 3) at an address (1) and port (2), checking the certificate by the pod's own bundle. The
/// API server's certificate does not have all addresses that lead to it, so the pod that is left alone (4 is `direct`) does not
/// compare them.
const ASK: &str = r#"
import errno, json, socket, ssl, sys
host, port, name, pod = sys.argv[1:5]
account = "/var/run/secrets/kubernetes.io/serviceaccount"
context = ssl.create_default_context(cafile=account + "/ca.crt")
context.check_hostname = pod != "direct"
token = open(account + "/token").read()
bare = host.split("%")[0]
try:
    address = socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM)[0]
    with socket.socket(address[0], socket.SOCK_STREAM) as plain:
        plain.settimeout(10)
        plain.connect(address[4])
        with context.wrap_socket(plain, server_hostname=bare) as secure:
            secure.sendall(("GET /api/v1/namespaces/lab/configmaps/%s HTTP/1.1\r\nHost: kubernetes\r\nAuthorization: Bearer %s\r\n"
                "User-Agent: bypass-test\r\nConnection: close\r\n\r\n" % (name, token)).encode())
            print(json.dumps({"answered": int(secure.recv(4096).split()[1])}))
except ssl.SSLError as error:
    print(json.dumps({"tls": str(error)}))
except OSError as error:
    print(json.dumps({"errno": error.errno or str(error)}))
"#;

/// Connects to an address and port, and gives the error's number, 0 for none.
const DIAL: &str = r#"
import socket, sys
address = socket.getaddrinfo(sys.argv[1], int(sys.argv[2]), type=socket.SOCK_STREAM)[0]
with socket.socket(address[0], socket.SOCK_STREAM) as one:
    one.settimeout(10)
    print(one.connect_ex(address[4]))
"#;

/// Sends a datagram to an address and port, with no connect before, and gives the error's number, 0 for none.
const DATAGRAM: &str = r#"
import socket, sys
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
    try:
        one.sendto(b"x", (sys.argv[1], int(sys.argv[2])))
        print(0)
    except OSError as error:
        print(error.errno)
"#;

fn python(world: &World, namespace: &str, pod: &str, program: &str, arguments: &[&str]) -> Result<String> {
    let mut argv = vec!["python3", "-c", program];
    argv.extend(arguments);
    Ok(world.run(namespace, pod, &argv)?.good()?.trim().to_owned())
}

fn ask(world: &World, namespace: &str, pod: &str, (host, port): (&str, u16), name: &str) -> Result<Value> {
    let arguments = [host, &port.to_string(), name, namespace];
    Ok(serde_json::from_str(&python(
        world, namespace, pod, ASK, &arguments,
    )?)?)
}

fn dial(world: &World, namespace: &str, pod: &str, at: (&str, u16)) -> Result<i64> {
    attempt(world, namespace, pod, DIAL, at)
}

/// The error's number of this program.
fn attempt(
    world: &World,
    namespace: &str,
    pod: &str,
    program: &str,
    (host, port): (&str, u16),
) -> Result<i64> {
    Ok(python(world, namespace, pod, program, &[host, &port.to_string()])?.parse()?)
}

/// Tries until the error's number is this.
fn comes_to(
    world: &World,
    namespace: &str,
    pod: &str,
    program: &str,
    at: (&str, u16),
    wanted: i64,
) -> Result<()> {
    let what = format!("{namespace}/{pod} does not get {wanted} at {at:?}");
    until(&what, || {
        let error = attempt(world, namespace, pod, program, at)?;
        Ok((error == wanted).then_some(()).ok_or_else(|| error.to_string()))
    })
}

/// Tries until there is something, or says what the last try gave.
fn until<T>(what: &str, mut attempt: impl FnMut() -> Result<std::result::Result<T, String>>) -> Result<T> {
    let deadline = Instant::now() + LIMIT;
    loop {
        match attempt()? {
            Ok(found) => return Ok(found),
            Err(last) if Instant::now() > deadline => bail!("{what}: not within {LIMIT:?}; last: {last}"),
            Err(_) => std::thread::sleep(Duration::from_millis(50)),
        }
    }
}

/// Tries until this pod is answered there.
fn answered(world: &World, namespace: &str, pod: &str, at: (&str, u16)) -> Result<()> {
    until(&format!("nobody answers {namespace}/{pod} at {at:?}"), || {
        let answer = ask(world, namespace, pod, at, "seed")?;
        let answered = answer["answered"].is_number();
        Ok(answered.then_some(()).ok_or_else(|| answer.to_string()))
    })
}

/// The API server answers there to a pod that is left alone: the address leads to it.
pub(crate) fn leads(world: &World, at: (&str, u16)) -> Result<()> {
    answered(world, "direct", "worker", at)
}

fn agents_log(world: &World, pod: &str) -> Since {
    let agent = if pod == "remote" {
        &world.other
    } else {
        &world.agent
    };
    Since::now(&agent.audit_directory())
}

/// An enforced pod that dials this protected endpoint is answered by Picket: the certificate is Picket's and has the address, the request
/// is in Picket's log as the pod's, and the API server saw the agent's user alone.
fn redirected(world: &World, pod: &str, at: (&str, u16)) -> Result<()> {
    // One that no other dial asks for.
    let name = format!("endpoint-{}-{}-{pod}", at.0.replace([':', '%'], "-"), at.1).to_lowercase();
    let (picket, server) = (agents_log(world, pod), world.server_log());
    let answer = ask(world, "agents", pod, at, &name)?;
    ensure!(answer["answered"] == 404, "{pod} dials {at:?}: {answer}");
    let record = picket.wait("the request", |record| about(record, "get", "configmaps", &name))?;
    ensure!(
        record["agent"]["pod"]["name"] == pod && record["agent"]["identity"] == "worker",
        "{record:#}"
    );
    let seen = server.wait("the request", |record| about(record, "get", "configmaps", &name))?;
    ensure!(seen["impersonatedUser"]["username"] == "agent:worker", "{seen:#}");
    let direct =
        server.all(|record| record["userAgent"] == "bypass-test" && record["impersonatedUser"].is_null())?;
    ensure!(
        direct.is_empty(),
        "the API server was reached past Picket: {direct:?}"
    );
    Ok(())
}

/// As [`redirected`], as soon as the agent has heard of the protected endpoint: until then the pod may reach the API server, whose
/// certificate it does not trust.
pub(crate) fn comes_to_be_redirected(world: &World, pod: &str, at: (&str, u16)) -> Result<()> {
    let begun = Instant::now();
    answered(world, "agents", pod, at)?;
    eprintln!(
        "{at:?} is a protected endpoint for {pod} after {:?}",
        begun.elapsed()
    );
    redirected(world, pod, at)
}

/// An enforced pod that dials this protected endpoint is refused, which is in Picket's log as the pod's.
fn refused(world: &World, pod: &str, at: (&str, u16)) -> Result<()> {
    refused_by(world, pod, DIAL, at)
}

fn refused_by(world: &World, pod: &str, program: &str, at: (&str, u16)) -> Result<()> {
    let picket = agents_log(world, pod);
    let error = attempt(world, "agents", pod, program, at)?;
    ensure!(error == REFUSED, "{pod} dials {at:?}: error {error}");
    let address = SocketAddr::new(at.0.parse()?, at.1).to_string();
    let record = picket.wait("the refusal", |record| {
        record["kernel"]["verdict"] == "deny" && record["kernel"]["address"] == address.as_str()
    })?;
    ensure!(
        record["agent"]["pod"]["name"] == pod
            && record["decision"]["outcome"] == "deny"
            && record["decision"]["reason"] == "denied_endpoint",
        "{record:#}"
    );
    Ok(())
}

/// Counts who connects to an address in a network namespace, for as long as it lives.
struct Counting {
    arrived: Arc<AtomicUsize>,
    counter: Option<JoinHandle<()>>,
    ended: Arc<AtomicBool>,
}

impl Counting {
    fn at(netns: &Path, address: SocketAddr) -> Result<Self> {
        let listener = net::inside(netns, || {
            TcpListener::bind(address).with_context(|| format!("listen at {address}"))
        })?;
        listener.set_nonblocking(true)?;
        let (arrived, ended) = (Arc::<AtomicUsize>::default(), Arc::<AtomicBool>::default());
        let (count, end) = (Arc::clone(&arrived), Arc::clone(&ended));
        let counter = std::thread::spawn(move || {
            while !end.load(Ordering::SeqCst) {
                if listener.accept().is_ok() {
                    count.fetch_add(1, Ordering::SeqCst);
                } else {
                    std::thread::sleep(Duration::from_millis(5));
                }
            }
        });
        Ok(Self {
            arrived,
            counter: Some(counter),
            ended,
        })
    }

    fn arrived(&self) -> usize {
        self.arrived.load(Ordering::SeqCst)
    }

    /// A pod that is left alone arrives here, and enforced ones do not.
    fn is_refused(&self, world: &World, pods: &[&str], at: (&str, u16)) -> Result<()> {
        let before = self.arrived();
        ensure!(
            dial(world, "direct", "worker", at)? == 0,
            "{at:?} cannot be reached at all"
        );
        until("the listener does not count", || {
            Ok((self.arrived() > before).then_some(()).ok_or_else(String::new))
        })?;
        let before = self.arrived();
        for pod in pods {
            refused(world, pod, at)?;
        }
        std::thread::sleep(Duration::from_millis(200));
        ensure!(self.arrived() == before, "somebody arrived at {at:?}");
        Ok(())
    }
}

impl Drop for Counting {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
        if let Some(counter) = self.counter.take() {
            let _ = counter.join();
        }
    }
}

/// An address that a node has for as long as this lives.
struct Extra<'a> {
    world: &'a World,
    node: usize,
    line: String,
}

impl<'a> Extra<'a> {
    fn new(world: &'a World, node: usize, line: &str) -> Result<Self> {
        net::ip(
            &world.cluster.nodes()[node].netns,
            &format!("{line}\n").replacen(' ', " add ", 1),
        )?;
        Ok(Self {
            world,
            node,
            line: line.to_owned(),
        })
    }
}

impl Drop for Extra<'_> {
    fn drop(&mut self) {
        let line = format!("{}\n", self.line).replacen(' ', " del ", 1);
        let _ = net::ip(&self.world.cluster.nodes()[self.node].netns, &line);
    }
}

/// A Service without a selector in the namespace `lab`, and a slice made by hand that leads it somewhere.
pub(crate) fn lead(world: &World, name: &str, spec: &Value, (address, port): (&str, u16)) -> Result<()> {
    let mut service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "lab"}, "spec": spec});
    let port_of = &mut service["spec"]["ports"][0];
    port_of["name"] = json!("way");
    let protocol = port_of["protocol"].as_str().unwrap_or("TCP").to_owned();
    let slice = json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": format!("{name}-by-hand"), "namespace": "lab", "labels": {"kubernetes.io/service-name": name}},
        "endpoints": [{"addresses": [address], "conditions": {"ready": true}}], "ports": [{"name": "way", "port": port, "protocol": protocol}]});
    let list = json!({"apiVersion": "v1", "kind": "List", "items": [service, slice]});
    world.cluster.apply(&list.to_string())
}

pub(crate) fn delete(world: &World, name: &str) -> Result<()> {
    let slice = format!("endpointslice/{name}-by-hand");
    world
        .admin(&[
            "delete",
            "-n",
            "lab",
            "--wait=false",
            &format!("service/{name}"),
            &slice,
        ])
        .map(drop)
}

pub(crate) fn cluster_address(world: &World, name: &str) -> Result<String> {
    let path = "jsonpath={.spec.clusterIP}";
    Ok(world
        .admin(&["get", "service", "-n", "lab", name, "-o", path])?
        .trim()
        .to_owned())
}

pub(crate) fn server_address(world: &World) -> String {
    world.cluster.node().address.to_string()
}

fn the_pod_bridges_address_is_an_endpoint(world: &mut World) -> Result<()> {
    let at = ("10.244.1.1", 6443);
    leads(world, at)?;
    ENFORCED.iter().try_for_each(|pod| redirected(world, pod, at))
}

fn a_link_local_address_is_an_endpoint(world: &mut World) -> Result<()> {
    let table = net::inside(&world.cluster.node().netns, || {
        Ok(std::fs::read_to_string("/proc/thread-self/net/if_inet6")?)
    })?;
    let bridge = table
        .lines()
        .find(|line| line.ends_with("cni0") && line.starts_with("fe80"));
    let digits = bridge
        .and_then(|line| line.split(' ').next())
        .context("the bridge has no link-local address")?;
    let address = Ipv6Addr::from(u128::from_str_radix(digits, 16)?);
    let at = format!("{address}%eth0");
    leads(world, (&at, 6443))?;
    redirected(world, "worker", (&at, 6443))
}

fn an_address_that_a_node_gets_is_an_endpoint(world: &mut World) -> Result<()> {
    let _address = Extra::new(world, 0, "addr 192.0.2.66/32 dev lo")?;
    let at = ("192.0.2.66", 6443);
    leads(world, at)?;
    comes_to_be_redirected(world, "worker", at)
}

fn a_service_made_by_hand_is_an_endpoint(world: &mut World) -> Result<()> {
    lead(
        world,
        "hand",
        &json!({"ports": [{"port": 8443}]}),
        (&server_address(world), 6443),
    )?;
    let address = cluster_address(world, "hand")?;
    let at = (address.as_str(), 8443);
    leads(world, at)?;
    ENFORCED
        .iter()
        .try_for_each(|pod| comes_to_be_redirected(world, pod, at))?;
    delete(world, "hand")
}

/// Whoever may write an object writes its `managedFields` too, and Go takes times that others cannot read. An agent that cannot read one
/// object must not stop to hear of the others.
fn an_object_with_times_of_its_own_hides_no_endpoint(world: &mut World) -> Result<()> {
    let server = server_address(world);
    lead(world, "odd", &json!({"ports": [{"port": 7445}]}), (&server, 7445))?;
    let odd = [
        ("service/odd", "v1"),
        ("endpointslice/odd-by-hand", "discovery.k8s.io/v1"),
    ];
    // An entry of another manager stays as it is, for as long as it owns a field.
    for (object, version) in odd {
        let entry = json!({"manager": "x", "operation": "Update", "apiVersion": version, "time": "9999-12-31T23:59:59Z",
            "fieldsType": "FieldsV1", "fieldsV1": {"f:metadata": {"f:labels": {"f:mine": {}}}}});
        let patch = json!([{"op": "add", "path": "/metadata/managedFields/-", "value": entry}]).to_string();
        world.admin(&["label", "-n", "lab", object, "mine=yes"])?;
        world.admin(&["patch", "-n", "lab", object, "--type=json", "-p", &patch])?;
        let times = "jsonpath={.metadata.managedFields[*].time}";
        let stored = world.admin(&["get", "-n", "lab", object, "--show-managed-fields", "-o", times])?;
        ensure!(stored.contains("9999-12-31"), "{object} has the times {stored}");
    }
    // A watch that fails some times in a row begins anew with a list.
    for turn in 0..8 {
        for (object, _) in odd {
            let turn = format!("turn={turn}");
            world.admin(&["annotate", "-n", "lab", object, "--overwrite", &turn])?;
        }
    }
    lead(
        world,
        "beside",
        &json!({"ports": [{"port": 8445}]}),
        (&server, 6443),
    )?;
    let address = cluster_address(world, "beside")?;
    let at = (address.as_str(), 8445);
    leads(world, at)?;
    ENFORCED
        .iter()
        .try_for_each(|pod| comes_to_be_redirected(world, pod, at))?;
    delete(world, "beside")?;
    delete(world, "odd")
}

fn node_ports_and_external_addresses_are_endpoints(world: &mut World) -> Result<()> {
    let spec = json!({"type": "NodePort", "externalIPs": ["198.51.100.7"], "ports": [{"port": 9443, "nodePort": 31443}]});
    lead(world, "wide", &spec, (&server_address(world), 6443))?;
    let nodes: Vec<String> = world
        .cluster
        .nodes()
        .iter()
        .map(|node| node.address.to_string())
        .collect();
    for at in [
        (nodes[0].as_str(), 31443),
        (&nodes[1], 31443),
        ("198.51.100.7", 9443),
    ] {
        leads(world, at)?;
        ENFORCED
            .iter()
            .try_for_each(|pod| comes_to_be_redirected(world, pod, at))?;
    }
    delete(world, "wide")
}

/// The node's proxy hears of a deletion later than the agent may.
fn a_withdrawn_service_stays_an_endpoint(world: &mut World) -> Result<()> {
    lead(
        world,
        "brief",
        &json!({"ports": [{"port": 8443}]}),
        (&server_address(world), 6443),
    )?;
    let address = cluster_address(world, "brief")?;
    let at = (address.as_str(), 8443);
    ENFORCED
        .iter()
        .try_for_each(|pod| comes_to_be_redirected(world, pod, at))?;
    delete(world, "brief")?;
    std::thread::sleep(Duration::from_secs(2));
    ENFORCED.iter().try_for_each(|pod| redirected(world, pod, at))
}

/// The second node's agent cannot know the address but by the name, which its resolver finds in a file.
fn a_load_balancers_name_is_looked_up(world: &mut World) -> Result<()> {
    let node = &world.cluster.nodes()[1];
    let hosts = node.dir.join("hosts");
    std::fs::write(&hosts, "127.0.0.1 localhost\n192.0.2.77 balancer.picket.test\n")?;
    let mut mount = Command::new("mount");
    mount.args(["-n", "--bind"]).arg(&hosts).arg("/etc/hosts");
    ensure!(
        node.output(mount)?.status.success(),
        "cannot mount a file of hosts"
    );
    let _address = Extra::new(world, 0, "addr 192.0.2.77/32 dev lo")?;
    let _route = Extra::new(
        world,
        1,
        &format!("route 192.0.2.77/32 via {}", server_address(world)),
    )?;
    let at = ("192.0.2.77", 6443);
    leads(world, at)?;
    let passed = ask(world, "agents", "remote", at, "seed")?;
    ensure!(
        passed["tls"].is_string(),
        "nobody told of the address yet, and still: {passed}"
    );
    let begun = (|| {
        let spec = json!({"type": "LoadBalancer", "ports": [{"port": 6443}]});
        lead(world, "balanced", &spec, (&server_address(world), 6443))?;
        let status = json!({"status": {"loadBalancer": {"ingress": [{"hostname": "balancer.picket.test"}]}}})
            .to_string();
        world.admin(&[
            "patch",
            "service",
            "balanced",
            "-n",
            "lab",
            "--subresource=status",
            "--type=merge",
            "-p",
            &status,
        ])?;
        comes_to_be_redirected(world, "remote", at)
    })();
    let mut unmount = Command::new("umount");
    unmount.args(["-n", "/etc/hosts"]);
    ensure!(
        node.output(unmount)?.status.success(),
        "cannot unmount the file of hosts"
    );
    begun?;
    delete(world, "balanced")
}

/// Connects to an address and port, and sends a byte again and again.
const SEND: &str = r#"
import socket, sys, time
with socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=10) as one:
    print("connected", flush=True)
    for _ in range(1200):
        one.send(b"x")
        time.sleep(0.05)
"#;

/// Between the API server's telling of a Service and the agent's hearing of it, a pod may get through: not for long.
fn a_connection_from_before_its_address_was_an_endpoint_is_destroyed(world: &mut World) -> Result<()> {
    let node = world.cluster.node().clone();
    let server = server_address(world);
    let listener = net::inside(&node.netns, || Ok(TcpListener::bind((node.address, 7444))?))?;
    lead(
        world,
        "late",
        &json!({"ports": [{"port": 6443}]}),
        (&server, 7444),
    )?;
    let address = cluster_address(world, "late")?;
    let at = (address.as_str(), 6443);
    comes_to(world, "direct", "worker", DIAL, at, 0)?;
    let sending = Running::start(
        &world.cluster.kubectl_client(),
        "agents",
        "worker",
        &["python3", "-c", SEND, at.0, "6443"],
    )?;
    sending.line_with("connected")?;
    let mut bytes = [0; 64];
    // The other pod's connections came before, and nothing comes by them.
    let mut arriving = loop {
        let (mut stream, _) = listener.accept()?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        if stream.read(&mut bytes).is_ok_and(|read| read > 0) {
            break stream;
        }
    };
    for _ in 0..5 {
        ensure!(
            arriving.read(&mut bytes)? > 0,
            "the connection ended before anything happened"
        );
    }
    arriving.set_read_timeout(Some(Duration::from_secs(1)))?;
    // The Service has another endpoint now, which is the API server.
    let slice = json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": "late-too", "namespace": "lab", "labels": {"kubernetes.io/service-name": "late"}},
        "endpoints": [{"addresses": [server]}], "ports": [{"name": "way", "port": 6443, "protocol": "TCP"}]});
    world.cluster.apply(&slice.to_string())?;
    comes_to_be_redirected(world, "worker", at)?;
    // What was under way when it became a protected endpoint may still be in the socket's buffer.
    let mut silent = None;
    let limit = Instant::now() + Duration::from_secs(10);
    while Instant::now() < limit {
        match arriving.read(&mut bytes) {
            Ok(0) => silent = Some("closed"),
            Ok(_) => continue,
            Err(_) => silent = Some("silent"),
        }
        break;
    }
    ensure!(silent.is_some(), "bytes still arrive");
    world.admin(&["delete", "-n", "lab", "--wait=false", "endpointslice/late-too"])?;
    delete(world, "late")
}

fn kubelets_are_refused(world: &mut World) -> Result<()> {
    for node in world.cluster.nodes() {
        let address = node.address.to_string();
        let at = (address.as_str(), 10_250);
        ensure!(
            dial(world, "direct", "worker", at)? == 0,
            "{at:?} cannot be reached at all"
        );
        ENFORCED.iter().try_for_each(|pod| refused(world, pod, at))?;
        ENFORCED
            .iter()
            .try_for_each(|pod| refused(world, pod, (&address, 10_255)))?;
    }
    // The node's own business goes on: the API server reaches kubelets.
    world.admin(&["logs", "worker", "-n", "agents"]).map(drop)
}

fn a_service_that_leads_to_a_kubelet_is_refused(world: &mut World) -> Result<()> {
    let kubelet = world.cluster.nodes()[1].address.to_string();
    let spec = json!({"type": "NodePort", "ports": [{"port": 443, "nodePort": 31250}]});
    lead(world, "kubelets", &spec, (&kubelet, 10_250))?;
    let address = cluster_address(world, "kubelets")?;
    let server = server_address(world);
    for at in [(address.as_str(), 443), (&server, 31250)] {
        comes_to(world, "direct", "worker", DIAL, at, 0)?;
        for pod in ENFORCED {
            comes_to(world, "agents", pod, DIAL, at, REFUSED)?;
            refused(world, pod, at)?;
        }
    }
    delete(world, "kubelets")
}

/// What is inside a datagram to a tunnel's end would go on to anywhere.
fn a_udp_service_that_leads_to_a_tunnels_end_is_refused(world: &mut World) -> Result<()> {
    let node = world.cluster.node().clone();
    let server = server_address(world);
    let end = net::inside(&node.netns, || Ok(UdpSocket::bind((node.address, 4789))?))?;
    end.set_read_timeout(Some(Duration::from_millis(300)))?;
    let arrived = || end.recv(&mut [0; 8]).is_ok();
    let spec = json!({"type": "NodePort", "ports": [{"port": 5000, "nodePort": 31500, "protocol": "UDP"}]});
    lead(world, "tunnel", &spec, (&server, 4789))?;
    let address = cluster_address(world, "tunnel")?;
    for at in [(address.as_str(), 5000), (&server, 31500)] {
        until(&format!("{at:?} leads nowhere"), || {
            let error = attempt(world, "direct", "worker", DATAGRAM, at)?;
            Ok(arrived().then_some(()).ok_or_else(|| error.to_string()))
        })?;
        for pod in ENFORCED {
            comes_to(world, "agents", pod, DATAGRAM, at, REFUSED)?;
            // Those from before the agent had heard.
            while arrived() {}
            refused_by(world, pod, DATAGRAM, at)?;
        }
        ensure!(!arrived(), "a datagram arrived through {at:?}");
    }
    delete(world, "tunnel")
}

fn etcd_and_container_runtimes_are_refused(world: &mut World) -> Result<()> {
    let (first, second) = (&world.cluster.nodes()[0], &world.cluster.nodes()[1]);
    for port in [2379, 2380, 2375, 2376] {
        let address = first.address.to_string();
        // The test's own etcd is on loopback alone, so the node's address is free.
        let counting = Counting::at(&first.netns, SocketAddr::new(first.address.into(), port))?;
        counting.is_refused(world, &ENFORCED, (&address, port))?;
    }
    let address = second.address.to_string();
    let counting = Counting::at(&second.netns, SocketAddr::new(second.address.into(), 2375))?;
    counting.is_refused(world, &ENFORCED, (&address, 2375))
}

fn cloud_metadata_is_refused(world: &mut World) -> Result<()> {
    let node = world.cluster.node();
    for (address, ports) in [
        ("169.254.169.254", &[80, 988, 8080][..]),
        ("169.254.169.252", &[988]),
        ("100.100.100.200", &[80]),
        ("168.63.129.16", &[80, 32526]),
        ("169.254.42.42", &[80]),
        ("192.0.0.192", &[80]),
    ] {
        let _address = Extra::new(world, 0, &format!("addr {address}/32 dev lo"))?;
        for port in ports {
            let counting = Counting::at(&node.netns, SocketAddr::new(address.parse()?, *port))?;
            counting.is_refused(world, &["worker"], (address, *port))?;
        }
    }
    // GKE's metadata server, at every address of a node.
    for node in world.cluster.nodes() {
        let counting = Counting::at(&node.netns, SocketAddr::new(node.address.into(), 988))?;
        counting.is_refused(world, &ENFORCED, (&node.address.to_string(), 988))?;
    }
    for address in [
        "fd00:ec2::254",
        "fd20:ce::254",
        "fd00:c1::a9fe:a9fe",
        "fd00:100::100:200",
        "fd00:42::42",
    ] {
        for pod in &ENFORCED {
            refused(world, pod, (address, 80))?;
        }
    }
    Ok(())
}

/// What is none of Picket's business arrives: the same addresses at other ports, and Services that lead elsewhere.
fn other_addresses_are_left_alone(world: &mut World) -> Result<()> {
    let node = world.cluster.node();
    let address = node.address.to_string();
    let counting = Counting::at(&node.netns, SocketAddr::new(node.address.into(), 7443))?;
    lead(
        world,
        "plain",
        &json!({"ports": [{"port": 6443}]}),
        (&address, 7443),
    )?;
    let service = cluster_address(world, "plain")?;
    let at = (service.as_str(), 6443);
    comes_to(world, "direct", "worker", DIAL, at, 0)?;
    until("the listener does not count", || {
        Ok((counting.arrived() > 0).then_some(()).ok_or_else(String::new))
    })?;
    let before = counting.arrived();
    for pod in ENFORCED {
        for at in [at, (&address, 7443)] {
            let error = dial(world, "agents", pod, at)?;
            ensure!(error == 0, "{pod} dials {at:?}: error {error}");
        }
    }
    until("they did not all arrive", || {
        let arrived = counting.arrived() - before;
        Ok((arrived == 4).then_some(()).ok_or_else(|| arrived.to_string()))
    })?;
    ensure!(
        world.agent.metric("picket_protected_endpoints_omitted", &[])? == 0.0,
        "protected endpoints are left out"
    );
    for action in ["redirect", "deny"] {
        let count = world
            .agent
            .metric("picket_protected_endpoints", &[&format!("action=\"{action}\"")])?;
        ensure!(count > 0.0, "no protected endpoint for {action}");
    }
    delete(world, "plain")
}

/// By a restart with another configuration, during and after which no protected endpoint is open that should not be.
fn the_operator_adds_endpoints_and_takes_some_away(world: &mut World) -> Result<()> {
    let node = world.cluster.node().clone();
    let address = node.address.to_string();
    let listen = |address: &str, port| Counting::at(&node.netns, SocketAddr::new(address.parse()?, port));
    let (added, allowed) = ((address.as_str(), 7777), ("100.100.100.200", 80));
    let added_listener = listen(added.0, added.1)?;
    let line = format!("addr {}/32 dev lo", allowed.0);
    net::ip(&node.netns, &format!("{line}\n").replacen(' ', " add ", 1))?;
    let allowed_listener = listen(allowed.0, allowed.1)?;
    ensure!(
        dial(world, "agents", "worker", added)? == 0,
        "nobody told of this protected endpoint yet"
    );
    allowed_listener.is_refused(world, &["worker"], allowed)?;

    let change = |config: &mut Value| {
        config["protectedEndpoints"]["deny"] = json!([format!("{address}:7777")]);
        config["protectedEndpoints"]["allow"] = json!([format!("{}:{}", allowed.0, allowed.1)]);
    };
    world.configured(change, |world| {
        added_listener.is_refused(world, &["worker"], added)?;
        ensure!(
            dial(world, "agents", "worker", allowed)? == 0,
            "what is allowed is refused"
        );
        refused(world, "worker", ("169.254.169.254", 80))
    })?;
    net::ip(&node.netns, &format!("{line}\n").replacen(' ', " del ", 1))?;
    refused(world, "worker", allowed)?;
    // What an agent before this one refused is refused for its time.
    refused(world, "worker", added)
}
