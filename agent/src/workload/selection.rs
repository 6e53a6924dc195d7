//! Which pods are enforced.
//!
//! In: namespaces and labels from the node's configuration. Out: yes or no for a pod.
//!
//! A pod is enforced if its namespace is in the list and it has all of the labels. No namespace stands for every
//! namespace and no label for whatever labels, but not both at once: that would put the node's own system pods
//! behind the protected endpoint, and is far more often a forgotten field than meant. All other pods are exempt.

use std::collections::{BTreeMap, BTreeSet};

use super::Pod;

/// Why a selection makes no sense.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SelectionError {
    /// Neither namespaces nor labels are given.
    #[error(
        "name at least one namespace or one label; without either every pod of the node would be enforced"
    )]
    Everything,
}

/// Which pods are enforced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selection {
    namespaces: BTreeSet<String>,
    labels: BTreeMap<String, String>,
}

impl Selection {
    /// A selection of pods in these namespaces that have all of these labels.
    ///
    /// # Errors
    /// [`SelectionError::Everything`] where both are empty.
    pub fn with_labels(
        namespaces: impl IntoIterator<Item = String>,
        labels: &BTreeMap<String, String>,
    ) -> Result<Self, SelectionError> {
        let namespaces: BTreeSet<_> = namespaces.into_iter().collect();
        if namespaces.is_empty() && labels.is_empty() {
            return Err(SelectionError::Everything);
        }
        Ok(Self {
            namespaces,
            labels: labels.clone(),
        })
    }

    /// Whether this pod is enforced.
    #[must_use]
    pub fn enforces(&self, pod: &Pod) -> bool {
        (self.namespaces.is_empty() || self.namespaces.contains(&pod.namespace))
            && (self.labels.iter()).all(|(key, value)| pod.labels.get(key) == Some(value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(namespace: &str, labels: &[(&str, &str)]) -> Pod {
        let mut pod = Pod::for_tests(namespace, "p");
        pod.labels = labels
            .iter()
            .map(|(key, value)| ((*key).into(), (*value).into()))
            .collect();
        pod
    }

    #[test]
    fn namespace_and_labels_must_both_hold() {
        let selection =
            Selection::with_labels(["agents".into()], &[("app".into(), "agent".into())].into()).unwrap();
        assert!(selection.enforces(&pod("agents", &[("app", "agent"), ("x", "y")])));
        assert!(!selection.enforces(&pod("agents", &[("app", "web")])));
        assert!(!selection.enforces(&pod("agents", &[])));
        assert!(!selection.enforces(&pod("default", &[("app", "agent")])));
    }

    #[test]
    fn an_empty_half_stands_for_all_and_two_empty_halves_for_a_mistake() {
        let by_namespace = Selection::with_labels(["agents".into()], &BTreeMap::new()).unwrap();
        assert!(by_namespace.enforces(&pod("agents", &[])));
        let by_label = Selection::with_labels([], &[("a".into(), "b".into())].into()).unwrap();
        assert!(by_label.enforces(&pod("anywhere", &[("a", "b")])));
        assert!(!by_label.enforces(&pod("anywhere", &[("a", "c")])));
        assert_eq!(
            Selection::with_labels([], &BTreeMap::new()),
            Err(SelectionError::Everything)
        );
    }
}
