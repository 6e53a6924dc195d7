//! Which namespaces are enrolled, as the API server tells.
//!
//! In: the list and watch of all Namespaces. Out: for each name whether its label enrols its pods.
//!
//! Admission labels each pod of an enrolled namespace, so that the pod's own label would do. The namespace's counts too: a pod that
//! no admission changed, because it is older or slipped through, is enforced all the same. All namespaces are followed and not only
//! those with the label, because a namespace that was not reported yet must be told from one without the label.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Namespace;
use kube::runtime::watcher::Event;
use picket_controller::names::ENROLLED;

/// Whether labels enrol what has them. Every other value is as good as none.
pub(super) fn is_enrolled(labels: &BTreeMap<String, String>) -> bool {
    labels.get(ENROLLED).is_some_and(|value| value == "true")
}

/// The namespaces reported so far, and whether each is enrolled.
#[derive(Debug, Default)]
pub(super) struct NamespaceCache {
    known: BTreeMap<String, bool>,
    /// A new list while it is coming in.
    coming: BTreeMap<String, bool>,
    /// Whether a whole list has come in once.
    pub(super) whole: bool,
}

impl NamespaceCache {
    /// Takes an event in; says whether what is known changed.
    pub(super) fn take(&mut self, event: Event<Namespace>) -> bool {
        match event {
            Event::Init => self.coming.clear(),
            Event::InitApply(object) => self.coming.extend(read(object)),
            Event::InitDone => {
                let first = !std::mem::replace(&mut self.whole, true);
                let before = std::mem::replace(&mut self.known, std::mem::take(&mut self.coming));
                return first || before != self.known;
            }
            Event::Apply(object) => {
                if let Some((name, enrolled)) = read(object) {
                    return self.known.insert(name, enrolled) != Some(enrolled);
                }
            }
            Event::Delete(object) => {
                let name = object.metadata.name;
                return name.is_some_and(|name| self.known.remove(&name).is_some());
            }
        }
        false
    }

    /// Whether the pods of a namespace are enrolled; `None` while nothing is known of it.
    pub(super) fn enrols(&self, namespace: &str) -> Option<bool> {
        self.known.get(namespace).copied()
    }
}

fn read(object: Namespace) -> Option<(String, bool)> {
    let enrolled = is_enrolled(&object.metadata.labels.unwrap_or_default());
    Some((object.metadata.name?, enrolled))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn namespace(name: &str, enrolled: &str) -> Namespace {
        let mut namespace = Namespace::default();
        namespace.metadata.name = Some(name.to_owned());
        namespace.metadata.labels = Some([(ENROLLED.to_owned(), enrolled.to_owned())].into());
        namespace
    }

    #[test]
    fn a_label_of_another_value_enrols_nobody() {
        let mut cache = NamespaceCache::default();
        assert!(cache.take(Event::Apply(namespace("agents", "true"))));
        for other in ["false", "", "True", "yes"] {
            cache.take(Event::Apply(namespace("shop", other)));
            assert_eq!(cache.enrols("shop"), Some(false), "{other}");
        }
        assert_eq!(cache.enrols("agents"), Some(true));
        assert_eq!(cache.enrols("elsewhere"), None);
    }

    #[test]
    fn a_new_list_replaces_the_old_one_at_once() {
        let mut cache = NamespaceCache::default();
        cache.take(Event::Init);
        assert!(!cache.take(Event::InitApply(namespace("agents", "true"))));
        assert!(!cache.whole && cache.enrols("agents").is_none());
        assert!(cache.take(Event::InitDone) && cache.whole);
        assert!(
            !cache.take(Event::Apply(namespace("agents", "true"))),
            "the same again"
        );
        cache.take(Event::Init);
        cache.take(Event::InitApply(namespace("shop", "false")));
        assert_eq!(
            cache.enrols("agents"),
            Some(true),
            "the old list stands meanwhile"
        );
        assert!(cache.take(Event::InitDone));
        assert_eq!(
            (cache.enrols("agents"), cache.enrols("shop")),
            (None, Some(false))
        );
        assert!(cache.take(Event::Delete(namespace("shop", "false"))));
        assert_eq!(cache.enrols("shop"), None);
    }
}
