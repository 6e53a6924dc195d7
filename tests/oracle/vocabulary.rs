//! The words of roles and requests: groups with their resources, verbs, names, namespaces and paths.
//!
//! In: nothing. Out: tables that rules and requests are made of.

/// A resource by group, resource and whether it has a namespace.
pub(crate) type Served = (&'static str, &'static str, bool);

/// Resources, and subresources, of all kinds: built-in, aggregated, custom, and those that built-in denies are about.
pub(crate) const RESOURCES: [Served; 54] = [
    ("", "pods", true),
    ("", "pods/log", true),
    ("", "pods/status", true),
    ("", "pods/exec", true),
    ("", "pods/attach", true),
    ("", "pods/portforward", true),
    ("", "pods/proxy", true),
    ("", "pods/eviction", true),
    ("", "pods/ephemeralcontainers", true),
    ("", "configmaps", true),
    ("", "secrets", true),
    ("", "services", true),
    ("", "services/proxy", true),
    ("", "services/status", true),
    ("", "serviceaccounts", true),
    ("", "serviceaccounts/token", true),
    ("", "events", true),
    ("", "endpoints", true),
    ("", "replicationcontrollers/scale", true),
    ("", "namespaces", false),
    ("", "namespaces/status", false),
    ("", "namespaces/finalize", false),
    ("", "nodes", false),
    ("", "nodes/proxy", false),
    ("", "nodes/metrics", false),
    ("", "nodes/status", false),
    ("", "persistentvolumes", false),
    ("apps", "deployments", true),
    ("apps", "deployments/scale", true),
    ("apps", "deployments/status", true),
    ("apps", "statefulsets/scale", true),
    ("apps", "daemonsets", true),
    ("batch", "jobs", true),
    ("batch", "cronjobs/status", true),
    ("autoscaling", "horizontalpodautoscalers", true),
    ("networking.k8s.io", "ingresses", true),
    ("coordination.k8s.io", "leases", true),
    ("rbac.authorization.k8s.io", "roles", true),
    ("rbac.authorization.k8s.io", "clusterroles", false),
    ("authorization.k8s.io", "subjectaccessreviews", false),
    ("authorization.k8s.io", "selfsubjectaccessreviews", false),
    ("authentication.k8s.io", "tokenreviews", false),
    ("certificates.k8s.io", "certificatesigningrequests", false),
    (
        "certificates.k8s.io",
        "certificatesigningrequests/approval",
        false,
    ),
    (
        "admissionregistration.k8s.io",
        "validatingwebhookconfigurations",
        false,
    ),
    ("apiextensions.k8s.io", "customresourcedefinitions", false),
    ("storage.k8s.io", "storageclasses", false),
    ("metrics.k8s.io", "pods", true),
    ("custom.metrics.k8s.io", "requests", true),
    ("picket.dev", "agentgrants", false),
    ("example.com", "widgets", true),
    ("example.com", "widgets/status", true),
    ("example.com", "widgets/scale", true),
    ("example.com", "pods", true),
];

/// Subresources that `*/...` can be about.
pub(crate) const SUBRESOURCES: [&str; 6] = ["scale", "status", "log", "exec", "proxy", "finalizers"];

/// Verbs of resources.
pub(crate) const VERBS: [&str; 8] = [
    "get",
    "list",
    "watch",
    "create",
    "update",
    "patch",
    "delete",
    "deletecollection",
];

/// Verbs of other paths.
pub(crate) const METHODS: [&str; 7] = ["get", "head", "post", "put", "patch", "delete", "options"];

/// Namespaces: usual ones, and those that built-in denies are about.
pub(crate) const NAMESPACES: [&str; 6] = [
    "default",
    "team-a",
    "team-b",
    "kube-system",
    "picket-system",
    "status",
];

/// Names of objects: usual ones, those that look like something else, and those that built-in denies are about.
pub(crate) const NAMES: [&str; 12] = [
    "web",
    "web-0",
    "web.example.com",
    "db",
    "default",
    "picket",
    "picket-agent",
    "agentgrants.picket.dev",
    "watch",
    "status",
    "system:node",
    "namespaces",
];

/// Paths of no resource, each whole.
pub(crate) const PATHS: [&str; 40] = [
    "/",
    "/api",
    "/api/",
    "/api/v1",
    "/api/v1/",
    "/apis",
    "/apis/",
    "/apis/apps",
    "/apis/apps/v1",
    "/apis/apps/v1/",
    "/apis/example.com/v1",
    "/version",
    "/version/",
    "/version/x",
    "/healthz",
    "/healthz/",
    "/healthz/etcd",
    "/healthz/poststarthook/start",
    "/healthzz",
    "/livez",
    "/livez/ping",
    "/readyz",
    "/readyz/",
    "/readyz/shutdown",
    "/metrics",
    "/metrics/slis",
    "/metrics/cadvisor",
    "/openapi",
    "/openapi/v2",
    "/openapi/v3",
    "/openapi/v3/apis/apps/v1",
    "/openid/v1/jwks",
    "/openid/v1/jwks/",
    "/.well-known/openid-configuration",
    "/logs",
    "/logs/x",
    "/debug/pprof/profile",
    "/statusz",
    "/flagz",
    "/apix/v1/pods",
];

/// Paths of rules: whole ones, and those with a `*` at the end.
pub(crate) const RULE_PATHS: [&str; 18] = [
    "*",
    "/",
    "/*",
    "/api",
    "/api/*",
    "/apis/*",
    "/apis/apps*",
    "/healthz",
    "/healthz*",
    "/healthz/*",
    "/livez/*",
    "/readyz",
    "/metrics",
    "/metrics/*",
    "/openapi/**",
    "/version/",
    "/logs/*",
    "/debug/*",
];
