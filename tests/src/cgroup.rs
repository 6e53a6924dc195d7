//! Cgroups in every hierarchy the machine has: version 1 controllers and the unified one, wherever they are mounted.
//!
//! In: a name relative to the hierarchies' roots. Out: folders made, killed or removed. Only folders that the caller names are
//! touched.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill as send};
use nix::unistd::Pid;

/// How long the kernel may take to end killed processes: an exit under memory pressure takes a second or two.
const KILL_TIMEOUT: Duration = Duration::from_secs(10);

/// One mounted cgroup hierarchy.
#[derive(Debug, Clone)]
pub struct Hierarchy {
    /// Where it is mounted.
    pub root: PathBuf,
    /// Whether it is the version 2 hierarchy.
    pub unified: bool,
    cpuset: bool,
}

/// Every hierarchy in /proc/mounts, the unified one last.
///
/// # Errors
/// /proc/mounts cannot be read.
pub fn hierarchies() -> Result<Vec<Hierarchy>> {
    let mounts = fs::read_to_string("/proc/mounts").context("read /proc/mounts")?;
    let mut found = Vec::new();
    for line in mounts.lines() {
        let mut fields = line.split(' ').skip(1);
        let (Some(root), Some(kind), Some(options)) = (fields.next(), fields.next(), fields.next()) else {
            continue;
        };
        if kind != "cgroup" && kind != "cgroup2" {
            continue;
        }
        found.push(Hierarchy {
            root: PathBuf::from(root),
            unified: kind == "cgroup2",
            cpuset: kind == "cgroup" && options.split(',').any(|option| option == "cpuset"),
        });
    }
    found.sort_by_key(|hierarchy| hierarchy.unified);
    Ok(found)
}

/// Where the unified hierarchy is mounted: /sys/fs/cgroup, or /sys/fs/cgroup/unified on a hybrid machine.
///
/// # Errors
/// The machine has none.
pub fn unified() -> Result<PathBuf> {
    let all = hierarchies()?;
    let found = all.into_iter().find(|hierarchy| hierarchy.unified);
    Ok(found.context("no cgroup v2 hierarchy in /proc/mounts")?.root)
}

/// Makes `name` (as in `parent/child`) in every hierarchy, ready to hold processes.
///
/// # Errors
/// A folder cannot be made.
pub fn create(name: &str) -> Result<()> {
    for hierarchy in hierarchies()? {
        let mut folder = hierarchy.root.clone();
        for part in name.split('/') {
            if hierarchy.unified {
                pass_controllers_down(&folder);
            }
            let parent = folder.clone();
            folder.push(part);
            match fs::create_dir(&folder) {
                Err(error) if error.kind() != ErrorKind::AlreadyExists => {
                    return Err(error).with_context(|| format!("create {}", folder.display()));
                }
                _ => {}
            }
            if hierarchy.cpuset {
                // A version 1 cpuset starts empty and holds no process until it has both.
                for file in ["cpuset.cpus", "cpuset.mems"] {
                    let value = fs::read(parent.join(file))?;
                    fs::write(folder.join(file), value).with_context(|| format!("set {file} of {name}"))?;
                }
            }
        }
    }
    Ok(())
}

/// On a machine with only the unified hierarchy, a child has the controllers that its parent passes down; on a hybrid
/// one there are none to pass.
fn pass_controllers_down(folder: &Path) {
    let Ok(controllers) = fs::read_to_string(folder.join("cgroup.controllers")) else {
        return;
    };
    for controller in controllers.split_whitespace() {
        // One that cannot be passed (a parent with processes of its own) is not needed for the others.
        let _ = fs::write(folder.join("cgroup.subtree_control"), format!("+{controller}"));
    }
}

/// Ends every process below `name` in the unified hierarchy and waits until they are gone.
///
/// # Errors
/// Some are still there after ten seconds.
pub fn kill(name: &str) -> Result<()> {
    kill_folder(&unified()?.join(name))
}

/// As [`kill`], for a folder of the unified hierarchy.
pub(crate) fn kill_folder(folder: &Path) -> Result<()> {
    if !folder.exists() {
        return Ok(());
    }
    let deadline = Instant::now() + KILL_TIMEOUT;
    loop {
        if fs::write(folder.join("cgroup.kill"), "1").is_err() {
            for pid in processes(folder) {
                let _ = send(Pid::from_raw(pid), Signal::SIGKILL);
            }
        }
        let events = fs::read_to_string(folder.join("cgroup.events")).unwrap_or_default();
        if !events.lines().any(|line| line == "populated 1") {
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!(
                "processes {:?} in {} do not end",
                processes(folder),
                folder.display()
            );
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The processes in this folder and all below it.
pub fn processes(folder: &Path) -> Vec<i32> {
    let mut found = Vec::new();
    let own = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
    found.extend(own.lines().filter_map(|line| line.parse::<i32>().ok()));
    for child in children(folder) {
        found.extend(processes(&child));
    }
    found
}

/// Removes `name` and all below it from every hierarchy; its processes must be gone.
///
/// # Errors
/// A folder cannot be removed.
pub fn remove(name: &str) -> Result<()> {
    for hierarchy in hierarchies()? {
        remove_folder(&hierarchy.root.join(name))?;
    }
    Ok(())
}

/// As [`remove`], for one folder of one hierarchy.
pub(crate) fn remove_folder(folder: &Path) -> Result<()> {
    for child in children(folder) {
        remove_folder(&child)?;
    }
    let deadline = Instant::now() + KILL_TIMEOUT;
    loop {
        match fs::remove_dir(folder) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            // The last process has left, but the kernel has not finished with it.
            Err(error) if error.kind() == ErrorKind::ResourceBusy && Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(10));
            }
            Err(error) => return Err(error).with_context(|| format!("remove {}", folder.display())),
        }
    }
}

/// Names at the hierarchies' roots that start with `prefix`.
///
/// # Errors
/// The hierarchies cannot be listed.
pub fn top_level(prefix: &str) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for hierarchy in hierarchies()? {
        for child in children(&hierarchy.root) {
            let name = child.file_name().map(|name| name.to_string_lossy().into_owned());
            names.extend(name.filter(|name| name.starts_with(prefix)));
        }
    }
    names.sort();
    names.dedup();
    Ok(names)
}

fn children(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    let folders = entries
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    folders.map(|entry| entry.path()).collect()
}
