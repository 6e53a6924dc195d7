//! The status of every object: whether it is in force as it is written, and if not, why and what is in force instead.
//!
//! In: what the sources said at a reading, and what became of the reading. Out: [`ObjectStatus`]es in the order of the sources.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;

use jiff::Timestamp;
use picket_policy::api::v1alpha1::{AgentIdentitySpec, Spec as _, State};
use picket_policy::api::{AnyObject, FileReading};
use picket_policy::{Diagnostic, Document, Standing};
use serde::{Deserialize, Serialize};

use super::judged::Judged;
use super::shut_out::ShutOut;

/// An object that the sources hold, or that is in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ObjectStatus {
    /// The kind; empty where it cannot be read.
    pub kind: String,
    /// The name; empty where it cannot be read.
    pub name: String,
    /// Where its name is written, as `file:line`.
    pub source: String,
    /// Whether it is in force as it is written.
    pub ready: bool,
    /// Why it is ready or not.
    pub reason: StatusReason,
    /// The reason in sentences. For an object that is ready: what is worth knowing of it, such as an identity that may not act.
    pub message: String,
    /// The generation of the set that took up the version in force; absent where no version of it is in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<u64>,
    /// Whether the agent may act by the AgentIdentity in force; absent where none is, and for other kinds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<IdentityState>,
    /// When the AgentIdentity in force expires or expired.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    /// The workloads of this node that claim the exclusive AgentIdentity in force, such as `Deployment/fixer`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub workloads: Vec<String>,
    /// Since when this version of the object is as its reason says, wherever it is written.
    pub since: Timestamp,
}

/// Whether an agent may act.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum IdentityState {
    /// It may.
    Active,
    /// It may not until its owner says so.
    Suspended,
    /// It may never again.
    Revoked,
    /// It may not since its `expiresAt`.
    Expired,
    /// It may not since its `reviewBy`, until somebody has looked.
    Overdue,
}

impl From<Standing> for IdentityState {
    fn from(standing: Standing) -> Self {
        match standing {
            Standing::Active => Self::Active,
            Standing::Suspended => Self::Suspended,
            Standing::Revoked => Self::Revoked,
            Standing::Expired(_) => Self::Expired,
            Standing::Overdue(_) => Self::Overdue,
        }
    }
}

/// Why an object is ready or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum StatusReason {
    /// It is in force as it is written.
    InForce,
    /// Something in it cannot stand, by itself or beside the others.
    Invalid,
    /// It is valid and waits: objects come into force all together, and another one is invalid.
    OthersInvalid,
    /// Where it was written cannot be read now.
    SourceUnreadable,
}

/// Kind and name.
type Key = (String, String);

/// The version of an object that is in force.
#[derive(Debug, Clone)]
struct Version {
    fingerprint: u64,
    source: String,
    file: String,
    generation: u64,
    /// What an AgentIdentity says of whether its agent may act, and until when.
    standing: Option<Limits>,
}

/// A status, and what of it depends on the time that it is asked at.
#[derive(Debug, Clone)]
struct Kept {
    status: ObjectStatus,
    standing: Option<Limits>,
}

/// What an object's age is counted from: the same object that says the same, and is as it was. Its place is no part of this.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Condition {
    key: Key,
    reason: StatusReason,
    content: Content,
    generation: Option<u64>,
}

/// What an object says.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Content {
    /// The fingerprint of one that can be read.
    Read(u64),
    /// What is wrong with one that cannot.
    Faulty(Vec<String>),
}

/// Keeps the statuses.
#[derive(Debug, Default)]
pub(super) struct StatusBoard {
    in_force: BTreeMap<Key, Version>,
    statuses: Vec<Kept>,
    since: HashMap<Condition, Timestamp>,
    /// Those of the cluster's objects, which follow the files'.
    of_cluster: Vec<Kept>,
    /// The agents that faulty files shut out all the same.
    shut_out: ShutOut,
    /// What is in force of the identities of files that the cluster's of the same name shut out.
    by_cluster: HashMap<String, Limits>,
}

