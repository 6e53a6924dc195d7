//! The key of the marks that stand for secrets in records.
//!
//! In: the spool's directory. Out: 32 random bytes that stay the same for as long as the directory does, so that equal secrets
//! can be matched over restarts and upgrades. They are in `redaction.key`, mode 0600, beside the segments; whoever has them
//! can try out what a weak secret was.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use nix::libc::O_NOFOLLOW;
use ring::rand::{SecureRandom, SystemRandom};

const FILE: &str = "redaction.key";

/// Rights of others than the owner.
const OTHERS: u32 = 0o077;

/// The directory's key, made where there is none. Where it can be neither read nor stored, records still need one: then
/// marks of this run match each other alone.
pub(in crate::audit) fn open(directory: &Path) -> [u8; 32] {
    let path = directory.join(FILE);
    let opened = match read(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => match make(&path) {
            // Another agent was faster, in an upgrade.
            Err(error) if error.kind() == ErrorKind::AlreadyExists => read(&path),
            made => made,
        },
        read => read,
    };
    opened.unwrap_or_else(|error| {
        tracing::warn!(path = %path.display(), %error, "the agent cannot store the key of redaction marks; marks of this run match no marks of other runs");
        random().unwrap_or_default()
    })
}

fn read(path: &Path) -> io::Result<[u8; 32]> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(O_NOFOLLOW)
        .open(path)?;
    let rights = file.metadata()?.permissions();
    if rights.mode() & OTHERS != 0 {
        file.set_permissions(fs::Permissions::from_mode(0o600))?;
    }
    let mut text = Vec::new();
    file.take(33).read_to_end(&mut text)?;
    <[u8; 32]>::try_from(text)
        .map_err(|_| io::Error::new(ErrorKind::InvalidData, "it is not 32 bytes long; remove it"))
}

fn make(path: &Path) -> io::Result<[u8; 32]> {
    let key = random()?;
    // Under another name first: nobody reads half a key, and whoever comes second finds the first one's.
    let draft = path.with_extension(format!("{}.new", std::process::id()));
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .custom_flags(O_NOFOLLOW)
        .open(&draft)?;
    let made = file
        .write_all(&key)
        .and_then(|()| file.sync_all())
        .and_then(|()| fs::hard_link(&draft, path));
    let _gone = fs::remove_file(&draft);
    made?;
    if let Some(directory) = path.parent() {
        File::open(directory)?.sync_all()?;
    }
    Ok(key)
}

fn random() -> io::Result<[u8; 32]> {
    let mut key = [0; 32];
    SystemRandom::new()
        .fill(&mut key)
        .map_err(|_| io::Error::other("the system has no random bytes"))?;
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_stays_and_is_the_owners_alone() {
        let folder = tempfile::tempdir().expect("a folder");
        let key = open(folder.path());
        assert_ne!(key, [0; 32]);
        assert_eq!(open(folder.path()), key);
        let path = folder.path().join(FILE);
        let mode = || fs::metadata(&path).expect("the file").permissions().mode() & 0o777;
        assert_eq!(mode(), 0o600);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("changed");
        assert_eq!(open(folder.path()), key);
        assert_eq!(mode(), 0o600);
    }

    #[test]
    fn a_file_that_is_no_key_is_not_used_and_not_replaced() {
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join(FILE), "short").expect("written");
        let key = open(folder.path());
        assert_ne!(key[..5], *b"short");
        assert_ne!(open(folder.path()), key);
        assert_eq!(fs::read(folder.path().join(FILE)).expect("there"), b"short");
    }
}
