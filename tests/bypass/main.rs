//! Attempts to bypass Picket: pods try every kind of socket and every form of a protected endpoint's address.
//!
//! What comes in: a built `picket`, root, and what `cargo xtask setup` installs. What goes out: a line per test and a last
//! one with the counts. All suites share one cluster. Each counter-measure is shown to be what holds: with it off, the same
//! attack arrives.

mod agent_down;
mod dial;
mod foreign;
mod guards;
mod kube_events;
mod life;
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
mod upgrade;
mod world;

use std::process::ExitCode;

use picket_tests::harness;

use world::World;

/// A test's name and what it does.
type Test = harness::Test<World>;

fn main() -> ExitCode {
    harness::run::<World>(&[
        ("sockets", sockets::TESTS),
        ("socket_passing", socket_passing::TESTS),
        ("names", names::TESTS),
        ("packet_evasion", packet_evasion::TESTS),
        ("startup_race", startup_race::TESTS),
        ("protected_endpoints", protected_endpoints::TESTS),
        ("pods", pods::TESTS),
        ("static_pods", static_pods::TESTS),
        ("kube_events", kube_events::TESTS),
        ("metrics", metrics::TESTS),
        // Last: what they do to the agent would show in the others if it went wrong.
        ("agent_down", agent_down::TESTS),
        ("foreign", foreign::TESTS),
        ("upgrade", upgrade::TESTS),
        ("life", life::TESTS),
    ])
}
