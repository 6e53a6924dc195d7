//! The cgroup v2 tree of this node, read once.
//!
//! In: the folder below which the kubelet's cgroups live. Out: a [`Scan`]: the folders of all pods, each pod's folder,
//! and which folders to watch for the next change.
//!
//! The search ends at a pod's folder. Whatever a pod makes below its own cgroup, a folder with another pod's name
//! included, is that pod's and never taken for another.

use std::collections::{HashSet, VecDeque};
use std::io;
use std::os::unix::fs::DirEntryExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;

use super::PodUid;
use super::layout::{is_kubepods, pod_uid};
use super::levels::TooDeep;
use crate::kernel::CgroupId;

/// A kubelet's pods lie at most a handful of levels deep (`/docker/<id>/kubelet/kubepods/<qos>/pod<UID>`); a tree
/// deeper than this without a pod is somebody else's.
const MAX_DEPTH: usize = 16;

/// How many processes of one pod are looked at; the sandbox's, which is wanted, is the pod's first.
const MAX_PROCESSES: usize = 4096;

/// How many cgroups of one pod are looked at: a container has one, and one that manages its own services some dozens.
const MAX_CGROUPS: usize = 4096;

/// Why the tree could not be read.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// The root folder cannot be read.
    #[error("{}: cannot read the cgroup tree: {source}", root.display())]
    Root {
        /// The configured root.
        root: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The root folder is not in a cgroup v2 file system.
    #[error(
        "{}: no cgroup v2 folder; name one (`stat -f -c %T` says cgroup2fs there), such as /sys/fs/cgroup or, on a \
         machine with both versions, /sys/fs/cgroup/unified",
        root.display()
    )]
    NotVersion2 {
        /// The configured root.
        root: PathBuf,
    },
    /// The pods lie deeper than the kernel programs look.
    #[error("{}: cannot enforce pods below this folder: {source}", path.display())]
    TooDeep {
        /// The folder of all pods, or the configured root.
        path: PathBuf,
        /// How deep.
        source: TooDeep,
    },
}

/// A cgroup: its folder and its number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// The number.
    pub id: CgroupId,
    /// The folder.
    pub path: PathBuf,
    /// How many levels below the hierarchy's root it lies; the least that it can be where that is not known.
    pub level: usize,
}

/// A pod's cgroup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodGroup {
    /// The cgroup itself.
    pub group: Group,
    /// The pod's UID as the kubelet knows it; for a static pod its manifest's hash.
    pub uid: PodUid,
    /// The cgroups right below it, the containers', in order; a change is a reason to look at the pod again.
    pub children: Vec<CgroupId>,
}

/// What one reading of the tree found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Scan {
    /// The folders that hold all pods of a kubelet.
    pub roots: Vec<Group>,
    /// The pods' folders.
    pub pods: Vec<PodGroup>,
    /// The folders above the pods, in which new ones appear.
    pub above: Vec<Group>,
}

/// Reads the tree below `root`, which is at this level of the hierarchy. Folders that vanish meanwhile are left out.
///
/// # Errors
/// [`CgroupError`] where the root or a folder that is there cannot be read: half a reading would make pods seem gone.
pub fn scan(root: &Path, level: usize) -> Result<Scan, CgroupError> {
    let fail = |source| CgroupError::Root {
        root: root.to_owned(),
        source,
    };
    std::fs::read_dir(root).map_err(fail)?;
    let mut scan = Scan::default();
    let top = Group {
        id: CgroupId::of(root).map_err(fail)?,
        path: root.to_owned(),
        level,
    };
    descend(top, 0, &mut scan).map_err(fail)?;
    Ok(scan)
}

fn descend(group: Group, depth: usize, scan: &mut Scan) -> io::Result<()> {
    let name = group
        .path
        .file_name()
        .and_then(|name| name.to_str())
        .unwrap_or_default();
    if let Some(uid) = pod_uid(name) {
        let mut children: Vec<_> = folders(&group.path, group.level)?
            .into_iter()
            .map(|child| child.id)
            .collect();
        children.sort_unstable();
        scan.pods.push(PodGroup { group, uid, children });
        return Ok(());
    }
    if is_kubepods(name) {
        scan.roots.push(group.clone());
    }
    if depth < MAX_DEPTH {
        for child in folders(&group.path, group.level)? {
            descend(child, depth + 1, scan)?;
        }
    }
    scan.above.push(group);
    Ok(())
}

