//! What stays the same for all requests of one connection, and the agent behind it.
//!
//! In: what the listener and the handshake found out. Out: the facts of audit records, and the principal.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;
use http::header::{AUTHORIZATION, USER_AGENT};
use http::{HeaderMap, HeaderName, HeaderValue, Request};
use jiff::Timestamp;
use parking_lot::Mutex;
use picket_policy::jwt::VerifiedToken;
use picket_policy::{PolicySet, Principal, UpstreamUser};
use tokio_util::sync::CancellationToken;

use super::heads::target;
use super::newcomer::Newcomer;
use crate::audit::{
    self, PersonFacts, PodRef, ProcessRef, RawQuery, Received, Record, TokenFacts, Trace, User, truncate,
};
use crate::identity::attest::bearer::enforced_pod_of;
use crate::identity::attest::x509::ClientCertificate;
use crate::identity::attest::{Evidence, attestation_by};
use crate::identity::jwt::{Issuers, JwtError, LastToken, RefusedToken};
use crate::identity::{
    IdentityError, OwnToken, PrincipalCache, ResolvedPrincipal, carries_person_token, check_claims,
    on_behalf_of,
};
use crate::listener::{GatewayCaller, PodShare, Process};
use crate::reject::Rejection;
use crate::upstream::extras;
use crate::workload::Pod;

/// What a record keeps of a request's path and query: the API server reads URIs of up to 64 KB, and a pod must not be able
/// to fill the disk with a few hundred refusals. An exec's command is kept beside it.
const URI_BYTES: usize = 8 * 1024;

/// What a record keeps of a `User-Agent`; client-go's is about 100 bytes, and kube-apiserver's audit cuts at this length
/// too (k8s.io/apiserver pkg/audit/request.go, `maxUserAgentLength`).
const USER_AGENT_BYTES: usize = 1024;

/// What a record keeps of each field that correlates requests: kubectl's session is a UUID, its command a few words (`kubectl
/// rollout restart`), a `traceparent` 55 bytes.
const TRACE_BYTES: usize = 128;
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const KUBECTL_SESSION: HeaderName = HeaderName::from_static("kubectl-session");
const KUBECTL_COMMAND: HeaderName = HeaderName::from_static("kubectl-command");

/// Who is at the other end of a connection, as far as the listener knows.
pub(super) struct Client {
    /// What is known of the pod, replaced when it changes; `None` at the gateway, whose clients are no enforced pods.
    pub(super) pod: Option<Arc<ArcSwap<Pod>>>,
    /// The process that dialled, where the kernel knows it.
    pub(super) process: Option<Process>,
    /// The client's end of the connection; a pod's is its own loopback.
    pub(super) peer: IpAddr,
    /// The client's address as a server outside would see it.
    pub(super) source: Option<IpAddr>,
    /// Whether it came to the gateway from an address of an enforced pod.
    pub(super) of_enforced_pod: bool,
}

impl Client {
    /// The facts of audit records.
    fn caller(&self) -> audit::Caller {
        let pod = self.pod.as_ref().map(|pod| pod.load());
        audit::Caller {
            pod: pod.as_ref().map(|pod| PodRef {
                namespace: pod.namespace.clone(),
                name: pod.name.clone(),
                uid: pod.uid.0.clone(),
            }),
            service_account: pod.as_ref().map(|pod| pod.service_account.clone()),
            container: self
                .process
                .as_ref()
                .and_then(|process| process.container.clone()),
            process: self.process.as_ref().map(|process| ProcessRef {
                pid: process.pid,
                exe: process.exe.clone(),
                comm: process.comm.clone(),
                uid: process.uid,
                escaped_to: process.cgroup.clone().filter(|_| process.outside),
            }),
        }
    }

    /// The user that a pod is to the API server; a client of the gateway is none.
    fn user(&self) -> User {
        self.pod.as_ref().map_or_else(User::default, |pod| {
            let pod = pod.load();
            User::service_account(&pod.namespace, &pod.service_account)
        })
    }
}

