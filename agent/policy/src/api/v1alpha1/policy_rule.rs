//! An RBAC PolicyRule, with the checks of Kubernetes' own validation (pkg/apis/rbac/validation) and stricter verbs.
//!
//! In: a rule of an AgentGrant. Out: a [`PolicyRule`], and errors where no request could match the rule.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use crate::api::field::FieldErrors;
use crate::kubernetes::resources::{group_error, misspelt, name_error, resource_error, scope_error};
use crate::kubernetes::verbs::{Verb, is_role_verb, role_verbs};
use crate::yaml::FieldPath;

/// Most characters of a resource: two DNS labels with a slash. Rules in CEL read each, so that no more is a bound on their cost.
pub(super) const MAX_RESOURCE: usize = 128;

/// An RBAC PolicyRule, with RBAC's meaning (k8s.io/api/rbac/v1). It is about resources or about other paths.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PolicyRule {
    /// The verbs, or `*` for all. get, list, watch, create, update, patch, delete and deletecollection are of resources;
    /// get, head, post, put, patch, delete and options are of other paths. Other verbs of Kubernetes' own roles, such as escalate,
    /// impersonate or impersonate:user-info, may stand here and grant nothing: the API server checks them itself.
    #[schemars(schema_with = "role_verbs_schema")]
    pub verbs: Vec<String>,
    /// The API groups, or `*` for all. The core group is the empty string. Required with resources.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1))]
    pub api_groups: Vec<String>,
    /// The resources: `pods`, `pods/log`, `*/scale`, or `*` for all. Resources or nonResourceURLs are required.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(min = 1),
        inner(length(max = MAX_RESOURCE), regex(pattern = r"^(\*|[^*?/A-Z]+|(\*|[^*?/A-Z]+)/[^*?/A-Z]+)$"))
    )]
    pub resources: Vec<String>,
    /// The names of objects, without globs. Without this field the rule is about every name. A list or watch has the name that
    /// its `fieldSelector=metadata.name=NAME` says.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1), inner(regex(pattern = r"^[^*?]+$")))]
    pub resource_names: Vec<String>,
    /// The paths, each whole or with a `*` at its end that stands for any rest.
    #[serde(default, rename = "nonResourceURLs", skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1), inner(regex(pattern = r"^(\*|/[^*?]*\**)$")))]
    pub non_resource_urls: Vec<String>,
    /// Which requests of these verbs the rule gives. Without this field it gives all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dry_run: Option<DryRun>,
    /// Of `nodes/proxy`, `services/proxy` and `pods/proxy`: the paths behind the proxy that may be read, each whole or with a `*`
    /// at its end that stands for any rest. The built-in denies of these resources leave such requests alone. Only GET and HEAD
    /// pass, without an upgrade. A name with a scheme or a port must be in resourceNames.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1), inner(regex(pattern = r"^/[^*?#%/\\][^*?#%\\]*\*?$")))]
    pub proxy_paths: Vec<String>,
}

/// Which requests a rule gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DryRun {
    /// Only create, update and patch with `dryRun=All` in the query, once: the API server answers and stores nothing.
    Only,
}

/// The resources that proxyPaths is about.
const PROXIES: [&str; 3] = ["nodes/proxy", "services/proxy", "pods/proxy"];

/// The verbs that `dryRun: Only` is about. A delete takes its options from its body, which may say otherwise.
const DRY_RUNS: [Verb; 3] = [Verb::Create, Verb::Update, Verb::Patch];

/// Subresources whose writes the API server stores as those of an object, and so not in a dry run. Others act at once: a token
/// is issued, a command runs, an eviction's own options may say otherwise.
pub(crate) const STORED_SUBRESOURCES: [&str; 2] = ["status", "scale"];

/// The words are refused by [`check_verbs`], which says of what they are no verbs.
pub(super) fn verbs_schema(_: &mut SchemaGenerator) -> Schema {
    schema_of_words(Verb::all().map(|verb| verb.as_str().to_owned()))
}

/// Likewise for rules that roles are copied into.
fn role_verbs_schema(_: &mut SchemaGenerator) -> Schema {
    schema_of_words(
        Verb::all()
            .map(|verb| verb.as_str().to_owned())
            .chain(role_verbs()),
    )
}

