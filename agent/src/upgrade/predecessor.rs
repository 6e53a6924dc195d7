//! The running agent's side of an upgrade: transfers its listeners to a successor, and stops once that one serves.
//!
//! In: connections to the upgrade socket. Out: the listeners' descriptors, and the connection to an agent that has taken over.

use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::net::UnixStream;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::metrics::{Role, UpgradeMetrics};
use super::protocol::{Message, PER_MESSAGE, ProtocolError, VERSION, receive, send};
use super::{LISTENERS_MAX, ListenerOffer, MESSAGE_TIMEOUT, OFFER_LIMIT, UPGRADE_PAUSE};
use crate::admin::PrivateSocket;
use crate::audit::{AuditError, AuditLog};
use crate::kernel::lease::KernelWriteLease;
use crate::runtime::phase::{Phase, PhaseControl};

/// How long a successor may take until it is synced. It waits for the API server's pods and addresses; meanwhile it alone
/// brings pods into their classes.
pub(crate) const SYNC_LIMIT: Duration = Duration::from_secs(120);

/// The pause after a failed accept (no descriptors left, most likely).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Why a successor must not take over, and for how long.
#[derive(Debug, Clone)]
struct Refusal {
    reason: String,
    /// `None` where time changes nothing.
    retry_after: Option<Duration>,
}

impl Refusal {
    /// For good.
    fn new(reason: impl Into<String>) -> Self {
        Self {
            reason: reason.into(),
            retry_after: None,
        }
    }
}

