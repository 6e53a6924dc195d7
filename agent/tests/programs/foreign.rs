//! Another's program that has a cgroup for itself: it is told, and it cannot push ours out.

#[path = "../../../tests/src/sys/bpf.rs"]
#[expect(unreachable_pub, reason = "the end-to-end suites have it as a library's")]
#[expect(
    unsafe_code,
    reason = "no library attaches a program without sharing, nor detaches a link or freezes a map"
)]
pub(crate) mod bpf;

use std::io::{ErrorKind, Read as _};
use std::net::TcpListener;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::Path;
use std::sync::mpsc;
use std::thread;
use std::time::Instant;

use picket::kernel::CgroupId;
use picket::kernel::{Class, Counter, Kernel, KernelConfig, KernelError, ProtectedEndpoint, netns_cookie};

use crate::testbed::{Dialled, Testbed};
use crate::{ENDPOINT4, PATIENCE};
use bpf::Exclusive;

/// Commands of bpf(2) (include/uapi/linux/bpf.h).
const MAP_CREATE: libc::c_long = 0;
const MAP_LOOKUP_ELEM: libc::c_long = 1;
const MAP_FREEZE: libc::c_long = 22;

/// Lets nobody write to a pinned map from outside the kernel any more.
fn freeze(pin: &Path) {
    let map = bpf::open_pin(pin).unwrap();
    bpf::call(MAP_FREEZE, map.as_raw_fd()).unwrap();
}

fn number(descriptor: &OwnedFd) -> u64 {
    u64::from(descriptor.as_raw_fd().cast_unsigned())
}

/// Another's program that asks to be told of each connection's round trips, and counts what it is told.
struct RoundTrips {
    counts: OwnedFd,
    _program: Exclusive,
}

impl RoundTrips {
    fn attach(cgroup: &Path) -> Self {
        // `BPF_MAP_TYPE_ARRAY`, of one value of eight bytes.
        let counts = bpf::make(MAP_CREATE, [2_u64 | 4 << 32, 8 | 1 << 32]).unwrap();
        let step = |code: u64, registers: u64, jump: u64, value: u64| {
            code | registers << 8 | jump << 16 | value << 32
        };
        let instructions = [
            // r6 = the context, r2 = its op: 4 is ACTIVE_ESTABLISHED_CB and 12 is RTT_CB.
            step(0xbf, 0x16, 0, 0),
            step(0x61, 0x12, 0, 0),
            step(0x15, 0x02, 11, 4),
            step(0x55, 0x02, 13, 12),
            // r0 = bpf_map_lookup_elem(counts, 0)
            step(0x62, 0x0a, 0xfffc, 0),
            step(0x18, 0x11, 0, number(&counts)),
            0,
            step(0xbf, 0xa2, 0, 0),
            step(0x07, 0x02, 0, 0xffff_fffc),
            step(0x85, 0, 0, 1),
            // *r0 += 1, where it is.
            step(0x15, 0x00, 6, 0),
            step(0xb7, 0x01, 0, 1),
            step(0xdb, 0x10, 0, 0),
            step(0x05, 0, 3, 0),
            // bpf_sock_ops_cb_flags_set(r6, BPF_SOCK_OPS_RTT_CB_FLAG)
            step(0xbf, 0x61, 0, 0),
            step(0xb7, 0x02, 0, 8),
            step(0x85, 0, 0, 59),
            // return 1
            step(0xb7, 0x00, 0, 1),
            0x95,
        ];
        Self {
            _program: Exclusive::sock_ops(cgroup, &instructions).unwrap(),
            counts,
        }
    }

    fn count(&self) -> u64 {
        let (key, mut value) = (0_u32, 0_u64);
        let place = [
            number(&self.counts),
            (&raw const key) as u64,
            (&raw mut value) as u64,
            0,
        ];
        bpf::call(MAP_LOOKUP_ELEM, place).unwrap();
        value
    }
}

fn load(testbed: &Testbed) -> Result<Kernel, KernelError> {
    Kernel::load(&KernelConfig {
        cgroup_root: testbed.cgroup.clone(),
        bpffs: testbed.bpffs.clone(),
    })
}

