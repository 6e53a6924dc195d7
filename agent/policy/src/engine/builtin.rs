//! What every agent is refused unless a policy excepts it by name: ways around Picket, or around the API server's own audit.
//!
//! In: a [`KubeRequest`], who sent it, Picket's own namespace and those of agents. Out: whether a [`Builtin`] fires, and the
//! message of its denial.
//!
//! The head of a request is judged here, and of the body the name of a new object and the type of a new Secret. Verbs that only RBAC knows
//! (escalate, bind, impersonate) are checked by the API server against the impersonated user. A port-forward's port is in the stream.

use super::agent_namespaces::AgentNamespaces;
use super::item_filter::can_be_filtered;
pub use crate::api::v1alpha1::Builtin;
use crate::kubernetes::DEFAULT_NAMESPACE;
use crate::request::{KubeRequest, ObjectName, RequestObject, Target, Verb};

/// The namespace of Picket's own objects. No configuration key changes it.
pub const OWN_NAMESPACE: &str = "picket-system";

/// What Picket's cluster-scoped objects are called: this, or this and a dash and more.
const OWN_NAME: &str = "picket";

/// Paths that discovery and health checks need; Kubernetes gives them to every authenticated user by the cluster roles
/// `system:discovery` and `system:public-info-viewer`, and every agent with a grant has them for GET.
pub const DISCOVERY: [&str; 16] = [
    "/api",
    "/api/*",
    "/apis",
    "/apis/*",
    "/openapi",
    "/openapi/*",
    "/version",
    "/version/",
    "/healthz",
    "/livez",
    "/readyz",
    "/healthz/",
    "/livez/",
    "/readyz/",
    "/api/",
    "/apis/",
];

/// Reviews of one's own rights and name that every agent with a grant may create: the cluster role `system:basic-user`.
pub const SELF_REVIEWS: [(&str, &str); 3] = [
    ("authorization.k8s.io", "selfsubjectaccessreviews"),
    ("authorization.k8s.io", "selfsubjectrulesreviews"),
    ("authentication.k8s.io", "selfsubjectreviews"),
];

/// Further paths that are known for what they are, and pass where a grant names them.
const KNOWN_PATHS: [&str; 9] = [
    "/",
    "/healthz/*",
    "/livez/*",
    "/readyz/*",
    "/metrics",
    "/metrics/*",
    "/.well-known/openid-configuration",
    "/openid/v1/jwks",
    "/openid/v1/jwks/",
];

/// Resources that pods are made from, besides pods themselves: by their controllers of Kubernetes. A ControllerRevision is what
/// a StatefulSet or DaemonSet makes pods from after a rollback.
pub(super) const WORKLOADS: [(&str, &str); 8] = [
    ("", "replicationcontrollers"),
    ("apps", "controllerrevisions"),
    ("apps", "daemonsets"),
    ("apps", "deployments"),
    ("apps", "replicasets"),
    ("apps", "statefulsets"),
    ("batch", "cronjobs"),
    ("batch", "jobs"),
];

/// What the names of namespaces that Kubernetes keeps for itself begin with.
const RESERVED_NAMESPACES: &str = "kube-";

/// Subresources of pods through which a request runs something in the pod, or reaches what listens on its loopback for itself alone.
const RUN_IN_POD: [&str; 3] = ["exec", "attach", "portforward"];

/// The API server's own Service, and its Endpoints, in the namespace `default`.
const API_SERVER_SERVICE: &str = "kubernetes";

/// The types of Secrets that hold tokens (k8s.io/api/core/v1 and k8s.io/cluster-bootstrap).
const TOKEN_TYPES: [&str; 2] = [
    "kubernetes.io/service-account-token",
    "bootstrap.kubernetes.io/token",
];

/// Whether a request can make a Secret, so that a built-in looks into the object.
pub(super) fn makes_secret(request: &KubeRequest) -> bool {
    let is_secret = matches!(&request.target, Target::Resource { group, resource, subresource: None, .. }
        if group.is_empty() && resource.eq_ignore_ascii_case("secrets"));
    is_secret && (request.verb == Verb::Create || request.apply)
}

/// What a built-in is judged by besides the request.
#[derive(Debug, Clone, Copy)]
pub(super) struct Surroundings<'a> {
    /// The namespace that Picket runs in.
    pub(super) own_namespace: &'a str,
    /// The namespaces whose pods are agents.
    pub(super) agents: &'a AgentNamespaces,
    /// The name of the AgentIdentity that asks.
    pub(super) caller: &'a str,
}

