//! The demo's first and last chapters: Picket comes by its chart, and goes without a trace.
//!
//! In: an installer, and what the cluster and its nodes held before. Out: the steps, shown; and how long the three commands took from
//! `helm install` to the first refused call.

use std::time::{Duration, Instant};

use anyhow::Result;
use picket_tests::footprint::Footprint;
use picket_tests::helm::NAMESPACE;
use picket_tests::install::Installer;

use super::PODS;
use super::step::{Steps, Want};

/// The chart from the source folder, as a user names it.
const CHART: &str = "deploy/charts/picket";

/// How long what is deleted may take to be gone: the API server deletes a namespace in some seconds.
const GONE_LIMIT: Duration = Duration::from_secs(40);

/// The users and groups of the demo's grants.
const IMPERSONATED: [&str; 4] = [
    "--set",
    "impersonate.users={agent:triage,agent:janitor}",
    "--set",
    "impersonate.groups={picket:agents,agents:shop}",
];

/// Three commands, until Picket has refused a call.
pub(super) fn install(steps: &mut Steps<'_>, installer: &Installer<'_>) -> Result<()> {
    steps.chapter(
        "Install",
        "Three commands on a running cluster, to the first call that Picket refuses.",
    );
    let start = Instant::now();
    let more: Vec<&str> = ["--create-namespace", "--wait"]
        .into_iter()
        .chain(IMPERSONATED)
        .collect();
    // A shell would take the braces apart.
    let typed: Vec<_> = more
        .iter()
        .map(|word| match word.contains('{') {
            true => format!("'{word}'"),
            false => (*word).to_owned(),
        })
        .collect();
    let line = format!(
        "helm install picket {CHART} --namespace {NAMESPACE} {}",
        typed.join(" ")
    );
    steps.command("An agent on each node", &line, || {
        installer.run(&["install"], &more)?;
        let agents = installer.agents()?.len();
        Ok((
            agents == installer.cluster.nodes().len(),
            format!(
                "{agents} agents serve\nFor its own nodes the demo also sets image.repository, image.tag, host.cgroup and \
                 shutdown.drainSeconds"
            ),
        ))
    })?;
    let line = "label namespace agents picket.dev/enrolled=true";
    steps.command(
        "The namespace of the agents is enrolled",
        &format!("kubectl {line}"),
        || {
            let words: Vec<&str> = line.split(' ').collect();
            let said = installer.kubectl(&words)?;
            installer.wait_for_enrolment("agents")?;
            Ok((said.contains("labeled"), said))
        },
    )?;
    let line = "-n agents run first --rm -i --restart=Never --image=picket.test/kubectl:1 --command -- kubectl get pods";
    let words: Vec<&str> = line.split(' ').collect();
    let mut output = installer.cluster.kubectl(&words)?;
    // A pod may end before kubectl is attached, which then prints nothing of it.
    for _ in 0..2 {
        if String::from_utf8_lossy(&[output.stdout.as_slice(), &output.stderr].concat())
            .contains("is no known agent")
        {
            break;
        }
        output = installer.cluster.kubectl(&words)?;
    }
    let title = "The first refused call: nobody has said yet which agent the pod is";
    steps.output(
        title,
        &format!("kubectl {line}"),
        &output,
        &Want::refused("is no known agent"),
    );
    let took = start.elapsed().as_secs_f64();
    println!("\n   helm install to first refused call: {took:.1} s");
    Ok(())
}

/// One command takes Picket out of the nodes; the CRDs and the namespace, which Helm keeps, go by one more each.
pub(super) fn uninstall(steps: &mut Steps<'_>, installer: &Installer<'_>, before: &Footprint) -> Result<()> {
    steps.chapter(
        "Uninstall",
        "Picket leaves the cluster, the nodes' kernels and their folders as they were. The audit records stay.",
    );
    let client = installer.cluster.kubectl_client();
    client.run(&["delete", "--wait", "-f", "-"], Some(PODS))?;
    installer.kubectl(&["label", "namespace", "agents", "picket.dev/enrolled-"])?;
    let line = format!("helm uninstall picket --namespace {NAMESPACE}");
    steps.command("Agents, programs and objects go", &line, || {
        installer.remove(&[])?;
        let nodes = installer.cluster.nodes();
        let held = nodes.iter().filter(|node| installer.pins(node).exists()).count();
        Ok((held == 0, format!("{held} nodes hold a program of Picket's")))
    })?;
    let crds = format!("{CHART}/crds");
    steps.command(
        "What Helm keeps: the CRDs and the namespace",
        &format!("kubectl delete -f {crds}; kubectl delete namespace {NAMESPACE}"),
        || {
            let folder = format!("{}/crds", picket_tests::helm::CHART);
            installer.kubectl(&["delete", "-f", &folder])?;
            installer.kubectl(&["delete", "namespace", NAMESPACE])?;
            Ok((true, String::new()))
        },
    )?;
    steps.check("Nothing is left, in the cluster and on both nodes", || {
        let mut left = before.differences(installer.cluster)?;
        let deadline = Instant::now() + GONE_LIMIT;
        while !only_records(&left) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(250));
            left = before.differences(installer.cluster)?;
        }
        let well = only_records(&left);
        left.insert(
            0,
            format!(
                "{} objects, kernel programs and folders compared with those before",
                before.len()
            ),
        );
        Ok((well, left.join("\n")))
    })
}

/// Whether the records of both nodes are all that is left.
fn only_records(left: &[String]) -> bool {
    left.iter().all(|line| line.ends_with(" /var/log/picket"))
}
