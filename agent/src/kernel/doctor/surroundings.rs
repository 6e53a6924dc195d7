//! What can be seen without trying: versions, mounts, privileges.
//!
//! In: the cgroup and BPF folders that the agent would use, and /proc. Out: a [`Check`] for each of these.

use std::fs;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::statfs::{BPF_FS_MAGIC, CGROUP2_SUPER_MAGIC};
use nix::unistd::{AccessFlags, eaccess};

use super::{Check, CheckStatus};
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

/// What the trials need besides, and the agent does not.
const FOR_TRIALS: [(u32, &str, &str); 2] = [
    (10, "CAP_NET_BIND_SERVICE", "a test server at port 443"),
    (13, "CAP_NET_RAW", "raw and packet sockets"),
];

/// Needed where the cgroup folder's mode lets nobody write, as the root's often does.
const DAC_OVERRIDE: (u32, &str, &str) = (1, "CAP_DAC_OVERRIDE", "the test cgroup");

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
        // One that is not there is nobody's to make: the pods' cgroups would not be below it.
        self.cgroup_root
            .as_deref()
            .filter(|path| path.is_dir() && pins::is_on(path, CGROUP2_SUPER_MAGIC).unwrap_or(false))
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
        capabilities(surroundings.cgroup_root()),
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
            CheckStatus::Missing,
            if release.is_empty() {
                "/proc/sys/kernel/osrelease cannot be read"
            } else {
                release
            },
            format!("use Linux {}.{} or later", OLDEST_KERNEL.0, OLDEST_KERNEL.1),
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
    let older = mounted(&surroundings.mounts, "cgroup").next().is_some();
    let detail = match (surroundings.cgroup_root(), &surroundings.cgroup_root) {
        (Some(root), _) if older => {
            return Check::ok(
                NAME,
                format!("{} (version 1 is mounted beside it)", root.display()),
            );
        }
        (Some(root), _) => return Check::ok(NAME, root.display().to_string()),
        (None, Some(wrong)) if !wrong.is_dir() => format!("there is no folder {}", wrong.display()),
        (None, Some(wrong)) => format!("{} is not on cgroup v2", wrong.display()),
        (None, None) => "not mounted".to_owned(),
    };
    let advice = match mounted(&surroundings.mounts, "cgroup2").next() {
        Some(point) => format!(
            "it is mounted at {}: remove kernel.cgroupRoot, or set it to a folder there",
            point.display()
        ),
        // What is at /sys/fs/cgroup then holds the folders of version 1, and must stay to be seen.
        None if older => "mount it beside version 1: \
            `mkdir -p /sys/fs/cgroup/unified && mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified`"
            .to_owned(),
        None => "mount it: `mount -t cgroup2 cgroup2 /sys/fs/cgroup`".to_owned(),
    };
    Check::bad(NAME, CheckStatus::Missing, detail, advice)
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
        CheckStatus::Missing,
        format!(
            "{}, the agent's folder, is not on a BPF filesystem",
            folder.display()
        ),
        advice,
    )
}

fn capabilities(cgroup_root: Option<&Path>) -> Check {
    const NAME: &str = "capabilities";
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let Some(effective) = effective(&status) else {
        return Check::bad(
            NAME,
            CheckStatus::Missing,
            "/proc/self/status cannot be read",
            "mount /proc",
        );
    };
    let shut = cgroup_root.is_some_and(|root| eaccess(root, AccessFlags::W_OK) == Err(Errno::EACCES));
    let for_trials = FOR_TRIALS.into_iter().chain(shut.then_some(DAC_OVERRIDE));
    let of_agent = named(missing(effective, CAPABILITIES));
    // The checks that these are for tell of themselves that they were not made.
    let status = match of_agent.is_empty() {
        true => CheckStatus::Degraded,
        false => CheckStatus::Missing,
    };
    let lacks = [
        ("missing: ", of_agent),
        (
            "missing for these tests, and not needed by the agent: ",
            named(missing(effective, for_trials)),
        ),
    ];
    let lacks: Vec<_> = lacks
        .into_iter()
        .filter(|(_, names)| !names.is_empty())
        .map(|(what, names)| format!("{what}{names}"))
        .collect();
    if lacks.is_empty() {
        return Check::ok(NAME, "all required ones");
    }
    Check::bad(
        NAME,
        status,
        lacks.join("; "),
        "run as root, or add the capabilities to the container's securityContext",
    )
}

