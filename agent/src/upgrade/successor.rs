//! The newer agent's side: asks the older one for its listeners, and has it end once this one has settled.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::protocol::{Message, ProtocolError, VERSION, receive, send};
use super::{InheritedListeners, LISTENERS_MAX, ListenerOffer, OFFER_LIMIT, PATIENCE};
use crate::audit::AuditLog;

/// How long asking takes at most, all in all: an agent must come up whatever is at the other end.
pub(crate) const REQUEST_LIMIT: Duration = Duration::from_secs(15);

/// How long the older agent may take until it accepts no more, once told that this one has settled.
const STOP_LIMIT: Duration = Duration::from_secs(10);

/// Why an agent must not start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UpgradeRefused {
    /// The running agent refused the upgrade.
    #[error("the agent that runs on this node refused the upgrade: {0}")]
    Refused(String),
}

/// Why there is nothing to take over.
#[derive(Debug, thiserror::Error)]
enum RequestError {
    #[error(transparent)]
    Refused(#[from] UpgradeRefused),
    #[error("the predecessor sent an unexpected message: {0:?}")]
    Unexpected(Message),
    #[error("the predecessor transfers more than {LISTENERS_MAX} listeners")]
    TooMany,
    #[error("the predecessor's list of listeners and the descriptors that came do not match")]
    Unfit,
    #[error("the predecessor took too long to answer")]
    Silent(#[from] tokio::time::error::Elapsed),
    #[error(transparent)]
    Wire(#[from] ProtocolError),
}

/// A hand-over under way.
#[derive(Debug)]
pub(crate) struct Successor {
    pub(super) stream: Arc<UnixStream>,
    /// The older agent's listeners.
    pub(crate) inherited: Arc<InheritedListeners>,
}

/// Asks the agent behind the socket for its listeners, for so long at most; `None` where there is none, or none that can hand
/// anything over.
///
/// # Errors
/// [`UpgradeRefused::Refused`].
pub(crate) async fn ask(
    socket: &Path,
    node: &str,
    layout: u64,
    limit: Duration,
) -> Result<Option<Successor>, UpgradeRefused> {
    let asked = timeout(limit, async {
        let stream = UnixStream::connect(socket).await.map_err(ProtocolError::from)?;
        take(stream, node, layout).await
    });
    match asked.await {
        Ok(Ok(takeover)) => Ok(Some(takeover)),
        Ok(Err(RequestError::Refused(refused))) => Err(refused),
        Ok(Err(RequestError::Wire(ProtocolError::Io(error))))
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
            ) =>
        {
            tracing::debug!("no predecessor runs");
            Ok(None)
        }
        Ok(Err(error)) => {
            tracing::warn!(%error, "upgrade failed: the predecessor's listeners cannot be used");
            Ok(None)
        }
        Err(_) => {
            tracing::warn!("upgrade failed: the predecessor did not answer within {limit:?}");
            Ok(None)
        }
    }
}

async fn take(stream: UnixStream, node: &str, layout: u64) -> Result<Successor, RequestError> {
    let hello = Message::Hello {
        version: VERSION,
        node: node.to_owned(),
        layout,
    };
    timeout(PATIENCE, send(&stream, &hello, &[])).await??;
    let (inherited, mut taken) = (InheritedListeners::default(), 0);
    loop {
        match timeout(OFFER_LIMIT, receive(&stream)).await?? {
            (Message::Listeners { listeners }, descriptors) => {
                taken += listeners.len();
                if taken > LISTENERS_MAX {
                    return Err(RequestError::TooMany);
                }
                let mut descriptors = descriptors.into_iter();
                for listener in listeners {
                    let own: Vec<_> = descriptors.by_ref().take(listener.descriptors).collect();
                    if own.len() != listener.descriptors {
                        return Err(RequestError::Unfit);
                    }
                    inherited.keep(ListenerOffer {
                        listener,
                        descriptors: own,
                    });
                }
                if descriptors.next().is_some() {
                    return Err(RequestError::Unfit);
                }
            }
            (Message::Offered { count }, _) if count == taken => break,
            (Message::Offered { .. }, _) => return Err(RequestError::Unfit),
            (Message::Refused { reason }, _) => return Err(UpgradeRefused::Refused(reason).into()),
            (other, _) => return Err(RequestError::Unexpected(other)),
        }
    }
    tracing::info!(
        listeners = taken,
        "upgrade begun: received the predecessor's listeners"
    );
    Ok(Successor {
        stream: Arc::new(stream),
        inherited: Arc::new(inherited),
    })
}

/// What a take-over and this agent's other parts tell each other.
#[derive(Debug)]
pub(crate) struct Progress {
    /// Pods are judged and the protected endpoints are in force.
    pub(crate) judged: watch::Receiver<bool>,
    /// The older agent takes nothing back while this one lives: its programs may be ended.
    pub(crate) agreed: watch::Sender<bool>,
    /// They are.
    pub(crate) settled: watch::Receiver<bool>,
    /// The older agent serves no more.
    pub(crate) alone: watch::Sender<bool>,
    /// The older agent goes on, and this one must change nothing any more.
    pub(crate) giving: watch::Sender<bool>,
    /// This agent ends, and the older one is to go on.
    pub(crate) cancel: CancellationToken,
}

/// What became of the older agent.
enum PredecessorEnd {
    /// It accepts no more and ends when its streams do.
    Stopped,
    /// Its process is gone.
    Gone,
    /// It does not answer.
    Stuck,
    /// It goes on: this one must not.
    KeepsServing,
}

impl Successor {
    /// Keeps the connection until this process ends, whatever becomes of its tasks: its end tells the older agent that nothing
    /// of this one's is under way in the kernel any more, nor on its way to the log.
    pub(crate) fn hold_until_exit(&self) {
        std::mem::forget(Arc::clone(&self.stream));
    }

    /// Tells the older agent when this one has settled, and `alone` when the older one serves no more. It then waits for the
    /// older process to end and has the audit log for itself again. Ends where the older agent took back what it gave, after
    /// `giving` was told: two that both bring pods where they should be would be in each other's way, for as long as this
    /// one's streams take to end.
    pub(crate) async fn finish(self, mut progress: Progress, audit: AuditLog) {
        let early = tokio::select! {
            said = receive(&self.stream) => Some(heard(said)),
            judged = until(&mut progress.judged) => {
                if !judged {
                    // The agent is ending.
                    return std::future::pending().await;
                }
                None
            }
        };
        let before = match early {
            Some(before) => before,
            None => self.replace(&mut progress).await,
        };
        match before {
            PredecessorEnd::KeepsServing => {
                progress.giving.send_replace(true);
                return;
            }
            PredecessorEnd::Stopped => {
                tracing::info!("upgrade complete: the predecessor has stopped serving")
            }
            PredecessorEnd::Gone => tracing::warn!(
                "the predecessor ended before the upgrade was complete; this agent serves alone"
            ),
            PredecessorEnd::Stuck => tracing::error!(
                "the predecessor has not stopped serving within {} s: end its process",
                STOP_LIMIT.as_secs()
            ),
        }
        progress.agreed.send_replace(true);
        progress.alone.send_replace(true);
        let alone = async {
            if matches!(before, PredecessorEnd::Stopped | PredecessorEnd::Stuck) {
                // It says nothing more; the connection ends with its process.
                while receive(&self.stream).await.is_ok() {}
                tracing::info!("the predecessor's process has ended");
            }
            if let Err(error) = audit.share(false).await {
                tracing::error!(%error, "the audit log cannot be written");
            }
        };
        // Not before: where the older agent was ended in the middle of it, their pods are still to be judged.
        let settled = async {
            if until(&mut progress.settled).await {
                self.close_unclaimed();
            }
        };
        tokio::join!(alone, settled);
        std::future::pending().await
    }

    fn close_unclaimed(&self) {
        let left = self.inherited.clear();
        if left > 0 {
            tracing::info!(
                listeners = left,
                "closed transferred listeners of pods that are no longer enforced"
            );
        }
    }

    /// Says that this agent has settled, has the older one's programs ended once that one agrees, and waits until it accepts
    /// no more.
    async fn replace(&self, progress: &mut Progress) -> PredecessorEnd {
        if send(&self.stream, &Message::Synced, &[]).await.is_err() {
            return PredecessorEnd::Gone;
        }
        let said = receive(&self.stream);
        tokio::pin!(said);
        let said = match timeout(STOP_LIMIT, &mut said).await {
            Ok(said) => said,
            Err(_) => {
                // It may still take back what it gave, and then ends this one's programs: one of the two must stay.
                tracing::error!("the predecessor does not answer, and this agent waits: end its process");
                said.await
            }
        };
        if !matches!(said, Ok((Message::Agreed, _))) {
            return heard(said);
        }
        progress.agreed.send_replace(true);
        if !until(&mut progress.settled).await || progress.cancel.is_cancelled() {
            // The agent is ending, and the older one goes on.
            return std::future::pending().await;
        }
        match timeout(PATIENCE, send(&self.stream, &Message::ProgramsReplaced, &[])).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return PredecessorEnd::Gone,
            Err(_) => return PredecessorEnd::Stuck,
        }
        match timeout(STOP_LIMIT, receive(&self.stream)).await {
            Ok(said) => heard(said),
            Err(_) => PredecessorEnd::Stuck,
        }
    }
}

/// Waits until it is so; false where nobody is left to say.
async fn until(settled: &mut watch::Receiver<bool>) -> bool {
    settled.wait_for(|settled| *settled).await.is_ok()
}

fn heard(said: Result<(Message, Vec<std::os::fd::OwnedFd>), ProtocolError>) -> PredecessorEnd {
    match said {
        Ok((Message::Stopped, _)) => PredecessorEnd::Stopped,
        Ok((Message::Withdrawn { reason }, _)) => {
            tracing::error!(
                reason,
                "upgrade failed: the predecessor keeps serving, and this agent stops"
            );
            PredecessorEnd::KeepsServing
        }
        Ok((other, _)) => {
            tracing::error!(
                ?other,
                "upgrade failed: the predecessor sent an unexpected message, and this agent stops"
            );
            PredecessorEnd::KeepsServing
        }
        Err(ProtocolError::Closed | ProtocolError::Io(_)) => PredecessorEnd::Gone,
        Err(error) => {
            tracing::error!(%error, "upgrade failed: the predecessor's message cannot be read, and this agent stops");
            PredecessorEnd::KeepsServing
        }
    }
}
