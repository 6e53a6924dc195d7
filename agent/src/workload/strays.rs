//! Processes that left their pod's cgroup and kept its network.
//!
//! In: the network namespaces of enforced pods. Out: the processes in them whose cgroup is no part of that pod's. A process
//! that is root in its pod and may write the cgroup tree can move itself to a sibling or to the root; the kernel still
//! judges sockets of the pod's namespace as the pod's, and this tells who did it. A process that shares the node's network
//! leaves no such trace.

use std::collections::HashMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use super::PodUid;
use super::cgroup::unified;
use super::layout::pod_of;
use super::netns::{NetnsId, started};

/// A process outside its pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stray {
    /// Its process id.
    pub pid: u32,
    /// When it started, in clock ticks since boot: the same number later is another process's.
    pub started: u64,
    /// Its name.
    pub comm: String,
    /// Its user id.
    pub uid: u32,
    /// The cgroup v2 path it is in.
    pub cgroup: String,
    /// The pod whose network it is in.
    pub pod: PodUid,
}

/// Looks at every process once; `pods` are the namespaces and whose they are. It blocks, for a few milliseconds per
/// thousand processes.
#[must_use]
pub fn strays(pods: &HashMap<NetnsId, PodUid>) -> Vec<Stray> {
    if pods.is_empty() {
        return Vec::new();
    }
    let Ok(processes) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    processes
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            let pid = path.file_name()?.to_str()?.parse().ok()?;
            look(&path, pid, pods)
        })
        .collect()
}

/// A process may end at any step, which is no matter: it is looked at again or nobody's business any more.
fn look(process: &Path, pid: u32, pods: &HashMap<NetnsId, PodUid>) -> Option<Stray> {
    let netns = std::fs::metadata(process.join("ns/net")).ok()?;
    let pod = pods.get(&NetnsId {
        device: netns.dev(),
        inode: netns.ino(),
    })?;
    let text = std::fs::read_to_string(process.join("cgroup")).ok()?;
    let cgroup = unified(&text)?;
    if pod_of(Path::new(cgroup)).as_ref() == Some(pod) {
        return None;
    }
    Some(Stray {
        pid,
        started: started(process)?,
        comm: std::fs::read_to_string(process.join("comm"))
            .ok()?
            .trim_end()
            .to_owned(),
        uid: std::fs::metadata(process).ok()?.uid(),
        cgroup: cgroup.to_owned(),
        pod: pod.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::super::netns::Netns;
    use super::*;

    #[test]
    fn a_process_in_a_pods_network_and_not_in_its_cgroup_is_found() {
        let own = Netns::open(Path::new("/proc/self/ns/net")).unwrap().id();
        let uid = PodUid("0d5a3c3e-7f3a-4a59-9a5b-0c6f4f0b8f11".to_owned());
        // This very process is in no pod's cgroup.
        let found = strays(&HashMap::from([(own, uid.clone())]));
        let this = found
            .iter()
            .find(|stray| stray.pid == std::process::id())
            .unwrap();
        assert_eq!((&this.pod, this.uid), (&uid, nix::unistd::getuid().as_raw()));
        assert_eq!(Some(this.started), started(Path::new("/proc/self")));
        let elsewhere = NetnsId {
            inode: own.inode + 1,
            ..own
        };
        assert_eq!(strays(&HashMap::from([(elsewhere, uid)])), []);
    }
}
