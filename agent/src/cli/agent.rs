//! `picket agent`: reads the configuration and runs the composition root.
//!
//! In: the path of the configuration file. Out: a running agent, and the process's exit code.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;

use crate::app::{self, NodeCheckpoint};
use crate::config::{self, Config};
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
    /// The folder of what this agent knows and the next one needs after a boot: the protected endpoints. Only root may write to it
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
    let config = Config::read(&args.config)?;
    let checkpoint = NodeCheckpoint::new(StateDirectory::new(&args.state_directory));
    runtime::telemetry::init(&config.log)?;
    runtime::limits::raise_descriptors();
    // Beside the threads of the data path, which serve the connections.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(CONTROL_THREADS)
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let outcome = runtime.block_on(async { app::App::build(config, checkpoint).await?.run().await });
    // Blocking tasks (a file being read, say) do not keep a stopped agent alive.
    runtime.shutdown_background();
    outcome
}
