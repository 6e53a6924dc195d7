//! Where a request becomes a session: its answer goes on, so it is registered before the client gets it.
//!
//! In: a response's head, and what is kept of the permit that it answers. Out: a body or a tunnel that whoever ends the
//! session has in reach.

use std::sync::Arc;

use bytes::Bytes;
use http::Response;
use http_body_util::Full;
use hyper::upgrade::OnUpgrade;
use jiff::Timestamp;
use parking_lot::Mutex;
use picket_policy::jwt::VerifiedToken;
use picket_policy::{Inputs, ItemFilter, KubeRequest, Namespaces, Permit, PolicySet, UpstreamUser};

use super::Pipeline;
use super::body::{AuditedBody, audited};
use super::connection::Connection;
use super::filtered::ItemFiltering;
use crate::audit::{AuditId, Record};
use crate::identity::jwt::{Issuers, JwtError};
use crate::identity::{ResolvedPrincipal, check_exclusive};
use crate::listener::PodShare;
use crate::reject::Rejection;
use crate::session::{
    self, Facts, Farewell, Judge, Permitted, Registered, Registry, SessionBody, SessionKind, Slot, Stop,
    StopTunnel, Ticket, Traffic, Upgrade, Upgraded,
};
use crate::store::Store;
use crate::upstream::{StillPermitted, TunnelPermit, UpgradeProtocol, UpstreamBody, UsedCredential};

/// Whether a request becomes a session, if the API server answers it as one.
pub(super) fn may_be_session(request: &KubeRequest) -> bool {
    request.follow || request.upgrade
}

/// What a permit is judged by again.
pub(super) struct InForce {
    pub(super) store: Arc<Store>,
    pub(super) issuers: Issuers,
    pub(super) sessions: Registry,
}

impl InForce {
    /// The agent behind a request that showed this token. It is no agent where its identity is exclusive and another workload of the
    /// node claims it too.
    pub(super) fn agent(
        &self,
        policies: &Arc<PolicySet>,
        connection: &Connection,
        token: Option<Result<&Arc<VerifiedToken>, &JwtError>>,
        now: Timestamp,
    ) -> Result<Arc<ResolvedPrincipal>, Rejection> {
        let agent = connection.principal(policies, token, now)?;
        let identity = agent.principal.identity();
        if identity.exclusive {
            let claims = self.store.claims(policies);
            check_exclusive(identity, connection.pod().as_deref(), &claims).map_err(Rejection::Identity)?;
        }
        Ok(agent)
    }

    /// The agent behind a connection as all is now, and the person for whom it asks, by the tokens that its request showed.
    fn principal(
        &self,
        policies: &Arc<PolicySet>,
        connection: &Connection,
        shown: &RequestTokens,
        now: Timestamp,
    ) -> Result<Arc<ResolvedPrincipal>, Rejection> {
        for token in shown.agent.iter().chain(&shown.person) {
            let taken = self.issuers.verify_again(token, now);
            taken.map_err(|error| Rejection::Identity(error.into()))?;
        }
        let agent = self.agent(policies, connection, shown.agent.as_ref().map(Ok), now)?;
        // Of a token that is a person's the agent is no more than the actor.
        let person = shown
            .person
            .as_ref()
            .or_else(|| agent.token.as_ref().filter(|_| agent.is_actor()));
        match person {
            None => Ok(agent),
            Some(token) => {
                let for_person = connection.on_behalf_of(policies, &agent, token);
                for_person.map_err(Rejection::Identity)
            }
        }
    }
}

/// The tokens by which a request was judged, without their texts.
struct RequestTokens {
    /// That which proved the agent's identity.
    agent: Option<Arc<VerifiedToken>>,
    /// That of the person for whom the agent asks.
    person: Option<Arc<VerifiedToken>>,
}

impl RequestTokens {
    fn of(principal: &ResolvedPrincipal) -> Self {
        Self {
            agent: principal.token.clone(),
            person: principal.person_token.clone(),
        }
    }
}

/// What is kept of a permit that was sent, for as long as its answer may go on.
pub(super) struct Basis {
    connection: Arc<Connection>,
    principal: Arc<ResolvedPrincipal>,
    user: Arc<UpstreamUser>,
    approved: bool,
    filter: Option<Arc<ItemFilter>>,
    request: Arc<KubeRequest>,
    in_force: Arc<InForce>,
    judged: Mutex<Judged>,
}

