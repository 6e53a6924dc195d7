//! The objects that a command is about, and how it prints them: shared by `picket identity` and `picket grant`.
//!
//! In: `--files`, or the configuration whose `objects` are meant. Out: [`ObjectFiles`], lists of objects for people and for
//! programs, and word of when a change is in force on this node.
//!
//! | file | holds |
//! |---|---|
//! | `moment` | moments as people write them: a date, or a time from now |
//! | `print` | objects as a table, JSON, YAML or names |
//! | `wait` | when a change is in force on this node |

pub(super) mod moment;
pub(super) mod print;
pub(super) mod wait;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;

use super::sessions::block_on;
use crate::config;
use crate::store::edit::ObjectFiles;
use wait::InForce;

/// Which objects a command is about.
#[derive(Debug, Args)]
pub(in crate::cli) struct Target {
    /// Files, or folders whose .yaml and .yml files are read. Default: those that `objects` names in the configuration.
    #[arg(short, long, value_name = "PATH")]
    files: Vec<PathBuf>,
    /// The node's configuration file. Default: /etc/picket/agent.yaml where that file exists.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl Target {
    /// Reads the objects.
    ///
    /// # Errors
    /// Where it is not known which are meant, or they cannot be read, or are not valid.
    pub(in crate::cli) fn read(&self) -> anyhow::Result<ObjectFiles> {
        if !self.files.is_empty() {
            return Ok(ObjectFiles::read(&self.files)?);
        }
        let config = super::configuration(self.config.as_deref())?.with_context(|| {
            format!(
                "which objects are meant? There is no {}, so name files or folders with --files",
                config::DEFAULT_PATH
            )
        })?;
        Ok(ObjectFiles::read(&config.objects.files)?)
    }

    /// The socket of this node's agent, as far as the configuration tells.
    pub(in crate::cli) fn socket(&self) -> PathBuf {
        let config = super::configuration(self.config.as_deref()).ok().flatten();
        config.map(|config| config.admin).unwrap_or_default().socket
    }
}

/// What a command that changes objects is told besides.
#[derive(Debug, Args)]
pub(in crate::cli) struct ChangeArgs {
    /// Check and say what would be done, and write nothing.
    #[arg(long)]
    pub(in crate::cli) dry_run: bool,
    /// How long to wait for this node's agent to have the change in force, in seconds; 0 does not wait.
    #[arg(long, value_name = "SECONDS", default_value_t = 5, value_parser = clap::value_parser!(u8).range(0..=60))]
    pub(in crate::cli) wait: u8,
    #[command(flatten)]
    pub(in crate::cli) target: Target,
}

impl ChangeArgs {
    /// Adds an object that YAML says. A dry run prints it.
    ///
    /// # Errors
    /// Where it cannot be added.
    pub(in crate::cli) fn add(
        &self,
        kind: &str,
        name: &str,
        yaml: &str,
        in_force: InForce,
    ) -> anyhow::Result<()> {
        let file = self.target.read()?.add(kind, name, yaml, self.dry_run)?;
        if self.dry_run {
            print!("{yaml}");
            return Ok(());
        }
        self.done(kind, name, "created", &file, &in_force)
    }

    /// Sets text fields of an object; `done` is what became of it.
    ///
    /// # Errors
    /// Where they cannot be set.
    pub(in crate::cli) fn set(
        &self,
        kind: &str,
        name: &str,
        fields: &[(&[&str], &str)],
        done: &str,
        in_force: InForce,
    ) -> anyhow::Result<()> {
        let file = self.target.read()?.set_fields(kind, name, fields, self.dry_run)?;
        self.done(kind, name, done, &file, &in_force)
    }

    /// Takes an object out.
    ///
    /// # Errors
    /// Where it cannot be taken out.
    pub(in crate::cli) fn remove(&self, kind: &str, name: &str, in_force: InForce) -> anyhow::Result<()> {
        let file = self.target.read()?.remove(kind, name, self.dry_run)?;
        self.done(kind, name, "deleted", &file, &in_force)
    }

    /// Says what was done, as kubectl does, and when it is in force here.
    fn done(
        &self,
        kind: &str,
        name: &str,
        done: &str,
        file: &Path,
        in_force: &InForce,
    ) -> anyhow::Result<()> {
        let reference = print::reference(kind, name);
        if self.dry_run {
            println!("{reference} {done} in {} (dry run)", file.display());
            return Ok(());
        }
        println!("{reference} {done} in {}", file.display());
        if self.wait > 0 {
            let limit = Duration::from_secs(self.wait.into());
            let waited = block_on(wait::wait(&self.target.socket(), file, limit, in_force))?;
            println!("{}", waited.sentence());
        }
        Ok(())
    }
}
