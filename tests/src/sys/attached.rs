//! How many programs of the kernel are attached to a cgroup or an interface, by bpf(2).
//!
//! In: a cgroup, or the interfaces of the current network namespace. Out: counts, by kind of program or by interface.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::path::Path;

/// The command of bpf(2), and where programs are attached (include/uapi/linux/bpf.h).
const PROG_QUERY: libc::c_long = 16;
const TCX_INGRESS: u32 = 46;
const TCX_EGRESS: u32 = 47;
/// Kinds that the kernel may have; it refuses those that it does not, and those that are not of cgroups.
const ATTACH_TYPES: u32 = 64;

/// `union bpf_attr` as `BPF_PROG_QUERY` reads and writes it. Without room for identifiers it counts.
#[repr(C)]
#[derive(Default)]
struct Query {
    target: u32,
    attach_type: u32,
    flags: [u32; 2],
    identifiers: u64,
    count: u32,
    padding: u32,
    more: [u64; 3],
}

/// How many programs are attached to this target as this kind; none where the kernel knows no such kind there.
fn count(target: u32, attach_type: u32) -> u32 {
    let mut query = Query {
        target,
        attach_type,
        ..Query::default()
    };
    // SAFETY: the attribute is as large as it says, and points to nothing.
    let outcome = unsafe { libc::syscall(libc::SYS_bpf, PROG_QUERY, &raw mut query, size_of::<Query>()) };
    if outcome < 0 { 0 } else { query.count }
}

/// The kinds of programs that are attached to a cgroup itself, and how many of each.
///
/// # Errors
/// There is no such cgroup.
pub fn to_cgroup(cgroup: &Path) -> io::Result<Vec<(u32, u32)>> {
    let folder = File::open(cgroup)?;
    let target = folder.as_raw_fd().cast_unsigned();
    let all = (0..ATTACH_TYPES).map(|kind| (kind, count(target, kind)));
    Ok(all.filter(|(_, count)| *count > 0).collect())
}

/// The interfaces of the current network namespace, by their index, with how many programs of TCX each has; those with none are left out.
#[must_use]
pub fn to_interfaces(last: u32) -> Vec<(u32, u32)> {
    let of = |index| (index, count(index, TCX_INGRESS) + count(index, TCX_EGRESS));
    (1..=last).map(of).filter(|(_, count)| *count > 0).collect()
}
