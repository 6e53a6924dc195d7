//! The way of a request through Picket, stage by stage.
//!
//! In: a connection that the listener accepted. Out: its requests answered, by the API server or by a refusal, each with
//! its audit record. A stage that cannot do its part ends the request; none can be skipped, since the next asks for
//! what the one before hands over.

pub(crate) mod arrivals;
mod body;
mod connection;
mod session;

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use http::header::{CONNECTION, WARNING};
use http::{HeaderValue, Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::{TokioIo, TokioTimer};
use jiff::Timestamp;
use picket_policy::{CanonicalRequest, Decision, Finding, Inputs, KubeRequest, Permit, Target, Verb};
use rustls::ServerConfig;

use crate::approval::{self, Approvals};
use crate::audit::{self, AuditLog, EndReason, ObjectRef, Record, User};
use crate::listener::Accepted;
use crate::notify::{EventQueue, KubeEvent, Reason};
use crate::pki::PkiError;
use crate::reject::{Rejection, warning_value};
use crate::runtime::drain::{Drain, Parts};
use crate::store::Store;
use crate::tls::{self, Certificates};
use crate::upstream::{RequestBody, ResponseBody, UpgradeProtocol, Upstream, extras, upgrade_asked};

use body::{Passed, Served};
use connection::Connection;
use session::UpgradedResponse;

/// Requests at once on one HTTP/2 connection of a client: what Go's server offers by default, and more than
/// kube-apiserver's 100, as kube-rs and others have one connection only. Clients of Go open further connections.
const CLIENT_STREAMS: u32 = 250;

/// The head of a request: kube-apiserver takes 1 MB, real ones have a few KB, and a pod must not be able to make the node
/// hold much.
const HEAD_BYTES: usize = 64 * 1024;
const HEAD_FIELDS: usize = 128;

/// How long an HTTP/1.1 client may be silent between requests or within a head. Longer than the 90 s after which Go
/// clients close idle connections (k8s.io/apimachinery pkg/util/net/http.go), so that no request meets the close.
const HEAD_LIMIT: Duration = Duration::from_secs(120);

/// A client that does not answer an HTTP/2 ping is gone, and what it asked for is taken back.
const PING_INTERVAL: Duration = Duration::from_secs(20);
const PING_TIMEOUT: Duration = Duration::from_secs(20);

/// What a client may send on one stream, and in all, before the API server has taken it.
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;

/// What is buffered per stream towards a client; beyond it the API server is made to wait.
const SEND_BUFFER: usize = 64 * 1024;

/// How long an HTTP/1.1 connection without a request is kept when the drain begins: it may be new, and its first request on
/// its way. What comes within this time is answered, and told that the connection closes.
const LINGER: Duration = Duration::from_secs(1);

/// What is told of a pod whose clients do not trust Picket.
const DISTRUST: &str = "A client in this pod does not accept Picket's certificate, so it does not reach the API server: is the \
     namespace enrolled (label picket.dev/enrolled=true), and was the pod made since? A client with a CA of its own needs \
     Picket's beside it";

/// Failed handshakes are logged no more often than that.
const COMPLAIN_EVERY: Duration = Duration::from_secs(1);

/// All stages, put together.
pub struct Pipeline {
    tls: Arc<ServerConfig>,
    certificates: Arc<Certificates>,
    store: Arc<Store>,
    approvals: Approvals,
    upstream: Upstream,
    audit: AuditLog,
    drain: Drain,
    kube_events: EventQueue,
    began: Instant,
    /// Milliseconds since `began` at which a failed handshake was last logged; 0 for never.
    complained: AtomicU64,
}

impl Pipeline {
    /// Puts the stages together.
    ///
    /// # Errors
    /// When rustls refuses its configuration.
    pub fn new(
        certificates: &Arc<Certificates>,
        store: Arc<Store>,
        upstream: Upstream,
        audit: AuditLog,
        drain: Drain,
        kube_events: EventQueue,
    ) -> Result<Arc<Pipeline>, PkiError> {
        Ok(Arc::new(Pipeline {
            tls: certificates.server_config()?,
            certificates: Arc::clone(certificates),
            store,
            approvals: Approvals::default(),
            upstream,
            audit,
            drain,
            kube_events,
            began: Instant::now(),
            complained: AtomicU64::new(0),
        }))
    }

    /// Serves one connection to its end. When the drain begins, or the pod is released, requests under way end first: HTTP/2 clients are told
    /// with GOAWAY, HTTP/1.1 connections close after the response. Dropping the future cuts the connection.
    pub async fn serve(self: Arc<Self>, accepted: Accepted) {
        let source = accepted.stream.peer_addr().ok();
        let pod = accepted.workload.load_full();
        let _place = accepted.place;
        let connection = Arc::new(Connection::new(
            accepted.workload,
            &accepted.process,
            source,
            accepted.released,
        ));
        let dialled = accepted.origin.ip();
        let config = self.certificates.config_for(&self.tls, dialled);
        let config = config.unwrap_or_else(|error| {
            // The shared one may do: a client may have dialled a name.
            tracing::error!(%error, %dialled, "no certificate for the address that was dialled");
            Arc::clone(&self.tls)
        });
        let session = match tls::accept(config, accepted.stream).await {
            Ok(session) => session,
            Err(error) => {
                // Most often a pod whose client does not trust Picket's bundle, which its owner has to hear of.
                // Said once in a while, since a pod can bring it about without end.
                if self.may_complain() {
                    tracing::warn!(%error, namespace = pod.namespace, pod = pod.name, "no TLS session");
                }
                if error.is_distrust() {
                    self.kube_events.report(KubeEvent {
                        about: pod.about(),
                        reason: Reason::CertificateRejected,
                        detail: String::new(),
                        note: DISTRUST.to_owned(),
                    });
                }
                return;
            }
        };
        let http2 = session.get_ref().1.alpn_protocol() == Some(b"h2");
        let streams = self.drain.parts();
        let (drain, left) = (self.drain.finishing(), connection.left());
        let finishing = {
            let (drain, left) = (drain.clone(), left.clone());
            async move {
                tokio::select! {
                    () = drain.cancelled() => {}
                    () = left.cancelled() => {}
                }
            }
        };
        let service = service_fn(move |request| {
            let (pipeline, connection) = (Arc::clone(&self), Arc::clone(&connection));
            let (drain, left) = (drain.clone(), left.clone());
            async move {
                let mut response = pipeline.serve_request(&connection, request).await;
                if !http2
                    && (drain.is_cancelled() || left.is_cancelled())
                    && response.status() != StatusCode::SWITCHING_PROTOCOLS
                {
                    response
                        .headers_mut()
                        .insert(CONNECTION, HeaderValue::from_static("close"));
                }
                Ok::<_, Infallible>(response)
            }
        });
        let io = TokioIo::new(session);
        let outcome = if http2 {
            let mut serving = pin!(http2_builder(streams).serve_connection(io, service));
            tokio::select! {
                outcome = serving.as_mut() => outcome,
                () = finishing => {
                    serving.as_mut().graceful_shutdown();
                    serving.await
                }
            }
        } else {
            let mut serving = pin!(http1_builder().serve_connection(io, service).with_upgrades());
            let lingered = async {
                finishing.await;
                tokio::time::sleep(LINGER).await;
            };
            tokio::select! {
                outcome = serving.as_mut() => outcome,
                () = lingered => {
                    serving.as_mut().graceful_shutdown();
                    serving.await
                }
            }
        };
        if let Err(error) = outcome {
            tracing::debug!(%error, namespace = pod.namespace, pod = pod.name, "a client connection ended");
        }
    }

    fn may_complain(&self) -> bool {
        let now = self.began.elapsed().as_millis() as u64;
        let last = self.complained.load(Ordering::Relaxed);
        (last == 0 || now.saturating_sub(last) >= COMPLAIN_EVERY.as_millis() as u64)
            && self
                .complained
                .compare_exchange(last, now.max(1), Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
    }

    /// Answers one request.
    async fn serve_request(&self, connection: &Connection, request: Request<Incoming>) -> Response<Served> {
        let mut record = match self.audit.begin(connection.received(&request)).await {
            Ok(record) => record,
            Err(error) => return Rejection::Audit(error).response(None).map(Served::Own),
        };
        record.user(connection.user());
        let mut kube = None;
        match self.handle(connection, &mut record, &mut kube, request).await {
            Ok(Handled::Response(response)) => response.map(|body| Served::Passed(Passed::new(body, record))),
            Ok(Handled::Upgraded(upgraded)) => self.begin_session(upgraded, record),
            Err(rejection) => refuse(rejection, record, kube.as_deref()).await,
        }
    }

    /// The stages, in order. What was read of the request is left in `kube`, for the answer to a refusal.
    async fn handle(
        &self,
        connection: &Connection,
        record: &mut Record,
        kube: &mut Option<Arc<KubeRequest>>,
        mut request: Request<Incoming>,
    ) -> Result<Handled, Rejection> {
        let began = Instant::now();
        let client = hyper::upgrade::on(&mut request);
        let (head, body) = request.into_parts();
        let request = CanonicalRequest::read(head)?;
        let kube = &*kube.insert(Arc::clone(request.kube()));
        record.target(kube.verb.as_str(), object(kube));
        let upgrade = read_upgrade(&request)?;

        let policies = self.store.current();
        let who = connection.who(&policies, Timestamp::now())?;
        record.identity(Arc::clone(&who.name), who.principal.attestation());

        let decision = policies.decide(Arc::clone(&who.principal), request, Inputs::default());
        record.policy_took(began.elapsed());
        let permit = match decision {
            Decision::Permit(permit) => permit,
            Decision::Ask(ask) => {
                let rule = approval::first_rule(&ask);
                record.findings(Vec::new(), findings(ask.would_deny()));
                record
                    .hold(Some(rule.policy), Some(rule.rule), rule.message)
                    .await?;
                self.approvals.wait(ask).await.map_err(Rejection::Approval)?
            }
            Decision::Deny(denial) => return Err(Rejection::Denied(denial)),
        };
        record_decision(record, &permit);

        if kube.is_mutating() || upgrade.is_some() {
            record.commit_before_effect().await?;
        }
        let client = upgrade.map(|upgrade| (upgrade, client));
        let warnings: Vec<_> = permit.warnings().iter().map(warning).collect();
        let response = self.send(permit, body.into(), record, upgrade).await?;
        finish_response(kube, client, response, record, warnings).await
    }

    /// Sends a permit's request, and tells the record by which credential and how long it took.
    async fn send(
        &self,
        permit: Permit,
        body: RequestBody,
        record: &mut Record,
        upgrade: Option<UpgradeProtocol>,
    ) -> Result<Response<ResponseBody>, Rejection> {
        let sent = Instant::now();
        let audit_id = record.id().to_string();
        let attempt = self.upstream.send(permit, body, &audit_id, upgrade).await;
        if let Some(used) = attempt.credential {
            record.credential(used.method, used.id);
        }
        let response = attempt.response?;
        record.upstream_took(sent.elapsed());
        Ok(response)
    }
}

/// What comes back when nothing refused.
enum Handled {
    Response(Response<ResponseBody>),
    Upgraded(UpgradedResponse),
}

/// The answer on its way back: warnings put in, long ones noted in the record.
async fn finish_response(
    kube: &KubeRequest,
    client: Option<(UpgradeProtocol, OnUpgrade)>,
    mut response: Response<ResponseBody>,
    record: &mut Record,
    warnings: Vec<HeaderValue>,
) -> Result<Handled, Rejection> {
    for warning in warnings {
        response.headers_mut().append(WARNING, warning);
    }
    record.response(response.status().as_u16(), None, None);
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        let Some((protocol, client)) = client else {
            return Err(Rejection::Unasked);
        };
        record.session(Some(record.id().to_string()), protocol.as_str());
        record.started().await?;
        return Ok(Handled::Upgraded(UpgradedResponse::new(response, client)));
    }
    if kube.follow && response.status().is_success() {
        record.session(None, if kube.verb == Verb::Watch { "watch" } else { "logs" });
        record.started().await?;
    }
    Ok(Handled::Response(response))
}

/// Turns a refusal into the answer; a denial is on disk before anybody learns of it.
async fn refuse(rejection: Rejection, mut record: Record, kube: Option<&KubeRequest>) -> Response<Served> {
    let message = rejection.message(kube);
    record.response(
        rejection.code().as_u16(),
        Some(rejection.reason().into()),
        Some(message.clone()),
    );
    let mut shown = rejection;
    match &shown {
        Rejection::Denied(denial) => {
            record.findings(Vec::new(), findings(denial.would_deny()));
            let (policy, rule) = (
                denial.policy().map(str::to_owned),
                denial.rule().map(str::to_owned),
            );
            record.deny(shown.label(), policy, rule, message);
        }
        Rejection::Approval(error) => {
            let rule = error.rule().clone();
            record.deny(shown.label(), Some(rule.policy), Some(rule.rule), message);
        }
        Rejection::Identity(error) => {
            if let Some(name) = error.identity() {
                record.identity(name, "pod");
            }
            record.deny(shown.label(), None, None, message);
        }
        _ => record.error(shown.label(), message),
    }
    if shown.is_denial()
        && let Err(error) = record.commit_before_effect().await
    {
        shown = Rejection::Audit(error);
        let message = shown.message(kube);
        record.response(shown.code().as_u16(), Some(shown.reason().into()), Some(message));
    }
    record.finish(EndReason::Completed);
    shown.response(kube).map(Served::Own)
}

/// The upgrade a request asks for, where its connection can carry one.
fn read_upgrade(request: &CanonicalRequest) -> Result<Option<UpgradeProtocol>, Rejection> {
    if !request.kube().upgrade {
        return Ok(None);
    }
    let head = request.head();
    let protocol = upgrade_asked(&head.headers).map_err(Rejection::Upgrade)?;
    if head.version != Version::HTTP_11 {
        return Err(Rejection::Upgrade(format!("{:?}", head.version)));
    }
    Ok(protocol)
}

fn record_decision(record: &mut Record, permit: &Permit) {
    record.allow(Some(permit.policy().to_owned()), Some(permit.rule().to_owned()));
    let impersonate = permit.impersonate();
    let extra = extras(permit.principal()).map(|(name, value)| (name.to_owned(), vec![value]));
    record.impersonated(Arc::new(User {
        username: impersonate.user.clone(),
        groups: impersonate.groups.clone(),
        extra: extra.into(),
        uid: None,
    }));
    if !permit.warnings().is_empty() || !permit.would_deny().is_empty() {
        record.findings(findings(permit.warnings()), findings(permit.would_deny()));
    }
}

fn findings(found: &[Finding]) -> Vec<audit::Finding> {
    found
        .iter()
        .map(|finding| audit::Finding {
            policy: finding.policy.clone(),
            rule: finding.rule.clone(),
            message: finding.message.clone(),
        })
        .collect()
}

fn object(kube: &KubeRequest) -> Option<ObjectRef> {
    match &kube.target {
        Target::Resource {
            group,
            version,
            resource,
            subresource,
            namespace,
            name,
        } => Some(ObjectRef {
            resource: resource.clone(),
            namespace: namespace.clone(),
            name: name.clone(),
            api_group: group.clone(),
            api_version: version.clone(),
            subresource: subresource.clone(),
        }),
        Target::NonResource { .. } => None,
    }
}

/// What a client is told of a rule that fired.
fn warning(finding: &Finding) -> HeaderValue {
    warning_value(&format!(
        "policy {}, rule {}: {}",
        finding.policy, finding.rule, finding.message
    ))
}

fn http1_builder() -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_LIMIT)
        .max_headers(HEAD_FIELDS)
        .max_buf_size(HEAD_BYTES);
    builder
}

fn http2_builder(streams: Parts) -> http2::Builder<Parts> {
    let mut builder = http2::Builder::new(streams);
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(CLIENT_STREAMS)
        .max_header_list_size(HEAD_BYTES as u32)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(SEND_BUFFER)
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT);
    builder
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_warning_cannot_break_out_of_its_field() {
        let finding = Finding {
            policy: "guard".into(),
            rule: "r".into(),
            message: "say \"no\"\r\nSet-Cookie: a\\b — ".to_owned() + &"x".repeat(1000),
        };
        let value = warning(&finding);
        let text = std::str::from_utf8(value.as_bytes()).unwrap();
        assert!(
            text.starts_with(r#"299 - "policy guard, rule r: say \"no\"  Set-Cookie: a\\b — xxx"#),
            "{text}"
        );
        assert!(text.ends_with('"') && text.chars().count() < 300);
    }
}
