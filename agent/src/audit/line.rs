//! The JSON shape of a record: an `audit.k8s.io/v1` Event with Picket's facts beside it.
//!
//! In: an [`Event`], the node's name, and its place in the hash chain. Out: a serde type that renders the stored line. Absent
//! facts are left out.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use jiff::Timestamp;
use serde::ser::SerializeMap as _;
use serde::{Serialize, Serializer};

use super::event::{
    AuditId, DecisionFacts, EndReason, Event, Finding, KernelFacts, Masking, ObjectRef, Outcome, PodRef,
    ProcessRef, RawQuery, ResponseStatus, Stage, Text, Trace, User,
};
use super::exec::Exec;
use super::token::{PersonFacts, TokenFacts};

/// One line, borrowed from the event. `integrity` stays last: the chain cuts the line there.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Line<'a> {
    kind: &'static str,
    api_version: &'static str,
    level: &'static str,
    #[serde(rename = "auditID")]
    audit_id: AuditId,
    stage: Stage,
    #[serde(rename = "requestURI")]
    request_uri: &'a str,
    verb: &'a str,
    user: &'a User,
    #[serde(skip_serializing_if = "Option::is_none")]
    impersonated_user: Option<&'a User>,
    #[serde(rename = "sourceIPs", skip_serializing_if = "Option::is_none")]
    source_ips: Option<[IpAddr; 1]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user_agent: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    object_ref: Option<&'a ObjectRef>,
    #[serde(skip_serializing_if = "Option::is_none")]
    query: Option<&'a RawQuery>,
    #[serde(skip_serializing_if = "Option::is_none")]
    exec: Option<&'a Exec>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response_status: Option<&'a ResponseStatus>,
    #[serde(serialize_with = "micro_time")]
    request_received_timestamp: Timestamp,
    #[serde(serialize_with = "micro_time")]
    stage_timestamp: Timestamp,
    #[serde(skip_serializing_if = "Annotations::is_empty")]
    annotations: Annotations<'a>,
    agent: Agent<'a>,
    decision: Decision<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    credential: Option<Credential<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    masking: Option<&'a Masking>,
    #[serde(skip_serializing_if = "Option::is_none")]
    session: Option<Session<'a>>,
    #[serde(skip_serializing_if = "Trace::is_empty")]
    trace: &'a Trace,
    #[serde(skip_serializing_if = "Option::is_none")]
    kernel: Option<&'a KernelFacts>,
    integrity: Integrity<'a>,
}

/// What consumers of the API server's audit log look for: whether the request was authorized, and by what
/// (k8s.io/apiserver pkg/endpoints/filters/authorization.go), beside annotations of Picket's own.
struct Annotations<'a> {
    own: &'a BTreeMap<Text, String>,
    decision: &'a DecisionFacts,
}

impl Annotations<'_> {
    fn is_empty(&self) -> bool {
        self.own.is_empty() && self.authorization().is_none()
    }

    /// `None` where nobody decided: the request could not be read, or waits for a person.
    fn authorization(&self) -> Option<&'static str> {
        match self.decision.outcome {
            Some(Outcome::Deny) => Some("forbid"),
            Some(Outcome::Allow | Outcome::Masked) => Some("allow"),
            _ => self.decision.permitted.then_some("allow"),
        }
    }
}

impl Serialize for Annotations<'_> {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        let mut map = out.serialize_map(None)?;
        if let Some(word) = self.authorization() {
            map.serialize_entry("authorization.k8s.io/decision", word)?;
            let reason = Reason {
                decision: self.decision,
                denied: word == "forbid",
            };
            map.serialize_entry("authorization.k8s.io/reason", &reason)?;
        }
        for (name, value) in self.own {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

/// The decision's reason: policy and rule, and what a denial says.
struct Reason<'a> {
    decision: &'a DecisionFacts,
    denied: bool,
}

impl Serialize for Reason<'_> {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        out.collect_str(self)
    }
}

impl fmt::Display for Reason<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let decision = self.decision;
        out.write_str(if self.denied {
            "Picket: denied"
        } else {
            "Picket: allowed"
        })?;
        match (&decision.policy, &decision.rule) {
            // A built-in's name has its `builtin/` already.
            (Some(_), Some(rule)) if rule.starts_with("builtin/") => write!(out, " by {rule}")?,
            (Some(policy), Some(rule)) => write!(out, " by {policy}/{rule}")?,
            (Some(name), None) | (None, Some(name)) => write!(out, " by {name}")?,
            (None, None) if self.denied => write!(out, " ({})", decision.reason)?,
            (None, None) => {}
        }
        match &decision.message {
            Some(message) if self.denied => write!(out, ": {message}"),
            _ => Ok(()),
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Agent<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    identity: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pod: Option<&'a PodRef>,
    #[serde(skip_serializing_if = "Option::is_none")]
    container: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    service_account: Option<&'a str>,
    node: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    process: Option<&'a ProcessRef>,
    #[serde(skip_serializing_if = "str::is_empty")]
    attestation: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<&'a TokenFacts>,
    #[serde(skip_serializing_if = "Option::is_none")]
    on_behalf_of: Option<&'a PersonFacts>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Decision<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    outcome: Option<Outcome>,
    #[serde(skip_serializing_if = "str::is_empty")]
    reason: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    policy: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rule: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<&'a str>,
    #[serde(skip_serializing_if = "<[Finding]>::is_empty")]
    would_deny: &'a [Finding],
    #[serde(skip_serializing_if = "<[Finding]>::is_empty")]
    warnings: &'a [Finding],
    #[serde(skip_serializing_if = "Option::is_none")]
    repeats: Option<u32>,
    #[serde(skip_serializing_if = "Latency::is_unknown")]
    latency_micros: Latency,
}

