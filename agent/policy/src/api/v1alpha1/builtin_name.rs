//! The built-in denies by name, as a policy's `exceptions` name them. The engine says what each is about.
//!
//! In: a name in a document. Out: a [`Builtin`].

/// A built-in deny.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Builtin {
    /// `nodes/proxy`: the kubelet's whole API, exec included.
    NodesProxy,
    /// `pods/proxy`: any HTTP to a pod from the API server's address.
    PodsProxy,
    /// `services/proxy`: likewise to a service.
    ServicesProxy,
    /// Port-forward to a pod of kube-system and other `kube-*` namespaces, where the API server's own and others that share a node's
    /// network are.
    ApiserverPortforward,
    /// The addresses of the API server itself, which tell Picket what to protect: the Service `kubernetes`, its Endpoints and
    /// EndpointSlices. And what gives a Service addresses of others: `services/status`, ServiceCIDRs and IPAddresses.
    ApiserverEndpoints,
    /// TokenRequest: a token that works without Picket.
    TokenRequest,
    /// Secrets that hold tokens: of a service account, or for a node that joins.
    TokenSecrets,
    /// Certificate requests and their approval: a client certificate that works without Picket.
    CertificateRequests,
    /// Objects of the group picket.dev, its CRDs and API service, and the RBAC objects that Picket's nodes live by.
    PicketObjects,
    /// What enrols agents' pods: Picket's admission configuration, the namespaces of agents, ConfigMaps with Picket's names.
    PicketAdmission,
    /// What decides over everybody's requests in the API server: admission configuration, API services, priority and fairness.
    ApiserverConfiguration,
    /// Picket's namespace and all in it.
    PicketNamespace,
    /// Changes of pods in the namespaces of agents: labels say which agent a pod is, and which pods are enforced.
    AgentLabels,
    /// Running something in pods that act as other agents, and making such pods.
    AgentPods,
    /// Non-resource paths that are not known.
    UnknownPaths,
}

impl Builtin {
    /// All of them.
    pub const ALL: [Self; 15] = [
        Self::NodesProxy,
        Self::PodsProxy,
        Self::ServicesProxy,
        Self::ApiserverPortforward,
        Self::ApiserverEndpoints,
        Self::TokenRequest,
        Self::TokenSecrets,
        Self::CertificateRequests,
        Self::PicketObjects,
        Self::PicketAdmission,
        Self::ApiserverConfiguration,
        Self::PicketNamespace,
        Self::AgentLabels,
        Self::AgentPods,
        Self::UnknownPaths,
    ];

    /// Its stable name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::NodesProxy => "builtin/nodes-proxy",
            Self::PodsProxy => "builtin/pods-proxy",
            Self::ServicesProxy => "builtin/services-proxy",
            Self::ApiserverPortforward => "builtin/apiserver-portforward",
            Self::ApiserverEndpoints => "builtin/apiserver-endpoints",
            Self::TokenRequest => "builtin/token-request",
            Self::TokenSecrets => "builtin/token-secrets",
            Self::CertificateRequests => "builtin/certificate-requests",
            Self::PicketObjects => "builtin/picket-objects",
            Self::PicketAdmission => "builtin/picket-admission",
            Self::ApiserverConfiguration => "builtin/apiserver-configuration",
            Self::PicketNamespace => "builtin/picket-namespace",
            Self::AgentLabels => "builtin/agent-labels",
            Self::AgentPods => "builtin/agent-pods",
            Self::UnknownPaths => "builtin/unknown-paths",
        }
    }

    /// The built-in of that name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|builtin| builtin.name() == name)
    }
}
