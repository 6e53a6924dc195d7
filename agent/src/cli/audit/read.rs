//! Reads an audit log from its end, and follows it: a spool across its segments, a file across renames.
//!
//! In: the path of a spool, or of a file with records. Out: its whole lines, backwards from the end or as they come.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::audit::spool::reader::{Batch, SpoolReader};
use crate::audit::spool::segment::{self, Position, Readable, segments};

/// Read at once: many lines, little memory.
const BLOCK: u64 = 64 * 1024;

/// What is read and followed.
pub(super) enum Source {
    /// Nothing is there yet.
    Waiting(PathBuf),
    /// A file.
    File(Follower),
    /// A spool.
    Spool(SpoolFollower),
}

impl Source {
    /// A log that is there.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        Ok(if std::fs::metadata(path)?.is_dir() {
            Self::Spool(SpoolFollower {
                directory: path.to_owned(),
                reader: None,
            })
        } else {
            Self::File(Follower::open(path)?)
        })
    }

    /// A log that will come.
    pub(super) fn waiting(path: &Path) -> Self {
        Self::Waiting(path.to_owned())
    }

    /// Goes behind the last whole line.
    pub(super) fn seek_end(&mut self) -> io::Result<()> {
        self.backwards(|_| false)
    }

    /// Gives the lines as they are now, from the last to the first, until `each` has enough. What comes later is for
    /// [`Source::more`].
    pub(super) fn backwards(&mut self, mut each: impl FnMut(Vec<u8>) -> bool) -> io::Result<()> {
        match self {
            Self::Waiting(_) => Ok(()),
            Self::File(follower) => follower.backwards(&mut each).map(|_| ()),
            Self::Spool(spool) => spool.backwards(&mut each),
        }
    }

    /// Gives every whole line that came since.
    pub(super) fn more(&mut self, mut each: impl FnMut(&[u8])) -> io::Result<()> {
        if let Self::Waiting(path) = self {
            match Self::open(path) {
                Ok(source) => *self = source,
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        match self {
            Self::Waiting(_) => Ok(()),
            Self::File(follower) => follower.more(each),
            Self::Spool(spool) => spool.more(&mut each),
        }
    }
}

/// A spool that is written to while it is read.
pub(super) struct SpoolFollower {
    directory: PathBuf,
    /// `None` before a segment was seen.
    reader: Option<SpoolReader>,
}

impl SpoolFollower {
    fn backwards(&mut self, each: &mut impl FnMut(Vec<u8>) -> bool) -> io::Result<()> {
        for segment in segments(&self.directory)?.iter().rev() {
            let path = segment.id.path(&self.directory);
            let mut follower = match segment::read(&path)? {
                Readable::Segment(file) => Follower::over(&path, file),
                // Retention removed it, and all before it.
                Readable::Gone => return Ok(()),
                Readable::Irregular(_) => continue,
            };
            let more = follower.backwards(each)?;
            let end = Position {
                segment: segment.id,
                offset: follower.position,
            };
            self.reader
                .get_or_insert_with(|| SpoolReader::at(&self.directory, end));
            if !more {
                break;
            }
        }
        Ok(())
    }

    fn more(&mut self, each: &mut impl FnMut(&[u8])) -> io::Result<()> {
        if self.reader.is_none() {
            let first = segments(&self.directory)?.first().copied();
            let begin = first.map(|first| Position::start_of(first.id));
            self.reader = begin.map(|begin| SpoolReader::at(&self.directory, begin));
        }
        let Some(reader) = &mut self.reader else {
            return Ok(());
        };
        let mut batch = Batch::default();
        while reader.read(None, &mut batch)? {
            batch.each().for_each(&mut *each);
        }
        Ok(())
    }
}

/// The lines of a file from the last to the first. What stands after the last newline is no line yet.
struct Backwards<'a> {
    file: &'a mut File,
    /// Where the next block ends.
    position: u64,
    /// What was read and not given yet; the rest of its first line lies before it.
    held: Vec<u8>,
}

impl<'a> Backwards<'a> {
    /// Begins at the file's current position, which [`Follower::seek_end`] put behind the last whole line.
    fn new(file: &'a mut File) -> io::Result<Self> {
        let position = file.stream_position()?;
        Ok(Self {
            file,
            position,
            held: Vec::new(),
        })
    }