impl Builtin {
    /// What an agent is told.
    #[must_use]
    pub fn message(self) -> &'static str {
        match self {
            Self::NodesProxy => "the kubelet would carry requests out without policy or audit",
            Self::PodsProxy => "requests through pods/proxy would reach pods without policy or audit",
            Self::ServicesProxy => {
                "requests through services/proxy would reach services without policy or audit"
            }
            Self::ApiserverPortforward => "a port-forward into a kube-* namespace can bypass Picket",
            Self::ApiserverEndpoints => {
                "an agent may not change the addresses of the API server (the Service and Endpoints kubernetes, EndpointSlices in the \
                 namespace default), nor give a Service addresses of others (services/status, ServiceCIDRs, IPAddresses)"
            }
            Self::TokenRequest => "a service account token would work without Picket",
            Self::TokenSecrets => {
                "a Secret of the type kubernetes.io/service-account-token or bootstrap.kubernetes.io/token holds a token that works without Picket; so may one whose type cannot be read"
            }
            Self::CertificateRequests => "a client certificate would work without Picket",
            Self::PicketObjects => "an agent may not reach the objects that limit it",
            Self::PicketAdmission => {
                "an agent may not change what enrols agents' pods: admission rules, namespaces with agents, Picket's ConfigMaps"
            }
            Self::ApiserverConfiguration => {
                "admission configuration, API services, and priority and fairness decide over everybody's requests, Picket's among them"
            }
            Self::PicketNamespace => "an agent may not reach Picket's own namespace",
            Self::AgentLabels => {
                "pods in this namespace act as agents, and their labels and images say which agent a pod is and what it runs"
            }
            Self::AgentPods => {
                "pods in this namespace act as other agents, and so would whoever runs something in them, makes them or forwards a port into them"
            }
            Self::UnknownPaths => "Picket does not know this non-resource path",
        }
    }

    /// Whether it is about what is behind a proxy, which a grant can name paths of.
    pub(super) fn is_of_proxies(self) -> bool {
        matches!(self, Self::NodesProxy | Self::PodsProxy | Self::ServicesProxy)
    }

    /// Of a list or watch that it is about, the namespace whose objects are hidden in place of a refusal.
    pub(super) fn hides<'a>(self, request: &KubeRequest, around: Surroundings<'a>) -> Option<&'a str> {
        (self == Self::PicketNamespace && request.namespace().is_none() && can_be_filtered(request))
            .then_some(around.own_namespace)
    }

    /// Whether it is about a request.
    pub(super) fn fires(self, request: &KubeRequest, around: Surroundings<'_>) -> bool {
        let asked = match &request.target {
            Target::NonResource { path } => return self == Self::UnknownPaths && is_unknown_path(path),
            Target::Resource {
                group,
                resource,
                subresource,
                namespace,
                name,
                ..
            } => Asked {
                request,
                group,
                resource,
                subresource: subresource.as_deref(),
                namespace: namespace.as_deref(),
                name: name.as_deref(),
                object: request.object_name(),
            },
        };
        match self {
            Self::NodesProxy => asked.is("", "nodes") && asked.is_sub("proxy"),
            Self::PodsProxy => asked.is("", "pods") && asked.is_sub("proxy"),
            Self::ServicesProxy => asked.is("", "services") && asked.is_sub("proxy"),
            Self::ApiserverPortforward => asked.forwards_into_reserved_namespace(),
            Self::ApiserverEndpoints => asked.changes_api_server_endpoints(),
            Self::TokenRequest => asked.is("", "serviceaccounts") && asked.is_sub("token"),
            Self::TokenSecrets => asked.makes_token_secret(),
            Self::CertificateRequests => asked.requests_certificate(),
            Self::PicketObjects => asked.reaches_picket_objects(),
            Self::PicketAdmission => asked.changes_enrolment(around.agents),
            Self::ApiserverConfiguration => asked.configures_api_server(),
            Self::PicketNamespace => asked.reaches_namespace(around.own_namespace),
            Self::AgentLabels => asked.changes_labels(around.agents),
            Self::AgentPods => asked.acts_as_another(around.agents, around.caller),
            Self::UnknownPaths => false,
        }
    }
}

/// A request for a resource, as the built-ins look at it.
#[derive(Debug, Clone, Copy)]
struct Asked<'r> {
    request: &'r KubeRequest,
    group: &'r str,
    resource: &'r str,
    subresource: Option<&'r str>,
    namespace: Option<&'r str>,
    /// The name in the path.
    name: Option<&'r str>,
    /// The object's name, wherever it is.
    object: ObjectName<'r>,
}

