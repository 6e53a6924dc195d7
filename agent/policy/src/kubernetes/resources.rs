//! What every API server serves by itself, so that a rule that no request can match is an error when it is read.
//!
//! In: the words of rules. Out: what is wrong with one and what to write instead, only where it is certain that no request can
//! have it. Custom and aggregated resources may be called anything, so a group that is not here is never at fault for its
//! resources.

use std::collections::HashSet;
use std::sync::LazyLock;

/// The groups that Kubernetes keeps for itself, with the resources of every version that is still in use.
const SERVED: [(&str, &[&str]); 15] = [
    (
        "",
        &[
            "bindings",
            "componentstatuses",
            "configmaps",
            "endpoints",
            "events",
            "limitranges",
            "namespaces",
            "nodes",
            "persistentvolumeclaims",
            "persistentvolumes",
            "pods",
            "podtemplates",
            "replicationcontrollers",
            "resourcequotas",
            "secrets",
            "serviceaccounts",
            "services",
        ],
    ),
    (
        "admissionregistration.k8s.io",
        &[
            "mutatingadmissionpolicies",
            "mutatingadmissionpolicybindings",
            "mutatingwebhookconfigurations",
            "validatingadmissionpolicies",
            "validatingadmissionpolicybindings",
            "validatingwebhookconfigurations",
        ],
    ),
    ("apiextensions.k8s.io", &["customresourcedefinitions"]),
    ("apiregistration.k8s.io", &["apiservices"]),
    (
        "apps",
        &[
            "controllerrevisions",
            "daemonsets",
            "deployments",
            "replicasets",
            "statefulsets",
        ],
    ),
    ("authentication.k8s.io", &["selfsubjectreviews", "tokenreviews"]),
    (
        "authorization.k8s.io",
        &[
            "localsubjectaccessreviews",
            "selfsubjectaccessreviews",
            "selfsubjectrulesreviews",
            "subjectaccessreviews",
        ],
    ),
    ("autoscaling", &["horizontalpodautoscalers"]),
    ("batch", &["cronjobs", "jobs"]),
    ("coordination.k8s.io", &["leasecandidates", "leases"]),
    ("discovery.k8s.io", &["endpointslices"]),
    ("events.k8s.io", &["events"]),
    (
        "networking.k8s.io",
        &[
            "ingressclasses",
            "ingresses",
            "ipaddresses",
            "networkpolicies",
            "servicecidrs",
        ],
    ),
    ("policy", &["poddisruptionbudgets", "podsecuritypolicies"]),
    (
        "rbac.authorization.k8s.io",
        &["clusterrolebindings", "clusterroles", "rolebindings", "roles"],
    ),
];

/// Subresources that Kubernetes serves, as requests combine them with their resources.
const SUBRESOURCES: [(&str, &[&str]); 27] = [
    ("certificatesigningrequests", &["approval", "status"]),
    ("cronjobs", &["status"]),
    ("customresourcedefinitions", &["status"]),
    ("daemonsets", &["status"]),
    ("deployments", &["scale", "status"]),
    ("flowschemas", &["status"]),
    ("horizontalpodautoscalers", &["status"]),
    ("ingresses", &["status"]),
    ("jobs", &["status"]),
    ("namespaces", &["finalize", "status"]),
    ("networkpolicies", &["status"]),
    ("nodes", &["proxy", "status"]),
    ("persistentvolumeclaims", &["status"]),
    ("persistentvolumes", &["status"]),
    ("poddisruptionbudgets", &["status"]),
    (
        "pods",
        &[
            "attach",
            "binding",
            "ephemeralcontainers",
            "eviction",
            "exec",
            "log",
            "portforward",
            "proxy",
            "resize",
            "status",
        ],
    ),
    ("prioritylevelconfigurations", &["status"]),
    ("replicasets", &["scale", "status"]),
    ("replicationcontrollers", &["scale", "status"]),
    ("resourceclaims", &["status"]),
    ("resourcequotas", &["status"]),
    ("serviceaccounts", &["token"]),
    ("servicecidrs", &["status"]),
    ("services", &["proxy", "status"]),
    ("statefulsets", &["scale", "status"]),
    ("validatingadmissionpolicies", &["status"]),
    ("volumeattachments", &["status"]),
];

/// Resources and subresources that Kubernetes serves, each as `pods` or `pods/exec`, whatever their groups. Rules are filed under them.
static KNOWN: LazyLock<HashSet<&'static str>> = LazyLock::new(|| {
    let resources = SERVED.iter().flat_map(|(_, resources)| resources.iter().copied());
    let with_subresources = SUBRESOURCES.iter().flat_map(|(resource, subs)| {
        // Once for each process.
        subs.iter()
            .map(move |sub| &*String::leak(format!("{resource}/{sub}")))
    });
    resources.chain(with_subresources).collect()
});

/// Whether Kubernetes serves this resource or subresource.
pub(crate) fn is_known(combined: &str) -> bool {
    KNOWN.contains(combined)
}

