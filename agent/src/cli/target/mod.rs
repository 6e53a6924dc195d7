//! The objects that a command is about, and how it prints them: shared by `picket identity` and `picket grant`.
//!
//! In: `--files`, `--cluster`, or the configuration whose `objects` are meant. Out: [`Objects`], lists of them for people and for
//! programs, and word of when a change is in force.
//!
//! | file | holds |
//! |---|---|
//! | `api` | objects that the cluster keeps: listed, changed, and when they are in force |
//! | `conditions` | what the cluster's agents say of an object |
//! | `chart` | whom the chart runs the agents as |
//! | `names` | names of objects in the cluster, for a shell that completes a line |
//! | `person` | how a command reaches the cluster where it is about nothing else |
//! | `moment` | moments as people write them: a date, or a time from now |
//! | `print` | objects as a table, JSON, YAML or names |
//! | `wait` | when a change is in force on this node |

mod api;
pub(super) mod chart;
pub(super) mod conditions;
pub(super) mod moment;
pub(super) mod names;
pub(super) mod person;
pub(super) mod print;
pub(super) mod wait;

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, ValueEnum};
use picket_policy::api::v1alpha1::IdentityNode;
use picket_policy::{Document, PolicySet};
use serde_json::{Value, json};

use super::output;
use super::plugin::Invocation;
use super::sessions::block_on;
use crate::audit::DEFAULT_DIRECTORY;
use crate::cluster::PersonalConfig;
use crate::config::{self, Config, ConfigError};
use crate::store::edit::{ObjectEditError, ObjectFiles};
use api::ApiObjects;
use wait::{InForce, Unsure, Waited};

/// Which objects a command is about.
#[derive(Debug, Args)]
pub(in crate::cli) struct Target {
    /// Files, or folders whose .yaml and .yml files are read. Default: those that `objects` names in the configuration.
    #[arg(short, long, value_name = "PATH")]
    files: Vec<PathBuf>,
    /// The objects that the cluster keeps. Default where the configuration has `objects: {cluster: true}`, and of `kubectl picket` where
    /// there is no configuration.
    #[arg(long, conflicts_with = "files")]
    cluster: bool,
    /// The kubeconfig for --cluster, which it implies. Default: as kubectl has it, then the pod's own account, then the node's.
    #[arg(long, value_name = "FILE", conflicts_with = "files")]
    kubeconfig: Option<PathBuf>,
    /// The kubeconfig's context for --cluster, which it implies. Default: the current one.
    #[arg(long, value_name = "NAME", conflicts_with = "files")]
    context: Option<String>,
    /// The node's configuration file. Default: /etc/picket/agent.yaml where that file exists.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// The objects of a [`Target`].
#[derive(Debug)]
pub(in crate::cli) enum Objects {
    /// In files.
    Files(Box<ObjectFiles>),
    /// In the cluster.
    Cluster(Box<ApiObjects>),
}

impl Objects {
    /// The objects.
    pub(in crate::cli) fn documents(&self) -> impl Iterator<Item = &Document> {
        let (files, cluster) = match self {
            Self::Files(files) => (Some(files.documents()), None),
            Self::Cluster(cluster) => (None, Some(cluster.documents())),
        };
        files.into_iter().flatten().chain(cluster.into_iter().flatten())
    }

    /// What the agent would make of them.
    pub(in crate::cli) fn set(&self) -> &PolicySet {
        match self {
            Self::Files(files) => files.set(),
            Self::Cluster(cluster) => cluster.set(),
        }
    }

    /// Namespace and name of the service account of the chart's agents, where it is installed in the cluster that these objects are in.
    ///
    /// # Errors
    /// Where the person may not know.
    pub(in crate::cli) fn chart_agents(&self) -> Result<Option<(String, String)>, person::AskError> {
        match self {
            Self::Files(_) => Ok(None),
            Self::Cluster(cluster) => cluster.chart_agents(),
        }
    }

    /// Who the API server says that the person is; nothing of files, and where it does not say.
    pub(in crate::cli) fn person(&self) -> Option<String> {
        match self {
            Self::Files(_) => None,
            Self::Cluster(cluster) => cluster.person(),
        }
    }

    /// What each node says of an AgentIdentity; `None` of one in files, which nobody writes into.
    pub(in crate::cli) fn nodes_of(&self, identity: &str) -> Option<&[IdentityNode]> {
        match self {
            Self::Files(_) => None,
            Self::Cluster(cluster) => Some(cluster.nodes_of(identity)),
        }
    }

    /// What the cluster's agents say that an AgentIdentity conflicts with.
    pub(in crate::cli) fn conflict_of(&self, identity: &str) -> Option<&str> {
        match self {
            Self::Files(_) => None,
            Self::Cluster(cluster) => cluster.conflict_of(identity),
        }
    }

