//! The way to the API server.
//!
//! In: a [`Permit`] with the request that it is for; nothing gets here without one. Out: the API server's response,
//! streamed, or why there is none, and the credential that was used. The client's credentials and identity claims stay
//! behind, the agent's are put in.

mod body;
mod client_body;
mod connect;
mod counted;
mod credential;
mod headers;
mod outgoing;
mod pool;
mod replay;
mod retarget;
mod retry;
#[cfg(test)]
mod tests;
mod token;

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::{Response, StatusCode, Uri, request};
use hyper::body::Incoming;
use picket_policy::{LongTarget, Permit, Principal, UpstreamUser};
use tokio_util::sync::CancellationToken;

use connect::Connector;
use credential::{ConnectionIdentity, Credentials};
use headers::{OutboundCredential, OutboundIdentity};
use outgoing::{Failure, Outgoing};
use pool::{ConnectionLease, PodKey, Pool, Pools};
use replay::{Replay, ReplayBudget};
use token::{Token, Tokens};

use crate::runtime::workers;

pub use body::{RequestBody, StillPermitted};
pub use client_body::{BodyLoss, ClientBody};
pub use connect::CONNECT_LIMIT;
pub use counted::{BodyEnd, CountedBody, HeldLease, OnEnd, UpstreamBody};
pub use credential::{CredentialError, NodeCredential, UsedCredential};
pub use headers::{AUDIT_ID, RequestOrigin, UpgradeProtocol, extras, filterable_accept, requested_upgrade};
pub use pool::{ResponseWindow, STREAMS_PER_CONNECTION};
pub use token::AccountTokenError;

/// The place of a tunnel's connection among the node's; free again when the last one is dropped. An upgrade's response has it
/// among its extensions.
#[derive(Debug, Clone)]
pub struct TunnelPermit(#[allow(dead_code, reason = "held until it is dropped")] Arc<pool::Counted>);

/// How often files are read again and unused connections closed.
const REFRESH_INTERVAL: Duration = Duration::from_secs(5);

/// Where the API server is and how the node shows itself.
#[derive(Debug, Clone)]
pub struct UpstreamConfig {
    /// `https://host:port`, without a path.
    pub server: Uri,
    /// The name in the server's certificate, where it is not the URL's host.
    pub server_name: Option<String>,
    /// PEM bundle that the server's certificate is checked against.
    pub ca: PathBuf,
    /// The node's credential.
    pub credential: NodeCredential,
}

/// Why the upstream side cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamError {
    /// The URL does not fit.
    #[error("API server `{server}`: {reason}")]
    Server {
        /// The URL as given.
        server: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The CA, certificate, key or token cannot be used.
    #[error(transparent)]
    Credential(#[from] CredentialError),
}

/// Why there is no response.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// No connection could be made; the request was not sent.
    #[error("the API server cannot be reached: {0}")]
    Unreachable(String),
    /// The node has had no usable credential or CA since the agent's start; the request was not sent.
    #[error(
        "the credential of this node for the API server cannot be used; the request was not sent. A cluster operator can correct \
         its files, which Picket reads again by itself"
    )]
    NoCredential,
    /// As many connections as may be are open and full; the request was not sent.
    #[error("all connections to the API server are in use; try again")]
    Exhausted,
    /// The API server refused the stream or went away before it saw the request.
    #[error("the API server did not take the request: {0}")]
    NotTaken(hyper::Error),
    /// The connection broke after the request was sent, which changes nothing however often it is carried out.
    #[error("the connection to the API server broke before it answered: {0}; nothing was changed, try again")]
    Interrupted(hyper::Error),
    /// The connection broke after the request was sent; it may have been carried out.
    #[error(
        "the connection to the API server broke before it answered: {0}; the request may have been carried out"
    )]
    Broken(hyper::Error),
    /// Something changed between the decision and the sending; the request was not sent.
    #[error("policy, identity or pod changed before the request was sent, so it was not sent; try again")]
    NoLongerPermitted,
    /// There is no token of the grant's service account, or the API server refuses it; the request was not carried out.
    #[error(transparent)]
    Token(#[from] AccountTokenError),
    /// A name in the grant cannot stand in a header.
    #[error("the user or a group of the AgentGrant cannot be sent as a header: {0}")]
    Unsendable(#[from] http::header::InvalidHeaderValue),
    /// The request cannot be put together again for the API server.
    #[error("Picket cannot build the request to the API server: {0}")]
    Malformed(#[from] http::Error),
}

impl SendError {
    /// A stable name of low cardinality, for metrics and records.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            SendError::Unreachable(_) => "upstream_unreachable",
            SendError::NoCredential => "upstream_no_credential",
            SendError::Exhausted => "upstream_exhausted",
            SendError::NotTaken(_) => "upstream_not_taken",
            SendError::Interrupted(_) => "upstream_interrupted",
            SendError::Broken(_) => "upstream_broken",
            SendError::NoLongerPermitted => "no_longer_permitted",
            SendError::Token(error) => error.code(),
            SendError::Unsendable(_) | SendError::Malformed(_) => "unsendable",
        }
    }
}

