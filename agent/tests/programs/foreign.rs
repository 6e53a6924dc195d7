//! Another's program that has a cgroup for itself: it is told, and it cannot push ours out.
#![expect(
    unsafe_code,
    reason = "no library attaches a program without sharing, so bpf(2) is called by hand"
)]

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use picket::kernel::CgroupId;
use picket::kernel::{Class, Counter, Door, Kernel, KernelConfig, KernelError};

use crate::DOOR4;
use crate::ground::{Dialled, Ground};

/// `BPF_PROG_LOAD` and `BPF_PROG_ATTACH`, `BPF_PROG_TYPE_CGROUP_SOCK_ADDR`, `BPF_CGROUP_INET4_CONNECT`
/// (include/uapi/linux/bpf.h).
const PROG_LOAD: libc::c_long = 5;
const PROG_ATTACH: libc::c_long = 8;
const CGROUP_SOCK_ADDR: u32 = 18;
const INET4_CONNECT: u32 = 10;

/// `BPF_PROG_DETACH`, `BPF_OBJ_GET` and `BPF_LINK_DETACH`.
const PROG_DETACH: libc::c_long = 9;
const OBJ_GET: libc::c_long = 7;
const LINK_DETACH: libc::c_long = 34;

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

/// `union bpf_attr` as `BPF_PROG_ATTACH` reads it.
#[repr(C)]
struct Attach {
    cgroup: u32,
    program: u32,
    attach_type: u32,
    flags: u32,
}

/// Attaches a program that lets everything pass to a cgroup, for itself alone.
fn attach_exclusively(cgroup: &Path) -> io::Result<OwnedFd> {
    // `r0 = 1; exit`.
    let instructions: [u64; 2] = [0x0000_0001_0000_00b7, 0x95];
    let mut load = Load {
        kind: CGROUP_SOCK_ADDR,
        count: 2,
        instructions: instructions.as_ptr() as u64,
        licence: c"GPL".as_ptr() as u64,
        attach_type: INET4_CONNECT,
        ..Load::default()
    };
    // SAFETY: the attribute is as large as it says, and what it points to lives across the call.
    let program = unsafe { libc::syscall(libc::SYS_bpf, PROG_LOAD, &raw mut load, size_of::<Load>()) };
    if program < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made the descriptor for this call alone.
    let program = unsafe { OwnedFd::from_raw_fd(i32::try_from(program).unwrap()) };
    call(PROG_ATTACH, cgroup, &program)?;
    Ok(program)
}

/// Takes it away again.
fn detach(cgroup: &Path, program: &OwnedFd) -> io::Result<()> {
    call(PROG_DETACH, cgroup, program)
}

/// Detaches a pinned link, as `bpftool link detach` does: its pin stays.
pub(crate) fn detach_link(pin: &Path) {
    let path = CString::new(pin.as_os_str().as_bytes()).unwrap();
    let mut get = [path.as_ptr() as u64, 0];
    // SAFETY: the attribute is as large as it says, and the path lives across the call.
    let link = unsafe { libc::syscall(libc::SYS_bpf, OBJ_GET, &raw mut get, size_of_val(&get)) };
    assert!(link >= 0, "{}", io::Error::last_os_error());
    // SAFETY: the kernel has just made the descriptor for this call alone.
    let link = unsafe { OwnedFd::from_raw_fd(i32::try_from(link).unwrap()) };
    let mut detach = link.as_raw_fd() as u32;
    // SAFETY: the attribute is as large as it says.
    let outcome = unsafe { libc::syscall(libc::SYS_bpf, LINK_DETACH, &raw mut detach, size_of_val(&detach)) };
    assert!(outcome >= 0, "{}", io::Error::last_os_error());
}

fn call(command: libc::c_long, cgroup: &Path, program: &OwnedFd) -> io::Result<()> {
    let folder = File::open(cgroup)?;
    let mut attach = Attach {
        cgroup: folder.as_raw_fd() as u32,
        program: program.as_raw_fd() as u32,
        attach_type: INET4_CONNECT,
        flags: 0,
    };
    // SAFETY: the attribute is as large as it says.
    let outcome = unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut attach, size_of::<Attach>()) };
    if outcome < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

fn load(ground: &Ground) -> Result<Kernel, KernelError> {
    Kernel::load(&KernelConfig {
        cgroup_root: ground.cgroup.clone(),
        bpffs: ground.bpffs.clone(),
    })
}

#[test]
fn while_another_is_alone_it_is_named_and_enforced_pods_are_closed() {
    let ground = Ground::new();
    let _server = ground.serve(DOOR4);
    let foreign = attach_exclusively(&ground.cgroup).unwrap();
    let kernel = load(&ground).unwrap();
    let failure = kernel.verify().failure.unwrap();
    assert!(
        matches!(failure, KernelError::Exclusive { program: "connect4" }),
        "{failure}"
    );
    kernel
        .set_doors(&[Door::redirect(DOOR4.parse().unwrap())].into())
        .unwrap();
    let pod = CgroupId::of(&ground.pod).unwrap();
    let class = Class::Enforced {
        pod: 1,
        port: 1,
        netns: 2,
    };
    kernel.hold(&ground.pod, pod, false).unwrap();
    kernel.set_class(pod, class).unwrap();
    let dial = || ground.dial(&ground.container, "tcp", DOOR4).outcome();
    let closed = dial();
    assert!(matches!(closed, Dialled::Failed(_)), "{closed:?}");
    assert!(kernel.counters().unwrap().get(Counter::DroppedPackets) > 0);
    // Without what is attached to the pod it would not be.
    kernel.release(pod).unwrap();
    assert!(matches!(dial(), Dialled::Reached { answer: 's', .. }));
    // Once it is gone ours is attached.
    detach(&ground.cgroup, &foreign).unwrap();
    let verified = kernel.verify();
    assert!(verified.failure.is_none(), "{verified:?}");
    assert_eq!(verified.repaired[0].program, "connect4");
    assert_eq!(
        dial(),
        Dialled::failed("PermissionDenied"),
        "its namespace is another"
    );
}

#[test]
fn where_ours_are_no_other_can_be_alone() {
    let ground = Ground::new();
    let kernel = load(&ground).unwrap();
    kernel
        .set_doors(&[Door::redirect(DOOR4.parse().unwrap())].into())
        .unwrap();
    kernel
        .set_class(CgroupId::of(&ground.cgroup).unwrap(), Class::Pending)
        .unwrap();
    let error = attach_exclusively(&ground.cgroup).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
    // Further down it may, beside those above, which run all the same.
    attach_exclusively(&ground.pod).unwrap();
    let dial = ground.dial(&ground.container, "tcp", DOOR4).outcome();
    assert_eq!(dial, Dialled::failed("PermissionDenied"));
}
