//! By which labels of namespaces a client was shown the objects of a list or watch.
//!
//! In: what is known of namespaces when a list or watch begins, and at each object. Out: whether a selector counts for an object's
//! namespace, and later whether labels changed so that the client has seen too much or too little.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::namespaces::{Namespaces, Selected, UnknownNamespace};
use crate::api::v1alpha1::LabelSelector;

/// Most selectors and namespaces that are remembered beside those that were known at the beginning. With more, the list or watch
/// counts as outdated.
const MAX_MET: usize = 4096;

/// What was known of namespaces at the beginning, and what was found of others since.
#[derive(Debug)]
pub(super) struct ShownNamespaces {
    begun: Arc<Namespaces>,
    met: Mutex<Met>,
}

/// Namespaces that were not known at the beginning, by selector and name: whether they counted as selected when an object of them
/// came first.
#[derive(Debug, Default)]
struct Met {
    selected: BTreeMap<(String, Box<str>), bool>,
    /// There was no room for one.
    overflows: bool,
}

impl ShownNamespaces {
    pub(super) fn new(begun: &Arc<Namespaces>) -> Self {
        Self {
            begun: Arc::clone(begun),
            met: Mutex::default(),
        }
    }

    /// Whether a selector counts for an object of this namespace, by what is known now; without that, by what was known at the beginning.
    pub(super) fn selects(
        &self,
        selector: &LabelSelector,
        now: Option<&Namespaces>,
        namespace: &str,
    ) -> bool {
        let at_first = self.begun.selected(selector, namespace);
        let Some(now) = now else {
            return at_first != Selected::No;
        };
        let selected = match (now.selected(selector, namespace), at_first) {
            (Selected::Yes, _) => true,
            (Selected::No, _) => false,
            // The namespace is gone. The client gets to know that its objects are gone too.
            (Selected::Unknown(UnknownNamespace::Absent), Selected::No) => false,
            (Selected::Unknown(_), _) => true,
        };
        if matches!(at_first, Selected::Unknown(_)) {
            self.meet(selector, namespace, selected);
        }
        selected
    }

    fn meet(&self, selector: &LabelSelector, namespace: &str, selected: bool) {
        let key = (super::namespaces::selector_in_words(selector), namespace.into());
        let mut met = self.met.lock().unwrap_or_else(PoisonError::into_inner);
        if met.selected.len() >= MAX_MET && !met.selected.contains_key(&key) {
            met.overflows = true;
        } else {
            met.selected.entry(key).or_insert(selected);
        }
    }

    /// Whether one of these selectors says something else now of a namespace than when objects were shown by it.
    pub(super) fn differ<'s, S>(&self, selectors: impl Fn() -> S, now: &Namespaces) -> bool
    where
        S: Iterator<Item = &'s LabelSelector>,
    {
        let is = |selected: Selected| match selected {
            Selected::Yes => Some(true),
            Selected::No => Some(false),
            // What was shown of it stands; the objects of one that is gone are gone too.
            Selected::Unknown(_) => None,
        };
        let changed = |before: bool, selector: &LabelSelector, namespace: &str| {
            is(now.selected(selector, namespace)).is_some_and(|now| now != before)
        };
        let met = self.met.lock().unwrap_or_else(PoisonError::into_inner);
        let of_begun = || {
            self.begun.names().any(|namespace| {
                selectors().any(|selector| {
                    let before = is(self.begun.selected(selector, namespace));
                    before.is_some_and(|before| changed(before, selector, namespace))
                })
            })
        };
        let of_met = || {
            selectors().any(|selector| {
                let words = super::namespaces::selector_in_words(selector);
                let mut met = met.selected.iter().filter(|((of, _), _)| *of == words);
                met.any(|((_, namespace), before)| changed(*before, selector, namespace))
            })
        };
        met.overflows || of_met() || (!std::ptr::eq(&*self.begun, now) && of_begun())
    }
}

#[cfg(test)]
mod tests {
    use super::super::namespaces::NamespaceFacts;
    use super::*;

    fn prod() -> LabelSelector {
        LabelSelector {
            match_labels: BTreeMap::from([("env".to_owned(), "prod".to_owned())]),
            ..LabelSelector::default()
        }
    }

    fn known(namespaces: &[(&str, &str)]) -> Arc<Namespaces> {
        let facts = |(name, env): &(&str, &str)| {
            let labels = BTreeMap::from([("env".to_owned(), (*env).to_owned())]);
            let facts = NamespaceFacts::described(name, &labels, &BTreeMap::new());
            ((*name).to_owned(), facts)
        };
        Arc::new(Namespaces::listed(namespaces.iter().map(facts)))
    }

