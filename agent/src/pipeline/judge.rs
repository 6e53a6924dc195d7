//! The decision on a request, and the object that its rules look into.
//!
//! In: a request that was read, its body, and the policies. Out: a [`Decision`]. Most requests are decided by their heads. Where a rule
//! looks into objects, the body of a create or an update is read, and what goes on is Picket's own serialisation of it. A patch is
//! first asked of the API server as a dry run, as the same user, whose answer is the object that is judged.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use http::header::RETRY_AFTER;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::body::Body as _;
use jiff::Timestamp;
use picket_policy::{
    BODY_LIMIT, BodyInput, CanonicalRequest, Decision, Inputs, ObjectSource, PolicySet, Principal,
};

use tokio::sync::OwnedSemaphorePermit;

use crate::audit::Record;
use crate::listener::PodShare;
use crate::reject::{HeadError, ProbeAnswer, Rejection};
use crate::upstream::{RequestBody, RequestOrigin, ResponseWindow, Upstream};

/// What a decision is taken by.
pub(super) struct Judge<'a> {
    pub(super) policies: &'a PolicySet,
    pub(super) principal: &'a Arc<Principal>,
    pub(super) upstream: &'a Upstream,
    /// The caller's share of the node.
    pub(super) share: &'a PodShare,
}

/// How long a request waits for the caller's other requests whose bodies are judged, and how long its own body may take. client-go
/// gives up after 32 s at the latest (`timeout=32s`).
const BODY_DEADLINE: Duration = Duration::from_secs(30);

impl Judge<'_> {
    /// Asks the policies what they need, reads that, and has them decide.
    pub(super) async fn decide(
        &self,
        mut request: CanonicalRequest,
        body: &mut RequestBody,
        record: &mut Record,
    ) -> Result<Decision, Rejection> {
        let now = Inputs::at(Timestamp::now());
        let needs = self.policies.needs(self.principal, request.kube(), now);
        // Boxed: few requests need anything.
        match needs.object {
            None => {}
            Some(ObjectSource::Body) => {
                record.holds(Some(Box::pin(self.buffer(body)).await?));
                read_object(&mut request, body, needs.only_to_note)?;
            }
            Some(ObjectSource::Probe) => {
                record.holds(Some(Box::pin(self.buffer(body)).await?));
                let probed = Box::pin(self.probe(&mut request, body, record, needs.only_to_note)).await;
                match probed {
                    Ok(None) => {}
                    Ok(Some(denied)) => return Ok(denied),
                    // The object stays unknown, which the record says; the patch goes on as it came.
                    Err(_) if needs.only_to_note => {}
                    Err(rejection) => return Err(rejection),
                }
            }
        }
        let inputs = Inputs::at(Timestamp::now());
        Ok(self.policies.decide(Arc::clone(self.principal), request, inputs))
    }

    /// Reads the body, within the caller's share of memory. The share is held for as long as the record: what is judged is kept with the
    /// request.
    async fn buffer(&self, body: &mut RequestBody) -> Result<OwnedSemaphorePermit, Rejection> {
        let size = body.size_hint();
        let most = size.upper().unwrap_or(u64::MAX).min(BODY_LIMIT as u64);
        let read = async {
            let room = self
                .share
                .judged(most)
                .await
                .ok_or(Rejection::Head(HeadError::Busy))?;
            body.buffer(BODY_LIMIT).await.map_err(Rejection::Body)?;
            Ok(room)
        };
        let read = tokio::time::timeout(BODY_DEADLINE, read).await;
        read.unwrap_or(Err(Rejection::Head(HeadError::Busy)))
    }

    /// Learns which object a patch makes. The denial, where the patch is refused whatever it makes.
    async fn probe(
        &self,
        request: &mut CanonicalRequest,
        body: &mut RequestBody,
        record: &Record,
        only_to_note: bool,
    ) -> Result<Option<Decision>, Rejection> {
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
        let retry_after = response.headers().get(RETRY_AFTER).cloned();
        let answer = Limited::new(response.into_body(), BODY_LIMIT).collect().await;
        let answer = match answer {
            Ok(answer) => answer.to_bytes(),
            Err(error) if error.is::<LengthLimitError>() && status.is_success() => {
                request.read_object(BodyInput::TooLarge)?;
                return Ok(None);
            }
            Err(_) => Bytes::new(),
        };
        if !status.is_success() {
            return Err(Rejection::Probe(ProbeAnswer::of(
                status,
                &answer,
                retry_after.as_ref(),
            )));
        }
        let made = serde_json::from_slice(&answer);
        let made = made.map_err(|_| Rejection::Probe(ProbeAnswer::unreadable(StatusCode::BAD_GATEWAY)))?;
        if only_to_note {
            request.look_at_made(made);
        } else {
            let bound = request.bind_patch(patch, made, status == StatusCode::CREATED)?;
            *body = RequestBody::judged(bound);
        }
        Ok(None)
    }
}

/// Reads the object out of the body.
fn read_object(
    request: &mut CanonicalRequest,
    body: &mut RequestBody,
    only_to_note: bool,
) -> Result<(), Rejection> {
    if only_to_note {
        request.look_at_object(body.buffered());
    } else if let Some(judged) = request.read_object(body.buffered())? {
        *body = RequestBody::judged(judged);
    }
    Ok(())
}
