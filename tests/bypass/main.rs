//! Attempts to bypass Picket: pods try every kind of socket and every form of a protected endpoint's address.
//!
//! In: a built `picket`, root, and what `cargo xtask setup` installs. Out: a line per test and a last one with the counts. All
//! tests share one cluster. Each counter-measure is shown to be what holds: with it off, the same attack arrives.

// A test that no list names is never called.
#![deny(dead_code)]

mod agent_down;
mod boot;
mod dial;
mod foreign;
mod guards;
mod kube_events;
mod life;
mod listener_port;
mod metrics;
mod names;
mod packet_evasion;
mod pods;
mod protected_endpoints;
mod socket_passing;
mod sockets;
mod startup_race;
mod static_pods;
mod target;
mod traffic;
mod unsendable_objects;
mod upgrade;
mod world;

use std::process::ExitCode;

use picket_tests::harness;

use world::World;

/// A test's name and what it does.
type Test = harness::Test<World>;

fn main() -> ExitCode {
    harness::run::<World>(picket_tests::modules! {
        sockets,
        socket_passing,
        names,
        packet_evasion,
        startup_race,
        protected_endpoints,
        unsendable_objects,
        pods,
        listener_port,
        static_pods,
        kube_events,
        metrics,
        // Last: what they do to the agent would show in the others if it went wrong.
        agent_down,
        boot,
        foreign,
        upgrade,
        life,
    })
}
