//! Pods that should be enforced and are not: named with the reason, once they have had their time.

use picket_policy::api::v1alpha1::{MAX_UNCOVERED_PODS, UncoveredPod, UncoveredReason};

use super::*;

/// Waits until one pod is named as not covered.
async fn uncovered(node: &mut Node) -> UncoveredPod {
    let one = |now: &PodCounts| (now.not_covered, now.uncovered.len()) == (1, 1);
    let found = tokio::time::timeout(Duration::from_secs(60), node.status.wait_for(one)).await;
    let now = found.expect("a pod is named").expect("the reconciler runs");
    now.uncovered[0].clone()
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_cannot_be_enforced_is_named_with_the_fault_until_it_can() {
    let mut node = Node::start(&[], &[1, 2], None);
    node.told(2, |_| {});
    node.fake.fail_enforce.store(usize::MAX, Ordering::SeqCst);
    node.told(1, agent);
    let pod = uncovered(&mut node).await;
    assert_eq!(
        (pod.pod.as_str(), pod.reason),
        ("default/p1", UncoveredReason::Closed)
    );
    assert!(pod.message.ends_with("the listener: no port"), "{}", pod.message);
    node.fake.fail_enforce.store(0, Ordering::SeqCst);
    let all = |now: &PodCounts| now.not_covered == 0 && now.enforced == 1;
    let found = tokio::time::timeout(Duration::from_secs(60), node.status.wait_for(all)).await;
    assert!(found.is_ok(), "it is named after it was enforced");
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_nobody_reported_is_named_by_its_uid_once_it_had_time() {
    let mut node = Node::start(&[], &[], None);
    node.tell();
    node.appears(3);
    node.until_class(3, "pending").await;
    assert_eq!(node.status.borrow().not_covered, 0, "a report takes a moment");
    tokio::time::sleep(Duration::from_secs(11)).await;
    // Any change has the pods counted again.
    node.tell();
    let pod = uncovered(&mut node).await;
    assert_eq!((pod.pod, pod.reason), (uid(3).0, UncoveredReason::Unreported));
}

#[tokio::test(start_paused = true)]
async fn a_pod_without_a_cgroup_is_named_and_a_long_list_is_cut() {
    let mut node = Node::start(&[], &[], None);
    node.told(1, agent);
    let pod = uncovered(&mut node).await;
    assert_eq!(
        (pod.pod.as_str(), pod.reason),
        ("default/p1", UncoveredReason::NoCgroup)
    );
    for id in 2..30 {
        node.told(id, agent);
    }
    node.until_status("all are counted", |now| {
        now.not_covered == 29 && now.uncovered.len() == MAX_UNCOVERED_PODS
    })
    .await;
}
