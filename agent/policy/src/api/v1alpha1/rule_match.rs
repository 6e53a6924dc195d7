//! The requests that a rule of a policy is about.
//!
//! In: the `match` of an AgentPolicy's rule. Out: a [`Match`], and errors where no request could match.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::label_selector::LabelSelector;
use super::policy_rule::{MAX_RESOURCE, check_verbs, verbs_schema};
use crate::api::field::FieldErrors;
use crate::glob::{Glob, GlobError};
use crate::kubernetes::resources::{
    group_error, misspelt, name_error, namespace_error, resource_error, scope_error,
};
use crate::kubernetes::verbs::Verb;
use crate::yaml::FieldPath;

/// The requests that a rule is about. Every list that is given must match; a list that is left out matches anything.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("minProperties" = 1))]
pub struct Match {
    /// The verbs, or `*` for all. A verb stands for all that has its effect: `get` for list and watch, and for update, patch,
    /// delete and deletecollection, which answer with the object; `update` for patch and the reverse; `delete` for deletecollection and, of
    /// pods, for an eviction; `create` for a server-side apply, and for an update of resources that a PUT can create (services, endpoints,
    /// events, limitranges, leases, leasecandidates, runtimeclasses, roles and bindings).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "verbs_schema")]
    pub verbs: Option<Vec<String>>,
    /// The API groups (globs). The core group is the empty string. `events` of the core group and of `events.k8s.io` are the
    /// same objects, and one to a rule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub api_groups: Option<Vec<String>>,
    /// The resources (globs on either side of the slash): `pods`, `pods/exec`, `*/scale`, `pods/*`, or `*` for all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1),
        inner(length(max = MAX_RESOURCE), regex(pattern = r"^[^/A-Z]+(/[^/A-Z]+)?$"))
    )]
    pub resources: Option<Vec<String>>,
    /// The namespaces of the request (globs).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1), inner(regex(pattern = r".")))]
    pub namespaces: Option<Vec<String>>,
    /// The labels of the request's namespace, as the API server has them; all that is given must hold. A request about a Namespace
    /// itself is in that namespace. A request over all namespaces matches, and one for what has no namespace does not. While the
    /// labels are not known the rule matches, and says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace_selector: Option<LabelSelector>,
    /// The names of the request's object (globs). The name of a new object is read from the body. One that the API server is to make
    /// (`generateName`) matches where it could.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1), inner(regex(pattern = r"^[^/%]+$")))]
    pub names: Option<Vec<String>>,
    /// The resources that the rule leaves alone (globs, as in `resources`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1),
        inner(length(max = MAX_RESOURCE), regex(pattern = r"^[^/A-Z]+(/[^/A-Z]+)?$"))
    )]
    pub except_resources: Option<Vec<String>>,
    /// The namespaces that the rule leaves alone (globs). A request for all namespaces at once is never left alone, and neither
    /// is one for what has no namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1), inner(regex(pattern = r".")))]
    pub except_namespaces: Option<Vec<String>>,
    /// The names of objects that the rule leaves alone (globs). A request for a whole collection is never left alone, and
    /// neither is one whose name the API server is to make.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1), inner(regex(pattern = r"^[^/%]+$")))]
    pub except_names: Option<Vec<String>>,
    /// The paths (globs). Without this field a rule is about resources only; with it a rule is about paths only.
    #[serde(default, rename = "nonResourceURLs", skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1), inner(regex(pattern = r"^[/*]")))]
    pub non_resource_urls: Option<Vec<String>>,
    /// Command lines of exec (globs over the arguments joined by one space). Blank arguments before the program, white space
    /// around it, its folder, and how much white space there is between words make no difference. What `sh -c`, `env`, `nice`,
    /// `xargs`, `busybox` and the like run is compared as well; where that cannot be told the rule fires. A script's content,
    /// standard input and copies under another name are not seen. Where that matters give exceptArgv alone, so that all but
    /// known lines is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1), inner(regex(pattern = r".")))]
    pub commands: Option<Vec<String>>,
    /// Command lines of exec that the rule leaves alone (globs over the arguments joined by one space, exactly as they came). A
    /// space of the glob is the boundary of two arguments: an argument with a space is matched by a `*` only. A `*` at the end
    /// admits whatever follows: `env *` would except every program.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1), inner(regex(pattern = r".")))]
    pub except_commands: Option<Vec<String>>,
    /// Command lines of exec that the rule leaves alone, each as the list of its arguments, without globs. An exec with an
    /// environment of its own is never left alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1), inner(length(min = 1)))]
    pub except_argv: Option<Vec<Vec<String>>>,
    /// Of exec and attach: whether standard input is asked for (`kubectl exec -i`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stdin: Option<bool>,
    /// Of exec and attach: whether a terminal is asked for (`kubectl exec -t`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tty: Option<bool>,
    /// Of exec: whether the request sets environment variables (`env=` in the query, KEP-6035). Such an exec matches every rule
    /// about commands, because variables can change what a program runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub env: Option<bool>,
}

/// The texts of a list that may be left out.
fn texts(list: &Option<Vec<String>>) -> &[String] {
    list.as_deref().unwrap_or_default()
}

