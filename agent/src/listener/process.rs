//! The process behind a connection.
//!
//! In comes the kernel's flow; out goes what /proc adds to it. The kernel's facts are of the moment of the
//! connect and hold in any case; /proc speaks of now, so it is believed only while the process id still means the
//! process that dialled.

use std::fs::File;
use std::io::Read as _;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, openat, readlinkat};
use nix::sys::stat::Mode;

use crate::kernel::Flow;
use crate::workload::{Pod, container_of};

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
}

impl Process {
    /// Looks at the process that a flow names.
    #[must_use]
    pub fn of(flow: &Flow, pod: &Pod) -> Self {
        let seen = Seen::now(flow).unwrap_or_default();
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
        }
    }
}

#[derive(Default)]
struct Seen {
    exe: Option<String>,
    cgroup: Option<String>,
}

impl Seen {
    /// Everything is read through one handle to the process's folder, which leads nowhere once that process is
    /// gone; so after its start is compared with the connect, no reused id can slip in.
    fn now(flow: &Flow) -> Option<Self> {
        let folder = File::open(PathBuf::from("/proc").join(flow.pid.to_string())).ok()?;
        if started_ns(&read(&folder, "stat")?)? > flow.dialled_ns {
            return None;
        }
        let exe = readlinkat(&folder, "exe").ok().map(|exe| {
            // A file may have any name; a record holds text.
            String::from_utf8_lossy(&exe.into_vec()).into_owned()
        });
        let cgroup = read(&folder, "cgroup").and_then(|text| unified(&text));
        Some(Self { exe, cgroup })
    }
}

fn read(folder: &File, name: &str) -> Option<String> {
    let fd = openat(folder, name, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty()).ok()?;
    let mut bytes = Vec::new();
    File::from(fd).take(MAX_BYTES).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// The start of a process in nanoseconds of the boot clock, rounded down to a tick: field 22 of
/// /proc/pid/stat (proc_pid_stat(5)). The name before it may hold spaces and parentheses, so counting begins
/// after the last one.
fn started_ns(stat: &str) -> Option<u64> {
    let (_, after_name) = stat.rsplit_once(')')?;
    let ticks: u64 = after_name.split_ascii_whitespace().nth(19)?.parse().ok()?;
    ticks.checked_mul(TICK_NS)
}

/// The cgroup v2 path among those of /proc/pid/cgroup (cgroups(7)): hierarchy 0 without controllers.
fn unified(text: &str) -> Option<String> {
    text.lines()
        .find_map(|line| line.strip_prefix("0::"))
        .map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::workload::{CgroupId, PodUid};

    fn pod() -> Pod {
        Pod {
            uid: PodUid("0d5a3c3e-7f3a-4a59-9a5b-0c6f4f0b8f11".to_owned()),
            namespace: "agents".to_owned(),
            name: "one".to_owned(),
            service_account: "default".to_owned(),
            labels: BTreeMap::new(),
            node: "node-a".to_owned(),
            host_network: false,
            ip: None,
            containers: BTreeMap::new(),
            cgroup: None,
        }
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
    fn a_name_cannot_move_the_fields() {
        let stat = "42 (evil) R 1 2) S 1 42 42 0 -1 4194304 1 0 0 0 5 6 0 0 20 0 1 0 12345 1000 10 18446744073709551615";
        assert_eq!(started_ns(stat), Some(12_345 * TICK_NS));
        assert_eq!(started_ns("42 (sh) S 1"), None);
    }

    #[test]
    fn the_unified_hierarchy_is_found_among_the_others() {
        let text = "9:name=systemd:/\n4:memory:/a\n0::/kubepods/besteffort/podx/y\n";
        assert_eq!(unified(text).as_deref(), Some("/kubepods/besteffort/podx/y"));
        assert_eq!(unified("4:memory:/a\n"), None);
    }
}
