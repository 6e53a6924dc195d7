//! Network namespaces that a test makes, and links in them.
//!
//! In: names and lines for `ip -batch`. Out: namespaces under /run/netns, without uplink. They are made in this process,
//! without a fork, because simulated pods come by the hundred.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, anyhow, bail};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};

use crate::sys::Placement;

/// Where named network namespaces are; `ip netns` uses the same.
const NETNS: &str = "/run/netns";

/// The handle of the namespace called `name`.
pub fn path(name: &str) -> PathBuf {
    Path::new(NETNS).join(name)
}

/// Makes a network namespace with its loopback interface up, and nothing else in it.
///
/// # Errors
/// It is there already, or the caller may not make one.
pub fn create(name: &str) -> Result<()> {
    fs::create_dir_all(NETNS)?;
    let handle = path(name);
    let made = OpenOptions::new().write(true).create_new(true).open(&handle);
    made.with_context(|| format!("create {}", handle.display()))?;
    let bind = || -> Result<()> {
        unshare(CloneFlags::CLONE_NEWNET).context("unshare the network namespace")?;
        let none: Option<&str> = None;
        mount(
            Some("/proc/thread-self/ns/net"),
            &handle,
            none,
            MsFlags::MS_BIND,
            none,
        )
        .with_context(|| format!("bind {}", handle.display()))
    };
    // A thread of its own, since a thread that has left its namespace must not go back to other work.
    in_thread(bind)
}

/// Removes the namespace called `name`; it ends when the last process in it does.
///
/// # Errors
/// The handle cannot be removed.
pub fn delete(name: &str) -> Result<()> {
    let handle = path(name);
    // EINVAL: made, but a crash came before the bind.
    let _ = umount2(&handle, MntFlags::MNT_DETACH);
    match fs::remove_file(&handle) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", handle.display()))
        }
        _ => Ok(()),
    }
}

/// Removes the folder of the handles when there is none left.
pub(crate) fn remove_if_empty() {
    let _ = fs::remove_dir(NETNS);
}

/// Names of namespaces that start with `prefix`.
pub fn named(prefix: &str) -> Vec<String> {
    let Ok(entries) = fs::read_dir(NETNS) else {
        return Vec::new();
    };
    let names = entries
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter(|name| name.starts_with(prefix)).collect()
}

/// Runs `work` on a thread inside the network namespace whose handle is `netns`.
///
/// # Errors
/// The namespace cannot be joined, or `work` fails.
pub fn inside<T: Send>(netns: &Path, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let handle = File::open(netns).with_context(|| format!("open {}", netns.display()))?;
    in_thread(move || {
        setns(&handle, CloneFlags::CLONE_NEWNET).context("join the network namespace")?;
        work()
    })
}

fn in_thread<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    std::thread::scope(|scope| {
        scope
            .spawn(work)
            .join()
            .map_err(|_| anyhow!("a namespace thread panicked"))?
    })
}

/// Runs the lines through `ip -batch` inside `netns`.
///
/// # Errors
/// What `ip` says about the first line that fails.
pub fn ip(netns: &Path, lines: &str) -> Result<()> {
    let mut command = Command::new("ip");
    command
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    Placement::new().net(netns).apply(&mut command)?;
    let mut child = command.spawn().context("run ip (package iproute2)")?;
    child
        .stdin
        .take()
        .context("ip's input")?
        .write_all(lines.as_bytes())?;
    let done = child.wait_with_output()?;
    if !done.status.success() {
        bail!(
            "ip in {}: {}",
            netns.display(),
            String::from_utf8_lossy(&done.stderr).trim()
        );
    }
    Ok(())
}

/// Sets sysctls under /proc/sys/net of the namespace; one that the kernel lacks is left out.
///
/// # Errors
/// A value is refused.
pub fn sysctls(netns: &Path, values: &[(&str, &str)]) -> Result<()> {
    inside(netns, || {
        for (name, value) in values {
            let file = Path::new("/proc/sys/net").join(name);
            match fs::write(&file, value) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    return Err(error).with_context(|| format!("set {}", file.display()));
                }
                _ => {}
            }
        }
        Ok(())
    })
}
