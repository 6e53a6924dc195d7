//! A set of objects that are judged one by one, beside files that are judged as a whole.
//!
//! In: the documents of files, and the versions of each object that a cluster keeps. Out: a [`PolicySet`] of all that can stand, and
//! an [`ObjectVerdict`] for each object of the cluster.
//!
//! Objects of a cluster change one at a time and arrive in any order, so that a fault of one must not stop another. A reference to
//! nothing is no fault there: the object may come a moment later. Two identities that one pod could have both stay, since a request of such
//! a pod is refused as long as they match it. Of the objects that would make one identity two users the newer is refused, and all
//! are told.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::PolicySet;
use super::check::{CrossErrors, cross_errors};
use super::one_user::Firmness;
use crate::api::Document;
use crate::yaml::Diagnostic;

/// After so many rounds an object that is refused falls to none of its versions. An older version may exclude another object,
/// whose older version excludes a third: without an end, objects made to do that would cost a round each.
const ROUNDS: usize = 8;

/// An object that a cluster keeps, with the versions that may come into force, the best one first.
#[derive(Debug, Clone)]
pub struct ClusterObject {
    /// The file's name of its documents, which no other object has.
    pub file: Arc<str>,
    /// The latest version where it is valid by itself, and the last one that was in force.
    pub versions: Vec<Document>,
    /// The first of the versions that was in force before. Such a version stands against a newer object.
    pub known_from: usize,
}

/// What became of an object.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ObjectVerdict {
    /// Which of its versions is in force.
    pub in_force: Option<usize>,
    /// Why better versions are not.
    pub faults: Vec<String>,
    /// Which identities one pod could have beside this one.
    pub conflicts: Vec<String>,
    /// By which objects, this one among them, an identity would be two users.
    pub two_users: Vec<String>,
    /// What it names that is not there.
    pub dangling: Vec<String>,
}

/// The objects and what became of them so far.
struct Judging<'o> {
    objects: &'o [ClusterObject],
    places: BTreeMap<&'o str, usize>,
    verdicts: Vec<ObjectVerdict>,
}

impl PolicySet {
    /// Compiles files as they stand beside a cluster that has objects too, none of which is known here. Gives what the files name and do
    /// not have, which the cluster may.
    ///
    /// # Errors
    /// As [`PolicySet::compile_each`].
    pub fn compile_beside_cluster(
        files: &[Document],
        own_namespace: &str,
    ) -> Result<(Self, Vec<Diagnostic>), Vec<Diagnostic>> {
        let (set, _) = Self::compile_each(files, &[], own_namespace)?;
        let of_files: Vec<_> = files.iter().collect();
        let mut named = cross_errors(&of_files, |place| Firmness { class: 0, place }).dangling;
        named.sort();
        Ok((set, named))
    }

    /// Compiles files, which must stand together, and of a cluster's objects what can stand beside them. Of two objects that
    /// exclude each other the one in a file stays, then the one that was in force, then the one that comes first in the list.
    ///
    /// # Errors
    /// What is wrong with the files by themselves. A name that only the cluster could have is no error.
    pub fn compile_each(
        files: &[Document],
        objects: &[ClusterObject],
        own_namespace: &str,
    ) -> Result<(Self, Vec<ObjectVerdict>), Vec<Diagnostic>> {
        let of_files: Vec<_> = files.iter().collect();
        let CrossErrors {
            mut blocking,
            two_users,
            conflicts,
            ..
        } = cross_errors(&of_files, |place| Firmness { class: 0, place });
        blocking.extend(conflicts.into_iter().map(|(later, _)| later));
        blocking.extend(two_users.into_iter().map(|found| found.refused));
        if !blocking.is_empty() {
            blocking.sort();
            return Err(blocking);
        }
        let mut judging = Judging::new(objects);
        let mut round = 0;
        loop {
            let (chosen, ranks) = judging.chosen(files.len());
            let documents: Vec<_> = files.iter().chain(chosen).collect();
            let rank = |place: usize| {
                let of_file = Firmness { class: 0, place };
                place
                    .checked_sub(files.len())
                    .map_or(of_file, |chosen| ranks[chosen])
            };
            let errors = cross_errors(&documents, rank);
            if errors.blocking.is_empty() && errors.two_users.is_empty() {
                judging.note(errors);
                return Ok((Self::build(documents, own_namespace), judging.verdicts));
            }
            if !judging.refuse(&errors, round < ROUNDS) {
                // No object of the cluster is at fault, and then files would be, which stand by themselves.
                blocking.extend(errors.blocking);
                blocking.extend(errors.two_users.into_iter().map(|found| found.refused));
                return Err(blocking);
            }
            round += 1;
        }
    }
}

