//! The cluster side of Picket: the root CA, each node's CA, the bundles that pods trust, the nodes' labels, and admission where the
//! cluster has no policies for it. `picket controller` runs it.
//!
//! In: the Kubernetes API, and [`ControllerSettings`]. Out: Secrets, certificates, ConfigMaps, labels and Events in the cluster. The
//! crate knows nothing of the kernel or of connections, and does not depend on the agent.
//!
//! # Code map
//!
//! `cargo xtask check` compares the last column with the sources and refuses a circle.
//!
//! | module | holds | imports |
//! |---|---|---|
//! | [`ec_key`] | EC private keys in their older form | - |
//! | [`names`] | the names by which controller, agents and commands meet in the cluster | - |
//! | [`lenient`] | objects of the API server, read without what can make them unreadable; the agent reads so too | - |
//! | [`ended_watch`] | watches that end before their first event fail; the agent's too | - |
//! | [`utf8`] | the client's answers in UTF-8; the agent has them so too | - |
//! | [`x509`] | what both read of certificates | - |
//! | [`faults`] | errors of the API's client, in words without a credential; the agent has them too | - |
//! | [`relist`] | the pauses before lists that follow an unread event; the agent's too | - |
//! | `authority` | a CA: made, read, and used to sign | `ec_key`, `names`, `x509` |
//! | `connections` | how many connections a port takes, and from one address | - |
//! | `http` | answers short questions on a port of the pod | `connections` |
//! | `rotation` | when a root is replaced: pure | `authority` |
//! | `roots` | the roots that are kept, and the bundle of them: pure | `authority`, `rotation` |
//! | `kubernetes` | what the parts share in their talk with the API server | `faults`, `lenient`, `names`, `relist` |
//! | `request` | judges a request for a node CA: pure | `authority`, `names` |
//! | `metrics` | the metrics of all parts, and their port | `authority`, `http`, `request`, `rotation` |
//! | `root` | the Secret of the roots, read and written | `authority`, `kubernetes`, `lenient`, `metrics`, `names`, `roots`, `rotation` |
//! | `signer` | answers requests for node CAs | `authority`, `kubernetes`, `lenient`, `metrics`, `names`, `relist`, `request`, `root` |
//! | `bundles` | the ConfigMaps with the bundle | `health`, `kubernetes`, `lenient`, `metrics`, `names`, `root` |
//! | `nodes` | the label of nodes with a ready agent | `kubernetes`, `lenient`, `metrics`, `names` |
//! | `health` | the kubelet's probes | `http` |
//! | `admission` | the webhooks, their certificate and what the API server trusts | `authority`, `connections`, `health`, `kubernetes`, `lenient`, `metrics`, `names`, `root` |
//! | `lease` | which replica works | `health`, `kubernetes`, `lenient`, `metrics`, `names` |
//! | `run` | the composition root | `admission`, `authority`, `bundles`, `ended_watch`, `health`, `kubernetes`, `lease`, `lenient`, `metrics`, `nodes`, `root`, `signer`, `utf8` |

pub mod ec_key;

pub mod names;

pub mod ended_watch;

pub mod lenient;

pub mod relist;

pub mod utf8;

pub mod x509;

pub mod faults;

mod authority;

mod rotation;

mod roots;

mod kubernetes;

mod http;

mod connections;

mod request;

mod metrics;

mod root;

mod signer;

mod bundles;

mod nodes;

mod health;

mod admission;

mod lease;

mod run;

#[cfg(test)]
mod testing;

pub use authority::{NotAName, PermittedNames};
pub use metrics::ControllerMetrics;
pub use root::RootSource;
pub use run::{ControllerError, ControllerSettings, run};
