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

/// Why a folder or a file is not private.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotPrivate {
    /// It is something else.
    #[error("it is no directory")]
    NotAFolder,
    /// Its group or everybody may write to it.
    #[error("others may write to it: chmod 700")]
    Writable,
    /// Everybody may read it, or its group or everybody may write to it.
    #[error("others may read or write it: chmod 600")]
    Open,
    /// Its owner could write to it, whatever the rights say.
    #[error("it belongs to user {0}: chown root")]
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
    if folder.permissions().mode() & WRITABLE_BY_OTHERS != 0 {
        return Err(NotPrivate::Writable);
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

fn check_owner(found: &Metadata) -> Result<(), NotPrivate> {
    let owner = found.uid();
    if owner != 0 && owner != geteuid().as_raw() {
        return Err(NotPrivate::Owner(owner));
    }
    Ok(())
}
