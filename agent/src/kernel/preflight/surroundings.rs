//! What can be seen without trying: versions, mounts, privileges.

use std::fs;
use std::path::{Path, PathBuf};

use nix::sys::statfs::{BPF_FS_MAGIC, CGROUP2_SUPER_MAGIC};

use super::{Check, Status};
use crate::kernel::mounts::mounted;
use crate::kernel::pins;

/// The oldest kernel the programs' helpers are all in: `bpf_get_netns_cookie` and `SO_NETNS_COOKIE` among them.
const OLDEST_KERNEL: (u32, u32) = (5, 15);

/// The inode of the initial PID namespace (include/linux/proc_ns.h, `PROC_PID_INIT_INO`).
const INITIAL_PID_NAMESPACE: &str = "pid:[4026531836]";

/// What the agent cannot work without (include/uapi/linux/capability.h), and what for.
const CAPABILITIES: [(u32, &str, &str); 5] = [
    (12, "CAP_NET_ADMIN", "attaching programs"),
    (19, "CAP_SYS_PTRACE", "pods' namespaces and executables"),
    (21, "CAP_SYS_ADMIN", "entering network namespaces"),
    (38, "CAP_PERFMON", "loading programs"),
    (39, "CAP_BPF", "loading programs"),
];

/// The folders the agent would use.
#[derive(Debug, Clone)]
pub struct Surroundings {
    cgroup_root: Option<PathBuf>,
    bpffs: PathBuf,
    mounts: String,
}

impl Surroundings {
    /// Those of a configuration; without a cgroup folder the first cgroup v2 mount, as the agent takes it.
    #[must_use]
    pub fn new(cgroup_root: Option<PathBuf>, bpffs: PathBuf) -> Self {
        // Without /proc nothing is found, and the checks say so.
        let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
        Self {
            cgroup_root: cgroup_root.or_else(|| mounted(&mounts, "cgroup2").next()),
            bpffs,
            mounts,
        }
    }

    /// The cgroup v2 folder, where there is one.
    #[must_use]
    pub fn cgroup_root(&self) -> Option<&Path> {
        self.cgroup_root
            .as_deref()
            .filter(|path| pins::is_on(path, CGROUP2_SUPER_MAGIC).unwrap_or(false))
    }

    /// The folder on a BPF filesystem, where there is one.
    #[must_use]
    pub fn bpffs(&self) -> Option<&Path> {
        let on_one = pins::is_on(&self.bpffs, BPF_FS_MAGIC).unwrap_or(false);
        on_one.then_some(&self.bpffs)
    }
}

pub(super) fn checks(surroundings: &Surroundings) -> Vec<Check> {
    vec![
        kernel_version(),
        cgroup(surroundings),
        bpffs(surroundings),
        capabilities(),
        pid_namespace(),
        btf(),
        ipv6(),
    ]
}

fn kernel_version() -> Check {
    const NAME: &str = "kernel version";
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let release = release.trim();
    match version(release) {
        Some(version) if version >= OLDEST_KERNEL => Check::ok(NAME, release),
        _ => Check::bad(
            NAME,
            Status::Missing,
            if release.is_empty() {
                "/proc/sys/kernel/osrelease cannot be read"
            } else {
                release
            },
            format!("Linux {}.{} or later is needed", OLDEST_KERNEL.0, OLDEST_KERNEL.1),
        ),
    }
}

/// The first two numbers of a release such as `6.1.0-18-amd64`.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|character: char| !character.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn cgroup(surroundings: &Surroundings) -> Check {
    const NAME: &str = "cgroup v2";
    const ADVICE: &str =
        "mount it, for instance with `mount -t cgroup2 cgroup2 /sys/fs/cgroup`, or configure its folder";
    match (surroundings.cgroup_root(), &surroundings.cgroup_root) {
        (Some(root), _) if mounted(&surroundings.mounts, "cgroup").next().is_some() => Check::ok(
            NAME,
            format!("{} (version 1 is mounted beside it)", root.display()),
        ),
        (Some(root), _) => Check::ok(NAME, root.display().to_string()),
        (None, Some(wrong)) => Check::bad(
            NAME,
            Status::Missing,
            format!("{} is not on cgroup v2", wrong.display()),
            ADVICE,
        ),
        (None, None) => Check::bad(NAME, Status::Missing, "mounted nowhere", ADVICE),
    }
}

fn bpffs(surroundings: &Surroundings) -> Check {
    const NAME: &str = "BPF filesystem";
    if let Some(folder) = surroundings.bpffs() {
        return Check::ok(NAME, folder.display().to_string());
    }
    let folder = &surroundings.bpffs;
    let usual = Path::new("/sys/fs/bpf");
    let point = if folder.starts_with(usual) { usual } else { folder };
    let mut advice = format!("mount one with `mount -t bpf bpf {}`", point.display());
    if let Some(other) = mounted(&surroundings.mounts, "bpf").next() {
        let other = other.display();
        advice.push_str(&format!(
            ", or set kernel.bpffs to a folder on the one at {other}"
        ));
    }
    Check::bad(
        NAME,
        Status::Missing,
        format!("{}, which the agent would use, is not on one", folder.display()),
        advice,
    )
}

