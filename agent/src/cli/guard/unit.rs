//! The guard's systemd unit and program on the node.
//!
//! In: the folders of the node as they are mounted in the pod, the running program, and the words of the unit. Out: both files and the
//! link that has the kubelet's unit want the guard, each put in place in one step.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use tempfile::NamedTempFile;

use super::shown;

/// The program's file name.
pub(super) const PROGRAM: &str = "picket";

/// The unit's file name.
const UNIT: &str = "picket-guard.service";

/// The kubelet's folder of units that it wants. systemd reads it at the boot, so that nothing has to be enabled.
const WANTS: &str = "kubelet.service.wants";

/// Where the node's folders are mounted.
#[derive(Debug, clap::Args)]
pub(super) struct Folders {
    /// The node's folder /etc/systemd/system, as it is mounted here
    #[arg(long, value_name = "FOLDER", default_value = "/etc/systemd/system")]
    pub(super) unit_directory: PathBuf,
    /// The node's folder for the guard's program, as it is mounted here
    #[arg(long, value_name = "FOLDER", default_value = "/opt/picket/guard")]
    pub(super) program_directory: PathBuf,
}

/// What the unit says.
pub(super) struct Unit {
    pub(super) program: PathBuf,
    pub(super) node_name: String,
    pub(super) arguments: Vec<(&'static str, PathBuf)>,
    pub(super) state: PathBuf,
    pub(super) bpffs: PathBuf,
}

impl Unit {
    /// The unit's file.
    ///
    /// # Errors
    /// A path or the name has characters that systemd reads in a way of its own.
    pub(super) fn text(&self) -> anyhow::Result<String> {
        // A node's name is a DNS subdomain (RFC 1123).
        let is_name = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-.".contains(&byte);
        if self.node_name.is_empty() || !self.node_name.bytes().all(is_name) {
            bail!("{:?} is no name of a node", self.node_name);
        }
        let mut line = format!("{} guard run", shown(&self.program)?);
        for (name, path) in &self.arguments {
            line.push_str(&format!(" {name} {}", shown(path)?));
        }
        let above = self.bpffs.parent().unwrap_or(Path::new("/"));
        Ok(format!(
            "# Made by Picket's agent of this node; removed by `picket guard remove`.\n\
             [Unit]\n\
             Description=Picket guard: closes pods to the API server until Picket's agent serves\n\
             # A boot begins without kernel programs. A failure of this unit holds up nothing: the kubelet does not require it.\n\
             Before=kubelet.service\n\
             RequiresMountsFor={} {}\n\
             ConditionPathExists={}/agent.yaml\n\n\
             [Service]\n\
             Type=notify\n\
             Environment=PICKET_NODE_NAME={}\n\
             ExecStart={line}\n\
             TimeoutStartSec=30\n\
             Restart=on-failure\n\
             RestartSec=2\n",
            shown(above)?,
            shown(&self.state)?,
            shown(&self.state)?,
            self.node_name,
        ))
    }
}

/// Installs program, unit and link; says whether anything of it was new.
pub(super) fn install(folders: &Folders, program: &Path, text: &str) -> anyhow::Result<bool> {
    fs::create_dir_all(&folders.program_directory)
        .with_context(|| format!("make {}", folders.program_directory.display()))?;
    let installed = folders.program_directory.join(PROGRAM);
    let mut changed = false;
    if !same(program, &installed)? {
        let mut source = File::open(program).with_context(|| format!("read {}", program.display()))?;
        put(&installed, 0o755, |draft| io::copy(&mut source, draft).map(drop))?;
        changed = true;
    }
    let unit = folders.unit_directory.join(UNIT);
    if fs::read_to_string(&unit).ok().as_deref() != Some(text) {
        put(&unit, 0o644, |draft| io::Write::write_all(draft, text.as_bytes()))?;
        changed = true;
    }
    let wants = folders.unit_directory.join(WANTS);
    fs::create_dir_all(&wants).with_context(|| format!("make {}", wants.display()))?;
    let link = wants.join(UNIT);
    match symlink(Path::new("..").join(UNIT), &link) {
        Ok(()) => changed = true,
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
        Err(error) => return Err(error).with_context(|| format!("make {}", link.display())),
    }
    Ok(changed)
}

/// Removes what [`install`] makes; says whether a unit was there. Folders of others stay.
pub(super) fn remove(folders: &Folders) -> anyhow::Result<bool> {
    let unit = folders.unit_directory.join(UNIT);
    let was_there = unit.exists();
    let wants = folders.unit_directory.join(WANTS);
    let files = [wants.join(UNIT), unit, folders.program_directory.join(PROGRAM)];
    for file in files {
        match fs::remove_file(&file) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("remove {}", file.display()));
            }
            _ => {}
        }
    }
    for folder in [&wants, &folders.program_directory] {
        // One that holds something else, or is a mount, stays.
        let _stays = fs::remove_dir(folder);
    }
    Ok(was_there)
}

