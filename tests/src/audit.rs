//! Reading an audit log that grows: Picket's, or the API server's.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use serde_json::Value;

/// How long a record may take to appear; it is written in milliseconds, but this machine may be busy.
const LIMIT: Duration = Duration::from_secs(20);

/// The lines that a log has gained since a moment.
#[derive(Debug)]
pub struct Since {
    path: PathBuf,
    start: u64,
}

impl Since {
    /// What is written to the log from now on.
    pub fn now(path: &Path) -> Self {
        let start = std::fs::metadata(path).map_or(0, |found| found.len());
        Self {
            path: path.to_owned(),
            start,
        }
    }

    /// The records so far.
    pub fn records(&self) -> Result<Vec<Value>> {
        let Ok(mut file) = File::open(&self.path) else {
            return Ok(Vec::new());
        };
        file.seek(SeekFrom::Start(self.start))?;
        let mut text = String::new();
        file.read_to_string(&mut text)?;
        // A line that is being written has no end yet.
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        Ok(whole
            .lines()
            .map(serde_json::from_str)
            .collect::<Result<_, _>>()?)
    }

    /// The records so far for which `wanted` holds.
    pub fn all(&self, wanted: impl Fn(&Value) -> bool) -> Result<Vec<Value>> {
        Ok(self
            .records()?
            .into_iter()
            .filter(|record| wanted(record))
            .collect())
    }

    /// The first record for which `wanted` holds, waited for.
    pub fn wait(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
        let deadline = Instant::now() + LIMIT;
        loop {
            let records = self.records()?;
            if let Some(found) = records.iter().find(|record| wanted(record)) {
                return Ok(found.clone());
            }
            if Instant::now() > deadline {
                let lines: Vec<String> = records.iter().rev().take(8).map(brief).collect();
                bail!(
                    "no record of {what} in {}; the last ones:\n{}",
                    self.path.display(),
                    lines.join("\n")
                );
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

/// A record in one short line.
fn brief(record: &Value) -> String {
    format!(
        "{} {} {} {} {} {}",
        record["stage"],
        record["verb"],
        record["requestURI"],
        record["decision"],
        record["kernel"],
        record["responseStatus"]
    )
}

/// Whether a record is about this verb and object; `resource` is as in `pods` or `pods/exec`.
pub fn about(record: &Value, verb: &str, resource: &str, name: &str) -> bool {
    let object = &record["objectRef"];
    let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
    record["verb"] == verb
        && object["resource"] == resource
        && object["subresource"].as_str().unwrap_or_default() == subresource
        && object["name"].as_str().unwrap_or_default() == name
}
