//! A client for tests, of whatever server they run.

use std::path::Path;
use std::sync::Arc;

use super::Connector;

/// A folder of the test's own, removed with it.
pub(crate) struct Folder(tempfile::TempDir);

impl Folder {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Connector {
    /// Makes clients of a server that answers at this URL, for as long as the folder is there.
    pub(crate) fn for_tests(server: &str) -> (Folder, Self) {
        let folder = Folder::new();
        let file = folder.path().join("kubeconfig");
        let config = serde_json::json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
            "clusters": [{"name": "c", "cluster": {"server": server}}],
            "users": [{"name": "u", "user": {}}],
        });
        std::fs::write(&file, config.to_string()).unwrap();
        (folder, Self::new(&file))
    }
}

/// An API server that answers each review of rights by the resource's attributes, or with a code in place of an answer; the URL. It
/// lists one rule, of every verb.
pub(crate) async fn reviewing(
    answer: impl Fn(&serde_json::Value) -> Result<bool, u16> + Send + Sync + 'static,
) -> String {
    reviewing_with_rules(answer, rules(&["*"], None)).await
}

/// The status of a review of rules with these verbs, which is incomplete where an authorizer says why.
pub(crate) fn rules(verbs: &[&str], incomplete: Option<&str>) -> serde_json::Value {
    serde_json::json!({
        "resourceRules": [{"verbs": verbs, "apiGroups": ["*"], "resources": ["*"]}], "nonResourceRules": [],
        "incomplete": incomplete.is_some(), "evaluationError": incomplete.unwrap_or_default(),
    })
}

/// The same with this answer to a review of rules.
pub(crate) async fn reviewing_with_rules(
    answer: impl Fn(&serde_json::Value) -> Result<bool, u16> + Send + Sync + 'static,
    rules: serde_json::Value,
) -> String {
    reviewing_of_release("36", answer, rules).await
}

fn version(minor: &str) -> serde_json::Value {
    serde_json::json!({
        "major": "1", "minor": minor, "gitVersion": format!("v1.{minor}.0"), "gitCommit": "", "gitTreeState": "", "buildDate": "",
        "goVersion": "", "compiler": "", "platform": "",
    })
}

/// The same of this minor version of Kubernetes.
pub(crate) async fn reviewing_of_release(
    minor: &'static str,
    answer: impl Fn(&serde_json::Value) -> Result<bool, u16> + Send + Sync + 'static,
    rules: serde_json::Value,
) -> String {
    use http_body_util::BodyExt as _;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = format!("http://{}", listener.local_addr().unwrap());
    let (answer, rules) = (Arc::new(answer), Arc::new(rules));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (answer, rules) = (Arc::clone(&answer), Arc::clone(&rules));
            let service = hyper::service::service_fn(move |request: http::Request<hyper::body::Incoming>| {
                let (answer, rules) = (Arc::clone(&answer), Arc::clone(&rules));
                async move {
                    let is_version = request.uri().path() == "/version";
                    let body = request.into_body().collect().await?.to_bytes();
                    let mut review: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
                    let is_list = review["kind"] == "SelfSubjectRulesReview";
                    let (code, object) = match answer(&review["spec"]["resourceAttributes"]) {
                        Ok(_) if is_version => (200, version(minor)),
                        Ok(_) if is_list => {
                            review["status"] = (*rules).clone();
                            (201, review)
                        }
                        Ok(allowed) => {
                            review["status"] = serde_json::json!({ "allowed": allowed });
                            (201, review)
                        }
                        Err(code) => {
                            let message = "no, and here is why";
                            let status = serde_json::json!({
                                "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "message": message,
                            });
                            (code, status)
                        }
                    };
                    let response = http::Response::builder().status(code);
                    let response = response.header("content-type", "application/json");
                    let body = http_body_util::Full::new(bytes::Bytes::from(object.to_string()));
                    Ok::<_, hyper::Error>(response.body(body).unwrap())
                }
            });
            let stream = hyper_util::rt::TokioIo::new(stream);
            tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(stream, service));
        }
    });
    server
}

/// What a client may write into an object's metadata, and no typed reader here takes.
pub(crate) fn managed_fields_of_its_own() -> serde_json::Value {
    serde_json::json!([{"manager": "m", "operation": "Update", "apiVersion": "v1", "time": "10000-01-01T00:00:00Z"}])
}

/// An API server that lists these objects of each resource, each with managed fields of its own, or refuses to; the URL.
pub(crate) async fn listing(
    objects: impl Fn(&str) -> Option<Vec<serde_json::Value>> + Send + Sync + 'static,
) -> String {
    answering(move |request| {
        let resource = request.uri().path().rsplit('/').next().unwrap_or_default();
        match objects(resource) {
            Some(mut items) => {
                for item in &mut items {
                    item["metadata"]["managedFields"] = managed_fields_of_its_own();
                }
                (200, serde_json::json!({"metadata": {}, "items": items}))
            }
            None => {
                let status = serde_json::json!({
                    "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 403, "message": "not for you",
                });
                (403, status)
            }
        }
    })
    .await
}

/// An API server that answers each request with a code and an object; the URL.
pub(crate) async fn answering(
    answer: impl Fn(&http::Request<bytes::Bytes>) -> (u16, serde_json::Value) + Send + Sync + 'static,
) -> String {
    answering_texts(move |request| {
        let (code, object) = answer(request);
        (code, object.to_string())
    })
    .await
}

/// An API server that answers each request with a code and a text; the URL.
pub(crate) async fn answering_texts(
    answer: impl Fn(&http::Request<bytes::Bytes>) -> (u16, String) + Send + Sync + 'static,
) -> String {
    answering_bytes(move |request| {
        let (code, text) = answer(request);
        (code, text.into_bytes())
    })
    .await
}

/// An API server that answers each request with a code and bytes, which need be no text; the URL.
pub(crate) async fn answering_bytes(
    answer: impl Fn(&http::Request<bytes::Bytes>) -> (u16, Vec<u8>) + Send + Sync + 'static,
) -> String {
    answering_as(move |request| {
        let (code, text) = answer(request);
        (code, "application/json", text)
    })
    .await
}

/// An API server that answers each request with a code and bytes of a media type; the URL.
pub(crate) async fn answering_as(
    answer: impl Fn(&http::Request<bytes::Bytes>) -> (u16, &'static str, Vec<u8>) + Send + Sync + 'static,
) -> String {
    use http_body_util::BodyExt as _;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = format!("http://{}", listener.local_addr().unwrap());
    let answer = Arc::new(answer);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let answer = Arc::clone(&answer);
            let service = hyper::service::service_fn(move |request: http::Request<hyper::body::Incoming>| {
                let answer = Arc::clone(&answer);
                async move {
                    let (head, body) = request.into_parts();
                    let body = body.collect().await?.to_bytes();
                    let (code, media, bytes) = answer(&http::Request::from_parts(head, body));
                    let response = http::Response::builder().status(code);
                    let response = response.header("content-type", media);
                    let body = http_body_util::Full::new(bytes::Bytes::from(bytes));
                    Ok::<_, hyper::Error>(response.body(body).unwrap())
                }
            });
            let stream = hyper_util::rt::TokioIo::new(stream);
            tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(stream, service));
        }
    });
    server
}
