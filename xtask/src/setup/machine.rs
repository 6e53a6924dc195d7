//! What setup cannot install: root, the kernel, cgroup v2, Go, disk space.
//!
//! In: the machine as it is. Out: nothing where it suffices, or an error with what is missing and what to do.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::sh;

/// The oldest kernel whose cgroup hooks do what Picket asks of them.
const KERNEL: (u32, u32) = (5, 15);
/// What the Kubernetes release of the test cluster needs to be built.
const GO: (u32, u32) = (1, 26);
/// What cargo builds, with room to spare.
const TARGET_GIB: u64 = 6;
/// The cluster's binary and images.
const CLUSTER_GIB: u64 = 2;
/// What Go builds of Kubernetes.
const GO_CACHE_GIB: u64 = 4;

/// Fails with the first thing that is missing and what to do about it.
pub(crate) fn check() -> Result<()> {
    ensure!(
        nix::unistd::geteuid().is_root(),
        "root is missing: Picket loads kernel programs, and its tests make namespaces, mounts and cgroups; run this command as root"
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
    let go_cache = sh::output(sh::command("go").args(["env", "GOCACHE"])).context("Go does not work")?;
    let needs = [
        (
            sh::target(),
            TARGET_GIB,
            "set CARGO_TARGET_DIR to a folder on a larger file system",
        ),
        // Whatever cargo was told.
        (
            sh::root().join("target/cluster"),
            CLUSTER_GIB,
            "move this checkout to a larger file system",
        ),
        (
            PathBuf::from(go_cache.trim()),
            GO_CACHE_GIB,
            "set GOCACHE to a folder on a larger file system",
        ),
    ];
    let needs: Vec<Need> = needs
        .into_iter()
        .map(|(folder, gib, remedy)| {
            let space = space(&folder)?;
            Ok(Need {
                folder,
                gib,
                remedy,
                space,
            })
        })
        .collect::<Result<_>>()?;
    enough(&needs)
}

/// A folder that builds fill.
struct Need {
    folder: PathBuf,
    gib: u64,
    remedy: &'static str,
    space: Space,
}

/// A file system's free space, and which one it is.
struct Space {
    device: u64,
    free_gib: u64,
}

/// Folders on one file system share what is free there.
fn enough(needs: &[Need]) -> Result<()> {
    for Need {
        folder,
        remedy,
        space,
        ..
    } in needs
    {
        let here = needs.iter().filter(|other| other.space.device == space.device);
        let gib: u64 = here.map(|need| need.gib).sum();
        ensure!(
            space.free_gib >= gib,
            "disk space is missing: the file system of {} has {} GiB free and the builds take up to {gib} there; free some space, or {remedy}",
            folder.display(),
            space.free_gib,
        );
    }
    Ok(())
}

/// The space at a folder, which need not be there yet.
fn space(folder: &Path) -> Result<Space> {
    let here = folder.ancestors().find(|ancestor| ancestor.exists());
    let here = here.with_context(|| format!("no parent folder of {} exists", folder.display()))?;
    let cannot = || format!("cannot read the free disk space of {}", here.display());
    let stat = nix::sys::statvfs::statvfs(here).with_context(cannot)?;
    Ok(Space {
        device: fs::metadata(here).with_context(cannot)?.dev(),
        free_gib: stat.blocks_available() * stat.fragment_size() / (1 << 30),
    })
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
        "apt is missing: this machine is not Debian; install the packages named above by hand"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{Need, Space, enough, version};

    #[test]
    fn versions_compare_by_number() {
        assert_eq!(version("6.1.0-28-amd64"), Some((6, 1)));
        assert_eq!(version("1.26.8"), Some((1, 26)));
        assert!(version("1.9.0") < version("1.26.0"));
        assert_eq!(version("devel"), None);
    }
    #[test]
    fn the_folder_whose_file_system_is_too_full_is_named() {
        let need = |folder: &str, gib, device, free_gib| Need {
            folder: folder.into(),
            gib,
            remedy: "do something",
            space: Space { device, free_gib },
        };
        assert!(enough(&[need("/a", 6, 1, 10), need("/b", 4, 1, 10)]).is_ok());
        let said = |needs: &[Need]| enough(needs).unwrap_err().to_string();
        assert_eq!(
            said(&[need("/a", 6, 1, 6), need("/b", 4, 2, 3)]),
            "disk space is missing: the file system of /b has 3 GiB free and the builds take up to 4 there; \
             free some space, or do something"
        );
        let shared = said(&[need("/a", 6, 1, 9), need("/b", 4, 1, 9)]);
        assert!(
            shared.contains("of /a has 9 GiB free and the builds take up to 10 there"),
            "{shared}"
        );
    }
}
