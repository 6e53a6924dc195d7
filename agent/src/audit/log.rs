//! The handle on the audit log: reserves room for records, queues them, and reports how the log is doing.
//!
//! Room is reserved when a record begins, so that its end (which happens in `Drop`, where nothing may wait) always
//! has a place. When there is no room a request waits for a moment and is then refused; nothing is ever dropped.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::event::{Alarm, Connection, Decision, Event, KernelFacts, Outcome, Received, Stage, Summary};
use super::record::Record;
use super::redact::{redact_text, redact_uri};
use super::writer::{self, Sink};
use super::{AuditConfig, AuditError};

/// Records begun and not yet written: requests in flight, live sessions, and lines that wait for the file. A record
/// is about 1.5 KB, so a log that takes nothing more holds at most some 50 MB before requests are refused.
const REQUEST_SLOTS: usize = 32_768;

/// Connection events waiting to be written. They have their own room, so that a pod that dials refused addresses in
/// a loop cannot take the room of other pods' requests.
const CONNECTION_SLOTS: usize = 1_024;

/// How long a request waits for room: long enough for a slow disk to catch up, short against kubectl's patience.
const ROOM_PATIENCE: Duration = Duration::from_secs(2);

/// How long a request waits for its record to be on disk. A disk that takes longer counts as one that takes nothing; clients
/// give up soon after.
const COMMIT_PATIENCE: Duration = Duration::from_secs(5);

/// A short wait that lets records gather, so that a busy node wakes the writer 200 times a second at most and not
/// once for each record. Records that must be on disk never wait for it.
const GATHER: Duration = Duration::from_millis(5);

/// So many waiting records end the gathering early.
const GATHER_LIMIT: usize = 512;

/// Told of each request's end, once, wherever it ended: how metrics cannot be forgotten either.
pub type Observer = Arc<dyn Fn(&Summary<'_>) + Send + Sync>;

/// The audit log. Cheap to clone.
#[derive(Clone)]
pub struct AuditLog {
    inner: Arc<Inner>,
}

struct Inner {
    queue: Arc<Queue>,
    stats: Arc<Stats>,
    observer: Option<Observer>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.queue.close();
    }
}

impl AuditLog {
    /// Opens the sinks and starts the writer's thread. A line that was cut short by a crash is ended, and a new
    /// hash chain is bound to the last whole line.
    ///
    /// # Errors
    /// No sink, a file that cannot be opened or is held by another process, or no thread.
    pub fn open(config: &AuditConfig, observer: Option<Observer>) -> Result<Self, AuditError> {
        Self::start(config, observer, false)
    }

    /// As [`AuditLog::open`], beside another process that writes to the file and was told to [`AuditLog::share`] it.
    ///
    /// # Errors
    /// As [`AuditLog::open`].
    pub fn join(config: &AuditConfig, observer: Option<Observer>) -> Result<Self, AuditError> {
        Self::start(config, observer, true)
    }

    /// Lets another process write to the file in turns with this one, or has it for itself again. Lines never mix, and the
    /// hash chain stays whole: whoever writes behind the other's lines begins a chain that is bound to them.
    ///
    /// # Errors
    /// As [`AuditLog::flush`].
    pub async fn share(&self, shared: bool) -> Result<(), AuditError> {
        self.inner.queue.shared.store(shared, Relaxed);
        self.flush().await
    }

    fn start(config: &AuditConfig, observer: Option<Observer>, shared: bool) -> Result<Self, AuditError> {
        let sink = Sink::open(config, shared)?;
        let stats = Arc::new(Stats::default());
        let queue = Arc::new(Queue::default());
        queue.shared.store(shared, Relaxed);
        writer::start(sink, Arc::clone(&queue), Arc::clone(&stats))?;
        Ok(Self {
            inner: Arc::new(Inner {
                queue,
                stats,
                observer,
            }),
        })
    }

    /// Begins the record of a request that has just arrived.
    ///
    /// # Errors
    /// [`AuditError::Full`] when there is no room: the request must be refused.
    pub async fn begin(&self, received: Received) -> Result<Record, AuditError> {
        let permit = self.room().await?;
        let mut event = Event::new(received.verb, redact_uri(received.uri));
        event.source = received.source;
        event.user_agent = received.user_agent.map(redact_text);
        event.caller = received.caller;
        Ok(Record::new(self.clone(), event, permit))
    }

