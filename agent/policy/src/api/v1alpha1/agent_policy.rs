//! AgentPolicy: what agents must not do, whatever they were granted.
//!
//! In: the `spec` of a document. Out: an [`AgentPolicySpec`], its part of the schema, and errors that no schema can express.

use std::collections::BTreeSet;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json};

use super::builtin_name::Builtin;
use super::expressions::{self, FailurePolicy, MAX_EXPRESSION, MAX_VARIABLES, Variable};
use super::limits::Limits;
use super::object::{CelRule, Spec};
use super::rule_match::{Match, check_globs};
use crate::api::field::FieldErrors;
use crate::glob::Glob;
use crate::kubernetes::resources::namespace_error;
use crate::yaml::FieldPath;

/// What agents must not do, whatever they were granted. The order of rules and files never matters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AgentPolicySpec {
    /// Whom the policy is about: an agent that one of the lists names. Without this field the policy is about every agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subjects: Option<Subjects>,
    /// Whether the policy's Deny rules refuse.
    #[serde(default)]
    pub mode: Mode,
    /// Built-in denies, by name, that do not hold for the subjects. The subjects must then be named plainly.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "exceptions_schema")]
    pub exceptions: Vec<String>,
    /// What a rule's `when` counts as where it has no outcome, such as where it asks for a field that is not there.
    #[serde(default)]
    pub failure_policy: FailurePolicy,
    /// An object of any fields that the rules' expressions have as `params`, and that can be changed without them. Of a
    /// ValidatingAdmissionPolicy it is the object that its `paramRef` names, such as `{data: {maxReplicas: "5"}}` of a ConfigMap. It has at
    /// most 64 KiB as JSON.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "params_schema")]
    pub params: Option<Map<String, Json>>,
    /// Values that the rules' expressions share, as `variables.NAME`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(min = 1, max = MAX_VARIABLES),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"])
    )]
    pub variables: Vec<Variable>,
    /// How much each of the subjects may ask for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<Limits>,
    /// The rules. A policy has rules, limits or exceptions, or several of these.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub rules: Vec<Rule>,
}

/// The words are refused by [`AgentPolicySpec::validate_exceptions`].
fn exceptions_schema(_: &mut SchemaGenerator) -> Schema {
    let names: Vec<_> = Builtin::ALL.iter().map(|builtin| builtin.name()).collect();
    json_schema!({
        "type": "array",
        "minItems": 1,
        "uniqueItems": true,
        "items": {"type": "string", "enum": names, "x-picket-validated": true},
    })
}

fn params_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "object", "x-kubernetes-preserve-unknown-fields": true})
}

/// Whom a policy is about. An agent that one of the lists names is meant.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("minProperties" = 1))]
pub struct Subjects {
    /// AgentIdentities by name (globs).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1), inner(regex(pattern = r".")), extend("uniqueItems" = true))]
    pub identities: Vec<String>,
    /// Groups of AgentIdentities (globs).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1), inner(regex(pattern = r".")), extend("uniqueItems" = true))]
    pub groups: Vec<String>,
    /// Namespaces that the agents' own pods run in (globs). No glob matches a client of the gateway, which is no pod: name
    /// such an agent by `identities` or `groups`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1), inner(regex(pattern = r"^[-a-z0-9*?]+$")), extend("uniqueItems" = true))]
    pub namespaces: Vec<String>,
}

/// Whether a policy's Deny rules refuse.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub enum Mode {
    /// Deny rules refuse.
    #[default]
    Enforce,
    /// Deny rules are noted in the audit record as `wouldDeny` and refuse nothing.
    Audit,
}

/// A rule of a policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Rule {
    /// The rule's name, unique in its policy.
    #[schemars(length(min = 1), regex(pattern = r"\S"))]
    pub name: String,
    /// The requests that the rule is about.
    #[serde(rename = "match")]
    pub matches: Match,
    /// A CEL expression that must be true besides the match. It has `namespaceObject`, `object`, `oldObject`, `params`, `request` and
    /// `variables`, with the meaning that they have in a ValidatingAdmissionPolicy, and `agent`. A rule whose `when` has `object` or
    /// `oldObject` lists verbs that have one: create, update, patch, delete,
    /// deletecollection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = MAX_EXPRESSION))]
    pub when: Option<String>,
    /// What the rule does when it fires.
    pub action: Action,
    /// What the agent is told, on one line.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(regex(pattern = r"^[^\x00-\x09\x0b-\x1f\x7f-\x9f]*$"))]
    pub message: String,
}

