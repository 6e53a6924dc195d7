//! A sink that appends records to a file, the exact lines of the spool.
//!
//! In: lines. Out: the file, mode 0600. Neither the file nor its folder may be others' to change, and a symbolic link is not
//! followed. The file may be renamed at any time, as logrotate does: the next record goes to a new file of
//! that name. After a crash the file's own end tells which records it has, so none is written twice.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::OFlag;

use super::{Sink, SinkError, TargetEnd};
use crate::audit::spool::chain::last_whole;
use crate::audit::spool::segment::tail;
use crate::runtime::private_folder::{check_private, check_private_file};

/// A file that records are appended to.
pub(super) struct FileSink {
    path: PathBuf,
    /// `None` after a failure that left its end unknown.
    file: Option<File>,
}

impl FileSink {
    pub(super) fn open(path: &Path) -> Result<Self, SinkError> {
        let mut sink = Self {
            path: path.to_owned(),
            file: None,
        };
        sink.reopen()?;
        Ok(sink)
    }

    fn failed(&self, source: io::Error) -> SinkError {
        let folder = self.path.parent();
        let source = match folder {
            Some(folder) if source.kind() == io::ErrorKind::NotFound && !folder.exists() => {
                io::Error::other(format!("there is no directory {}: make it", folder.display()))
            }
            _ => source,
        };
        SinkError::Target {
            target: self.path.display().to_string(),
            source,
        }
    }

    fn reopen(&mut self) -> Result<&mut File, SinkError> {
        self.file = None;
        let file = self.open_guarded().map_err(|error| self.failed(error))?;
        Ok(self.file.insert(file))
    }

    /// Opens the file where nobody but root and this process can have put it there, or reads along: records name every Secret
    /// that was asked for, and an agent that writes as root must not be led to another file.
    fn open_guarded(&self) -> io::Result<File> {
        let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let folder = folder.unwrap_or(Path::new("."));
        check_private(&fs::metadata(folder)?)
            .map_err(|reason| io::Error::other(format!("its directory {}: {reason}", folder.display())))?;
        let file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .mode(0o600)
            .custom_flags(OFlag::O_NOFOLLOW.bits())
            .open(&self.path)
            .map_err(|error| match error.raw_os_error() {
                Some(code) if code == Errno::ELOOP as i32 => {
                    io::Error::other("it is a symbolic link: name the file itself")
                }
                _ => error,
            })?;
        let found = file.metadata()?;
        // A pipe or a device is the administrator's choice, and keeps nothing.
        if found.is_file() {
            check_private_file(&found).map_err(io::Error::other)?;
        }
        Ok(file)
    }

    /// Whether the path still leads to the open file.
    fn is_there(&self) -> bool {
        let held = self.file.as_ref().and_then(|file| file.metadata().ok());
        match (held, fs::symlink_metadata(&self.path)) {
            (Some(held), Ok(named)) => (held.dev(), held.ino()) == (named.dev(), named.ino()),
            _ => false,
        }
    }
}

impl Sink for FileSink {
    fn resume(&mut self) -> Result<TargetEnd, SinkError> {
        let file = self.reopen()?;
        let found = match file.metadata() {
            Ok(found) if found.is_file() => tail(file, u64::MAX),
            Ok(_) => Ok(None),
            Err(error) => Err(error),
        };
        let tail = found.map_err(|error| self.failed(error))?.unwrap_or_default();
        let whole = tail
            .iter()
            .rposition(|byte| *byte == b'\n')
            .map_or(0, |end| end + 1);
        Ok(TargetEnd {
            last: last_whole(&tail[..whole]),
            partial: tail[whole..].to_vec(),
        })
    }

    fn deliver(&mut self, lines: &[u8]) -> Result<(), SinkError> {
        if !self.is_there() {
            // The old file gets no more lines, and those it has count as delivered.
            self.sync()?;
            self.reopen()?;
        }
        let written = match &mut self.file {
            Some(file) => file.write_all(lines),
            None => Err(io::ErrorKind::NotFound.into()),
        };
        written.map_err(|error| {
            self.file = None;
            self.failed(error)
        })
    }

    fn sync(&mut self) -> Result<(), SinkError> {
        let synced = match &self.file {
            Some(file) if file.metadata().is_ok_and(|found| found.is_file()) => file.sync_data(),
            _ => Ok(()),
        };
        synced.map_err(|error| self.failed(error))
    }
}
