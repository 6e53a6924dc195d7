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

use super::protocol::{Message, PER_MESSAGE, VERSION, WireError, receive, send};
use super::{LISTENERS_MAX, OFFER_LIMIT, Offer, PATIENCE};
use crate::admin::PrivateSocket;

use crate::audit::{AuditError, AuditLog};

/// How long the newer agent may take to settle. It waits for the API server's pods and addresses; while it does, nothing
/// but it brings pods where they should be.
pub(crate) const SETTLE_LIMIT: Duration = Duration::from_secs(120);

/// How long an agent that took over keeps what it has: a supervisor that starts the one before again would have the two
/// take over from each other without end.
const KEEP: Duration = Duration::from_secs(60);

/// The pause after a failed accept (no descriptors left, most likely).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Why nothing was given away.
#[derive(Debug, thiserror::Error)]
enum GiveError {
    /// Whoever asked is not root, or not the agent's own user.
    #[error("user {0} asked")]
    Stranger(u32),
    /// The other end said what makes no sense there.
    #[error("it said what makes no sense there: {0:?}")]
    Unexpected(Message),
    /// It was refused, and told so.
    #[error("refused: {0}")]
    Refused(String),
    /// The newer agent took too long.
    #[error("it did not settle within {} s", _0.as_secs())]
    Late(Duration),
    /// It took too long to say something.
    #[error("it took too long")]
    Silent,
    /// The connection.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// The audit log cannot be shared.
    #[error(transparent)]
    Audit(#[from] AuditError),
}

impl From<tokio::time::error::Elapsed> for GiveError {
    fn from(_: tokio::time::error::Elapsed) -> Self {
        Self::Silent
    }
}

/// What the older agent needs to give its listeners away.
pub(crate) struct Giver {
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
    pub(crate) offers: Arc<dyn Fn() -> Vec<Arc<Offer>> + Send + Sync>,
    /// The log that is shared.
    pub(crate) audit: AuditLog,
    /// How long the newer agent may take to settle.
    pub(crate) limit: Duration,
    /// When it took over from another agent itself.
    pub(crate) took_over: Option<Instant>,
    /// Where the connection to an agent that has settled goes: to whoever ends this one.
    pub(crate) settled: mpsc::Sender<Successor>,
    /// Nobody accepts any more, because this agent ends.
    pub(crate) last: CancellationToken,
}

/// The connection to the agent that takes over just now.
#[derive(Debug, Default)]
struct AtHand(std::sync::Mutex<Option<Arc<UnixStream>>>);

impl AtHand {
    fn set(&self, stream: Option<&Arc<UnixStream>>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = stream.cloned();
    }

    fn take(&self) -> Option<Arc<UnixStream>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// An agent that took over.
#[derive(Debug)]
pub(crate) struct Successor {
    stream: Arc<UnixStream>,
    /// Its kernel programs are others, which take new connections to listeners of its own; what the older programs redirected
    /// just before is still to be accepted.
    pub(crate) own_listeners: bool,
}

impl Giver {
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
        let (at_hand, last) = (AtHand::default(), self.last.clone());
        tokio::select! {
            () = cancel.cancelled() => {}
            () = self.serve(socket, &at_hand) => {}
        }
        // Where it is ended from elsewhere while another takes over, that one is to go on as if this one had agreed.
        if let Some(stream) = at_hand.take() {
            // Open until the process ends: its streams go on, and it writes to the log.
            std::mem::forget(Arc::clone(&stream));
            last.cancelled().await;
            say_yielded(&stream).await;
        }
    }

