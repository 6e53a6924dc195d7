//! The files of a spool: their names, their order, and the end of one.
//!
//! In: a directory. Out: its [`Segment`]s in the order they were written, and the hash of the last record in them.
//!
//! Only regular files are segments. A pipe of that name would hold up whoever opens it, and a link leads to a file of somebody
//! else's, so nothing is read from what is [`Irregular`], nor written to it.

use std::fmt;
use std::fs::{self, File, FileType, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use nix::fcntl::OFlag;

use super::chain::{Hash, last_whole};

/// A segment's name, as jiff writes and reads it.
const NAME: &str = "audit-%Y%m%dT%H%M%S.%6fZ.jsonl";

/// The longest tail that is searched for the last whole line at start. Request lines are bounded by the longest URI
/// that hyper takes (64 KiB); this is several of them.
const TAIL: u64 = 1024 * 1024;

/// Names a segment by the moment it was begun. Each is later than those before it, whatever the clock does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentId(Timestamp);

impl SegmentId {
    /// The id of a segment that is begun now, behind `last`.
    pub(in crate::audit) fn after(last: Option<Self>, now: Timestamp) -> Self {
        let now = micros(now.as_microsecond());
        match last {
            Some(Self(last)) if now <= last => Self(micros(last.as_microsecond().saturating_add(1))),
            _ => Self(now),
        }
    }

    /// The id in a file's name, if it is a segment's.
    #[must_use]
    pub fn of_name(name: &str) -> Option<Self> {
        let begun = DateTime::strptime(NAME, name)
            .ok()?
            .to_zoned(TimeZone::UTC)
            .ok()?;
        let id = Self(begun.timestamp());
        // Exactly the name that it is written as: another spelling would stand elsewhere in the order of names.
        (id.to_string() == name).then_some(id)
    }

    /// When the segment was begun.
    #[must_use]
    pub fn begun(self) -> Timestamp {
        self.0
    }

    /// The segment's path in a spool.
    #[must_use]
    pub fn path(self, directory: &Path) -> PathBuf {
        directory.join(self.to_string())
    }
}

fn micros(time: i64) -> Timestamp {
    Timestamp::from_microsecond(time).unwrap_or(Timestamp::MAX)
}

/// The file's name, such as `audit-20261128T011710.123456Z.jsonl`. Names sort as segments were written.
impl fmt::Display for SegmentId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.strftime(NAME).fmt(out)
    }
}

/// A segment and how long it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Its name.
    pub id: SegmentId,
    /// Its length in bytes.
    pub length: u64,
}

/// A place in a spool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// The segment.
    pub segment: SegmentId,
    /// The place in it, in bytes.
    pub offset: u64,
}

impl Position {
    /// Where a segment begins.
    #[must_use]
    pub fn start_of(segment: SegmentId) -> Self {
        Self { segment, offset: 0 }
    }

    /// The bytes behind it.
    #[must_use]
    pub fn bytes_behind(self, segments: &[Segment]) -> u64 {
        let behind = |segment: &Segment| match segment.id.cmp(&self.segment) {
            std::cmp::Ordering::Less => 0,
            std::cmp::Ordering::Equal => segment.length.saturating_sub(self.offset),
            std::cmp::Ordering::Greater => segment.length,
        };
        segments.iter().map(behind).sum()
    }
}

/// An entry that is named like a segment and is no regular file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Irregular {
    /// Its name.
    pub id: SegmentId,
    /// What it is, such as `a named pipe`.
    pub kind: &'static str,
}

/// What a spool's directory has under the names of segments.
#[derive(Debug, Default)]
pub struct Listing {
    /// The segments, the oldest first.
    pub segments: Vec<Segment>,
    /// What is none.
    pub irregular: Vec<Irregular>,
}

