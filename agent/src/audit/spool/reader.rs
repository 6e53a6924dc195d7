//! Reads a spool forwards, over the ends of segments.
//!
//! In: a place in a spool. Out: whole lines in their order, and the place behind them. Pieces of lines that a crash left are
//! passed over; everything else comes as it is stored.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::chain::{self, ChainPlace, Hash};
use super::segment::{self, Position, Readable, SegmentId};

/// Read at once: many lines, little memory.
const BLOCK: usize = 64 * 1024;

/// A reader of a spool that may be written to meanwhile.
#[derive(Debug)]
pub struct SpoolReader {
    directory: PathBuf,
    position: Position,
    open: Option<(SegmentId, File)>,
    /// What was no segment at the last place like it, so that it is told of once.
    irregular: Option<SegmentId>,
}

/// Lines that were read at once.
#[derive(Debug, Default)]
pub struct Batch {
    /// The lines, each with its newline.
    pub lines: Vec<u8>,
    /// How many they are.
    pub count: u64,
}

impl Batch {
    /// The last line, without its newline.
    #[must_use]
    pub fn last(&self) -> Option<&[u8]> {
        self.each().next_back()
    }

    /// The lines, without their newlines.
    pub fn each(&self) -> impl DoubleEndedIterator<Item = &[u8]> {
        let lines = self.lines.strip_suffix(b"\n");
        lines
            .into_iter()
            .flat_map(|lines| lines.split(|byte| *byte == b'\n'))
    }

    fn fill(&mut self, stored: &[u8]) {
        self.lines.clear();
        self.count = 0;
        for line in stored.split_inclusive(|byte| *byte == b'\n') {
            if !chain::is_piece(line.strip_suffix(b"\n").unwrap_or(line)) {
                self.lines.extend_from_slice(line);
                self.count += 1;
            }
        }
    }
}

impl SpoolReader {
    /// A reader that begins at a place.
    #[must_use]
    pub fn at(directory: &Path, position: Position) -> Self {
        Self {
            directory: directory.to_owned(),
            position,
            open: None,
            irregular: None,
        }
    }

    /// Behind the last line that was read.
    #[must_use]
    pub fn position(&self) -> Position {
        self.position
    }

    /// Goes elsewhere.
    pub fn seek(&mut self, position: Position) {
        self.position = position;
    }

