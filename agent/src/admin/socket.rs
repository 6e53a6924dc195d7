//! A unix socket that only root can open, in a folder that only root can change.
//!
//! In: a path. Out: a bound socket of mode 0600, whose file goes with it; unless another agent has put its own in the
//! place, which then stays. Whatever makes or removes a socket holds the lock of the folder (lock.rs).

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use tokio::net::{UnixListener, UnixSocket, UnixStream};

use super::error::{SocketError, failed_at, folder_of};
use super::lock::{FolderLock, blocking};
use crate::runtime::private_folder::check_private;

/// What a socket's name ends with until it is in its place.
const NEW_SUFFIX: &str = ".new";

/// The longest path of a socket: the kernel takes 107 bytes (`sockaddr_un`, unix(7)), and the name is longer at first.
pub const SOCKET_PATH_MAX: usize = 107 - NEW_SUFFIX.len();

/// Waiting connections that the kernel holds.
const BACKLOG: u32 = 32;

/// The pause after a socket could not be made.
const SOCKET_PAUSE: Duration = Duration::from_secs(1);

/// The bound socket. Its file is removed when it is dropped.
#[derive(Debug)]
pub struct PrivateSocket {
    listener: UnixListener,
    path: PathBuf,
    /// Device and inode of its own file.
    file: (u64, u64),
}

impl PrivateSocket {
    /// Makes the socket in the place of whoever had it, however often that has to be tried: pods are served without it too.
    pub(crate) async fn replace_with_retries(path: &Path) -> Self {
        loop {
            let place = path.to_owned();
            match blocking(path, move || Self::replace(&place)).await {
                Ok(socket) => return socket,
                Err(error) => {
                    tracing::error!(%error, "the agent cannot make its admin socket, and tries again");
                    tokio::time::sleep(SOCKET_PAUSE).await;
                }
            }
        }
    }

    /// Makes the socket, with its folder if that is missing, in the place of whoever serves it: who dials it from then on comes
    /// here. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// When it cannot be made, or others may write to its folder.
    pub fn replace(path: &Path) -> Result<Self, SocketError> {
        is_socket(path)?;
        make_folder(path)?;
        let lock = FolderLock::take(path)?;
        // Made beside it and then renamed, so that the path leads to a socket that is served at any time.
        let beside = beside(path);
        remove_socket(&lock, &beside)?;
        let mut socket = Self::make(&lock, &beside)?;
        fs::rename(&beside, path).map_err(failed_at(path))?;
        socket.path = path.to_owned();
        Ok(socket)
    }

    /// Makes the socket at a path that nothing has. Must be called within a tokio runtime.
    pub(super) fn make(_lock: &FolderLock, path: &Path) -> Result<Self, SocketError> {
        // The mode is set between bind and listen: until then nobody can connect.
        let socket = UnixSocket::new_stream().map_err(failed_at(path))?;
        socket.bind(path).map_err(failed_at(path))?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(failed_at(path))?;
        let listener = socket.listen(BACKLOG).map_err(failed_at(path))?;
        let made = fs::symlink_metadata(path).map_err(failed_at(path))?;
        Ok(Self {
            listener,
            path: path.to_owned(),
            file: (made.dev(), made.ino()),
        })
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Device and inode of its file, which all its names share.
    pub(super) fn file(&self) -> (u64, u64) {
        self.file
    }

    /// The next connection.
    ///
    /// # Errors
    /// When no descriptor is left, most likely.
    pub async fn accept(&self) -> io::Result<UnixStream> {
        Ok(self.listener.accept().await?.0)
    }
}

impl Drop for PrivateSocket {
    fn drop(&mut self) {
        remove_own(&self.path, self.file);
    }
}

/// Removes a name of a socket, unless it leads to another one by now.
pub(super) fn remove_own(path: &Path, file: (u64, u64)) {
    // Another agent may take the name at this moment.
    let Ok(_lock) = FolderLock::take(path) else {
        tracing::warn!(path = %path.display(), "the agent cannot lock the folder of its socket, so it leaves the socket for the next agent to replace");
        return;
    };
    if file_at(path) == Some(file) {
        // Best effort: the next start takes the place of what is left.
        let _left = fs::remove_file(path);
    }
}

/// Device and inode of what has this name.
pub(super) fn file_at(path: &Path) -> Option<(u64, u64)> {
    let there = fs::symlink_metadata(path).ok()?;
    Some((there.dev(), there.ino()))
}

/// Makes the socket's folder where it is missing, and refuses one that others may write to: they could put a socket of their own
/// in this one's place.
pub(super) fn make_folder(path: &Path) -> Result<(), SocketError> {
    let folder = folder_of(path);
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .map_err(failed_at(path))?;
    let found = fs::metadata(folder).map_err(failed_at(path))?;
    check_private(&found).map_err(|reason| SocketError::Folder {
        path: path.to_owned(),
        folder: folder.to_owned(),
        reason,
    })
}

/// The name that a socket has until it is in its place.
pub(super) fn beside(path: &Path) -> PathBuf {
    let mut beside = path.as_os_str().to_owned();
    beside.push(NEW_SUFFIX);
    PathBuf::from(beside)
}

/// Removes the socket that a killed agent left, if there is one.
///
/// # Errors
/// When it is no socket, somebody serves it, or it cannot be removed.
pub fn remove_left(path: &Path) -> Result<(), SocketError> {
    if !is_socket(path)? {
        return Ok(());
    }
    let lock = FolderLock::take(path)?;
    if is_served(path) {
        return Err(SocketError::Taken(path.to_owned()));
    }
    remove_socket(&lock, path)
}

/// Removes a socket, if there is one of this name. The caller knows that nobody serves it.
pub(super) fn remove_socket(_lock: &FolderLock, path: &Path) -> Result<(), SocketError> {
    if is_socket(path)? {
        fs::remove_file(path).map_err(failed_at(path))?;
    }
    Ok(())
}

/// Whether somebody listens there. Never waits: a queue that is full is somebody's too. Without the lock of the folder, a socket
/// that is being made looks like one that nobody serves.
pub(super) fn is_served(path: &Path) -> bool {
    let connected = || {
        let address = SocketAddrUnix::new(path)?;
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        connect(&socket, &address)
    };
    !matches!(connected(), Err(Errno::CONNREFUSED | Errno::NOENT))
}

/// Whether there is a socket of this name; an error where something else is.
pub(super) fn is_socket(path: &Path) -> Result<bool, SocketError> {
    match fs::symlink_metadata(path) {
        Ok(there) if !there.file_type().is_socket() => Err(SocketError::NotASocket(path.to_owned())),
        there => Ok(there.is_ok()),
    }
}
