//! `cargo xtask check`: the rules of the source tree that the compiler does not know.
//!
//! In: the files that git knows or would add. Out: a line `file:line: message` for each place that breaks a rule, and an error
//! when there is one. Each rule is a module that answers with its findings; none of them builds anything but [`generated`].

mod arrows;
mod dependencies;
mod generated;
mod headers;
mod modules;
mod names;
mod reasons;
mod size;
mod source;

use std::fmt;

use anyhow::{Result, bail};

use crate::sh;
use source::Tree;

/// A place that breaks a rule.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Finding {
    /// Relative to the root of the repository.
    file: String,
    line: usize,
    message: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}:{}: {}", self.file, self.line, self.message)
    }
}

/// The libraries whose modules are declared in a code map, by the folder of their package.
const CODE_MAPS: [&str; 5] = [
    "agent",
    "agent/controller",
    "agent/masking",
    "agent/metrics",
    "agent/policy",
];

/// Checks what can be told from the sources alone.
pub(crate) fn sources() -> Result<()> {
    sh::timed("check the sources", || {
        let tree = Tree::of_workspace(&sh::root())?;
        let mut found = Vec::new();
        for package in CODE_MAPS {
            found.extend(arrows::check(&tree, package)?);
        }
        found.extend(headers::check(&tree)?);
        found.extend(names::check(&tree));
        found.extend(reasons::check(&tree));
        found.extend(size::check(&tree));
        found.extend(modules::check(&tree)?);
        found.extend(dependencies::check(&tree));
        report(&found)
    })
}

/// Checks that generated files are current, which needs the agent to be built.
pub(crate) fn generated() -> Result<()> {
    sh::timed("check the generated files", || report(&generated::stale()?))
}

/// Writes the generated files anew.
pub(crate) fn generate() -> Result<()> {
    generated::write()
}

fn report(found: &[Finding]) -> Result<()> {
    let mut found = found.to_vec();
    found.sort();
    for finding in &found {
        eprintln!("{finding}");
    }
    match found.len() {
        0 => Ok(()),
        1 => bail!("one place breaks a rule of the source tree"),
        several => bail!("{several} places break rules of the source tree"),
    }
}
