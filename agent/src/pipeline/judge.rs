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
    BODY_LIMIT, BodyInput, CanonicalRequest, Decision, Inputs, Needs, ObjectSource, PolicySet, Principal,
};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;

use crate::audit::Record;
use crate::listener::PodShare;
use crate::reject::{ProbeAnswer, Rejection};
use crate::upstream::{RequestBody, RequestOrigin, ResponseWindow, Upstream};

/// What a decision is taken by.
pub(super) struct Judge<'a> {
    pub(super) policies: &'a PolicySet,
    pub(super) principal: &'a Arc<Principal>,
    pub(super) upstream: &'a Upstream,
    /// The caller's share of the node.
    pub(super) share: &'a PodShare,
}

/// How long a request waits for room beside the caller's other requests whose bodies are judged, and how long its own body may take.
/// client-go gives up after 32 s at the latest (`timeout=32s`).
const ROOM_DEADLINE: Duration = Duration::from_secs(10);
const BODY_DEADLINE: Duration = Duration::from_secs(20);

/// What a probe's answer is counted for, in bytes: it is as large as the object, which nobody knows before. So ten probes of a pod are
/// under way at once at most, and hold 15 MB of answers.
const PROBE_ANSWER: u64 = 384 * 1024;

/// A body that did not come in time.
#[derive(Debug, thiserror::Error)]
#[error("it did not come within {} s", BODY_DEADLINE.as_secs())]
struct SlowBody;

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
        if let Some(source) = needs.object {
            // Boxed: few requests need anything.
            let seen = Box::pin(self.look(&mut request, body, record, (source, needs))).await?;
            if let Some(denied) = seen {
                return Ok(denied);
            }
        }
        let inputs = Inputs::at(Timestamp::now());
        Ok(self.policies.decide(Arc::clone(self.principal), request, inputs))
    }

    /// Learns the object. The denial, where the request is refused whatever its object is.
    async fn look(
        &self,
        request: &mut CanonicalRequest,
        body: &mut RequestBody,
        record: &mut Record,
        (source, needs): (ObjectSource, Needs),
    ) -> Result<Option<Decision>, Rejection> {
        let probes = source == ObjectSource::Probe;
        let bytes = body.size_hint().upper().unwrap_or(u64::MAX);
        let bytes = bytes.min(BODY_LIMIT as u64) + if probes { PROBE_ANSWER } else { 0 };
        let Some(room) = self.room(bytes, needs.only_to_note).await? else {
            return Ok(None);
        };
        // For as long as the record: what is judged is kept with the request.
        record.holds(Some(room));
        let read = body.buffer(BODY_LIMIT);
        let read = match needs.only_to_note {
            true => read.await,
            false => timeout(BODY_DEADLINE, read)
                .await
                .unwrap_or_else(|_| Err(SlowBody.into())),
        };
        read.map_err(Rejection::Body)?;
        if !probes {
            read_object(request, body, needs.only_to_note)?;
            return Ok(None);
        }
        match self.probe(request, body, record, needs.only_to_note).await {
            // The object stays unknown, which the record says; the patch goes on as it came.
            Err(_) if needs.only_to_note => Ok(None),
            probed => probed,
        }
    }

    /// Room for a body in the caller's share of memory. None where there is no room at once for a body that is only looked at to note
    /// something: that must not hold a request up.
    async fn room(&self, bytes: u64, only_to_note: bool) -> Result<Option<OwnedSemaphorePermit>, Rejection> {
        if only_to_note {
            return Ok(self.share.judged_at_once(bytes));
        }
        let room = timeout(ROOM_DEADLINE, self.share.judged(bytes)).await;
        room.ok().flatten().map(Some).ok_or(Rejection::BodiesBusy)
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
        let Some(mut probe) = request.as_probe() else {
            return Ok(None);
        };
        let patch_of_probe = probe.probed_patch(patch)?;
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
        let sent = RequestBody::judged(patch_of_probe);
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
