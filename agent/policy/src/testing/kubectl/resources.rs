//! Resources, by every name that kubectl takes for them.
//!
//! In: `po`, `deployments.apps`, `widgets.v1.example.com`, or group and kind of an object. Out: a [`Resource`] and its paths.

use crate::body::MediaType;
use crate::kubernetes::resources::is_version;
use crate::kubernetes::table::{METRICS, ServedResource, TABLE};
use crate::testing::input::InputError;

/// A resource, as its paths have it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Resource {
    /// Its API group; empty for the core group.
    pub(super) group: String,
    /// Its version.
    pub(super) version: String,
    /// Its plural name.
    pub(super) plural: String,
    /// Whether its objects are in namespaces.
    pub(super) namespaced: bool,
}

/// What `kubectl get all` gets.
const ALL: [&str; 10] = [
    "pods",
    "replicationcontrollers",
    "services",
    "daemonsets",
    "deployments",
    "replicasets",
    "statefulsets",
    "horizontalpodautoscalers",
    "cronjobs",
    "jobs",
];

impl From<&ServedResource> for Resource {
    fn from(row: &ServedResource) -> Self {
        Self {
            group: row.group.to_owned(),
            version: row.version.to_owned(),
            plural: row.plural.to_owned(),
            namespaced: row.namespaced,
        }
    }
}

impl Resource {
    /// The path of an object, of a subresource, or of all objects; those of all namespaces where none is given.
    pub(super) fn path(&self, namespace: Option<&str>, name: Option<&str>, sub: Option<&str>) -> String {
        let mut path = match self.group.as_str() {
            "" => format!("/api/{}", self.version),
            group => format!("/apis/{group}/{}", self.version),
        };
        if let Some(namespace) = namespace.filter(|_| self.namespaced) {
            path.push_str("/namespaces/");
            path.push_str(namespace);
        }
        for part in [Some(self.plural.as_str()), name, sub].into_iter().flatten() {
            path.push('/');
            path.push_str(part);
        }
        path
    }

    /// Whether it is this one.
    pub(super) fn is(&self, group: &str, plural: &str) -> bool {
        self.group == group && self.plural == plural
    }

    /// How kubectl changes such an object by `apply` and `diff`: the API server says in its OpenAPI documents for what it takes strategic
    /// merge patches, and that is its own kinds (k8s.io/kubectl, pkg/cmd/apply/patcher.go).
    pub(super) fn applied_patch(&self) -> MediaType {
        let own = TABLE.iter().any(|row| row.group == self.group) && self.group != METRICS;
        if own {
            MediaType::StrategicMergePatch
        } else {
            MediaType::MergePatch
        }
    }

    /// Likewise by `edit`, which goes by kubectl's own types (pkg/cmd/util/editor/editoptions.go): those of the two groups that
    /// other servers than kube-apiserver's own hold are none of them.
    pub(super) fn edited_patch(&self) -> MediaType {
        match self.group.as_str() {
            "apiextensions.k8s.io" | "apiregistration.k8s.io" => MediaType::MergePatch,
            _ => self.applied_patch(),
        }
    }
}

/// Pods.
pub(super) fn pods() -> Resource {
    served("", "pods")
}

/// A resource of the table.
pub(super) fn served(group: &str, plural: &str) -> Resource {
    let row = TABLE
        .iter()
        .find(|row| row.group == group && row.plural == plural);
    row.map_or_else(|| custom(group, "v1", plural), Resource::from)
}

/// A resource that is none of Kubernetes' own; most are in namespaces.
fn custom(group: &str, version: &str, plural: &str) -> Resource {
    Resource {
        group: group.to_owned(),
        version: version.to_owned(),
        plural: plural.to_owned(),
        namespaced: true,
    }
}

/// One resource by a name that kubectl takes.
pub(super) fn one(name: &str) -> Result<Resource, InputError> {
    let mut found = find(name)?;
    match found.len() {
        1 => Ok(found.remove(0)),
        _ => Err(InputError(format!(
            "{name:?} is more than one resource: write one"
        ))),
    }
}

/// The resources of `pods,services` or `all`.
pub(super) fn find(names: &str) -> Result<Vec<Resource>, InputError> {
    let mut found = Vec::new();
    for name in names.split(',') {
        match name.to_ascii_lowercase().as_str() {
            "all" => found.extend(ALL.iter().filter_map(|plural| row_of(plural)).map(Resource::from)),
            name => found.push(named(name)?),
        }
    }
    Ok(found)
}

