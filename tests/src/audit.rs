//! Reading an audit log that grows.
//!
//! In: Picket's log, which is a directory of segments, or the API server's, which is a file. Out: its whole records as JSON,
//! those since a place in it ([`Since`]).

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// How long a record may take to appear; it is written in milliseconds, but this machine may be busy.
const LIMIT: Duration = Duration::from_secs(20);

/// The lines that a log has gained since a moment.
#[derive(Debug)]
pub struct Since {
    path: PathBuf,
    start: u64,
}

/// The files of a log in the order they were written: a file itself, or the segments of a directory.
///
/// # Errors
/// A directory cannot be read.
pub fn files(path: &Path) -> Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path)? {
        let file = entry?.path();
        if file.extension().is_some_and(|extension| extension == "jsonl") {
            files.push(file);
        }
    }
    files.sort();
    Ok(files)
}

impl Since {
    /// What is written to the log from now on. A directory that is cut into segments meanwhile counts as one log; that nothing
    /// is removed from it is the tests' affair.
    pub fn now(path: &Path) -> Self {
        let length = |file: &PathBuf| std::fs::metadata(file).map_or(0, |found| found.len());
        let start = files(path).unwrap_or_default().iter().map(length).sum();
        Self {
            path: path.to_owned(),
            start,
        }
    }

    /// The records so far.
    pub fn records(&self) -> Result<Vec<Value>> {
        // A file grows page by page while one line is written, so `start` may be inside a line, which is one from before. The
        // byte in front tells: it ends a line, or is a piece of one.
        let mut skip = self.start.saturating_sub(1);
        let mut read = Vec::new();
        for path in files(&self.path)? {
            let Ok(mut file) = File::open(path) else { continue };
            let length = file.metadata()?.len();
            if skip > 0 && skip >= length {
                skip -= length;
                continue;
            }
            file.seek(SeekFrom::Start(skip))?;
            skip = 0;
            file.read_to_end(&mut read)?;
        }
        // A line that is being written has no end yet.
        let whole = read
            .iter()
            .rposition(|byte| *byte == b'\n')
            .map_or(0, |end| end + 1);
        let mut lines = read[..whole].split_inclusive(|byte| *byte == b'\n');
        if self.start > 0 {
            lines.next();
        }
        lines
            .map(|line| {
                serde_json::from_slice(line).with_context(|| {
                    format!(
                        "{} has a line that is no record: {}",
                        self.path.display(),
                        String::from_utf8_lossy(line)
                    )
                })
            })
            .collect()
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
        self.wait_within(LIMIT, what, wanted)
    }

    /// The same, of what may take so long.
    pub fn wait_within(&self, limit: Duration, what: &str, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
        let deadline = Instant::now() + limit;
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

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn names(since: &Since) -> Vec<String> {
        let records = since.records().expect("the log is read");
        records.iter().map(|record| record["name"].to_string()).collect()
    }

    #[test]
    fn lines_that_are_being_written_are_neither_read_nor_torn() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("log");
        let mut file = File::create(&path).expect("a log");
        let mut write = |text: &str| file.write_all(text.as_bytes()).expect("written");
        let start = Since::now(&path);
        assert!(names(&start).is_empty());
        write("{\"name\": 1}\n");
        let between = Since::now(&path);
        // The first half of a character, as a page's end may leave it.
        write("{\"name\": \"");
        let inside = Since::now(&path);
        assert_eq!(
            (names(&start), names(&between).len(), names(&inside).len()),
            (vec!["1".to_owned()], 0, 0)
        );
        write("é\"}\n{\"name\": 3}\n{\"na");
        assert_eq!(names(&start), ["1", "\"é\"", "3"]);
        assert_eq!(names(&between), ["\"é\"", "3"]);
        assert_eq!(names(&inside), ["3"]);
        write("\n");
        let error = inside.records().expect_err("half a line was ended").to_string();
        assert!(error.contains("no record: {\"na"), "{error}");
    }

    #[test]
    fn segments_are_one_log() {
        let folder = tempfile::tempdir().expect("a folder");
        let spool = folder.path().join("spool");
        let start = Since::now(&spool);
        std::fs::create_dir(&spool).expect("a spool");
        let write = |segment: u8, text: &str| {
            std::fs::write(spool.join(format!("audit-{segment}.jsonl")), text).expect("written");
        };
        write(1, "{\"name\": 1}\n");
        let between = Since::now(&spool);
        std::fs::create_dir(spool.join("checkpoints")).expect("a folder");
        write(2, "");
        assert!(names(&between).is_empty());
        write(3, "{\"name\": 2}\n{\"name\": 3}\n");
        let late = Since::now(&spool);
        write(4, "{\"name\": 4}\n");
        assert_eq!(names(&start), ["1", "2", "3", "4"]);
        assert_eq!(names(&between), ["2", "3", "4"]);
        assert_eq!(names(&late), ["4"]);
    }
}
