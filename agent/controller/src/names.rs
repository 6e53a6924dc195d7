//! The names by which the controller, the agents and the commands meet in the cluster.
//!
//! In: nothing. Out: labels, names of objects and of the signer. The chart and deploy/ have the same names in YAML, and the tests of
//! the chart compare both.

/// The label of pods and namespaces that go through Picket; its value is `true`.
pub const ENROLLED: &str = "picket.dev/enrolled";

/// The label of nodes with a ready agent, and its value.
pub const AGENT_LABEL: &str = "picket.dev/agent";
/// The one value of [`AGENT_LABEL`].
pub const AGENT_READY: &str = "ready";

/// The labels that the chart gives the agents' DaemonSet and its pods, as a selector.
pub const AGENTS: &str = "app.kubernetes.io/name=picket,app.kubernetes.io/component=agent";

/// Likewise of the controller's Deployment and its pods.
pub const CONTROLLER: &str = "app.kubernetes.io/name=picket,app.kubernetes.io/component=controller";

/// The signer that the controller is.
pub const SIGNER: &str = "picket.dev/node-ca";

/// The ConfigMap with what enrolled pods trust, in each namespace that needs it.
pub const BUNDLE: &str = "picket-ca.crt";
/// The key of [`BUNDLE`].
pub const BUNDLE_KEY: &str = "ca.crt";

/// The Secret of the roots.
pub const ROOT_SECRET: &str = "picket-root-ca";

/// On that Secret, with any value: make another root now. The controller takes it off again.
pub const ROTATE: &str = "picket.dev/rotate";

/// The Lease of the replica that works.
pub const LEASE: &str = "picket-controller";

/// Who writes, as managedFields name it.
pub const FIELD_MANAGER: &str = "picket-controller";

/// The labels of what the controller makes. An object of a known name that lacks one is somebody else's.
pub const OWN_LABELS: [(&str, &str); 2] = [
    ("app.kubernetes.io/name", "picket"),
    ("app.kubernetes.io/managed-by", FIELD_MANAGER),
];

/// The common name of a node's CA.
#[must_use]
pub fn node_ca_subject(node: &str) -> String {
    format!("picket node CA {node}")
}
