//! `cargo xtask demo`: a cluster, Picket by its chart, two agents, and an agent's life in five steps, with what Picket lets through and what
//! not.
//!
//! In: `--keep`. Out: each step with what it shows; the exit code is non-zero when any step is not as it should be. Picket is installed as a
//! user would install it, and uninstalled with the check that nothing of it is left. The cluster and everything in it is gone at the end,
//! unless it was to be kept.

mod install;
mod step;

use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use picket_tests::cluster::{Cluster, ClusterOptions};
use picket_tests::footprint::Footprint;
use picket_tests::helm::{Helm, NAMESPACE};
use picket_tests::images;
use picket_tests::install::Installer;

use crate::agent::{Profile, build};
use crate::cluster::Kubernetes;
use crate::sh;
use step::{Steps, Want};

/// The cluster's name: `cargo xtask clean` shows it, and a second demo beside a kept one is refused by it.
const CLUSTER: &str = "demo";
/// How long a pod may take to be Ready; two seconds is usual.
const POD_LIMIT: Duration = Duration::from_secs(90);

const OBJECTS: &str = include_str!("objects.yaml");
const PODS: &str = include_str!("pods.yaml");
const WORLD: &str = include_str!("cluster.yaml");

/// Where a pod has its own token.
const TOKEN_FILE: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";

/// What the demo can be told.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  cargo xtask demo\n  cargo xtask demo --keep")]
pub(crate) struct DemoArgs {
    /// Leave the cluster with Picket up at the end, and print how to use them
    #[arg(long)]
    pub(crate) keep: bool,
    #[command(flatten)]
    kubernetes: Kubernetes,
}

/// Picket on the demo's cluster.
struct Demo<'a> {
    installer: &'a Installer<'a>,
    cluster: &'a Cluster,
}

/// Runs it.
pub(crate) fn run(args: DemoArgs) -> Result<()> {
    let start = Instant::now();
    args.kubernetes.choose();
    let binary = sh::timed("build picket", || build(Profile::Dev))?;
    let (helm, image, kubectl) = sh::timed("Helm and images", || {
        Ok((Helm::new()?, images::picket(&binary)?, images::kubectl()?))
    })?;
    let options = ClusterOptions {
        nodes: 2,
        name: CLUSTER.to_owned(),
        images: vec![kubectl, image.clone()],
        ..ClusterOptions::default()
    };
    let mut cluster = sh::timed("cluster", || Cluster::up(options))?;
    let failed = {
        let installer = Installer::new(&helm, &cluster, &image.reference)?;
        give_tools(&cluster, &binary, helm.program())?;
        let demo = Demo {
            installer: &installer,
            cluster: &cluster,
        };
        demo.show(args.keep)?
    };
    if args.keep {
        keep(&mut cluster)?;
    } else {
        sh::timed("remove the cluster", || cluster.down())?;
    }
    ensure!(failed.is_empty(), "unexpected results: {}", failed.join(", "));
    eprintln!("[xtask] the demo took {:.0} s", start.elapsed().as_secs_f64());
    Ok(())
}

