//! An API server for unit tests.
//!
//! In: a function that answers a request. Out: its address, a client of it, and what it was asked.

use std::convert::Infallible;
use std::sync::Arc;

use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, Uri};
use hyper_util::rt::TokioIo;
use kube::Client;
use parking_lot::Mutex;
use serde_json::Value;
use tokio::net::TcpListener;

/// What an API server was asked.
#[derive(Debug, Clone)]
pub(crate) struct AskedRequest {
    pub(crate) method: Method,
    pub(crate) uri: Uri,
    /// Null where the request has no body.
    pub(crate) object: Value,
}

impl AskedRequest {
    pub(crate) fn is_watch(&self) -> bool {
        self.uri.query().is_some_and(|query| query.contains("watch=true"))
    }

    pub(crate) fn is_list(&self) -> bool {
        self.method == Method::GET && !self.is_watch()
    }
}

pub(crate) type Asked = Arc<Mutex<Vec<AskedRequest>>>;

/// An API server that answers so.
pub(crate) struct FakeServer {
    pub(crate) url: String,
    pub(crate) asked: Asked,
}

impl FakeServer {
    /// `respond` gives the status code and the body.
    pub(crate) async fn start(
        respond: impl Fn(&AskedRequest) -> (u16, String) + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (asked, respond) = (Asked::default(), Arc::new(respond));
        let seen = Arc::clone(&asked);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (seen, respond) = (Arc::clone(&seen), Arc::clone(&respond));
                let service = service_fn(move |request: Request<Incoming>| {
                    let (seen, respond) = (Arc::clone(&seen), Arc::clone(&respond));
                    async move {
                        let (head, body) = request.into_parts();
                        let body = body.collect().await.unwrap().to_bytes();
                        let request = AskedRequest {
                            method: head.method,
                            uri: head.uri,
                            object: serde_json::from_slice(&body).unwrap_or_default(),
                        };
                        let (code, answer) = respond(&request);
                        seen.lock().push(request);
                        let mut response = Response::new(Full::new(Bytes::from(answer)));
                        *response.status_mut() = code.try_into().unwrap();
                        Ok::<_, Infallible>(response)
                    }
                });
                let connection = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service);
                tokio::spawn(connection);
            }
        });
        Self { url, asked }
    }

    pub(crate) fn client(&self) -> Client {
        let config = kube::Config::new(self.url.parse().unwrap());
        Client::try_from(config).unwrap()
    }

    /// How often objects were listed.
    pub(crate) fn lists(&self) -> usize {
        self.asked.lock().iter().filter(|asked| asked.is_list()).count()
    }
}
