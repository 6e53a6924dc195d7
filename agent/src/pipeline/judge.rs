//! The decision on a request, and the object that its rules look into.
//!
//! In: a request that was read, its body, and the policies. Out: a [`Decision`]. Most requests are decided by their heads. Where a rule
//! looks into objects, the body of a create or an update is read, and what goes on is Picket's own serialisation of it. A patch is
//! first asked of the API server as a dry run, as the same user, whose answer is the object that is judged.

use std::sync::Arc;

use http::StatusCode;
use http_body_util::{BodyExt as _, Limited};
use jiff::Timestamp;
use picket_policy::{
    BODY_LIMIT, BodyInput, CanonicalRequest, Decision, Inputs, ObjectSource, PolicySet, Principal,
};

use crate::audit::Record;
use crate::reject::{ProbeAnswer, Rejection};
use crate::upstream::{RequestBody, RequestOrigin, ResponseWindow, Upstream};

/// What a decision is taken by.
pub(super) struct Judge<'a> {
    pub(super) policies: &'a PolicySet,
    pub(super) principal: &'a Arc<Principal>,
    pub(super) upstream: &'a Upstream,
}

impl Judge<'_> {
    /// Asks the policies what they need, reads that, and has them decide.
    pub(super) async fn decide(
        &self,
        mut request: CanonicalRequest,
        body: &mut RequestBody,
        record: &Record,
    ) -> Result<Decision, Rejection> {
        let needs = self.policies.needs(self.principal, request.kube());
        // Boxed: few requests need anything.
        match needs.object {
            None => {}
            Some(ObjectSource::Body) => Box::pin(read_object(&mut request, body)).await?,
            Some(ObjectSource::Probe) => {
                if let Some(denied) = Box::pin(self.probe(&mut request, body, record)).await? {
                    return Ok(denied);
                }
            }
        }
        let inputs = Inputs::at(Timestamp::now());
        Ok(self.policies.decide(Arc::clone(self.principal), request, inputs))
    }

    /// Learns which object a patch makes. The denial, where the patch is refused whatever it makes.
    async fn probe(
        &self,
        request: &mut CanonicalRequest,
        body: &mut RequestBody,
        record: &Record,
    ) -> Result<Option<Decision>, Rejection> {
        body.buffer(BODY_LIMIT).await.map_err(Rejection::Body)?;
        let patch = match body.buffered() {
            BodyInput::Whole(patch) => patch,
            BodyInput::TooLarge | BodyInput::Unread => {
                request.read_object(body.buffered())?;
                return Ok(None);
            }
        };
        let Some(probe) = request.as_probe() else {
            return Ok(None);
        };
        let inputs = Inputs::at(Timestamp::now());
        let permit = match self
            .policies
            .decide_probe(Arc::clone(self.principal), probe, inputs)
        {
            Ok(permit) => permit,
            Err(denial) => return Ok(denial.map(Decision::Deny)),
        };
        let origin = RequestOrigin {
            audit_id: record.id().to_string(),
            session: false,
            source: record.source(),
        };
        let sent = RequestBody::judged(patch.to_vec());
        let attempt = self
            .upstream
            .send(permit, sent, &origin, None, ResponseWindow::Small)
            .await;
        let response = attempt.response.map_err(Rejection::Upstream)?;
        let status = response.status();
        let answer = Limited::new(response.into_body(), BODY_LIMIT).collect().await;
        let answer = answer.map(|answer| answer.to_bytes()).unwrap_or_default();
        if !status.is_success() {
            return Err(Rejection::Probe(ProbeAnswer::of(status, &answer)));
        }
        let made = serde_json::from_slice(&answer);
        let made = made.map_err(|_| Rejection::Probe(ProbeAnswer::unreadable(StatusCode::BAD_GATEWAY)))?;
        let bound = request.bind_patch(patch, made)?;
        *body = RequestBody::judged(bound);
        Ok(None)
    }
}

/// Reads the object out of the body.
async fn read_object(request: &mut CanonicalRequest, body: &mut RequestBody) -> Result<(), Rejection> {
    body.buffer(BODY_LIMIT).await.map_err(Rejection::Body)?;
    if let Some(judged) = request.read_object(body.buffered())? {
        *body = RequestBody::judged(judged);
    }
    Ok(())
}