impl Demo<'_> {
    /// Installation, the steps of an agent's life, and the end of it all; gives the titles of those that were not as they should be.
    fn show(&self, keep: bool) -> Result<Vec<String>> {
        let mut steps = Steps::new(self.cluster);
        self.cluster
            .apply("apiVersion: v1\nkind: Namespace\nmetadata: {name: agents}\n")?;
        self.cluster.apply(WORLD)?;
        self.wait("shop", "web")?;
        let before = Footprint::take(self.cluster)?;
        install::install(&mut steps, self.installer)?;
        self.cluster.apply(OBJECTS)?;
        self.cluster.apply(PODS)?;
        self.wait("agents", "triage")?;
        self.wait("agents", "janitor")?;
        create(&mut steps, self)?;
        scope(&mut steps, self)?;
        operate(&mut steps, self.cluster)?;
        review(&mut steps, self)?;
        revoke(&mut steps, self)?;
        if !keep {
            install::uninstall(&mut steps, self.installer, &before)?;
        }
        Ok(steps.end())
    }

    fn wait(&self, namespace: &str, pod: &str) -> Result<()> {
        let ready = self.cluster.wait_ready(namespace, pod, POD_LIMIT);
        ready.with_context(|| format!("pod {namespace}/{pod}")).map(drop)
    }

    /// A command of kubectl's plugin by the administrator.
    fn picket(&self, steps: &mut Steps<'_>, title: &str, line: &str, want: &Want) -> Result<()> {
        let line = format!("picket {line}");
        let words: Vec<_> = line.split(' ').collect();
        let mut command = self.cluster.kubectl_client().command(&words)?;
        let path = std::env::var("PATH").unwrap_or_default();
        command.env("PATH", format!("{}:{path}", self.cluster.bin().display()));
        let output = command.output().context("run kubectl picket")?;
        steps.output(title, &format!("kubectl {line}"), &output, want);
        Ok(())
    }

    /// The node of an agent's pod, where the pod's records are.
    fn node_of(&self, pod: &str) -> Result<String> {
        let path = "jsonpath={.spec.nodeName}";
        self.installer
            .kubectl(&["-n", "agents", "get", "pod", pod, "-o", path])
    }
}

fn create(steps: &mut Steps<'_>, demo: &Demo<'_>) -> Result<()> {
    steps.chapter(
        "Create",
        "An agent gets a name and an owner. It may do nothing yet, and it never gets a credential.",
    );
    demo.picket(
        steps,
        "The pods of a service account become the agent triage",
        "identity create triage --owner sre@example.test --namespace agents --service-account triage --review-by 90d",
        &Want::works("In force in the cluster"),
    )?;
    steps.in_pod(
        "A read before anything is granted",
        "triage",
        "kubectl -n shop get pods",
        &Want::refused("triage"),
    )
}

fn scope(steps: &mut Steps<'_>, demo: &Demo<'_>) -> Result<()> {
    steps.chapter(
        "Scope",
        "Grants say what the agent may do, in RBAC's words. Whatever they do not say is denied.",
    );
    for (title, line) in [
        (
            "Reads of pods, their logs and events",
            "grant create triage-reads --to triage --user agent:triage --as-group agents:shop --verb get,list,watch --resource \
             pods,pods/log,events",
        ),
        (
            "Commands in pods",
            "grant create triage-exec --to triage --user agent:triage --as-group agents:shop --verb create --resource pods/exec",
        ),
    ] {
        demo.picket(steps, title, line, &Want::works("In force in the cluster"))?;
    }
    Ok(())
}

fn operate(steps: &mut Steps<'_>, cluster: &Cluster) -> Result<()> {
    steps.chapter(
        "Operate",
        "The agent runs plain kubectl. Picket passes on what is granted, unless a policy denies it.",
    );
    steps.in_pod(
        "A read that the grant allows",
        "triage",
        "kubectl -n shop get pods",
        &Want::works("web"),
    )?;
    steps.in_pod(
        "A namespace deletion: the cluster's RBAC allows it, a rule denies it",
        "janitor",
        "kubectl delete namespace shop",
        &Want::refused("rule keep-namespaces"),
    )?;
    steps.check("The namespace is still there", || {
        let phase = cluster.kubectl_client().run(
            &["get", "namespace", "shop", "-o", "jsonpath={.status.phase}"],
            None,
        )?;
        Ok((phase == "Active", format!("namespace shop is {phase}")))
    })?;
    steps.in_pod(
        "An exec that works",
        "triage",
        "kubectl -n shop exec web -- hostname",
        &Want::works("web"),
    )?;
    steps.in_pod(
        "An exec that a rule denies by its command",
        "triage",
        "kubectl -n shop exec web -- apk add curl",
        &Want::refused("rule no-package-managers"),
    )?;
    let address = &cluster.node().address;
    steps.in_pod(
        "A read outside the grant, by the API server's own address instead of its Service's: redirected too",
        "triage",
        &format!(
            "env KUBERNETES_SERVICE_HOST={address} KUBERNETES_SERVICE_PORT=6443 kubectl -n shop get secret payment-key"
        ),
        &Want::refused("no grant allows it"),
    )?;
    token(steps, cluster)
}