/// What an object says, so that a version can be told from another without being kept.
fn fingerprint(document: &Document) -> u64 {
    let mut hasher = DefaultHasher::new();
    let text = match &document.object {
        AnyObject::Identity(object) => serde_json::to_string(object),
        AnyObject::Grant(object) => serde_json::to_string(object),
        AnyObject::Policy(object) => serde_json::to_string(object),
    };
    text.unwrap_or_default().hash(&mut hasher);
    hasher.finish()
}

/// What decides whether an agent may act at a moment: its state, when it expires, and from when on an overdue review suspends it.
pub(super) type Limits = (State, Option<Timestamp>, Option<Timestamp>);

pub(super) fn standing(document: &Document) -> Option<Limits> {
    let AnyObject::Identity(identity) = &document.object else {
        return None;
    };
    let spec = &identity.spec;
    Some((spec.state, spec.expires_at, spec.suspended_from()))
}

/// What is to be known of an object in force: it would look like any other while its agent is shut out.
fn note(standing: Standing) -> String {
    let state = match standing {
        Standing::Active => return String::new(),
        Standing::Suspended => "Suspended".to_owned(),
        Standing::Revoked => "Revoked".to_owned(),
        Standing::Expired(at) => format!("Expired at {at}"),
        Standing::Overdue(at) => format!("Not reviewed by {at}"),
    };
    format!("{state}: every request of this agent is denied")
}

/// Several errors of one object as one text, each with its line.
fn joined(errors: &[&Diagnostic]) -> String {
    let lines = errors
        .iter()
        .map(|error| format!("line {}: {}", error.line, error.reason));
    lines.collect::<Vec<_>>().join("; ")
}

impl Kept {
    /// The status at `now`.
    fn at(&self, now: Timestamp) -> ObjectStatus {
        let mut status = self.status.clone();
        let Some((state, expires_at, suspended_from)) = self.standing else {
            return status;
        };
        let standing = Standing::of(state, expires_at, suspended_from, now);
        status.state = Some(standing.into());
        status.expires_at = expires_at;
        if status.ready && standing != Standing::Active {
            status.message = note(standing);
        }
        status
    }

    /// The status at `now` of an identity in a file, of which the cluster's of the same name leaves this.
    fn limited(&self, limits: Limits, now: Timestamp) -> ObjectStatus {
        let mut limited = self.clone();
        // That none is in force stays so.
        limited.standing = self.standing.map(|_| limits);
        let mut status = limited.at(now);
        if !status.message.is_empty() {
            status.message.push_str(". ");
        }
        status
            .message
            .push_str("The AgentIdentity of the same name in the cluster limits this one");
        status
    }

    /// The status of an agent that is shut out though the version that says so is not in force.
    fn shut_out(&self, state: State) -> Self {
        let mut shut = self.clone();
        if let Some((of, ..)) = &mut shut.standing {
            *of = state;
        }
        shut.status
            .message
            .push_str(". The agent is shut out all the same");
        shut
    }
}

impl StatusBoard {
    /// The statuses at `now`, in the order of the sources.
    pub(super) fn statuses(&self, now: Timestamp) -> Vec<ObjectStatus> {
        let of_files = self.statuses.iter().map(|kept| self.of_file(kept, now));
        let of_cluster = self.of_cluster.iter().map(|kept| kept.at(now));
        of_files.chain(of_cluster).collect()
    }

    /// The status of a file's object at `now`.
    fn of_file(&self, kept: &Kept, now: Timestamp) -> ObjectStatus {
        let name = &kept.status.name;
        if kept.status.kind != AgentIdentitySpec::KIND {
            return kept.at(now);
        }
        let shut = self.shut_out.get(name).map(|by| kept.shut_out(by.state()));
        let kept = shut.as_ref().unwrap_or(kept);
        match self.by_cluster.get(name) {
            Some(limits) => kept.limited(*limits, now),
            None => kept.at(now),
        }
    }

