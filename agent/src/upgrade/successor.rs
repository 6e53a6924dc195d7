//! The newer agent's side of an upgrade: asks the predecessor for its listeners, and has it stop once this one serves.
//!
//! In: the upgrade socket. Out: the predecessor's listeners, and the predecessor's track of the agent's phase.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::UnixStream;
use tokio::time::timeout;

use super::metrics::{Role, UpgradeMetrics};
use super::protocol::{Message, ProtocolError, VERSION, receive, send};
use super::{InheritedListeners, LISTENERS_MAX, ListenerOffer, MESSAGE_TIMEOUT, OFFER_LIMIT, UPGRADE_PAUSE};
use crate::audit::AuditLog;
use crate::runtime::phase::{Phase, PhaseControl};

/// How long a successor's request takes at most: a start must come to an end, well within a supervisor's limit for it.
pub(crate) const REQUEST_LIMIT: Duration = Duration::from_secs(15);

/// What is told of why a successor gave up: enough for a path and a place in it; a message holds 64 KiB.
const REASON_BYTES: usize = 1024;

/// How long a start waits for a running agent that took over itself a moment ago: the pause of that agent, and a second.
const PAUSE_MAX: Duration = Duration::from_secs(UPGRADE_PAUSE.as_secs() + 1);

/// How long a predecessor may take until it accepts no more, once told that this agent serves.
const STOP_LIMIT: Duration = Duration::from_secs(10);

/// Why an agent must not start, or must not go on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UpgradeFailed {
    /// The running agent refused the upgrade.
    #[error("upgrade failed: the agent that runs on this node refused it: {reason}")]
    Refused {
        /// What it said.
        reason: String,
        /// After how long it would not refuse any more; `None` where time changes nothing.
        retry_after: Option<Duration>,
    },
    /// The predecessor took back what it had transferred.
    #[error("upgrade failed: the predecessor keeps serving, because {0}")]
    Withdrawn(String),
    /// This agent would serve worse than the predecessor does.
    #[error("upgrade failed: the predecessor keeps serving, because {0}")]
    Unfit(String),
    /// This agent was stopped before its turn came.
    #[error(
        "upgrade failed: this agent was stopped while it waited for the agent that runs on this node: {0}"
    )]
    Stopped(String),
    /// The predecessor sent a message that has no place there.
    #[error("upgrade failed: the predecessor sent an unexpected message: {0:?}")]
    Unexpected(Message),
    /// A message of the predecessor is none.
    #[error("upgrade failed: the predecessor's message cannot be read: {0}")]
    Unreadable(ProtocolError),
    /// An agent holds the upgrade socket and does not answer.
    #[error("upgrade failed: {holder} holds {} and did not answer within {limit:?}: {holder} upgrades to another agent, or hangs; \
             wait until that upgrade has ended, or end {holder}, and start this agent again", socket.display())]
    Silent {
        /// Which process.
        holder: SocketHolder,
        /// The upgrade socket.
        socket: PathBuf,
        /// How long it was waited for.
        limit: Duration,
    },
    /// An agent holds the upgrade socket, and nothing can be taken over from it.
    #[error("upgrade failed: {holder} holds {}, and its listeners cannot be used: {reason}", socket.display())]
    Unusable {
        /// Which process.
        holder: SocketHolder,
        /// The upgrade socket.
        socket: PathBuf,
        /// What it did.
        reason: String,
    },
}

impl UpgradeFailed {
    /// After how long the running agent would agree, if time is all that it asks for.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        match self {
            // A running agent that asks for more than its own pause is not believed.
            Self::Refused { retry_after, .. } => retry_after.filter(|after| *after <= PAUSE_MAX),
            _ => None,
        }
    }
}

/// The process that made a socket, where it is of this PID namespace.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SocketHolder(Option<i32>);

impl SocketHolder {
    fn of(stream: &UnixStream) -> Self {
        let credentials = stream.peer_cred().ok();
        Self(credentials.and_then(|peer| peer.pid()).filter(|pid| *pid > 0))
    }
}

impl fmt::Display for SocketHolder {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(pid) => write!(out, "process {pid}"),
            None => out.write_str("a process of another PID namespace"),
        }
    }
}