/// Puts a file in place in one step: systemd or the kernel never sees half of it, and a program that runs is not written to.
fn put(path: &Path, mode: u32, write: impl FnOnce(&mut File) -> io::Result<()>) -> anyhow::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    let placed = (|| -> io::Result<()> {
        let mut draft = NamedTempFile::new_in(folder)?;
        write(draft.as_file_mut())?;
        draft
            .as_file()
            .set_permissions(fs::Permissions::from_mode(mode))?;
        draft.as_file().sync_all()?;
        draft.persist(path).map(drop).map_err(|error| error.error)
    })();
    placed.with_context(|| format!("write {}", path.display()))
}

/// Whether two files hold the same bytes. A program has some 30 MB, which are read once in an agent's start.
fn same(one: &Path, other: &Path) -> anyhow::Result<bool> {
    let Ok(there) = fs::metadata(other) else {
        return Ok(false);
    };
    let here = fs::metadata(one).with_context(|| format!("read {}", one.display()))?;
    if here.len() != there.len() || there.permissions().mode() & 0o111 == 0 {
        return Ok(false);
    }
    let read = |path: &Path| fs::read(path).with_context(|| format!("read {}", path.display()));
    Ok(read(one)? == read(other)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit() -> Unit {
        Unit {
            program: "/opt/picket/guard/picket".into(),
            node_name: "node-1.example".into(),
            arguments: vec![("--bpffs", "/sys/fs/bpf/picket".into())],
            state: "/var/lib/picket".into(),
            bpffs: "/sys/fs/bpf/picket".into(),
        }
    }

    #[test]
    fn the_unit_starts_the_guard_before_the_kubelet() {
        let text = unit().text().expect("a unit");
        for line in [
            "Before=kubelet.service",
            "RequiresMountsFor=/sys/fs/bpf /var/lib/picket",
            "ConditionPathExists=/var/lib/picket/agent.yaml",
            "Environment=PICKET_NODE_NAME=node-1.example",
            "ExecStart=/opt/picket/guard/picket guard run --bpffs /sys/fs/bpf/picket",
            "Type=notify",
        ] {
            assert!(text.lines().any(|found| found == line), "no {line} in\n{text}");
        }
        for name in ["", "a b", "a\nExecStart=/bin/sh", "A"] {
            let bad = Unit {
                node_name: name.to_owned(),
                ..unit()
            };
            assert!(bad.text().is_err(), "{name:?}");
        }
    }

    #[test]
    fn what_is_installed_is_replaced_and_removed_whole() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = |name: &str| folder.path().join(name);
        let folders = Folders {
            unit_directory: path("system"),
            program_directory: path("opt/guard"),
        };
        fs::create_dir(&folders.unit_directory).expect("a folder");
        fs::write(path("one"), "one").expect("written");
        assert!(install(&folders, &path("one"), "text").expect("installed"));
        assert!(!install(&folders, &path("one"), "text").expect("installed again"));
        let link = folders.unit_directory.join(WANTS).join(UNIT);
        assert_eq!(
            fs::read_to_string(&link).expect("a link that leads somewhere"),
            "text"
        );
        let program = folders.program_directory.join(PROGRAM);
        let mode = fs::metadata(&program).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o755);

        fs::write(path("two"), "two").expect("written");
        assert!(install(&folders, &path("two"), "text").expect("replaced"));
        assert_eq!(fs::read_to_string(&program).expect("there"), "two");
        assert!(install(&folders, &path("two"), "other").expect("replaced"));
        assert_eq!(fs::read_to_string(&link).expect("there"), "other");

        fs::write(folders.unit_directory.join("another.service"), "").expect("written");
        assert!(remove(&folders).expect("removed"));
        assert!(!remove(&folders).expect("removed again"));
        let left: Vec<_> = fs::read_dir(&folders.unit_directory)
            .expect("there")
            .map(|entry| entry.expect("an entry").file_name())
            .collect();
        assert_eq!(left, ["another.service"]);
        assert!(!folders.program_directory.exists());
    }
}
