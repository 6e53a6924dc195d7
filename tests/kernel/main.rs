//! No way around: what pods try, by every kind of socket and every name of a door, and what of it arrives.
//!
//! What comes in: a built `picket`, root, and what `cargo xtask setup` installs. What goes out: a line per test and a last
//! one with the counts. All suites share one cluster. Each counter-measure is shown to be what holds: with it off, the same
//! attack arrives.

mod away;
mod dial;
mod doors;
mod first;
mod foreign;
mod forged;
mod guards;
mod handed;
mod life;
mod metrics;
mod names;
mod pods;
mod sockets;
mod statics;
mod takeover;
mod target;
mod told;
mod traffic;
mod world;

use std::process::ExitCode;

use picket_tests::harness;

use world::World;

/// A test's name and what it does.
type Test = harness::Test<World>;

fn main() -> ExitCode {
    harness::run::<World>(&[
        ("sockets", sockets::TESTS),
        ("handed", handed::TESTS),
        ("names", names::TESTS),
        ("forged", forged::TESTS),
        ("first", first::TESTS),
        ("doors", doors::TESTS),
        ("pods", pods::TESTS),
        ("statics", statics::TESTS),
        ("told", told::TESTS),
        ("metrics", metrics::TESTS),
        // Last: what they do to the agent would show in the others if it went wrong.
        ("away", away::TESTS),
        ("foreign", foreign::TESTS),
        ("takeover", takeover::TESTS),
        ("life", life::TESTS),
    ])
}
