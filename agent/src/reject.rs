//! The status of each denial, as the client sees it and as metrics count it. The policy engine (explain.rs and builtin.rs of
//! `picket-policy`) and [`identity`](crate::identity) word their own; the texts of all others are here.
//!
//! In: what a stage refused. Out: an HTTP response whose body is a Kubernetes `Status` (k8s.io/apimachinery
//! pkg/apis/meta/v1/types.go), so that kubectl and client libraries show it as they show the API server's own. The body
//! is JSON whatever the client would rather have: all clients take a `Status` by the response's content type.

mod answers;

use bytes::Bytes;
use http::header::{
    CACHE_CONTROL, CONTENT_TYPE, HeaderValue, RETRY_AFTER, WARNING, WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS,
};
use http::{Response, StatusCode, Version};
use http_body_util::Full;
use picket_policy::{Cause, Denial, KubeRequest, MAX_HEAD, ReadError, Target, Verb};
use serde::Serialize;

use crate::approval::ApprovalError;
use crate::audit::{AuditError, AuditId};
use crate::identity::{ClaimError, IdentityError};
use crate::limits::LimitExceeded;
use crate::upstream::{AUDIT_ID, SendError};

pub use answers::{ApiQuestion, ProbeAnswer, UnfilterableError, WithheldAnswer};

/// Seconds after which a refused request is worth another try. client-go waits that long and tries again up to ten
/// times (k8s.io/client-go rest/with_retry.go), long enough for an API server to restart.
const RETRY_AFTER_SECONDS: u32 = 1;

/// Why a request's head is not read any further.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeadError {
    /// It is longer than the API server takes, or has more fields than are kept.
    #[error(
        "the request target and the headers are longer than {MAX_HEAD} bytes or have too many fields. Allowed instead: a \
         shorter target, and fewer or shorter headers"
    )]
    TooLong,
    /// Long heads of other requests take all the memory that there is for them.
    #[error("requests with long commands, selectors or headers use all the memory for such; try again")]
    Busy,
    /// It is no HTTP.
    #[error("Picket cannot read the request: its head is no valid HTTP/1.1 or HTTP/2")]
    Malformed,
}