impl Asked<'_> {
    /// Whether it is for this resource. API servers write these in lower case; comparing without case leaves no spelling that slips by.
    fn is(self, group: &str, resource: &str) -> bool {
        self.is_of(group) && self.resource.eq_ignore_ascii_case(resource)
    }

    /// Whether it is for a resource of this group.
    fn is_of(self, group: &str) -> bool {
        self.group.eq_ignore_ascii_case(group)
    }

    /// Whether it is for this subresource.
    fn is_sub(self, wanted: &str) -> bool {
        self.subresource
            .is_some_and(|sub| sub.eq_ignore_ascii_case(wanted))
    }

    fn writes(self) -> bool {
        self.request.verb.is_mutating()
    }

    /// Whether the object is one of `mine`. A write to a whole collection touches those among the rest.
    fn is_named(self, mine: impl Fn(&str) -> bool) -> bool {
        match self.object {
            ObjectName::Known(name) => mine(name),
            // No name of Picket's depends on the letters that the API server puts at the end.
            ObjectName::Begins(beginning) => mine(&format!("{beginning}00000")),
            ObjectName::Unknown => true,
            ObjectName::None => self.request.verb == Verb::DeleteCollection,
        }
    }

    /// The port is in the stream and not in the request, and a pod that shares the node's network forwards to all of the node's ports.
    /// Kubernetes keeps namespaces with this prefix for itself; such pods elsewhere are a limit, since without port-forward to any pod
    /// agents could not do their work.
    fn forwards_into_reserved_namespace(self) -> bool {
        let is_reserved = |namespace: &str| {
            let prefix = namespace.get(..RESERVED_NAMESPACES.len());
            prefix.is_some_and(|prefix| prefix.eq_ignore_ascii_case(RESERVED_NAMESPACES))
        };
        self.is("", "pods") && self.is_sub("portforward") && self.namespace.is_some_and(is_reserved)
    }

    /// Which slices are the API server's says their label `kubernetes.io/service-name`, which a patch changes and a deletion does not name.
    /// So no slice of that namespace is an agent's to write. Other Endpoints than `kubernetes` are copied to slices of their own name.
    ///
    /// A Service takes the addresses of its load balancers away from whoever has them, and a ServiceCIDR lets it have any as its cluster
    /// address. With that of an agent's own pod, the kubelet's probes of the pod go where the Service leads: to the API server.
    fn changes_api_server_endpoints(self) -> bool {
        let in_reach = self
            .namespace
            .is_none_or(|namespace| namespace.eq_ignore_ascii_case(DEFAULT_NAMESPACE));
        let is_service = (self.is("", "services") && !self.is_sub("proxy")) || self.is("", "endpoints");
        let is_own = || self.is_named(|name| name.eq_ignore_ascii_case(API_SERVER_SERVICE));
        let is_slice = self.is("discovery.k8s.io", "endpointslices");
        let gives_addresses = (self.is("", "services") && self.is_sub("status"))
            || self.is("networking.k8s.io", "servicecidrs")
            || self.is("networking.k8s.io", "ipaddresses");
        self.writes() && (gives_addresses || (in_reach && (is_slice || (is_service && is_own()))))
    }

    /// The token controller writes a token into a new Secret of the first type, which whoever may read it can use; one of the second type
    /// says itself what its token is. A Secret's type cannot be changed later (pkg/apis/core/validation, `ValidateSecretUpdate`).
    fn makes_token_secret(self) -> bool {
        makes_secret(self.request)
            && match &self.request.object {
                RequestObject::Read(object) => {
                    let of_type = object.get("type").and_then(serde_json::Value::as_str);
                    of_type.is_some_and(|of_type| TOKEN_TYPES.contains(&of_type))
                }
                RequestObject::Unread | RequestObject::TooLarge => true,
                RequestObject::Absent | RequestObject::Sought => false,
            }
    }

    fn requests_certificate(self) -> bool {
        let requests = ["certificatesigningrequests", "podcertificaterequests"];
        self.writes()
            && requests
                .into_iter()
                .any(|resource| self.is("certificates.k8s.io", resource))
    }

    fn reaches_picket_objects(self) -> bool {
        let holds_own = || {
            self.is("apiextensions.k8s.io", "customresourcedefinitions")
                || self.is("apiregistration.k8s.io", "apiservices")
                || self.is_of("rbac.authorization.k8s.io")
                || self.is_of("flowcontrol.apiserver.k8s.io")
        };
        own(self.group) || (self.writes() && holds_own() && self.is_named(own))
    }

    /// An admission policy of any name can change or refuse what Picket's controller and people write, such as a revocation. An API
    /// service of any group gets everybody's requests for it. A FlowSchema can starve Picket's watches. Those with Picket's own names are
    /// other built-ins', so that an exception leaves them closed.
    fn configures_api_server(self) -> bool {
        let configures = self.is_of("admissionregistration.k8s.io")
            || self.is("apiregistration.k8s.io", "apiservices")
            || self.is_of("flowcontrol.apiserver.k8s.io");
        let is_own_alone = match self.object {
            ObjectName::Known(name) => own(name),
            ObjectName::Begins(beginning) => own(&format!("{beginning}00000")),
            ObjectName::Unknown | ObjectName::None => false,
        };
        self.writes() && configures && !is_own_alone
    }

    fn changes_enrolment(self, agents: &AgentNamespaces) -> bool {
        let configures = self.is_of("admissionregistration.k8s.io") && self.is_named(own);
        // The label of a namespace enrols its pods, and its subresources change labels too.
        let enrols = self.is("", "namespaces")
            && self.request.verb != Verb::DeleteCollection
            && self.is_named(|name| agents.has_agents(name));
        // New pods mount Picket's CA bundle from the ConfigMap `picket-ca.crt` of their namespace.
        let in_reach = || {
            self.namespace
                .is_none_or(|namespace| agents.has_agents(namespace))
        };
        let trusts = self.is("", "configmaps") && self.is_named(own) && (self.name.is_some() || in_reach());
        self.writes() && (configures || enrols || trusts)
    }

    fn reaches_namespace(self, own_namespace: &str) -> bool {
        let inside = self
            .namespace
            .is_some_and(|namespace| namespace.eq_ignore_ascii_case(own_namespace));
        // Secrets of all namespaces at once would bring Picket's keys along, if a list did not hide them.
        let everywhere =
            || self.namespace.is_none() && self.is("", "secrets") && self.request.verb.is_collection();
        inside
            || everywhere()
            || (self.is("", "namespaces")
                && self.writes()
                && self.is_named(|name| name.eq_ignore_ascii_case(own_namespace)))
    }

    /// Subresources change labels too: a status has its object's metadata, and a binding brings its own labels. Of `resize` and
    /// `ephemeralcontainers` the API server takes no labels (pkg/registry/core/pod/strategy.go).
    fn changes_labels(self, agents: &AgentNamespaces) -> bool {
        let verb = self.request.verb;
        let of_spec = self.is_sub("resize") || self.is_sub("ephemeralcontainers");
        let changes = matches!(verb, Verb::Update | Verb::Patch) && !of_spec;
        let binds = verb == Verb::Create && (self.is_sub("binding") || self.is("", "bindings"));
        let is_pod = self.is("", "pods") || self.is("", "bindings");
        (changes || binds)
            && is_pod
            && self
                .namespace
                .is_some_and(|namespace| agents.has_agents(namespace))
    }

    fn acts_as_another(self, agents: &AgentNamespaces, caller: &str) -> bool {
        let verb = self.request.verb;
        let runs = || {
            RUN_IN_POD.into_iter().any(|sub| self.is_sub(sub))
                || (self.writes() && self.is_sub("ephemeralcontainers"))
        };
        let makes = || self.subresource.is_none() && (verb == Verb::Create || self.request.apply);
        // A changed template makes new pods. A changed pod is what `AgentLabels` is about.
        let shapes =
            || self.subresource.is_none() && matches!(verb, Verb::Create | Verb::Update | Verb::Patch);
        let is_workload = || {
            WORKLOADS
                .into_iter()
                .any(|(group, resource)| self.is(group, resource))
        };
        let acts = (self.is("", "pods") && (makes() || runs())) || (shapes() && is_workload());
        acts && self
            .namespace
            .is_some_and(|namespace| agents.has_others(namespace, caller))
    }
}

