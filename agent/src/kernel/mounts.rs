//! Finds the cgroup v2 mount: /sys/fs/cgroup on a unified machine, /sys/fs/cgroup/unified on a hybrid one.

use std::fs;
use std::io;
use std::path::PathBuf;

/// The first cgroup v2 mount that this process sees.
///
/// # Errors
/// When /proc/mounts cannot be read or names none.
pub fn cgroup_mount() -> io::Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/mounts")?;
    first_cgroup2(&mounts)
        .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "no file system of type cgroup2 in /proc/mounts"))
}

/// Lines as proc_mounts(5) has them: device, mount point, type, options.
fn first_cgroup2(mounts: &str) -> Option<PathBuf> {
    mounts.lines().find_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let (point, kind) = (fields.next()?, fields.next()?);
        (kind == "cgroup2").then(|| PathBuf::from(point))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_the_hybrid_mount_from_the_old_hierarchies() {
        let hybrid = "tmpfs /sys/fs/cgroup tmpfs rw 0 0\ncgroup /sys/fs/cgroup/memory cgroup rw 0 0\n\
            cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
        assert_eq!(first_cgroup2(hybrid), Some(PathBuf::from("/sys/fs/cgroup/unified")));
        assert_eq!(first_cgroup2("proc /proc proc rw 0 0\n"), None);
    }
}