#[derive(Serialize)]
struct Latency {
    #[serde(skip_serializing_if = "Option::is_none")]
    policy: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    upstream: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    total: Option<u64>,
}

impl Latency {
    fn is_unknown(&self) -> bool {
        self.policy.is_none() && self.upstream.is_none() && self.total.is_none()
    }
}

#[derive(Serialize)]
struct Credential<'a> {
    method: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Session<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    #[serde(skip_serializing_if = "str::is_empty")]
    protocol: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<Bytes>,
    #[serde(skip_serializing_if = "Option::is_none")]
    end_reason: Option<EndReason>,
    #[serde(skip_serializing_if = "Option::is_none")]
    end_cause: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    end_message: Option<&'a str>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Bytes {
    from_client: u64,
    to_client: u64,
}

/// A line's place in the chain, but for the hash itself.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Integrity<'a> {
    #[serde(rename = "bootID")]
    pub(super) boot_id: &'a str,
    pub(super) seq: u64,
    pub(super) prev_hash: &'a str,
}

static NOBODY: User = User {
    username: String::new(),
    uid: None,
    groups: Vec::new(),
    extra: BTreeMap::new(),
};

impl<'a> Line<'a> {
    pub(super) fn new(event: &'a Event, node: &'a str, integrity: Integrity<'a>) -> Self {
        let caller = event.caller.as_deref();
        let decision = &event.decision;
        let over = matches!(event.stage, Stage::ResponseComplete | Stage::Panic);
        Self {
            kind: "Event",
            api_version: "audit.k8s.io/v1",
            level: "Metadata",
            audit_id: event.id,
            stage: event.stage,
            request_uri: &event.uri,
            verb: &event.verb,
            user: event.user.as_deref().unwrap_or(&NOBODY),
            impersonated_user: event.impersonated.as_deref(),
            source_ips: event.source.map(|address| [address]),
            user_agent: event.user_agent.as_deref(),
            object_ref: event.object.as_ref(),
            query: event.query.as_ref(),
            exec: event.exec.as_deref(),
            response_status: event.response.as_ref(),
            request_received_timestamp: event.received,
            stage_timestamp: event.stage_at,
            annotations: Annotations {
                own: &event.annotations,
                decision,
            },
            agent: Agent {
                identity: event.identity.as_deref(),
                pod: caller.and_then(|caller| caller.pod.as_ref()),
                container: caller.and_then(|caller| caller.container.as_deref()),
                service_account: caller.and_then(|caller| caller.service_account.as_deref()),
                node,
                process: caller.and_then(|caller| caller.process.as_ref()),
                attestation: &event.attestation,
                token: event.token.as_deref(),
                on_behalf_of: event.person.as_deref(),
            },
            decision: Decision {
                outcome: decision.outcome,
                reason: decision.reason,
                policy: decision.policy.as_deref(),
                rule: decision.rule.as_deref(),
                message: decision.message.as_deref(),
                would_deny: &decision.would_deny,
                warnings: &decision.warnings,
                repeats: decision.repeats,
                latency_micros: Latency {
                    policy: decision.policy_took.map(micros),
                    upstream: decision.upstream_took.map(micros),
                    total: event.total.map(micros),
                },
            },
            credential: event.credential.as_ref().map(|(method, id)| Credential {
                method,
                id: id.as_deref(),
            }),
            masking: event.masking.as_deref(),
            session: event.session.as_ref().map(|session| Session {
                id: session.id.as_deref(),
                protocol: &session.protocol,
                bytes: over.then_some(Bytes {
                    from_client: session.from_client,
                    to_client: session.to_client,
                }),
                end_reason: event.end.filter(|_| over),
                end_cause: session.ended.as_ref().map(|(cause, _)| *cause),
                end_message: session.ended.as_ref().map(|(_, message)| message.as_str()),
            }),
            trace: &event.trace,
            kernel: event.kernel.as_ref(),
            integrity,
        }
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// The form of `meta/v1` MicroTime: RFC 3339 with six digits of a second.
fn micro_time<S: Serializer>(time: &Timestamp, out: S) -> Result<S::Ok, S::Error> {
    out.collect_str(&format_args!("{time:.6}"))
}
