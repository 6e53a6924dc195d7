//! `picket` as a plugin of kubectl: `kubectl picket ...`, and its completion.
//!
//! In: the name that the binary was started by. Out: the command as people typed it in all help; and for `kubectl_complete-picket`
//! the completions of a command line, as kubectl reads them.
//!
//! kubectl runs a program `kubectl-picket` of its PATH with the arguments behind `kubectl picket`, and for completions a program
//! `kubectl_complete-picket` with the words so far, the last of which may be empty (k8s.io/kubectl pkg/cmd/plugin).

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::Path;

use clap::Command;

use crate::config::DEFAULT_PATH;

/// How the binary was started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Invocation {
    /// As itself.
    Picket,
    /// By `kubectl picket`.
    Plugin,
    /// By kubectl, for completions.
    Complete,
}

/// What the plugin's users type.
const TYPED: &str = "kubectl picket";

/// To kubectl: no file names in place of these (cobra's `ShellCompDirectiveNoFileComp`).
const NO_FILES: &str = ":4";
/// To kubectl: nothing in particular (cobra's `ShellCompDirectiveDefault`), so that the shell offers file names.
const DEFAULT: &str = ":0";

impl Invocation {
    /// By the name that the process has.
    pub(super) fn of(name: Option<&OsString>) -> Self {
        let name = name.and_then(|name| Path::new(name).file_name());
        match name.and_then(|name| name.to_str()) {
            Some("kubectl-picket") => Self::Plugin,
            Some("kubectl_complete-picket") => Self::Complete,
            _ => Self::Picket,
        }
    }
}

/// Whether a command about the node that it runs on was started by `kubectl picket` on a machine that is none: no configuration is there.
pub(super) fn is_elsewhere(config: Option<&Path>) -> bool {
    let invocation = Invocation::of(std::env::args_os().next().as_ref());
    invocation == Invocation::Plugin && config.is_none() && !Path::new(DEFAULT_PATH).exists()
}

/// The command as the plugin's users type it.
pub(super) fn typed(command: Command) -> Command {
    renamed(command).bin_name(TYPED)
}

/// The examples of a command and of those below it.
fn renamed(mut command: Command) -> Command {
    if let Some(help) = command.get_after_help().map(ToString::to_string) {
        command = command.after_help(examples(&help));
    }
    command.mut_subcommands(renamed)
}

/// A text with `picket` at the beginning of a command as it is typed.
fn examples(help: &str) -> String {
    let mut text = String::new();
    for line in help.split_inclusive('\n') {
        match line.strip_prefix("  picket ") {
            Some(rest) => text.push_str(&format!("  {TYPED} {rest}")),
            None => text.push_str(line),
        }
    }
    text
}

/// Writes the completions of the last word.
pub(super) fn complete(mut command: Command, words: &[OsString], out: &mut dyn Write) -> io::Result<()> {
    let mut line = vec![OsString::from("picket")];
    line.extend_from_slice(words);
    if line.len() == 1 {
        line.push(OsString::new());
    }
    let last = line.len() - 1;
    let candidates = clap_complete::engine::complete(&mut command, line, last, None)?;
    let mut found = false;
    for candidate in candidates.iter().filter(|candidate| !candidate.is_hide_set()) {
        let Some(value) = candidate.get_value().to_str() else {
            continue;
        };
        found = true;
        let help = candidate.get_help().map(ToString::to_string).unwrap_or_default();
        match help.lines().next().filter(|help| !help.is_empty()) {
            Some(help) => writeln!(out, "{value}\t{help}")?,
            None => writeln!(out, "{value}")?,
        }
    }
    writeln!(out, "{}", if found { NO_FILES } else { DEFAULT })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use clap::CommandFactory as _;

    use super::*;
    use crate::cli::Cli;

    #[test]
    fn the_name_of_the_process_tells_how_it_was_started() {
        for (name, invocation) in [
            ("/usr/local/bin/kubectl-picket", Invocation::Plugin),
            ("kubectl_complete-picket", Invocation::Complete),
            ("/usr/local/bin/picket", Invocation::Picket),
            ("kubectl-picket-old", Invocation::Picket),
        ] {
            assert_eq!(Invocation::of(Some(&name.into())), invocation, "{name}");
        }
        assert_eq!(Invocation::of(None), Invocation::Picket);
    }

    #[test]
    fn the_manifest_for_krew_names_this_plugin_and_version_and_its_binary() {
        let text = include_str!("../../../deploy/krew/picket.yaml");
        let manifest: serde_json::Value = serde_saphyr::from_str(text).expect("YAML");
        assert_eq!(
            manifest["apiVersion"],
            "krew.googlecontainertools.github.com/v1alpha2"
        );
        assert_eq!(
            (&manifest["kind"], &manifest["metadata"]["name"]),
            (&"Plugin".into(), &"picket".into())
        );
        let (spec, version) = (&manifest["spec"], concat!("v", env!("CARGO_PKG_VERSION")));
        assert_eq!(spec["version"], version);
        // Krew's index takes a short description without a full stop.
        let short = spec["shortDescription"].as_str().expect("a text");
        assert!(
            !short.is_empty() && short.len() <= 60 && !short.ends_with('.'),
            "{short}"
        );
        let platforms = spec["platforms"].as_array().expect("a list");
        let mut names = BTreeSet::new();
        for platform in platforms {
            let labels = &platform["selector"]["matchLabels"];
            let (os, arch) = (labels["os"].as_str(), labels["arch"].as_str());
            let name = format!("{}-{}", os.expect("a system"), arch.expect("an architecture"));
            let uri = platform["uri"].as_str().expect("a place");
            assert!(
                uri.ends_with(&format!("/picket-{version}-{name}.tar.gz")),
                "{uri}"
            );
            let sum = name.to_uppercase().replace('-', "_");
            assert_eq!(platform["sha256"], format!("SHA256_{sum}"));
            let files = platform["files"].as_array().expect("files");
            assert!(
                files.iter().any(|file| file["to"] == platform["bin"]),
                "{platform}"
            );
            names.insert(name);
        }
        assert_eq!(
            names,
            BTreeSet::from(["linux-amd64".to_owned(), "linux-arm64".to_owned()])
        );
    }

    #[test]
    fn help_shows_what_the_plugins_users_type() {
        let error = typed(Cli::command())
            .try_get_matches_from(["kubectl-picket", "identity", "revoke", "--help"])
            .expect_err("help");
        let help = error.to_string();
        assert!(help.contains("Usage: kubectl picket identity revoke "), "{help}");
        assert!(
            help.contains("\n  kubectl picket identity revoke triage"),
            "{help}"
        );
        assert!(!help.contains("\n  picket "), "{help}");
    }

    fn completed(words: &[&str]) -> String {
        let words: Vec<_> = words.iter().map(OsString::from).collect();
        let mut out = Vec::new();
        complete(Cli::command(), &words, &mut out).expect("completions");
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn completions_are_as_kubectl_reads_them() {
        let commands = completed(&["identity", "re"]);
        let names: BTreeSet<_> = commands
            .lines()
            .filter_map(|line| line.split('\t').next())
            .collect();
        assert_eq!(
            names,
            BTreeSet::from(["review", "resume", "revoke", NO_FILES]),
            "{commands}"
        );
        assert!(completed(&[]).contains("identity\t"), "{}", completed(&[]));
        assert!(completed(&["grant", "rbac", "--pl"]).starts_with("--plain\t"));
        assert!(completed(&["grant", "rbac", "-o", ""]).contains("yaml"));
        // A hidden command is none to offer.
        assert!(!completed(&[""]).lines().any(|line| line.starts_with("reference")));
    }
}
