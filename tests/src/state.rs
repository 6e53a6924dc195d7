//! What one cluster or simulated node has made, written down before it is made, and how all of it goes away again.
//!
//! In: things as they are about to be made. Out: `manifest.jsonl` in the state folder, and one teardown that a cluster's end
//! and `cargo xtask clean` share. It needs the folder alone, so it works after any crash.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::fcntl::{Flock, FlockArg};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use crate::{cgroup, net};

/// Where the state folders are. Outside /run and /var/lib, over which a node lays its own view; short, because sockets
/// live in it and their paths end at 108 bytes.
const ROOT: &str = "/var/tmp/picket-tests";

/// Every cgroup and network namespace that this package makes starts so.
pub const PREFIX: &str = "picket-tests-";

/// A name longer than this would not fit into interface names.
const NAME_MAX: usize = 8;

/// What a kubelet sets for the whole machine (pkg/kubelet/cm/container_manager_linux.go, setupKernelTunables).
const SYSCTLS: [&str; 5] = [
    "vm/overcommit_memory",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
];

/// Where /proc/PID/stat has the parent and the start time, counted as [`stat_field`] does.
const PARENT: usize = 1;
const STARTED: usize = 19;

/// How long init may take to collect what was killed.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(5);

/// One process, told apart from a later one of the same number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessId {
    /// Its number.
    pub pid: i32,
    /// When it started, in clock ticks since boot.
    started: u64,
    boot: String,
}

impl ProcessId {
    /// The identity of the running process `pid`.
    ///
    /// # Errors
    /// There is none.
    pub fn of(pid: i32) -> Result<Self> {
        let started = start_time(pid).with_context(|| format!("no process {pid}"))?;
        Ok(Self {
            pid,
            started,
            boot: boot_id()?,
        })
    }

    /// Whether that very process still runs.
    pub fn alive(&self) -> bool {
        boot_id().is_ok_and(|boot| boot == self.boot) && start_time(self.pid) == Some(self.started)
    }
}

fn boot_id() -> Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?
        .trim()
        .to_owned())
}

fn start_time(pid: i32) -> Option<u64> {
    stat_field(pid, STARTED)?.parse().ok()
}

/// A field of /proc/PID/stat, counted after the second, which is the name in brackets and may hold anything (proc(5)).
fn stat_field(pid: i32, field: usize) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    Some(stat.rsplit_once(") ")?.1.split(' ').nth(field)?.to_owned())
}

/// One thing that has to go away at the end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Thing {
    /// The process that wants this state; while it lives, `clean` leaves the state alone.
    Owner(ProcessId),
    /// Left up on purpose: from here on no process owns it.
    Kept,
    /// A cgroup in every hierarchy, relative to their roots, with every process in it.
    Cgroup(String),
    /// A network namespace under /run/netns.
    Netns(String),
    /// A process. It sits in a recorded cgroup from its first instruction, so a crash before this line loses nothing.
    Process {
        /// What it is.
        what: String,
        /// Which it is.
        id: ProcessId,
    },
}

/// One state folder.
#[derive(Debug, Clone)]
pub struct StateFolder {
    name: String,
    dir: PathBuf,
}

/// Whether a state may have this name.
///
/// # Errors
/// The name is too long or odd.
pub fn check_name(name: &str) -> Result<()> {
    let fits = (1..=NAME_MAX).contains(&name.len());
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    if !fits || !name.bytes().all(plain) {
        bail!("a name is 1 to {NAME_MAX} lower-case letters and digits, not {name:?}");
    }
    Ok(())
}

impl StateFolder {
    /// Starts a new state called `name`, after removing what a crashed one of that name left.
    ///
    /// # Errors
    /// The name is too long or odd, or a living process or a kept cluster has it.
    pub fn create(name: &str) -> Result<Self> {
        check_name(name)?;
        let _lock = lock()?;
        let state = Self {
            name: name.to_owned(),
            dir: Path::new(ROOT).join(name),
        };
        if state.dir.exists() {
            if let Some(owner) = state.owner() {
                bail!("{name} belongs to the running process {}", owner.pid);
            }
            if state.kept() {
                bail!("{name} is up already; `cargo xtask cluster down --name {name}` takes it down");
            }
            state.remove_all()?;
        }
        DirBuilder::new().mode(0o700).create(&state.dir)?;
        state.record(&Thing::Owner(ProcessId::of(std::process::id().cast_signed())?))?;
        Ok(state)
    }

    /// The state called `name`, if it is there.
    ///
    /// # Errors
    /// It is not.
    pub fn open(name: &str) -> Result<Self> {
        let dir = Path::new(ROOT).join(name);
        if !dir.is_dir() {
            bail!("nothing called {name} is up; `cargo xtask cluster up --name {name}` brings it up");
        }
        Ok(Self {
            name: name.to_owned(),
            dir,
        })
    }

