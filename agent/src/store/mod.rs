//! Where identities, grants and policies come from: files, read whole or not at all, and the objects of the cluster, each judged by
//! itself.
//!
//! In: sources. Out: the [`PolicySet`] in force, a [`StoreStatus`] for logs and metrics, and an [`ObjectStatus`] for each
//! object. A reading that fails changes nothing: the last good set stays in force, and the statuses say so and which object is
//! at fault. Where there has been no good one since the start, a set that denies everything is in force.

mod cluster;
pub mod edit;
mod exclusive;
pub mod files;
mod follow;
mod judged;
mod metrics;
mod namespaces;
mod nodes;
mod parsed;
mod report;
mod reversed;
mod reviews;
mod shut_out;
mod source;
mod stand_in;
mod status;
mod status_queue;
mod summary;
mod usage;
mod watch;
mod writer;

use std::collections::BTreeSet;
use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;
use jiff::Timestamp;
use parking_lot::{Mutex, MutexGuard};
use picket_policy::api::FileReading;
use picket_policy::{Absence, Diagnostic, Document, PolicySet, builtin};
use thiserror::Error;
use tokio::sync::watch as channel;
use tokio_util::sync::CancellationToken;

pub use cluster::ClusterObjects;
pub use exclusive::ClaimMetrics;
pub use files::FileSource;
pub(crate) use judged::{AMBIGUOUS, CONFLICT, DENIES_EVERYONE, DENIES_SUBJECTS, LIMITS_FILE, READY};
pub use metrics::StoreMetrics;
pub use nodes::{PodFacts, PodsOfNode};
pub use reviews::ReviewMetrics;
pub use source::{Manifest, Source, TextFault};
pub use status::{IdentityState, ObjectStatus, StatusReason};
pub use summary::PolicySummary;
pub use usage::Usage;

use crate::runtime::epoch::Epoch;
use exclusive::Exclusive;
use judged::Judged;
use namespaces::NamespaceIndex;
use parsed::ParsedFiles;
use reversed::Reversals;
use shut_out::{ShutOut, ShutOutBy};
use status::StatusBoard;

/// Why the sources make no set.
#[derive(Debug, Error)]
pub enum StoreError {
    /// No file was found where there should be one.
    #[error(
        "no .yaml or .yml file under {}",
        paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
    )]
    Empty {
        /// Where it was looked.
        paths: Vec<PathBuf>,
    },
    /// More files than a node reads.
    #[error("{count} files are too many; at most {limit} are read")]
    TooMany {
        /// How many there are.
        count: usize,
        /// How many there may be.
        limit: usize,
    },
    /// The system refused.
    #[error("{}: {source}", path.display())]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The cluster's objects are not known yet.
    #[error("{reason}")]
    Unlisted {
        /// Which are not, and why.
        reason: String,
    },
    /// The files say something that cannot stand.
    #[error("{}", errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Objects {
        /// Every fault, in the order of the files.
        errors: Vec<Diagnostic>,
    },
}

impl StoreError {
    /// Where the first fault is. A request's answer has no more: any pod reads it, and the files are of all teams.
    fn place(&self) -> String {
        match self {
            StoreError::Objects { errors } => match &errors[..] {
                [] => "an object is not valid".to_owned(),
                [
                    Diagnostic {
                        file, line, column, ..
                    },
                    more @ ..,
                ] => {
                    let place = format!("{file}:{line}:{column}");
                    match more.len() {
                        0 => place,
                        1 => format!("{place} and 1 more error"),
                        count => format!("{place} and {count} more errors"),
                    }
                }
            },
            StoreError::Unlisted { reason } => reason.clone(),
            StoreError::Empty { .. } | StoreError::TooMany { .. } | StoreError::Read { .. } => {
                "the files cannot be read".to_owned()
            }
        }
    }
}

/// How the readings went.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StoreStatus {
    /// Counts the sets that came into force, from 1; 0 while there has been none and everything is denied.
    pub generation: u64,
    /// Counts the readings that failed since the start.
    pub failures: u64,
    /// Why the last reading failed; `None` while the sources and the set in force agree.
    pub last_error: Option<String>,
}

