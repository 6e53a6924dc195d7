//! Connections whose ports are used again at once: each request runs under the identity of the client that made it, however the
//! kernel's flows and the agent's connections follow one another.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use picket_tests::audit::Since;
use picket_tests::tests;
use serde_json::Value;

use crate::Test;
use crate::world::World;

pub(crate) const TESTS: &[Test] = tests! {
    ten_thousand_connections_of_two_pods_have_their_pods_identities,
};

/// Connections of each of two clients.
pub(crate) const CONNECTIONS: usize = 5000;

/// Ports that a client's connections come from, each some hundred times.
pub(crate) const PORTS: (u16, u16) = (20_000, 20_032);

/// Opens connections one after another from few ports, several at once, each reset after one answer so that its port is free at
/// once. Asks each time who it is. Arguments: server's address, port and name, its CA, how many connections, the first port and
/// the one after the last, the user's name that each answer must have, and a certificate and its key where there are any. Prints how many
/// answers there were, and what was wrong.
pub(crate) const CLIENT: &str = r#"
import errno, json, socket, ssl, struct, sys, threading
host, port, name, ca, count, low, high, wanted, *pair = sys.argv[1:]
port, count, low, high = int(port), int(count), int(low), int(high)
context = ssl.create_default_context(cafile=ca)
if pair:
    context.load_cert_chain(*pair)
body = b'{"kind":"SelfSubjectReview","apiVersion":"authentication.k8s.io/v1"}'
request = (b"POST /apis/authentication.k8s.io/v1/selfsubjectreviews HTTP/1.1\r\nHost: kubernetes\r\nAccept: application/json\r\n"
           b"Content-Type: application/json\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body)) + body
tally = {"answers": 0, "ports": 0, "wrong": []}
ports, lock, turn = set(), threading.Lock(), iter(range(1 << 40))
left = [count]

def dial():
    while True:
        plain = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
        plain.settimeout(30)
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        try:
            with lock:
                own = low + next(turn) % (high - low)
            plain.bind(("", own))
            plain.connect((host, port))
            return plain, own
        except OSError as error:
            plain.close()
            if error.errno not in (errno.EADDRINUSE, errno.EADDRNOTAVAIL):
                raise

def ask():
    plain, own = dial()
    with context.wrap_socket(plain, server_hostname=name) as secure:
        secure.sendall(request)
        answer = b""
        while True:
            try:
                chunk = secure.recv(65536)
            except (ssl.SSLEOFError, ConnectionResetError):
                chunk = b""
            if not chunk:
                break
            answer += chunk
    head, _, text = answer.partition(b"\r\n\r\n")
    if b"chunked" in head.lower():
        text = text[text.index(b"{"):text.rindex(b"}") + 1]
    user = json.loads(text)["status"]["userInfo"]["username"]
    return user, own

def work():
    while True:
        with lock:
            if left[0] == 0 or len(tally["wrong"]) > 10:
                return
            left[0] -= 1
        try:
            user, own = ask()
            fault = None if user == wanted else user
        except Exception as error:
            user, own, fault = None, None, repr(error)
        with lock:
            if fault:
                tally["wrong"].append(fault)
            else:
                tally["answers"] += 1
                ports.add(own)

threads = [threading.Thread(target=work) for _ in range(6)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
tally["ports"] = len(ports)
print(json.dumps(tally))
"#;

/// The second pod's identity, beside `worker`'s.
const OBJECTS: &str = "apiVersion: picket.dev/v1alpha1\nkind: AgentIdentity\nmetadata: {name: second}\nspec: {owner: o, attest: {pod: \
                       {namespace: agents, serviceAccount: stranger}}}\n---\napiVersion: picket.dev/v1alpha1\nkind: AgentGrant\n\
                       metadata: {name: second}\nspec:\n  to: {identities: [second]}\n  upstream: {impersonate: {user: \
                       'agent:sleeper', groups: ['picket:agents']}}\n  rules:\n  - {apiGroups: [authentication.k8s.io], resources: \
                       [selfsubjectreviews], verbs: [create]}\n";

/// A client's answers: all of them, under the right user.
pub(crate) fn all_right(said: &str) -> Result<()> {
    let tally: Value = serde_json::from_str(said.trim()).with_context(|| said.to_owned())?;
    let ports = u64::from(PORTS.1 - PORTS.0);
    ensure!(
        tally["wrong"] == Value::Array(Vec::new())
            && tally["answers"].as_u64() == Some(CONNECTIONS as u64)
            && tally["ports"].as_u64() == Some(ports),
        "{tally:#}"
    );
    Ok(())
}

/// The reviews on record: `is_own` says of a record whether its identity is its client's. Gives how many each identity has.
pub(crate) fn records(log: &Since, identities: [&str; 2], is_own: impl Fn(&Value) -> bool) -> Result<()> {
    let of_review = |record: &Value| {
        record["objectRef"]["resource"] == "selfsubjectreviews" && record["stage"] == "ResponseComplete"
    };
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let records = log.all(of_review)?;
        if let Some(wrong) = records.iter().find(|record| !is_own(record)) {
            anyhow::bail!("another's identity: {wrong:#}");
        }
        let counts = identities.map(|identity| {
            let of_identity = records
                .iter()
                .filter(|record| record["agent"]["identity"] == identity);
            of_identity.count()
        });
        if counts == [CONNECTIONS; 2] {
            return Ok(());
        }
        ensure!(
            Instant::now() < deadline,
            "{identities:?} have {counts:?} records"
        );
    }
}

fn ten_thousand_connections_of_two_pods_have_their_pods_identities(world: &mut World) -> Result<()> {
    world.agent.write_objects("reuse.yaml", OBJECTS)?;
    let done = two_pods(world);
    world.agent.remove_objects("reuse.yaml")?;
    done
}

fn two_pods(world: &World) -> Result<()> {
    let log = world.picket_log();
    let began = Instant::now();
    let run = |pod: &'static str, user: &'static str| {
        let (count, first, end) = (CONNECTIONS.to_string(), PORTS.0.to_string(), PORTS.1.to_string());
        let line = "exec python3 -c \"$0\" $KUBERNETES_SERVICE_HOST $KUBERNETES_SERVICE_PORT kubernetes.default.svc \
                    /var/run/secrets/kubernetes.io/serviceaccount/ca.crt \"$@\"";
        let argv = ["sh", "-c", line, CLIENT, &count, &first, &end, user];
        all_right(&world.run("agents", pod, &argv)?.good()?).with_context(|| format!("pod {pod}"))
    };
    // Both use the same ports, each in its own network namespace.
    let (one, other) = std::thread::scope(|scope| {
        let one = scope.spawn(|| run("worker", "agent:worker"));
        let other = run("stranger", "agent:sleeper");
        (one.join(), other)
    });
    one.map_err(|_| anyhow::anyhow!("the first client panicked"))??;
    other?;
    println!("{} connections in {:?}", 2 * CONNECTIONS, began.elapsed());
    records(&log, ["worker", "second"], |record| {
        let agent = &record["agent"];
        (agent["identity"] == "worker" && agent["pod"]["name"] == "worker")
            || (agent["identity"] == "second" && agent["pod"]["name"] == "stranger")
    })
}
