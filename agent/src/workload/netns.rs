//! The network namespace of a pod.
//!
//! In: the pod's cgroup. Out: an open handle to the namespace of its first process, so that the namespace cannot be
//! swapped for another between looking and entering.
//!
//! A runtime starts a container's first process in the node's own namespace and moves it a moment later, and it is in
//! the pod's cgroup before that; so the node's own namespace is never taken for a pod's. The oldest process is taken,
//! because that is the sandbox's: a process of the pod's that made itself another namespace is younger.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use procfs::FromRead as _;
use procfs::process::Stat;

use super::cgroup::{holds, processes};

/// Why a pod's namespace is not known.
#[derive(Debug, thiserror::Error)]
pub enum NetnsError {
    /// There is no process yet that is in a namespace of the pod's own; asking again soon is right.
    #[error("no process of the pod is in a network namespace of its own yet")]
    NotYet,
    /// A namespace cannot be opened.
    #[error("{}: cannot open the network namespace: {source}", path.display())]
    Open {
        /// The file asked for.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Which namespace a handle is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct NetnsId {
    /// The device of the file system of namespaces.
    pub device: u64,
    /// The namespace's number there.
    pub inode: u64,
}

/// An open network namespace; as long as a clone lives, so does the namespace.
#[derive(Debug, Clone)]
pub struct Netns {
    file: Arc<File>,
    id: NetnsId,
}

impl Netns {
    /// Opens the namespace behind a file such as `/proc/1/ns/net`.
    ///
    /// # Errors
    /// [`NetnsError::Open`].
    pub fn open(path: &Path) -> Result<Self, NetnsError> {
        let fail = |source| NetnsError::Open {
            path: path.to_owned(),
            source,
        };
        let file = File::open(path).map_err(fail)?;
        let facts = file.metadata().map_err(fail)?;
        Ok(Self {
            file: Arc::new(file),
            id: NetnsId {
                device: facts.dev(),
                inode: facts.ino(),
            },
        })
    }

    /// Which namespace it is.
    #[must_use]
    pub fn id(&self) -> NetnsId {
        self.id
    }

    /// A path that leads this process to the handle, for what wants a path; good while the handle lives.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.file.as_raw_fd()))
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// The namespaces that are the node's own.
#[derive(Debug, Clone)]
pub struct NodeNetns(Vec<NetnsId>);

impl NodeNetns {
    /// The namespaces of this process, which runs in the node's, and of the first process that it sees.
    ///
    /// # Errors
    /// [`NetnsError::Open`] where the own one cannot be looked at.
    pub fn current() -> Result<Self, NetnsError> {
        let mut own = vec![Netns::open(Path::new("/proc/self/ns/net"))?.id];
        if let Ok(first) = Netns::open(Path::new("/proc/1/ns/net")) {
            own.push(first.id);
        }
        Ok(Self(own))
    }
}

/// The namespace of the pod with this cgroup.
///
/// # Errors
/// [`NetnsError::NotYet`] while none of its processes is in a namespace of its own.
pub fn of_pod(cgroup: &Path, node: &NodeNetns) -> Result<Netns, NetnsError> {
    let mut found: Vec<_> = processes(cgroup)
        .into_iter()
        .filter_map(|(pid, folder)| Some((started(Path::new(&format!("/proc/{pid}")))?, pid, folder)))
        .collect();
    found.sort_unstable();
    found
        .iter()
        .filter_map(|(started, pid, folder)| of_process(*pid, *started, folder))
        .find(|netns| !node.0.contains(&netns.id))
        .ok_or(NetnsError::NotYet)
}

/// The namespace of the process, unless it ended or left the cgroup meanwhile.
fn of_process(pid: u32, started_then: u64, folder: &Path) -> Option<Netns> {
    // A handle to the process's folder stays with that process: once it ended nothing can be read through it, even
    // when its number is in use again.
    let process = File::open(format!("/proc/{pid}")).ok()?;
    let through = PathBuf::from(format!("/proc/self/fd/{}", process.as_raw_fd()));
    let netns = Netns::open(&through.join("ns/net")).ok()?;
    (holds(folder, pid) && started(&through) == Some(started_then)).then_some(netns)
}

/// When the process started, in clock ticks since boot.
pub(super) fn started(process: &Path) -> Option<u64> {
    start_ticks(File::open(process.join("stat")).ok()?)
}

/// The start of a process, in clock ticks since boot, from its `/proc/<pid>/stat` (proc_pid_stat(5)).
pub fn start_ticks(stat: impl Read) -> Option<u64> {
    Some(Stat::from_read(stat).ok()?.starttime)
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command, Stdio};
    use std::time::{Duration, Instant};