/// Why an upgrade failed, as the running agent sees it.
#[derive(Debug, thiserror::Error)]
enum TransferError {
    /// Whoever connected is not root, or not the agent's own user.
    #[error("user {0} connected to the upgrade socket")]
    Stranger(u32),
    /// The successor sent a message that has no place there.
    #[error("the successor sent an unexpected message: {0:?}")]
    Unexpected(Message),
    /// The successor was refused, and told so.
    #[error("this agent refused the upgrade: {}", _0.reason)]
    Refused(Refusal),
    /// The successor only asked whether this agent runs: this agent has changed nothing for it.
    #[error("an agent that starts asked whether this one runs")]
    Probed,
    /// The successor cannot serve as well as this agent does.
    #[error("the successor gave up: {0}")]
    Unfit(String),
    /// The successor took too long to sync.
    #[error("the successor was not synced within {} s", _0.as_secs())]
    Late(Duration),
    /// The successor took too long to send something.
    #[error("the successor took too long to answer")]
    Silent,
    /// The connection.
    #[error(transparent)]
    Protocol(#[from] ProtocolError),
    /// The audit log cannot be shared.
    #[error(transparent)]
    Audit(#[from] AuditError),
}

impl From<tokio::time::error::Elapsed> for TransferError {
    fn from(_: tokio::time::error::Elapsed) -> Self {
        Self::Silent
    }
}

/// The running agent's part in an upgrade.
pub(crate) struct Predecessor {
    /// Its node's name.
    pub(crate) node: String,
    /// The layout of its kernel maps.
    pub(crate) layout: u64,
    /// By which it lends the kernel write lease.
    pub(crate) phase: PhaseControl,
    /// Whether the reconciler is paused.
    pub(crate) paused: watch::Receiver<bool>,
    /// Idle once none of its parts changes the kernel.
    pub(crate) lease: KernelWriteLease,
    /// The listeners it has now.
    pub(crate) offers: Arc<dyn Fn() -> Vec<Arc<ListenerOffer>> + Send + Sync>,
    /// The log that both write to.
    pub(crate) audit: AuditLog,
    /// Counts upgrades.
    pub(crate) metrics: UpgradeMetrics,
    /// How long a successor may take until it is synced.
    pub(crate) limit: Duration,
    /// When it became the successor of another agent, where it did.
    pub(crate) succeeded: Option<Instant>,
    /// Takes the connection to an agent that has taken over: to whoever stops this one.
    pub(crate) replaced: mpsc::Sender<SuccessorConnection>,
    /// Fires once nobody accepts any more, because this agent stops.
    pub(crate) last: CancellationToken,
}

/// The connection to the agent that upgrades just now.
#[derive(Debug, Default)]
struct CurrentSuccessor(Mutex<Option<Arc<UnixStream>>>);

impl CurrentSuccessor {
    fn set(&self, stream: Option<&Arc<UnixStream>>) {
        *self.0.lock() = stream.cloned();
    }

    fn take(&self) -> Option<Arc<UnixStream>> {
        self.0.lock().take()
    }
}

/// The connection to an agent that has taken over.
#[derive(Debug)]
pub(crate) struct SuccessorConnection {
    stream: Arc<UnixStream>,
    /// Its kernel programs are others, which redirect new connections to listeners of its own; this agent still has to accept
    /// what its programs redirected just before.
    pub(crate) own_listeners: bool,
}

impl Predecessor {
    /// Serves the upgrade socket, one successor at a time, once this agent is established and has no predecessor.
    pub(crate) async fn run(self, path: PathBuf, cancel: CancellationToken) {
        let phase = self.phase.watch();
        for awaited in [Phase::Established, Phase::PredecessorStopped] {
            if phase.reached(awaited).await.is_err() {
                return;
            }
        }
        let socket = PrivateSocket::replace_with_retries(&path).await;
        let (current, last) = (CurrentSuccessor::default(), self.last.clone());
        tokio::select! {
            () = cancel.cancelled() => {}
            () = self.serve(socket, &current) => {}
        }
        // Where somebody else stops this agent during an upgrade, the successor goes on as if this one had agreed.
        if let Some(stream) = current.take() {
            // Open until the process ends: its streams go on, and it writes to the log.
            std::mem::forget(Arc::clone(&stream));
            last.cancelled().await;
            say_stopped(&stream).await;
        }
    }

    async fn serve(self, socket: PrivateSocket, current: &CurrentSuccessor) {
        // Successors that were too late, until their processes have ended: they write to the log while their streams end.
        let mut late = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                accepted = socket.accept() => accepted,
                Some(_) = late.join_next() => {
                    tracing::info!("the successor that was too late has ended");
                    // It may have changed something in the kernel before it knew: everything is put in force once more.
                    self.phase.lend();
                    let _told_in_time = timeout(OFFER_LIMIT, self.at_rest()).await;
                    self.keep_serving(late.is_empty()).await;
                    continue;
                }
            };
            let stream = match accepted {
                Ok(stream) => stream,
                Err(error) => {
                    tracing::warn!(%error, "the upgrade socket cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let stream = Arc::new(stream);
            current.set(Some(&stream));
            match self.transfer(&stream).await {
                Ok(own_listeners) => {
                    self.metrics.ended(Role::Predecessor, true);
                    let successor = SuccessorConnection {
                        stream,
                        own_listeners,
                    };
                    // Whoever stops the agent takes the first, and nothing is transferred twice.
                    let _stopping = self.replaced.send(successor).await;
                    return std::future::pending().await;
                }
                // Each start asks, before it upgrades or fails.
                Err(error @ TransferError::Probed) => {
                    current.set(None);
                    tracing::debug!(%error, "this agent keeps serving");
                }
                // Nothing failed: it comes again.
                Err(TransferError::Refused(Refusal {
                    reason,
                    retry_after: Some(_),
                })) => {
                    current.set(None);
                    tracing::info!(reason, "a successor waits until this agent may be replaced");
                }
                Err(error) => {
                    current.set(None);
                    self.metrics.ended(Role::Predecessor, false);
                    tracing::warn!(%error, "upgrade failed: this agent keeps serving");
                    if matches!(error, TransferError::Late(_)) {
                        late.spawn(async move { while receive(&stream).await.is_ok() {} });
                    }
                    self.keep_serving(late.is_empty()).await;
                }
            }
        }
    }

    /// Has its parts change the kernel again, and, where it is `alone`, has the log for itself.
    async fn keep_serving(&self, alone: bool) {
        if !self.phase.take_back() {
            return;
        }
        if alone && let Err(error) = self.audit.share(false).await {
            tracing::error!(%error, "the audit log cannot be written");
        }
        // The next successor has to wait until everything is paused anew.
        let mut paused = self.paused.clone();
        let _told_in_time = timeout(MESSAGE_TIMEOUT, paused.wait_for(|paused| !*paused)).await;
    }

    /// Waits until no change is under way; false where the agent is stopping.
    async fn at_rest(&self) -> bool {
        let mut paused = self.paused.clone();
        if paused.wait_for(|paused| *paused).await.is_err() {
            return false;
        }
        self.lease.idle().await;
        true
    }

    /// Transfers everything and waits until the successor serves; says whether the successor has listeners of its own.
    async fn transfer(&self, stream: &UnixStream) -> Result<bool, TransferError> {
        let peer = stream.peer_cred().map_err(ProtocolError::from)?.uid();
        if peer != 0 && peer != nix::unistd::geteuid().as_raw() {
            return Err(TransferError::Stranger(peer));
        }
        let (said, _) = timeout(MESSAGE_TIMEOUT, receive(stream)).await??;
        let (version, node, layout) = match said {
            Message::Hello {
                version,
                node,
                layout,
            } => (version, node, layout),
            Message::Probe => {
                timeout(MESSAGE_TIMEOUT, send(stream, &Message::Running, &[])).await??;
                return Err(TransferError::Probed);
            }
            Message::Unfit { reason } => return Err(TransferError::Unfit(reason)),
            said => return Err(TransferError::Unexpected(said)),
        };
        if let Some(refusal) = self.refuses(version, &node) {
            let said = Message::Refused {
                reason: refusal.reason.clone(),
                // Rounded up: who comes in time must not come too early.
                retry_after: refusal.retry_after.map(|left| left.as_secs() + 1),
            };
            timeout(MESSAGE_TIMEOUT, send(stream, &said, &[])).await??;
            return Err(TransferError::Refused(refusal));
        }
        tracing::info!(
            "a successor has connected: this agent changes nothing in the kernel until the upgrade ends"
        );
        self.phase.lend();
        timeout(OFFER_LIMIT, self.offer(stream, layout)).await??;
        match timeout(self.limit, receive(stream)).await {
            Ok(said) => {
                match said? {
                    (Message::Synced, _) => self.agree(stream).await?,
                    (other, _) => return Err(TransferError::Unexpected(other)),
                }
                Ok(layout != self.layout)
            }
            Err(_) => {
                let late = TransferError::Late(self.limit);
                let reason = late.to_string();
                timeout(MESSAGE_TIMEOUT, send(stream, &Message::Withdrawn { reason }, &[])).await??;
                Err(late)
            }
        }
    }

    /// Lets the successor detach this agent's programs, and waits until it has. A successor that lives is never given up here,
    /// however long it takes: it could detach them after this agent had detached the successor's.
    async fn agree(&self, stream: &UnixStream) -> Result<(), TransferError> {
        timeout(MESSAGE_TIMEOUT, send(stream, &Message::Agreed, &[])).await??;
        let replaced = receive(stream);
        tokio::pin!(replaced);
        let said = match timeout(self.limit, &mut replaced).await {
            Ok(said) => said?,
            Err(_) => {
                tracing::warn!(
                    "the successor stands still after this agent agreed to the upgrade: if that lasts, end its process"
                );
                replaced.await?
            }
        };
        match said {
            (Message::ProgramsReplaced, _) => Ok(()),
            (other, _) => Err(TransferError::Unexpected(other)),
        }
    }

    fn refuses(&self, version: u32, node: &str) -> Option<Refusal> {
        if version != VERSION {
            return Some(Refusal::new(format!(
                "the running agent speaks version {VERSION} of the upgrade protocol, not {version}"
            )));
        }
        if node != self.node {
            return Some(Refusal::new(format!(
                "the running agent serves the node {}, not {node}",
                self.node
            )));
        }
        let since = self.succeeded.map(|when| when.elapsed())?;
        let left = UPGRADE_PAUSE.checked_sub(since)?;
        Some(Refusal {
            reason: format!(
                "the running agent took over from another one {} s ago; try again in {} s",
                since.as_secs(),
                left.as_secs() + 1
            ),
            retry_after: Some(left),
        })
    }

    async fn offer(&self, stream: &UnixStream, layout: u64) -> Result<(), TransferError> {
        // No change is under way from here on, so these listeners are all there are.
        if !self.at_rest().await {
            return Err(TransferError::Refused(Refusal::new(
                "the running agent is stopping",
            )));
        }
        self.audit.share(true).await?;
        let mut offers = (self.offers)();
        if layout != self.layout {
            // Flows are noted in maps that the successor cannot read: it opens listeners of its own.
            offers.clear();
        }
        if offers.len() > LISTENERS_MAX {
            tracing::warn!(
                listeners = offers.len(),
                "only {LISTENERS_MAX} listeners are transferred to the successor"
            );
            offers.truncate(LISTENERS_MAX);
        }
        for some in offers.chunks(PER_MESSAGE) {
            let listeners = some.iter().map(|offer| offer.listener.clone()).collect();
            let descriptors: Vec<_> = some
                .iter()
                .flat_map(|offer| offer.descriptors.iter().map(AsFd::as_fd))
                .collect();
            send(stream, &Message::Listeners { listeners }, &descriptors).await?;
        }
        let count = offers.len();
        send(stream, &Message::Offered { count }, &[]).await?;
        tracing::info!(
            listeners = count,
            "listeners transferred: waiting until the successor is synced"
        );
        Ok(())
    }
}

/// Tells the successor that this agent accepts no more. The connection stays open until this process ends.
pub(crate) async fn say_stopped_to(successor: &SuccessorConnection) {
    say_stopped(&successor.stream).await;
}

async fn say_stopped(stream: &UnixStream) {
    match timeout(MESSAGE_TIMEOUT, send(stream, &Message::Stopped, &[])).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            tracing::warn!(%error, "the agent cannot report to its successor that it has stopped serving");
        }
        Err(_) => tracing::warn!("the successor does not read that this agent has stopped serving"),
    }
}
