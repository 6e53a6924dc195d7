//! Tar and gzip whose bytes depend on nothing but what goes in.
//!
//! In: paths with their contents, and one time for all of them. Out: an archive in the order of the paths, without the names, users
//! and times of this machine.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;

use anyhow::{Context, Result, ensure};

use crate::sh;

/// The unit of a tar archive.
const BLOCK: usize = 512;

/// A file to be archived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ArchivedFile {
    /// Its permissions.
    pub(super) mode: u32,
    /// Its content.
    pub(super) content: Vec<u8>,
}

/// Files by their path, without a slash before it.
pub(super) type ArchivedFiles = BTreeMap<String, ArchivedFile>;

/// A tar archive (ustar) of the files and of each folder above them, all of the user and group 0 and of the time `epoch`.
pub(super) fn tar(files: &ArchivedFiles, epoch: u64) -> Result<Vec<u8>> {
    let none = ArchivedFile {
        mode: 0o755,
        content: Vec::new(),
    };
    // A folder ends with a slash, and so it comes before what is in it.
    let mut entries: BTreeMap<&str, &ArchivedFile> = BTreeMap::new();
    for (path, file) in files {
        for (at, _) in path.match_indices('/') {
            entries.insert(&path[..=at], &none);
        }
        entries.insert(path, file);
    }
    let mut archive = Vec::new();
    for (path, file) in entries {
        archive.extend(header(path, file, epoch)?);
        archive.extend(&file.content);
        archive.resize(archive.len().next_multiple_of(BLOCK), 0);
    }
    // Two empty blocks end it.
    archive.resize(archive.len() + 2 * BLOCK, 0);
    Ok(archive)
}

fn header(path: &str, file: &ArchivedFile, epoch: u64) -> Result<[u8; BLOCK]> {
    let mut block = [0; BLOCK];
    let mut put = |at: usize, length: usize, text: &str| -> Result<()> {
        ensure!(
            text.len() <= length,
            "{path}: `{text}` does not fit into the header of a tar archive"
        );
        block[at..at + text.len()].copy_from_slice(text.as_bytes());
        Ok(())
    };
    put(0, 100, path)?;
    put(100, 7, &format!("{:07o}", file.mode))?;
    put(108, 7, "0000000")?;
    put(116, 7, "0000000")?;
    put(124, 11, &format!("{:011o}", file.content.len()))?;
    put(136, 11, &format!("{epoch:011o}"))?;
    // The checksum is made with blanks in its own place.
    put(148, 8, "        ")?;
    put(156, 1, if path.ends_with('/') { "5" } else { "0" })?;
    put(257, 8, "ustar\x0000")?;
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    Ok(block)
}

/// The bytes by `gzip`, without a name and a time.
pub(super) fn gzip(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut file = tempfile::NamedTempFile::new().context("make a temporary file")?;
    file.write_all(bytes).context("write a temporary file")?;
    let mut gzip = sh::command("gzip");
    // Old releases take options from there too.
    gzip.env_remove("GZIP")
        .args(["-n", "-9", "-c"])
        .stdin(fs::File::open(file.path())?);
    let output = gzip
        .output()
        .context("cannot start gzip: install the package gzip")?;
    ensure!(
        output.status.success(),
        "gzip failed ({}): {}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(output.stdout)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::{ArchivedFile, ArchivedFiles, gzip, tar};
    use crate::sh;

    fn files(of: &[(&str, u32, &str)]) -> ArchivedFiles {
        let file = |&(path, mode, content): &(&str, u32, &str)| {
            let content = content.as_bytes().to_vec();
            (path.to_owned(), ArchivedFile { mode, content })
        };
        of.iter().map(file).collect()
    }

    const ONE: (&str, u32, &str) = ("etc/ssl/one.crt", 0o644, "one");
    const TWO: (&str, u32, &str) = ("picket", 0o755, "two");

    #[test]
    fn the_tar_program_reads_the_archive_alike() {
        let folder = tempfile::tempdir().unwrap();
        let archive = folder.path().join("a.tar");
        fs::write(&archive, tar(&files(&[TWO, ONE]), 86_400).unwrap()).unwrap();
        let mut list = sh::command("tar");
        list.args(["--list", "--verbose", "--numeric-owner", "--file"])
            .arg(&archive);
        let list = sh::output(list.env("TZ", "UTC").env("LC_ALL", "C")).unwrap();
        let lines: Vec<String> = list
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
            .collect();
        assert_eq!(
            lines,
            [
                "drwxr-xr-x 0/0 0 1970-01-02 00:00 etc/",
                "drwxr-xr-x 0/0 0 1970-01-02 00:00 etc/ssl/",
                "-rw-r--r-- 0/0 3 1970-01-02 00:00 etc/ssl/one.crt",
                "-rwxr-xr-x 0/0 3 1970-01-02 00:00 picket",
            ]
        );
        let mut content = sh::command("tar");
        content
            .args(["--to-stdout", "--extract", "--file"])
            .arg(&archive)
            .arg("picket");
        assert_eq!(sh::output(&mut content).unwrap(), "two");
    }

    #[test]
    fn the_same_files_are_the_same_bytes_and_others_are_not() {
        let bytes = |of: &[(&str, u32, &str)], epoch| gzip(&tar(&files(of), epoch).unwrap()).unwrap();
        let first = bytes(&[ONE, TWO], 1);
        assert_eq!(first, bytes(&[TWO, ONE], 1));
        assert_ne!(first, bytes(&[ONE, TWO], 2), "another time");
        assert_ne!(
            first,
            bytes(&[ONE, ("picket", 0o755, "twO")], 1),
            "another content"
        );
        assert_ne!(
            first,
            bytes(&[ONE, ("picket", 0o555, "two")], 1),
            "other permissions"
        );
        assert_ne!(first, bytes(&[ONE, ("Picket", 0o755, "two")], 1), "another name");
    }

    #[test]
    fn the_compressed_bytes_tell_no_name_and_no_time() {
        let bytes = gzip(b"text").unwrap();
        // The flags and the time in the header of RFC 1952.
        assert_eq!(bytes[..8], [0x1f, 0x8b, 8, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn a_path_that_does_not_fit_is_refused() {
        let long = "a".repeat(101);
        let error = tar(&files(&[(&long, 0o644, "")]), 0).unwrap_err();
        assert!(error.to_string().contains("does not fit"), "{error}");
    }
}