    /// The line before.
    fn next(&mut self) -> io::Result<Option<Vec<u8>>> {
        // `held` ends with the newline of the line wanted.
        let mut searched = 0;
        loop {
            let end = self.held.len().saturating_sub(1);
            if let Some(before) = self.held[..end.saturating_sub(searched)]
                .iter()
                .rposition(|byte| *byte == b'\n')
            {
                let line = self.held[before + 1..end].to_vec();
                self.held.truncate(before + 1);
                return Ok(Some(line));
            }
            if self.position == 0 {
                if self.held.is_empty() {
                    return Ok(None);
                }
                let mut line = std::mem::take(&mut self.held);
                line.pop();
                return Ok(Some(line));
            }
            searched = end;
            self.block()?;
        }
    }

    /// Puts the block before in front of what is held.
    fn block(&mut self) -> io::Result<()> {
        let size = self.position.min(BLOCK);
        self.position -= size;
        self.file.seek(SeekFrom::Start(self.position))?;
        let mut block = Vec::with_capacity(self.held.len() + BLOCK as usize);
        self.file.take(size).read_to_end(&mut block)?;
        block.append(&mut self.held);
        self.held = block;
        Ok(())
    }
}

/// A log that may be renamed, replaced or cut while it is read.
pub(super) struct Follower {
    path: PathBuf,
    file: Option<File>,
    /// How much of the file was read.
    position: u64,
    /// The beginning of a line that is not whole yet.
    partial: Vec<u8>,
}

