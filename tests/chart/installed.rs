//! The chart on a real cluster: every object is taken, the node CA is made once, agents serve, are replaced and taken out again.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use base64::Engine as _;
use picket_tests::cluster::Cluster;
use serde_json::json;

use crate::Test;
use crate::helm::{CHART, Helm, NAMESPACE, said};
use crate::world::World;

pub(crate) const TESTS: &[Test] = picket_tests::tests! {
    the_api_server_takes_every_object,
    the_node_ca_is_made_once_and_nothing_is_left,
    agents_serve_are_replaced_and_taken_out,
    no_agent_serves_without_its_capabilities,
};

/// How long agents and pods may take. Seconds are usual; a machine that also compiles takes longer.
const LIMIT: Duration = Duration::from_secs(180);

/// Helm on the cluster, and the values that it has there.
struct Installer<'w> {
    helm: &'w Helm,
    cluster: &'w Cluster,
    values: Vec<String>,
}

impl<'w> Installer<'w> {
    /// For a cluster that has the namespaces, a BPF filesystem of the node's own, and no release that a failed test left.
    fn new(world: &'w mut World) -> Result<Self> {
        let reference = world.image.reference.clone();
        let (repository, tag) = reference.rsplit_once(':').context("an image without a tag")?;
        let (helm, cluster) = world.cluster()?;
        for namespace in [NAMESPACE, "agents"] {
            let made = format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: {namespace}}}\n");
            cluster.apply(&made)?;
        }
        let node = cluster.node();
        let folder = |name: &str| node.dir.join("chart").join(name);
        std::fs::create_dir_all(folder("bpf"))?;
        let mut mount = Command::new("mount");
        mount.args(["-t", "bpf", "picket"]).arg(folder("bpf"));
        if !is_bpf(&node.file(&folder("bpf"))) {
            said(node.output(mount)?).context("mount a bpf file system")?;
        }
        let tag = ["--set-string".to_owned(), format!("image.tag={tag}")];
        let value =
            |name: &str, value: &dyn std::fmt::Display| ["--set".to_owned(), format!("{name}={value}")];
        let values = [
            value("apiServer.address", &cluster.server()),
            value("image.repository", &repository),
            tag,
            value("host.cgroup", &node.cgroup.display()),
            value("host.bpffs", &folder("bpf").display()),
            value("host.run", &folder("run").display()),
            value("host.state", &folder("state").display()),
            value("host.log", &folder("log").display()),
            value("shutdown.drainSeconds", &2),
        ];
        let installer = Self {
            helm,
            cluster,
            values: values.into_iter().flatten().collect(),
        };
        installer.remove(&["--ignore-not-found"])?;
        installer.release()?;
        Ok(installer)
    }

    /// Runs Helm on the node, with the release's values and these arguments.
    fn run(&self, verb: &[&str], more: &[&str]) -> Result<String> {
        let mut command = self.helm.command(verb);
        command
            .args(["picket", CHART, "--namespace", NAMESPACE])
            .args(&self.values)
            .args(more)
            .env("KUBECONFIG", self.cluster.kubeconfig());
        let done = self.cluster.node().output(command)?;
        said(done).with_context(|| format!("helm {}", verb.join(" ")))
    }

    fn remove(&self, more: &[&str]) -> Result<()> {
        let mut command = self
            .helm
            .command(&["uninstall", "picket", "--namespace", NAMESPACE, "--wait"]);
        command.args(more).env("KUBECONFIG", self.cluster.kubeconfig());
        said(self.cluster.node().output(command)?)
            .context("helm uninstall")
            .map(drop)
    }

    /// The folder of the kernel programs' links and maps.
    fn pins(&self) -> PathBuf {
        let node = self.cluster.node();
        node.file(&node.dir.join("chart/bpf/picket"))
    }

    /// Takes the agents out of the node's kernel, and then the release away.
    fn take_out(&self) -> Result<()> {
        self.run(&["upgrade"], &["--set", "uninstall=true"])?;
        let pins = self.pins();
        wait("the end of the kernel programs", || Ok(!pins.exists()))?;
        self.remove(&[])
    }

    fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        self.cluster.kubectl_client().run(arguments, None)
    }

    /// The agent's pods, by name.
    fn agents(&self) -> Result<Vec<String>> {
        let label = "app.kubernetes.io/component=agent";
        let names = self.kubectl(&["-n", NAMESPACE, "get", "pods", "-l", label, "-o", "name"])?;
        Ok(names.lines().map(str::to_owned).collect())
    }

    /// Waits until each node has one agent, which is Ready and of the newest configuration.
    fn wait_for_agents(&self) -> Result<Vec<String>> {
        let limit = format!("--timeout={}s", LIMIT.as_secs());
        self.kubectl(&["-n", NAMESPACE, "rollout", "status", "daemonset/picket", &limit])?;
        wait("one agent", || Ok(self.agents()?.len() == 1))?;
        self.agents()
    }

    /// Enrols `agents`, under the strictest level of Pod Security, and does what the controller will: the node that has an agent gets the
    /// label, and the namespace the bundle.
    fn enrol(&self) -> Result<()> {
        let bundle = [
            "-n",
            NAMESPACE,
            "get",
            "secret",
            "picket-node-ca",
            "-o",
            "jsonpath={.data.ca\\.crt}",
        ];
        let bundle = base64::engine::general_purpose::STANDARD.decode(self.kubectl(&bundle)?.trim())?;
        let bundle = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "picket-ca.crt", "namespace": "agents"},
            "data": {"ca.crt": String::from_utf8(bundle)?}});
        self.cluster.apply(&bundle.to_string())?;
        self.kubectl(&["label", "nodes", "--all", "--overwrite", "picket.dev/agent=ready"])?;
        let labels = [
            "picket.dev/enrolled=true",
            "pod-security.kubernetes.io/enforce=restricted",
        ];
        self.kubectl(&[&["label", "namespace", "agents"][..], &labels].concat())?;
        wait("the enrolment", || {
            let spec = self.pod("probe");
            let arguments = ["create", "--dry-run=server", "-o", "yaml", "-f", "-"];
            let shown = self.cluster.kubectl_client().run(&arguments, Some(&spec))?;
            Ok(shown.contains("audience: picket.dev"))
        })
    }

    /// Takes it back.
    fn release(&self) -> Result<()> {
        let labels = ["picket.dev/enrolled-", "pod-security.kubernetes.io/enforce-"];
        self.kubectl(&[&["label", "namespace", "agents"][..], &labels].concat())?;
        self.kubectl(&["label", "nodes", "--all", "picket.dev/agent-"])
            .map(drop)
    }

    /// A pod in `agents` that asks the API server for pods, once, and that Pod Security `restricted` takes.
    fn pod(&self, name: &str) -> String {
        self.pod_that(name, "kubectl get pods 2>&1; echo exit $?")
    }

    fn pod_that(&self, name: &str, line: &str) -> String {
        let rights = json!({"allowPrivilegeEscalation": false, "runAsNonRoot": true, "runAsUser": 65534,
            "capabilities": {"drop": ["ALL"]}, "seccompProfile": {"type": "RuntimeDefault"}});
        let container = json!({"name": "main", "image": "picket.test/kubectl:1", "imagePullPolicy": "Never", "securityContext": rights,
            "command": ["sh", "-c", line], "env": [{"name": "HOME", "value": "/tmp"}]});
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "agents"},
            "spec": {"restartPolicy": "Never", "containers": [container]}})
        .to_string()
    }

    /// What such a pod prints, once it has ended.
    fn ask_in_pod(&self, name: &str) -> Result<String> {
        self.cluster.apply(&self.pod(name))?;
        let mut log = String::new();
        wait("the pod's end", || {
            log = self.kubectl(&["-n", "agents", "logs", name]).unwrap_or_default();
            Ok(log.contains("exit "))
        })?;
        Ok(log)
    }
}

