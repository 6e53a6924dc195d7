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
mod tests {
    use super::*;

    const IDENTITY: &str = "apiVersion: picket.dev/v1alpha1\nkind: AgentIdentity\nmetadata: {name: NAME}\nspec:\n  owner: team  # ours\n  \
        attest: {pod: {namespace: ns, serviceAccount: NAME}}\n";
    const STATE: &[&str] = &["spec", "state"];

    fn folder() -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a folder");
        let both = format!(
            "{}---\n{}",
            IDENTITY.replace("NAME", "a"),
            IDENTITY.replace("NAME", "b")
        );
        fs::write(folder.path().join("both.yaml"), both).expect("written");
        folder
    }

    fn read(folder: &tempfile::TempDir) -> ObjectFiles {
        ObjectFiles::read(&[folder.path().to_owned()]).expect("valid")
    }

    fn text(folder: &tempfile::TempDir, name: &str) -> String {
        fs::read_to_string(folder.path().join(name)).expect("text")
    }

    #[test]
    fn one_field_changes_and_the_file_keeps_its_mode() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = folder();
        let path = folder.path().join("both.yaml");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).expect("set");
        let before = text(&folder, "both.yaml");
        let changed = read(&folder).set_fields("AgentIdentity", "b", &[(STATE, "Revoked")], false);
        assert_eq!(changed.expect("changed"), path);
        let (first, second) = before.split_once("---\n").expect("two");
        let second = second.replace("  owner", "  state: Revoked\n  owner");
        assert_eq!(text(&folder, "both.yaml"), format!("{first}---\n{second}"));
        assert_eq!(fs::metadata(&path).expect("there").mode() & 0o777, 0o640);
        assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), 1);
    }

    #[test]
    fn a_dry_run_writes_nothing_and_what_the_agent_would_refuse_is_refused() {
        let folder = folder();
        let before = text(&folder, "both.yaml");
        let files = read(&folder);
        files
            .set_fields("AgentIdentity", "b", &[(STATE, "Revoked")], true)
            .expect("valid");
        files.remove("AgentIdentity", "b", true).expect("valid");
        files
            .add("AgentIdentity", "c", &IDENTITY.replace("NAME", "c"), true)
            .expect("valid");
        let error = files
            .set_fields("AgentIdentity", "b", &[(STATE, "Gone")], false)
            .expect_err("no state");
        assert!(error.to_string().contains("Gone"), "{error}");
        let twice = IDENTITY.replace("name: NAME", "name: c").replace("NAME", "a");
        let error = files
            .add("AgentIdentity", "c", &twice, false)
            .expect_err("the pods of a");
        assert!(error.to_string().contains("match"), "{error}");
        assert_eq!(text(&folder, "both.yaml"), before);
        assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), 1);
    }

    #[test]
    fn an_object_is_added_as_a_file_of_its_own_and_taken_out_with_it() {
        let folder = folder();
        let yaml = IDENTITY.replace("NAME", "c");
        read(&folder)
            .add("AgentIdentity", "c", &yaml, false)
            .expect("added");
        assert_eq!(text(&folder, "agentidentity-c.yaml"), yaml);
        let error = read(&folder)
            .add("AgentIdentity", "c", &yaml, false)
            .expect_err("exists");
        assert!(error.to_string().ends_with("agentidentity-c.yaml:3"), "{error}");
        read(&folder)
            .remove("AgentIdentity", "c", false)
            .expect("removed");
        assert!(!folder.path().join("agentidentity-c.yaml").exists());
        read(&folder)
            .remove("AgentIdentity", "a", false)
            .expect("removed");
        assert_eq!(text(&folder, "both.yaml"), IDENTITY.replace("NAME", "b"));
        // An agent that finds no file keeps what it has.
        let error = read(&folder).remove("AgentIdentity", "b", false);
        assert!(error.is_err_and(|error| error.to_string().contains("is the only object")));
        assert!(folder.path().join("both.yaml").exists());
    }

    #[test]
    fn an_object_is_added_to_the_file_that_is_named() {
        let folder = folder();
        let path = folder.path().join("both.yaml");
        let before = text(&folder, "both.yaml");
        let files = ObjectFiles::read(&[path]).expect("valid");
        files
            .add("AgentIdentity", "c", &IDENTITY.replace("NAME", "c"), false)
            .expect("added");
        assert_eq!(
            text(&folder, "both.yaml"),
            format!("{before}---\n{}", IDENTITY.replace("NAME", "c"))
        );
        let other = folder.path().join("other");
        fs::create_dir(&other).expect("a folder");
        let two = ObjectFiles::read(&[folder.path().join("both.yaml"), other]).expect("valid");
        let error = two
            .add("AgentIdentity", "d", &IDENTITY.replace("NAME", "d"), false)
            .expect_err("where?");
        assert!(matches!(error, ObjectEditError::WhereTo(2)), "{error}");
    }

    #[test]
    fn nothing_is_written_over_another_change_or_through_a_link() {
        let folder = folder();
        let files = read(&folder);
        let path = folder.path().join("both.yaml");
        let meanwhile = format!("{}# mine\n", text(&folder, "both.yaml"));
        fs::write(&path, &meanwhile).expect("written");
        let error = files
            .set_fields("AgentIdentity", "b", &[(STATE, "Revoked")], false)
            .expect_err("raced");
        assert!(matches!(error, ObjectEditError::Raced(_)), "{error}");
        assert_eq!(text(&folder, "both.yaml"), meanwhile);
        fs::rename(&path, folder.path().join("..data")).expect("moved");
        std::os::unix::fs::symlink("..data", &path).expect("a link");
        let error = read(&folder)
            .remove("AgentIdentity", "b", false)
            .expect_err("a link");
        assert!(matches!(error, ObjectEditError::Link(_)), "{error}");
    }

    #[test]
    fn changes_that_each_can_stand_are_not_written_where_they_cannot_stand_together() {
        let folder = folder();
        let (one, other) = (read(&folder), read(&folder));
        let of_c = |name: &str| {
            IDENTITY
                .replace("name: NAME", &format!("name: {name}"))
                .replace("NAME", "c")
        };
        one.add("AgentIdentity", "c", &of_c("c"), false).expect("added");
        let error = other
            .add("AgentIdentity", "d", &of_c("d"), false)
            .expect_err("the pods of c");
        assert!(error.to_string().contains("match"), "{error}");
        // What stands beside it is added.
        other
            .add("AgentIdentity", "e", &IDENTITY.replace("NAME", "e"), false)
            .expect("added");
        assert!(ObjectFiles::read(&[folder.path().to_owned()]).is_ok());
        // Of two files each is removed by a command that still sees the other.
        fs::remove_file(folder.path().join("both.yaml")).expect("removed");
        let (one, other) = (read(&folder), read(&folder));
        one.remove("AgentIdentity", "c", false).expect("removed");
        let error = other.remove("AgentIdentity", "e", false).expect_err("the last");
        assert!(matches!(error, ObjectEditError::Last { .. }), "{error}");
    }

    #[test]
    fn a_file_that_cannot_be_read_keeps_nobody_from_shutting_an_agent_out() {
        let folder = folder();
        let paths = [folder.path().to_owned()];
        fs::write(folder.path().join("latin.yaml"), b"a: b\n# M\xfcller\n").expect("written");
        std::os::unix::fs::symlink("/nonexistent", folder.path().join("link.yaml")).expect("a link");
        let error = ObjectFiles::read(&paths).expect_err("two files").to_string();
        assert!(error.contains("latin.yaml:2:4: the file is not UTF-8"), "{error}");
        assert!(
            error.contains("link.yaml:1:1: the file cannot be read: "),
            "{error}"
        );
        let files = ObjectFiles::read_faulty(&paths).expect("read");
        files
            .set_fields("AgentIdentity", "b", &[(STATE, "Revoked")], false)
            .expect("changed");
        assert!(text(&folder, "both.yaml").contains("state: Revoked"));
    }

    #[test]
    fn an_object_that_is_not_there_is_told_with_those_that_are() {
        let folder = folder();
        let error = read(&folder)
            .remove("AgentIdentity", "z", false)
            .expect_err("none");
        assert!(
            error.to_string().starts_with("no AgentIdentity \"z\" is in "),
            "{error}"
        );
        assert!(error.to_string().ends_with("; there: a, b"), "{error}");
        let empty = tempfile::tempdir().expect("a folder");
        let error = read(&empty)
            .remove("AgentIdentity", "z", false)
            .expect_err("none");
        assert!(error.to_string().ends_with("; there: none"), "{error}");
    }

    #[test]
    fn a_fault_of_another_object_keeps_nobody_from_shutting_an_agent_out() {
        let folder = folder();
        fs::write(
            folder.path().join("c.yaml"),
            IDENTITY.replace("NAME", "c").replace("owner", "colour"),
        )
        .expect("written");
        let paths = [folder.path().to_owned()];
        assert!(ObjectFiles::read(&paths).is_err());
        let files = ObjectFiles::read_faulty(&paths).expect("read");
        files
            .set_fields("AgentIdentity", "b", &[(STATE, "Revoked")], false)
            .expect("changed");
        assert!(text(&folder, "both.yaml").contains("state: Revoked"));
        // A fault of its own is one, and so is one that another file has too.
        for (field, value) in [(STATE, "Gone"), (&["spec", "colour"][..], "colour")] {
            let files = ObjectFiles::read_faulty(&paths).expect("read");
            let error = files.set_fields("AgentIdentity", "b", &[(field, value)], false);
            assert!(error.is_err_and(|error| error.to_string().contains(value)));
        }
    }

    #[test]
    fn the_lines_that_a_fault_names_may_move() {
        let folder = folder();
        let paths = [folder.path().to_owned()];
        let of_one_account = |name: &str| {
            IDENTITY
                .replace("serviceAccount: NAME", "serviceAccount: one")
                .replace("NAME", name)
        };
        let alike = [
            IDENTITY.replace("NAME", "bad"),
            of_one_account("x"),
            of_one_account("y"),
        ];
        fs::write(folder.path().join("all.yaml"), alike.join("---\n")).expect("written");
        let files = ObjectFiles::read_faulty(&paths).expect("read");
        let revoked = files.set_fields("AgentIdentity", "bad", &[(STATE, "Revoked")], false);
        revoked.expect("the others' fault names another line now");
        assert!(text(&folder, "all.yaml").contains("state: Revoked"));
    }

    #[test]
    fn a_fault_of_the_object_itself_keeps_nobody_from_shutting_its_agent_out_or_taking_it_out() {
        let folder = folder();
        let paths = [folder.path().to_owned()];
        let faulty = IDENTITY
            .replace("NAME", "c")
            .replace("  owner", "  colour: red\n  state: Quarantined\n  owner");
        fs::write(folder.path().join("c.yaml"), &faulty).expect("written");
        // A fault that only shows once that object can be read.
        let policy = "apiVersion: picket.dev/v1alpha1\nkind: AgentPolicy\nmetadata: {name: p}\nspec:\n  subjects: {identities: [nobody]}\n  \
            rules: [{name: r, action: Deny, match: {resources: [secrets]}}]\n";
        fs::write(folder.path().join("p.yaml"), policy).expect("written");
        let files = ObjectFiles::read_faulty(&paths).expect("read");
        let written = files.written("AgentIdentity", "c").expect("it");
        assert_eq!(written["spec"]["state"], "Quarantined");
        assert_eq!(written["spec"]["owner"], "team");
        files
            .set_fields("AgentIdentity", "c", &[(STATE, "Revoked")], false)
            .expect("changed");
        assert_eq!(text(&folder, "c.yaml"), faulty.replace("Quarantined", "Revoked"));
        let files = ObjectFiles::read_faulty(&paths).expect("read");
        files.remove("AgentIdentity", "c", false).expect("removed");
        assert!(!folder.path().join("c.yaml").exists());
        // Nobody else's fault may come in.
        let files = ObjectFiles::read_faulty(&paths).expect("read");
        let error = files.set_fields("AgentIdentity", "b", &[(STATE, "Gone")], false);
        assert!(error.is_err());
    }

    #[test]
    fn files_beside_the_cluster_may_name_what_is_in_it() {
        let folder = folder();
        let paths = [folder.path().to_owned()];
        let policy = "apiVersion: picket.dev/v1alpha1\nkind: AgentPolicy\nmetadata: {name: p}\nspec:\n  subjects: {identities: [elsewhere]}\n  \
            rules: [{name: r, action: Deny, match: {resources: [secrets]}}]\n";
        fs::write(folder.path().join("p.yaml"), policy).expect("written");
        assert!(ObjectFiles::read(&paths).is_err());
        let files = ObjectFiles::read_beside(&paths, true).expect("valid");
        files
            .set_fields("AgentIdentity", "b", &[(STATE, "Active")], false)
            .expect("resumed");
        let files = ObjectFiles::read_faulty_beside(&paths, true).expect("valid");
        files
            .set_fields("AgentIdentity", "b", &[(STATE, "Suspended")], false)
            .expect("suspended");
        let files = ObjectFiles::read_beside(&paths, true).expect("valid");
        let new = IDENTITY.replace("NAME", "new");
        files.add("AgentIdentity", "new", &new, false).expect("added");
    }
}
