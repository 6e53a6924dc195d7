//! `picket doctor`: what this machine can do for Picket, tried, as a table.

use std::ffi::OsStr;
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use clap::{Args, ValueEnum};

use crate::config::{self, Config, ConfigError};
use crate::kernel::preflight::{self, Attempt, Check, Kind, Status, Surroundings};

/// How the outcome is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Output {
    /// For people.
    Table,
    /// For programs: a list of objects with name, status, detail and advice.
    Json,
}

/// Every program is loaded, attached and used once, in a cgroup made for it.
#[derive(Debug, Args)]
pub(super) struct DoctorArgs {
    /// The node's configuration file, which names the folders the agent would use; by default /etc/picket/agent.yaml where
    /// it is there, and the agent's defaults where it is not
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The cgroup v2 folder, instead of the configured one
    #[arg(long, value_name = "FOLDER")]
    pub cgroup_root: Option<PathBuf>,
    /// The folder on a BPF filesystem, instead of the configured one
    #[arg(long, value_name = "FOLDER")]
    pub bpffs: Option<PathBuf>,
    /// How to write the outcome
    #[arg(short, long, value_enum, default_value = "table")]
    pub output: Output,
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
    if let Some([cgroup, address]) = args.probe.as_deref() {
        return probe(Path::new(cgroup), address);
    }
    if let Some([cgroup, address, kind]) = args.attempt.as_deref() {
        return attempt(Path::new(cgroup), address, kind);
    }
    if let Some(cgroup) = &args.give {
        return tell(preflight::give(cgroup, io::stdin()).map(|()| String::new()));
    }
    let surroundings = match surroundings(args) {
        Ok(surroundings) => surroundings,
        Err(error) => return super::fail(&error.into()),
    };
    let checks = preflight::run(&surroundings, &start_probe, &start_attempt);
    let text = match args.output {
        Output::Table => table(&checks),
        Output::Json => json(&checks),
    };
    // A reader that has gone away has seen enough; the exit code says the rest.
    let _ = io::stdout().write_all(text.as_bytes());
    let worst = checks
        .iter()
        .map(|check| check.status)
        .max()
        .unwrap_or(Status::Missing);
    if worst >= Status::Open {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}

/// The folders that the agent would use, unless others were given.
fn surroundings(args: &DoctorArgs) -> Result<Surroundings, ConfigError> {
    let usual = Path::new(config::DEFAULT_PATH);
    let all_given = args.cgroup_root.is_some() && args.bpffs.is_some();
    let kernel = match &args.config {
        Some(file) => Config::read(file)?.kernel,
        None if usual.exists() && !all_given => Config::read(usual)?.kernel,
        None => config::Kernel::default(),
    };
    Ok(Surroundings::new(
        args.cgroup_root.clone().or(kernel.cgroup_root),
        args.bpffs.clone().unwrap_or(kernel.bpffs),
    ))
}

/// The child's side of the redirect's trial.
fn probe(cgroup: &Path, address: &str) -> ExitCode {
    tell(
        read(address)
            .and_then(|address| preflight::dial(cgroup, address))
            .map(|peer| peer.to_string()),
    )
}

/// The child's side of a socket's trial.
fn attempt(cgroup: &Path, address: &str, kind: &str) -> ExitCode {
    let outcome = read(address).and_then(|address| {
        let kind = Kind::from_word(kind).ok_or_else(|| io::Error::other("no such kind"))?;
        preflight::attempt(kind, cgroup, address)
    });
    tell(outcome.map(|attempt| attempt.as_str().to_owned()))
}

fn read(address: &str) -> io::Result<SocketAddr> {
    address.parse().map_err(io::Error::other)
}

fn tell(outcome: io::Result<String>) -> ExitCode {
    match outcome {
        Ok(text) => {
            println!("{text}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
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

fn start_attempt(kind: Kind, cgroup: &Path, address: SocketAddr) -> io::Result<Attempt> {
    let stdin = if kind.is_given() {
        let (giver, taker) = UnixStream::pair()?;
        start("--give", &[cgroup.as_os_str()], OwnedFd::from(giver).into())?;
        OwnedFd::from(taker).into()
    } else {
        Stdio::null()
    };
    let address = address.to_string();
    let arguments = [cgroup.as_os_str(), address.as_ref(), kind.as_str().as_ref()];
    let said = start("--attempt", &arguments, stdin)?;
    Attempt::from_word(&said).ok_or_else(|| io::Error::other(said))
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

fn table(checks: &[Check]) -> String {
    let width = checks.iter().map(|check| check.name.len()).max().unwrap_or(0);
    let mut text = String::new();
    for check in checks {
        text.push_str(&format!(
            "{:width$}  {:8}  {}\n",
            check.name,
            check.status.as_str(),
            check.detail
        ));
        if let Some(advice) = &check.advice {
            text.push_str(&format!("{:width$}  {:8}  -> {advice}\n", "", ""));
        }
    }
    let worst = checks.iter().map(|check| check.status).max();
    text.push_str(match worst {
        Some(Status::Ok) => "Picket works here.\n",
        Some(Status::Degraded) => "Picket works here, with less than it could.\n",
        Some(Status::Open) => "Picket works here, and what is marked open gets past it.\n",
        Some(Status::Missing) | None => "Picket does not work here.\n",
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
        let check = |name, status, advice: Option<&str>| Check {
            name,
            status,
            detail: "seen".to_owned(),
            advice: advice.map(str::to_owned),
        };
        vec![
            check("kernel version", Status::Ok, None),
            check("cgroup v2", Status::Missing, Some("mount it")),
        ]
    }

    #[test]
    fn the_table_gives_advice_under_what_is_missing() {
        let text = table(&checks());
        assert_eq!(
            text,
            "kernel version  ok        seen\n\
             cgroup v2       missing   seen\n\
             \u{20}                         -> mount it\n\
             Picket does not work here.\n"
        );
    }

    #[test]
    fn programs_read_a_list() {
        let read: serde_json::Value = serde_json::from_str(&json(&checks())).unwrap();
        assert_eq!(read[1]["status"], "missing");
        assert_eq!(read[1]["advice"], "mount it");
        assert!(read[0]["advice"].is_null());
    }
}