/// One request sent, or tried to be.
#[derive(Debug)]
pub struct Attempt {
    /// The token of the request, or the credential of the connection that was used last; none where there was no connection.
    pub credential: Option<UsedCredential>,
    /// The response.
    pub response: Result<Response<UpstreamBody>, SendError>,
}

/// The API server as the node reaches it. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Upstream {
    /// One for each thread of the data path, so that a request and its answer stay on one core.
    pools: Arc<[Pools]>,
    replays: ReplayBudget,
    tokens: Tokens,
}

impl Upstream {
    /// Reads the files; connects with the first request. Each of `threads` of the data path gets connections of its own. Where a
    /// file cannot be used every request is refused until it can: see [`Upstream::credential_fault`].
    ///
    /// # Errors
    /// A URL that does not fit.
    pub fn open(config: UpstreamConfig, threads: NonZeroUsize) -> Result<Upstream, UpstreamError> {
        let credentials = Credentials::open(config.ca, config.credential)?;
        let connector = Connector::new(&config.server, config.server_name.as_deref(), credentials)?;
        Ok(Upstream {
            pools: Pools::for_threads(connector, threads),
            replays: ReplayBudget::default(),
            tokens: Tokens::default(),
        })
    }

    /// The pool of the thread that calls, whose connections show this, for responses with this window.
    fn pool(&self, identity: ConnectionIdentity, window: ResponseWindow) -> &Arc<Pool> {
        self.pools[workers::current() % self.pools.len()].of(identity, window)
    }

    fn connector(&self) -> &Connector {
        self.pools[0].large.connector()
    }

    /// Follows rotated files and closes unused connections until cancelled.
    pub async fn run(self, cancel: CancellationToken) {
        loop {
            tokio::select! {
                () = cancel.cancelled() => return,
                () = tokio::time::sleep(REFRESH_INTERVAL) => {}
            }
            self.refresh();
        }
    }

    /// One round of [`Upstream::run`].
    pub fn refresh(&self) {
        self.connector().credentials.refresh();
        for pools in &*self.pools {
            pools.sweep();
        }
        self.tokens.sweep();
    }

    /// Forgets every token.
    #[cfg(test)]
    pub(crate) fn forget_tokens(&self) {
        self.tokens.forget();
    }

    /// Makes every token this much older.
    #[cfg(test)]
    pub(crate) fn age_tokens(&self, by: Duration) {
        self.tokens.age(by);
    }

    /// How many connections to the API server are open.
    pub fn connections(&self) -> usize {
        self.pools[0].large.connections()
    }

    /// Why every request is refused: what is wrong with the credential's files, where they were never good.
    pub fn credential_fault(&self) -> Option<String> {
        self.connector().credentials.fault()
    }

    /// Why the credential's files as they are now cannot be used; the last good ones are in use, where there are such.
    pub fn credential_error(&self) -> Option<String> {
        self.connector().credentials.error()
    }

    /// When the client certificate expires.
    pub fn credential_not_after(&self) -> Option<SystemTime> {
        self.connector().credentials.current().not_after
    }

