//! How deep a cgroup lies in the kernel's hierarchy, and whether the kernel programs look that deep.
//!
//! In: a cgroup v2 folder. Out: its level, counted from the hierarchy's root, which is level 0. The kernel programs find a
//! task's class among the cgroups at the first [`LEVELS`] levels: a pod whose own cgroup lies deeper has the class of the
//! folder of all pods, which is closed; and where that lies deeper too, the pod is a process of the node's to them.
//!
//! Where the agent has a cgroup namespace of its own and the mount ends at it, nobody tells how many levels lie above. They
//! then count as one, so that the level is the least that it can be.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Component, Path};

use super::cgroup::{CgroupError, Scan};
use crate::kernel::{CgroupId, LEVELS};

/// The number of the hierarchy's root (fs/kernfs/mount.c: the first that is given).
const ROOT: CgroupId = CgroupId(1);

/// The number of the initial cgroup namespace (include/linux/proc_ns.h, `PROC_CGROUP_INIT_INO`).
const INITIAL_NAMESPACE: u64 = 0xEFFF_FFFB;

/// A cgroup that lies deeper than the kernel programs look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the cgroup lies {level} levels below the root of the cgroup hierarchy, and the kernel programs look at cgroups at most {} levels \
     below it; start the kubelet with a cgroup root that lies higher",
    LEVELS - 1
)]
pub struct TooDeep {
    /// Its level.
    pub level: usize,
}

/// Says whether the kernel programs find the class of a cgroup at this level.
///
/// # Errors
/// [`TooDeep`] where they do not.
pub fn check(level: usize) -> Result<(), TooDeep> {
    if level < LEVELS {
        return Ok(());
    }
    Err(TooDeep { level })
}

/// Says whether the kernel programs find the classes of pods below the root, which is at this level.
///
/// # Errors
/// [`CgroupError::TooDeep`] where they find none: a folder of all pods lies too deep, or any pod below the root would.
pub(super) fn check_scan(root: &Path, level: usize, scan: &Scan) -> Result<(), CgroupError> {
    let too_deep = |path: &Path| {
        let path = path.to_owned();
        move |source| CgroupError::TooDeep { path, source }
    };
    check(level + 1).map_err(too_deep(root))?;
    for pods in &scan.roots {
        check(pods.level).map_err(too_deep(&pods.path))?;
    }
    Ok(())
}

/// The level of a cgroup v2 folder; the least that it can be where the levels above the mount are unknown.
///
/// # Errors
/// What the system says where the folder or a folder above it cannot be looked at.
pub(super) fn level_of(folder: &Path) -> io::Result<usize> {
    let folder = fs::canonicalize(folder)?;
    let device = fs::metadata(&folder)?.dev();
    let mut level = 0;
    for above in folder.ancestors() {
        let seen = fs::metadata(above)?;
        // Beyond the mount, as in a folder of another file system.
        if seen.dev() != device {
            break;
        }
        if CgroupId(seen.ino()) == ROOT {
            return Ok(level);
        }
        level += 1;
    }
    // The topmost folder of the mount was counted as a level, which stands for one level above it.
    let mount = folder.ancestors().nth(level.saturating_sub(1)).unwrap_or(&folder);
    let namespace = fs::metadata("/proc/self/ns/cgroup")?.ino();
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    let above = mount_level(&mounts, mount).filter(|_| namespace == INITIAL_NAMESPACE);
    Ok(above.map_or(level, |above| above + level - 1))
}

/// The level of the cgroup that is mounted there, by lines as proc_pid_mountinfo(5) has them. It counts from the root of the
/// reader's cgroup namespace.
fn mount_level(mounts: &str, point: &Path) -> Option<usize> {
    mounts.lines().rev().find_map(|line| {
        let mut fields = line.split(' ').skip(3);
        let (root, mounted) = (fields.next()?, fields.next()?);
        let kind = line.split_once(" - ")?.1.split(' ').next()?;
        let names = Path::new(root)
            .components()
            .filter(|name| matches!(name, Component::Normal(_)));
        (kind == "cgroup2" && Path::new(mounted) == point).then(|| names.count())
    })
}

#[cfg(test)]
mod tests {
    use super::super::cgroup::scan;
    use super::*;
    use crate::cluster::testing::Folder;
    use crate::kernel::cgroup_mount;

    #[test]
    fn the_last_level_is_looked_at_and_the_next_is_not() {
        assert!(check(0).is_ok() && check(LEVELS - 1).is_ok());
        let error = check(LEVELS).unwrap_err();
        assert_eq!(error, TooDeep { level: LEVELS });
        assert!(error.to_string().contains("16 levels below the root"), "{error}");
        assert!(error.to_string().contains("at most 15 levels"), "{error}");
    }

    #[test]
    fn a_root_below_which_no_pod_could_be_enforced_is_refused() {
        let tree = Folder::new();
        fs::create_dir_all(tree.path().join("kubelet/kubepods")).unwrap();
        let checked = |level| check_scan(tree.path(), level, &scan(tree.path(), level).unwrap());
        assert!(checked(0).is_ok() && checked(LEVELS - 3).is_ok());
        let error = checked(LEVELS - 2).unwrap_err().to_string();
        assert!(
            error.contains("/kubelet/kubepods: cannot enforce pods"),
            "{error}"
        );
        let bare = check_scan(tree.path(), LEVELS - 1, &Scan::default())
            .unwrap_err()
            .to_string();
        assert!(bare.starts_with(&tree.path().display().to_string()), "{bare}");
    }

    #[test]
    fn a_mounts_level_is_that_of_the_cgroup_at_its_top() {
        let mounts = "31 23 0:28 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n\
             32 23 0:28 /docker/7f /run/node/cgroup rw shared:4 - cgroup2 cgroup2 rw\n\
             33 23 0:30 /a/b /run/node/cgroup rw - tmpfs tmpfs rw\n";
        let of = |point: &str| mount_level(mounts, Path::new(point));
        assert_eq!(of("/sys/fs/cgroup"), Some(0));
        assert_eq!(of("/run/node/cgroup"), Some(2));
        assert_eq!(of("/run/node"), None);
    }

    #[test]
    fn a_folders_level_is_counted_from_the_hierarchys_root() {
        let Ok(mount) = cgroup_mount() else { return };
        let Ok(top) = level_of(&mount) else { return };
        let child = mount.join(format!("picket-levels-{}", std::process::id()));
        if fs::create_dir(&child).is_err() {
            return;
        }
        let below = child.join("below");
        let made = fs::create_dir(&below);
        let levels = (level_of(&child), level_of(&below));
        let _removed = made
            .and_then(|()| fs::remove_dir(&below))
            .and_then(|()| fs::remove_dir(&child));
        assert_eq!((levels.0.unwrap(), levels.1.unwrap()), (top + 1, top + 2));
    }
}
