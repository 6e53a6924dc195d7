//! The sessions that run now: who runs what, since when, how much, and the handle by which each is ended.
//!
//! In: a session as it begins. Out: a [`Registered`] that takes the entry away when it is dropped, so that none is forgotten;
//! lists; ends by selection and by judging again. Memory is bounded by the limits of connections and streams.
//!
//! **No session outlives a change.** A request takes a [`Ticket`], which holds the epoch, before it reads policy, pod or
//! time. Whoever changes one of these does so first, then raises the epoch, and has a sweep run after: [`Registry::sweep`] raises
//! the epoch too, then judges every entry it finds. A session registers first and compares its ticket's epoch afterwards. So either the
//! sweep finds the entry, or the entry was put into its shard after the sweep left that shard; the shard's lock then makes the
//! raised epoch visible, the ticket is older, and the session is judged by what holds now. A ticket taken after the raise
//! is no exception: what was read after it, was read after the change.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Instant;

use jiff::Timestamp;
use parking_lot::Mutex;
use picket_policy::{ItemFilter, KubeRequest, UpstreamUser};
use tokio::sync::Notify;

use super::ending::Ending;
use super::kind::SessionKind;
use super::metrics::SessionMetrics;
use super::running::{Stop, Traffic};
use crate::audit::{AuditId, Caller};
use crate::reject::Rejection;
use crate::runtime::epoch::Epoch;
use crate::upstream::UsedCredential;

/// Parts of the table, each with a lock of its own: sessions begin and end on every core.
const SHARDS: usize = 32;

/// No session has an end in time.
const NEVER: i64 = i64::MAX;

/// What a session is, fixed when it begins.
#[derive(Debug)]
pub struct Facts {
    /// Names it, and is its audit record's id.
    pub id: AuditId,
    /// What kind of session it is.
    pub kind: SessionKind,
    /// `http`, or the upgrade's protocol.
    pub protocol: &'static str,
    /// The agent.
    pub identity: Arc<str>,
    /// Pod, container and process of the client.
    pub caller: Arc<Caller>,
    /// What was asked.
    pub request: Arc<KubeRequest>,
    /// The user that the API server was asked as.
    pub user: Arc<UpstreamUser>,
    /// Whether a person approved it.
    pub approved: bool,
    /// What is taken out of its answer.
    pub filter: Option<Arc<ItemFilter>>,
    /// How the node proved itself to the API server, and by which certificate or token.
    pub credential: Option<UsedCredential>,
    /// When it began.
    pub started: Timestamp,
}

/// Judges a session by what is in force now.
pub trait Judge: Send + Sync {
    /// The moment at which time alone will end it, if there is one.
    ///
    /// # Errors
    /// Why the request would be refused now.
    fn judge(&self, facts: &Facts, now: Timestamp) -> Result<Option<Timestamp>, Rejection>;
}

/// What holds when a request is read; see the module's invariant.
#[derive(Debug, Clone, Copy)]
pub struct Ticket(u64);

/// A session as a list shows it.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// What it is.
    pub facts: Arc<Facts>,
    /// Bytes that the client sent after the request's head.
    pub from_client: u64,
    /// Bytes that the client was sent after the response's head.
    pub to_client: u64,
}

/// Which sessions are meant; what is absent does not restrict.
#[derive(Debug, Clone, Default)]
pub struct SessionSelector {
    /// The beginning of the id.
    pub id: Option<String>,
    /// The agent.
    pub identity: Option<String>,
    /// The kind.
    pub kind: Option<SessionKind>,
}

impl SessionSelector {
    fn selects(&self, facts: &Facts) -> bool {
        self.kind.is_none_or(|kind| kind == facts.kind)
            && self
                .identity
                .as_deref()
                .is_none_or(|name| *name == *facts.identity)
            && self
                .id
                .as_deref()
                .is_none_or(|id| facts.id.to_string().starts_with(id))
    }
}

struct Entry {
    facts: Arc<Facts>,
    traffic: Arc<Traffic>,
    judge: Arc<dyn Judge>,
    stop: Arc<dyn Stop>,
    ending: OnceLock<Arc<Ending>>,
}

