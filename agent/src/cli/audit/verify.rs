//! `picket audit verify`: whether the records are as the agent wrote them.
//!
//! In: spools and files. Out: what breaks their hash chains, and where.

use std::fs::File;
use std::io::{self, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use serde::Serialize;

use super::{Failure, count};
use crate::audit::DEFAULT_DIRECTORY;
use crate::audit::sinks::checkpoint;
use crate::audit::spool::chain::{Break, Report, Verifier};
use crate::audit::spool::segment::{self, Irregular, Listing, Readable};
use crate::cli::on_node::NodeArgs;

/// Breaks listed for one file; the rest are counted.
const BREAKS_SHOWN: usize = 20;

/// Verifies the hash chain of audit logs.
///
/// Shows lines that were changed, moved or taken out, and segments that are missing between others. Records cut off at the very
/// end show where a sink has read them; segments that are missing at the beginning were removed by the agent, or by others.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  picket audit verify                                   the spool of this node
  picket audit verify --node worker-1                   of another node
  picket audit verify old.jsonl copy.jsonl              copies, the oldest first
  picket audit verify -o json | jq .whole

Give the files of one node in the order they were written, the oldest first. The piece of a line \
that a crash left is counted and breaks nothing; a file of such pieces alone is no audit log.

Exit codes: 0 every chain is whole, 1 one is broken or a file cannot be read, 2 wrong usage.")]
pub(super) struct Verify {
    /// The agent's audit.directory, or files with records, the oldest first.
    #[arg(default_value = DEFAULT_DIRECTORY)]
    paths: Vec<PathBuf>,
    /// Print text for people, or one JSON document.
    #[arg(short, long, value_enum, default_value_t = VerifyOutput::Text)]
    output: VerifyOutput,
    #[command(flatten)]
    pub(super) node: NodeArgs,
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

impl Verify {
    pub(super) fn run(self, out: &mut dyn Write) -> Result<ExitCode, Failure> {
        let mut reports = Vec::new();
        let mut verifier = Verifier::default();
        for path in &self.paths {
            let found = verify(&mut verifier, path)?;
            for (file, report) in &found {
                if self.output == VerifyOutput::Text {
                    text(out, file, report, reports.is_empty()).map_err(Failure::Output)?;
                }
                reports.push((file.clone(), report.clone()));
            }
        }
        let whole = reports.iter().all(|(_, report)| report.is_whole());
        if self.output == VerifyOutput::Json {
            let files = reports
                .into_iter()
                .map(|(path, report)| VerifiedFile::new(&path, report));
            let verified = Verified {
                whole,
                files: files.collect(),
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

/// Verifies a spool or a file.
fn verify(verifier: &mut Verifier, path: &Path) -> Result<Vec<(PathBuf, Report)>, Failure> {
    let failed = |error| Failure::input(path, error);
    if !std::fs::metadata(path).map_err(failed)?.is_dir() {
        let file = File::open(path).map_err(failed)?;
        let report = verifier.file(BufReader::new(file)).map_err(failed)?;
        return Ok(vec![(path.to_owned(), report)]);
    }
    // Before the segments, since what a sink has read then must be in them.
    let checkpoints = checkpoint::all(path);
    let mut reports: Vec<(PathBuf, Report)> = Vec::new();
    let Listing {
        segments,
        irregular: mut others,
    } = segment::list(path).map_err(failed)?;
    for segment in &segments {
        let path = segment.id.path(path);
        let failed = |error| Failure::input(&path, error);
        let file = match segment::read(&path).map_err(failed)? {
            Readable::Segment(file) => file,
            // The agent removed it since the look at the directory.
            Readable::Gone if reports.is_empty() => continue,
            Readable::Gone => return Err(failed(io::ErrorKind::NotFound.into())),
            Readable::Irregular(kind) => {
                others.push(Irregular { id: segment.id, kind });
                continue;
            }
        };
        let report = verifier.file(BufReader::new(file)).map_err(failed)?;
        reports.push((path, report));
    }
    let (Some((_, report)), Some(last)) = (reports.last_mut(), segments.last()) else {
        return Err(Failure::NoSegments(path.to_owned()));
    };
    for (sink, checkpoint) in checkpoints {
        let end = checkpoint.position;
        if end.segment > last.id || (end.segment == last.id && end.offset > last.length) {
            let number = checkpoint.last.map_or(0, |last| last.seq);
            report.breaks.push(Break {
                line: report.lines + 1,
                reason: format!(
                    "records are missing at the end: sink `{sink}` has read number {number} of a chain"
                ),
            });
        }
    }
    reports.extend(others.into_iter().map(|other| no_segment(path, &other)));
    Ok(reports)
}

/// The report of an entry that is named like a segment: the agent makes no such thing.
fn no_segment(directory: &Path, found: &Irregular) -> (PathBuf, Report) {
    let report = Report {
        breaks: vec![Break {
            line: 0,
            reason: format!(
                "it is {}, no segment: the agent made none of this kind",
                found.kind
            ),
        }],
        ..Report::default()
    };
    (found.id.path(directory), report)
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

#[cfg(test)]
mod tests {
    use super::super::testing::{Scratch, event};
    use super::*;

    fn verified_path(output: VerifyOutput, path: &Path) -> (ExitCode, String) {
        let mut out = Vec::new();
        let verify = Verify {
            paths: vec![path.to_owned()],
            output,
            node: NodeArgs::default(),
        };
        let code = verify.run(&mut out).expect("readable");
        let out = String::from_utf8(out).expect("text");
        (code, out.replace(&path.display().to_string(), "FILE"))
    }

    fn verified(output: VerifyOutput, text: &str) -> (ExitCode, String) {
        let scratch = Scratch::new();
        verified_path(output, &scratch.file("log.jsonl", text))
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

    #[test]
    fn a_spool_names_the_segment_that_is_wrong() {
        let scratch = Scratch::new();
        let name = |second| format!("audit-20260102T03040{second}.000000Z.jsonl");
        let good = format!("{}\n", event(1, "deny"));
        scratch.file(&name(1), &good);
        scratch.file(&name(2), "{\"kind\":\"Event\"}\n");
        let (code, said) = verified_path(VerifyOutput::Text, scratch.path());
        assert_eq!(code, ExitCode::FAILURE);
        assert_eq!(
            said,
            format!(
                "FILE/{}: 1 line, 1 new chain, unbroken\nFILE/{}: 0 lines, 0 new chains, BROKEN\n  \
                 line 1: it belongs to no chain: the agent stored no such line\n",
                name(1),
                name(2)
            )
        );
        std::fs::remove_file(scratch.path().join(name(2))).expect("removes");
        assert_eq!(
            verified_path(VerifyOutput::Text, scratch.path()).0,
            ExitCode::SUCCESS
        );
        // A sink has read what is no longer there.
        std::fs::create_dir(scratch.path().join("checkpoints")).expect("folder");
        let checkpoint = |offset: usize| {
            let text = format!(
                "{{\"segment\":\"{}\",\"offset\":{offset},\"bootID\":\"b\",\"seq\":2,\"hash\":\"{}\"}}",
                name(1),
                "0".repeat(64)
            );
            scratch.file("checkpoints/copy.json", &text);
            verified_path(VerifyOutput::Text, scratch.path())
        };
        assert_eq!(checkpoint(good.len()).0, ExitCode::SUCCESS);
        let (code, said) = checkpoint(good.len() + 1);
        assert_eq!(code, ExitCode::FAILURE);
        assert!(
            said.ends_with(
                "line 2: records are missing at the end: sink `copy` has read number 2 of a chain\n"
            ),
            "{said}"
        );
    }

    #[test]
    fn a_spool_names_what_is_no_segment_and_does_not_wait_for_it() {
        use nix::sys::stat::Mode;
        let scratch = Scratch::new();
        let name = |second| format!("audit-20260102T03040{second}.000000Z.jsonl");
        scratch.file(&name(5), &format!("{}\n", event(1, "deny")));
        nix::unistd::mkfifo(&scratch.path().join(name(4)), Mode::S_IRWXU).expect("a pipe");
        std::os::unix::fs::symlink("/dev/zero", scratch.path().join(name(6))).expect("a link");
        let (code, said) = verified_path(VerifyOutput::Text, scratch.path());
        assert_eq!(code, ExitCode::FAILURE);
        let other = |second, kind| {
            format!(
                "FILE/{}: 0 lines, 0 new chains, BROKEN\n  it is {kind}, no segment: the agent made none of this kind\n",
                name(second)
            )
        };
        let segment = format!("FILE/{}: 1 line, 1 new chain, unbroken\n", name(5));
        assert_eq!(
            said,
            segment + &other(4, "a named pipe") + &other(6, "a symbolic link")
        );
    }

    #[test]
    fn a_segment_that_is_missing_between_others_is_named() {
        let scratch = Scratch::new();
        let name = |second| format!("audit-20260102T03040{second}.000000Z.jsonl");
        scratch.file(&name(1), &format!("{}\n", event(1, "deny")));
        let seventh = crate::audit::spool::chain::stored("{\"kind\":\"Event\"}", 7);
        scratch.file(&name(3), &format!("{seventh}\n"));
        let (code, said) = verified_path(VerifyOutput::Text, scratch.path());
        assert_eq!(code, ExitCode::FAILURE);
        assert!(
            said.ends_with(
                "lines are missing, moved or changed before it: it is number 7 of its chain, the line before is number 1; \
                 a segment is missing between this file and the one before, or lines at the end of that one\n"
            ),
            "{said}"
        );
    }

    #[test]
    fn a_folder_without_segments_is_no_spool() {
        let scratch = Scratch::new();
        scratch.file("audit.jsonl", "");
        let error = verify(&mut Verifier::default(), scratch.path()).expect_err("no spool");
        assert!(error.to_string().contains("there are no segments"), "{error}");
    }
}
