//! Label selectors: whether one matches a pod, and whether two could match the same one.

use std::collections::{BTreeMap, BTreeSet};

use crate::api::v1alpha1::{LabelTest, PodAttest, Selector};

/// Whether labels satisfy a selector (`Matches` of k8s.io/apimachinery's labels.Requirement).
pub(super) fn matches(selector: &Selector, labels: &BTreeMap<String, String>) -> bool {
    selector.0.iter().all(|requirement| {
        let value = labels.get(&requirement.key);
        match &requirement.test {
            LabelTest::In(values) => value.is_some_and(|value| values.contains(value)),
            LabelTest::NotIn(values) => value.is_none_or(|value| !values.contains(value)),
            LabelTest::Exists => value.is_some(),
            LabelTest::DoesNotExist => value.is_none(),
        }
    })
}

/// Whether some pod could satisfy both. Exact: each key stands for itself, so the tests of one key can hold together or
/// not whatever the other keys say.
pub(super) fn could_both_match(one: &PodAttest, other: &PodAttest) -> bool {
    if one.namespace != other.namespace || one.service_account != other.service_account {
        return false;
    }
    let mut by_key: BTreeMap<&str, Vec<&LabelTest>> = BTreeMap::new();
    for requirement in one.selector.0.iter().chain(&other.selector.0) {
        by_key
            .entry(&requirement.key)
            .or_default()
            .push(&requirement.test);
    }
    by_key.values().all(|tests| satisfiable(tests))
}

fn satisfiable(tests: &[&LabelTest]) -> bool {
    let (mut present, mut absent) = (false, false);
    let mut choices: Option<BTreeSet<&str>> = None;
    for test in tests {
        match test {
            LabelTest::In(values) => {
                present = true;
                let values: BTreeSet<_> = values.iter().map(String::as_str).collect();
                choices = Some(match choices {
                    Some(before) => before.intersection(&values).copied().collect(),
                    None => values,
                });
            }
            LabelTest::Exists => present = true,
            LabelTest::DoesNotExist => absent = true,
            LabelTest::NotIn(_) => {}
        }
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
    use crate::api::v1alpha1::Requirement;

    fn attest(tests: &[(&str, LabelTest)]) -> PodAttest {
        let requirement = |(key, test): &(&str, LabelTest)| Requirement {
            key: (*key).to_owned(),
            test: test.clone(),
        };
        PodAttest {
            namespace: "ns".to_owned(),
            service_account: "sa".to_owned(),
            selector: Selector(tests.iter().map(requirement).collect()),
        }
    }

    fn is(values: &[&str]) -> LabelTest {
        LabelTest::In(values.iter().map(|value| (*value).to_owned()).collect())
    }

    fn isnt(values: &[&str]) -> LabelTest {
        LabelTest::NotIn(values.iter().map(|value| (*value).to_owned()).collect())
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
            (
                vec![("app", LabelTest::Exists)],
                vec![("app", LabelTest::DoesNotExist)],
                false,
            ),
            (
                vec![("app", is(&["a"]))],
                vec![("app", LabelTest::DoesNotExist)],
                false,
            ),
            (
                vec![("app", isnt(&["a"]))],
                vec![("app", LabelTest::DoesNotExist)],
                true,
            ),
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
            (("app", LabelTest::Exists), true),
            (("tier", LabelTest::Exists), false),
            (("tier", LabelTest::DoesNotExist), true),
        ] {
            assert_eq!(
                matches(&attest(std::slice::from_ref(&test)).selector, &labels),
                holds,
                "{test:?}"
            );
        }
    }
}
