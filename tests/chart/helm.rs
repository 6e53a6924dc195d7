//! What Helm renders, and the files of deploy/ to hold it against.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use picket_tests::release::Release;
use serde_json::Value;

pub(crate) use picket_tests::helm::{CHART, Helm, NAMESPACE, said};

/// The values without which nothing is rendered.
pub(crate) const REQUIRED: [&str; 2] = ["--set", "apiServer.address=https://10.0.0.1:6443"];

/// Rendering without a cluster.
pub(crate) trait Render {
    /// What the chart renders with these arguments besides.
    fn template(&self, arguments: &[&str]) -> Result<Vec<Value>>;

    /// Why the chart renders nothing with these arguments besides.
    fn refuses(&self, arguments: &[&str]) -> Result<String>;
}

impl Render for Helm {
    fn template(&self, arguments: &[&str]) -> Result<Vec<Value>> {
        let text = said(rendering(self, arguments).output().context("run helm")?)?;
        documents(&text)
    }

    fn refuses(&self, arguments: &[&str]) -> Result<String> {
        let done = rendering(self, arguments).output().context("run helm")?;
        if done.status.success() {
            bail!("helm template takes {arguments:?}");
        }
        Ok(String::from_utf8_lossy(&done.stderr).into_owned())
    }
}

fn rendering(helm: &Helm, arguments: &[&str]) -> Command {
    let mut command = helm.command(&["template", "picket", CHART, "--namespace", NAMESPACE]);
    command
        .args(["--kube-version", Release::NEWEST.version()])
        .args(arguments);
    command
}

/// The objects of a YAML text, without empty documents.
pub(crate) fn documents(text: &str) -> Result<Vec<Value>> {
    let all: Vec<Value> = serde_saphyr::from_multiple(text).context("the YAML")?;
    Ok(all.into_iter().filter(|document| !document.is_null()).collect())
}

/// The objects of a file below deploy/.
pub(crate) fn deployed(name: &str) -> Result<Vec<Value>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy").join(name);
    documents(&std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?)
}

/// The one object of this kind and name.
pub(crate) fn object<'a>(all: &'a [Value], kind: &str, name: &str) -> Result<&'a Value> {
    let is_it = |object: &&Value| object["kind"] == kind && object["metadata"]["name"] == name;
    all.iter()
        .find(is_it)
        .with_context(|| format!("no {kind} {name}"))
}
