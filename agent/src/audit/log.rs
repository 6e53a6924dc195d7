//! The handle on the audit log: reserves capacity for records, queues them, and reports how the log is doing.
//!
//! In: an [`AuditConfig`], then events of requests, refused connections and alarms. Out: queued lines for the spool's writer,
//! an [`AuditError`] where the log takes nothing, and [`Stats`].
//!
//! Capacity is reserved when a record begins. A record ends in `Drop`, where nothing may wait, so its last line must have a
//! place. A request without capacity waits for a moment and is then refused; no record is ever dropped.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::event::{
    Alarm, AlarmSubject, Connection, DecisionFacts, Event, KernelFacts, ObjectRef, Outcome, Stage, Summary,
};
use super::redact::Redactor;
use super::sinks;
use super::spool::mark_key;
use super::spool::queue::{Item, Queue, Reservation};
use super::spool::view::SpoolView;
use super::spool::{Clock, SpoolDirectory, writer};
use super::stats::{Stats, WAITING_BYTES};
use super::{AuditConfig, AuditError};

/// How long a request waits for room: long enough for a slow disk to catch up, short against kubectl's patience.
const SPACE_TIMEOUT: Duration = Duration::from_secs(2);

/// How often a request that waits for room looks whether enough bytes have been written.
const SPACE_CHECK_INTERVAL: Duration = Duration::from_millis(10);

/// How often a log that closes looks whether every thread has queued the records that ended on it: they do when they rest.
const BATCHES_LOOK: Duration = Duration::from_millis(1);

/// How long a request waits for its record to be on disk. A disk that takes longer counts as one that takes nothing; clients
/// give up soon after.
const COMMIT_TIMEOUT: Duration = Duration::from_secs(5);

/// Learns of each request's end, once, wherever it ended: how metrics cannot be forgotten either.
pub type Observer = Arc<dyn Fn(&Summary<'_>) + Send + Sync>;

/// A record's last line, with its room.
pub(super) type Ended = (Box<Event>, OwnedSemaphorePermit);

/// The audit log. Cheap to clone.
#[derive(Clone)]
pub struct AuditLog {
    inner: Arc<Inner>,
}

struct Inner {
    queue: Arc<Queue>,
    stats: Arc<Stats>,
    observer: Option<Observer>,
    redactor: Redactor,
    /// Threads that have records which ended and are not queued yet.
    batches: AtomicUsize,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.queue.close();
    }
}

impl AuditLog {
    /// Opens the spool and the sinks, and starts their threads. A line that was cut short by a crash is ended, and a new
    /// hash chain is bound to the last whole line.
    ///
    /// # Errors
    /// A directory that cannot be opened or is held by another process, a sink that cannot be opened, or no thread.
    pub fn open(config: &AuditConfig, observer: Option<Observer>) -> Result<Self, AuditError> {
        Self::start(config, observer, false, Arc::new(Timestamp::now))
    }

    /// As [`AuditLog::open`], beside another process that writes to the spool and has to [`AuditLog::share`] it.
    ///
    /// # Errors
    /// As [`AuditLog::open`].
    pub fn join(config: &AuditConfig, observer: Option<Observer>) -> Result<Self, AuditError> {
        Self::start(config, observer, true, Arc::new(Timestamp::now))
    }

    /// Lets another process write to the spool in turns with this one, or has it for itself again. Lines never mix, and the
    /// hash chain stays whole: whoever writes behind the other's lines begins a chain that is bound to them.
    ///
    /// # Errors
    /// As [`AuditLog::flush`].
    pub async fn share(&self, shared: bool) -> Result<(), AuditError> {
        self.inner.queue.share(shared);
        self.flush().await
    }

