//! The decision on a request, and the object that its rules look into.
//!
//! In: a request that was read, its body, and the policies. Out: a [`Decision`]. Most requests are decided by their heads. Where a rule
//! looks into objects, the body of a create or an update is read, and what goes on is Picket's own serialisation of it. A patch is
//! first asked of the API server as a dry run, as the same user, whose answer is the object that is judged. Where a rule looks at the
//! object that a write finds, the API server is asked for that one too, and what goes on names its version.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use http::header::{HeaderValue, RETRY_AFTER};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::body::Body as _;
use jiff::Timestamp;
use picket_policy::body::has_too_many_values;
use picket_policy::{
    BODY_LIMIT, BindError, BodyInput, BoundBody, CanonicalRequest, Decision, Denial, Inputs, MODIFIED,
    Namespaces, Needs, ObjectSource, OldObject, OldObjectUse, Permit, PolicySet, Principal, Verb,
};
use serde_json::Value as Json;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;

use crate::audit::Record;
use crate::listener::PodShare;
use crate::reject::{ApiQuestion, ProbeAnswer, Rejection};
use crate::upstream::{RequestBody, RequestOrigin, ResponseWindow, Upstream};

/// What a decision is taken by.
pub(super) struct Judge<'a> {
    pub(super) policies: &'a PolicySet,
    /// What is known of namespaces, where the policies look at them.
    pub(super) namespaces: Option<Arc<Namespaces>>,
    pub(super) principal: &'a Arc<Principal>,
    pub(super) upstream: &'a Upstream,
    /// The caller's share of the node.
    pub(super) share: &'a PodShare,
}

/// How long a request waits for room beside the caller's other requests whose bodies are judged, and how long its own body may take.
/// client-go gives up after 32 s at the latest (`timeout=32s`).
const ROOM_DEADLINE: Duration = Duration::from_secs(10);
pub(super) const BODY_DEADLINE: Duration = Duration::from_secs(20);

/// What the answer to a question of Picket's is counted for, in bytes: it is as large as the object, which nobody knows before. So the
/// answers to eight of a pod are held at once at most, 90 MB each at their worst. Three patches with two questions each go on side by side.
const PROBE_ANSWER: u64 = 512 * 1024;

/// How many bytes one of a body in protobuf or CBOR counts for: these take as much less for the same values than JSON does.
const DENSE: u64 = 3;

/// How often a patch is looked at anew because its object changed between two of Picket's questions.
const READ_ATTEMPTS: usize = 3;

/// A decision, and what it takes to judge the request anew.
pub(super) struct JudgedRequest {
    pub(super) decision: Decision,
    /// Where Picket held the request to a version that its client did not name, and so brings conflicts about.
    pub(super) bound: Option<BoundWrite>,
}

/// A write as it came, before Picket held it to the version that was judged.
pub(super) struct BoundWrite {
    request: CanonicalRequest,
    body: Bytes,
}

/// What was learned of a request's objects.
enum Learned {
    /// It is refused whatever they are.
    Refused(Denial),
    /// All that could be learned is kept with the request.
    Known(Option<BoundWrite>),
    /// The stored object changed between two questions.
    Changed,
}

/// What came of a patch as a dry run.
enum Probed {
    Learned(Learned),
    /// The patch, or what it makes, is larger than is read.
    TooLarge,
    /// It could not be asked.
    Unasked,
}

/// The API server's answer to one of Picket's own questions.
struct ApiAnswer {
    status: StatusCode,
    retry_after: Option<HeaderValue>,
    /// Nothing where it is larger than [`BODY_LIMIT`].
    body: Option<Bytes>,
}

