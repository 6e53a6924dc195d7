//! The resources of Kubernetes 1.36.
//!
//! In: nothing. Out: one table, of which rules and command lines of kubectl are read.

/// A resource that an API server serves by itself, or that comes with nearly every cluster.
#[derive(Debug)]
pub(crate) struct ServedResource {
    /// Its API group; empty for the core group.
    pub(crate) group: &'static str,
    /// The version that kubectl asks for.
    pub(crate) version: &'static str,
    /// Its plural name, as in requests.
    pub(crate) plural: &'static str,
    /// Its kind in lower case, which kubectl takes for it.
    pub(crate) kind: &'static str,
    /// Its short names.
    pub(crate) short: &'static [&'static str],
    /// Whether its objects are in namespaces.
    pub(crate) namespaced: bool,
}

impl ServedResource {
    /// Whether kubectl takes a word in lower case for it.
    pub(crate) fn is_called(&self, name: &str) -> bool {
        self.plural == name || self.kind == name || self.short.contains(&name)
    }
}

const fn resource(
    group: &'static str,
    version: &'static str,
    plural: &'static str,
    kind: &'static str,
    short: &'static [&'static str],
    namespaced: bool,
) -> ServedResource {
    ServedResource {
        group,
        version,
        plural,
        kind,
        short,
        namespaced,
    }
}

/// The group of the metrics API, which an add-on serves.
pub(crate) const METRICS: &str = "metrics.k8s.io";