fn review(steps: &mut Steps<'_>, demo: &Demo<'_>) -> Result<()> {
    steps.chapter(
        "Review",
        "The audit log says what the agent did, and which of its rights it did not use.",
    );
    let node = demo.node_of("triage")?;
    demo.picket(
        steps,
        "What was denied. kubectl asked for the exec twice: by WebSocket (get), and again by SPDY (create)",
        &format!("audit tail --node {node} --outcome deny -n 6"),
        &Want::works("guardrails/no-package-managers"),
    )?;
    demo.picket(
        steps,
        "Narrower grants, from what was used",
        &format!("identity review triage --node {node} -o wide"),
        &Want::works("narrow"),
    )
}

fn revoke(steps: &mut Steps<'_>, demo: &Demo<'_>) -> Result<()> {
    steps.chapter(
        "Revoke",
        "One command ends the agent. There is no secret to find and change.",
    );
    demo.picket(
        steps,
        "The agent's end",
        "identity revoke triage --reason retired --yes",
        &Want::works("In force in the cluster"),
    )?;
    steps.in_pod(
        "The same read as before, as the agent sees it now",
        "triage",
        "kubectl -n shop get pods",
        &Want::refused("agent triage is revoked"),
    )
}

/// The pod's token, stolen and shown to the API server from the node, where nothing is redirected.
fn token(steps: &mut Steps<'_>, cluster: &Cluster) -> Result<()> {
    steps.check(
        "The pod's token, stolen and sent to the API server directly: rejected",
        || {
            let stolen = cluster.exec("agents", "triage", "agent", &["cat", TOKEN_FILE])?;
            let stolen = String::from_utf8(stolen.stdout).context("the token")?;
            ensure!(stolen.split('.').count() == 3, "the pod has no token");
            // Without a kubeconfig, since kubectl prefers a client certificate it finds there to the token.
            let mut command = Command::new(cluster.bin().join("kubectl"));
            command.args([
                "--kubeconfig",
                "/dev/null",
                "--server",
                cluster.server(),
                "--certificate-authority",
            ]);
            command
                .arg(cluster.ca_cert())
                .args(["--token", stolen.trim(), "auth", "whoami"]);
            let done = cluster.node().output(command)?;
            let said = String::from_utf8_lossy(&done.stderr).trim().to_owned();
            Ok((!done.status.success() && said.contains("Unauthorized"), said))
        },
    )
}

/// Puts kubectl's plugin and Helm beside the cluster's kubectl, where the shell of `cargo xtask cluster shell` finds them too.
fn give_tools(cluster: &Cluster, picket: &Path, helm: &Path) -> Result<()> {
    for (name, program) in [("kubectl-picket", picket), ("picket", picket), ("helm", helm)] {
        let program = program
            .canonicalize()
            .with_context(|| format!("{}", program.display()))?;
        symlink(&program, cluster.bin().join(name)).with_context(|| format!("link {name}"))?;
    }
    Ok(())
}

fn keep(cluster: &mut Cluster) -> Result<()> {
    cluster.keep()?;
    println!(
        "\nThe cluster is still up:\n  \
         cargo xtask cluster shell --name {CLUSTER}            a shell with kubectl as the cluster's administrator\n  \
         and in that shell:\n  \
         kubectl -n agents exec -it janitor -- sh         act as the agent janitor; triage is revoked\n  \
         kubectl picket status                            the nodes and their agents\n  \
         kubectl get picket                               identities, grants and policies; kubectl edit changes them\n  \
         helm -n {NAMESPACE} get values picket            the values of the installation\n  \
         kubectl picket audit tail -f --node node1        the records of a node\n  \
         and then:\n  \
         cargo xtask cluster down --name {CLUSTER}             end it",
    );
    Ok(())
}
