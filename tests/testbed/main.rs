//! The testbed of the other suites: the cluster and simulated pods work, and nothing of either is left.
//!
//! In: root, and what `cargo xtask setup` installs. Out: a line per test, as cargo's own harness prints them. Tests run one
//! after another, since they look at what is on the whole machine.

// A test that no list names is never called.
#![deny(dead_code)]

mod cluster;
mod sim;
mod trace;

use std::process::ExitCode;

use libtest_mimic::{Arguments, Failed, Trial};

/// A test's name and what it does.
type Test = (&'static str, fn() -> anyhow::Result<()>);

fn main() -> ExitCode {
    // Started by a test of this same program, to be killed while it owns something.
    if std::env::var_os(trace::VICTIM).is_some() {
        return trace::victim();
    }
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    let modules: &[(&str, &[Test])] = picket_tests::modules! { sim, cluster };
    let mut trials = Vec::new();
    for (module, tests) in modules {
        for &(name, test) in *tests {
            trials.push(Trial::test(format!("{module}::{name}"), move || {
                test().map_err(|error| Failed::from(format!("{error:#}")))
            }));
        }
    }
    libtest_mimic::run(&arguments, trials).exit_code()
}
