//! What this kernel can do for Picket, found out by trying.
//!
//! In: the folders that the agent would use. Out: one [`Check`] for each thing that the agent needs, with what was seen and
//! what to do about it. Everything is tried in a cgroup of its own that is gone afterwards.

mod attempt;
mod error;
mod kind;
mod passed;
mod redirect;
mod sockets;
mod surroundings;
mod test_network;

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use aya::Ebpf;
use nix::sys::statfs::BPF_FS_MAGIC;

use self::error::TrialError;
use super::attach;
use super::error::KernelError;
use super::pins;
use super::program::{self, Program};
use super::within;

pub use attempt::{TrialOutcome, attempt};
pub use kind::SocketKind;
pub use passed::give;
pub use redirect::{Probe, dial};
pub use sockets::TrySocket;
pub use surroundings::Surroundings;

/// How well a check went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum CheckStatus {
    /// As it should be.
    Ok,
    /// Picket works, and something of it does not.
    Degraded,
    /// Picket works, and there is a way past it.
    Open,
    /// Picket does not work here.
    Missing,
}

impl CheckStatus {
    /// A word for tables and records.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Degraded => "degraded",
            Self::Open => "open",
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
    pub status: CheckStatus,
    /// What was seen.
    pub detail: String,
    /// What to do, unless all is well.
    pub advice: Option<String>,
}

impl Check {
    /// All is well.
    pub fn ok(name: &'static str, detail: impl Into<String>) -> Self {
        Self {
            name,
            status: CheckStatus::Ok,
            detail: detail.into(),
            advice: None,
        }
    }

    /// Something is not, and this is to be done about it.
    pub fn bad(
        name: &'static str,
        status: CheckStatus,
        detail: impl Into<String>,
        advice: impl Into<String>,
    ) -> Self {
        Self {
            name,
            status,
            detail: detail.into(),
            advice: Some(advice.into()),
        }
    }

    /// What could not be tried is not known to work, and is reported like a failure.
    fn untried(name: &'static str, needs: &str) -> Self {
        Self {
            name,
            status: CheckStatus::Missing,
            detail: format!("{UNTRIED}needs {needs}"),
            advice: None,
        }
    }

    /// Whether nothing is known of it.
    #[must_use]
    pub fn is_untried(&self) -> bool {
        self.detail.starts_with(UNTRIED)
    }
}

/// How the detail of a check begins that was not made.
const UNTRIED: &str = "not tested: ";

/// What the trials of whole ways need: they pin what they load, as the agent does.
const NEEDS_BPFFS: &str = "a BPF filesystem";

/// The name of the check that comes before the programs'.
const MAPS: &str = "kernel maps";

/// Runs every check. `probe` dials on behalf of a pod, and `try_socket` tries one kind of socket on behalf of one.
pub fn run(surroundings: &Surroundings, probe: &Probe<'_>, try_socket: &TrySocket<'_>) -> Vec<Check> {
    let mut checks = surroundings::checks(surroundings);
    let cgroup = match surroundings.cgroup_root().map(Trial::new) {
        Some(Ok(cgroup)) => cgroup,
        Some(Err(error)) => {
            checks.push(Check::bad(
                "test cgroup",
                CheckStatus::Missing,
                format!("{UNTRIED}cannot create a cgroup for the tests: {error}"),
                "run as root on the node, with a writable cgroup filesystem. In an agent's pod `picket health --own` says whether its \
                 programs are attached",
            ));
            checks.extend(untried("a test cgroup"));
            return checks;
        }
        None => {
            checks.extend(untried("cgroup v2"));
            return checks;
        }
    };
    checks.extend(programs(&cgroup));
    checks.push(redirect::check(surroundings, &cgroup, probe));
    checks.extend(sockets::checks(surroundings, &cgroup, try_socket));
    checks
}

/// Everything that is tried in a cgroup, where there is none to try it in.
fn untried(needs: &str) -> Vec<Check> {
    let mut checks = vec![Check::untried(MAPS, needs)];
    checks.extend(untried_programs(needs));
    checks.push(Check::untried(redirect::NAME, needs));
    checks.extend(sockets::untried(needs));
    checks
}

fn untried_programs(needs: &str) -> impl Iterator<Item = Check> {
    Program::all().map(move |program| Check::untried(program.title(), needs))
}

