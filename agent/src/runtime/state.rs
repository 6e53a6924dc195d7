//! The state folder: files that an agent leaves for the next one on the node, over a boot too.
//!
//! In: a folder that root alone may write to, and small files. Out: the files, whole or not at all: each is replaced in one step
//! and is on disk when that is done.

use std::fs::{self, DirBuilder, File, TryLockError};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tempfile::NamedTempFile;

use super::private_folder::{NotPrivate, check_own_file, check_private};

/// Where the state is when nothing else is said: systemd's `StateDirectory=picket` (systemd.exec(5)).
pub const DEFAULT_STATE_DIRECTORY: &str = "/var/lib/picket";

/// The largest file that is read: the 65,536 addresses that the kernel holds take 4 MB.
const MAX_BYTES: u64 = 16 * 1024 * 1024;

/// Why a file of the state cannot be used or kept.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The system refuses.
    #[error("{}: cannot {action} it: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file or the folder.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// Others could have written it.
    #[error("{}: {reason}", path.display())]
    NotPrivate {
        /// The file or the folder.
        path: PathBuf,
        /// Who could, and what to do.
        reason: NotPrivate,
    },
    /// It is larger than [`MAX_BYTES`].
    #[error("{}: it is larger than {MAX_BYTES} bytes", .0.display())]
    TooLarge(PathBuf),
}

/// A lock of the folder, which ends with this value, and with the process.
#[derive(Debug)]
pub struct StateLock {
    _file: File,
}

/// The folder; cheap to clone.
#[derive(Debug, Clone)]
pub struct StateDirectory(Arc<Path>);

impl StateDirectory {
    /// The folder with this path. It is made with the first file.
    #[must_use]
    pub fn new(path: &Path) -> Self {
        Self(Arc::from(path))
    }

