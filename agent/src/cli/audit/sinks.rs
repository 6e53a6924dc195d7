//! `picket audit sinks`: how far each sink has come.
//!
//! In: a spool and its checkpoints. Out: a line per sink.

use std::io::{self, Write};
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use serde::Serialize;

use super::Failure;
use crate::audit::DEFAULT_DIRECTORY;
use crate::audit::sinks::{Checkpoint, checkpoint};
use crate::audit::spool::segment::{Segment, segments};
use crate::cli::on_node::NodeArgs;

/// Shows how far each sink has read the spool.
///
/// A checkpoint is written once a second while records come, so a lag of a moment is usual. The checkpoint of a sink that was
/// taken out of the configuration stays; its file can be removed.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  picket audit sinks
  picket audit sinks --node worker-1
  picket audit sinks -o json | jq '.[] | select(.lagBytes > 1000000)'

Exit codes: 0 done, 1 the spool cannot be read, 2 wrong usage.")]
pub(super) struct Sinks {
    /// The agent's audit.directory.
    #[arg(default_value = DEFAULT_DIRECTORY)]
    directory: PathBuf,
    /// Print text for people, or one JSON document.
    #[arg(short, long, value_enum, default_value_t = SinksOutput::Text)]
    output: SinksOutput,
    #[command(flatten)]
    pub(super) node: NodeArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum SinksOutput {
    /// A line per sink.
    Text,
    /// One JSON document.
    Json,
}

/// A sink, as `-o json` prints it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct SinkProgress {
    name: String,
    segment: String,
    offset: u64,
    #[serde(rename = "bootID", skip_serializing_if = "Option::is_none")]
    boot_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seq: Option<u64>,
    lag_bytes: u64,
}

impl Sinks {
    pub(super) fn run(self, out: &mut dyn Write) -> Result<(), Failure> {
        let segments = segments(&self.directory).map_err(|error| Failure::input(&self.directory, error))?;
        if segments.is_empty() {
            return Err(Failure::NoSegments(self.directory));
        }
        let sinks: Vec<SinkProgress> = checkpoint::all(&self.directory)
            .into_iter()
            .map(|(name, checkpoint)| SinkProgress::new(name, checkpoint, &segments))
            .collect();
        let written = match self.output {
            SinksOutput::Json => serde_json::to_writer_pretty(&mut *out, &sinks)
                .map_err(io::Error::from)
                .and_then(|()| writeln!(out)),
            SinksOutput::Text => text(out, &sinks),
        };
        written.and_then(|()| out.flush()).map_err(Failure::Output)
    }
}

impl SinkProgress {
    fn new(name: String, checkpoint: Checkpoint, segments: &[Segment]) -> Self {
        let last = checkpoint.last.map(|last| (last.boot_id, last.seq)).unzip();
        Self {
            name,
            segment: checkpoint.position.segment.to_string(),
            offset: checkpoint.position.offset,
            boot_id: last.0,
            seq: last.1,
            lag_bytes: checkpoint.position.bytes_behind(segments),
        }
    }
}

fn text(out: &mut dyn Write, sinks: &[SinkProgress]) -> io::Result<()> {
    if sinks.is_empty() {
        return writeln!(out, "no sink has a checkpoint; audit.sinks names none");
    }
    let width = sinks.iter().map(|sink| sink.name.len()).max().unwrap_or(0).max(4);
    writeln!(
        out,
        "{:width$}  {:>12}  {:>10}  SEGMENT",
        "SINK", "LAG (BYTES)", "RECORD"
    )?;
    for sink in sinks {
        let record = sink.seq.map_or_else(|| "-".to_owned(), |seq| seq.to_string());
        writeln!(
            out,
            "{:width$}  {:>12}  {record:>10}  {} at {}",
            sink.name, sink.lag_bytes, sink.segment, sink.offset
        )?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Scratch, event};
    use super::*;

    fn shown(scratch: &Scratch, output: SinksOutput) -> String {
        let mut out = Vec::new();
        let sinks = Sinks {
            directory: scratch.path().to_owned(),
            output,
            node: NodeArgs::default(),
        };
        sinks.run(&mut out).expect("runs");
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn each_sink_has_its_lag() {
        let scratch = Scratch::new();
        let line = format!("{}\n", event(1, "deny"));
        scratch.file("audit-20260102T030401.000000Z.jsonl", &line);
        scratch.file("audit-20260102T030402.000000Z.jsonl", &line);
        assert!(shown(&scratch, SinksOutput::Text).contains("names none"));
        std::fs::create_dir(scratch.path().join("checkpoints")).expect("folder");
        let at = |segment: u8, offset: usize, last: &str| {
            format!(
                "{{\"segment\":\"audit-20260102T03040{segment}.000000Z.jsonl\",\"offset\":{offset}{last}}}"
            )
        };
        let last = format!(",\"bootID\":\"b\",\"seq\":7,\"hash\":\"{}\"", "0".repeat(64));
        scratch.file("checkpoints/new.json", &at(1, 0, ""));
        scratch.file("checkpoints/done.json", &at(2, line.len(), &last));
        let json: serde_json::Value =
            serde_json::from_str(&shown(&scratch, SinksOutput::Json)).expect("JSON");
        assert_eq!(json[0]["name"], "done");
        assert_eq!((&json[0]["seq"], &json[0]["lagBytes"]), (&7.into(), &0.into()));
        assert_eq!(
            (json[1].get("seq"), &json[1]["lagBytes"]),
            (None, &(2 * line.len()).into())
        );
        let text = shown(&scratch, SinksOutput::Text);
        let row = text.lines().find(|row| row.starts_with("new ")).expect("a row");
        assert!(row.contains(&(2 * line.len()).to_string()), "{text}");
    }
}
