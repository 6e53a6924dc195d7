//! Static pods, whose class does not wait for the API server; and a node of whose pods the API server has none.

use super::*;

/// Two static pods and another; the API server has told nothing, then that it knows none of them.
async fn nobody_tells_of(node: &mut Node, class: &str) {
    node.until_class(STATIC, class).await;
    node.tell();
    node.until_class(1, "pending").await;
    node.appears(STATIC + 1);
    node.until_class(STATIC + 1, if class == "exempt" { "exempt" } else { "pending" })
        .await;
    assert_eq!(node.fake.class(CgroupId(1)), "pending");
}

#[tokio::test(start_paused = true)]
async fn static_pods_wait_for_no_api_server_where_the_operator_wants_it_so() {
    let mut closed = Node::start(&[], &[1, STATIC], None);
    nobody_tells_of(&mut closed, "nothing").await;
    closed.until_class(STATIC, "pending").await;
    closed
        .until_status("none left alone", |now| {
            now.exempt == 0 && now.assumed_exempt == 0
        })
        .await;

    let mut open = Node::with(FailMode::Open, &[], &[1, STATIC], None);
    assert_eq!(
        open.fake.class(CgroupId(STATIC)),
        "nothing",
        "it may be reported yet"
    );
    nobody_tells_of(&mut open, "exempt").await;
    open.until_status("both counted", |now| now.exempt == 2 && now.assumed_exempt == 2)
        .await;
    // What the API server then says of them counts.
    open.told(STATIC, |_| ());
    open.told(STATIC + 1, |pod| {
        drop(pod.labels.insert("agent".into(), "yes".into()))
    });
    open.until_class(STATIC + 1, "enforced").await;
    open.until_status("one is reported", |now| {
        now.exempt == 1 && now.assumed_exempt == 0
    })
    .await;
    let calls = open.fake.calls.lock().unwrap().clone();
    let exempted = calls.iter().filter(|call| **call == (CgroupId(STATIC), "exempt"));
    assert_eq!(exempted.count(), 1, "its class is what it was: {calls:?}");
}

#[tokio::test(start_paused = true)]
async fn a_static_pod_that_was_enforced_is_never_left_alone_for_want_of_its_mirror() {
    let inherited = STATIC + REDIRECTED;
    let mut node = Node::with(FailMode::Open, &[inherited], &[inherited, STATIC], None);
    let selected = |pod: &mut Pod| drop(pod.labels.insert("agent".into(), "yes".into()));
    node.until_class(STATIC, "exempt").await;
    let waited = node.fake.calls.lock().unwrap().clone();
    assert!(
        waited.iter().all(|call| call.0 != CgroupId(inherited)),
        "{waited:?}"
    );
    node.told(STATIC, selected);
    node.until_class(STATIC, "enforced").await;
    node.map.clear();
    node.tell();
    node.appears(1);
    node.until_class(1, "pending").await;
    // It is checked as before, and no more often.
    let checks = node.fake.checks.lock().unwrap().len();
    let since = Instant::now();
    until_looked(&node, STATIC, checks + 2).await;
    assert!(since.elapsed() >= PACE.again, "{:?}", since.elapsed());
    assert_eq!(node.fake.class(CgroupId(STATIC)), "enforced");
    assert_eq!(node.fake.listeners(CgroupId(STATIC)), 1);
    assert_eq!(node.fake.class(CgroupId(inherited)), "inherited");
    // One that cannot be enforced for now is no less one of the selection's.
    node.fake.fail_looks.store(1, Ordering::SeqCst);
    node.netns.lock().unwrap().take();
    node.told(STATIC + 1, selected);
    node.appears(STATIC + 1);
    node.until_class(STATIC + 1, "pending").await;
    node.map.clear();
    node.tell();
    node.appears(2);
    node.until_class(2, "pending").await;
    assert_eq!(node.fake.class(CgroupId(STATIC + 1)), "pending");
}

#[tokio::test(start_paused = true)]
async fn a_static_pod_that_was_found_redirected_is_not_opened_by_a_take_over_that_fails() {
    let inherited = STATIC + REDIRECTED;
    let mut node = Node::with(FailMode::Open, &[inherited], &[inherited], None);
    node.tell();
    node.appears(1);
    node.until_class(1, "pending").await;
    assert_eq!(node.fake.class(CgroupId(inherited)), "inherited");
    node.rest.lend();
    node.paused.wait_for(|paused| *paused).await.unwrap();
    // As the other agent may leave it.
    node.fake.exempt(CgroupId(inherited)).unwrap();
    assert!(node.rest.take_back());
    node.until_class(inherited, "pending").await;
    node.told(inherited, |_| ());
    node.until_class(inherited, "exempt").await;
}

#[tokio::test(start_paused = true)]
async fn a_node_is_foreign_while_its_pods_are_none_of_the_api_servers() {
    let mut node = Node::start(&[], &[10, 11], None);
    node.until_class(ROOT.0, "closed").await;
    assert!(!node.status.borrow().is_foreign(), "nobody was asked yet");
    // The pods of another node, by whose name the agent asks.
    node.told(77, agent);
    node.until_status("no pod is reported", |status| {
        status.is_foreign() && status.reported == 0 && status.pending == 2
    })
    .await;
    node.told(10, agent);
    node.until_status("one is reported", |status| {
        !status.is_foreign() && status.reported == 1
    })
    .await;
}
