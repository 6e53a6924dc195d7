//! `picket uninstall`: takes this node's pinned links and maps out of the kernel, and removes sockets that a killed agent left.
//!
//! In: the configuration's BPF folder and sockets. Out: a node without them, or an error while an agent still runs. With `--cluster`
//! the same on every node, and the objects that Picket made in the cluster ([`cluster`]).

mod cluster;
mod leftovers;

use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, anyhow, bail};

use super::{output, plugin};
use crate::admin;
use crate::app::NodeCheckpoint;
use crate::config;
use crate::kernel::Kernel;
use crate::kernel::doctor::Surroundings;
use crate::runtime::signals;
use crate::runtime::state::{DEFAULT_STATE_DIRECTORY, StateDirectory};

/// Arguments of `picket uninstall`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Without --cluster, stop the agent of this node first. With --cluster, the command ends the agents and the controller \
    itself. Afterwards Picket enforces no pod there.\n\nExamples:\n  \
    picket uninstall --config /etc/picket/agent.yaml\n  \
    picket uninstall --cluster --daemonset daemonset.json\n\n\
    Exit codes: 0 nothing of Picket is left in the folder, or with --cluster on the nodes and in the cluster; 1 something is or may \
    be left; 2 wrong usage."
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
    /// A folder to remove too, with all that is in it. May be given more than once
    #[arg(long, value_name = "FOLDER")]
    remove_folder: Vec<PathBuf>,
    /// Write what went wrong to this file too, such as a container's termination message, /dev/termination-log
    #[arg(long, value_name = "FILE")]
    error_file: Option<PathBuf>,
    /// Remove nothing, and stay until SIGTERM: for the pod of a DaemonSet that is to be Ready once its first container has cleaned
    /// the node
    #[arg(long, exclusive = true)]
    stay: bool,
    #[command(flatten)]
    cluster: cluster::ClusterUninstallArgs,
}

pub(super) fn run(args: &Args) -> ExitCode {
    let is_of_node = !args.stay && !args.cluster.is_asked() && args.bpffs.is_none();
    if is_of_node && plugin::is_elsewhere(args.config.as_deref()) {
        return super::fail(&anyhow!(
            "the command cleans the node that it runs on. The chart is taken out by: helm uninstall picket --namespace picket-system; where \
             the agent is a systemd unit, run `picket uninstall` on its node"
        ));
    }
    let done = if args.stay {
        stay()
    } else if args.cluster.is_asked() {
        cluster::remove(&args.cluster)
    } else {
        remove(args).inspect_err(|error| write_error(args.error_file.as_deref(), error))
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => super::fail(&error),
    }
}

/// The file of a container's termination message, unlike the container's log, is whole when the container has ended.
fn write_error(file: Option<&Path>, error: &anyhow::Error) {
    if let Some(file) = file
        && let Err(fault) = std::fs::write(file, format!("picket: {}", super::error_chain(error)))
    {
        output::warn(format_args!("picket: cannot write {}: {fault}", file.display()));
    }
}

fn stay() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.context("cannot start the runtime")?;
    runtime
        .block_on(signals::stop())
        .context("cannot wait for SIGTERM")
        .map(drop)
}

fn remove(args: &Args) -> anyhow::Result<()> {
    args.remove_folder
        .iter()
        .try_for_each(|folder| is_picket_s(folder))?;
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
    if bpffs.exists() {
        Kernel::unload(&bpffs)?;
        output::say(format_args!(
            "removed Picket's links and maps from {}",
            bpffs.display()
        ));
    } else {
        output::say(format_args!("nothing of Picket is in {}", bpffs.display()));
    }
    // Last: whatever is still needed when this is tried again is in them.
    args.remove_folder
        .iter()
        .try_for_each(|folder| remove_folder(folder))
}

/// A configuration may name a folder that others use, such as /run: it is never removed.
fn is_picket_s(folder: &Path) -> anyhow::Result<()> {
    let name = folder.file_name().map(|name| name.to_string_lossy());
    if !name.is_some_and(|name| name.starts_with("picket")) {
        bail!(
            "{} is not removed, because its name does not begin with `picket`: others may use it. Remove what is Picket's in it by hand",
            folder.display()
        );
    }
    Ok(())
}

fn remove_folder(folder: &Path) -> anyhow::Result<()> {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed.with_context(|| format!("cannot remove {}", folder.display())),
    }
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
                remove_folder: Vec::new(),
                error_file: None,
                stay: false,
                cluster: cluster::ClusterUninstallArgs::default(),
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

    #[test]
    fn an_error_is_in_its_file() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("termination-log");
        let error = anyhow::anyhow!("Device or resource busy").context("cannot remove /host/state/picket");
        write_error(None, &error);
        write_error(Some(&file), &error);
        let said = std::fs::read_to_string(&file).unwrap();
        assert_eq!(
            said,
            "picket: cannot remove /host/state/picket: Device or resource busy"
        );
    }

    #[test]
    fn a_folder_that_others_use_is_not_removed() {
        for folder in ["/host/run/run", "/host/state/..", "/", "/host/run/apicket"] {
            let said = is_picket_s(Path::new(folder)).unwrap_err().to_string();
            assert!(said.starts_with(&format!("{folder} is not removed")), "{said}");
        }
        for folder in ["/host/run/picket", "/host/log/picket-records"] {
            is_picket_s(Path::new(folder)).unwrap();
        }
        let folder = tempfile::tempdir().unwrap();
        let args = Args {
            config: Some(folder.path().join("absent.yaml")),
            bpffs: None,
            state_directory: folder.path().join("state"),
            remove_folder: vec![PathBuf::from("/host/run/run")],
            error_file: None,
            stay: false,
            cluster: cluster::ClusterUninstallArgs::default(),
        };
        let said = remove(&args).unwrap_err().to_string();
        assert!(said.starts_with("/host/run/run is not removed"), "{said}");
    }

    #[test]
    fn a_folder_is_removed_with_all_that_is_in_it() {
        let folder = tempfile::tempdir().unwrap();
        let below = folder.path().join("picket");
        std::fs::create_dir_all(below.join("audit")).unwrap();
        std::fs::write(below.join("audit/one.jsonl"), "{}").unwrap();
        remove_folder(&below).unwrap();
        assert!(!below.exists());
        remove_folder(&below).unwrap();
        // A file has been named by mistake.
        let file = folder.path().join("file");
        std::fs::write(&file, "").unwrap();
        let said = remove_folder(&file).unwrap_err().to_string();
        assert!(said.starts_with("cannot remove "), "{said}");
        assert!(file.exists());
    }
}