/// Whether nothing is known of a path.
fn is_unknown_path(path: &str) -> bool {
    !known_paths().any(|known| url_matches(known, path))
}

/// Whether a cluster-scoped object or a group with this name is Picket's: `picket`, `picket-...`, `....picket.dev`.
fn own(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    let by_prefix = name
        .strip_prefix(OWN_NAME)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with(['-', '.']));
    by_prefix || name == crate::api::GROUP || name.ends_with(".picket.dev")
}

/// Every path that is known for what it is.
pub(super) fn known_paths() -> impl Iterator<Item = &'static str> {
    DISCOVERY.into_iter().chain(KNOWN_PATHS)
}

/// RBAC's comparison of nonResourceURLs: equal, or a prefix before trailing stars.
pub(crate) fn url_matches(rule: &str, path: &str) -> bool {
    rule == "*" || rule == path || (rule.ends_with('*') && path.starts_with(rule.trim_end_matches('*')))
}

/// The implicit grant that covers a request, by name.
pub(crate) fn implicit_grant(request: &KubeRequest) -> Option<&'static str> {
    match &request.target {
        Target::NonResource { path } => (request.verb == Verb::Get
            && DISCOVERY.iter().any(|known| url_matches(known, path)))
        .then_some("builtin/discovery"),
        Target::Resource {
            group,
            resource,
            subresource: None,
            ..
        } => (request.verb == Verb::Create && SELF_REVIEWS.contains(&(group.as_str(), resource.as_str())))
            .then_some("builtin/self-review"),
        Target::Resource { .. } => None,
    }
}
