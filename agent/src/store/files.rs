//! Objects in files: what is a file of objects, in which order, and how much of it is read.
//!
//! In: configured files and folders. Out: their [`Manifest`]s, and the objects and diagnostics of each.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use picket_policy::Diagnostic;
use picket_policy::api::{FileReading, read_file};
use picket_policy::yaml::MAX_FILE;

use super::StoreError;
use super::source::{Manifest, Source, TextFault};

/// Most files that are read. A cluster with more agents than this keeps them as objects in the API server.
const MAX_FILES: usize = 4096;

/// Files, and folders whose files are read.
#[derive(Debug)]
pub struct FileSource {
    paths: Vec<PathBuf>,
    /// What was passed over at the last reading, so that the log has it once.
    passed_over: Mutex<Vec<PathBuf>>,
}

impl FileSource {
    /// The files that these paths name.
    #[must_use]
    pub fn new(paths: &[PathBuf]) -> Self {
        Self {
            paths: paths.to_vec(),
            passed_over: Mutex::default(),
        }
    }

    fn tell_passed_over(&self) {
        let now = passed_over(&self.paths);
        let mut before = self.passed_over.lock();
        for path in now.iter().filter(|path| !before.contains(path)) {
            tracing::warn!(
                path = %path.display(),
                "it is among the objects and is not read: only .yaml and .yml files right in a folder are"
            );
        }
        *before = now;
    }
}

impl Source for FileSource {
    fn manifests(&self) -> Result<Vec<Manifest>, StoreError> {
        self.tell_passed_over();
        read_all(&self.paths)
    }

    fn folders(&self) -> BTreeSet<PathBuf> {
        let folder = |path: &PathBuf| match path.parent() {
            Some(parent) if !path.is_dir() && parent.as_os_str().is_empty() => PathBuf::from("."),
            Some(parent) if !path.is_dir() => parent.to_owned(),
            _ => path.clone(),
        };
        self.paths.iter().map(folder).collect()
    }
}

/// Finds and reads the files that paths name: each file itself, and of each folder the `.yaml` and `.yml` files right
/// in it. Names that start with a dot are left out: editors and the kubelet (`..data`) keep their own there.
///
/// A file that cannot be read has its fault in its [`Manifest`].
///
/// # Errors
/// A [`StoreError`] where a path cannot be looked at, the files are too many, or nothing is found.
pub fn read_all(paths: &[PathBuf]) -> Result<Vec<Manifest>, StoreError> {
    let mut files = Vec::new();
    for path in paths {
        let metadata = fs::metadata(path).map_err(|source| StoreError::Read {
            path: path.clone(),
            source,
        })?;
        if metadata.is_dir() {
            files.extend(in_folder(path)?);
        } else {
            files.push(path.clone());
        }
    }
    files.sort();
    files.dedup();
    if files.is_empty() {
        return Err(StoreError::Empty {
            paths: paths.to_vec(),
        });
    }
    if files.len() > MAX_FILES {
        return Err(StoreError::TooMany {
            count: files.len(),
            limit: MAX_FILES,
        });
    }
    Ok(files.into_iter().map(read).collect())
}

/// What in the folders among these paths is not read, and may be meant to be: files of other endings, and folders. A policy in
/// `deny.json` or in a folder below denies nothing, and nobody would know.
#[must_use]
pub fn passed_over(paths: &[PathBuf]) -> Vec<PathBuf> {
    let folders = paths.iter().filter(|path| path.is_dir());
    let entries = folders.filter_map(|folder| fs::read_dir(folder).ok()).flatten();
    let mut left: Vec<_> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| !is_hidden(path) && (!is_yaml(path) || path.is_dir()))
        .take(MAX_FILES)
        .collect();
    left.sort();
    left
}

fn is_hidden(path: &Path) -> bool {
    path.file_name()
        .is_none_or(|name| name.as_encoded_bytes().starts_with(b"."))
}

fn is_yaml(path: &Path) -> bool {
    path.extension()
        .is_some_and(|extension| extension == "yaml" || extension == "yml")
}

fn in_folder(folder: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let fault = |source| StoreError::Read {
        path: folder.to_owned(),
        source,
    };
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).map_err(fault)? {
        let path = entry.map_err(fault)?.path();
        if is_yaml(&path) && !is_hidden(&path) && !path.is_dir() {
            files.push(path);
        }
    }
    Ok(files)
}

fn read(path: PathBuf) -> Manifest {
    let read = bytes(&path).map_err(|error| TextFault {
        line: 1,
        column: 1,
        reason: format!("the file cannot be read: {error}"),
    });
    match read.and_then(text) {
        Ok(text) => Manifest::new(path, text),
        Err(fault) => Manifest {
            path,
            text: String::new(),
            fault: Some(fault),
        },
    }
}

fn bytes(path: &Path) -> io::Result<Vec<u8>> {
    // A pipe of that name would hold the start for ever.
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    let mut bytes = Vec::new();
    // One byte more than the limit is enough for the reader of objects to refuse it.
    File::open(path)?
        .take(MAX_FILE as u64 + 1)
        .read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn text(bytes: Vec<u8>) -> Result<String, TextFault> {
    // It is refused for its size, and not for a character that was cut.
    if bytes.len() > MAX_FILE {
        return Ok(String::from_utf8_lossy(&bytes).into_owned());
    }
    String::from_utf8(bytes).map_err(|error| {
        let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let read = String::from_utf8_lossy(valid);
        let line = read.rsplit('\n').next().unwrap_or_default();
        let number = |before: usize| u32::try_from(before + 1).unwrap_or(u32::MAX);
        TextFault {
            line: number(read.matches('\n').count()),
            column: number(line.chars().count()),
            reason: "the file is not UTF-8".to_owned(),
        }
    })
}

/// Reads the objects of one file. A file without any is a slip, such as one that was cut while it was written, and would
/// take what it held out of force.
#[must_use]
pub fn objects(manifest: &Manifest) -> FileReading {
    let file = manifest.path.display().to_string();
    if let Some(fault) = manifest.fault.clone() {
        let TextFault { line, column, reason } = fault;
        let mut reading = FileReading::default();
        reading.errors.push(Diagnostic {
            file,
            line,
            column,
            reason,
        });
        return reading;
    }
    let mut reading = read_file(&file, &manifest.text);
    if reading.entries.is_empty() && reading.errors.is_empty() {
        reading.errors.push(Diagnostic {
            file,
            line: 1,
            column: 1,
            reason: "no object is in this file: write one, or remove the file".to_owned(),
        });
    }
    reading
}
