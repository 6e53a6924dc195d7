//! `picket uninstall`: takes this node's pinned links and maps out of the kernel, and removes sockets that a killed agent left.

use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::bail;

use crate::admin;
use crate::config::{self, Config};
use crate::kernel::Kernel;

/// Arguments of `picket uninstall`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "The agent must have stopped; pods are no longer held to Picket afterwards.\n\nExample:\n  \
    picket uninstall --config /etc/picket/agent.yaml"
)]
pub(super) struct Args {
    /// The node's configuration file, which names the folder on the bpf file system.
    #[arg(long, value_name = "FILE", default_value = config::DEFAULT_PATH)]
    config: PathBuf,
}

pub(super) fn run(args: &Args) -> ExitCode {
    match remove(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => super::fail(&error),
    }
}

fn remove(args: &Args) -> anyhow::Result<()> {
    let config = Config::read(&args.config)?;
    // An agent that runs would go on as if it enforced, with nothing behind it.
    if UnixStream::connect(&config.admin.socket).is_ok() {
        bail!(
            "the agent runs ({} answers): stop it first",
            config.admin.socket.display()
        );
    }
    for socket in [config.admin.handover_socket(), config.admin.socket] {
        admin::remove_left(&socket)?;
    }
    if !config.kernel.bpffs.exists() {
        println!("nothing of Picket's is at {}", config.kernel.bpffs.display());
        return Ok(());
    }
    Kernel::unload(&config.kernel.bpffs)?;
    println!(
        "removed Picket's links and maps from {}",
        config.kernel.bpffs.display()
    );
    Ok(())
}