    /// Notes what became of the cluster's objects in the set of this generation.
    pub(super) fn judged(&mut self, judged: &Judged, generation: u64, now: Timestamp) {
        let known = std::mem::take(&mut self.of_cluster);
        let known: HashMap<_, _> = known
            .iter()
            .map(|kept| {
                (
                    (kept.status.kind.as_str(), kept.status.name.as_str()),
                    &kept.status,
                )
            })
            .collect();
        let kept = judged.objects().map(|object| {
            let ready = object.is_ready();
            let (reason, message) = match ready {
                true => (StatusReason::InForce, object.message()),
                false => (StatusReason::Invalid, object.message()),
            };
            // The API server's number of the version tells whether it is the same.
            let source = format!("cluster, generation {}", object.entry.generation);
            let before = known.get(&(object.kind(), object.entry.name.as_str()));
            let same = before.filter(|before| (before.reason, &before.source) == (reason, &source));
            let first = same.and_then(|before| before.generation).unwrap_or(generation);
            let last = before.and_then(|before| before.generation);
            let in_force = object.in_force();
            let status = ObjectStatus {
                kind: object.kind().to_owned(),
                name: object.entry.name.clone(),
                source,
                ready,
                reason,
                message,
                generation: in_force.map(|_| if ready { first } else { last.unwrap_or(generation) }),
                state: None,
                expires_at: None,
                workloads: Vec::new(),
                since: same.map_or(now, |before| before.since),
            };
            Kept {
                status,
                standing: in_force.and_then(standing),
            }
        });
        self.of_cluster = kept.collect();
        let limited = judged.snapshot.entries.iter();
        let limited = limited.filter_map(|entry| Some((entry.name.clone(), entry.limits_file?)));
        self.by_cluster = limited.collect();
    }

    /// Notes that all of a reading came into force, as the set of this generation.
    pub(super) fn accepted(&mut self, files: &[(String, Arc<FileReading>)], generation: u64, now: Timestamp) {
        self.shut_out.clear();
        let mut in_force = BTreeMap::new();
        let mut next = Next::new(now);
        for (file, entry) in entries(files) {
            let Some(document) = &entry.document else { continue };
            let key = (entry.kind.clone(), entry.name.clone());
            let fingerprint = fingerprint(document);
            let before = self.in_force.get(&key);
            let same = before.filter(|version| version.fingerprint == fingerprint);
            let version = Version {
                fingerprint,
                source: format!("{file}:{}", entry.line),
                file: file.to_owned(),
                generation: same.map_or(generation, |version| version.generation),
                standing: standing(document),
            };
            let content = Content::Read(fingerprint);
            let reason = StatusReason::InForce;
            next.add(self, &key, &version.source, reason, "", content, Some(&version));
            in_force.insert(key, version);
        }
        self.in_force = in_force;
        self.take(next);
    }

