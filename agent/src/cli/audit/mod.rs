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
use serde::Serialize;

use self::filter::Filter;
use self::read::{Backwards, Follower};
use self::view::View;
use crate::audit::DEFAULT_FILE;
use crate::audit::spool::chain::{Break, Report, Verifier};

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
  cat audit.jsonl.1 audit.jsonl | picket audit tail -   a rotated log too

Writes and sessions have a first line too, stored before they took effect; --all-stages shows it.
Only the named file is read, not the rotated ones before it. Lines that are not as the agent
stored them are left out.

Exit codes: 0 done, 1 the log cannot be read, 2 wrong usage.")]
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
  picket audit verify -o json | jq .whole

Give the files of one node in the order they were written, the oldest first. The piece of a line
that a crash left is counted and breaks nothing; a file of such pieces alone is no audit log.

Exit codes: 0 every chain is whole, 1 one is broken or a file cannot be read, 2 wrong usage.")]
struct Verify {
    /// The logs, the oldest first.
    #[arg(default_value = DEFAULT_FILE)]
    files: Vec<PathBuf>,
    /// Print text for people, or one JSON document.
    #[arg(short, long, value_enum, default_value_t = VerifyOutput::Text)]
    output: VerifyOutput,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum VerifyOutput {
    /// A line per file, and one per break.
    Text,
    /// One JSON document.
    Json,
}

/// The result, as `verify -o json` prints it.
#[derive(Serialize)]
struct Verified {
    whole: bool,
    files: Vec<VerifiedFile>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct VerifiedFile {
    file: String,
    whole: bool,
    lines: u64,
    new_chains: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    first_seq: Option<u64>,
    torn_pieces: u64,
    breaks: Vec<VerifiedBreak>,
}

#[derive(Serialize)]
struct VerifiedBreak {
    line: u64,
    reason: String,
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
                ExitCode::FAILURE
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
            forged: 0,
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
        for line in self.last_lines(&mut follower, &mut printer).map_err(failed)? {
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
    fn last_lines(&self, follower: &mut Follower, printer: &mut Printer<'_>) -> io::Result<Vec<Vec<u8>>> {
        let Some(file) = follower.seek_end()? else {
            return Ok(Vec::new());
        };
        let mut lines = Vec::new();
        let mut backwards = Backwards::new(file)?;
        while lines.len() < self.limit()
            && let Some(line) = backwards.next()?
        {
            match printer.judge(&line) {
                filter::Verdict::Show => lines.push(line),
                filter::Verdict::Skip | filter::Verdict::Forged => {}
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
            } else if printer.judge(text) == filter::Verdict::Show {
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
    /// Lines left out, since the agent did not store them so, and not told of yet.
    forged: u64,
}

impl Printer<'_> {
    fn header(&mut self) -> Result<(), Failure> {
        match &self.view {
            Some(view) => writeln!(self.out, "{}", view.header()).map_err(Failure::Output),
            None => Ok(()),
        }
    }

    fn judge(&mut self, line: &[u8]) -> filter::Verdict {
        let verdict = self.filter.judge(line);
        self.forged += u64::from(verdict == filter::Verdict::Forged);
        verdict
    }

    fn matching(&mut self, line: &[u8]) -> Result<(), Failure> {
        if self.judge(line) == filter::Verdict::Show {
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
        self.out.flush().map_err(Failure::Output)?;
        if self.forged > 0 {
            eprintln!(
                "picket audit: {} left out: not as the agent stored it; `picket audit verify` says more",
                count(self.forged, "line", "lines")
            );
            self.forged = 0;
        }
        Ok(())
    }
}

impl Verify {
    fn run(self, out: &mut dyn Write) -> Result<ExitCode, Failure> {
        let mut verifier = Verifier::default();
        let mut reports = Vec::new();
        for path in &self.files {
            let failed = |error| Failure::input(path, error);
            let report = verifier
                .file(BufReader::new(File::open(path).map_err(failed)?))
                .map_err(failed)?;
            if self.output == VerifyOutput::Text {
                text(out, path, &report, reports.is_empty()).map_err(Failure::Output)?;
            }
            reports.push(report);
        }
        let whole = reports.iter().all(Report::is_whole);
        if self.output == VerifyOutput::Json {
            let files = self.files.iter().zip(reports);
            let verified = Verified {
                whole,
                files: files
                    .map(|(path, report)| VerifiedFile::new(path, report))
                    .collect(),
            };
            serde_json::to_writer_pretty(&mut *out, &verified)
                .map_err(io::Error::from)
                .and_then(|()| writeln!(out))
                .map_err(Failure::Output)?;
        }
        out.flush().map_err(Failure::Output)?;
        Ok(if whole {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    }
}

impl VerifiedFile {
    fn new(path: &Path, report: Report) -> Self {
        let broken = |Break { line, reason }| VerifiedBreak { line, reason };
        Self {
            file: path.display().to_string(),
            whole: report.is_whole(),
            lines: report.good,
            new_chains: report.chains,
            first_seq: report.first_seq,
            torn_pieces: report.torn,
            breaks: report.breaks.into_iter().map(broken).collect(),
        }
    }
}

/// One file's result, for people.
fn text(out: &mut dyn Write, path: &Path, report: &Report, is_first: bool) -> io::Result<()> {
    let verdict = match (report.is_whole(), report.breaks.is_empty()) {
        (true, _) => "unbroken",
        (false, false) => "BROKEN",
        (false, true) => "NO AUDIT LOG",
    };
    write!(
        out,
        "{}: {}, {}, {verdict}",
        path.display(),
        count(report.good, "line", "lines"),
        count(report.chains, "new chain", "new chains"),
    )?;
    if is_first && let Some(first) = report.first_seq.filter(|first| *first > 1) {
        write!(
            out,
            "; begins at number {first} of a chain, so earlier lines are elsewhere"
        )?;
    }
    match report.torn {
        0 => {}
        1 => write!(out, "; 1 piece that is no audit line")?,
        torn => write!(out, "; {torn} pieces that are no audit lines")?,
    }
    writeln!(out)?;
    for found in report.breaks.iter().take(BREAKS_SHOWN) {
        writeln!(out, "  {found}")?;
    }
    if report.breaks.len() > BREAKS_SHOWN {
        writeln!(out, "  and {} more", report.breaks.len() - BREAKS_SHOWN)?;
    }
    Ok(())
}

fn count(number: u64, one: &str, more: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { more })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use clap::Parser;

    use super::*;
    use crate::audit::spool::chain::stored;

    #[derive(Debug, Parser)]
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
        let event = format!(
            r#"{{"kind":"Event","stage":"ResponseComplete","verb":"get","requestURI":"/x/{number}","stageTimestamp":"2026-01-02T03:04:{:02}.000000Z","decision":{{"outcome":"{outcome}"}}}}"#,
            number % 60
        );
        stored(&event, 1)
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
    fn lines_that_were_put_there_are_not_shown() {
        let good = event(1, "deny");
        let bare = format!("{}}}", &good[..good.find(",\"integrity\"").expect("there")]);
        let changed = good.replace("deny", "allow");
        let text = format!("{bare}\n{good}\n{changed}\n{bare}{bare}\n");
        assert_eq!(shown(&["-o", "json"], &text), format!("{good}\n"));
        assert_eq!(shown(&[], &text).lines().count(), 2);
    }

    #[test]
    fn outcomes_that_cannot_be_yet_are_taken_and_not_offered() {
        tail(&["--outcome", "pending,masked"]);
        let wrong = Program::try_parse_from(["picket", "tail", "--outcome", "x"]).expect_err("no outcome");
        let said = wrong.to_string();
        assert!(said.contains("allow, deny, error"), "{said}");
    }

    fn verified(output: VerifyOutput, text: &str) -> (ExitCode, String) {
        let file = scratch(text);
        let mut out = Vec::new();
        let verify = Verify {
            files: vec![file.clone()],
            output,
        };
        let code = verify.run(&mut out).expect("readable");
        std::fs::remove_file(&file).expect("cleans up");
        let out = String::from_utf8(out).expect("text");
        (code, out.replace(&file.display().to_string(), "FILE"))
    }

    #[test]
    fn verification_has_an_exit_status() {
        let good = event(1, "deny");
        for (text, code, said) in [
            (
                format!("{good}\n"),
                ExitCode::SUCCESS,
                "FILE: 1 line, 1 new chain, unbroken\n",
            ),
            (
                format!("{good}\n{{\"kind\n"),
                ExitCode::SUCCESS,
                "FILE: 1 line, 1 new chain, unbroken; 1 piece that is no audit line\n",
            ),
            (
                format!("{good}\n{{\"kind\":\"Event\"}}\n"),
                ExitCode::FAILURE,
                "FILE: 1 line, 1 new chain, BROKEN\n  line 2: it belongs to no chain: the agent stored no such line\n",
            ),
            (
                "garbage\nmore\n".to_owned(),
                ExitCode::FAILURE,
                "FILE: 0 lines, 0 new chains, NO AUDIT LOG; 2 pieces that are no audit lines\n",
            ),
            (
                String::new(),
                ExitCode::SUCCESS,
                "FILE: 0 lines, 0 new chains, unbroken\n",
            ),
        ] {
            assert_eq!(verified(VerifyOutput::Text, &text), (code, said.to_owned()));
            let (again, json) = verified(VerifyOutput::Json, &text);
            let json: serde_json::Value = serde_json::from_str(&json).expect("json");
            assert_eq!(again, code);
            assert_eq!(json["whole"], code == ExitCode::SUCCESS, "{json}");
            let breaks = json["files"][0]["breaks"].as_array().expect("a list");
            assert_eq!(breaks.len(), said.lines().count() - 1, "{json}");
        }
    }
}