    pub(super) fn start(
        config: &AuditConfig,
        observer: Option<Observer>,
        shared: bool,
        clock: Clock,
    ) -> Result<Self, AuditError> {
        let view = Arc::new(SpoolView::default());
        let spool = SpoolDirectory::open(config, shared, clock, Arc::clone(&view))?;
        let sinks = match spool.oldest() {
            Some(oldest) => sinks::start(&config.sinks, &config.directory, oldest, &view),
            None => Ok(Vec::new()),
        };
        // Those that run already end with it.
        let sinks = sinks.inspect_err(|_| view.close())?;
        let stats = Arc::new(Stats::new(Arc::clone(&view), sinks));
        let queue = Arc::new(Queue::default());
        queue.share(shared);
        writer::start(spool, Arc::clone(&view), Arc::clone(&queue), Arc::clone(&stats))
            .inspect_err(|_| view.close())?;
        Ok(Self {
            inner: Arc::new(Inner {
                queue,
                stats,
                observer,
                redactor: Redactor::new(&mark_key::open(&config.directory)),
                batches: AtomicUsize::new(0),
            }),
        })
    }

    /// Ends the log: writes what is queued and gives the sinks so long to deliver the rest. What they do not deliver stays in
    /// the spool for the next start. Records that begin afterwards are lost, so this comes last.
    pub async fn close(&self, limit: Duration) {
        let batches = async {
            while self.inner.batches.load(Acquire) > 0 {
                tokio::time::sleep(BATCHES_LOOK).await;
            }
        };
        let began = Instant::now();
        if tokio::time::timeout(limit, batches).await.is_err() {
            tracing::error!(
                "a thread of the data path does not rest: the last records that ended on it are lost"
            );
        }
        self.inner.queue.close();
        let view = Arc::clone(self.inner.stats.spool());
        let limit = limit.saturating_sub(began.elapsed());
        let ended = tokio::task::spawn_blocking(move || view.wait_ended(limit)).await;
        if !ended.unwrap_or(false) {
            tracing::warn!("audit sinks still have records to deliver; they go on at the next start");
        }
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
        event.identity = connection.identity;
        event.source = connection.source;
        event.kernel = Some(connection.kernel);
        event.decision = DecisionFacts {
            outcome: Some(connection.outcome),
            reason: connection.reason,
            message: Some(connection.message),
            ..DecisionFacts::default()
        };
        event.reach(Stage::ResponseComplete);
        event.total = None;
        self.queue(Box::new(event), permit);
        Ok(())
    }

