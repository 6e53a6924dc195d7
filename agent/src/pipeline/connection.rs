//! What stays the same for all requests of one connection, and the identity behind it.
//!
//! In: what the listener found out. Out: the facts of audit records, and the principal: looked up again whenever the
//! policies or what is known of the pod was replaced, or the identity's time is over, so that a change holds on connections that are open already.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use http::Request;
use http::header::USER_AGENT;
use jiff::Timestamp;
use picket_policy::{PolicySet, Principal, Standing};
use tokio_util::sync::CancellationToken;

use crate::audit::{self, PodRef, ProcessRef, Received, User};
use crate::identity;
use crate::listener::Process;
use crate::reject::Rejection;
use crate::workload::Pod;

/// What a record keeps of a request's path and query: the API server reads URIs of up to 64 KB, and a pod must not be able
/// to fill the disk with a few hundred refusals. An exec's command fits many times over.
const URI_BYTES: usize = 8 * 1024;

/// What a record keeps of a `User-Agent`; client-go's is about 100 bytes, and kube-apiserver's audit cuts at this length
/// too (k8s.io/apiserver pkg/audit/request.go, `maxUserAgentLength`).
const USER_AGENT_BYTES: usize = 1024;

/// One client connection.
pub(super) struct Connection {
    pod: Arc<ArcSwap<Pod>>,
    source: Option<SocketAddr>,
    caller: Arc<audit::Caller>,
    user: Arc<User>,
    left: CancellationToken,
    who: Mutex<Option<Known>>,
}

/// A principal and what it was found by.
struct Known {
    policies: Arc<PolicySet>,
    pod: Arc<Pod>,
    who: Arc<ResolvedPrincipal>,
}

/// A principal with what is derived from it once.
pub(super) struct ResolvedPrincipal {
    pub(super) principal: Arc<Principal>,
    pub(super) name: Arc<str>,
}

impl Connection {
    pub(super) fn new(
        current: Arc<ArcSwap<Pod>>,
        process: &Process,
        source: Option<SocketAddr>,
        left: CancellationToken,
    ) -> Connection {
        let pod = current.load();
        let caller = audit::Caller {
            pod: Some(PodRef {
                namespace: pod.namespace.clone(),
                name: pod.name.clone(),
                uid: pod.uid.0.clone(),
            }),
            container: process.container.clone(),
            service_account: Some(pod.service_account.clone()),
            process: Some(ProcessRef {
                pid: process.pid,
                exe: process.exe.clone(),
                comm: process.comm.clone(),
                uid: process.uid,
                escaped_to: process.cgroup.clone().filter(|_| process.outside),
            }),
        };
        Connection {
            user: Arc::new(User::service_account(&pod.namespace, &pod.service_account)),
            pod: current,
            source,
            caller: Arc::new(caller),
            left,
            who: Mutex::new(None),
        }
    }

    pub(super) fn user(&self) -> Arc<User> {
        Arc::clone(&self.user)
    }

    /// Fires when the pod is let go.
    pub(super) fn left(&self) -> CancellationToken {
        self.left.clone()
    }

    /// The facts a record begins with.
    pub(super) fn received<B>(&self, request: &Request<B>) -> Received {
        let uri = request.uri().path_and_query().map_or("/", |path| path.as_str());
        Received {
            uri: cut(uri, URI_BYTES),
            verb: verb(request.method()),
            source: self.source,
            user_agent: request
                .headers()
                .get(USER_AGENT)
                .map(|agent| cut(&String::from_utf8_lossy(agent.as_bytes()), USER_AGENT_BYTES)),
            caller: Some(Arc::clone(&self.caller)),
        }
    }

    /// The agent behind the connection, as the policy set has it now.
    pub(super) fn who(
        &self,
        policies: &Arc<PolicySet>,
        now: Timestamp,
    ) -> Result<Arc<ResolvedPrincipal>, Rejection> {
        let pod = self.pod.load_full();
        if self.left.is_cancelled() {
            return Err(Rejection::Left(format!("{}/{}", pod.namespace, pod.name)));
        }
        let mut known = self.who.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = &*known
            && Arc::ptr_eq(&known.policies, policies)
            && Arc::ptr_eq(&known.pod, &pod)
            && known.who.principal.identity().standing(now) == Standing::Active
        {
            return Ok(Arc::clone(&known.who));
        }
        *known = None;
        let principal = identity::resolve(policies, &pod, now).map_err(Rejection::Identity)?;
        let who = Arc::new(ResolvedPrincipal {
            name: principal.name().into(),
            principal: Arc::new(principal),
        });
        *known = Some(Known {
            policies: Arc::clone(policies),
            pod,
            who: Arc::clone(&who),
        });
        Ok(who)
    }
}

/// The text, or as much of it as has room, marked as kube-apiserver marks it.
fn cut(text: &str, room: usize) -> String {
    if text.len() <= room {
        return text.to_owned();
    }
    let end = (0..=room)
        .rev()
        .find(|end| text.is_char_boundary(*end))
        .unwrap_or(0);
    format!("{}...TRUNCATED", &text[..end])
}

/// The method in lower case, for records of requests that cannot be read.
fn verb(method: &http::Method) -> audit::Text {
    match method.as_str() {
        "GET" => "get".into(),
        "HEAD" => "head".into(),
        "POST" => "post".into(),
        "PUT" => "put".into(),
        "PATCH" => "patch".into(),
        "DELETE" => "delete".into(),
        "OPTIONS" => "options".into(),
        _ => "other".into(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    const OBJECTS: &str = "
apiVersion: picket.dev/v1alpha1
kind: AgentIdentity
metadata: {name: fixer}
spec:
  owner: team-a
  attest: {pod: {namespace: ns, serviceAccount: fixer, selector: {matchLabels: {app: fixer}}}}
";

    fn pod(app: &str) -> Arc<Pod> {
        Arc::new(Pod {
            service_account: "fixer".to_owned(),
            labels: BTreeMap::from([("app".to_owned(), app.to_owned())]),
            ..Pod::for_tests("ns", "p")
        })
    }

    #[test]
    fn a_label_or_a_pod_that_goes_takes_the_identity_of_open_connections_with_it() {
        let documents = picket_policy::read_documents("f.yaml", OBJECTS).unwrap();
        let policies = Arc::new(PolicySet::compile(documents).unwrap());
        let process = Process {
            pid: 1,
            tid: 1,
            uid: 0,
            comm: "kubectl".to_owned(),
            exe: None,
            container: None,
            cgroup: None,
            outside: false,
        };
        let current = Arc::new(ArcSwap::new(pod("fixer")));
        let left = CancellationToken::new();
        let connection = Connection::new(Arc::clone(&current), &process, None, left.clone());
        let now = Timestamp::now();
        assert_eq!(
            connection
                .who(&policies, now)
                .map(|who| who.name.to_string())
                .ok()
                .as_deref(),
            Some("fixer")
        );
        current.store(pod("quarantined"));
        assert!(matches!(
            connection.who(&policies, now),
            Err(Rejection::Identity(_))
        ));
        current.store(pod("fixer"));
        assert!(connection.who(&policies, now).is_ok());
        left.cancel();
        assert!(matches!(connection.who(&policies, now), Err(Rejection::Left(_))));
    }

    #[test]
    fn long_texts_are_cut_between_characters_and_marked() {
        assert_eq!(cut("/api", 8), "/api");
        assert_eq!(cut("/api/v1/pods", 4), "/api...TRUNCATED");
        assert_eq!(cut("aé", 2), "a...TRUNCATED");
    }
}
