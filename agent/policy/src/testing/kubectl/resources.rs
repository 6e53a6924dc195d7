//! The resources of Kubernetes 1.36, by every name that kubectl takes for them.
//!
//! In: `po`, `deployments.apps`, `widgets.v1.example.com`, or group and kind of an object. Out: a [`Resource`] and its paths.

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

/// A row: group, version, plural, kind in lower case, short names, and whether objects are in namespaces.
type Row = (
    &'static str,
    &'static str,
    &'static str,
    &'static str,
    &'static [&'static str],
    bool,
);

/// What `kubectl api-resources` of a plain cluster lists, and the metrics API. Where several groups have a name, kubectl takes the first.
#[rustfmt::skip]
const TABLE: [Row; 68] = [
    ("", "v1", "bindings", "binding", &[], true),
    ("", "v1", "componentstatuses", "componentstatus", &["cs"], false),
    ("", "v1", "configmaps", "configmap", &["cm"], true),
    ("", "v1", "endpoints", "endpoints", &["ep"], true),
    ("", "v1", "events", "event", &["ev"], true),
    ("", "v1", "limitranges", "limitrange", &["limits"], true),
    ("", "v1", "namespaces", "namespace", &["ns"], false),
    ("", "v1", "nodes", "node", &["no"], false),
    ("", "v1", "persistentvolumeclaims", "persistentvolumeclaim", &["pvc"], true),
    ("", "v1", "persistentvolumes", "persistentvolume", &["pv"], false),
    ("", "v1", "pods", "pod", &["po"], true),
    ("", "v1", "podtemplates", "podtemplate", &[], true),
    ("", "v1", "replicationcontrollers", "replicationcontroller", &["rc"], true),
    ("", "v1", "resourcequotas", "resourcequota", &["quota"], true),
    ("", "v1", "secrets", "secret", &[], true),
    ("", "v1", "serviceaccounts", "serviceaccount", &["sa"], true),
    ("", "v1", "services", "service", &["svc"], true),
    ("admissionregistration.k8s.io", "v1", "mutatingadmissionpolicies", "mutatingadmissionpolicy", &[], false),
    ("admissionregistration.k8s.io", "v1", "mutatingadmissionpolicybindings", "mutatingadmissionpolicybinding", &[], false),
    ("admissionregistration.k8s.io", "v1", "mutatingwebhookconfigurations", "mutatingwebhookconfiguration", &[], false),
    ("admissionregistration.k8s.io", "v1", "validatingadmissionpolicies", "validatingadmissionpolicy", &[], false),
    ("admissionregistration.k8s.io", "v1", "validatingadmissionpolicybindings", "validatingadmissionpolicybinding", &[], false),
    ("admissionregistration.k8s.io", "v1", "validatingwebhookconfigurations", "validatingwebhookconfiguration", &[], false),
    ("apiextensions.k8s.io", "v1", "customresourcedefinitions", "customresourcedefinition", &["crd", "crds"], false),
    ("apiregistration.k8s.io", "v1", "apiservices", "apiservice", &[], false),
    ("apps", "v1", "controllerrevisions", "controllerrevision", &[], true),
    ("apps", "v1", "daemonsets", "daemonset", &["ds"], true),
    ("apps", "v1", "deployments", "deployment", &["deploy"], true),
    ("apps", "v1", "replicasets", "replicaset", &["rs"], true),
    ("apps", "v1", "statefulsets", "statefulset", &["sts"], true),
    ("authentication.k8s.io", "v1", "selfsubjectreviews", "selfsubjectreview", &[], false),
    ("authentication.k8s.io", "v1", "tokenreviews", "tokenreview", &[], false),
    ("authorization.k8s.io", "v1", "localsubjectaccessreviews", "localsubjectaccessreview", &[], true),
    ("authorization.k8s.io", "v1", "selfsubjectaccessreviews", "selfsubjectaccessreview", &[], false),
    ("authorization.k8s.io", "v1", "selfsubjectrulesreviews", "selfsubjectrulesreview", &[], false),
    ("authorization.k8s.io", "v1", "subjectaccessreviews", "subjectaccessreview", &[], false),
    ("autoscaling", "v2", "horizontalpodautoscalers", "horizontalpodautoscaler", &["hpa"], true),
    ("batch", "v1", "cronjobs", "cronjob", &["cj"], true),
    ("batch", "v1", "jobs", "job", &[], true),
    ("certificates.k8s.io", "v1", "certificatesigningrequests", "certificatesigningrequest", &["csr"], false),
    ("coordination.k8s.io", "v1", "leases", "lease", &[], true),
    ("discovery.k8s.io", "v1", "endpointslices", "endpointslice", &[], true),
    ("events.k8s.io", "v1", "events", "event", &["ev"], true),
    ("flowcontrol.apiserver.k8s.io", "v1", "flowschemas", "flowschema", &[], false),
    ("flowcontrol.apiserver.k8s.io", "v1", "prioritylevelconfigurations", "prioritylevelconfiguration", &[], false),
    ("metrics.k8s.io", "v1beta1", "nodes", "nodemetrics", &[], false),
    ("metrics.k8s.io", "v1beta1", "pods", "podmetrics", &[], true),
    ("networking.k8s.io", "v1", "ingressclasses", "ingressclass", &[], false),
    ("networking.k8s.io", "v1", "ingresses", "ingress", &["ing"], true),
    ("networking.k8s.io", "v1", "ipaddresses", "ipaddress", &["ip"], false),
    ("networking.k8s.io", "v1", "networkpolicies", "networkpolicy", &["netpol"], true),
    ("networking.k8s.io", "v1", "servicecidrs", "servicecidr", &[], false),
    ("node.k8s.io", "v1", "runtimeclasses", "runtimeclass", &[], false),
    ("policy", "v1", "poddisruptionbudgets", "poddisruptionbudget", &["pdb"], true),
    ("rbac.authorization.k8s.io", "v1", "clusterrolebindings", "clusterrolebinding", &[], false),
    ("rbac.authorization.k8s.io", "v1", "clusterroles", "clusterrole", &[], false),
    ("rbac.authorization.k8s.io", "v1", "rolebindings", "rolebinding", &[], true),
    ("rbac.authorization.k8s.io", "v1", "roles", "role", &[], true),
    ("resource.k8s.io", "v1", "deviceclasses", "deviceclass", &[], false),
    ("resource.k8s.io", "v1", "resourceclaims", "resourceclaim", &[], true),
    ("resource.k8s.io", "v1", "resourceclaimtemplates", "resourceclaimtemplate", &[], true),
    ("resource.k8s.io", "v1", "resourceslices", "resourceslice", &[], false),
    ("scheduling.k8s.io", "v1", "priorityclasses", "priorityclass", &["pc"], false),
    ("storage.k8s.io", "v1", "csidrivers", "csidriver", &[], false),
    ("storage.k8s.io", "v1", "csinodes", "csinode", &[], false),
    ("storage.k8s.io", "v1", "csistoragecapacities", "csistoragecapacity", &[], true),
    ("storage.k8s.io", "v1", "storageclasses", "storageclass", &["sc"], false),
    ("storage.k8s.io", "v1", "volumeattachments", "volumeattachment", &[], false),
];

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