/// One client connection.
pub(super) struct Connection {
    client: Client,
    certificate: Option<ClientCertificate>,
    /// Whom the certificate names, made with the first record: the name stays with the certificate.
    certified_user: OnceLock<Arc<User>>,
    caller: Arc<audit::Caller>,
    user: Arc<User>,
    released: CancellationToken,
    /// Beside the cancellations that bring it about, as those take a lock that every connection takes.
    finishing: AtomicBool,
    share: Arc<PodShare>,
    // Boxed: connections of pods have no room for it.
    newcomer: Option<Box<Newcomer>>,
    /// What counts the connection. A tunnel keeps it after HTTP has ended.
    _counted: Option<Box<dyn Send + Sync>>,
    principal: PrincipalCache,
    own_token: OwnToken,
    upstream_user: Mutex<Option<RecordedUser>>,
    last_token: LastToken,
    token: Mutex<Option<RecordedToken>>,
    person: Mutex<Option<KnownPerson>>,
}

/// The user that the API server was last asked as, made for records once.
struct RecordedUser {
    principal: Arc<Principal>,
    user: Arc<UpstreamUser>,
    recorded: Arc<User>,
}

/// The token that was shown last, made for records once.
struct RecordedToken {
    token: Arc<VerifiedToken>,
    facts: Arc<TokenFacts>,
    user: Arc<User>,
}

/// For whom the agent asked last, found and made for records once.
struct KnownPerson {
    /// Another one where the policies or the pod have changed.
    agent: Arc<ResolvedPrincipal>,
    token: Arc<VerifiedToken>,
    principal: Arc<ResolvedPrincipal>,
    recorded: Option<Arc<PersonFacts>>,
}

impl Connection {
    pub(super) fn new(
        client: Client,
        certificate: Option<ClientCertificate>,
        released: CancellationToken,
    ) -> Connection {
        Connection {
            user: Arc::new(client.user()),
            caller: Arc::new(client.caller()),
            client,
            certificate,
            certified_user: OnceLock::new(),
            released,
            finishing: AtomicBool::new(false),
            share: Arc::default(),
            newcomer: None,
            _counted: None,
            principal: PrincipalCache::default(),
            own_token: OwnToken::default(),
            upstream_user: Mutex::new(None),
            last_token: LastToken::default(),
            token: Mutex::new(None),
            person: Mutex::new(None),
        }
    }

    /// The same connection, of a pod with this share; `counted` is held until the connection and its tunnel have ended.
    pub(super) fn counted(self, share: Arc<PodShare>, counted: impl Send + Sync + 'static) -> Connection {
        Connection {
            share,
            _counted: Some(Box::new(counted)),
            ..self
        }
    }

    /// The same connection, which came to the gateway.
    pub(super) fn at_gateway(self, caller: Option<GatewayCaller>) -> Connection {
        Connection {
            newcomer: caller.map(|caller| Box::new(Newcomer::new(caller))),
            ..self
        }
    }

    /// Who came to the gateway by the connection.
    pub(super) fn newcomer(&self) -> Option<&Newcomer> {
        self.newcomer.as_deref()
    }

    /// Likewise, while it is unknown who that is.
    pub(super) fn stranger(&self) -> Option<&Newcomer> {
        self.newcomer().filter(|newcomer| newcomer.is_stranger())
    }

    /// A request was answered. Where that did not make a stranger known, the answer is the connection's last one.
    pub(super) fn answered(&self) {
        if let Some(stranger) = self.stranger() {
            self.finish();
            stranger.refuse();
        }
    }

    /// What is known of the pod now, where there is one.
    pub(super) fn pod(&self) -> Option<Arc<Pod>> {
        self.client.pod.as_ref().map(|pod| pod.load_full())
    }

    /// The client's share of the node: its pod's, or at the gateway its identity's once that is known.
    pub(super) fn share(&self) -> &Arc<PodShare> {
        let known = self.newcomer().and_then(Newcomer::share);
        known.unwrap_or(&self.share)
    }

    /// The pod's service account, where there is a pod.
    pub(super) fn user(&self) -> Arc<User> {
        Arc::clone(&self.user)
    }

    /// Fires when the pod is released.
    pub(super) fn released(&self) -> CancellationToken {
        self.released.clone()
    }

    /// The connection ends with the requests that are under way.
    pub(super) fn finish(&self) {
        self.finishing.store(true, Ordering::Release);
    }

    /// Whether the connection takes no more requests.
    pub(super) fn is_finishing(&self) -> bool {
        self.finishing.load(Ordering::Acquire)
    }

