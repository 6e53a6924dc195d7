//! bpf(2) by hand, for what no library does.
//!
//! In: a cgroup and a kind of program. Out: a program that is attached for itself alone, so that no other can be attached
//! beside it; and links that are taken away.
//!
//! The tests of the kernel programs in `agent/tests` take this file too, which is why it uses nothing but libc.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

/// Commands of bpf(2), types of programs, and where they are attached (include/uapi/linux/bpf.h).
const PROG_LOAD: libc::c_long = 5;
const OBJ_GET: libc::c_long = 7;
const PROG_ATTACH: libc::c_long = 8;
const PROG_DETACH: libc::c_long = 9;
const LINK_DETACH: libc::c_long = 34;
const SOCK_OPS: u32 = 13;
const CGROUP_SOCK_ADDR: u32 = 18;
const CGROUP_SOCK_OPS: u32 = 3;
const INET4_CONNECT: u32 = 10;

/// bpf(2) with this attribute; what it points to the callers keep.
///
/// # Errors
/// The kernel's.
pub fn call<T>(command: libc::c_long, mut attribute: T) -> io::Result<libc::c_long> {
    // SAFETY: the attribute is as large as it says.
    let outcome = unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut attribute, size_of::<T>()) };
    if outcome < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(outcome)
}

/// The same, where it makes a descriptor.
///
/// # Errors
/// The kernel's.
pub fn make<T>(command: libc::c_long, attribute: T) -> io::Result<OwnedFd> {
    let made = RawFd::try_from(call(command, attribute)?).map_err(io::Error::other)?;
    // SAFETY: the kernel has just made the descriptor for this call alone.
    Ok(unsafe { OwnedFd::from_raw_fd(made) })
}

/// What is pinned there.
///
/// # Errors
/// There is no such pin.
pub fn open_pin(pin: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(pin.as_os_str().as_bytes())?;
    make(OBJ_GET, [path.as_ptr() as u64, 0])
}

/// `union bpf_attr` as `BPF_PROG_LOAD` reads it.
#[repr(C)]
#[derive(Default)]
struct Load {
    kind: u32,
    count: u32,
    instructions: u64,
    licence: u64,
    log: [u64; 2],
    version: u32,
    flags: u32,
    name: [u8; 16],
    interface: u32,
    attach_type: u32,
}

/// `union bpf_attr` as `BPF_PROG_ATTACH` and `BPF_PROG_DETACH` read it.
#[repr(C)]
struct Attach {
    cgroup: u32,
    program: u32,
    attach_type: u32,
    flags: u32,
}

/// A program that is attached without `BPF_F_ALLOW_MULTI` and by no link. It is detached when this is dropped.
#[derive(Debug)]
pub struct Exclusive {
    cgroup: File,
    program: OwnedFd,
    attach_type: u32,
}

impl Exclusive {
    /// Attaches one that lets every connect of version 4 pass.
    ///
    /// # Errors
    /// The kernel does not load it, or the cgroup has programs that share.
    pub fn attach(cgroup: &Path) -> io::Result<Self> {
        // `r0 = 1; exit`.
        Self::of(
            cgroup,
            CGROUP_SOCK_ADDR,
            INET4_CONNECT,
            &[0x0000_0001_0000_00b7, 0x95],
        )
    }

    /// Attaches one that is told of connections' moments.
    ///
    /// # Errors
    /// As [`Exclusive::attach`].
    pub fn sock_ops(cgroup: &Path, instructions: &[u64]) -> io::Result<Self> {
        Self::of(cgroup, SOCK_OPS, CGROUP_SOCK_OPS, instructions)
    }

    fn of(cgroup: &Path, kind: u32, attach_type: u32, instructions: &[u64]) -> io::Result<Self> {
        let foreign = Self {
            cgroup: File::open(cgroup)?,
            program: load(kind, attach_type, instructions)?,
            attach_type,
        };
        foreign.call(PROG_ATTACH)?;
        Ok(foreign)
    }

    fn call(&self, command: libc::c_long) -> io::Result<()> {
        let attach = Attach {
            cgroup: self.cgroup.as_raw_fd().cast_unsigned(),
            program: self.program.as_raw_fd().cast_unsigned(),
            attach_type: self.attach_type,
            flags: 0,
        };
        call(command, attach).map(drop)
    }
}

impl Drop for Exclusive {
    fn drop(&mut self) {
        // One that was not attached cannot be detached.
        let _ = self.call(PROG_DETACH);
    }
}

fn load(kind: u32, attach_type: u32, instructions: &[u64]) -> io::Result<OwnedFd> {
    let load = Load {
        kind,
        count: u32::try_from(instructions.len()).map_err(io::Error::other)?,
        instructions: instructions.as_ptr() as u64,
        licence: c"GPL".as_ptr() as u64,
        attach_type,
        ..Load::default()
    };
    make(PROG_LOAD, load)
}

/// Detaches a pinned link, as `bpftool link detach` does, before this returns: its pin stays.
///
/// # Errors
/// There is no such pin, or it is none of a link.
pub fn detach_link(pin: &Path) -> io::Result<()> {
    let link = open_pin(pin)?;
    call(LINK_DETACH, link.as_raw_fd()).map(drop)
}