impl From<&Row> for Resource {
    fn from(row: &Row) -> Self {
        Self {
            group: row.0.to_owned(),
            version: row.1.to_owned(),
            plural: row.2.to_owned(),
            namespaced: row.5,
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
}

/// Pods.
pub(super) fn pods() -> Resource {
    served("", "pods")
}

/// A resource of the table.
pub(super) fn served(group: &str, plural: &str) -> Resource {
    let row = TABLE.iter().find(|row| row.0 == group && row.2 == plural);
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

fn row_of(name: &str) -> Option<&'static Row> {
    TABLE
        .iter()
        .find(|row| row.2 == name || row.3 == name || row.4.contains(&name))
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
    let is = |row: &&Row| row.2 == first || row.3 == first || row.4.contains(&first);
    let (version, group) = match rest.split_once('.') {
        Some((version, group)) if is_version(version) => (Some(version), group),
        _ => (None, rest),
    };
    let row = TABLE.iter().filter(is).find(|row| row.0 == group);
    let mut resource = match row {
        Some(row) => Resource::from(row),
        None => custom(group, "v1", first),
    };
    if let Some(version) = version {
        resource.version = version.to_owned();
    }
    Ok(resource)
}

fn is_version(text: &str) -> bool {
    text.strip_prefix('v')
        .is_some_and(|rest| rest.starts_with(|char: char| char.is_ascii_digit()))
}

/// The resource of an object's `apiVersion` and `kind`.
pub(super) fn of_object(api_version: &str, kind: &str) -> Resource {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let kind = kind.to_ascii_lowercase();
    let row = TABLE.iter().find(|row| row.0 == group && row.3 == kind);
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
    fn the_table_agrees_with_the_engine_about_what_has_no_namespace() {
        for row in TABLE {
            let scoped = crate::kubernetes::resources::is_cluster_scoped(row.0, row.2);
            let review = row.0.starts_with("auth");
            assert!(scoped != row.5 || review, "{}/{}", row.0, row.2);
        }
    }
}
