//! An archive in memory: files by their path, then one `.tar.gz`.
//!
//! In: paths with their texts. Out: a gzip of a ustar archive, whose files belong to nobody in particular.

use std::io::{self, Write};

use flate2::Compression;
use flate2::write::GzEncoder;

/// The unit of a tar archive.
const BLOCK: usize = 512;

/// Most bytes of one file. What is longer keeps its end, where the last events of a log are.
pub(super) const MAX_FILE: usize = 4 * 1024 * 1024;

/// Most bytes of all files.
pub(super) const MAX_ALL: usize = 96 * 1024 * 1024;

/// Files with their paths, in order.
#[derive(Debug, Default)]
pub(super) struct Archive {
    files: Vec<(String, String)>,
    bytes: usize,
}

/// What became of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Added {
    /// All of it is in.
    Whole,
    /// Its beginning is left out.
    Cut,
    /// There is no room for it.
    Full,
}

impl Archive {
    /// Adds a file.
    pub(super) fn add(&mut self, path: &str, mut text: String) -> Added {
        let mut added = Added::Whole;
        if text.len() > MAX_FILE {
            let begin = text.ceil_char_boundary(text.len() - MAX_FILE);
            text.drain(..begin);
            added = Added::Cut;
        }
        if self.bytes + text.len() > MAX_ALL {
            return Added::Full;
        }
        self.bytes += text.len();
        self.files.push((path.to_owned(), text));
        added
    }

    /// Each file with its size.
    pub(super) fn sizes(&self) -> impl Iterator<Item = (&str, usize)> {
        self.files.iter().map(|(path, text)| (path.as_str(), text.len()))
    }

    /// Writes the archive, with all files in one folder and of one time.
    ///
    /// # Errors
    /// Where it cannot be written, or a path is too long for an archive.
    pub(super) fn write(&self, folder: &str, seconds: u64, out: impl Write) -> io::Result<()> {
        let mut out = GzEncoder::new(out, Compression::default());
        for (path, text) in &self.files {
            out.write_all(&header(&format!("{folder}/{path}"), text.len(), seconds)?)?;
            out.write_all(text.as_bytes())?;
            let rest = text.len().next_multiple_of(BLOCK) - text.len();
            out.write_all(&[0; BLOCK][..rest])?;
        }
        // Two empty blocks end it.
        out.write_all(&[0; 2 * BLOCK])?;
        out.finish()?.flush()
    }
}

/// The head of a file (POSIX ustar): readable for its owner alone.
fn header(path: &str, size: usize, seconds: u64) -> io::Result<[u8; BLOCK]> {
    let mut block = [0; BLOCK];
    let mut put = |at: usize, length: usize, text: &str| -> io::Result<()> {
        let room = block[at..at + length].get_mut(..text.len());
        let room = room.ok_or_else(|| io::Error::other(format!("{path} is too long for an archive")))?;
        room.copy_from_slice(text.as_bytes());
        Ok(())
    };
    put(0, 100, path)?;
    put(100, 8, "0000600")?;
    put(108, 8, "0000000")?;
    put(116, 8, "0000000")?;
    put(124, 12, &format!("{size:011o}"))?;
    put(136, 12, &format!("{seconds:011o}"))?;
    // The checksum is made with blanks in its own place.
    put(148, 8, "        ")?;
    put(156, 1, "0")?;
    put(257, 8, "ustar\x0000")?;
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    Ok(block)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn the_tar_program_reads_the_archive() {
        let mut archive = Archive::default();
        assert_eq!(archive.add("a.txt", "one\n".to_owned()), Added::Whole);
        assert_eq!(archive.add("logs/b.log", "x".repeat(BLOCK + 1)), Added::Whole);
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("x.tar.gz");
        let out = std::fs::File::create(&file).expect("a file");
        archive.write("bundle", 1_700_000_000, out).expect("written");
        let mut tar = Command::new("tar");
        tar.arg("-xzf").arg(&file).arg("-C").arg(folder.path());
        assert!(tar.status().expect("tar").success());
        let read = |path: &str| std::fs::read_to_string(folder.path().join(path)).expect("a file");
        assert_eq!(read("bundle/a.txt"), "one\n");
        assert_eq!(read("bundle/logs/b.log").len(), BLOCK + 1);
    }

    #[test]
    fn a_long_file_keeps_its_end_and_a_full_archive_takes_no_more() {
        let mut archive = Archive::default();
        let long = format!("{}end", "é".repeat(MAX_FILE));
        assert_eq!(archive.add("long", long), Added::Cut);
        assert!(archive.files[0].1.ends_with("end") && archive.files[0].1.len() <= MAX_FILE);
        while archive.bytes + MAX_FILE <= MAX_ALL {
            archive.add("more", "x".repeat(MAX_FILE));
        }
        assert_eq!(archive.add("last", "x".repeat(MAX_FILE)), Added::Full);
        assert!(archive.bytes <= MAX_ALL);
    }
}