    /// The state's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The folder that everything lives under.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The name for this state's own cgroup, and the start of its namespaces' names.
    pub fn prefixed(&self) -> String {
        format!("{PREFIX}{}", self.name)
    }

    /// Writes down what is about to be made.
    ///
    /// # Errors
    /// The manifest cannot be written.
    pub fn record(&self, thing: &Thing) -> Result<()> {
        self.record_all(std::slice::from_ref(thing))
    }

    /// As [`StateFolder::record`], for many at once.
    ///
    /// # Errors
    /// The manifest cannot be written.
    pub fn record_all(&self, things: &[Thing]) -> Result<()> {
        let mut lines = String::new();
        for thing in things {
            lines.push_str(&serde_json::to_string(thing)?);
            lines.push('\n');
        }
        let manifest = self.dir.join("manifest.jsonl");
        let mut file = OpenOptions::new().append(true).create(true).open(&manifest)?;
        file.write_all(lines.as_bytes())
            .with_context(|| format!("write {}", manifest.display()))
    }

    fn things(&self) -> Vec<Thing> {
        let manifest = fs::read_to_string(self.dir.join("manifest.jsonl")).unwrap_or_default();
        // A line cut off by a crash names a thing that was not made.
        manifest
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect()
    }

    /// The running process that was recorded last as this.
    pub(crate) fn process(&self, what: &str) -> Option<ProcessId> {
        let things = self.things().into_iter().rev();
        let mut ids = things.filter_map(|thing| match thing {
            Thing::Process { what: name, id } if name == what => Some(id),
            _ => None,
        });
        ids.find(ProcessId::alive)
    }

    fn owner(&self) -> Option<ProcessId> {
        let mut owner = None;
        for thing in self.things() {
            match thing {
                Thing::Owner(id) => owner = Some(id),
                Thing::Kept => owner = None,
                _ => {}
            }
        }
        owner.filter(ProcessId::alive)
    }

    fn kept(&self) -> bool {
        self.things().contains(&Thing::Kept)
    }

    /// Saves the machine-wide sysctls that a kubelet will set, once for all states.
    ///
    /// # Errors
    /// They cannot be read or written down.
    pub fn save_sysctls(&self) -> Result<()> {
        let _lock = lock()?;
        let saved = sysctl_file();
        if saved.exists() {
            return Ok(());
        }
        let mut values = Vec::new();
        for name in SYSCTLS {
            let value = fs::read_to_string(Path::new("/proc/sys").join(name));
            values.push((
                name,
                value.with_context(|| format!("read {name}"))?.trim().to_owned(),
            ));
        }
        let draft = saved.with_extension("new");
        fs::write(&draft, serde_json::to_vec(&values)?)?;
        Ok(fs::rename(draft, saved)?)
    }

    /// Removes all of it. What is gone already is passed over, so it may be called again after it failed half-way.
    ///
    /// # Errors
    /// Something does not go away.
    pub fn teardown(&self) -> Result<()> {
        let _lock = lock()?;
        self.remove_all()?;
        finish()
    }

    fn remove_all(&self) -> Result<()> {
        let things = self.things();
        let unified = cgroup::unified()?;
        let (mut killed, mut children) = (Vec::new(), Vec::new());
        for thing in &things {
            match thing {
                Thing::Cgroup(name) => {
                    let inside = cgroup::processes(&unified.join(name));
                    killed.extend(inside.into_iter().filter_map(|pid| ProcessId::of(pid).ok()));
                    cgroup::kill(name)?;
                }
                Thing::Process { id, .. } => children.push(id.clone()),
                _ => {}
            }
        }
        settle(&killed, &children);
        for thing in things.iter().rev() {
            match thing {
                Thing::Netns(name) => net::delete(name)?,
                Thing::Cgroup(name) => cgroup::remove(name)?,
                Thing::Owner(_) | Thing::Kept | Thing::Process { .. } => {}
            }
        }
        remove_folder(&self.dir)?;
        Ok(())
    }
}

