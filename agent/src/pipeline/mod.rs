//! The way of a request through Picket, stage by stage.
//!
//! In: a connection that the listener accepted. Out: its requests answered, by the API server or by a refusal, each with
//! its audit record. A stage that cannot do its part ends the request; none can be skipped, since the next asks for
//! what the one before hands over.
//!
//! | file | holds |
//! |---|---|
//! | `mod` | the stages, in order |
//! | `arrivals` | a task for each connection that a listener accepted |
//! | `client` | the client's socket, and how long the client may stand still |
//! | `frames` | the frames of an HTTP/2 client, counted |
//! | `server` | HTTP to the client: handshake, limits, the end of a connection |
//! | `heads` | heads that are longer than hyper takes |
//! | `judge` | the decision, and the objects that rules look into |
//! | `newcomer` | connections of the gateway until it is known who calls |
//! | `connection` | what is the same for all requests of a connection |
//! | `limited` | requests above a limit |
//! | `record` | what the audit record is told |
//! | `filtered` | answers from which hidden objects are taken out |
//! | `send` | the decision and the way to the API server, again where Picket brought a conflict about |
//! | `body`, `session` | answers that are streamed, and connections that change their protocol |
//! | `watched` | answers that take long: noted, judged again, and ended where nobody takes them |
//! | `write` | writes that were sent, awaited whoever left |

pub(crate) mod arrivals;
mod body;
mod client;
mod connection;
mod filtered;
mod frames;
mod heads;
mod judge;
mod limited;
mod metrics;
mod newcomer;
mod record;
mod send;
mod server;
mod session;
mod watched;
mod write;

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use http::header::{AUTHORIZATION, WARNING};
use http::{HeaderValue, Method, Request, Response, StatusCode, Version};
use http_body_util::Full;
use hyper::body::{Body as _, Incoming};
use hyper::upgrade::OnUpgrade;
use jiff::Timestamp;
use picket_policy::{Ask, CanonicalRequest, Decision, KubeRequest, Permit, PolicySet};
use rustls::ServerConfig;

use crate::approval::{self, Approvals};
use crate::audit::{AuditLog, EndReason, Record};
use crate::identity::ResolvedPrincipal;
use crate::identity::jwt::Issuers;
use crate::limits::RequestLimits;
use crate::listener::{PodShare, TUNNELS_PER_POD};
use crate::notify::EventQueue;
use crate::pki::PkiError;
use crate::reject::{HeadError, Rejection};
use crate::runtime::drain::Drain;
use crate::session::{Farewell, Registry, SessionBody, SessionKind, Slot, Traffic, Upgraded};
use crate::store::Store;
use crate::tls::Certificates;
use crate::upstream::{
    RequestBody, ResponseWindow, StillPermitted, UpgradeProtocol, Upstream, UpstreamBody, UsedCredential,
    requested_upgrade,
};

pub use metrics::{OpenConnection, PipelineMetrics};

use body::{AuditedBody, ResponseBody, audited};
use connection::Connection;
use filtered::ItemFiltering;
use heads::{HeadBudget, HeldHead};
use record::{
    findings, record_principal, record_rejection, record_request, record_status, record_token,
    record_unknown_caller,
};
use send::{RequestContext, SentRequest};
use server::FailedHandshakes;
use session::{Basis, Following, InForce};
use watched::WatchedBodies;
use write::AbandonedWrites;

/// All stages, put together.
pub struct Pipeline {
    tls: Arc<ServerConfig>,
    gateway_tls: Option<Arc<ServerConfig>>,
    certificates: Arc<Certificates>,
    in_force: Arc<InForce>,
    approvals: Approvals,
    upstream: Upstream,
    audit: AuditLog,
    drain: Drain,
    abandoned: AbandonedWrites,
    kube_events: EventQueue,
    handshakes: FailedHandshakes,
    heads: Arc<HeadBudget>,
    strangers_heads: Arc<HeadBudget>,
    watched: WatchedBodies,
    limits: RequestLimits,
}

