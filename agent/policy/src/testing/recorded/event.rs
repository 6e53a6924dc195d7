//! An audit record, as far as replays need it, and the requests that it can be of.
//!
//! In: a record as JSON (`audit.k8s.io/v1`, Event; Picket's records are a superset). Out: an [`AuditEvent`], its
//! [`PlannedRequest`]s and its [`RecordedDecision`], or why it tells none.

use http::Method;
use jiff::Timestamp;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value as Json;

use crate::body::MediaType;
use crate::testing::input::{InputError, PlannedRequest, RequestRole};

/// What a request line ends in where the record does not hold all of it.
const CUT: &str = "...TRUNCATED";

/// How a mark in place of a secret begins, as it is and percent-encoded.
const MARKS: [&str; 2] = ["***", "%2A%2A%2A"];

/// An audit record. A field that is not here changes no decision, or stands in no record.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AuditEvent {
    /// `Event`.
    pub kind: String,
    /// The name of the request.
    #[serde(rename = "auditID")]
    pub audit_id: String,
    /// Which of the request's lines it is.
    pub stage: String,
    /// The verb of the request.
    pub verb: String,
    /// Path and query.
    #[serde(rename = "requestURI")]
    pub request_uri: String,
    user_agent: Option<String>,
    request_received_timestamp: Option<Timestamp>,
    stage_timestamp: Option<Timestamp>,
    object_ref: Option<RecordedObject>,
    annotations: Annotations,
    impersonated_user: Option<RecordedUser>,
    agent: Agent,
    decision: Option<DecisionFields>,
    credential: Option<Credential>,
    session: Option<Session>,
    response_status: Option<ResponseStatus>,
    request_object: Option<Json>,
    integrity: Option<Present>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
struct RecordedObject {
    subresource: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
struct Annotations {
    #[serde(rename = "authorization.k8s.io/decision")]
    decision: Option<String>,
}

/// A user as the API server saw it.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(default)]
pub(super) struct RecordedUser {
    pub(super) username: String,
    pub(super) groups: Vec<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Agent {
    identity: Option<String>,
    attestation: String,
    pod: Option<RecordedPod>,
    on_behalf_of: Option<RecordedPerson>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(super) struct RecordedPod {
    pub(super) namespace: String,
    pub(super) name: String,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(super) struct RecordedPerson {
    pub(super) issuer: String,
    pub(super) subject: String,
    pub(super) username: String,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct DecisionFields {
    outcome: Option<String>,
    reason: String,
    policy: Option<String>,
    rule: Option<String>,
    would_deny: Vec<RecordedFinding>,
}

/// A rule that fired, as a record names it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct RecordedFinding {
    /// The AgentPolicy.
    pub policy: String,
    /// The rule.
    pub rule: String,
    /// What the rule says.
    pub message: String,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
struct Credential {
    method: String,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
struct Session {
    protocol: String,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
struct ResponseStatus {
    code: u16,
}

/// A field of which only its presence matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Present;

impl<'de> Deserialize<'de> for Present {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        IgnoredAny::deserialize(from).map(|_| Self)
    }
}

/// What became of a request, as far as objects decide it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ReplayOutcome {
    /// It may go upstream.
    Allowed,
    /// A person decides.
    Pending,
    /// It may not go upstream.
    Denied,
}

impl ReplayOutcome {
    /// In tables and in JSON.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::Pending => "pending",
            Self::Denied => "denied",
        }
    }
}

/// What a record says that was decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordedDecision {
    /// The decision.
    pub outcome: ReplayOutcome,
    /// What decided: the grant of an allowed request, else `policy/rule`, `builtin/NAME`, `no_grant` or `identity`.
    pub by: String,
}

/// Why a record does not tell what would have been decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Untold {
    /// It names no agent, as those of the API server.
    NoIdentity,
    /// No AgentIdentity of the objects has the name.
    UnknownIdentity,
    /// Neither grants nor policies decided.
    Undecided,
    /// A limit of an AgentPolicy decided.
    Limits,
    /// The session was ended while it was under way.
    Ended,
    /// The request line is cut, or a secret was taken out of it.
    RequestLine,
    /// It has no time, so that no grant can be said to hold.
    NoTime,
    /// The person's groups stand in no record of a denied request.
    Person,
    /// Rules look into an object that the record does not have.
    Object,
    /// Rules look at the object that the API server had, which no record has.
    OldObject,
    /// Rules look at the namespace's labels.
    Namespace,
    /// The built-in deny of token Secrets looks at the type of a new Secret.
    SecretType,
    /// The patch may be a server-side apply or none.
    Apply,
    /// The request behind a proxy may have asked for an upgrade.
    Upgrade,
}

impl Untold {
    /// In JSON.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::NoIdentity => "no_identity",
            Self::UnknownIdentity => "unknown_identity",
            Self::Undecided => "undecided",
            Self::Limits => "limits",
            Self::Ended => "ended",
            Self::RequestLine => "request_line",
            Self::NoTime => "no_time",
            Self::Person => "person",
            Self::Object => "object",
            Self::OldObject => "old_object",
            Self::Namespace => "namespace",
            Self::SecretType => "secret_type",
            Self::Apply => "apply",
            Self::Upgrade => "upgrade",
        }
    }

    /// For people.
    #[must_use]
    pub fn explain(self) -> &'static str {
        match self {
            Self::NoIdentity => "the record names no AgentIdentity",
            Self::UnknownIdentity => "the files have no AgentIdentity of the recorded name",
            Self::Undecided => "neither grants nor policies decided the request",
            Self::Limits => "a limit of an AgentPolicy decided the request",
            Self::Ended => "the session was ended while it was under way",
            Self::RequestLine => "the recorded request line is cut, or a secret was taken out of it",
            Self::NoTime => "the record has no time",
            Self::Person => "the record does not have the groups of the person for whom the agent asked",
            Self::Object => "rules look into the object, which the record does not have",
            Self::OldObject => "rules look at the object as it was before, which no record has",
            Self::Namespace => "rules look at the namespace's labels, which the record does not have",
            Self::SecretType => {
                "builtin/token-secrets looks at the type of a new Secret, which the record does not have"
            }
            Self::Apply => "the patch may have been a server-side apply, which needs create too",
            Self::Upgrade => "the request behind a proxy may have asked for an upgrade",
        }
    }
}

