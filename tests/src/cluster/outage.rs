//! An API server that is away for a while: its process stands still, or nothing reaches it, with an answer or without.
//!
//! In: a running cluster. Out: guards; the API server is back when they are dropped. What runs by `kubectl exec` goes through
//! the API server too, so programs that shall outlast an outage run in the background of their pods.

use std::process::Command;

use anyhow::{Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{Cluster, TestNode};

/// The API server's process stands still. Its kernel still acknowledges what comes.
#[derive(Debug)]
pub struct Paused(Pid);

impl Drop for Paused {
    fn drop(&mut self) {
        // A process that is gone need not go on.
        let _ = kill(self.0, Signal::SIGCONT);
    }
}

/// Connections to the API server are reset, and new ones refused; or they wait without an answer.
#[derive(Debug)]
pub struct CutOff<'a>(&'a TestNode);

/// Refuses what arrives for the API server.
const REFUSE: &str = "add table inet picket-test; \
     add chain inet picket-test in { type filter hook input priority -10 ; }; \
     add rule inet picket-test in tcp dport 6443 reject with tcp reset";

/// Takes nothing for the API server that comes from elsewhere, and sends nothing of it there.
const SILENCE: &str = "add table inet picket-test; \
     add chain inet picket-test in { type filter hook input priority -10 ; }; \
     add rule inet picket-test in iifname != lo tcp dport 6443 drop; \
     add chain inet picket-test out { type filter hook output priority -10 ; }; \
     add rule inet picket-test out oifname != lo tcp sport 6443 drop";

impl Drop for CutOff<'_> {
    fn drop(&mut self) {
        if let Err(error) = run(self.0, "nft", &["delete table inet picket-test"]) {
            eprintln!("the API server stays cut off: {error:#}");
        }
    }
}

fn run(node: &TestNode, program: &str, arguments: &[&str]) -> Result<()> {
    let mut command = Command::new(program);
    command.args(arguments);
    let done = node.output(command)?;
    if !done.status.success() {
        bail!("{program}: {}", String::from_utf8_lossy(&done.stderr).trim());
    }
    Ok(())
}

impl Cluster {
    /// Lets the API server's process stand still.
    ///
    /// # Errors
    /// It does not run.
    pub fn pause_api_server(&self) -> Result<Paused> {
        let pid = Pid::from_raw(self.daemon_of(self.node(), "kube-apiserver")?.pid);
        kill(pid, Signal::SIGSTOP)?;
        Ok(Paused(pid))
    }

    /// Cuts the API server off, without ending it.
    ///
    /// # Errors
    /// nft or ss is missing or fails.
    pub fn cut_api_server_off(&self) -> Result<CutOff<'_>> {
        run(self.node(), "nft", &[REFUSE])?;
        let cut = CutOff(self.node());
        run(self.node(), "ss", &["-K", "sport = :6443"])?;
        Ok(cut)
    }

    /// Leaves whoever asks the API server from elsewhere than its node without an answer.
    ///
    /// # Errors
    /// nft is missing or fails.
    pub fn silence_api_server(&self) -> Result<CutOff<'_>> {
        run(self.node(), "nft", &[SILENCE])?;
        Ok(CutOff(self.node()))
    }
}
