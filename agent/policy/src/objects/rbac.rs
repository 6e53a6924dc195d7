//! An RBAC PolicyRule, with the checks of Kubernetes' own validation (pkg/apis/rbac/validation) and stricter verbs.

use super::fields::Reader;
use super::tree::Node;
use super::{Located, PolicyRule};
use crate::request::Verb;
use crate::served::{group_fault, name_fault, resource_fault, scope_fault};

/// Verbs of requests for resources.
pub(super) const RESOURCE_VERBS: [Verb; 8] = [
    Verb::Get,
    Verb::List,
    Verb::Watch,
    Verb::Create,
    Verb::Update,
    Verb::Patch,
    Verb::Delete,
    Verb::DeleteCollection,
];

/// Verbs of requests for other paths.
pub(super) const PATH_VERBS: [Verb; 7] = [
    Verb::Get,
    Verb::Head,
    Verb::Post,
    Verb::Put,
    Verb::Patch,
    Verb::Delete,
    Verb::Options,
];

/// Reads one rule. `namespaced` says that the grant holds in some namespaces only.
pub(super) fn read(reader: &mut Reader, node: &Node, path: &str, namespaced: bool) -> Option<PolicyRule> {
    let known = [
        "verbs",
        "apiGroups",
        "resources",
        "resourceNames",
        "nonResourceURLs",
    ];
    let fields = reader.fields(node, path, &known, &[])?;
    let before = reader.errors.len();
    let rule = PolicyRule {
        at: node.place(&reader.file),
        verbs: reader.texts(&fields, "verbs").unwrap_or_default(),
        api_groups: reader.texts(&fields, "apiGroups").unwrap_or_default(),
        resources: reader.texts(&fields, "resources").unwrap_or_default(),
        resource_names: reader.texts(&fields, "resourceNames").unwrap_or_default(),
        non_resource_urls: reader.texts(&fields, "nonResourceURLs").unwrap_or_default(),
    };
    if reader.errors.len() > before {
        return None;
    }
    if rule.verbs.is_empty() {
        reader.fault(node, format!("field `{path}.verbs` is required"));
    }
    if rule.non_resource_urls.is_empty() {
        if rule.api_groups.is_empty() {
            let reason =
                format!("field `{path}.apiGroups` is required with resources; the core group is \"\"");
            reader.fault(node, reason);
        }
        if rule.resources.is_empty() {
            reader.fault(
                node,
                format!("field `{path}.resources` or `{path}.nonResourceURLs` is required"),
            );
        }
        check_verbs(reader, &rule.verbs, &RESOURCE_VERBS, "resources");
        check_groups(reader, &rule.api_groups);
        check_resources(reader, &rule, namespaced);
        check_names(reader, &rule);
    } else {
        if !(rule.api_groups.is_empty() && rule.resources.is_empty() && rule.resource_names.is_empty()) {
            reader.fault(
                node,
                format!("`{path}` mixes resources and nonResourceURLs: make two rules of it"),
            );
        }
        if namespaced {
            let reason =
                format!("field `{path}.nonResourceURLs` has no place in a grant with `spec.namespaces`");
            reader.fault(node, reason);
        }
        check_verbs(reader, &rule.verbs, &PATH_VERBS, "nonResourceURLs");
        for url in &rule.non_resource_urls {
            if url.value != "*" && !url.value.starts_with('/') {
                reader.fault_at(&url.at, format!("path {:?} must start with / or be *", url.value));
            }
            if url.value.trim_end_matches('*').contains('*') || url.value.contains('?') {
                reader.fault_at(
                    &url.at,
                    format!("path {:?}: RBAC knows a * at the end alone", url.value),
                );
            }
        }
    }
    (reader.errors.len() == before).then_some(rule)
}

/// Refuses verbs that no request of that kind has: a misspelt one would match nothing.
pub(super) fn check_verbs(reader: &mut Reader, verbs: &[Located<String>], known: &[Verb], about: &str) {
    for verb in verbs {
        if verb.value == "*" || known.iter().any(|known| known.as_str() == verb.value) {
            continue;
        }
        let known: Vec<_> = known.iter().map(|verb| verb.as_str()).collect();
        let reason = format!(
            "verb {:?}: no request has it; verbs of {about}: {}, *",
            verb.value,
            known.join(", ")
        );
        reader.fault_at(&verb.at, reason);
    }
}

