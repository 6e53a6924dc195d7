//! `picket uninstall`: takes this node's pinned links and maps out of the kernel, and removes sockets that a killed agent left.
//!
//! In: the configuration's BPF folder and sockets. Out: a node without them, or an error while an agent still runs.

use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::bail;

use super::output;
use crate::admin;
use crate::app::NodeCheckpoint;
use crate::config;
use crate::kernel::Kernel;
use crate::kernel::doctor::Surroundings;
use crate::runtime::state::{DEFAULT_STATE_DIRECTORY, StateDirectory};

/// Arguments of `picket uninstall`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Stop the agent first. Afterwards Picket enforces no pod of this node.\n\nExample:\n  \
    picket uninstall --config /etc/picket/agent.yaml\n\n\
    Exit codes: 0 nothing of Picket is left in the folder, 1 something is or may be left, 2 wrong usage."
)]
pub(super) struct Args {
    /// The node's configuration file, which names the folder and the agent's sockets. Default: /etc/picket/agent.yaml where that
    /// file exists, else the agent's own defaults
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The folder on the BPF filesystem, instead of the configured one
    #[arg(long, value_name = "FOLDER")]
    bpffs: Option<PathBuf>,
    /// The agent's state folder. What the agent left there for its next start is removed
    #[arg(long, value_name = "FOLDER", default_value = DEFAULT_STATE_DIRECTORY)]
    state_directory: PathBuf,
}

pub(super) fn run(args: &Args) -> ExitCode {
    match remove(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => super::fail(&error),
    }
}

fn remove(args: &Args) -> anyhow::Result<()> {
    let configured = super::configuration(args.config.as_deref());
    let (kernel, admin) = match (configured, &args.bpffs) {
        (Ok(config), _) => config
            .map(|config| (config.kernel, config.admin))
            .unwrap_or_default(),
        // A node is to be rid of Picket whatever became of its configuration.
        (Err(error), Some(_)) => {
            let admin = config::AdminSection::default();
            output::warn(format_args!(
                "picket: {error}\npicket: assuming that the agent's socket is {}",
                admin.socket.display()
            ));
            (config::KernelSection::default(), admin)
        }
        (Err(error), None) => {
            bail!(
                "{error}\nwithout a configuration, give --bpffs FOLDER, the folder of Picket's links and maps"
            )
        }
    };
    let bpffs = args.bpffs.clone().unwrap_or(kernel.bpffs);
    // An agent that runs would go on as if it enforced, with nothing behind it.
    let own = admin::own_sockets(&admin.socket);
    let sockets: Vec<_> = own.into_iter().chain([admin.socket.clone()]).collect();
    if let Some(socket) = sockets.iter().find(|socket| UnixStream::connect(socket).is_ok()) {
        bail!(
            "an agent is running ({} answers): stop it first",
            socket.display()
        );
    }
    if Surroundings::new(None, bpffs.clone()).bpffs().is_none() {
        bail!(
            "{} is not on a BPF filesystem, so Picket's links and maps cannot be found: mount the filesystem that the agent \
             used, or name its folder with --bpffs",
            bpffs.display()
        );
    }
    for socket in sockets.iter().chain([&admin.upgrade_socket()]) {
        admin::remove_left(socket)?;
    }
    NodeCheckpoint::new(StateDirectory::new(&args.state_directory)).remove()?;
    if !bpffs.exists() {
        output::say(format_args!("nothing of Picket is in {}", bpffs.display()));
        return Ok(());
    }
    Kernel::unload(&bpffs)?;
    output::say(format_args!(
        "removed Picket's links and maps from {}",
        bpffs.display()
    ));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_known_is_no_success() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("agent.yaml");
        std::fs::write(&file, "nodeName: n\n").unwrap();
        let said = |bpffs: Option<&str>| {
            let args = Args {
                config: Some(file.clone()),
                bpffs: bpffs.map(PathBuf::from),
                state_directory: folder.path().join("state"),
            };
            remove(&args).unwrap_err().to_string()
        };
        let (without, elsewhere) = (said(None), said(Some("/proc/picket")));
        assert!(
            without.contains("`cluster` is required") && without.contains("give --bpffs FOLDER"),
            "{without}"
        );
        assert!(
            elsewhere.starts_with("/proc/picket is not on a BPF filesystem"),
            "{elsewhere}"
        );
    }
}