/// Reads a glob of one kind.
type GlobCheck = fn(&str) -> Result<Glob, GlobError>;

/// Notes texts that are no globs. `path` is that of their list.
pub(super) fn check_globs(errors: &mut FieldErrors, path: &FieldPath, list: &[String], glob: GlobCheck) {
    errors.add_each(path, list, |text| {
        let error = glob(text).err()?;
        Some(format!("field `{path}`: {text:?}: {error}"))
    });
}

/// Whether a glob matches all that another one matches, as far as it can be told from their texts.
fn covers(glob: &str, other: &str) -> bool {
    let (glob, other) = (glob.to_ascii_lowercase(), other.to_ascii_lowercase());
    let matches = Glob::name(&glob).is_ok_and(|glob| glob.matches(&other));
    // A `?` stands for one character, and a star of the other for any number.
    matches && (!glob.contains('?') || !other.contains('*'))
}

/// Likewise of resources with their subresources.
fn covers_resource(glob: &str, other: &str) -> bool {
    match (glob.split_once('/'), other.split_once('/')) {
        _ if glob.bytes().all(|byte| byte == b'*') => true,
        (None, None) => !other.bytes().all(|byte| byte == b'*') && covers(glob, other),
        (Some((glob, glob_sub)), Some((other, other_sub))) => {
            covers(glob, other) && covers(glob_sub, other_sub)
        }
        _ => false,
    }
}

/// The core group is the empty string, which is no glob.
fn group_glob(text: &str) -> Result<Glob, GlobError> {
    if text.is_empty() {
        Ok(Glob::Any)
    } else {
        Glob::name(text)
    }
}

impl Match {
    pub(super) fn validate(&self, path: &FieldPath, errors: &mut FieldErrors) {
        let before = errors.len();
        let lists: [(_, _, GlobCheck); 10] = [
            ("apiGroups", &self.api_groups, group_glob),
            ("resources", &self.resources, Glob::name),
            ("namespaces", &self.namespaces, Glob::name),
            ("names", &self.names, Glob::name),
            ("exceptResources", &self.except_resources, Glob::name),
            ("exceptNamespaces", &self.except_namespaces, Glob::name),
            ("exceptNames", &self.except_names, Glob::name),
            ("nonResourceURLs", &self.non_resource_urls, Glob::name),
            ("commands", &self.commands, Glob::text),
            ("exceptCommands", &self.except_commands, Glob::text),
        ];
        for (name, list, glob) in lists {
            check_globs(errors, &path.field(name), texts(list), glob);
        }
        if let Some(selector) = &self.namespace_selector {
            selector.validate_labels(&path.field("namespaceSelector"), errors);
        }
        if errors.len() > before {
            return;
        }
        if self.non_resource_urls.is_some() {
            self.validate_paths(path, errors);
        } else {
            self.validate_resources(path, errors);
        }
    }

    /// Whether some list about resources is given.
    fn is_about_resources(&self) -> bool {
        let lists = [
            &self.api_groups,
            &self.resources,
            &self.namespaces,
            &self.names,
            &self.except_resources,
            &self.except_namespaces,
            &self.except_names,
        ];
        lists.iter().any(|list| list.is_some())
            || self.namespace_selector.is_some()
            || self.is_about_sessions()
    }

    /// Whether something is said of what runs in a container, and how.
    fn is_about_sessions(&self) -> bool {
        self.commands.is_some()
            || self.except_commands.is_some()
            || self.except_argv.is_some()
            || [self.stdin, self.tty, self.env].iter().any(|flag| flag.is_some())
    }

    fn validate_paths(&self, path: &FieldPath, errors: &mut FieldErrors) {
        if self.is_about_resources() {
            let reason = format!("`{path}` mixes resources and nonResourceURLs: make two rules of it");
            errors.add(path.clone(), reason);
        }
        let urls = path.field("nonResourceURLs");
        errors.add_each(&urls, texts(&self.non_resource_urls), |url| {
            (!url.starts_with(['/', '*'])).then(|| format!("path {url:?} must start with / or *"))
        });
        let verbs = texts(&self.verbs);
        check_verbs(
            errors,
            &path.field("verbs"),
            verbs,
            (Verb::of_paths(), |_| false),
            "nonResourceURLs",
        );
    }

