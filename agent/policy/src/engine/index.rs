//! The index that finds the few rules that can be about a request.
//!
//! In: each rule with what it is about, then a [`MatchInput`]. Out: the numbers of rules to evaluate. It may offer a rule that
//! does not fire, and never keeps one back that does.

use std::collections::HashMap;

use super::match_input::{MatchInput, MatchTarget, Scope};
use crate::glob::Glob;
use crate::request::VerbSet;

/// Bytes of a text that are compared before the text itself: enough to tell most names apart in one instruction.
const HEAD: usize = 8;

/// The first bytes that a match has, as a word. The default one is the head of everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Head {
    bits: u64,
    mask: u64,
}

/// The first bytes of a text; shorter ones are filled with zeros, which no name holds.
fn word(text: &[u8]) -> u64 {
    let mut bytes = [0; HEAD];
    let length = text.len().min(HEAD);
    bytes[..length].copy_from_slice(&text[..length]);
    u64::from_le_bytes(bytes)
}

impl Head {
    /// The head of a glob's matches.
    pub(super) fn of_glob(glob: &Glob) -> Self {
        let (text, ends) = glob.head();
        // Where a match ends, the zero that follows is part of its head.
        let compared = (text.len() + usize::from(ends)).min(HEAD);
        let mask = if compared == HEAD {
            u64::MAX
        } else {
            (1 << (compared * 8)) - 1
        };
        Self {
            bits: word(text) & mask,
            mask,
        }
    }

    fn admits(self, text: Option<u64>) -> bool {
        text.is_none_or(|text| text & self.mask == self.bits)
    }
}

/// What a rule is about, as far as it can be looked up.
#[derive(Debug)]
pub(super) enum About {
    /// Paths.
    Paths,
    /// These resources, each as `pods` or `pods/exec`.
    Resources(Vec<String>),
    /// Resources that match patterns.
    Patterns,
}

/// What can be told of a rule without looking at it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry {
    /// The rule's place in the table.
    pub(super) number: u32,
    /// The verbs it is about.
    pub(super) verbs: VerbSet,
    /// The head of its resources, where it has one pattern.
    pub(super) resource: Head,
    /// The head of its namespaces, where it has one.
    pub(super) namespace: Head,
    /// The head of its names, where it has one.
    pub(super) name: Head,
}

/// Rules by what they can be about.
#[derive(Debug, Default)]
pub(super) struct Index {
    by_resource: HashMap<Box<str>, Vec<Entry>>,
    other_resources: Vec<Entry>,
    paths: Vec<Entry>,
}

impl Index {
    /// Takes a rule up.
    pub(super) fn add(&mut self, entry: Entry, about: &About) {
        match about {
            About::Paths => self.paths.push(entry),
            About::Resources(keys) => {
                for key in keys {
                    self.by_resource
                        .entry(key.as_str().into())
                        .or_default()
                        .push(entry);
                }
            }
            About::Patterns => self.other_resources.push(entry),
        }
    }

    /// The rules that a request can be about, each once.
    pub(super) fn candidates(&self, input: &MatchInput<'_>) -> impl Iterator<Item = u32> {
        // A text that is "all of them", absent or one of two is left to the rule itself.
        let scope = |scope: &Scope<'_>| match scope {
            Scope::One(text) => Some(word(text.as_bytes())),
            Scope::Proxied { .. } | Scope::All | Scope::None => None,
        };
        let (first, second, heads): (&[Entry], &[Entry], _) = match &input.target {
            MatchTarget::Path { .. } => (&self.paths, &[], [None; 3]),
            MatchTarget::Resource {
                combined,
                resource,
                namespace,
                name,
                ..
            } => (
                self.by_resource.get(&**combined).map_or(&[], Vec::as_slice),
                &self.other_resources,
                [Some(word(resource.as_bytes())), scope(namespace), scope(name)],
            ),
        };
        let verbs = input.verbs;
        let can_fire = move |entry: &&Entry| {
            entry.verbs.meets(verbs)
                && entry.resource.admits(heads[0])
                && entry.namespace.admits(heads[1])
                && entry.name.admits(heads[2])
        };
        first
            .iter()
            .chain(second)
            .filter(can_fire)
            .map(|entry| entry.number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_admits_whatever_its_glob_matches() {
        let texts = [
            "",
            "a",
            "ab",
            "abc",
            "prod",
            "prod-1",
            "production",
            "product-8",
            "production-eu-west",
            "éa",
        ];
        for pattern in [
            "*",
            "a",
            "ab*",
            "prod",
            "prod-*",
            "production*",
            "product?8",
            "p*1",
            "*-1",
            "production-eu-west",
            "?b",
        ] {
            let glob = Glob::name(pattern).expect(pattern);
            let head = Head::of_glob(&glob);
            for text in texts {
                let admitted = head.admits(Some(word(text.as_bytes())));
                assert!(admitted || !glob.matches(text), "{pattern} on {text}");
            }
        }
        let head = |pattern: &str| Head::of_glob(&Glob::name(pattern).expect(pattern));
        assert!(!head("prod").admits(Some(word(b"prod-1"))));
        assert!(!head("web-1-*").admits(Some(word(b"web"))));
        assert!(head("web-1-*").admits(None));
    }
}
