//! The agent's program as another version of it, whose kernel maps have another layout.
//!
//! In: a built program. Out: the same with another number for the layout, so that neither adopts the maps of the other. No second build
//! is needed.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use picket_common::LAYOUT;

/// Writes the program `built` with another layout into `folder`, and gives its path.
///
/// # Errors
/// The program has no such number, or a file cannot be read or written.
pub fn write(built: &Path, folder: &Path) -> Result<PathBuf> {
    let mut program = fs::read(built).with_context(|| format!("read {}", built.display()))?;
    let (own, other) = (LAYOUT.to_le_bytes(), (!LAYOUT).to_le_bytes());
    let (mut at, mut found) = (0, 0);
    while let Some(next) = program[at..].iter().position(|byte| *byte == own[0]) {
        at += next;
        if program[at..].starts_with(&own) {
            program[at..at + other.len()].copy_from_slice(&other);
            found += 1;
        }
        at += 1;
    }
    ensure!(found > 0, "{} has no number {LAYOUT:016x}", built.display());
    let file = folder.join("picket-of-another-layout");
    fs::write(&file, program)?;
    fs::set_permissions(&file, Permissions::from_mode(0o755))?;
    Ok(file)
}
