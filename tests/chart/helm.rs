//! Helm, as an operator runs it.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context, Result, bail};
use picket_tests::build::{GoProgram, release};
use serde_json::Value;
use tempfile::TempDir;

/// The chart.
pub(crate) const CHART: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/charts/picket");

/// Where it is installed.
pub(crate) const NAMESPACE: &str = "picket-system";

/// The values without which nothing is rendered.
pub(crate) const REQUIRED: [&str; 2] = ["--set", "apiServer.address=https://10.0.0.1:6443"];

/// The program, and a home of its own.
#[derive(Debug)]
pub(crate) struct Helm {
    program: PathBuf,
    home: TempDir,
}

impl Helm {
    pub(crate) fn new() -> Result<Self> {
        Ok(Self {
            program: GoProgram::Helm.path()?,
            home: tempfile::tempdir()?,
        })
    }

    /// A Helm that is ready to run.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(arguments).env_clear().env("HOME", self.home.path());
        command
    }

    /// A file for Helm to read.
    pub(crate) fn file(&self, name: &str, text: &str) -> Result<PathBuf> {
        let file = self.home.path().join(name);
        std::fs::write(&file, text)?;
        Ok(file)
    }

    /// What the chart renders with these arguments besides.
    pub(crate) fn template(&self, arguments: &[&str]) -> Result<Vec<Value>> {
        let text = said(self.rendering(arguments).output().context("run helm")?)?;
        documents(&text)
    }

    /// Why the chart renders nothing with these arguments besides.
    pub(crate) fn refuses(&self, arguments: &[&str]) -> Result<String> {
        let done = self.rendering(arguments).output().context("run helm")?;
        if done.status.success() {
            bail!("helm template takes {arguments:?}");
        }
        Ok(String::from_utf8_lossy(&done.stderr).into_owned())
    }

    fn rendering(&self, arguments: &[&str]) -> Command {
        let mut command = self.command(&["template", "picket", CHART, "--namespace", NAMESPACE]);
        command.args(["--kube-version", release()]).args(arguments);
        command
    }
}

/// What a program printed.
///
/// # Errors
/// It failed; the error holds what it said.
pub(crate) fn said(done: Output) -> Result<String> {
    if !done.status.success() {
        bail!("{}", String::from_utf8_lossy(&done.stderr).trim());
    }
    Ok(String::from_utf8(done.stdout)?)
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