    /// An object.
    ///
    /// # Errors
    /// Where there is none of that kind and name.
    pub(in crate::cli) fn find(&self, kind: &str, name: &str) -> anyhow::Result<&Document> {
        match self {
            Self::Files(files) => Ok(files.find(kind, name)?),
            Self::Cluster(cluster) => cluster.find(kind, name),
        }
    }

    /// An object as a value, one that is faulty too: whatever is wrong with it, its agent can be shut out.
    ///
    /// # Errors
    /// Where there is none of that kind and name.
    pub(in crate::cli) fn written(&self, kind: &str, name: &str) -> anyhow::Result<Value> {
        if let Ok(document) = self.find(kind, name) {
            return Ok(print::object(document));
        }
        match self {
            Self::Files(files) => Ok(files.written(kind, name)?),
            Self::Cluster(cluster) => cluster.written(kind, name),
        }
    }
}

/// How often a change that shuts an agent out is tried where others change its object meanwhile. Each try takes what they wrote.
const TRIES: usize = 20;

/// Makes a change that shuts an agent out, and again where somebody else was faster: no other command may keep an agent going.
pub(in crate::cli) fn insist(change: impl Fn() -> anyhow::Result<Changed>) -> anyhow::Result<Changed> {
    for _ in 1..TRIES {
        match change() {
            Err(error) if is_raced(&error) => {}
            done => return done,
        }
    }
    change()
}

/// Whether nothing is written because somebody else changed the object, in its file or in the cluster.
pub(in crate::cli) fn is_raced(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(ObjectEditError::Raced(_))) || error.is::<api::Raced>()
}

/// Sets a text where nothing or anything else is.
fn put(object: &mut Value, path: &[&str], text: &str) {
    let mut at = object;
    for name in path {
        if !at.is_object() {
            *at = json!({});
        }
        at = &mut at[*name];
    }
    *at = Value::from(text);
}

/// Where the objects of a [`Target`] are.
enum Place {
    Files {
        paths: Vec<PathBuf>,
        /// Whether the node's agent follows the objects of the cluster too, which files may name.
        of_cluster: bool,
    },
    Cluster {
        person: PersonalConfig,
        /// Files that the node's agent reads too.
        beside: Vec<PathBuf>,
        /// Whether the command line asks for the cluster alone.
        is_alone: bool,
    },
}

impl Target {
    /// Reads the objects.
    ///
    /// # Errors
    /// Where it is not known which are meant, or they cannot be read, or are not valid.
    pub(in crate::cli) fn read(&self) -> anyhow::Result<Objects> {
        match self.place()? {
            Place::Files { paths, of_cluster } => files(&paths, of_cluster),
            Place::Cluster { person, beside, .. } => {
                remark(&beside);
                let objects = ApiObjects::read(&person)?.beside(beside);
                Ok(Objects::Cluster(Box::new(objects)))
            }
        }
    }

    /// Reads the objects of every place that the node's agent has them from; of one place where the command line asks for that alone.
    ///
    /// # Errors
    /// As [`Target::read`].
    pub(in crate::cli) fn read_all(&self) -> anyhow::Result<Vec<Objects>> {
        match self.place()? {
            Place::Cluster {
                person,
                beside,
                is_alone: false,
            } if !beside.is_empty() => {
                let cluster = ApiObjects::read(&person)?;
                Ok(vec![files(&beside, true)?, Objects::Cluster(Box::new(cluster))])
            }
            _ => Ok(vec![self.read()?]),
        }
    }

    /// Reads one object, to let its agent act again: of files all, which are checked together.
    ///
    /// # Errors
    /// As [`Target::read`].
    pub(in crate::cli) fn read_one(&self, kind: &str, name: &str) -> anyhow::Result<Objects> {
        match self.place()? {
            Place::Files { paths, of_cluster } => files(&paths, of_cluster),
            Place::Cluster { person, beside, .. } => one(&person, beside, kind, name),
        }
    }

    /// Likewise, to shut an agent out or take a right back, which no fault must keep anybody from.
    ///
    /// # Errors
    /// Where it is not known which are meant, or they cannot be read.
    pub(in crate::cli) fn read_faulty(&self, kind: &str, name: &str) -> anyhow::Result<Objects> {
        match self.place()? {
            Place::Files { paths, of_cluster } => {
                let files = ObjectFiles::read_faulty_beside(&paths, of_cluster)?;
                Ok(Objects::Files(Box::new(files)))
            }
            // Objects of the cluster are judged one by one.
            Place::Cluster { person, beside, .. } => one(&person, beside, kind, name),
        }
    }

