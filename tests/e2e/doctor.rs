//! What `picket doctor` says of the rights that the node's credential has at a real API server.

use anyhow::{Context, Result, ensure};
use picket_tests::output::Done;
use picket_tests::tests;
use serde_json::{Value, json};

use crate::Test;
use crate::life::until;
use crate::world::World;

pub(crate) const TESTS: &[Test] = tests! {
    rights_that_are_too_wide_are_named_with_their_rule,
};

const NAME: &str = "doctor-too-wide";

/// The row about the extent of the upstream credential's rights.
fn row(world: &World) -> Result<Value> {
    let config = world.agent.config_file().display().to_string();
    let done = Done::from(
        world
            .agent
            .picket(&["doctor", "--config", &config, "-o", "json"])?,
    );
    // Rights that are too wide stop nothing.
    ensure!(done.code == 0, "doctor ended with {}: {}", done.code, done.out);
    let rows: Vec<Value> = serde_json::from_str(&done.out)?;
    let found = rows.into_iter().find(|row| row["name"] == "upstream rights");
    found.context("no row about the rights")
}

/// A role with this rule, bound to the nodes: everywhere, or in one namespace.
fn role(rule: &Value, namespace: Option<&str>) -> Value {
    let api = "rbac.authorization.k8s.io";
    let (role, binding) = match namespace {
        None => ("ClusterRole", "ClusterRoleBinding"),
        Some(_) => ("Role", "RoleBinding"),
    };
    let metadata = match namespace {
        None => json!({"name": NAME}),
        Some(namespace) => json!({"name": NAME, "namespace": namespace}),
    };
    json!({"apiVersion": "v1", "kind": "List", "items": [
        {"apiVersion": format!("{api}/v1"), "kind": role, "metadata": metadata, "rules": [rule]},
        {"apiVersion": format!("{api}/v1"), "kind": binding, "metadata": metadata,
            "roleRef": {"apiGroup": api, "kind": role, "name": NAME},
            "subjects": [{"apiGroup": api, "kind": "Group", "name": "picket:nodes"}]},
    ]})
}

fn rights_that_are_too_wide_are_named_with_their_rule(world: &mut World) -> Result<()> {
    // The deployment's rules name users of the examples, which no grant of this suite has; nothing of it is without a name.
    let began = row(world)?;
    let before = began.to_string();
    ensure!(
        before.contains("agent:triage, agent:janitor, which no AgentGrant names"),
        "{before}"
    );
    ensure!(
        !before.contains("every") && !before.contains(" of a Role in "),
        "{before}"
    );
    for (said, namespace, rule) in [
        (
            "may impersonate every user",
            None,
            json!({"apiGroups": [""], "resources": ["users"], "verbs": ["impersonate"]}),
        ),
        (
            "may impersonate every group",
            None,
            json!({"apiGroups": ["authentication.k8s.io"], "resources": ["groups"], "verbs": ["impersonate:user-info"]}),
        ),
        (
            "may impersonate every userextra",
            None,
            json!({"apiGroups": ["authentication.k8s.io"], "resources": ["userextras/scopes"], "verbs": ["impersonate"]}),
        ),
        (
            "may impersonate every service account",
            Some("kube-system"),
            json!({"apiGroups": [""], "resources": ["serviceaccounts"], "verbs": ["impersonate"]}),
        ),
        (
            "may request tokens of every service account",
            Some("kube-system"),
            json!({"apiGroups": [""], "resources": ["serviceaccounts/token"], "verbs": ["create"]}),
        ),
        (
            "may get, list secrets",
            None,
            json!({"apiGroups": [""], "resources": ["secrets"], "verbs": ["get", "list"]}),
        ),
        (
            "may do everything",
            None,
            json!({"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}),
        ),
    ] {
        let objects = role(&rule, namespace).to_string();
        world.cluster.apply(&objects)?;
        // The authorizer learns of a new role from its own watch.
        let told = until(|| {
            let row = row(world)?;
            let detail = row["detail"].as_str().unwrap_or_default();
            Ok(detail.lines().find(|line| line.contains(said)).map(str::to_owned))
        });
        world.cluster.kubectl_stdin(&["delete", "-f", "-"], &objects)?;
        let told = told.with_context(|| format!("{said} is not told"))?;
        let place = match namespace {
            None => "of a ClusterRole".to_owned(),
            Some(namespace) => format!("of a Role in {namespace}"),
        };
        ensure!(
            told.starts_with(said) && told.contains(&rule.to_string()) && told.ends_with(&place),
            "{told}"
        );
    }
    until(|| Ok((row(world)? == began).then_some(()))).context("a rule that is gone is still told of")?;
    ensure!(row(world)?["status"] == "degraded", "{before}");
    Ok(())
}
