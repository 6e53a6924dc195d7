//! What a record is made of: the facts of one request or connection, in the words of `audit.k8s.io/v1` where it has them.
//!
//! In: facts that the pipeline's stages and the kernel know. Out: an [`Event`], whose JSON shape `line` gives.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use ring::rand::{SecureRandom as _, SystemRandom};
use serde::Serialize;
use uuid::{Builder, Uuid};

use super::digest::sha256;
use super::exec::Exec;
use super::token::{PersonFacts, TokenFacts};

/// Text that is often a constant.
pub type Text = Cow<'static, str>;

/// Names one request in Picket's log and, sent upstream as `Audit-ID`, in the API server's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
pub struct AuditId(Uuid);

impl AuditId {
    /// A new random id.
    pub fn random() -> Self {
        RANDOM
            .with_borrow_mut(RandomBytes::next)
            .map_or_else(Uuid::new_v4, |bytes| {
                Builder::from_random_bytes(bytes).into_uuid()
            })
            .into()
    }

    /// A known one, for tests.
    #[cfg(test)]
    pub(crate) const fn of(number: u128) -> Self {
        Self(Uuid::from_u128(number))
    }
}

impl From<Uuid> for AuditId {
    fn from(id: Uuid) -> Self {
        Self(id)
    }
}

/// Ids for which the kernel is asked at once: it is a system call for each request otherwise.
const RANDOM_IDS: usize = 64;

thread_local! {
    static RANDOM: RefCell<RandomBytes> = const { RefCell::new(RandomBytes { bytes: [[0; 16]; RANDOM_IDS], left: 0 }) };
}

/// Random bytes of the kernel's that no id has yet.
struct RandomBytes {
    bytes: [[u8; 16]; RANDOM_IDS],
    left: usize,
}

impl RandomBytes {
    fn next(&mut self) -> Option<[u8; 16]> {
        if self.left == 0 {
            SystemRandom::new().fill(self.bytes.as_flattened_mut()).ok()?;
            self.left = RANDOM_IDS;
        }
        self.left -= 1;
        Some(self.bytes[self.left])
    }
}

impl fmt::Display for AuditId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(out)
    }
}

/// The point in a request's life at which a line was written (k8s.io/apiserver pkg/apis/audit/v1/types.go).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Stage {
    /// Judged and on disk, not yet sent upstream.
    RequestReceived,
    /// The response's head was sent; the body or session goes on for long.
    ResponseStarted,
    /// Nothing more will be sent.
    ResponseComplete,
    /// The request's task panicked.
    Panic,
}

/// What Picket did with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// Forwarded as it was.
    Allow,
    /// Refused by identity, grants or policy.
    #[default]
    Deny,
    /// Waits for a person.
    Pending,
    /// Forwarded, with something hidden from the answer.
    Masked,
    /// Could not be judged or carried out.
    Error,
    /// Permitted and sent; whether the API server carried it out is not known.
    Unknown,
}

impl Outcome {
    /// The word in the log and in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Outcome::Allow => "allow",
            Outcome::Deny => "deny",
            Outcome::Pending => "pending",
            Outcome::Masked => "masked",
            Outcome::Error => "error",
            Outcome::Unknown => "unknown",
        }
    }
}

/// How a request or session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum EndReason {
    /// The answer or the session came to its own end.
    Completed,
    /// The client closed or cancelled first.
    ClientClosed,
    /// The API server closed first.
    UpstreamClosed,
    /// Picket ended it: shutdown, revocation or a limit.
    Terminated,
    /// A failure on the way.
    Failed,
    /// Nobody said how: the request's task was dropped.
    Aborted,
}

/// A user, as `authentication.k8s.io/v1` UserInfo.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct User {
    /// The name RBAC knows.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub username: String,
    /// The UID, where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
    /// Groups.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<String>,
    /// Extra facts.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub extra: BTreeMap<String, Vec<String>>,
}

impl User {
    /// The user a pod of this service account is to the API server
    /// (k8s.io/apiserver pkg/authentication/serviceaccount/util.go).
    pub fn service_account(namespace: &str, name: &str) -> Self {
        Self {
            username: format!("system:serviceaccount:{namespace}:{name}"),
            groups: vec![
                "system:serviceaccounts".into(),
                format!("system:serviceaccounts:{namespace}"),
            ],
            ..Self::default()
        }
    }
}

