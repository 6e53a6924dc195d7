//! The reconciler on a node that the test makes up: classes, changes of pods, failures and restarts.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use arc_swap::ArcSwap;
use tokio::sync::mpsc;

use super::super::cgroup::{Group, PodGroup};
use super::super::netns::NetnsError;
use super::super::pods::NodePod;
use super::super::slot::{API_SERVER_TIMEOUT, CHECK_INTERVAL, SECOND_CHECK};
use super::super::{CoverageReport, EnforceError, Enforcement, Netns, Pod, PodNetwork, PodUid};
use super::*;
use crate::metrics::MetricsRegistry;
use crate::notify::{KubeEvent, NotifyMetrics, Reason};
use crate::runtime::phase::PhaseControl;
use releases::Listener;

const ROOT: CgroupId = CgroupId(1);

/// A cgroup that the kernel redirects at the start, where it is among those that it knows.
const REDIRECTED: u64 = 77;

/// Pods from here on are static ones.
const STATIC: u64 = 900;

/// A hundred times as fast, but for what a test has to be in time for.
const PACE: Pace = Pace {
    again: SECOND_CHECK.checked_div(100).unwrap(),
    every: CHECK_INTERVAL.checked_div(100).unwrap(),
    api_server_timeout: API_SERVER_TIMEOUT.checked_div(10).unwrap(),
};

/// What the enforcer learned last of each cgroup, and what it is to fail at.
#[derive(Default)]
struct Fake {
    classes: Mutex<BTreeMap<CgroupId, &'static str>>,
    calls: Mutex<Vec<(CgroupId, &'static str)>>,
    listeners: Arc<Mutex<BTreeMap<CgroupId, usize>>>,
    facts: Mutex<HashMap<CgroupId, Arc<ArcSwap<Pod>>>>,
    /// Which pods were enforced in the node's network.
    shared: Mutex<BTreeMap<CgroupId, bool>>,
    /// Each look after a pod: whether it destroyed sockets, and when.
    checks: Mutex<Vec<(CgroupId, bool, Instant)>>,
    egress_unfiltered: AtomicBool,
    /// How often it learned that a pod is another one.
    changes: AtomicUsize,
    /// The pods whose connections were released without a change of the kernel.
    releases: Mutex<Vec<CgroupId>>,
    fail_looks: AtomicUsize,
    panic_look: AtomicBool,
    fail_enforce: AtomicUsize,
    fail_classes: AtomicUsize,
    panic: AtomicBool,
    slow: AtomicBool,
}

fn take(counter: &AtomicUsize) -> bool {
    counter
        .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1))
        .is_ok()
}

impl Fake {
    fn set(&self, cgroup: CgroupId, class: &'static str) -> Result<(), EnforceError> {
        self.calls.lock().unwrap().push((cgroup, class));
        if take(&self.fail_classes) {
            return Err(EnforceError {
                what: "the class",
                source: "no room".into(),
            });
        }
        self.classes.lock().unwrap().insert(cgroup, class);
        Ok(())
    }

    fn class(&self, cgroup: CgroupId) -> &'static str {
        self.classes
            .lock()
            .unwrap()
            .get(&cgroup)
            .copied()
            .unwrap_or("nothing")
    }

    fn listeners(&self, cgroup: CgroupId) -> usize {
        self.listeners
            .lock()
            .unwrap()
            .get(&cgroup)
            .copied()
            .unwrap_or_default()
    }
}

impl Enforcer for Fake {
    type Handle = Listener;