/// The sources and what they said when they last made sense.
#[derive(Debug)]
pub struct Store {
    sources: Vec<Box<dyn Source>>,
    own_namespace: String,
    current: ArcSwap<PolicySet>,
    epoch: Epoch,
    status: channel::Sender<StoreStatus>,
    objects: Mutex<StatusBoard>,
    /// What the files' texts say. Locked for a whole reading, so that a slower one never ends after a newer one.
    parsed: Mutex<ParsedFiles>,
    last: Mutex<LastReading>,
    /// The objects of the cluster, where the agent follows them.
    cluster: Option<Arc<ClusterObjects>>,
    judged: Mutex<Arc<Judged>>,
    usage: Usage,
    exclusive: Exclusive,
    /// What rules about namespaces are judged by.
    namespaces: NamespaceIndex,
    file_reads: FileReads,
    /// Identities that were revoked and are not any more, until [`Store::take_reversed`].
    reversed: Mutex<Vec<String>>,
    /// Which identities of files were revoked when their files went.
    reversals: Mutex<Reversals>,
}

/// How often the files were read since the start because they changed.
#[derive(Debug, Default)]
struct FileReads {
    succeeded: AtomicU64,
    failed: AtomicU64,
}

/// What the files said last.
#[derive(Debug, Default)]
struct LastReading {
    /// Whether their texts were taken up, good or not, so that nothing is done or said twice about the same texts.
    is_taken_up: bool,
    /// Why those make no set.
    error: Option<String>,
    /// The last ones that stood together, which the cluster's objects are judged beside.
    good: Option<(Readings, Vec<Document>)>,
    /// The agents that faulty files shut out all the same.
    shut_out: ShutOut,
}

impl LastReading {
    /// The documents that count now.
    fn documents(&self) -> Option<Vec<Document>> {
        let (_, documents) = self.good.as_ref()?;
        Some(shut_out::with_states(documents, &self.shut_out))
    }
}

/// What sources said, each text's with its file's name.
type Readings = Vec<(String, Arc<FileReading>)>;

impl Store {
    /// A store without sources, for tests of those who read it.
    #[cfg(test)]
    pub(crate) fn for_tests(policies: PolicySet) -> Self {
        Self {
            sources: Vec::new(),
            own_namespace: builtin::OWN_NAMESPACE.to_owned(),
            current: ArcSwap::from_pointee(policies),
            epoch: Epoch::default(),
            status: channel::channel(StoreStatus::default()).0,
            objects: Mutex::default(),
            parsed: Mutex::default(),
            last: Mutex::default(),
            cluster: None,
            judged: Mutex::default(),
            usage: Usage::default(),
            exclusive: Exclusive::default(),
            namespaces: NamespaceIndex::default(),
            file_reads: FileReads::default(),
            reversed: Mutex::default(),
            reversals: Mutex::default(),
        }
    }

    /// Puts another set in force as [`Store::reload`] does, for tests of what follows it.
    #[cfg(test)]
    pub(crate) fn replace_for_tests(&self, policies: PolicySet) {
        self.current.store(Arc::new(policies));
        self.epoch.raise();
        self.status.send_modify(|status| status.generation += 1);
    }

    /// Reads every file once, for a Picket that runs in [`builtin::OWN_NAMESPACE`].
    ///
    /// # Errors
    /// A [`StoreError`] where a path cannot be read, no file is found, or a file cannot stand.
    pub fn open(paths: &[PathBuf]) -> Result<Self, StoreError> {
        Self::of_sources(vec![Box::new(FileSource::new(paths))], builtin::OWN_NAMESPACE)
    }