    fn differ(shown: &ShownNamespaces, now: &Namespaces) -> bool {
        let selector = prod();
        shown.differ(|| std::iter::once(&selector), now)
    }

    #[test]
    fn a_change_of_labels_that_a_client_was_shown_objects_by_makes_a_difference() {
        let begun = known(&[("shop", "dev"), ("pay", "prod")]);
        let shown = ShownNamespaces::new(&begun);
        assert!(!differ(&shown, &begun));
        for (now, differs) in [
            (known(&[("shop", "test"), ("pay", "prod")]), false),
            (known(&[("shop", "prod"), ("pay", "prod")]), true),
            (known(&[("shop", "dev"), ("pay", "dev")]), true),
            (known(&[("pay", "prod")]), false),
            (known(&[("shop", "dev"), ("pay", "prod"), ("new", "dev")]), false),
        ] {
            assert_eq!(differ(&shown, &now), differs, "{now:?}");
        }
    }

    #[test]
    fn an_object_of_a_new_namespace_is_hidden_until_its_labels_are_known_and_the_client_lists_again() {
        let begun = known(&[("shop", "dev")]);
        let shown = ShownNamespaces::new(&begun);
        assert!(shown.selects(&prod(), Some(&begun), "new"));
        assert!(!differ(&shown, &begun));
        let now = known(&[("shop", "dev"), ("new", "dev")]);
        assert!(!shown.selects(&prod(), Some(&now), "new"));
        assert!(differ(&shown, &now), "the client missed an object");
        // One whose labels were known in time is shown, and goes on.
        let shown = ShownNamespaces::new(&begun);
        assert!(!shown.selects(&prod(), Some(&now), "new"));
        assert!(!differ(&shown, &now));
        let labelled = known(&[("shop", "dev"), ("new", "prod")]);
        assert!(shown.selects(&prod(), Some(&labelled), "new"));
        assert!(
            differ(&shown, &labelled),
            "the client has objects that are hidden now"
        );
    }

    #[test]
    fn deletions_in_a_namespace_that_went_are_shown_and_nothing_is_where_no_labels_are_known() {
        let begun = known(&[("shop", "dev")]);
        let shown = ShownNamespaces::new(&begun);
        let gone = known(&[]);
        assert!(!shown.selects(&prod(), Some(&gone), "shop"));
        let lost = Namespaces::unknown(UnknownNamespace::Forbidden);
        assert!(shown.selects(&prod(), Some(&lost), "shop"));
        let too_large = Namespaces::listed([("shop".to_owned(), NamespaceFacts::too_large())]);
        assert!(shown.selects(&prod(), Some(&too_large), "shop"));
        assert!(!shown.selects(&prod(), None, "shop"));
        assert!(shown.selects(&prod(), None, "new"));
    }

    #[test]
    fn what_is_remembered_has_an_end() {
        let begun = known(&[]);
        let shown = ShownNamespaces::new(&begun);
        let meet = |number: usize| shown.selects(&prod(), Some(&begun), &format!("n{number}"));
        assert!((0..MAX_MET).all(meet));
        // One that was met before needs no more room.
        assert!(meet(0));
        assert!(!differ(&shown, &begun));
        assert!(meet(MAX_MET));
        assert!(differ(&shown, &begun));
        // Nor do those that were known at the beginning.
        let names: Vec<_> = (0..=MAX_MET).map(|number| format!("n{number}")).collect();
        let begun = known(
            &names
                .iter()
                .map(|name| (name.as_str(), "dev"))
                .collect::<Vec<_>>(),
        );
        let shown = ShownNamespaces::new(&begun);
        assert!(
            names
                .iter()
                .all(|name| !shown.selects(&prod(), Some(&begun), name))
        );
        assert!(!differ(&shown, &begun));
    }

    #[test]
    fn what_one_selector_said_of_a_namespace_is_no_word_of_another() {
        let begun = known(&[]);
        let shown = ShownNamespaces::new(&begun);
        assert!(shown.selects(&prod(), Some(&begun), "new"));
        let mut dev = prod();
        dev.match_labels.insert("env".to_owned(), "dev".to_owned());
        let now = known(&[("new", "prod")]);
        let both = [prod(), dev];
        assert!(!shown.differ(|| both.iter(), &now));
    }
}
