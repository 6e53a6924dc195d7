//! The folder on the BPF filesystem where maps and links are pinned.
//!
//! In: the configured folder, and links and maps to pin. Out: pins that were checked before they are adopted, and older ones
//! removed.
//!
//! The folder's name carries the hash of the maps' layout, so an agent finds only maps it can read. A link is replaced by
//! renaming the new pin over the old one, which is one step for the kernel.

use std::cmp::Reverse;
use std::ffi::OsStr;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use aya::maps::{MapData, MapInfo, MapType};
use aya::programs::links::FdLink;
use nix::sys::statfs::{BPF_FS_MAGIC, FsType, statfs};
use picket_common::{
    CLASSES_MAX, COUNTERS, ClassValue, DialRecord, ENDPOINTS_MAX, EVENTS_BYTES, EndpointKey, FLOWS_MAX,
    FlowKey, INTERFACES_MAX, LAYOUT, LIMITS_MAX, LimitValue, NETNS_MAX, NodeValue,
};

use super::error::KernelError;
use super::program::Program;
use super::sys;

/// What the names of layout folders begin with.
const LAYOUT_PREFIX: &str = "v1-";

/// What the names of link pins begin with.
const LINK_PREFIX: &str = "link_";

/// What the name of a link's pin ends with until it replaces the older one.
const NEW_SUFFIX: &str = "_new";

/// How a map has to look to be adopted.
struct Shape {
    name: &'static str,
    kind: MapType,
    key: usize,
    value: usize,
    entries: u32,
}

const SHAPES: [Shape; 11] = [
    Shape {
        name: "ENDPOINTS",
        kind: MapType::Hash,
        key: size_of::<EndpointKey>(),
        value: size_of::<u32>(),
        entries: ENDPOINTS_MAX,
    },
    Shape {
        name: "CLASSES",
        kind: MapType::Hash,
        key: size_of::<u64>(),
        value: size_of::<ClassValue>(),
        entries: CLASSES_MAX,
    },
    Shape {
        name: "NETNS",
        kind: MapType::Hash,
        key: size_of::<u64>(),
        value: size_of::<u64>(),
        entries: NETNS_MAX,
    },
    Shape {
        name: "INTERFACES",
        kind: MapType::Hash,
        key: size_of::<u32>(),
        value: size_of::<u64>(),
        entries: INTERFACES_MAX,
    },
    Shape {
        name: "NODE",
        kind: MapType::Array,
        key: size_of::<u32>(),
        value: size_of::<NodeValue>(),
        entries: 1,
    },
    Shape {
        name: "HEARTBEAT",
        kind: MapType::Array,
        key: size_of::<u32>(),
        value: size_of::<u64>(),
        entries: 1,
    },
    Shape {
        name: "LIMITS",
        kind: MapType::LruHash,
        key: size_of::<u64>(),
        value: size_of::<LimitValue>(),
        entries: LIMITS_MAX,
    },
    Shape {
        name: "FLOWS",
        kind: MapType::LruHash,
        key: size_of::<FlowKey>(),
        value: size_of::<DialRecord>(),
        entries: FLOWS_MAX,
    },
    Shape {
        name: "EVENTS",
        kind: MapType::RingBuf,
        key: 0,
        value: 0,
        entries: EVENTS_BYTES,
    },
    Shape {
        name: "COUNTERS",
        kind: MapType::PerCpuArray,
        key: size_of::<u32>(),
        value: size_of::<u64>(),
        entries: COUNTERS,
    },
    Shape {
        name: "SOCKETS",
        kind: MapType::SkStorage,
        key: size_of::<i32>(),
        value: size_of::<DialRecord>(),
        entries: 0,
    },
];

/// Every map's name, which is its pin's too.
pub(super) fn map_names() -> impl Iterator<Item = &'static str> {
    SHAPES.iter().map(|shape| shape.name)
}

/// The folder of this layout.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
}

