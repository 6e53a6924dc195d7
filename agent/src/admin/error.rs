//! Why an admin socket cannot be had.
//!
//! In: what failed, and the path. Out: a [`SocketError`], whose text names the path and what to do.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use crate::runtime::private_folder::NotPrivate;

/// Agents of a node at once. An upgrade starts one a minute at most, and each drains for an hour at most. Two digits keep the
/// name shorter than the one that a socket has until it is in its place.
pub(super) const AGENTS_MAX: u32 = 99;

/// Why the socket cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Another process answers on it.
    #[error("socket {0}: another process serves it")]
    Taken(PathBuf),
    /// Each name that an agent's own socket could have is in use.
    #[error("socket {0}: {AGENTS_MAX} agents serve sockets beside it; end those that should not run")]
    Agents(PathBuf),
    /// Another process makes or removes a socket in its folder, and does not come to an end.
    #[error("{path} is locked: {holder}")]
    Locked {
        /// The lock file.
        path: PathBuf,
        /// Who holds the lock, and what to do.
        holder: LockHolder,
    },
    /// Something that is no socket has its name.
    #[error("socket {0}: there is a file of this name that is no socket")]
    NotASocket(PathBuf),
    /// Others could put something else in its place.
    #[error("socket {path}: its folder {folder} is not private: {reason}")]
    Folder {
        /// The socket.
        path: PathBuf,
        /// Its folder.
        folder: PathBuf,
        /// What is wrong with the folder, and what to do.
        #[source]
        reason: NotPrivate,
    },
    /// It cannot be made, or removed.
    #[error("socket {path}: {source}")]
    Bind {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// The process that holds the lock of a socket's folder, where it is known.
#[derive(Debug, Clone, Copy)]
pub struct LockHolder(pub(super) Option<i32>);

impl fmt::Display for LockHolder {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(pid) => write!(
                out,
                "process {pid} makes or removes a socket in this folder and does not end; if it is stopped or stuck, end it \
                 (kill -9 {pid}) and start the agent again"
            ),
            None => out.write_str(
                "another process makes or removes a socket in this folder and does not end; find it with `lslocks` on the \
                 node, end it, and start the agent again",
            ),
        }
    }
}

pub(super) fn failed_at(path: &Path) -> impl FnOnce(io::Error) -> SocketError {
    move |source| SocketError::Bind {
        path: path.to_owned(),
        source,
    }
}

/// The folder that a socket is in.
pub(super) fn folder_of(path: &Path) -> &Path {
    let above = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    above.unwrap_or(Path::new("."))
}
