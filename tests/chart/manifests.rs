//! `picket manifests` prints what Helm would install: the file that it is made from is the chart's output, and so is what it prints.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use picket_tests::agent::picket_binary;
use picket_tests::release::Release;
use serde_json::Value;

use crate::Test;
use crate::helm::{CHART, Helm, NAMESPACE, documents, said};
use crate::world::World;

pub(crate) const TESTS: &[Test] = picket_tests::tests! {
    the_manifests_are_rendered_from_the_chart,
    the_command_prints_what_helm_installs,
};

/// Writes the file anew where it is set, in place of a comparison.
const UPDATE: &str = "PICKET_UPDATE";

/// Where the file and its values are.
const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/manifests");

/// What the file opens with.
const HEADER: &str = "\
# What the chart renders by values.yaml beside this file, for `picket manifests`. To write it anew:
#   PICKET_UPDATE=1 cargo xtask test chart the_manifests_are_rendered_from_the_chart
";

/// What Helm prints by the values of the file, and by these besides.
fn rendered(helm: &Helm, more: &[&str]) -> Result<String> {
    let values = format!("{FOLDER}/values.yaml");
    let mut command = helm.command(&["template", "picket", CHART, "--namespace", NAMESPACE]);
    command
        // Without the hooks, which take Picket out again.
        .args([
            "--no-hooks",
            "--kube-version",
            Release::NEWEST.version(),
            "--values",
            &values,
        ])
        .args(more);
    said(command.output().context("run helm")?)
}

/// Helm's output without what is Helm's own.
fn plain(rendered: &str) -> String {
    let is_helms =
        |line: &&str| line.starts_with("# Source: ") || line.trim_start().starts_with("helm.sh/chart: ");
    let mut text = HEADER.to_owned();
    for line in rendered.lines().filter(|line| !is_helms(line)) {
        text.push_str(&line.replace(
            "app.kubernetes.io/managed-by: Helm",
            "app.kubernetes.io/managed-by: picket",
        ));
        text.push('\n');
    }
    text
}

fn the_manifests_are_rendered_from_the_chart(world: &mut World) -> Result<()> {
    let file = PathBuf::from(FOLDER).join("picket.yaml");
    let wanted = plain(&rendered(&world.helm, &[])?);
    if std::env::var_os(UPDATE).is_some() {
        return std::fs::write(&file, wanted).with_context(|| format!("write {}", file.display()));
    }
    let present = std::fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
    let lines = present.lines().zip(wanted.lines());
    let same = lines.take_while(|(one, other)| one == other).count();
    ensure!(
        present == wanted,
        "deploy/manifests/picket.yaml:{}: not what the chart renders; run {UPDATE}=1 cargo xtask test chart \
         the_manifests_are_rendered_from_the_chart, and build picket again",
        same + 1
    );
    Ok(())
}

/// An object without what may differ: the labels that are Helm's, and the digest of the configuration.
fn bare(object: &Value) -> Value {
    fn strip(value: &mut Value) {
        match value {
            Value::Object(fields) => {
                for own in [
                    "helm.sh/chart",
                    "app.kubernetes.io/managed-by",
                    "picket.dev/configuration",
                ] {
                    fields.remove(own);
                }
                fields.values_mut().for_each(strip);
            }
            Value::Array(items) => items.iter_mut().for_each(strip),
            _ => {}
        }
    }
    let mut bare = object.clone();
    strip(&mut bare);
    bare
}

fn the_command_prints_what_helm_installs(world: &mut World) -> Result<()> {
    let (address, image) = ("https://192.0.2.7:6443", "registry.example/picket:1.2.3");
    let mut command = Command::new(picket_binary()?);
    command.args(["manifests", "--api-server", address, "--image", image]);
    let printed = documents(&said(command.output().context("run picket")?)?)?;
    let helm = rendered(
        &world.helm,
        &[
            "--include-crds",
            "--set",
            &format!("apiServer.address={address}"),
            "--set",
            "image.repository=registry.example/picket",
            "--set-string",
            "image.tag=1.2.3",
        ],
    )?;
    let (mut printed, mut helm): (Vec<Value>, Vec<Value>) = (
        printed.iter().map(bare).collect(),
        documents(&helm)?.iter().map(bare).collect(),
    );
    // Helm makes the namespace by --create-namespace.
    let is_namespace = |object: &Value| object["kind"] == "Namespace";
    ensure!(printed.iter().filter(|object| is_namespace(object)).count() == 1);
    printed.retain(|object| !is_namespace(object));
    for objects in [&mut printed, &mut helm] {
        objects.sort_by_key(|object| format!("{} {}", object["kind"], object["metadata"]));
    }
    ensure!(helm.len() > 15, "{} objects", helm.len());
    ensure!(
        printed.len() == helm.len(),
        "{} objects, and Helm has {}",
        printed.len(),
        helm.len()
    );
    for (ours, theirs) in printed.iter().zip(&helm) {
        ensure!(ours == theirs, "{ours:#}\nis not what Helm installs:\n{theirs:#}");
    }
    Ok(())
}
