//! Pods that a label enrols, their own or their namespace's.

use super::*;

#[tokio::test(start_paused = true)]
async fn an_enrolled_pod_is_enforced_and_closed_while_nothing_is_known_of_it() {
    let mut node = Node::start(&[], &[1, 2], None);
    let enrol = |pod: &mut Pod| drop(pod.labels.insert("picket.dev/enrolled".into(), "true".into()));
    node.told(1, enrol);
    node.told(2, |_| ());
    node.until_class(1, "enforced").await;
    node.until_class(2, "exempt").await;
    // Its namespace gets the label.
    node.told(2, enrol);
    node.until_class(2, "enforced").await;
    // Its namespace is gone from what is known.
    node.map.remove(&uid(2));
    node.tell();
    node.until_class(2, "pending").await;
    assert_eq!(node.fake.class(CgroupId(1)), "enforced");
}
