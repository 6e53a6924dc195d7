//! Loads the object that the build script made, and attaches its programs to a cgroup.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;

use aya::maps::Map;
use aya::programs::links::FdLink;
use aya::programs::{CgroupAttachMode, CgroupSockAddr, ProgramError, SockOps};
use aya::{Ebpf, EbpfLoader, include_bytes_aligned};
use nix::sys::statfs::CGROUP2_SUPER_MAGIC;

use super::error::KernelError;
use super::pins::{self, Folder};

/// The programs as the build script linked them.
static OBJECT: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/picket-ebpf.o"));

/// One of the programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Program {
    /// Writes flows.
    SockOps,
    /// Gives a client the IPv4 address it dialled.
    GetPeerName4,
    /// Gives a client the IPv6 address it dialled.
    GetPeerName6,
    /// Redirects and refuses IPv4 connects.
    Connect4,
    /// Redirects and refuses IPv6 connects.
    Connect6,
    /// Refuses UDP to IPv4 doors that is sent without a connect.
    SendMsg4,
    /// Refuses UDP to IPv6 doors that is sent without a connect.
    SendMsg6,
}

impl Program {
    /// All of them in the order they attach: nothing is redirected before its flow would be written.
    pub const ALL: [Self; 7] = [
        Self::SockOps,
        Self::GetPeerName4,
        Self::GetPeerName6,
        Self::Connect4,
        Self::Connect6,
        Self::SendMsg4,
        Self::SendMsg6,
    ];

    /// Its name in the object, in the kernel and in its pin.
    pub fn name(self) -> &'static str {
        match self {
            Self::SockOps => "sock_ops",
            Self::GetPeerName4 => "getpeername4",
            Self::GetPeerName6 => "getpeername6",
            Self::Connect4 => "connect4",
            Self::Connect6 => "connect6",
            Self::SendMsg4 => "sendmsg4",
            Self::SendMsg6 => "sendmsg6",
        }
    }

    /// Its name where people read it.
    pub(super) fn title(self) -> &'static str {
        match self {
            Self::SockOps => "hook sock_ops",
            Self::GetPeerName4 => "hook getpeername4",
            Self::GetPeerName6 => "hook getpeername6",
            Self::Connect4 => "hook connect4",
            Self::Connect6 => "hook connect6",
            Self::SendMsg4 => "hook sendmsg4",
            Self::SendMsg6 => "hook sendmsg6",
        }
    }

    /// Loads it into the kernel and attaches it; it is detached when the link is dropped unpinned.
    ///
    /// # Errors
    /// When the kernel refuses either.
    pub fn attach(self, ebpf: &mut Ebpf, cgroup: impl AsFd) -> Result<FdLink, KernelError> {
        let name = self.name();
        let refused = |action| {
            move |source: ProgramError| KernelError::Program {
                action,
                program: name,
                source: Box::new(source),
            }
        };
        let program = ebpf.program_mut(name).ok_or(KernelError::Missing(name))?;
        // The kernel takes no flags with a link, and lets links share the cgroup with others anyway.
        let mode = CgroupAttachMode::Single;
        let link = match self {
            Self::SockOps => {
                let program: &mut SockOps = program.try_into().map_err(refused("load"))?;
                program.load().map_err(refused("load"))?;
                let link = program.attach(cgroup, mode).map_err(refused("attach"))?;
                FdLink::try_from(program.take_link(link).map_err(refused("attach"))?)
            }
            Self::GetPeerName4
            | Self::GetPeerName6
            | Self::Connect4
            | Self::Connect6
            | Self::SendMsg4
            | Self::SendMsg6 => {
                let program: &mut CgroupSockAddr = program.try_into().map_err(refused("load"))?;
                program.load().map_err(refused("load"))?;
                let link = program.attach(cgroup, mode).map_err(refused("attach"))?;
                FdLink::try_from(program.take_link(link).map_err(refused("attach"))?)
            }
        };
        link.map_err(|error| KernelError::Program {
            action: "attach",
            program: name,
            source: Box::new(error),
        })
    }
}

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
/// pinned: what is loaded goes with its handle, which is how the preflight tries the kernel.
pub(super) fn load_object(folder: Option<&Folder>) -> Result<Ebpf, KernelError> {
    let mut loader = EbpfLoader::new();
    if let Some(folder) = folder {
        for name in pins::map_names() {
            loader.map_pin_path(name, folder.map(name));
        }
    }
    loader
        .load(OBJECT)
        .map_err(|error| KernelError::Load(Box::new(error)))
}

/// Attaches every program and pins its link in place of the older one's.
///
/// Both are attached for a moment; the programs bear running twice. Where an agent died between the steps, its
/// unfinished pin is removed once its successor's link is attached, so at no time is there none.
pub(super) fn attach_all(ebpf: &mut Ebpf, cgroup: &File, folder: &Folder) -> Result<(), KernelError> {
    for program in Program::ALL {
        let link = program.attach(ebpf, cgroup)?;
        let (new, final_place) = (folder.new_link(program.name()), folder.link(program.name()));
        pins::remove_pin(&new)?;
        link.pin(&new).map_err(|error| KernelError::Program {
            action: "pin",
            program: program.name(),
            source: Box::new(error),
        })?;
        std::fs::rename(&new, &final_place).map_err(|source| KernelError::Io {
            action: "put in place",
            path: final_place,
            source,
        })?;
    }
    Ok(())
}

/// Takes a map out of the object.
pub(super) fn take_map(ebpf: &mut Ebpf, name: &'static str) -> Result<Map, KernelError> {
    ebpf.take_map(name).ok_or(KernelError::Missing(name))
}