fn schema_of_words(words: impl Iterator<Item = String>) -> Schema {
    let words: Vec<_> = words.chain(["*".to_owned()]).collect();
    json_schema!({
        "type": "array",
        "minItems": 1,
        "items": {"type": "string", "enum": words, "x-picket-validated": true},
    })
}

impl PolicyRule {
    /// Notes what cannot stand. `namespaced` says that the grant holds in some namespaces only.
    pub(crate) fn validate(&self, path: &FieldPath, namespaced: bool, errors: &mut FieldErrors) {
        let verbs = path.field("verbs");
        self.validate_dry_run(path, errors);
        self.validate_proxy_paths(path, errors);
        if !self.non_resource_urls.is_empty() {
            self.validate_paths(path, namespaced, errors);
            return check_verbs(
                errors,
                &verbs,
                &self.verbs,
                (Verb::of_paths(), |verb| is_role_verb(verb, true)),
                "nonResourceURLs",
            );
        }
        if self.api_groups.is_empty() {
            let reason =
                format!("field `{path}.apiGroups` is required with resources; the core group is \"\"");
            errors.add(path.field("apiGroups"), reason);
        }
        if self.resources.is_empty() {
            let reason = format!("field `{path}.resources` or `{path}.nonResourceURLs` is required");
            errors.add(path.field("resources"), reason);
        }
        check_verbs(
            errors,
            &verbs,
            &self.verbs,
            (Verb::of_resources(), |verb| is_role_verb(verb, false)),
            "resources",
        );
        errors.add_each(&path.field("apiGroups"), &self.api_groups, api_group);
        errors.add_each(&path.field("resources"), &self.resources, |resource| {
            self.resource(resource, namespaced)
        });
        errors.add_each(&path.field("resourceNames"), &self.resource_names, |name| {
            if name.is_empty() || name.contains(['*', '?']) {
                return Some(format!(
                    "resourceNames {name:?}: RBAC compares names exactly, without globs"
                ));
            }
            // No request is for a signer, and roles name it by its domain and a path: `kubernetes.io/kubelet-serving`.
            if self.resources.iter().all(|resource| resource == "signers") {
                return None;
            }
            name_error(self.resources.iter().map(String::as_str), name)
        });
    }

    fn validate_dry_run(&self, path: &FieldPath, errors: &mut FieldErrors) {
        if self.dry_run.is_none() {
            return;
        }
        let field = path.field("dryRun");
        if !self.non_resource_urls.is_empty() {
            errors.add(
                field,
                "dryRun is of requests for resources; paths have no dry run",
            );
            return;
        }
        errors.add_each(&path.field("verbs"), &self.verbs, |verb| {
            let known = Verb::parse(verb).is_some_and(|verb| DRY_RUNS.contains(&verb));
            (!known).then(|| format!("verb {verb:?}: a rule with dryRun is about create, update and patch"))
        });
        errors.add_each(&path.field("resources"), &self.resources, |resource| {
            let (_, sub) = resource.split_once('/')?;
            (!STORED_SUBRESOURCES.contains(&sub)).then(|| {
                format!(
                    "resource {resource:?}: a rule with dryRun is about objects, their status and their scale"
                )
            })
        });
    }

    fn validate_proxy_paths(&self, path: &FieldPath, errors: &mut FieldErrors) {
        if self.proxy_paths.is_empty() {
            return;
        }
        let of_proxies = self.api_groups == [""]
            && !self.resources.is_empty()
            && self
                .resources
                .iter()
                .all(|resource| PROXIES.contains(&resource.as_str()));
        let field = path.field("proxyPaths");
        if !of_proxies {
            let reason =
                "proxyPaths is of nodes/proxy, services/proxy and pods/proxy of the core group (\"\") alone";
            errors.add(field.clone(), reason);
        }
        errors.add_each(&path.field("verbs"), &self.verbs, |verb| {
            (verb != "get")
                .then(|| format!("verb {verb:?}: a rule with proxyPaths is about get, which HEAD is too"))
        });
        errors.add_each(&field, &self.proxy_paths, proxy_path_error);
    }

