//! Which pods are enforced.
//!
//! In: namespaces, labels and the switch of enrolment from the node's configuration. Out: yes or no for a pod.
//!
//! A pod is enforced if it is enrolled and the configuration goes by that, or if its namespace is in the list and it has all of the
//! labels. No namespace stands for every namespace and no label for whatever labels, but not both at once: that would put the
//! node's own system pods behind the protected endpoint, and is far more often a forgotten field than meant. All other pods are exempt.

use std::collections::{BTreeMap, BTreeSet};

use super::Pod;
use super::pods::NodePod;

/// Why a selection makes no sense.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SelectionError {
    /// Neither enrolment nor namespaces nor labels are given.
    #[error(
        "go by enrolment, or name at least one namespace or one label; otherwise every pod of the node would be enforced"
    )]
    Everything,
}

/// Which pods are enforced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selection {
    /// Whether enrolled pods are.
    enrolled: bool,
    /// Which others are.
    named: Option<Named>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Named {
    namespaces: BTreeSet<String>,
    labels: BTreeMap<String, String>,
}

impl Selection {
    /// A selection of pods in these namespaces that have all of these labels, and of enrolled ones where that is said.
    ///
    /// # Errors
    /// [`SelectionError::Everything`] where nothing is given.
    pub fn new(
        namespaces: impl IntoIterator<Item = String>,
        labels: &BTreeMap<String, String>,
        enrolled: bool,
    ) -> Result<Self, SelectionError> {
        let named = Named {
            namespaces: namespaces.into_iter().collect(),
            labels: labels.clone(),
        };
        let named = (!named.namespaces.is_empty() || !named.labels.is_empty()).then_some(named);
        if named.is_none() && !enrolled {
            return Err(SelectionError::Everything);
        }
        Ok(Self { enrolled, named })
    }

    /// Whether enrolled pods are enforced, so that the labels of namespaces count.
    #[must_use]
    pub fn by_enrolment(&self) -> bool {
        self.enrolled
    }

    /// Whether this pod is enforced.
    pub(super) fn enforces(&self, known: &NodePod) -> bool {
        (self.enrolled && known.enrolled) || self.named.as_ref().is_some_and(|named| named.has(&known.pod))
    }
}

impl Named {
    fn has(&self, pod: &Pod) -> bool {
        (self.namespaces.is_empty() || self.namespaces.contains(&pod.namespace))
            && (self.labels.iter()).all(|(key, value)| pod.labels.get(key) == Some(value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(namespace: &str, labels: &[(&str, &str)]) -> NodePod {
        let mut pod = Pod::for_tests(namespace, "p");
        pod.labels = labels
            .iter()
            .map(|(key, value)| ((*key).into(), (*value).into()))
            .collect();
        NodePod::for_tests(pod)
    }

    #[test]
    fn namespace_and_labels_must_both_hold() {
        let selection =
            Selection::new(["agents".into()], &[("app".into(), "agent".into())].into(), false).unwrap();
        assert!(selection.enforces(&pod("agents", &[("app", "agent"), ("x", "y")])));
        assert!(!selection.enforces(&pod("agents", &[("app", "web")])));
        assert!(!selection.enforces(&pod("agents", &[])));
        assert!(!selection.enforces(&pod("default", &[("app", "agent")])));
    }

    #[test]
    fn an_empty_half_stands_for_all_and_two_empty_halves_for_a_mistake() {
        let none = BTreeMap::new();
        let by_namespace = Selection::new(["agents".into()], &none, false).unwrap();
        assert!(by_namespace.enforces(&pod("agents", &[])));
        let by_label = Selection::new([], &[("a".into(), "b".into())].into(), false).unwrap();
        assert!(by_label.enforces(&pod("anywhere", &[("a", "b")])));
        assert!(!by_label.enforces(&pod("anywhere", &[("a", "c")])));
        assert_eq!(Selection::new([], &none, false), Err(SelectionError::Everything));
    }

    #[test]
    fn enrolled_pods_are_enforced_beside_the_named_ones_and_only_where_that_is_said() {
        let enrolled = || pod("shop", &[("picket.dev/enrolled", "true")]);
        let by_enrolment = Selection::new([], &BTreeMap::new(), true).unwrap();
        assert!(by_enrolment.enforces(&enrolled()));
        assert!(
            !by_enrolment.enforces(&pod("shop", &[])),
            "no name stands for no pod here"
        );
        let both = Selection::new(["agents".into()], &BTreeMap::new(), true).unwrap();
        assert!(both.enforces(&enrolled()) && both.enforces(&pod("agents", &[])));
        assert!(!both.enforces(&pod("shop", &[])));
        let named = Selection::new(["agents".into()], &BTreeMap::new(), false).unwrap();
        assert!(!named.enforces(&enrolled()));
    }
}