fn capabilities() -> Check {
    const NAME: &str = "capabilities";
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let Some(effective) = effective(&status) else {
        return Check::bad(
            NAME,
            Status::Missing,
            "/proc/self/status cannot be read",
            "mount /proc",
        );
    };
    let missing: Vec<_> = missing(effective)
        .map(|(name, purpose)| format!("{name} ({purpose})"))
        .collect();
    if missing.is_empty() {
        return Check::ok(NAME, "all that are needed");
    }
    Check::bad(
        NAME,
        Status::Missing,
        format!("without {}", missing.join(", ")),
        "run as root, or add them to the container's securityContext",
    )
}

/// The mask of effective capabilities in /proc/pid/status.
fn effective(status: &str) -> Option<u64> {
    let mask = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(mask.trim(), 16).ok()
}

fn missing(effective: u64) -> impl Iterator<Item = (&'static str, &'static str)> {
    // CAP_SYS_ADMIN holds what CAP_BPF and CAP_PERFMON were split from.
    let admin = effective & (1 << 21) != 0;
    CAPABILITIES.into_iter().filter_map(move |(bit, name, purpose)| {
        let held = effective & (1 << bit) != 0 || (admin && bit >= 38);
        (!held).then_some((name, purpose))
    })
}

fn pid_namespace() -> Check {
    const NAME: &str = "PID namespace";
    match fs::read_link("/proc/self/ns/pid") {
        Ok(namespace) if namespace.as_os_str() == INITIAL_PID_NAMESPACE => Check::ok(NAME, "the node's"),
        _ => Check::bad(
            NAME,
            Status::Degraded,
            "not the node's: records will lack executables and containers",
            "set `hostPID: true`",
        ),
    }
}

fn btf() -> Check {
    const NAME: &str = "kernel BTF";
    if Path::new("/sys/kernel/btf/vmlinux").exists() {
        return Check::ok(NAME, "/sys/kernel/btf/vmlinux");
    }
    Check::bad(
        NAME,
        Status::Degraded,
        "absent: nothing depends on it yet",
        "a kernel with CONFIG_DEBUG_INFO_BTF",
    )
}

fn ipv6() -> Check {
    const NAME: &str = "IPv6";
    if Path::new("/proc/sys/net/ipv6").exists() {
        return Check::ok(NAME, "there");
    }
    Check::bad(
        NAME,
        Status::Degraded,
        "absent: listeners have IPv4 alone",
        "fine where no pod uses IPv6",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_read() {
        assert_eq!(version("6.1.0-18-amd64"), Some((6, 1)));
        assert_eq!(version("5.15"), Some((5, 15)));
        assert!(version("5.4.0-1").unwrap() < OLDEST_KERNEL);
        assert_eq!(version(""), None);
        assert_eq!(version("linux"), None);
    }

    #[test]
    fn missing_capabilities_are_named() {
        let names = |mask| missing(mask).map(|(name, _)| name).collect::<Vec<_>>();
        assert_eq!(
            effective("Name:\tx\nCapEff:\t000001ffffffffff\n"),
            Some(0x1ff_ffff_ffff)
        );
        assert!(names(0x1ff_ffff_ffff).is_empty());
        assert!(names((1 << 12) | (1 << 19) | (1 << 21)).is_empty());
        assert_eq!(names((1 << 19) | (1 << 21)), ["CAP_NET_ADMIN"]);
        assert_eq!(
            names((1 << 12) | (1 << 19)),
            ["CAP_SYS_ADMIN", "CAP_PERFMON", "CAP_BPF"]
        );
    }

    #[test]
    fn a_configured_folder_of_the_wrong_kind_is_missing() {
        let surroundings = Surroundings::new(Some(PathBuf::from("/proc")), PathBuf::from("/proc"));
        assert_eq!(cgroup(&surroundings).status, Status::Missing);
        assert_eq!(bpffs(&surroundings).status, Status::Missing);
        assert_eq!(surroundings.cgroup_root(), None);
    }

    #[test]
    fn the_folder_that_the_agent_would_use_counts_and_a_mount_elsewhere_is_only_named() {
        let mut surroundings = Surroundings::new(None, PathBuf::from("/proc/picket"));
        surroundings.mounts = "bpf /mnt/bpf bpf rw 0 0\n".to_owned();
        assert_eq!(surroundings.bpffs(), None);
        let check = bpffs(&surroundings);
        assert_eq!(
            check.detail,
            "/proc/picket, which the agent would use, is not on one"
        );
        assert_eq!(
            check.advice.unwrap(),
            "mount one with `mount -t bpf bpf /proc/picket`, or set kernel.bpffs to a folder on the one at /mnt/bpf"
        );
    }
}
