//! The CRDs of deploy/crds at a real API server: what a file would be refused for is refused there, as far as a schema and rules
//! in CEL can tell.
//!
//! In: the objects of the schema's own tests. Out: the API server's verdict on each, by a dry run with strict validation, which
//! is what kubectl asks for.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use picket_tests::tests;
use serde_json::{Value, json};

use crate::Test;
use crate::schema_cases::{
    admitted, changed, objects, refused_by_both, refused_by_knowledge, refused_by_the_reader,
};
use crate::world::World;

pub(crate) const TESTS: &[Test] = tests! {
    the_api_server_refuses_what_a_file_is_refused_for,
    defaults_appear_and_kubectl_shows_columns,
    a_revoked_identity_stays_revoked,
};

/// The kinds in URLs, in the order of the tables.
const PLURALS: [&str; 3] = ["agentidentities", "agentgrants", "agentpolicies"];

/// Installs the CRDs and waits until the API server serves the kinds.
pub(crate) fn install(world: &World) -> Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/crds");
    for entry in fs::read_dir(&folder)? {
        let text = fs::read_to_string(entry?.path())?;
        world
            .cluster
            .kubectl_client()
            .run(&["apply", "--server-side", "-f", "-"], Some(&text))?;
    }
    for plural in PLURALS {
        let name = format!("crd/{plural}.picket.dev");
        world.admin(&["wait", "--for=condition=Established", "--timeout=30s", &name])?;
    }
    Ok(())
}

/// The URL of a kind's objects, to ask what would become of one.
fn dry_run(number: usize) -> String {
    let plural = PLURALS[number];
    format!("/apis/picket.dev/v1alpha1/{plural}?dryRun=All&fieldValidation=Strict")
}

/// Whether the API server would take an object, and what it says.
fn asked(world: &World, number: usize, object: &Value) -> Result<(bool, String)> {
    let arguments = ["create", "--raw", &dry_run(number), "-f", "-"];
    let client = world.cluster.kubectl_client();
    let done = client.output(&arguments, Some(&object.to_string()))?;
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    Ok((done.status.success(), said))
}

fn the_api_server_refuses_what_a_file_is_refused_for(world: &mut World) -> Result<()> {
    install(world)?;
    let objects = objects();
    for (number, object) in objects.iter().enumerate() {
        let (taken, said) = asked(world, number, object)?;
        ensure!(taken, "{object:#}\n{said}");
    }
    let tables = [
        ("both", refused_by_both(), false),
        ("CEL", refused_by_the_reader(), false),
        ("knowledge", refused_by_knowledge(), true),
        ("admitted", admitted(), true),
    ];
    let mut wrong = Vec::new();
    for (table, cases, expected) in tables {
        for (number, pointer, value) in cases {
            // A status is the agents' to write at an API server, and no part of what a person creates.
            if pointer == "/status" {
                continue;
            }
            let (taken, said) = asked(world, number, &changed(&objects[number], pointer, value.clone()))?;
            if taken != expected {
                wrong.push(format!("{table}: {pointer} {value}: taken {taken}: {said}"));
            }
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

fn defaults_appear_and_kubectl_shows_columns(world: &mut World) -> Result<()> {
    install(world)?;
    let mut identity = objects()[0].clone();
    identity["metadata"]["name"] = json!("crd-defaults");
    if let Value::Object(spec) = &mut identity["spec"] {
        spec.remove("state");
    }
    world.cluster.apply(&identity.to_string())?;
    let shown = (|| {
        let kept = world.admin(&["get", "agid", "crd-defaults", "-o", "json"])?;
        let kept: Value = serde_json::from_str(&kept).context("an object")?;
        ensure!(kept["spec"]["state"] == "Active", "{kept:#}");
        let table = world.admin(&["get", "picket"])?;
        let head = table.lines().next().unwrap_or_default();
        for column in ["OWNER", "STATE", "EXPIRES", "REVIEW", "READY", "AGE"] {
            ensure!(head.contains(column), "{table}");
        }
        world.admin(&["explain", "agentidentity.spec.owner"])
    })();
    world.admin(&["delete", "agid", "crd-defaults"])?;
    ensure!(shown?.contains("Who answers for the agent"));
    Ok(())
}

fn a_revoked_identity_stays_revoked(world: &mut World) -> Result<()> {
    install(world)?;
    let mut identity = objects()[0].clone();
    identity["metadata"]["name"] = json!("crd-revoked");
    identity["spec"]["state"] = json!("Revoked");
    world.cluster.apply(&identity.to_string())?;
    let patch = r#"{"spec":{"state":"Active"}}"#;
    let arguments = ["patch", "agid", "crd-revoked", "--type=merge", "-p", patch];
    let done = world.cluster.kubectl(&arguments)?;
    world.admin(&["delete", "agid", "crd-revoked"])?;
    let said = String::from_utf8_lossy(&done.stderr);
    ensure!(
        !done.status.success() && said.contains("a revoked identity stays revoked"),
        "{said}"
    );
    Ok(())
}