    /// The facts a record begins with.
    pub(super) fn received<B>(&self, request: &Request<B>) -> Received {
        let uri = target(request);
        // Of these all arguments are kept, and the query is cut or redacted on its own.
        let path = uri.split_once('?').map_or(uri, |(path, _)| path);
        let session = ["/exec", "/attach"].iter().any(|session| path.ends_with(session));
        // The first, where a field is repeated: servers read that one.
        let field = |name: HeaderName, limit: usize| {
            let value = request.headers().get(name)?;
            Some(truncate(&String::from_utf8_lossy(value.as_bytes()), limit))
        };
        Received {
            uri: truncate(uri, URI_BYTES),
            query: (session || uri.len() > URI_BYTES)
                .then(|| RawQuery::of(uri))
                .flatten(),
            verb: verb(request.method()),
            source: self.client.source,
            user_agent: field(USER_AGENT, USER_AGENT_BYTES),
            trace: Trace {
                traceparent: field(TRACEPARENT, TRACE_BYTES),
                kubectl_session: field(KUBECTL_SESSION, TRACE_BYTES),
                kubectl_command: field(KUBECTL_COMMAND, TRACE_BYTES),
            },
            caller: Some(Arc::clone(&self.caller)),
        }
    }

    /// Pod, container and process of the client.
    pub(super) fn caller(&self) -> Arc<audit::Caller> {
        Arc::clone(&self.caller)
    }

    /// The bearer token of a request, where it matters who the caller is by it: verified, or refused.
    pub(super) async fn token(
        &self,
        issuers: &Issuers,
        policies: &Arc<PolicySet>,
        authorization: Option<&HeaderValue>,
    ) -> Option<Result<Arc<VerifiedToken>, RefusedToken>> {
        let authorization = authorization?;
        let pod = self.pod();
        if !self.principal.reads_token(policies, pod.as_ref()) {
            return None;
        }
        self.verified(issuers, authorization).await
    }

    /// The agent behind a request that showed this token, as the policies have it now.
    pub(super) fn principal(
        &self,
        policies: &Arc<PolicySet>,
        token: Option<Result<&Arc<VerifiedToken>, &JwtError>>,
        now: Timestamp,
    ) -> Result<Arc<ResolvedPrincipal>, Rejection> {
        let pod = self.client.pod.as_ref().map(|pod| pod.load());
        if self.released.is_cancelled() {
            let name = pod.map(|pod| format!("{}/{}", pod.namespace, pod.name));
            return Err(Rejection::Released(name.unwrap_or_default()));
        }
        if self.client.of_enforced_pod {
            let peer = self.client.peer;
            return Err(Rejection::Identity(IdentityError::EnforcedPod { peer }));
        }
        if let (Some(newcomer), Some(Ok(token))) = (self.newcomer(), token)
            && let Some(pod) = enforced_pod_of(token, newcomer.enforced_pods())
        {
            return Err(Rejection::Identity(IdentityError::TokenOfEnforcedPod { pod }));
        }
        let evidence = Evidence {
            pod: pod.as_deref(),
            process: self.client.process.as_ref(),
            peer: self.client.peer,
            certificate: self.certificate.as_ref(),
            token,
        };
        self.principal
            .principal(policies, &evidence, now)
            .map_err(Rejection::Identity)
    }

    /// The bearer token of a request whose agent asks for its person: verified, or refused. The token stands beside what proves the agent,
    /// or it proves both.
    pub(super) async fn person_token(
        &self,
        issuers: &Issuers,
        policies: &PolicySet,
        agent: &ResolvedPrincipal,
        authorization: Option<&HeaderValue>,
    ) -> Option<Result<Arc<VerifiedToken>, RefusedToken>> {
        if agent.is_actor() {
            return agent.token.clone().map(Ok);
        }
        let authorization = authorization?;
        let pod = self.pod();
        if !carries_person_token(policies, agent, pod.as_deref(), &self.own_token, authorization) {
            return None;
        }
        self.verified(issuers, authorization).await
    }

    /// The token of this field: as it was verified before, or verified now. `None` where it is no bearer token.
    async fn verified(
        &self,
        issuers: &Issuers,
        authorization: &HeaderValue,
    ) -> Option<Result<Arc<VerifiedToken>, RefusedToken>> {
        let now = Timestamp::now();
        if let Some(known) = issuers.known(authorization, &self.last_token, now) {
            return Some(Ok(known));
        }
        // Boxed: few requests need this.
        Box::pin(issuers.verify(authorization, now)).await
    }

