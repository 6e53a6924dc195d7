//! The lock of a socket folder: one process at a time makes, replaces or removes sockets there.
//!
//! In: a socket's path. Out: a lock that is held until it is dropped. To ask whether a socket is served and then to remove it
//! are two steps; a second agent that came between them would lose a socket that it has just made.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::stat::{major, minor};
use procfs::LockType;

use super::error::{LockHolder, SocketError, failed_at, folder_of};

/// The file that is locked (flock(2)). It stays in the folder: whoever removed it could remove a lock that somebody holds.
pub(super) const LOCK_FILE: &str = "sockets.lock";

/// How long a lock is waited for. It is held for a few system calls, so a process that holds it longer is stopped or stuck.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);

/// The pause between two tries: as long as some twenty holders take.
const LOCK_PAUSE: Duration = Duration::from_millis(2);

/// The held lock. Functions that change sockets ask for it, so that none is called without.
#[derive(Debug)]
pub(super) struct FolderLock {
    _file: File,
}

impl FolderLock {
    /// Waits for the lock of a socket's folder, which must be there. It blocks the thread: an agent that serves has
    /// [`blocking`] run what calls this.
    ///
    /// # Errors
    /// When another process does not release it in time, or the lock file cannot be opened.
    pub(super) fn take(socket: &Path) -> Result<Self, SocketError> {
        Self::take_within(socket, LOCK_PATIENCE)
    }

    pub(super) fn take_within(socket: &Path, patience: Duration) -> Result<Self, SocketError> {
        let path = folder_of(socket).join(LOCK_FILE);
        // Others must not open it: who may open a file may lock it.
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(&path)
            .map_err(failed_at(&path))?;
        let began = Instant::now();
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Self { _file: file }),
                Err(TryLockError::WouldBlock) if began.elapsed() < patience => thread::sleep(LOCK_PAUSE),
                Err(TryLockError::WouldBlock) => {
                    let holder = holder(&file);
                    return Err(SocketError::Locked { path, holder });
                }
                Err(TryLockError::Error(error)) => return Err(failed_at(&path)(error)),
            }
        }
    }
}

/// Runs work that takes the lock where it may block: a thread that waits for the lock serves nobody.
pub(super) async fn blocking<T: Send + 'static>(
    socket: &Path,
    work: impl FnOnce() -> Result<T, SocketError> + Send + 'static,
) -> Result<T, SocketError> {
    let path = socket.to_owned();
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(failed_at(&path)(io::Error::other(error))))
}

/// The process that holds the lock, as /proc/locks has it; unknown where it is of another PID namespace.
fn holder(file: &File) -> LockHolder {
    let (Ok(locked), Ok(locks)) = (file.metadata(), procfs::locks()) else {
        return LockHolder(None);
    };
    let place = (major(locked.dev()), minor(locked.dev()), locked.ino());
    let lock = locks.into_iter().find(|lock| {
        matches!(lock.lock_type, LockType::FLock)
            && (u64::from(lock.devmaj), u64::from(lock.devmin), lock.inode) == place
    });
    LockHolder(lock.and_then(|lock| lock.pid))
}