    /// Where a file is.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// What a file holds; `None` where there is none.
    ///
    /// # Errors
    /// [`StateError`] where it cannot be read, or others than root could have written it.
    pub fn read(&self, name: &str) -> Result<Option<Vec<u8>>, StateError> {
        let path = self.file(name);
        let failed = failed_at("read", &path);
        // A pipe of that name does not hold the start, which reads the state before it closes the node.
        let opened = File::options()
            .read(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(&path);
        let file = match opened {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        self.check_folder()?;
        let found = file.metadata().map_err(&failed)?;
        if !found.is_file() {
            return Err(failed(io::Error::other("it is not a regular file")));
        }
        // Who else may read it does not matter: a node that is not closed matters more.
        check_own_file(&found).map_err(|reason| StateError::NotPrivate {
            path: path.clone(),
            reason,
        })?;
        let mut bytes = Vec::new();
        file.take(MAX_BYTES + 1)
            .read_to_end(&mut bytes)
            .map_err(&failed)?;
        if bytes.len() as u64 > MAX_BYTES {
            return Err(StateError::TooLarge(path));
        }
        Ok(Some(bytes))
    }

    /// Puts a file in place, with mode 0600.
    ///
    /// # Errors
    /// [`StateError`]; the file is then as it was before.
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<(), StateError> {
        let path = self.file(name);
        let failed = failed_at("write", &path);
        self.make()?;
        // Such a file has mode 0600.
        let mut draft = NamedTempFile::new_in(&self.0).map_err(&failed)?;
        draft.write_all(bytes).map_err(&failed)?;
        draft.as_file().sync_all().map_err(&failed)?;
        draft.persist(&path).map_err(|error| failed(error.error))?;
        let synced = File::open(&self.0).and_then(|folder| folder.sync_all());
        synced.map_err(&failed)
    }

    /// Takes the lock that this file stands for; `None` while another process of the node has it.
    ///
    /// # Errors
    /// [`StateError`] where the file cannot be made.
    pub fn try_lock(&self, name: &str) -> Result<Option<StateLock>, StateError> {
        let path = self.file(name);
        let failed = failed_at("lock", &path);
        self.make()?;
        // A pipe of that name would hold the caller.
        let opened = File::options()
            .create(true)
            .write(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(libc::O_NONBLOCK)
            .open(&path);
        let file = opened.map_err(&failed)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(StateLock { _file: file })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(failed(error)),
        }
    }

    /// Removes a file, where there is one.
    ///
    /// # Errors
    /// [`StateError`] where it stays.
    pub fn remove(&self, name: &str) -> Result<(), StateError> {
        let path = self.file(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(failed_at("remove", &path)(error)),
            _ => Ok(()),
        }
    }

    /// Makes the folder where it is missing.
    fn make(&self) -> Result<(), StateError> {
        let mut folder = DirBuilder::new();
        folder.recursive(true).mode(0o700);
        folder.create(&self.0).map_err(failed_at("make", &self.0))?;
        self.check_folder()
    }

    fn check_folder(&self) -> Result<(), StateError> {
        let found = fs::metadata(&self.0).map_err(failed_at("read", &self.0))?;
        check_private(&found).map_err(|reason| StateError::NotPrivate {
            path: self.0.to_path_buf(),
            reason,
        })
    }
}

fn failed_at(action: &'static str, path: &Path) -> impl Fn(io::Error) -> StateError + use<> {
    let path = path.to_owned();
    move |source| StateError::Io {
        action,
        path: path.clone(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::{PermissionsExt as _, chown};
    use std::sync::mpsc;
    use std::thread;
    use std::time::Duration;

    use nix::sys::stat::Mode;
    use nix::unistd::mkfifo;

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).expect("there").permissions().mode() & 0o777
    }

    #[test]
    fn a_file_is_read_as_it_was_written_and_nobody_else_may_read_it() {
        let above = tempfile::tempdir().expect("a folder");
        let folder = above.path().join("state");
        let state = StateDirectory::new(&folder);
        assert_eq!(state.read("a").expect("no fault"), None);
        for text in ["one", "another"] {
            state.write("a", text.as_bytes()).expect("written");
            assert_eq!(
                state.read("a").expect("no fault").as_deref(),
                Some(text.as_bytes())
            );
        }
        assert_eq!((mode(&folder), mode(&state.file("a"))), (0o700, 0o600));
        let left = fs::read_dir(&folder).expect("there").count();
        assert_eq!(left, 1, "a draft is left");
        state.remove("a").expect("removed");
        state.remove("a").expect("no fault");
        assert_eq!(state.read("a").expect("no fault"), None);
    }

    #[test]
    fn what_others_could_have_written_is_neither_read_nor_replaced() {
        let folder = tempfile::tempdir().expect("a folder");
        let state = StateDirectory::new(folder.path());
        state.write("a", b"one").expect("written");
        for open in [0o622, 0o664, 0o602] {
            fs::set_permissions(state.file("a"), Permissions::from_mode(open)).expect("rights");
            let error = state.read("a").expect_err("open").to_string();
            assert!(error.contains("chmod 600"), "{open:o}: {error}");
        }
        fs::set_permissions(state.file("a"), Permissions::from_mode(0o600)).expect("rights");
        // Only root can give a file away.
        if chown(state.file("a"), Some(65_534), None).is_ok() {
            let error = state.read("a").expect_err("another's").to_string();
            assert!(error.contains("user 65534: chown root"), "{error}");
            chown(state.file("a"), Some(0), None).expect("taken back");
        }
        fs::set_permissions(folder.path(), Permissions::from_mode(0o777)).expect("rights");
        for error in [state.read("a").map(drop), state.write("a", b"two")] {
            let error = error.expect_err("open").to_string();
            assert!(error.contains("others may write to it"), "{error}");
        }
    }

    #[test]
    fn a_lock_is_one_process_s_until_it_goes() {
        let folder = tempfile::tempdir().expect("a folder");
        let state = StateDirectory::new(&folder.path().join("state"));
        let held = state.try_lock("a.lock").expect("no fault").expect("free");
        assert!(state.try_lock("a.lock").expect("no fault").is_none());
        assert!(state.try_lock("b.lock").expect("no fault").is_some());
        drop(held);
        assert!(state.try_lock("a.lock").expect("no fault").is_some());
    }

    /// As a backup leaves it, or a tool for configurations.
    #[test]
    fn what_others_may_read_is_read() {
        let folder = tempfile::tempdir().expect("a folder");
        let state = StateDirectory::new(folder.path());
        state.write("a", b"one").expect("written");
        fs::set_permissions(state.file("a"), Permissions::from_mode(0o644)).expect("rights");
        assert_eq!(state.read("a").expect("no fault").as_deref(), Some(&b"one"[..]));
    }

    #[test]
    fn what_would_never_end_is_not_read() {
        let folder = tempfile::tempdir().expect("a folder");
        let state = StateDirectory::new(folder.path());
        mkfifo(&state.file("pipe"), Mode::S_IRUSR | Mode::S_IWUSR).expect("a pipe");
        std::os::unix::fs::symlink("/dev/zero", state.file("device")).expect("a link");
        fs::create_dir(state.file("folder")).expect("a folder");
        fs::set_permissions(state.file("folder"), Permissions::from_mode(0o600)).expect("rights");
        let (sender, receiver) = mpsc::channel();
        thread::spawn(move || {
            ["pipe", "folder", "device"].map(|name| sender.send(state.read(name).map(drop)))
        });
        for name in ["pipe", "folder", "device"] {
            let read = receiver.recv_timeout(Duration::from_secs(5)).expect(name);
            let error = read.expect_err(name).to_string();
            assert!(error.ends_with("it is not a regular file"), "{name}: {error}");
        }
    }

    #[test]
    fn a_file_that_no_agent_writes_is_not_read() {
        let folder = tempfile::tempdir().expect("a folder");
        let state = StateDirectory::new(folder.path());
        state.write("a", b"").expect("written");
        let file = File::options().write(true).open(state.file("a")).expect("there");
        file.set_len(MAX_BYTES + 1).expect("longer");
        assert!(matches!(state.read("a"), Err(StateError::TooLarge(_))));
    }
}
