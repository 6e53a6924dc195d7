//! Pods whose runtime has a network stack of its own: enforced, counted, and their owners told.

use picket_policy::api::v1alpha1::UncoveredReason;

use super::*;

#[tokio::test(start_paused = true)]
async fn a_sandboxed_pod_is_counted_and_its_owner_told_and_no_other_is() {
    let mut node = Node::start(&[], &[1, 2], None);
    node.told(1, agent);
    node.until_class(1, "enforced").await;
    node.told(2, |pod| {
        agent(pod);
        pod.sandboxed_by = Some("kata-qemu".into());
    });
    node.until_class(2, "enforced").await;
    let counted = [("kata-qemu".to_owned(), 1)].into();
    node.until_status("counted", |now| now.sandboxed == counted).await;
    let (uncovered, count) = {
        let now = node.status.borrow();
        (now.uncovered.clone(), now.not_covered)
    };
    let of_second = &node.map[&uid(2)].pod;
    assert_eq!(count, 1, "{uncovered:?}");
    assert_eq!(
        uncovered[0].pod,
        format!("{}/{}", of_second.namespace, of_second.name)
    );
    assert_eq!(uncovered[0].reason, UncoveredReason::RuntimeClass);
    let notice = node.to_post.try_recv().unwrap();
    let about = node.map[&uid(2)].pod.about();
    assert_eq!((notice.about, notice.reason), (about, Reason::RuntimeUnsupported));
    assert!(notice.note.contains("\"kata-qemu\""), "{}", notice.note);
    assert!(
        node.to_post.try_recv().is_err(),
        "the other one's connections are redirected"
    );
}

#[path = "uncovered_tests.rs"]
mod uncovered;
