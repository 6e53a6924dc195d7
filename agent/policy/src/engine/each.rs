//! A set of objects that are judged one by one, beside files that are judged as a whole.
//!
//! In: the documents of files, and the versions of each object that a cluster keeps. Out: a [`PolicySet`] of all that can stand, and
//! an [`ObjectVerdict`] for each object of the cluster.
//!
//! Objects of a cluster change one at a time and arrive in any order, so that a fault of one must not stop another. A reference to
//! nothing is no fault there: the object may come a moment later. Two identities that one pod could have both stay, since a request of such
//! a pod is refused as long as they match it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::PolicySet;
use super::check::{CrossErrors, cross_errors};
use crate::api::Document;
use crate::yaml::Diagnostic;

/// An object that a cluster keeps, with the versions that may come into force, the best one first.
#[derive(Debug, Clone)]
pub struct ClusterObject {
    /// The file's name of its documents, which no other object has.
    pub file: Arc<str>,
    /// The latest version where it is valid by itself, and the last one that was in force.
    pub versions: Vec<Document>,
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
    /// What it names that is not there.
    pub dangling: Vec<String>,
}

impl PolicySet {
    /// Compiles files, which must stand together, and of a cluster's objects what can stand beside them. Of two objects that
    /// exclude each other the one in a file stays, or the one that comes first in the list.
    ///
    /// # Errors
    /// What is wrong with the files by themselves. A name that only the cluster could have is no error.
    pub fn compile_each(
        files: Vec<Document>,
        objects: &[ClusterObject],
        own_namespace: &str,
    ) -> Result<(Self, Vec<ObjectVerdict>), Vec<Diagnostic>> {
        let CrossErrors {
            mut blocking,
            conflicts,
            ..
        } = cross_errors(&files);
        blocking.extend(conflicts.into_iter().map(|(later, _)| later));
        if !blocking.is_empty() {
            blocking.sort();
            return Err(blocking);
        }
        let mut verdicts: Vec<_> = objects
            .iter()
            .map(|object| ObjectVerdict {
                in_force: (!object.versions.is_empty()).then_some(0),
                ..ObjectVerdict::default()
            })
            .collect();
        let places: BTreeMap<&str, usize> = objects
            .iter()
            .enumerate()
            .map(|(place, object)| (object.file.as_ref(), place))
            .collect();
        loop {
            let chosen = objects.iter().zip(&verdicts);
            let chosen = chosen.filter_map(|(object, verdict)| object.versions.get(verdict.in_force?));
            let documents: Vec<_> = files.iter().chain(chosen).cloned().collect();
            let errors = cross_errors(&documents);
            let mut demoted = BTreeSet::new();
            for error in &errors.blocking {
                if let Some(&place) = places.get(error.file.as_str()) {
                    let verdict = &mut verdicts[place];
                    verdict.faults.push(error.reason.clone());
                    if demoted.insert(place) {
                        let next = verdict.in_force.map_or(0, |version| version + 1);
                        verdict.in_force = (next < objects[place].versions.len()).then_some(next);
                    }
                }
            }
            if demoted.is_empty() {
                note(&mut verdicts, &places, errors);
                return Ok((Self::build(documents, own_namespace), verdicts));
            }
        }
    }
}

