//! What stays the same for all requests of one connection, and the identity behind it.
//!
//! In: what the listener found out. Out: the facts of audit records, and the principal: looked up again whenever the
//! catalog was replaced or the identity's time is over, so that a change holds on connections that are open already.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use http::Request;
use http::header::USER_AGENT;
use jiff::Timestamp;
use picket_policy::{Catalog, Standing};

use crate::audit::{self, PodRef, ProcessRef, Received, User};
use crate::identity::{self, Principal};
use crate::listener::Process;
use crate::reject::Rejection;
use crate::upstream::{Caller, SendError};
use crate::workload::Pod;

/// One client connection.
pub(super) struct Connection {
    pod: Arc<Pod>,
    source: Option<SocketAddr>,
    caller: Arc<audit::Caller>,
    user: Arc<User>,
    who: Mutex<Option<(Arc<Catalog>, Arc<Who>)>>,
}

/// A principal with what is derived from it once.
pub(super) struct Who {
    pub(super) principal: Principal,
    pub(super) caller: Caller,
    pub(super) name: Arc<str>,
}

impl Connection {
    pub(super) fn new(pod: Arc<Pod>, process: &Process, source: Option<SocketAddr>) -> Connection {
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
            }),
        };
        Connection {
            user: Arc::new(User::service_account(&pod.namespace, &pod.service_account)),
            pod,
            source,
            caller: Arc::new(caller),
            who: Mutex::new(None),
        }
    }

    pub(super) fn user(&self) -> Arc<User> {
        Arc::clone(&self.user)
    }

    /// The facts a record begins with.
    pub(super) fn received<B>(&self, request: &Request<B>) -> Received {
        let uri = request.uri().path_and_query().map_or("/", |path| path.as_str());
        Received {
            uri: uri.to_owned(),
            verb: verb(request.method()),
            source: self.source,
            user_agent: request
                .headers()
                .get(USER_AGENT)
                .map(|agent| String::from_utf8_lossy(agent.as_bytes()).into_owned()),
            caller: Some(Arc::clone(&self.caller)),
        }
    }

    /// The agent behind the connection, as the catalog has it now.
    pub(super) fn who(&self, catalog: &Arc<Catalog>, now: Timestamp) -> Result<Arc<Who>, Rejection> {
        let mut known = self.who.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((seen, who)) = &*known
            && Arc::ptr_eq(seen, catalog)
            && who.principal.identity.standing(now) == Standing::Active
        {
            return Ok(Arc::clone(who));
        }
        *known = None;
        let principal = identity::resolve(catalog, &self.pod, now).map_err(Rejection::Identity)?;
        let caller = Caller::new(&principal.name, &self.pod.namespace, &self.pod.name)
            .map_err(SendError::Unsendable)?;
        let who = Arc::new(Who {
            caller,
            name: principal.name.as_str().into(),
            principal,
        });
        *known = Some((Arc::clone(catalog), Arc::clone(&who)));
        Ok(who)
    }
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