    /// Reads the next lines into `batch`, none that ends behind `limit`; whether any came. A segment that is not there, or that
    /// something else stands for, is passed over.
    ///
    /// # Errors
    /// When the spool cannot be read.
    pub fn read(&mut self, limit: Option<Position>, batch: &mut Batch) -> io::Result<bool> {
        while let Some(stored) = self.stored(limit)? {
            batch.fill(&stored);
            if batch.count > 0 {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Goes behind the record with this hash, if it stands between here and `limit`.
    ///
    /// # Errors
    /// When the spool cannot be read.
    pub fn seek_behind(&mut self, hash: Hash, limit: Option<Position>) -> io::Result<Option<ChainPlace>> {
        let from = self.position;
        while let Some(stored) = self.stored(limit)? {
            let mut end = self.position.offset - stored.len() as u64;
            for line in stored.split_inclusive(|byte| *byte == b'\n') {
                end += line.len() as u64;
                let line = line.strip_suffix(b"\n").unwrap_or(line);
                if Hash::stored(line) == Some(hash)
                    && let Some(place) = ChainPlace::of(line)
                {
                    self.position.offset = end;
                    return Ok(Some(place));
                }
            }
        }
        self.position = from;
        Ok(None)
    }

    /// The next whole lines, as they are stored.
    fn stored(&mut self, limit: Option<Position>) -> io::Result<Option<Vec<u8>>> {
        // The segment that was seen to have a successor, after which it gets no more lines.
        let mut ended = None;
        loop {
            if limit.is_some_and(|limit| self.position >= limit) {
                return Ok(None);
            }
            let at = self.position;
            let last = limit.filter(|limit| limit.segment == at.segment);
            let stored = self.whole_lines(last.map_or(u64::MAX, |limit| limit.offset - at.offset))?;
            if !stored.is_empty() {
                self.position.offset += stored.len() as u64;
                return Ok(Some(stored));
            }
            if last.is_some() {
                return Ok(None);
            }
            match segment::next(&self.directory, at.segment)? {
                None => return Ok(None),
                Some(next) if ended == Some(at.segment) => self.position = Position::start_of(next),
                // A last look, for what came between the read above and the rotation.
                Some(_) => ended = Some(at.segment),
            }
        }
    }

    /// Puts on disk what was read: a checkpoint must not be past what a crash can take away.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn sync(&self) -> io::Result<()> {
        // Segments before this one were synced when they ended.
        self.open.as_ref().map_or(Ok(()), |(_, file)| file.sync_data())
    }

    /// Whole lines of the segment from here on, in at most `length` bytes.
    fn whole_lines(&mut self, length: u64) -> io::Result<Vec<u8>> {
        let Position { segment, offset } = self.position;
        let file = match &mut self.open {
            Some((open, file)) if *open == segment => file,
            open => match segment::read(&segment.path(&self.directory))? {
                Readable::Segment(file) => &mut open.insert((segment, file)).1,
                Readable::Gone => return Ok(Vec::new()),
                Readable::Irregular(kind) => {
                    if self.irregular.replace(segment) != Some(segment) {
                        tracing::error!(
                            directory = %self.directory.display(),
                            %segment,
                            kind,
                            "somebody put something else in the place of a segment of the audit spool; nothing is read from it"
                        );
                    }
                    return Ok(Vec::new());
                }
            },
        };
        let mut stored = Vec::new();
        loop {
            let have = stored.len();
            let room = usize::try_from(length - have as u64).map_or(BLOCK, |left| left.min(BLOCK));
            stored.resize(have + room, 0);
            let read = file.read_at(&mut stored[have..], offset + have as u64)?;
            stored.truncate(have + read);
            if let Some(end) = stored[have..].iter().rposition(|byte| *byte == b'\n') {
                stored.truncate(have + end + 1);
                return Ok(stored);
            }
            if read == 0 {
                return Ok(Vec::new());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use jiff::Timestamp;
    use tempfile::TempDir;

    use super::*;

    /// A stored line.
    fn line(number: usize) -> String {
        format!("{{\"requestURI\":\"/{number}\"}}\n")
    }

    /// A spool of these segments, and their names.
    fn spool(segments: &[&str]) -> (TempDir, Vec<SegmentId>) {
        let held = tempfile::tempdir().expect("a folder");
        let mut ids = Vec::new();
        for text in segments {
            let id = SegmentId::after(ids.last().copied(), Timestamp::UNIX_EPOCH);
            fs::write(id.path(held.path()), text).expect("a segment");
            ids.push(id);
        }
        (held, ids)
    }

    fn place(segment: SegmentId, offset: usize) -> Position {
        Position {
            segment,
            offset: offset as u64,
        }
    }

    /// All that a reader finds, and how many lines that are.
    fn all(reader: &mut SpoolReader, limit: Option<Position>) -> (String, u64) {
        let (mut text, mut count, mut batch) = (String::new(), 0, Batch::default());
        while reader.read(limit, &mut batch).expect("reads") {
            text += std::str::from_utf8(&batch.lines).expect("text");
            count += batch.count;
        }
        (text, count)
    }

    #[test]
    fn a_last_line_that_is_not_whole_waits_and_a_piece_that_was_ended_is_passed_over() {
        let second = line(1);
        let (half, rest) = second.split_at(9);
        let (held, ids) = spool(&[&(line(0) + half)]);
        let mut reader = SpoolReader::at(held.path(), Position::start_of(ids[0]));
        assert_eq!(all(&mut reader, None), (line(0), 1));
        assert_eq!(reader.position(), place(ids[0], line(0).len()));
        let written = line(0) + half + rest;
        fs::write(ids[0].path(held.path()), &written).expect("the rest");
        assert_eq!(all(&mut reader, None), (line(1), 1));
        // A crash cut this one short, and the next start ended it.
        fs::write(ids[0].path(held.path()), written + half + "\n" + &line(2)).expect("more");
        assert_eq!(all(&mut reader, None), (line(2), 1));
    }

    #[test]
    fn nothing_behind_the_limit_is_read_and_the_reader_stays_where_the_limit_is() {
        let (held, ids) = spool(&[&(line(0) + &line(1)), &line(2)]);
        let mut reader = SpoolReader::at(held.path(), Position::start_of(ids[0]));
        let limit = place(ids[0], line(0).len());
        assert_eq!(all(&mut reader, Some(limit)), (line(0), 1));
        assert_eq!(reader.position(), limit, "what comes there is not lost");
        assert_eq!(all(&mut reader, None), (line(1) + &line(2), 2));
        let end = place(ids[1], line(2).len());
        assert_eq!(reader.position(), end);
        // The spool was cut: the limit is before the reader.
        reader.seek(Position::start_of(ids[1]));
        assert_eq!(all(&mut reader, Some(limit)), (String::new(), 0));
        // The line before the limit is not whole.
        reader.seek(Position::start_of(ids[0]));
        assert_eq!(all(&mut reader, Some(place(ids[0], 3))), (String::new(), 0));
        assert_eq!(reader.position(), Position::start_of(ids[0]));
    }
}
