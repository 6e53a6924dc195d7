//! `picket guard`: closes a node's pods from its boot until the agent serves, where the agent is a pod. The chart installs it.
//!
//! In: the state that the last agent left on the node, and the node's own folders. Out: a process for systemd, which starts it before
//! the kubelet; and its unit and program, installed on the node or removed from it.

mod unit;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};

use super::output;
use crate::app::{self, GuardEnd, NodeCheckpoint};
use crate::config::{Config, NODE_NAME_VARIABLE};
use crate::runtime;
use crate::runtime::state::{DEFAULT_STATE_DIRECTORY, StateDirectory};
use unit::{Folders, Unit};

/// Arguments of `picket guard`.
#[derive(Debug, clap::Args)]
pub(super) struct GuardArgs {
    #[command(subcommand)]
    command: GuardCommand,
}

#[derive(Debug, clap::Subcommand)]
enum GuardCommand {
    /// Closes the node's pods until an agent serves, then ends.
    Run(RunArgs),
    /// Installs the guard's program and its systemd unit on the node, from the agent's pod.
    Install(InstallArgs),
    /// Removes both from the node.
    Remove(Folders),
}

/// The node's folders. They are not the paths that the agent has in its pod.
#[derive(Debug, clap::Args)]
struct NodePaths {
    /// The node's cgroup v2 folder
    #[arg(long, value_name = "FOLDER", default_value = "/sys/fs/cgroup")]
    cgroup_root: PathBuf,
    /// The agent's folder on the node's BPF filesystem
    #[arg(long, value_name = "FOLDER", default_value = "/sys/fs/bpf/picket")]
    bpffs: PathBuf,
    /// The folder of the agent's sockets
    #[arg(long, value_name = "FOLDER", default_value = "/run/picket")]
    run_directory: PathBuf,
    /// The folder of what the last agent left
    #[arg(long, value_name = "FOLDER", default_value = DEFAULT_STATE_DIRECTORY)]
    state_directory: PathBuf,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  picket guard run\n\n\
    Exit codes: 0 an agent serves, the guard was asked to stop, or no agent served on this node before; 1 the node cannot be closed; \
    2 wrong usage.")]
struct RunArgs {
    #[command(flatten)]
    paths: NodePaths,
}

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  picket guard install --unit-directory /host/systemd --program-directory /host/picket\n\n\
    The unit is in force from the node's next boot on. Exit codes: 0 both are installed, 1 they are not, 2 wrong usage."
)]
struct InstallArgs {
    #[command(flatten)]
    folders: Folders,
    #[command(flatten)]
    paths: NodePaths,
    /// The node's name in the cluster. Default: the environment variable PICKET_NODE_NAME
    #[arg(long, value_name = "NAME")]
    node_name: Option<String>,
    /// Warn and succeed where the node does not take them: for the agent's pod, which is to start all the same
    #[arg(long)]
    if_possible: bool,
    /// Where the folder of the program is on the node itself
    #[arg(long, value_name = "FOLDER", default_value = "/opt/picket/guard")]
    program_directory_on_node: PathBuf,
}

pub(super) fn run(args: &GuardArgs) -> ExitCode {
    let done = match &args.command {
        GuardCommand::Run(args) => guard(args),
        GuardCommand::Install(args) => match install(args) {
            Err(error) if args.if_possible => {
                output::warn(format_args!(
                    "picket: no guard is installed, and after a boot this node's pods are open until the agent serves: {}",
                    super::error_chain(&error)
                ));
                Ok(())
            }
            done => done,
        },
        GuardCommand::Remove(folders) => remove(folders),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => super::fail(&error),
    }
}

fn guard(args: &RunArgs) -> anyhow::Result<()> {
    let checkpoint = NodeCheckpoint::new(StateDirectory::new(&args.paths.state_directory));
    let Some(config) = checkpoint.configuration()? else {
        output::say(format_args!(
            "no agent served on this node before: nothing is known to close"
        ));
        return Ok(());
    };
    let config = on_node(config, &args.paths);
    runtime::telemetry::init(&config.log)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let end = runtime.block_on(app::guard_node(&config, &checkpoint));
    runtime.shutdown_background();
    match end? {
        GuardEnd::AgentServes => tracing::info!("an agent serves; the guard ends"),
        GuardEnd::Stopped => {
            tracing::info!("the guard was asked to stop; what is closed stays closed");
        }
    }
    Ok(())
}

/// The configuration of the agent's pod with the node's own folders.
fn on_node(mut config: Config, paths: &NodePaths) -> Config {
    config.kernel.cgroup_root = Some(paths.cgroup_root.clone());
    config.kernel.bpffs.clone_from(&paths.bpffs);
    let socket = config.admin.socket.file_name().map(PathBuf::from);
    config.admin.socket = paths.run_directory.join(socket.unwrap_or_default());
    config
}