impl Folder {
    /// Makes the folder when it is missing, and checks every map that lies in it.
    pub(super) fn prepare(bpffs: &Path) -> Result<Self, KernelError> {
        if !is_on(bpffs, BPF_FS_MAGIC)? {
            return Err(KernelError::NotBpffs {
                path: bpffs.to_owned(),
            });
        }
        let path = bpffs.join(format!("{LAYOUT_PREFIX}{LAYOUT:016x}"));
        let folder = Self { path };
        folder.make()?;
        for shape in &SHAPES {
            folder.check(shape)?;
        }
        Ok(folder)
    }

    /// Makes the folder, unless it is there.
    fn make(&self) -> Result<(), KernelError> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.path)
            .map_err(|source| KernelError::Io {
                action: "make",
                path: self.path.clone(),
                source,
            })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Where a map is pinned.
    pub(super) fn map(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Where a link is pinned: a root program's by its name, others by what they are attached to.
    pub(super) fn link(&self, name: &str) -> PathBuf {
        self.path.join(format!("{LINK_PREFIX}{name}"))
    }

    /// Pins a link under its name, in place of the older one there, which goes. The folder is made where it is gone: an agent
    /// with another layout that was to take over, and failed, may have removed it.
    pub(super) fn pin(&self, link: FdLink, name: &str, program: Program) -> Result<(), KernelError> {
        let final_place = self.link(name);
        let new = self.link(&format!("{name}{NEW_SUFFIX}"));
        self.make()?;
        remove_pin(&new)?;
        link.pin(&new).map_err(|error| KernelError::Program {
            action: "pin",
            program: program.name(),
            source: Box::new(error),
        })?;
        fs::rename(&new, &final_place).map_err(|source| KernelError::Io {
            action: "put in place",
            path: final_place,
            source,
        })
    }

    /// Pins a map under its name, unless one is pinned there. True where it was not.
    pub(super) fn pin_map(&self, map: &MapData, name: &'static str) -> Result<bool, KernelError> {
        let place = self.map(name);
        if place.exists() {
            return Ok(false);
        }
        self.make()?;
        map.pin(&place).map_err(|error| KernelError::PinMap {
            map: name,
            source: Box::new(error),
        })?;
        Ok(true)
    }

    /// Removes links that were pinned and not put in place.
    pub(super) fn remove_unfinished(&self) -> Result<(), KernelError> {
        let mut pins = entries(&self.path)?;
        pins.retain(|pin| is_link(pin) && pin.as_os_str().as_bytes().ends_with(NEW_SUFFIX.as_bytes()));
        pins.iter().try_for_each(|pin| remove_pin(pin))
    }

    fn check(&self, shape: &Shape) -> Result<(), KernelError> {
        let pin = self.map(shape.name);
        if !pin.exists() {
            return Ok(());
        }
        let info = MapInfo::from_pin(&pin)?;
        let differs = |property, found: String, wanted: String| {
            if found == wanted {
                return Ok(());
            }
            Err(KernelError::Shape {
                pin: pin.clone(),
                property,
                found,
                wanted,
            })
        };
        differs(
            "type",
            format!("{:?}", info.map_type()?),
            format!("{:?}", shape.kind),
        )?;
        differs("key size", info.key_size().to_string(), shape.key.to_string())?;
        differs(
            "value size",
            info.value_size().to_string(),
            shape.value.to_string(),
        )?;
        differs(
            "capacity",
            info.max_entries().to_string(),
            shape.entries.to_string(),
        )
    }
}

/// Whether the path, or the nearest parent that exists, lies on a filesystem of this kind.
pub(super) fn is_on(path: &Path, kind: FsType) -> Result<bool, KernelError> {
    for ancestor in path.ancestors() {
        match statfs(ancestor) {
            Ok(found) => return Ok(found.filesystem_type() == kind),
            Err(nix::errno::Errno::ENOENT) => {}
            Err(error) => {
                return Err(KernelError::Io {
                    action: "look at",
                    path: ancestor.to_owned(),
                    source: error.into(),
                });
            }
        }
    }
    Ok(false)
}

