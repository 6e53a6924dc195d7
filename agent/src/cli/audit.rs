//! `picket audit`: reads audit logs for people, and verifies their hash chains.
//!
//! In: files that the agent writes (`crate::audit`), rotated or live. Out: a line per event on standard output.

mod filter;
mod read;
mod view;

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufRead, BufReader, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};

use self::filter::Filter;
use self::read::{Backwards, Follower};
use self::view::View;
use crate::audit::DEFAULT_FILE;
use crate::audit::chain::Verifier;

/// How often a followed file is looked at: quick for a person, cheap for the node.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// Lines shown when nothing says how many.
const LINES: usize = 20;

/// Breaks listed for one file; the rest are counted.
const BREAKS_SHOWN: usize = 20;

/// Read and verify audit logs.
#[derive(Debug, Args)]
pub(super) struct Audit {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Tail(Tail),
    Verify(Verify),
}

/// Show the last events of an audit log, one a line, and follow it with -f.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  picket audit tail -f                                  what happens now, across log rotation
  picket audit tail --outcome deny --since 1h           what was refused in the last hour
  picket audit tail --identity reader --verb create,delete -n 100
  picket audit tail --namespace prod -o json | jq .     whole events
  kubectl logs -n picket-system ds/picket | picket audit tail -

Writes and sessions have a first line too, stored before they took effect; --all-stages shows it.
Only the named file is read, not the rotated ones before it.")]
struct Tail {
    /// The log; `-` is standard input.
    #[arg(default_value = DEFAULT_FILE)]
    file: PathBuf,
    /// Wait for more events; goes on with the new file when the log is rotated.
    #[arg(short, long)]
    follow: bool,
    /// Show this many of the last matching events [default: 20; with --since all].
    #[arg(short = 'n', long)]
    lines: Option<usize>,
    #[command(flatten)]
    filter: Filter,
    /// Print text for people, or the stored lines as they are.
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    /// A line for people.
    Text,
    /// The stored lines.
    Json,
}

/// Verify the hash chain of audit logs.
///
/// Shows lines that were changed, moved or taken out. Lines cut off at the very end, with nothing written since,
/// cannot be seen from the file alone.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  picket audit verify
  picket audit verify audit.jsonl.2 audit.jsonl.1 audit.jsonl

Give the files of one node in the order they were written, the oldest first. Exit status: 0 when every chain is
whole, 1 when one is broken, 2 when a file cannot be read.")]
struct Verify {
    /// The logs, the oldest first.
    #[arg(default_value = DEFAULT_FILE)]
    files: Vec<PathBuf>,
}

