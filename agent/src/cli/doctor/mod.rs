//! `picket doctor`: what this machine can do for Picket, tried, as a table or JSON.
//!
//! In: the configuration file, and folders that replace its own. Out: a [`Check`] for each thing that the agent needs, and an
//! exit code that tells whether Picket works here. The API server is asked about the credentials and their rights
//! (credentials.rs; excess.rs; objects.rs says for which grants), and whether the configuration is this node's (node.rs).

pub(super) mod agents;
mod certificates;
mod cloud;
mod constrained;
mod credentials;
mod excess;
mod namespaced;
pub(super) mod needs;
mod node;
mod objects;
mod report;

use std::ffi::OsStr;
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, SystemTime};

use clap::{Args, ValueEnum};

use super::on_node::NodeArgs;
use super::{output, plugin};
use crate::admin::ON_NODE;
use crate::config::{Config, ConfigError, NodeCaSource};
use crate::kernel::doctor::{self, Check, CheckStatus, SocketKind, Surroundings, TrialOutcome};
use crate::kernel::{FailMode, cgroup_mount};
use crate::pki::ca::{CaSource, NodeCa};
use crate::workload::cgroup::{processes, scan};
use crate::workload::layout::is_manifest_hash;

/// The name of the check that comes first, where there is a configuration.
const CONFIGURATION: &str = "configuration";

/// The name of the check of static pods, and the programs that it looks for in them.
const STATIC_PODS: &str = "static pods";
const CONTROL_PLANE: [&str; 2] = ["kube-apiserver", "etcd"];

/// How long the files that a configuration names may take, with a plugin of the kubeconfig.
const LIMIT: Duration = Duration::from_secs(8);

/// From so many further checks on that were not made for the same reason, people see one line.
const FOLDED: usize = 3;

const HELP: &str = "\
Examples:
  picket doctor
  picket doctor --config /etc/picket/agent.yaml.new
  picket doctor -o json | jq '.[] | select(.status != \"ok\")'
  picket doctor --report > report.md
  picket doctor --node worker-1

With --node, the agent's pod runs it: that lacks the capabilities of the kernel's tests, so that these are not made there.

Exit codes: 0 Picket works here, perhaps with restrictions; 1 a check is missing or open, or could not be tested, or the configuration \
is not valid; 2 wrong usage.";

/// How the outcome is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Output {
    /// For people.
    Table,
    /// For programs: a list of objects with name, status, detail and advice.
    Json,
}

/// Loads, attaches and uses each kernel program once, in a cgroup of its own. The running agent is not disturbed.
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(super) struct DoctorArgs {
    /// The node's configuration file, whose files and folders are tested too. Default: /etc/picket/agent.yaml where that file
    /// exists, else the agent's own defaults
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The cgroup v2 folder, instead of the configured one
    #[arg(long, value_name = "FOLDER")]
    pub cgroup_root: Option<PathBuf>,
    /// The folder on the BPF filesystem, instead of the configured one
    #[arg(long, value_name = "FOLDER")]
    pub bpffs: Option<PathBuf>,
    /// How to print the result
    #[arg(short, long, value_enum, default_value = "table")]
    pub output: Output,
    /// Print the result as Markdown to paste into a report: with versions, and without secrets
    #[arg(long, conflicts_with = "output")]
    pub report: bool,
    #[command(flatten)]
    pub(super) node: NodeArgs,
    /// Be the pod of the redirect's trial: join this cgroup and dial this address
    #[arg(long, hide = true, num_args = 2, value_names = ["CGROUP", "ADDRESS"])]
    pub probe: Option<Vec<String>>,
    /// Be the pod of a socket's trial: join this cgroup and try this address with this kind of socket
    #[arg(long, hide = true, num_args = 3, value_names = ["CGROUP", "ADDRESS", "KIND"])]
    pub attempt: Option<Vec<String>>,
    /// Be the process beside the pod of this cgroup that makes a socket and gives it to the pod's, at standard input
    #[arg(long, hide = true, value_name = "CGROUP")]
    pub give: Option<PathBuf>,
}

