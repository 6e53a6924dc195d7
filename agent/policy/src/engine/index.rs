//! The index that finds the few rules that can be about a request.
//!
//! In: each rule with what it is about, then a [`MatchInput`]. Out: the numbers of rules to evaluate. It may offer a rule that
//! does not fire, and never keeps one back that does.

use std::collections::HashMap;

use super::match_input::{MatchInput, MatchTarget, Scope};
use crate::glob::Glob;
use crate::kubernetes::resources::is_known;
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
    /// Resources that match patterns, and those of `known_resources` that do.
    Patterns(Vec<&'static str>),
    /// Every resource.
    Everything,
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

/// Entries by one of their heads, so that those of other heads cost nothing.
#[derive(Debug, Default)]
struct ByHead {
    /// The masks that there are: at most one for each count of bytes.
    masks: Vec<u64>,
    entries: HashMap<(u64, u64), Vec<Entry>>,
}

impl ByHead {
    fn add(&mut self, head: Head, entry: Entry) {
        if !self.masks.contains(&head.mask) {
            self.masks.push(head.mask);
        }
        self.entries
            .entry((head.mask, head.bits))
            .or_default()
            .push(entry);
    }

    /// Those whose head admits a text; all where the text is not one.
    fn admitting(&self, text: Option<u64>) -> impl Iterator<Item = &Entry> {
        let all = text.is_none().then(|| self.entries.values());
        let found = text.into_iter().flat_map(move |text| {
            self.masks
                .iter()
                .filter_map(move |mask| self.entries.get(&(*mask, text & mask)))
        });
        all.into_iter().flatten().chain(found).flatten()
    }
}

/// Entries that can be about the same resource.
#[derive(Debug, Default)]
struct Bucket {
    by_name: ByHead,
    by_namespace: ByHead,
    rest: Vec<Entry>,
}

impl Bucket {
    fn add(&mut self, entry: Entry) {
        if entry.name != Head::default() {
            self.by_name.add(entry.name, entry);
        } else if entry.namespace != Head::default() {
            self.by_namespace.add(entry.namespace, entry);
        } else {
            self.rest.push(entry);
        }
    }

    fn admitting(&self, namespace: Option<u64>, name: Option<u64>) -> impl Iterator<Item = &Entry> {
        self.by_name
            .admitting(name)
            .chain(self.by_namespace.admitting(namespace))
            .chain(&self.rest)
    }
}

/// How many of the known resources a rule with patterns is filed under. One that matches more is looked at for each request, so that
/// it takes no more than some KB.
const MAX_FILED: usize = 16;

/// Rules by what they can be about.
#[derive(Debug, Default)]
pub(super) struct Index {
    by_resource: HashMap<Box<str>, Bucket>,
    /// Rules with patterns, by the known resources that these match.
    patterns_of_known: HashMap<&'static str, Bucket>,
    /// Rules with patterns, for resources that are not known.
    patterns: Bucket,
    /// Rules about every resource, or about many.
    everything: Bucket,
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
                        .add(entry);
                }
            }
            About::Patterns(known) if known.len() <= MAX_FILED => {
                for key in known {
                    self.patterns_of_known.entry(*key).or_default().add(entry);
                }
                self.patterns.add(entry);
            }
            About::Patterns(_) | About::Everything => self.everything.add(entry),
        }
    }

    /// The rules that a request can be about, each once.
    pub(super) fn candidates(&self, input: &MatchInput<'_>) -> impl Iterator<Item = u32> {
        // A text that is "all of them", absent or one of two is left to the rule itself.
        let scope = |scope: &Scope<'_>| match scope {
            Scope::One(text) => Some(word(text.as_bytes())),
            Scope::Proxied { .. } | Scope::Begins(_) | Scope::All | Scope::None => None,
        };
        let (paths, buckets, [resource, namespace, name]): (&[Entry], _, _) = match &input.target {
            MatchTarget::Path { .. } => (&self.paths, [None; 3], [None; 3]),
            MatchTarget::Resource {
                combined,
                resource,
                namespace,
                name,
                ..
            } => {
                let by_pattern = match is_known(combined) {
                    true => self.patterns_of_known.get(&**combined),
                    false => Some(&self.patterns),
                };
                (
                    &[],
                    [
                        self.by_resource.get(&**combined),
                        by_pattern,
                        Some(&self.everything),
                    ],
                    [Some(word(resource.as_bytes())), scope(namespace), scope(name)],
                )
            }
        };
        let verbs = input.verbs;
        let can_fire = move |entry: &&Entry| {
            entry.verbs.meets(verbs)
                && entry.resource.admits(resource)
                && entry.namespace.admits(namespace)
                && entry.name.admits(name)
        };
        buckets
            .into_iter()
            .flatten()
            .flat_map(move |bucket| bucket.admitting(namespace, name))
            .chain(paths)
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