fn is_bpf(folder: &std::path::Path) -> bool {
    let kind = nix::sys::statfs::statfs(folder).map(|found| found.filesystem_type());
    kind == Ok(nix::sys::statfs::BPF_FS_MAGIC)
}

pub(crate) fn wait(what: &str, mut holds: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + LIMIT;
    while !holds()? {
        if Instant::now() > deadline {
            bail!("{what}: not within {} s", LIMIT.as_secs());
        }
        std::thread::sleep(Duration::from_millis(250));
    }
    Ok(())
}

fn the_api_server_takes_every_object(world: &mut World) -> Result<()> {
    let installer = Installer::new(world)?;
    let text = installer.run(
        &["template"],
        &["--include-crds", "--kube-version", picket_tests::build::release()],
    )?;
    let arguments = [
        "apply",
        "--server-side",
        "--dry-run=server",
        "--validate=strict",
        "-f",
        "-",
    ];
    let taken = installer.cluster.kubectl_client().run(&arguments, Some(&text))?;
    let count = taken
        .lines()
        .filter(|line| line.contains("serverside-applied (server dry run)"))
        .count();
    let objects = crate::helm::documents(&text)?.len();
    ensure!(
        count == objects && count > 15,
        "{count} of {objects} objects:\n{taken}"
    );
    let warned = installer.cluster.kubectl_stdin(&arguments, &text)?;
    let warned = String::from_utf8_lossy(&warned.stderr).into_owned();
    ensure!(!warned.contains("Warning"), "{warned}");
    Ok(())
}

