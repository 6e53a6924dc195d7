//! kubectl as the cluster's administrator, from the first node.
//!
//! In: arguments. Out: what kubectl printed.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, bail};

use crate::sys::Placement;

/// Where and as whom kubectl runs.
#[derive(Debug, Clone)]
pub struct Kubectl {
    pub(super) program: PathBuf,
    pub(super) kubeconfig: PathBuf,
    pub(super) cache: PathBuf,
    pub(super) netns: PathBuf,
}

impl Kubectl {
    /// A kubectl that is ready to run, for callers that stream its output. It may be the caller's own child: its cgroup and
    /// mounts are the caller's.
    ///
    /// # Errors
    /// The cluster is gone.
    pub fn command(&self, arguments: &[&str]) -> Result<Command> {
        let mut command = Command::new(&self.program);
        command
            .args(arguments)
            .env("KUBECONFIG", &self.kubeconfig)
            .env("KUBECACHEDIR", &self.cache);
        for proxy in [
            "HTTP_PROXY",
            "HTTPS_PROXY",
            "http_proxy",
            "https_proxy",
            "ALL_PROXY",
            "all_proxy",
        ] {
            command.env_remove(proxy);
        }
        Placement::new().net(&self.netns).apply(&mut command)?;
        Ok(command)
    }

    /// Runs kubectl to its end, whatever that is.
    ///
    /// # Errors
    /// It cannot be run.
    pub fn output(&self, arguments: &[&str], input: Option<&str>) -> Result<Output> {
        let mut command = self.command(arguments)?;
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command.stdin(if input.is_some() {
            Stdio::piped()
        } else {
            Stdio::null()
        });
        let mut child = command.spawn().context("run kubectl")?;
        if let Some(input) = input {
            child
                .stdin
                .take()
                .context("kubectl's input")?
                .write_all(input.as_bytes())?;
        }
        Ok(child.wait_with_output()?)
    }

    /// Runs kubectl and gives what it printed.
    ///
    /// # Errors
    /// It cannot be run, or it failed; the error holds what it said.
    pub fn run(&self, arguments: &[&str], input: Option<&str>) -> Result<String> {
        let done = self.output(arguments, input)?;
        if !done.status.success() {
            bail!(
                "kubectl {}: {}",
                arguments.join(" "),
                String::from_utf8_lossy(&done.stderr).trim()
            );
        }
        Ok(String::from_utf8_lossy(&done.stdout).into_owned())
    }
}