    /// Notes a match that can never fire, or that would fire on less than its words say.
    fn validate_resources(&self, path: &FieldPath, errors: &mut FieldErrors) {
        if self.verbs.is_none() && !self.is_about_resources() {
            let reason = format!("`{path}` is empty; to match every resource write resources: [\"*\"]");
            errors.add(path.clone(), reason);
        }
        let verbs = texts(&self.verbs);
        check_verbs(
            errors,
            &path.field("verbs"),
            verbs,
            (Verb::of_resources(), |_| false),
            "resources",
        );
        let resources = texts(&self.resources);
        for (field, list) in [
            ("resources", resources),
            ("exceptResources", texts(&self.except_resources)),
        ] {
            errors.add_each(&path.field(field), list, |resource| {
                let parts: Vec<_> = resource.split('/').collect();
                if parts.len() > 2 || parts.iter().any(|part| part.is_empty()) {
                    return Some(format!(
                        "resource {resource:?}: write `pods`, `pods/exec`, `*/scale`, `pods/*` or `*`"
                    ));
                }
                misspelt(resource)
            });
        }
        self.check_exclusions(path, errors);
        self.check_served(path, errors);
        let empty = |list: &Vec<String>| list.first().is_none_or(|program| program.trim().is_empty());
        if let Some(index) = self.except_argv.iter().flatten().position(empty) {
            let reason = "a list of exceptArgv begins with the program".to_owned();
            errors.add(path.field("exceptArgv").index(index), reason);
        }
        if self.is_about_sessions() {
            let runs = |resource: &String| matches!(resource.as_str(), "pods/exec" | "pods/attach");
            if resources.is_empty() || !resources.iter().all(runs) {
                let reason = format!(
                    "`{path}`: commands, stdin, tty and env need resources: [pods/exec], pods/attach or both, and no others"
                );
                errors.add(path.clone(), reason);
            }
        }
    }

    /// Notes what a Filter rule cannot hide: a list without any object would look as if there were none.
    pub(super) fn validate_filter(&self, path: &FieldPath, errors: &mut FieldErrors) {
        if self.non_resource_urls.is_some() {
            let field = path.field("nonResourceURLs");
            errors.add(field, "a Filter rule is about resources; refuse paths by Deny");
            return;
        }
        let reads = [Verb::Get, Verb::List, Verb::Watch];
        errors.add_each(&path.field("verbs"), texts(&self.verbs), |verb| {
            let known = Verb::parse(verb).is_some_and(|verb| reads.contains(&verb));
            (!known).then(|| {
                format!("verb {verb:?}: a Filter rule is about get, list and watch; refuse others by Deny")
            })
        });
        let is_any = |glob: &String| glob.bytes().all(|byte| byte == b'*');
        let says = |list: &Option<Vec<String>>| list.as_ref().is_some_and(|globs| !globs.iter().any(is_any));
        let leaves = self.except_namespaces.is_some() || self.except_names.is_some();
        let selects = self
            .namespace_selector
            .as_ref()
            .is_some_and(|selector| !selector.is_empty());
        if !says(&self.namespaces) && !says(&self.names) && !leaves && !selects {
            let reason = format!(
                "`{path}` needs namespaces, namespaceSelector, names, exceptNamespaces or exceptNames: a Filter rule about every \
                 object would make each list look empty, so refuse the requests by Deny"
            );
            errors.add(path.clone(), reason);
        }
    }

    /// Notes exclusions that leave nothing of the rule.
    fn check_exclusions(&self, path: &FieldPath, errors: &mut FieldErrors) {
        let covers: [fn(&str, &str) -> bool; 3] = [covers_resource, covers, covers];
        let lists = [
            ("exceptResources", &self.except_resources, &self.resources),
            ("exceptNamespaces", &self.except_namespaces, &self.namespaces),
            ("exceptNames", &self.except_names, &self.names),
        ];
        for ((field, except, list), covers) in lists.into_iter().zip(covers) {
            let all = ["*".to_owned()];
            let list = list.as_deref().unwrap_or(&all);
            let excepted = |text: &String| texts(except).iter().any(|except| covers(except, text));
            if except.is_some() && list.iter().all(excepted) {
                let field = path.field(field);
                let reason = format!(
                    "field `{field}` leaves nothing of the rule: it covers all that the rule is about"
                );
                errors.add(field.index(0), reason);
            }
        }
    }

    /// Notes groups, resources, namespaces and names that no request can have. Names alone are compared as they are written.
    fn check_served(&self, path: &FieldPath, errors: &mut FieldErrors) {
        let before = errors.len();
        errors.add_each(&path.field("apiGroups"), texts(&self.api_groups), |group| {
            group_error(&group.to_ascii_lowercase())
        });
        for (field, list) in [
            ("namespaces", &self.namespaces),
            ("exceptNamespaces", &self.except_namespaces),
        ] {
            errors.add_each(&path.field(field), texts(list), |name| {
                namespace_error(name, true)
            });
        }
        let resources = texts(&self.resources);
        for (field, list) in [("names", &self.names), ("exceptNames", &self.except_names)] {
            errors.add_each(&path.field(field), texts(list), |name| {
                name_error(resources.iter().map(String::as_str), name)
            });
        }
        if errors.len() > before {
            return;
        }
        let groups: Vec<_> = texts(&self.api_groups)
            .iter()
            .map(|group| group.to_ascii_lowercase())
            .collect();
        errors.add_each(&path.field("resources"), resources, |resource| {
            if misspelt(resource).is_some() {
                // Told already.
                return None;
            }
            let field = match (&self.namespaces, &self.namespace_selector) {
                (Some(_), _) => Some("namespaces"),
                (None, Some(_)) => Some("namespaceSelector"),
                (None, None) => None,
            };
            let scope = || scope_error(&groups, resource, field?);
            resource_error(&groups, resource).or_else(scope)
        });
    }
}
