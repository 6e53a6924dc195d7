//! Enrolment where the API server has no MutatingAdmissionPolicy: which of the two the chart installs, and that the controller's webhooks
//! make of a pod or a workload what the policies make of it.
//!
//! In: the chart for clusters of several versions, and a real API server, which has both. Out: the same objects by either, for the rows of
//! files/guards.yaml that say what is changed.

use std::process::Output;

use anyhow::{Context, Result, ensure};
use picket_tests::install::{Installer, wait};
use picket_tests::release::Release;
use serde_json::{Value, json};

use crate::Test;
use crate::guards::{Guarded, LISTS, Row, rows, shown};
use crate::helm::{NAMESPACE, REQUIRED, Render as _, object};
use crate::installed::{NOWHERE, installer};
use crate::world::World;

pub(crate) const TESTS: &[Test] = picket_tests::tests! {
    older_clusters_get_webhooks_and_the_plain_verb,
    the_webhooks_ask_for_the_same_objects_as_the_policies,
    the_webhooks_make_what_the_policies_make,
};

/// The one configuration.
const CONFIGURATION: &str = "enrolment.picket.dev";

/// What the chart renders for a cluster of this version, by these values besides.
fn rendered(world: &World, version: &str, values: &[&str]) -> Result<Vec<Value>> {
    let mut arguments = REQUIRED.to_vec();
    arguments.extend(["--kube-version", version]);
    for &value in values {
        arguments.extend(["--set", value]);
    }
    world.helm.template(&arguments)
}

/// How many objects there are of each way to change what is created.
fn ways(chart: &[Value]) -> (usize, usize) {
    let count = |kind: &str| chart.iter().filter(|object| object["kind"] == kind).count();
    (
        count("MutatingAdmissionPolicy"),
        count("MutatingWebhookConfiguration"),
    )
}