    /// As [`Store::open`], for files that may name what is in the cluster where `of_cluster`.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn open_beside(paths: &[PathBuf], of_cluster: bool) -> Result<Self, StoreError> {
        let cluster = of_cluster.then(|| {
            let cluster = ClusterObjects::new(true);
            cluster.assume_empty();
            cluster
        });
        let sources: Vec<Box<dyn Source>> = vec![Box::new(FileSource::new(paths))];
        let store = Self::unread(sources, builtin::OWN_NAMESPACE, cluster);
        store.load()?;
        Ok(store)
    }

    /// Reads every source once, for a Picket that runs in this namespace.
    ///
    /// # Errors
    /// A [`StoreError`] where a source cannot be read, or an object cannot stand.
    pub fn of_sources(sources: Vec<Box<dyn Source>>, own_namespace: &str) -> Result<Self, StoreError> {
        let store = Self::unread(sources, own_namespace, None);
        store.load()?;
        Ok(store)
    }

    /// As [`Store::open`], for an agent that must come up whatever the files say: where they make no set, everything is denied
    /// until they do. An agent that ended instead would leave a node that it never enforced on open. Where `of_cluster`,
    /// everything is denied until [`Store::follow_cluster`] has listed the cluster's objects.
    #[must_use]
    pub fn open_or_deny_all(paths: &[PathBuf], of_cluster: bool) -> Self {
        let mut sources: Vec<Box<dyn Source>> = Vec::new();
        if !paths.is_empty() {
            sources.push(Box::new(FileSource::new(paths)));
        }
        let cluster = of_cluster.then(|| ClusterObjects::new(!paths.is_empty()));
        let store = Self::unread(sources, builtin::OWN_NAMESPACE, cluster);
        store.reload();
        store
    }

    fn unread(
        sources: Vec<Box<dyn Source>>,
        own_namespace: &str,
        cluster: Option<Arc<ClusterObjects>>,
    ) -> Self {
        Self {
            sources,
            own_namespace: own_namespace.to_owned(),
            current: ArcSwap::from_pointee(PolicySet::deny_all(Absence::Unlisted(
                "its objects have not been read".to_owned(),
            ))),
            epoch: Epoch::default(),
            status: channel::channel(StoreStatus::default()).0,
            objects: Mutex::default(),
            parsed: Mutex::default(),
            last: Mutex::default(),
            cluster,
            judged: Mutex::default(),
            usage: Usage::default(),
            exclusive: Exclusive::default(),
            namespaces: NamespaceIndex::default(),
            file_reads: FileReads::default(),
            reversed: Mutex::default(),
            reversals: Mutex::default(),
        }
    }

    /// Why everything is denied, where no set has been valid since the start; for operators, with what the files say.
    #[must_use]
    pub fn why_deny_all(&self) -> Option<String> {
        let place = self.current.load().absent()?.reason().to_owned();
        Some(self.status().last_error.unwrap_or(place))
    }

    /// The set in force.
    #[must_use]
    pub fn current(&self) -> Arc<PolicySet> {
        self.current.load_full()
    }

    /// What each new set raises, before anybody is told of the set.
    #[must_use]
    pub fn epoch(&self) -> &Epoch {
        &self.epoch
    }

    /// When each agent was served and refused last.
    #[must_use]
    pub fn usage(&self) -> &Usage {
        &self.usage
    }

    /// Says which node this is, for what the node tells of itself in statuses; once, before the objects are followed.
    pub fn set_node(&self, node: &str) {
        if let Some(cluster) = &self.cluster {
            cluster.set_node(node);
        }
    }

    /// How the readings went.
    #[must_use]
    pub fn status(&self) -> StoreStatus {
        self.status.borrow().clone()
    }

    /// Every object that the sources hold or that is in force, in the order of the sources.
    #[must_use]
    pub fn statuses(&self) -> Vec<ObjectStatus> {
        let mut statuses = self.board().statuses(Timestamp::now());
        self.add_claims(&mut statuses);
        statuses
    }

    /// The identities whose revocation was taken back since this was asked last: each may act again as its object says now.
    pub(crate) fn take_reversed(&self) -> Vec<String> {
        std::mem::take(&mut self.reversed.lock())
    }

    /// How often changed files were read and were valid, and how often they could not be read or were not valid.
    fn file_reads(&self) -> (u64, u64) {
        let FileReads { succeeded, failed } = &self.file_reads;
        (succeeded.load(Ordering::Relaxed), failed.load(Ordering::Relaxed))
    }

    /// How many kinds of the cluster's objects the API server has not listed.
    fn unlisted(&self) -> usize {
        let listed = self.cluster.as_ref().map(|cluster| cluster.listed());
        let unlisted = |listed: &[cluster::Listed; 3]| {
            listed
                .iter()
                .filter(|listed| **listed != cluster::Listed::Yes)
                .count()
        };
        listed.as_ref().map_or(0, unlisted)
    }

    /// Wakes whenever the status changes, for what must act on a new set at once.
    #[must_use]
    pub fn changes(&self) -> channel::Receiver<StoreStatus> {
        self.status.subscribe()
    }

    /// Folders in which a change may be one of a source.
    fn folders(&self) -> BTreeSet<PathBuf> {
        self.sources.iter().flat_map(|source| source.folders()).collect()
    }

    fn board(&self) -> MutexGuard<'_, StatusBoard> {
        self.objects.lock()
    }

    /// Reads the sources again if they changed. What cannot stand leaves the set in force as it is.
    pub fn reload(&self) {
        if let Err(error) = self.load() {
            self.refuse(&error);
        }
    }

    fn load(&self) -> Result<(), StoreError> {
        let mut parsed = self.parsed.lock();
        // Parsed before the rest is locked: the cluster's objects are judged meanwhile.
        let read = read(&self.sources).map(|manifests| parsed.update(manifests));
        let mut last = self.last.lock();
        let now = Timestamp::now();
        match read {
            Ok(false) if last.is_taken_up => Ok(()),
            Ok(_) => {
                let readings = parsed.readings();
                // Where judging panics, the next reading judges them again.
                last.is_taken_up = false;
                let (documents, composed) = match documents_of(readings) {
                    Ok(documents) => {
                        let composed = self.compose(&documents);
                        (documents, composed)
                    }
                    Err(error) => (Vec::new(), Err(error)),
                };
                let outcome = match composed {
                    Ok((set, judged)) => {
                        self.file_reads.succeeded.fetch_add(1, Ordering::Relaxed);
                        self.accept(set, Some(readings), judged, (None, now), &last.shut_out);
                        last.shut_out.clear();
                        (last.error, last.good) = (None, Some((readings.clone(), documents)));
                        Ok(())
                    }
                    // The files are good, and the cluster's objects come later.
                    Err(error @ StoreError::Unlisted { .. }) => {
                        self.file_reads.succeeded.fetch_add(1, Ordering::Relaxed);
                        last.shut_out.clear();
                        (last.error, last.good) = (None, Some((readings.clone(), documents)));
                        Err(error)
                    }
                    Err(error) => {
                        self.file_reads.failed.fetch_add(1, Ordering::Relaxed);
                        if let StoreError::Objects { errors } = &error {
                            self.board().rejected(readings, errors, now);
                        }
                        last.error = Some(error.to_string());
                        if last.good.is_some() {
                            // Before a set comes into force that the error belongs to.
                            self.refuse(&error);
                            self.shut_out(&mut last, readings, now);
                        }
                        Err(error)
                    }
                };
                last.is_taken_up = true;
                outcome
            }
            Err(error) => {
                let said = Some(error.to_string());
                // The files are read again and again until they can be.
                if last.error != said {
                    self.file_reads.failed.fetch_add(1, Ordering::Relaxed);
                }
                // Files that come back as they were must be taken up again.
                last.is_taken_up = false;
                last.error = said;
                self.board().unreadable(&error.to_string(), now);
                Err(error)
            }
        }
    }

    /// Puts the last good set in force anew where faulty files shut other agents out of it, or shut them out no more.
    fn shut_out(&self, last: &mut LastReading, readings: &Readings, now: Timestamp) {
        let Some((_, good)) = &last.good else { return };
        let shut_out = shut_out::shut_out(good, readings);
        if shut_out == last.shut_out {
            return;
        }
        let before = std::mem::replace(&mut last.shut_out, shut_out);
        let composed = last.documents().map(|documents| self.compose(&documents));
        if let Some(Ok((set, judged))) = composed {
            tracing::warn!(agents = ?last.shut_out, "the files are not valid, and shut these agents out all the same");
            self.board().shut_out(&last.shut_out);
            self.accept(set, None, judged, (last.error.clone(), now), &before);
        }
    }

    /// Judges the cluster's objects again, beside the files that stood together last.
    fn judge_cluster(&self) {
        let last = self.last.lock();
        let Some(documents) = last.documents() else {
            return;
        };
        match self.compose(&documents) {
            Ok((set, judged)) => {
                // Of files that are faulty now the statuses say so already.
                let readings = last.good.as_ref().map(|(readings, _)| readings);
                let readings = readings.filter(|_| last.error.is_none());
                let now = Timestamp::now();
                self.accept(set, readings, judged, (last.error.clone(), now), &last.shut_out);
            }
            Err(error) => self.refuse(&error),
        }
    }

    /// Makes a set of the files' documents and the cluster's objects.
    fn compose(&self, documents: &[Document]) -> Result<(PolicySet, Judged), StoreError> {
        let invalid = |errors| StoreError::Objects { errors };
        let Some(cluster) = &self.cluster else {
            let set = PolicySet::compile_in(documents, &self.own_namespace).map_err(invalid)?;
            return Ok((set, Judged::default()));
        };
        if let Some(reason) = cluster.why_unlisted() {
            return Err(StoreError::Unlisted { reason });
        }
        let mut snapshot = cluster.snapshot();
        let documents = stand_in::beside(documents, &mut snapshot);
        let (set, verdicts) =
            PolicySet::compile_each(&documents, &snapshot.objects, &self.own_namespace).map_err(invalid)?;
        cluster.came_into_force(&snapshot, &verdicts);
        Ok((set, Judged { snapshot, verdicts }))
    }

    /// Puts a set in force, with what is wrong with files whose last good version is part of it. In the set before, `shut_out` were.
    fn accept(
        &self,
        set: PolicySet,
        readings: Option<&Readings>,
        judged: Judged,
        (error, now): (Option<String>, Timestamp),
        shut_out: &ShutOut,
    ) {
        let summary = set.summary();
        let generation = self.status.borrow().generation + 1;
        let reversed = self.reversals.lock().update(
            &self.current.load(),
            &set,
            |name| shut_out.get(name) == Some(&ShutOutBy::Removal),
            |name| self.judged.lock().has_identity(name),
        );
        let before = self.current.swap(Arc::new(set)).summary();
        // At once: a request that was judged by the set before, and is not sent yet, is judged again.
        self.epoch.raise();
        if let Some(readings) = readings {
            self.board().accepted(readings, generation, now);
        }
        self.board().judged(&judged, generation, now);
        let of_cluster = judged.verdicts.len();
        *self.judged.lock() = Arc::new(judged);
        // Before anybody is told of the set.
        self.reversed.lock().extend_from_slice(&reversed);
        self.status.send_modify(|status| {
            status.generation = generation;
            status.last_error = error;
        });
        tracing::info!(
            generation,
            identities = summary.identities,
            grants = summary.grants,
            policies = summary.policies,
            rules = summary.rules,
            files = readings.map(Vec::len),
            of_cluster,
            "the policy set is in force"
        );
        for identity in &reversed {
            tracing::warn!(
                identity,
                "an agent that was revoked may act again, as its object says now; where a tool distributes the objects, change what it \
                 distributes"
            );
        }
        if before.policies > 0 && summary.policies == 0 {
            tracing::warn!(
                before = before.policies,
                "no AgentPolicy is left; only the grants and the built-in denies decide"
            );
        }
    }

    /// Says that a reading failed, once for each reason.
    fn refuse(&self, error: &StoreError) {
        let is_early = matches!(error, StoreError::Unlisted { .. });
        let is_empty = matches!(error, StoreError::Empty { .. });
        let place = error.place();
        let error = error.to_string();
        let StoreStatus {
            generation,
            last_error,
            ..
        } = self.status();
        if last_error.as_ref() == Some(&error) {
            return;
        }
        if generation == 0 && is_early {
            tracing::info!(%error, "every request is denied until the API server has listed the objects");
            self.current
                .store(Arc::new(PolicySet::deny_all(Absence::Unlisted(place))));
        } else if generation == 0 {
            tracing::error!(%error, "no policy set is valid: every request is denied until the files are corrected");
            self.current
                .store(Arc::new(PolicySet::deny_all(Absence::Invalid(place))));
        } else if is_empty {
            tracing::error!(
                %error,
                "no object file is left; the last valid policy set stays in force. To stop an agent, set its state to Suspended or Revoked"
            );
        } else {
            tracing::error!(%error, "the changed policy set is not valid; the last valid one stays in force");
        }
        self.status.send_modify(|status| {
            status.failures += 1;
            status.last_error = Some(error);
        });
    }

    /// Reads the sources again whenever they change, until cancelled.
    pub fn watch(self: Arc<Self>, cancel: CancellationToken) -> impl Future<Output = ()> + Send {
        watch::run(self, cancel)
    }
}

fn read(sources: &[Box<dyn Source>]) -> Result<Vec<Manifest>, StoreError> {
    let mut manifests = Vec::new();
    for source in sources {
        manifests.extend(source.manifests()?);
    }
    Ok(manifests)
}

/// The documents of files, where each is valid by itself.
fn documents_of(readings: &Readings) -> Result<Vec<Document>, StoreError> {
    let errors: Vec<_> = readings
        .iter()
        .flat_map(|(_, reading)| reading.errors.iter().cloned())
        .collect();
    // Checks across files would only echo what is missing from the broken ones.
    if !errors.is_empty() {
        return Err(StoreError::Objects { errors });
    }
    let documents = readings.iter().flat_map(|(_, reading)| &reading.entries);
    Ok(documents.filter_map(|entry| entry.document.clone()).collect())
}

fn compile(readings: &Readings, own_namespace: &str) -> Result<PolicySet, StoreError> {
    PolicySet::compile_in(&documents_of(readings)?, own_namespace)
        .map_err(|errors| StoreError::Objects { errors })
}

#[cfg(test)]
mod cluster_tests;
#[cfg(test)]
mod shut_out_tests;
#[cfg(test)]
mod tests;
