//! An RBAC PolicyRule, with the checks of Kubernetes' own validation (pkg/apis/rbac/validation) and stricter verbs.

use super::PolicyRule;
use crate::kubernetes::resources::{group_fault, name_fault, resource_fault, scope_fault};
use crate::kubernetes::verbs::Verb;
use crate::yaml::{Decoder, Node, Spanned};

/// Reads one rule. `namespaced` says that the grant holds in some namespaces only.
pub(super) fn read(decoder: &mut Decoder, node: &Node, path: &str, namespaced: bool) -> Option<PolicyRule> {
    let known = [
        "verbs",
        "apiGroups",
        "resources",
        "resourceNames",
        "nonResourceURLs",
    ];
    let fields = decoder.fields(node, path, &known, &[])?;
    let before = decoder.errors.len();
    let rule = PolicyRule {
        at: node.location(&decoder.file),
        verbs: decoder.texts(&fields, "verbs").unwrap_or_default(),
        api_groups: decoder.texts(&fields, "apiGroups").unwrap_or_default(),
        resources: decoder.texts(&fields, "resources").unwrap_or_default(),
        resource_names: decoder.texts(&fields, "resourceNames").unwrap_or_default(),
        non_resource_urls: decoder.texts(&fields, "nonResourceURLs").unwrap_or_default(),
    };
    if decoder.errors.len() > before {
        return None;
    }
    if rule.verbs.is_empty() {
        decoder.error_at(node, format!("field `{path}.verbs` is required"));
    }
    if rule.non_resource_urls.is_empty() {
        if rule.api_groups.is_empty() {
            let reason =
                format!("field `{path}.apiGroups` is required with resources; the core group is \"\"");
            decoder.error_at(node, reason);
        }
        if rule.resources.is_empty() {
            decoder.error_at(
                node,
                format!("field `{path}.resources` or `{path}.nonResourceURLs` is required"),
            );
        }
        check_verbs(decoder, &rule.verbs, Verb::of_resources(), "resources");
        check_groups(decoder, &rule.api_groups);
        check_resources(decoder, &rule, namespaced);
        check_names(decoder, &rule);
    } else {
        if !(rule.api_groups.is_empty() && rule.resources.is_empty() && rule.resource_names.is_empty()) {
            decoder.error_at(
                node,
                format!("`{path}` mixes resources and nonResourceURLs: make two rules of it"),
            );
        }
        if namespaced {
            let reason =
                format!("field `{path}.nonResourceURLs` has no place in a grant with `spec.namespaces`");
            decoder.error_at(node, reason);
        }
        check_verbs(decoder, &rule.verbs, Verb::of_paths(), "nonResourceURLs");
        for url in &rule.non_resource_urls {
            if url.value != "*" && !url.value.starts_with('/') {
                decoder.error_at(&url.at, format!("path {:?} must start with / or be *", url.value));
            }
            if url.value.trim_end_matches('*').contains('*') || url.value.contains('?') {
                decoder.error_at(
                    &url.at,
                    format!("path {:?}: RBAC knows a * at the end alone", url.value),
                );
            }
        }
    }
    (decoder.errors.len() == before).then_some(rule)
}

/// Refuses verbs that no request of that kind has: a misspelt one would match nothing.
pub(super) fn check_verbs(
    decoder: &mut Decoder,
    verbs: &[Spanned<String>],
    known: impl Iterator<Item = Verb>,
    about: &str,
) {
    let known: Vec<_> = known.map(Verb::as_str).collect();
    for verb in verbs {
        if verb.value != "*" && !known.contains(&verb.value.as_str()) {
            let reason = format!(
                "verb {:?}: no request has it; verbs of {about}: {}, *",
                verb.value,
                known.join(", ")
            );
            decoder.error_at(&verb.at, reason);
        }
    }
}

fn check_groups(decoder: &mut Decoder, groups: &[Spanned<String>]) {
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
            decoder.error_at(&group.at, reason);
        }
    }
}

fn check_resources(decoder: &mut Decoder, rule: &PolicyRule, namespaced: bool) {
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
            decoder.error_at(&resource.at, reason);
        } else if let Some(reason) = misspelt(text)
            .or_else(|| resource_fault(&groups, text))
            .or_else(|| scope_fault(&groups, text).filter(|_| namespaced))
        {
            decoder.error_at(&resource.at, reason);
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

fn check_names(decoder: &mut Decoder, rule: &PolicyRule) {
    let resources = || rule.resources.iter().map(|resource| resource.value.as_str());
    for name in &rule.resource_names {
        if name.value.is_empty() || name.value.contains(['*', '?']) {
            let reason = format!(
                "resourceNames {:?}: RBAC compares names exactly, without globs",
                name.value
            );
            decoder.error_at(&name.at, reason);
        } else if let Some(reason) = name_fault(resources(), &name.value) {
            decoder.error_at(&name.at, reason);
        }
    }
}