#[test]
fn while_another_is_alone_it_is_named_and_enforced_pods_are_closed() {
    let testbed = Testbed::new();
    let _server = testbed.serve(ENDPOINT4);
    let foreign = Exclusive::attach(&testbed.cgroup).unwrap();
    let kernel = load(&testbed).unwrap();
    let failure = kernel.verify().failure.unwrap();
    assert!(
        matches!(failure, KernelError::Exclusive { program: "connect4" }),
        "{failure}"
    );
    kernel
        .set_endpoints(&[ProtectedEndpoint::redirect(ENDPOINT4.parse().unwrap())].into())
        .unwrap();
    let pod = CgroupId::of(&testbed.pod).unwrap();
    let class = Class::Enforced {
        pod: 1,
        port: 1,
        netns: 2,
    };
    kernel.attach_egress_filter(&testbed.pod, pod, false).unwrap();
    kernel.set_class(pod, class).unwrap();
    let dial = || testbed.dial(&testbed.container, "tcp", ENDPOINT4).outcome();
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
    let testbed = Testbed::new();
    let kernel = load(&testbed).unwrap();
    kernel
        .set_endpoints(&[ProtectedEndpoint::redirect(ENDPOINT4.parse().unwrap())].into())
        .unwrap();
    kernel
        .set_class(CgroupId::of(&testbed.cgroup).unwrap(), Class::Pending)
        .unwrap();
    let error = Exclusive::attach(&testbed.cgroup).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    // Further down it may, beside those above, which run all the same.
    let _beside = Exclusive::attach(&testbed.pod).unwrap();
    let dial = testbed.dial(&testbed.container, "tcp", ENDPOINT4).outcome();
    assert_eq!(dial, Dialled::failed("PermissionDenied"));
}

/// Of one socket, the programs of all share one set of flags.
#[test]
fn what_anothers_program_asks_to_be_told_it_is() {
    let testbed = Testbed::new();
    // It runs before ours, which is attached above it.
    let others = RoundTrips::attach(&testbed.pod);
    let kernel = load(&testbed).unwrap();
    kernel
        .set_endpoints(&[ProtectedEndpoint::redirect(ENDPOINT4.parse().unwrap())].into())
        .unwrap();
    let (listener, netns) = testbed.inside(|| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let netns = netns_cookie(&listener).unwrap();
        (listener, netns)
    });
    let class = Class::Enforced {
        pod: 1,
        port: listener.local_addr().unwrap().port(),
        netns,
    };
    kernel
        .set_class(CgroupId::of(&testbed.pod).unwrap(), class)
        .unwrap();
    let talking = testbed.dial(&testbed.container, "talk", ENDPOINT4);
    let (accept, accepted) = mpsc::channel();
    thread::spawn(move || accept.send(listener.accept()));
    let (mut stream, _) = accepted.recv_timeout(PATIENCE).unwrap().unwrap();
    let mut heard = [0; 1];
    stream.read_exact(&mut heard).unwrap();
    assert_eq!(kernel.counters().unwrap().get(Counter::FlowsWritten), 1);
    let before = others.count();
    let begun = Instant::now();
    while others.count() == before {
        assert!(begun.elapsed() < PATIENCE, "it is told no more");
        stream.read_exact(&mut heard).unwrap();
    }
    talking.stop();
}

/// An entry that is written again is another one, and for a moment a connect may find neither.
#[test]
fn a_class_that_stays_is_not_written() {
    let testbed = Testbed::new();
    let kernel = load(&testbed).unwrap();
    let pod = CgroupId::of(&testbed.pod).unwrap();
    let class = |port| Class::Enforced {
        pod: 1,
        port,
        netns: 2,
    };
    kernel.set_class(pod, class(1)).unwrap();
    freeze(&testbed.layout().join("CLASSES"));
    kernel.set_class(pod, class(1)).unwrap();
    assert!(kernel.set_class(pod, class(2)).is_err(), "nobody can write to it");
}
