//! Changes of objects in files by a command: one object at a time, and nothing else in the file.
//!
//! In: the files and folders that an agent reads, and a change. Out: a file that was replaced in one step, or an
//! [`ObjectEditError`]. All objects are read and checked together with the change before anything is written, as the agent
//! will do: a change that the agent would refuse is refused here.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use picket_policy::api::API_VERSION;
use picket_policy::yaml::{EditError, remove_document, set_text};
use picket_policy::{Absence, Diagnostic, Document, PolicySet, builtin};
use serde_json::{Value, json};
use thiserror::Error;

use super::files::{FileSource, read_all};
use super::parsed::{parse, parse_beside};
use super::source::{Manifest, Source as _};
use super::{Readings, StoreError, compile, documents_of};

/// Why an object is not changed. Nothing was written then, but for [`ObjectEditError::Unsynced`].
#[derive(Debug, Error)]
pub enum ObjectEditError {
    /// The files cannot be read, or are not valid with the change.
    #[error(transparent)]
    Objects(#[from] StoreError),
    /// No object of that kind and name is in the files.
    #[error("no {kind} {name:?} is in {}; there: {}", paths(places), names_told(names))]
    NotFound {
        /// The kind.
        kind: String,
        /// The name.
        name: String,
        /// Where it was looked.
        places: Vec<PathBuf>,
        /// The names of that kind that are there.
        names: Vec<String>,
    },
    /// There is one already.
    #[error("{kind} {name:?} exists already, in {place}")]
    Exists {
        /// The kind.
        kind: String,
        /// The name.
        name: String,
        /// `file:line`.
        place: String,
    },
    /// It is not known in which file a new object belongs.
    #[error("{} paths hold objects; say with --files in which folder or file a new object belongs", .0)]
    WhereTo(usize),
    /// The file is a link, such as those of a mounted ConfigMap: its source is to be changed.
    #[error("{}: is a symbolic link, as in a mounted ConfigMap; change the file that it comes from", .0.display())]
    Link(PathBuf),
    /// Without it no object is left, and the agent would keep the last ones in force.
    #[error(
        "{kind} {name:?} is the only object: an agent that finds no file keeps the last objects in force. To stop an agent, set the \
         state of its AgentIdentity to Suspended or Revoked"
    )]
    Last {
        /// The kind.
        kind: String,
        /// The name.
        name: String,
    },
    /// The text is in a form that is not edited.
    #[error("{}: {source}", path.display())]
    Text {
        /// The file.
        path: PathBuf,
        /// Why.
        source: EditError,
    },
    /// Somebody else changed the file meanwhile.
    #[error("{}: the file changed while it was edited; run the command again", .0.display())]
    Raced(PathBuf),
    /// The system refused.
    #[error("{}: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The change is written, and a loss of power may undo it.
    #[error("{}: the change is written, and is not known to outlive a loss of power: {source}", path.display())]
    Unsynced {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
}

fn paths(places: &[PathBuf]) -> String {
    let places: Vec<_> = places.iter().map(|path| path.display().to_string()).collect();
    places.join(", ")
}

/// At most this many names are told: a terminal's screen.
const NAMES_TOLD: usize = 20;

/// Names as an error lists them.
pub(crate) fn names_told(names: &[String]) -> String {
    match names.len() {
        0 => "none".to_owned(),
        count if count > NAMES_TOLD => format!(
            "{} and {} more",
            names[..NAMES_TOLD].join(", "),
            count - NAMES_TOLD
        ),
        _ => names.join(", "),
    }
}

/// Where an object is kept.
#[derive(Debug, Clone)]
struct Place {
    /// The file's place among those that were read.
    file: usize,
    /// The document's place in the file.
    document: usize,
}

/// The objects in the files that an agent reads, for a command that changes one.
#[derive(Debug)]
pub struct ObjectFiles {
    paths: Vec<PathBuf>,
    manifests: Vec<Manifest>,
    readings: Readings,
    set: PolicySet,
    /// Whether what was wrong before a change is no reason against it.
    takes_faults: bool,
    /// Whether names that are in no file may be those of objects in the cluster.
    of_cluster: bool,
}

impl ObjectFiles {
    /// Reads them. A folder without files is no error here: the first object may be on its way.
    ///
    /// # Errors
    /// Where they cannot be read, or are not valid.
    pub fn read(paths: &[PathBuf]) -> Result<Self, ObjectEditError> {
        Self::read_beside(paths, false)
    }