fn named(capabilities: impl Iterator<Item = (&'static str, &'static str)>) -> String {
    let each: Vec<_> = capabilities
        .map(|(name, purpose)| format!("{name} ({purpose})"))
        .collect();
    each.join(", ")
}

/// The mask of effective capabilities in /proc/pid/status.
fn effective(status: &str) -> Option<u64> {
    let mask = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(mask.trim(), 16).ok()
}

fn missing(
    effective: u64,
    needed: impl IntoIterator<Item = (u32, &'static str, &'static str)>,
) -> impl Iterator<Item = (&'static str, &'static str)> {
    // CAP_SYS_ADMIN holds what CAP_BPF and CAP_PERFMON were split from.
    let admin = effective & (1 << 21) != 0;
    needed.into_iter().filter_map(move |(bit, name, purpose)| {
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
            CheckStatus::Degraded,
            "not the node's: records have neither executable nor container",
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
        CheckStatus::Degraded,
        "absent: Picket does not need it yet",
        "use a kernel with CONFIG_DEBUG_INFO_BTF",
    )
}

fn ipv6() -> Check {
    const NAME: &str = "IPv6";
    if Path::new("/proc/sys/net/ipv6").exists() {
        return Check::ok(NAME, "available");
    }
    Check::bad(
        NAME,
        CheckStatus::Degraded,
        "absent: listeners have IPv4 only",
        "no action where no pod uses IPv6",
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
        let names = |mask| {
            missing(mask, CAPABILITIES)
                .map(|(name, _)| name)
                .collect::<Vec<_>>()
        };
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
        assert_eq!(cgroup(&surroundings).status, CheckStatus::Missing);
        assert_eq!(bpffs(&surroundings).status, CheckStatus::Missing);
        assert_eq!(surroundings.cgroup_root(), None);
    }

    #[test]
    fn a_cgroup_folder_that_is_not_there_is_named_with_a_mount_that_is() {
        let folder = |folder: &Path, mounts: &str| {
            let mut surroundings = Surroundings::new(Some(folder.to_owned()), PathBuf::from("/proc"));
            surroundings.mounts = mounts.to_owned();
            assert_eq!(surroundings.cgroup_root(), None);
            let check = cgroup(&surroundings);
            (check.status, check.detail, check.advice.unwrap())
        };
        // What is above it is on cgroup v2 and does not make up for it.
        let nothing = crate::kernel::cgroup_mount().unwrap().join("nosuch");
        let hybrid =
            "cgroup /sys/fs/cgroup/cpu cgroup rw 0 0\ncgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
        assert_eq!(
            folder(&nothing, hybrid),
            (
                CheckStatus::Missing,
                format!("there is no folder {}", nothing.display()),
                "it is mounted at /sys/fs/cgroup/unified: remove kernel.cgroupRoot, or set it to a folder there"
                    .to_owned()
            )
        );
        let legacy = "cgroup /sys/fs/cgroup/cpu cgroup rw 0 0\n";
        let (_, said, advice) = folder(Path::new("/proc"), legacy);
        assert_eq!(said, "/proc is not on cgroup v2");
        assert!(
            advice.ends_with("mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified`"),
            "{advice}"
        );
        let (_, _, advice) = folder(Path::new("/proc"), "");
        assert!(advice.ends_with("/sys/fs/cgroup`"), "{advice}");
    }

    #[test]
    fn the_folder_that_the_agent_would_use_counts_and_a_mount_elsewhere_is_only_named() {
        let mut surroundings = Surroundings::new(None, PathBuf::from("/proc/picket"));
        surroundings.mounts = "bpf /mnt/bpf bpf rw 0 0\n".to_owned();
        assert_eq!(surroundings.bpffs(), None);
        let check = bpffs(&surroundings);
        assert_eq!(
            check.detail,
            "/proc/picket, the agent's folder, is not on a BPF filesystem"
        );
        assert_eq!(
            check.advice.unwrap(),
            "mount one with `mount -t bpf bpf /proc/picket`, or set kernel.bpffs to a folder on the one at /mnt/bpf"
        );
    }
}