/// When a request was judged last.
#[derive(Clone, Copy)]
struct Judged {
    /// Taken before anything was read that may change.
    ticket: Ticket,
    /// When time alone ends what it is permitted by.
    until: Option<Timestamp>,
}

impl Basis {
    /// `ticket` was taken before the principal and the permit were made.
    pub(super) fn new(
        in_force: &Arc<InForce>,
        connection: &Arc<Connection>,
        ticket: Ticket,
        principal: &Arc<ResolvedPrincipal>,
        permit: &Permit,
    ) -> Arc<Basis> {
        let until = [principal.until, permit.until()].into_iter().flatten().min();
        Arc::new(Basis {
            connection: Arc::clone(connection),
            principal: Arc::clone(principal),
            user: Arc::clone(permit.user()),
            approved: permit.approver().is_some(),
            filter: permit.filter().cloned(),
            request: Arc::clone(permit.request()),
            in_force: Arc::clone(in_force),
            judged: Mutex::new(Judged { ticket, until }),
        })
    }

    pub(super) fn request(&self) -> &KubeRequest {
        &self.request
    }

    /// What is taken out of the answer.
    pub(super) fn filter(&self) -> Option<&Arc<ItemFilter>> {
        self.filter.as_ref()
    }

    /// What is known of namespaces whenever it is asked.
    pub(super) fn namespaces(&self) -> impl Fn() -> Arc<Namespaces> + Send + Sync + use<> {
        let in_force = Arc::clone(&self.in_force);
        move || in_force.store.known_namespaces()
    }

    /// The share of the pod that asked.
    pub(super) fn share(&self) -> &Arc<PodShare> {
        self.connection.share()
    }

    fn facts(&self, id: AuditId, protocol: &'static str, credential: Option<UsedCredential>) -> Facts {
        Facts {
            id,
            kind: SessionKind::of(&self.request),
            protocol,
            identity: Arc::clone(&self.principal.name),
            caller: self.connection.caller(),
            request: Arc::clone(&self.request),
            user: Arc::clone(&self.user),
            approved: self.approved,
            filter: self.filter.clone(),
            credential,
            started: Timestamp::now(),
        }
    }

    /// Judges the request by what is in force now.
    ///
    /// # Errors
    /// Why it would be refused.
    pub(super) fn judge(&self) -> Result<(), Rejection> {
        self.judge_until().map(drop)
    }

    fn judge_until(&self) -> Result<Option<Timestamp>, Rejection> {
        let policies = self.in_force.store.current();
        let now = Timestamp::now();
        let shown = RequestTokens::of(&self.principal);
        let agent = self
            .in_force
            .principal(&policies, &self.connection, &shown, now)?;
        let permitted = Permitted {
            identity: &self.principal.name,
            request: &self.request,
            user: &self.user,
            approved: self.approved,
            filter: self.filter.as_ref(),
        };
        let namespaces = self.in_force.store.namespaces(&policies);
        let inputs = Inputs::at(now).beside(namespaces.as_ref());
        let until = session::recheck_request(&policies, &agent.principal, inputs, &permitted)?;
        Ok([agent.until, until].into_iter().flatten().min())
    }
}

impl StillPermitted for Basis {
    /// Judges a request again that is to be sent, or whose body is under way, where something changed since it was judged
    /// last.
    fn is_permitted(&self) -> bool {
        let mut judged = self.judged.lock();
        // Time alone raises no epoch.
        let expired = judged.until.is_some_and(|until| Timestamp::now() >= until);
        if !expired && !self.in_force.sessions.is_stale(judged.ticket) {
            return true;
        }
        // Before anything is read that may change.
        let ticket = self.in_force.sessions.ticket();
        match self.judge_until() {
            Ok(until) => {
                *judged = Judged { ticket, until };
                true
            }
            Err(_) => false,
        }
    }
}

/// A watch or a log that is registered and has no body yet.
pub(super) struct Following {
    slot: Arc<Slot<AuditedBody>>,
    kind: SessionKind,
    farewell: Farewell,
    traffic: Arc<Traffic>,
    registered: Registered,
    filtering: Option<Box<ItemFiltering>>,
}

