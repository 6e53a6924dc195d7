//! A unix socket that only root can open, in a folder that only root can enter.
//!
//! In: a path. Out: a bound socket of mode 0600, whose file goes with it; unless another agent has put its own in the
//! place, which then stays.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::net::{UnixListener, UnixSocket, UnixStream};

/// What a socket's name ends with until it is in its place.
const NEW_SUFFIX: &str = ".new";

/// The longest path of a socket: the kernel takes 107 bytes (`sockaddr_un`, unix(7)), and the name is longer at first.
pub const SOCKET_PATH_MAX: usize = 107 - NEW_SUFFIX.len();

/// Waiting connections that the kernel holds.
const BACKLOG: u32 = 32;

/// The pause after a socket could not be made.
const SOCKET_PAUSE: Duration = Duration::from_secs(1);

/// Why the socket cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Another process answers on it.
    #[error("socket {0}: another process serves it")]
    Taken(PathBuf),
    /// Something that is no socket has its name.
    #[error("socket {0}: there is a file of this name that is no socket")]
    NotASocket(PathBuf),
    /// It cannot be made, or removed.
    #[error("socket {path}: {source}")]
    Bind {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

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
            match Self::replace(path) {
                Ok(socket) => return socket,
                Err(error) => {
                    tracing::error!(%error, "trying again");
                    tokio::time::sleep(SOCKET_PAUSE).await;
                }
            }
        }
    }

    /// Makes the socket, with its folder if that is missing, and takes the place of one that a killed agent left.
    /// Must be called within a tokio runtime.
    ///
    /// # Errors
    /// When another process serves it or it cannot be made.
    pub fn bind(path: &Path) -> Result<Self, SocketError> {
        if is_socket(path)? && std::os::unix::net::UnixStream::connect(path).is_ok() {
            return Err(SocketError::Taken(path.to_owned()));
        }
        Self::replace(path)
    }

    /// As [`PrivateSocket::bind`], in the place of whoever serves it: who dials it from then on comes here.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn replace(path: &Path) -> Result<Self, SocketError> {
        let failed = |source| SocketError::Bind {
            path: path.to_owned(),
            source,
        };
        is_socket(path)?;
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(folder)
                .map_err(failed)?;
        }
        // Made beside it and then renamed, so that the path leads to a socket that is served at any time.
        let mut beside = path.as_os_str().to_owned();
        beside.push(NEW_SUFFIX);
        let beside = PathBuf::from(beside);
        if is_socket(&beside)? {
            fs::remove_file(&beside).map_err(failed)?;
        }
        // The mode is set between bind and listen: until then nobody can connect.
        let socket = UnixSocket::new_stream().map_err(failed)?;
        socket.bind(&beside).map_err(failed)?;
        fs::set_permissions(&beside, fs::Permissions::from_mode(0o600)).map_err(failed)?;
        let listener = socket.listen(BACKLOG).map_err(failed)?;
        let made = fs::symlink_metadata(&beside).map_err(failed)?;
        fs::rename(&beside, path).map_err(failed)?;
        Ok(Self {
            listener,
            path: path.to_owned(),
            file: (made.dev(), made.ino()),
        })
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
        let own = fs::symlink_metadata(&self.path).is_ok_and(|there| (there.dev(), there.ino()) == self.file);
        if own {
            // Best effort: the next start takes the place of what is left.
            let _left = fs::remove_file(&self.path);
        }
    }
}

/// Removes the socket that a killed agent left, if there is one.
///
/// # Errors
/// When it is no socket, or cannot be removed.
pub fn remove_left(path: &Path) -> Result<(), SocketError> {
    if is_socket(path)? {
        fs::remove_file(path).map_err(|source| SocketError::Bind {
            path: path.to_owned(),
            source,
        })?;
    }
    Ok(())
}

/// Whether there is a socket of this name; an error where something else is.
fn is_socket(path: &Path) -> Result<bool, SocketError> {
    match fs::symlink_metadata(path) {
        Ok(there) if !there.file_type().is_socket() => Err(SocketError::NotASocket(path.to_owned())),
        there => Ok(there.is_ok()),
    }
}
