//! Pods whose cgroup lies deeper than the kernel programs look.

use picket_policy::api::v1alpha1::UncoveredReason;

use super::*;
use crate::kernel::LEVELS;

#[tokio::test(start_paused = true)]
async fn a_pod_deeper_than_the_kernel_programs_look_is_never_said_to_be_enforced() {
    let mut node = Node::start(&[], &[], None);
    for (id, level) in [(10, LEVELS), (11, LEVELS - 1)] {
        let mut pod = group(id);
        pod.group.level = level;
        node.scan.pods.push(pod);
        node.told(id, agent);
    }
    node.scans.send_replace(Arc::new(node.scan.clone()));
    node.until_class(11, "enforced").await;
    node.until_status("the deep pod is counted", |status| {
        (status.enforced, status.pending, status.too_deep) == (1, 1, 1) && status.failures > 0
    })
    .await;
    let reasons: Vec<_> = node
        .status
        .borrow()
        .uncovered
        .iter()
        .map(|pod| pod.reason)
        .collect();
    assert_eq!(reasons, [UncoveredReason::TooDeep]);
    assert!(!node.calls(10).contains(&"enforced"));
    let event = node.to_post.recv().await.unwrap();
    assert_eq!(event.reason, Reason::EnforcementFailed);
    assert!(event.note.contains("reaches no API server"), "{}", event.note);
    // The programs do not find that class either, and the folder above is closed.
    node.told(10, |_| {});
    node.until_status("an exempt pod is counted too", |status| {
        (status.exempt, status.too_deep) == (1, 1)
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_pod_below_a_folder_that_is_too_deep_itself_is_said_to_reach_protected_endpoints() {
    let mut node = Node::start(&[], &[], None);
    let mut pod = group(10);
    pod.group.level = LEVELS + 1;
    node.scan.pods.push(pod);
    for root in &mut node.scan.roots {
        root.level = LEVELS;
    }
    node.told(10, agent);
    node.scans.send_replace(Arc::new(node.scan.clone()));
    let event = node.to_post.recv().await.unwrap();
    assert!(
        event.note.contains("reaches protected endpoints"),
        "{}",
        event.note
    );
}