    fn validate_paths(&self, path: &FieldPath, namespaced: bool, errors: &mut FieldErrors) {
        if !(self.api_groups.is_empty() && self.resources.is_empty() && self.resource_names.is_empty()) {
            let reason = format!("`{path}` mixes resources and nonResourceURLs: make two rules of it");
            errors.add(path.clone(), reason);
        }
        if namespaced {
            let reason =
                format!("field `{path}.nonResourceURLs` has no place in a grant with `spec.namespaces`");
            errors.add(path.clone(), reason);
        }
        let urls = path.field("nonResourceURLs");
        errors.add_each(&urls, &self.non_resource_urls, |url| {
            (url != "*" && !url.starts_with('/')).then(|| format!("path {url:?} must start with / or be *"))
        });
        errors.add_each(&urls, &self.non_resource_urls, |url| {
            (url.trim_end_matches('*').contains('*') || url.contains('?'))
                .then(|| format!("path {url:?}: RBAC knows a * at the end alone"))
        });
    }

    fn resource(&self, text: &str, namespaced: bool) -> Option<String> {
        let plain = |part: &str| !part.is_empty() && !part.contains(['*', '?', '/']);
        let good = match text.split_once('/') {
            None => text == "*" || plain(text),
            // Roles of impersonation name an extra by its key, which may be a domain and a path.
            Some(("userextras", key)) => !key.is_empty() && !key.contains(['*', '?']),
            Some((resource, sub)) => (resource == "*" || plain(resource)) && plain(sub),
        };
        if !good {
            return Some(format!(
                "resource {text:?}: RBAC knows `pods`, `pods/log`, `*/scale` and `*`"
            ));
        }
        // What can be impersonated is a resource of no request: `users`, or `nodes` of the group authentication.k8s.io.
        let of_requests = !self.verbs.iter().all(|verb| is_role_verb(verb, false));
        let wrong_group = || resource_error(&self.api_groups, text).filter(|_| of_requests);
        misspelt(text)
            .or_else(wrong_group)
            .or_else(|| scope_error(&self.api_groups, text, "namespaces").filter(|_| namespaced))
    }
}

/// What is wrong with a path behind a proxy: one that no request that Picket passes on can have, or that names all of them.
fn proxy_path_error(text: &str) -> Option<String> {
    let stem = text.strip_suffix('*').unwrap_or(text);
    let Some(inner) = stem.strip_prefix('/') else {
        return Some(format!("path {text:?} must start with /"));
    };
    let reason = if inner.is_empty() {
        "names everything behind the proxy: make an exception from the built-in deny where that is meant"
    } else if stem.contains(['*', '?', '#', '%', '\\']) || stem.bytes().any(|byte| byte.is_ascii_control()) {
        "is written decoded, without a query, and with a * at the end alone"
    } else if inner
        .trim_end_matches('/')
        .split('/')
        .any(|part| matches!(part, "" | "." | ".."))
    {
        "has an empty segment or one of dots, which no request has"
    } else {
        return None;
    };
    Some(format!("path {text:?} {reason}"))
}

fn api_group(text: &str) -> Option<String> {
    let lower = text.to_ascii_lowercase();
    if text != "*" && text.contains(['*', '?']) {
        return Some(format!("API group {text:?}: RBAC knows whole groups and `*`"));
    }
    group_error(&lower).or_else(|| {
        (lower != text).then(|| format!("API group {text:?}: groups are in lower case: write {lower:?}"))
    })
}

/// Notes verbs that no request of that kind has: a misspelt one would match nothing. `known` are those that requests have, and
/// those that may stand there all the same.
pub(super) fn check_verbs(
    errors: &mut FieldErrors,
    path: &FieldPath,
    verbs: &[String],
    (known, others): (impl Iterator<Item = Verb>, fn(&str) -> bool),
    about: &str,
) {
    let known: Vec<_> = known.map(Verb::as_str).collect();
    errors.add_each(path, verbs, |verb| {
        (verb != "*" && !known.contains(&verb) && !others(verb)).then(|| {
            let known = known.join(", ");
            format!("verb {verb:?}: no request has it; verbs of {about}: {known}, *")
        })
    });
}
