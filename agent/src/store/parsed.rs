//! What the files' texts say, kept for as long as each stays as it is.
//!
//! In: the texts of a reading. Out: what they say. Only a text that is new or another one is parsed, so that an agent of one file is not
//! shut out the later, the more files of others there are.

use std::collections::HashMap;
use std::sync::Arc;

use super::source::Manifest;
use super::{Readings, files};

/// Texts, and what each says.
#[derive(Debug, Default)]
pub(super) struct ParsedFiles {
    manifests: Vec<Manifest>,
    readings: Readings,
}

impl ParsedFiles {
    /// Takes the texts of a new reading; says whether they are other ones than before.
    pub(super) fn update(&mut self, manifests: Vec<Manifest>) -> bool {
        if manifests == self.manifests {
            return false;
        }
        self.readings = parse_beside(&manifests, &self.manifests, &self.readings);
        self.manifests = manifests;
        true
    }

    /// What the texts say.
    pub(super) fn readings(&self) -> &Readings {
        &self.readings
    }
}

/// What texts say.
pub(super) fn parse(manifests: &[Manifest]) -> Readings {
    parse_beside(manifests, &[], &Vec::new())
}

/// Likewise, where it is known what some of them say: `readings` are those of the texts `known`, in the same order.
pub(super) fn parse_beside(manifests: &[Manifest], known: &[Manifest], readings: &Readings) -> Readings {
    let known = known.iter().zip(readings);
    let known: HashMap<_, _> = known
        .map(|(text, said)| (text.path.as_path(), (text, said)))
        .collect();
    let reading = |manifest: &Manifest| match known.get(manifest.path.as_path()) {
        // The whole text is compared: a time or a size that others can set says nothing.
        Some((text, said)) if *text == manifest => (*said).clone(),
        _ => {
            let file = manifest.path.display().to_string();
            (file, Arc::new(files::objects(manifest)))
        }
    };
    manifests.iter().map(reading).collect()
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn manifest(path: &str, text: &str) -> Manifest {
        Manifest::new(PathBuf::from(path), text.to_owned())
    }

    fn names(readings: &Readings) -> Vec<&str> {
        let entries = readings.iter().flat_map(|(_, reading)| &reading.entries);
        entries.map(|entry| entry.name.as_str()).collect()
    }

    fn text(name: &str) -> String {
        format!(
            "apiVersion: picket.dev/v1alpha1\nkind: AgentIdentity\nmetadata: {{name: {name}}}\nspec: {{owner: o, attest: {{pod: \
             {{namespace: n, serviceAccount: {name}}}}}}}\n"
        )
    }

    #[test]
    fn of_a_reading_only_the_changed_texts_are_parsed() {
        let mut parsed = ParsedFiles::default();
        let files = |texts: [&str; 3]| {
            let paths = ["a.yaml", "b.yaml", "c.yaml"].into_iter().zip(texts);
            paths
                .map(|(path, name)| manifest(path, &text(name)))
                .collect::<Vec<_>>()
        };
        assert!(parsed.update(files(["a", "b", "c"])));
        let before = parsed.readings().clone();
        assert!(!parsed.update(files(["a", "b", "c"])), "nothing is new");
        // One changes, and two change places: what a text says is its file's.
        assert!(parsed.update(files(["a", "x", "c"])));
        let same = |one: usize, other: usize| Arc::ptr_eq(&before[one].1, &parsed.readings()[other].1);
        assert_eq!([same(0, 0), same(1, 1), same(2, 2)], [true, false, true]);
        assert_eq!(names(parsed.readings()), ["a", "x", "c"]);
        assert!(parsed.update(files(["c", "x", "a"])));
        assert_eq!(names(parsed.readings()), ["c", "x", "a"]);
        let entry = &parsed.readings()[0].1.entries[0];
        let place = entry.document.as_ref().expect("valid").name_location().file;
        assert_eq!((&*place, parsed.readings()[0].0.as_str()), ("a.yaml", "a.yaml"));
    }

    #[test]
    fn a_file_that_is_gone_is_forgotten_and_another_place_changes_no_other() {
        let mut parsed = ParsedFiles::default();
        parsed.update(vec![
            manifest("a.yaml", &text("a")),
            manifest("c.yaml", &text("c")),
        ]);
        let kept = Arc::clone(&parsed.readings()[1].1);
        parsed.update(vec![
            manifest("b.yaml", &text("b")),
            manifest("c.yaml", &text("c")),
        ]);
        assert_eq!(names(parsed.readings()), ["b", "c"]);
        assert!(Arc::ptr_eq(&kept, &parsed.readings()[1].1));
        parsed.update(Vec::new());
        assert!(parsed.readings().is_empty());
    }

    #[test]
    fn a_fault_of_reading_is_part_of_a_text() {
        let mut parsed = ParsedFiles::default();
        let mut unreadable = manifest("a.yaml", "");
        parsed.update(vec![unreadable.clone()]);
        let reason = |parsed: &ParsedFiles| parsed.readings()[0].1.errors[0].reason.clone();
        assert!(reason(&parsed).starts_with("no object"), "{}", reason(&parsed));
        unreadable.fault = Some(crate::store::source::TextFault {
            line: 1,
            column: 1,
            reason: "away".to_owned(),
        });
        assert!(parsed.update(vec![unreadable]));
        assert_eq!(reason(&parsed), "away");
    }
}