    /// Writes down a connection that was refused. It was refused already, so this waits for room and not for the disk.
    ///
    /// # Errors
    /// [`AuditError::Closed`] when the log has ended.
    pub async fn connection(&self, connection: Connection) -> Result<(), AuditError> {
        let permit = Arc::clone(&self.inner.stats.connections)
            .acquire_owned()
            .await
            .map_err(|_| AuditError::Closed)?;
        let uri = match connection.kernel.address {
            Some(address) => format!("{}://{address}", connection.kernel.protocol),
            None => String::new(),
        };
        let mut event = Event::new("connect".into(), uri);
        event.caller = connection.caller;
        event.kernel = Some(connection.kernel);
        event.decision = Decision {
            outcome: Some(connection.outcome),
            reason: connection.reason,
            message: Some(connection.message),
            ..Decision::default()
        };
        event.reach(Stage::ResponseComplete);
        event.total = None;
        self.queue(Box::new(event), permit);
        Ok(())
    }

    /// Writes down what calls for a person, marked as critical.
    ///
    /// # Errors
    /// [`AuditError::Closed`] when the log has ended.
    pub async fn alarm(&self, alarm: Alarm) -> Result<(), AuditError> {
        let permit = Arc::clone(&self.inner.stats.connections)
            .acquire_owned()
            .await
            .map_err(|_| AuditError::Closed)?;
        let mut event = Event::new("alarm".into(), format!("kernel://{}", alarm.hook));
        event.kernel = Some(KernelFacts {
            hook: alarm.hook.into(),
            verdict: "reattach".into(),
            ..KernelFacts::default()
        });
        event
            .annotations
            .insert("picket.dev/severity".into(), "critical".to_owned());
        event.decision = Decision {
            outcome: Some(Outcome::Error),
            reason: alarm.reason,
            message: Some(alarm.message),
            ..Decision::default()
        };
        event.reach(Stage::ResponseComplete);
        event.total = None;
        self.queue(Box::new(event), permit);
        Ok(())
    }

    /// Waits until everything queued so far is written and synced.
    ///
    /// # Errors
    /// When it cannot be written, or the log has ended.
    pub async fn flush(&self) -> Result<(), AuditError> {
        let (done, written) = oneshot::channel();
        self.inner.queue.push(Item::Flush(done), true);
        written.await.map_err(|_| AuditError::Closed)?
    }

    /// How the log is doing.
    pub fn stats(&self) -> &Arc<Stats> {
        &self.inner.stats
    }

    /// Room for one line.
    pub(super) async fn room(&self) -> Result<OwnedSemaphorePermit, AuditError> {
        let requests = &self.inner.stats.requests;
        if let Ok(permit) = Arc::clone(requests).try_acquire_owned() {
            return Ok(permit);
        }
        match tokio::time::timeout(ROOM_PATIENCE, Arc::clone(requests).acquire_owned()).await {
            Ok(permit) => permit.map_err(|_| AuditError::Closed),
            Err(_) => Err(AuditError::Full),
        }
    }

    /// Queues a line without waiting for it.
    pub(super) fn queue(&self, event: Box<Event>, room: OwnedSemaphorePermit) {
        self.inner.queue.push(
            Item::Line {
                event,
                room,
                done: None,
            },
            false,
        );
    }

    /// Queues a line and waits until it is on disk.
    pub(super) async fn commit(
        &self,
        event: Box<Event>,
        room: OwnedSemaphorePermit,
    ) -> Result<(), AuditError> {
        let (done, written) = oneshot::channel();
        self.inner.queue.push(
            Item::Line {
                event,
                room,
                done: Some(done),
            },
            true,
        );
        match tokio::time::timeout(COMMIT_PATIENCE, written).await {
            Ok(answer) => answer.map_err(|_| AuditError::Closed)?,
            Err(_) => Err(AuditError::Slow),
        }
    }

    pub(super) fn observe(&self, event: &Event) {
        if let Some(observer) = &self.inner.observer {
            observer(&event.summary());
        }
    }
}

/// Counters of the log, for metrics and readiness.
#[derive(Debug)]
pub struct Stats {
    requests: Arc<Semaphore>,
    connections: Arc<Semaphore>,
    pub(super) lines: AtomicU64,
    pub(super) bytes: AtomicU64,
    pub(super) errors: AtomicU64,
    pub(super) syncs: AtomicU64,
    pub(super) lag_micros: AtomicU64,
    failing: AtomicBool,
    last_error: Mutex<Option<String>>,
}

impl Default for Stats {
    fn default() -> Self {
        Self {
            requests: Arc::new(Semaphore::new(REQUEST_SLOTS)),
            connections: Arc::new(Semaphore::new(CONNECTION_SLOTS)),
            lines: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            errors: AtomicU64::new(0),
            syncs: AtomicU64::new(0),
            lag_micros: AtomicU64::new(0),
            failing: AtomicBool::new(false),
            last_error: Mutex::new(None),
        }
    }
}

