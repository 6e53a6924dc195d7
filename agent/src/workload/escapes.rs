//! Processes that left their pod's cgroup.
//!
//! In: the enforced pods, again and again. Out: the processes in a pod's network namespace that are not in its cgroup, and
//! those that have left its cgroup since. A process that is root in its pod and may write the cgroup tree can move itself to a
//! sibling or to the root. The kernel still judges sockets of the pod's namespace as the pod's. A process of a pod in the
//! node's network gets away; it is reported if it was seen in the cgroup before.

use std::collections::{HashMap, HashSet};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::PodUid;
use super::cgroup::{processes, unified};
use super::layout::pod_of;
use super::netns::{NetnsId, started};

/// An enforced pod.
#[derive(Debug, Clone)]
pub struct EnforcedPodRef {
    /// The UID that its cgroup carries.
    pub uid: PodUid,
    /// Its cgroup's folder.
    pub path: PathBuf,
    /// Its own network namespace; `None` where it shares the node's.
    pub netns: Option<NetnsId>,
}

/// One process: its number, and when it started, in clock ticks since boot. The same number later is another's.
pub type ProcessKey = (u32, u64);

/// A process outside its pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CgroupEscape {
    /// Its process id.
    pub pid: u32,
    /// When it started, in clock ticks since boot.
    pub started: u64,
    /// Its name.
    pub comm: String,
    /// Its user id.
    pub uid: u32,
    /// The cgroup v2 path it is in.
    pub cgroup: String,
    /// The pod it belongs to.
    pub pod: PodUid,
    /// Whether it is in the pod's own network namespace, where the kernel judges it as the pod's.
    pub held: bool,
}

impl CgroupEscape {
    /// Which process it is.
    #[must_use]
    pub fn key(&self) -> ProcessKey {
        (self.pid, self.started)
    }
}

/// Looks at processes, and remembers whose they were.
#[derive(Debug, Default)]
pub struct EscapeTracker {
    seen: HashMap<ProcessKey, PodUid>,
}

impl EscapeTracker {
    /// Looks at every process once. It blocks, for a few milliseconds per thousand processes.
    pub fn find(&mut self, pods: &[EnforcedPodRef]) -> Vec<CgroupEscape> {
        let namespaces: HashMap<_, _> = pods
            .iter()
            .filter_map(|pod| Some((pod.netns?, &pod.uid)))
            .collect();
        let mut found = in_namespaces(&namespaces);
        let inside: HashMap<ProcessKey, PodUid> = pods
            .iter()
            .flat_map(|pod| {
                let processes = processes(&pod.path).into_iter();
                processes.filter_map(|(pid, _)| Some(((pid, started(&folder(pid))?), pod.uid.clone())))
            })
            .collect();
        let known: HashSet<_> = found.iter().map(CgroupEscape::key).collect();
        let enforced: HashSet<_> = pods.iter().map(|pod| &pod.uid).collect();
        for (key, pod) in std::mem::take(&mut self.seen) {
            if known.contains(&key) || inside.contains_key(&key) || !enforced.contains(&pod) {
                continue;
            }
            found.extend(outside(key.0, &pod, false).filter(|escape| escape.key() == key));
        }
        self.seen = inside;
        // What left stays in mind for as long as it lives.
        let left = found.iter().map(|escape| (escape.key(), escape.pod.clone()));
        self.seen.extend(left);
        found
    }
}

fn in_namespaces(pods: &HashMap<NetnsId, &PodUid>) -> Vec<CgroupEscape> {
    if pods.is_empty() {
        return Vec::new();
    }
    let Ok(processes) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    processes
        .filter_map(|entry| {
            let pid = entry.ok()?.file_name().to_str()?.parse().ok()?;
            let netns = std::fs::metadata(folder(pid).join("ns/net")).ok()?;
            let pod = pods.get(&NetnsId {
                device: netns.dev(),
                inode: netns.ino(),
            })?;
            outside(pid, pod, true)
        })
        .collect()
}

/// The process, if it lives and its cgroup is no part of the pod's. It may end at any step, which is no matter.
fn outside(pid: u32, pod: &PodUid, held: bool) -> Option<CgroupEscape> {
    let process = folder(pid);
    let text = std::fs::read_to_string(process.join("cgroup")).ok()?;
    let cgroup = unified(&text)?;
    if pod_of(Path::new(cgroup)).as_ref() == Some(pod) {
        return None;
    }
    let comm = std::fs::read_to_string(process.join("comm")).ok()?;
    Some(CgroupEscape {
        pid,
        started: started(&process)?,
        comm: comm.trim_end().to_owned(),
        uid: std::fs::metadata(&process).ok()?.uid(),
        cgroup: cgroup.to_owned(),
        pod: pod.clone(),
        held,
    })
}

fn folder(pid: u32) -> PathBuf {
    Path::new("/proc").join(pid.to_string())
}

#[cfg(test)]
mod tests {
    use super::super::netns::Netns;
    use super::*;
    use crate::cluster::testing::Folder;

    fn pod_ref(folder: &Folder, netns: Option<NetnsId>) -> EnforcedPodRef {
        EnforcedPodRef {
            uid: PodUid("0d5a3c3e-7f3a-4a59-9a5b-0c6f4f0b8f11".to_owned()),
            path: folder.path().to_owned(),
            netns,
        }
    }

    fn this(found: &[CgroupEscape]) -> Option<&CgroupEscape> {
        found.iter().find(|escape| escape.pid == std::process::id())
    }

    #[test]
    fn a_process_in_a_pods_network_and_not_in_its_cgroup_is_found() {
        let (own, folder) = (
            Netns::open(Path::new("/proc/self/ns/net")).unwrap().id(),
            Folder::new(),
        );
        // This very process is in no pod's cgroup.
        let pod = pod_ref(&folder, Some(own));
        let found = EscapeTracker::default().find(std::slice::from_ref(&pod));
        let escape = this(&found).unwrap();
        assert_eq!(
            (&escape.pod, escape.uid, escape.held),
            (&pod.uid, nix::unistd::getuid().as_raw(), true)
        );
        assert_eq!(Some(escape.started), started(Path::new("/proc/self")));
        let elsewhere = NetnsId {
            inode: own.inode + 1,
            ..own
        };
        assert_eq!(
            EscapeTracker::default().find(&[pod_ref(&folder, Some(elsewhere))]),
            []
        );
    }

    #[test]
    fn a_process_that_was_in_the_pod_and_left_is_found_on_the_nodes_network_too() {
        let folder = Folder::new();
        let pod = [pod_ref(&folder, None)];
        let list = |text: &str| std::fs::write(folder.path().join("cgroup.procs"), text).unwrap();
        let mut escapes = EscapeTracker::default();
        list("");
        assert_eq!(escapes.find(&pod), [], "never seen inside");
        list(&std::process::id().to_string());
        assert_eq!(escapes.find(&pod), [], "inside");
        list("");
        for _ in 0..2 {
            let found = escapes.find(&pod);
            assert!(!this(&found).unwrap().held, "it left, and still has");
        }
        assert_eq!(escapes.find(&[]), [], "the pod is gone");
        assert_eq!(escapes.find(&pod), [], "and forgotten");
    }
}
