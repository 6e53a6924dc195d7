//! `cargo xtask demo`: a cluster, two agents, and an agent's life in five steps, with what Picket lets through and what not.
//!
//! In: `--keep`. Out: each step with what it shows; the exit code is non-zero when any step is not as it should be. The cluster
//! and everything in it is gone at the end, unless it was to be kept.

mod step;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use picket_tests::agent::{self, Agent, AgentOptions};
use picket_tests::cluster::{Cluster, ClusterOptions};
use picket_tests::images;

use crate::agent::{Profile, build};
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
    /// Leave the cluster and the agent up at the end, and print how to use them
    #[arg(long)]
    pub(crate) keep: bool,
}

/// Runs it.
pub(crate) fn run(args: DemoArgs) -> Result<()> {
    let start = Instant::now();
    let binary = sh::timed("build picket", || build(Profile::Dev))?;
    let kubectl = sh::timed("images", images::kubectl)?;
    let options = ClusterOptions {
        nodes: 1,
        name: CLUSTER.to_owned(),
        images: vec![kubectl],
        ..ClusterOptions::default()
    };
    let mut cluster = sh::timed("cluster", || Cluster::up(options))?;
    let agent = sh::timed("picket agent and the two pods", || set_up(&cluster, binary))?;
    let failed = show(&cluster, &agent)?;
    if args.keep {
        keep(&mut cluster, agent)?;
    } else {
        sh::timed("remove everything", || take_down(cluster, agent))?;
    }
    ensure!(failed.is_empty(), "unexpected results: {}", failed.join(", "));
    eprintln!("[xtask] the demo took {:.0} s", start.elapsed().as_secs_f64());
    Ok(())
}

fn set_up(cluster: &Cluster, binary: std::path::PathBuf) -> Result<Agent> {
    agent::enrol(cluster, &["agents"])?;
    let options = AgentOptions {
        objects: vec![("demo.yaml".to_owned(), OBJECTS.to_owned())],
        namespaces: vec!["agents".to_owned()],
        users: vec!["agent:triage".to_owned(), "agent:janitor".to_owned()],
        groups: vec!["agents:shop".to_owned()],
        log: String::new(),
        binary: Some(binary),
        ..AgentOptions::default()
    };
    let agent = Agent::start(cluster, cluster.node(), &options)?;
    cluster.apply(WORLD)?;
    cluster.apply(PODS)?;
    for (namespace, pod) in [("agents", "triage"), ("agents", "janitor"), ("shop", "web")] {
        cluster
            .wait_ready(namespace, pod, POD_LIMIT)
            .with_context(|| format!("pod {namespace}/{pod}"))?;
    }
    Ok(agent)
}

/// The steps of an agent's life; gives the titles of those that were not as they should be.
fn show(cluster: &Cluster, agent: &Agent) -> Result<Vec<String>> {
    let mut steps = Steps::new(cluster);
    create(&mut steps, agent)?;
    scope(&mut steps, agent)?;
    operate(&mut steps, cluster)?;
    review(&mut steps, agent)?;
    revoke(&mut steps, agent)?;
    Ok(steps.end())
}

/// A command of `picket` on the agent's node.
fn picket(steps: &mut Steps<'_>, agent: &Agent, title: &str, line: &str, want: &Want) -> Result<()> {
    let config = agent.config_file().display().to_string();
    let words: Vec<&str> = line.split(' ').chain(["--config", &config]).collect();
    let output = agent.picket(&words)?;
    steps.output(title, &format!("picket {line}"), &output, want);
    Ok(())
}

fn create(steps: &mut Steps<'_>, agent: &Agent) -> Result<()> {
    steps.chapter(
        "Create",
        "An agent gets a name and an owner. It may do nothing yet, and it never gets a credential.",
    );
    picket(
        steps,
        agent,
        "The pods of a service account become the agent triage",
        "identity create triage --owner sre@example.test --namespace agents --service-account triage --review-by 90d",
        &Want::works("In force on this node"),
    )?;
    steps.in_pod(
        "A read before anything is granted",
        "triage",
        "kubectl -n shop get pods",
        &Want::refused("triage"),
    )
}

fn scope(steps: &mut Steps<'_>, agent: &Agent) -> Result<()> {
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
        picket(steps, agent, title, line, &Want::works("In force on this node"))?;
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

fn review(steps: &mut Steps<'_>, agent: &Agent) -> Result<()> {
    steps.chapter(
        "Review",
        "The audit log says what the agent did, and which of its rights it did not use.",
    );
    let spool = agent.audit_directory().display().to_string();
    let tail = agent.picket(&["audit", "tail", "--outcome", "deny", "-n", "6", &spool])?;
    steps.output(
        "What was denied. kubectl asked for the exec twice: by WebSocket (get), and again by SPDY (create)",
        "picket audit tail --outcome deny -n 6",
        &tail,
        &Want::works("guardrails/keep-namespaces"),
    );
    picket(
        steps,
        agent,
        "Narrower grants, from what was used",
        "identity review triage -o wide",
        &Want::works("narrow"),
    )
}

fn revoke(steps: &mut Steps<'_>, agent: &Agent) -> Result<()> {
    steps.chapter(
        "Revoke",
        "One command ends the agent. There is no secret to find and change.",
    );
    picket(
        steps,
        agent,
        "The agent's end",
        "identity revoke triage --reason retired --yes",
        &Want::works("In force on this node"),
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
            let mut command = std::process::Command::new(cluster.bin().join("kubectl"));
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

fn take_down(cluster: Cluster, mut agent: Agent) -> Result<()> {
    agent.stop()?;
    agent.uninstall()?;
    drop(agent);
    cluster.down()
}

fn keep(cluster: &mut Cluster, agent: Agent) -> Result<()> {
    let (audit, objects) = (agent.audit_directory(), agent.objects_dir());
    let picket = agent.binary().to_owned();
    agent.keep();
    cluster.keep()?;
    println!(
        "\nThe cluster is still up:\n  \
         cargo xtask cluster shell --name {CLUSTER}            a shell with kubectl as the cluster's administrator\n  \
         kubectl -n agents exec -it triage -- sh          in that shell: act as the agent\n  \
         {} audit tail -f {}\n  \
         {}             the identities and rules; edits apply at once\n  \
         cargo xtask cluster down --name {CLUSTER}             end it",
        picket.display(),
        audit.display(),
        objects.display(),
    );
    Ok(())
}