/// No agent: the node has no such label.
const NOWHERE: [&str; 2] = ["--set-string", "agent.nodeSelector.nowhere=true"];

fn the_node_ca_is_made_once_and_nothing_is_left(world: &mut World) -> Result<()> {
    let installer = Installer::new(world)?;
    let authority = || -> Result<[String; 2]> {
        let secret = |key: &str| {
            let path = format!("jsonpath={{.data.ca\\.{key}}}");
            installer.kubectl(&["-n", NAMESPACE, "get", "secret", "picket-node-ca", "-o", &path])
        };
        Ok([secret("crt")?, secret("key")?])
    };
    let notes = installer.run(&["install"], &NOWHERE)?;
    ensure!(
        notes.contains("kubectl label namespace NAMESPACE picket.dev/enrolled=true"),
        "{notes}"
    );
    let first = authority()?;
    ensure!(first.iter().all(|text| text.len() > 200), "{first:?}");
    installer.run(
        &["upgrade"],
        &[NOWHERE.as_slice(), &["--set", "log.format=json"]].concat(),
    )?;
    ensure!(
        authority()? == first,
        "the upgrade made another CA: pods that trust the first reach no API server"
    );
    installer.remove(&[])?;
    let kinds = "all,configmap,secret,serviceaccount,clusterrole,clusterrolebinding,flowschema,prioritylevelconfiguration,\
                 mutatingadmissionpolicy,mutatingadmissionpolicybinding,validatingadmissionpolicy,validatingadmissionpolicybinding";
    let left = installer.kubectl(&[
        "get",
        kinds,
        "-A",
        "-l",
        "app.kubernetes.io/name=picket",
        "-o",
        "name",
    ])?;
    ensure!(left.trim().is_empty(), "helm uninstall leaves {left}");
    Ok(())
}

