//! Building the `picket` binary, once, with the features that the tests' build uses too.
//!
//! In: a [`Profile`], and other programs to build beside it. Out: the path of the binary, or of its folder.

use std::path::PathBuf;

use anyhow::Result;

use crate::sh;

/// Which build of the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Profile {
    /// Quick to build; for the demo and the tests.
    Dev,
    /// As shipped; for measurements.
    Release,
}

/// Every package but the kernel programs, which exist for another target. Always building the same set keeps the features of
/// shared dependencies the same, so that none is compiled twice.
pub(crate) const WORKSPACE: [&str; 3] = ["--workspace", "--exclude", "picket-ebpf"];

/// Builds `picket` and returns its path.
pub(crate) fn build(profile: Profile) -> Result<PathBuf> {
    build_beside(profile, &[]).map(|folder| folder.join("picket"))
}

/// Builds `picket` and these other programs, and returns the folder with them.
pub(crate) fn build_beside(profile: Profile, programs: &[&str]) -> Result<PathBuf> {
    let mut cargo = sh::cargo(&["build"]);
    cargo.args(WORKSPACE).args(["--bin", "picket"]);
    for program in programs {
        cargo.args(["--bin", program]);
    }
    let folder = match profile {
        Profile::Dev => "debug",
        Profile::Release => {
            cargo.arg("--release");
            "release"
        }
    };
    sh::run(&mut cargo)?;
    Ok(sh::target().join(folder))
}