    /// As [`ObjectFiles::read`], for files that may name what is in the cluster where `of_cluster`.
    ///
    /// # Errors
    /// As [`ObjectFiles::read`].
    pub fn read_beside(paths: &[PathBuf], of_cluster: bool) -> Result<Self, ObjectEditError> {
        let manifests = read_some(paths)?;
        let readings = parse(&manifests);
        let set = together(&readings, of_cluster)?;
        Ok(Self {
            paths: paths.to_vec(),
            manifests,
            readings,
            set,
            takes_faults: false,
            of_cluster,
        })
    }

    /// Likewise, to shut an agent out or take a right back, which no fault must keep anybody from. A change may leave faults as they
    /// are, and add none.
    ///
    /// # Errors
    /// Where the files cannot be read.
    pub fn read_faulty(paths: &[PathBuf]) -> Result<Self, ObjectEditError> {
        Self::read_faulty_beside(paths, false)
    }

    /// As [`ObjectFiles::read_faulty`], for files that may name what is in the cluster where `of_cluster`.
    ///
    /// # Errors
    /// As [`ObjectFiles::read_faulty`].
    pub fn read_faulty_beside(paths: &[PathBuf], of_cluster: bool) -> Result<Self, ObjectEditError> {
        let manifests = read_some(paths)?;
        let readings = parse(&manifests);
        let set = match together(&readings, of_cluster) {
            Ok(set) => set,
            Err(StoreError::Objects { .. }) => {
                PolicySet::deny_all(Absence::Invalid("the files are not valid".to_owned()))
            }
            Err(error) => return Err(error.into()),
        };
        Ok(Self {
            paths: paths.to_vec(),
            manifests,
            readings,
            set,
            takes_faults: true,
            of_cluster,
        })
    }

    /// Checks what files are to become.
    fn check(&self, before: &[Manifest], after: &[Manifest]) -> Result<(), StoreError> {
        let parse = |manifests: &[Manifest]| parse_beside(manifests, &self.manifests, &self.readings);
        let (before, after) = (parse(before), parse(after));
        let Err(error) = together(&after, self.of_cluster) else {
            return Ok(());
        };
        // Of objects beside one that cannot be read it was not known what is wrong with them together.
        if self.takes_faults && documents_of(&before).is_err() && documents_of(&after).is_ok() {
            return Ok(());
        }
        let faults = match together(&before, self.of_cluster) {
            Err(StoreError::Objects { errors }) if self.takes_faults => errors,
            _ => Vec::new(),
        };
        // Lines may have moved.
        let was_there = |error: &Diagnostic| {
            let same = |fault: &Diagnostic| {
                fault.file == error.file && without_places(&fault.reason) == without_places(&error.reason)
            };
            faults.iter().any(same)
        };
        match &error {
            StoreError::Objects { errors } if errors.iter().all(was_there) => Ok(()),
            _ => Err(error),
        }
    }

    /// The objects, in the order of the files.
    pub fn documents(&self) -> impl Iterator<Item = &Document> {
        let entries = self.readings.iter().flat_map(|(_, reading)| &reading.entries);
        entries.filter_map(|entry| entry.document.as_ref())
    }

    /// What the agent would make of them.
    #[must_use]
    pub fn set(&self) -> &PolicySet {
        &self.set
    }

    /// An object.
    ///
    /// # Errors
    /// Where there is none of that kind and name.
    pub fn find(&self, kind: &str, name: &str) -> Result<&Document, ObjectEditError> {
        let place = self.place(kind, name)?;
        let entry = &self.readings[place.file].1.entries[place.document];
        entry.document.as_ref().ok_or_else(|| self.not_found(kind, name))
    }

    /// An object as it is written, for one that may be faulty.
    ///
    /// # Errors
    /// Where there is none of that kind and name.
    pub fn written(&self, kind: &str, name: &str) -> Result<Value, ObjectEditError> {
        let place = self.place(kind, name)?;
        let state = &self.readings[place.file].1.entries[place.document].state;
        let all = serde_saphyr::from_multiple::<Value>(&self.manifests[place.file].text);
        let written = all.ok().and_then(|all| all.into_iter().nth(place.document));
        let is_it = |written: &Value| written["kind"] == kind && written["metadata"]["name"] == name;
        // What this reader takes otherwise than the one of objects is shown by what decides.
        Ok(written.filter(is_it).unwrap_or_else(
            || json!({"apiVersion": API_VERSION, "kind": kind, "metadata": {"name": name}, "spec": {"state": state}}),
        ))
    }

