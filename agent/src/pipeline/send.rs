//! The decision on a request and its way to the API server; a write that meets a conflict which Picket brought about is judged anew.
//!
//! In: a request, who asks, and the body. Out: the API server's response, with what the request was permitted by.
//!
//! Where rules look into objects, Picket holds a patch, an update or a delete to the version that it was judged on. The API server answers
//! 409 where the object has changed since. A client that named no version would not have seen that conflict, and few clients try a patch
//! again: so the write is judged anew, from what the client sent, and sent again.

use std::borrow::Borrow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{HeaderValue, Response, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use picket_policy::{CanonicalRequest, Decision, FiredRule, KubeRequest, Permit, PolicySet};

use super::connection::Connection;
use super::filtered::check_accept;
use super::judge::{BODY_DEADLINE, BoundWrite, Judge, JudgedRequest};
use super::record::record_decision;
use super::session::{Basis, may_be_session};
use super::write::Exchange;
use super::{Pipeline, response_window};
use crate::audit::Record;
use crate::identity::ResolvedPrincipal;
use crate::reject::{Rejection, warning_value};
use crate::runtime::backoff::Backoff;
use crate::session::Ticket;
use crate::upstream::{
    BodyLoss, RequestBody, RequestOrigin, ResponseWindow, SendError, StillPermitted, UpgradeProtocol,
    Upstream, UpstreamBody, UsedCredential,
};

/// How often a write is sent that meets conflicts.
const TRIES: u32 = 3;

/// The pauses between tries, up to twice as long: those who write the same object must not meet again at once.
const PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_millis(100);

/// As much of an answer 409 is read as leaves its connection in use.
const CONFLICT_ANSWER: usize = 64 * 1024;

/// Who asks for what.
pub(super) struct RequestContext<'a> {
    pub(super) connection: &'a Arc<Connection>,
    pub(super) policies: &'a Arc<PolicySet>,
    pub(super) agent: &'a Arc<ResolvedPrincipal>,
    pub(super) kube: &'a Arc<KubeRequest>,
    /// Taken before anything was read that may change.
    pub(super) ticket: Ticket,
    pub(super) upgrade: Option<UpgradeProtocol>,
    pub(super) began: Instant,
}

/// What the API server answered, and by what it was asked.
pub(super) struct SentRequest {
    pub(super) response: Response<UpstreamBody>,
    pub(super) credential: Option<UsedCredential>,
    pub(super) basis: Arc<Basis>,
    pub(super) warnings: Vec<HeaderValue>,
}

impl Pipeline {
    /// Judges a request, and sends it where it is permitted.
    pub(super) async fn judge_and_send(
        &self,
        context: &RequestContext<'_>,
        request: CanonicalRequest,
        (mut body, loss): (RequestBody, BodyLoss),
        record: &mut Record,
    ) -> Result<SentRequest, Rejection> {
        let judge = Judge {
            policies: context.policies,
            namespaces: self.in_force.store.namespaces(context.policies),
            principal: &context.agent.principal,
            upstream: &self.upstream,
            share: context.connection.share(),
        };
        let JudgedRequest { decision, bound } = judge.decide(request, &mut body, record).await?;
        record.policy_took(context.began.elapsed());
        let permit = self.permitted(context, decision, record).await?;
        if context.kube.is_mutating() || context.upgrade.is_some() {
            Box::pin(record.commit_before_effect()).await?;
        }
        let window = match context.upgrade {
            // Its connection is its own, and its bytes wait in two buffers.
            Some(_) => ResponseWindow::Large,
            None => response_window(context.connection.share(), context.kube.follow, record),
        };
        let sent = self
            .send_permitted(context, permit, (body, loss), window, record)
            .await?;
        match bound {
            // Boxed: few writes meet a conflict.
            Some(write) if sent.response.status() == StatusCode::CONFLICT => {
                Box::pin(self.send_again(context, (&judge, write), sent, window, record)).await
            }
            _ => Ok(sent),
        }
    }