fn install(args: &InstallArgs) -> anyhow::Result<()> {
    let named = args.node_name.clone();
    let node_name = named.or_else(|| std::env::var(NODE_NAME_VARIABLE).ok());
    let unit = Unit {
        program: args.program_directory_on_node.join(unit::PROGRAM),
        node_name: node_name
            .with_context(|| format!("give --node-name NAME, or set {NODE_NAME_VARIABLE}"))?,
        arguments: vec![
            ("--cgroup-root", args.paths.cgroup_root.clone()),
            ("--bpffs", args.paths.bpffs.clone()),
            ("--run-directory", args.paths.run_directory.clone()),
            ("--state-directory", args.paths.state_directory.clone()),
        ],
        state: args.paths.state_directory.clone(),
        bpffs: args.paths.bpffs.clone(),
    };
    let text = unit.text()?;
    if !args.folders.unit_directory.is_dir() {
        bail!(
            "{} is no folder: this node has no systemd, and nothing closes its pods after a boot until the agent serves",
            args.folders.unit_directory.display()
        );
    }
    let own = std::env::current_exe().context("cannot find the program")?;
    let changed = unit::install(&args.folders, &own, &text)?;
    output::say(format_args!(
        "{} in {}: in force from the next boot on",
        match changed {
            true => "installed picket-guard.service",
            false => "picket-guard.service is as it was",
        },
        args.folders.unit_directory.display()
    ));
    Ok(())
}

fn remove(folders: &Folders) -> anyhow::Result<()> {
    let was_there = unit::remove(folders)?;
    output::say(format_args!(
        "{} {}",
        match was_there {
            true => "removed picket-guard.service from",
            false => "there is no picket-guard.service in",
        },
        folders.unit_directory.display()
    ));
    Ok(())
}

/// A path in the words of a unit.
fn shown(path: &Path) -> anyhow::Result<&str> {
    let text = path.to_str().filter(|text| {
        text.starts_with('/')
            && text
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"/._-:@".contains(&byte))
    });
    text.with_context(|| {
        format!(
            "{}: a systemd unit takes absolute paths of letters, digits and /._-:@ here",
            path.display()
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: &str = "nodeName: n\ncluster: {kubeconfig: /etc/picket/kubeconfig}\n\
        upstream: {server: 'https://10.0.0.1:6443', caFile: /a, tokenFile: /b}\n\
        tls: {caCertificateFile: /c, caKeyFile: /d}\nenforce: {namespaces: [agents]}\nobjects: {cluster: true}\n\
        kernel: {cgroupRoot: /host/cgroup, bpffs: /sys/fs/bpf/picket}\nadmin: {socket: /run/picket/admin.sock}\n";

    fn paths() -> NodePaths {
        NodePaths {
            cgroup_root: "/sys/fs/cgroup/unified".into(),
            bpffs: "/node/bpf/picket".into(),
            run_directory: "/node/run".into(),
            state_directory: "/node/state".into(),
        }
    }

    #[test]
    fn the_guard_uses_the_folders_of_the_node_and_not_of_the_pod() {
        let config = on_node(Config::parse("agent.yaml", CONFIG).expect("valid"), &paths());
        assert_eq!(config.kernel.cgroup_root, Some("/sys/fs/cgroup/unified".into()));
        assert_eq!(config.kernel.bpffs, PathBuf::from("/node/bpf/picket"));
        assert_eq!(
            config.admin.upgrade_socket(),
            PathBuf::from("/node/run/upgrade.sock")
        );
    }

    #[test]
    fn a_node_that_had_no_agent_is_left_alone() {
        let folder = tempfile::tempdir().expect("a folder");
        let paths = NodePaths {
            state_directory: folder.path().join("state"),
            ..paths()
        };
        guard(&RunArgs { paths }).expect("nothing to do");
    }

    #[test]
    fn a_node_that_takes_no_unit_holds_up_the_agent_only_where_that_is_asked_for() {
        let folder = tempfile::tempdir().expect("a folder");
        let args = |if_possible| {
            GuardCommand::Install(InstallArgs {
                folders: Folders {
                    unit_directory: folder.path().join("absent"),
                    program_directory: folder.path().join("program"),
                },
                paths: paths(),
                node_name: Some("node-1".to_owned()),
                if_possible,
                program_directory_on_node: "/opt/picket/guard".into(),
            })
        };
        for (if_possible, code) in [(true, ExitCode::SUCCESS), (false, ExitCode::FAILURE)] {
            let done = run(&GuardArgs {
                command: args(if_possible),
            });
            assert_eq!(format!("{done:?}"), format!("{code:?}"));
        }
        assert!(
            !folder.path().join("program").exists(),
            "a program without its unit"
        );
    }

    #[test]
    fn a_path_that_systemd_would_read_otherwise_is_refused() {
        for path in ["/a b", "/a%n", "relative", "/a\n[Service]", "/a$HOME", "/a\"b"] {
            let error = shown(Path::new(path)).expect_err(path).to_string();
            assert!(error.contains("systemd unit"), "{error}");
        }
        assert_eq!(
            shown(Path::new("/opt/picket/guard")).expect("fine"),
            "/opt/picket/guard"
        );
    }
}
