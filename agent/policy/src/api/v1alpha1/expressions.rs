//! The expressions of a policy: its variables, and when a rule fires.
//!
//! In: `spec.params`, `spec.variables`, `spec.failurePolicy` and `spec.rules[].when`. Out: their types, and errors where an expression
//! cannot stand. The variables of an expression are those of a ValidatingAdmissionPolicy (KEP-3488), and `agent`.

use std::collections::BTreeSet;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json};

use super::agent_policy::{Action, Rule};
use crate::api::field::FieldErrors;
use crate::cel::{Composition, Expression, is_identifier};
use crate::kubernetes::verbs::Verb;
use crate::yaml::FieldPath;

/// The variables that every expression has. `variables` holds those of the policy.
pub const ROOTS: [&str; 7] = [
    "agent",
    "namespaceObject",
    "object",
    "oldObject",
    "params",
    "request",
    "variables",
];

/// Variables of a ValidatingAdmissionPolicy that are not built yet.
const PLANNED: [&str; 1] = ["authorizer"];

/// Most variables of a policy; more is refused by the compiler too.
pub(super) const MAX_VARIABLES: usize = crate::cel::MAX_VARIABLES;

/// Most bytes that the `params` of a policy have as JSON. Every node keeps them in memory, and a file of objects has 1 MiB at most: this is
/// room for a thousand names of registries.
pub(super) const MAX_PARAMS: usize = 64 * 1024;

/// Most bytes of an expression; more is refused by the compiler too.
pub(super) const MAX_EXPRESSION: usize = crate::cel::MAX_EXPRESSION;

/// What an expression that has no outcome counts as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub enum FailurePolicy {
    /// The rule fires.
    #[default]
    Fail,
    /// The rule does not fire, unless an object, a namespace or its labels are not known. The audit record has it under `wouldDeny`,
    /// with the reason.
    Ignore,
}

/// A value that the rules of a policy share.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Variable {
    /// The variable's name, unique in its policy. Expressions after it have it as `variables.NAME`.
    #[schemars(length(min = 1), regex(pattern = r"^[A-Za-z_][A-Za-z0-9_]*$"))]
    pub name: String,
    /// The CEL expression whose value it has. It is evaluated where a rule asks for it, and once a request.
    #[schemars(length(min = 1, max = MAX_EXPRESSION))]
    pub expression: String,
}

/// What is wrong with an expression, in words for its author.
fn reason(error: &crate::cel::CelError) -> String {
    if let crate::cel::CelError::Variable { name, .. } = error
        && PLANNED.contains(&name.as_str())
    {
        return format!(
            "variable `{name}` is not supported by this version yet; there are: {}",
            ROOTS.join(", ")
        );
    }
    error.to_string()
}

/// Notes `params` that are too large.
pub(super) fn validate_params(params: &Map<String, Json>, path: &FieldPath, errors: &mut FieldErrors) {
    let size = serde_json::to_vec(params).map_or(usize::MAX, |bytes| bytes.len());
    if size > MAX_PARAMS {
        let reason = format!("field `{path}` has {size} bytes as JSON; it can have {MAX_PARAMS}");
        errors.add(path.clone(), reason);
    }
}

/// Notes variables that cannot stand; else their composition.
fn validate_variables(
    params: Option<&Map<String, Json>>,
    (variables, path): (&[Variable], &FieldPath),
    errors: &mut FieldErrors,
) -> Option<Composition> {
    let before = errors.len();
    if variables.len() > MAX_VARIABLES {
        errors.add(
            path.clone(),
            format!("field `{path}` has more than {MAX_VARIABLES} variables"),
        );
    }
    let mut names = BTreeSet::new();
    for (index, variable) in variables.iter().enumerate() {
        let at = path.index(index).field("name");
        if !is_identifier(&variable.name) {
            let reason = format!(
                "variable {:?}: a name has letters, digits and _, and no digit first",
                variable.name
            );
            errors.add(at, reason);
        } else if !names.insert(variable.name.as_str()) {
            errors.add(at, format!("variable {:?} is there twice", variable.name));
        }
    }
    if errors.len() > before {
        return None;
    }
    match composition(params, variables) {
        Ok(composition) => Some(composition),
        Err((index, error)) => {
            let at = path.index(index).field("expression");
            let reason = format!("field `{at}`: {}", reason(&error));
            errors.add(at, reason);
            None
        }
    }
}

