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

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, ValueEnum};
use serde_json::Value;

use super::sessions::block_on;
use crate::audit::DEFAULT_DIRECTORY;
use crate::config;
use crate::store::edit::ObjectFiles;
use wait::{InForce, Waited};

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

    /// The audit logs that were named, or else this node's.
    ///
    /// # Errors
    /// Where the configuration cannot be read.
    pub(in crate::cli) fn audit_logs(&self, named: &[PathBuf]) -> anyhow::Result<Vec<PathBuf>> {
        if !named.is_empty() {
            return Ok(named.to_vec());
        }
        let config = super::configuration(self.config.as_deref())?;
        Ok(vec![config.map_or_else(
            || DEFAULT_DIRECTORY.into(),
            |config| config.audit.directory,
        )])
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
    /// Print the object that was changed, in place of sentences; those go to standard error then.
    #[arg(short, long, value_enum)]
    output: Option<ChangeFormat>,
    #[command(flatten)]
    pub(in crate::cli) target: Target,
}

/// How to print an object that was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ChangeFormat {
    /// KIND.picket.dev/NAME.
    Name,
    /// A YAML document, as files have it.
    Yaml,
    /// A JSON document.
    Json,
}

/// What became of a change that a command made, or found made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cli) enum Changed {
    /// Whatever was asked for is done.
    Done,
    /// It is written, and no agent of this node is known to have it in force.
    Unconfirmed,
}

/// Beside clap's 2 for wrong usage, 1 says that nothing was written.
const UNCONFIRMED: u8 = 3;

impl From<Changed> for ExitCode {
    fn from(changed: Changed) -> ExitCode {
        match changed {
            Changed::Done => ExitCode::SUCCESS,
            Changed::Unconfirmed => ExitCode::from(UNCONFIRMED),
        }
    }
}

impl ChangeArgs {
    /// Adds an object. A dry run prints it.
    ///
    /// # Errors
    /// Where it cannot be added.
    pub(in crate::cli) fn add(
        &self,
        kind: &str,
        name: &str,
        object: &Value,
        in_force: InForce,
    ) -> anyhow::Result<Changed> {
        let yaml = print::new_yaml(object)?;
        let file = self.target.read()?.add(kind, name, &yaml, self.dry_run)?;
        if self.dry_run && self.output.is_none() {
            print!("{yaml}");
            return Ok(Changed::Done);
        }
        self.done(kind, name, "created", &file, object, &in_force)
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
    ) -> anyhow::Result<Changed> {
        let files = self.target.read()?;
        let mut object = print::object(files.find(kind, name)?);
        for (path, text) in fields {
            let field = path.iter().fold(&mut object, |at, name| &mut at[*name]);
            *field = Value::from(*text);
        }
        let file = files.set_fields(kind, name, fields, self.dry_run)?;
        self.done(kind, name, done, &file, &object, &in_force)
    }

    /// Takes an object out.
    ///
    /// # Errors
    /// Where it cannot be taken out.
    pub(in crate::cli) fn remove(
        &self,
        kind: &str,
        name: &str,
        in_force: InForce,
    ) -> anyhow::Result<Changed> {
        let files = self.target.read()?;
        let object = print::object(files.find(kind, name)?);
        let file = files.remove(kind, name, self.dry_run)?;
        self.done(kind, name, "deleted", &file, &object, &in_force)
    }

    /// Where an object is as it was to become: prints it, or says so.
    ///
    /// # Errors
    /// Where it is not there.
    pub(in crate::cli) fn is_so_already(
        &self,
        kind: &str,
        name: &str,
        says: &str,
    ) -> anyhow::Result<Changed> {
        let object = print::object(self.target.read()?.find(kind, name)?);
        self.say(&format!("{name} {says} already."));
        self.show(kind, name, &object)?;
        Ok(Changed::Done)
    }

    /// Says what was done, as kubectl does, and when it is in force here.
    fn done(
        &self,
        kind: &str,
        name: &str,
        done: &str,
        file: &Path,
        object: &Value,
        in_force: &InForce,
    ) -> anyhow::Result<Changed> {
        let reference = print::reference(kind, name);
        let dry = if self.dry_run { " (dry run)" } else { "" };
        self.say(&format!("{reference} {done} in {}{dry}", file.display()));
        self.show(kind, name, object)?;
        if self.dry_run || self.wait == 0 {
            return Ok(Changed::Done);
        }
        let limit = Duration::from_secs(self.wait.into());
        let waited = block_on(wait::wait(&self.target.socket(), file, limit, in_force))?;
        self.say(&waited.sentence());
        Ok(match waited {
            Waited::InForce(_) => Changed::Done,
            Waited::Refused(_) | Waited::Late | Waited::Elsewhere(_) => Changed::Unconfirmed,
        })
    }

    /// A sentence for people, on standard error where a program reads the other.
    fn say(&self, sentence: &str) {
        match self.output {
            None => println!("{sentence}"),
            Some(_) => eprintln!("{sentence}"),
        }
    }

    /// The object for programs.
    fn show(&self, kind: &str, name: &str, object: &Value) -> anyhow::Result<()> {
        let mut out = io::stdout().lock();
        match self.output {
            None => {}
            Some(ChangeFormat::Name) => writeln!(out, "{}", print::reference(kind, name))?,
            Some(ChangeFormat::Yaml) => out.write_all(print::new_yaml(object)?.as_bytes())?,
            Some(ChangeFormat::Json) => {
                serde_json::to_writer_pretty(&mut out, object)?;
                writeln!(out)?;
            }
        }
        Ok(out.flush()?)
    }
}
