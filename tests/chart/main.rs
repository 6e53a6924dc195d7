//! The Helm chart: its values, what it renders, and the agents that it installs on a real cluster.
//!
//! In: Go, which builds Helm; a built `picket`; root, and what `cargo xtask setup` installs. Out: a line per test and a last one with
//! the counts, as cargo's own harness prints them. The tests that install share a cluster, which the first of them brings up. Those of
//! `life`, `restore` and `trust` come last and share another one, with two nodes.

// A test that no list names is never called.
#![deny(dead_code)]

mod address;
mod controller;
mod guards;
mod helm;
mod installed;
mod lab;
mod life;
mod manifests;
mod monitoring;
mod node_bound;
mod rendered;
mod restore;
mod rights;
mod trust;
mod uninstall;
mod values;
mod versions;
mod watched;
mod webhook;
mod world;

use std::process::ExitCode;

use picket_tests::harness;

use world::World;

/// A test's name and what it does.
type Test = harness::Test<World>;

fn main() -> ExitCode {
    harness::run::<World>(picket_tests::modules! {
        values, rendered, monitoring, manifests, address, guards, controller, node_bound, webhook, installed, versions, rights, uninstall, life, restore, trust,
    })
}