impl AuditEvent {
    /// The AgentIdentity.
    #[must_use]
    pub fn identity(&self) -> Option<&str> {
        self.agent.identity.as_deref().filter(|name| !name.is_empty())
    }

    /// When the request arrived.
    #[must_use]
    pub fn at(&self) -> Option<Timestamp> {
        self.request_received_timestamp.or(self.stage_timestamp)
    }

    /// Whether the line says that it belongs to a hash chain.
    #[must_use]
    pub fn is_chained(&self) -> bool {
        self.integrity.is_some()
    }

    /// Rules and limits in mode Audit that would have denied or hidden something, and rules that `failurePolicy: Ignore` let pass.
    #[must_use]
    pub fn would_deny(&self) -> &[RecordedFinding] {
        self.decision
            .as_ref()
            .map_or(&[], |decision| decision.would_deny.as_slice())
    }

    pub(super) fn attestation(&self) -> &str {
        &self.agent.attestation
    }

    pub(super) fn pod(&self) -> Option<&RecordedPod> {
        self.agent.pod.as_ref()
    }

    pub(super) fn person(&self) -> Option<&RecordedPerson> {
        self.agent.on_behalf_of.as_ref()
    }

    /// As whom the API server was asked.
    pub(super) fn upstream(&self) -> Option<&RecordedUser> {
        self.impersonated_user.as_ref()
    }

    /// Whether the request carried a token of a service account.
    pub(super) fn carried_token(&self) -> bool {
        self.credential
            .as_ref()
            .is_some_and(|credential| credential.method == "service-account-token")
    }

    /// Whether the answer was 403: of an allowed request the API server's, by RBAC or by admission.
    pub(super) fn was_forbidden(&self) -> bool {
        self.response_status
            .as_ref()
            .is_some_and(|status| status.code == 403)
    }

    pub(super) fn has_object(&self) -> bool {
        self.request_object.is_some()
    }

    /// What was decided.
    ///
    /// # Errors
    /// Where objects did not decide, or the record does not say what they did.
    pub fn recorded(&self) -> Result<RecordedDecision, Untold> {
        let decided = |outcome, by: String| Ok(RecordedDecision { outcome, by });
        let Some(decision) = &self.decision else {
            return match self.annotations.decision.as_deref() {
                Some("allow") => decided(ReplayOutcome::Allowed, String::new()),
                Some("forbid") => decided(ReplayOutcome::Denied, String::new()),
                _ => Err(Untold::Undecided),
            };
        };
        let [policy, rule] = [&decision.policy, &decision.rule].map(|name| name.clone().unwrap_or_default());
        let permitted = self.annotations.decision.as_deref() == Some("allow");
        match (decision.outcome.as_deref(), decision.reason.as_str()) {
            (Some("allow" | "masked" | "unknown"), _) => decided(ReplayOutcome::Allowed, policy),
            // The grants allowed it, and the way to the API server failed.
            (Some("error"), _) if permitted => decided(ReplayOutcome::Allowed, policy),
            (Some("pending"), _) => decided(ReplayOutcome::Pending, format!("{policy}/{rule}")),
            (Some("deny"), "no_grant") => decided(ReplayOutcome::Denied, "no_grant".to_owned()),
            (Some("deny"), "builtin") => decided(ReplayOutcome::Denied, rule),
            (Some("deny"), "policy") => decided(ReplayOutcome::Denied, format!("{policy}/{rule}")),
            (
                Some("deny"),
                "identity_suspended" | "identity_revoked" | "identity_expired" | "identity_overdue",
            ) => decided(ReplayOutcome::Denied, "identity".to_owned()),
            (Some("deny"), "rate_limited" | "too_many_requests_at_once" | "loop") => Err(Untold::Limits),
            (
                Some("deny"),
                "user_changed"
                | "no_longer_permitted"
                | "session_killed"
                | "identity_changed"
                | "filter_changed",
            ) => Err(Untold::Ended),
            _ => Err(Untold::Undecided),
        }
    }

