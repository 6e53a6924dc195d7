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
use picket_policy::{Impersonate, KubeRequest, Permit};

use super::Pipeline;
use super::body::{AuditedBody, audited};
use super::connection::Connection;
use crate::audit::{AuditId, Record};
use crate::identity::ResolvedPrincipal;
use crate::listener::PodShare;
use crate::reject::Rejection;
use crate::session::{
    self, Facts, Farewell, Judge, Permitted, Registered, SessionBody, SessionKind, Slot, Stop, StopTunnel,
    Ticket, Traffic, Upgrade, Upgraded,
};
use crate::store::Store;
use crate::upstream::{StillPermitted, TunnelPlace, UpgradeProtocol, UpstreamBody, UsedCredential};

/// What is kept of a permit that was sent, for as long as its answer may go on.
pub(super) struct Basis {
    connection: Arc<Connection>,
    ticket: Ticket,
    principal: Arc<ResolvedPrincipal>,
    impersonate: Arc<Impersonate>,
    approved: bool,
    request: Arc<KubeRequest>,
}

impl Basis {
    /// `ticket` was taken before the principal and the permit were made.
    pub(super) fn new(
        connection: &Arc<Connection>,
        ticket: Ticket,
        principal: &Arc<ResolvedPrincipal>,
        permit: &Permit,
    ) -> Basis {
        Basis {
            connection: Arc::clone(connection),
            ticket,
            principal: Arc::clone(principal),
            impersonate: Arc::clone(permit.impersonate()),
            approved: permit.approver().is_some(),
            request: Arc::clone(permit.request()),
        }
    }

    pub(super) fn request(&self) -> &KubeRequest {
        &self.request
    }

    /// The share of the pod that asked.
    pub(super) fn share(&self) -> &Arc<PodShare> {
        self.connection.share()
    }

    fn facts(self, id: AuditId, protocol: &'static str, credential: Option<UsedCredential>) -> Facts {
        Facts {
            id,
            kind: SessionKind::of(&self.request),
            protocol,
            identity: Arc::clone(&self.principal.name),
            caller: self.connection.caller(),
            request: self.request,
            impersonate: self.impersonate,
            approved: self.approved,
            credential,
            started: Timestamp::now(),
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
            audited(body, record),
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
    store: Arc<Store>,
}

impl Judge for ByConnection {
    fn judge(&self, facts: &Facts, now: Timestamp) -> Result<Option<Timestamp>, Rejection> {
        let policies = self.store.current();
        // Only the pod attests an agent, so the request's headers are not kept for this.
        let agent = self.connection.principal(&policies, None, now)?;
        session::recheck(&policies, &agent.principal, facts)?;
        Ok(agent.principal.identity().expires_at)
    }
}

/// A request that was permitted, as far as it is needed to judge it again.
struct PermittedRequest {
    connection: Arc<Connection>,
    request: Arc<KubeRequest>,
    impersonate: Arc<Impersonate>,
    identity: Arc<str>,
    approved: bool,
    /// When time alone ends what it is permitted by.
    until: Option<Timestamp>,
}

impl PermittedRequest {
    fn new(basis: &Basis) -> PermittedRequest {
        PermittedRequest {
            connection: Arc::clone(&basis.connection),
            request: Arc::clone(&basis.request),
            impersonate: Arc::clone(&basis.impersonate),
            identity: Arc::clone(&basis.principal.name),
            approved: basis.approved,
            until: basis.principal.principal.identity().expires_at,
        }
    }

    /// Judges it by what is in force now.
    fn judge(&mut self, store: &Store) -> Result<(), Rejection> {
        let policies = store.current();
        let agent = self.connection.principal(&policies, None, Timestamp::now())?;
        self.until = agent.principal.identity().expires_at;
        let permitted = Permitted {
            identity: &self.identity,
            request: &self.request,
            impersonate: &self.impersonate,
            approved: self.approved,
        };
        session::recheck_request(&policies, &agent.principal, &permitted)
    }
}

impl Pipeline {
    /// Judges a request again that is to be sent or whose body is under way, where something changed since it was judged
    /// last.
    pub(super) fn still_permitted(&self, basis: &Basis) -> StillPermitted {
        let (store, sessions) = (Arc::clone(&self.store), self.sessions.clone());
        let mut permitted = PermittedRequest::new(basis);
        let mut ticket = basis.ticket;
        Box::new(move || {
            // Time alone raises no epoch.
            let expired = permitted.until.is_some_and(|until| Timestamp::now() >= until);
            if !expired && !sessions.is_stale(ticket) {
                return true;
            }
            // Before anything is read that may change.
            let now = sessions.ticket();
            let judged = permitted.judge(&store);
            ticket = now;
            judged.is_ok()
        })
    }

    /// Why a request that was not sent is no longer permitted; none where it is permitted again.
    pub(super) fn refused_by_now(&self, basis: &Basis) -> Option<Rejection> {
        PermittedRequest::new(basis).judge(&self.store).err()
    }

    /// Registers a watch or a log.
    pub(super) fn follow(
        &self,
        basis: Basis,
        response: &Response<UpstreamBody>,
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
        })
    }

    /// Registers an upgraded stream; gives the answer for the client beside it.
    pub(super) fn switch(
        &self,
        basis: Basis,
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
        let place = response.extensions_mut().remove::<TunnelPlace>();
        let upgraded = Upgraded {
            client,
            server,
            farewell: Farewell::of_upgrade(kind, upgrade, response.headers()),
            stop,
            traffic,
            registered,
            place,
        };
        Ok((response.map(|_| Full::new(Bytes::new())), upgraded))
    }

    fn register(
        &self,
        basis: Basis,
        id: AuditId,
        protocol: &'static str,
        credential: Option<UsedCredential>,
        stop: Arc<dyn Stop>,
        traffic: &Arc<Traffic>,
    ) -> Result<Registered, Rejection> {
        let judge = Arc::new(ByConnection {
            connection: Arc::clone(&basis.connection),
            store: Arc::clone(&self.store),
        });
        let (ticket, until) = (basis.ticket, basis.principal.principal.identity().expires_at);
        let facts = basis.facts(id, protocol, credential);
        self.sessions
            .register(ticket, facts, until, judge, stop, Arc::clone(traffic))
    }
}