impl ApiAnswer {
    fn refusal(&self, question: ApiQuestion) -> Rejection {
        let body = self.body.as_deref().unwrap_or_default();
        Rejection::Probe(ProbeAnswer::of(
            question,
            self.status,
            body,
            self.retry_after.as_ref(),
        ))
    }
}

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
    ) -> Result<JudgedRequest, Rejection> {
        let needs = self.needs(&request);
        let mut bound = None;
        if needs.object.is_some() || needs.old_object.is_some() {
            // Boxed: few requests need anything.
            match Box::pin(self.read_and_learn(&mut request, body, record, needs)).await? {
                Learned::Refused(denial) => return Ok(denial.into()),
                Learned::Known(write) => bound = write,
                Learned::Changed => return Err(changed(&request)),
            }
        }
        Ok(self.judged(request, bound))
    }

    /// Judges a write anew, as it came, after a conflict that Picket brought about. What it holds of memory is the record's already.
    pub(super) async fn decide_again(
        &self,
        write: &BoundWrite,
        record: &Record,
    ) -> Result<(JudgedRequest, RequestBody), Rejection> {
        let mut body = RequestBody::judged(write.body.clone());
        // It was read so once already.
        let mut request = write.request.as_it_came().ok_or(Rejection::Unjudged)?;
        let needs = self.needs(&request);
        let mut bound = None;
        if needs.object.is_some() || needs.old_object.is_some() {
            match self.learn(&mut request, &mut body, record, needs).await? {
                Learned::Refused(denial) => return Ok((denial.into(), body)),
                Learned::Known(write) => bound = write,
                Learned::Changed => return Err(changed(&request)),
            }
        }
        Ok((self.judged(request, bound), body))
    }

    fn needs(&self, request: &CanonicalRequest) -> Needs {
        self.policies.needs(self.principal, request.kube(), self.inputs())
    }

    fn judged(&self, request: CanonicalRequest, bound: Option<BoundWrite>) -> JudgedRequest {
        JudgedRequest {
            decision: self
                .policies
                .decide(Arc::clone(self.principal), request, self.inputs()),
            bound,
        }
    }

    /// What is known now besides the request.
    fn inputs(&self) -> Inputs<'_> {
        Inputs::at(Timestamp::now()).beside(self.namespaces.as_ref())
    }

    /// Takes room for what is read, reads the body where it is needed, and learns the objects.
    async fn read_and_learn(
        &self,
        request: &mut CanonicalRequest,
        body: &mut RequestBody,
        record: &mut Record,
        needs: Needs,
    ) -> Result<Learned, Rejection> {
        let to_note = match needs.object {
            Some(_) => needs.only_to_note,
            None => true,
        };
        let of_body = || {
            let bytes = body.size_hint().upper().unwrap_or(u64::MAX);
            let density = if request.has_dense_body() { DENSE } else { 1 };
            bytes.saturating_mul(density).min(BODY_LIMIT as u64)
        };
        let questions = [
            needs.object == Some(ObjectSource::Probe),
            needs.old_object.is_some(),
        ];
        let questions = questions.into_iter().filter(|asked| *asked).count() as u64;
        let bytes = needs.object.map_or(0, |_| of_body()) + questions * PROBE_ANSWER;
        let Some(room) = self.room(bytes, to_note).await? else {
            return Ok(Learned::Known(None));
        };
        // For as long as the record: what is judged is kept with the request.
        record.holds(Some(room));
        if needs.object.is_some() {
            let read = body.buffer(BODY_LIMIT);
            let read = match to_note {
                true => read.await,
                false => timeout(BODY_DEADLINE, read)
                    .await
                    .unwrap_or_else(|_| Err(SlowBody.into())),
            };
            read.map_err(Rejection::Body)?;
        }
        self.learn(request, body, record, needs).await
    }

    /// Learns the objects, of a body that is at hand. An object that changes while it is looked at is looked at anew.
    async fn learn(
        &self,
        request: &mut CanonicalRequest,
        body: &mut RequestBody,
        record: &Record,
        needs: Needs,
    ) -> Result<Learned, Rejection> {
        let mut learned = Learned::Changed;
        for _ in 0..READ_ATTEMPTS {
            learned = self.learn_once(request, body, record, needs).await?;
            if !matches!(learned, Learned::Changed) {
                break;
            }
        }
        Ok(learned)
    }

    async fn learn_once(
        &self,
        request: &mut CanonicalRequest,
        body: &mut RequestBody,
        record: &Record,
        needs: Needs,
    ) -> Result<Learned, Rejection> {
        match needs.old_object {
            None => {}
            Some(OldObjectUse::ToDecide) => match self.read_old_object(request, record).await? {
                Ok(old) => request.set_old_object(old),
                Err(refused) => return Ok(Learned::Refused(refused)),
            },
            // The object stays unknown where it cannot be told, which the record says.
            Some(OldObjectUse::ToNote) => match self.read_old_object(request, record).await {
                Ok(Ok(old)) => request.look_at_old_object(old),
                Ok(Err(refused)) => return Ok(Learned::Refused(refused)),
                Err(_) => {}
            },
        }
        let decides = needs.old_object == Some(OldObjectUse::ToDecide);
        match needs.object {
            None => Ok(Learned::Known(None)),
            Some(ObjectSource::Body) if decides => bind_body(request, body).map(Learned::Known),
            Some(ObjectSource::Body) => {
                read_object(request, body, needs.only_to_note)?;
                Ok(Learned::Known(None))
            }
            Some(ObjectSource::Probe) => match self.probe(request, body, record, needs).await {
                // The object stays unknown, which the record says; the patch goes on as it came.
                Err(_) if needs.only_to_note => Ok(Learned::Known(None)),
                Ok(Probed::TooLarge) => {
                    request.read_object(BodyInput::TooLarge)?;
                    unheld(request, decides, OldObject::TooLarge);
                    Ok(Learned::Known(None))
                }
                Ok(Probed::Unasked) => {
                    unheld(request, decides, OldObject::Unread);
                    Ok(Learned::Known(None))
                }
                Ok(Probed::Learned(learned)) => Ok(learned),
                Err(rejection) => Err(rejection),
            },
        }
    }

    /// Learns which object a write finds. The denial, where the write is refused whatever that is.
    async fn read_old_object(
        &self,
        request: &CanonicalRequest,
        record: &Record,
    ) -> Result<Result<OldObject, Denial>, Rejection> {
        let permit = self
            .policies
            .decide_get(Arc::clone(self.principal), request, self.inputs());
        let permit = match permit {
            Ok(permit) => permit,
            Err(Some(denial)) => return Ok(Err(denial)),
            // Without one nobody can ask, and the object stays unknown.
            Err(None) => return Ok(Ok(OldObject::Unread)),
        };
        let answer = self
            .ask((ApiQuestion::Get, permit), RequestBody::Empty, record)
            .await?;
        let old = match (answer.status, &answer.body) {
            (StatusCode::NOT_FOUND, _) => OldObject::Absent,
            (StatusCode::FORBIDDEN, _) => OldObject::Forbidden,
            // Some subresources are written and not read.
            (StatusCode::METHOD_NOT_ALLOWED, _) => OldObject::Unread,
            (status, None) if status.is_success() => OldObject::TooLarge,
            (status, Some(body)) if status.is_success() && has_too_many_values(body) => OldObject::TooLarge,
            (status, Some(body)) if status.is_success() => {
                let object: Json = serde_json::from_slice(body)
                    .map_err(|_| Rejection::Probe(ProbeAnswer::unreadable(ApiQuestion::Get, BAD_GATEWAY)))?;
                OldObject::Read(Arc::new(object))
            }
            _ => return Err(answer.refusal(ApiQuestion::Get)),
        };
        Ok(Ok(old))
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

    /// Learns which object a patch makes, and holds the patch to it.
    async fn probe(
        &self,
        request: &mut CanonicalRequest,
        body: &mut RequestBody,
        record: &Record,
        needs: Needs,
    ) -> Result<Probed, Rejection> {
        let Some(patch) = body.whole() else {
            return Ok(Probed::TooLarge);
        };
        let Some(mut probe) = request.as_probe() else {
            return Ok(Probed::Unasked);
        };
        let sent = RequestBody::judged(probe.probed_patch(&patch)?);
        let inputs = self.inputs();
        let permit = match self
            .policies
            .decide_probe(Arc::clone(self.principal), probe, inputs)
        {
            Ok(permit) => permit,
            Err(Some(denial)) => return Ok(Probed::Learned(Learned::Refused(denial))),
            Err(None) => return Ok(Probed::Unasked),
        };
        let answer = self.ask((ApiQuestion::DryRun, permit), sent, record).await?;
        if !answer.status.is_success() {
            return Err(answer.refusal(ApiQuestion::DryRun));
        }
        let Some(made) = answer.body.filter(|made| !has_too_many_values(made)) else {
            return Ok(Probed::TooLarge);
        };
        let made = serde_json::from_slice(&made);
        let made =
            made.map_err(|_| Rejection::Probe(ProbeAnswer::unreadable(ApiQuestion::DryRun, BAD_GATEWAY)))?;
        let is_new = answer.status == StatusCode::CREATED;
        if needs.only_to_note {
            request.look_at_made(made, is_new);
            return Ok(Probed::Learned(Learned::Known(None)));
        }
        if needs.old_object == Some(OldObjectUse::ToDecide) && !request.is_made_of_old(&made, is_new) {
            return Ok(Probed::Learned(Learned::Changed));
        }
        let came = request.as_it_came();
        let bound = request.bind_patch(&patch, made, is_new)?;
        let write = send_bound(bound, (came, patch), body);
        Ok(Probed::Learned(Learned::Known(write)))
    }

    /// Asks the API server one of Picket's own questions. Its answer goes no further than the rules.
    async fn ask(
        &self,
        (question, permit): (ApiQuestion, Permit),
        body: RequestBody,
        record: &Record,
    ) -> Result<ApiAnswer, Rejection> {
        let origin = RequestOrigin {
            audit_id: question.audit_id(&record.id().to_string()),
            session: false,
            source: record.source(),
        };
        let attempt = self
            .upstream
            .send(permit, body, &origin, None, ResponseWindow::Small)
            .await;
        let response = attempt.response.map_err(Rejection::Upstream)?;
        let status = response.status();
        let retry_after = response.headers().get(RETRY_AFTER).cloned();
        let body = match Limited::new(response.into_body(), BODY_LIMIT).collect().await {
            Ok(body) => Some(body.to_bytes()),
            Err(error) if error.is::<LengthLimitError>() => None,
            Err(_) => Some(Bytes::new()),
        };
        Ok(ApiAnswer {
            status,
            retry_after,
            body,
        })
    }
}

