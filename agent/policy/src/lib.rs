//! Canonical Kubernetes requests and the decisions on them.
//!
//! In: an HTTP request's head, and the text of identity, grant and policy files. Out: a [`Permit`], an [`Ask`] or a
//! [`Denial`]. Pure: no I/O, no clock, no runtime. Callers pass the time where it matters.
//!
//! # Code map
//!
//! The table names the modules that each module imports. `cargo xtask check` compares the last column with the sources and
//! refuses a circle.
//!
//! | module | holds | imports |
//! |---|---|---|
//! | [`request`] | the canonical reading of an HTTP request | `body`, `kubernetes` |
//! | [`token`] | what a service account token says of itself, unverified | - |
//! | `upstream_user` | as whom the API server is asked | `api` |
//! | [`person`] | a person for whom an agent asks, from a verified token | `jwt`, `upstream_user` |
//! | [`identity`] | an agent that may act now: the principal of a request | `api`, `person` |
//! | [`engine`] | all objects compiled for decisions, what a decision needs, and what it comes to | `api`, `cel`, `glob`, `identity`, `jwt`, `kubernetes`, `person`, `request`, `upstream_user`, `yaml` |
//! | [`testing`] | tests of policies: AgentPolicyTest files, command lines of kubectl as requests (kubectl/), and what each case comes to | `api`, `body`, `decision`, `engine`, `identity`, `kubernetes`, `person`, `request`, `yaml` |
//! | [`decision`] | permits, asks and denials; nothing else makes one | `engine`, `identity`, `request`, `upstream_user` |
//! | [`api`] | the objects that people write, their JSON Schema (schema.rs) and their CRDs (crd.rs) | `cel`, `glob`, `kubernetes`, `spiffe`, `yaml` |
//! | [`jwt`] | JWT issuers, and what their verified tokens say | `cel`, `kubernetes`, `token`, `yaml` |
//! | [`cel`] | expressions that people write, compiled with limits: check.rs and cost.rs, then those of rules in rules/, whose functions are in library/; both read values by runtime/ | - |
//! | [`body`] | a request's body as the one value that every reader finds in it; the API server's answers in protobuf (protobuf/answers.rs) | - |
//! | [`yaml`] | YAML whose every value knows its file, line and column | - |
//! | `kubernetes` | the verbs and resources of Kubernetes | - |
//! | [`spiffe`] | SPIFFE IDs: the names in client certificates | - |
//! | `glob` | globs with `*` and `?` | - |

pub mod api;
pub mod body;
pub mod cel;
pub mod decision;
pub mod engine;
mod glob;
pub mod identity;
pub mod jwt;
mod kubernetes;
pub mod person;
pub mod request;
pub mod spiffe;
pub mod testing;
pub mod token;
mod upstream_user;
pub mod yaml;

pub use api::v1alpha1::{AgentGrant, AgentIdentity, AgentPolicy};
pub use api::{Document, read_documents};
pub use decision::{Approval, ApprovalMismatch, Ask, Decision, Denial, Permit, Recheck};
pub use engine::{
    Absence, Cause, Caution, CautionCause, Claims, ClusterObject, DecisionTrace, EffectiveLimits, Field,
    FiredRule, Grant, GrantHours, GrantState, GrantUse, INVALID_POLICY, INVALID_POLICY_PATHS, Inputs,
    ItemFilter, Limit, LimitSet, Mismatch, NamespaceFacts, NamespaceUse, Namespaces, Needs, ObjectSource,
    ObjectVerdict, OldObjectUse, People, PodClaim, PolicyCounts, PolicySet, Rate, TraceOutcome, TracePart,
    TraceStep, UnknownNamespace, builtin, narrow, uses,
};
pub use identity::{Identity, Principal, PrincipalOrigin, Standing};
pub use kubernetes::DEFAULT_NAMESPACE;
pub use person::{Person, PersonError};
pub use request::{
    BODY_LIMIT, BindError, BodyInput, BoundBody, CanonicalRequest, Exec, KubeRequest, LongTarget, MAX_HEAD,
    MODIFIED, OldObject, ReadError, RequestObject, Target, Verb,
};
pub use spiffe::SpiffeId;
pub use token::TokenClaims;
pub use upstream_user::{Impersonate, ServiceAccount, UpstreamUser, service_account};
pub use yaml::Diagnostic;