/// The folders of layouts but `kept`.
pub(super) fn layouts(bpffs: &Path, kept: Option<&Path>) -> Result<Vec<PathBuf>, KernelError> {
    let mut folders = entries(bpffs)?;
    folders.retain(|folder| {
        let is_layout = folder
            .file_name()
            .and_then(|name| name.to_str())
            .is_some_and(|name| name.starts_with('v') && name.contains('-') && folder.is_dir());
        is_layout && kept != Some(folder.as_path())
    });
    Ok(folders)
}

/// Removes every layout's folder but `kept`, the links first: once they are gone the maps have no user.
pub(super) fn remove_layouts(bpffs: &Path, kept: Option<&Path>) -> Result<(), KernelError> {
    for folder in layouts(bpffs, kept)? {
        let mut pins = entries(&folder)?;
        pins.retain(|pin| !pin.is_dir());
        let (mut links, maps): (Vec<_>, Vec<_>) = pins.into_iter().partition(|pin| is_link(pin));
        // What redirects goes before what notes flows, as it came after it: a connect that is redirected and not noted is
        // nobody's to its listener, and is closed.
        links.sort_by_key(|pin| Reverse(attach_order(pin)));
        for link in &links {
            // A pin that goes takes its link along a moment later, in whatever order.
            if let Err(error) = sys::detach(link) {
                tracing::debug!(%error, link = %link.display(), "a link goes with its pin");
            }
        }
        for pin in links.iter().chain(&maps) {
            remove_pin(pin)?;
        }
        remove_if_empty(&folder)?;
    }
    Ok(())
}

/// Whether a pin is a link's.
fn is_link(pin: &Path) -> bool {
    let name = pin.file_name().map(OsStrExt::as_bytes);
    name.is_some_and(|name| name.starts_with(LINK_PREFIX.as_bytes()))
}

/// When a link is attached, among the root's; the others are attached later.
fn attach_order(pin: &Path) -> usize {
    let name = pin.file_name().and_then(OsStr::to_str).unwrap_or_default();
    let name = name.strip_prefix(LINK_PREFIX).unwrap_or(name);
    Program::ROOT
        .iter()
        .position(|program| program.name() == name)
        .unwrap_or(usize::MAX)
}

/// Removes a pin; one that is not there is fine.
pub(super) fn remove_pin(pin: &Path) -> Result<(), KernelError> {
    match fs::remove_file(pin) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(KernelError::Io {
            action: "remove",
            path: pin.to_owned(),
            source,
        }),
        _ => Ok(()),
    }
}

/// Removes a folder; one that is absent, in use as a mount point, or not empty stays as it is.
pub(super) fn remove_if_empty(folder: &Path) -> Result<(), KernelError> {
    use io::ErrorKind::{DirectoryNotEmpty, NotFound, ResourceBusy};
    match fs::remove_dir(folder) {
        Err(source) if !matches!(source.kind(), NotFound | DirectoryNotEmpty | ResourceBusy) => {
            Err(KernelError::Io {
                action: "remove",
                path: folder.to_owned(),
                source,
            })
        }
        _ => Ok(()),
    }
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>, KernelError> {
    let failed = |source| KernelError::Io {
        action: "read",
        path: folder.to_owned(),
        source,
    };
    match fs::read_dir(folder) {
        Ok(entries) => entries.map(|entry| Ok(entry.map_err(failed)?.path())).collect(),
        Err(source) if source.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(source) => Err(failed(source)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flows_are_noted_for_as_long_as_something_redirects() {
        let order = |name| attach_order(&Path::new("/bpf/v1-0").join(name));
        for redirecting in ["link_connect4", "link_connect6"] {
            assert!(order("link_sock_ops") < order(redirecting));
            assert!(order(redirecting) < order("link_pod_17"));
        }
    }
}