/// What a rule does when it fires.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Action {
    /// The request is refused.
    Deny,
    /// The request is held until a person approves it. No object can say so yet.
    #[serde(skip)]
    RequireApproval,
    /// The request passes with a `Warning` header.
    Warn,
    /// As Deny, but for a list or watch: that passes without the objects that the rule is about. Such a rule is about get, list and
    /// watch, and names or selects namespaces, or names objects, or leaves some alone.
    Filter,
}

impl Rule {
    fn validate(&self, path: &FieldPath, errors: &mut FieldErrors) {
        self.matches.validate(&path.field("match"), errors);
        if self.action == Action::Filter {
            self.matches.validate_filter(&path.field("match"), errors);
        }
        if self.message.chars().any(|char| char.is_control() && char != '\n') {
            let reason = format!("field `{path}.message` has control characters");
            errors.add(path.field("message"), reason);
        }
    }

    /// The message on one line, because it travels in a Warning header and in a Status message.
    #[must_use]
    pub fn one_line_message(&self) -> String {
        self.message.split_whitespace().collect::<Vec<_>>().join(" ")
    }
}

impl Subjects {
    fn validate(&self, path: &FieldPath, errors: &mut FieldErrors) {
        for (name, list) in [
            ("identities", &self.identities),
            ("groups", &self.groups),
            ("namespaces", &self.namespaces),
        ] {
            check_globs(errors, &path.field(name), list, Glob::name);
        }
        errors.add_each(&path.field("namespaces"), &self.namespaces, |name| {
            namespace_error(name, false)
        });
        if *self == Self::default() {
            let reason = format!("field `{path}` names nobody: leave it out to mean every agent");
            errors.add(path.clone(), reason);
        }
    }

    /// The path of the first subject that is not named plainly.
    fn first_glob(&self, path: &FieldPath) -> Option<FieldPath> {
        let glob = |name: &String| name.contains(['*', '?']);
        let first = |field, list: &[String]| {
            let index = list.iter().position(glob)?;
            Some(path.field(field).index(index))
        };
        first("identities", &self.identities)
            .or_else(|| first("groups", &self.groups))
            .or_else(|| (!self.namespaces.is_empty()).then(|| path.field("namespaces").index(0)))
    }
}

impl AgentPolicySpec {
    /// An exception widens what agents may do, so it names its built-ins and its agents plainly.
    fn validate_exceptions(&self, path: &FieldPath, errors: &mut FieldErrors) {
        if self.exceptions.is_empty() {
            return;
        }
        let exceptions = path.field("exceptions");
        errors.add_each(&exceptions, &self.exceptions, |name| {
            if Builtin::parse(name).is_some() {
                return None;
            }
            let known: Vec<_> = Builtin::ALL.iter().map(|builtin| builtin.name()).collect();
            Some(format!(
                "{name:?} is no built-in deny; there are: {}",
                known.join(", ")
            ))
        });
        let subjects = path.field("subjects");
        match &self.subjects {
            None => errors.add(
                exceptions.index(0),
                format!("field `{exceptions}` needs `{subjects}`: no exception is for all agents"),
            ),
            Some(named) => {
                if let Some(glob) = named.first_glob(&subjects) {
                    let reason = format!(
                        "field `{exceptions}` needs subjects by name: identities or groups without globs, and no \
                         namespaces"
                    );
                    errors.add(glob, reason);
                }
            }
        }
        if self.mode == Mode::Audit {
            let reason = format!("field `{exceptions}` has no effect in mode Audit");
            errors.add(exceptions.index(0), reason);
        }
    }
}

