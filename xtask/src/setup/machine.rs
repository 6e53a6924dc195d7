//! What setup cannot put there: root, the kernel, cgroup v2, Go, disk space. Each is checked and explained.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::sh;

/// The oldest kernel whose cgroup hooks do what Picket asks of them.
const KERNEL: (u32, u32) = (5, 15);
/// What the Kubernetes release of the test cluster needs to be built.
const GO: (u32, u32) = (1, 26);
/// Build folders of Rust and Go, the cluster's binary and images, with room to spare.
const DISK_GIB: u64 = 12;

/// Fails with the first thing that is missing and what to do about it.
pub(crate) fn check() -> Result<()> {
    ensure!(
        nix::unistd::geteuid().is_root(),
        "root is missing: Picket loads kernel programs and its tests make namespaces, mounts and cgroups; run this as root"
    );
    kernel()?;
    cgroups()?;
    go()?;
    disk()
}

fn kernel() -> Result<()> {
    let release =
        fs::read_to_string("/proc/sys/kernel/osrelease").context("cannot read the kernel's release")?;
    let release = release.trim();
    let version =
        version(release).with_context(|| format!("cannot read the kernel's release `{release}`"))?;
    ensure!(
        version >= KERNEL,
        "kernel {}.{} or newer is missing: this one is {release}; boot a newer kernel (Debian 12 has 6.1)",
        KERNEL.0,
        KERNEL.1
    );
    Ok(())
}

fn cgroups() -> Result<()> {
    let mounts = fs::read_to_string("/proc/self/mounts").context("cannot read the list of mounts")?;
    ensure!(
        mounts
            .lines()
            .any(|line| line.split(' ').nth(2) == Some("cgroup2")),
        "cgroup v2 is missing: nothing of type cgroup2 is mounted; \
         run `mkdir -p /sys/fs/cgroup/unified && mount -t cgroup2 none /sys/fs/cgroup/unified`, or boot with systemd.unified_cgroup_hierarchy=1"
    );
    Ok(())
}

fn go() -> Result<()> {
    let advice = format!(
        "install Go {}.{} or newer (https://go.dev/dl) and put its bin folder into PATH",
        GO.0, GO.1
    );
    if sh::which("go").is_none() {
        bail!("Go is missing: {advice}");
    }
    let found = sh::output(sh::command("go").args(["env", "GOVERSION"])).context("Go does not work")?;
    let found = found.trim();
    match version(found.trim_start_matches("go")) {
        Some(version) if version >= GO => Ok(()),
        _ => bail!(
            "Go {}.{} is missing: this machine has {found}; {advice}",
            GO.0,
            GO.1
        ),
    }
}

/// Counts only while there is no build folder yet: a machine that built once has spent the space already.
fn disk() -> Result<()> {
    if sh::target().join("release").exists() && sh::target().join("debug").exists() {
        return Ok(());
    }
    let stat = nix::sys::statvfs::statvfs(&sh::root()).context("cannot read the free disk space")?;
    let free = stat.blocks_available() * stat.fragment_size() / (1 << 30);
    ensure!(
        free >= DISK_GIB,
        "disk space is missing: {} has {free} GiB free and the builds take up to {DISK_GIB}; free some, or set CARGO_TARGET_DIR and GOCACHE to where there is",
        sh::root().display()
    );
    Ok(())
}

/// The first two numbers of a version such as `6.1.0-28-amd64` or `1.26.8`.
pub(crate) fn version(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

/// Fails where packages cannot be installed because this is no Debian or a relative of it.
pub(crate) fn apt_is_here() -> Result<()> {
    let here = sh::which("apt-get").is_some() && Command::new("dpkg").arg("--version").output().is_ok();
    ensure!(
        here,
        "apt is missing: this is no Debian; install the packages named above by hand"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::version;

    #[test]
    fn versions_compare_by_number() {
        assert_eq!(version("6.1.0-28-amd64"), Some((6, 1)));
        assert_eq!(version("1.26.8"), Some((1, 26)));
        assert!(version("1.9.0") < version("1.26.0"));
        assert_eq!(version("devel"), None);
    }
}
