//! `cargo xtask cluster`: a Kubernetes cluster on this machine, for people who want to play.
//!
//! In: up, down or shell, and the cluster's name. Out: a cluster that stays up when the command ends, its end, or a shell with
//! kubectl in it.

use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result};
use clap::Subcommand;
use picket_tests::build::GoProgram;
use picket_tests::cluster::{Cluster, ClusterOptions};
use picket_tests::images;
use picket_tests::release::Release;
use picket_tests::state::{StateFolder, check_name};
use picket_tests::sys::Placement;

const EXAMPLE: &str = "\
Example:
  cargo xtask cluster up --nodes 2
  cargo xtask cluster shell
  kubectl run hello --image picket.test/busybox:1 -- sleep 1000
  exit
  cargo xtask cluster down

An agent of your own runs inside a node: `up` prints the command that enters it. Give the agent's configuration \
`kernel: {cgroupRoot: FOLDER}` with the node's cgroup folder that `up` prints. /run, /var/lib and /var/log are the node's own; \
/etc and /opt are this machine's.";

/// What it can be told.
#[derive(clap::Args)]
#[command(after_help = EXAMPLE)]
pub(crate) struct ClusterArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Start a cluster and keep it running
    #[command(after_help = EXAMPLE)]
    Up {
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        kubernetes: Kubernetes,
        /// How many nodes
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=2))]
        nodes: u8,
        /// Leave out the image picket.test/tools:1 (kubectl, Python, busybox's shell, nc and wget; no curl)
        #[arg(long)]
        without_tools: bool,
    },
    /// Stop the cluster and remove everything of it
    Down {
        #[command(flatten)]
        which: Which,
    },
    /// A shell in the first node's network, with kubectl as administrator
    Shell {
        #[command(flatten)]
        which: Which,
        /// A command to run instead of a shell
        #[arg(trailing_var_arg = true)]
        command: Vec<String>,
    },
}

/// Which Kubernetes the cluster runs.
#[derive(clap::Args)]
pub(crate) struct Kubernetes {
    /// The release of Kubernetes: 1.34, 1.35 or 1.36. Without it PICKET_KUBERNETES says which; else it is the newest
    #[arg(long = "kubernetes", value_name = "RELEASE")]
    release: Option<Release>,
}

impl Kubernetes {
    /// Has this process run it.
    pub(crate) fn choose(&self) {
        if let Some(release) = self.release {
            release.choose();
        }
    }
}

#[derive(clap::Args)]
struct Which {
    /// The cluster's name, for more than one side by side: 1 to 8 lower-case letters and digits
    #[arg(long, default_value = "play", value_parser = name)]
    name: String,
}

/// A name that is refused before anything is built for it.
fn name(text: &str) -> Result<String> {
    check_name(text)?;
    Ok(text.to_owned())
}

/// Runs it.
pub(crate) fn run(args: ClusterArgs) -> Result<()> {
    let started = Instant::now();
    match args.action {
        Action::Up {
            which,
            kubernetes,
            nodes,
            without_tools,
        } => {
            kubernetes.choose();
            up(which.name, nodes, !without_tools)
        }
        Action::Down { which } => {
            StateFolder::open(&which.name)?.teardown()?;
            println!(
                "cluster {} is down after {:.1} s",
                which.name,
                started.elapsed().as_secs_f32()
            );
            Ok(())
        }
        Action::Shell { which, command } => shell(&which.name, &command),
    }
}

fn up(name: String, nodes: u8, with_tools: bool) -> Result<()> {
    // Built before the clock starts.
    GoProgram::Cluster.path()?;
    let images = if with_tools {
        vec![images::tools(&[])?]
    } else {
        Vec::new()
    };
    let started = Instant::now();
    let mut cluster = Cluster::up(ClusterOptions {
        nodes,
        name,
        images,
        ..ClusterOptions::default()
    })?;
    cluster.keep()?;
    let which = if cluster.name() == "play" {
        String::new()
    } else {
        format!(" --name {}", cluster.name())
    };
    println!(
        "cluster {} of Kubernetes {} is up after {:.1} s",
        cluster.name(),
        cluster.release().version(),
        started.elapsed().as_secs_f32()
    );
    for node in cluster.nodes() {
        println!(
            "  {}  {}  pods {}  cgroup {}",
            node.name,
            node.address,
            node.pod_cidr,
            node.cgroup.display()
        );
        println!(
            "    inside: nsenter --net={} --mount={} bash",
            node.netns.display(),
            node.mount_namespace().display()
        );
    }
    println!(
        "  images picket.test/busybox:1{}",
        if with_tools { ", picket.test/tools:1" } else { "" }
    );
    println!("  audit log {}", cluster.audit_log().display());
    println!("  component logs {}", cluster.node().dir.display());
    println!("shell:    cargo xtask cluster shell{which}");
    println!("          cargo xtask cluster shell{which} -- kubectl get pods -A");
    println!("stop:     cargo xtask cluster down{which}");
    Ok(())
}

fn shell(name: &str, command: &[String]) -> Result<()> {
    let cluster = Cluster::open(name)?;
    let default = std::env::var("SHELL").unwrap_or_else(|_| "/bin/sh".to_owned());
    let (program, arguments) = command
        .split_first()
        .map_or((&default, command), |(first, rest)| (first, rest));
    // Its search path holds the cluster's kubectl first. The program is looked up there too, so it goes through env.
    let path = format!(
        "{}:{}",
        cluster.bin().display(),
        std::env::var("PATH").unwrap_or_default()
    );
    let mut child = Command::new("/usr/bin/env");
    child
        .arg(program)
        .args(arguments)
        .env("PATH", path)
        .env("KUBECONFIG", cluster.kubeconfig());
    child.env("KUBECACHEDIR", cluster.dir().join("kubectl-cache"));
    Placement::new().net(&cluster.node().netns).apply(&mut child)?;
    // Only comes back if it cannot be run.
    Err(child.exec()).with_context(|| format!("run {program}"))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        cluster: ClusterArgs,
    }

    #[test]
    fn a_name_that_cannot_be_is_refused_before_the_build() {
        for (name, fits) in [
            ("play2", true),
            ("my-cluster", false),
            ("abcdefghi", false),
            ("", false),
        ] {
            for action in ["up", "down", "shell"] {
                let line = Line::try_parse_from(["cluster", action, "--name", name]);
                assert_eq!(line.is_ok(), fits, "{action} --name {name}");
                let said = line.err().map(|error| error.to_string()).unwrap_or_default();
                assert!(
                    fits || said.contains("1 to 8 lower-case letters and digits"),
                    "{said}"
                );
            }
        }
    }
}