impl Spec for AgentPolicySpec {
    const KIND: &'static str = "AgentPolicy";
    const PLURAL: &'static str = "agentpolicies";
    const CEL_RULES: &'static [CelRule] = &[
        CelRule {
            path: "spec",
            rule: "has(self.exceptions) || has(self.limits) || has(self.rules) && size(self.rules) > 0",
            message: "rules are required: a policy without rules forbids nothing",
        },
        CelRule {
            path: "spec",
            rule: "!has(self.exceptions) || has(self.subjects)",
            message: "exceptions need subjects: no exception is for all agents",
        },
        CelRule {
            path: "spec",
            rule: "!has(self.exceptions) || !has(self.subjects) || !has(self.subjects.namespaces)",
            message: "exceptions need subjects by name: no namespaces",
        },
        CelRule {
            path: "spec",
            rule: "!has(self.exceptions) || !has(self.subjects) || !has(self.subjects.identities) || self.subjects.identities.all(name, !name.contains('*') && !name.contains('?'))",
            message: "exceptions need subjects by name: identities without globs",
        },
        CelRule {
            path: "spec",
            rule: "!has(self.exceptions) || !has(self.subjects) || !has(self.subjects.groups) || self.subjects.groups.all(name, !name.contains('*') && !name.contains('?'))",
            message: "exceptions need subjects by name: groups without globs",
        },
        CelRule {
            path: "spec",
            rule: "!has(self.exceptions) || self.mode != 'Audit'",
            message: "exceptions have no effect in mode Audit",
        },
        CelRule {
            path: "spec.limits",
            rule: "!has(self.burst) || has(self.requestsPerSecond)",
            message: "burst has no effect without requestsPerSecond",
        },
        CelRule {
            path: "spec.rules[].match",
            rule: "!has(self.nonResourceURLs) || !(has(self.apiGroups) || has(self.resources) || has(self.namespaces) || has(self.namespaceSelector) || has(self.names) || has(self.exceptResources) || has(self.exceptNamespaces) || has(self.exceptNames) || has(self.commands) || has(self.exceptCommands) || has(self.exceptArgv) || has(self.stdin) || has(self.tty) || has(self.env))",
            message: "resources and nonResourceURLs are mixed: make two rules of it",
        },
        CelRule {
            path: "spec.rules[].match",
            rule: "!has(self.verbs) || (has(self.nonResourceURLs) ? self.verbs.all(verb, verb in ['get', 'head', 'post', 'put', 'patch', 'delete', 'options', '*']) : self.verbs.all(verb, verb in ['get', 'list', 'watch', 'create', 'update', 'patch', 'delete', 'deletecollection', '*']))",
            message: "a verb that no request has: resources have get, list, watch, create, update, patch, delete and deletecollection; nonResourceURLs have get, head, post, put, patch, delete and options",
        },
        CelRule {
            path: "spec.rules[]",
            rule: "self.action != 'Filter' || !has(self.match.nonResourceURLs) && (!has(self.match.verbs) || self.match.verbs.all(verb, verb in ['get', 'list', 'watch']))",
            message: "a Filter rule is about resources and the verbs get, list and watch",
        },
        CelRule {
            path: "spec.rules[]",
            rule: "self.action != 'Filter' || has(self.match.namespaces) || has(self.match.namespaceSelector) || has(self.match.names) || has(self.match.exceptNamespaces) || has(self.match.exceptNames)",
            message: "a Filter rule says which objects it hides, by namespaces, namespaceSelector, names, exceptNamespaces or exceptNames",
        },
        CelRule {
            path: "spec.rules[].match",
            rule: "!(has(self.commands) || has(self.exceptCommands) || has(self.exceptArgv) || has(self.stdin) || has(self.tty) || has(self.env)) || has(self.resources) && self.resources.all(resource, resource in ['pods/exec', 'pods/attach'])",
            message: "commands, stdin, tty and env need resources: [pods/exec], pods/attach or both, and no others",
        },
        CelRule {
            path: "spec.rules[].match.namespaceSelector.matchExpressions[]",
            rule: "self.operator in ['In', 'NotIn'] == has(self.values)",
            message: "values are required with In and NotIn, and have no place with Exists and DoesNotExist",
        },
    ];
    const PLANNED_WORDS: &'static [(&'static str, &'static [&'static str])] =
        &[("spec.rules[].action", &["RequireApproval", "Mask", "Record"])];
    const RENAMED_FIELDS: &'static [(&'static str, &'static str)] = &[("spec.lift", "spec.exceptions")];

    fn validate(&self, path: &FieldPath, errors: &mut FieldErrors) {
        if let Some(subjects) = &self.subjects {
            subjects.validate(&path.field("subjects"), errors);
        }
        self.validate_exceptions(path, errors);
        if let Some(limits) = &self.limits {
            limits.validate(&path.field("limits"), errors);
        }
        let rules = path.field("rules");
        if self.rules.is_empty() && self.exceptions.is_empty() && self.limits.is_none() {
            let reason = format!("field `{rules}` is required: a policy without rules forbids nothing");
            errors.add(rules.clone(), reason);
        }
        let mut names = BTreeSet::new();
        for (index, rule) in self.rules.iter().enumerate() {
            let path = rules.index(index);
            rule.validate(&path, errors);
            if !names.insert(rule.name.as_str()) {
                let reason = format!("rule {:?} is there twice", rule.name);
                errors.add(path.field("name"), reason);
            }
        }
        if let Some(params) = &self.params {
            expressions::validate_params(params, &path.field("params"), errors);
        }
        expressions::validate(
            self.params.as_ref(),
            (&self.variables, &path.field("variables")),
            (&self.rules, &rules),
            errors,
        );
    }
}
