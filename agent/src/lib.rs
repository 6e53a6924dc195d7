//! Picket's agent as a library, so that the binary and the tests compose the same parts.
//!
//! In: redirected connections of enforced pods, the node's pods and cgroups, and the objects that people write. Out: requests to
//! the API server that policy permits, refusals, audit records, and the kernel programs' state.
//!
//! # Code map
//!
//! The tables name the modules that each module imports. `cargo xtask check` compares the last column with the sources and
//! refuses a circle.
//!
//! The way of a request, in its order:
//!
//! | module | holds | imports |
//! |---|---|---|
//! | [`listener`] | the end of a redirected connection in the pod's network namespace; attributes each connection to a pod and a process (attribute.rs) | `kernel`, `metrics`, `workload` |
//! | [`tls`] | the server side of TLS that pods see, and what pods trust | `metrics`, `pki` |
//! | [`pipeline`] | the stages from a connection to its last answer | `approval`, `audit`, `denied`, `identity`, `limits`, `listener`, `metrics`, `notify`, `pki`, `reject`, `runtime`, `session`, `store`, `tls`, `upstream`, `workload` |
//! | [`identity`] | from the evidence of a connection to a principal: schemes, a file each in attest/, and what they agree on; the person for whom an agent asks (person.rs); one workload at a time (exclusive.rs); claims of a client's that are refused (claim.rs); tokens of configured issuers: signatures in jwt/, claims in `picket-policy`'s jwt/judge.rs | `listener`, `metrics`, `pki`, `runtime`, `workload` |
//! | [`limits`] | what an identity may ask of the node: requests a second, requests at once, and the same refused request | `audit`, `metrics` |
//! | [`approval`] | an ask, held until a person decides | - |
//! | [`upstream`] | connections to the API server, the credential, and the headers that are stripped (headers/) | `identity`, `pki`, `runtime` |
//! | [`session`] | watches, log follows and upgraded streams while they run: listed and killed (registry.rs), judged again (rejudge.rs) | `audit`, `metrics`, `reject`, `runtime`, `upstream`, `workload` |
//! | [`reject`] | the status of each denial, as the client reads it; the policy engine (explain.rs, builtin.rs) and `identity` word theirs | `approval`, `audit`, `identity`, `limits`, `upstream` |
//! | [`audit`] | the audit log: records, the hash chain, the spool, and the sinks that copy it (sinks/mod.rs says how to add one) | `metrics`, `runtime` |
//!
//! The node:
//!
//! | module | holds | imports |
//! |---|---|---|
//! | [`kernel`] | the eBPF programs, their maps and pins, `doctor`'s trials | `metrics`, `runtime` |
//! | [`cluster`] | the client of the Kubernetes API, and list-and-watch, which asks in protobuf (protobuf.rs) | `pki`, `runtime` |
//! | [`endpoints`] | which addresses are protected endpoints, kept current | `cluster` |
//! | [`workload`] | the pods on this node, their cgroups, and how each is classified | `cluster`, `endpoints`, `kernel`, `metrics`, `notify`, `runtime` |
//! | `enforce` | classifications and protected endpoints put in force in the kernel and kept so | `audit`, `endpoints`, `kernel`, `listener`, `metrics`, `notify`, `runtime`, `upgrade`, `workload` |
//! | `upgrade` | predecessor and successor: an upgrade of the agent without a refused connection | `admin`, `audit`, `kernel`, `listener`, `metrics`, `runtime`, `workload` |
//! | `denied` | connections that never became requests, as audit records | `audit`, `endpoints`, `enforce`, `kernel`, `listener`, `metrics`, `notify`, `runtime`, `workload` |
//! | `node_ca` | the node CA that Picket's controller signs, kept in the state folder and renewed | `cluster`, `metrics`, `notify`, `pki`, `runtime` |
//! | [`notify`] | Kubernetes Events | `cluster`, `metrics` |
//! | `node_status` | what the agent says of its node at the API server, for `picket status` | `cluster`, `metrics`, `runtime` |
//!
//! The process:
//!
//! | module | holds | imports |
//! |---|---|---|
//! | [`config`] | the node's configuration file | `admin`, `audit`, `cluster`, `endpoints`, `identity`, `kernel`, `pki`, `runtime`, `store` |
//! | [`store`] | identities, grants and policies from files and from the cluster, with a status for each object | `cluster`, `metrics`, `runtime` |
//! | [`pki`] | PEM files, the node's CA, leaf certificates, trust bundles for clients' certificates | - |
//! | [`metrics`] | the metrics registry, of the crate `picket-metrics` | - |
//! | `metrics_server` | metrics over TLS, for whom the API server lets read them | `cluster`, `metrics`, `reject`, `tls` |
//! | [`admin`] | the administrators' socket | `metrics`, `runtime`, `session`, `store` |
//! | [`runtime`] | logging, signals, the agent's phase, readiness, the data path's threads, drain | - |
//! | [`app`] | the composition root: makes the parts and joins them | `admin`, `audit`, `cluster`, `config`, `denied`, `endpoints`, `enforce`, `identity`, `kernel`, `limits`, `listener`, `metrics`, `metrics_server`, `node_ca`, `node_status`, `notify`, `pipeline`, `pki`, `runtime`, `session`, `store`, `tls`, `upgrade`, `upstream`, `workload` |
//! | [`cli`] | the commands of `picket` | `admin`, `app`, `audit`, `cluster`, `config`, `endpoints`, `identity`, `kernel`, `pki`, `runtime`, `session`, `store`, `workload` |
//!
//! Six more crates: `picket-policy` (agent/policy) reads requests and objects and decides, with a code map of its own;
//! `picket-controller` (agent/controller) is the cluster side, `picket controller`, with a code map of its own;
//! `picket-masking` (agent/masking) takes hidden items out of lists and watches; `picket-metrics` (agent/metrics) is the registry of
//! metrics, of agent and controller; `picket-common` (agent-common) holds what agent and kernel programs share; `picket-ebpf`
//! (agent-ebpf) holds the kernel programs.
//! The objects' types and JSON Schema are in agent/policy/src/api; `cargo xtask generate` writes deploy/schemas and deploy/crds from them.
//!
//! # Invariants
//!
//! * A request reaches the API server as the consumed `Permit` that the policy engine gave for that very request.
//! * Every request has an audit record, written by a guard's `Drop`; writes are on disk before they take effect.
//!   Where a loop repeats a refused request, one record stands for the further ones and counts them ([`limits`]).
//!   A request that waits for its pod's turn gets its record with the turn, so one whose client leaves first has none.
//! * What is unknown is denied: a connection without a pod, a request that cannot be read, and a pod that is not classified
//!   (unless the operator chose `failOpen`).
//! * Only [`kernel`] has `unsafe` code.
//! * The policy engine (`picket-policy`) does no I/O and reads no clock.

pub mod cluster;

pub mod endpoints;

pub mod pki;

pub mod workload;

mod node_ca;

mod node_status;

pub mod notify;

pub mod metrics;

pub mod kernel;

pub mod listener;

mod upgrade;

mod enforce;

pub mod tls;

pub mod store;

pub mod identity;

pub mod limits;

pub mod approval;

pub mod upstream;

pub mod audit;

mod denied;

pub mod reject;

pub mod session;

pub mod pipeline;

pub mod runtime;

mod metrics_server;

pub mod admin;

pub mod config;

pub mod app;

pub mod cli;