/// Why there is nothing to take over.
#[derive(Debug, thiserror::Error)]
enum RequestError {
    #[error(transparent)]
    Refused(#[from] UpgradeFailed),
    #[error("the predecessor sent an unexpected message: {0:?}")]
    Unexpected(Message),
    #[error("the predecessor transfers more than {LISTENERS_MAX} listeners")]
    TooMany,
    #[error("the predecessor's list of listeners and the descriptors that came do not match")]
    Unfit,
    #[error("the predecessor took too long to answer")]
    Silent(#[from] tokio::time::error::Elapsed),
    #[error(transparent)]
    Protocol(#[from] ProtocolError),
}

/// An upgrade under way, and the newer agent's part in it.
#[derive(Debug)]
pub(crate) struct Successor {
    pub(super) stream: Arc<UnixStream>,
    /// The predecessor's listeners.
    pub(crate) inherited: Arc<InheritedListeners>,
}

/// Asks the agent behind the socket for its listeners, for so long at most; `None` where no agent runs.
///
/// An agent that holds the socket counts as running, whatever it says or does not say: it may be in an upgrade to another agent.
///
/// # Errors
/// [`UpgradeFailed`] where an agent runs, and this one cannot take its place.
pub(crate) async fn request(
    socket: &Path,
    node: &str,
    layout: u64,
    limit: Duration,
    metrics: &UpgradeMetrics,
) -> Result<Option<Successor>, UpgradeFailed> {
    let began = Instant::now();
    let Some((stream, holder)) = connected(socket, limit).await? else {
        return Ok(None);
    };
    let left = limit.saturating_sub(began.elapsed());
    let asked = timeout(left, take(stream, node, layout)).await;
    let error = match asked.unwrap_or_else(|elapsed| Err(elapsed.into())) {
        Ok(successor) => return Ok(Some(successor)),
        Err(error) => error,
    };
    // Where time alone is in the way nothing failed: the caller comes again.
    let waits = matches!(&error, RequestError::Refused(refused) if refused.retry_after().is_some());
    if !waits {
        metrics.ended(Role::Successor, false);
    }
    match error {
        RequestError::Refused(refused) => Err(refused),
        RequestError::Silent(_) => Err(silent(holder, socket, limit)),
        // Its process may have ended; then nobody accepts any more.
        RequestError::Protocol(ProtocolError::Closed | ProtocolError::Io(_))
            if connected(socket, limit).await?.is_none() =>
        {
            tracing::warn!(%error, "upgrade failed: the predecessor ended, and this agent starts without it");
            Ok(None)
        }
        error => Err(UpgradeFailed::Unusable {
            holder,
            socket: socket.to_owned(),
            reason: error.to_string(),
        }),
    }
}

/// Asks for an upgrade. Where the running agent took over itself a moment ago, as at a rollback soon after an upgrade, waits until it may
/// be replaced and asks once more: a process that ended instead would be started again by its supervisor's growing pauses. `stop` ends the
/// wait, so that a pod that is deleted meanwhile does not need its grace period.
///
/// # Errors
/// As `ask`, and [`UpgradeFailed::Stopped`].
pub(crate) async fn when_it_may_be_replaced<T>(
    ask: impl AsyncFn() -> Result<T, UpgradeFailed>,
    stop: impl Future<Output = io::Result<&'static str>>,
) -> Result<T, UpgradeFailed> {
    let failed = match ask().await {
        Ok(begun) => return Ok(begun),
        Err(failed) => failed,
    };
    let Some(pause) = failed.retry_after() else {
        return Err(failed);
    };
    // Nothing failed, so that no word of a failure is said.
    let reason = match &failed {
        UpgradeFailed::Refused { reason, .. } => reason.clone(),
        other => other.to_string(),
    };
    tracing::info!(
        seconds = pause.as_secs(),
        %reason,
        "this agent waits so long, until the running one may be replaced, and takes over then"
    );
    tokio::select! {
        () = tokio::time::sleep(pause) => ask().await,
        signal = stop => Err(UpgradeFailed::Stopped(match signal {
            Ok(signal) => signal.to_owned(),
            Err(error) => error.to_string(),
        })),
    }
}

/// A connection to the agent behind the socket, and its process. `None` where nobody can be reached there: a start that ended for
/// anything but a running agent would leave the node open after a boot.
async fn connected(
    socket: &Path,
    limit: Duration,
) -> Result<Option<(UnixStream, SocketHolder)>, UpgradeFailed> {
    let unknown = SocketHolder(None);
    match timeout(limit, UnixStream::connect(socket)).await {
        Ok(Ok(stream)) => {
            let holder = SocketHolder::of(&stream);
            Ok(Some((stream, holder)))
        }
        Ok(Err(error))
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory | io::ErrorKind::ConnectionRefused
            ) =>
        {
            tracing::debug!("no predecessor runs");
            Ok(None)
        }
        // Somebody listens, and accepts no more connections.
        Ok(Err(error)) if error.kind() == io::ErrorKind::WouldBlock => Err(UpgradeFailed::Unusable {
            holder: unknown,
            socket: socket.to_owned(),
            reason: format!("its queue of connections is full: {error}"),
        }),
        Ok(Err(error)) => {
            tracing::warn!(%error, socket = %socket.display(), "the agent cannot look for a predecessor, and starts as the only agent");
            Ok(None)
        }
        Err(_) => Err(silent(unknown, socket, limit)),
    }
}

fn silent(holder: SocketHolder, socket: &Path, limit: Duration) -> UpgradeFailed {
    UpgradeFailed::Silent {
        holder,
        socket: socket.to_owned(),
        limit,
    }
}

/// Whether an agent is behind the socket, for one that cannot replace it: the agent there is not disturbed, however often it is
/// asked.
///
/// # Errors
/// [`UpgradeFailed::Silent`] where one holds the socket and does not answer: it upgrades to another agent, or hangs.
pub(crate) async fn has_predecessor(socket: &Path, limit: Duration) -> Result<bool, UpgradeFailed> {
    let Some((stream, holder)) = connected(socket, limit).await? else {
        return Ok(false);
    };
    let asked = timeout(limit, async {
        let sent = send(&stream, &Message::Probe, &[]).await;
        // Whatever comes is a sign of life. An agent before this message ends the connection.
        let answer = receive(&stream).await;
        sent.is_ok() && answer.is_ok()
    });
    match asked.await {
        Ok(true) => Ok(true),
        // The process may have ended as well; then nobody accepts any more.
        Ok(false) => Ok(connected(socket, limit).await?.is_some()),
        Err(_) => Err(silent(holder, socket, limit)),
    }
}

/// Tells the running agent that its successor gave up, and why. It goes on whether it hears that or not.
pub(crate) async fn give_up(socket: &Path, reason: &str, limit: Duration) {
    let told = async {
        if let Ok(Some((stream, _))) = connected(socket, limit).await {
            let reason = reason[..reason.floor_char_boundary(REASON_BYTES)].to_owned();
            let _told = send(&stream, &Message::Unfit { reason }, &[]).await;
        }
    };
    let _in_time = timeout(limit, told).await;
}

async fn take(stream: UnixStream, node: &str, layout: u64) -> Result<Successor, RequestError> {
    let hello = Message::Hello {
        version: VERSION,
        node: node.to_owned(),
        layout,
    };
    timeout(MESSAGE_TIMEOUT, send(&stream, &hello, &[])).await??;
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
            (Message::Refused { reason, retry_after }, _) => {
                let retry_after = retry_after.map(Duration::from_secs);
                return Err(UpgradeFailed::Refused { reason, retry_after }.into());
            }
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

/// What became of the predecessor.
enum PredecessorEnd {
    /// It accepts no more, and ends when its streams do.
    Stopped,
    /// Its process is gone.
    Gone,
    /// It does not answer.
    Stuck,
    /// It keeps serving: this agent must not.
    KeepsServing(UpgradeFailed),
}

impl Successor {
    /// Keeps the connection until this process ends, whatever becomes of its tasks: the connection's end tells the predecessor
    /// that nothing of this agent is under way in the kernel any more, nor on its way to the log.
    pub(crate) fn hold_until_exit(&self) {
        std::mem::forget(Arc::clone(&self.stream));
    }

    /// Says when this agent is synced and when it is established, and moves the predecessor's track of the phase. It then waits
    /// for the predecessor's process to end and has the audit log for itself again.
    ///
    /// Returns only where the predecessor keeps serving, with the kernel write lease lent: two agents that both bring pods into
    /// their classes would be in each other's way, for as long as this one's streams take to end.
    pub(crate) async fn run(
        self,
        phase: PhaseControl,
        audit: AuditLog,
        metrics: UpgradeMetrics,
    ) -> UpgradeFailed {
        let synced = phase.watch();
        let early = tokio::select! {
            said = receive(&self.stream) => Some(heard(said)),
            synced = synced.reached(Phase::Synced) => {
                if synced.is_err() {
                    return std::future::pending().await;
                }
                None
            }
        };
        let end = match early {
            Some(end) => end,
            None => self.replace(&phase).await,
        };
        metrics.ended(Role::Successor, matches!(end, PredecessorEnd::Stopped));
        match &end {
            PredecessorEnd::KeepsServing(_) => {}
            PredecessorEnd::Stopped => {
                tracing::info!("upgrade complete: the predecessor has stopped serving");
            }
            PredecessorEnd::Gone => {
                tracing::warn!(
                    "the predecessor ended before the upgrade was complete; this agent serves alone"
                );
            }
            PredecessorEnd::Stuck => tracing::error!(
                "the predecessor has not stopped serving within {} s: end its process",
                STOP_LIMIT.as_secs()
            ),
        }
        let process_runs = match end {
            PredecessorEnd::KeepsServing(failed) => {
                phase.lend();
                return failed;
            }
            PredecessorEnd::Stopped | PredecessorEnd::Stuck => true,
            PredecessorEnd::Gone => false,
        };
        phase.reach(Phase::PredecessorStopped);
        let alone = async {
            if process_runs {
                // It says nothing more; the connection ends with its process.
                while receive(&self.stream).await.is_ok() {}
                tracing::info!("the predecessor's process has ended");
            }
            if let Err(error) = audit.share(false).await {
                tracing::error!(%error, "the audit log cannot be written");
            }
        };
        // Not before: where the predecessor was stopped in the middle of it, their pods still have to be classified.
        let established = phase.watch();
        let unclaimed = async {
            if established.reached(Phase::Established).await.is_ok() {
                self.close_unclaimed();
            }
        };
        tokio::join!(alone, unclaimed);
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

    /// Says that this agent is synced, has the predecessor's programs detached once the predecessor agrees, and waits until the
    /// predecessor accepts no more.
    async fn replace(&self, phase: &PhaseControl) -> PredecessorEnd {
        if send(&self.stream, &Message::Synced, &[]).await.is_err() {
            return PredecessorEnd::Gone;
        }
        let said = receive(&self.stream);
        tokio::pin!(said);
        let said = match timeout(STOP_LIMIT, &mut said).await {
            Ok(said) => said,
            Err(_) => {
                // It may still take back what it transferred, and then detaches this one's programs: one of the two must stay.
                tracing::error!("the predecessor does not answer, and this agent waits: end its process");
                said.await
            }
        };
        if !matches!(said, Ok((Message::Agreed, _))) {
            return heard(said);
        }
        phase.reach(Phase::PredecessorAgreed);
        let own = phase.watch();
        if own.reached(Phase::Established).await.is_err() || own.has_ended() {
            // This agent stops, and the predecessor keeps serving.
            return std::future::pending().await;
        }
        match timeout(
            MESSAGE_TIMEOUT,
            send(&self.stream, &Message::ProgramsReplaced, &[]),
        )
        .await
        {
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

fn heard(said: Result<(Message, Vec<std::os::fd::OwnedFd>), ProtocolError>) -> PredecessorEnd {
    let failed = match said {
        Ok((Message::Stopped, _)) => return PredecessorEnd::Stopped,
        Err(ProtocolError::Closed | ProtocolError::Io(_)) => return PredecessorEnd::Gone,
        Ok((Message::Withdrawn { reason }, _)) => UpgradeFailed::Withdrawn(reason),
        Ok((other, _)) => UpgradeFailed::Unexpected(other),
        Err(error) => UpgradeFailed::Unreadable(error),
    };
    PredecessorEnd::KeepsServing(failed)
}
