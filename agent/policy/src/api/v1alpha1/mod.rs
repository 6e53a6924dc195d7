//! Version `v1alpha1` of the objects: the one source that files are read from and that JSON Schema is generated from.
//!
//! In: documents, by serde. Out: [`AgentIdentity`], [`AgentGrant`] and [`AgentPolicy`], and the schema of each; and
//! [`PicketNodeStatus`], which agents write of themselves.
//!
//! The schema holds a type's fields, which of them are required, and their defaults, words and lengths. What a schema cannot
//! express is in the type's [`Spec::validate`].

mod agent_grant;
mod agent_identity;
mod agent_policy;
mod builtin_name;
mod expressions;
mod grant_upstream;
mod grant_window;
mod label_selector;
mod limits;
mod object;
mod on_behalf_of;
mod picket_node;
mod policy_rule;
mod rule_match;
mod status;

pub use agent_grant::{AgentGrantSpec, GrantTo};
pub use agent_identity::{AgentIdentitySpec, Attest, JwtAttest, PodAttest, SpiffeAttest, State, WhenOverdue};
pub use agent_policy::{Action, AgentPolicySpec, Mode, Rule, Subjects};
pub use builtin_name::Builtin;
pub(crate) use expressions::composition;
pub use expressions::{FailurePolicy, ROOTS, Variable};
pub use grant_upstream::{GrantUpstream, ImpersonatedUser, UpstreamServiceAccount};
pub(crate) use grant_window::{ClockTime, zone_data};
pub use grant_window::{DailyWindow, Day, GrantWindow};
pub use label_selector::{LabelOperator, LabelRequirement, LabelSelector};
pub use limits::Limits;
pub use object::{ApiVersion, CelRule, KindName, Object, ObjectMeta, Spec};
pub use on_behalf_of::OnBehalfOf;
pub use picket_node::{
    MAX_UNCOVERED_PODS, NodeAudit, NodeCertificates, NodeFault, NodeKernel, NodePhase, NodePods, NodePolicy,
    PICKET_NODE_KIND, PICKET_NODE_PLURAL, PicketNodeStatus, UncoveredPod, UncoveredReason,
};
pub(crate) use policy_rule::STORED_SUBRESOURCES;
pub use policy_rule::{DryRun, PolicyRule};
pub use rule_match::Match;
pub use status::{
    ConditionStatus, GrantStatus, IdentityNode, IdentityStatus, MAX_NODE_NAMES, MAX_NODES, ObjectCondition,
    PolicyStatus,
};

/// Who an agent is.
pub type AgentIdentity = Object<AgentIdentitySpec>;
/// What agents may do, and as whom.
pub type AgentGrant = Object<AgentGrantSpec>;
/// What agents must not do.
pub type AgentPolicy = Object<AgentPolicySpec>;
