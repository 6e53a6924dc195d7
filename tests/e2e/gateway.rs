//! The gateway: callers that are no pods, by client certificates.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, ensure};
use picket_tests::audit::about;
use picket_tests::output::Done;
use picket_tests::pki::{Authority, CertificateFiles};
use picket_tests::running::Running;
use picket_tests::tests;
use rcgen::{CertificateParams, IsCa};
use serde_json::{Value, json};

use crate::Test;
use crate::life::until;
use crate::port_reuse::{self, CLIENT, CONNECTIONS, PORTS, all_right};
use crate::world::World;

pub(crate) const TESTS: &[Test] = tests! {
    a_client_certificate_opens_the_gateway_and_nothing_else_does,
    ten_thousand_connections_of_two_callers_have_their_identities,
    a_pod_cannot_dial_the_gateway,
    a_ca_that_is_taken_back_ends_its_own_clients_watches_alone,
};

const PORT: u16 = 6444;
const DAY: Duration = Duration::from_secs(24 * 3600);

/// Two callers.
const IDENTITIES: &str = "apiVersion: picket.dev/v1alpha1\nkind: AgentIdentity\nmetadata: {name: ci-one}\nspec: {owner: o, groups: [ci], attest: \
                          {spiffe: {id: 'spiffe://one.test/ci/one'}}}\n---\napiVersion: picket.dev/v1alpha1\nkind: AgentIdentity\n\
                          metadata: {name: ci-two}\nspec: {owner: o, groups: [ci], attest: {spiffe: {id: 'spiffe://one.test/ci/two'}}}\n---\n";

/// What they may do: what `worker` may, as one user.
const GRANT: &str = "apiVersion: picket.dev/v1alpha1\nkind: AgentGrant\nmetadata: {name: ci}\nspec:\n  to: {groups: [ci]}\n  upstream: \
                     {impersonate: {user: 'agent:worker', groups: ['agents:lab', 'picket:agents']}}\n  rules:\n  - {apiGroups: [''], \
                     resources: [pods, pods/log], verbs: [get, list, watch]}\n  - {apiGroups: [''], resources: [pods/exec], verbs: \
                     [get, create]}\n";

/// The agent of the first node with a gateway, until this is given up.
struct Gateway {
    folder: tempfile::TempDir,
    server: String,
    before: String,
}