    /// The agent that asks for the person of a verified token, as the policies have both now.
    pub(super) fn on_behalf_of(
        &self,
        policies: &PolicySet,
        agent: &Arc<ResolvedPrincipal>,
        token: &Arc<VerifiedToken>,
    ) -> Result<Arc<ResolvedPrincipal>, IdentityError> {
        let mut known = self.person.lock();
        if let Some(known) = &*known
            && Arc::ptr_eq(&known.agent, agent)
            && Arc::ptr_eq(&known.token, token)
        {
            return Ok(Arc::clone(&known.principal));
        }
        *known = None;
        let principal = Arc::new(on_behalf_of(policies, agent, token)?);
        *known = Some(KnownPerson {
            agent: Arc::clone(agent),
            token: Arc::clone(token),
            principal: Arc::clone(&principal),
            recorded: None,
        });
        Ok(principal)
    }

    /// Tells the record for whom the agent asks.
    pub(super) fn record_person(&self, record: &mut Record, agent: &Arc<ResolvedPrincipal>) {
        let Some(person) = agent.principal.person() else {
            return;
        };
        let mut known = self.person.lock();
        let known = known
            .as_mut()
            .filter(|known| Arc::ptr_eq(&known.principal, agent));
        let recorded = known.as_ref().and_then(|known| known.recorded.clone());
        match recorded {
            Some(recorded) => record.same_person(&recorded),
            None => {
                let recorded = record.person(PersonFacts::of(person));
                if let Some(known) = known {
                    known.recorded = Some(recorded);
                }
            }
        }
    }

    /// Whom the client's certificate names, where that counts and there is no pod.
    pub(super) fn certified_user(&self) -> Option<Arc<User>> {
        let certificate = self.certificate.as_ref().filter(|_| self.client.pod.is_none())?;
        let svid = certificate.check(Timestamp::now()).ok()?;
        let user = || {
            Arc::new(User {
                username: svid.id.to_string(),
                ..User::default()
            })
        };
        Some(Arc::clone(self.certified_user.get_or_init(user)))
    }

    /// Tells the record whose token a request shows that its issuer signed. Where there is no pod, the token's user is who asks.
    pub(super) fn record_token(&self, record: &mut Record, token: &Arc<VerifiedToken>) {
        let mut last = self.token.lock();
        let (facts, user) = match &*last {
            Some(last) if Arc::ptr_eq(&last.token, token) => {
                (Arc::clone(&last.facts), Arc::clone(&last.user))
            }
            _ => {
                let facts = record.token(TokenFacts {
                    issuer: Some(token.issuer().to_owned()),
                    subject: Some(token.subject().to_owned()),
                    username: Some(token.user().username.clone()),
                    verified: true,
                });
                let user = Arc::new(User {
                    username: facts.username.clone().unwrap_or_default(),
                    ..User::default()
                });
                *last = Some(RecordedToken {
                    token: Arc::clone(token),
                    facts: Arc::clone(&facts),
                    user: Arc::clone(&user),
                });
                (facts, user)
            }
        };
        record.same_token(&facts);
        if self.client.pod.is_none() {
            record.user(user);
        }
    }

    /// By what the client is to be known: what it shows, whether or not that counts.
    pub(super) fn attestation(&self, shows_token: bool) -> &'static str {
        attestation_by(self.client.pod.is_some(), shows_token, self.certificate.is_some())
    }

    /// Checks that a request says of itself nothing else than that it comes from this connection's client.
    pub(super) fn check_claims(
        &self,
        headers: &HeaderMap,
        agent: &ResolvedPrincipal,
    ) -> Result<(), Rejection> {
        // The first, where there are several: that one was verified.
        let was_verified = agent.token.is_some() || agent.person_token.is_some();
        let proof = headers.get(AUTHORIZATION).filter(|_| was_verified);
        let pod = self.client.pod.as_ref().map(|pod| pod.load());
        Ok(check_claims(
            headers,
            pod.as_deref().map(|pod| &**pod),
            &agent.name,
            &self.own_token,
            proof,
        )?)
    }

    /// The user the API server is asked as, with the extras that are sent with one who is impersonated. A request that may become
    /// a session has the session's id among them.
    pub(super) fn upstream_user(
        &self,
        principal: &Arc<Principal>,
        user: &Arc<UpstreamUser>,
        session: Option<&str>,
    ) -> Arc<User> {
        if session.is_some() {
            return Arc::new(recorded(principal, user, session));
        }
        let mut last = self.upstream_user.lock();
        if let Some(last) = &*last
            && Arc::ptr_eq(&last.principal, principal)
            && Arc::ptr_eq(&last.user, user)
        {
            return Arc::clone(&last.recorded);
        }
        let recorded = Arc::new(recorded(principal, user, None));
        *last = Some(RecordedUser {
            principal: Arc::clone(principal),
            user: Arc::clone(user),
            recorded: Arc::clone(&recorded),
        });
        recorded
    }
}

