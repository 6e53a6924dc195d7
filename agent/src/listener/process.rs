//! The process behind a connection.
//!
//! In: the kernel's [`Flow`], and /proc. Out: a [`Process`] with executable and container.
//!
//! The kernel's facts are of the moment of the connect and hold in any case. /proc speaks of now, so it is believed only while
//! the process id still means the process that dialled.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, openat, readlinkat};
use nix::sys::stat::Mode;

use crate::kernel::Flow;
use crate::workload::cgroup::unified;
use crate::workload::netns::start_ticks;
use crate::workload::{Pod, container_of, pod_of};

/// Nanoseconds in a clock tick of /proc: `USER_HZ` is 100 on every architecture Picket runs on.
const TICK_NS: u64 = 1_000_000_000 / 100;

/// The most that is read of one file of /proc: a cgroup's path takes at most a page per hierarchy.
const MAX_BYTES: u64 = 64 * 1024;

/// The process that dialled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// Its process id on the node.
    pub pid: u32,
    /// The thread that called connect.
    pub tid: u32,
    /// The user id on the node.
    pub uid: u32,
    /// The thread's name at that moment.
    pub comm: String,
    /// The file it runs, as it is called inside its container. `None` once the process is gone.
    pub exe: Option<String>,
    /// The container's name in the pod's manifest. `None` once the process is gone, or while it is not known.
    pub container: Option<String>,
    /// Its cgroup v2 path. `None` once the process is gone.
    pub cgroup: Option<String>,
    /// Whether that lies outside its pod: it was moved there, or somebody else uses a socket of the pod's.
    pub outside: bool,
}

impl Process {
    /// One of which nothing but its name is known, for tests of what is behind a listener.
    #[cfg(test)]
    pub(crate) fn for_tests() -> Self {
        Self {
            pid: 1,
            tid: 1,
            uid: 0,
            comm: "kubectl".to_owned(),
            exe: None,
            container: None,
            cgroup: None,
            outside: false,
        }
    }

    /// Looks at the process that a flow names.
    #[must_use]
    pub fn of(flow: &Flow, pod: &Pod) -> Self {
        let seen = ProcessView::of(flow.pid, flow.dialled_ns).unwrap_or_default();
        let outside = seen.cgroup.as_deref().is_some_and(|cgroup| outside(pod, cgroup));
        Self {
            pid: flow.pid,
            tid: flow.tid,
            uid: flow.uid,
            comm: flow.comm.clone(),
            container: seen
                .cgroup
                .as_deref()
                .and_then(|cgroup| container_of(pod, Path::new(cgroup))),
            exe: seen.exe,
            cgroup: seen.cgroup,
            outside,
        }
    }
}

/// Whether a process's cgroup is no part of the pod's. Compared by the pod's component, since the same cgroup has other
/// paths in other cgroup namespaces.
fn outside(pod: &Pod, cgroup: &str) -> bool {
    let of_pod = pod.cgroup.as_deref().and_then(pod_of);
    of_pod.is_some() && pod_of(Path::new(cgroup)) != of_pod
}

/// What /proc says of a process.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProcessView {
    /// The file it runs, as it is called inside its container.
    pub exe: Option<String>,
    /// Its cgroup v2 path.
    pub cgroup: Option<String>,
}

impl ProcessView {
    /// Looks at the process with this number, if it is the one that had it at that moment of the boot clock.
    ///
    /// Everything is read through one handle to the process's folder, which leads nowhere once that process is
    /// gone; so after its start is compared with the connect, no reused id can slip in.
    #[must_use]
    pub fn of(pid: u32, at_ns: u64) -> Option<Self> {
        let folder = File::open(PathBuf::from("/proc").join(pid.to_string())).ok()?;
        if started_ns(open(&folder, "stat")?)? > at_ns {
            return None;
        }
        let exe = readlinkat(&folder, "exe").ok().map(|exe| {
            // A file may have any name; a record holds text.
            String::from_utf8_lossy(&exe.into_vec()).into_owned()
        });
        let cgroup = read(&folder, "cgroup").and_then(|text| unified(&text).map(str::to_owned));
        Some(Self { exe, cgroup })
    }
}

fn open(folder: &File, name: &str) -> Option<io::Take<File>> {
    let fd = openat(folder, name, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty()).ok()?;
    Some(File::from(fd).take(MAX_BYTES))
}

fn read(folder: &File, name: &str) -> Option<String> {
    let mut bytes = Vec::new();
    open(folder, name)?.read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// The start of a process in nanoseconds of the boot clock, rounded down to a tick.
fn started_ns(stat: impl Read) -> Option<u64> {
    start_ticks(stat)?.checked_mul(TICK_NS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::CgroupId;

    fn pod() -> Pod {
        Pod::for_tests("agents", "one")
    }

    fn flow(dialled_ns: u64) -> Flow {
        Flow {
            origin: "10.96.0.1:443".parse().unwrap(),
            cgroup: CgroupId(7),
            pod: 1,
            pid: std::process::id(),
            tid: std::process::id(),
            uid: 0,
            comm: "test".to_owned(),
            dialled_ns,
        }
    }

    #[test]
    fn a_living_process_has_its_file() {
        let process = Process::of(&flow(u64::MAX), &pod());
        let own = std::env::current_exe().unwrap();
        assert_eq!(process.exe.as_deref(), own.to_str());
        assert!(process.cgroup.is_some());
    }

    #[test]
    fn a_process_that_started_after_the_connect_is_another_one() {
        let process = Process::of(&flow(1), &pod());
        assert_eq!((process.exe, process.cgroup), (None, None));
        assert_eq!(process.comm, "test");
    }

    #[test]
    fn a_process_outside_its_pods_cgroup_is_told_apart() {
        const OTHER: &str = "1d5a3c3e-7f3a-4a59-9a5b-0c6f4f0b8f11";
        let mut pod = pod();
        let uid = pod.uid.0.clone();
        assert!(
            !outside(&pod, "/system.slice/sshd.service"),
            "the pod's own cgroup is not known"
        );
        pod.cgroup = Some(format!("/sys/fs/cgroup/kubepods/burstable/pod{uid}").into());
        for inside in [
            format!("/kubepods/burstable/pod{uid}"),
            format!("/kubepods/burstable/pod{uid}/aa11/made-by-the-pod/pod{OTHER}"),
            format!("/../../burstable/pod{uid}/aa11"),
        ] {
            assert!(!outside(&pod, &inside), "{inside}");
        }
        for other in [
            "/".to_owned(),
            "/system.slice/sshd.service".to_owned(),
            "/kubepods/burstable".to_owned(),
            format!("/kubepods/burstable/pod{OTHER}/pod{uid}"),
        ] {
            assert!(outside(&pod, &other), "{other}");
        }
    }

    #[test]
    fn a_name_cannot_move_the_fields() {
        let stat = "42 (evil) R 1 2) S 1 42 42 0 -1 4194304 1 0 0 0 5 6 0 0 20 0 1 0 12345 1000 10 18446744073709551615 1 1 0 0 \
                    0 0 0 0 0 0 0 0 17 0 0 0 0 0 0 0 0 0 0 0 0 0 0";
        assert_eq!(started_ns(stat.as_bytes()), Some(12_345 * TICK_NS));
        assert_eq!(started_ns(&b"42 (sh) S 1"[..]), None);
    }
}