/// Every resource and subresource that Kubernetes serves.
pub(crate) fn known_resources() -> impl Iterator<Item = &'static str> {
    KNOWN.iter().copied()
}

/// Resources without a namespace, so that listing them is not "in every namespace". A resource that is not here (a
/// custom one) is taken for namespaced, which can only make a Deny rule match more.
const CLUSTER_SCOPED: [(&str, &str); 26] = [
    ("", "componentstatuses"),
    ("", "namespaces"),
    ("", "nodes"),
    ("", "persistentvolumes"),
    ("admissionregistration.k8s.io", "*"),
    ("apiextensions.k8s.io", "customresourcedefinitions"),
    ("apiregistration.k8s.io", "apiservices"),
    ("certificates.k8s.io", "certificatesigningrequests"),
    ("certificates.k8s.io", "clustertrustbundles"),
    ("flowcontrol.apiserver.k8s.io", "*"),
    ("internal.apiserver.k8s.io", "storageversions"),
    ("metrics.k8s.io", "nodes"),
    ("networking.k8s.io", "ingressclasses"),
    ("networking.k8s.io", "ipaddresses"),
    ("networking.k8s.io", "servicecidrs"),
    ("node.k8s.io", "runtimeclasses"),
    ("rbac.authorization.k8s.io", "clusterrolebindings"),
    ("rbac.authorization.k8s.io", "clusterroles"),
    ("resource.k8s.io", "deviceclasses"),
    ("resource.k8s.io", "resourceslices"),
    ("scheduling.k8s.io", "priorityclasses"),
    ("storage.k8s.io", "csidrivers"),
    ("storage.k8s.io", "csinodes"),
    ("storage.k8s.io", "storageclasses"),
    ("storage.k8s.io", "volumeattachments"),
    ("storage.k8s.io", "volumeattributesclasses"),
];

/// Resources whose objects have DNS names. Others may have any name that fits in a path, as roles and bindings do.
const NAMED_BY_DNS: [&str; 23] = [
    "configmaps",
    "cronjobs",
    "customresourcedefinitions",
    "daemonsets",
    "deployments",
    "horizontalpodautoscalers",
    "ingresses",
    "jobs",
    "limitranges",
    "namespaces",
    "networkpolicies",
    "nodes",
    "persistentvolumeclaims",
    "persistentvolumes",
    "poddisruptionbudgets",
    "pods",
    "replicasets",
    "replicationcontrollers",
    "resourcequotas",
    "secrets",
    "serviceaccounts",
    "services",
    "statefulsets",
];

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

/// Changes between a word and what was meant by it: two letters that changed places are two.
const SLIPS: usize = 2;

/// Whether a resource has no namespace.
pub(crate) fn is_cluster_scoped(group: &str, resource: &str) -> bool {
    CLUSTER_SCOPED
        .iter()
        .any(|entry| entry.0 == group && (entry.1 == "*" || entry.1 == resource))
}

fn resources_of(group: &str) -> Option<&'static [&'static str]> {
    let (_, resources) = SERVED.iter().find(|(served, _)| *served == group)?;
    Some(resources)
}

fn groups_of(resource: &str) -> Vec<&'static str> {
    SERVED
        .iter()
        .filter(|(_, resources)| resources.contains(&resource))
        .map(|(group, _)| *group)
        .collect()
}

fn is_glob(text: &str) -> bool {
    text.contains(['*', '?'])
}

/// `v1`, `v1beta2`: the version of a group.
fn is_version(text: &str) -> bool {
    let Some(rest) = text.strip_prefix('v') else {
        return false;
    };
    let number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    ["alpha", "beta"]
        .iter()
        .find_map(|word| rest.split_once(word))
        .map_or_else(|| number(rest), |(major, minor)| number(major) && number(minor))
}

/// What is wrong with an API group in lower case; globs may be.
pub(crate) fn group_error(group: &str) -> Option<String> {
    let core = "the core group is \"\": write apiGroups: [\"\"]";
    if let Some((name, _)) = group.split_once('/') {
        let written = if name == "core" || name == "api" { "" } else { name };
        return Some(format!(
            "API group {group:?}: a group is named without its version: write apiGroups: [{written:?}]"
        ));
    }
    if group == "core" {
        return Some(format!("API group {group:?}: {core}"));
    }
    if is_version(group) {
        return Some(format!(
            "API group {group:?}: that is a version, and rules are about all versions of a group; {core}"
        ));
    }
    let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-.*?".contains(&byte);
    (!group.bytes().all(fits)).then(|| {
        format!("API group {group:?}: no group has such a name; it is as in apiVersion, without the version")
    })
}