fn row_of(name: &str) -> Option<&'static ServedResource> {
    TABLE.iter().find(|row| row.is_called(name))
}

fn named(name: &str) -> Result<Resource, InputError> {
    if let Some(row) = row_of(name) {
        return Ok(row.into());
    }
    let Some((first, rest)) = name.split_once('.') else {
        return Err(InputError(format!(
            "no resource of Kubernetes is called {name:?}: write a custom one with its group, such as {name}.example.com"
        )));
    };
    let (version, group) = match rest.split_once('.') {
        Some((version, group)) if is_version(version) => (Some(version), group),
        _ => (None, rest),
    };
    let row = TABLE
        .iter()
        .find(|row| row.group == group && row.is_called(first));
    let mut resource = match row {
        Some(row) => Resource::from(row),
        None => custom(group, "v1", first),
    };
    if let Some(version) = version {
        resource.version = version.to_owned();
    }
    Ok(resource)
}

/// The resource of an object's `apiVersion` and `kind`.
pub(super) fn of_object(api_version: &str, kind: &str) -> Resource {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let kind = kind.to_ascii_lowercase();
    let row = TABLE.iter().find(|row| row.group == group && row.kind == kind);
    let mut resource = match row {
        Some(row) => Resource::from(row),
        None => custom(group, version, &plural_of(&kind)),
    };
    version.clone_into(&mut resource.version);
    resource
}

/// The plural that CRDs have by custom (k8s.io/apimachinery, pkg/api/meta, `UnsafeGuessKindToResource`).
fn plural_of(kind: &str) -> String {
    if let Some(stem) = kind.strip_suffix('y') {
        format!("{stem}ies")
    } else if kind.ends_with('s') {
        format!("{kind}es")
    } else {
        format!("{kind}s")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resources_are_found_by_every_name_that_kubectl_takes() {
        for (name, path) in [
            ("po", "/api/v1/namespaces/shop/pods"),
            ("Pods", "/api/v1/namespaces/shop/pods"),
            ("deployments.apps", "/apis/apps/v1/namespaces/shop/deployments"),
            (
                "deploy.v1beta2.apps",
                "/apis/apps/v1beta2/namespaces/shop/deployments",
            ),
            (
                "events.events.k8s.io",
                "/apis/events.k8s.io/v1/namespaces/shop/events",
            ),
            ("ns", "/api/v1/namespaces"),
            (
                "pods.metrics.k8s.io",
                "/apis/metrics.k8s.io/v1beta1/namespaces/shop/pods",
            ),
            (
                "widgets.example.com",
                "/apis/example.com/v1/namespaces/shop/widgets",
            ),
            (
                "widgets.v2.example.com",
                "/apis/example.com/v2/namespaces/shop/widgets",
            ),
        ] {
            let resource = one(name).expect(name);
            assert_eq!(resource.path(Some("shop"), None, None), path, "{name}");
        }
        assert_eq!(find("all").expect("all").len(), ALL.len());
        assert!(one("all").is_err() && find("widgets").is_err());
        assert_eq!(of_object("example.com/v2", "Policy").plural, "policies");
        assert_eq!(of_object("networking.k8s.io/v1", "Ingress").plural, "ingresses");
    }

    #[test]
    fn the_kind_of_a_patch_goes_by_who_serves_the_object() {
        for (name, applied, edited) in [
            ("deploy", "strategic", "strategic"),
            ("crd", "strategic", "merge"),
            ("apiservices", "strategic", "merge"),
            ("storageclasses", "strategic", "strategic"),
            ("widgets.example.com", "merge", "merge"),
            ("gateways.gateway.networking.k8s.io", "merge", "merge"),
            ("volumesnapshots.snapshot.storage.k8s.io", "merge", "merge"),
        ] {
            let resource = one(name).expect(name);
            let name_of = |media: MediaType| match media {
                MediaType::StrategicMergePatch => "strategic",
                _ => "merge",
            };
            assert_eq!(name_of(resource.applied_patch()), applied, "{name}");
            assert_eq!(name_of(resource.edited_patch()), edited, "{name}");
        }
    }
}
