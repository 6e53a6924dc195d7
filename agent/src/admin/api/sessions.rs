//! Sessions that run: how they are listed and killed.
//!
//! In: a [`SessionQuery`] or [`KillRequest`], which becomes a [`SessionSelector`] of the registry. Out: a [`SessionList`] of
//! the registry's snapshots, or a [`KillAnswer`].

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::agent::AgentProcess;
use crate::session::{SessionKind, SessionSelector, Snapshot};

/// The fewest characters of an id that name a session.
pub(in crate::admin) const ID_MIN: usize = 4;

/// Which sessions are listed; what is absent does not restrict.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SessionQuery {
    /// The agent's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<String>,
    /// The kind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<SessionKind>,
}

impl From<SessionQuery> for SessionSelector {
    fn from(query: SessionQuery) -> SessionSelector {
        SessionSelector {
            id: None,
            identity: query.identity,
            kind: query.kind,
        }
    }
}

/// Sessions that run, the oldest first.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct SessionList {
    /// The sessions.
    pub sessions: Vec<SessionItem>,
}

/// A session.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SessionItem {
    /// Its id, which is its audit record's `auditID`.
    pub id: String,
    /// The agent process that carries it.
    pub agent: AgentProcess,
    /// What kind of session it is.
    pub kind: SessionKind,
    /// `http`, or the upgrade's protocol.
    pub protocol: String,
    /// The agent.
    pub identity: String,
    /// The namespace of the agent's pod; absent for a client of the gateway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// The agent's pod; absent for a client of the gateway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// The container that the client runs in, where it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// The client.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub process: Option<SessionProcess>,
    /// What was asked, in words.
    pub request: String,
    /// The user that the API server was asked as.
    pub user: String,
    /// How the node proved itself to the API server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub credential: Option<Credential>,
    /// When it began.
    pub started: Timestamp,
    /// Bytes received from the client after the request's head.
    pub received_bytes: u64,
    /// Bytes sent to the client after the response's head.
    pub sent_bytes: u64,
}

/// A client's process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionProcess {
    /// Its number on the node.
    pub pid: u32,
    /// Its executable.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exe: Option<String>,
    /// Its short name.
    pub comm: String,
}

/// A credential, never the secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credential {
    /// `token` or `client-certificate`.
    pub method: String,
    /// Which one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
}

impl SessionItem {
    pub(in crate::admin) fn new(snapshot: &Snapshot, agent: AgentProcess) -> SessionItem {
        let facts = &snapshot.facts;
        let pod = facts.caller.pod.as_ref();
        SessionItem {
            id: facts.id.to_string(),
            agent,
            kind: facts.kind,
            protocol: facts.protocol.to_owned(),
            identity: facts.identity.to_string(),
            namespace: pod.map(|pod| pod.namespace.clone()),
            pod: pod.map(|pod| pod.name.clone()),
            container: facts.caller.container.clone(),
            process: facts.caller.process.as_ref().map(|process| SessionProcess {
                pid: process.pid,
                exe: process.exe.clone(),
                comm: process.comm.clone(),
            }),
            request: facts.request.words(),
            user: facts.user.username().to_owned(),
            credential: facts.credential.as_ref().map(|used| Credential {
                method: used.method.to_owned(),
                id: used.id.as_ref().map(ToString::to_string),
            }),
            started: facts.started,
            received_bytes: snapshot.from_client,
            sent_bytes: snapshot.to_client,
        }
    }
}

/// Which sessions are ended. One of `id`, `identity` and `all` is needed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KillRequest {
    /// The id, or as much of its beginning as names one session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// The agent's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<String>,
    /// The kind, to restrict the others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<SessionKind>,
    /// Every session of the node.
    #[serde(default)]
    pub all: bool,
    /// Why, for the client and the audit record.
    #[serde(default)]
    pub reason: String,
}

/// The sessions that were ended.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KillAnswer {
    /// Their ids.
    pub ended: Vec<String>,
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::admin::api::agent::AgentState;
    use crate::audit::Caller;
    use crate::session::{Facts, testing};

    #[test]
    fn a_session_of_the_gateway_has_no_pod_and_no_empty_one() {
        let facts = |caller| Facts {
            caller: Arc::new(caller),
            ..testing::facts(SessionKind::Watch, "triage")
        };
        let item = |facts| {
            let snapshot = Snapshot {
                facts: Arc::new(facts),
                from_client: 0,
                to_client: 0,
            };
            let agent = AgentProcess {
                pid: 1,
                state: AgentState::Serving,
            };
            serde_json::to_value(SessionItem::new(&snapshot, agent)).expect("JSON")
        };
        let in_pod = item(testing::facts(SessionKind::Watch, "triage"));
        assert_eq!(
            (&in_pod["namespace"], &in_pod["pod"]),
            (&"agents".into(), &"fixer-1".into())
        );
        let at_gateway = item(facts(Caller::default()));
        assert!(
            at_gateway.get("namespace").is_none() && at_gateway.get("pod").is_none(),
            "{at_gateway}"
        );
    }
}