    /// Sets text fields of an object, each by its path. `dry_run` writes nothing.
    ///
    /// # Errors
    /// Where there is no such object, or the change cannot be made or cannot stand.
    pub fn set_fields(
        &self,
        kind: &str,
        name: &str,
        fields: &[(&[&str], &str)],
        dry_run: bool,
    ) -> Result<PathBuf, ObjectEditError> {
        let place = self.place(kind, name)?;
        let manifest = &self.manifests[place.file];
        let text = fields
            .iter()
            .try_fold(manifest.text.clone(), |text, (path, value)| {
                set_text(&text, place.document, path, value)
            });
        let text = in_file(&manifest.path, text)?;
        self.replace(place.file, Some(text), (kind, name), dry_run)
    }

    /// Takes an object out, and its file where nothing else is in it.
    ///
    /// # Errors
    /// As [`ObjectFiles::set_fields`].
    pub fn remove(&self, kind: &str, name: &str, dry_run: bool) -> Result<PathBuf, ObjectEditError> {
        let place = self.place(kind, name)?;
        let manifest = &self.manifests[place.file];
        let text = in_file(&manifest.path, remove_document(&manifest.text, place.document))?;
        self.replace(place.file, text, (kind, name), dry_run)
    }

    /// Adds an object: to the one file that was named, or as a file of its own to the one folder.
    ///
    /// # Errors
    /// Where there is one of that kind and name, or it cannot stand beside the others.
    pub fn add(&self, kind: &str, name: &str, yaml: &str, dry_run: bool) -> Result<PathBuf, ObjectEditError> {
        if let Ok(place) = self.place(kind, name) {
            let (file, reading) = &self.readings[place.file];
            return Err(ObjectEditError::Exists {
                kind: kind.to_owned(),
                name: name.to_owned(),
                place: format!("{file}:{}", reading.entries[place.document].line),
            });
        }
        let [path] = &self.paths[..] else {
            return Err(ObjectEditError::WhereTo(self.paths.len()));
        };
        if !path.is_dir() {
            let file = self.manifests.iter().position(|manifest| manifest.path == *path);
            let file = file.ok_or_else(|| self.not_found(kind, name))?;
            let before = self.manifests[file].text.trim_end();
            let text = format!("{before}\n---\n{yaml}");
            return self.replace(file, Some(text), (kind, name), dry_run);
        }
        let new = path.join(format!("{}-{name}.yaml", kind.to_ascii_lowercase()));
        let (before, _locks) = self.lock(dry_run)?;
        let mut after = before.clone();
        after.push(Manifest::new(new.clone(), yaml.to_owned()));
        self.check(&before, &after)?;
        if !dry_run {
            // Not to be replaced: what has that name is no file of objects that was read.
            write(&new, None, yaml)?;
            sync_folder(&new)?;
        }
        Ok(new)
    }

    fn place(&self, kind: &str, name: &str) -> Result<Place, ObjectEditError> {
        let places = self.readings.iter().enumerate().find_map(|(file, (_, reading))| {
            let is = |entry: &picket_policy::api::DocumentEntry| entry.kind == kind && entry.name == name;
            let document = reading.entries.iter().position(is)?;
            Some(Place { file, document })
        });
        places.ok_or_else(|| self.not_found(kind, name))
    }

    fn not_found(&self, kind: &str, name: &str) -> ObjectEditError {
        let of_kind = self.documents().filter(|document| document.kind() == kind);
        ObjectEditError::NotFound {
            kind: kind.to_owned(),
            name: name.to_owned(),
            places: self.paths.clone(),
            names: of_kind.map(|document| document.name().to_owned()).collect(),
        }
    }

    /// Replaces a file's text, or removes the file, where all objects can stand then. The text is for an object of this kind and name.
    fn replace(
        &self,
        file: usize,
        text: Option<String>,
        (kind, name): (&str, &str),
        dry_run: bool,
    ) -> Result<PathBuf, ObjectEditError> {
        let read = &self.manifests[file];
        let path = &read.path;
        let link = fs::symlink_metadata(path).map_err(failed_at(path))?.is_symlink();
        if link {
            return Err(ObjectEditError::Link(path.clone()));
        }
        let (before, _locks) = self.lock(dry_run)?;
        let file = before.iter().position(|manifest| manifest == read);
        let file = file.ok_or_else(|| ObjectEditError::Raced(path.clone()))?;
        let mut after = before.clone();
        match &text {
            Some(text) => after[file].text.clone_from(text),
            None => drop(after.remove(file)),
        }
        if after.is_empty() {
            return Err(ObjectEditError::Last {
                kind: kind.to_owned(),
                name: name.to_owned(),
            });
        }
        self.check(&before, &after)?;
        if dry_run {
            return Ok(path.clone());
        }
        match text {
            Some(text) => write(path, Some(path), &text)?,
            None => fs::remove_file(path).map_err(failed_at(path))?,
        }
        sync_folder(path)?;
        Ok(path.clone())
    }