/// Why a request got no answer from the API server.
#[derive(Debug, thiserror::Error)]
pub enum Rejection {
    /// It cannot be read in one way only.
    #[error("Picket cannot read the request: {0}")]
    Unreadable(#[from] ReadError),
    /// Its head is too long, or is none.
    #[error("{0}")]
    Head(HeadError),
    /// It asks for an upgrade over a protocol whose connections cannot change theirs.
    #[error(
        "Picket cannot read the request: only HTTP/1.1 can upgrade a connection, and the request came over {0:?}"
    )]
    Upgrade(Version),
    /// The caller is no agent that may act now.
    #[error("{0}")]
    Identity(IdentityError),
    /// The client says that it is somebody else than its pod.
    #[error("{0}")]
    Claim(#[from] ClaimError),
    /// The client broke off while its body was read for a decision.
    #[error("Picket cannot read the request's body: {0}")]
    Body(Box<dyn std::error::Error + Send + Sync>),
    /// The API server refused the dry run by which Picket learns which object a patch makes, as it would refuse the patch.
    #[error("{0}")]
    Probe(ProbeAnswer),
    /// A rule looks at the stored object, and the write names another version of it, or it changed while it was judged. The text is the API
    /// server's.
    #[error("{0}")]
    Conflict(String),
    /// Rules hide objects of the answer, and it cannot be filtered.
    #[error("{0}")]
    Unfilterable(UnfilterableError),
    /// The API server failed in a way that is no `Status`, and rules hide objects of the answer.
    #[error("{0}")]
    Withheld(WithheldAnswer),
    /// Other bodies of the pod that policies look into take all the memory that there is for them.
    #[error(
        "requests of this pod whose bodies policies look into use all the memory for such; try again, with fewer large objects at once"
    )]
    BodiesBusy,
    /// The client left while its body was on the way to the API server, which therefore got no whole request.
    #[error("the client left before its request's body was complete, so the API server got no whole request")]
    BodyLost,
    /// The pod has as many tunnels as one may have.
    #[error(
        "the pod has {0} tunnels (exec, attach, port-forward) open, as many as one pod may have; close some"
    )]
    TunnelShare(usize),
    /// The pod is not enforced any more, on a connection from when it was.
    #[error("Picket has released pod {0}, since the pod is exempt or was deleted; open a new connection")]
    Released(String),
    /// Grants or policies refuse it.
    #[error("{}", .0.message())]
    Denied(Denial),
    /// The agent asks for more than a policy's limits let it.
    #[error("{0}")]
    Limited(LimitExceeded),
    /// A person must approve it, and nobody did.
    #[error("{0}")]
    Approval(ApprovalError),
    /// It must be on record first and cannot be.
    #[error("Picket cannot record the request, so it was not carried out: {0}")]
    Audit(#[from] AuditError),
    /// The API server did not answer it.
    #[error("{0}")]
    Upstream(#[from] SendError),
    /// The API server's answer makes no sense here.
    #[error("the API server changed the protocol of a request that asked for no upgrade")]
    UnexpectedUpgrade,
    /// The pod is another agent now than the one that began the session.
    #[error(
        "the pod is agent {is} now; it was agent {was} when this began. Start it again to run it as agent {is}"
    )]
    IdentityChanged {
        /// Who began it.
        was: String,
        /// Who the pod is now.
        is: String,
    },
    /// It would be allowed, but under another user's or other groups' rights than it runs with.
    #[error("{}", user_changed(.was, .is))]
    UserChanged {
        /// The user that the API server was asked as.
        was: String,
        /// The user that it would be asked as now.
        is: String,
    },
    /// Rules hide other objects of the answer now than when it began.
    #[error("rules now hide other objects of this answer. Ask again for those that may be seen now")]
    FilterChanged,
    /// A rule wants a person's approval now, and nobody was asked when the session began.
    #[error(
        "a policy now wants a person to approve this request first. Send it again to ask for the approval"
    )]
    ApprovalMissing,
    /// The client stopped taking the response.
    #[error(
        "Picket ended the response: its client took nothing of it for long, or the pod has too many such responses. Read \
         each response to its end, or close its connection"
    )]
    Stalled,
    /// It is not permitted any more, while its response was under way.
    #[error("Picket ended the response: its request is no longer permitted. Send it again to be told why")]
    NoLongerPermitted,
    /// An operator ended the session.
    #[error("an operator ended this session{}", given(.0))]
    Killed(String),
    /// Nobody can tell whether it is still permitted.
    #[error(
        "Picket could not judge this again after a change of policy or pod, and so ended it. Start it again"
    )]
    Unjudged,
}

fn user_changed(was: &str, is: &str) -> String {
    if was == is {
        // The same user with other groups, or by another credential, has other rights.
        format!(
            "grants now name other groups, or another credential, for user {is}. Start this again to run it with those"
        )
    } else {
        format!(
            "grants now have the agent act as user {is}; this runs as user {was}. Start it again to run it as {is}"
        )
    }
}

fn given(reason: &str) -> String {
    if reason.is_empty() {
        String::new()
    } else {
        format!(": {reason}")
    }
}

/// The classes of refusal that differ in code, reason and what a client does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Class {
    code: StatusCode,
    /// `reason` of the `Status`, where the API has one; kubectl prints it in brackets.
    reason: &'static str,
    retry: bool,
}

