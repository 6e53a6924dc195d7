//! An API server with Picket's controller for tests: it keeps CertificateSigningRequests and decides on them.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use http::Method;
use parking_lot::Mutex;
use picket_controller::names::node_ca_subject;
use serde_json::{Value, json};

use super::exchange::NodeCaExchange;
use super::keep::KeptNodeCa;
use super::metrics::NodeCaMetrics;
use super::request::LIFETIME;
use crate::cluster::Connector;
use crate::cluster::testing::{Folder, answering};
use crate::metrics::MetricsRegistry;
use crate::pki::testing::Root;
use crate::pki::{CaRequest, LeafNames};
use crate::runtime::state::StateDirectory;

pub(super) const NODE: &str = "node-1";

/// What the controller does with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Decision {
    /// It is away.
    None,
    Sign,
    /// It signs another's key.
    SignAnother,
    Deny,
    /// The request is removed.
    Remove,
    /// The API server refuses all with this code.
    Code(u16),
}

/// An agent's exchange, and the controller that it meets.
pub(super) struct Meeting {
    pub(super) exchange: NodeCaExchange,
    pub(super) registry: MetricsRegistry,
    decision: Arc<Mutex<Decision>>,
    requests: Arc<Mutex<Vec<Value>>>,
    _folders: (Folder, Folder),
}

impl Meeting {
    pub(super) async fn begin(decision: Decision) -> Self {
        let (root, decision) = (Root::new("root"), Arc::new(Mutex::new(decision)));
        let requests: Arc<Mutex<Vec<Value>>> = Arc::default();
        let (decides, created) = (Arc::clone(&decision), Arc::clone(&requests));
        let server = answering(move |request| {
            let decision = *decides.lock();
            if let Decision::Code(code) = decision {
                return (code, status(code));
            }
            let path = request.uri().path();
            assert!(
                path.starts_with("/apis/certificates.k8s.io/v1/certificatesigningrequests"),
                "{path}"
            );
            let mut created = created.lock();
            if request.method() == Method::POST {
                let mut object: Value = serde_json::from_slice(request.body()).expect("an object");
                object["metadata"]["name"] = json!(format!("picket-node-ca-{}", created.len()));
                created.push(object.clone());
                return (201, object);
            }
            let name = path.rsplit('/').next().unwrap_or_default();
            let found = created.iter().find(|object| object["metadata"]["name"] == name);
            match found {
                Some(object) if decision != Decision::Remove => (200, decided(object, decision, &root)),
                _ => (404, status(404)),
            }
        })
        .await;
        let (kubeconfig, connector) = Connector::for_tests(&server);
        let folder = Folder::new();
        let state = StateDirectory::new(&folder.path().join("state"));
        let registry = MetricsRegistry::default();
        let metrics = NodeCaMetrics::register(&registry);
        let mut exchange = NodeCaExchange::new(
            KeptNodeCa::new(state),
            NODE,
            LeafNames::new(&[]).expect("names"),
            connector,
            metrics,
        );
        exchange.looks = (Duration::from_millis(5), Duration::from_millis(20));
        Self {
            exchange,
            registry,
            decision,
            requests,
            _folders: (kubeconfig, folder),
        }
    }

    pub(super) fn decide(&self, decision: Decision) {
        *self.decision.lock() = decision;
    }

    /// How many requests were made.
    pub(super) fn asked(&self) -> usize {
        self.requests.lock().len()
    }

    pub(super) fn file(&self) -> std::path::PathBuf {
        self.exchange.kept.path()
    }

    /// Keeps a CA that was signed so long ago, of a root of its own.
    pub(super) fn keep_since(&self, age: Duration) -> Vec<u8> {
        let (request, now) = (
            CaRequest::new(&node_ca_subject(NODE)).expect("a request"),
            SystemTime::now(),
        );
        let issued = Root::new("another root").sign(&request.pem, now - age);
        let names = LeafNames::new(&[]).expect("names");
        let ca = request
            .check(issued.as_bytes(), LIFETIME, &names, now)
            .expect("a CA");
        self.exchange.kept.keep(&ca).expect("kept");
        read(&self.file())
    }

    /// How often exchanges ended so.
    pub(super) fn counted(&self, result: &str) -> u64 {
        let text = self.registry.encode().expect("text");
        let begin = format!("picket_node_ca_renewals_total{{result=\"{result}\"}} ");
        let line = text.lines().find_map(|line| line.strip_prefix(&begin));
        line.and_then(|count| count.parse().ok()).expect("a count")
    }
}

pub(super) fn read(file: &Path) -> Vec<u8> {
    std::fs::read(file).unwrap_or_default()
}

fn status(code: u16) -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "message": "no, and here is why"})
}

fn decided(object: &Value, decision: Decision, root: &Root) -> Value {
    let mut object = object.clone();
    let condition = |kind: &str, message: &str| json!([{"type": kind, "status": "True", "reason": "Node", "message": message}]);
    let sign = |pem: &str| {
        let issued = root.sign(pem, SystemTime::now());
        json!({"conditions": condition("Approved", ""), "certificate": BASE64_STANDARD.encode(issued)})
    };
    let status = match decision {
        Decision::Sign => {
            let request = object["spec"]["request"].as_str().expect("a request");
            let request = BASE64_STANDARD.decode(request).expect("base64");
            sign(&String::from_utf8(request).expect("PEM"))
        }
        Decision::SignAnother => sign(&CaRequest::new(&node_ca_subject(NODE)).expect("a request").pem),
        Decision::Deny => json!({"conditions": condition("Denied", "the token is of node-2")}),
        _ => return object,
    };
    object["status"] = status;
    object
}
