//! The list and watch of this node's pods, against an API server that the test plays.

use std::convert::Infallible;
use std::sync::Mutex;
use std::time::Duration;

use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Bytes, Frame};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use super::*;
use crate::cluster::FAILURES_PER_CLIENT;

const HASH: &str = "f0e1d2c3b4a5968778695a4b3c2d1e0f";

fn object(value: Value) -> core::Pod {
    serde_json::from_value(value).unwrap()
}

fn pod(uid: &str, created: &str, annotations: Value) -> core::Pod {
    object(json!({
        "metadata": {"name": uid, "namespace": "n", "uid": uid, "creationTimestamp": created, "annotations": annotations},
        "spec": {"containers": []},
    }))
}

fn uids(map: &PodMap) -> Vec<(&str, &str)> {
    let mut all: Vec<_> = map
        .iter()
        .map(|(cgroup, pod)| (cgroup.0.as_str(), pod.pod.uid.0.as_str()))
        .collect();
    all.sort_unstable();
    all
}

#[test]
fn a_pod_keeps_its_facts_and_every_kind_of_container() {
    let read = NodePod::read(object(json!({
        "metadata": {"name": "web", "namespace": "shop", "uid": "u1", "labels": {"app": "web"},
            "ownerReferences": [{"apiVersion": "v1", "kind": "Other", "name": "o", "uid": "1"},
                                {"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "web", "uid": "2", "controller": true}]},
        "spec": {"nodeName": "node-1", "serviceAccountName": "seller", "hostNetwork": true,
            "runtimeClassName": "gvisor",
            "containers": [{"name": "main", "ports": [{"containerPort": 8080, "hostPort": 30080}, {"containerPort": 64330}]}],
            "initContainers": [{"name": "proxy", "ports": [{"containerPort": 15001}]}]},
        "status": {
            "podIP": "fd00::7", "podIPs": [{"ip": "fd00::7"}, {"ip": "10.1.0.7"}],
            "hostIP": "10.0.0.1",
            "containerStatuses": [{"name": "main", "containerID": "containerd://aa", "image": "", "imageID": "", "ready": true, "restartCount": 0},
                                  {"name": "waiting", "image": "", "imageID": "", "ready": false, "restartCount": 0}],
            "initContainerStatuses": [{"name": "init", "containerID": "cri-o://bb", "image": "", "imageID": "", "ready": true, "restartCount": 0}],
            "ephemeralContainerStatuses": [{"name": "debug", "containerID": "docker://cc", "image": "", "imageID": "", "ready": true, "restartCount": 0}],
        },
    })))
    .unwrap();
    let expected = Pod {
        uid: PodUid("u1".into()),
        namespace: "shop".into(),
        name: "web".into(),
        service_account: "seller".into(),
        workload: WorkloadName("StatefulSet/web".into()),
        labels: [("app".into(), "web".into())].into(),
        node: "node-1".into(),
        host_network: true,
        addresses: vec!["fd00::7".parse().unwrap(), "10.1.0.7".parse().unwrap()],
        ports: [8080, 15001, 30080, 64330].into(),
        sandboxed_by: Some("gvisor".into()),
        containers: [("aa", "main"), ("bb", "init"), ("cc", "debug")]
            .map(|(id, name)| (id.into(), name.into()))
            .into(),
        cgroup: None,
    };
    assert_eq!((read.pod, read.cgroup_uid.0.as_str()), (expected, "u1"));
}

#[test]
fn a_runtime_that_costs_memory_beside_its_pod_has_a_stack_of_its_own() {
    let sandboxed_by = |overhead: Value| {
        let read = NodePod::read(object(json!({
            "metadata": {"name": "web", "namespace": "shop", "uid": "u1"},
            "spec": {"containers": [], "runtimeClassName": "guarded", "overhead": overhead},
        })));
        read.unwrap().pod.sandboxed_by
    };
    assert_eq!(
        sandboxed_by(json!({"memory": "160Mi"})),
        Some("guarded".to_owned())
    );
    assert_eq!(sandboxed_by(json!({})), None);
}

#[test]
fn a_static_pods_cgroup_carries_its_manifests_hash_and_no_annotation_names_another_pod() {
    let mut cache = PodCache::default();
    cache.take(watcher::Event::Init);
    let later = "2026-01-02T00:00:00Z";
    cache.take(watcher::Event::InitApply(pod(
        "forged-mirror",
        later,
        json!({MIRROR_ANNOTATION: HASH}),
    )));
    cache.take(watcher::Event::InitApply(pod(
        "mirror",
        "2026-01-01T00:00:00Z",
        json!({MIRROR_ANNOTATION: HASH}),
    )));
    let victim = "0d5a3c3e-7f3a-4a59-9a5b-0c6f4f0b8f11";
    cache.take(watcher::Event::InitApply(pod(
        "liar",
        later,
        json!({MIRROR_ANNOTATION: victim}),
    )));
    cache.take(watcher::Event::InitApply(pod(
        "plain",
        later,
        json!({"kubernetes.io/config.hash": HASH}),
    )));
    assert!(!cache.whole);
    assert!(cache.take(watcher::Event::InitDone));
    let map = cache.by_cgroup(None);
    assert_eq!(
        uids(&map),
        [(HASH, "mirror"), ("liar", "liar"), ("plain", "plain")]
    );
}

#[test]
fn a_new_list_replaces_the_old_one_at_once_and_the_same_again_is_no_change() {
    let one = || pod("one", "2026-01-01T00:00:00Z", json!({}));
    let two = || pod("two", "2026-01-01T00:00:00Z", json!({}));
    let mut cache = PodCache::default();
    cache.take(watcher::Event::Init);
    assert!(cache.take(watcher::Event::InitDone), "an empty node is known too");
    assert!(cache.take(watcher::Event::Apply(one())));
    assert!(!cache.take(watcher::Event::Apply(one())));
    cache.take(watcher::Event::Init);
    assert!(!cache.take(watcher::Event::InitApply(two())));
    assert_eq!(uids(&cache.by_cgroup(None)), [("one", "one")]);
    assert!(cache.take(watcher::Event::InitDone));
    assert_eq!(uids(&cache.by_cgroup(None)), [("two", "two")]);
    assert!(cache.take(watcher::Event::Delete(two())));
    assert!(!cache.take(watcher::Event::Delete(two())));
}

fn namespace(name: &str, label: Option<&str>) -> core::Namespace {
    let labels = label.map(|value| json!({"picket.dev/enrolled": value}));
    serde_json::from_value(json!({"metadata": {"name": name, "labels": labels}})).unwrap()
}

#[test]
fn a_pod_is_told_of_once_its_namespace_is_known_and_is_enrolled_by_either_label() {
    let labelled = object(json!({
        "metadata": {"name": "own", "namespace": "n", "uid": "own", "labels": {"picket.dev/enrolled": "true"}},
        "spec": {"containers": []},
    }));
    let mut known = Known {
        pods: PodCache::default(),
        namespaces: Some(NamespaceCache::default()),
    };
    let (sender, told) = watch::channel(None::<Arc<PodMap>>);
    let enrolled = |known: &Known| -> Option<Vec<(String, bool)>> {
        known.publish(&sender);
        let map = told.borrow().clone()?;
        let mut all: Vec<_> = map
            .values()
            .map(|pod| (pod.pod.name.clone(), pod.enrolled))
            .collect();
        all.sort();
        Some(all)
    };
    known.pods.take(watcher::Event::Init);
    known.pods.take(watcher::Event::InitApply(labelled));
    known.pods.take(watcher::Event::InitApply(pod(
        "plain",
        "2026-01-01T00:00:00Z",
        json!({}),
    )));
    known.pods.take(watcher::Event::InitDone);
    assert_eq!(enrolled(&known), None, "no list of namespaces has come in");
    let mut namespaces = |event| {
        known.namespaces.as_mut().unwrap().take(event);
        enrolled(&known)
    };
    let both = |plain| Some(vec![("own".to_owned(), true), ("plain".to_owned(), plain)]);
    assert_eq!(namespaces(watcher::Event::Init), None);
    assert_eq!(
        namespaces(watcher::Event::InitDone),
        Some(vec![("own".to_owned(), true)]),
        "nothing is known of the other's namespace: it stays closed"
    );
    assert_eq!(
        namespaces(watcher::Event::Apply(namespace("n", None))),
        both(false)
    );
    assert_eq!(
        namespaces(watcher::Event::Apply(namespace("n", Some("true")))),
        both(true)
    );
    assert_eq!(
        namespaces(watcher::Event::Apply(namespace("n", Some("false")))),
        both(false),
        "its own label stands"
    );
}

#[tokio::test]
async fn without_a_list_of_namespaces_no_pod_is_told_of_where_enrolment_counts() {
    let lists = |may_list: bool| {
        cluster::testing::answering(move |request| {
            let (kind, item) = match request.uri().path().rsplit('/').next() {
                Some("pods") => (
                    "PodList",
                    json!({"metadata": {"name": "p", "namespace": "n", "uid": "p"}, "spec": {"containers": []}}),
                ),
                Some("namespaces") if may_list => (
                    "NamespaceList",
                    json!({"metadata": {"name": "n", "labels": {"picket.dev/enrolled": "true"}}}),
                ),
                Some("namespaces") => {
                    let message = "not for you";
                    return (
                        403,
                        json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 403, "message": message}),
                    );
                }
                other => panic!("{other:?} are asked for"),
            };
            (
                200,
                json!({"kind": kind, "apiVersion": "v1", "metadata": {"resourceVersion": "5"}, "items": [item]}),
            )
        })
    };
    for (by_enrolment, may_list, told) in [
        (true, true, Some(true)),
        (true, false, None),
        (false, false, Some(false)),
    ] {
        let server = lists(may_list).await;
        let (_folder, connector) = Connector::for_tests(&server);
        let (sender, mut pods) = watch::channel(None);
        let cancel = CancellationToken::new();
        let following = tokio::spawn(follow_pods(
            connector,
            "node-1".into(),
            by_enrolment,
            sender,
            cancel.clone(),
        ));
        let limit = Duration::from_secs(if told.is_some() { 10 } else { 1 });
        let found = tokio::time::timeout(limit, pods.wait_for(Option::is_some)).await;
        let found = found.ok().map(|map| map.unwrap().clone().unwrap());
        let enrolled = found.map(|map| map[&PodUid("p".into())].enrolled);
        assert_eq!(
            enrolled, told,
            "by enrolment: {by_enrolment}, may list: {may_list}"
        );
        cancel.cancel();
        following.await.unwrap();
    }
}

/// A server that answers lists with one pod, and watches with what it is fed; each answer may be denied first.
struct Server {
    deny: Mutex<u32>,
    asked: Mutex<Vec<String>>,
    feed: Mutex<Option<mpsc::UnboundedReceiver<Value>>>,
}

impl Server {
    fn answer(&self, request: &Request<hyper::body::Incoming>) -> Response<BoxBody<Bytes, Infallible>> {
        let query = request.uri().to_string();
        self.asked.lock().unwrap().push(query.clone());
        let whole = |status: u16, body: Value| {
            let body = Full::new(Bytes::from(body.to_string())).boxed();
            Response::builder().status(status).body(body).unwrap()
        };
        let mut deny = self.deny.lock().unwrap();
        if *deny > 0 {
            *deny -= 1;
            return whole(
                500,
                json!({"kind": "Status", "status": "Failure", "code": 500, "message": "not now", "reason": ""}),
            );
        }
        if query.contains("watch=true") {
            let feed = self.feed.lock().unwrap().take();
            let events = futures::stream::unfold(feed, |feed| async {
                let mut feed = feed?;
                let event = feed.recv().await?;
                let line = Bytes::from(format!("{event}\n"));
                Some((Ok(Frame::data(line)), Some(feed)))
            });
            return Response::new(BodyExt::boxed(StreamBody::new(SyncStream(Box::pin(events)))));
        }
        whole(
            200,
            json!({"kind": "PodList", "apiVersion": "v1", "metadata": {"resourceVersion": "5"},
                   "items": [{"metadata": {"name": "a", "namespace": "n", "uid": "a", "resourceVersion": "4"},
                              "spec": {"containers": []}}]}),
        )
    }
}

/// A boxed body has to be `Sync`; it is polled by one task alone.
struct SyncStream<S>(std::pin::Pin<Box<S>>);

impl<S: futures::Stream> futures::Stream for SyncStream<S> {
    type Item = S::Item;

    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<S::Item>> {
        self.0.as_mut().poll_next(context)
    }
}

#[tokio::test]
async fn pods_are_listed_and_watched_through_failures() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (feed, fed) = mpsc::unbounded_channel();
    let server = Arc::new(Server {
        deny: Mutex::new(FAILURES_PER_CLIENT + 1),
        asked: Mutex::default(),
        feed: Mutex::new(Some(fed)),
    });
    let serving = server.clone();
    let accepting = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let server = serving.clone();
            let service = service_fn(move |request| {
                let server = server.clone();
                async move { Ok::<_, Infallible>(server.answer(&request)) }
            });
            tokio::spawn(
                hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service),
            );
        }
    });
    let (_folder, connector) = Connector::for_tests(&format!("http://{address}"));
    let (cache, mut known) = watch::channel(None);
    let cancel = CancellationToken::new();
    let following = tokio::spawn(follow_pods(
        connector,
        "node-1".into(),
        false,
        cache,
        cancel.clone(),
    ));
    let mut names = async |want: &[&str]| {
        let same = |map: &Option<Arc<PodMap>>| {
            map.as_ref()
                .is_some_and(|map| uids(map).iter().map(|(_, uid)| *uid).eq(want.iter().copied()))
        };
        let found = tokio::time::timeout(Duration::from_secs(10), known.wait_for(same)).await;
        assert!(
            found.is_ok(),
            "{want:?} was not cache; asked {:?}",
            server.asked.lock().unwrap()
        );
    };
    names(&["a"]).await;
    let event = |kind: &str, name: &str, version: &str| {
        json!({"type": kind, "object": {"kind": "Pod", "apiVersion": "v1",
               "metadata": {"name": name, "namespace": "n", "uid": name, "resourceVersion": version}, "spec": {"containers": []}}})
    };
    feed.send(event("ADDED", "b", "6")).unwrap();
    names(&["a", "b"]).await;
    feed.send(event("DELETED", "a", "7")).unwrap();
    names(&["b"]).await;
    let asked = server.asked.lock().unwrap().clone();
    assert!(
        asked
            .iter()
            .all(|uri| uri.contains("fieldSelector=spec.nodeName%3Dnode-1")),
        "{asked:?}"
    );
    cancel.cancel();
    following.await.unwrap();
    accepting.abort();
}