    async fn serve(self, socket: PrivateSocket, at_hand: &AtHand) {
        // Agents that were too late, until their processes have ended: they write to the log while their streams end.
        let mut late = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                accepted = socket.accept() => accepted,
                Some(_) = late.join_next() => {
                    tracing::info!("the agent that was too late has ended");
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
                    tracing::warn!(%error, "the hand-over socket cannot accept");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let stream = Arc::new(stream);
            at_hand.set(Some(&stream));
            match self.give(&stream).await {
                Ok(own_listeners) => {
                    let successor = Successor {
                        stream,
                        own_listeners,
                    };
                    // Who ends the agent takes the first, and nothing is given twice.
                    let _ending = self.settled.send(successor).await;
                    return std::future::pending().await;
                }
                Err(error) => {
                    at_hand.set(None);
                    tracing::warn!(%error, "nothing was handed over, this agent goes on");
                    if matches!(error, GiveError::Late(_)) {
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
    async fn give(&self, stream: &UnixStream) -> Result<bool, GiveError> {
        let peer = stream.peer_cred().map_err(WireError::from)?.uid();
        if peer != 0 && peer != nix::unistd::geteuid().as_raw() {
            return Err(GiveError::Stranger(peer));
        }
        let (said, _) = timeout(PATIENCE, receive(stream)).await??;
        let Message::Hello {
            version,
            node,
            layout,
        } = said
        else {
            return Err(GiveError::Unexpected(said));
        };
        if let Some(reason) = self.refuses(version, &node) {
            let said = Message::Refused {
                reason: reason.clone(),
            };
            timeout(PATIENCE, send(stream, &said, &[])).await??;
            return Err(GiveError::Refused(reason));
        }
        tracing::info!(
            "another agent takes over: nothing is changed in the kernel until it has, or gives up"
        );
        self.giving.send_replace(true);
        timeout(OFFER_LIMIT, self.offer(stream, layout)).await??;
        match timeout(self.limit, receive(stream)).await {
            Ok(said) => {
                match said? {
                    (Message::Settled, _) => self.agree(stream).await?,
                    (other, _) => return Err(GiveError::Unexpected(other)),
                }
                Ok(layout != self.layout)
            }
            Err(_) => {
                let late = GiveError::Late(self.limit);
                let reason = late.to_string();
                timeout(PATIENCE, send(stream, &Message::Withdrawn { reason }, &[])).await??;
                Err(late)
            }
        }
    }

    /// Lets the newer agent end this one's programs, and waits until it has. It may take long and is not given up while it
    /// lives: it could end them after this one had ended its.
    async fn agree(&self, stream: &UnixStream) -> Result<(), GiveError> {
        timeout(PATIENCE, send(stream, &Message::Agreed, &[])).await??;
        let retired = receive(stream);
        tokio::pin!(retired);
        let said = match timeout(self.limit, &mut retired).await {
            Ok(said) => said?,
            Err(_) => {
                tracing::warn!(
                    "the agent that takes over does not go on: where it stays so, end its process, and this agent goes on"
                );
                retired.await?
            }
        };
        match said {
            (Message::Retired, _) => Ok(()),
            (other, _) => Err(GiveError::Unexpected(other)),
        }
    }

    fn refuses(&self, version: u32, node: &str) -> Option<String> {
        if version != VERSION {
            return Some(format!(
                "it speaks version {VERSION} of the hand-over, not {version}"
            ));
        }
        if node != self.node {
            return Some(format!("it serves the node {}, not {node}", self.node));
        }
        let since = self.took_over.map(|when| when.elapsed())?;
        (since < KEEP).then(|| {
            format!(
                "it took over from another agent itself {} s ago; try again in {} s",
                since.as_secs(),
                KEEP.as_secs() - since.as_secs()
            )
        })
    }

    async fn offer(&self, stream: &UnixStream, layout: u64) -> Result<(), GiveError> {
        // Nothing of it is under way from here on, so what is given away is all there is.
        if !self.at_rest().await {
            return Err(GiveError::Refused("it is ending".to_owned()));
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
                "only {LISTENERS_MAX} listeners are handed over"
            );
            offers.truncate(LISTENERS_MAX);
        }
        for some in offers.chunks(PER_MESSAGE) {
            let listeners = some.iter().map(|offer| offer.handed.clone()).collect();
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
            "handed over, waiting for the new agent to settle"
        );
        Ok(())
    }
}

/// Tells the newer agent that this one accepts no more. The connection is to stay open until this process ends.
pub(crate) async fn yielded(successor: &Successor) {
    say_yielded(&successor.stream).await;
}

async fn say_yielded(stream: &UnixStream) {
    match timeout(PATIENCE, send(stream, &Message::Yielded, &[])).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(%error, "the new agent cannot be told that this one ends"),
        Err(_) => tracing::warn!("the new agent does not listen"),
    }
}
