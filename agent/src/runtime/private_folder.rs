//! Whether a folder is private: whoever may write to a folder can take files away there, or put others in their place.
//!
//! In: what the system says of a folder. Out: nothing, or why the folder must not be used and what to do.

use std::fs::Metadata;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use nix::unistd::geteuid;

/// Rights that would let others put files there, or take them away.
const WRITABLE_BY_OTHERS: u32 = 0o022;

/// Rights that would let everybody read a file, or others change it. A group may read along, as log collectors do.
const OPEN_TO_OTHERS: u32 = 0o027;

/// Whoever may write to the folder may take away own files only: the mark of a folder that users share.
const STICKY: u32 = 0o1000;

/// Why a folder or a file is not private.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotPrivate {
    /// It is something else.
    #[error("it is no directory")]
    NotAFolder,
    /// Its group or everybody may write to it.
    #[error(
        "others may write to it: chmod 700 where it is Picket's own, else use a folder that only root may write, such as \
         /var/log/picket or /run/picket"
    )]
    Writable,
    /// Everybody may write to it, and its sticky bit says that this is meant so.
    #[error(
        "others may write to it, as all users share it (it is sticky, as /tmp is): use a folder that only root may write, such \
         as /var/log/picket or /run/picket"
    )]
    Shared,
    /// Everybody may read it, or its group or everybody may write to it.
    #[error("others may read or write it: chmod 600")]
    Open,
    /// Its group or everybody may write to the file.
    #[error("others may write to it: chmod 600")]
    WritableFile,
    /// Its owner could write to it, whatever the rights say.
    #[error("it belongs to user {0}: chown root where it is Picket's own, else use another")]
    Owner(u32),
}

/// Checks that root and this process's user alone may change what is in the folder.
///
/// # Errors
/// [`NotPrivate`], which says what to do.
pub fn check_private(folder: &Metadata) -> Result<(), NotPrivate> {
    if !folder.is_dir() {
        return Err(NotPrivate::NotAFolder);
    }
    let mode = folder.permissions().mode();
    if mode & WRITABLE_BY_OTHERS != 0 {
        // A shared folder must stay as it is, or other programs fail.
        let shared = mode & STICKY != 0;
        return Err(if shared {
            NotPrivate::Shared
        } else {
            NotPrivate::Writable
        });
    }
    check_owner(folder)
}

/// Checks that root and this process's user alone may change a file, and not everybody may read it.
///
/// # Errors
/// As [`check_private`].
pub fn check_private_file(file: &Metadata) -> Result<(), NotPrivate> {
    if file.permissions().mode() & OPEN_TO_OTHERS != 0 {
        return Err(NotPrivate::Open);
    }
    check_owner(file)
}

/// Checks that root and this process's user alone may change a file, whoever may read it.
///
/// # Errors
/// As [`check_private`].
pub fn check_own_file(file: &Metadata) -> Result<(), NotPrivate> {
    if file.permissions().mode() & WRITABLE_BY_OTHERS != 0 {
        return Err(NotPrivate::WritableFile);
    }
    check_owner(file)
}

fn check_owner(found: &Metadata) -> Result<(), NotPrivate> {
    let owner = found.uid();
    if owner != 0 && owner != geteuid().as_raw() {
        return Err(NotPrivate::Owner(owner));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};

    use super::*;

    #[test]
    fn nobody_is_told_to_shut_a_shared_folder() {
        let folder = tempfile::tempdir().expect("a folder");
        let told = |mode| {
            fs::set_permissions(folder.path(), Permissions::from_mode(mode)).expect("rights");
            let found = fs::metadata(folder.path()).expect("there");
            check_private(&found).err().map(|error| error.to_string())
        };
        for mode in [0o1777, 0o1770, 0o1775] {
            let told = told(mode).expect("shared");
            assert!(
                !told.contains("chmod") && told.contains("/var/log/picket"),
                "{told}"
            );
        }
        let open = told(0o777).expect("open");
        assert!(open.contains("chmod 700 where it is Picket's own"), "{open}");
        assert_eq!(told(0o755), None);
        let system = check_private(&fs::metadata("/tmp").expect("there"));
        assert_eq!(system, Err(NotPrivate::Shared));
    }
}