impl Following {
    /// The body, which the record ends with, and its slot.
    pub(super) fn body(
        self,
        body: UpstreamBody,
        record: Record,
    ) -> (Arc<Slot<AuditedBody>>, SessionBody<AuditedBody>) {
        let slot = Arc::clone(&self.slot);
        let body = SessionBody::new(
            self.slot,
            audited(body, record, self.filtering),
            self.kind,
            self.farewell,
            self.traffic,
            self.registered,
        );
        (slot, body)
    }
}

/// Judges a session by the policies in force and its pod as it is now.
struct ByConnection {
    connection: Arc<Connection>,
    shown: RequestTokens,
    in_force: Arc<InForce>,
}

impl Judge for ByConnection {
    fn judge(&self, facts: &Facts, now: Timestamp) -> Result<Option<Timestamp>, Rejection> {
        let policies = self.in_force.store.current();
        let agent = self
            .in_force
            .principal(&policies, &self.connection, &self.shown, now)?;
        let namespaces = self.in_force.store.namespaces(&policies);
        let inputs = Inputs::at(now).beside(namespaces.as_ref());
        let until = session::recheck(&policies, &agent.principal, facts, inputs)?;
        Ok([agent.until, until].into_iter().flatten().min())
    }
}

impl Pipeline {
    /// Registers a watch or a log.
    pub(super) fn follow(
        &self,
        basis: &Basis,
        (response, filtering): (&Response<UpstreamBody>, Option<Box<ItemFiltering>>),
        credential: Option<UsedCredential>,
        record: &mut Record,
    ) -> Result<Following, Rejection> {
        let slot = Slot::new();
        let traffic = Arc::new(Traffic::default());
        let kind = SessionKind::of(&basis.request);
        let stop = Arc::clone(&slot);
        let registered = self.register(basis, record.id(), "http", credential, stop, &traffic)?;
        record.session(Some(record.id().to_string()), kind.as_str());
        Ok(Following {
            slot,
            kind,
            farewell: Farewell::of_response(kind, response.headers()),
            traffic,
            registered,
            filtering,
        })
    }

    /// Registers an upgraded stream; gives the answer for the client beside it.
    pub(super) fn switch(
        &self,
        basis: &Basis,
        mut response: Response<UpstreamBody>,
        (protocol, client): (UpgradeProtocol, OnUpgrade),
        credential: Option<UsedCredential>,
        record: &mut Record,
    ) -> Result<(Response<Full<Bytes>>, Upgraded), Rejection> {
        let stop = Arc::new(StopTunnel::default());
        let traffic = Arc::new(Traffic::default());
        let upgrade = match protocol {
            UpgradeProtocol::WebSocket => Upgrade::WebSocket,
            UpgradeProtocol::Spdy => Upgrade::Spdy,
        };
        let kind = SessionKind::of(&basis.request);
        let name = protocol.as_str();
        let stopped = Arc::clone(&stop);
        let registered = self.register(basis, record.id(), name, credential, stopped, &traffic)?;
        record.session(Some(record.id().to_string()), name);
        let server = hyper::upgrade::on(&mut response);
        let permit = response.extensions_mut().remove::<TunnelPermit>();
        let upgraded = Upgraded {
            client,
            server,
            farewell: Farewell::of_upgrade(kind, upgrade, response.headers()),
            stop,
            traffic,
            registered,
            permit,
        };
        Ok((response.map(|_| Full::new(Bytes::new())), upgraded))
    }

    fn register(
        &self,
        basis: &Basis,
        id: AuditId,
        protocol: &'static str,
        credential: Option<UsedCredential>,
        stop: Arc<dyn Stop>,
        traffic: &Arc<Traffic>,
    ) -> Result<Registered, Rejection> {
        let judge = Arc::new(ByConnection {
            connection: Arc::clone(&basis.connection),
            shown: RequestTokens::of(&basis.principal),
            in_force: Arc::clone(&self.in_force),
        });
        let Judged { ticket, until } = *basis.judged.lock();
        let facts = basis.facts(id, protocol, credential);
        self.in_force
            .sessions
            .register(ticket, facts, until, judge, stop, Arc::clone(traffic))
    }
}
