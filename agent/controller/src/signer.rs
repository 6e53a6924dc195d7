//! Answers requests for node CAs: approves or denies each, and signs.
//!
//! In: CertificateSigningRequests of the signer `picket.dev/node-ca`, and the CA that signs. Out: a condition on each, and a certificate
//! where the request is fit. `kube-controller-manager` deletes answered requests after an hour, and others after a day. It deletes no
//! request that is approved and has no certificate, so that none is approved before its certificate is signed.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures::StreamExt as _;
use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::PostParams;
use kube::runtime::controller::{self, Action, Controller};
use kube::runtime::watcher;
use kube::{Api, Client, ResourceExt as _};
use tokio::sync::watch;

use crate::authority::{AuthorityError, PermittedNames};
use crate::kubernetes::{PAGE, is_old, printable};
use crate::lenient::{Lenient, is_unread};
use crate::metrics::{ControllerMetrics, NodeCaAnswer, Part};
use crate::names::SIGNER;
use crate::relist::RelistPauses;
use crate::request::{NodeCaRequest, Refusal, judge};
use crate::root::Trust;

/// How soon a request is looked at again that could not be answered: there is no root yet, or the API server refused a write.
const RETRY: Duration = Duration::from_secs(1);

/// Why a request could not be answered now.
#[derive(Debug, thiserror::Error)]
enum SignError {
    #[error("there is no root CA to sign with")]
    NoRoot,
    #[error("{0}")]
    Sign(#[from] AuthorityError),
    #[error("{}", printable(.0))]
    Api(#[from] kube::Error),
}

impl SignError {
    fn answer(&self) -> NodeCaAnswer {
        match self {
            Self::NoRoot => NodeCaAnswer::NoRoot,
            Self::Sign(_) => NodeCaAnswer::NotSigned,
            Self::Api(_) => NodeCaAnswer::NotWritten,
        }
    }
}

/// Signs for as long as it is polled.
pub(crate) struct Signer {
    requests: Api<Lenient<CertificateSigningRequest>>,
    /// The user name of the agents.
    account: String,
    permitted: PermittedNames,
    trust: watch::Receiver<Option<Arc<Trust>>>,
    metrics: ControllerMetrics,
}

impl Signer {
    pub(crate) fn new(
        client: Client,
        namespace: &str,
        permitted: PermittedNames,
        trust: watch::Receiver<Option<Arc<Trust>>>,
        metrics: ControllerMetrics,
    ) -> Self {
        Self {
            requests: Api::all(client),
            account: format!("system:serviceaccount:{namespace}:picket"),
            permitted,
            trust,
            metrics,
        }
    }

    /// Answers each request until it is dropped.
    pub(crate) async fn run(self) {
        let (signer, mut pauses) = (Arc::new(self), RelistPauses::default());
        loop {
            signer.answer_all().await;
            pauses.pause().await;
        }
    }

    /// Answers each request until an event of the watch cannot be read: only a list has that request then.
    async fn answer_all(self: &Arc<Self>) {
        let selected = watcher::Config::default()
            .fields(&format!("spec.signerName={SIGNER}"))
            .page_size(PAGE);
        let requests = Controller::new(self.requests.clone(), selected);
        let answer = |csr: Arc<Lenient<CertificateSigningRequest>>, signer: Arc<Self>| async move {
            signer.answer(&csr.0).await
        };
        let failed = self.metrics.failing(Part::Signer);
        let mut answered = std::pin::pin!(requests.run(answer, retry, Arc::clone(self)));
        while let Some(answered) = answered.next().await {
            // What failed with a request is told by `retry`.
            let Err(controller::Error::QueueError(error)) = answered else {
                continue;
            };
            if !is_old(&error) {
                failed();
                tracing::warn!(
                    error = printable(&error),
                    "the controller cannot watch requests for node CAs; it tries again"
                );
            }
            if is_unread(&error) {
                return;
            }
        }
    }

    /// Takes the request one step further; the object comes again when it has changed.
    async fn answer(&self, csr: &CertificateSigningRequest) -> Result<Action, SignError> {
        match step(state(csr), || judge(csr, &self.account)) {
            SigningStep::Wait => {}
            SigningStep::Approve(request) => {
                let message = format!("the token is of the agent on node {}", request.node);
                let certificate = self.sign(&request)?;
                let condition = condition("Approved", "NodeProved", &message);
                let approved = with(csr, condition);
                let approved = self.write("approval", &csr.name_any(), approved).await?;
                self.issue(&approved, &request, certificate).await?;
            }
            SigningStep::Deny(refusal) => self.refuse("approval", "Denied", csr, &refusal).await?,
            SigningStep::Issue(request) => self.issue(csr, &request, self.sign(&request)?).await?,
            SigningStep::Fail(refusal) => self.refuse("status", "Failed", csr, &refusal).await?,
        }
        self.metrics.succeeded(Part::Signer);
        Ok(Action::await_change())
    }

    fn sign(&self, request: &NodeCaRequest) -> Result<String, SignError> {
        let trust = self.trust.borrow().clone().ok_or(SignError::NoRoot)?;
        let NodeCaRequest { node, key, lifetime } = request;
        let now = SystemTime::now();
        let signed = trust
            .signing
            .sign_node_ca(node, key, *lifetime, &self.permitted, now);
        Ok(signed?)
    }

    async fn issue(
        &self,
        csr: &CertificateSigningRequest,
        request: &NodeCaRequest,
        certificate: String,
    ) -> Result<(), SignError> {
        let node = &request.node;
        let mut signed = csr.clone();
        signed.status.get_or_insert_default().certificate = Some(ByteString(certificate.into_bytes()));
        self.write("status", &csr.name_any(), signed).await?;
        self.metrics.node_ca(NodeCaAnswer::Signed);
        tracing::info!(%node, request = csr.name_any(), "a node CA is signed");
        Ok(())
    }

    async fn refuse(
        &self,
        subresource: &str,
        kind: &str,
        csr: &CertificateSigningRequest,
        refusal: &Refusal,
    ) -> Result<(), SignError> {
        let name = csr.name_any();
        let message = refusal.to_string();
        let condition = condition(kind, refusal.reason(), &message);
        self.write(subresource, &name, with(csr, condition)).await?;
        self.metrics.node_ca(NodeCaAnswer::Denied(refusal.reason()));
        tracing::warn!(
            request = name,
            reason = message,
            "a request for a node CA is denied"
        );
        Ok(())
    }

    /// The object carries its resourceVersion, so that whoever wrote in between wins.
    async fn write(
        &self,
        subresource: &str,
        name: &str,
        csr: CertificateSigningRequest,
    ) -> Result<CertificateSigningRequest, SignError> {
        let (parameters, csr) = (PostParams::default(), Lenient(csr));
        let written = self
            .requests
            .replace_subresource(subresource, name, &parameters, &csr);
        Ok(written.await?.0)
    }
}

fn retry(csr: Arc<Lenient<CertificateSigningRequest>>, error: &SignError, signer: Arc<Signer>) -> Action {
    if is_conflict(error) {
        return Action::await_change();
    }
    signer.metrics.failed(Part::Signer);
    signer.metrics.node_ca(error.answer());
    match error {
        // The root's keeper says once why there is none.
        SignError::NoRoot => tracing::debug!(request = csr.name_any(), %error, "a node CA waits"),
        error => tracing::warn!(
            request = csr.name_any(),
            %error,
            "a request for a node CA is not answered yet; the controller tries again"
        ),
    }
    Action::requeue(RETRY)
}

/// Whether somebody wrote in between, mostly this signer itself: the watch brings the newest version.
fn is_conflict(error: &SignError) -> bool {
    matches!(error, SignError::Api(kube::Error::Api(status)) if status.code == 409)
}

/// What is to be done next with a request.
#[derive(Debug)]
enum SigningStep {
    /// Nothing, until it changes.
    Wait,
    /// Approve it, then sign.
    Approve(NodeCaRequest),
    Deny(Refusal),
    Issue(NodeCaRequest),
    /// It is approved, so that it cannot be denied any more.
    Fail(Refusal),
}

/// The next step. An approved request was approved by a controller that ended in between, or by a person: the signer judges it all
/// the same.
fn step(state: RequestState, judge: impl FnOnce() -> Result<NodeCaRequest, Refusal>) -> SigningStep {
    match state {
        RequestState::Done => SigningStep::Wait,
        RequestState::Pending => judge().map_or_else(SigningStep::Deny, SigningStep::Approve),
        RequestState::Approved => judge().map_or_else(SigningStep::Fail, SigningStep::Issue),
    }
}

/// How far a request is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RequestState {
    Pending,
    /// Approved, and without a certificate.
    Approved,
    /// It has a certificate, or gets none.
    Done,
}

fn state(csr: &CertificateSigningRequest) -> RequestState {
    let status = csr.status.as_ref();
    let has = |kind: &str| {
        let conditions = status.and_then(|status| status.conditions.as_ref());
        conditions.into_iter().flatten().any(|found| found.type_ == kind)
    };
    let certificate = status.and_then(|status| status.certificate.as_ref());
    if certificate.is_some_and(|bytes| !bytes.0.is_empty()) || has("Denied") || has("Failed") {
        RequestState::Done
    } else if has("Approved") {
        RequestState::Approved
    } else {
        RequestState::Pending
    }
}

fn condition(kind: &str, reason: &str, message: &str) -> CertificateSigningRequestCondition {
    CertificateSigningRequestCondition {
        type_: kind.to_owned(),
        status: "True".to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        last_update_time: Some(Time(Timestamp::now())),
        last_transition_time: None,
    }
}

/// The request with one more condition.
fn with(
    csr: &CertificateSigningRequest,
    condition: CertificateSigningRequestCondition,
) -> CertificateSigningRequest {
    let mut changed = csr.clone();
    let status = changed.status.get_or_insert_default();
    status.conditions.get_or_insert_default().push(condition);
    changed
}

#[cfg(test)]
mod tests {
    use kube::core::Status;
    use rcgen::{KeyPair, PublicKeyData as _, SubjectPublicKeyInfo};
    use serde_json::json;