    async fn enforce(&self, pod: Enforcement) -> Result<Listener, EnforceError> {
        if self.slow.load(Ordering::SeqCst) {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        assert!(!self.panic.swap(false, Ordering::SeqCst), "as the test asks");
        if take(&self.fail_enforce) {
            return Err(EnforceError {
                what: "the listener",
                source: "no port".into(),
            });
        }
        let cgroup = pod.group.id;
        *self.listeners.lock().unwrap().entry(cgroup).or_default() += 1;
        self.facts.lock().unwrap().insert(cgroup, pod.pod);
        let shares = matches!(pod.network, PodNetwork::Node);
        self.shared.lock().unwrap().insert(cgroup, shares);
        self.set(cgroup, "enforced")?;
        Ok(Listener {
            cgroup,
            open: Some(self.listeners.clone()),
        })
    }

    async fn maintain(&self, pod: Enforcement, destroys: bool) -> Result<CoverageReport, EnforceError> {
        let mut checks = self.checks.lock().unwrap();
        checks.push((pod.group.id, destroys, Instant::now()));
        drop(checks);
        assert!(!self.panic_look.swap(false, Ordering::SeqCst), "as the test asks");
        if take(&self.fail_looks) {
            return Err(EnforceError {
                what: "the look",
                source: "no sock_diag".into(),
            });
        }
        Ok(CoverageReport {
            covered: !self.egress_unfiltered.load(Ordering::SeqCst),
        })
    }

    fn exempt(&self, cgroup: CgroupId) -> Result<(), EnforceError> {
        self.set(cgroup, "exempt")
    }

    fn close(&self, folder: CgroupId) -> Result<(), EnforceError> {
        self.set(folder, "closed")
    }

    fn pending(&self, cgroup: CgroupId) -> Result<(), EnforceError> {
        self.set(cgroup, "pending")
    }

    fn forget(&self, cgroup: CgroupId) -> Result<(), EnforceError> {
        self.calls.lock().unwrap().push((cgroup, "forget"));
        self.classes.lock().unwrap().remove(&cgroup);
        Ok(())
    }

    fn changed(&self) {
        self.changes.fetch_add(1, Ordering::SeqCst);
    }

    fn release(&self, handle: &Listener) {
        self.releases.lock().unwrap().push(handle.cgroup);
    }

    fn stop_accepting(&self, handle: &mut Listener) {
        handle.close();
    }
}

/// A node with a running reconciler.
struct Node {
    fake: Arc<Fake>,
    scan: Scan,
    scans: watch::Sender<Arc<Scan>>,
    map: PodMap,
    pods: watch::Sender<Option<Arc<PodMap>>>,
    status: watch::Receiver<PodCounts>,
    names: Arc<Names>,
    /// The namespace that is found for every pod; none is "not yet".
    netns: Arc<Mutex<Option<Netns>>>,
    /// Has it rest.
    rest: PhaseControl,
    paused: watch::Receiver<bool>,
    judged: Arc<AtomicUsize>,
    to_post: mpsc::Receiver<KubeEvent>,
    cancel: CancellationToken,
}

impl Drop for Node {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

impl Node {
    /// A node on which pods with the label `agent=yes` are enforced.
    fn start(known: &[u64], first: &[u64], own: Option<u64>) -> Self {
        Self::with(FailMode::Closed, known, first, own)
    }

    fn with(static_pods: FailMode, known: &[u64], first: &[u64], own: Option<u64>) -> Self {
        let selection = Selection::new([], &[("agent".into(), "yes".into())].into(), true).unwrap();
        let fake = Arc::new(Fake::default());
        for id in known {
            fake.classes.lock().unwrap().insert(CgroupId(*id), "inherited");
        }
        let own_netns = Netns::open(Path::new("/proc/self/ns/net")).unwrap();
        let netns = Arc::new(Mutex::new(Some(own_netns)));
        let found = netns.clone();
        let find: FindNetns = Arc::new(move |_| found.lock().unwrap().clone().ok_or(NetnsError::NotYet));
        let known = known.iter().copied().map(CgroupId).collect();
        let rest = PhaseControl::new(false);
        let judged = Arc::new(AtomicUsize::new(0));
        let counted = judged.clone();
        let (kube_events, to_post) =
            EventQueue::channel(NotifyMetrics::register(&MetricsRegistry::default()));
        let mut reconciler = Reconciler::new(fake.clone(), selection, find, own.map(CgroupId), known)
            .static_pods(static_pods)
            .notifies(kube_events)
            .redirected([CgroupId(REDIRECTED), CgroupId(STATIC + REDIRECTED)].into())
            .pauses_with(rest.watch())
            .reports_to(Arc::new(move |_| {
                counted.fetch_add(1, Ordering::SeqCst);
            }));
        let paused = reconciler.paused();
        let mut scan = Scan {
            roots: vec![Group {
                id: ROOT,
                path: "/kubepods".into(),
                level: 1,
            }],
            ..Scan::default()
        };
        scan.pods = first.iter().map(|id| group(*id)).collect();
        reconciler.pace = PACE;
        reconciler.close(&scan);
        let status = reconciler.status();
        let names = reconciler.names();
        let scans = watch::Sender::new(Arc::new(scan.clone()));
        let pods = watch::Sender::new(None);
        let cancel = CancellationToken::new();
        tokio::spawn(reconciler.run(scans.subscribe(), pods.subscribe(), cancel.clone()));
        Self {
            fake,
            scan,
            scans,
            map: PodMap::new(),
            pods,
            status,
            names,
            netns,
            rest,
            paused,
            judged,
            to_post,
            cancel,
        }
    }

