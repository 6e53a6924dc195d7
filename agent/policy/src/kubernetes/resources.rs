//! What every API server serves by itself, so that a rule that no request can match is an error when it is read.
//!
//! In: the words of rules. Out: what is wrong with one and what to write instead, only where it is certain that no request can
//! have it. Custom and aggregated resources may be called anything, so a group that is not here is never at fault for its
//! resources.

use std::collections::HashSet;
use std::sync::LazyLock;

use super::table::{METRICS, TABLE};

/// Resources of releases before or of feature gates that are off, in groups that Kubernetes keeps for itself.
const FURTHER: [(&str, &str); 3] = [
    ("certificates.k8s.io", "clustertrustbundles"),
    ("coordination.k8s.io", "leasecandidates"),
    ("policy", "podsecuritypolicies"),
];

/// The resources of the groups that Kubernetes keeps for itself, each with its group.
fn own() -> impl Iterator<Item = (&'static str, &'static str)> {
    let rows = TABLE.iter().filter(|row| row.group != METRICS);
    rows.map(|row| (row.group, row.plural)).chain(FURTHER)
}

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
    let resources = own().map(|(_, resource)| resource);
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

/// More resources without a namespace than the table has.
const CLUSTER_SCOPED: [(&str, &str); 4] = [
    ("admissionregistration.k8s.io", "*"),
    ("certificates.k8s.io", "clustertrustbundles"),
    ("flowcontrol.apiserver.k8s.io", "*"),
    ("internal.apiserver.k8s.io", "storageversions"),
];

/// Groups whose requests are about somebody else's: a review of what may be done in a namespace is itself in none.
const REVIEWS: [&str; 2] = ["authentication.k8s.io", "authorization.k8s.io"];

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

/// Short names that could be the plural of a custom resource.
const NOT_MISSPELT: [&str; 1] = ["limits"];

/// The resource that is meant by a kind or a short name as kubectl takes them, which a rule does not: it would match nothing, and a
/// rule that refuses would be a hole that nobody sees.
fn meant_by(word: &str) -> Option<&'static str> {
    if word == "endpoint" {
        return Some("endpoints");
    }
    let mut rows = TABLE.iter().filter(|row| row.group != METRICS);
    let row = rows.find(|row| row.plural != word && row.is_called(word))?;
    (!NOT_MISSPELT.contains(&word)).then_some(row.plural)
}

/// Changes between a word and what was meant by it: two letters that changed places are two.
const SLIPS: usize = 2;

/// Whether a subresource answers with the whole object, which it has in common with its resource.
pub(crate) fn shows_object(group: &str, resource: &str, sub: &str) -> bool {
    let of = |wanted: (&str, &str, &str)| {
        group.eq_ignore_ascii_case(wanted.0)
            && resource.eq_ignore_ascii_case(wanted.1)
            && sub.eq_ignore_ascii_case(wanted.2)
    };
    sub.eq_ignore_ascii_case("status")
        || [
            ("", "pods", "ephemeralcontainers"),
            ("", "pods", "resize"),
            ("", "namespaces", "finalize"),
            ("certificates.k8s.io", "certificatesigningrequests", "approval"),
        ]
        .into_iter()
        .any(of)
}

/// Whether a resource has no namespace, so that listing it is not "in every namespace". One that is not known (a custom one) is
/// taken for namespaced, which can only make a Deny rule match more; so are reviews.
pub(crate) fn is_cluster_scoped(group: &str, resource: &str) -> bool {
    let further = CLUSTER_SCOPED.iter();
    let mut further = further.filter(|(of, _)| *of == group).map(|(_, known)| *known);
    if further.any(|known| known == "*" || known == resource) {
        return true;
    }
    let row = TABLE
        .iter()
        .find(|row| row.group == group && row.plural == resource);
    row.is_some_and(|row| !row.namespaced) && !REVIEWS.contains(&group)
}

/// The resources of a group; none where the group is not known.
fn resources_of(group: &str) -> Vec<&'static str> {
    let of_group = own().filter(|(known, _)| *known == group);
    of_group.map(|(_, resource)| resource).collect()
}

fn groups_of(resource: &str) -> Vec<&'static str> {
    let served = own().filter(|(_, known)| *known == resource);
    served.map(|(group, _)| group).collect()
}

fn is_glob(text: &str) -> bool {
    text.contains(['*', '?'])
}

/// `v1`, `v1beta2`: the version of a group.
pub(crate) fn is_version(text: &str) -> bool {
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
    let meant = meant_by(resource)?;
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
        && resources_of(group).contains(&name)
    {
        return Some(format!(
            "resource {written:?}: its group stands apart: write apiGroups: [{group:?}] and resources: [{name}]"
        ));
    }
    let mut known = Vec::new();
    for group in groups {
        let of_group = resources_of(group);
        if of_group.is_empty() {
            return None;
        }
        known.extend(of_group);
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
pub(crate) fn scope_error(groups: &[String], written: &str, field: &str) -> Option<String> {
    let resource = written.split('/').next().unwrap_or(written);
    let scoped = !groups.is_empty() && groups.iter().all(|group| is_cluster_scoped(group, resource));
    (scoped && resource != "namespaces").then(|| {
        format!(
            "resource {written:?} is in no namespace, so `{field}` never matches it: make a rule without it"
        )
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
    fn what_has_no_namespace_is_told_by_its_group() {
        for (group, resource, expected) in [
            ("", "nodes", true),
            ("", "pods", false),
            ("metrics.k8s.io", "nodes", true),
            ("metrics.k8s.io", "pods", false),
            ("admissionregistration.k8s.io", "newer", true),
            ("storage.k8s.io", "volumeattributesclasses", true),
            ("storage.k8s.io", "csistoragecapacities", false),
            ("authentication.k8s.io", "tokenreviews", false),
            ("example.com", "nodes", false),
        ] {
            assert_eq!(is_cluster_scoped(group, resource), expected, "{group}/{resource}");
        }
    }

    #[test]
    fn kinds_and_short_names_are_told_from_resources() {
        for (word, meant) in [
            ("po", "pods"),
            ("hpa", "horizontalpodautoscalers"),
            ("endpoint", "endpoints"),
            ("event", "events"),
            ("vac", "volumeattributesclasses"),
        ] {
            assert_eq!(meant_by(word), Some(meant), "{word}");
        }
        for word in ["pods", "endpoints", "limits", "widgets", "podmetrics"] {
            assert_eq!(meant_by(word), None, "{word}");
        }
        // What kubectl takes for a resource is never another one.
        for row in TABLE {
            assert_eq!(meant_by(row.plural), None, "{}", row.plural);
        }
    }

    #[test]
    fn what_is_served_is_listed_once_and_in_order() {
        let mut all: Vec<_> = TABLE.iter().map(|row| (row.group, row.plural)).collect();
        assert!(all.is_sorted());
        all.extend(FURTHER);
        let count = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), count);
        assert!(NAMED_BY_DNS.is_sorted());
        assert!(NAMED_BY_DNS.iter().all(|name| !groups_of(name).is_empty()));
    }
}
