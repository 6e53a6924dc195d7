//! Starting a process in another place: a cgroup, a network namespace, a mount namespace. The one module with `unsafe`.
//!
//! In: a command and the place it shall run in. Out: the same command, changed so that its process is there before its first
//! instruction. Beside it, [`bpf`] and [`attached`].
#![expect(
    unsafe_code,
    reason = "a child can be moved between fork and exec only through pre_exec, and bpf(2) is called by hand"
)]

pub mod attached;
pub mod bpf;

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use nix::sched::{CloneFlags, setns};

/// Where a process shall run; what is not named stays as it is for the caller.
#[derive(Debug, Clone, Default)]
pub struct Placement {
    net: Option<PathBuf>,
    mounts: Option<PathBuf>,
    cgroups: Vec<PathBuf>,
    session: bool,
}

impl Placement {
    /// The caller's own place.
    pub fn new() -> Self {
        Self::default()
    }

    /// In the network namespace that `handle` names (a file under /run/netns or /proc/PID/ns/net).
    #[must_use]
    pub fn net(mut self, handle: &Path) -> Self {
        self.net = Some(handle.to_owned());
        self
    }

    /// In the mount namespace that `handle` names (/proc/PID/ns/mnt).
    #[must_use]
    pub fn mounts(mut self, handle: &Path) -> Self {
        self.mounts = Some(handle.to_owned());
        self
    }

    /// In the cgroup whose folder this is; may be given once per hierarchy.
    #[must_use]
    pub fn cgroup(mut self, folder: &Path) -> Self {
        self.cgroups.push(folder.to_owned());
        self
    }

    /// As the leader of a session of its own, so that it outlives the terminal it was started from.
    #[must_use]
    pub fn own_session(mut self) -> Self {
        self.session = true;
        self
    }

    /// Makes `command` start in this place.
    ///
    /// # Errors
    /// A namespace or cgroup that is not there, or cannot be opened.
    pub fn apply(&self, command: &mut Command) -> Result<()> {
        let open = |path: &PathBuf| File::open(path).with_context(|| format!("open {}", path.display()));
        let net = self.net.as_ref().map(open).transpose()?;
        let mounts = self.mounts.as_ref().map(open).transpose()?;
        let mut cgroups = Vec::with_capacity(self.cgroups.len());
        for folder in &self.cgroups {
            let procs = folder.join("cgroup.procs");
            let file = OpenOptions::new().write(true).open(&procs);
            cgroups.push(file.with_context(|| format!("open {}", procs.display()))?);
        }
        let session = self.session;
        let folder = match command.get_current_dir() {
            Some(folder) => folder.to_owned(),
            None => std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/")),
        };
        let enter = move || {
            for mut procs in &cgroups {
                procs.write_all(b"0")?;
            }
            if let Some(net) = &net {
                setns(net, CloneFlags::CLONE_NEWNET)?;
            }
            if let Some(mounts) = &mounts {
                setns(mounts, CloneFlags::CLONE_NEWNS)?;
                // Joining a mount namespace moves the working directory to its root.
                nix::unistd::chdir(&folder)?;
            }
            if session {
                nix::unistd::setsid()?;
            }
            Ok(())
        };
        // SAFETY: between fork and exec the closure only makes system calls on descriptors and a path that were prepared
        // before (a path this short is copied to the stack by nix); it takes no lock and allocates nothing.
        unsafe { command.pre_exec(enter) };
        Ok(())
    }
}