    /// Judges a write anew that met a conflict, and sends it again. What is answered to the last try is the answer. Every 409 counts: the
    /// API server gives no other reason for one to a write that names a version and creates nothing.
    async fn send_again(
        &self,
        context: &RequestContext<'_>,
        (judge, mut write): (&Judge<'_>, BoundWrite),
        mut sent: SentRequest,
        window: ResponseWindow,
        record: &mut Record,
    ) -> Result<SentRequest, Rejection> {
        let mut pauses = Backoff::jittered(PAUSE, LONGEST_PAUSE);
        for _ in 1..TRIES {
            if sent.response.status() != StatusCode::CONFLICT || context.began.elapsed() >= BODY_DEADLINE {
                break;
            }
            // Should the client leave now, that is what became of the write.
            record.response(StatusCode::CONFLICT.as_u16(), None, None);
            let answer = Limited::new(sent.response.into_body(), CONFLICT_ANSWER);
            let _read = tokio::time::timeout(LONGEST_PAUSE, answer.collect()).await;
            tokio::time::sleep(pauses.pause()).await;
            let (judged, body) = judge.decide_again(&write, record).await?;
            let permit = self.permitted(context, judged.decision, record).await?;
            let body = (body, BodyLoss::default());
            sent = self.send_permitted(context, permit, body, window, record).await?;
            match judged.bound {
                Some(again) => write = again,
                None => break,
            }
        }
        Ok(sent)
    }

    /// The permit of a decision, which the record is told of.
    async fn permitted(
        &self,
        context: &RequestContext<'_>,
        decision: Decision,
        record: &mut Record,
    ) -> Result<Permit, Rejection> {
        let permit = self.permit(decision, record).await;
        let permit = permit.map_err(|rejection| {
            self.repeated(context.policies, context.agent, context.kube, record, rejection)
        })?;
        check_accept(&permit)?;
        record_decision(record, &permit, context.connection);
        Ok(permit)
    }

    /// Sends what was permitted, for as long as it still is.
    async fn send_permitted(
        &self,
        context: &RequestContext<'_>,
        permit: Permit,
        (body, loss): (RequestBody, BodyLoss),
        window: ResponseWindow,
        record: &mut Record,
    ) -> Result<SentRequest, Rejection> {
        let kube = context.kube;
        let warnings: Vec<_> = permit.warnings().iter().map(warning).collect();
        let basis = Basis::new(
            &self.in_force,
            context.connection,
            context.ticket,
            context.agent,
            &permit,
        );
        let body = body.guarded(Arc::clone(&basis) as Arc<dyn StillPermitted>);
        if kube.is_mutating() {
            record.sent();
        }
        let (body, taken) = ((body, loss), record.take());
        let exchange = if kube.is_mutating() {
            let sending = send(
                self.upstream.clone(),
                permit,
                body,
                taken,
                (context.upgrade, window),
            );
            self.abandoned.watch(kube, Box::pin(sending)).await
        } else {
            send(&self.upstream, permit, body, taken, (context.upgrade, window)).await
        };
        *record = exchange.record;
        let (response, credential) = exchange.response.map_err(|rejection| match rejection {
            Rejection::Upstream(SendError::NoLongerPermitted) => basis.judge().err().unwrap_or(rejection),
            rejection => rejection,
        })?;
        Ok(SentRequest {
            response,
            credential,
            basis,
            warnings,
        })
    }
}

/// Sends a permit's request, and tells the record by which credential and how long it took.
async fn send<U: Borrow<Upstream>>(
    upstream: U,
    permit: Permit,
    (body, loss): (RequestBody, BodyLoss),
    mut record: Record,
    (upgrade, window): (Option<UpgradeProtocol>, ResponseWindow),
) -> Exchange {
    let sent = Instant::now();
    let origin = RequestOrigin {
        audit_id: record.id().to_string(),
        session: may_be_session(permit.request()),
        source: record.source(),
    };
    let attempt = upstream
        .borrow()
        .send(permit, body, &origin, upgrade, window)
        .await;
    if let Some(used) = &attempt.credential {
        record.credential(used.method, used.id.clone());
    }
    let response = match attempt.response {
        Ok(response) => {
            record.upstream_took(sent.elapsed());
            Ok((response, attempt.credential))
        }
        Err(_) if loss.is_lost() => Err(Rejection::BodyLost),
        Err(error) => Err(Rejection::Upstream(error)),
    };
    Exchange { record, response }
}

/// The warning that a client gets of a rule that fired.
pub(super) fn warning(finding: &FiredRule) -> HeaderValue {
    warning_value(&format!(
        "policy {}, rule {}: {}",
        finding.policy, finding.rule, finding.message
    ))
}