impl Gateway {
    fn open(world: &mut World) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let before = std::fs::read_to_string(world.agent.config_file())?;
        for domain in ["one", "two", "other-of-one"] {
            Authority::create(&folder.path().join(domain))?;
        }
        let mut config: Value = serde_json::from_str(&before)?;
        config["gateway"] = json!({"listen": format!("0.0.0.0:{PORT}")});
        config["tls"]["trustBundles"] = json!([
            {"trustDomain": "one.test", "file": folder.path().join("one/ca.crt")},
            {"trustDomain": "two.test", "file": folder.path().join("two/ca.crt")},
        ]);
        let gateway = Self {
            server: format!("https://{}:{PORT}", world.cluster.node().address),
            folder,
            before,
        };
        world
            .agent
            .write_objects("gateway.yaml", &format!("{IDENTITIES}{GRANT}"))?;
        gateway.configure(world, &config.to_string())?;
        Ok(gateway)
    }

    fn configure(&self, world: &mut World, config: &str) -> Result<()> {
        std::fs::write(world.agent.config_file(), config)?;
        world.agent.stop()?;
        world.agent.restart()?;
        Ok(())
    }

    fn close(self, world: &mut World) -> Result<()> {
        world.agent.remove_objects("gateway.yaml")?;
        let before = self.before.clone();
        self.configure(world, &before)
    }

    /// A certificate of trust domain `one.test` or `two.test`, by the CA in the folder of that name.
    fn certificate(
        &self,
        world: &World,
        ca: &str,
        file: &str,
        uris: &[&str],
        change: impl FnOnce(&mut CertificateParams),
    ) -> Result<CertificateFiles> {
        let made = Authority::open(&self.folder.path().join(ca)).svid(file, uris, change)?;
        let name = format!("the key of the client certificate {file}");
        world
            .secrets
            .add_key(&name, &std::fs::read_to_string(&made.key)?)?;
        Ok(made)
    }

    /// A kubeconfig for the gateway, as `picket kubeconfig` writes it.
    fn kubeconfig(&self, world: &World, shown: &CertificateFiles) -> Result<PathBuf> {
        let file = shown.cert.with_extension("kubeconfig");
        let (certificate, key) = (shown.cert.display().to_string(), shown.key.display().to_string());
        let config = world.agent.config_file().display().to_string();
        let done = Done::from(world.agent.picket(&[
            "kubeconfig",
            "--identity",
            "ci",
            "--server",
            &self.server,
            "--config",
            &config,
            "--client-certificate",
            &certificate,
            "--client-key",
            &key,
            "-o",
            &file.display().to_string(),
        ])?);
        done.good()?;
        Ok(file)
    }

    /// kubectl on the second node, through the gateway of the first.
    fn kubectl(&self, world: &World, kubeconfig: &Path, arguments: &[&str]) -> Result<Done> {
        let mut command = Command::new(world.cluster.bin().join("kubectl"));
        command
            .args(arguments)
            .env("KUBECONFIG", kubeconfig)
            .env("KUBECACHEDIR", self.folder.path().join("cache"));
        let node = world.cluster.nodes().get(1).context("a second node")?;
        Ok(Done::from(node.output(command)?))
    }

    /// A watch of pods by kubectl there, to be read while it runs.
    fn watch(&self, world: &World, kubeconfig: &Path) -> Result<Running> {
        let mut command = Command::new(world.cluster.bin().join("kubectl"));
        command
            .args(["-n", "lab", "get", "pods", "--watch", "-o", "name"])
            .env("KUBECONFIG", kubeconfig)
            .env("KUBECACHEDIR", self.folder.path().join("cache"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        let node = world.cluster.nodes().get(1).context("a second node")?;
        Running::of(node.spawn(command)?)
    }
}

fn a_client_certificate_opens_the_gateway_and_nothing_else_does(world: &mut World) -> Result<()> {
    let gateway = Gateway::open(world)?;
    let done = works(world, &gateway).and_then(|()| refused(world, &gateway));
    gateway.close(world)?;
    done
}

/// In place of [`GRANT`]: a user of its own for each caller, so that an answer tells whose it is.
const USERS: &str = "apiVersion: picket.dev/v1alpha1\nkind: AgentGrant\nmetadata: {name: ci-one-who}\nspec:\n  to: {identities: \
                     [ci-one]}\n  upstream: {impersonate: {user: 'agent:worker', groups: ['picket:agents']}}\n  rules:\n  - \
                     {apiGroups: [authentication.k8s.io], resources: [selfsubjectreviews], verbs: [create]}\n---\n\
                     apiVersion: picket.dev/v1alpha1\nkind: AgentGrant\nmetadata: {name: ci-two-who}\nspec:\n  to: {identities: \
                     [ci-two]}\n  upstream: {impersonate: {user: 'agent:sleeper', groups: ['picket:agents']}}\n  rules:\n  - \
                     {apiGroups: [authentication.k8s.io], resources: [selfsubjectreviews], verbs: [create]}\n";

fn ten_thousand_connections_of_two_callers_have_their_identities(world: &mut World) -> Result<()> {
    let gateway = Gateway::open(world)?;
    world
        .agent
        .write_objects("gateway.yaml", &format!("{IDENTITIES}{USERS}"))?;
    let done = two_callers(world, &gateway);
    gateway.close(world)?;
    done
}

/// Two callers with certificates of their own, at one address and from the same ports.
fn two_callers(world: &World, gateway: &Gateway) -> Result<()> {
    let log = world.picket_log();
    let node = world.cluster.nodes().get(1).context("a second node")?;
    let address = world.cluster.node().address.to_string();
    let config: Value = serde_json::from_str(&gateway.before)?;
    let ca = config["tls"]["caCertificateFile"].as_str().context("a CA")?;
    let began = Instant::now();
    let run = |name: &str, user: &str| {
        let uri = format!("spiffe://one.test/ci/{name}");
        let shown = gateway.certificate(world, "one", name, &[&uri], |_| ())?;
        let (count, first, end) = (CONNECTIONS.to_string(), PORTS.0.to_string(), PORTS.1.to_string());
        let mut command = Command::new("python3");
        command
            .args(["-c", CLIENT, &address, &PORT.to_string(), &address, ca])
            .args([&count, &first, &end, user])
            .args([&shown.cert, &shown.key]);
        all_right(&Done::from(node.output(command)?).good()?).with_context(|| format!("caller {name}"))
    };
    let (one, other) = std::thread::scope(|scope| {
        let one = scope.spawn(|| run("one", "agent:worker"));
        let other = run("two", "agent:sleeper");
        (one.join(), other)
    });
    one.map_err(|_| anyhow::anyhow!("the first caller panicked"))??;
    other?;
    println!("{} connections in {:?}", 2 * CONNECTIONS, began.elapsed());
    port_reuse::records(&log, ["ci-one", "ci-two"], |record| {
        let name = record["agent"]["identity"].as_str().unwrap_or_default();
        let id = format!("spiffe://one.test/ci/{}", name.trim_start_matches("ci-"));
        record["agent"]["attestation"] == "x509"
            && record["impersonatedUser"]["username"]
                == if name == "ci-one" {
                    "agent:worker"
                } else {
                    "agent:sleeper"
                }
            && record["agent"].get("pod").is_none()
            && record["user"]["username"] == id.as_str()
    })
}

fn a_pod_cannot_dial_the_gateway(world: &mut World) -> Result<()> {
    let gateway = Gateway::open(world)?;
    let done = denied(world);
    gateway.close(world)?;
    done
}

/// The kernel denies the port on every node, and the record says which connection it was.
fn denied(world: &World) -> Result<()> {
    let dial = |namespace: &str, address: &str| {
        let line =
            format!("import socket; socket.create_connection(('{address}', {PORT}), 5); print('connected')");
        world.run(namespace, "worker", &["python3", "-c", &line])
    };
    for node in world.cluster.nodes() {
        let address = node.address.to_string();
        let log = world.picket_log();
        let said = dial("agents", &address)?;
        ensure!(said.code != 0 && said.err.contains("PermissionError"), "{said:?}");
        let record = log.wait("the denied connection", |record| {
            record["kernel"]["address"] == format!("{address}:{PORT}").as_str()
        })?;
        ensure!(
            record["decision"]["outcome"] == "deny"
                && record["decision"]["reason"] == "denied_endpoint"
                && record["kernel"]["verdict"] == "deny"
                && record["agent"]["pod"]["name"] == "worker",
            "{record:#}"
        );
    }
    // A pod that is not enforced gets a connection.
    let address = world.cluster.node().address.to_string();
    says(dial("direct", &address)?, "connected")
}

/// The bundle of a trust domain has two CAs, and loses one of them.
fn a_ca_that_is_taken_back_ends_its_own_clients_watches_alone(world: &mut World) -> Result<()> {
    let gateway = Gateway::open(world)?;
    let done = taken_back(world, &gateway);
    gateway.close(world)?;
    done
}

fn taken_back(world: &World, gateway: &Gateway) -> Result<()> {
    let file = gateway.folder.path().join("one/ca.crt");
    let one = std::fs::read_to_string(&file)?;
    let stays = gateway.certificate(world, "one", "stays", &["spiffe://one.test/ci/one"], |_| ())?;
    let other = std::fs::read_to_string(gateway.folder.path().join("other-of-one/ca.crt"))?;
    let ends = gateway.certificate(
        world,
        "other-of-one",
        "ends",
        &["spiffe://one.test/ci/two"],
        |_| (),
    )?;
    std::fs::write(&file, format!("{one}{other}"))?;
    let (stays, ends) = (
        gateway.kubeconfig(world, &stays)?,
        gateway.kubeconfig(world, &ends)?,
    );
    let get = ["-n", "lab", "get", "pod", "target", "-o", "name"];
    until(|| Ok((gateway.kubectl(world, &ends, &get)?.code == 0).then_some(())))
        .context("the second CA does not count")?;
    let of_pod = world.start_worker("kubectl get pods -n lab --watch -o name")?;
    let (stays, mut ends) = (gateway.watch(world, &stays)?, gateway.watch(world, &ends)?);
    for watch in [&of_pod, &stays, &ends] {
        watch.line_with("pod/target")?;
    }
    let picket = world.picket_log();
    std::fs::write(&file, one)?;
    ends.wait().context("the watch by the CA that was taken back")?;
    picket.wait("the end of the watch", |record| {
        record["agent"]["identity"] == "ci-two" && record["session"]["endCause"] == "certificate_untrusted"
    })?;
    // The others go on: what happens from here on still comes.
    world.admin(&["label", "pod", "target", "-n", "lab", "taken=back"])?;
    for (name, watch) in [("the pod", &of_pod), ("the other CA's client", &stays)] {
        watch
            .line_with("pod/target")
            .with_context(|| format!("the watch of {name} ended too"))?;
    }
    world.admin(&["label", "pod", "target", "-n", "lab", "taken-"])?;
    let ended = picket.all(|record| !record["session"]["endCause"].is_null())?;
    ensure!(ended.len() == 1, "{ended:#?}");
    Ok(())
}

/// A program that succeeded and printed this.
fn says(done: Done, word: &str) -> Result<()> {
    let out = done.good()?;
    ensure!(out.contains(word), "no {word:?} in:\n{out}");
    Ok(())
}

/// Get, watch and exec by kubectl.
fn works(world: &World, gateway: &Gateway) -> Result<()> {
    let good = gateway.certificate(world, "one", "good", &["spiffe://one.test/ci/one"], |_| ())?;
    let kubeconfig = gateway.kubeconfig(world, &good)?;
    let log = world.picket_log();
    let kubectl = |arguments: &[&str]| gateway.kubectl(world, &kubeconfig, arguments);
    says(kubectl(&["-n", "lab", "get", "pod", "target"])?, "target")?;
    let record = log.wait("the get", |record| about(record, "get", "pods", "target"))?;
    let agent = &record["agent"];
    ensure!(
        agent["identity"] == "ci-one"
            && agent["attestation"] == "x509"
            && agent.get("pod").is_none()
            && record["user"]["username"] == "spiffe://one.test/ci/one"
            && record["sourceIPs"][0] == world.cluster.nodes()[1].address.to_string(),
        "{record:#}"
    );
    says(
        kubectl(&["-n", "lab", "exec", "target", "--", "echo", "hello"])?,
        "hello",
    )?;
    let watched = kubectl(&[
        "-n",
        "lab",
        "get",
        "pod",
        "target",
        "--watch",
        "--request-timeout=3s",
    ])?;
    // However it ends.
    ensure!(watched.out.contains("target"), "{watched:?}");
    log.wait("the watch", |record| {
        record["verb"] == "watch" && record["agent"]["identity"] == "ci-one"
    })?;
    kubectl(&["-n", "vault", "get", "secrets"])?
        .refused(&["Forbidden", "agent ci-one may not list secrets"])?;
    Ok(())
}

/// Certificates that do not count.
fn refused(world: &World, gateway: &Gateway) -> Result<()> {
    let one = "spiffe://one.test/ci/one";
    let past = |params: &mut CertificateParams| params.not_after = (SystemTime::now() - DAY / 2).into();
    let future = |params: &mut CertificateParams| params.not_before = (SystemTime::now() + DAY / 2).into();
    let cases = [
        (
            "expired",
            gateway.certificate(world, "one", "expired", &[one], past)?,
            "certificate_expired",
        ),
        (
            "early",
            gateway.certificate(world, "one", "early", &[one], future)?,
            "certificate_not_yet_valid",
        ),
        (
            "foreign",
            gateway.certificate(world, "two", "foreign", &[one], |_| ())?,
            "certificate_untrusted",
        ),
        (
            "ca",
            gateway.certificate(world, "one", "leaf-ca", &[one], |params| {
                params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
            })?,
            "certificate_ca",
        ),
        (
            "nameless",
            gateway.certificate(world, "one", "nameless", &[], |_| ())?,
            "certificate_spiffe_id",
        ),
        (
            "double",
            gateway.certificate(world, "one", "double", &[one, "spiffe://one.test/ci/two"], |_| ())?,
            "certificate_spiffe_id",
        ),
        (
            "unknown",
            gateway.certificate(world, "one", "unknown", &["spiffe://one.test/ci/three"], |_| ())?,
            "identity_none",
        ),
    ];
    for (name, shown, reason) in cases {
        let kubeconfig = gateway.kubeconfig(world, &shown)?;
        let log = world.picket_log();
        let said = gateway.kubectl(
            world,
            &kubeconfig,
            &["get", "--raw", "/api/v1/namespaces/lab/pods/target"],
        )?;
        ensure!(said.code != 0, "{name} came through: {said:?}");
        log.wait(name, |record| record["decision"]["reason"] == reason)?;
    }
    Ok(())
}