/// Runs the checks and prints them. Fails when something is missing that Picket cannot do without, when something could not
/// be tried, or when there is a way past it.
pub(super) fn run(args: &DoctorArgs) -> ExitCode {
    let is_usual = args.cgroup_root.is_none() && args.bpffs.is_none() && args.probe.is_none();
    if is_usual
        && args.attempt.is_none()
        && args.give.is_none()
        && plugin::is_elsewhere(args.config.as_deref())
    {
        return crate::cli::fail(&anyhow::anyhow!(
            "doctor tries the node that it runs on. {ON_NODE}. `kubectl picket status` shows all nodes"
        ));
    }
    if let Some([cgroup, address]) = args.probe.as_deref() {
        return probe(Path::new(cgroup), address);
    }
    if let Some([cgroup, address, kind]) = args.attempt.as_deref() {
        return attempt(Path::new(cgroup), address, kind);
    }
    if let Some(cgroup) = &args.give {
        return tell(doctor::give(cgroup, io::stdin()).map(|()| String::new()));
    }
    let config = match configured(args) {
        Ok(config) => config,
        Err(error) if args.output == Output::Json || args.report => {
            let check = Check::bad(
                CONFIGURATION,
                CheckStatus::Missing,
                error.to_string(),
                "correct the file, or name another with --config",
            );
            return show(args, &[check]);
        }
        Err(error) => return crate::cli::fail(&error.into()),
    };
    let mut checks: Vec<_> = config
        .iter()
        .flat_map(|config| of_configuration(config, LIMIT))
        .collect();
    checks.extend(config.as_ref().and_then(static_pods));
    let kernel = config.map(|config| config.kernel).unwrap_or_default();
    let surroundings = Surroundings::new(
        args.cgroup_root.clone().or(kernel.cgroup_root),
        args.bpffs.clone().unwrap_or(kernel.bpffs),
    );
    checks.extend(doctor::run(&surroundings, &start_probe, &start_attempt));
    show(args, &checks)
}

fn show(args: &DoctorArgs, checks: &[Check]) -> ExitCode {
    let text = match args.output {
        _ if args.report => report::markdown(checks),
        Output::Table => table(checks),
        Output::Json => json(checks),
    };
    // A reader that has gone away has seen enough; the exit code says the rest.
    let _ = io::stdout().write_all(text.as_bytes());
    let worst = checks
        .iter()
        .map(|check| check.status)
        .max()
        .unwrap_or(CheckStatus::Missing);
    if worst >= CheckStatus::Open {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}

/// The configuration that the agent would use, unless all that is tried with it was given.
fn configured(args: &DoctorArgs) -> Result<Option<Config>, ConfigError> {
    if args.config.is_none() && args.cgroup_root.is_some() && args.bpffs.is_some() {
        return Ok(None);
    }
    crate::cli::configuration(args.config.as_deref())
}

/// What a configuration names: files and folders, and the API server with what the node's credentials may do there.
fn of_configuration(config: &Config, limit: Duration) -> Vec<Check> {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return vec![configuration(&[format!("not tested: {error}")])],
    };
    let looked_at = config.clone();
    let (faults, credentials) = runtime.block_on(async {
        tokio::join!(
            in_time(limit, async move {
                let mut faults = looked_at.unusable().await;
                faults.extend(served(&looked_at));
                faults
            }),
            credentials::checks(config, limit)
        )
    });
    // What still waits is left to end with the process.
    runtime.shutdown_background();
    let faults = faults.unwrap_or_else(|| vec![format!("not tested: {}", slow(limit))]);
    [
        vec![configuration(&faults), certificates::check(config)],
        credentials,
    ]
    .concat()
}

/// What a future brings, on a thread of its own, unless it takes longer: a plugin of a kubeconfig and a filesystem on the network
/// hold the thread that asks them.
async fn in_time<T: Send + 'static>(
    limit: Duration,
    work: impl Future<Output = T> + Send + 'static,
) -> Option<T> {
    let handle = tokio::runtime::Handle::current();
    let working = tokio::task::spawn_blocking(move || handle.block_on(work));
    tokio::time::timeout(limit, working).await.ok()?.ok()
}

/// What is said of what took longer.
fn slow(limit: Duration) -> String {
    format!(
        "the files, or the plugin of the kubeconfig, did not answer within {} s",
        limit.as_secs()
    )
}