fn agents_serve_are_replaced_and_taken_out(world: &mut World) -> Result<()> {
    let installer = Installer::new(world)?;
    installer.run(&["install"], &[])?;
    let first = installer.wait_for_agents()?;
    // A pod that is older than the label: no admission changed it, and its namespace's label has it enforced.
    let again = "while sleep 1; do kubectl get pods 2>&1; done";
    installer.cluster.apply(&installer.pod_that("older", again))?;
    let last_line = || {
        let log = installer.kubectl(&["-n", "agents", "logs", "older", "--tail=1"]);
        log.unwrap_or_default()
    };
    wait("a pod that reaches the API server itself", || {
        Ok(last_line().contains("cannot list resource \"pods\""))
    })?;
    installer.enrol()?;
    wait("the older pod's end of access", || {
        Ok(last_line().contains("certificate signed by unknown authority"))
    })?;
    refused(&installer, "first", &first[0])?;

    // A changed configuration: a second agent takes over from the first.
    installer.run(&["upgrade"], &["--set", "log.filter=debug"])?;
    let second = installer.wait_for_agents()?;
    ensure!(first != second, "the pod is the same: {first:?}");
    let log = installer.kubectl(&["-n", NAMESPACE, "logs", &second[0]])?;
    ensure!(log.contains("upgrade complete"), "{log}");
    refused(&installer, "second", &second[0])?;

    ensure!(
        installer.pins().exists(),
        "no pins at {}",
        installer.pins().display()
    );
    installer.take_out()?;
    installer.release()?;
    let log = installer.ask_in_pod("after")?;
    ensure!(
        log.contains("cannot list resource \"pods\""),
        "the pod does not reach the API server itself: {log}"
    );
    Ok(())
}

/// The pod's call is refused by Picket, and the agent has a record of it.
fn refused(installer: &Installer<'_>, pod: &str, agent: &str) -> Result<()> {
    let log = installer.ask_in_pod(pod)?;
    ensure!(
        log.contains("is no known agent") && log.contains("exit 1"),
        "{pod}: {log}"
    );
    let records = installer.kubectl(&["-n", NAMESPACE, "exec", agent, "--", "/picket", "audit", "tail"])?;
    let line = records
        .lines()
        .find(|line| line.contains(&format!("agents/{pod}")));
    ensure!(
        line.is_some_and(|line| line.contains("deny")),
        "no record of {pod}:\n{records}"
    );
    let health = installer.kubectl(&["-n", NAMESPACE, "exec", agent, "--", "/picket", "health", "--own"])?;
    ensure!(health.trim() == "ready", "{health}");
    Ok(())
}

/// Those whose absence can be seen: SYS_ADMIN holds what BPF, PERFMON and most of NET_ADMIN give.
fn no_agent_serves_without_its_capabilities(world: &mut World) -> Result<()> {
    let installer = Installer::new(world)?;
    let start_without = |place: usize, name: &str| -> Result<()> {
        installer.run(&["install"], &NOWHERE)?;
        let rights = "/spec/template/spec/containers/0/securityContext/capabilities/add";
        let patch = json!([
            {"op": "test", "path": format!("{rights}/{place}"), "value": name},
            {"op": "remove", "path": format!("{rights}/{place}")},
            {"op": "remove", "path": "/spec/template/spec/nodeSelector"},
        ]);
        let arguments = [
            "-n",
            NAMESPACE,
            "patch",
            "daemonset",
            "picket",
            "--type=json",
            "-p",
            &patch.to_string(),
        ];
        installer.kubectl(&arguments).map(drop)
    };

    // The agent cannot enter a pod's network namespace, and ends.
    start_without(3, "SYS_ADMIN")?;
    let path = "jsonpath={.items[*].status.containerStatuses[0].restartCount}";
    let restarts = [
        "-n",
        NAMESPACE,
        "get",
        "pods",
        "-l",
        "app.kubernetes.io/component=agent",
        "-o",
        path,
    ];
    wait("the end of an agent without SYS_ADMIN", || {
        Ok(installer
            .kubectl(&restarts)?
            .trim()
            .parse::<u32>()
            .is_ok_and(|count| count > 0))
    })?;
    installer.take_out()?;

    // The agent cannot find a pod's network namespace, and the pod stays closed.
    start_without(4, "SYS_PTRACE")?;
    installer.wait_for_agents()?;
    installer.enrol()?;
    let log = installer.ask_in_pod("unseen")?;
    ensure!(
        log.contains("operation not permitted"),
        "a pod is served without SYS_PTRACE: {log}"
    );
    installer.release()?;
    installer.take_out()
}
