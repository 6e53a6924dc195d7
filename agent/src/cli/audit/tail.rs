//! `picket audit tail`: the last events, and those that come.
//!
//! In: a spool, a file or standard input. Out: events that match, for people or as they are stored.

use std::collections::VecDeque;
use std::io::{self, BufRead, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::filter::{Filter, Verdict};
use super::read::Source;
use super::view::View;
use super::{Failure, count};
use crate::audit::DEFAULT_DIRECTORY;
use crate::audit::invisible::escape_json;
use crate::cli::on_node::NodeArgs;
use crate::cli::output;

/// How often a followed file is looked at: quick for a person, cheap for the node.
const POLL_INTERVAL: Duration = Duration::from_millis(200);

/// Lines shown when nothing says how many.
const LINES: usize = 20;

/// Shows the last records of an audit log, one a line, and follows it with -f.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  picket audit tail -f                                  what happens now, across segments
  picket audit tail --outcome deny --since 1h           what was denied in the last hour
  picket audit tail --identity reader --verb create,delete -n 100
  picket audit tail --namespace prod -o json | jq .     whole records
  picket audit tail --since 10m -o wide                 no cell is cut
  picket audit tail -f --node worker-1                  on another node
  zcat old/*.jsonl.gz | picket audit tail -             copies that were kept

FROM is the pod, or the address of a caller without one, as at the gateway. An option that chooses records may be given again, or with \
commas.

Writes and sessions have a first line too, stored before they took effect; --all-stages shows it. \
Lines that are not as the agent stored them are left out.

Exit codes: 0 done, 1 the log cannot be read, 2 wrong usage.")]
pub(super) struct Tail {
    /// The agent's audit.directory, or a file with records; `-` is standard input.
    #[arg(default_value = DEFAULT_DIRECTORY)]
    path: PathBuf,
    /// Wait for more records; goes on with the next segment, or with the new file when a file is renamed.
    #[arg(short, long)]
    follow: bool,
    /// Show this many of the last matching records [default: 20; with --since all].
    #[arg(short = 'n', long)]
    lines: Option<usize>,
    #[command(flatten)]
    filter: Filter,
    /// Print text for people, or the stored lines as they are.
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
    #[command(flatten)]
    pub(super) node: NodeArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    /// A line for people, with long cells cut in their middle.
    Text,
    /// A line for people, with whole cells.
    Wide,
    /// The stored lines.
    Json,
}

impl Tail {
    pub(super) fn run(self, out: &mut dyn Write) -> Result<(), Failure> {
        let view = match self.output {
            Output::Json => None,
            Output::Text | Output::Wide => Some(View::new(output::colours(), self.output == Output::Wide)),
        };
        let mut printer = Printer {
            out,
            filter: &self.filter,
            view,
            terminal: io::stdout().is_terminal(),
            forged: 0,
        };
        if self.path == Path::new("-") {
            printer.header()?;
            return self.standard_input(&mut printer);
        }
        let failed = |error| Failure::input(&self.path, error);
        let mut source = match Source::open(&self.path) {
            Ok(source) => source,
            Err(error) if self.follow && error.kind() == io::ErrorKind::NotFound => {
                output::warn(format_args!(
                    "picket audit: {} is not there yet; waiting for it",
                    self.path.display()
                ));
                Source::waiting(&self.path)
            }
            Err(error) => return Err(failed(error)),
        };
        printer.header()?;
        let lines = self.last_lines(&mut source, &mut printer).map_err(failed)?;
        for line in &lines {
            printer.line(line)?;
        }
        printer.flush()?;
        if lines.is_empty() && self.limit() > 0 {
            // Each node has the records of its own pods.
            output::warn(format_args!(
                "picket audit: no record in {} matches; each node has those of its own pods",
                self.path.display()
            ));
        }
        if !self.follow {
            return Ok(());
        }
        loop {
            let mut wrote = Ok(());
            source
                .more(|line| {
                    if wrote.is_ok() {
                        wrote = printer.matching(line);
                    }
                })
                .map_err(failed)?;
            wrote?;
            printer.flush()?;
            std::thread::sleep(POLL_INTERVAL);
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

    /// The last matching lines as they are now, read from the end.
    fn last_lines(&self, source: &mut Source, printer: &mut Printer<'_>) -> io::Result<Vec<Vec<u8>>> {
        let mut lines = Vec::new();
        if self.limit() == 0 {
            source.seek_end()?;
            return Ok(lines);
        }
        source.backwards(|line| {
            match printer.judge(&line) {
                Verdict::Show => lines.push(line),
                Verdict::Skip | Verdict::Forged => {}
                // Lines stand in the order of their time, but for a few milliseconds.
                Verdict::TooOld => return false,
            }
            lines.len() < self.limit()
        })?;
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
            } else if printer.judge(text) == Verdict::Show {
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
    /// Whether a person looks: a stored line of an older agent may hold what cannot be seen.
    terminal: bool,
    /// Lines left out, since the agent did not store them so, and not reported yet.
    forged: u64,
}

impl Printer<'_> {
    fn header(&mut self) -> Result<(), Failure> {
        match &self.view {
            Some(view) => writeln!(self.out, "{}", view.header()).map_err(Failure::Output),
            None => Ok(()),
        }
    }

    fn judge(&mut self, line: &[u8]) -> Verdict {
        let verdict = self.filter.judge(line);
        self.forged += u64::from(verdict == Verdict::Forged);
        verdict
    }

    fn matching(&mut self, line: &[u8]) -> Result<(), Failure> {
        if self.judge(line) == Verdict::Show {
            self.line(line)
        } else {
            Ok(())
        }
    }

    fn line(&mut self, line: &[u8]) -> Result<(), Failure> {
        match &self.view {
            None if self.terminal => {
                let mut shown = line.to_vec();
                escape_json(&mut shown, 0);
                shown.push(b'\n');
                self.out.write_all(&shown)
            }
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
            output::warn(format_args!(
                "picket audit: {} left out: not as the agent stored it; `picket audit verify` says more",
                count(self.forged, "line", "lines")
            ));
            self.forged = 0;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::super::testing::{Scratch, event};
    use super::*;
    use crate::audit::spool::chain::stored;

    #[derive(Debug, Parser)]
    struct Program {
        #[command(flatten)]
        tail: Tail,
    }

    fn tail(words: &[&str]) -> Tail {
        let words = ["tail"].iter().chain(words);
        Program::try_parse_from(words).expect("parses").tail
    }

    fn shown_of(words: &[&str], path: &Path) -> String {
        let mut out = Vec::new();
        let words: Vec<&str> = words
            .iter()
            .copied()
            .chain([path.to_str().expect("a plain path")])
            .collect();
        tail(&words).run(&mut out).expect("runs");
        String::from_utf8(out).expect("text")
    }

    fn shown(words: &[&str], text: &str) -> String {
        let scratch = Scratch::new();
        shown_of(words, &scratch.file("log.jsonl", text))
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
    fn wide_lines_are_whole() {
        let long = format!("/apis/{}", "x".repeat(60));
        let event = format!(
            r#"{{"kind":"Event","stage":"ResponseComplete","verb":"get","requestURI":"{long}","decision":{{"outcome":"deny"}}}}"#
        );
        let text = format!("{}\n", stored(&event, 1));
        assert!(shown(&["-o", "wide"], &text).contains(&long));
        assert!(!shown(&[], &text).contains(&long));
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
        let wrong = Program::try_parse_from(["tail", "--outcome", "x"]).expect_err("no outcome");
        let said = wrong.to_string();
        assert!(said.contains("allow, deny, masked, error"), "{said}");
    }

    #[test]
    fn a_spool_is_read_over_its_segments_from_the_end() {
        let scratch = Scratch::new();
        let lines: Vec<String> = (0..50).map(|number| event(number, "allow")).collect();
        let all = |lines: &[String]| lines.iter().map(|line| format!("{line}\n")).collect::<String>();
        for (second, range) in [(1, 0..20), (2, 20..20), (3, 20..45), (4, 45..50)] {
            let name = format!("audit-20260102T03040{second}.000000Z.jsonl");
            scratch.file(&name, &all(&lines[range]));
        }
        scratch.file("audit-20260102T030401.000000Z.jsonl.gz", "another program's");
        let last = |words: &[&str]| shown_of(&[&["-o", "json"], words].concat(), scratch.path());
        assert_eq!(last(&["-n", "3"]), all(&lines[47..]));
        assert_eq!(last(&["-n", "40"]), all(&lines[10..]));
        assert_eq!(last(&["-n", "0"]), "");
        assert_eq!(last(&["-n", "1000"]), all(&lines));
        assert_eq!(last(&["--since", "2026-01-02T03:04:15Z"]), all(&lines[15..]));
    }
}
