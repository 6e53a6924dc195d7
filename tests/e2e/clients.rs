//! Unchanged clients with their in-cluster configuration: what they get through Picket is what they get directly.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use picket_tests::tests;
use serde_json::Value;

use crate::Test;
use crate::world::World;

pub(crate) const TESTS: &[Test] = tests! {
    kubectl_of_the_release,
    kubectl_1_27,
    python,
    kube_rs,
};

const SCRIPT: &str = include_str!("files/compat.sh");

fn kubectl_of_the_release(world: &mut World) -> Result<()> {
    let version = world.worker("kubectl version --client -o json")?.good()?;
    let version: Value = serde_json::from_str(&version)?;
    let release = format!("v{}", world.cluster.release().version());
    ensure!(
        version["clientVersion"]["gitVersion"] == release.as_str(),
        "the image holds {version}"
    );
    let steps = [
        "list",
        "get",
        "create",
        "patch",
        "watch",
        "delete",
        "exec",
        "exec-by-spdy",
        "logs",
        "missing",
    ];
    same(
        world,
        &["sh", "-c", SCRIPT, "compat", "kubectl", "made-by-kubectl"],
        &steps,
        "kubectl/",
    )
}

fn kubectl_1_27(world: &mut World) -> Result<()> {
    let version = world.worker("kubectl.1.27 version --client -o json")?.good()?;
    ensure!(version.contains("v1.27."), "the image holds {version}");
    let steps = [
        "list", "get", "create", "patch", "watch", "delete", "exec", "logs", "missing",
    ];
    same(
        world,
        &[
            "sh",
            "-c",
            SCRIPT,
            "compat",
            "kubectl.1.27",
            "made-by-kubectl-1-27",
        ],
        &steps,
        "kubectl.1.27/",
    )
}

fn python(world: &mut World) -> Result<()> {
    let steps = [
        "list",
        "get",
        "create",
        "patch",
        "watch",
        "delete",
        "exec",
        "exec-fails",
        "missing",
    ];
    same(
        world,
        &["python3", "/usr/bin/compat.py", "lab"],
        &steps,
        "OpenAPI-Generator/",
    )
}

fn kube_rs(world: &mut World) -> Result<()> {
    let steps = [
        "list",
        "get",
        "create",
        "patch",
        "watch",
        "delete",
        "exec",
        "exec-fails",
        "missing",
    ];
    same(world, &["picket-test-client", "compat", "lab"], &steps, "")
}

/// Runs a client in both pods and compares every step, after making sure that the one went through Picket, did all of them,
/// and that the other did not.
fn same(world: &World, argv: &[&str], steps: &[&str], agent: &str) -> Result<()> {
    let log = world.picket_log();
    let alone = |record: &Value| record["agent"]["pod"]["namespace"] == "direct";
    let direct = sections(&world.run("direct", "worker", argv)?.good()?);
    ensure!(
        log.all(alone)?.is_empty(),
        "the pod that is left alone went through Picket"
    );
    let through = sections(&world.run("agents", "worker", argv)?.good()?);
    for step in steps {
        let (Some(one), Some(other)) = (direct.get(*step), through.get(*step)) else {
            anyhow::bail!(
                "no step {step}; directly {:?}, through Picket {:?}",
                direct.keys(),
                through.keys()
            );
        };
        ensure!(
            one == other,
            "{step} differs; directly\n{one:#}\nthrough Picket\n{other:#}"
        );
        ensure!(*one != Value::String(String::new()), "{step} says nothing");
    }
    for verb in ["list", "get", "create", "patch", "watch", "delete"] {
        log.wait(&format!("a {verb} by {agent:?}"), |record| {
            let ours = record["userAgent"]
                .as_str()
                .unwrap_or_default()
                .starts_with(agent);
            ours && record["verb"] == verb && record["decision"]["outcome"] == "allow"
        })?;
    }
    log.wait("the exec", |record| record["objectRef"]["subresource"] == "exec")?;
    Ok(())
}

/// The answers by step, without what differs between any two runs.
fn sections(text: &str) -> BTreeMap<String, Value> {
    text.split("=== ")
        .skip(1)
        .filter_map(|section| section.split_once('\n'))
        .map(|(name, body)| {
            let mut answer =
                serde_json::from_str(body).unwrap_or_else(|_| Value::String(body.trim().to_owned()));
            forget(&mut answer);
            (name.to_owned(), answer)
        })
        .collect()
}

/// Takes out versions, UIDs and times.
fn forget(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for name in ["uid", "resourceVersion", "creationTimestamp", "time"] {
                if let Some(value) = fields.get_mut(name)
                    && value.is_string()
                {
                    *value = Value::String("any".to_owned());
                }
            }
            fields.values_mut().for_each(forget);
        }
        Value::Array(items) => items.iter_mut().for_each(forget),
        _ => {}
    }
}
