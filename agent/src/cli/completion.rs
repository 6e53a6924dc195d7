//! `picket completion`: a script by which a shell completes command lines; and the names that it offers.
//!
//! In: the name of a shell. Out: the script on standard output. The script runs `picket` with `COMPLETE` set for each completion, so
//! that names of objects are those of the moment.

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, CommandFactory as _, ValueEnum};
use clap_complete::CompleteEnv;
use clap_complete::engine::{ArgValueCandidates, CompletionCandidate};
use clap_complete::env::Shells;

use super::Cli;
use super::target::names::within;
use crate::cluster::PersonalConfig;
use crate::store::edit::ObjectFiles;

/// The variable by which a script asks for completions.
const VARIABLE: &str = "COMPLETE";

/// How long a person waits for names of the cluster.
const LIMIT: Duration = Duration::from_secs(1);

const HELP: &str = "\
Examples:
  source <(picket completion bash)
  picket completion zsh > ~/.zfunc/_picket
  picket completion fish > ~/.config/fish/completions/picket.fish

The names of identities and grants are offered: of files that /etc/picket/agent.yaml names and that can be read, and of objects in the \
cluster where that file has `objects: {cluster: true}` or is not there. The kubeconfig is the one that the commands use. An API server \
that does not answer within a second gives no names.

Exit codes: 0 success, 2 wrong usage.";

/// Print a completion script.
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(super) struct CompletionArgs {
    /// The shell.
    shell: Shell,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Shell {
    /// GNU Bash, with the package bash-completion.
    Bash,
    /// Z shell.
    Zsh,
    /// fish.
    Fish,
}

impl Shell {
    fn name(self) -> &'static str {
        match self {
            Self::Bash => "bash",
            Self::Zsh => "zsh",
            Self::Fish => "fish",
        }
    }
}

/// Answers a completion script where one asks, and ends the process then.
pub(super) fn answer() {
    CompleteEnv::with_factory(Cli::command).var(VARIABLE).complete();
}

pub(super) fn run(args: &CompletionArgs) -> ExitCode {
    let mut script = Vec::new();
    let written = Shells::builtins()
        .completer(args.shell.name())
        .ok_or_else(|| io::Error::other("this shell is not known"))
        .and_then(|shell| shell.write_registration(VARIABLE, "picket", "picket", "picket", &mut script))
        .and_then(|()| io::stdout().lock().write_all(&script));
    match written {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => super::fail(&error.into()),
        _ => ExitCode::SUCCESS,
    }
}

/// The names of the identities, in the files that the node's configuration names and in the cluster; none that cannot be read.
pub(super) fn identities() -> ArgValueCandidates {
    ArgValueCandidates::new(|| names("AgentIdentity"))
}

/// Likewise of the grants.
pub(super) fn grants() -> ArgValueCandidates {
    ArgValueCandidates::new(|| names("AgentGrant"))
}

fn names(kind: &'static str) -> Vec<CompletionCandidate> {
    // A person who may not read the node's configuration has a kubeconfig, or no names.
    let config = super::configuration(None).ok().flatten();
    let (files, has_cluster, otherwise) = match config {
        Some(config) => (
            config.objects.files,
            config.objects.cluster,
            Some(config.cluster.kubeconfig),
        ),
        None => (Vec::new(), true, None),
    };
    let mut names = in_files(&files, has_cluster, kind);
    if has_cluster {
        let person = PersonalConfig {
            otherwise,
            ..PersonalConfig::default()
        };
        names.extend(within(person, kind, LIMIT));
    }
    names.sort();
    names.dedup();
    names.into_iter().map(CompletionCandidate::new).collect()
}

fn in_files(files: &[PathBuf], of_cluster: bool, kind: &str) -> Vec<String> {
    let Ok(files) = ObjectFiles::read_faulty_beside(files, of_cluster) else {
        return Vec::new();
    };
    let of_kind = files.documents().filter(|document| document.kind() == kind);
    of_kind.map(|document| document.name().to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shell_has_a_script_that_asks_picket() {
        for shell in Shell::value_variants() {
            let mut script = Vec::new();
            let shells = Shells::builtins();
            let completer = shells
                .completer(shell.name())
                .unwrap_or_else(|| panic!("{shell:?}"));
            completer
                .write_registration(VARIABLE, "picket", "picket", "picket", &mut script)
                .expect("written");
            let script = String::from_utf8(script).expect("text");
            assert!(script.contains(VARIABLE) && script.contains("picket"), "{script}");
        }
    }
}
