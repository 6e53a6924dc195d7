//! Audit records in files, for commands that look at recorded traffic.
//!
//! In: files with records, and spools. Out: each record that stands for a request, in the order of the files, and a [`Reading`] of all
//! lines. One line is held at a time, of at most [`MAX_LINE`] bytes.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use picket_policy::testing::recorded::{AuditEvent, Once};
use serde::Serialize;

use crate::audit::spool::chain::is_record;
use crate::audit::spool::segment::{self, Readable};

/// Longest line that is read. An API server's record has two objects of at most 1.5 MiB, escaped; Picket's have some 100 KiB.
pub(super) const MAX_LINE: u64 = 8 * 1024 * 1024;

/// What the files held.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Reading {
    /// Records that stand for a request each.
    pub(super) requests: u64,
    /// Records that stand for none: the first lines of writes and the last ones of sessions, refused connections, alarms.
    pub(super) other_records: u64,
    /// Lines that are no records.
    pub(super) not_records: u64,
    /// Lines that are longer than [`MAX_LINE`].
    pub(super) too_long: u64,
    /// Records of a hash chain that are not as the agent stored them. They are left out.
    pub(super) changed_records: u64,
}

impl Reading {
    /// What people are told of lines that were left out.
    pub(super) fn remarks(&self) -> Vec<String> {
        let mut remarks = Vec::new();
        let mut add = |count: u64, what: &str| {
            if count > 0 {
                remarks.push(format!("left out: {count} {what}"));
            }
        };
        add(self.not_records, "lines that are no audit records");
        add(self.too_long, "lines of more than 8 MiB");
        add(
            self.changed_records,
            "records that are not as the agent stored them: run `picket audit verify`",
        );
        remarks
    }
}

/// Reads the records of files and spools, in this order.
///
/// # Errors
/// Where a file cannot be read, or as `each` does.
pub(super) fn read(
    paths: &[PathBuf],
    mut each: impl FnMut(&AuditEvent) -> anyhow::Result<()>,
) -> anyhow::Result<Reading> {
    let (mut reading, mut once) = (Reading::default(), Once::default());
    for path in paths {
        let failed = || format!("cannot read {}", path.display());
        if !std::fs::metadata(path).with_context(failed)?.is_dir() {
            let file = File::open(path).with_context(failed)?;
            lines(path, file, &mut reading, &mut once, &mut each)?;
            continue;
        }
        let segments = segment::segments(path).with_context(failed)?;
        anyhow::ensure!(
            !segments.is_empty(),
            "{}: there are no segments; is it the agent's audit.directory?",
            path.display()
        );
        for segment in segments {
            let path = segment.id.path(path);
            let found = segment::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
            match found {
                Readable::Segment(file) => lines(&path, file, &mut reading, &mut once, &mut each)?,
                Readable::Gone | Readable::Irregular(_) => {}
            }
        }
    }
    Ok(reading)
}

fn lines(
    path: &Path,
    file: File,
    reading: &mut Reading,
    once: &mut Once,
    each: &mut impl FnMut(&AuditEvent) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let failed = || format!("cannot read {}", path.display());
    let mut file = BufReader::new(file);
    let mut line = Vec::new();
    loop {
        line.clear();
        let limit = MAX_LINE + 1;
        if (&mut file)
            .take(limit)
            .read_until(b'\n', &mut line)
            .with_context(failed)?
            == 0
        {
            return Ok(());
        }
        if line.last() != Some(&b'\n') && line.len() as u64 == limit {
            reading.too_long += 1;
            skip_line(&mut file).with_context(failed)?;
            continue;
        }
        let text = line.trim_ascii();
        if text.is_empty() {
            continue;
        }
        let Ok(event) = serde_json::from_slice::<AuditEvent>(text) else {
            reading.not_records += 1;
            continue;
        };
        if event.is_chained() && !is_record(text) {
            reading.changed_records += 1;
        } else if once.takes(&event) {
            reading.requests += 1;
            each(&event)?;
        } else if event.kind == "Event" {
            reading.other_records += 1;
        } else {
            reading.not_records += 1;
        }
    }
}

/// Goes behind the end of the line.
fn skip_line(file: &mut impl BufRead) -> io::Result<()> {
    loop {
        let block = file.fill_buf()?;
        let end = block.iter().position(|byte| *byte == b'\n');
        let length = end.map_or(block.len(), |end| end + 1);
        let is_over = end.is_some() || block.is_empty();
        file.consume(length);
        if is_over {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::spool::chain::stored;

    fn event(id: usize) -> String {
        format!(
            r#"{{"kind":"Event","auditID":"{id}","stage":"ResponseComplete","verb":"get","requestURI":"/api/v1/pods","decision":{{"outcome":"allow"}}}}"#
        )
    }

    fn read_all(paths: &[PathBuf]) -> anyhow::Result<(Vec<String>, Reading)> {
        let mut ids = Vec::new();
        let reading = read(paths, |event| {
            ids.push(event.audit_id.clone());
            Ok(())
        })?;
        Ok((ids, reading))
    }

    #[test]
    fn what_is_no_record_or_was_changed_is_left_out_and_told() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("log.jsonl");
        let changed = stored(&event(3), 1).replace("\"get\"", "\"list\"");
        let connect = r#"{"kind":"Event","auditID":"4","stage":"ResponseComplete","verb":"connect"}"#;
        let long = format!("{{\"x\":\"{}\"}}", "y".repeat(MAX_LINE as usize));
        let text = [
            event(1),
            "no JSON".to_owned(),
            stored(&event(2), 1),
            changed,
            connect.to_owned(),
            long,
            String::new(),
            event(5),
        ];
        // The last line has no end yet.
        std::fs::write(&file, text.join("\n")).expect("written");
        let (ids, reading) = read_all(&[file]).expect("read");
        assert_eq!(ids, ["1", "2", "5"]);
        assert_eq!(
            reading,
            Reading {
                requests: 3,
                other_records: 1,
                not_records: 1,
                too_long: 1,
                changed_records: 1,
            }
        );
        assert_eq!(reading.remarks().len(), 3);
        assert_eq!(Reading::default().remarks(), [""; 0]);
    }

    #[test]
    fn a_spool_is_read_from_its_first_segment_to_the_last() {
        let folder = tempfile::tempdir().expect("a folder");
        let spool = folder.path().join("audit");
        std::fs::create_dir(&spool).expect("a folder");
        for (second, id) in [(2, 2), (1, 1), (3, 3)] {
            let name = format!("audit-20260102T03040{second}.000000Z.jsonl");
            std::fs::write(spool.join(name), event(id) + "\n").expect("written");
        }
        let (ids, _) = read_all(std::slice::from_ref(&spool)).expect("read");
        assert_eq!(ids, ["1", "2", "3"]);
        let error = read_all(&[folder.path().to_owned()]).expect_err("no segments");
        assert!(error.to_string().contains("there are no segments"), "{error}");
        let error = read_all(&[PathBuf::from("/nonexistent/log")]).expect_err("no file");
        assert_eq!(error.to_string(), "cannot read /nonexistent/log");
    }
}