impl Follower {
    /// A log that is there.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        Ok(Self::over(path, File::open(path)?))
    }

    fn over(path: &Path, file: File) -> Self {
        Self {
            path: path.to_owned(),
            file: Some(file),
            position: 0,
            partial: Vec::new(),
        }
    }

    /// Gives the lines from the last to the first, until `each` has enough; whether it would take more.
    fn backwards(&mut self, each: &mut impl FnMut(Vec<u8>) -> bool) -> io::Result<bool> {
        let Some(file) = self.seek_end()? else {
            return Ok(true);
        };
        let mut backwards = Backwards::new(file)?;
        while let Some(line) = backwards.next()? {
            if !each(line) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Goes behind the last whole line, and gives the file to be read backwards from there.
    fn seek_end(&mut self) -> io::Result<Option<&mut File>> {
        let Some(file) = &mut self.file else {
            return Ok(None);
        };
        let mut end = file.seek(SeekFrom::End(0))?;
        // A line that is being written stays for later.
        while end > 0 {
            let start = end.saturating_sub(BLOCK);
            file.seek(SeekFrom::Start(start))?;
            let mut block = Vec::new();
            file.take(end - start).read_to_end(&mut block)?;
            if let Some(newline) = block.iter().rposition(|byte| *byte == b'\n') {
                end = start + newline as u64 + 1;
                break;
            }
            end = start;
        }
        self.position = file.seek(SeekFrom::Start(end))?;
        Ok(Some(file))
    }

    /// Gives every whole line that came since.
    pub(super) fn more(&mut self, mut each: impl FnMut(&[u8])) -> io::Result<()> {
        loop {
            self.drain(&mut each)?;
            let named = match File::open(&self.path) {
                Ok(named) => named,
                // Between the rename and the first line of the new file.
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
                Err(error) => return Err(error),
            };
            if let Some(open) = &self.file {
                let (held, found) = (open.metadata()?, named.metadata()?);
                if (held.dev(), held.ino()) == (found.dev(), found.ino()) {
                    return Ok(());
                }
                // A last look, for what came between the read above and the rename.
                self.drain(&mut each)?;
            }
            self.file = Some(named);
            self.position = 0;
            self.partial.clear();
        }
    }

    fn drain(&mut self, each: &mut impl FnMut(&[u8])) -> io::Result<()> {
        let Some(file) = &mut self.file else { return Ok(()) };
        if file.metadata()?.len() < self.position {
            // The file was cut, as `copytruncate` does.
            self.position = 0;
            self.partial.clear();
        }
        file.seek(SeekFrom::Start(self.position))?;
        loop {
            let mut block = Vec::new();
            let read = file.take(BLOCK).read_to_end(&mut block)?;
            if read == 0 {
                return Ok(());
            }
            self.position += read as u64;
            for piece in block.split_inclusive(|byte| *byte == b'\n') {
                self.partial.extend_from_slice(piece);
                if self.partial.last() == Some(&b'\n') {
                    self.partial.pop();
                    each(&self.partial);
                    self.partial.clear();
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;

    use super::*;

    fn backwards(text: &str) -> Vec<String> {
        let scratch = tempfile::tempdir().expect("folder");
        let folder = scratch.path();
        let path = folder.join("log");
        fs::write(&path, text).expect("writes");
        let mut follower = Follower::open(&path).expect("opens");
        let mut lines = Vec::new();
        let mut reader =
            Backwards::new(follower.seek_end().expect("reads").expect("is open")).expect("begins");
        while let Some(line) = reader.next().expect("reads") {
            lines.push(String::from_utf8(line).expect("text"));
        }
        lines
    }

    #[test]
    fn lines_come_backwards_whatever_their_length() {
        assert_eq!(backwards(""), [""; 0]);
        assert_eq!(backwards("half"), [""; 0]);
        assert_eq!(backwards("a\n"), ["a"]);
        assert_eq!(backwards("\na\n\nb\nhalf"), ["b", "", "a", ""]);
        let long: Vec<String> = (0..2000)
            .map(|number| format!("{number}{}", "x".repeat(number % 300)))
            .collect();
        let text = format!("{}\n{}\n", long.join("\n"), "y".repeat(200_000));
        let mut want = vec!["y".repeat(200_000)];
        want.extend(long.into_iter().rev());
        assert!(backwards(&text) == want);
    }

    #[test]
    fn following_survives_rotation_and_torn_writes() {
        let scratch = tempfile::tempdir().expect("folder");
        let folder = scratch.path();
        let path = folder.join("log");
        fs::write(&path, "old\n").expect("writes");
        let mut follower = Follower::open(&path).expect("opens");
        follower.seek_end().expect("reads");
        fn more(follower: &mut Follower) -> Vec<String> {
            let mut lines = Vec::new();
            follower
                .more(|line| lines.push(String::from_utf8_lossy(line).into_owned()))
                .expect("follows");
            lines
        }
        assert_eq!(more(&mut follower), [""; 0]);
        let mut writer = fs::OpenOptions::new().append(true).open(&path).expect("opens");
        writer.write_all(b"one\ntw").expect("writes");
        assert_eq!(more(&mut follower), ["one"]);
        writer.write_all(b"o\n").expect("writes");
        assert_eq!(more(&mut follower), ["two"]);
        fs::rename(&path, folder.join("log.1")).expect("rotates");
        writer.write_all(b"last\n").expect("writes");
        assert_eq!(more(&mut follower), ["last"]);
        fs::write(&path, "new\n").expect("writes");
        assert_eq!(more(&mut follower), ["new"]);
        fs::write(&path, "").expect("cuts");
        assert_eq!(more(&mut follower), [""; 0]);
        fs::write(&path, "b\n").expect("writes");
        assert_eq!(more(&mut follower), ["b"]);
    }

    #[test]
    fn a_spool_is_followed_over_its_segments_from_before_there_is_one() {
        let scratch = tempfile::tempdir().expect("folder");
        let folder = scratch.path();
        let spool = folder.join("spool");
        let mut source = Source::waiting(&spool);
        fn more(source: &mut Source) -> Vec<String> {
            let mut lines = Vec::new();
            source
                .more(|line| lines.push(String::from_utf8_lossy(line).into_owned()))
                .expect("follows");
            lines
        }
        assert_eq!(more(&mut source), [""; 0]);
        fs::create_dir(&spool).expect("folder");
        assert_eq!(more(&mut source), [""; 0]);
        let segment = |second| spool.join(format!("audit-20260102T03040{second}.000000Z.jsonl"));
        let append = |second, text: &str| {
            let file = fs::OpenOptions::new()
                .create(true)
                .append(true)
                .open(segment(second));
            file.expect("opens").write_all(text.as_bytes()).expect("writes");
        };
        append(1, "1\n[2");
        assert_eq!(more(&mut source), ["1"]);
        append(1, "]\n3\n");
        append(2, "4\n");
        append(3, "5\n");
        assert_eq!(more(&mut source), ["[2]", "3", "4", "5"]);
        // Retention takes what was read.
        fs::remove_file(segment(1)).expect("removes");
        fs::remove_file(segment(2)).expect("removes");
        append(3, "6\n");
        append(4, "7\n");
        assert_eq!(more(&mut source), ["6", "7"]);
        let mut late = Source::open(&spool).expect("opens");
        let mut last = Vec::new();
        late.backwards(|line| {
            last.push(String::from_utf8_lossy(&line).into_owned());
            last.len() < 2
        })
        .expect("reads");
        assert_eq!(last, ["7", "6"]);
        append(4, "8\n");
        assert_eq!(more(&mut late), ["8"]);
    }
}
