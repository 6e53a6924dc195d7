//! Finds mounts, above all that of cgroup v2: /sys/fs/cgroup on a unified machine, /sys/fs/cgroup/unified on a hybrid one.
//!
//! In: the text of /proc/mounts. Out: the paths where a kind of filesystem is mounted.

use std::fs;
use std::io;
use std::path::PathBuf;

/// The first cgroup v2 mount that this process sees.
///
/// # Errors
/// When /proc/mounts cannot be read or names none.
pub fn cgroup_mount() -> io::Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/mounts")?;
    mounted(&mounts, "cgroup2").next().ok_or_else(|| {
        io::Error::new(
            io::ErrorKind::NotFound,
            "no file system of type cgroup2 in /proc/mounts",
        )
    })
}

/// Where filesystems of one kind are mounted, by lines as proc_mounts(5) has them: device, mount point, type,
/// options.
pub(super) fn mounted(mounts: &str, kind: &str) -> impl Iterator<Item = PathBuf> {
    mounts.lines().filter_map(move |line| {
        let mut fields = line.split(' ').skip(1);
        let (point, found) = (fields.next()?, fields.next()?);
        // Spaces in a path are written as octal escapes.
        (found == kind).then(|| PathBuf::from(point.replace("\\040", " ")))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_found_by_kind_not_by_place() {
        let hybrid = "tmpfs /sys/fs/cgroup tmpfs rw 0 0\ncgroup /sys/fs/cgroup/memory cgroup rw 0 0\n\
            cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\nbpf /mnt/a\\040b bpf rw 0 0\n";
        let first = |mounts, kind| mounted(mounts, kind).next();
        assert_eq!(
            first(hybrid, "cgroup2"),
            Some(PathBuf::from("/sys/fs/cgroup/unified"))
        );
        assert_eq!(first(hybrid, "bpf"), Some(PathBuf::from("/mnt/a b")));
        assert_eq!(first("proc /proc proc rw 0 0\n", "cgroup2"), None);
    }
}