/// What the API server did not take and may take the next time. An informer that is answered with 429 watches again from where
/// it was, as after a refused connection; after any other answer it lists everything anew (k8s.io/client-go
/// tools/cache/reflector.go, `isWatchErrorRetriable`).
fn outage(asked: Option<&KubeRequest>) -> Class {
    let (code, reason) = match asked {
        Some(asked) if asked.verb == Verb::Watch => (StatusCode::TOO_MANY_REQUESTS, "TooManyRequests"),
        _ => (StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable"),
    };
    Class {
        code,
        reason,
        retry: true,
    }
}

impl Rejection {
    /// A stable name of low cardinality, for metrics and records.
    pub fn code(&self) -> &'static str {
        match self {
            Rejection::Unreadable(ReadError::Head) | Rejection::Head(HeadError::TooLong) => "head_too_long",
            Rejection::Head(HeadError::Busy) => "heads_busy",
            Rejection::Unreadable(ReadError::Body(error)) => error.code(),
            Rejection::Unreadable(_) | Rejection::Head(HeadError::Malformed) => "unreadable",
            Rejection::Upgrade(_) => "upgrade_version",
            Rejection::Body(_) => "body_unreadable",
            Rejection::BodiesBusy => "bodies_busy",
            Rejection::Probe(answer) => answer.question.code(),
            Rejection::Conflict(_) => "conflict",
            Rejection::BodyLost => "body_incomplete",
            Rejection::Identity(error) => error.code(),
            Rejection::Claim(error) => error.code(),
            Rejection::Released(_) => "pod_released",
            Rejection::TunnelShare(_) => "tunnel_share",
            Rejection::Stalled => "client_stalled",
            Rejection::NoLongerPermitted => "no_longer_permitted",
            Rejection::Denied(denial) => denial.cause().code(),
            Rejection::Limited(exceeded) => exceeded.kind().code(),
            Rejection::Approval(error) => error.code(),
            Rejection::Audit(_) => "audit",
            Rejection::Upstream(error) => error.code(),
            Rejection::UnexpectedUpgrade => "upstream_protocol",
            Rejection::IdentityChanged { .. } => "identity_changed",
            Rejection::UserChanged { .. } => "user_changed",
            Rejection::FilterChanged => "filter_changed",
            Rejection::Unfilterable(error) => error.code(),
            Rejection::Withheld(_) => "answer_withheld",
            Rejection::ApprovalMissing => "approval_missing",
            Rejection::Killed(_) => "session_killed",
            Rejection::Unjudged => "internal",
        }
    }

    /// Whether identity, grants or policy said no, as opposed to something that failed.
    pub fn is_denial(&self) -> bool {
        if matches!(self, Rejection::Identity(IdentityError::Unlisted { .. }))
            || matches!(self, Rejection::Identity(IdentityError::Token(error)) if error.is_transient())
        {
            return false;
        }
        matches!(
            self,
            Rejection::Identity(_)
                | Rejection::Claim(_)
                | Rejection::Released(_)
                | Rejection::Denied(_)
                | Rejection::Limited(_)
                | Rejection::Approval(_)
                | Rejection::IdentityChanged { .. }
                | Rejection::UserChanged { .. }
                | Rejection::FilterChanged
                | Rejection::ApprovalMissing
        )
    }

    fn class(&self, asked: Option<&KubeRequest>) -> Class {
        let class = |code, reason, retry| Class { code, reason, retry };
        match self {
            // As Go answers a long head; the API has no reason for it.
            Rejection::Unreadable(ReadError::Head) | Rejection::Head(HeadError::TooLong) => class(
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
                "RequestHeaderFieldsTooLarge",
                false,
            ),
            Rejection::Head(HeadError::Busy) | Rejection::BodiesBusy => {
                class(StatusCode::TOO_MANY_REQUESTS, "TooManyRequests", true)
            }
            // Browsers ask for OPTIONS; the API server answers any such method so.
            Rejection::Unreadable(ReadError::Method(_)) => {
                class(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", false)
            }
            Rejection::Unreadable(error) if error.is_media_type() => {
                class(StatusCode::UNSUPPORTED_MEDIA_TYPE, "UnsupportedMediaType", false)
            }
            Rejection::Probe(answer) => class(answer.code, answer.reason, answer.retry),
            Rejection::Conflict(_) => class(StatusCode::CONFLICT, "Conflict", false),
            Rejection::Withheld(answer) => class(answer.code, answer.reason, answer.retry_after.is_some()),
            Rejection::Unreadable(_)
            | Rejection::Head(HeadError::Malformed)
            | Rejection::Upgrade(_)
            | Rejection::Body(_)
            | Rejection::BodyLost => class(StatusCode::BAD_REQUEST, "BadRequest", false),
            // A watch is answered as in an outage: an agent's restart must not make every informer list anew.
            Rejection::Identity(IdentityError::Unlisted { .. }) => outage(asked),
            Rejection::Identity(IdentityError::Token(error)) if error.is_transient() => {
                class(StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable", true)
            }
            Rejection::Identity(error) if error.is_unauthenticated() => {
                class(StatusCode::UNAUTHORIZED, "Unauthorized", false)
            }
            Rejection::Identity(_)
            | Rejection::Claim(_)
            | Rejection::Denied(_)
            | Rejection::Approval(_)
            | Rejection::IdentityChanged { .. }
            | Rejection::UserChanged { .. }
            | Rejection::ApprovalMissing
            | Rejection::NoLongerPermitted
            | Rejection::Killed(_) => class(StatusCode::FORBIDDEN, "Forbidden", false),
            // An informer that is told so lists again (k8s.io/apimachinery pkg/api/errors, IsResourceExpired).
            Rejection::FilterChanged => class(StatusCode::GONE, "Expired", false),
            Rejection::Unfilterable(UnfilterableError::Accept(_)) => {
                class(StatusCode::NOT_ACCEPTABLE, "NotAcceptable", false)
            }
            Rejection::Unfilterable(UnfilterableError::Busy) => {
                class(StatusCode::TOO_MANY_REQUESTS, "TooManyRequests", true)
            }
            Rejection::Unfilterable(_) => class(StatusCode::BAD_GATEWAY, "BadGateway", false),
            Rejection::TunnelShare(_) | Rejection::Limited(_) => {
                class(StatusCode::TOO_MANY_REQUESTS, "TooManyRequests", true)
            }
            Rejection::Audit(_) | Rejection::Released(_) => {
                class(StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable", true)
            }
            Rejection::Upstream(error) => match error {
                SendError::Unreachable(_)
                | SendError::NoCredential
                | SendError::Exhausted
                | SendError::NotTaken(_)
                | SendError::Interrupted(_) => outage(asked),
                SendError::Token(error) if error.is_transient() => outage(asked),
                // Until an operator acts, another try goes no better.
                SendError::Token(_) => class(StatusCode::FORBIDDEN, "Forbidden", false),
                SendError::NoLongerPermitted => {
                    class(StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable", true)
                }
                // It may have been carried out; the answer must not ask the client to send it again.
                SendError::Broken(_) => class(StatusCode::BAD_GATEWAY, "BadGateway", false),
                SendError::Unsendable(_) | SendError::Malformed(_) => {
                    class(StatusCode::INTERNAL_SERVER_ERROR, "InternalError", false)
                }
            },
            Rejection::Stalled => class(StatusCode::REQUEST_TIMEOUT, "Timeout", false),
            Rejection::UnexpectedUpgrade => class(StatusCode::BAD_GATEWAY, "BadGateway", false),
            Rejection::Unjudged => class(StatusCode::INTERNAL_SERVER_ERROR, "InternalError", false),
        }
    }

    /// What the record has in place of a message that quotes the request's body, or the API server's words about it: the body may be a
    /// Secret.
    pub fn message_without_body(&self) -> Option<String> {
        match self {
            Rejection::Unreadable(ReadError::Body(error)) => Some(format!(
                "Picket cannot read the request: its body is refused ({})",
                error.code()
            )),
            Rejection::Probe(answer) => Some(format!(
                "the API server answered {} to {}",
                answer.code,
                answer.question.words()
            )),
            _ => None,
        }
    }

    /// The text for people, with what was asked where the refusal itself does not say it.
    pub fn explain(&self, asked: Option<&KubeRequest>) -> String {
        match (self, asked) {
            (Rejection::Identity(error), Some(asked)) => format!("cannot {}: {error}", asked.words()),
            (Rejection::Claim(error), Some(asked)) => format!("cannot {}: {error}", asked.words()),
            _ => self.to_string(),
        }
    }

    /// The `Status`. `asked` is what was read of the request, if it could be.
    pub fn status(&self, asked: Option<&KubeRequest>) -> Status {
        let class = self.class(asked);
        let (kind, group) = match asked.map(|asked| &asked.target) {
            Some(Target::Resource { resource, group, .. }) => (resource.as_str(), group.as_str()),
            _ => ("", ""),
        };
        Status {
            message: self.explain(asked),
            reason: class.reason,
            code: class.code.as_u16(),
            name: asked.and_then(KubeRequest::name).unwrap_or_default().to_owned(),
            group: group.to_owned(),
            kind: kind.to_owned(),
            retry_after_seconds: if class.retry { self.retry_after() } else { 0 },
            causes: self.causes(),
        }
    }

    /// What refused the request, for programs.
    fn causes(&self) -> Vec<StatusCause> {
        match self {
            Rejection::Limited(exceeded) => vec![StatusCause {
                reason: exceeded.kind().code(),
                message: exceeded.limit(),
                field: exceeded.kind().rule().to_owned(),
            }],
            Rejection::Denied(denial) => causes_of(denial),
            _ => Vec::new(),
        }
    }

    /// Seconds until another try may go better, where it may.
    fn retry_after(&self) -> u32 {
        match self {
            Rejection::Limited(exceeded) => exceeded.retry_after(),
            Rejection::Withheld(answer) => answer.retry_after.unwrap_or(RETRY_AFTER_SECONDS),
            _ => RETRY_AFTER_SECONDS,
        }
    }

    /// The response. `asked` is what was read of the request, if it could be; `id` is that of the request's record, which
    /// whoever got the answer can quote. There is none where the log took no record.
    pub fn response(&self, asked: Option<&KubeRequest>, id: Option<AuditId>) -> Response<Full<Bytes>> {
        let class = self.class(asked);
        let target = asked.map(|asked| &asked.target);
        let status = self.status(asked);
        // Discovery comes first. Of a Status there client-go knows "unknown" to say, and a text it shows (rest/request.go, Raw and
        // newUnstructuredResponseError).
        let (body, media) = match asked.is_some_and(|asked| asked.discovery) {
            true => (status.message.clone().into_bytes(), "text/plain; charset=utf-8"),
            false => (status.to_json(), "application/json"),
        };
        let mut response = Response::new(Full::new(Bytes::from(body)));
        *response.status_mut() = class.code;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(media));
        headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        // What the API server says of all its answers (pkg/endpoints/filters/cachecontrol.go): a grant may come a moment later,
        // and another client may get another answer.
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
        if let Some(id) = id.and_then(|id| HeaderValue::try_from(id.to_string()).ok()) {
            headers.insert(AUDIT_ID, id);
        }
        if class.code == StatusCode::UNAUTHORIZED {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if class.retry {
            headers.insert(RETRY_AFTER, HeaderValue::from(status.retry_after_seconds));
        }
        // Of a Status in answer to such a path kubectl may say "unknown" too; a warning it prints.
        if matches!(target, Some(Target::NonResource { .. })) {
            headers.insert(WARNING, warning_value(&status.message));
        }
        response
    }
}

/// The longest a warning's text gets: kube-apiserver's own limit for one (pkg/endpoints/filters/warning.go).
const WARNING_CHARS: usize = 256;

/// A `Warning` field as kubectl and client-go print it (RFC 7234 section 5.5, code 299, agent `-`).
pub(crate) fn warning_value(text: &str) -> HeaderValue {
    let mut value = String::from("299 - \"");
    for character in text.chars().take(WARNING_CHARS) {
        match character {
            '"' | '\\' => value.extend(['\\', character]),
            _ if character.is_control() => value.push(' '),
            _ => value.push(character),
        }
    }
    value.push('"');
    // Text beyond ASCII is allowed in a field's value as bytes; control characters are out already.
    HeaderValue::from_bytes(value.as_bytes())
        .unwrap_or_else(|_| HeaderValue::from_static("299 - \"policy warning\""))
}

/// A `Status` of kind `Failure`: the answer that clients get.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// For people.
    pub message: String,
    /// For programs, such as `Forbidden`.
    pub reason: &'static str,
    /// The HTTP status code.
    pub code: u16,
    /// The object's name.
    pub name: String,
    /// The API group; empty for the core group.
    pub group: String,
    /// The resource.
    pub kind: String,
    /// When another try may go better; 0 for never.
    pub retry_after_seconds: u32,
    /// What exactly refused it, for programs.
    pub causes: Vec<StatusCause>,
}

/// A `metav1.StatusCause`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StatusCause {
    /// A word for programs.
    pub reason: &'static str,
    /// For people.
    pub message: String,
    /// The rule or field that says so, as `policy/rule` or `builtin/NAME`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub field: String,
}

/// What refused a request, what is allowed instead, and who can be asked. Another try gets the same answer, so that there is no
/// `retryAfterSeconds`.
fn causes_of(denial: &Denial) -> Vec<StatusCause> {
    let field = match (denial.cause(), denial.policy(), denial.rule()) {
        (Cause::Builtin, _, Some(rule)) => rule.to_owned(),
        (_, Some(policy), Some(rule)) => format!("{policy}/{rule}"),
        _ => String::new(),
    };
    let cause = |reason, message: &str, field| StatusCause {
        reason,
        message: message.to_owned(),
        field,
    };
    let refused = cause(denial.cause().code(), "the same request is refused again", field);
    let allowed = cause("allowed_instead", denial.allowed(), String::new());
    let owner = cause("owner", denial.owner(), String::new());
    let mut causes = vec![refused, allowed, owner];
    causes.retain(|cause| !cause.message.is_empty());
    causes
}

impl Status {
    /// As JSON, in one line.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        let status = StatusJson {
            kind: "Status",
            api_version: "v1",
            metadata: Metadata {},
            status: "Failure",
            message: &self.message,
            reason: self.reason,
            details: Details {
                name: &self.name,
                group: &self.group,
                kind: &self.kind,
                causes: &self.causes,
                retry_after_seconds: self.retry_after_seconds,
            },
            code: self.code,
        };
        // Serialising strings and numbers cannot fail; an empty body still carries the code.
        serde_json::to_vec(&status).unwrap_or_default()
    }
}

