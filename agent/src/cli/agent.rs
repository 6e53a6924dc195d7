//! `picket agent`: reads the configuration and runs the composition root.
//!
//! In: the path of the configuration file. Out: a running agent, and the process's exit code. A configuration that is not valid closes
//! the node as the last good one says.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use tokio::runtime::Runtime;

use crate::app::{self, NodeCheckpoint};
use crate::config::{self, Config, ConfigError};
use crate::runtime;
use crate::runtime::state::{DEFAULT_STATE_DIRECTORY, StateDirectory};

/// Threads for everything but the connections: watches, files and the kernel's events do little and wait much. Two, so that a
/// long step of one part (a large list that is parsed, say) does not hold up the others.
const CONTROL_THREADS: usize = 2;

/// Arguments of `picket agent`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  picket agent --config /etc/picket/agent.yaml\n\n\
    Exit codes: 0 the agent was stopped, or a successor has taken over; 1 the agent could not start, its upgrade failed, or a part of it failed; \
    2 wrong usage.")]
pub(super) struct Args {
    /// The node's configuration file.
    #[arg(long, value_name = "FILE", default_value = config::DEFAULT_PATH)]
    config: PathBuf,
    /// The folder of what the next start needs after a boot: the protected endpoints, the configuration that was valid last, and the node
    /// CA that Picket's controller signed. Only root may write to it
    #[arg(long, value_name = "FOLDER", default_value = DEFAULT_STATE_DIRECTORY)]
    state_directory: PathBuf,
}

pub(super) fn run(args: &Args) -> ExitCode {
    match start(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => super::fail(&error),
    }
}

fn start(args: &Args) -> anyhow::Result<()> {
    let checkpoint = NodeCheckpoint::new(StateDirectory::new(&args.state_directory));
    let (config, text) = match read(&args.config) {
        Ok(read) => read,
        Err(error) => {
            close_by_last_configuration(&checkpoint, &error);
            return Err(error.into());
        }
    };
    runtime::telemetry::init(&config.log)?;
    runtime::limits::raise_descriptors();
    let runtime = control_runtime()?;
    let app = app::App::build(config, checkpoint.keeping(&text));
    let outcome = runtime.block_on(async { app.await?.run().await });
    // Blocking tasks (a file being read, say) do not keep a stopped agent alive.
    runtime.shutdown_background();
    outcome
}

fn read(path: &Path) -> Result<(Config, String), ConfigError> {
    let text = Config::text(path)?;
    Ok((Config::parse(&path.display().to_string(), &text)?, text))
}

/// Beside the threads of the data path, which serve the connections.
fn control_runtime() -> anyhow::Result<Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(CONTROL_THREADS)
        .enable_all()
        .build()
        .context("cannot start the runtime")
}

/// A configuration that is not valid must not leave a node open after a boot that was closed before it: closes the node by the
/// configuration of the last agent that served. A node on which none did is left alone.
fn close_by_last_configuration(checkpoint: &NodeCheckpoint, error: &ConfigError) {
    let (config, why) = match checkpoint.configuration() {
        Ok(config) => (config, None),
        Err(why) => (None, Some(why)),
    };
    let log = config
        .as_ref()
        .map(|config| config.log.clone())
        .unwrap_or_default();
    if runtime::telemetry::init(&log).is_err() {
        return;
    }
    let Some(config) = config else {
        match why {
            Some(why) => tracing::error!(
                error = %super::error_chain(&why.into()),
                "the agent cannot use the configuration of the last agent: it closes nothing, and after a boot the node is open"
            ),
            None => tracing::warn!(
                "no agent served on this node before: the agent closes nothing, and after a boot the node is open"
            ),
        }
        return;
    };
    let closed = control_runtime().and_then(|runtime| {
        let closed = runtime.block_on(app::close_node(&config, checkpoint));
        runtime.shutdown_background();
        closed
    });
    match closed {
        Ok(true) => tracing::error!(
            %error,
            "the configuration cannot be used: pods that no agent judged are closed by the configuration of the last agent that served"
        ),
        Ok(false) => tracing::info!("another agent serves, and goes on"),
        Err(error) => tracing::error!(
            error = %super::error_chain(&error),
            "the node cannot be closed by the configuration of the last agent"
        ),
    }
}