fn check_groups(reader: &mut Reader, groups: &[Located<String>]) {
    for group in groups {
        let text = group.value.as_str();
        let lower = text.to_ascii_lowercase();
        let fault = if text != "*" && text.contains(['*', '?']) {
            Some(format!("API group {text:?}: RBAC knows whole groups and `*`"))
        } else {
            group_fault(&lower).or_else(|| {
                (lower != text)
                    .then(|| format!("API group {text:?}: groups are in lower case: write {lower:?}"))
            })
        };
        if let Some(reason) = fault {
            reader.fault_at(&group.at, reason);
        }
    }
}

fn check_resources(reader: &mut Reader, rule: &PolicyRule, namespaced: bool) {
    let groups: Vec<_> = rule.api_groups.iter().map(|group| group.value.clone()).collect();
    for resource in &rule.resources {
        let text = resource.value.as_str();
        let plain = |part: &str| !part.is_empty() && !part.contains(['*', '?', '/']);
        let good = match text.split_once('/') {
            None => text == "*" || plain(text),
            Some((resource, sub)) => (resource == "*" || plain(resource)) && plain(sub),
        };
        if !good {
            let reason = format!("resource {text:?}: RBAC knows `pods`, `pods/log`, `*/scale` and `*`");
            reader.fault_at(&resource.at, reason);
        } else if let Some(reason) = misspelt(text)
            .or_else(|| resource_fault(&groups, text))
            .or_else(|| scope_fault(&groups, text).filter(|_| namespaced))
        {
            reader.fault_at(&resource.at, reason);
        }
    }
}

/// Kinds and short names as kubectl takes them, which a rule does not: it would match nothing, and a rule that refuses would
/// be a hole that nobody sees. Each with the resource's name in requests.
const NOT_RESOURCES: [(&str, &str); 40] = [
    ("clusterrole", "clusterroles"),
    ("clusterrolebinding", "clusterrolebindings"),
    ("cm", "configmaps"),
    ("configmap", "configmaps"),
    ("crd", "customresourcedefinitions"),
    ("cronjob", "cronjobs"),
    ("customresourcedefinition", "customresourcedefinitions"),
    ("daemonset", "daemonsets"),
    ("deploy", "deployments"),
    ("deployment", "deployments"),
    ("ds", "daemonsets"),
    ("endpoint", "endpoints"),
    ("event", "events"),
    ("ing", "ingresses"),
    ("ingress", "ingresses"),
    ("job", "jobs"),
    ("namespace", "namespaces"),
    ("netpol", "networkpolicies"),
    ("networkpolicy", "networkpolicies"),
    ("node", "nodes"),
    ("ns", "namespaces"),
    ("persistentvolume", "persistentvolumes"),
    ("persistentvolumeclaim", "persistentvolumeclaims"),
    ("po", "pods"),
    ("pod", "pods"),
    ("pv", "persistentvolumes"),
    ("pvc", "persistentvolumeclaims"),
    ("replicaset", "replicasets"),
    ("role", "roles"),
    ("rolebinding", "rolebindings"),
    ("rs", "replicasets"),
    ("sa", "serviceaccounts"),
    ("secret", "secrets"),
    ("service", "services"),
    ("serviceaccount", "serviceaccounts"),
    ("statefulset", "statefulsets"),
    ("storageclass", "storageclasses"),
    ("sts", "statefulsets"),
    ("svc", "services"),
    ("validatingadmissionpolicy", "validatingadmissionpolicies"),
];

/// What is wrong with a resource's name, where it can be told that no request has it.
pub(super) fn misspelt(text: &str) -> Option<String> {
    if text != text.to_ascii_lowercase() {
        return Some(format!(
            "resource {text:?}: resources are plural and in lower case"
        ));
    }
    let resource = text.split('/').next().unwrap_or(text);
    let (_, meant) = NOT_RESOURCES.iter().find(|(name, _)| *name == resource)?;
    Some(format!(
        "resource {text:?}: no request has it; did you mean `{meant}`?"
    ))
}

fn check_names(reader: &mut Reader, rule: &PolicyRule) {
    let resources = || rule.resources.iter().map(|resource| resource.value.as_str());
    for name in &rule.resource_names {
        if name.value.is_empty() || name.value.contains(['*', '?']) {
            let reason = format!(
                "resourceNames {:?}: RBAC compares names exactly, without globs",
                name.value
            );
            reader.fault_at(&name.at, reason);
        } else if let Some(reason) = name_fault(resources(), &name.value) {
            reader.fault_at(&name.at, reason);
        }
    }
}