/// `metav1.Status`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct StatusJson<'a> {
    kind: &'static str,
    api_version: &'static str,
    metadata: Metadata,
    status: &'static str,
    message: &'a str,
    reason: &'static str,
    details: Details<'a>,
    code: u16,
}

/// `metav1.ListMeta`, always empty here; clients expect the field.
#[derive(Serialize)]
struct Metadata {}

/// `metav1.StatusDetails`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Details<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    name: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    group: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    kind: &'a str,
    #[serde(skip_serializing_if = "<[StatusCause]>::is_empty")]
    causes: &'a [StatusCause],
    #[serde(skip_serializing_if = "is_zero")]
    retry_after_seconds: u32,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;
    use picket_policy::{CanonicalRequest, Decision, Inputs, PolicySet};
    use serde_json::{Value, json};

    use super::*;

    const OBJECTS: &str = "
apiVersion: picket.dev/v1alpha1
kind: AgentIdentity
metadata: {name: triage}
spec: {owner: o, attest: {pod: {namespace: n, serviceAccount: s}}}
---
apiVersion: picket.dev/v1alpha1
kind: AgentGrant
metadata: {name: g}
spec:
  to: {identities: [triage]}
  upstream: {impersonate: {user: u}}
  rules: [{verbs: [get, delete], apiGroups: [''], resources: [namespaces]}]
