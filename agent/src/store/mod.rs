//! Where identities, grants and policies come from: files and folders, read whole or not at all.
//!
//! In: paths. Out: the current [`PolicySet`], and a [`ReloadStatus`] for logs and metrics. A reading that fails changes
//! nothing: the last good catalog stays in force, and the status says so.

pub mod files;
mod watch;

use std::future::Future;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use picket_policy::{Diagnostic, PolicySet, builtin};
use thiserror::Error;
use tokio::sync::watch as channel;
use tokio_util::sync::CancellationToken;

use files::Source;

/// Why the files make no catalog.
#[derive(Debug, Error)]
pub enum StoreError {
    /// No file was found where there should be one.
    #[error(
        "no .yaml or .yml file under {}: without identities and policies every request is refused",
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
    /// The files say something that cannot stand.
    #[error("{}", errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Objects {
        /// Every fault, in the order of the files.
        errors: Vec<Diagnostic>,
    },
}

/// How the readings went.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ReloadStatus {
    /// Counts the catalogs that came into force, from 1.
    pub generation: u64,
    /// Counts the readings that failed since the start.
    pub failures: u64,
    /// Why the last reading failed; `None` while the files and the catalog in force agree.
    pub last_error: Option<String>,
}

/// The files and what they said when they last made sense.
#[derive(Debug)]
pub struct Store {
    paths: Vec<PathBuf>,
    own_namespace: String,
    current: ArcSwap<PolicySet>,
    status: channel::Sender<ReloadStatus>,
    /// What was read last, good or not, so that nothing is done or said twice about the same text.
    last: Mutex<Option<Vec<Source>>>,
}

impl Store {
    /// A store without files, for tests of those who read it.
    #[cfg(test)]
    pub(crate) fn for_tests(policies: PolicySet) -> Self {
        Self {
            paths: Vec::new(),
            own_namespace: builtin::OWN_NAMESPACE.to_owned(),
            current: ArcSwap::from_pointee(policies),
            status: channel::channel(ReloadStatus::default()).0,
            last: Mutex::new(None),
        }
    }

    /// Reads every file once, for a Picket that runs in [`builtin::OWN_NAMESPACE`].
    ///
    /// # Errors
    /// A [`StoreError`] where a path cannot be read, no file is found, or a file cannot stand.
    pub fn open(paths: &[PathBuf]) -> Result<Self, StoreError> {
        Self::open_in(paths, builtin::OWN_NAMESPACE)
    }

    /// Likewise, for a Picket that runs in another namespace.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn open_in(paths: &[PathBuf], own_namespace: &str) -> Result<Self, StoreError> {
        let sources = files::read_all(paths)?;
        let catalog = compile(&sources, own_namespace)?;
        let (status, _) = channel::channel(ReloadStatus {
            generation: 1,
            ..ReloadStatus::default()
        });
        let summary = catalog.summary();
        tracing::info!(
            identities = summary.identities,
            grants = summary.grants,
            policies = summary.policies,
            rules = summary.rules,
            files = sources.len(),
            "policy is in force"
        );
        Ok(Self {
            paths: paths.to_vec(),
            own_namespace: own_namespace.to_owned(),
            current: ArcSwap::from_pointee(catalog),
            status,
            last: Mutex::new(Some(sources)),
        })
    }

    /// The catalog in force.
    #[must_use]
    pub fn current(&self) -> Arc<PolicySet> {
        self.current.load_full()
    }

    /// How the readings went.
    #[must_use]
    pub fn status(&self) -> ReloadStatus {
        self.status.borrow().clone()
    }

    /// Wakes whenever the status changes, for what must act on a new catalog at once.
    #[must_use]
    pub fn changes(&self) -> channel::Receiver<ReloadStatus> {
        self.status.subscribe()
    }

    /// Reads the files again if they changed. What cannot stand leaves the catalog in force as it is.
    pub fn reload(&self) {
        let read = files::read_all(&self.paths);
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let outcome = match read {
            Ok(sources) => {
                if last.as_ref() == Some(&sources) {
                    return;
                }
                let outcome = compile(&sources, &self.own_namespace);
                *last = Some(sources);
                outcome
            }
            Err(error) => {
                // Files that come back as they were must be taken up again.
                *last = None;
                Err(error)
            }
        };
        match outcome {
            Ok(catalog) => {
                let summary = catalog.summary();
                let before = self.current.swap(Arc::new(catalog)).summary();
                self.status.send_modify(|status| {
                    status.generation += 1;
                    status.last_error = None;
                });
                tracing::info!(
                    generation = self.status.borrow().generation,
                    identities = summary.identities,
                    grants = summary.grants,
                    policies = summary.policies,
                    rules = summary.rules,
                    "policy was read again and is in force"
                );
                if before.policies > 0 && summary.policies == 0 {
                    tracing::warn!(
                        before = before.policies,
                        "no AgentPolicy is left: all that grants give passes but for the built-in denies"
                    );
                }
            }
            Err(error) => {
                let error = error.to_string();
                if self.status.borrow().last_error.as_ref() == Some(&error) {
                    return;
                }
                tracing::error!(%error, "policy cannot be read again; the last good one stays in force");
                self.status.send_modify(|status| {
                    status.failures += 1;
                    status.last_error = Some(error);
                });
            }
        }
    }

    /// Reads the files again whenever they change, until cancelled.
    pub fn watch(self: Arc<Self>, cancel: CancellationToken) -> impl Future<Output = ()> + Send {
        watch::run(self, cancel)
    }
}

fn compile(sources: &[Source], own_namespace: &str) -> Result<PolicySet, StoreError> {
    let (mut documents, mut errors) = (Vec::new(), Vec::new());
    for source in sources {
        match files::documents(source) {
            Ok(read) => documents.extend(read),
            Err(faults) => errors.extend(faults),
        }
    }
    // Checks across files would only echo what is missing from the broken ones.
    if !errors.is_empty() {
        return Err(StoreError::Objects { errors });
    }
    PolicySet::compile_in(documents, own_namespace).map_err(|errors| StoreError::Objects { errors })
}

#[cfg(test)]
mod tests;