/// The folders right below this one, which is at this level; none where it has vanished meanwhile.
fn folders(path: &Path, level: usize) -> io::Result<Vec<Group>> {
    let vanished = |error: &io::Error| {
        error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(Errno::ENODEV as i32)
    };
    let entries = match std::fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if vanished(&error) => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut found = Vec::new();
    for entry in entries {
        match entry.and_then(|entry| Ok((entry.file_type()?, entry))) {
            Ok((kind, entry)) if kind.is_dir() => found.push(Group {
                id: CgroupId(entry.ino()),
                path: entry.path(),
                level: level + 1,
            }),
            Ok(_) => {}
            Err(error) if vanished(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

/// The processes in this cgroup and below it, each with the folder it is in.
///
/// Processes of a process-id namespace that this one does not see, which the kernel lists as 0, are left out. Of a pod that
/// makes itself more cgroups than [`MAX_CGROUPS`] the uppermost are looked at: its containers' own.
#[must_use]
pub fn processes(cgroup: &Path) -> Vec<(u32, PathBuf)> {
    let mut found = Vec::new();
    let mut open = VecDeque::from([cgroup.to_owned()]);
    for _ in 0..MAX_CGROUPS {
        let Some(folder) = open.pop_front() else {
            break;
        };
        for pid in listed(&folder) {
            found.push((pid, folder.clone()));
            if found.len() == MAX_PROCESSES {
                return found;
            }
        }
        // A folder that cannot be read hides its processes for now; the caller looks again.
        open.extend(
            folders(&folder, 0)
                .unwrap_or_default()
                .into_iter()
                .map(|child| child.path),
        );
    }
    found
}

/// Whether the cgroup with this folder, itself, holds the process.
#[must_use]
pub fn holds(folder: &Path, pid: u32) -> bool {
    listed(folder).contains(&pid)
}

fn listed(folder: &Path) -> Vec<u32> {
    // A threaded cgroup answers with EOPNOTSUPP: its processes are listed above it.
    let text = std::fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
    text.lines()
        .filter_map(|line| line.parse().ok())
        .filter(|pid| *pid != 0)
        .collect()
}

/// The numbers of this cgroup and of those below it; of more than [`MAX_CGROUPS`] the uppermost.
#[must_use]
pub fn subtree(cgroup: &Path) -> HashSet<CgroupId> {
    let mut found: HashSet<_> = CgroupId::of(cgroup).into_iter().collect();
    let mut open = VecDeque::from([cgroup.to_owned()]);
    while let Some(folder) = open.pop_front() {
        for child in folders(&folder, 0).unwrap_or_default() {
            if found.len() == MAX_CGROUPS {
                return found;
            }
            found.insert(child.id);
            open.push_back(child.path);
        }
    }
    found
}

/// The cgroup v2 path among those of `/proc/<pid>/cgroup` (cgroups(7)): hierarchy 0 without controllers.
#[must_use]
pub fn unified(text: &str) -> Option<&str> {
    text.lines().find_map(|line| line.strip_prefix("0::"))
}

/// The pod folder that this very process is in, if the agent runs as a pod.
///
/// Found by looking for the own process id, which works in a cgroup namespace of its own too, where
/// `/proc/self/cgroup` says `/`.
#[must_use]
pub fn own_pod(scan: &Scan) -> Option<CgroupId> {
    let own = std::process::id();
    let mut pods = scan.pods.iter();
    let pod = pods.find(|pod| processes(&pod.group.path).iter().any(|(pid, _)| *pid == own))?;
    Some(pod.group.id)
}

/// Checks that `root` is a folder of a cgroup v2 file system.
///
/// # Errors
/// [`CgroupError`] where it is not, or cannot be looked at.
pub fn check_root(root: &Path) -> Result<(), CgroupError> {
    let kind = nix::sys::statfs::statfs(root).map_err(|errno| CgroupError::Root {
        root: root.to_owned(),
        source: errno.into(),
    })?;
    if kind.filesystem_type() == nix::sys::statfs::CGROUP2_SUPER_MAGIC {
        return Ok(());
    }
    Err(CgroupError::NotVersion2 {
        root: root.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::testing::Folder;

    const A: &str = "0d5a3c3e-7f3a-4a59-9a5b-0c6f4f0b8f11";
    const B: &str = "1d5a3c3e-7f3a-4a59-9a5b-0c6f4f0b8f11";

    #[test]
    fn pods_are_found_at_any_depth_and_what_a_pod_makes_below_itself_is_its_own() {
        let tree = Folder::new();
        for folder in [
            format!("kubelet/kubepods/burstable/pod{A}/aa11"),
            // A privileged container may make folders below its own cgroup and move its processes there.
            format!("kubelet/kubepods/burstable/pod{A}/aa11/kubepods/pod{B}"),
            "system.slice/sshd.service".into(),
        ] {
            std::fs::create_dir_all(tree.path().join(folder)).unwrap();
        }
        let found = scan(tree.path(), 0).unwrap();
        let pods: Vec<_> = found.pods.iter().map(|pod| pod.uid.0.as_str()).collect();
        assert_eq!(pods, [A]);
        assert_eq!(found.pods[0].children.len(), 1);
        assert_eq!(
            found.pods[0].group.id,
            CgroupId::of(&found.pods[0].group.path).unwrap()
        );
        let roots: Vec<_> = found.roots.iter().map(|root| root.path.clone()).collect();
        assert_eq!(roots, [tree.path().join("kubelet/kubepods")]);
        assert_eq!(found.above.len(), 6, "{:?}", found.above);
    }

    #[test]
    fn a_pods_cgroups_are_its_own_and_all_below() {
        let tree = Folder::new();
        let pod = tree.path().join(format!("kubepods/pod{A}"));
        std::fs::create_dir_all(pod.join("aa11/deeper")).unwrap();
        std::fs::create_dir_all(tree.path().join(format!("kubepods/pod{B}/bb22"))).unwrap();
        let of = |path: &str| CgroupId::of(&pod.join(path)).unwrap();
        assert_eq!(
            subtree(&pod),
            HashSet::from([of(""), of("aa11"), of("aa11/deeper")])
        );
        assert_eq!(subtree(&tree.path().join("gone")), HashSet::new());
    }

    #[test]
    fn the_unified_hierarchy_is_found_among_the_others() {
        let text = "9:name=systemd:/\n4:memory:/a\n0::/kubepods/besteffort/podx/y\n";
        assert_eq!(unified(text), Some("/kubepods/besteffort/podx/y"));
        assert_eq!(unified("4:memory:/a\n"), None);
    }

    #[test]
    fn a_new_container_changes_the_scan() {
        let tree = Folder::new();
        let pod = tree.path().join(format!("kubepods/pod{A}"));
        std::fs::create_dir_all(&pod).unwrap();
        let before = scan(tree.path(), 0).unwrap();
        assert_eq!(before, scan(tree.path(), 0).unwrap());
        std::fs::create_dir(pod.join("aa11")).unwrap();
        assert_ne!(before, scan(tree.path(), 0).unwrap());
    }

    #[test]
    fn a_root_of_another_file_system_is_refused_with_advice() {
        let tree = Folder::new();
        let error = check_root(tree.path()).unwrap_err().to_string();
        assert!(error.contains("cgroup2fs"), "{error}");
        assert!(scan(&tree.path().join("nothing"), 0).is_err());
    }

    #[test]
    fn however_many_cgroups_a_pod_makes_its_containers_own_are_looked_at() {
        let pod = Folder::new();
        let write = |folder: &str, pid: &str| {
            let folder = pod.path().join(folder);
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(folder.join("cgroup.procs"), pid).unwrap();
        };
        for number in 0..MAX_CGROUPS {
            std::fs::create_dir_all(pod.path().join(format!("app/{number}"))).unwrap();
        }
        write("app/0/deep", "7");
        write("sandbox", "1");
        let found: Vec<_> = processes(pod.path()).into_iter().map(|(pid, _)| pid).collect();
        assert_eq!(found, [1]);
    }

    #[test]
    fn of_more_cgroups_than_are_counted_the_uppermost_are() {
        let pod = Folder::new();
        let upper = ["a/deep", "a/service", "b/deep", "b/service"];
        for folder in upper {
            std::fs::create_dir_all(pod.path().join(folder)).unwrap();
        }
        for number in 0..MAX_CGROUPS {
            for container in ["a", "b"] {
                std::fs::create_dir(pod.path().join(format!("{container}/deep/{number}"))).unwrap();
            }
        }
        let numbers = subtree(pod.path());
        assert_eq!(numbers.len(), MAX_CGROUPS);
        for folder in upper {
            let number = CgroupId::of(&pod.path().join(folder)).unwrap();
            assert!(numbers.contains(&number), "{folder}");
        }
    }
}
