//! Label selectors: whether one matches a pod, and whether two could match the same one.
//!
//! In: selectors, and the labels of a pod. Out: yes or no, exactly: each label key is tested by itself.

use std::collections::{BTreeMap, BTreeSet};

use crate::api::v1alpha1::{LabelOperator, LabelSelector, PodAttest};

/// Whether labels satisfy a selector (`Matches` of k8s.io/apimachinery's labels.Requirement).
pub(super) fn matches(selector: Option<&LabelSelector>, labels: &BTreeMap<String, String>) -> bool {
    tests(selector).all(|(key, test)| {
        let value = labels.get(key);
        match test {
            LabelTest::Is(wanted) => value == Some(wanted),
            LabelTest::In(values) => value.is_some_and(|value| values.contains(value)),
            LabelTest::NotIn(values) => value.is_none_or(|value| !values.contains(value)),
            LabelTest::Exists => value.is_some(),
            LabelTest::DoesNotExist => value.is_none(),
        }
    })
}

/// What must hold for a label.
#[derive(Clone, Copy)]
enum LabelTest<'s> {
    /// It is there with this value.
    Is(&'s String),
    /// It is there with one of these values.
    In(&'s [String]),
    /// It is absent or has none of these values.
    NotIn(&'s [String]),
    /// It is there.
    Exists,
    /// It is absent.
    DoesNotExist,
}

/// The lines of a selector, each with its label's key; no selector has none.
fn tests(selector: Option<&LabelSelector>) -> impl Iterator<Item = (&str, LabelTest<'_>)> {
    selector.into_iter().flat_map(|selector| {
        let labels = selector.match_labels.iter();
        let labels = labels.map(|(key, value)| (key.as_str(), LabelTest::Is(value)));
        let expressions = selector.match_expressions.iter().map(|requirement| {
            let test = match requirement.operator {
                LabelOperator::In => LabelTest::In(&requirement.values),
                LabelOperator::NotIn => LabelTest::NotIn(&requirement.values),
                LabelOperator::Exists => LabelTest::Exists,
                LabelOperator::DoesNotExist => LabelTest::DoesNotExist,
            };
            (requirement.key.as_str(), test)
        });
        labels.chain(expressions)
    })
}

/// The labels that a selector binds to certain values, with those. Two selectors that bind one label to different values match no pod
/// together.
pub(super) fn pinned_labels(selector: Option<&LabelSelector>) -> impl Iterator<Item = (&str, &[String])> {
    tests(selector).filter_map(|(key, test)| match test {
        LabelTest::Is(value) => Some((key, std::slice::from_ref(value))),
        LabelTest::In(values) => Some((key, values)),
        LabelTest::NotIn(_) | LabelTest::Exists | LabelTest::DoesNotExist => None,
    })
}

/// Whether some pod could satisfy both. Exact: each key stands for itself, so the tests of one key can hold together or
/// not whatever the other keys say.
pub(super) fn could_both_match(one: &PodAttest, other: &PodAttest) -> bool {
    if one.namespace != other.namespace || one.service_account != other.service_account {
        return false;
    }
    let mut by_key: BTreeMap<&str, Vec<LabelTest<'_>>> = BTreeMap::new();
    for (key, test) in [one, other]
        .into_iter()
        .flat_map(|pod| tests(pod.selector.as_ref()))
    {
        by_key.entry(key).or_default().push(test);
    }
    by_key.values().all(|tests| satisfiable(tests))
}

fn satisfiable(tests: &[LabelTest<'_>]) -> bool {
    let (mut present, mut absent) = (false, false);
    let mut choices: Option<BTreeSet<&str>> = None;
    for test in tests {
        let values = match test {
            LabelTest::Is(value) => std::slice::from_ref(*value),
            LabelTest::In(values) => values,
            LabelTest::Exists => {
                present = true;
                continue;
            }
            LabelTest::DoesNotExist => {
                absent = true;
                continue;
            }
            LabelTest::NotIn(_) => continue,
        };
        present = true;
        let values: BTreeSet<_> = values.iter().map(String::as_str).collect();
        choices = Some(match choices {
            Some(before) => before.intersection(&values).copied().collect(),
            None => values,
        });
    }
    if present && absent {
        return false;
    }
    // Without a set to choose from, some other value is always left.
    choices.is_none_or(|choices| {
        choices.iter().any(|choice| {
            !tests
                .iter()
                .any(|test| matches!(test, LabelTest::NotIn(values) if values.iter().any(|v| v == choice)))
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::v1alpha1::LabelRequirement;

    type Test = (LabelOperator, Vec<String>);

    fn attest(tests: &[(&str, Test)]) -> PodAttest {
        let requirement = |(key, (operator, values)): &(&str, Test)| LabelRequirement {
            key: (*key).to_owned(),
            operator: *operator,
            values: values.clone(),
        };
        PodAttest {
            namespace: "ns".to_owned(),
            service_account: "sa".to_owned(),
            selector: Some(LabelSelector {
                match_expressions: tests.iter().map(requirement).collect(),
                ..LabelSelector::default()
            }),
        }
    }

    fn is(values: &[&str]) -> Test {
        let values = values.iter().map(|value| (*value).to_owned());
        (LabelOperator::In, values.collect())
    }

    fn isnt(values: &[&str]) -> Test {
        (LabelOperator::NotIn, is(values).1)
    }

    fn exists() -> Test {
        (LabelOperator::Exists, Vec::new())
    }

    fn absent() -> Test {
        (LabelOperator::DoesNotExist, Vec::new())
    }

    #[test]
    fn selectors_overlap_unless_one_key_keeps_them_apart() {
        for (one, other, overlap) in [
            (vec![], vec![], true),
            (vec![("app", is(&["a"]))], vec![], true),
            (vec![("app", is(&["a"]))], vec![("app", is(&["b"]))], false),
            (
                vec![("app", is(&["a", "b"]))],
                vec![("app", is(&["b", "c"]))],
                true,
            ),
            (vec![("app", is(&["a"]))], vec![("tier", is(&["b"]))], true),
            (vec![("app", is(&["a"]))], vec![("app", isnt(&["a"]))], false),
            (vec![("app", is(&["a", "b"]))], vec![("app", isnt(&["a"]))], true),
            (vec![("app", exists())], vec![("app", absent())], false),
            (vec![("app", is(&["a"]))], vec![("app", absent())], false),
            (vec![("app", isnt(&["a"]))], vec![("app", absent())], true),
        ] {
            assert_eq!(
                could_both_match(&attest(&one), &attest(&other)),
                overlap,
                "{one:?} {other:?}"
            );
            assert_eq!(
                could_both_match(&attest(&other), &attest(&one)),
                overlap,
                "{other:?} {one:?}"
            );
        }
        let mut elsewhere = attest(&[]);
        elsewhere.namespace = "other".to_owned();
        assert!(!could_both_match(&attest(&[]), &elsewhere));
    }

    #[test]
    fn labels_satisfy_a_selector_as_in_kubernetes() {
        let labels = BTreeMap::from([("app".to_owned(), "a".to_owned())]);
        for (test, holds) in [
            (("app", is(&["a"])), true),
            (("app", is(&["b"])), false),
            (("tier", is(&["a"])), false),
            (("tier", isnt(&["a"])), true),
            (("app", isnt(&["a"])), false),
            (("app", exists()), true),
            (("tier", exists()), false),
            (("tier", absent()), true),
        ] {
            assert_eq!(
                matches(attest(std::slice::from_ref(&test)).selector.as_ref(), &labels),
                holds,
                "{test:?}"
            );
        }
    }
    #[test]
    fn match_labels_are_in_with_one_value() {
        let labels = |value: &str| BTreeMap::from([("app".to_owned(), value.to_owned())]);
        let pod = |value: &str| PodAttest {
            selector: Some(LabelSelector {
                match_labels: labels(value),
                ..LabelSelector::default()
            }),
            ..attest(&[])
        };
        assert!(matches(pod("a").selector.as_ref(), &labels("a")));
        assert!(!matches(pod("a").selector.as_ref(), &labels("b")));
        assert!(matches(None, &labels("b")));
        assert!(could_both_match(&pod("a"), &attest(&[("app", is(&["a", "b"]))])));
        assert!(!could_both_match(&pod("a"), &pod("b")));
        assert!(!could_both_match(&pod("a"), &attest(&[("app", isnt(&["a"]))])));
        assert!(!could_both_match(&pod("a"), &attest(&[("app", absent())])));
    }
}
