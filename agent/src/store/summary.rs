//! The set in force in a few numbers, and in a digest that two nodes have in common while they have the same objects in force.
//!
//! In: the objects in force of files and of the cluster, and the statuses of all. Out: a [`PolicySummary`].
//!
//! The digest is of kinds, names and specs alone. Labels, annotations and versions differ between files and clusters, and say nothing
//! of what is permitted.

use std::fmt::Write as _;

use picket_policy::Document;
use picket_policy::api::AnyObject;
use ring::digest::{Context, SHA256};
use serde::Serialize;

use super::Store;

/// Bytes of the digest that are shown: two sets that differ do not meet in so many.
const SHOWN: usize = 8;

/// The set in force.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PolicySummary {
    /// Digest of the objects in force; absent while there is no set, and every request is denied.
    pub hash: Option<String>,
    /// Counts the sets that came into force.
    pub generation: u64,
    /// Objects that are in force as they are written.
    pub valid: usize,
    /// Objects that are not.
    pub invalid: usize,
    /// Why the last reading failed.
    pub last_error: Option<String>,
}

impl Store {
    /// The set in force. That reads every object, so it is for changes of the set and not for requests.
    #[must_use]
    pub fn summary(&self) -> PolicySummary {
        let status = self.status();
        let statuses = self.statuses();
        let valid = statuses.iter().filter(|status| status.ready).count();
        PolicySummary {
            hash: (status.generation > 0).then(|| self.digest()),
            generation: status.generation,
            valid,
            invalid: statuses.len() - valid,
            last_error: status.last_error,
        }
    }

    fn digest(&self) -> String {
        let of_files = self.last.lock().documents().unwrap_or_default();
        let judged = self.judged.lock().clone();
        let of_cluster = judged.objects().filter_map(|object| object.in_force());
        digest(of_files.iter().chain(of_cluster))
    }
}

/// The digest of objects, in whatever order they come.
fn digest<'d>(documents: impl Iterator<Item = &'d Document>) -> String {
    let mut texts: Vec<String> = documents.map(text).collect();
    texts.sort();
    let mut context = Context::new(&SHA256);
    for text in &texts {
        // With its length, so that no two lists have the same bytes.
        context.update(&text.len().to_le_bytes());
        context.update(text.as_bytes());
    }
    let mut shown = String::new();
    for byte in context.finish().as_ref().iter().take(SHOWN) {
        // Writing to a String cannot fail.
        let _ = write!(shown, "{byte:02x}");
    }
    shown
}

fn text(document: &Document) -> String {
    fn spec(spec: &impl Serialize) -> String {
        // A spec of texts, lists and maps always prints.
        serde_json::to_string(spec).unwrap_or_default()
    }
    let spec = match &document.object {
        AnyObject::Identity(object) => spec(&object.spec),
        AnyObject::Grant(object) => spec(&object.spec),
        AnyObject::Policy(object) => spec(&object.spec),
    };
    format!("{}/{} {spec}", document.kind(), document.name())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(name: &str, owner: &str) -> String {
        format!(
            "apiVersion: picket.dev/v1alpha1\nkind: AgentIdentity\nmetadata: {{name: {name}}}\n\
             spec: {{owner: {owner}, attest: {{pod: {{namespace: n, serviceAccount: {name}}}}}}}\n"
        )
    }

    fn of(files: &[(&str, String)]) -> (tempfile::TempDir, Store) {
        let folder = tempfile::tempdir().expect("a folder");
        for (file, text) in files {
            std::fs::write(folder.path().join(file), text).expect("written");
        }
        let store = Store::open_or_deny_all(&[folder.path().to_owned()], false);
        (folder, store)
    }

    #[test]
    fn the_same_objects_have_the_same_digest_wherever_they_stand_and_others_another() {
        let (a, b) = (identity("a", "o"), identity("b", "o"));
        let (_one, one) = of(&[("x.yaml", format!("{a}---\n{b}"))]);
        let (_two, two) = of(&[("x.yaml", b.clone()), ("y.yaml", a.clone())]);
        let (_other, other) = of(&[("x.yaml", format!("{a}---\n{}", identity("b", "p")))]);
        let (one, two, other) = (one.summary(), two.summary(), other.summary());
        assert_eq!(one.hash, two.hash);
        assert_eq!(one.hash.as_ref().map(String::len), Some(2 * SHOWN));
        assert_ne!(one.hash, other.hash);
        assert_eq!((one.valid, one.invalid, one.generation), (2, 0, 1));
    }

    #[test]
    fn a_faulty_file_leaves_the_digest_of_what_is_in_force_and_says_the_fault() {
        let (folder, store) = of(&[("x.yaml", identity("a", "o"))]);
        let before = store.summary();
        std::fs::write(folder.path().join("x.yaml"), "kind: Nothing").expect("written");
        store.reload();
        let after = store.summary();
        assert_eq!(after.hash, before.hash);
        assert!(after.last_error.is_some() && before.last_error.is_none());
        assert_eq!((after.invalid > 0, before.invalid), (true, 0));
    }

    #[test]
    fn without_a_valid_set_there_is_no_digest() {
        let (_folder, store) = of(&[("x.yaml", "kind: Nothing".to_owned())]);
        let summary = store.summary();
        assert_eq!((summary.hash, summary.generation), (None, 0));
        assert!(summary.last_error.is_some());
    }
}
