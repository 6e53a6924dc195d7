//! When the reconciler releases a pod's listener, and when it keeps it.

use super::*;

/// A listener that counts while it is open.
pub(super) struct Listener {
    pub(super) cgroup: CgroupId,
    pub(super) open: Option<Arc<Mutex<BTreeMap<CgroupId, usize>>>>,
}

impl Listener {
    pub(super) fn close(&mut self) {
        if let Some(open) = self.open.take() {
            *open.lock().unwrap().get_mut(&self.cgroup).unwrap() -= 1;
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.close();
    }
}

impl Node {
    fn released(&self) -> Vec<u64> {
        let releases = self.fake.releases.lock().unwrap();
        releases.iter().map(|cgroup| cgroup.0).collect()
    }

    /// Enforces pods, and gives the number of calls by then.
    async fn enforces(&mut self, pods: &[u64]) -> usize {
        for pod in pods {
            self.told(*pod, agent);
        }
        for pod in pods {
            self.until_class(*pod, "enforced").await;
        }
        self.until_status("all enforced", |now| now.enforced == pods.len())
            .await;
        self.fake.calls.lock().unwrap().len()
    }

    fn changes(&self) -> usize {
        self.fake.changes.load(Ordering::SeqCst)
    }
}

/// What changes with a pod: which one it is, and what becomes of what it has open.
async fn pods_change(node: &mut Node) {
    let changes = node.changes();
    node.told(10, |_| {});
    node.until("a pod that is not selected any more", |fake| {
        *fake.releases.lock().unwrap() == [CgroupId(10)]
    })
    .await;
    node.map.remove(&uid(11));
    node.tell();
    node.until("a pod that the API server does not know", |fake| {
        fake.releases.lock().unwrap().len() == 2
    })
    .await;
    node.goes(12);
    node.until("a pod that is gone", |fake| {
        fake.releases.lock().unwrap().len() == 3
    })
    .await;
    assert_eq!(node.released(), [10, 11, 12], "each once");
    assert_eq!(node.changes(), changes);
    node.told(13, |pod| {
        agent(pod);
        pod.labels.insert("app".into(), "quarantined".into());
    });
    node.until("another label", |fake| {
        fake.changes.load(Ordering::SeqCst) == changes + 1
    })
    .await;
    let facts = node.fake.facts.lock().unwrap()[&CgroupId(13)].load_full();
    assert_eq!(facts.labels["app"], "quarantined");
}

#[tokio::test(start_paused = true)]
async fn while_the_agent_drains_it_learns_of_pods_and_leaves_the_kernel_alone() {
    let mut node = Node::start(&[], &[10, 11, 12, 13], None);
    let calls = node.enforces(&[10, 11, 12, 13]).await;
    node.cancel.cancel();
    node.until("the listeners closed", |fake| {
        fake.listeners.lock().unwrap().values().all(|open| *open == 0)
    })
    .await;
    assert_eq!(node.released(), [0; 0], "what is open goes on");
    pods_change(&mut node).await;
    assert_eq!(node.fake.calls.lock().unwrap().len(), calls);
}

#[tokio::test(start_paused = true)]
async fn a_predecessor_that_rests_drains_too() {
    let mut node = Node::start(&[], &[10, 11, 12, 13], None);
    let calls = node.enforces(&[10, 11, 12, 13]).await;
    node.rest.lend();
    node.paused.wait_for(|paused| *paused).await.unwrap();
    node.rest.end();
    node.cancel.cancel();
    node.until("the listeners closed", |fake| {
        fake.listeners.lock().unwrap().values().all(|open| *open == 0)
    })
    .await;
    pods_change(&mut node).await;
    assert_eq!(node.fake.calls.lock().unwrap().len(), calls);
}

#[tokio::test(start_paused = true)]
async fn while_the_lease_is_lent_it_learns_of_pods_and_where_the_upgrade_fails_it_enforces_them_anew() {
    let mut node = Node::start(&[], &[10, 11, 12, 13], None);
    let calls = node.enforces(&[10, 11, 12, 13]).await;
    node.rest.lend();
    node.paused.wait_for(|paused| *paused).await.unwrap();
    pods_change(&mut node).await;
    assert_eq!(node.fake.calls.lock().unwrap().len(), calls);
    assert_eq!(
        node.fake.listeners(CgroupId(10)),
        1,
        "accepted from until the end"
    );
    // Selected again: its connections stay released, and so does its listener.
    node.told(10, agent);
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(node.fake.calls.lock().unwrap().len(), calls);
    assert!(node.rest.take_back());
    node.until("enforced anew", |fake| {
        let calls = fake.calls.lock().unwrap();
        let of_pod: Vec<_> = calls.iter().filter(|(pod, _)| *pod == CgroupId(10)).collect();
        of_pod.len() == 4
    })
    .await;
    node.until_class(11, "pending").await;
    assert_eq!(node.calls(10), ["pending", "enforced", "pending", "enforced"]);
    assert_eq!(
        node.calls(13),
        ["pending", "enforced"],
        "it has its listener still"
    );
    assert_eq!(node.released(), [10, 11, 12]);
}

#[tokio::test(start_paused = true)]
async fn pods_are_released_while_the_lease_waits_for_an_attempt_to_end() {
    let mut node = Node::start(&[], &[10, 11], None);
    node.enforces(&[10]).await;
    node.fake.slow.store(true, Ordering::SeqCst);
    node.told(11, agent);
    tokio::time::sleep(Duration::from_millis(20)).await;
    node.rest.lend();
    tokio::time::sleep(Duration::from_millis(1)).await;
    node.told(10, |_| {});
    node.until("released", |fake| {
        *fake.releases.lock().unwrap() == [CgroupId(10)]
    })
    .await;
    assert!(!*node.paused.borrow(), "the attempt goes on");
    assert_eq!(node.calls(10), ["pending", "enforced"]);
}

#[tokio::test(start_paused = true)]
async fn a_pod_of_which_nothing_is_known_is_not_released() {
    let mut node = Node::start(&[], &[10], None);
    node.enforces(&[10]).await;
    node.cancel.cancel();
    node.pods.send_replace(None);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(node.released(), [0; 0]);
    node.tell();
    node.told(10, |_| {});
    node.until("released", |fake| fake.releases.lock().unwrap().len() == 1)
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_listener_that_was_opened_as_the_agent_stopped_is_closed() {
    let mut node = Node::start(&[], &[10], None);
    node.fake.slow.store(true, Ordering::SeqCst);
    node.told(10, agent);
    node.until_class(10, "pending").await;
    node.cancel.cancel();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(
        (node.calls(10), node.fake.listeners(CgroupId(10))),
        (vec!["pending"], 0)
    );
}