type Shard = Mutex<HashMap<AuditId, Arc<Entry>>>;

struct Inner {
    shards: [Shard; SHARDS],
    hasher: RandomState,
    epoch: Epoch,
    /// The earliest moment, in milliseconds since 1970, at which time alone ends a session.
    expiry: AtomicI64,
    /// Wakes whoever waits for that moment when it moves closer.
    sooner: Notify,
    metrics: SessionMetrics,
}

/// The sessions that run now; cheap to clone.
#[derive(Clone)]
pub struct Registry(Arc<Inner>);

impl Default for Registry {
    fn default() -> Registry {
        Registry::new(SessionMetrics::default(), Epoch::default())
    }
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Registry")
            .field("sessions", &self.count())
            .finish_non_exhaustive()
    }
}

impl Registry {
    /// An empty one that counts in `metrics`. Whoever changes what judgements depend on raises `epoch`.
    #[must_use]
    pub fn new(metrics: SessionMetrics, epoch: Epoch) -> Registry {
        Registry(Arc::new(Inner {
            shards: std::array::from_fn(|_| Mutex::default()),
            hasher: RandomState::new(),
            epoch,
            expiry: AtomicI64::new(NEVER),
            sooner: Notify::new(),
            metrics,
        }))
    }

    /// What is raised by each change that judgements depend on.
    #[must_use]
    pub fn epoch(&self) -> &Epoch {
        &self.0.epoch
    }

    /// Taken before a request's policy, pod and time are read.
    #[must_use]
    pub fn ticket(&self) -> Ticket {
        Ticket(self.0.epoch.now())
    }

    /// Whether something changed since the ticket was taken.
    #[must_use]
    pub fn is_stale(&self, ticket: Ticket) -> bool {
        self.0.epoch.now() != ticket.0
    }

    /// Puts a session in, and judges it again where something changed since its ticket was taken. `until` is when time
    /// alone will end it.
    ///
    /// # Errors
    /// Why it would be refused now; it is not in then.
    pub fn register(
        &self,
        ticket: Ticket,
        facts: Facts,
        until: Option<Timestamp>,
        judge: Arc<dyn Judge>,
        stop: Arc<dyn Stop>,
        traffic: Arc<Traffic>,
    ) -> Result<Registered, Rejection> {
        let entry = Arc::new(Entry {
            facts: Arc::new(facts),
            traffic,
            judge,
            stop,
            ending: OnceLock::new(),
        });
        self.0.metrics.opened(entry.facts.kind);
        self.shard(&entry.facts.id)
            .lock()
            .insert(entry.facts.id, Arc::clone(&entry));
        let registered = Registered {
            registry: self.clone(),
            entry,
        };
        let until = if self.is_stale(ticket) {
            registered
                .entry
                .judge
                .judge(&registered.entry.facts, Timestamp::now())?
        } else {
            until
        };
        self.expires(until);
        Ok(registered)
    }

    /// The sessions that are selected, the oldest first.
    #[must_use]
    pub fn list(&self, selector: &SessionSelector) -> Vec<Snapshot> {
        let mut found = Vec::new();
        for shard in &self.0.shards {
            let shard = shard.lock();
            let selected = shard.values().filter(|entry| selector.selects(&entry.facts));
            found.extend(selected.map(|entry| Snapshot {
                facts: Arc::clone(&entry.facts),
                from_client: entry.traffic.from_client(),
                to_client: entry.traffic.to_client(),
            }));
        }
        found.sort_by_key(|session| session.facts.started);
        found
    }

