//! The connections to the API server and who may use which.
//!
//! In: requests to send. Out: leases. Over HTTP/2 a lease is one stream of a connection that carries only as
//! many as the API server serves at once; when all are full, another connection is made, so that a thousand watches all
//! progress. Over HTTP/1.1 a lease is a whole connection. Finding a free stream takes no lock when HTTP/2 is spoken.
//!
//! Each thread of the data path has pools of its own, one for each size of flow-control window and for what the connections show, and no
//! other thread may send over its connections. A request that is handed to hyper while another thread ends that connection can stay in
//! hyper's channel for ever (tokio's sync/mpsc/chan.rs, `Rx::drop`: what a sender has half sent is not drained); and a request that was
//! begun at that moment may be told of a GOAWAY that lets it go on.

mod lease;
mod waiting;

use std::fmt;
use std::num::NonZeroUsize;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use parking_lot::Mutex;
use picket_policy::LongTarget;

use super::SendError;
use super::body::RequestBody;
use super::connect::{Connector, Protocol};
use super::credential::{ConnectionIdentity, UsedCredential};
use super::retarget::Retarget;

pub(in crate::upstream) use lease::ConnectionLease;
pub(in crate::upstream) use waiting::PodKey;

use lease::{Http1Lease, Http2Lease};
use waiting::{NoStream, Waiting};

/// How many streams one connection carries at most. kube-apiserver serves 100 at once per connection unless
/// `--http2-max-streams-per-connection` says otherwise (k8s.io/apiserver pkg/server/secure_serving.go), and what is beyond
/// its limit waits unseen. A server that announces less is given less.
pub const STREAMS_PER_CONNECTION: usize = 100;

/// How much of a response the API server may send before the client has taken it (the flow-control window of its stream). So much
/// lies in the node's memory while a client reads nothing. All streams of a connection have the same window, so that each size
/// has connections of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResponseWindow {
    /// 256 KB: 2 ms of a 1 Gbit/s line, so an API server within 4 ms is never slowed to less than half of that line for one
    /// response.
    Large,
    /// 16 KB, for a pod that has many responses under way: a window each round trip, 32 MB/s where one takes 0.5 ms.
    Small,
}

impl ResponseWindow {
    /// In bytes.
    const fn bytes(self) -> u32 {
        match self {
            ResponseWindow::Large => 256 * 1024,
            ResponseWindow::Small => 16 * 1024,
        }
    }

    /// Capacity for every stream's window at once, so that a client that does not read holds up itself alone and not the other
    /// pods on the connection. (A window that adapts to the line's delay would be shared, and one stalled watch could fill it;
    /// k8s.io/apiserver sizes its own side by the same rule.)
    const fn of_connection(self) -> u32 {
        self.bytes() * STREAMS_PER_CONNECTION as u32
    }

    /// How many connections of this size all threads together have at most.
    const fn connections(self) -> usize {
        match self {
            ResponseWindow::Large => MAX_CONNECTIONS,
            ResponseWindow::Small => MAX_SMALL_CONNECTIONS,
        }
    }
}

/// What is buffered per stream towards the API server; beyond it the client is made to wait.
const SEND_BUFFER: usize = 64 * 1024;

/// All connections together: 25,600 watches. Beyond it requests are refused; the node has other things to do.
const MAX_CONNECTIONS: usize = 256;

/// Those of [`ResponseWindow::Small`] among them. Only pods with many responses under way use them, so 96 stay for the others,
/// however many such pods there are.
const MAX_SMALL_CONNECTIONS: usize = 160;

/// Connections of tunnels (exec, attach, port-forward), apart from the others: a node full of tunnels still answers requests.
const MAX_TUNNELS: usize = 1024;

/// Unused connections are closed after that; kube-apiserver closes them after 90 s (http.Server IdleTimeout in
/// k8s.io/apiserver), and a request should not meet that moment.
const IDLE_LIMIT: Duration = Duration::from_secs(60);

/// A connection that does not answer a ping within the timeout is given up, and with it what it carries. The kernel says when
/// the API server's machine is gone (see `connect`); this is for a process that stands still behind a load balancer whose
/// other members do not. A minute's pause (a virtual machine that is moved) must not end a thousand watches.
const PING_INTERVAL: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(90);

/// One HTTP/2 connection.
struct Http2 {
    sender: http2::SendRequest<RequestBody>,
    streams: AtomicUsize,
    limit: Arc<AtomicUsize>,
    generation: u64,
    credential: UsedCredential,
    /// Milliseconds since the pool began, when it last became unused.
    idle_since: AtomicU64,
}