fn older_clusters_get_webhooks_and_the_plain_verb(world: &mut World) -> Result<()> {
    let users = ["impersonate.users={agent:a}"];
    let cases: [(&str, &[&str], (usize, usize)); 9] = [
        ("v1.34.0", &[], (0, 1)),
        ("v1.35.4-eks-1", &[], (0, 1)),
        ("v1.36.0-gke.7", &[], (3, 0)),
        ("v1.36.0", &["enrol.admission=webhook"], (0, 1)),
        ("v1.34.0", &["enrol.admission=policies"], (3, 0)),
        // By hand: what AI agents make is changed all the same.
        ("v1.34.0", &["enrol.admission=none"], (0, 1)),
        ("v1.36.0", &["enrol.admission=none"], (1, 0)),
        ("v1.34.0", &["enrol.admission=none", "enrol.guards=false"], (0, 0)),
        ("v1.34.0", &["enrol.guards=false"], (0, 1)),
    ];
    for (version, values, wanted) in cases {
        let chart = rendered(world, version, values)?;
        ensure!(ways(&chart) == wanted, "{version} {values:?}: {:?}", ways(&chart));
        let deployment = object(&chart, "Deployment", "picket-controller")?.to_string();
        let serves =
            deployment.contains("--webhooks=[::]:9443") && deployment.contains(r#""containerPort":9443"#);
        ensure!(serves == (wanted.1 > 0), "{version} {values:?}: {deployment}");
        let has_service = object(&chart, "Service", "picket-webhook").is_ok();
        ensure!(has_service == (wanted.1 > 0), "{version} {values:?}");
    }
    // A range of ports alone would shut the webhooks' one on networks that know no ranges.
    for (version, is_named) in [("v1.35.4", true), ("v1.36.0", false)] {
        let chart = rendered(world, version, &["metrics.enabled=true"])?;
        let policy = object(&chart, "NetworkPolicy", "picket-controller-metrics")?.to_string();
        let port = policy.contains(r#"{"port":9443,"protocol":"TCP"}"#);
        ensure!(port == is_named, "{version}: {policy}");
    }
    // What a cluster serves counts, where Helm or Argo CD knows it.
    let group = "apiregistration.k8s.io/v1";
    let kind = "admissionregistration.k8s.io/v1/MutatingAdmissionPolicy";
    for (version, served, wanted) in [
        ("v1.36.0", format!("{group},{kind}"), (3, 0)),
        ("v1.36.0", group.to_owned(), (0, 1)),
        ("v1.35.0", format!("{group},{kind}"), (0, 1)),
    ] {
        let arguments = ["--kube-version", version, "--api-versions", &served];
        let chart = world.helm.template(&[&REQUIRED[..], &arguments].concat())?;
        ensure!(ways(&chart) == wanted, "{version} {served}: {:?}", ways(&chart));
    }

    for (version, value, is_plain) in [
        ("v1.35.9", "impersonate.mode=auto", true),
        ("v1.36.0-rc.1", "impersonate.mode=auto", false),
        ("v1.34.0", "impersonate.mode=constrained", false),
        ("v1.36.0", "impersonate.mode=plain", true),
    ] {
        let chart = rendered(world, version, &[users[0], value])?;
        let rules = &object(&chart, "ClusterRole", "picket-node-impersonate")?["rules"];
        let all = rules.to_string();
        ensure!(
            all.contains(r#"["impersonate"]"#) == is_plain,
            "{version} {value}: {all}"
        );
        ensure!(
            all.contains("impersonate:user-info") != is_plain,
            "{version} {value}: {all}"
        );
        let group = if is_plain { "" } else { "authentication.k8s.io" };
        for (resource, name) in [("users", "agent:a"), ("groups", "picket:agents")] {
            let mut rules = rules.as_array().into_iter().flatten();
            let rule = rules
                .find(|rule| rule["resources"] == json!([resource]))
                .context(resource)?;
            ensure!(
                rule["resourceNames"] == json!([name]) && rule["apiGroups"] == json!([group]),
                "{rule}"
            );
        }
    }
    let role = rendered(world, "v1.34.0", &["impersonate.groups=null"])?;
    let role = object(&role, "ClusterRole", "picket-node-impersonate")?;
    ensure!(
        role["rules"].as_array().is_some_and(|rules| rules.len() == 1),
        "{role:#}"
    );
    Ok(())
}

/// Selectors, rules and conditions in one form.
fn asked(of: &Value, binding: Option<&Value>) -> Value {
    let bound = binding.map_or(of, |binding| &binding["spec"]["matchResources"]);
    let rules = if binding.is_some() {
        &of["spec"]["matchConstraints"]["resourceRules"]
    } else {
        &of["rules"]
    };
    let conditions = if binding.is_some() {
        &of["spec"]["matchConditions"]
    } else {
        &of["matchConditions"]
    };
    json!({"rules": rules, "conditions": conditions, "namespaces": bound["namespaceSelector"], "objects": bound["objectSelector"]})
}

fn the_webhooks_ask_for_the_same_objects_as_the_policies(world: &mut World) -> Result<()> {
    let lists = [
        LISTS,
        "tokenSecrets.accounts={system:serviceaccount:ci:deployer}",
        "networkPolicy.create=true",
    ];
    let policies = rendered(world, "v1.36.0", &lists)?;
    let chart = rendered(world, "v1.34.0", &lists)?;
    let configuration = object(&chart, "MutatingWebhookConfiguration", CONFIGURATION)?;
    let webhooks = configuration["webhooks"].as_array().context("webhooks")?;
    let bindings: Vec<&Value> = policies
        .iter()
        .filter(|object| object["kind"] == "MutatingAdmissionPolicyBinding")
        .collect();
    ensure!(webhooks.len() == 4 && bindings.len() == 4);
    for binding in bindings {
        let name = &binding["metadata"]["name"];
        let policy = binding["spec"]["policyName"].as_str().context("policyName")?;
        let policy = object(&policies, "MutatingAdmissionPolicy", policy)?;
        let webhook = webhooks.iter().find(|webhook| webhook["name"] == *name);
        let mut webhook = webhook.with_context(|| format!("no webhook {name}"))?.clone();
        for (key, value) in [
            ("failurePolicy", json!("Fail")),
            ("reinvocationPolicy", json!("IfNeeded")),
            ("sideEffects", json!("None")),
            ("timeoutSeconds", json!(5)),
            ("admissionReviewVersions", json!(["v1"])),
        ] {
            ensure!(webhook[key] == value, "{name}: {key}: {webhook:#}");
        }
        // Helm would take the controller's back.
        ensure!(webhook["clientConfig"]["caBundle"].is_null(), "{webhook:#}");
        if *name == CONFIGURATION {
            // The controller's own pods never wait for the controller.
            let own = webhook["namespaceSelector"]
                .as_object_mut()
                .and_then(|selector| selector.remove("matchExpressions"));
            let wanted =
                json!([{"key": "kubernetes.io/metadata.name", "operator": "NotIn", "values": [NAMESPACE]}]);
            ensure!(own == Some(wanted), "{own:?}");
        }
        let (ours, theirs) = (asked(&webhook, None), asked(policy, Some(binding)));
        ensure!(
            ours == theirs,
            "{name}: {ours:#}\nis not what the policy asks for: {theirs:#}"
        );
    }
    let rules = &object(&chart, "ClusterRole", "picket-controller-webhook")?["rules"];
    let wanted = json!([{"apiGroups": ["admissionregistration.k8s.io"], "resources": ["mutatingwebhookconfigurations"],
        "resourceNames": [CONFIGURATION], "verbs": ["get", "patch"]}]);
    ensure!(*rules == wanted, "{rules:#}");
    let policy = &object(&chart, "NetworkPolicy", "picket-webhook")?["spec"];
    ensure!(
        policy["ingress"] == json!([{"ports": [{"port": "webhooks"}]}]),
        "{policy:#}"
    );
    Ok(())
}

/// An object without what the API server makes anew each time.
fn bare(answer: &Output) -> Result<Value> {
    fn strip(value: &mut Value) {
        match value {
            Value::Object(fields) => {
                for made in [
                    "uid",
                    "creationTimestamp",
                    "resourceVersion",
                    "managedFields",
                    "status",
                    "deployment.kubernetes.io/revision",
                    "batch.kubernetes.io/controller-uid",
                    "controller-uid",
                ] {
                    fields.remove(made);
                }
                fields.retain(|key, value| !(key == "annotations" && *value == json!({})));
                fields.values_mut().for_each(strip);
            }
            Value::Array(items) => items.iter_mut().for_each(strip),
            Value::String(text) if text.starts_with("kube-api-access-") => {
                text.truncate("kube-api-access".len())
            }
            _ => {}
        }
    }
    let mut object: Value = serde_json::from_str(&shown(answer)).context("an object")?;
    strip(&mut object);
    strip(&mut object);
    Ok(object)
}

/// What becomes of the rows' objects, each with what is wrong with it.
fn made(guarded: &Guarded<'_>, rows: &[Row]) -> Result<Vec<Value>> {
    let mut faults = Vec::new();
    let mut made = Vec::new();
    for row in rows {
        let answer = guarded.send(row)?;
        match row.fault(&answer) {
            Some(fault) => faults.push(fault),
            None => made.push(bare(&answer)?),
        }
    }
    ensure!(faults.is_empty(), "{}", faults.join("\n"));
    Ok(made)
}

fn the_webhooks_make_what_the_policies_make(world: &mut World) -> Result<()> {
    let chart = rendered(
        world,
        Release::NEWEST.version(),
        &[LISTS, "enrol.admission=policies"],
    )?;
    let is_mutating = |object: &Value| {
        let kind = object["kind"].as_str();
        kind.is_some_and(|kind| kind.starts_with("MutatingAdmissionPolicy"))
    };
    let policies: Vec<Value> = chart.into_iter().filter(is_mutating).collect();
    ensure!(policies.len() == 7, "{} policies", policies.len());
    let policies = json!({"apiVersion": "v1", "kind": "List", "items": policies}).to_string();
    let rows: Vec<Row> = rows()?.into_iter().filter(Row::is_of_a_change).collect();
    ensure!(rows.len() > 20, "{} rows", rows.len());

    let mut installer = installer(world)?;
    installer.set(LISTS);
    installer.set("enrol.admission=webhook");
    let guarded = Guarded::by(installer.helm, installer.cluster, policies.clone());
    let compared = || -> Result<()> {
        guarded.prepare()?;
        let by_policies = made(&guarded, &rows)?;
        let client = installer.cluster.kubectl_client();
        client.run(&["delete", "-f", "-"], Some(&policies))?;

        installer.run(&["install"], &NOWHERE)?;
        installer.wait_for_controller()?;
        guarded.wait_for_enrolment()?;
        let by_webhooks = made(&guarded, &rows)?;
        for ((row, ours), theirs) in rows.iter().zip(&by_webhooks).zip(&by_policies) {
            ensure!(
                ours == theirs,
                "{}: {ours}\nis not what the policies make: {theirs}",
                row.name
            );
        }
        roots_follow(&installer, &guarded)?;
        only_enrolled_pods_wait_for_the_controller(&installer, &guarded)?;
        installer.remove(&[])?;
        let left = installer.kubectl(&["get", "mutatingwebhookconfigurations", "-o", "name"])?;
        ensure!(!left.contains("picket"), "helm uninstall leaves {left}");
        Ok(())
    };
    let outcome = compared();
    let removed = installer.remove(&["--ignore-not-found"]);
    guarded.end(outcome.and(removed))
}

/// While the root is replaced, the API server trusts both.
fn roots_follow(installer: &Installer<'_>, guarded: &Guarded<'_>) -> Result<()> {
    let rotate = [
        "-n",
        NAMESPACE,
        "annotate",
        "secret",
        "picket-root-ca",
        "picket.dev/rotate=now",
    ];
    installer.kubectl(&rotate)?;
    wait("both roots in every webhook", || {
        let found = ["get", "mutatingwebhookconfiguration", CONFIGURATION, "-o", "json"];
        let found: Value = serde_json::from_str(&installer.kubectl(&found)?)?;
        let webhooks = found["webhooks"].as_array().context("webhooks")?;
        let has_both = |webhook: &Value| {
            use base64::Engine as _;
            let bundle = webhook["clientConfig"]["caBundle"].as_str().unwrap_or_default();
            let bundle = base64::engine::general_purpose::STANDARD
                .decode(bundle)
                .unwrap_or_default();
            String::from_utf8_lossy(&bundle)
                .matches("BEGIN CERTIFICATE")
                .count()
                == 2
        };
        Ok(webhooks.len() == 4 && webhooks.iter().all(has_both))
    })?;
    guarded.wait_for_enrolment()
}

/// Without an answer of the controller no enrolled pod is created, nor one of an AI agent; all others are.
fn only_enrolled_pods_wait_for_the_controller(
    installer: &Installer<'_>,
    guarded: &Guarded<'_>,
) -> Result<()> {
    installer.kubectl(&["-n", NAMESPACE, "delete", "service", "picket-webhook"])?;
    let pod = |namespace: &str, user: Option<&str>| {
        let row = json!({"name": "p", "as": user, "namespace": namespace, "pod": {}});
        serde_json::from_value::<Row>(row)
    };
    let enrolled = pod("agents", None)?;
    wait("the end of the answers", || {
        Ok(!guarded.send(&enrolled)?.status.success())
    })?;
    for (namespace, user, passes) in [
        ("agents", None, false),
        ("plain", Some("agent"), false),
        ("plain", Some("person"), true),
        ("picket-system", None, true),
    ] {
        let answer = guarded.send(&pod(namespace, user)?)?;
        let said = String::from_utf8_lossy(&answer.stderr);
        ensure!(answer.status.success() == passes, "{namespace} {user:?}: {said}");
        ensure!(
            passes || said.contains("failed calling webhook"),
            "{namespace} {user:?}: {said}"
        );
    }
    Ok(())
}