/// What comes back when nothing refused.
enum Handled {
    Response(Response<UpstreamBody>, Arc<Basis>, Option<Box<ItemFiltering>>),
    /// A watch, or a log that is followed.
    Following(Response<UpstreamBody>, Following),
    Upgraded(Response<Full<Bytes>>, Upgraded),
}

/// What says who a caller is, what the caller may do, and how much of it.
#[derive(Debug)]
pub struct IdentitySources {
    /// Identities, grants and policies.
    pub store: Arc<Store>,
    /// The issuers of tokens.
    pub issuers: Issuers,
    /// What agents have asked for so far.
    pub limits: RequestLimits,
}

impl Pipeline {
    /// Puts the stages together.
    ///
    /// # Errors
    /// When rustls refuses its configuration.
    pub fn new(
        certificates: &Arc<Certificates>,
        IdentitySources {
            store,
            issuers,
            limits,
        }: IdentitySources,
        upstream: Upstream,
        audit: AuditLog,
        drain: Drain,
        sessions: Registry,
        kube_events: EventQueue,
    ) -> Result<Arc<Pipeline>, PkiError> {
        let tls = certificates.server_config()?;
        Ok(Arc::new(Pipeline {
            gateway_tls: certificates.gateway_config(&tls),
            tls,
            certificates: Arc::clone(certificates),
            in_force: Arc::new(InForce {
                store,
                issuers,
                sessions,
            }),
            approvals: Approvals::default(),
            upstream,
            audit,
            abandoned: AbandonedWrites::new(drain.clone()),
            watched: WatchedBodies::new(drain.clone()),
            drain,
            kube_events,
            handshakes: FailedHandshakes::new(),
            heads: HeadBudget::new(),
            strangers_heads: HeadBudget::of_strangers(),
            limits,
        }))
    }

    /// Answers one request.
    async fn answer(
        &self,
        connection: &Arc<Connection>,
        mut request: Request<Incoming>,
    ) -> Response<ResponseBody> {
        // Before the record, so that one pod's requests take no more of the log than its share.
        let place = connection.share().request().await;
        let head_error = request.extensions_mut().remove::<HeadError>();
        let mut record = match self.audit.begin(connection.received(&request)).await {
            Ok(record) => record,
            Err(error) => {
                return Rejection::Audit(error)
                    .response(None, None)
                    .map(ResponseBody::Local);
            }
        };
        record.user(connection.user());
        record.holds(place);
        if let Some(held) = request.extensions_mut().remove::<Arc<HeldHead>>() {
            record.keep(held);
        }
        if let Some(error) = head_error {
            return refuse(Rejection::Head(error), record, None, connection.share()).await;
        }
        let mut kube = None;
        match self.handle(connection, &mut record, &mut kube, request).await {
            Ok(Handled::Response(response, basis, filtering)) => {
                response.map(|body| self.response_body(audited(body, record, filtering), basis))
            }
            Ok(Handled::Following(response, following)) => response.map(|body| {
                let (slot, body) = following.body(body, record);
                let share = Arc::clone(connection.share());
                ResponseBody::Watched(self.watched.watch(slot, body, share, None))
            }),
            Ok(Handled::Upgraded(response, upgraded)) => {
                // The drain's limit ends it.
                self.drain.serve(upgraded.carry(record));
                response.map(ResponseBody::Local)
            }
            Err(Rejection::Limited(exceeded)) => {
                Box::pin(self.refuse_limited(exceeded, record, kube.as_deref(), connection)).await
            }
            Err(rejection) => {
                if let (Rejection::TunnelShare(_), Some(pod)) = (&rejection, connection.pod()) {
                    self.report_share(&pod, "tunnels", &rejection.to_string());
                }
                refuse(rejection, record, kube.as_deref(), connection.share()).await
            }
        }
    }

    /// The body of a response that is no session. One that has more to come is watched.
    fn response_body(&self, body: AuditedBody, basis: Arc<Basis>) -> ResponseBody {
        if body.is_end_stream() {
            return ResponseBody::Upstream(body);
        }
        let slot = Slot::new();
        let traffic = Arc::new(Traffic::default());
        let body = SessionBody::new(
            Arc::clone(&slot),
            body,
            // Of no session: it ends without a last word, and not in order where the API server broke off.
            SessionKind::Upgrade,
            Farewell::Silent,
            traffic,
            None,
        );
        let share = Arc::clone(basis.share());
        ResponseBody::Watched(self.watched.watch(slot, body, share, Some(basis)))
    }