    /// When the CAs that the API server's certificate is checked against have all expired.
    pub fn ca_not_after(&self) -> Option<SystemTime> {
        self.connector().credentials.current().ca_not_after
    }

    /// Sends what was permitted, as the user the permit names. The permit is used up: it holds the request's head, so
    /// that nothing but the request that was judged can be sent.
    ///
    /// ```compile_fail,E0308
    /// # use picket::upstream::{Attempt, RequestBody, RequestOrigin, ResponseWindow, Upstream};
    /// async fn unasked(upstream: &Upstream, ask: picket_policy::Ask, origin: RequestOrigin) -> Attempt {
    ///     upstream.send(ask, RequestBody::Empty, &origin, None, ResponseWindow::Large).await
    /// }
    /// ```
    ///
    /// ```compile_fail,E0382
    /// # use picket::upstream::{Attempt, RequestBody, RequestOrigin, ResponseWindow, Upstream};
    /// async fn twice(upstream: &Upstream, permit: picket_policy::Permit, origin: RequestOrigin) -> Attempt {
    ///     upstream.send(permit, RequestBody::Empty, &origin, None, ResponseWindow::Large).await;
    ///     upstream.send(permit, RequestBody::Empty, &origin, None, ResponseWindow::Large).await
    /// }
    /// ```
    ///
    /// ```
    /// # use picket::upstream::{Attempt, RequestBody, RequestOrigin, ResponseWindow, Upstream};
    /// async fn once(upstream: &Upstream, permit: picket_policy::Permit, origin: RequestOrigin) -> Attempt {
    ///     upstream.send(permit, RequestBody::Empty, &origin, None, ResponseWindow::Large).await
    /// }
    /// ```
    ///
    /// An upgrade goes over a connection of its own, as does a request whose target is longer than a URI; with status 101 the
    /// response carries `hyper::upgrade::OnUpgrade`. Any other response is passed as it is. Dropping the future or the response's
    /// body takes the request back at once. What the API server surely did not take is sent again, if its body is small enough
    /// to be kept. `window` bounds what of the response waits for its client; an upgrade has no such window.
    pub async fn send(
        &self,
        permit: Permit,
        body: RequestBody,
        origin: &RequestOrigin,
        upgrade: Option<UpgradeProtocol>,
        window: ResponseWindow,
    ) -> Attempt {
        let mut credential = None;
        let response = self
            .try_send(permit, body, origin, (upgrade, window), &mut credential)
            .await;
        Attempt { credential, response }
    }

    async fn try_send(
        &self,
        permit: Permit,
        body: RequestBody,
        origin: &RequestOrigin,
        (upgrade, window): (Option<UpgradeProtocol>, ResponseWindow),
        used: &mut Option<UsedCredential>,
    ) -> Result<Response<UpstreamBody>, SendError> {
        if let Some(fault) = self.credential_fault() {
            tracing::debug!(fault, "a request is refused for want of a credential");
            return Err(SendError::NoCredential);
        }
        let (user, principal) = (Arc::clone(permit.user()), Arc::clone(permit.principal()));
        // What is behind a proxy may answer 401 by itself.
        let by_server = !permit.request().is_proxied();
        let token = self.token(&user).await?;
        let head = self.head(permit, (&user, token.as_deref()), &principal, origin, upgrade)?;
        let identity = match token {
            Some(_) => ConnectionIdentity::Bare,
            None => ConnectionIdentity::Node,
        };
        let route = Route {
            identity,
            window,
            pod: PodKey::of(&principal),
            upgrade: upgrade.is_some(),
        };
        let response = self.send_head(head, body, route, used).await;
        let (Some(token), Some(account)) = (token, user.service_account()) else {
            return response;
        };
        if let Some(used) = used {
            *used = token.used.clone();
        }
        match response {
            Ok(response) if response.status() == StatusCode::UNAUTHORIZED && by_server => {
                // The client's own credential is in order, so that the answer would mislead it.
                match self.tokens.refused(account, &token) {
                    Some(refused) => Err(refused.into()),
                    None => Ok(response),
                }
            }
            response => response,
        }
    }

