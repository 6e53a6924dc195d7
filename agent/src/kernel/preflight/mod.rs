//! What this kernel can do for Picket, found out by trying.
//!
//! In come the folders the agent would use; out comes one [`Check`] for each thing it needs, with what was seen and
//! what to do about it. Everything that is tried is tried in a cgroup of its own that is gone afterwards.

mod redirect;
mod surroundings;

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use aya::Ebpf;

use super::attach::{self, Program};
use super::error::KernelError;

pub use redirect::{Probe, dial};
pub use surroundings::Surroundings;

/// How well a check went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Status {
    /// As it should be.
    Ok,
    /// Picket works, and something of it does not.
    Degraded,
    /// Picket does not work here.
    Missing,
}

impl Status {
    /// A word for tables and records.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Degraded => "degraded",
            Self::Missing => "missing",
        }
    }
}

/// One thing Picket needs of the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// What it is.
    pub name: &'static str,
    /// How it went.
    pub status: Status,
    /// What was seen.
    pub detail: String,
    /// What to do, unless all is well.
    pub advice: Option<String>,
}

impl Check {
    fn ok(name: &'static str, detail: impl Into<String>) -> Self {
        Self {
            name,
            status: Status::Ok,
            detail: detail.into(),
            advice: None,
        }
    }

    fn bad(name: &'static str, status: Status, detail: impl Into<String>, advice: impl Into<String>) -> Self {
        Self {
            name,
            status,
            detail: detail.into(),
            advice: Some(advice.into()),
        }
    }
}

/// Runs every check. `probe` dials on behalf of a pod; without one the redirect is not tried.
pub fn run(surroundings: &Surroundings, probe: Option<&Probe<'_>>) -> Vec<Check> {
    let mut checks = surroundings::checks(surroundings);
    let cgroup = match surroundings.cgroup_root().map(Trial::new) {
        Some(Ok(cgroup)) => cgroup,
        Some(Err(error)) => {
            checks.push(Check::bad(
                "trial cgroup",
                Status::Missing,
                format!("cannot make a cgroup to try the programs in: {error}"),
                "run as root, with the cgroup filesystem writable",
            ));
            return checks;
        }
        // Said by the check of cgroup v2 already.
        None => return checks,
    };
    checks.extend(programs(&cgroup));
    if let Some(probe) = probe {
        checks.push(redirect::check(surroundings, &cgroup, probe));
    }
    checks
}

/// Loads each program and attaches it, one by one, so that the table names the one that fails.
fn programs(cgroup: &Trial) -> Vec<Check> {
    const ADVICE: &str =
        "Linux 5.15 or later with CONFIG_CGROUP_BPF, and CAP_BPF and CAP_NET_ADMIN, are needed";
    let loaded = attach::load_object(None).and_then(|ebpf| Ok((ebpf, attach::open_cgroup(&cgroup.path)?)));
    let (mut ebpf, folder) = match loaded {
        Ok(loaded) => loaded,
        Err(error) => {
            return vec![Check::bad(
                "kernel maps",
                Status::Missing,
                error.to_string(),
                ADVICE,
            )];
        }
    };
    let mut checks = vec![Check::ok("kernel maps", "made")];
    checks.extend(
        Program::ALL
            .into_iter()
            .map(|program| match try_out(program, &mut ebpf, &folder) {
                Ok(()) => Check::ok(program.title(), "loaded and attached"),
                Err(error) if program == Program::Interface => Check::bad(
                    program.title(),
                    Status::Degraded,
                    error.to_string(),
                    "TCX needs Linux 6.6; without it packet sockets of pods with NET_RAW are not covered: forbid NET_RAW",
                ),
                Err(error) => Check::bad(program.title(), Status::Missing, error.to_string(), ADVICE),
            }),
    );
    checks
}

fn try_out(program: Program, ebpf: &mut Ebpf, cgroup: &File) -> Result<(), KernelError> {
    program.load(ebpf)?;
    if program == Program::Interface {
        // The loopback interface is always there, and nothing of a pod's passes it for the moment of the trial.
        attach::attach_interface(ebpf, "lo").map(drop)
    } else {
        program.attach(ebpf, cgroup).map(drop)
    }
}

/// A cgroup to try things in, removed when dropped.
struct Trial {
    path: PathBuf,
}

impl Trial {
    fn new(root: &Path) -> io::Result<Self> {
        let path = root.join(format!("picket-doctor-{}", std::process::id()));
        fs::create_dir(&path)?;
        Ok(Self { path })
    }
}

impl Drop for Trial {
    fn drop(&mut self) {
        // The probe's exit reaches its cgroup a moment after it was waited for.
        for _ in 0..50 {
            if fs::remove_dir(&self.path).is_ok() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        tracing::warn!(cgroup = %self.path.display(), "the trial's cgroup could not be removed");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_status_is_the_greatest() {
        assert!(Status::Missing > Status::Degraded && Status::Degraded > Status::Ok);
    }
}
