//! Helm, as an operator runs it.
//!
//! In: Go, which builds Helm from its module. Out: commands of Helm with a home of their own.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Result, bail};
use tempfile::TempDir;

use crate::build::GoProgram;

/// The chart.
pub const CHART: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/charts/picket");

/// Where it is installed.
pub const NAMESPACE: &str = "picket-system";

/// The program, and a home of its own.
#[derive(Debug)]
pub struct Helm {
    program: PathBuf,
    home: TempDir,
}

impl Helm {
    /// Helm, built now if it is not.
    ///
    /// # Errors
    /// It cannot be built.
    pub fn new() -> Result<Self> {
        Ok(Self {
            program: GoProgram::Helm.path()?,
            home: tempfile::tempdir()?,
        })
    }

    /// The program.
    #[must_use]
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// A Helm that is ready to run.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(arguments).env_clear().env("HOME", self.home.path());
        command
    }

    /// A file for Helm to read.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn file(&self, name: &str, text: &str) -> Result<PathBuf> {
        let file = self.home.path().join(name);
        std::fs::write(&file, text)?;
        Ok(file)
    }
}

/// What a program printed.
///
/// # Errors
/// It failed; the error holds what it said.
pub fn said(done: Output) -> Result<String> {
    if !done.status.success() {
        bail!("{}", String::from_utf8_lossy(&done.stderr).trim());
    }
    Ok(String::from_utf8(done.stdout)?)
}