    use super::*;
    use crate::authority::{Authority, ROOT_LIFETIME, make_root};
    use crate::request::tests::fit;
    use crate::testing::FakeServer;

    #[tokio::test]
    async fn no_request_is_approved_that_cannot_be_signed() {
        let now = SystemTime::now();
        let expired = Authority::read(&make_root(now - 2 * ROOT_LIFETIME).unwrap()).unwrap();
        let expired = Trust {
            bundle: expired.anchors.clone(),
            signing: expired,
        };
        for (trust, expected) in [
            (None, NodeCaAnswer::NoRoot),
            (Some(Arc::new(expired)), NodeCaAnswer::NotSigned),
        ] {
            // Nobody listens there: a write would end with another error.
            let config = kube::Config::new("http://127.0.0.1:1".parse().unwrap());
            let (_trust, trust) = watch::channel(trust);
            let signer = Signer::new(
                Client::try_from(config).unwrap(),
                "picket-system",
                PermittedNames::new(&[]).unwrap(),
                trust,
                ControllerMetrics::register(&picket_metrics::MetricsRegistry::default()),
            );
            let error = signer.answer(&fit()).await.unwrap_err();
            assert_eq!(error.answer(), expected, "{error}");
        }
    }

    /// A list and a watch of requests, for as long as `until` is not met, and the metrics then.
    async fn watched(watch: &'static str, until: impl Fn(&FakeServer) -> bool) -> String {
        let server = FakeServer::start(move |request| match request.is_watch() {
            true => (200, watch.to_owned()),
            false => {
                let list = json!({
                    "kind": "CertificateSigningRequestList", "apiVersion": "certificates.k8s.io/v1",
                    "metadata": {"resourceVersion": "1"}, "items": [],
                });
                (200, list.to_string())
            }
        })
        .await;
        let registry = picket_metrics::MetricsRegistry::default();
        let (_trust, trust) = watch::channel(None);
        let signer = Signer::new(
            server.client(),
            "picket-system",
            PermittedNames::new(&[]).unwrap(),
            trust,
            ControllerMetrics::register(&registry),
        );
        let met = async {
            while !until(&server) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::select! {
            () = signer.run() => {}
            met = tokio::time::timeout(Duration::from_secs(60), met) => met.unwrap(),
        }
        registry.encode().unwrap()
    }

    const FAILED: &str = "picket_controller_errors_total{part=\"signer\"}";

    #[tokio::test]
    async fn an_event_that_cannot_be_read_is_followed_by_a_list() {
        // kube takes a line that is no event for a Status without a code.
        for unread in ["{\"kind\":\"Status\",\"message\":\"no\"}\n", "no JSON\n"] {
            let text = watched(unread, |server| server.lists() > 2).await;
            assert!(!text.contains(&format!("{FAILED} 0\n")), "{text}");
        }
    }

    #[tokio::test]
    async fn a_watch_that_is_too_old_is_no_failure() {
        let old = "{\"type\":\"ERROR\",\"object\":{\"kind\":\"Status\",\"code\":410,\"reason\":\"Expired\",\"message\":\"too old\"}}\n";
        let text = watched(old, |server| server.lists() > 1).await;
        assert!(text.contains(&format!("{FAILED} 0\n")), "{text}");
    }

    #[test]
    fn an_approval_does_not_stand_in_for_the_judgement() {
        let key = KeyPair::generate().unwrap().subject_public_key_info();
        let request = NodeCaRequest {
            node: "node-1".to_owned(),
            key: SubjectPublicKeyInfo::from_der(&key).unwrap(),
            lifetime: Duration::from_secs(3600),
        };
        let cases = [
            (RequestState::Pending, true, "Approve"),
            (RequestState::Pending, false, "Deny"),
            (RequestState::Approved, true, "Issue"),
            (RequestState::Approved, false, "Fail"),
            (RequestState::Done, true, "Wait"),
            (RequestState::Done, false, "Wait"),
        ];
        for (state, is_fit, expected) in cases {
            let judged = is_fit.then(|| request.clone()).ok_or(Refusal::NoNode);
            let name = match step(state, || judged) {
                SigningStep::Wait => "Wait",
                SigningStep::Approve(_) => "Approve",
                SigningStep::Deny(_) => "Deny",
                SigningStep::Issue(_) => "Issue",
                SigningStep::Fail(_) => "Fail",
            };
            assert_eq!(name, expected, "{state:?}, fit: {is_fit}");
        }
    }

    #[test]
    fn a_conflict_waits_for_the_newest_version_and_other_errors_are_tried_again() {
        let api = |code: u16| {
            let status = Status::failure("no", "No").with_code(code);
            SignError::Api(kube::Error::Api(Box::new(status)))
        };
        let cases = [
            (api(409), true),
            (api(403), false),
            (api(500), false),
            (SignError::NoRoot, false),
        ];
        for (error, expected) in cases {
            assert_eq!(is_conflict(&error), expected, "{error}");
        }
    }

    #[test]
    fn a_request_is_answered_once() {
        let mut csr = CertificateSigningRequest::default();
        assert_eq!(state(&csr), RequestState::Pending);
        csr = with(&csr, condition("Approved", "a", "b"));
        assert_eq!(state(&csr), RequestState::Approved);
        let mut signed = csr.clone();
        signed.status.get_or_insert_default().certificate = Some(ByteString(b"x".to_vec()));
        assert_eq!(state(&signed), RequestState::Done);
        for kind in ["Denied", "Failed"] {
            let ended = with(&csr, condition(kind, "a", "b"));
            assert_eq!(state(&ended), RequestState::Done, "{kind}");
        }
    }
}
