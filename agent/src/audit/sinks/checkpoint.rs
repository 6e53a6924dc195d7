//! How far a sink has come, on disk: `checkpoints/<sink>.json` in the spool's directory.
//!
//! In: a place in the spool and the record before it. Out: the same after a restart. A checkpoint is replaced as a whole, so a
//! crash leaves the old one or the new one.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::audit::spool::chain::{ChainPlace, Hash};
use crate::audit::spool::segment::{Position, SegmentId};

/// The folder of all checkpoints of a spool.
const FOLDER: &str = "checkpoints";

/// How far a sink has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// Everything before this place was delivered.
    pub position: Position,
    /// The record before it; `None` where the sink begins with the oldest one.
    pub last: Option<ChainPlace>,
}

/// A checkpoint as it is stored.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct StoredCheckpoint {
    segment: String,
    offset: u64,
    #[serde(rename = "bootID", skip_serializing_if = "Option::is_none")]
    boot_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seq: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hash: Option<String>,
}

/// The names of sinks that have a checkpoint.
pub(in crate::audit) fn names(directory: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(directory.join(FOLDER)) else {
        return Vec::new();
    };
    let mut names: Vec<String> = entries
        .filter_map(|entry| {
            let name = entry.ok()?.file_name().into_string().ok()?;
            Some(name.strip_suffix(".json")?.to_owned())
        })
        .collect();
    names.sort();
    names
}

/// The checkpoints that can be read, by their sinks' names.
pub(crate) fn all(directory: &Path) -> Vec<(String, Checkpoint)> {
    let names = names(directory).into_iter();
    names
        .filter_map(|name| {
            let checkpoint = load(directory, &name).ok()??;
            Some((name, checkpoint))
        })
        .collect()
}

/// A sink's checkpoint, `None` where it has none yet.
///
/// # Errors
/// It cannot be read, or is no checkpoint.
pub(in crate::audit) fn load(directory: &Path, sink: &str) -> io::Result<Option<Checkpoint>> {
    let stored = match fs::read(file(directory, sink)) {
        Ok(stored) => stored,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let stored: StoredCheckpoint = serde_json::from_slice(&stored)?;
    let wrong = |what: &str| io::Error::new(io::ErrorKind::InvalidData, format!("{what} is none"));
    let segment = SegmentId::of_name(&stored.segment).ok_or_else(|| wrong("segment"))?;
    let last = match (stored.boot_id, stored.seq, stored.hash) {
        (Some(boot_id), Some(seq), Some(hash)) => Some(ChainPlace {
            boot_id,
            seq,
            hash: Hash::parse(&hash).ok_or_else(|| wrong("hash"))?,
        }),
        _ => None,
    };
    Ok(Some(Checkpoint {
        position: Position {
            segment,
            offset: stored.offset,
        },
        last,
    }))
}

/// Puts a sink's checkpoint on disk.
///
/// # Errors
/// When the disk takes it not.
pub(in crate::audit) fn store(directory: &Path, sink: &str, checkpoint: &Checkpoint) -> io::Result<()> {
    let last = checkpoint.last.as_ref();
    let stored = serde_json::to_vec(&StoredCheckpoint {
        segment: checkpoint.position.segment.to_string(),
        offset: checkpoint.position.offset,
        boot_id: last.map(|last| last.boot_id.clone()),
        seq: last.map(|last| last.seq),
        hash: last.map(|last| last.hash.as_str().to_owned()),
    })?;
    let folder = folder(directory)?;
    let new = folder.join(format!("{sink}.new"));
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&new)?;
    file.write_all(&stored)?;
    file.write_all(b"\n")?;
    file.sync_data()?;
    fs::rename(&new, self::file(directory, sink))?;
    File::open(folder)?.sync_all()
}

/// The right to deliver for a sink: `None` while another agent has it, which delivers this one's records too. It ends with the
/// file that is given, or the process.
pub(super) fn claim(directory: &Path, sink: &str) -> io::Result<Option<File>> {
    let lock = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(folder(directory)?.join(format!("{sink}.lock")))?;
    match lock.try_lock() {
        Ok(()) => Ok(Some(lock)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// The names of sinks that have a checkpoint and that an agent delivers for now. A checkpoint that nobody delivers for is of a sink
/// that was taken out of the configuration. One whose claim cannot be seen counts.
pub(in crate::audit) fn claimed(directory: &Path) -> Vec<String> {
    let mut names = names(directory);
    names.retain(|name| !matches!(claim(directory, name), Ok(Some(_))));
    names
}

fn file(directory: &Path, sink: &str) -> PathBuf {
    directory.join(FOLDER).join(format!("{sink}.json"))
}

fn folder(directory: &Path) -> io::Result<PathBuf> {
    let folder = directory.join(FOLDER);
    match DirBuilder::new().mode(0o700).create(&folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(folder),
    }
}
