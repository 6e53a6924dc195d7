//! Agents with different layouts of maps, each with programs of its own: there is no moment without one's.

use std::fs;
use std::path::PathBuf;
use std::time::Instant;

use picket::kernel::{CgroupId, Class, Kernel, KernelConfig, KernelError, ProtectedEndpoint};

use crate::foreign::bpf::{Exclusive, open_pin};
use crate::testbed::{Dialled, Testbed};
use crate::{ENDPOINT4, PATIENCE, reached};

/// The programs' root: below the testbed's, where another's may be above it.
fn load(testbed: &Testbed) -> Kernel {
    let kernel = Kernel::load(&KernelConfig {
        cgroup_root: testbed.pod.clone(),
        bpffs: testbed.bpffs.clone(),
    })
    .unwrap_or_else(|error| panic!("{error}"));
    kernel
        .set_endpoints(&[ProtectedEndpoint::redirect(ENDPOINT4.parse().unwrap())].into())
        .unwrap();
    kernel
}

/// Leaves the programs of an agent with another layout, which holds the testbed's pod back.
fn leave_others(testbed: &Testbed) -> PathBuf {
    let kernel = load(testbed);
    let pod = CgroupId::of(&testbed.pod).unwrap();
    kernel.set_class(pod, Class::Pending).unwrap();
    let left = testbed.bpffs.join("v0-0123456789abcdef");
    fs::rename(testbed.layout(), &left).unwrap();
    left
}

fn dial(testbed: &Testbed) -> Dialled {
    testbed.dial(&testbed.container, "tcp", ENDPOINT4).outcome()
}

fn held_back() -> Dialled {
    Dialled::failed("PermissionDenied")
}

/// Waits until a dial arrives: programs whose pins are gone are detached a moment later.
fn arrives(testbed: &Testbed) {
    let begun = Instant::now();
    while dial(testbed) != reached(ENDPOINT4, 's') {
        assert!(begun.elapsed() < PATIENCE, "the programs are still attached");
    }
}

#[test]
fn an_older_layout_keeps_watch_until_it_is_retired() {
    let testbed = Testbed::new();
    let _server = testbed.serve(ENDPOINT4);
    let older = leave_others(&testbed);
    let kernel = load(&testbed);
    assert_eq!(kernel.classes().unwrap(), vec![]);
    assert_eq!(dial(&testbed), held_back());
    assert!(kernel.verify().failure.is_none());
    assert!(older.exists(), "not before it is told to");
    // What is none of an agent's is in nobody's way.
    fs::create_dir(older.join("folder")).unwrap();
    // A link that somebody has in hand outlives its pin, and is detached all the same.
    let _in_hand = open_pin(&older.join("link_connect4")).unwrap();
    kernel.retire_others().unwrap();
    assert_eq!(dial(&testbed), reached(ENDPOINT4, 's'));
    assert_eq!(fs::read_dir(&older).unwrap().count(), 1);
    fs::remove_dir(older.join("folder")).unwrap();
    kernel.retire_others().unwrap();
    assert!(!older.exists());
}

#[test]
fn an_older_layout_keeps_watch_while_ours_is_kept_out() {
    let testbed = Testbed::new();
    let _server = testbed.serve(ENDPOINT4);
    let older = leave_others(&testbed);
    let foreign = Exclusive::attach(&testbed.cgroup).unwrap();
    let kernel = load(&testbed);
    let error = kernel.retire_others().unwrap_err();
    assert!(
        matches!(error, KernelError::Incomplete { program: "connect4" }),
        "{error}"
    );
    let failure = kernel.verify().failure;
    assert!(
        matches!(failure, Some(KernelError::Exclusive { .. })),
        "{failure:?}"
    );
    assert!(older.exists());
    assert_eq!(dial(&testbed), held_back());
    drop(foreign);
    assert!(kernel.verify().failure.is_none());
    assert!(!older.exists());
    arrives(&testbed);
    // And ours is there.
    let pod = CgroupId::of(&testbed.pod).unwrap();
    kernel.set_class(pod, Class::Pending).unwrap();
    assert_eq!(dial(&testbed), held_back());
}

/// An agent that was to take over has retired the programs of the one before it, and has then failed.
#[test]
fn what_a_failed_take_over_left_keeps_watch_until_ours_is_back() {
    let testbed = Testbed::new();
    let _server = testbed.serve(ENDPOINT4);
    let left = leave_others(&testbed);
    let kernel = load(&testbed);
    let ours = testbed.layouts().find(|layout| *layout != left).unwrap();
    let pod = CgroupId::of(&testbed.pod).unwrap();
    kernel.set_class(pod, Class::Pending).unwrap();
    fs::remove_dir_all(&ours).unwrap();
    // For as long as one of ours cannot be put back.
    let obstacle = ours.join("link_connect4_new");
    fs::create_dir_all(&obstacle).unwrap();
    assert!(kernel.take_back().failure.is_some());
    assert!(left.exists());
    assert_eq!(dial(&testbed), held_back(), "the other's programs hold the pod");
    fs::remove_dir(&obstacle).unwrap();
    assert!(kernel.verify().failure.is_none());
    assert!(!left.exists());
    assert_eq!(dial(&testbed), held_back(), "ours do");
    kernel.remove_class(pod).unwrap();
    arrives(&testbed);
    kernel.set_class(pod, Class::Pending).unwrap();
    assert_eq!(dial(&testbed), held_back(), "and no others are there");
}

/// As where an agent with another layout removed the folder, or somebody a pin.
#[test]
fn the_next_agent_knows_the_pods_though_the_maps_lost_their_pins() {
    let testbed = Testbed::new();
    let kernel = load(&testbed);
    let pod = CgroupId::of(&testbed.pod).unwrap();
    kernel.set_class(pod, Class::Pending).unwrap();
    Kernel::unload(&testbed.bpffs).unwrap();
    assert!(kernel.verify().failure.is_none());
    drop(kernel);
    assert_eq!(load(&testbed).classes().unwrap(), [(pod, Class::Pending)]);
}
