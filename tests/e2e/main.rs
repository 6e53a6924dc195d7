//! A request end to end: clients in real pods, the redirect, Picket, a real API server.
//!
//! In: a built `picket`, root, and what `cargo xtask setup` installs. Out: a line per test and a last one with the counts, as
//! cargo's own harness prints them. All tests share one cluster, brought up by the first test that runs and taken down after
//! the last, whatever became of them; tests run one after another, since some take the agent away.

// A test that no list names is never called.
#![deny(dead_code)]

mod action;
mod claims;
mod cli;
mod clients;
mod cluster_objects;
mod conditions;
mod crds;
mod denial;
mod doctor;
mod drain;
mod escalation;
mod examples;
mod exclusive;
mod fairness;
mod files;
mod filter;
mod flows;
mod gateway;
mod gateway_socket;
mod identity;
mod issuers;
mod leaks;
mod life;
mod life_cycle;
mod limits;
mod lines;
mod mcp;
mod metrics_port;
mod namespaces;
mod node_ca;
mod nodes;
mod old_object;
mod on_behalf_of;
mod outages;
mod parity;
mod pods;
mod port_reuse;
mod rbac;
mod records;
mod reports;
#[path = "../../agent/policy/src/api/schema_cases.rs"]
mod schema_cases;
mod sessions;
mod spellings;
mod status;
mod statuses;
mod streams;
mod token;
mod world;

use std::process::ExitCode;

use picket_tests::harness;

use world::World;

/// A test's name and what it does.
type Test = harness::Test<World>;

fn main() -> ExitCode {
    harness::run::<World>(picket_tests::modules! {
        clients,
        parity,
        denial,
        escalation,
        examples,
        fairness,
        filter,
        limits,
        token,
        identity,
        exclusive,
        claims,
        mcp,
        flows,
        streams,
        sessions,
        life_cycle,
        rbac,
        cli,
        doctor,
        metrics_port,
        records,
        leaks,
        reports,
        nodes,
        crds,
        cluster_objects,
        conditions,
        namespaces,
        old_object,
        spellings,
        statuses,
        status,
        pods,
        outages,
        files,
        port_reuse,
        gateway,
        gateway_socket,
        issuers,
        node_ca,
        on_behalf_of,
        drain,
        // Last: what it does to the agent would show in the others if it went wrong.
        life,
    })
}
