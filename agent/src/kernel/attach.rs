//! Loads the object that the build script made, and attaches the root's programs to a cgroup.
//!
//! In: the object in the binary, the folder of pinned maps, a cgroup v2 folder. Out: loaded programs, pinned links, and the
//! programs that another's exclusive program keeps out.

use std::collections::HashSet;
use std::fs::File;
use std::path::Path;

use aya::maps::Map;
use aya::{Ebpf, EbpfLoader, include_bytes_aligned};
use nix::sys::statfs::CGROUP2_SUPER_MAGIC;

use super::error::KernelError;
use super::pins::{self, Folder};
use super::program::Program;

/// The programs as the build script linked them.
static OBJECT: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/picket-ebpf.o"));

/// Opens a cgroup v2 folder to attach to.
pub(super) fn open_cgroup(root: &Path) -> Result<File, KernelError> {
    let open = File::open(root).map_err(|source| KernelError::Io {
        action: "open the cgroup",
        path: root.to_owned(),
        source,
    })?;
    if !pins::is_on(root, CGROUP2_SUPER_MAGIC)? {
        return Err(KernelError::NotCgroup2 {
            path: root.to_owned(),
        });
    }
    Ok(open)
}

/// Parses the object and makes its maps, or adopts those pinned in `folder`. Without a folder nothing is
/// pinned: what is loaded goes with its handle, which is how the doctor tries the kernel.
pub(super) fn load_object(folder: Option<&Folder>) -> Result<Ebpf, KernelError> {
    let mut loader = EbpfLoader::new();
    // Nothing in the programs depends on the running kernel's types, so they load without its BTF, and alike everywhere.
    loader.btf(None);
    if let Some(folder) = folder {
        for name in pins::map_names() {
            loader.map_pin_path(name, folder.map(name));
        }
    }
    loader
        .load(OBJECT)
        .map_err(|error| KernelError::Load(Box::new(error)))
}

/// Loads every program, attaches those of the root and pins their links in place of the older ones'. Gives those that another's
/// exclusive program keeps out.
///
/// Both are attached for a moment; the programs bear running twice. Where an agent died between the steps, its
/// unfinished pin is removed once its successor's link is attached, so at no time is there none.
pub(super) fn attach_all(
    ebpf: &mut Ebpf,
    cgroup: &File,
    folder: &Folder,
) -> Result<HashSet<Program>, KernelError> {
    let mut kept_out = HashSet::new();
    for program in Program::all() {
        match program.load(ebpf) {
            // A kernel that does not take it leaves packet sockets uncovered, which each pod's coverage report says.
            Err(error) if program == Program::Interface => {
                tracing::warn!(%error, "the kernel does not load the interface program; no packet filter is attached to pods' interfaces")
            }
            outcome => outcome?,
        }
    }
    for program in Program::ROOT {
        match program.attach(ebpf, cgroup) {
            Ok(link) => folder.pin(link, program.name(), program)?,
            // Without it enforced pods are closed, not open: what is attached to each of them drops their packets to protected endpoints.
            // Those that were not judged yet have nothing of the kind. Looking at the links reports it, and attaches it
            // once it can.
            Err(error @ KernelError::Exclusive { .. }) => {
                tracing::error!(%error, "another program keeps a kernel program out; enforced pods reach no protected endpoint by its hook, and pods that are not classified yet reach all of them");
                kept_out.insert(program);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(kept_out)
}

/// Takes a map out of the object.
pub(super) fn take_map(ebpf: &mut Ebpf, name: &'static str) -> Result<Map, KernelError> {
    ebpf.take_map(name).ok_or(KernelError::Missing(name))
}
