//! The commit that an image is made of.
//!
//! In: the folder of a checkout. Out: its revision and time, which stand in the image, and a clone of the commit elsewhere.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::sh;

/// A checkout, and what of it stands in the image.
#[derive(Debug)]
pub(super) struct Checkout {
    /// Its folder.
    pub(super) root: PathBuf,
    /// Cargo's target folder for it.
    pub(super) target: PathBuf,
    /// The commit, with `-dirty` where files differ from it.
    pub(super) revision: String,
    /// The commit's time in seconds since 1970.
    pub(super) epoch: u64,
    /// The commit's time as RFC 3339 has it, in UTC.
    pub(super) created: String,
    /// Picket's version.
    pub(super) version: String,
    /// Where the source is published, if Cargo.toml says so.
    pub(super) repository: Option<String>,
}

impl Checkout {
    /// Reads the checkout in `root`.
    pub(super) fn read(root: &Path, target: &Path) -> Result<Self> {
        let commit = git(root, &["rev-parse", "--verify", "HEAD"]).context(
            "the image names its commit, and there is none: build it in a clone of the repository",
        )?;
        let changed = !git(root, &["status", "--porcelain"])?.is_empty();
        let time = [
            "log",
            "-1",
            "--date=format-local:%Y-%m-%dT%H:%M:%SZ",
            "--format=%ct %cd",
        ];
        let time = git(root, &time)?;
        let (epoch, created) = time.split_once(' ').context("git gives no time of the commit")?;
        let package = package(root)?;
        Ok(Self {
            root: root.to_owned(),
            target: target.to_owned(),
            revision: if changed {
                format!("{commit}-dirty")
            } else {
                commit
            },
            epoch: epoch.parse().context("git's time of the commit is no number")?,
            created: created.to_owned(),
            version: package["version"]
                .as_str()
                .context("picket has no version")?
                .to_owned(),
            repository: package["repository"].as_str().map(str::to_owned),
        })
    }

    /// Whether files differ from the commit.
    pub(super) fn is_changed(&self) -> bool {
        self.revision.ends_with("-dirty")
    }

    /// Clones the commit into `folder`, with a target folder of its own in it.
    pub(super) fn cloned(&self, folder: &Path) -> Result<Self> {
        if folder.exists() {
            fs::remove_dir_all(folder).with_context(|| format!("remove {}", folder.display()))?;
        }
        let clone = ["clone", "--quiet", "--shared", "--no-checkout", "."];
        sh::output(command(&self.root, &clone).arg(folder))?;
        let commit = self.revision.trim_end_matches("-dirty");
        git(folder, &["checkout", "--quiet", "--detach", commit])?;
        let clone = Self::read(folder, &folder.join("target"))?;
        ensure!(
            !clone.is_changed(),
            "the fresh clone {} is changed",
            folder.display()
        );
        Ok(clone)
    }
}

fn command(root: &Path, args: &[&str]) -> Command {
    let mut command = sh::command("git");
    // The commit's time is shown in UTC on any machine.
    command.current_dir(root).args(args).env("TZ", "UTC");
    command
}

fn git(root: &Path, args: &[&str]) -> Result<String> {
    Ok(sh::output(&mut command(root, args))?.trim().to_owned())
}

/// What cargo knows of the package `picket`.
fn package(root: &Path) -> Result<Value> {
    let mut cargo = sh::cargo(&["metadata", "--no-deps", "--locked", "--format-version=1"]);
    let metadata: Value = serde_json::from_str(&sh::output(cargo.current_dir(root))?)?;
    let packages = metadata["packages"].as_array().into_iter().flatten();
    packages
        .into_iter()
        .find(|package| package["name"] == "picket")
        .cloned()
        .context("the workspace has no package picket")
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::{Checkout, command, git};
    use crate::sh;

    /// A repository with one commit of 2026-01-02 03:04:05 UTC, made in another time zone.
    fn repository(folder: &Path) {
        fs::create_dir_all(folder.join("src")).unwrap();
        fs::write(
            folder.join("Cargo.toml"),
            "[package]\nname = \"picket\"\nversion = \"1.2.3\"\nedition = \"2024\"\n",
        )
        .unwrap();
        fs::write(
            folder.join("Cargo.lock"),
            "version = 4\n\n[[package]]\nname = \"picket\"\nversion = \"1.2.3\"\n",
        )
        .unwrap();
        fs::write(folder.join("src/lib.rs"), "").unwrap();
        git(folder, &["init", "--quiet"]).unwrap();
        git(folder, &["add", "."]).unwrap();
        let identity = [
            "-c",
            "user.name=a",
            "-c",
            "user.email=a@example.com",
            "-c",
            "commit.gpgsign=false",
            "commit",
            "--quiet",
            "-m",
            "One",
        ];
        let mut commit = command(folder, &identity);
        sh::output(commit.env("GIT_COMMITTER_DATE", "2026-01-02T05:04:05+02:00")).unwrap();
    }

    #[test]
    fn the_commit_and_its_time_are_read() {
        let folder = tempfile::tempdir().unwrap();
        repository(folder.path());
        let read = Checkout::read(folder.path(), Path::new("/target")).unwrap();
        assert_eq!(read.created, "2026-01-02T03:04:05Z");
        assert_eq!(read.epoch, 1_767_323_045);
        assert_eq!(read.version, "1.2.3");
        assert_eq!(read.repository, None);
        assert_eq!(read.revision.len(), 40);
        assert!(!read.is_changed());
    }

    #[test]
    fn a_changed_file_shows_in_the_revision_and_is_not_cloned() {
        let folder = tempfile::tempdir().unwrap();
        let (one, other) = (folder.path().join("one"), folder.path().join("other"));
        repository(&one);
        fs::write(one.join("src/new.rs"), "").unwrap();
        let read = Checkout::read(&one, Path::new("/target")).unwrap();
        assert!(read.is_changed(), "{}", read.revision);
        let clone = read.cloned(&other).unwrap();
        assert_eq!(
            Some(clone.revision.as_str()),
            read.revision.strip_suffix("-dirty")
        );
        assert!(other.join("src/lib.rs").exists() && !other.join("src/new.rs").exists());
        assert_eq!(clone.target, other.join("target"));
    }
}
