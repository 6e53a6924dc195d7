//! A label selector in Kubernetes' words.
//!
//! In: a `selector` in a document. Out: a [`LabelSelector`], and errors where Kubernetes would refuse it.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::api::field::FieldErrors;
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

impl LabelSelector {
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
