//! One of the kernel programs: its names, how it is loaded, and where it attaches.
//!
//! In: the loaded object, and a cgroup or an interface. Out: a [`Program`] and its link.

use std::os::fd::AsFd;

use aya::Ebpf;
use aya::programs::links::{FdLink, LinkError, LinkOrder};
use aya::programs::tc::{TcAttachOptions, TcAttachType};
use aya::programs::{
    CgroupAttachMode, CgroupSkb, CgroupSkbAttachType, CgroupSock, CgroupSockAddr, ProgramError, ProgramInfo,
    SchedClassifier, SockOps,
};

use super::error::KernelError;

/// One of the programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Program {
    /// Writes flows.
    SockOps,
    /// Gives a client the IPv4 address it dialled.
    GetPeerName4,
    /// Gives a client the IPv6 address it dialled.
    GetPeerName6,
    /// Redirects and denies IPv4 connects.
    Connect4,
    /// Redirects and denies IPv6 connects.
    Connect6,
    /// Refuses UDP to IPv4 protected endpoints that is sent without a connect.
    SendMsg4,
    /// Refuses UDP to IPv6 protected endpoints that is sent without a connect.
    SendMsg6,
    /// Refuses kinds of sockets that no other program follows.
    SockCreate,
    /// Reports binds to the port of a pod's listener at an IPv4 address.
    Bind4,
    /// Reports binds to the port of a pod's listener at an IPv6 address.
    Bind6,
    /// Drops packets to protected endpoints that leave sockets of an enforced pod.
    Egress,
    /// The same for pods that share the node's network.
    EgressNode,
    /// Drops packets to protected endpoints that leave an enforced pod by its interface.
    Interface,
}

impl Program {
    /// Those that attach to the cgroup root, in the order they do: nothing is redirected before its flow would be
    /// written.
    pub const ROOT: [Self; 10] = [
        Self::SockOps,
        Self::GetPeerName4,
        Self::GetPeerName6,
        Self::Connect4,
        Self::Connect6,
        Self::SendMsg4,
        Self::SendMsg6,
        Self::SockCreate,
        Self::Bind4,
        Self::Bind6,
    ];

    /// Those that attach to each enforced pod.
    pub const POD: [Self; 3] = [Self::Egress, Self::EgressNode, Self::Interface];

    /// All of them.
    pub fn all() -> impl Iterator<Item = Self> + Clone {
        Self::ROOT.into_iter().chain(Self::POD)
    }