    /// Writes down what calls for a person, marked as critical and as of now. It waits for nothing: a line that the disk does not take yet
    /// is written once it does, and whoever raises alarms goes on.
    ///
    /// # Errors
    /// [`AuditError::Full`] where the log has taken none for long; that is counted.
    pub fn alarm(&self, alarm: Alarm) -> Result<(), AuditError> {
        let room = Arc::clone(&self.inner.stats.alarms).try_acquire_owned();
        let permit = room.map_err(|_| {
            self.inner.stats.dropped_alarms.fetch_add(1, Relaxed);
            AuditError::Full
        })?;
        let mut event = Event::new("alarm".into(), String::new());
        match alarm.subject {
            AlarmSubject::KernelProgram(hook) => {
                event.uri = format!("kernel://{hook}");
                event.kernel = Some(KernelFacts {
                    hook: hook.into(),
                    verdict: "reattach".into(),
                    ..KernelFacts::default()
                });
            }
            AlarmSubject::Identity(name) => {
                event.uri = format!("/apis/picket.dev/v1alpha1/agentidentities/{name}");
                event.object = Some(ObjectRef {
                    resource: "agentidentities".to_owned(),
                    name: Some(name.to_string()),
                    api_group: "picket.dev".to_owned(),
                    api_version: "v1alpha1".to_owned(),
                    ..ObjectRef::default()
                });
                event.identity = Some(name);
            }
        }
        event
            .annotations
            .insert("picket.dev/severity".into(), "critical".to_owned());
        event.decision = DecisionFacts {
            outcome: Some(Outcome::Error),
            reason: alarm.reason,
            message: Some(alarm.message),
            ..DecisionFacts::default()
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

    /// What takes secrets out of records.
    pub(super) fn redactor(&self) -> &Redactor {
        &self.inner.redactor
    }

    /// How the log is doing.
    pub fn stats(&self) -> &Arc<Stats> {
        &self.inner.stats
    }

    /// Room for one line of a request, which is refused where there is none.
    pub(super) async fn reserve(&self) -> Result<OwnedSemaphorePermit, AuditError> {
        self.or_refused(self.reserve_in_time().await)
    }

    /// Room for one line, where there is some now.
    pub(super) fn try_reserve(&self) -> Option<OwnedSemaphorePermit> {
        let room = || Arc::clone(&self.inner.stats.requests).try_acquire_owned().ok();
        self.has_bytes().then(room).flatten()
    }

    async fn reserve_in_time(&self) -> Result<OwnedSemaphorePermit, AuditError> {
        if !self.has_bytes() {
            let room = Box::pin(tokio::time::timeout(SPACE_TIMEOUT, async {
                while !self.has_bytes() {
                    tokio::time::sleep(SPACE_CHECK_INTERVAL).await;
                }
            }));
            room.await.map_err(|_| AuditError::Full)?;
        }
        let requests = &self.inner.stats.requests;
        if let Ok(permit) = Arc::clone(requests).try_acquire_owned() {
            return Ok(permit);
        }
        // Boxed: a full log is rare, and this would be part of every request's future.
        let room = Box::pin(tokio::time::timeout(
            SPACE_TIMEOUT,
            Arc::clone(requests).acquire_owned(),
        ));
        match room.await {
            Ok(permit) => permit.map_err(|_| AuditError::Closed),
            Err(_) => Err(AuditError::Full),
        }
    }

    /// Whether what waits for the file is within its bounds.
    fn has_bytes(&self) -> bool {
        self.inner.stats.waiting_bytes.load(Relaxed) < WAITING_BYTES
    }

    fn weighed(&self, event: &Event, room: OwnedSemaphorePermit) -> Reservation {
        Reservation::of(room, event.size(), &self.inner.stats.waiting_bytes)
    }

    /// Queues a line without waiting for it.
    pub(super) fn queue(&self, event: Box<Event>, room: OwnedSemaphorePermit) {
        self.inner.queue.push(self.line((event, room)), false);
    }

    /// A thread begins to gather records that have ended.
    pub(super) fn batch_begins(&self) {
        self.inner.batches.fetch_add(1, Release);
    }

    /// A thread's records.
    pub(super) fn batch_ends(&self, records: Vec<Ended>) {
        self.ended(records);
        self.inner.batches.fetch_sub(1, Release);
    }

    /// Counts records that have ended, and queues their last lines.
    pub(super) fn ended(&self, records: Vec<Ended>) {
        for (event, _) in &records {
            self.observe(event);
        }
        let lines = records.into_iter().map(|record| self.line(record));
        self.inner.queue.push_all(lines, false);
    }

    fn line(&self, (event, room): Ended) -> Item {
        let room = self.weighed(&event, room);
        Item::Line {
            event,
            room,
            done: None,
        }
    }

    /// Whether both are handles on the same log.
    pub(super) fn is_same(&self, other: &AuditLog) -> bool {
        Arc::ptr_eq(&self.inner, &other.inner)
    }

    /// Counts a request that is refused.
    fn or_refused<T>(&self, outcome: Result<T, AuditError>) -> Result<T, AuditError> {
        outcome.inspect_err(|_| {
            self.inner.stats.refused.fetch_add(1, Relaxed);
        })
    }

    /// Queues a line of a request, which is refused where this fails, and waits until it is on disk.
    pub(super) async fn commit(
        &self,
        event: Box<Event>,
        room: OwnedSemaphorePermit,
    ) -> Result<(), AuditError> {
        let (done, written) = oneshot::channel();
        let room = self.weighed(&event, room);
        self.inner.queue.push(
            Item::Line {
                event,
                room,
                done: Some(done),
            },
            true,
        );
        let outcome = match tokio::time::timeout(COMMIT_TIMEOUT, written).await {
            Ok(answer) => answer.unwrap_or(Err(AuditError::Closed)),
            Err(_) => Err(AuditError::Slow),
        };
        self.or_refused(outcome)
    }

    pub(super) fn observe(&self, event: &Event) {
        if let Some(observer) = &self.inner.observer {
            observer(&event.summary());
        }
    }
}