---
apiVersion: picket.dev/v1alpha1
kind: AgentPolicy
metadata: {name: guard}
spec:
  rules: [{name: keep-namespaces, action: Deny, message: Ask SRE., match: {verbs: [delete]}}]
";

    #[tokio::test]
    async fn of_discovery_the_message_is_the_whole_text() {
        let rejection = Rejection::Denied(denial("/api/v1/namespaces/x"));
        let aggregated =
            "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";
        for (path, accept, media) in [
            ("/api", aggregated, "text/plain; charset=utf-8"),
            ("/apis", aggregated, "text/plain; charset=utf-8"),
            ("/api", "application/json", "application/json"),
            ("/version", aggregated, "application/json"),
            ("/api/v1/namespaces/x", aggregated, "application/json"),
        ] {
            let request = http::Request::get(path)
                .header("accept", accept)
                .body(())
                .unwrap();
            let request = CanonicalRequest::read(request.into_parts().0).unwrap();
            let (head, body) = rejection.response(Some(request.kube()), None).into_parts();
            assert_eq!(head.headers["content-type"], media, "{path} {accept}");
            let body = body.collect().await.unwrap().to_bytes();
            let is_text = body == rejection.explain(Some(request.kube()));
            assert_eq!(is_text, media.starts_with("text"), "{path} {accept}: {body:?}");
        }
    }

    #[test]
    fn before_the_objects_are_listed_clients_are_told_to_try_again() {
        let reason = "the API server has not listed AgentPolicy yet".to_owned();
        let refused = Rejection::Identity(IdentityError::Unlisted { reason });
        assert!(!refused.is_denial());
        assert_eq!(refused.code(), "objects_unlisted");
        for (path, code) in [("/api/v1/pods", 503), ("/api/v1/pods?watch=true", 429)] {
            let request = http::Request::get(path).body(()).unwrap();
            let request = CanonicalRequest::read(request.into_parts().0).unwrap();
            let response = refused.response(Some(request.kube()), None);
            assert_eq!(response.status(), code);
            assert_eq!(response.headers()[RETRY_AFTER], "1");
        }
    }

    /// The refusal of a DELETE.
    fn denial(path: &str) -> Denial {
        let documents = picket_policy::read_documents("f.yaml", OBJECTS).unwrap();
        let policies = PolicySet::compile(documents).unwrap();
        let request = http::Request::delete(path).body(()).unwrap();
        let request = CanonicalRequest::read(request.into_parts().0).unwrap();
        let principal = crate::identity::testing::principal("triage", "n", "p").into();
        match policies.decide(principal, request, Inputs::at(jiff::Timestamp::now())) {
            Decision::Deny(denial) => denial,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn other_groups_alone_are_named_as_the_change() {
        let changed = |is: &str| {
            let (was, is) = ("u".to_owned(), is.to_owned());
            Rejection::UserChanged { was, is }.to_string()
        };
        assert_eq!(
            changed("u"),
            "grants now name other groups, or another credential, for user u. Start this again to run it with those"
        );
        assert_eq!(
            changed("v"),
            "grants now have the agent act as user v; this runs as user u. Start it again to run it as v"
        );
    }

    async fn shown(rejection: &Rejection, path: &'static str) -> (http::response::Parts, Value) {
        let uri = http::Uri::from_static(path);
        let asked = KubeRequest::read(&http::Method::DELETE, &uri, &http::HeaderMap::new()).unwrap();
        let (head, body) = rejection.response(Some(&asked), None).into_parts();
        (
            head,
            serde_json::from_slice(&body.collect().await.unwrap().to_bytes()).unwrap(),
        )
    }

    #[tokio::test]
    async fn a_denial_is_the_status_kubectl_knows() {
        let rejection = Rejection::Denied(denial("/api/v1/namespaces/x"));
        let (head, status) = shown(&rejection, "/api/v1/namespaces/x").await;
        assert_eq!((head.status.as_u16(), rejection.code()), (403, "policy"));
        assert_eq!(head.headers["content-type"], "application/json");
        assert_eq!(head.headers["cache-control"], "no-cache, private");
        assert!(!head.headers.contains_key("retry-after"));
        assert_eq!(
            status,
            json!({
                "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "reason": "Forbidden",
                "message": "agent triage may not delete namespaces \"x\" (policy guard, rule keep-namespaces): Ask SRE. \
                            Allowed instead: get namespaces.",
                "details": {"name": "x", "kind": "namespaces", "causes": [
                    {"reason": "policy", "message": "the same request is refused again", "field": "guard/keep-namespaces"},
                    {"reason": "allowed_instead", "message": "get namespaces"}, {"reason": "owner", "message": "o"},
                ]}, "code": 403,
            })
        );
    }

    #[test]
    fn a_method_that_the_api_does_not_use_is_not_allowed() {
        let uri = http::Uri::from_static("/api/v1/namespaces/n/pods");
        for method in [http::Method::OPTIONS, http::Method::TRACE] {
            let error = KubeRequest::read(&method, &uri, &http::HeaderMap::new()).unwrap_err();
            let status = Rejection::from(error).status(None);
            assert_eq!(
                (status.code, status.reason),
                (405, "MethodNotAllowed"),
                "{method}"
            );
        }
    }

    #[tokio::test]
    async fn an_unreachable_api_server_is_worth_another_try() {
        let rejection = Rejection::from(SendError::Unreachable("192.0.2.1:6443: refused".into()));
        let (head, status) = shown(&rejection, "/apis/apps/v1/namespaces/n/deployments/web").await;
        assert_eq!(
            (head.status.as_u16(), &head.headers["retry-after"]),
            (503, &HeaderValue::from_static("1"))
        );
        assert_eq!(status["reason"], "ServiceUnavailable");
        assert_eq!(
            status["details"],
            json!({"name": "web", "group": "apps", "kind": "deployments", "retryAfterSeconds": 1})
        );
    }

    #[tokio::test]
    async fn a_watch_is_to_go_on_where_it_was_and_not_to_list_anew() {
        let uri = http::Uri::from_static("/api/v1/namespaces/n/pods?watch=true&resourceVersion=7");
        let watch = KubeRequest::read(&http::Method::GET, &uri, &http::HeaderMap::new()).unwrap();
        for error in [SendError::Unreachable("refused".into()), SendError::Exhausted] {
            let (head, body) = Rejection::from(error).response(Some(&watch), None).into_parts();
            assert_eq!(
                (head.status.as_u16(), &head.headers["retry-after"]),
                (429, &HeaderValue::from_static("1"))
            );
            let status: Value = serde_json::from_slice(&body.collect().await.unwrap().to_bytes()).unwrap();
            assert_eq!(
                (
                    &status["reason"],
                    &status["code"],
                    &status["details"]["retryAfterSeconds"]
                ),
                (&json!("TooManyRequests"), &json!(429), &json!(1))
            );
        }
        // Only what passes by itself.
        let denied = Rejection::Killed(String::new());
        assert_eq!(denied.status(Some(&watch)).code, 403);
    }

    #[tokio::test]
    async fn an_identity_error_says_what_was_asked() {
        let error = IdentityError::Revoked {
            identity: "triage".into(),
            owner: "sre@example.com".into(),
        };
        let (_, status) = shown(&Rejection::Identity(error), "/api/v1/namespaces/n/pods/p").await;
        let message = status["message"].as_str().unwrap();
        assert!(
            message.starts_with("cannot delete pods \"p\" in namespace \"n\": agent triage is revoked"),
            "{message}"
        );
    }
}