/// Waits a moment until killed processes are gone from the process table: `children` are collected here if they are this
/// process's own, the others by whoever adopted them, or by the caller that holds their handle.
fn settle(all: &[ProcessId], children: &[ProcessId]) {
    let own = std::process::id().to_string();
    let deadline = Instant::now() + SETTLE_TIMEOUT;
    loop {
        for child in children.iter().filter(|child| child.alive()) {
            let _ = waitpid(Pid::from_raw(child.pid), Some(WaitPidFlag::WNOHANG));
        }
        let left =
            |id: &ProcessId| id.alive() && stat_field(id.pid, PARENT).is_some_and(|parent| parent != own);
        if !all.iter().any(left) || Instant::now() > deadline {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn remove_folder(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

fn sysctl_file() -> PathBuf {
    Path::new(ROOT).join("sysctls.json")
}

fn restore_sysctls() -> Result<()> {
    let saved = sysctl_file();
    let Ok(text) = fs::read(&saved) else { return Ok(()) };
    let values: Vec<(String, String)> = serde_json::from_slice(&text).context("read the saved sysctls")?;
    for (name, value) in values {
        fs::write(Path::new("/proc/sys").join(&name), value).with_context(|| format!("put {name} back"))?;
    }
    Ok(fs::remove_file(saved)?)
}

/// Held while states come and go, so that two never save or restore the sysctls across each other. It is a lock on the
/// folder itself, which the last state's end removes.
fn lock() -> Result<Flock<File>> {
    loop {
        match DirBuilder::new().mode(0o700).create(ROOT) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => {
                return Err(error).with_context(|| format!("create {ROOT}"));
            }
            _ => {}
        }
        // /var/tmp is writable by everyone: a folder that somebody else put there must not steer what root removes.
        let found = match fs::symlink_metadata(ROOT) {
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            found => found?,
        };
        if !found.is_dir() || found.uid() != nix::unistd::geteuid().as_raw() {
            bail!("{ROOT} is not a folder of this user");
        }
        let Ok(folder) = File::open(ROOT) else { continue };
        let locked = Flock::lock(folder, FlockArg::LockExclusive).map_err(|(_, error)| error);
        let locked = locked.context("lock the state folders")?;
        // Whoever held the lock before may have removed the folder.
        if fs::symlink_metadata(ROOT)
            .is_ok_and(|now| now.is_dir() && now.ino() == locked.metadata().map_or(0, |own| own.ino()))
        {
            return Ok(locked);
        }
    }
}

/// After the last state: the sysctls as they were, and no empty folders. The caller holds the lock.
fn finish() -> Result<()> {
    if !states()?.is_empty() {
        return Ok(());
    }
    restore_sysctls()?;
    net::remove_if_empty();
    // Refused while something else is in it, which then is not this package's.
    let _ = fs::remove_dir(ROOT);
    Ok(())
}

/// The states that are there.
///
/// # Errors
/// The folder cannot be listed.
pub fn states() -> Result<Vec<StateFolder>> {
    let mut found = Vec::new();
    let Ok(entries) = fs::read_dir(ROOT) else {
        return Ok(found);
    };
    for entry in entries.flatten() {
        if entry.file_type()?.is_dir() {
            let name = entry.file_name().to_string_lossy().into_owned();
            found.push(StateFolder {
                name,
                dir: entry.path(),
            });
        }
    }
    found.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(found)
}

/// What [`clean`] did with one thing it found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cleaned {
    /// It is gone.
    Removed(String),
    /// A living process, whose number this is, owns it; it was left alone.
    InUse(String, i32),
}

/// Removes every state whose owner is gone, kept ones included, and then cgroups and namespaces that no state names.
/// Only states whose names `pick` takes are looked at.
///
/// # Errors
/// Something does not go away.
pub fn clean(pick: impl Fn(&str) -> bool) -> Result<Vec<Cleaned>> {
    let _lock = lock()?;
    let mut done = Vec::new();
    let mut living = Vec::new();
    for state in states()?.into_iter().filter(|state| pick(&state.name)) {
        if let Some(owner) = state.owner() {
            living.push(state.name.clone());
            done.push(Cleaned::InUse(state.name.clone(), owner.pid));
        } else {
            state
                .remove_all()
                .with_context(|| format!("clean {}", state.name))?;
            done.push(Cleaned::Removed(state.name.clone()));
        }
    }
    let orphan = |name: &String| {
        // What belongs to a state is called after it: `picket-tests-<state>` or `picket-tests-<state>-<part>`.
        let state = name[PREFIX.len()..].split('-').next().unwrap_or_default();
        pick(state) && !living.iter().any(|alive| alive == state)
    };
    for name in cgroup::top_level(PREFIX)?.into_iter().filter(orphan) {
        cgroup::kill(&name)?;
        cgroup::remove(&name)?;
        done.push(Cleaned::Removed(format!("cgroup {name}")));
    }
    for name in net::named(PREFIX).into_iter().filter(orphan) {
        net::delete(&name)?;
        done.push(Cleaned::Removed(format!("network namespace {name}")));
    }
    finish()?;
    Ok(done)
}
