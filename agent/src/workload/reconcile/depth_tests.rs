//! Pods whose cgroup lies deeper than the kernel programs look.

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
    assert!(!node.calls(10).contains(&"enforced"));
    let event = node.to_post.recv().await.unwrap();
    assert_eq!(event.reason, Reason::EnforcementFailed);
    assert!(
        event.note.contains("reaches protected endpoints"),
        "{}",
        event.note
    );
    node.told(10, |_| {});
    node.until_status("an exempt pod needs no class", |status| status.too_deep == 0)
        .await;
}