impl Http2 {
    fn usable(&self, generation: u64) -> bool {
        self.generation == generation && !self.sender.is_closed()
    }

    /// Takes a stream if one is free.
    fn take(&self) -> bool {
        let limit = self.limit.load(Ordering::Relaxed);
        self.streams
            .fetch_update(Ordering::AcqRel, Ordering::Relaxed, |streams| {
                (streams < limit).then_some(streams + 1)
            })
            .is_ok()
    }
}

/// One HTTP/1.1 connection between requests.
struct Http1 {
    sender: http1::SendRequest<RequestBody>,
    generation: u64,
    credential: UsedCredential,
    idle_since: Instant,
}

impl Http1 {
    fn usable(&self, generation: u64) -> bool {
        self.generation == generation && !self.sender.is_closed() && self.idle_since.elapsed() < IDLE_LIMIT
    }
}

/// The pool.
pub(in crate::upstream) struct Pool {
    connector: Arc<Connector>,
    /// What its connections show.
    identity: ConnectionIdentity,
    /// Of each stream.
    window: ResponseWindow,
    http2: ArcSwap<Vec<Arc<Http2>>>,
    http1: Mutex<Vec<Http1>>,
    /// Those who found no free stream, while connections open.
    waiting: Waiting,
    speaks_http1: AtomicBool,
    connections: Arc<AtomicUsize>,
    /// Those among them that have this pool's window.
    alike: Arc<AtomicUsize>,
    tunnels: Arc<AtomicUsize>,
    began: Instant,
}

