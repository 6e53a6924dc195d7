//! The names of the admin sockets on a node. Each agent has a socket of its own from its start to its end; the configured name
//! leads to the socket of the agent that serves.
//!
//! In: the configured name, such as `admin.sock`. Out: a socket at `admin.sock.1`, or the next number that is free, and a
//! second name for it, `admin.sock`, once the agent takes that.
//!
//! So an operator reaches an agent that drains, and one that takes over, as well as the one that serves: sessions run in each
//! of them.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::error::{AGENTS_MAX, SocketError, failed_at};
use super::lock::{FolderLock, blocking};
use super::socket::{
    PrivateSocket, beside, file_at, is_served, is_socket, make_folder, remove_own, remove_socket,
};

/// The pause after the configured name could not be taken.
const NAME_PAUSE: Duration = Duration::from_secs(1);

/// An agent's own socket, and the configured name for it, which an agent that is `alone` on its node has from then on.
///
/// # Errors
/// As [`own_socket`].
pub async fn open_own_socket(
    configured: &Path,
    alone: bool,
) -> Result<(PrivateSocket, ConfiguredName), SocketError> {
    let place = configured.to_owned();
    let opened = move || {
        let socket = own_socket(&place, alone)?;
        let name = ConfiguredName::of(&socket, &place);
        Ok((socket, name))
    };
    blocking(configured, opened).await
}

/// An agent's own socket. It blocks the thread for up to two seconds where another process holds the folder's lock.
///
/// Where the agent is `alone`, the configured name leads there before the lock is released: of agents that start at once one is the
/// first, and the others are told so before they load kernel programs.
///
/// # Errors
/// When it cannot be made. Where the agent is `alone` on its node: when another process serves the configured name.
///
/// Must be called within a tokio runtime.
pub(super) fn own_socket(configured: &Path, alone: bool) -> Result<PrivateSocket, SocketError> {
    make_folder(configured)?;
    let lock = FolderLock::take(configured)?;
    if is_socket(configured)? && alone && is_served(configured) {
        return Err(SocketError::Taken(configured.to_owned()));
    }
    for number in 1..=AGENTS_MAX {
        let path = numbered(configured, number);
        if is_socket(&path)? && is_served(&path) {
            continue;
        }
        remove_socket(&lock, &path)?;
        let socket = PrivateSocket::make(&lock, &path)?;
        if alone && let Err(error) = Names::of(&socket, configured).link(&lock) {
            // Pods are served without the name. It is tried again once the agent serves.
            tracing::warn!(%error, "the agent cannot give its admin socket the configured name yet");
        }
        return Ok(socket);
    }
    Err(SocketError::Agents(configured.to_owned()))
}

/// The own sockets of the node's agents, in order. A killed agent may have left some that nobody serves.
#[must_use]
pub fn own_sockets(configured: &Path) -> Vec<PathBuf> {
    (1..=AGENTS_MAX)
        .map(|number| numbered(configured, number))
        .filter(|path| is_socket(path).unwrap_or(false))
        .collect()
}

fn numbered(configured: &Path, number: u32) -> PathBuf {
    let mut path = configured.as_os_str().to_owned();
    path.push(format!(".{number}"));
    PathBuf::from(path)
}

/// The configured name, for an agent that serves; it goes with what holds it, unless another agent has taken it.
#[derive(Debug)]
pub struct ConfiguredName(Names);

/// The configured name, and the agent's own socket.
#[derive(Debug, Clone)]
struct Names {
    path: PathBuf,
    own: PathBuf,
    file: (u64, u64),
}

impl ConfiguredName {
    /// The name for this socket. It is not taken here.
    #[must_use]
    pub fn of(socket: &PrivateSocket, configured: &Path) -> Self {
        Self(Names::of(socket, configured))
    }

    /// Has the name lead to this agent's socket: who dials it from then on comes here. At no time does it lead nowhere.
    ///
    /// # Errors
    /// When the name cannot be made, or a file that is no socket has it.
    pub fn take(&self) -> Result<(), SocketError> {
        self.0.take()
    }

    /// As [`ConfiguredName::take`], however often that has to be tried: pods are served without it too.
    pub async fn take_with_retries(&self) {
        loop {
            let names = self.0.clone();
            let Err(error) = blocking(&self.0.path, move || names.take()).await else {
                return;
            };
            tracing::error!(%error, "the agent cannot give its admin socket the configured name, and tries again");
            tokio::time::sleep(NAME_PAUSE).await;
        }
    }
}

impl Names {
    fn of(socket: &PrivateSocket, configured: &Path) -> Self {
        Self {
            path: configured.to_owned(),
            own: socket.path().to_owned(),
            file: socket.file(),
        }
    }

    fn take(&self) -> Result<(), SocketError> {
        is_socket(&self.path)?;
        self.link(&FolderLock::take(&self.path)?)
    }

    fn link(&self, lock: &FolderLock) -> Result<(), SocketError> {
        // A rename between two names of one socket would leave both.
        if file_at(&self.path) == Some(self.file) {
            return Ok(());
        }
        let beside = beside(&self.path);
        remove_socket(lock, &beside)?;
        fs::hard_link(&self.own, &beside).map_err(failed_at(&self.path))?;
        if file_at(&beside) != Some(self.file) {
            let replaced = io::Error::other(format!("{} is another process's socket", self.own.display()));
            return Err(failed_at(&self.path)(replaced));
        }
        fs::rename(&beside, &self.path).map_err(failed_at(&self.path))
    }
}

impl Drop for ConfiguredName {
    fn drop(&mut self) {
        remove_own(&self.0.path, self.0.file);
    }
}