/// Looks through a spool's directory. Links are not followed.
///
/// # Errors
/// When the directory cannot be read.
pub fn list(directory: &Path) -> io::Result<Listing> {
    let mut listing = Listing::default();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let Some(id) = entry.file_name().to_str().and_then(SegmentId::of_name) else {
            continue;
        };
        match entry.metadata() {
            Ok(found) => match irregular(found.file_type()) {
                Some(kind) => listing.irregular.push(Irregular { id, kind }),
                None => listing.segments.push(Segment {
                    id,
                    length: found.len(),
                }),
            },
            // Retention removed it meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    listing.segments.sort_by_key(|segment| segment.id);
    listing.irregular.sort_by_key(|entry| entry.id);
    Ok(listing)
}

/// The segments of a spool, the oldest first.
///
/// # Errors
/// When the directory cannot be read.
pub fn segments(directory: &Path) -> io::Result<Vec<Segment>> {
    Ok(list(directory)?.segments)
}

/// What a file is that is not regular.
fn irregular(found: FileType) -> Option<&'static str> {
    if found.is_file() {
        None
    } else if found.is_symlink() {
        Some("a symbolic link")
    } else if found.is_dir() {
        Some("a directory")
    } else if found.is_fifo() {
        Some("a named pipe")
    } else if found.is_socket() {
        Some("a socket")
    } else {
        Some("a device")
    }
}

/// What there is to read under a segment's name.
#[derive(Debug)]
pub enum Readable {
    /// A segment.
    Segment(File),
    /// Nothing: retention removed it, or somebody else.
    Gone,
    /// Something that is no regular file, and what.
    Irregular(&'static str),
}

/// Opens a segment to read it.
///
/// # Errors
/// When it cannot be opened.
pub fn read(path: &Path) -> io::Result<Readable> {
    guarded(path, OpenOptions::new().read(true))
}

/// Opens what is at the path if it is a regular file. It is looked at before it is opened, since opening a device may do
/// something, and afterwards, since it may have been replaced meanwhile: a link then fails, and a pipe holds up nobody.
fn guarded(path: &Path, options: &mut OpenOptions) -> io::Result<Readable> {
    let gone = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => Ok(Readable::Gone),
        _ => Err(error),
    };
    let named = match fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) => return gone(error),
    };
    if let Some(kind) = irregular(named.file_type()) {
        return Ok(Readable::Irregular(kind));
    }
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    let file = match options.custom_flags(flags.bits()).open(path) {
        Ok(file) => file,
        Err(error) => return gone(error),
    };
    let opened = file.metadata()?.file_type();
    Ok(irregular(opened).map_or(Readable::Segment(file), Readable::Irregular))
}

/// The first segment behind `id`.
pub(in crate::audit) fn next(directory: &Path, id: SegmentId) -> io::Result<Option<SegmentId>> {
    Ok(segments(directory)?
        .into_iter()
        .map(|segment| segment.id)
        .find(|found| *found > id))
}

/// Opens a segment to append to it.
pub(super) fn open(path: &Path) -> io::Result<File> {
    match guarded(path, OpenOptions::new().read(true).append(true))? {
        Readable::Segment(file) => Ok(file),
        Readable::Gone => Err(io::ErrorKind::NotFound.into()),
        Readable::Irregular(kind) => Err(io::Error::other(format!("{} is {kind}", path.display()))),
    }
}

/// Makes a segment. Its name must survive a crash as its lines do, so the caller syncs the directory.
pub(super) fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .append(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
}

/// The hash of the last record in a spool: `None` where there is no line. Looks back from the newest segment until it finds
/// a line, since a segment may be empty.
pub(super) fn last_in(directory: &Path, segments: &[Segment]) -> io::Result<Option<Hash>> {
    for segment in segments.iter().rev() {
        // One that was removed or replaced since the look at the directory has no lines any more.
        let Readable::Segment(mut file) = read(&segment.id.path(directory))? else {
            continue;
        };
        if let Some(tail) = tail(&mut file, u64::MAX)? {
            return Ok(Some(last_whole(&tail).unwrap_or(Hash::NONE)));
        }
    }
    Ok(None)
}