    /// How many run.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.shards.iter().map(|shard| shard.lock().len()).sum()
    }

    /// Ends the sessions that are selected, as an operator asks for; gives their ids.
    pub fn kill(&self, selector: &SessionSelector, reason: &str) -> Vec<AuditId> {
        let since = Instant::now();
        let rejection = Rejection::Killed(reason.to_owned());
        let mut killed = Vec::new();
        for entry in self.entries() {
            if selector.selects(&entry.facts) && self.end(&entry, &rejection, since) {
                killed.push(entry.facts.id);
            }
        }
        tracing::info!(ended = killed.len(), reason, "sessions were ended by an operator");
        killed
    }

    /// Judges every session again and ends those that would be refused now; gives how many. Called after each change of
    /// what judgements depend on; `since` is when that was seen.
    pub fn sweep(&self, since: Instant) -> usize {
        self.0.epoch.raise();
        // Before the entries are read: one that comes from here on moves it closer itself.
        self.0.expiry.store(NEVER, Ordering::SeqCst);
        let mut ended = 0;
        for entry in self.entries() {
            match entry.judge.judge(&entry.facts, Timestamp::now()) {
                Ok(until) => self.expires(until),
                Err(rejection) => ended += usize::from(self.end(&entry, &rejection, since)),
            }
        }
        ended
    }

    /// Ends every session.
    pub(super) fn end_all(&self, rejection: &Rejection, since: Instant) -> usize {
        let ended = self.entries().filter(|entry| self.end(entry, rejection, since));
        ended.count()
    }

    /// Waits until time alone ends a session, by the wall clock.
    pub(super) async fn expired(&self) {
        loop {
            let sooner = self.0.sooner.notified();
            let left = self.0.expiry.load(Ordering::SeqCst) - Timestamp::now().as_millisecond();
            if left <= 0 {
                return;
            }
            tokio::select! {
                () = sooner => {}
                () = tokio::time::sleep(super::rejudge::nap(left)) => {}
            }
        }
    }

    /// The entries, one shard after the other; no lock is held while they are looked at.
    fn entries(&self) -> impl Iterator<Item = Arc<Entry>> {
        self.0
            .shards
            .iter()
            .flat_map(|shard| shard.lock().values().cloned().collect::<Vec<_>>())
    }

    fn shard(&self, id: &AuditId) -> &Shard {
        let place = self.0.hasher.hash_one(id) as usize % SHARDS;
        &self.0.shards[place]
    }

    fn expires(&self, until: Option<Timestamp>) {
        let Some(until) = until else { return };
        // Up to the next millisecond: a sweep before the moment itself would end nothing.
        let until = (until.as_microsecond() + 999).div_euclid(1000);
        if until < self.0.expiry.fetch_min(until, Ordering::SeqCst) {
            self.0.sooner.notify_one();
        }
    }

    /// Ends a session, unless it has ended.
    fn end(&self, entry: &Arc<Entry>, rejection: &Rejection, since: Instant) -> bool {
        // Whoever takes it out ends it.
        if self
            .shard(&entry.facts.id)
            .lock()
            .remove(&entry.facts.id)
            .is_none()
        {
            return false;
        }
        let facts = &entry.facts;
        let ending = Arc::new(Ending::new(rejection, facts.kind, &facts.request, since));
        self.0.metrics.ended(facts.kind, ending.cause);
        // Its record tells the same; thousands may end at once.
        tracing::debug!(
            session = %facts.id,
            identity = %facts.identity,
            kind = facts.kind.as_str(),
            cause = ending.cause,
            message = ending.message(),
            "a session was ended"
        );
        let _first = entry.ending.set(Arc::clone(&ending));
        entry.stop.stop(&ending);
        true
    }
}

/// A session's place in the registry, for as long as the client's side of it is open.
#[must_use = "dropping it takes the session out of the registry"]
pub struct Registered {
    registry: Registry,
    entry: Arc<Entry>,
}

impl std::fmt::Debug for Registered {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Registered")
            .field("id", &self.entry.facts.id)
            .finish_non_exhaustive()
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        let Registry(inner) = &self.registry;
        let facts = &self.entry.facts;
        if self.registry.shard(&facts.id).lock().remove(&facts.id).is_some() {
            inner.metrics.ended(facts.kind, "closed");
        }
        if let Some(ending) = self.entry.ending.get() {
            inner.metrics.closed(ending.since.elapsed());
        }
    }
}

#[cfg(test)]
#[path = "registry_tests.rs"]
pub(crate) mod testing;