impl Audit {
    /// Runs the command.
    pub(super) fn run(self) -> ExitCode {
        let result = match self.command {
            Command::Tail(tail) => tail.run(&mut io::stdout().lock()).map(|()| ExitCode::SUCCESS),
            Command::Verify(verify) => verify.run(&mut io::stdout().lock()),
        };
        match result {
            Ok(code) => code,
            // Who read the output has seen enough, as `head` does.
            Err(Failure::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
            Err(failure) => {
                eprintln!("picket audit: {failure}");
                ExitCode::from(2)
            }
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("{0}")]
    Output(#[source] io::Error),
    #[error("{file}: {source}{hint}")]
    Input {
        file: String,
        source: io::Error,
        hint: &'static str,
    },
}

impl Failure {
    fn input(file: &Path, source: io::Error) -> Self {
        let hint = match source.kind() {
            io::ErrorKind::NotFound if file == Path::new(DEFAULT_FILE) => {
                " (does the agent run on this node? Another file can be named as an argument)"
            }
            io::ErrorKind::PermissionDenied => " (the audit log is for root alone)",
            _ => "",
        };
        Self::Input {
            file: file.display().to_string(),
            source,
            hint,
        }
    }
}

impl Tail {
    fn run(self, out: &mut dyn Write) -> Result<(), Failure> {
        let view = match self.output {
            Output::Json => None,
            Output::Text => {
                let no_colour = std::env::var_os("NO_COLOR").is_some_and(|set| !set.is_empty());
                Some(View::new(io::stdout().is_terminal() && !no_colour))
            }
        };
        let mut printer = Printer {
            out,
            filter: &self.filter,
            view,
        };
        if self.file == Path::new("-") {
            printer.header()?;
            return self.standard_input(&mut printer);
        }
        let failed = |error| Failure::input(&self.file, error);
        let mut follower = match Follower::open(&self.file) {
            Ok(follower) => follower,
            Err(error) if self.follow && error.kind() == io::ErrorKind::NotFound => {
                eprintln!(
                    "picket audit: {} is not there yet; waiting for it",
                    self.file.display()
                );
                Follower::waiting(&self.file)
            }
            Err(error) => return Err(failed(error)),
        };
        printer.header()?;
        for line in self.last_lines(&mut follower).map_err(failed)? {
            printer.line(&line)?;
        }
        printer.flush()?;
        if !self.follow {
            return Ok(());
        }
        loop {
            let mut wrote = Ok(());
            follower
                .more(|line| {
                    if wrote.is_ok() {
                        wrote = printer.matching(line);
                    }
                })
                .map_err(failed)?;
            wrote?;
            printer.flush()?;
            std::thread::sleep(LOOK_AGAIN);
        }
    }

    /// How many lines to show at first.
    fn limit(&self) -> usize {
        self.lines.unwrap_or(if self.filter.is_bounded() {
            usize::MAX
        } else {
            LINES
        })
    }

    /// The last matching lines of the file as it is now, read from its end.
    fn last_lines(&self, follower: &mut Follower) -> io::Result<Vec<Vec<u8>>> {
        let Some(file) = follower.seek_end()? else {
            return Ok(Vec::new());
        };
        let mut lines = Vec::new();
        let mut backwards = Backwards::new(file)?;
        while lines.len() < self.limit()
            && let Some(line) = backwards.next()?
        {
            match self.filter.judge(&line) {
                filter::Verdict::Show => lines.push(line),
                filter::Verdict::Skip => {}
                // Lines stand in the order of their time, but for a few milliseconds.
                filter::Verdict::TooOld => break,
            }
        }
        lines.reverse();
        Ok(lines)
    }

    /// Lines of standard input: as they come with -f, else the last ones at its end.
    fn standard_input(&self, printer: &mut Printer<'_>) -> Result<(), Failure> {
        let failed = |error| Failure::input(Path::new("-"), error);
        let limit = self.limit();
        let mut kept = VecDeque::new();
        let mut input = io::stdin().lock();
        let mut line = Vec::new();
        loop {
            line.clear();
            if input.read_until(b'\n', &mut line).map_err(failed)? == 0 {
                break;
            }
            let text = line.strip_suffix(b"\n").unwrap_or(&line);
            if self.follow {
                printer.matching(text)?;
                printer.flush()?;
            } else if self.filter.judge(text) == filter::Verdict::Show {
                if kept.len() >= limit {
                    kept.pop_front();
                }
                if limit > 0 {
                    kept.push_back(text.to_owned());
                }
            }
        }
        for line in kept {
            printer.line(&line)?;
        }
        printer.flush()
    }
}

struct Printer<'a> {
    out: &'a mut dyn Write,
    filter: &'a Filter,
    /// `None` prints the stored lines.
    view: Option<View>,
}

impl Printer<'_> {
    fn header(&mut self) -> Result<(), Failure> {
        match &self.view {
            Some(view) => writeln!(self.out, "{}", view.header()).map_err(Failure::Output),
            None => Ok(()),
        }
    }

    fn matching(&mut self, line: &[u8]) -> Result<(), Failure> {
        if self.filter.judge(line) == filter::Verdict::Show {
            self.line(line)
        } else {
            Ok(())
        }
    }

    fn line(&mut self, line: &[u8]) -> Result<(), Failure> {
        match &self.view {
            None => self.out.write_all(line).and_then(|()| self.out.write_all(b"\n")),
            Some(view) => match serde_json::from_slice(line) {
                Ok(event) => writeln!(self.out, "{}", view.line(&event)),
                Err(_) => Ok(()),
            },
        }
        .map_err(Failure::Output)
    }

    fn flush(&mut self) -> Result<(), Failure> {
        self.out.flush().map_err(Failure::Output)
    }
}

impl Verify {
    fn run(&self, out: &mut dyn Write) -> Result<ExitCode, Failure> {
        let mut verifier = Verifier::default();
        let mut whole = true;
        for (index, path) in self.files.iter().enumerate() {
            let failed = |error| Failure::input(path, error);
            let report = verifier
                .file(BufReader::new(File::open(path).map_err(failed)?))
                .map_err(failed)?;
            whole &= report.breaks.is_empty();
            let mut text = format!(
                "{}: {} lines, {} new chains, {}",
                path.display(),
                report.good,
                report.chains,
                if report.breaks.is_empty() {
                    "unbroken"
                } else {
                    "BROKEN"
                }
            );
            if index == 0
                && let Some(first) = report.first_seq.filter(|first| *first > 1)
            {
                text.push_str(&format!(
                    "; begins at number {first} of a chain, so earlier lines are elsewhere"
                ));
            }
            if report.torn > 0 {
                text.push_str(&format!("; {} pieces that are no audit lines", report.torn));
            }
            writeln!(out, "{text}").map_err(Failure::Output)?;
            for found in report.breaks.iter().take(BREAKS_SHOWN) {
                writeln!(out, "  {found}").map_err(Failure::Output)?;
            }
            if report.breaks.len() > BREAKS_SHOWN {
                writeln!(out, "  and {} more", report.breaks.len() - BREAKS_SHOWN)
                    .map_err(Failure::Output)?;
            }
        }
        out.flush().map_err(Failure::Output)?;
        Ok(if whole {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Program {
        #[command(flatten)]
        audit: Audit,
    }

    fn tail(words: &[&str]) -> Tail {
        let words = ["picket", "tail"].iter().chain(words);
        match Program::try_parse_from(words).expect("parses").audit.command {
            Command::Tail(tail) => tail,
            Command::Verify(_) => panic!("tail was asked for"),
        }
    }

    fn event(number: usize, outcome: &str) -> String {
        format!(
            r#"{{"kind":"Event","stage":"ResponseComplete","verb":"get","requestURI":"/x/{number}","stageTimestamp":"2026-01-02T03:04:{:02}.000000Z","decision":{{"outcome":"{outcome}"}}}}"#,
            number % 60
        )
    }

    fn scratch(text: &str) -> PathBuf {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let next = NEXT.fetch_add(1, Ordering::Relaxed);
        let file = std::env::temp_dir().join(format!("picket-tail-{}-{next}.jsonl", std::process::id()));
        std::fs::write(&file, text).expect("writes");
        file
    }

    fn shown(words: &[&str], text: &str) -> String {
        let file = scratch(text);
        let mut out = Vec::new();
        let words: Vec<&str> = words
            .iter()
            .copied()
            .chain([file.to_str().expect("a plain path")])
            .collect();
        tail(&words).run(&mut out).expect("runs");
        std::fs::remove_file(&file).expect("cleans up");
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn json_passes_the_last_matching_lines_as_they_are() {
        let lines: Vec<String> = (0..50)
            .map(|number| event(number, if number % 10 == 0 { "deny" } else { "allow" }))
            .collect();
        let text = format!("{}\n{{\"torn", lines.join("\n"));
        assert_eq!(
            shown(&["-o", "json", "-n", "2"], &text),
            format!("{}\n{}\n", lines[48], lines[49])
        );
        assert_eq!(
            shown(&["-o", "json", "-n", "2", "--outcome", "deny"], &text),
            format!("{}\n{}\n", lines[30], lines[40])
        );
        assert_eq!(shown(&["-o", "json"], &text).lines().count(), LINES);
        assert_eq!(
            shown(&["-o", "json", "--since", "2026-01-02T03:04:47Z"], &text),
            format!("{}\n", lines[47..].join("\n"))
        );
    }

    #[test]
    fn text_has_a_header_and_no_colour_in_a_file() {
        let text = shown(&[], &format!("{}\n", event(1, "deny")));
        assert_eq!(text.lines().count(), 2);
        assert!(text.starts_with("TIME ") && !text.contains('\u{1b}'), "{text}");
    }

    #[test]
    fn a_missing_log_says_what_to_do() {
        let error = tail(&["/nonexistent/audit.jsonl"])
            .run(&mut Vec::new())
            .expect_err("is missing");
        assert!(
            error
                .to_string()
                .starts_with("/nonexistent/audit.jsonl: No such file"),
            "{error}"
        );
    }

    #[test]
    fn verification_has_an_exit_status() {
        let file = scratch("{\"kind\":\"Event\"}\n");
        let mut out = Vec::new();
        let code = Verify {
            files: vec![file.clone()],
        }
        .run(&mut out)
        .expect("readable");
        assert_eq!(code, ExitCode::SUCCESS);
        assert!(String::from_utf8_lossy(&out).contains("1 pieces that are no audit lines"));
        std::fs::remove_file(&file).expect("cleans up");
    }
}