/// Writes down at each object what is worth knowing of it.
fn note(verdicts: &mut [ObjectVerdict], places: &BTreeMap<&str, usize>, errors: CrossErrors) {
    for said in errors
        .conflicts
        .into_iter()
        .flat_map(|(later, earlier)| [later, earlier])
    {
        if let Some(&place) = places.get(said.file.as_str()) {
            verdicts[place].conflicts.push(said.reason);
        }
    }
    for said in errors.dangling {
        if let Some(&place) = places.get(said.file.as_str()) {
            verdicts[place].dangling.push(said.reason);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::read_documents;
    use crate::engine::OWN_NAMESPACE;

    fn document(file: &str, kind: &str, name: &str, spec: &str) -> Document {
        let text = format!(
            "apiVersion: picket.dev/v1alpha1\nkind: {kind}\nmetadata: {{name: {name}}}\nspec: {spec}\n"
        );
        read_documents(file, &text)
            .unwrap_or_else(|errors| panic!("{errors:?}"))
            .remove(0)
    }

    fn identity(file: &str, name: &str, account: &str) -> Document {
        let spec = format!(
            "{{owner: o, groups: [g], attest: {{pod: {{namespace: n, serviceAccount: {account}}}}}}}"
        );
        document(file, "AgentIdentity", name, &spec)
    }

    fn grant(file: &str, name: &str, user: &str) -> Document {
        let rules = "[{verbs: [get], apiGroups: [''], resources: [pods]}]";
        let spec =
            format!("{{to: {{groups: [g]}}, upstream: {{impersonate: {{user: {user}}}}}, rules: {rules}}}");
        document(file, "AgentGrant", name, &spec)
    }

    fn object(versions: Vec<Document>) -> ClusterObject {
        let file = versions
            .first()
            .map_or("none".into(), |version| version.name_location().file);
        ClusterObject { file, versions }
    }

    fn compile(files: Vec<Document>, objects: &[ClusterObject]) -> (PolicySet, Vec<ObjectVerdict>) {
        PolicySet::compile_each(files, objects, OWN_NAMESPACE).unwrap_or_else(|errors| panic!("{errors:?}"))
    }

    #[test]
    fn an_object_in_a_file_stays_and_the_clusters_of_that_name_is_at_fault() {
        let (set, verdicts) = compile(
            vec![identity("f", "a", "one")],
            &[
                object(vec![identity("c1", "a", "two")]),
                object(vec![identity("c2", "b", "three")]),
            ],
        );
        let accounts: Vec<_> = set
            .identities()
            .iter()
            .map(|identity| identity.name.as_str())
            .collect();
        assert_eq!(accounts, ["a", "b"]);
        assert!(set.identities_of_pod("n", "two", &BTreeMap::new()).is_empty());
        assert_eq!(verdicts[0].in_force, None);
        assert!(
            verdicts[0].faults[0].contains("is already at f:3"),
            "{verdicts:?}"
        );
        assert_eq!(verdicts[1].in_force, Some(0));
    }

    #[test]
    fn two_identities_of_one_pod_both_stay_and_both_are_told() {
        let objects = [
            object(vec![identity("c1", "a", "x")]),
            object(vec![identity("c2", "b", "x")]),
        ];
        let (set, verdicts) = compile(Vec::new(), &objects);
        assert_eq!(set.identities_of_pod("n", "x", &BTreeMap::new()).len(), 2);
        assert!(verdicts[0].conflicts[0].contains("\"b\" (c2:3)"), "{verdicts:?}");
        assert!(verdicts[1].conflicts[0].contains("\"a\" (c1:3)"), "{verdicts:?}");
        assert!(verdicts.iter().all(|verdict| verdict.faults.is_empty()));
    }

    #[test]
    fn a_grant_that_would_make_one_agent_two_users_falls_back_to_its_last_version() {
        let objects = [
            object(vec![identity("c1", "a", "x")]),
            object(vec![grant("c2", "first", "u")]),
            object(vec![grant("c3", "second", "v"), grant("c3", "second", "u")]),
            object(vec![grant("c4", "third", "w")]),
        ];
        let (set, verdicts) = compile(Vec::new(), &objects);
        let in_force: Vec<_> = verdicts.iter().map(|verdict| verdict.in_force).collect();
        assert_eq!(in_force, [Some(0), Some(0), Some(1), None]);
        assert_eq!(set.grants_of("a").len(), 2);
        assert!(verdicts[2].faults[0].contains("as user \"v\""), "{verdicts:?}");
    }

    #[test]
    fn a_reference_to_nothing_is_told_and_no_fault_of_files_either() {
        let spec =
            "{subjects: {identities: [nobody]}, rules: [{name: r, action: Deny, match: {resources: ['*']}}]}";
        let objects = [object(vec![document("c1", "AgentPolicy", "p", spec)])];
        let (set, verdicts) = compile(vec![document("f", "AgentPolicy", "q", spec)], &objects);
        assert_eq!(set.summary().policies, 2);
        assert_eq!(verdicts[0].dangling, ["no AgentIdentity is named \"nobody\""]);
    }

    #[test]
    fn files_that_cannot_stand_are_an_error() {
        let files = vec![identity("f", "a", "x"), identity("g", "b", "x")];
        let errors = PolicySet::compile_each(files, &[], OWN_NAMESPACE).unwrap_err();
        assert_eq!(errors.len(), 1, "{errors:?}");
    }
}
