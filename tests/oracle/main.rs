//! Picket beside the API server's own code: the same roles and the same requests, read and judged by both.
//!
//! In: Go, which builds `tests/rbac-oracle` and `tests/protobuf-oracle`. Out: a line per test, as cargo's own harness prints them. No
//! cluster and no root.

// A test that no list names is never called.
#![deny(dead_code)]

mod judge;
mod protobuf;
mod random;
mod rbac;
mod request_info;
mod requests;
mod roles;
mod tally;
mod vocabulary;
mod yaml;

use std::process::ExitCode;

use libtest_mimic::{Arguments, Failed, Trial};

/// A test's name and what it does.
type Test = (&'static str, fn() -> anyhow::Result<()>);

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let modules: &[(&str, &[Test])] = picket_tests::modules! { rbac, request_info, protobuf, yaml };
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