/// The object a request is about, as the API server's audit names it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ObjectRef {
    /// Resource, in plural.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub resource: String,
    /// Namespace, for namespaced objects.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Name, where the request gives one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Group; absent for the core group.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub api_group: String,
    /// Version.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub api_version: String,
    /// Subresource, such as `exec`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subresource: Option<String>,
}

/// A request's query as it was sent, which the record may hold in part or without its secrets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RawQuery {
    /// Its length.
    pub bytes: usize,
    /// Its SHA-256 in hex.
    pub sha256: String,
}

impl RawQuery {
    /// That of a path with a query; `None` where there is none.
    #[must_use]
    pub fn of(uri: &str) -> Option<RawQuery> {
        let (_, query) = uri.split_once('?')?;
        Some(RawQuery {
            bytes: query.len(),
            sha256: sha256([query.as_bytes()]),
        })
    }
}

/// The pod a connection came from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PodRef {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
}

/// The process that made a connection, as the kernel saw it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ProcessRef {
    /// Process id in the node's namespace.
    pub pid: u32,
    /// Executable, as it was when the connection was made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exe: Option<String>,
    /// The task's short name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub comm: String,
    /// User id in the node's namespace.
    pub uid: u32,
    /// Its cgroup, where that is none of its pod's.
    #[serde(rename = "escapedTo", skip_serializing_if = "Option::is_none")]
    pub escaped_to: Option<String>,
}

/// Who is at the other end of a connection; shared by all its records.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Caller {
    /// The pod, where one is known.
    pub pod: Option<PodRef>,
    /// The container's name in the manifest.
    pub container: Option<String>,
    /// The pod's service account.
    pub service_account: Option<String>,
    /// The process.
    pub process: Option<ProcessRef>,
}

/// A policy rule that has something to say without deciding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The policy.
    pub policy: String,
    /// Its rule.
    pub rule: String,
    /// The rule's message.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
}

/// What was decided and why.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DecisionFacts {
    /// What was done; `None` until somebody decides.
    pub outcome: Option<Outcome>,
    /// Whether grants and policies permitted it, whatever became of it then.
    pub permitted: bool,
    /// Low-cardinality cause of a refusal or failure, for metrics. Empty when allowed.
    pub reason: &'static str,
    /// The policy or grant that decided.
    pub policy: Option<String>,
    /// Its rule.
    pub rule: Option<String>,
    /// The text that the caller got.
    pub message: Option<String>,
    /// Rules in audit mode that would have refused.
    pub would_deny: Vec<Finding>,
    /// Rules that warned.
    pub warnings: Vec<Finding>,
    /// Further requests that were the same and have no records of their own.
    pub repeats: Option<u32>,
    /// Time spent judging.
    pub policy_took: Option<Duration>,
    /// Time from sending upstream to the response's head.
    pub upstream_took: Option<Duration>,
}

/// How the request was answered, as the audit Event's `responseStatus` (a `meta/v1` Status without `details`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ResponseStatus {
    /// `Failure` for codes from 400.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<&'static str>,
    /// The Status' message, for answers of Picket's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// The Status' reason, such as `Forbidden`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<Text>,
    /// HTTP status code.
    pub code: u16,
}

/// A long request: a watch, a log that is followed, an upgraded stream.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Session {
    /// Names the session among the live ones.
    pub id: Option<String>,
    /// `watch`, `logs`, or the upgrade's protocol.
    pub protocol: Text,
    /// Bytes the client sent after the request's head.
    pub from_client: u64,
    /// Bytes the client was sent after the response's head.
    pub to_client: u64,
    /// Why Picket ended it, where it did: a cause of low cardinality, and the text that the client got.
    pub ended: Option<(&'static str, String)>,
}

/// What was taken out of the answer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(super) struct Masking {
    /// By which rules: `policy/rule`, or a built-in's name.
    pub rules: Vec<String>,
    /// How much. A record of the start has nothing yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub counts: Option<MaskingCounts>,
}

