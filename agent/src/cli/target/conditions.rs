//! What the cluster's agents say of an object of Picket's, by its conditions.
//!
//! In: the object as the API server has it. Out: why it is not in force, what it conflicts with, and what is worth knowing of one that is
//! in force.

use kube::api::DynamicObject;
use picket_policy::api::v1alpha1::{ConditionStatus, ObjectCondition};

use crate::store::{AMBIGUOUS, CONFLICT, READY};

/// The conditions of one version of an object.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::cli) struct Conditions {
    ready: Option<ObjectCondition>,
    conflict: Option<ObjectCondition>,
}

impl Conditions {
    /// Those of the version of this generation, or of a later one.
    pub(in crate::cli) fn of(object: &DynamicObject, generation: i64) -> Self {
        let all = object.data.pointer("/status/conditions").cloned();
        let all = all.and_then(|all| serde_json::from_value::<Vec<ObjectCondition>>(all).ok());
        let mut conditions = Self::default();
        for condition in all.unwrap_or_default() {
            if condition.observed_generation < generation {
                continue;
            }
            match condition.kind.as_str() {
                READY => conditions.ready = Some(condition),
                CONFLICT if condition.status == ConditionStatus::True => {
                    conditions.conflict = Some(condition);
                }
                _ => {}
            }
        }
        conditions
    }

    /// Those of the latest version.
    pub(in crate::cli) fn of_latest(object: &DynamicObject) -> Self {
        Self::of(object, object.metadata.generation.unwrap_or_default())
    }

    /// Whether it is in force, once an agent said so.
    pub(in crate::cli) fn ready(&self) -> Option<&ObjectCondition> {
        self.ready.as_ref()
    }

    /// Why it is not in force.
    pub(in crate::cli) fn refused(&self) -> Option<&ObjectCondition> {
        self.ready.as_ref().filter(|ready| !is_true(ready))
    }

    /// Why requests are denied though it is in force: two objects name one agent, or one agent is two users.
    pub(in crate::cli) fn conflict(&self) -> Option<String> {
        let conflict = self.conflict.as_ref()?;
        let message = &conflict.message;
        Some(match conflict.reason == AMBIGUOUS {
            true => format!("{message}. Every request of a caller that matches both is denied"),
            false => message.clone(),
        })
    }

    /// Whether the reason why it is not in force says the conflict too.
    pub(in crate::cli) fn is_refused_for_conflict(&self) -> bool {
        let conflict = self.conflict.as_ref();
        let said =
            |refused: &ObjectCondition| conflict.is_some_and(|of| refused.message.contains(&of.message));
        self.refused().is_some_and(said)
    }

    /// What else is worth knowing of one in force, such as that nothing of the names in it is there.
    pub(in crate::cli) fn remark(&self) -> Option<String> {
        let ready = self.ready.as_ref().filter(|ready| is_true(ready))?;
        // The message has the conflict's sentences too, before the others.
        let conflict = self.conflict.as_ref().map(|conflict| conflict.message.as_str());
        let mut rest = ready.message.as_str();
        for sentence in conflict.iter().flat_map(|conflict| conflict.split("; ")) {
            rest = rest.strip_prefix(sentence).unwrap_or(rest);
            rest = rest.strip_prefix("; ").unwrap_or(rest);
        }
        let is_told = conflict.is_some_and(|conflict| conflict.contains(rest));
        (!rest.is_empty() && !is_told).then(|| rest.to_owned())
    }

    /// What a person should read of one that is in force, a sentence each.
    pub(in crate::cli) fn warnings(&self) -> Vec<String> {
        let conflict = self
            .conflict()
            .map(|conflict| format!("it conflicts: {conflict}"));
        conflict.into_iter().chain(self.remark()).collect()
    }
}

fn is_true(condition: &ObjectCondition) -> bool {
    condition.status == ConditionStatus::True
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn of(conditions: &[(&str, &str, &str)]) -> Conditions {
        let conditions: Vec<Value> = conditions
            .iter()
            .map(|(kind, status, message)| {
                json!({
                    "type": kind, "status": status, "observedGeneration": 2, "reason": "R", "message": message,
                    "lastTransitionTime": "2026-01-01T00:00:00Z",
                })
            })
            .collect();
        let object = json!({
            "metadata": {"name": "a", "generation": 2}, "status": {"conditions": conditions},
        });
        Conditions::of_latest(&serde_json::from_value(object).expect("an object"))
    }

    #[test]
    fn an_object_in_force_is_told_of_with_its_conflict_once_and_what_else_is_to_know() {
        assert_eq!(of(&[("Ready", "True", "")]).warnings(), [] as [&str; 0]);
        let dangling = of(&[("Ready", "True", "no AgentIdentity is named \"b\"")]);
        assert_eq!(dangling.warnings(), ["no AgentIdentity is named \"b\""]);
        let both = of(&[
            ("Ready", "True", "as b; as c"),
            ("Conflict", "True", "as b; as c"),
        ]);
        assert_eq!(both.warnings(), ["it conflicts: as b; as c"]);
        let more = of(&[("Ready", "True", "as b; no group"), ("Conflict", "True", "as b")]);
        assert_eq!(more.warnings(), ["it conflicts: as b", "no group"]);
        let of_workloads = of(&[
            ("Ready", "True", "no group"),
            ("Conflict", "True", "two workloads"),
        ]);
        assert_eq!(
            of_workloads.warnings(),
            ["it conflicts: two workloads", "no group"]
        );
        let mut ambiguous = of(&[("Ready", "True", "as b"), ("Conflict", "True", "as b")]);
        ambiguous.conflict.as_mut().expect("a conflict").reason = AMBIGUOUS.to_owned();
        assert_eq!(
            ambiguous.warnings(),
            ["it conflicts: as b. Every request of a caller that matches both is denied"]
        );
        let ended = of(&[("Ready", "True", ""), ("Conflict", "False", "as b")]);
        assert_eq!(ended.warnings(), [] as [&str; 0]);
    }

    #[test]
    fn one_that_is_refused_says_why_and_an_older_version_says_nothing() {
        let refused = of(&[("Ready", "False", "wrong")]);
        assert_eq!(
            refused.refused().map(|ready| ready.message.as_str()),
            Some("wrong")
        );
        assert_eq!(refused.warnings(), [] as [&str; 0]);
        let mut object: DynamicObject =
            serde_json::from_value(json!({"metadata": {"name": "a", "generation": 3}})).expect("an object");
        assert_eq!(Conditions::of_latest(&object), Conditions::default());
        object.data = json!({"status": {"conditions": [{"type": "Ready", "status": "True", "observedGeneration": 2,
            "reason": "InForce", "message": "x", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}});
        assert_eq!(Conditions::of_latest(&object), Conditions::default());
        assert!(Conditions::of(&object, 2).ready().is_some());
    }
}