/// Loads each program and attaches it, one by one, so that the table names the one that fails.
fn programs(cgroup: &Trial) -> Vec<Check> {
    const ADVICE: &str = "use Linux 5.15 or later with CONFIG_CGROUP_BPF, and give CAP_BPF and CAP_NET_ADMIN";
    let loaded = attach::load_object(None).and_then(|ebpf| Ok((ebpf, attach::open_cgroup(&cgroup.path)?)));
    let (mut ebpf, folder) = match loaded {
        Ok(loaded) => loaded,
        Err(error) => {
            let mut checks = vec![Check::bad(MAPS, CheckStatus::Missing, error.to_string(), ADVICE)];
            checks.extend(untried_programs("the kernel maps"));
            return checks;
        }
    };
    let mut checks = vec![Check::ok(MAPS, "created")];
    checks.extend(
        Program::all()
            .map(|program| match try_out(program, &mut ebpf, &folder) {
                Ok(()) => Check::ok(program.title(), "loaded and attached"),
                Err(error) if program == Program::Interface => Check::bad(
                    program.title(),
                    CheckStatus::Open,
                    error.to_string(),
                    "TCX needs Linux 6.6; before that, pods with NET_RAW can bypass Picket by packet sockets: forbid NET_RAW",
                ),
                Err(error) => Check::bad(program.title(), CheckStatus::Missing, error.to_string(), ADVICE),
            }),
    );
    checks
}

fn try_out(program: Program, ebpf: &mut Ebpf, cgroup: &File) -> Result<(), TrialError> {
    program.load(ebpf)?;
    if program == Program::Interface {
        // Not at an interface of the node's: it drops whatever is for a loopback address.
        let netns = test_network::namespace().map_err(TrialError::Namespace)?;
        within(&netns, || program::attach_interface(ebpf, "lo").map(drop))??;
    } else {
        program.attach(ebpf, cgroup)?;
    }
    Ok(())
}

/// Where a trial pins what it loads: beside the agent's folder, or in it where that is the mount itself. `None` without a
/// BPF filesystem.
fn trial_pins(surroundings: &Surroundings, name: &str) -> Option<PathBuf> {
    let bpffs = surroundings.bpffs()?;
    // A configured folder may be for the agent to make; then it is not for the trial to leave.
    let beside = bpffs.ancestors().skip(1).find(|folder| folder.exists());
    let parent = beside
        .filter(|folder| pins::is_on(folder, BPF_FS_MAGIC).unwrap_or(false))
        .unwrap_or(bpffs);
    Some(parent.join(format!("picket-doctor-{name}-{}", std::process::id())))
}

/// What a program costs to load.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cost {
    /// Its name.
    pub program: &'static str,
    /// Instructions that the verifier looked at; `None` where the kernel does not report it (before Linux 5.16).
    pub verified: Option<u32>,
    /// How long loading it took, most of which is the verifier's.
    pub load: Duration,
}

/// Loads each program once, in none of anybody's cgroups, and reports what that costs.
///
/// # Errors
/// When the kernel denies one.
pub fn costs() -> Result<Vec<Cost>, KernelError> {
    let mut ebpf = attach::load_object(None)?;
    Program::all()
        .map(|program| {
            let begun = Instant::now();
            program.load(&mut ebpf)?;
            let load = begun.elapsed();
            Ok(Cost {
                program: program.name(),
                verified: program.info(&mut ebpf)?.verified_instruction_count(),
                load,
            })
        })
        .collect()
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

    /// A trial that did not come about may have left the cgroup of its pod.
    fn remove(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.path)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                fs::remove_dir(entry.path())?;
            }
        }
        fs::remove_dir(&self.path)
    }
}

impl Drop for Trial {
    fn drop(&mut self) {
        // The probe's exit reaches its cgroup a moment after it was waited for.
        for _ in 0..50 {
            if self.remove().is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        tracing::warn!(cgroup = %self.path.display(), "the doctor cannot remove its test cgroup");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trial_takes_its_pods_cgroup_with_it() {
        let folder = tempfile::tempdir().unwrap();
        let trial = Trial::new(folder.path()).unwrap();
        let path = trial.path.clone();
        fs::create_dir(path.join("pod")).unwrap();
        drop(trial);
        assert!(!path.exists());
    }

    #[test]
    fn the_worst_status_is_the_greatest() {
        let sorted = [
            CheckStatus::Ok,
            CheckStatus::Degraded,
            CheckStatus::Open,
            CheckStatus::Missing,
        ];
        assert!(sorted.is_sorted());
    }
}