    /// The requests that the record can be of, the likeliest first. What they differ in is said with each of the others.
    ///
    /// # Errors
    /// Where the record does not tell verb and requestURI, or only a part of the request line.
    pub fn requests(&self) -> Result<Vec<(PlannedRequest, Option<Untold>)>, InputError> {
        let missing = |name: &str| {
            InputError(format!(
                "the record has no {name}: it is no Event of audit.k8s.io/v1"
            ))
        };
        if self.verb.is_empty() {
            return Err(missing("verb"));
        }
        if self.request_uri.is_empty() {
            return Err(missing("requestURI"));
        }
        if !self.tells_request_line() {
            return Err(InputError(
                "the record's requestURI is cut, or a secret was taken out of it: the request cannot be told"
                    .to_owned(),
            ));
        }
        let method = method(&self.verb)?;
        let plain = PlannedRequest::new(RequestRole::Acting, method.clone(), self.request_uri.clone());
        if method == Method::PATCH {
            return Ok(self.patches(plain));
        }
        let plain = match &self.request_object {
            Some(body) => plain.with_body(MediaType::Json, body),
            None => plain,
        };
        Ok(self.upgrades(plain))
    }

    /// Whether the record has the request line as it was sent.
    #[must_use]
    pub fn tells_request_line(&self) -> bool {
        let upper = self.request_uri.to_ascii_uppercase();
        !self.request_uri.ends_with(CUT) && !MARKS.iter().any(|mark| upper.contains(mark))
    }

    /// A patch, as each media type that it can have. The log has none.
    fn patches(&self, plain: PlannedRequest) -> Vec<(PlannedRequest, Option<Untold>)> {
        let query = self.request_uri.split_once('?').map_or("", |(_, query)| query);
        let has = |key: &str| query.split('&').any(|pair| pair.split('=').next() == Some(key));
        let with = |media: MediaType| {
            let mut patch = plain.clone();
            patch
                .headers
                .push(("Content-Type".to_owned(), media.name().to_owned()));
            if let Some(body) = &self.request_object {
                patch.body = body.to_string().into_bytes();
            }
            patch
        };
        let [apply, other] = [MediaType::ApplyYaml, MediaType::MergePatch].map(with);
        // kubectl and the typed clients of client-go send `force` with each server-side apply, and the API server takes it with no other
        // patch. It takes no apply without `fieldManager`.
        let by_kubectl = self
            .user_agent
            .as_deref()
            .is_some_and(|agent| agent.starts_with("kubectl"));
        match (has("force"), has("fieldManager") && !by_kubectl) {
            (true, _) => vec![(apply, None)],
            (false, true) => vec![(other, None), (apply, Some(Untold::Apply))],
            (false, false) => vec![(other, None)],
        }
    }

    /// A request, with and without the upgrade that it can have asked for. It matters behind a proxy alone.
    fn upgrades(&self, plain: PlannedRequest) -> Vec<(PlannedRequest, Option<Untold>)> {
        let subresource = self
            .object_ref
            .as_ref()
            .and_then(|object| object.subresource.as_deref());
        let protocol = self.session.as_ref().map(|session| session.protocol.as_str());
        match (subresource, protocol) {
            (Some("exec" | "attach" | "portforward"), _) if plain.method == Method::GET => {
                vec![(plain.over_websocket(), None)]
            }
            (Some("proxy"), Some(protocol)) if protocol != "watch" && protocol != "logs" => {
                vec![(plain.over_websocket(), None)]
            }
            // What was upgraded has a session in its record, so that of a refused request alone nobody knows.
            (Some("proxy"), _)
                if self
                    .recorded()
                    .is_ok_and(|it| it.outcome != ReplayOutcome::Allowed) =>
            {
                vec![
                    (plain.clone(), None),
                    (plain.over_websocket(), Some(Untold::Upgrade)),
                ]
            }
            _ => vec![(plain, None)],
        }
    }
}

/// A method of requests with this verb.
fn method(verb: &str) -> Result<Method, InputError> {
    Ok(match verb {
        "get" | "list" | "watch" => Method::GET,
        "create" | "post" => Method::POST,
        "update" | "put" => Method::PUT,
        "patch" => Method::PATCH,
        "delete" | "deletecollection" => Method::DELETE,
        "head" => Method::HEAD,
        "options" => Method::OPTIONS,
        other => {
            return Err(InputError(format!(
                "the record's verb {other:?} is none of an HTTP request"
            )));
        }
    })
}