impl<'o> Judging<'o> {
    fn new(objects: &'o [ClusterObject]) -> Self {
        let verdict = |object: &ClusterObject| ObjectVerdict {
            in_force: (!object.versions.is_empty()).then_some(0),
            ..ObjectVerdict::default()
        };
        let places = objects.iter().enumerate();
        Self {
            objects,
            places: places
                .map(|(place, object)| (object.file.as_ref(), place))
                .collect(),
            verdicts: objects.iter().map(verdict).collect(),
        }
    }

    /// The versions that are tried, each with its rank behind so many documents of files.
    fn chosen(&self, files: usize) -> (Vec<&'o Document>, Vec<Firmness>) {
        let chosen = self.objects.iter().zip(&self.verdicts);
        let chosen = chosen.filter_map(|(object, verdict)| {
            let version = verdict.in_force?;
            let class = if version >= object.known_from { 1 } else { 2 };
            Some((object.versions.get(version)?, class))
        });
        let ranked = chosen.enumerate().map(|(place, (document, class))| {
            let place = files + place;
            (document, Firmness { class, place })
        });
        ranked.unzip()
    }

    /// Has each object at fault fall to its next version, or to none; says whether there was one.
    fn refuse(&mut self, errors: &CrossErrors, to_next: bool) -> bool {
        let mut demoted = BTreeSet::new();
        for found in &errors.two_users {
            if let Some(&place) = self.places.get(found.refused.file.as_str()) {
                self.verdicts[place].two_users.push(found.refused.reason.clone());
            }
            for told in &found.told {
                if let Some(&place) = self.places.get(told.file.as_str()) {
                    let said = &mut self.verdicts[place].two_users;
                    // A group of thousands is told once at the grant that stays.
                    if said.is_empty() {
                        said.push(told.reason.clone());
                    }
                }
            }
        }
        let two_users = errors.two_users.iter().map(|found| &found.refused);
        for error in errors.blocking.iter().chain(two_users) {
            let Some(&place) = self.places.get(error.file.as_str()) else {
                continue;
            };
            let verdict = &mut self.verdicts[place];
            verdict.faults.push(error.reason.clone());
            if demoted.insert(place) {
                let next = verdict.in_force.map_or(0, |version| version + 1);
                let is_there = to_next && next < self.objects[place].versions.len();
                verdict.in_force = is_there.then_some(next);
            }
        }
        !demoted.is_empty()
    }

    /// Writes down at each object what is worth knowing of it.
    fn note(&mut self, errors: CrossErrors) {
        let conflicts = errors.conflicts.into_iter();
        for said in conflicts.flat_map(|(later, earlier)| [later, earlier]) {
            if let Some(&place) = self.places.get(said.file.as_str()) {
                self.verdicts[place].conflicts.push(said.reason);
            }
        }
        for said in errors.dangling {
            if let Some(&place) = self.places.get(said.file.as_str()) {
                self.verdicts[place].dangling.push(said.reason);
            }
        }
    }
}

#[cfg(test)]
#[path = "each_tests.rs"]
mod tests;