    use super::*;
    use crate::cluster::testing::Folder;

    struct Sleeper(Child);

    impl Sleeper {
        /// A process in a network namespace of its own, or in this one.
        fn start(apart: bool) -> Self {
            let mut command = Command::new(if apart { "unshare" } else { "sleep" });
            if apart {
                command.args(["--net", "sleep"]);
            }
            let child = command.arg("60").stdin(Stdio::null()).spawn().unwrap();
            let sleeper = Self(child);
            let deadline = Instant::now() + Duration::from_secs(5);
            while apart && sleeper.netns().id() == own().id() {
                assert!(Instant::now() < deadline, "unshare takes too long");
                std::thread::sleep(Duration::from_millis(5));
            }
            sleeper
        }

        fn pid(&self) -> u32 {
            self.0.id()
        }

        fn netns(&self) -> Netns {
            Netns::open(Path::new(&format!("/proc/{}/ns/net", self.pid()))).unwrap()
        }
    }

    impl Drop for Sleeper {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    fn own() -> Netns {
        Netns::open(Path::new("/proc/self/ns/net")).unwrap()
    }

    fn list(folder: &Path, pids: &[u32]) {
        std::fs::create_dir_all(folder).unwrap();
        let text: String = pids.iter().map(|pid| format!("{pid}\n")).collect();
        std::fs::write(folder.join("cgroup.procs"), text).unwrap();
    }

    #[test]
    fn the_oldest_process_in_a_namespace_of_its_own_names_the_pods() {
        let node = NodeNetns::current().unwrap();
        let pod = Folder::new();
        // The oldest one is still in the node's namespace, as a container is that has only just begun.
        let starting = Sleeper::start(false);
        list(&pod.path().join("sandbox"), &[0, starting.pid()]);
        assert!(matches!(of_pod(pod.path(), &node), Err(NetnsError::NotYet)));

        std::thread::sleep(Duration::from_millis(30));
        let sandbox = Sleeper::start(true);
        std::thread::sleep(Duration::from_millis(30));
        let later = Sleeper::start(true);
        list(&pod.path().join("sandbox"), &[starting.pid(), sandbox.pid()]);
        list(&pod.path().join("app"), &[later.pid()]);
        let found = of_pod(pod.path(), &node).unwrap();
        assert_eq!(found.id(), sandbox.netns().id());
        assert_eq!(Netns::open(&found.path()).unwrap().id(), found.id());
    }

    #[test]
    fn a_process_that_left_the_cgroup_or_ended_is_not_believed() {
        let pod = Folder::new();
        let sandbox = Sleeper::start(true);
        let (pid, since) = (
            sandbox.pid(),
            started(Path::new(&format!("/proc/{}", sandbox.pid()))).unwrap(),
        );
        list(pod.path(), &[pid]);
        assert!(of_process(pid, since, pod.path()).is_some());
        assert!(
            of_process(pid, since + 1, pod.path()).is_none(),
            "another process with the same number"
        );
        list(pod.path(), &[]);
        assert!(
            of_process(pid, since, pod.path()).is_none(),
            "no longer in the cgroup"
        );
        list(pod.path(), &[pid]);
        drop(sandbox);
        assert!(of_process(pid, since, pod.path()).is_none(), "ended");
    }
}
