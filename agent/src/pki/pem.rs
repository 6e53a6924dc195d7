//! PEM files read with file and line in every complaint.
//!
//! In: a path. Out: certificates or a private key, and the bytes they came from so that a later look can tell whether
//! the file has changed. Used for the node CA here and for the credential of the upstream side.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

/// Why a PEM file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PemError {
    /// The file cannot be read.
    #[error("{}: {source}", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file's text is not what is asked for.
    #[error("{}:{line}: {reason}", file.display())]
    Content {
        /// The file.
        file: PathBuf,
        /// The line the trouble starts at, from 1.
        line: usize,
        /// What is wrong.
        reason: String,
    },
}

impl PemError {
    pub(crate) fn content(file: &Path, line: usize, reason: impl Into<String>) -> PemError {
        PemError::Content {
            file: file.to_path_buf(),
            line,
            reason: reason.into(),
        }
    }
}

/// Limits a file that was named by mistake; a bundle of a hundred certificates has about 200 KB.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// Reads a whole PEM (or token) file.
pub(crate) fn read(file: &Path) -> Result<Vec<u8>, PemError> {
    let fail = |source| PemError::Read {
        file: file.to_path_buf(),
        source,
    };
    let too_large = |size| PemError::content(file, 1, format!("{size} bytes is more than {MAX_FILE_BYTES}"));
    let found = std::fs::metadata(file).map_err(fail)?;
    // A pipe of that name would never end, and the agent reads some of these files before it closes the node.
    if !found.is_file() {
        return Err(fail(io::Error::other("it is not a regular file")));
    }
    if found.len() > MAX_FILE_BYTES {
        return Err(too_large(found.len()));
    }
    let mut bytes = Vec::new();
    // What grows meanwhile, or whose size the system does not know, ends as well.
    let opened = File::open(file).map_err(fail)?;
    let read = opened
        .take(MAX_FILE_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(fail)?;
    match read as u64 > MAX_FILE_BYTES {
        true => Err(too_large(read as u64)),
        false => Ok(bytes),
    }
}

/// One `-----BEGIN X-----` block and where it starts.
struct Section<'a> {
    line: usize,
    label: &'a str,
    text: String,
}

fn sections<'a>(file: &Path, text: &'a str) -> Result<Vec<Section<'a>>, PemError> {
    let mut found = Vec::new();
    let mut open: Option<Section<'a>> = None;
    for (number, line) in text.lines().enumerate() {
        let trimmed = line.trim();
        if let Some(label) = trimmed
            .strip_prefix("-----BEGIN ")
            .and_then(|rest| rest.strip_suffix("-----"))
        {
            if let Some(section) = &open {
                let reason = format!("the {} block has no end", section.label);
                return Err(PemError::content(file, section.line, reason));
            }
            open = Some(Section {
                line: number + 1,
                label,
                text: String::new(),
            });
        }
        if let Some(section) = &mut open {
            section.text.push_str(trimmed);
            section.text.push('\n');
            if trimmed.starts_with("-----END ") {
                found.extend(open.take());
            }
        }
    }
    match open {
        Some(section) => {
            let reason = format!("the {} block has no end", section.label);
            Err(PemError::content(file, section.line, reason))
        }
        None => Ok(found),
    }
}

fn text<'a>(file: &Path, bytes: &'a [u8]) -> Result<&'a str, PemError> {
    std::str::from_utf8(bytes).map_err(|_| PemError::content(file, 1, "not a PEM file: not text"))
}

/// The certificates of a file, in its order, each with its line; at least one.
pub(crate) fn certificates(
    file: &Path,
    bytes: &[u8],
) -> Result<Vec<(usize, CertificateDer<'static>)>, PemError> {
    let mut found = Vec::new();
    for section in sections(file, text(file, bytes)?)? {
        if section.label != "CERTIFICATE" {
            continue;
        }
        let der = CertificateDer::from_pem_slice(section.text.as_bytes())
            .map_err(|error| PemError::content(file, section.line, format!("not a certificate: {error}")))?;
        x509_parser::parse_x509_certificate(&der)
            .map_err(|error| PemError::content(file, section.line, format!("not a certificate: {error}")))?;
        found.push((section.line, der));
    }
    if found.is_empty() {
        return Err(PemError::content(file, 1, "no certificate in it"));
    }
    Ok(found)
}

/// The first private key of a file, with its line.
pub(crate) fn private_key(file: &Path, bytes: &[u8]) -> Result<(usize, PrivateKeyDer<'static>), PemError> {
    for section in sections(file, text(file, bytes)?)? {
        if !section.label.ends_with("PRIVATE KEY") {
            continue;
        }
        return PrivateKeyDer::from_pem_slice(section.text.as_bytes())
            .map(|key| (section.line, key))
            .map_err(|error| PemError::content(file, section.line, format!("not a private key: {error}")));
    }
    Err(PemError::content(file, 1, "no private key in it"))
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::thread;
    use std::time::Duration;

    use nix::sys::stat::Mode;
    use nix::unistd::mkfifo;

    use super::*;

    #[test]
    fn what_would_never_end_is_not_read() {
        let folder = tempfile::tempdir().unwrap();
        let (pipe, link) = (folder.path().join("pipe.pem"), folder.path().join("zero.pem"));
        mkfifo(&pipe, Mode::S_IRWXU).unwrap();
        std::os::unix::fs::symlink("/dev/zero", &link).unwrap();
        let (sender, receiver) = mpsc::channel();
        let paths = [pipe, link];
        thread::spawn(move || paths.map(|path| sender.send(read(&path).unwrap_err().to_string())));
        for name in ["pipe.pem", "zero.pem"] {
            let error = receiver.recv_timeout(Duration::from_secs(5)).expect(name);
            assert!(
                error.ends_with(&format!("{name}: it is not a regular file")),
                "{error}"
            );
        }
        let large = folder.path().join("large.pem");
        std::fs::write(&large, vec![b'a'; MAX_FILE_BYTES as usize + 1]).unwrap();
        let error = read(&large).unwrap_err().to_string();
        assert!(
            error.ends_with(":1: 1048577 bytes is more than 1048576"),
            "{error}"
        );
    }

    #[test]
    fn a_broken_block_is_named_by_file_and_line() {
        let file = Path::new("ca.crt");
        let good = crate::pki::ca::create("test").unwrap().certificate_pem;
        let lines = good.lines().count();

        let two = format!("{good}-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
        let error = certificates(file, two.as_bytes()).unwrap_err().to_string();
        assert!(
            error.starts_with(&format!("ca.crt:{}: not a certificate", lines + 1)),
            "{error}"
        );

        let open = format!("# note\n{}", good.replace("-----END CERTIFICATE-----", ""));
        let error = certificates(file, open.as_bytes()).unwrap_err().to_string();
        assert_eq!(error, "ca.crt:2: the CERTIFICATE block has no end");

        let error = certificates(file, b"hello").unwrap_err().to_string();
        assert_eq!(error, "ca.crt:1: no certificate in it");
        let error = private_key(file, good.as_bytes()).unwrap_err().to_string();
        assert_eq!(error, "ca.crt:1: no private key in it");
    }
}
