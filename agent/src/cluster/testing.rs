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

/// An API server that answers each review of rights by the resource's attributes, or with a code in place of an answer; the URL.
pub(crate) async fn reviewing(
    answer: impl Fn(&serde_json::Value) -> Result<bool, u16> + Send + Sync + 'static,
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
                    let body = request.into_body().collect().await?.to_bytes();
                    let mut review: serde_json::Value = serde_json::from_slice(&body).unwrap();
                    let (code, object) = match answer(&review["spec"]["resourceAttributes"]) {
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
