//! A program that is attached to a cgroup for itself alone, as another's may be beside which ours cannot; and links that are
//! taken away.
//!
//! No library attaches one so nor detaches a link, and it is bpf(2) by hand. The tests of the kernel programs in `agent/tests` take this file
//! too, which is why it uses nothing but libc.

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
        let mut attach = Attach {
            cgroup: self.cgroup.as_raw_fd().cast_unsigned(),
            program: self.program.as_raw_fd().cast_unsigned(),
            attach_type: self.attach_type,
            flags: 0,
        };
        // SAFETY: the attribute is as large as it says.
        let outcome = unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut attach, size_of::<Attach>()) };
        if outcome < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }
}

impl Drop for Exclusive {
    fn drop(&mut self) {
        // One that was not attached cannot be detached.
        let _ = self.call(PROG_DETACH);
    }
}

fn load(kind: u32, attach_type: u32, instructions: &[u64]) -> io::Result<OwnedFd> {
    let mut load = Load {
        kind,
        count: u32::try_from(instructions.len()).map_err(io::Error::other)?,
        instructions: instructions.as_ptr() as u64,
        licence: c"GPL".as_ptr() as u64,
        attach_type,
        ..Load::default()
    };
    // SAFETY: the attribute is as large as it says, and what it points to lives across the call.
    let program = unsafe { libc::syscall(libc::SYS_bpf, PROG_LOAD, &raw mut load, size_of::<Load>()) };
    if program < 0 {
        return Err(io::Error::last_os_error());
    }
    let program = RawFd::try_from(program).map_err(io::Error::other)?;
    // SAFETY: the kernel has just made the descriptor for this call alone.
    Ok(unsafe { OwnedFd::from_raw_fd(program) })
}

/// Detaches a pinned link, as `bpftool link detach` does, before this returns: its pin stays.
///
/// # Errors
/// There is no such pin, or it is none of a link.
pub fn detach_link(pin: &Path) -> io::Result<()> {
    let path = CString::new(pin.as_os_str().as_bytes())?;
    let mut get = [path.as_ptr() as u64, 0];
    // SAFETY: the attribute is as large as it says, and the path lives across the call.
    let link = unsafe { libc::syscall(libc::SYS_bpf, OBJ_GET, &raw mut get, size_of_val(&get)) };
    if link < 0 {
        return Err(io::Error::last_os_error());
    }
    let link = RawFd::try_from(link).map_err(io::Error::other)?;
    // SAFETY: the kernel has just made the descriptor for this call alone.
    let link = unsafe { OwnedFd::from_raw_fd(link) };
    let mut detach = link.as_raw_fd().cast_unsigned();
    // SAFETY: the attribute is as large as it says.
    let outcome = unsafe { libc::syscall(libc::SYS_bpf, LINK_DETACH, &raw mut detach, size_of_val(&detach)) };
    if outcome < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