/// Counts a connection for as long as its task lives, or its tunnel.
#[derive(Debug)]
pub(in crate::upstream) struct Counted(Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Counted {
    fn of(count: &Arc<AtomicUsize>, limit: usize) -> Result<Counted, SendError> {
        let counted = Counted(Arc::clone(count));
        if count.fetch_add(1, Ordering::AcqRel) >= limit {
            // Dropping the guard takes the count back.
            return Err(SendError::Exhausted);
        }
        Ok(counted)
    }
}

/// One connection that opens for those who wait, however that ends.
struct Opening(Arc<Pool>);

impl Drop for Opening {
    fn drop(&mut self) {
        self.0.waiting.end_opening();
    }
}

/// The pools of one thread.
#[derive(Debug)]
pub(in crate::upstream) struct Pools {
    pub(in crate::upstream) large: Arc<Pool>,
    pub(in crate::upstream) small: Arc<Pool>,
    /// For requests with a token of their own.
    bare_large: Arc<Pool>,
    bare_small: Arc<Pool>,
}

impl Pools {
    /// Those of each of so many threads; what they may have is bounded for all together.
    pub(in crate::upstream) fn for_threads(connector: Connector, threads: NonZeroUsize) -> Arc<[Pools]> {
        let (connector, connections) = (Arc::new(connector), Arc::new(AtomicUsize::new(0)));
        let tunnels = Arc::new(AtomicUsize::new(0));
        let (large, small) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let pool = |identity, window, alike| Pool {
            connector: Arc::clone(&connector),
            identity,
            window,
            http2: ArcSwap::from_pointee(Vec::new()),
            http1: Mutex::new(Vec::new()),
            waiting: Waiting::default(),
            speaks_http1: AtomicBool::new(false),
            connections: Arc::clone(&connections),
            alike: Arc::clone(alike),
            tunnels: Arc::clone(&tunnels),
            began: Instant::now(),
        };
        let of = |identity| {
            (
                Arc::new(pool(identity, ResponseWindow::Large, &large)),
                Arc::new(pool(identity, ResponseWindow::Small, &small)),
            )
        };
        let pools = || {
            let (large, small) = of(ConnectionIdentity::Node);
            let (bare_large, bare_small) = of(ConnectionIdentity::Bare);
            Pools {
                large,
                small,
                bare_large,
                bare_small,
            }
        };
        (0..threads.get()).map(|_| pools()).collect()
    }

    /// The one whose connections show this, and whose streams have this window.
    pub(in crate::upstream) fn of(&self, identity: ConnectionIdentity, window: ResponseWindow) -> &Arc<Pool> {
        match (identity, window) {
            (ConnectionIdentity::Node, ResponseWindow::Large) => &self.large,
            (ConnectionIdentity::Node, ResponseWindow::Small) => &self.small,
            (ConnectionIdentity::Bare, ResponseWindow::Large) => &self.bare_large,
            (ConnectionIdentity::Bare, ResponseWindow::Small) => &self.bare_small,
        }
    }

    /// Closes what has been unused for long, is broken, or was made with a credential that has been replaced.
    pub(in crate::upstream) fn sweep(&self) {
        for pool in [&self.large, &self.small, &self.bare_large, &self.bare_small] {
            pool.sweep();
        }
    }
}

impl Pool {
    pub(in crate::upstream) fn connector(&self) -> &Connector {
        &self.connector
    }

    /// How many connections are open now, with those of the other pools and those that tunnels have.
    pub(in crate::upstream) fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed) + self.tunnels.load(Ordering::Relaxed)
    }

    /// A stream or connection for one request of this pod.
    pub(in crate::upstream) async fn lease(
        self: &Arc<Pool>,
        pod: PodKey,
    ) -> Result<ConnectionLease, SendError> {
        // Where somebody waits already, it is not this one's turn.
        if self.waiting.is_empty()
            && let Some(lease) = self.free()
        {
            return Ok(lease);
        }
        // Boxed: the state of a handshake is large and seldom needed, and would be part of every request's future.
        Box::pin(self.lease_in_turn(pod)).await
    }

    /// A lease where no connection has one free: of one that opens, or that somebody else gives back meanwhile.
    async fn lease_in_turn(self: &Arc<Pool>, pod: PodKey) -> Result<ConnectionLease, SendError> {
        if self.speaks_http1.load(Ordering::Relaxed) {
            return self.open().await;
        }
        let turn = self.waiting.join(pod);
        // What came free since nobody had a turn.
        self.hand_out();
        self.open_for_those_who_wait();
        let lease = turn.await.unwrap_or(Err(NoStream::Exhausted))?;
        Ok(lease)
    }

    /// Gives free streams to those who wait.
    fn hand_out(self: &Arc<Pool>) {
        while !self.waiting.is_empty() {
            let Some(lease) = self.free() else { return };
            let Some(turn) = self.waiting.next() else { return };
            // Whoever went away in this very moment gives it back at once.
            let _gone = turn.send(Ok(lease));
        }
    }

    /// Opens as many connections as those who wait need. Each opens by itself: nobody waits for another's handshake, and one who
    /// goes away takes no connection from the others.
    fn open_for_those_who_wait(self: &Arc<Pool>) {
        let per_connection = match self.speaks_http1.load(Ordering::Relaxed) {
            true => 1,
            false => STREAMS_PER_CONNECTION,
        };
        while self.waiting.begin_opening(per_connection) {
            let opening = Opening(Arc::clone(self));
            tokio::spawn(async move {
                let opened = opening.0.open().await;
                let pool = Arc::clone(&opening.0);
                drop(opening);
                match opened {
                    Ok(lease) => {
                        match pool.waiting.next() {
                            Some(turn) => drop(turn.send(Ok(lease))),
                            // Nobody waits any more: the connection is there for the next one.
                            None => lease.finished(),
                        }
                        pool.hand_out();
                        pool.open_for_those_who_wait();
                    }
                    Err(error) => pool.waiting.fail(&error.into()),
                }
            });
        }
    }

    /// A lease on a connection that is there.
    fn free(self: &Arc<Pool>) -> Option<ConnectionLease> {
        let generation = self.connector.credentials.current().generation;
        let connections = self.http2.load();
        // Two tries: between looking and taking, another request may have had the last stream.
        for _ in 0..2 {
            let best = connections
                .iter()
                .filter(|connection| connection.usable(generation))
                .map(|connection| (connection.streams.load(Ordering::Relaxed), connection))
                .filter(|(streams, connection)| *streams < connection.limit.load(Ordering::Relaxed))
                .min_by_key(|(streams, _)| *streams);
            let Some((_, connection)) = best else {
                break;
            };
            if connection.take() {
                let connection = Arc::clone(connection);
                return Some(ConnectionLease::Http2(Http2Lease {
                    pool: Arc::clone(self),
                    connection,
                }));
            }
        }
        if !self.speaks_http1.load(Ordering::Relaxed) {
            return None;
        }
        let mut idle = self.http1.lock();
        idle.retain(|connection| connection.usable(generation));
        // One whose last request was answered before its body had come is not ready, perhaps for long.
        let ready = idle.iter().rposition(|connection| connection.sender.is_ready())?;
        Some(ConnectionLease::Http1(Http1Lease {
            pool: Arc::clone(self),
            connection: idle.swap_remove(ready),
        }))
    }

    /// Makes a connection, with a lease on it.
    async fn open(self: &Arc<Pool>) -> Result<ConnectionLease, SendError> {
        let counted = (
            Counted::of(&self.connections, MAX_CONNECTIONS)?,
            Counted::of(&self.alike, self.window.connections())?,
        );
        let session = self.connector.connect(self.identity, false).await?;
        let (generation, credential) = (session.generation, session.credential);
        let io = TokioIo::new(session.stream);
        match session.protocol {
            Protocol::Http2 => {
                let (sender, connection) = http2::Builder::new(TokioExecutor::new())
                    .timer(TokioTimer::new())
                    .initial_stream_window_size(self.window.bytes())
                    .initial_connection_window_size(self.window.of_connection())
                    .max_send_buf_size(SEND_BUFFER)
                    .keep_alive_interval(PING_INTERVAL)
                    .keep_alive_timeout(PING_TIMEOUT)
                    .keep_alive_while_idle(true)
                    .handshake(io)
                    .await
                    .map_err(|error| SendError::Unreachable(error.to_string()))?;
                let limit = Arc::new(AtomicUsize::new(STREAMS_PER_CONNECTION));
                let announced = Arc::clone(&limit);
                tokio::spawn(async move {
                    let _counted = counted;
                    let mut connection = pin!(connection);
                    let outcome = std::future::poll_fn(|cx| {
                        let polled = connection.as_mut().poll(cx);
                        let streams = connection.current_max_send_streams();
                        announced.store(streams.clamp(1, STREAMS_PER_CONNECTION), Ordering::Relaxed);
                        polled
                    });
                    if let Err(error) = outcome.await {
                        tracing::debug!(%error, "an API server connection ended");
                    }
                });
                let connection = Arc::new(Http2 {
                    sender,
                    streams: AtomicUsize::new(1),
                    limit,
                    generation,
                    credential,
                    idle_since: AtomicU64::new(0),
                });
                self.speaks_http1.store(false, Ordering::Relaxed);
                self.http2.rcu(|connections| {
                    let mut connections = Vec::clone(connections);
                    connections.retain(|connection| !connection.sender.is_closed());
                    connections.push(Arc::clone(&connection));
                    connections
                });
                Ok(ConnectionLease::Http2(Http2Lease {
                    pool: Arc::clone(self),
                    connection,
                }))
            }
            Protocol::Http1 => {
                let (sender, connection) = http1::handshake(io)
                    .await
                    .map_err(|error| SendError::Unreachable(error.to_string()))?;
                tokio::spawn(async move {
                    let _counted = counted;
                    if let Err(error) = connection.await {
                        tracing::debug!(%error, "an API server connection ended");
                    }
                });
                self.speaks_http1.store(true, Ordering::Relaxed);
                let connection = Http1 {
                    sender,
                    generation,
                    credential,
                    idle_since: Instant::now(),
                };
                Ok(ConnectionLease::Http1(Http1Lease {
                    pool: Arc::clone(self),
                    connection,
                }))
            }
        }
    }

    /// A connection for one request, an upgrade or one with a long target, its place among the node's, and the credential it was
    /// made with. With an upgrade the connection's task ends and the tunnel goes on: whoever carries it holds the place.
    pub(in crate::upstream) async fn open_own(
        &self,
        target: Option<LongTarget>,
    ) -> Result<(http1::SendRequest<RequestBody>, Arc<Counted>, UsedCredential), SendError> {
        let counted = Arc::new(Counted::of(&self.tunnels, MAX_TUNNELS)?);
        let place = Arc::clone(&counted);
        let session = self.connector.connect(self.identity, true).await?;
        let stream = Retarget::new(session.stream, target);
        let (sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| SendError::Unreachable(error.to_string()))?;
        tokio::spawn(async move {
            let _counted = counted;
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%error, "an API server connection ended");
            }
        });
        Ok((sender, place, session.credential))
    }

    fn sweep(&self) {
        let generation = self.connector.credentials.current().generation;
        let now = self.began.elapsed().as_millis() as u64;
        let keep = |connection: &Arc<Http2>| {
            let unused = connection.streams.load(Ordering::Acquire) == 0
                && now.saturating_sub(connection.idle_since.load(Ordering::Relaxed))
                    > IDLE_LIMIT.as_millis() as u64;
            // One that was replaced is only taken off the list: its streams hold it until they end.
            connection.usable(generation) && !unused
        };
        if self.http2.load().iter().any(|connection| !keep(connection)) {
            self.http2.rcu(|connections| {
                connections
                    .iter()
                    .filter(|c| keep(c))
                    .cloned()
                    .collect::<Vec<_>>()
            });
        }
        self.http1
            .lock()
            .retain(|connection| connection.usable(generation));
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool")
            .field("connector", &self.connector)
            .field("connections", &self.connections)
            .finish()
    }
}