/// What `kubectl api-resources` of a plain cluster lists, and the metrics API. Where several groups have a name, kubectl takes the first.
#[rustfmt::skip]
pub(crate) const TABLE: [ServedResource; 69] = [
    resource("", "v1", "bindings", "binding", &[], true),
    resource("", "v1", "componentstatuses", "componentstatus", &["cs"], false),
    resource("", "v1", "configmaps", "configmap", &["cm"], true),
    resource("", "v1", "endpoints", "endpoints", &["ep"], true),
    resource("", "v1", "events", "event", &["ev"], true),
    resource("", "v1", "limitranges", "limitrange", &["limits"], true),
    resource("", "v1", "namespaces", "namespace", &["ns"], false),
    resource("", "v1", "nodes", "node", &["no"], false),
    resource("", "v1", "persistentvolumeclaims", "persistentvolumeclaim", &["pvc"], true),
    resource("", "v1", "persistentvolumes", "persistentvolume", &["pv"], false),
    resource("", "v1", "pods", "pod", &["po"], true),
    resource("", "v1", "podtemplates", "podtemplate", &[], true),
    resource("", "v1", "replicationcontrollers", "replicationcontroller", &["rc"], true),
    resource("", "v1", "resourcequotas", "resourcequota", &["quota"], true),
    resource("", "v1", "secrets", "secret", &[], true),
    resource("", "v1", "serviceaccounts", "serviceaccount", &["sa"], true),
    resource("", "v1", "services", "service", &["svc"], true),
    resource("admissionregistration.k8s.io", "v1", "mutatingadmissionpolicies", "mutatingadmissionpolicy", &[], false),
    resource("admissionregistration.k8s.io", "v1", "mutatingadmissionpolicybindings", "mutatingadmissionpolicybinding", &[], false),
    resource("admissionregistration.k8s.io", "v1", "mutatingwebhookconfigurations", "mutatingwebhookconfiguration", &[], false),
    resource("admissionregistration.k8s.io", "v1", "validatingadmissionpolicies", "validatingadmissionpolicy", &[], false),
    resource("admissionregistration.k8s.io", "v1", "validatingadmissionpolicybindings", "validatingadmissionpolicybinding", &[], false),
    resource("admissionregistration.k8s.io", "v1", "validatingwebhookconfigurations", "validatingwebhookconfiguration", &[], false),
    resource("apiextensions.k8s.io", "v1", "customresourcedefinitions", "customresourcedefinition", &["crd", "crds"], false),
    resource("apiregistration.k8s.io", "v1", "apiservices", "apiservice", &[], false),
    resource("apps", "v1", "controllerrevisions", "controllerrevision", &[], true),
    resource("apps", "v1", "daemonsets", "daemonset", &["ds"], true),
    resource("apps", "v1", "deployments", "deployment", &["deploy"], true),
    resource("apps", "v1", "replicasets", "replicaset", &["rs"], true),
    resource("apps", "v1", "statefulsets", "statefulset", &["sts"], true),
    resource("authentication.k8s.io", "v1", "selfsubjectreviews", "selfsubjectreview", &[], false),
    resource("authentication.k8s.io", "v1", "tokenreviews", "tokenreview", &[], false),
    resource("authorization.k8s.io", "v1", "localsubjectaccessreviews", "localsubjectaccessreview", &[], true),
    resource("authorization.k8s.io", "v1", "selfsubjectaccessreviews", "selfsubjectaccessreview", &[], false),
    resource("authorization.k8s.io", "v1", "selfsubjectrulesreviews", "selfsubjectrulesreview", &[], false),
    resource("authorization.k8s.io", "v1", "subjectaccessreviews", "subjectaccessreview", &[], false),
    resource("autoscaling", "v2", "horizontalpodautoscalers", "horizontalpodautoscaler", &["hpa"], true),
    resource("batch", "v1", "cronjobs", "cronjob", &["cj"], true),
    resource("batch", "v1", "jobs", "job", &[], true),
    resource("certificates.k8s.io", "v1", "certificatesigningrequests", "certificatesigningrequest", &["csr"], false),
    resource("coordination.k8s.io", "v1", "leases", "lease", &[], true),
    resource("discovery.k8s.io", "v1", "endpointslices", "endpointslice", &[], true),
    resource("events.k8s.io", "v1", "events", "event", &["ev"], true),
    resource("flowcontrol.apiserver.k8s.io", "v1", "flowschemas", "flowschema", &[], false),
    resource("flowcontrol.apiserver.k8s.io", "v1", "prioritylevelconfigurations", "prioritylevelconfiguration", &[], false),
    resource("metrics.k8s.io", "v1beta1", "nodes", "nodemetrics", &[], false),
    resource("metrics.k8s.io", "v1beta1", "pods", "podmetrics", &[], true),
    resource("networking.k8s.io", "v1", "ingressclasses", "ingressclass", &[], false),
    resource("networking.k8s.io", "v1", "ingresses", "ingress", &["ing"], true),
    resource("networking.k8s.io", "v1", "ipaddresses", "ipaddress", &["ip"], false),
    resource("networking.k8s.io", "v1", "networkpolicies", "networkpolicy", &["netpol"], true),
    resource("networking.k8s.io", "v1", "servicecidrs", "servicecidr", &[], false),
    resource("node.k8s.io", "v1", "runtimeclasses", "runtimeclass", &[], false),
    resource("policy", "v1", "poddisruptionbudgets", "poddisruptionbudget", &["pdb"], true),
    resource("rbac.authorization.k8s.io", "v1", "clusterrolebindings", "clusterrolebinding", &[], false),
    resource("rbac.authorization.k8s.io", "v1", "clusterroles", "clusterrole", &[], false),
    resource("rbac.authorization.k8s.io", "v1", "rolebindings", "rolebinding", &[], true),
    resource("rbac.authorization.k8s.io", "v1", "roles", "role", &[], true),
    resource("resource.k8s.io", "v1", "deviceclasses", "deviceclass", &[], false),
    resource("resource.k8s.io", "v1", "resourceclaims", "resourceclaim", &[], true),
    resource("resource.k8s.io", "v1", "resourceclaimtemplates", "resourceclaimtemplate", &[], true),
    resource("resource.k8s.io", "v1", "resourceslices", "resourceslice", &[], false),
    resource("scheduling.k8s.io", "v1", "priorityclasses", "priorityclass", &["pc"], false),
    resource("storage.k8s.io", "v1", "csidrivers", "csidriver", &[], false),
    resource("storage.k8s.io", "v1", "csinodes", "csinode", &[], false),
    resource("storage.k8s.io", "v1", "csistoragecapacities", "csistoragecapacity", &[], true),
    resource("storage.k8s.io", "v1", "storageclasses", "storageclass", &["sc"], false),
    resource("storage.k8s.io", "v1", "volumeattachments", "volumeattachment", &[], false),
    resource("storage.k8s.io", "v1", "volumeattributesclasses", "volumeattributesclass", &["vac"], false),
];