    fn place(&self) -> anyhow::Result<Place> {
        let config = super::configuration(self.config.as_deref());
        self.place_as(Invocation::of(std::env::args_os().next().as_ref()), config)
    }

    fn place_as(
        &self,
        invocation: Invocation,
        config: Result<Option<Config>, ConfigError>,
    ) -> anyhow::Result<Place> {
        if !self.files.is_empty() {
            // Without a configuration that can be read nothing is known of a cluster.
            return Ok(Place::Files {
                paths: self.files.clone(),
                of_cluster: config.is_ok_and(|config| config.is_some_and(|config| config.objects.cluster)),
            });
        }
        let config = config?;
        // Who types `kubectl` means a cluster, unless this machine's agent has its objects elsewhere.
        let is_usual = invocation == Invocation::Plugin && config.is_none();
        let is_alone = self.cluster || self.context.is_some();
        if is_alone
            || is_usual
            || self.kubeconfig.is_some()
            || config.as_ref().is_some_and(|config| config.objects.cluster)
        {
            let (beside, otherwise) = match config {
                Some(config) => (config.objects.files, Some(config.cluster.kubeconfig)),
                None => (Vec::new(), None),
            };
            return Ok(Place::Cluster {
                person: PersonalConfig {
                    kubeconfig: self.kubeconfig.clone(),
                    context: self.context.clone(),
                    otherwise,
                },
                beside,
                is_alone,
            });
        }
        let config = config.with_context(|| {
            format!(
                "which objects are meant? There is no {}, so name files or folders with --files, or the cluster with --cluster, as \
                 `kubectl picket` does by itself",
                config::DEFAULT_PATH
            )
        })?;
        Ok(Place::Files {
            paths: config.objects.files,
            of_cluster: false,
        })
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

fn files(paths: &[PathBuf], of_cluster: bool) -> anyhow::Result<Objects> {
    let files = ObjectFiles::read_beside(paths, of_cluster)?;
    Ok(Objects::Files(Box::new(files)))
}

fn one(person: &PersonalConfig, beside: Vec<PathBuf>, kind: &str, name: &str) -> anyhow::Result<Objects> {
    remark(&beside);
    let objects = ApiObjects::read_one(person, kind, name)?.beside(beside);
    Ok(Objects::Cluster(Box::new(objects)))
}

/// Says that a command is about the cluster alone, where the node's agent has objects of files too.
fn remark(beside: &[PathBuf]) {
    if !beside.is_empty() {
        let paths: Vec<_> = beside
            .iter()
            .map(|path| format!("--files {}", path.display()))
            .collect();
        let paths = output::clean(&paths.join(" "));
        output::warn(format_args!(
            "picket: this is about the objects of the cluster; this node's agent reads files too, which {paths} names"
        ));
    }
}

/// What a command that changes objects is told besides.
#[derive(Debug, Args)]
pub(in crate::cli) struct ChangeArgs {
    /// Check and say what would be done, and write nothing.
    #[arg(long)]
    pub(in crate::cli) dry_run: bool,
    /// How long to wait for the change to be in force, on this node or in the cluster, in seconds; 0 does not wait.
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
    /// It is written, or may be, and no agent of this node is known to have it in force.
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
        let objects = self.target.read()?;
        let written = match &objects {
            Objects::Files(files) => file(files.add(kind, name, &yaml, self.dry_run)),
            Objects::Cluster(cluster) => cluster.add(kind, &yaml, self.dry_run).map(Written::Generation),
        };
        let written = match written {
            Ok(written) => written,
            Err(error) => return self.unsure(error),
        };
        if self.dry_run && self.output.is_none() {
            io::stdout().lock().write_all(yaml.as_bytes())?;
            return Ok(Changed::Done);
        }
        let change = Change {
            kind,
            name,
            done: "created",
            object,
        };
        self.done(&objects, &change, &written, &in_force)
    }

    /// Sets text fields of an object among `objects`; `done` is what became of it.
    ///
    /// # Errors
    /// Where they cannot be set.
    pub(in crate::cli) fn set(
        &self,
        objects: &Objects,
        kind: &str,
        name: &str,
        fields: &[(&[&str], &str)],
        done: &str,
        in_force: InForce,
    ) -> anyhow::Result<Changed> {
        let mut object = objects.written(kind, name)?;
        for (path, text) in fields {
            put(&mut object, path, text);
        }
        let written = match objects {
            Objects::Files(files) => file(files.set_fields(kind, name, fields, self.dry_run)),
            Objects::Cluster(cluster) => cluster
                .set_fields(kind, name, fields, self.dry_run)
                .map(Written::Generation),
        };
        let written = match written {
            Ok(written) => written,
            Err(error) => return self.unsure(error),
        };
        let change = Change {
            kind,
            name,
            done,
            object: &object,
        };
        self.done(objects, &change, &written, &in_force)
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
        let objects = self.target.read_faulty(kind, name)?;
        let object = objects.written(kind, name)?;
        let written = match &objects {
            Objects::Files(files) => file(files.remove(kind, name, self.dry_run)),
            Objects::Cluster(cluster) => {
                let removed = cluster.remove(kind, name, self.dry_run);
                removed.map(|()| Written::Gone)
            }
        };
        let written = match written {
            Ok(written) => written,
            Err(error) => return self.unsure(error),
        };
        let change = Change {
            kind,
            name,
            done: "deleted",
            object: &object,
        };
        self.done(&objects, &change, &written, &in_force)
    }

    /// Where an object is as it was to become: prints it, or says so.
    ///
    /// # Errors
    /// Where it is not there.
    pub(in crate::cli) fn is_so_already(
        &self,
        objects: &Objects,
        kind: &str,
        name: &str,
        says: &str,
    ) -> anyhow::Result<Changed> {
        let object = objects.written(kind, name)?;
        self.say(&format!("{name} {says} already."));
        self.show(kind, name, &object)?;
        Ok(Changed::Done)
    }

    /// Says what was done, as kubectl does, and when it is in force.
    fn done(
        &self,
        objects: &Objects,
        change: &Change<'_>,
        written: &Written,
        in_force: &InForce,
    ) -> anyhow::Result<Changed> {
        let Change {
            kind,
            name,
            done,
            object,
        } = *change;
        let reference = print::reference(kind, name);
        let place = match written {
            Written::File(file) => format!(" in {}", file.display()),
            Written::Generation(_) | Written::Gone => String::new(),
        };
        let dry = if self.dry_run { " (dry run)" } else { "" };
        self.say(&format!("{reference} {done}{place}{dry}"));
        self.show(kind, name, object)?;
        if self.dry_run || self.wait == 0 {
            return Ok(Changed::Done);
        }
        let limit = Duration::from_secs(self.wait.into());
        let waited = match (written, objects) {
            (Written::File(file), _) => block_on(wait::wait(&self.target.socket(), file, limit, in_force)),
            (Written::Generation(generation), Objects::Cluster(cluster)) => {
                cluster.wait(kind, name, *generation, limit)
            }
            (Written::Generation(_) | Written::Gone, _) => Ok(Waited::GoneFromCluster),
        };
        // It is written, whatever keeps the command from seeing what became of it.
        let waited = waited.unwrap_or_else(|error| Waited::Unknown(error.to_string()));
        self.say(&waited.sentence());
        for warning in waited.warnings() {
            let warning = output::clean(warning);
            output::warn(format_args!("picket: warning: {kind} {name}: {warning}"));
        }
        Ok(match waited {
            Waited::InForce(_)
            | Waited::InCluster(..)
            | Waited::LimitsInCluster(..)
            | Waited::GoneFromCluster => Changed::Done,
            Waited::Refused(_)
            | Waited::Late
            | Waited::Elsewhere(_)
            | Waited::RefusedByCluster(_)
            | Waited::LateInCluster
            | Waited::Unknown(_) => Changed::Unconfirmed,
        })
    }

    /// A change that may be written is no failure, by which nothing is.
    fn unsure(&self, error: anyhow::Error) -> anyhow::Result<Changed> {
        match error.downcast::<Unsure>() {
            Ok(unsure) if !self.dry_run => {
                output::warn(format_args!("picket: {}", output::clean(&unsure.to_string())));
                Ok(Changed::Unconfirmed)
            }
            Ok(unsure) => Err(unsure.into()),
            Err(error) => Err(error),
        }
    }

    /// A sentence for people, on standard error where a program reads the other.
    fn say(&self, sentence: &str) {
        match self.output {
            None => output::say(format_args!("{sentence}")),
            Some(_) => output::warn(format_args!("{sentence}")),
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

/// What a change of a file left behind.
fn file(edited: Result<PathBuf, ObjectEditError>) -> anyhow::Result<Written> {
    match edited {
        Ok(path) => Ok(Written::File(path)),
        Err(error @ ObjectEditError::Unsynced { .. }) => Err(Unsure(error.to_string()).into()),
        Err(error) => Err(error.into()),
    }
}

/// A change, as people are told of it.
#[derive(Clone, Copy)]
struct Change<'a> {
    kind: &'a str,
    name: &'a str,
    /// What became of the object, as kubectl says it.
    done: &'a str,
    /// The object with the change.
    object: &'a Value,
}

/// What a change left behind.
enum Written {
    /// A file that was replaced.
    File(PathBuf),
    /// An object of this generation at the API server.
    Generation(i64),
    /// An object less there.
    Gone,
}