/// What is wrong with a resource's name, where it can be told that no request has it.
pub(crate) fn misspelt(text: &str) -> Option<String> {
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

/// What is wrong with a resource (`pods` or `pods/log`) of these groups, in lower case.
pub(crate) fn resource_error(groups: &[String], written: &str) -> Option<String> {
    let resource = written.split('/').next().unwrap_or(written);
    if is_glob(resource) {
        return None;
    }
    if let Some((name, group)) = resource.split_once('.')
        && resources_of(group).is_some_and(|resources| resources.contains(&name))
    {
        return Some(format!(
            "resource {written:?}: its group stands apart: write apiGroups: [{group:?}] and resources: [{name}]"
        ));
    }
    let mut known = Vec::new();
    for group in groups {
        known.extend(resources_of(group)?);
    }
    if known.is_empty() || known.contains(&resource) {
        return None;
    }
    let homes = groups_of(resource);
    if !homes.is_empty() {
        return Some(format!(
            "resource {written:?}: no group named here has it: write apiGroups: {homes:?}"
        ));
    }
    let near = known
        .into_iter()
        .map(|meant| (strsim::levenshtein(resource, meant), meant))
        .min()
        .filter(|(slips, _)| *slips <= SLIPS)?;
    Some(format!(
        "resource {written:?}: no group named here has it; did you mean `{}`?",
        near.1
    ))
}

/// What is wrong with a resource of these groups in a rule that is bound to namespaces. A namespace itself is in its own.
pub(crate) fn scope_error(groups: &[String], written: &str) -> Option<String> {
    let resource = written.split('/').next().unwrap_or(written);
    let scoped = !groups.is_empty() && groups.iter().all(|group| is_cluster_scoped(group, resource));
    (scoped && resource != "namespaces").then(|| {
        format!("resource {written:?} is in no namespace, so `namespaces` never matches it: make a rule without it")
    })
}

/// Whether a text is a DNS subdomain as Kubernetes wants names to be (RFC 1123).
pub(crate) fn is_subdomain(name: &str) -> bool {
    name.len() <= 253
        && name.split('.').all(|label| {
            !label.is_empty()
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label
                    .bytes()
                    .all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'))
        })
}

/// What is wrong with a namespace; globs may be. `folded` says that it is compared in lower case.
pub(crate) fn namespace_error(namespace: &str, folded: bool) -> Option<String> {
    let lower = namespace.to_ascii_lowercase();
    let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-*?".contains(&byte);
    if !lower.bytes().all(fits) {
        return Some(format!(
            "namespace {namespace:?}: no namespace can be called so: names are of a-z, 0-9 and -, globs have * and ? too"
        ));
    }
    (!folded && lower != namespace)
        .then(|| format!("namespace {namespace:?}: namespaces are in lower case: write {lower:?}"))
}

/// What is wrong with the name of an object of these resources, globs too; without resources it may be of any.
pub(crate) fn name_error<'a>(resources: impl IntoIterator<Item = &'a str>, name: &str) -> Option<String> {
    if let Some((kind, rest)) = name.rsplit_once('/') {
        return Some(format!(
            "name {name:?}: no name has a /: write names: [{rest:?}], and what {kind:?} says as resources or namespaces"
        ));
    }
    if name.contains('%') {
        return Some(format!("name {name:?}: no name has a %"));
    }
    let mut resources = resources.into_iter().peekable();
    let by_dns = resources.peek().is_some()
        && resources.all(|written| match written.split_once('/') {
            // Proxies name an object with a scheme and a port: `https:web:443`.
            Some((_, "proxy")) => false,
            Some((resource, sub)) => !is_glob(sub) && NAMED_BY_DNS.contains(&resource),
            None => NAMED_BY_DNS.contains(&written),
        });
    let expression = name.starts_with('^') && name.ends_with('$');
    let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-.*?".contains(&byte);
    if !expression && (!by_dns || name.bytes().all(fits)) {
        return None;
    }
    let glob = name
        .trim_start_matches('^')
        .trim_end_matches('$')
        .replace(".*", "*");
    let lower = name.to_ascii_lowercase();
    Some(if lower.bytes().all(fits) {
        format!("name {name:?}: such names are in lower case: write {lower:?}")
    } else if !glob.is_empty() && glob.bytes().all(fits) {
        format!("name {name:?}: regular expressions are not understood: write {glob:?}")
    } else {
        format!("name {name:?}: no object can be called so: names are of a-z, 0-9, - and .")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_told_from_groups() {
        for text in ["v1", "v2", "v1beta1", "v2alpha12"] {
            assert!(is_version(text), "{text}");
        }
        for text in [
            "",
            "v",
            "vault",
            "v1beta",
            "velero.io",
            "beta1",
            "vbeta1",
            "v1.example.com",
        ] {
            assert!(!is_version(text), "{text}");
        }
    }

    #[test]
    fn what_is_served_is_listed_once_and_in_order() {
        assert!(SERVED.is_sorted());
        for (group, resources) in SERVED {
            assert!(resources.is_sorted(), "{group}");
        }
        assert!(NAMED_BY_DNS.is_sorted());
        assert!(NAMED_BY_DNS.iter().all(|name| !groups_of(name).is_empty()));
    }
}
