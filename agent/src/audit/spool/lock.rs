//! Whose turn it is to write in a directory: one process's for good, or that of two in turns while an upgrade goes on.
//!
//! In: the spool's directory. Out: a lock on it. The lock is on the directory itself, so that no file can be removed to get
//! around it.

use std::fs::{self, DirBuilder, File, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::audit::AuditError;
use crate::runtime::private_folder::{NotPrivate, check_private};

/// How often a directory that another process holds is tried at start: a killed agent's lock may outlive it a little.
const LOCK_TRIES: u32 = 20;

/// Time between two such tries.
const LOCK_PAUSE: Duration = Duration::from_millis(50);

/// How long a turn at a shared directory is waited for: the other's batch and its sync, which take milliseconds. A directory
/// that is held for longer takes nothing, and requests are refused.
const TURN_LIMIT: Duration = Duration::from_secs(2);

/// Time between two looks whether the other's turn is over.
const TURN_PAUSE: Duration = Duration::from_millis(1);

/// An open directory with a lock that is held or can be taken.
#[derive(Debug)]
pub(super) struct DirectoryLock {
    path: PathBuf,
    directory: File,
}

impl DirectoryLock {
    /// Opens the directory, which is made where it is missing, and locks it.
    pub(super) fn open(path: &Path) -> Result<Self, AuditError> {
        let directory = opened(path).map_err(|error| AuditError::Open {
            path: path.to_owned(),
            reason: error.to_string(),
        })?;
        let lock = Self {
            path: path.to_owned(),
            directory,
        };
        lock.lock()?;
        Ok(lock)
    }

    /// Why others can change what is in the directory, where somebody has let them since it was opened.
    pub(super) fn exposed(&self) -> Option<NotPrivate> {
        // What cannot be looked at fails with the next write.
        check_private(&self.directory.metadata().ok()?).err()
    }

    /// Whether the path still leads to this directory.
    pub(super) fn is_there(&self) -> bool {
        match (fs::metadata(&self.path), self.directory.metadata()) {
            (Ok(named), Ok(held)) => is_same(&named, &held),
            _ => false,
        }
    }

    fn lock(&self) -> Result<(), AuditError> {
        for _ in 0..LOCK_TRIES {
            match self.directory.try_lock() {
                Ok(()) => return Ok(()),
                Err(TryLockError::WouldBlock) => std::thread::sleep(LOCK_PAUSE),
                Err(TryLockError::Error(error)) => {
                    return Err(AuditError::Open {
                        path: self.path.clone(),
                        reason: format!("cannot lock it: {error}"),
                    });
                }
            }
        }
        Err(AuditError::Locked(self.path.clone()))
    }

    /// Takes the lock if nobody else has it.
    pub(super) fn try_take(&self) -> bool {
        self.directory.try_lock().is_ok()
    }

    /// Waits until the other process's batch is written.
    pub(super) fn wait(&self) -> Result<(), AuditError> {
        let began = Instant::now();
        while !self.try_take() {
            if began.elapsed() > TURN_LIMIT {
                return Err(AuditError::Locked(self.path.clone()));
            }
            std::thread::sleep(TURN_PAUSE);
        }
        Ok(())
    }

    /// Lets the other process write.
    pub(super) fn end(&self) -> io::Result<()> {
        self.directory.unlock()
    }

    /// Puts the names of new and removed files on disk.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.directory.sync_all()
    }
}

/// Whether two looks were at the same file.
pub(super) fn is_same(one: &fs::Metadata, other: &fs::Metadata) -> bool {
    (one.dev(), one.ino()) == (other.dev(), other.ino())
}

/// Why the directory cannot be had.
#[derive(Debug, thiserror::Error)]
enum DirectoryError {
    #[error(transparent)]
    System(#[from] io::Error),
    #[error(transparent)]
    NotPrivate(#[from] NotPrivate),
    #[error("there is no directory {0}: make it")]
    NoParent(PathBuf),
}

/// Opens the directory, which is made where it is missing and must be root's alone.
fn opened(path: &Path) -> Result<File, DirectoryError> {
    make(path)?;
    let directory = File::open(path)?;
    check_private(&directory.metadata()?)?;
    Ok(directory)
}

/// Makes the directory, for root alone. The folder above it must be there: where a volume is missing, the records would
/// otherwise land beside it.
fn make(path: &Path) -> Result<(), DirectoryError> {
    let above = path.parent().filter(|above| !above.as_os_str().is_empty());
    let above = above.unwrap_or(Path::new("."));
    match DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => Ok(File::open(above)?.sync_all()?),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(DirectoryError::NoParent(above.to_owned()))
        }
        Err(error) => Err(error.into()),
    }
}
