//! The first whole way: clients in real pods, the redirect, Picket, a real API server.
//!
//! What comes in: a built `picket`, root, and what `cargo xtask setup` installs. What goes out: a line per test and a last
//! one with the counts, as cargo's own harness prints them. All suites share one cluster, brought up by the first test that
//! runs and taken down after the last, whatever became of them; tests run one after another, since some take the agent away.

mod audit;
mod cli;
mod clients;
mod denial;
mod files;
mod flows;
mod identity;
mod life;
mod nodes;
mod output;
mod running;
mod streams;
mod token;
mod world;

use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

use libtest_mimic::{Arguments, Failed, Trial};

use world::World;

/// A test's name and what it does.
type Test = (&'static str, fn(&mut World) -> anyhow::Result<()>);

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    let shared = Arc::new(Mutex::new(Shared::Untouched));
    let suites: [(&str, &[Test]); 10] = [
        ("clients", clients::TESTS),
        ("denial", denial::TESTS),
        ("token", token::TESTS),
        ("identity", identity::TESTS),
        ("flows", flows::TESTS),
        ("streams", streams::TESTS),
        ("cli", cli::TESTS),
        ("nodes", nodes::TESTS),
        ("files", files::TESTS),
        // Last: what it does to the agent would show in the others if it went wrong.
        ("life", life::TESTS),
    ];
    let mut trials = Vec::new();
    for (suite, tests) in suites {
        for &(name, test) in tests {
            let shared = Arc::clone(&shared);
            trials.push(Trial::test(format!("{suite}::{name}"), move || {
                run(&shared, test)
            }));
        }
    }
    let conclusion = libtest_mimic::run(&arguments, trials);
    let world = std::mem::replace(
        &mut *shared.lock().unwrap_or_else(PoisonError::into_inner),
        Shared::Untouched,
    );
    if let Shared::Up(world) = world
        && let Err(error) = world.down()
    {
        eprintln!("the cluster is not down: {error:#}; try `cargo xtask clean`");
        return ExitCode::FAILURE;
    }
    conclusion.exit_code()
}

/// The world all tests share.
enum Shared {
    Untouched,
    Up(Box<World>),
    /// It could not be brought up; trying again for each test would take long and say the same.
    Failed(String),
}

fn run(shared: &Mutex<Shared>, test: fn(&mut World) -> anyhow::Result<()>) -> Result<(), Failed> {
    let mut shared = shared.lock().unwrap_or_else(PoisonError::into_inner);
    if let Shared::Untouched = *shared {
        *shared = match World::up() {
            Ok(world) => Shared::Up(Box::new(world)),
            Err(error) => Shared::Failed(format!("{error:#}")),
        };
    }
    match &mut *shared {
        Shared::Up(world) => test(world).map_err(|error| Failed::from(format!("{error:#}\n{}", world.say()))),
        Shared::Failed(why) => Err(Failed::from(why.as_str())),
        Shared::Untouched => Err(Failed::from("no cluster")),
    }
}