const BAD_GATEWAY: StatusCode = StatusCode::BAD_GATEWAY;

impl From<Denial> for JudgedRequest {
    fn from(denial: Denial) -> Self {
        Self {
            decision: Decision::Deny(denial),
            bound: None,
        }
    }
}

/// That an object changes faster than it can be judged.
fn changed(request: &CanonicalRequest) -> Rejection {
    unbound(request.conflict(MODIFIED))
}

fn unbound(error: BindError) -> Rejection {
    match error {
        BindError::Read(error) => Rejection::Unreadable(error),
        BindError::Conflict(message) => Rejection::Conflict(message),
    }
}

/// Forgets the stored object of a patch that is not held to it, so that the rules that look at it fire.
fn unheld(request: &mut CanonicalRequest, decides: bool, old: OldObject) {
    if decides {
        request.set_old_object(old);
    }
}

/// Holds an update or a delete to the version of the stored object.
fn bind_body(
    request: &mut CanonicalRequest,
    body: &mut RequestBody,
) -> Result<Option<BoundWrite>, Rejection> {
    let came = request.as_it_came();
    let whole = body.whole();
    let bound = match request.kube().verb {
        Verb::Delete => request.bind_delete(body.buffered()),
        _ => request.bind_update(body.buffered()),
    };
    let bound = bound.map_err(unbound)?;
    Ok(bound.and_then(|bound| send_bound(bound, (came, whole.unwrap_or_default()), body)))
}

/// Puts a bound body in place of the client's. The write as it came, where a conflict is not the client's own.
fn send_bound(
    bound: BoundBody,
    (request, came): (Option<CanonicalRequest>, Bytes),
    body: &mut RequestBody,
) -> Option<BoundWrite> {
    *body = RequestBody::judged(bound.bytes);
    let request = request.filter(|_| !bound.named_by_client)?;
    Some(BoundWrite { request, body: came })
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