/// How much was taken out of an answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub(super) struct MaskingCounts {
    /// Objects of the list, and events of the watch, that were looked at.
    pub items: u64,
    /// Those of them that were taken out.
    pub hidden: u64,
}

/// What a kernel hook saw.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct KernelFacts {
    /// The hook, such as `connect4`.
    pub hook: Text,
    /// `ipv4` or `ipv6`.
    #[serde(skip_serializing_if = "is_empty")]
    pub family: Text,
    /// `tcp` or `udp`.
    #[serde(skip_serializing_if = "is_empty")]
    pub protocol: Text,
    /// The address that was dialled.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<SocketAddr>,
    /// What the hook did, such as `refuse`.
    pub verdict: Text,
}

fn is_empty(text: &Text) -> bool {
    text.is_empty()
}

/// What an [`Alarm`] is about.
#[derive(Debug, Clone)]
pub enum AlarmSubject {
    /// A kernel program.
    KernelProgram(&'static str),
    /// An AgentIdentity, by its name.
    Identity(Arc<str>),
}

/// Something that is about no request and calls for a person: somebody interfered with Picket itself.
#[derive(Debug, Clone)]
pub struct Alarm {
    /// What it is about.
    pub subject: AlarmSubject,
    /// Low-cardinality cause, such as `link_replaced`.
    pub reason: &'static str,
    /// What happened, in a sentence.
    pub message: String,
}

/// A connection that never became a request: refused by the kernel, or arrived without a flow record.
#[derive(Debug, Clone, Default)]
pub struct Connection {
    /// Who dialled, as far as known.
    pub caller: Option<Arc<Caller>>,
    /// The AgentIdentity that the pod is by itself, where it is exactly one.
    pub identity: Option<Arc<str>>,
    /// The pod's address, where it is known.
    pub source: Option<IpAddr>,
    /// What the kernel saw.
    pub kernel: KernelFacts,
    /// What was done: refused, unless somebody says otherwise.
    pub outcome: Outcome,
    /// Low-cardinality cause, such as `kubelet` or `unattributed_connection`.
    pub reason: &'static str,
    /// The cause in a sentence.
    pub message: String,
}

/// What a client sends so that its requests can be told apart and followed; nobody proves any of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Trace {
    /// `traceparent` (W3C Trace Context).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
    /// `Kubectl-Session`: one run of kubectl.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kubectl_session: Option<String>,
    /// `Kubectl-Command`: its command, without arguments.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kubectl_command: Option<String>,
}

impl Trace {
    /// Whether there is nothing of it.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// A request as it arrived, before anything was read from it.
#[derive(Debug, Clone, Default)]
pub struct Received {
    /// Path and query as sent, or as much of them as a record keeps; secrets are taken out when the record is begun.
    pub uri: String,
    /// What the query is, where the URI was cut or is a session's.
    pub query: Option<RawQuery>,
    /// The lower-case HTTP method, used as the verb until the request has been read.
    pub verb: Text,
    /// The pod's address, which is the node's where the pod shares the node's network.
    pub source: Option<IpAddr>,
    /// The `User-Agent` header.
    pub user_agent: Option<String>,
    /// What the client says of the request's part in something larger.
    pub trace: Trace,
    /// Who is at the other end.
    pub caller: Option<Arc<Caller>>,
}

/// What an observer learns when a record ends.
#[derive(Debug, Clone, Copy)]
pub struct Summary<'a> {
    /// What was done.
    pub outcome: Outcome,
    /// Whose request it was, where that is known. No label: there is no bound to names.
    pub identity: Option<&'a str>,
    /// The Kubernetes verb or HTTP method.
    pub verb: &'a str,
    /// The cause of a refusal or failure, else empty.
    pub reason: &'static str,
    /// Time spent judging.
    pub policy: Option<Duration>,
    /// Time from sending upstream to the response's head.
    pub upstream: Option<Duration>,
    /// Time from the request's arrival to its end.
    pub total: Duration,
    /// Objects that were taken out of the answer.
    pub hidden: u64,
    /// Whether it was a long request, whose total says nothing about Picket's speed.
    pub long: bool,
}

