//! `picket reference`: the generated pages of the manual, and the JSON Schemas and CRDs of the objects, written from their types.
//!
//! In: a folder. Out: Markdown below `docs/reference` in it, JSON below `schemas`, and YAML below `crds`. `cargo xtask generate` calls this
//! for `deploy`, and `cargo xtask check` compares.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::{Command, CommandFactory};

use crate::{app, config};

/// Arguments of `picket reference`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The folder, which is made where it is missing
    #[arg(value_name = "FOLDER")]
    folder: PathBuf,
}

pub(super) fn run(args: &Args) -> ExitCode {
    match write(&args.folder) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => super::fail(&error),
    }
}

fn write(folder: &Path) -> anyhow::Result<()> {
    for (name, text) in files() {
        let file = folder.join(name);
        let parent = file.parent().unwrap_or(folder);
        fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
        fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(())
}

/// Every generated file, by its path.
fn files() -> Vec<(String, String)> {
    let page = |name: &str, text| (format!("docs/reference/{name}.md"), text);
    let mut files = vec![
        page("cli", commands(super::Cli::command())),
        page("configuration", config::reference()),
        page("metrics", app::metrics_reference()),
    ];
    let tests = picket_policy::testing::test_schemas();
    let schemas = picket_policy::api::schemas().into_iter().chain(tests);
    files.extend(schemas.map(|(name, text)| (format!("schemas/{name}"), text)));
    let crds = picket_policy::api::crd_files().into_iter();
    files.extend(crds.map(|(name, text)| (format!("crds/{name}"), text)));
    files
}

/// The page of all commands that are not hidden.
fn commands(mut root: Command) -> String {
    root.build();
    let mut page = String::from("# Command reference\n\nEvery command of the binary `picket`.\n");
    section(&mut page, &root, root.get_name());
    page
}

/// One command, and those below it.
fn section(page: &mut String, command: &Command, name: &str) {
    let shown = command.get_subcommands().filter(|below| !below.is_hide_set());
    let below: Vec<&Command> = shown.filter(|below| below.get_name() != "help").collect();
    // Writing to a String cannot fail.
    let _ = write!(page, "\n## `{name}`\n\n{}\n", about(command));
    let mut usage = command.clone();
    let usage = usage.render_usage().to_string();
    let _ = write!(page, "\n```text\n{}\n```\n", usage.trim_start_matches("Usage: "));
    table(
        page,
        "command",
        below
            .iter()
            .map(|below| (format!("`{name} {}`", below.get_name()), summary(below))),
    );
    table(
        page,
        "argument",
        command
            .get_arguments()
            .filter(|argument| !argument.is_hide_set() && !is_everywhere(argument))
            .map(|argument| (format!("`{}`", spelled(argument)), meaning(argument))),
    );
    if let Some(after) = command.get_after_help() {
        let _ = write!(page, "\n```text\n{}\n```\n", after.to_string().trim_end());
    }
    for command in below {
        section(page, command, &format!("{name} {}", command.get_name()));
    }
}

fn table(page: &mut String, heading: &str, rows: impl Iterator<Item = (String, String)>) {
    let mut rows = rows.peekable();
    if rows.peek().is_some() {
        let _ = write!(page, "\n| {heading} | meaning |\n|---|---|\n");
    }
    for (name, meaning) in rows {
        // A bar would end the cell.
        let (name, meaning) = (name.replace('|', "\\|"), meaning.replace('|', "\\|"));
        let _ = writeln!(page, "| {name} | {meaning} |");
    }
}

/// The first paragraph of a command's meaning: a cell of a table holds no empty line.
fn summary(command: &Command) -> String {
    sentence(command.get_about().map(ToString::to_string).unwrap_or_default())
}

fn about(command: &Command) -> String {
    let text = command.get_long_about().or_else(|| command.get_about());
    sentence(text.map(ToString::to_string).unwrap_or_default())
}

/// clap drops the full stop at the end of a text.
fn sentence(mut text: String) -> String {
    if !text.is_empty() && !text.ends_with(['.', ':']) {
        text.push('.');
    }
    text
}

/// Whether every command has it.
fn is_everywhere(argument: &clap::Arg) -> bool {
    matches!(argument.get_id().as_str(), "help" | "version")
}

/// `--config <FILE>`, `-f, --follow`, `<PATH>...`.
fn spelled(argument: &clap::Arg) -> String {
    let takes_value = argument.get_action().takes_values();
    let names = argument.get_value_names().unwrap_or_default();
    let values: Vec<String> = names.iter().map(|name| format!("<{name}>")).collect();
    let mut text = match (argument.get_short(), argument.get_long()) {
        (Some(short), Some(long)) => format!("-{short}, --{long}"),
        (Some(short), None) => format!("-{short}"),
        (None, Some(long)) => format!("--{long}"),
        (None, None) => String::new(),
    };
    if takes_value {
        if !text.is_empty() {
            text.push(' ');
        }
        text.push_str(&values.join(" "));
        if argument
            .get_num_args()
            .is_some_and(|count| count.max_values() > 1)
        {
            text.push_str("...");
        }
    }
    text
}

fn meaning(argument: &clap::Arg) -> String {
    let help = argument.get_long_help().or_else(|| argument.get_help());
    // One line, since a cell has one.
    let help = help.map(|help| help.to_string().replace('\n', " "));
    let mut text = sentence(help.unwrap_or_default());
    let choices: Vec<String> = argument
        .get_possible_values()
        .iter()
        .filter(|value| argument.get_action().takes_values() && !value.is_hide_set())
        .map(|value| format!("`{}`", value.get_name()))
        .collect();
    if !choices.is_empty() {
        let _ = write!(text, " One of {}.", choices.join(", "));
    }
    let defaults: Vec<String> = argument
        .get_default_values()
        .iter()
        .filter(|value| argument.get_action().takes_values() && !value.is_empty())
        .map(|value| format!("`{}`", value.to_string_lossy()))
        .collect();
    if !defaults.is_empty() {
        let _ = write!(text, " Default: {}.", defaults.join(", "));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_and_argument_that_help_shows_is_on_the_page() {
        let page = commands(super::super::Cli::command());
        for words in [
            "## `picket agent`\n",
            "## `picket ca create`\n",
            "| `--out <DIR>` | The folder. |",
            "| `picket policy check` |",
            "Default: `picket node CA`.",
        ] {
            assert!(page.contains(words), "{words} is not in:\n{page}");
        }
        assert!(
            !page.contains("picket reference") && !page.contains("--help"),
            "{page}"
        );
    }

    #[test]
    fn values_that_help_hides_and_empty_defaults_are_not_on_the_page() {
        let page = commands(super::super::Cli::command());
        assert!(
            page.contains("One of `allow`, `deny`, `masked`, `error`, `unknown`."),
            "{page}"
        );
        assert!(!page.contains("--own-namespace"), "{page}");
        assert!(!page.contains("Default: ``"), "{page}");
    }

    #[test]
    fn a_row_of_a_table_is_one_line() {
        let page = commands(super::super::Cli::command());
        let rows: Vec<_> = page.lines().filter(|line| line.starts_with("| `")).collect();
        assert!(!rows.is_empty(), "{page}");
        for row in rows {
            assert!(row.ends_with(" |"), "{row}");
        }
    }

    #[test]
    fn the_files_are_written_where_they_belong() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path()).unwrap();
        let page = fs::read_to_string(folder.path().join("docs/reference/configuration.md")).unwrap();
        assert!(
            page.contains("| `cluster.kubeconfig` | path | required |"),
            "{page}"
        );
    }
}
