//! `picket man`: man pages of all commands.
//!
//! In: a folder, or none. Out: a page a command in the folder, or the first page on standard output.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Args, CommandFactory as _};
use clap_mangen::Man;

use super::Cli;
use super::output::{self, clean};

const HELP: &str = "\
Examples:
  picket man | man -l -
  picket man --out ~/.local/share/man/man1

Exit codes: 0 success, 1 a page cannot be written, 2 wrong usage.";

/// Write man pages.
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(super) struct ManArgs {
    /// The folder for the pages, one a command, which is made where it is missing. Default: the page of `picket` alone, on standard
    /// output.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

pub(super) fn run(args: &ManArgs) -> ExitCode {
    let written = match &args.out {
        Some(folder) => pages(folder),
        None => first(),
    };
    match written {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if output::reader_went(&error) => ExitCode::SUCCESS,
        Err(error) => super::fail(&error),
    }
}

fn pages(folder: &Path) -> anyhow::Result<()> {
    let shown = clean(&folder.display().to_string());
    std::fs::create_dir_all(folder).with_context(|| format!("cannot make {shown}"))?;
    clap_mangen::generate_to(Cli::command(), folder).with_context(|| format!("cannot write into {shown}"))
}

fn first() -> anyhow::Result<()> {
    let mut page = Vec::new();
    Man::new(Cli::command()).render(&mut page)?;
    io::stdout().lock().write_all(&page)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// The names of the pages of a command and of those below it.
    fn names(command: &clap::Command, name: &str, found: &mut BTreeSet<String>) {
        found.insert(format!("{name}.1"));
        let shown = command.get_subcommands().filter(|below| !below.is_hide_set());
        for below in shown {
            names(below, &format!("{name}-{}", below.get_name()), found);
        }
    }

    #[test]
    fn every_command_that_help_shows_has_a_page() {
        let folder = tempfile::tempdir().expect("a folder");
        let into = folder.path().join("man1");
        pages(&into).expect("written");
        let written: BTreeSet<String> = std::fs::read_dir(&into)
            .expect("the folder")
            .map(|entry| entry.expect("a page").file_name().to_string_lossy().into_owned())
            .collect();
        let mut wanted = BTreeSet::new();
        names(&Cli::command(), "picket", &mut wanted);
        assert_eq!(written, wanted);
        assert!(written.contains("picket-status.1") && written.contains("picket-policy-check.1"));
        let page = std::fs::read_to_string(into.join("picket-status.1")).expect("a page");
        assert!(page.contains(".TH") && page.contains("expiring"), "{page}");
    }
}