/// Everything known of one request or connection.
#[derive(Debug, Clone)]
pub(super) struct Event {
    pub(super) id: AuditId,
    pub(super) stage: Stage,
    pub(super) uri: String,
    pub(super) query: Option<RawQuery>,
    pub(super) verb: Text,
    pub(super) user: Option<Arc<User>>,
    pub(super) impersonated: Option<Arc<User>>,
    pub(super) source: Option<IpAddr>,
    pub(super) user_agent: Option<String>,
    pub(super) trace: Trace,
    pub(super) object: Option<ObjectRef>,
    pub(super) exec: Option<Arc<Exec>>,
    pub(super) response: Option<ResponseStatus>,
    pub(super) received: Timestamp,
    pub(super) begun: Instant,
    pub(super) stage_at: Timestamp,
    pub(super) annotations: BTreeMap<Text, String>,
    pub(super) identity: Option<Arc<str>>,
    pub(super) attestation: Text,
    pub(super) token: Option<Arc<TokenFacts>>,
    pub(super) person: Option<Arc<PersonFacts>>,
    pub(super) caller: Option<Arc<Caller>>,
    pub(super) decision: DecisionFacts,
    pub(super) credential: Option<(Text, Option<Arc<str>>)>,
    /// Whether it is a write that went to the API server.
    pub(super) sent: bool,
    pub(super) session: Option<Session>,
    pub(super) masking: Option<Box<Masking>>,
    pub(super) end: Option<EndReason>,
    pub(super) kernel: Option<KernelFacts>,
    pub(super) total: Option<Duration>,
}

/// What a record has beside the texts that a client makes long.
const RECORD_BYTES: usize = 1536;

impl Event {
    /// About how many bytes it is, in memory and on disk.
    pub(super) fn size(&self) -> usize {
        let text = |text: &Option<String>| text.as_ref().map_or(0, String::len);
        RECORD_BYTES
            + self.uri.len()
            + text(&self.user_agent)
            + text(&self.decision.message)
            + self
                .response
                .as_ref()
                .map_or(0, |response| text(&response.message))
            + self
                .masking
                .as_ref()
                .map_or(0, |masking| masking.rules.iter().map(String::len).sum::<usize>())
            + self.exec.as_ref().map_or(0, |exec| exec.size())
            + self.token.as_ref().map_or(0, |token| token.size())
            + self.person.as_ref().map_or(0, |person| person.size())
    }

    pub(super) fn new(verb: Text, uri: String) -> Self {
        let now = Timestamp::now();
        Self {
            id: AuditId::random(),
            stage: Stage::RequestReceived,
            uri,
            query: None,
            verb,
            user: None,
            impersonated: None,
            source: None,
            user_agent: None,
            trace: Trace::default(),
            object: None,
            exec: None,
            response: None,
            received: now,
            begun: Instant::now(),
            stage_at: now,
            annotations: BTreeMap::new(),
            identity: None,
            attestation: Text::Borrowed(""),
            token: None,
            person: None,
            caller: None,
            decision: DecisionFacts::default(),
            credential: None,
            sent: false,
            session: None,
            masking: None,
            end: None,
            kernel: None,
            total: None,
        }
    }

    /// Marks the event as being of `stage`, now.
    pub(super) fn reach(&mut self, stage: Stage) {
        self.stage = stage;
        self.stage_at = Timestamp::now();
        if matches!(stage, Stage::ResponseComplete | Stage::Panic) {
            self.total = Some(self.begun.elapsed());
        }
    }

    pub(super) fn summary(&self) -> Summary<'_> {
        Summary {
            outcome: self.decision.outcome.unwrap_or(Outcome::Error),
            identity: self.identity.as_deref(),
            verb: &self.verb,
            reason: self.decision.reason,
            policy: self.decision.policy_took,
            upstream: self.decision.upstream_took,
            total: self.total.unwrap_or_default(),
            hidden: self
                .masking
                .as_ref()
                .and_then(|masking| masking.counts)
                .map_or(0, |counts| counts.hidden),
            long: self.session.is_some() || self.decision.repeats.is_some(),
        }
    }
}