    /// The token of a user who acts by one. Boxed: it is seldom that one has to be asked for.
    async fn token(&self, user: &UpstreamUser) -> Result<Option<Arc<Token>>, AccountTokenError> {
        let Some(account) = user.service_account() else {
            return Ok(None);
        };
        let node = self.pool(ConnectionIdentity::Node, ResponseWindow::Large);
        Box::pin(self.tokens.get(account, node)).await.map(Some)
    }

    /// The head that goes upstream.
    fn head(
        &self,
        permit: Permit,
        (user, token): (&UpstreamUser, Option<&Token>),
        principal: &Principal,
        origin: &RequestOrigin,
        upgrade: Option<UpgradeProtocol>,
    ) -> Result<request::Parts, SendError> {
        let node = self.connector().credentials.current();
        let credential = match (user, token) {
            (UpstreamUser::Impersonated(user), _) => {
                OutboundCredential::Node(node.authorization.as_ref(), user)
            }
            (UpstreamUser::ServiceAccount(_), Some(token)) => OutboundCredential::Token(&token.authorization),
            (UpstreamUser::ServiceAccount(account), None) => {
                return Err(AccountTokenError::absent(account).into());
            }
        };
        let identity = OutboundIdentity {
            credential,
            principal,
            origin,
        };
        let is_filtered = permit.filter().is_some();
        let mut head = permit.into_head();
        head.headers = headers::outbound(std::mem::take(&mut head.headers), &identity, upgrade)?;
        if is_filtered {
            headers::for_filter(&mut head.headers);
        }
        Ok(head)
    }

    async fn send_head(
        &self,
        mut head: request::Parts,
        body: RequestBody,
        route: Route,
        used: &mut Option<UsedCredential>,
    ) -> Result<Response<UpstreamBody>, SendError> {
        let long = head.extensions.remove::<LongTarget>();
        if long.is_some() {
            head.uri = Uri::from_static(retarget::STAND_IN);
        }
        let outgoing = Outgoing::new(head);
        if route.upgrade || long.is_some() {
            // Boxed, as such requests are few and a handshake's state is large.
            let pool = self.pool(route.identity, ResponseWindow::Large);
            Box::pin(send_own(pool, outgoing, body, (long, route.upgrade), used)).await
        } else {
            let pool = self.pool(route.identity, route.window);
            let replay = Replay::new(body, &self.replays);
            retry::send(pool, route.pod, outgoing, replay, used).await
        }
    }
}

/// Sends over a connection of its own what no shared one carries: an upgrade, or a target that is longer than a URI.
async fn send_own(
    pool: &Arc<Pool>,
    outgoing: Outgoing,
    body: RequestBody,
    (target, upgrade): (Option<LongTarget>, bool),
    used: &mut Option<UsedCredential>,
) -> Result<Response<UpstreamBody>, SendError> {
    let (mut sender, place, credential) = pool.open_own(target).await?;
    *used = Some(credential);
    if !body.is_permitted() {
        return Err(SendError::NoLongerPermitted);
    }
    let request = outgoing.clone().http1(&pool.connector().authority, body)?;
    let response = match sender.send_request(request).await {
        Ok(response) => response,
        // An exec over WebSocket is a GET, and its command may run.
        Err(error) if upgrade => return Err(SendError::Broken(error)),
        Err(error) => return Err(Failure::of(error).into_error(&outgoing)),
    };
    let mut response = received(response, None);
    response.extensions_mut().insert(TunnelPermit(place));
    Ok(response)
}

/// Over which connections a request goes.
#[derive(Clone, Copy)]
struct Route {
    identity: ConnectionIdentity,
    window: ResponseWindow,
    pod: PodKey,
    upgrade: bool,
}

fn received(response: Response<Incoming>, lease: Option<ConnectionLease>) -> Response<UpstreamBody> {
    let mut response = response.map(|body| UpstreamBody::new(body, HeldLease(lease)));
    let switching = response.status() == StatusCode::SWITCHING_PROTOCOLS;
    headers::inbound(response.headers_mut(), switching);
    response
}
