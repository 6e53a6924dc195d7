//! The status of every object: whether it is in force as it is written, and if not, why and what is in force instead.
//!
//! In: what the sources said at a reading, and what became of the reading. Out: [`ObjectStatus`]es in the order of the sources.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use jiff::Timestamp;
use picket_policy::api::v1alpha1::State;
use picket_policy::api::{AnyObject, FileReading};
use picket_policy::{Diagnostic, Document};
use serde::{Deserialize, Serialize};

/// An object that the sources hold, or that is in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ObjectStatus {
    /// The kind; empty where it cannot be read.
    pub kind: String,
    /// The name; empty where it cannot be read.
    pub name: String,
    /// Where it is written, as `file:line`.
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
    /// Since when all of this holds.
    pub since: Timestamp,
}

/// Why an object is ready or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
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
}

/// Keeps the statuses.
#[derive(Debug, Default)]
pub(super) struct StatusBoard {
    in_force: BTreeMap<Key, Version>,
    statuses: Vec<ObjectStatus>,
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

/// What is to be known of an object in force: it would look like any other while its agent is shut out.
fn note(document: &Document) -> &'static str {
    let AnyObject::Identity(identity) = &document.object else {
        return "";
    };
    match identity.spec.state {
        State::Active => "",
        State::Suspended => "Suspended: every request of this agent is denied",
        State::Revoked => "Revoked: every request of this agent is denied",
    }
}

/// Several errors of one object as one text, each with its line.
fn told(errors: &[&Diagnostic]) -> String {
    let lines = errors
        .iter()
        .map(|error| format!("line {}: {}", error.line, error.reason));
    lines.collect::<Vec<_>>().join("; ")
}

impl StatusBoard {
    /// The statuses, in the order of the sources.
    pub(super) fn statuses(&self) -> Vec<ObjectStatus> {
        self.statuses.clone()
    }

    /// Notes that all of a reading came into force, as the set of this generation.
    pub(super) fn accepted(&mut self, files: &[(String, FileReading)], generation: u64, now: Timestamp) {
        let mut in_force = BTreeMap::new();
        let mut statuses = Vec::new();
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
            };
            statuses.push(self.status(
                &key,
                &version.source,
                StatusReason::InForce,
                note(document),
                Some(&version),
                now,
            ));
            in_force.insert(key, version);
        }
        self.in_force = in_force;
        self.statuses = statuses;
    }

    /// Notes that a reading came into force in no part, and what is at fault.
    pub(super) fn rejected(
        &mut self,
        files: &[(String, FileReading)],
        errors: &[Diagnostic],
        now: Timestamp,
    ) {
        let mut statuses = Vec::new();
        let mut seen: Vec<Key> = Vec::new();
        for (file, reading) in files {
            for (index, entry) in reading.entries.iter().enumerate() {
                let end = reading.entries.get(index + 1).map_or(u32::MAX, |next| next.line);
                let own = errors
                    .iter()
                    .filter(|error| error.file == *file && (entry.line..end).contains(&error.line));
                let own: Vec<_> = own.collect();
                let key = (entry.kind.clone(), entry.name.clone());
                let version = self.in_force.get(&key);
                let unchanged = entry.document.as_ref().filter(|document| {
                    version.is_some_and(|version| fingerprint(document) == version.fingerprint)
                });
                let (reason, message) = if !own.is_empty() {
                    (StatusReason::Invalid, told(&own))
                } else if let Some(document) = unchanged {
                    (StatusReason::InForce, note(document).to_owned())
                } else {
                    let message = "another object is invalid, and objects come into force all together";
                    (StatusReason::OthersInvalid, message.to_owned())
                };
                let source = format!("{file}:{}", entry.line);
                statuses.push(self.status(&key, &source, reason, &message, version, now));
                seen.push(key);
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
                    told(&reading.errors.iter().collect::<Vec<_>>()),
                ),
                None => (
                    StatusReason::OthersInvalid,
                    "it was removed, and another object is invalid".to_owned(),
                ),
            };
            statuses.push(self.status(key, &version.source, reason, &message, Some(version), now));
        }
        self.statuses = statuses;
    }

    /// Notes that the sources could not be read.
    pub(super) fn unreadable(&mut self, error: &str, now: Timestamp) {
        let reason = StatusReason::SourceUnreadable;
        let status = |(key, version): (&Key, &Version)| {
            self.status(key, &version.source, reason, error, Some(version), now)
        };
        let mut statuses: Vec<_> = self.in_force.iter().map(status).collect();
        statuses.sort_by(|one, other| one.source.cmp(&other.source));
        self.statuses = statuses;
    }

    fn status(
        &self,
        (kind, name): &Key,
        source: &str,
        reason: StatusReason,
        message: &str,
        in_force: Option<&Version>,
        now: Timestamp,
    ) -> ObjectStatus {
        let ready = reason == StatusReason::InForce;
        let instead = match in_force {
            _ if ready => String::new(),
            Some(version) => format!(
                ". The version of generation {} stays in force",
                version.generation
            ),
            None => ". No version of it is in force".to_owned(),
        };
        let mut status = ObjectStatus {
            kind: kind.clone(),
            name: name.clone(),
            source: source.to_owned(),
            ready,
            reason,
            message: format!("{message}{instead}"),
            generation: in_force.map(|version| version.generation),
            since: now,
        };
        let same = |before: &&ObjectStatus| {
            let since = before.since;
            ObjectStatus {
                since,
                ..status.clone()
            } == **before
        };
        if let Some(before) = self.statuses.iter().find(same) {
            status.since = before.since;
        }
        status
    }
}

fn entries(
    files: &[(String, FileReading)],
) -> impl Iterator<Item = (&str, &picket_policy::api::DocumentEntry)> {
    files
        .iter()
        .flat_map(|(file, reading)| reading.entries.iter().map(move |entry| (file.as_str(), entry)))
}
