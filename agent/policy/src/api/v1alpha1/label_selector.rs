//! A label selector in Kubernetes' words.
//!
//! In: a `selector` in a document. Out: a [`LabelSelector`], and errors where Kubernetes would refuse it.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::api::field::FieldErrors;
use crate::kubernetes::resources::is_subdomain;
use crate::yaml::FieldPath;

/// A label selector as Kubernetes has it; all that is given must hold.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LabelSelector {
    /// Labels that must be there, each with its value.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub match_labels: BTreeMap<String, String>,
    /// Conditions on single labels.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub match_expressions: Vec<LabelRequirement>,
}

/// A condition on one label.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LabelRequirement {
    /// The label's key.
    #[schemars(length(min = 1))]
    pub key: String,
    /// What must hold for the label.
    pub operator: LabelOperator,
    /// The values that In and NotIn compare with; the other operators take none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1))]
    pub values: Vec<String>,
}

/// What must hold for a label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum LabelOperator {
    /// The label is there with one of the values.
    In,
    /// The label is absent or has none of the values.
    NotIn,
    /// The label is there.
    Exists,
    /// The label is absent.
    DoesNotExist,
}

/// Most characters of a label's value, and of its key's name.
const MAX_LABEL: usize = 63;

/// Whether a text is a name as Kubernetes wants labels to have (k8s.io/apimachinery, pkg/util/validation, `IsQualifiedName`).
fn is_name(text: &str) -> bool {
    let is_end = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric());
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    text.len() <= MAX_LABEL
        && is_end(text.bytes().next())
        && is_end(text.bytes().last())
        && text.bytes().all(fits)
}

/// What is wrong with a label's key.
fn key_error(key: &str) -> Option<String> {
    let is_key = match key.split_once('/') {
        Some((prefix, name)) => is_subdomain(prefix) && is_name(name),
        None => is_name(key),
    };
    (!is_key).then(|| format!("label {key:?}: no label has such a key; write `env` or `example.com/env`"))
}

/// What is wrong with a label's value.
fn value_error(value: &str) -> Option<String> {
    (!value.is_empty() && !is_name(value)).then(|| {
        format!(
            "label value {value:?}: a value has at most 63 letters, digits, `-`, `_` and `.`, and no globs"
        )
    })
}

impl LabelSelector {
    /// Whether it asks for nothing, and so selects everything.
    pub(super) fn is_empty(&self) -> bool {
        self.match_labels.is_empty() && self.match_expressions.is_empty()
    }

    /// As [`LabelSelector::validate`], and notes keys and values that no label can have: a rule by them would never match.
    pub(super) fn validate_labels(&self, path: &FieldPath, errors: &mut FieldErrors) {
        self.validate(path, errors);
        let labels = path.field("matchLabels");
        for (key, value) in &self.match_labels {
            if let Some(reason) = key_error(key).or_else(|| value_error(value)) {
                errors.add(labels.clone(), format!("field `{labels}`: {reason}"));
            }
        }
        let expressions = path.field("matchExpressions");
        for (index, requirement) in self.match_expressions.iter().enumerate() {
            let path = expressions.index(index);
            if let Some(reason) = key_error(&requirement.key) {
                errors.add(path.field("key"), reason);
            }
            errors.add_each(&path.field("values"), &requirement.values, value_error);
        }
    }

    pub(super) fn validate(&self, path: &FieldPath, errors: &mut FieldErrors) {
        let path = path.field("matchExpressions");
        for (index, requirement) in self.match_expressions.iter().enumerate() {
            let path = path.index(index);
            let values = path.field("values");
            let compares = matches!(requirement.operator, LabelOperator::In | LabelOperator::NotIn);
            if compares && requirement.values.is_empty() {
                errors.add(
                    values.clone(),
                    format!("field `{values}` is required with In and NotIn"),
                );
            } else if !compares && !requirement.values.is_empty() {
                // At the requirement: the operator may be what is wrong.
                errors.add(
                    path,
                    format!("field `{values}` has no place with Exists and DoesNotExist"),
                );
            }
        }
    }
}