    /// The stages, in order. What was read of the request is left in `kube`, for the answer to a refusal.
    async fn handle(
        &self,
        connection: &Arc<Connection>,
        record: &mut Record,
        kube: &mut Option<Arc<KubeRequest>>,
        mut request: Request<Incoming>,
    ) -> Result<Handled, Rejection> {
        let began = Instant::now();
        let client = hyper::upgrade::on(&mut request);
        let (head, body) = request.into_parts();
        let is_head = head.method == Method::HEAD;
        let request = CanonicalRequest::read(head)?;
        let kube = &*kube.insert(Arc::clone(request.kube()));
        record_request(record, kube);
        let upgrade = read_upgrade(&request)?;

        // Before anything is read that may change.
        let ticket = self.in_force.sessions.ticket();
        let policies = self.in_force.store.current();
        let authorization = request.head().headers.get(AUTHORIZATION);
        let token = connection
            .token(&self.in_force.issuers, &policies, authorization)
            .await;
        let token = token.as_ref().map(Result::as_ref);
        let shown = token.map(|token| token.map_err(|refused| &refused.error));
        let agent = self
            .in_force
            .agent(&policies, connection, shown, Timestamp::now())
            .inspect_err(|rejection| {
                let Rejection::Identity(error) = rejection else {
                    return;
                };
                if error.is_unauthenticated() {
                    self.in_force.issuers.count_failure(error.code());
                }
                record_unknown_caller(record, error, connection, token);
            })?;
        record_principal(record, &agent, connection);
        if let Some(stranger) = connection.stranger() {
            // Boxed: that is once a connection, and of few connections.
            Box::pin(self.became_known(stranger, &agent.name, record)).await?;
        }
        self.admit(&policies, &agent, record)?;
        let agent = self
            .for_person(connection, &policies, agent, authorization, record)
            .await?;
        let claims = connection.check_claims(&request.head().headers, &agent);
        claims.map_err(|rejection| self.repeated(&policies, &agent, kube, record, rejection))?;
        if upgrade.is_some() {
            let tunnel = connection.share().tunnel();
            record.holds(Some(tunnel.ok_or(Rejection::TunnelShare(TUNNELS_PER_POD))?));
        }

        let body = RequestBody::of_client(body, request.head().version);
        let context = RequestContext {
            connection,
            policies: &policies,
            agent: &agent,
            kube,
            ticket,
            upgrade,
            began,
        };
        let SentRequest {
            mut response,
            credential,
            basis,
            warnings,
        } = self.judge_and_send(&context, request, body, record).await?;
        for warning in warnings {
            response.headers_mut().append(WARNING, warning);
        }
        let mut filtering = ItemFiltering::of_response(&basis, is_head, &mut response)?;
        if let Some(filtering) = &mut filtering {
            // Boxed: few answers are filtered, and what that takes would be part of every request's future.
            Box::pin(filtering.begin(response.body_mut(), kube.verb)).await?;
            // The first item may come long after the decision, and what comes after it is over before anybody looks.
            if !basis.is_permitted() {
                return Err(basis.judge().err().unwrap_or(Rejection::NoLongerPermitted));
            }
        }
        let client = upgrade.map(|protocol| (protocol, client));
        self.finish_response(basis, client, (response, filtering), credential, record)
            .await
    }