    fn appears(&mut self, id: u64) {
        self.scan.pods.push(group(id));
        self.scans.send_replace(Arc::new(self.scan.clone()));
    }

    fn goes(&mut self, id: u64) {
        self.scan.pods.retain(|pod| pod.group.id != CgroupId(id));
        self.scans.send_replace(Arc::new(self.scan.clone()));
    }

    fn told(&mut self, id: u64, edit: impl FnOnce(&mut Pod)) {
        let mut pod = Pod::for_tests("default", &format!("p{id}"));
        pod.uid = uid(id);
        edit(&mut pod);
        self.map.insert(uid(id), Arc::new(NodePod::for_tests(pod)));
        self.tell();
    }

    fn tell(&self) {
        self.pods.send_replace(Some(Arc::new(self.map.clone())));
    }

    async fn until(&self, what: &str, holds: impl Fn(&Fake) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(3);
        while !holds(&self.fake) {
            let calls = self.fake.calls.lock().unwrap().clone();
            assert!(Instant::now() < deadline, "{what} did not come true: {calls:?}");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    async fn until_class(&self, id: u64, class: &str) {
        self.until(class, |fake| fake.class(CgroupId(id)) == class).await;
    }

    async fn until_status(&mut self, what: &str, holds: impl FnMut(&PodCounts) -> bool) {
        let found = tokio::time::timeout(Duration::from_secs(3), self.status.wait_for(holds)).await;
        assert!(found.is_ok(), "{what} did not come true");
    }

    fn calls(&self, id: u64) -> Vec<&'static str> {
        let calls = self.fake.calls.lock().unwrap();
        calls
            .iter()
            .filter(|(cgroup, _)| *cgroup == CgroupId(id))
            .map(|(_, call)| *call)
            .collect()
    }
}

fn uid(id: u64) -> PodUid {
    PodUid(match id >= STATIC {
        true => format!("{id:032x}"),
        false => format!("00000000-0000-0000-0000-{id:012}"),
    })
}

fn group(id: u64) -> PodGroup {
    PodGroup {
        group: Group {
            id: CgroupId(id),
            path: PathBuf::from(format!("/kubepods/pod{}", uid(id).0)),
            level: 2,
        },
        uid: uid(id),
        children: Vec::new(),
    }
}

fn agent(pod: &mut Pod) {
    pod.labels.insert("agent".into(), "yes".into());
}

#[tokio::test(start_paused = true)]
async fn pods_are_closed_until_judged_then_enforced_or_exempt() {
    let mut node = Node::start(&[], &[10, 11, 12], None);
    node.until_class(ROOT.0, "closed").await;
    assert_eq!(
        (node.calls(10), node.calls(11)),
        (vec![], vec![]),
        "nobody knows them yet"
    );
    assert!(!node.status.borrow().synced);
    node.map.insert(
        uid(11),
        Arc::new(NodePod::for_tests(Pod::for_tests("default", "other"))),
    );
    node.told(10, agent);
    node.until_class(10, "enforced").await;
    node.until_class(11, "exempt").await;
    node.until_class(12, "pending").await;
    node.until_status("all judged", |status| {
        status.synced && status.enforced == 1 && status.exempt == 1 && status.pending == 1
    })
    .await;
    assert_eq!(node.status.borrow().reported, 2);
    assert!(!node.status.borrow().is_foreign());
    assert_eq!(
        node.calls(10),
        ["pending", "enforced"],
        "closed before it is set up"
    );
    assert_eq!(node.fake.listeners(CgroupId(10)), 1);
    let facts = node.fake.facts.lock().unwrap()[&CgroupId(10)].load_full();
    assert_eq!(facts.cgroup.as_deref(), Some(group(10).group.path.as_path()));
}

#[tokio::test(start_paused = true)]
async fn a_selected_pod_that_runs_outside_the_tree_is_counted() {
    let mut node = Node::start(&[], &[10], None);
    let mut elsewhere = Pod::for_tests("default", "elsewhere");
    agent(&mut elsewhere);
    let other = Pod::for_tests("default", "not selected");
    let mut ended = NodePod::for_tests(elsewhere.clone());
    ended.running = false;
    let elsewhere = NodePod::for_tests(elsewhere);
    node.map.insert(uid(77), Arc::new(NodePod::for_tests(other)));
    node.map.insert(uid(78), Arc::new(ended));
    node.told(10, agent);
    node.until_status("none no_cgroup", |status| {
        status.enforced == 1 && status.no_cgroup == 0
    })
    .await;
    node.map.insert(uid(79), Arc::new(elsewhere));
    node.told(10, agent);
    node.until_status("one no_cgroup", |status| {
        status.enforced == 1 && status.no_cgroup == 1
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_an_earlier_agent_left_is_forgotten_or_taken_over() {
    let mut node = Node::start(&[1, 10, 11, 99], &[10, 11], None);
    node.until("the cgroup that is gone forgotten", |fake| {
        fake.class(CgroupId(99)) == "nothing"
    })
    .await;
    assert_eq!(
        node.fake.class(CgroupId(10)),
        "inherited",
        "left alone until the API server tells"
    );
    assert_eq!(node.fake.class(CgroupId(11)), "inherited");
    node.map.insert(
        uid(11),
        Arc::new(NodePod::for_tests(Pod::for_tests("default", "other"))),
    );
    let began = Instant::now();
    node.told(10, agent);
    node.until_class(10, "enforced").await;
    node.until_class(11, "exempt").await;
    assert!(
        began.elapsed() < Duration::from_millis(500),
        "a restart must serve again soon"
    );
    assert_eq!(
        node.calls(10),
        ["pending", "enforced"],
        "it may have been exempt before"
    );
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_is_redirected_already_is_not_closed_on_the_way() {
    let mut node = Node::start(&[1, REDIRECTED], &[REDIRECTED], None);
    node.told(REDIRECTED, agent);
    node.until_class(REDIRECTED, "enforced").await;
    assert_eq!(node.calls(REDIRECTED), ["enforced"]);
    // Where it is not selected any more it is judged as any other.
    let mut node = Node::start(&[1, REDIRECTED], &[REDIRECTED], None);
    node.told(REDIRECTED, |_| {});
    node.until_class(REDIRECTED, "exempt").await;
}

#[tokio::test(start_paused = true)]
async fn while_it_rests_it_changes_nothing_and_then_everything_is_put_in_force_again() {
    let mut node = Node::start(&[], &[10, 11], None);
    node.told(11, |_| {});
    node.told(10, agent);
    node.until_class(10, "enforced").await;
    node.until_class(11, "exempt").await;
    assert_eq!(node.judged.load(Ordering::SeqCst), 2, "each is reported once");
    assert!(until_looked(&node, 10, 3).await.contains(&false));
    node.fake.slow.store(true, Ordering::SeqCst);
    node.told(12, agent);
    node.appears(12);
    node.until_class(12, "pending").await;
    node.rest.lend();
    // The attempt that is under way comes to its end first.
    node.paused.wait_for(|paused| *paused).await.unwrap();
    assert_eq!(node.fake.class(CgroupId(12)), "enforced");
    node.fake.slow.store(false, Ordering::SeqCst);

    let calls = node.fake.calls.lock().unwrap().len();
    node.appears(13);
    node.told(13, agent);
    node.told(11, agent);
    node.goes(12);
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(node.fake.calls.lock().unwrap().len(), calls, "it is at rest");
    assert_eq!(node.fake.listeners(CgroupId(10)), 1);

    // Whoever took over may have changed everything.
    node.fake.classes.lock().unwrap().clear();
    node.fake.checks.lock().unwrap().clear();
    assert!(node.rest.take_back());
    for pod in [11, 13] {
        node.until_class(pod, "enforced").await;
    }
    node.until_class(ROOT.0, "closed").await;
    assert!(!*node.paused.borrow());
    assert_eq!(
        until_looked(&node, 10, 2).await[..2],
        [true, true],
        "the other may have left it alone: what it opened is destroyed"
    );
    assert_eq!(
        node.calls(10),
        ["pending", "enforced"],
        "it has its listener still, and is not closed on the way"
    );
    assert_eq!(node.fake.listeners(CgroupId(10)), 1);
    assert_eq!(node.fake.listeners(CgroupId(12)), 0);
}

#[tokio::test(start_paused = true)]
async fn the_agents_own_pod_is_exempt_before_any_pod_is_closed() {
    let node = Node::start(&[], &[10], Some(10));
    let calls = node.fake.calls.lock().unwrap().clone();
    assert_eq!(calls, [(CgroupId(10), "exempt"), (ROOT, "closed")]);
}

#[tokio::test(start_paused = true)]
async fn a_pod_without_a_namespace_stays_closed_until_it_has_one() {
    let mut node = Node::start(&[], &[], None);
    let netns = node.netns.lock().unwrap().take();
    node.told(10, agent);
    node.appears(10);
    node.until_class(10, "pending").await;
    tokio::time::sleep(Duration::from_millis(60)).await;
    assert_eq!(node.calls(10), ["pending"]);
    assert_eq!(node.status.borrow().failures, 0, "waiting is no failure");
    *node.netns.lock().unwrap() = netns;
    node.until_class(10, "enforced").await;
}

#[tokio::test(start_paused = true)]
async fn failures_are_tried_again_and_hold_nobody_up() {
    let mut node = Node::start(&[], &[10, 11], None);
    node.fake.fail_enforce.store(2, Ordering::SeqCst);
    node.fake.panic.store(true, Ordering::SeqCst);
    node.map.insert(
        uid(11),
        Arc::new(NodePod::for_tests(Pod::for_tests("default", "other"))),
    );
    node.told(10, agent);
    node.until_class(11, "exempt").await;
    assert_eq!(node.fake.class(CgroupId(10)), "pending", "closed while it fails");
    node.until_class(10, "enforced").await;
    node.until_status("three failures", |status| {
        status.failures == 3 && status.enforced == 1
    })
    .await;

    node.fake.fail_classes.store(1, Ordering::SeqCst);
    node.told(11, agent);
    node.until_class(11, "enforced").await;
}

#[tokio::test(start_paused = true)]
async fn the_folder_of_all_pods_is_closed_in_the_end() {
    let node = Node::start(&[], &[], None);
    node.fake.fail_classes.store(2, Ordering::SeqCst);
    let mut scan = node.scan.clone();
    scan.roots.push(Group {
        id: CgroupId(2),
        path: "/other/kubepods".into(),
        level: 2,
    });
    node.scans.send_replace(Arc::new(scan));
    node.until_class(2, "closed").await;
    assert_eq!(node.calls(2), ["closed", "closed", "closed"]);
}

#[tokio::test(start_paused = true)]
async fn new_labels_reach_the_listener_or_change_the_class() {
    let mut node = Node::start(&[], &[10], None);
    node.told(10, agent);
    node.until_class(10, "enforced").await;
    node.told(10, |pod| {
        agent(pod);
        pod.labels.insert("tier".into(), "two".into());
    });
    node.until("the new label", |fake| {
        fake.facts.lock().unwrap()[&CgroupId(10)]
            .load()
            .labels
            .contains_key("tier")
    })
    .await;
    assert_eq!(
        node.calls(10),
        ["pending", "enforced"],
        "the same listener serves on"
    );
    node.until("word of the change, after it", |fake| {
        fake.changes.load(Ordering::SeqCst) == 1
    })
    .await;

    node.told(10, |_| {});
    node.until_class(10, "exempt").await;
    node.until("the listener's end", |fake| fake.listeners(CgroupId(10)) == 0)
        .await;
    node.told(10, agent);
    node.until_class(10, "enforced").await;
    assert_eq!(
        node.calls(10),
        ["pending", "enforced", "exempt", "pending", "enforced"]
    );
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_goes_is_forgotten_and_its_listener_ends() {
    let mut node = Node::start(&[], &[10, 11], None);
    node.told(10, agent);
    node.told(11, agent);
    node.until_class(10, "enforced").await;
    node.until_class(11, "enforced").await;
    // Removed at the API server by force while its processes still run: closed.
    node.map.remove(&uid(10));
    node.tell();
    node.until_class(10, "pending").await;
    node.until("the listener's end", |fake| fake.listeners(CgroupId(10)) == 0)
        .await;
    // Its cgroup goes: nothing is left of it.
    node.goes(10);
    node.goes(11);
    node.until_class(10, "nothing").await;
    node.until_class(11, "nothing").await;
    node.until("the listener's end", |fake| fake.listeners(CgroupId(11)) == 0)
        .await;
    // The same pod in a new cgroup is a new one.
    let mut again = group(11);
    again.group.id = CgroupId(21);
    node.scan.pods.push(again);
    node.scans.send_replace(Arc::new(node.scan.clone()));
    node.until_class(21, "enforced").await;
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_goes_while_it_is_set_up_leaves_nothing() {
    let mut node = Node::start(&[], &[10], None);
    node.fake.slow.store(true, Ordering::SeqCst);
    node.told(10, agent);
    node.until_class(10, "pending").await;
    node.goes(10);
    node.until("the late class forgotten", |fake| {
        fake.calls.lock().unwrap().last() == Some(&(CgroupId(10), "forget"))
    })
    .await;
    assert_eq!(node.fake.class(CgroupId(10)), "nothing");
    assert_eq!(node.fake.listeners(CgroupId(10)), 0);
}

#[tokio::test(start_paused = true)]
async fn a_new_sandbox_gets_a_new_listener() {
    let mut node = Node::start(&[], &[10], None);
    node.told(10, agent);
    node.until_class(10, "enforced").await;
    // Any other namespace's file does for another network namespace's here.
    *node.netns.lock().unwrap() = Some(Netns::open(Path::new("/proc/self/ns/uts")).unwrap());
    node.scan.pods[0].children.push(CgroupId(77));
    node.scans.send_replace(Arc::new(node.scan.clone()));
    node.until("a second listener", |fake| {
        fake.calls
            .lock()
            .unwrap()
            .iter()
            .filter(|call| call.1 == "enforced")
            .count()
            == 2
    })
    .await;
    node.until("the first one's end", |fake| fake.listeners(CgroupId(10)) == 1)
        .await;
    // One more container in the same namespace changes nothing.
    node.scan.pods[0].children.push(CgroupId(78));
    node.scans.send_replace(Arc::new(node.scan.clone()));
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(node.calls(10), ["pending", "enforced", "enforced"]);
}

/// The checks of a pod: whether each destroyed sockets, and how long after the one before it was.
fn checks(node: &Node, id: u64) -> Vec<(bool, Duration)> {
    let checks = node.fake.checks.lock().unwrap();
    let of_pod: Vec<_> = checks.iter().filter(|look| look.0 == CgroupId(id)).collect();
    let before = of_pod.first().into_iter().chain(&of_pod);
    of_pod
        .iter()
        .zip(before)
        .map(|((_, destroys, at), before)| (*destroys, *at - before.2))
        .collect()
}

async fn until_looked(node: &Node, id: u64, times: usize) -> Vec<bool> {
    node.until("the checks", |_| checks(node, id).len() >= times)
        .await;
    checks(node, id).iter().map(|look| look.0).collect()
}

#[tokio::test(start_paused = true)]
async fn a_selected_pod_in_the_nodes_network_is_enforced_there() {
    let mut node = Node::start(&[], &[10, 11, 12], None);
    // No namespace of its own will ever be found.
    *node.netns.lock().unwrap() = None;
    let shares = |pod: &mut Pod| pod.host_network = true;
    node.told(11, shares);
    node.told(12, agent);
    node.fake.egress_unfiltered.store(true, Ordering::SeqCst);
    node.told(10, |pod| {
        agent(pod);
        shares(pod);
    });
    node.until_class(10, "enforced").await;
    node.until_class(11, "exempt").await;
    node.until_class(12, "pending").await;
    assert_eq!(
        node.calls(10),
        ["pending", "enforced"],
        "closed before it is set up"
    );
    let shared = node.fake.shared.lock().unwrap().clone();
    assert_eq!(shared, BTreeMap::from([(CgroupId(10), true)]));
    node.until_status("it is counted", |status| {
        status.enforced == 1 && status.egress_unfiltered == 1 && status.synced
    })
    .await;
    // A new container is no reason for another listener.
    node.scan.pods[0].children.push(CgroupId(77));
    node.scans.send_replace(Arc::new(node.scan.clone()));
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(node.calls(10), ["pending", "enforced"]);
}

#[tokio::test(start_paused = true)]
async fn an_enforced_pod_is_cut_at_once_and_soon_again_and_looked_at_from_then_on() {
    let mut node = Node::start(&[], &[10], None);
    node.told(10, agent);
    node.until_class(10, "enforced").await;
    let destroyed = until_looked(&node, 10, 4).await;
    assert_eq!(destroyed[..4], [true, true, false, false]);
    let waited: Vec<_> = checks(&node, 10).iter().map(|look| look.1).collect();
    assert!(waited[1] >= PACE.again && waited[1] < PACE.every, "{waited:?}");
    assert!(waited[2] >= PACE.every && waited[3] >= PACE.every, "{waited:?}");
    assert_eq!(node.status.borrow().egress_unfiltered, 0);
    // Enforced anew, what is open then is destroyed again.
    node.told(10, |_| {});
    node.until_class(10, "exempt").await;
    node.fake.checks.lock().unwrap().clear();
    node.told(10, agent);
    node.until_class(10, "enforced").await;
    assert_eq!(until_looked(&node, 10, 2).await, [true, true]);
}

#[tokio::test(start_paused = true)]
async fn a_look_that_fails_is_tried_again_and_the_pod_stays_enforced() {
    let mut node = Node::start(&[], &[10], None);
    node.fake.fail_looks.store(3, Ordering::SeqCst);
    node.fake.panic_look.store(true, Ordering::SeqCst);
    node.told(10, agent);
    node.until_class(10, "enforced").await;
    node.until_status("it counts as egress_unfiltered while it fails", |status| {
        status.enforced == 1 && status.egress_unfiltered == 1
    })
    .await;
    assert_eq!(
        until_looked(&node, 10, 6).await,
        [true; 6],
        "one that panics, three that fail, the first and the second"
    );
    node.until_status("it is covered in the end", |status| {
        status.enforced == 1 && status.egress_unfiltered == 0 && status.failures == 4
    })
    .await;
    assert_eq!(node.calls(10), ["pending", "enforced"]);
}

#[tokio::test(start_paused = true)]
async fn every_pod_of_the_tree_has_its_name_whatever_its_class() {
    let mut node = Node::start(&[], &[10, 11], None);
    let names = node.names.clone();
    let name = |id: u64| {
        let found = names.find(CgroupId(id), None);
        found.map(|pod| pod.pod.name.clone())
    };
    *node.netns.lock().unwrap() = None;
    node.told(10, agent);
    node.until_class(10, "pending").await;
    assert_eq!((name(10), name(11)), (Some("p10".into()), None));
    node.told(11, |_| {});
    node.until_class(11, "exempt").await;
    assert_eq!(name(11).as_deref(), Some("p11"));
    node.goes(10);
    node.until_class(10, "nothing").await;
    assert_eq!(name(10), None);
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_cannot_be_enforced_again_and_again_is_told_of_where_it_is_looked_at() {
    let mut node = Node::start(&[], &[1, 2], None);
    let selected = |pod: &mut Pod| drop(pod.labels.insert("agent".into(), "yes".into()));
    node.fake.fail_enforce.store(2, Ordering::SeqCst);
    node.told(1, selected);
    node.until_class(1, "enforced").await;
    assert!(node.to_post.try_recv().is_err(), "it worked in the end");
    node.fake.fail_enforce.store(usize::MAX, Ordering::SeqCst);
    node.told(2, selected);
    let notice = tokio::time::timeout(Duration::from_secs(5), node.to_post.recv()).await;
    let notice = notice.ok().flatten().unwrap();
    let about = node.map[&uid(2)].pod.about();
    assert_eq!((notice.about, notice.reason), (about, Reason::EnforcementFailed));
    assert!(notice.note.ends_with("the listener: no port"), "{}", notice.note);
}

#[path = "depth_tests.rs"]
mod depth;

#[path = "enrolment_tests.rs"]
mod enrolments;

#[path = "release_tests.rs"]
mod releases;
#[path = "sandboxed_tests.rs"]
mod sandboxed;
#[path = "static_tests.rs"]
mod statics;
