//! Another's program that has a cgroup for itself: it is told, and it cannot push ours out.
#![expect(
    unsafe_code,
    reason = "no library attaches a program without sharing, nor detaches a link, so bpf(2) is called by hand"
)]

#[path = "../../../tests/src/sys/exclusive.rs"]
#[expect(unreachable_pub, reason = "the end-to-end suites have it as a library's")]
mod exclusive;

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use picket::kernel::CgroupId;
use picket::kernel::{Class, Counter, Door, Kernel, KernelConfig, KernelError};

use crate::DOOR4;
use crate::ground::{Dialled, Ground};
use exclusive::Exclusive;

/// `BPF_OBJ_GET` and `BPF_LINK_DETACH` (include/uapi/linux/bpf.h).
const OBJ_GET: libc::c_long = 7;
const LINK_DETACH: libc::c_long = 34;

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
    let foreign = Exclusive::attach(&ground.cgroup).unwrap();
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
    drop(foreign);
    let verified = kernel.verify();
    assert!(verified.failure.is_none(), "{verified:?}");
    assert_eq!(
        verified.repaired,
        [],
        "nobody took away what was not attached before"
    );
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
    let error = Exclusive::attach(&ground.cgroup).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
    // Further down it may, beside those above, which run all the same.
    let _beside = Exclusive::attach(&ground.pod).unwrap();
    let dial = ground.dial(&ground.container, "tcp", DOOR4).outcome();
    assert_eq!(dial, Dialled::failed("PermissionDenied"));
}
