//! The older agent's side: gives its listeners away, and ends when the newer one has settled.

use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::net::UnixStream;
use tokio::sync::{Mutex, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::protocol::{Message, PER_MESSAGE, ProtocolError, VERSION, receive, send};
use super::{LISTENERS_MAX, ListenerOffer, OFFER_LIMIT, PATIENCE};
use crate::admin::PrivateSocket;

use crate::audit::{AuditError, AuditLog};

/// How long the newer agent may take to settle. It waits for the API server's pods and addresses; while it does, nothing
/// but it brings pods where they should be.
pub(crate) const SYNC_LIMIT: Duration = Duration::from_secs(120);

/// How long an agent that took over keeps what it has: a supervisor that starts the one before again would have the two
/// take over from each other without end.
const UPGRADE_PAUSE: Duration = Duration::from_secs(60);

/// The pause after a failed accept (no descriptors left, most likely).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Why nothing was given away.
#[derive(Debug, thiserror::Error)]
enum TransferError {
    /// Whoever asked is not root, or not the agent's own user.
    #[error("user {0} connected to the upgrade socket")]
    Stranger(u32),
    /// The other end said what makes no sense there.
    #[error("the successor sent an unexpected message: {0:?}")]
    Unexpected(Message),
    /// It was refused, and told so.
    #[error("this agent refused the upgrade: {0}")]
    Refused(String),
    /// The newer agent took too long.
    #[error("the successor was not synced within {} s", _0.as_secs())]
    Late(Duration),
    /// It took too long to say something.
    #[error("the successor took too long to answer")]
    Silent,
    /// The connection.
    #[error(transparent)]
    Wire(#[from] ProtocolError),
    /// The audit log cannot be shared.
    #[error(transparent)]
    Audit(#[from] AuditError),
}

impl From<tokio::time::error::Elapsed> for TransferError {
    fn from(_: tokio::time::error::Elapsed) -> Self {
        Self::Silent
    }
}

/// What the older agent needs to give its listeners away.
pub(crate) struct Predecessor {
    /// Its node's name.
    pub(crate) node: String,
    /// The layout of its kernel maps.
    pub(crate) layout: u64,
    /// Tells its parts to change nothing in the kernel.
    pub(crate) giving: watch::Sender<bool>,
    /// Whether the reconciler has come to rest.
    pub(crate) resting: watch::Receiver<bool>,
    /// Held by those of its parts that change something, while they do.
    pub(crate) changing: Arc<Mutex<()>>,
    /// The listeners it has now.
    pub(crate) offers: Arc<dyn Fn() -> Vec<Arc<ListenerOffer>> + Send + Sync>,
    /// The log that is shared.
    pub(crate) audit: AuditLog,
    /// How long the newer agent may take to settle.
    pub(crate) limit: Duration,
    /// When it took over from another agent itself.
    pub(crate) took_over: Option<Instant>,
    /// Where the connection to an agent that has settled goes: to whoever ends this one.
    pub(crate) settled: mpsc::Sender<SuccessorConnection>,
    /// Nobody accepts any more, because this agent ends.
    pub(crate) last: CancellationToken,
}

/// The connection to the agent that takes over just now.
#[derive(Debug, Default)]
struct CurrentSuccessor(std::sync::Mutex<Option<Arc<UnixStream>>>);

impl CurrentSuccessor {
    fn set(&self, stream: Option<&Arc<UnixStream>>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = stream.cloned();
    }

    fn take(&self) -> Option<Arc<UnixStream>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// An agent that took over.
#[derive(Debug)]
pub(crate) struct SuccessorConnection {
    stream: Arc<UnixStream>,
    /// Its kernel programs are others, which take new connections to listeners of its own; what the older programs redirected
    /// just before is still to be accepted.
    pub(crate) own_listeners: bool,
}

impl Predecessor {
    /// Serves the hand-over socket, one agent at a time, once this agent has settled and is alone.
    pub(crate) async fn serve_once(
        self,
        path: PathBuf,
        mut settled: watch::Receiver<bool>,
        mut alone: watch::Receiver<bool>,
        cancel: CancellationToken,
    ) {
        let both = async {
            settled.wait_for(|settled| *settled).await?;
            alone.wait_for(|alone| *alone).await?;
            Ok::<_, watch::error::RecvError>(())
        };
        if both.await.is_err() {
            return;
        }
        let socket = PrivateSocket::replace_in_the_end(&path).await;
        let (current, last) = (CurrentSuccessor::default(), self.last.clone());
        tokio::select! {
            () = cancel.cancelled() => {}
            () = self.serve(socket, &current) => {}
        }
        // Where it is ended from elsewhere while another takes over, that one is to go on as if this one had agreed.
        if let Some(stream) = current.take() {
            // Open until the process ends: its streams go on, and it writes to the log.
            std::mem::forget(Arc::clone(&stream));
            last.cancelled().await;
            say_stopped(&stream).await;
        }
    }

    async fn serve(self, socket: PrivateSocket, current: &CurrentSuccessor) {
        // Agents that were too late, until their processes have ended: they write to the log while their streams end.
        let mut late = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                accepted = socket.accept() => accepted,
                Some(_) = late.join_next() => {
                    tracing::info!("the successor that was too late has ended");
                    // It may have changed something in the kernel before it knew: all is looked after once more.
                    self.giving.send_replace(true);
                    let _told_in_time = timeout(OFFER_LIMIT, self.at_rest()).await;
                    self.go_on(late.is_empty()).await;
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
            match self.give(&stream).await {
                Ok(own_listeners) => {
                    let successor = SuccessorConnection {
                        stream,
                        own_listeners,
                    };
                    // Who ends the agent takes the first, and nothing is given twice.
                    let _ending = self.settled.send(successor).await;
                    return std::future::pending().await;
                }
                Err(error) => {
                    current.set(None);
                    tracing::warn!(%error, "upgrade failed: this agent keeps serving");
                    if matches!(error, TransferError::Late(_)) {
                        late.spawn(async move { while receive(&stream).await.is_ok() {} });
                    }
                    self.go_on(late.is_empty()).await;
                }
            }
        }
    }

    /// Has its parts change things in the kernel again, and, where it is alone, the log for itself.
    async fn go_on(&self, alone: bool) {
        if !self.giving.send_replace(false) {
            return;
        }
        if alone && let Err(error) = self.audit.share(false).await {
            tracing::error!(%error, "the audit log cannot be written");
        }
        // The next that asks is to wait until all has come to rest anew.
        let mut resting = self.resting.clone();
        let _told_in_time = timeout(PATIENCE, resting.wait_for(|resting| !*resting)).await;
    }

    /// Waits until nothing is under way; false where the agent is ending.
    async fn at_rest(&self) -> bool {
        let mut resting = self.resting.clone();
        if resting.wait_for(|resting| *resting).await.is_err() {
            return false;
        }
        drop(self.changing.lock().await);
        true
    }

    /// Gives everything away and waits until the newer agent has settled; says whether it has listeners of its own.
    async fn give(&self, stream: &UnixStream) -> Result<bool, TransferError> {
        let peer = stream.peer_cred().map_err(ProtocolError::from)?.uid();
        if peer != 0 && peer != nix::unistd::geteuid().as_raw() {
            return Err(TransferError::Stranger(peer));
        }
        let (said, _) = timeout(PATIENCE, receive(stream)).await??;
        let Message::Hello {
            version,
            node,
            layout,
        } = said
        else {
            return Err(TransferError::Unexpected(said));
        };
        if let Some(reason) = self.refuses(version, &node) {
            let said = Message::Refused {
                reason: reason.clone(),
            };
            timeout(PATIENCE, send(stream, &said, &[])).await??;
            return Err(TransferError::Refused(reason));
        }
        tracing::info!(
            "a successor has connected: this agent changes nothing in the kernel until the upgrade ends"
        );
        self.giving.send_replace(true);
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
                timeout(PATIENCE, send(stream, &Message::Withdrawn { reason }, &[])).await??;
                Err(late)
            }
        }
    }

    /// Lets the newer agent end this one's programs, and waits until it has. It may take long and is not given up while it
    /// lives: it could end them after this one had ended its.
    async fn agree(&self, stream: &UnixStream) -> Result<(), TransferError> {
        timeout(PATIENCE, send(stream, &Message::Agreed, &[])).await??;
        let retired = receive(stream);
        tokio::pin!(retired);
        let said = match timeout(self.limit, &mut retired).await {
            Ok(said) => said?,
            Err(_) => {
                tracing::warn!(
                    "the successor stands still after this agent agreed to the upgrade: if that lasts, end its process"
                );
                retired.await?
            }
        };
        match said {
            (Message::ProgramsReplaced, _) => Ok(()),
            (other, _) => Err(TransferError::Unexpected(other)),
        }
    }

    fn refuses(&self, version: u32, node: &str) -> Option<String> {
        if version != VERSION {
            return Some(format!(
                "the running agent speaks version {VERSION} of the upgrade protocol, not {version}"
            ));
        }
        if node != self.node {
            return Some(format!(
                "the running agent serves the node {}, not {node}",
                self.node
            ));
        }
        let since = self.took_over.map(|when| when.elapsed())?;
        (since < UPGRADE_PAUSE).then(|| {
            format!(
                "the running agent is itself a successor since {} s; try again in {} s",
                since.as_secs(),
                UPGRADE_PAUSE.as_secs() - since.as_secs()
            )
        })
    }

    async fn offer(&self, stream: &UnixStream, layout: u64) -> Result<(), TransferError> {
        // Nothing of it is under way from here on, so what is given away is all there is.
        if !self.at_rest().await {
            return Err(TransferError::Refused("the running agent is stopping".to_owned()));
        }
        self.audit.share(true).await?;
        let mut offers = (self.offers)();
        if layout != self.layout {
            // Flows are noted in maps that the other cannot read: it opens listeners of its own.
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

/// Tells the newer agent that this one accepts no more. The connection is to stay open until this process ends.
pub(crate) async fn say_stopped_to(successor: &SuccessorConnection) {
    say_stopped(&successor.stream).await;
}

async fn say_stopped(stream: &UnixStream) {
    match timeout(PATIENCE, send(stream, &Message::Stopped, &[])).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            tracing::warn!(%error, "the successor cannot be told that this agent has stopped serving")
        }
        Err(_) => tracing::warn!("the successor does not read that this agent has stopped serving"),
    }
}