/// The params and the variables of a policy, compiled.
///
/// # Errors
/// Which of them cannot stand, and why.
pub(crate) fn composition(
    params: Option<&Map<String, Json>>,
    variables: &[Variable],
) -> Result<Composition, (usize, crate::cel::CelError)> {
    let list: Vec<_> = variables
        .iter()
        .map(|variable| (variable.name.clone(), variable.expression.clone()))
        .collect();
    Composition::with_params(params.cloned().map(Json::Object), &list, &ROOTS)
}

/// Notes expressions that cannot stand.
pub(super) fn validate(
    params: Option<&Map<String, Json>>,
    variables: (&[Variable], &FieldPath),
    rules: (&[Rule], &FieldPath),
    errors: &mut FieldErrors,
) {
    let composition = validate_variables(params, variables, errors);
    for (index, rule) in rules.0.iter().enumerate() {
        let Some(when) = &rule.when else { continue };
        let path = rules.1.index(index);
        let at = path.field("when");
        // Variables that cannot stand would make each of its uses a fault of its own.
        let Some(composition) = &composition else { continue };
        match Expression::compile_rule(when, &ROOTS, composition) {
            Err(error) => {
                let reason = format!("field `{at}`: {}", reason(&error));
                errors.add(at, reason);
            }
            Ok(expression) => {
                if expression.uses("namespaceObject") {
                    validate_namespace_object(rule, &path, errors);
                }
                let used = ["object", "oldObject"];
                if let Some(root) = used.into_iter().find(|root| expression.uses(root)) {
                    validate_object(root, rule, &path, errors);
                }
            }
        }
    }
}

/// Notes a rule that asks for the namespace of a list's objects, which are of many: its match says which of them are hidden.
fn validate_namespace_object(rule: &Rule, path: &FieldPath, errors: &mut FieldErrors) {
    if rule.action == Action::Filter {
        let at = path.field("when");
        let reason = format!(
            "field `{at}`: `when` of a Filter rule has agent and request, and no `namespaceObject`; select namespaces by match.namespaceSelector"
        );
        errors.add(at, reason);
    }
}

/// Notes a rule that asks for the new or the stored object of requests that have none: it would refuse all of them.
fn validate_object(root: &str, rule: &Rule, path: &FieldPath, errors: &mut FieldErrors) {
    if rule.action == Action::Filter {
        let at = path.field("when");
        let reason = format!(
            "field `{at}`: `when` of a Filter rule has agent and request, and no `{root}`; refuse by what an object holds with Deny"
        );
        errors.add(at, reason);
        return;
    }
    let (change, verbs) = match root {
        "oldObject" => ("change or delete", "[update, patch, delete]"),
        _ => ("create, change or delete", "[create, update]"),
    };
    let why = format!("the rule's `when` has `{root}`, which requests that {change} objects alone have");
    if rule.matches.non_resource_urls.is_some() {
        errors.add(
            path.field("when"),
            format!("requests for nonResourceURLs have no `{root}`"),
        );
        return;
    }
    let Some(verbs) = &rule.matches.verbs else {
        let reason = format!("{why}: list them, such as verbs: {verbs}");
        errors.add(path.field("match"), reason);
        return;
    };
    let verbs_path = path.field("match").field("verbs");
    errors.add_each(&verbs_path, verbs, |verb| {
        let has = Verb::parse(verb).is_some_and(Verb::has_object);
        (!has).then(|| format!("verb {verb:?}: {why}"))
    });
}