    /// Its name in the object, in the kernel and, at the root, in its pin.
    pub fn name(self) -> &'static str {
        match self {
            Self::SockOps => "sock_ops",
            Self::GetPeerName4 => "getpeername4",
            Self::GetPeerName6 => "getpeername6",
            Self::Connect4 => "connect4",
            Self::Connect6 => "connect6",
            Self::SendMsg4 => "sendmsg4",
            Self::SendMsg6 => "sendmsg6",
            Self::SockCreate => "sock_create",
            Self::Bind4 => "bind4",
            Self::Bind6 => "bind6",
            Self::Egress => "egress",
            Self::EgressNode => "egress_node",
            Self::Interface => "interface",
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
            Self::SockCreate => "hook sock_create",
            Self::Bind4 => "hook bind4",
            Self::Bind6 => "hook bind6",
            Self::Egress => "hook egress",
            Self::EgressNode => "hook egress_node",
            Self::Interface => "hook interface",
        }
    }

    /// Loads it into the kernel.
    ///
    /// # Errors
    /// When the kernel denies it.
    pub fn load(self, ebpf: &mut Ebpf) -> Result<(), KernelError> {
        let denied = self.denied("load");
        let program = self.find(ebpf)?;
        match self {
            Self::SockOps => as_kind::<&mut SockOps>(program).and_then(SockOps::load),
            Self::SockCreate => as_kind::<&mut CgroupSock>(program).and_then(CgroupSock::load),
            Self::Egress | Self::EgressNode => as_kind::<&mut CgroupSkb>(program).and_then(CgroupSkb::load),
            Self::Interface => as_kind::<&mut SchedClassifier>(program).and_then(SchedClassifier::load),
            Self::GetPeerName4
            | Self::GetPeerName6
            | Self::Connect4
            | Self::Connect6
            | Self::SendMsg4
            | Self::SendMsg6
            | Self::Bind4
            | Self::Bind6 => as_kind::<&mut CgroupSockAddr>(program).and_then(CgroupSockAddr::load),
        }
        .map_err(denied)
    }

    /// What the kernel reports of it, once it is loaded.
    pub(super) fn info(self, ebpf: &mut Ebpf) -> Result<ProgramInfo, KernelError> {
        let denied = self.denied("look at");
        self.find(ebpf)?.info().map_err(denied)
    }

    /// Attaches it, loaded before, to a cgroup; it is detached when the link is dropped unpinned.
    ///
    /// # Errors
    /// When the kernel denies, and for [`Program::Interface`], which has no business at a cgroup.
    pub fn attach(self, ebpf: &mut Ebpf, cgroup: impl AsFd) -> Result<FdLink, KernelError> {
        let denied = self.denied("attach");
        let program = self.find(ebpf)?;
        // The kernel takes no flags with a link, and lets links share the cgroup with others anyway.
        let mode = CgroupAttachMode::Single;
        let attached = match self {
            Self::SockOps => as_kind::<&mut SockOps>(program).and_then(|program| {
                let link = program.attach(cgroup, mode)?;
                as_fd_link(program.take_link(link)?)
            }),
            Self::SockCreate => as_kind::<&mut CgroupSock>(program).and_then(|program| {
                let link = program.attach(cgroup, mode)?;
                as_fd_link(program.take_link(link)?)
            }),
            Self::Egress | Self::EgressNode => as_kind::<&mut CgroupSkb>(program).and_then(|program| {
                let link = program.attach(cgroup, CgroupSkbAttachType::Egress, mode)?;
                as_fd_link(program.take_link(link)?)
            }),
            Self::GetPeerName4
            | Self::GetPeerName6
            | Self::Connect4
            | Self::Connect6
            | Self::SendMsg4
            | Self::SendMsg6
            | Self::Bind4
            | Self::Bind6 => as_kind::<&mut CgroupSockAddr>(program).and_then(|program| {
                let link = program.attach(cgroup, mode)?;
                as_fd_link(program.take_link(link)?)
            }),
            Self::Interface => Err(ProgramError::UnexpectedProgramType),
        };
        attached.map_err(|error| {
            if is_exclusive(&error) {
                KernelError::Exclusive { program: self.name() }
            } else {
                denied(error)
            }
        })
    }

    fn find(self, ebpf: &mut Ebpf) -> Result<&mut aya::programs::Program, KernelError> {
        ebpf.program_mut(self.name())
            .ok_or(KernelError::Missing(self.name()))
    }

    fn denied(self, action: &'static str) -> impl Fn(ProgramError) -> KernelError {
        move |source| KernelError::Program {
            action,
            program: self.name(),
            source: Box::new(source),
        }
    }
}

/// Attaches [`Program::Interface`], loaded before, in front of an interface's other programs.
///
/// # Errors
/// When there is no such interface, and when the kernel knows no TCX (Linux 6.6).
pub(super) fn attach_interface(ebpf: &mut Ebpf, interface: &str) -> Result<FdLink, KernelError> {
    let program = Program::Interface;
    let denied = program.denied("attach");
    as_kind::<&mut SchedClassifier>(program.find(ebpf)?)
        .and_then(|program| {
            let link = program.attach_with_options(
                interface,
                TcAttachType::Ingress,
                TcAttachOptions::TcxOrder(LinkOrder::first()),
            )?;
            as_fd_link(program.take_link(link)?)
        })
        .map_err(denied)
}

fn as_kind<'a, T>(program: &'a mut aya::programs::Program) -> Result<T, ProgramError>
where
    T: TryFrom<&'a mut aya::programs::Program, Error = ProgramError>,
{
    T::try_from(program)
}

fn as_fd_link<L>(link: L) -> Result<FdLink, ProgramError>
where
    FdLink: TryFrom<L, Error = LinkError>,
{
    FdLink::try_from(link).map_err(|_| ProgramError::UnexpectedProgramType)
}

/// The kernel says EPERM where a program without `BPF_F_ALLOW_MULTI` holds the cgroup or one above it
/// (kernel/bpf/cgroup.c, `hierarchy_allows_attach`).
fn is_exclusive(error: &ProgramError) -> bool {
    matches!(error, ProgramError::SyscallError(error) if error.io_error.kind() == std::io::ErrorKind::PermissionDenied)
}
