//! The parts together, with a resolver and addresses that the test tells.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures::FutureExt;
use futures::future::BoxFuture;
use serde_json::json;

use super::testing::{node, service, slice};
use super::*;

/// Answers as the test set it, and counts the questions.
#[derive(Clone, Default)]
struct Answers {
    addresses: Arc<Mutex<Vec<IpAddr>>>,
    asked: Arc<AtomicUsize>,
}

impl Answers {
    fn set(&self, texts: &[&str]) {
        *self.addresses.lock() = texts.iter().map(|text| text.parse().unwrap()).collect();
    }
}

impl Resolve for Answers {
    fn resolve<'a>(&'a self, host: &'a str) -> BoxFuture<'a, io::Result<Vec<IpAddr>>> {
        assert_eq!(host, "api.example");
        self.asked.fetch_add(1, Ordering::Relaxed);
        let addresses = self.addresses.lock().clone();
        async move {
            if addresses.is_empty() {
                Err(io::ErrorKind::NotFound.into())
            } else {
                Ok(addresses)
            }
        }
        .boxed()
    }
}

/// The API server's lists, and watches that never tell anything, for as long as it lives.
async fn api_server() -> (crate::cluster::testing::Folder, Connector) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        loop {
            let Ok((stream, _)) = listener.accept().await else {
                return;
            };
            tokio::spawn(async move {
                let service = hyper::service::service_fn(
                    |request: http::Request<hyper::body::Incoming>| async move {
                        if request.uri().query().unwrap_or_default().contains("watch=true") {
                            std::future::pending::<()>().await;
                        }
                        let (kind, items) = match request.uri().path() {
                            "/api/v1/services" => (
                                "ServiceList",
                                json!([service(
                                    "default",
                                    "kubernetes",
                                    json!({"clusterIP": "10.96.0.1", "ports": [{"name": "https", "port": 443}]})
                                )]),
                            ),
                            "/apis/discovery.k8s.io/v1/endpointslices" => (
                                "EndpointSliceList",
                                json!([slice(
                                    "default",
                                    "s",
                                    "kubernetes",
                                    &["10.0.0.1"],
                                    json!([{"name": "https", "port": 6443}])
                                )]),
                            ),
                            "/api/v1/nodes" => ("NodeList", json!([node("a", "10.0.0.1", "10.244.1.0/24")])),
                            other => panic!("nobody should ask for {other}"),
                        };
                        let text = json!({"kind": kind, "apiVersion": "v1", "metadata": {"resourceVersion": "1"}, "items": items}).to_string();
                        let response = http::Response::builder().header("content-type", "application/json");
                        response.body(http_body_util::Full::new(bytes::Bytes::from(text)))
                    },
                );
                let stream = hyper_util::rt::TokioIo::new(stream);
                let _ = hyper::server::conn::http1::Builder::new()
                    .serve_connection(stream, service)
                    .await;
            });
        }
    });
    Connector::for_tests(&server)
}

fn set(texts: &[&str]) -> BTreeSet<SocketAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

async fn until(
    endpoints: &mut watch::Receiver<ProtectedEndpoints>,
    what: &str,
    wanted: impl FnMut(&ProtectedEndpoints) -> bool,
) -> ProtectedEndpoints {
    let found = tokio::time::timeout(Duration::from_secs(20), endpoints.wait_for(wanted)).await;
    found
        .unwrap_or_else(|_| panic!("{what} within 20 s"))
        .unwrap()
        .clone()
}

#[tokio::test]
async fn lists_names_and_the_nodes_own_addresses_make_endpoints_as_they_change() {
    let answers = Answers::default();
    let own = Arc::new(Mutex::new(BTreeSet::from([IpAddr::from([10, 0, 0, 1])])));
    let config = ProtectedEndpointsConfig {
        node: "a".into(),
        redirect: vec!["api.example:443".parse().unwrap()],
        ..ProtectedEndpointsConfig::default()
    };
    let read = Arc::clone(&own);
    let sources = LocalSources {
        resolver: answers.clone(),
        node_addresses: move || Ok(read.lock().clone()),
    };
    let (mut endpoints, finder) = start(config, sources);
    let first = endpoints.borrow().clone();
    assert!(
        !first.whole
            && first
                .deny
                .is_superset(&set(&["169.254.169.254:80", "10.0.0.1:10250"])),
        "known at once"
    );

    let (_folder, connector) = api_server().await;
    let cancel = CancellationToken::new();
    let running = tokio::spawn(finder.run(connector, cancel.clone()));
    let told = until(
        &mut endpoints,
        "the cluster's own protected endpoints",
        |endpoints| endpoints.redirect.contains(&"10.96.0.1:443".parse().unwrap()),
    )
    .await;
    let told = if told.redirect.len() < 4 {
        until(&mut endpoints, "all lists", |endpoints| {
            endpoints.redirect.len() == 4
        })
        .await
    } else {
        told
    };
    assert_eq!(
        told.redirect,
        set(&[
            "10.96.0.1:443",
            "10.0.0.1:6443",
            "10.244.1.0:6443",
            "10.244.1.1:6443"
        ])
    );
    assert!(!told.whole, "the name has no answer");

    own.lock().insert("fe80::1".parse().unwrap());
    let told = until(&mut endpoints, "the new interface", |endpoints| {
        endpoints.redirect.contains(&"[fe80::]:6443".parse().unwrap())
    })
    .await;
    assert!(told.deny.contains(&"[fe80::]:10250".parse().unwrap()));
    cancel.cancel();
    running.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn names_are_looked_up_again_and_again() {
    let answers = Answers::default();
    let config = ProtectedEndpointsConfig {
        redirect: vec!["api.example:443".parse().unwrap()],
        ..ProtectedEndpointsConfig::default()
    };
    let sources = LocalSources {
        resolver: answers.clone(),
        node_addresses: || Ok(BTreeSet::new()),
    };
    let (mut endpoints, mut finder) = start(config, sources);
    finder.resolve_every = Duration::from_millis(100);
    let cancel = CancellationToken::new();
    // No API server there: it is asked in vain.
    let running = tokio::spawn(finder.run(
        Connector::new(std::path::Path::new("/nonexistent")),
        cancel.clone(),
    ));
    let asked = async |more: usize| {
        let goal = answers.asked.load(Ordering::Relaxed) + more;
        while answers.asked.load(Ordering::Relaxed) < goal {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    asked(1).await;
    answers.set(&["192.0.2.1"]);
    let told = until(&mut endpoints, "the first answer", |endpoints| {
        !endpoints.redirect.is_empty()
    })
    .await;
    assert_eq!(told.redirect, set(&["192.0.2.1:443"]));
    answers.set(&["192.0.2.2"]);
    until(&mut endpoints, "the next answer", |endpoints| {
        endpoints.redirect == set(&["192.0.2.1:443", "192.0.2.2:443"])
    })
    .await;
    answers.set(&[]);
    asked(3).await;
    assert_eq!(
        endpoints.borrow().redirect.len(),
        2,
        "a lookup that fails changes nothing"
    );
    cancel.cancel();
    running.await.unwrap();
}
