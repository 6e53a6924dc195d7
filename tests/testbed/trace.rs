//! What a cluster or a simulated node can leave on the machine, and a process that leaves it on purpose.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use picket_tests::cgroup;
use picket_tests::cluster::{Cluster, ClusterOptions};
use picket_tests::sim::{SimNode, SimOptions};
use picket_tests::state::PREFIX;

/// Set for a process that shall make what its value says and then wait to be killed.
pub(crate) const VICTIM: &str = "PICKET_TESTS_VICTIM";

/// How long what the tests ended may take until nothing is left of it.
const LIMIT: Duration = Duration::from_secs(5);

/// The sysctls that a kubelet sets.
const SYSCTLS: [&str; 5] = [
    "vm/overcommit_memory",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
];

/// Everything on the machine that has to be the same before and after.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Traces(BTreeSet<String>);

impl Traces {
    /// Looks at the machine now.
    pub(crate) fn now() -> Result<Self> {
        let mut seen = BTreeSet::new();
        for line in fs::read_to_string("/proc/mounts")?.lines() {
            seen.insert(format!("mount {line}"));
        }
        for hierarchy in cgroup::hierarchies()? {
            list(&mut seen, &hierarchy.root)?;
        }
        for folder in [
            "/run",
            "/run/netns",
            "/var/lib",
            "/var/log",
            "/var/tmp",
            "/opt",
            "/etc/cni",
            "/sys/fs/bpf",
            "/sys/class/net",
        ] {
            list(&mut seen, Path::new(folder))?;
        }
        for name in SYSCTLS {
            let value = fs::read_to_string(Path::new("/proc/sys").join(name))?;
            seen.insert(format!("sysctl {name} {}", value.trim()));
        }
        for entry in fs::read_dir("/proc")?.flatten() {
            let process = entry.path();
            let Ok(stat) = fs::read_to_string(process.join("stat")) else {
                continue;
            };
            // Other work goes on beside the tests: only what these parts are called counts.
            let name = stat.split(['(', ')']).nth(1).unwrap_or_default();
            if [
                "cluster",
                "containerd",
                "containerd-shim",
                "pause",
                "runc",
                "sleep",
            ]
            .contains(&name)
                && (name != "sleep" || is_of_a_test(&process))
            {
                seen.insert(format!("process {name}"));
            }
        }
        Ok(Self(seen))
    }

    /// Fails if anything is there that was not, or the other way round, and it stays so: other work goes on, and what the
    /// tests ended may still be going.
    pub(crate) fn unchanged(&self) -> Result<()> {
        let deadline = Instant::now() + LIMIT;
        let mut now = Self::now()?;
        while now != *self && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(200));
            now = Self::now()?;
        }
        let more: Vec<_> = now.0.difference(&self.0).collect();
        let less: Vec<_> = self.0.difference(&now.0).collect();
        ensure!(
            more.is_empty() && less.is_empty(),
            "left behind: {more:?}; gone or changed: {less:?}"
        );
        Ok(())
    }
}

/// Whether a process is in a cgroup that the tests made: anybody's script may sleep.
fn is_of_a_test(process: &Path) -> bool {
    let cgroups = fs::read_to_string(process.join("cgroup"));
    cgroups.is_ok_and(|cgroups| cgroups.contains(PREFIX))
}

fn list(seen: &mut BTreeSet<String>, folder: &Path) -> Result<()> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Ok(());
    };
    for entry in entries {
        seen.insert(
            entry
                .with_context(|| format!("list {}", folder.display()))?
                .path()
                .display()
                .to_string(),
        );
    }
    Ok(())
}

/// Makes what the test asks for, says so, and waits to be killed.
pub(crate) fn victim() -> ExitCode {
    let kind = std::env::var(VICTIM).unwrap_or_default();
    let made: Result<Box<dyn std::any::Any>> = match kind.as_str() {
        "sim" => SimNode::up("victim").and_then(|node| {
            let pod = node.pod(SimOptions::default())?;
            Ok(Box::new((pod, node)) as Box<dyn std::any::Any>)
        }),
        _ => {
            let options = ClusterOptions {
                name: "victim".to_owned(),
                ..ClusterOptions::default()
            };
            Cluster::up(options).map(|cluster| Box::new(cluster) as Box<dyn std::any::Any>)
        }
    };
    match made {
        Ok(_held) => {
            println!("up");
            loop {
                std::thread::park();
            }
        }
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}