    /// The answer on its way back. One that goes on for long is registered, and noted in the record before its first byte.
    async fn finish_response(
        &self,
        basis: Arc<Basis>,
        client: Option<(UpgradeProtocol, OnUpgrade)>,
        (response, filtering): (Response<UpstreamBody>, Option<Box<ItemFiltering>>),
        credential: Option<UsedCredential>,
        record: &mut Record,
    ) -> Result<Handled, Rejection> {
        record.response(response.status().as_u16(), None, None);
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            let client = client.ok_or(Rejection::UnexpectedUpgrade)?;
            let (response, upgraded) = self.switch(&basis, response, client, credential, record)?;
            Box::pin(record.started()).await?;
            return Ok(Handled::Upgraded(response, upgraded));
        }
        if basis.request().follow && response.status().is_success() {
            let following = self.follow(&basis, (&response, filtering), credential, record)?;
            Box::pin(record.started()).await?;
            return Ok(Handled::Following(response, following));
        }
        Ok(Handled::Response(response, basis, filtering))
    }

    /// The agent, with the person for whom it asks where the request shows a person's token.
    async fn for_person(
        &self,
        connection: &Connection,
        policies: &PolicySet,
        agent: Arc<ResolvedPrincipal>,
        authorization: Option<&HeaderValue>,
        record: &mut Record,
    ) -> Result<Arc<ResolvedPrincipal>, Rejection> {
        let issuers = &self.in_force.issuers;
        let shown = connection.person_token(issuers, policies, &agent, authorization);
        let Some(shown) = shown.await else {
            return Ok(agent);
        };
        let for_person = match &shown {
            Ok(token) => connection.on_behalf_of(policies, &agent, token),
            Err(refused) => Err(refused.error.clone().into()),
        };
        let agent = for_person.map_err(|error| {
            if error.is_unauthenticated() {
                issuers.count_failure(error.code());
            }
            record_token(record, connection, shown.as_ref());
            Rejection::Identity(error)
        })?;
        connection.record_person(record, &agent);
        Ok(agent)
    }

    /// The permit, where there is one or a person gives it.
    async fn permit(&self, decision: Decision, record: &mut Record) -> Result<Permit, Rejection> {
        match decision {
            Decision::Permit(permit) => Ok(permit),
            // Boxed: few requests wait for a person, and what that takes would be part of every request's future.
            Decision::Ask(ask) => Box::pin(self.approval(ask, record)).await,
            Decision::Deny(denial) => Err(Rejection::Denied(denial)),
        }
    }

    /// Holds a request until a person decides.
    async fn approval(&self, ask: Ask, record: &mut Record) -> Result<Permit, Rejection> {
        let rule = approval::first_rule(&ask);
        record.findings(Vec::new(), findings(ask.would_deny()));
        let (policy, rule, message) = (rule.policy, rule.rule, rule.message);
        record.hold(Some(policy), Some(rule), message).await?;
        self.approvals.wait(ask).await.map_err(Rejection::Approval)
    }
}

/// How much of the response may wait for its client. The record holds the pod's right to a large window until the response ends.
fn response_window(share: &PodShare, follow: bool, record: &mut Record) -> ResponseWindow {
    let large = share.large_window(follow);
    let window = match large {
        Some(_) => ResponseWindow::Large,
        None => ResponseWindow::Small,
    };
    record.holds(large);
    window
}

/// Turns a refusal into the answer; a denial is on disk before anybody learns of it.
async fn refuse(
    mut rejection: Rejection,
    mut record: Record,
    kube: Option<&KubeRequest>,
    share: &PodShare,
) -> Response<ResponseBody> {
    record_rejection(&mut record, &rejection, kube);
    share.refused(record.size());
    if rejection.is_denial()
        && let Err(error) = Box::pin(record.commit_before_effect()).await
    {
        rejection = Rejection::Audit(error);
        record_status(&mut record, &rejection.status(kube));
    }
    let id = record.id();
    record.finish(EndReason::Completed);
    rejection.response(kube, Some(id)).map(ResponseBody::Local)
}

/// The upgrade a request asks for, where its connection can carry one.
fn read_upgrade(request: &CanonicalRequest) -> Result<Option<UpgradeProtocol>, Rejection> {
    if !request.kube().upgrade {
        return Ok(None);
    }
    let head = request.head();
    if head.version != Version::HTTP_11 {
        return Err(Rejection::Upgrade(head.version));
    }
    Ok(requested_upgrade(&head.headers))
}

#[cfg(test)]
mod tests;
