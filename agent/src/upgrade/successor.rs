//! The newer agent's side: asks the older one for its listeners, and has it end once this one has settled.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::protocol::{Message, VERSION, WireError, receive, send};
use super::{LISTENERS_MAX, OFFER_LIMIT, Offer, PATIENCE, SetAside};
use crate::audit::AuditLog;

/// How long asking takes at most, all in all: an agent must come up whatever is at the other end.
pub(crate) const ASK_LIMIT: Duration = Duration::from_secs(15);

/// How long the older agent may take until it accepts no more, once told that this one has settled.
const YIELD_LIMIT: Duration = Duration::from_secs(10);

/// Why an agent must not start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TakeError {
    /// The agent that runs hands nothing over.
    #[error("another agent runs on this node and hands nothing over: {0}")]
    Refused(String),
}

/// Why there is nothing to take over.
#[derive(Debug, thiserror::Error)]
enum AskError {
    #[error(transparent)]
    Refused(#[from] TakeError),
    #[error("it said what makes no sense there: {0:?}")]
    Unexpected(Message),
    #[error("it offers more than {LISTENERS_MAX} listeners")]
    TooMany,
    #[error("what it says and the descriptors that came do not fit")]
    Unfit,
    #[error("it took too long")]
    Silent(#[from] tokio::time::error::Elapsed),
    #[error(transparent)]
    Wire(#[from] WireError),
}

/// A hand-over under way.
#[derive(Debug)]
pub(crate) struct Takeover {
    pub(super) stream: Arc<UnixStream>,
    /// The older agent's listeners.
    pub(crate) set_aside: Arc<SetAside>,
}

/// Asks the agent behind the socket for its listeners, for so long at most; `None` where there is none, or none that can hand
/// anything over.
///
/// # Errors
/// [`TakeError::Refused`].
pub(crate) async fn ask(
    socket: &Path,
    node: &str,
    layout: u64,
    limit: Duration,
) -> Result<Option<Takeover>, TakeError> {
    let asked = timeout(limit, async {
        let stream = UnixStream::connect(socket).await.map_err(WireError::from)?;
        take(stream, node, layout).await
    });
    match asked.await {
        Ok(Ok(takeover)) => Ok(Some(takeover)),
        Ok(Err(AskError::Refused(refused))) => Err(refused),
        Ok(Err(AskError::Wire(WireError::Io(error))))
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
            ) =>
        {
            tracing::debug!("no agent runs that could hand anything over");
            Ok(None)
        }
        Ok(Err(error)) => {
            tracing::warn!(%error, "the agent that runs could not hand anything over");
            Ok(None)
        }
        Err(_) => {
            tracing::warn!("the agent that runs did not answer within {limit:?}");
            Ok(None)
        }
    }
}

async fn take(stream: UnixStream, node: &str, layout: u64) -> Result<Takeover, AskError> {
    let hello = Message::Hello {
        version: VERSION,
        node: node.to_owned(),
        layout,
    };
    timeout(PATIENCE, send(&stream, &hello, &[])).await??;
    let (set_aside, mut taken) = (SetAside::default(), 0);
    loop {
        match timeout(OFFER_LIMIT, receive(&stream)).await?? {
            (Message::Listeners { listeners }, descriptors) => {
                taken += listeners.len();
                if taken > LISTENERS_MAX {
                    return Err(AskError::TooMany);
                }
                let mut descriptors = descriptors.into_iter();
                for handed in listeners {
                    let own: Vec<_> = descriptors.by_ref().take(handed.descriptors).collect();
                    if own.len() != handed.descriptors {
                        return Err(AskError::Unfit);
                    }
                    set_aside.keep(Offer {
                        handed,
                        descriptors: own,
                    });
                }
                if descriptors.next().is_some() {
                    return Err(AskError::Unfit);
                }
            }
            (Message::Offered { count }, _) if count == taken => break,
            (Message::Offered { .. }, _) => return Err(AskError::Unfit),
            (Message::Refused { reason }, _) => return Err(TakeError::Refused(reason).into()),
            (other, _) => return Err(AskError::Unexpected(other)),
        }
    }
    tracing::info!(listeners = taken, "taking over from the agent that runs");
    Ok(Takeover {
        stream: Arc::new(stream),
        set_aside: Arc::new(set_aside),
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
enum Before {
    /// It accepts no more and ends when its streams do.
    Yielded,
    /// Its process is gone.
    Gone,
    /// It does not answer.
    Stuck,
    /// It goes on: this one must not.
    Stays,
}

impl Takeover {
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
            Before::Stays => {
                progress.giving.send_replace(true);
                return;
            }
            Before::Yielded => tracing::info!("the agent before this one has stepped back"),
            Before::Gone => tracing::warn!("the agent before this one is gone"),
            Before::Stuck => tracing::error!(
                "the agent before this one does not step back within {} s: end its process",
                YIELD_LIMIT.as_secs()
            ),
        }
        progress.agreed.send_replace(true);
        progress.alone.send_replace(true);
        let alone = async {
            if matches!(before, Before::Yielded | Before::Stuck) {
                // It says nothing more; the connection ends with its process.
                while receive(&self.stream).await.is_ok() {}
                tracing::info!("the agent before this one has ended");
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
        let left = self.set_aside.clear();
        if left > 0 {
            tracing::info!(
                listeners = left,
                "closed listeners of pods that are not enforced any more"
            );
        }
    }

    /// Says that this agent has settled, has the older one's programs ended once that one agrees, and waits until it accepts
    /// no more.
    async fn replace(&self, progress: &mut Progress) -> Before {
        if send(&self.stream, &Message::Settled, &[]).await.is_err() {
            return Before::Gone;
        }
        let said = receive(&self.stream);
        tokio::pin!(said);
        let said = match timeout(YIELD_LIMIT, &mut said).await {
            Ok(said) => said,
            Err(_) => {
                // It may still take back what it gave, and then ends this one's programs: one of the two must stay.
                tracing::error!(
                    "the agent before this one does not answer, and this one waits: end its process"
                );
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
        match timeout(PATIENCE, send(&self.stream, &Message::Retired, &[])).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return Before::Gone,
            Err(_) => return Before::Stuck,
        }
        match timeout(YIELD_LIMIT, receive(&self.stream)).await {
            Ok(said) => heard(said),
            Err(_) => Before::Stuck,
        }
    }
}

/// Waits until it is so; false where nobody is left to say.
async fn until(settled: &mut watch::Receiver<bool>) -> bool {
    settled.wait_for(|settled| *settled).await.is_ok()
}

fn heard(said: Result<(Message, Vec<std::os::fd::OwnedFd>), WireError>) -> Before {
    match said {
        Ok((Message::Yielded, _)) => Before::Yielded,
        Ok((Message::Withdrawn { reason }, _)) => {
            tracing::error!(reason, "the agent that runs goes on, so this one ends");
            Before::Stays
        }
        Ok((other, _)) => {
            tracing::error!(
                ?other,
                "the agent that runs says what makes no sense, so this one ends"
            );
            Before::Stays
        }
        Err(WireError::Closed | WireError::Io(_)) => Before::Gone,
        Err(error) => {
            tracing::error!(%error, "the agent that runs is not understood, so this one ends");
            Before::Stays
        }
    }
}