    /// The files as they are now, and kept from other commands until the locks are dropped: changes that each can stand may not
    /// stand together. A dry run takes what was read, and no lock.
    fn lock(&self, dry_run: bool) -> Result<(Vec<Manifest>, Vec<File>), ObjectEditError> {
        if dry_run {
            return Ok((self.manifests.clone(), Vec::new()));
        }
        // In the order of their names, as every command has it, so that no two wait for each other.
        let folders = FileSource::new(&self.paths).folders();
        let locks = folders
            .iter()
            .map(|folder| lock(folder))
            .collect::<Result<_, _>>()?;
        Ok((read_some(&self.paths)?, locks))
    }
}

/// What the agent would make of files, which may name what is in the cluster where `of_cluster`.
fn together(readings: &Readings, of_cluster: bool) -> Result<PolicySet, StoreError> {
    if !of_cluster {
        return compile(readings, builtin::OWN_NAMESPACE);
    }
    let (set, _) = PolicySet::compile_beside_cluster(&documents_of(readings)?, builtin::OWN_NAMESPACE)
        .map_err(|errors| StoreError::Objects { errors })?;
    Ok(set)
}

/// Reads the files. A folder without any is no error here: the first object may be on its way.
fn read_some(paths: &[PathBuf]) -> Result<Vec<Manifest>, StoreError> {
    match read_all(paths) {
        Err(StoreError::Empty { .. }) => Ok(Vec::new()),
        read => read,
    }
}

fn in_file<T>(path: &Path, edited: Result<T, EditError>) -> Result<T, ObjectEditError> {
    edited.map_err(|source| ObjectEditError::Text {
        path: path.to_owned(),
        source,
    })
}

fn failed_at(path: &Path) -> impl Fn(io::Error) -> ObjectEditError + use<> {
    let path = path.to_owned();
    move |source| ObjectEditError::Write {
        path: path.clone(),
        source,
    }
}

/// Locks a folder (flock(2)), so that two commands do not write at once; whoever edits by hand is met by the comparison with what was
/// read.
fn lock(folder: &Path) -> Result<File, ObjectEditError> {
    let file = File::open(folder).map_err(failed_at(folder))?;
    file.lock().map_err(failed_at(folder))?;
    Ok(file)
}

/// A name is on disk once its folder is: a revocation that was told as done must outlive a loss of power.
fn sync_folder(path: &Path) -> Result<(), ObjectEditError> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let synced = File::open(folder.unwrap_or(Path::new("."))).and_then(|folder| folder.sync_all());
    synced.map_err(|source| ObjectEditError::Unsynced {
        path: path.to_owned(),
        source,
    })
}

/// Writes a file in one step, so that the agent reads the old text or the new one. Where it replaces one, its owner and mode
/// stay; where it does not, nothing may have its name.
fn write(path: &Path, replaced: Option<&Path>, text: &str) -> Result<(), ObjectEditError> {
    let failed = failed_at(path);
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    // A name that begins with a dot is no file of objects.
    let mut file = tempfile::Builder::new()
        .prefix(".picket-")
        .tempfile_in(folder.unwrap_or(Path::new(".")))
        .map_err(&failed)?;
    file.write_all(text.as_bytes()).map_err(&failed)?;
    match replaced {
        Some(replaced) => {
            let before = fs::metadata(replaced).map_err(&failed)?;
            file.as_file()
                .set_permissions(before.permissions())
                .map_err(&failed)?;
            let is_ours = file.as_file().metadata().map_err(&failed)?;
            if (is_ours.uid(), is_ours.gid()) != (before.uid(), before.gid()) {
                std::os::unix::fs::fchown(file.as_file(), Some(before.uid()), Some(before.gid()))
                    .map_err(&failed)?;
            }
            file.as_file().sync_all().map_err(&failed)?;
            file.persist(path).map_err(|error| failed(error.error))?;
        }
        None => {
            use std::os::unix::fs::PermissionsExt as _;
            let readable = fs::Permissions::from_mode(0o644);
            file.as_file().set_permissions(readable).map_err(&failed)?;
            file.as_file().sync_all().map_err(&failed)?;
            file.persist_noclobber(path)
                .map_err(|error| failed(error.error))?;
        }
    }
    Ok(())
}

/// A fault's reason without the lines and columns that it names.
fn without_places(reason: &str) -> String {
    let mut parts = reason.split(':');
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |text, part| {
        let rest = part.trim_start_matches(|letter: char| letter.is_ascii_digit());
        let colon = if rest.len() == part.len() { ":" } else { "" };
        text + colon + rest
    })
}

#[cfg(test)]
#[path = "edit_tests.rs"]
mod tests;