/// Ends a line that a crash or a failed write cut short; whether there was one. The piece stays in the file as a line of its
/// own, which no chain holds.
pub(super) fn end_torn(file: &mut File) -> io::Result<bool> {
    let torn = tail(file, u64::MAX)?.is_some_and(|tail| tail.last() != Some(&b'\n'));
    if torn {
        file.write_all(b"\n")?;
    }
    Ok(torn)
}

/// The end of the file's first `length` bytes, long enough for several lines: `None` when there are none.
pub(in crate::audit) fn tail(file: &mut File, length: u64) -> io::Result<Option<Vec<u8>>> {
    let end = file.metadata()?.len().min(length);
    if end == 0 {
        return Ok(None);
    }
    let start = end.saturating_sub(TAIL);
    file.seek(SeekFrom::Start(start))?;
    let mut tail = Vec::new();
    file.take(end - start).read_to_end(&mut tail)?;
    Ok(Some(tail))
}

/// All that is stored in a spool, for tests of those who write to it.
#[cfg(test)]
pub(crate) fn stored_text(directory: &Path) -> String {
    let read = |segment: &Segment| fs::read_to_string(segment.id.path(directory));
    let mut tries = 0;
    loop {
        let all = segments(directory).expect("the spool");
        match all.iter().map(read).collect() {
            Ok(text) => return text,
            // The writer removes old segments at any moment.
            Err(error) if error.kind() == io::ErrorKind::NotFound && tries < 100 => tries += 1,
            Err(error) => panic!("a segment: {error}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written_and_sort_by_age() {
        let at = |text: &str| text.parse::<Timestamp>().expect("a moment");
        let first = SegmentId::after(None, at("2026-11-28T01:17:10.1234567Z"));
        assert_eq!(first.to_string(), "audit-20261128T011710.123456Z.jsonl");
        assert_eq!(SegmentId::of_name(&first.to_string()), Some(first));
        // The clock was set back.
        let second = SegmentId::after(Some(first), at("2001-01-01T00:00:00Z"));
        assert_eq!(second.to_string(), "audit-20261128T011710.123457Z.jsonl");
        let third = SegmentId::after(Some(second), at("2026-11-28T01:17:11Z"));
        assert!(first < second && second < third);
        assert!(first.to_string() < second.to_string() && second.to_string() < third.to_string());
        for name in [
            "audit.jsonl",
            "audit-20261128T011710.123456Z.jsonl.gz",
            "audit-20261128T011710Z.jsonl",
            "audit-20261128T011710.12Z.jsonl",
            "audit-20261328T011710.123456Z.jsonl",
            "checkpoints",
        ] {
            assert_eq!(SegmentId::of_name(name), None, "{name}");
        }
    }

    #[test]
    fn a_segment_that_is_there_already_is_nobody_s_new_one() {
        let held = tempfile::tempdir().expect("a folder");
        let path = held.path().join("audit-20261128T011710.123456Z.jsonl");
        fs::write(&path, "another agent's").expect("a segment");
        let error = create(&path).expect_err("it is taken");
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read_to_string(&path).expect("is there"), "another agent's");
    }

    #[test]
    fn what_lies_behind_a_position_is_counted_over_segments() {
        let id = |second| SegmentId(Timestamp::from_second(second).expect("a moment"));
        let segments: Vec<Segment> = [(1, 10), (2, 20), (3, 30)]
            .map(|(second, length)| Segment {
                id: id(second),
                length,
            })
            .into();
        for (second, offset, behind) in [
            (1, 0, 60),
            (1, 10, 50),
            (2, 5, 45),
            (3, 30, 0),
            (0, 7, 60),
            (9, 0, 0),
        ] {
            let position = Position {
                segment: id(second),
                offset,
            };
            assert_eq!(position.bytes_behind(&segments), behind, "{position:?}");
        }
    }
}