/// What the agent would find wrong with the certificates that pods see. Files that cannot be read are found by others.
fn served(config: &Config) -> Vec<String> {
    let NodeCaSource::Files(files) = &config.tls.node_ca else {
        return Vec::new();
    };
    let are_files = [&files.certificate, &files.key].iter().all(|file| file.is_file());
    let source = are_files.then(|| CaSource::read(files).ok()).flatten();
    let ca = source.map(|source| NodeCa::parse(files, &source, SystemTime::now()).map(drop));
    let fault = ca.and_then(Result::err);
    fault.map(|error| format!("tls: {error}")).into_iter().collect()
}

/// Whether the files and folders that it names can be used.
fn configuration(faults: &[String]) -> Check {
    if faults.is_empty() {
        return Check::ok(CONFIGURATION, "its files and folders are usable");
    }
    Check::bad(
        CONFIGURATION,
        CheckStatus::Missing,
        faults.join("\n"),
        "correct the named lines, or create the missing files",
    )
}

/// Whether a control plane that runs here in static pods could start again. Nothing where none does.
fn static_pods(config: &Config) -> Option<Check> {
    let root = config
        .kernel
        .cgroup_root
        .clone()
        .or_else(|| cgroup_mount().ok())?;
    let pods = scan(&root, 0).ok()?.pods;
    let of_manifests = pods.iter().filter(|pod| is_manifest_hash(&pod.uid.0));
    let found = of_manifests
        .flat_map(|pod| processes(&pod.group.path))
        .filter_map(|(pid, _)| std::fs::read_to_string(format!("/proc/{pid}/comm")).ok())
        .find(|name| CONTROL_PLANE.contains(&name.trim()))?;
    let found = found.trim();
    Some(match config.enforce.static_pods {
        FailMode::Open => Check::ok(
            STATIC_PODS,
            format!("{found} is one; static pods are exempt until the API server reports them"),
        ),
        FailMode::Closed => Check::bad(
            STATIC_PODS,
            CheckStatus::Missing,
            format!("{found} is one; after a boot it would wait, closed, for the API server's report"),
            "set enforce.staticPods to failOpen before you start the agent",
        ),
    })
}

/// The child's side of the redirect's trial.
fn probe(cgroup: &Path, address: &str) -> ExitCode {
    tell(
        read(address)
            .and_then(|address| doctor::dial(cgroup, address))
            .map(|peer| peer.to_string()),
    )
}

/// The child's side of a socket's trial.
fn attempt(cgroup: &Path, address: &str, kind: &str) -> ExitCode {
    let outcome = read(address).and_then(|address| {
        let kind = SocketKind::from_word(kind).ok_or_else(|| io::Error::other("no such kind"))?;
        doctor::attempt(kind, cgroup, address)
    });
    tell(outcome.map(|attempt| attempt.as_str().to_owned()))
}

fn read(address: &str) -> io::Result<SocketAddr> {
    address.parse().map_err(io::Error::other)
}

fn tell(outcome: io::Result<String>) -> ExitCode {
    match outcome {
        Ok(text) => {
            output::say(format_args!("{text}"));
            ExitCode::SUCCESS
        }
        Err(error) => {
            output::warn(format_args!("{error}"));
            ExitCode::FAILURE
        }
    }
}

fn start_probe(cgroup: &Path, address: SocketAddr) -> io::Result<SocketAddr> {
    read(&start(
        "--probe",
        &[cgroup.as_os_str(), address.to_string().as_ref()],
        Stdio::null(),
    )?)
}

fn start_attempt(kind: SocketKind, cgroup: &Path, address: SocketAddr) -> io::Result<TrialOutcome> {
    let stdin = if kind.is_given() {
        let (outside, inside) = UnixStream::pair()?;
        start("--give", &[cgroup.as_os_str()], OwnedFd::from(outside).into())?;
        OwnedFd::from(inside).into()
    } else {
        Stdio::null()
    };
    let address = address.to_string();
    let arguments = [cgroup.as_os_str(), address.as_ref(), kind.as_str().as_ref()];
    let said = start("--attempt", &arguments, stdin)?;
    TrialOutcome::from_word(&said).ok_or_else(|| io::Error::other(said))
}

/// Starts this program again as the pod of a trial: only a process of its own can be in a cgroup of its own.
fn start(role: &str, arguments: &[&OsStr], stdin: Stdio) -> io::Result<String> {
    let output = Command::new(std::env::current_exe()?)
        .args(["doctor", role])
        .args(arguments)
        .stdin(stdin)
        .output()?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if !output.status.success() {
        return Err(io::Error::other(text(&output.stderr)));
    }
    Ok(text(&output.stdout))
}