    /// Notes that a reading came into force in no part, and what is at fault.
    pub(super) fn rejected(
        &mut self,
        files: &[(String, Arc<FileReading>)],
        errors: &[Diagnostic],
        now: Timestamp,
    ) {
        let mut next = Next::new(now);
        let mut seen = HashSet::new();
        for (file, reading) in files {
            for (index, entry) in reading.entries.iter().enumerate() {
                let end = reading
                    .entries
                    .get(index + 1)
                    .map_or(u32::MAX, |next| next.first_line);
                let own: Vec<_> = errors
                    .iter()
                    .filter(|error| error.file == *file && (entry.first_line..end).contains(&error.line))
                    .collect();
                let key = (entry.kind.clone(), entry.name.clone());
                let version = self.in_force.get(&key);
                let content = match &entry.document {
                    Some(document) => Content::Read(fingerprint(document)),
                    None => Content::Faulty(own.iter().map(|error| error.reason.clone()).collect()),
                };
                let unchanged = version.is_some_and(|version| content == Content::Read(version.fingerprint));
                let (reason, message) = if !own.is_empty() {
                    (StatusReason::Invalid, joined(&own))
                } else if unchanged {
                    (StatusReason::InForce, String::new())
                } else {
                    let message = "another object is invalid, and objects come into force all together";
                    (StatusReason::OthersInvalid, message.to_owned())
                };
                let source = format!("{file}:{}", entry.line);
                next.add(self, &key, &source, reason, &message, content, version);
                seen.insert(key);
            }
        }
        let gone = self.in_force.iter().filter(|(key, _)| !seen.contains(key));
        for (key, version) in gone {
            // Of a file that is no YAML nothing can be told, so that its objects may be in it still.
            let broken = files
                .iter()
                .find(|(file, reading)| *file == version.file && reading.entries.is_empty());
            let (reason, message) = match broken {
                Some((_, reading)) => (
                    StatusReason::SourceUnreadable,
                    joined(&reading.errors.iter().collect::<Vec<_>>()),
                ),
                None => (
                    StatusReason::OthersInvalid,
                    "it was removed, and another object is invalid".to_owned(),
                ),
            };
            let content = Content::Read(version.fingerprint);
            next.add(
                self,
                key,
                &version.source,
                reason,
                &message,
                content,
                Some(version),
            );
        }
        self.take(next);
    }

    /// Notes that the sources could not be read.
    pub(super) fn unreadable(&mut self, error: &str, now: Timestamp) {
        let reason = StatusReason::SourceUnreadable;
        let mut next = Next::new(now);
        for (key, version) in &self.in_force {
            let content = Content::Read(version.fingerprint);
            next.add(self, key, &version.source, reason, error, content, Some(version));
        }
        next.statuses
            .sort_by(|one, other| one.status.source.cmp(&other.status.source));
        self.take(next);
    }

    /// Notes which agents are shut out though the files did not come into force.
    pub(super) fn shut_out(&mut self, states: &ShutOut) {
        self.shut_out.clone_from(states);
    }

    fn take(&mut self, next: Next) {
        self.statuses = next.statuses;
        self.since = next.since;
    }
}

/// The statuses after a reading.
#[derive(Debug)]
struct Next {
    now: Timestamp,
    statuses: Vec<Kept>,
    since: HashMap<Condition, Timestamp>,
}

impl Next {
    fn new(now: Timestamp) -> Self {
        Self {
            now,
            statuses: Vec::new(),
            since: HashMap::new(),
        }
    }

    /// Adds the status of an object that says this, and is as it was on the board or is so from now on.
    #[expect(clippy::too_many_arguments, reason = "each is another part of a status")]
    fn add(
        &mut self,
        board: &StatusBoard,
        key: &Key,
        source: &str,
        reason: StatusReason,
        message: &str,
        content: Content,
        in_force: Option<&Version>,
    ) {
        let ready = reason == StatusReason::InForce;
        let instead = match in_force {
            _ if ready => String::new(),
            Some(version) => format!(
                ". The version of generation {} stays in force",
                version.generation
            ),
            None => ". No version of it is in force".to_owned(),
        };
        let generation = in_force.map(|version| version.generation);
        let condition = Condition {
            key: key.clone(),
            reason,
            content,
            generation,
        };
        let since = board.since.get(&condition).copied().unwrap_or(self.now);
        self.since.insert(condition, since);
        let (kind, name) = key.clone();
        self.statuses.push(Kept {
            status: ObjectStatus {
                kind,
                name,
                source: source.to_owned(),
                ready,
                reason,
                message: format!("{message}{instead}"),
                generation,
                state: None,
                expires_at: None,
                workloads: Vec::new(),
                since,
            },
            standing: in_force.and_then(|version| version.standing),
        });
    }
}

fn entries(
    files: &[(String, Arc<FileReading>)],
) -> impl Iterator<Item = (&str, &picket_policy::api::DocumentEntry)> {
    files
        .iter()
        .flat_map(|(file, reading)| reading.entries.iter().map(move |entry| (file.as_str(), entry)))
}
