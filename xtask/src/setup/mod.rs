//! `cargo xtask setup`: what Picket needs on a Debian 12 machine that has Rust, Go and root.
//!
//! In: the machine as it is. Out: the same machine with what was missing installed, each step named and timed. Otherwise an
//! error names what is missing and what to do about it.
//!
//! What is there is left alone, so that a second run takes well under a second; `demo`, `test` and `bench` start with one.

mod apt;
mod machine;
mod node;
mod rust;

use std::time::Instant;

use anyhow::Result;

/// For people who ask for it: says so when there was nothing to do.
pub(crate) fn run() -> Result<()> {
    let start = Instant::now();
    let changed = apply()?;
    let verdict = if changed {
        "everything that was missing is installed"
    } else {
        "nothing was missing"
    };
    println!("setup: {verdict} ({:.1} s)", start.elapsed().as_secs_f64());
    Ok(())
}

/// For the other commands: silent when there is nothing to do.
pub(crate) fn ensure() -> Result<()> {
    apply().map(|_| ())
}

/// Checks, then the steps in the order in which they need each other. Returns whether anything was changed.
fn apply() -> Result<bool> {
    machine::check()?;
    let toolchain = rust::Toolchain::find()?;
    let mut changed = apt::install_missing()?;
    changed |= rust::components(&toolchain)?;
    changed |= rust::source(&toolchain)?;
    changed |= rust::bpf_linker()?;
    changed |= node::install_missing()?;
    Ok(changed)
}