/// Checks for people, with a name for each line: those in a row that were not made for the same reason are one.
fn folded(checks: &[Check]) -> Vec<(String, &Check)> {
    let alike = |one: &Check, other: &Check| {
        (one.status, &one.detail, &one.advice) == (other.status, &other.detail, &other.advice)
    };
    let mut lines = Vec::new();
    for same in checks.chunk_by(alike) {
        match same {
            [first, others @ ..] if others.len() >= FOLDED && first.is_untried() => {
                lines.push((format!("{} and {} more", first.name, others.len()), first));
            }
            few => lines.extend(few.iter().map(|check| (check.name.to_owned(), check))),
        }
    }
    lines
}

fn table(checks: &[Check]) -> String {
    let folded = folded(checks);
    let width = folded.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let mut text = String::new();
    for (name, check) in &folded {
        let advice = check.advice.iter().map(|advice| format!("-> {advice}"));
        let lines = check.detail.lines().map(str::to_owned).chain(advice);
        let (mut name, mut status) = (name.as_str(), check.status.as_str());
        for line in lines {
            text.push_str(&format!("{name:width$}  {status:8}  {line}\n"));
            (name, status) = ("", "");
        }
    }
    let worst = checks.iter().map(|check| check.status).max();
    let mut missing = checks.iter().filter(|check| check.status == CheckStatus::Missing);
    text.push_str(match worst {
        Some(CheckStatus::Ok) => "Picket works here.\n",
        Some(CheckStatus::Degraded) => {
            "Picket works here with restrictions: see the checks marked degraded.\n"
        }
        Some(CheckStatus::Open) => "Picket works here but can be bypassed: see the checks marked open.\n",
        Some(CheckStatus::Missing) if missing.all(Check::is_untried) => {
            "Whether Picket works here is not known: see the checks that were not tested.\n"
        }
        Some(CheckStatus::Missing) | None => "Picket does not work here: see the checks marked missing.\n",
    });
    text
}

fn json(checks: &[Check]) -> String {
    let list: Vec<_> = checks
        .iter()
        .map(|check| {
            serde_json::json!({
                "name": check.name,
                "status": check.status.as_str(),
                "detail": check.detail,
                "advice": check.advice,
            })
        })
        .collect();
    format!("{:#}\n", serde_json::Value::Array(list))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checks() -> Vec<Check> {
        vec![
            Check::ok("kernel version", "seen"),
            Check::bad("cgroup v2", CheckStatus::Missing, "seen\ntwice", "mount it"),
        ]
    }

    #[test]
    fn the_table_gives_advice_under_what_is_missing() {
        let text = table(&checks());
        assert_eq!(
            text,
            "kernel version  ok        seen\n\
             cgroup v2       missing   seen\n\
             \u{20}                         twice\n\
             \u{20}                         -> mount it\n\
             Picket does not work here: see the checks marked missing.\n"
        );
    }

    #[test]
    fn checks_that_were_not_made_are_one_line_and_say_nothing_of_the_node() {
        let untried = |name| Check {
            name,
            status: CheckStatus::Missing,
            detail: "not tested: needs a test cgroup".to_owned(),
            advice: None,
        };
        let mut checks = vec![
            Check::ok("kernel version", "seen"),
            untried("a"),
            untried("b"),
            untried("c"),
        ];
        let last = "Whether Picket works here is not known: see the checks that were not tested.\n";
        assert!(table(&checks).contains("\nc  "), "{}", table(&checks));
        checks.push(untried("d"));
        let text = table(&checks);
        assert_eq!(
            text,
            format!(
                "kernel version  ok        seen\n\
                 a and 3 more    missing   not tested: needs a test cgroup\n{last}"
            )
        );
        checks.push(Check::bad("e", CheckStatus::Missing, "seen", "mount it"));
        assert!(!table(&checks).ends_with(last), "{}", table(&checks));
        let read: serde_json::Value = serde_json::from_str(&json(&checks)).unwrap();
        assert_eq!(read.as_array().map(Vec::len), Some(6));
    }

    #[test]
    fn programs_read_a_list() {
        let read: serde_json::Value = serde_json::from_str(&json(&checks())).unwrap();
        assert_eq!(read[1]["status"], "missing");
        assert_eq!(read[1]["advice"], "mount it");
        assert!(read[0]["advice"].is_null());
    }
}
