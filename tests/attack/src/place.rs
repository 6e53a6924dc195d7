//! Where the dialler is: its cgroup and namespaces.

use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use anyhow::{Context, Result};
use nix::sched::{CloneFlags, setns, unshare};

use crate::report::Failed;

/// Joins a cgroup and leaves for a new user namespace, where these are asked for.
pub(crate) fn enter(cgroup: Option<&Path>, new_user: bool) -> Result<()> {
    if let Some(cgroup) = cgroup {
        fs::write(cgroup.join("cgroup.procs"), "0").with_context(|| format!("join {}", cgroup.display()))?;
    }
    if new_user {
        unshare(CloneFlags::CLONE_NEWUSER).context("unshare the user namespace")?;
    }
    Ok(())
}

/// Leaves for a new network namespace with nothing in it.
pub(crate) fn new_net() -> io::Result<()> {
    Ok(unshare(CloneFlags::CLONE_NEWNET)?)
}

/// Makes a socket in another network namespace and comes back.
pub(crate) fn made_in(
    netns: &Path,
    make: impl FnOnce() -> Result<OwnedFd, Failed>,
) -> Result<OwnedFd, Failed> {
    let failed = Failed::at("setns");
    let own = File::open("/proc/thread-self/ns/net").map_err(&failed)?;
    let other = File::open(netns).map_err(&failed)?;
    setns(other, CloneFlags::CLONE_NEWNET).map_err(|errno| failed(errno.into()))?;
    let made = make();
    setns(own, CloneFlags::CLONE_NEWNET).map_err(|errno| failed(errno.into()))?;
    made
}
