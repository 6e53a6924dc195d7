//! Requests above a limit of the agent's policies.
//!
//! In: a request whose agent is known, and refusals of others. Out: a place that the record holds; else the answer 429, its record, and an
//! Event for people. Of a loop one record is written when the breaker opens, and ends with the number of further requests.

use std::sync::Arc;
use std::time::Duration;

use http::Response;
use picket_policy::{KubeRequest, PolicySet};

use super::body::ResponseBody;
use super::connection::Connection;
use super::record::{finding, record_rejection, record_status};
use super::{Pipeline, refuse};
use crate::audit::{EndReason, Record, RequestCount};
use crate::identity::ResolvedPrincipal;
use crate::limits::{Asker, LimitExceeded, OpenBreaker, Repeat};
use crate::notify::{KubeEvent, Reason};
use crate::reject::Rejection;

fn asker<'a>(policies: &'a PolicySet, agent: &'a ResolvedPrincipal) -> Asker<'a> {
    Asker {
        policies,
        principal: &agent.principal,
        name: &agent.name,
    }
}

impl Pipeline {
    /// Counts a request of an agent, until its record ends.
    pub(super) fn admit(
        &self,
        policies: &PolicySet,
        agent: &ResolvedPrincipal,
        record: &mut Record,
    ) -> Result<(), Rejection> {
        let admitted = self.limits.admit(asker(policies, agent), self.limits.now());
        let admitted = admitted.map_err(Rejection::Limited)?;
        if let Some(counts) = admitted.counts {
            record.counted_by(counts as Arc<dyn RequestCount>);
        }
        admitted
            .would_deny
            .into_iter()
            .for_each(|found| record.over_limit(finding(found)));
        Ok(())
    }

    /// What a refusal becomes: another one where the same request was refused too often. Only refusals by claims, grants and policies
    /// count; one that has another cause may pass with the next try.
    pub(super) fn repeated(
        &self,
        policies: &PolicySet,
        agent: &ResolvedPrincipal,
        kube: &KubeRequest,
        record: &mut Record,
        rejection: Rejection,
    ) -> Rejection {
        let by = match &rejection {
            Rejection::Denied(denial) => denial.rule().unwrap_or_else(|| denial.cause().code()),
            Rejection::Claim(error) => error.code(),
            _ => return rejection,
        };
        let refusal = || rejection.explain(Some(kube));
        let refused = self.limits.refused(
            asker(policies, agent),
            kube,
            (by, &refusal),
            record.id(),
            self.limits.now(),
        );
        match refused {
            Ok(would_deny) => {
                if let Some(found) = would_deny {
                    record.over_limit(finding(found));
                }
                rejection
            }
            Err(exceeded) => Rejection::Limited(exceeded),
        }
    }

    /// Answers a request above a limit.
    pub(super) async fn refuse_limited(
        &self,
        exceeded: LimitExceeded,
        record: Record,
        kube: Option<&KubeRequest>,
        connection: &Connection,
    ) -> Response<ResponseBody> {
        if exceeded.is_news()
            && let Some(pod) = connection.pod()
        {
            self.kube_events.report(KubeEvent {
                about: pod.about(),
                reason: Reason::LimitExceeded,
                detail: format!("{}/{}", exceeded.policy(), exceeded.kind().code()),
                note: exceeded.to_string(),
            });
        }
        match exceeded.repeat().cloned() {
            None => refuse(Rejection::Limited(exceeded), record, kube, connection.share()).await,
            Some(Repeat::First(open)) => {
                let rejection = Rejection::Limited(exceeded);
                self.refuse_first(rejection, open, record, kube, connection).await
            }
            Some(Repeat::Further(open)) => {
                let (mut record, rejection) = (record, Rejection::Limited(exceeded));
                record_rejection(&mut record, &rejection, kube);
                record.unwritten();
                rejection
                    .response(kube, Some(open.record()))
                    .map(ResponseBody::Local)
            }
        }
    }

    /// Answers the request that opens a breaker. Its record stays open for the number of further ones.
    async fn refuse_first(
        &self,
        mut rejection: Rejection,
        open: Arc<OpenBreaker>,
        mut record: Record,
        kube: Option<&KubeRequest>,
        connection: &Connection,
    ) -> Response<ResponseBody> {
        record_rejection(&mut record, &rejection, kube);
        connection.share().refused(record.size());
        record.repeats(0);
        let id = record.id();
        match record.started().await {
            Ok(()) => self.count_further(open, record),
            Err(error) => {
                rejection = Rejection::Audit(error);
                record_status(&mut record, &rejection.status(kube));
                record.finish(EndReason::Completed);
            }
        }
        rejection.response(kube, Some(id)).map(ResponseBody::Local)
    }

    /// Ends the record of a loop when its breaker closes, or with the agent.
    fn count_further(&self, open: Arc<OpenBreaker>, mut record: Record) {
        record.release();
        let guard = self.limits.metrics().open_breaker();
        let closes = Duration::from_nanos(open.until().saturating_sub(self.limits.now()));
        let finishing = self.drain.finishing();
        self.drain.serve(async move {
            tokio::select! {
                () = tokio::time::sleep(closes) => {}
                () = finishing.cancelled() => {}
            }
            record.repeats(open.further());
            record.finish(EndReason::Completed);
            drop(guard);
        });
    }
}
