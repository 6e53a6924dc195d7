//! Which pods are enforced.
//!
//! In: namespaces and a label selector from the node's configuration. Out: yes or no for a pod.
//!
//! A pod is enforced if its namespace is in the list and its labels match the selector. An empty list stands for every
//! namespace and an empty selector for every label, but not both at once: that would put the node's own system pods
//! behind the door, and is far more often a forgotten field than meant. All other pods are exempt.

use std::collections::{BTreeMap, BTreeSet};

use kube::core::{Expression, Selector, SelectorExt};

use super::Pod;

/// Why a selection makes no sense.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SelectionError {
    /// Neither namespaces nor labels are given.
    #[error(
        "name at least one namespace or one label; without either every pod of the node would be enforced"
    )]
    Everything,
    /// A part of the selector has no form that is known.
    #[error(
        "`{part}` is no label requirement; forms are `a=b`, `a!=b`, `a`, `!a`, `a in (b,c)` and `a notin (b,c)`"
    )]
    Requirement {
        /// The part.
        part: String,
    },
}

/// Which pods are enforced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selection {
    namespaces: BTreeSet<String>,
    labels: Selector,
}

impl Selection {
    /// A selection of pods in these namespaces whose labels match.
    ///
    /// # Errors
    /// [`SelectionError::Everything`] where both are empty.
    pub fn new(
        namespaces: impl IntoIterator<Item = String>,
        labels: impl Into<Selector>,
    ) -> Result<Self, SelectionError> {
        let namespaces: BTreeSet<_> = namespaces.into_iter().collect();
        let labels = labels.into();
        if namespaces.is_empty() && labels.selects_all() {
            return Err(SelectionError::Everything);
        }
        Ok(Self { namespaces, labels })
    }

    /// A selection of pods in these namespaces that have all of these labels.
    ///
    /// # Errors
    /// [`SelectionError::Everything`] where both are empty.
    pub fn with_labels(
        namespaces: impl IntoIterator<Item = String>,
        labels: &BTreeMap<String, String>,
    ) -> Result<Self, SelectionError> {
        Self::new(namespaces, labels.clone().into_iter().collect::<Selector>())
    }

    /// Whether this pod is enforced.
    #[must_use]
    pub fn enforces(&self, pod: &Pod) -> bool {
        (self.namespaces.is_empty() || self.namespaces.contains(&pod.namespace))
            && self.labels.matches(&pod.labels)
    }
}

/// Reads a label selector as `kubectl -l` takes it, such as `app=agent,tier in (a, b),!legacy`.
///
/// # Errors
/// [`SelectionError::Requirement`] with the part that has no known form.
pub fn parse_selector(text: &str) -> Result<Selector, SelectionError> {
    parts(text)
        .filter(|part| !part.is_empty())
        .map(|part| {
            requirement(part).ok_or_else(|| SelectionError::Requirement {
                part: part.to_owned(),
            })
        })
        .collect()
}

/// The parts between commas that are not inside brackets.
fn parts(text: &str) -> impl Iterator<Item = &str> {
    let mut depth = 0_i32;
    text.split(move |at: char| {
        match at {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
        at == ',' && depth == 0
    })
    .map(str::trim)
}

fn requirement(part: &str) -> Option<Expression> {
    if let Some((head, list)) = part.strip_suffix(')').and_then(|part| part.split_once('(')) {
        let (name, operator) = head.trim_end().rsplit_once(char::is_whitespace)?;
        let name = key(name.trim())?;
        let values = list
            .split(',')
            .map(|item| value(item.trim()))
            .collect::<Option<BTreeSet<_>>>()?;
        return match operator {
            "in" => Some(Expression::In(name, values)),
            "notin" => Some(Expression::NotIn(name, values)),
            _ => None,
        };
    }
    if let Some((name, wanted)) = part.split_once("!=") {
        return Some(Expression::NotEqual(key(name.trim())?, value(wanted.trim())?));
    }
    if let Some((name, wanted)) = part.split_once('=') {
        let wanted = wanted.strip_prefix('=').unwrap_or(wanted);
        return Some(Expression::Equal(key(name.trim())?, value(wanted.trim())?));
    }
    match part.strip_prefix('!') {
        Some(name) => Some(Expression::DoesNotExist(key(name.trim())?)),
        None => Some(Expression::Exists(key(part)?)),
    }
}

fn key(text: &str) -> Option<String> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'/');
    (!text.is_empty() && text.bytes().all(fits)).then(|| text.to_owned())
}

fn value(text: &str) -> Option<String> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    text.bytes().all(fits).then(|| text.to_owned())
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
        let selection = Selection::new(["agents".into()], parse_selector("app=agent").unwrap()).unwrap();
        assert!(selection.enforces(&pod("agents", &[("app", "agent"), ("x", "y")])));
        assert!(!selection.enforces(&pod("agents", &[("app", "web")])));
        assert!(!selection.enforces(&pod("agents", &[])));
        assert!(!selection.enforces(&pod("default", &[("app", "agent")])));
    }

    #[test]
    fn an_empty_half_stands_for_all_and_two_empty_halves_for_a_mistake() {
        let by_namespace = Selection::new(["agents".into()], Selector::default()).unwrap();
        assert!(by_namespace.enforces(&pod("agents", &[])));
        let by_label = Selection::with_labels([], &[("a".into(), "b".into())].into()).unwrap();
        assert!(by_label.enforces(&pod("anywhere", &[("a", "b")])));
        assert!(!by_label.enforces(&pod("anywhere", &[("a", "c")])));
        assert_eq!(
            Selection::new([], Selector::default()),
            Err(SelectionError::Everything)
        );
    }

    #[test]
    fn selectors_read_as_kubectl_reads_them() {
        let table = [
            ("a=b", vec![("a", "b")], true),
            ("a==b", vec![("a", "b")], true),
            ("a=b", vec![("a", "c")], false),
            ("a!=b", vec![], true),
            ("a != b", vec![("a", "b")], false),
            ("a", vec![("a", "")], true),
            ("a", vec![], false),
            ("!a", vec![], true),
            ("! a", vec![("a", "x")], false),
            ("a in (b, c), d", vec![("a", "c"), ("d", "1")], true),
            ("a in (b,c),d", vec![("a", "c")], false),
            ("a in(b)", vec![("a", "b")], true),
            ("x.io/a notin (b,c)", vec![("x.io/a", "b")], false),
            ("x.io/a notin (b,c)", vec![], true),
            ("", vec![], true),
        ];
        for (text, labels, matches) in table {
            let selector = parse_selector(text).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(
                selector.matches(&pod("n", &labels).labels),
                matches,
                "{text} {labels:?}"
            );
        }
        for text in [
            "a in b",
            "a in (b",
            "a outside (b)",
            "=b",
            "a b",
            "a=b c",
            "a=(b)",
            "a>1",
        ] {
            assert!(parse_selector(text).is_err(), "{text}");
        }
    }
}