/// The user as a record has it. Nothing is said of one whose token the request carries.
fn recorded(principal: &Principal, user: &UpstreamUser, session: Option<&str>) -> User {
    let extra = user.impersonate().map(|_| extras(principal, session));
    User {
        username: user.username().to_owned(),
        groups: user.effective_groups(),
        extra: extra
            .into_iter()
            .flatten()
            .map(|extra| (extra.name.to_owned(), vec![extra.value]))
            .collect(),
        uid: None,
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::net::Ipv4Addr;

    use picket_policy::{Impersonate, ServiceAccount};

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

    /// A client in a pod.
    fn client(pod: &Arc<ArcSwap<Pod>>) -> Client {
        Client {
            pod: Some(Arc::clone(pod)),
            process: Some(Process::for_tests()),
            peer: Ipv4Addr::LOCALHOST.into(),
            source: None,
            of_enforced_pod: false,
        }
    }

    #[test]
    fn a_label_or_a_pod_that_goes_takes_the_identity_of_open_connections_with_it() {
        let documents = picket_policy::read_documents("f.yaml", OBJECTS).unwrap();
        let policies = Arc::new(PolicySet::compile(documents).unwrap());
        let current = Arc::new(ArcSwap::new(pod("fixer")));
        let released = CancellationToken::new();
        let connection = Connection::new(client(&current), None, released.clone());
        let principal = || connection.principal(&policies, None, Timestamp::now());
        assert_eq!(
            principal().map(|agent| agent.name.to_string()).ok().as_deref(),
            Some("fixer")
        );
        current.store(pod("quarantined"));
        assert!(matches!(principal(), Err(Rejection::Identity(_))));
        current.store(pod("fixer"));
        assert!(principal().is_ok());
        released.cancel();
        assert!(matches!(principal(), Err(Rejection::Released(_))));
    }

    #[test]
    fn a_user_is_made_again_for_another_grant() {
        let principal = Arc::new(crate::identity::testing::principal("fixer", "ns", "p"));
        let current = Arc::new(ArcSwap::new(pod("fixer")));
        let connection = Connection::new(client(&current), None, CancellationToken::new());
        let as_user = |user: &str| {
            Arc::new(UpstreamUser::Impersonated(Impersonate {
                user: user.to_owned(),
                groups: Vec::new(),
            }))
        };
        let (one, other) = (as_user("one"), as_user("other"));
        let first = connection.upstream_user(&principal, &one, None);
        assert_eq!(first.extra["picket.dev/pod"], ["ns/p"]);
        assert!(Arc::ptr_eq(
            &first,
            &connection.upstream_user(&principal, &one, None)
        ));
        assert_eq!(
            connection.upstream_user(&principal, &other, None).username,
            "other"
        );
        assert_eq!(connection.upstream_user(&principal, &one, None).username, "one");
        let session = connection.upstream_user(&principal, &one, Some("b0b"));
        assert_eq!(session.extra["picket.dev/session"], ["b0b"]);
        let next = connection.upstream_user(&principal, &one, None);
        assert!(!next.extra.contains_key("picket.dev/session"));
        // A token says nothing of the pod.
        let account = Arc::new(UpstreamUser::ServiceAccount(ServiceAccount::new("ci", "bot")));
        let account = connection.upstream_user(&principal, &account, None);
        assert_eq!(account.username, "system:serviceaccount:ci:bot");
        assert!(account.extra.is_empty());
    }
}
