//! A backup of etcd that is put back, as after a disaster.
//!
//! In: a running cluster. Out: what etcd had at a moment, and a cluster that has it again. Its revisions run anew from that moment on, as
//! they do after `etcdutl snapshot restore` without `--bump-revision`, and after a machine of the control plane is set back to a snapshot.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{Cluster, Stopped};

/// What runs beside the API server and keeps objects in memory. Kubernetes has them started again after a restore.
const OF_CONTROL_PLANE: [&str; 2] = ["kube-controller-manager", "kube-scheduler"];

/// What etcd had at a moment.
#[derive(Debug)]
pub struct Backup(PathBuf);

impl Cluster {
    /// Saves what etcd has. It stands still meanwhile.
    ///
    /// # Errors
    /// etcd does not run, or its folder cannot be copied.
    pub fn back_up(&self) -> Result<Backup> {
        let etcd = Pid::from_raw(self.daemon_of(self.node(), "etcd")?.pid);
        let backup = self.dir().join("etcd.backup");
        kill(etcd, Signal::SIGSTOP)?;
        let copied = replace(&self.etcd(), &backup);
        kill(etcd, Signal::SIGCONT)?;
        copied.map(|()| Backup(backup))
    }

    /// Gives etcd what it had, as Kubernetes' documentation says: the API server and etcd stop, and all that belongs to Kubernetes starts
    /// again. For who asks from elsewhere than the first node, the API server is silent meanwhile, as a machine without power is.
    ///
    /// # Errors
    /// Something does not stop or does not start.
    pub fn restore(&self, backup: &Backup) -> Result<()> {
        let node = self.node();
        let silent = self.silence_api_server()?;
        let mut stopped: Vec<Stopped<'_>> = Vec::new();
        for what in ["kube-apiserver", "etcd"].iter().chain(&OF_CONTROL_PLANE) {
            stopped.push(self.kill_daemon(node, what)?);
        }
        // etcd starts before the API server.
        stopped.swap(0, 1);
        for node in self.nodes() {
            stopped.push(self.kill_daemon(node, "kubelet")?);
        }
        replace(&backup.0, &self.etcd())?;
        let mut rest = stopped.split_off(2).into_iter();
        stopped.into_iter().try_for_each(Stopped::start)?;
        drop(silent);
        rest.try_for_each(Stopped::start)
    }

    /// Has so many more revisions in etcd, as a busy cluster has, without an object of Kubernetes.
    ///
    /// # Errors
    /// curl is missing, or etcd refuses.
    pub fn pass_revisions(&self, count: u32) -> Result<()> {
        let mut command = Command::new("curl");
        command.args(["--silent", "--show-error", "--fail", "--output", "/dev/null"]);
        command.args(["--data", r#"{"key": "cGlja2V0", "value": ""}"#]);
        command.arg(format!("http://127.0.0.1:2379/v3/kv/put?[1-{count}]"));
        let done = self.node().output(command)?;
        ensure!(
            done.status.success(),
            "curl: {}",
            String::from_utf8_lossy(&done.stderr).trim()
        );
        Ok(())
    }

    fn etcd(&self) -> PathBuf {
        self.dir().join("etcd")
    }
}

/// Puts a copy of one folder in the place of another.
fn replace(from: &Path, to: &Path) -> Result<()> {
    if to.exists() {
        std::fs::remove_dir_all(to).with_context(|| to.display().to_string())?;
    }
    let mut command = Command::new("cp");
    command.arg("-a").arg(from).arg(to);
    let done = command.output()?;
    if !done.status.success() {
        bail!("cp: {}", String::from_utf8_lossy(&done.stderr).trim());
    }
    Ok(())
}