impl Stats {
    /// Records begun and not yet written: requests in flight and lines that wait for the file.
    pub fn in_flight(&self) -> usize {
        REQUEST_SLOTS.saturating_sub(self.requests.available_permits())
            + CONNECTION_SLOTS.saturating_sub(self.connections.available_permits())
    }

    /// Lines written.
    pub fn lines(&self) -> u64 {
        self.lines.load(Relaxed)
    }

    /// Bytes written.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Relaxed)
    }

    /// Failed writes and syncs.
    pub fn errors(&self) -> u64 {
        self.errors.load(Relaxed)
    }

    /// Syncs to disk; with the lines, how well commits are grouped.
    pub fn syncs(&self) -> u64 {
        self.syncs.load(Relaxed)
    }

    /// Age of the oldest record of the last write, when it was written.
    pub fn lag(&self) -> Duration {
        Duration::from_micros(self.lag_micros.load(Relaxed))
    }

    /// Why the log takes no lines now; `None` while all is well.
    pub fn failure(&self) -> Option<String> {
        if !self.failing.load(Relaxed) {
            return None;
        }
        self.last_error
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(super) fn failed(&self, reason: &str) {
        self.errors.fetch_add(1, Relaxed);
        *self.last_error.lock().unwrap_or_else(PoisonError::into_inner) = Some(reason.to_owned());
        if !self.failing.swap(true, Relaxed) {
            tracing::error!(
                reason,
                "the audit log cannot be written: writes, sessions and denials are refused"
            );
        }
    }

    pub(super) fn recovered(&self) {
        if self.failing.swap(false, Relaxed) {
            tracing::info!("the audit log is written again");
        }
    }
}

/// Where somebody waits for a line to be on disk.
pub(super) type Done = oneshot::Sender<Result<(), AuditError>>;

/// One piece of work for the writer.
pub(super) enum Item {
    /// A line; `room` is given back once it is written, `done` is told once it is on disk.
    Line {
        /// What to write.
        event: Box<Event>,
        /// Its reserved room.
        room: OwnedSemaphorePermit,
        /// Who waits for it.
        done: Option<Done>,
    },
    /// Tells when everything before it is on disk.
    Flush(Done),
}

/// What the writer has to do next.
pub(super) enum Work {
    /// Items to write.
    Items,
    /// Nothing came for the given time.
    Idle,
    /// Every handle is gone.
    Closed,
}

/// A queue that many push to and one thread empties. Its length is bounded by the rooms handed out.
#[derive(Default)]
pub(super) struct Queue {
    state: Mutex<QueueState>,
    wake: Condvar,
    /// Whether the file is shared with another process; the writer looks before each batch.
    shared: AtomicBool,
}

#[derive(Default)]
struct QueueState {
    items: Vec<Item>,
    /// Something waits for the disk.
    urgent: bool,
    /// The writer sleeps until something comes; once woken it gathers, and only urgent items wake it again.
    asleep: bool,
    closed: bool,
}

impl Queue {
    fn state(&self) -> MutexGuard<'_, QueueState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, item: Item, urgent: bool) {
        let mut state = self.state();
        state.items.push(item);
        let first_urgent = urgent && !state.urgent;
        state.urgent |= urgent;
        let wake = first_urgent || state.asleep || state.items.len() == GATHER_LIMIT;
        state.asleep = false;
        drop(state);
        if wake {
            self.wake.notify_one();
        }
    }

    pub(super) fn shared(&self) -> bool {
        self.shared.load(Relaxed)
    }

    fn close(&self) {
        self.state().closed = true;
        self.wake.notify_one();
    }

    /// Waits for items, at most for `patience`, and moves them behind those in `items`.
    pub(super) fn take(&self, items: &mut Vec<Item>, patience: Option<Duration>) -> Work {
        let mut state = self.state();
        if state.items.is_empty() && !state.closed {
            state.asleep = true;
            let sleeping = |state: &mut QueueState| state.items.is_empty() && !state.closed;
            state = match patience {
                None => self
                    .wake
                    .wait_while(state, sleeping)
                    .unwrap_or_else(PoisonError::into_inner),
                Some(patience) => {
                    self.wake
                        .wait_timeout_while(state, patience, sleeping)
                        .unwrap_or_else(PoisonError::into_inner)
                        .0
                }
            };
            state.asleep = false;
        }
        if state.items.is_empty() {
            return if state.closed { Work::Closed } else { Work::Idle };
        }
        let gathering =
            |state: &mut QueueState| !state.urgent && !state.closed && state.items.len() < GATHER_LIMIT;
        state = self
            .wake
            .wait_timeout_while(state, GATHER, gathering)
            .unwrap_or_else(PoisonError::into_inner)
            .0;
        items.append(&mut state.items);
        state.urgent = false;
        Work::Items
    }
}
