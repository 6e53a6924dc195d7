//! What can go wrong between the agent and the kernel.
//!
//! In: errors of aya, the system and the BPF filesystem. Out: a [`KernelError`], which says what was tried, where, and what to
//! do.

use std::io;
use std::path::PathBuf;

use aya::maps::MapError;

/// Why the kernel's part could not be loaded, read or changed.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// The programs attach to cgroup v2 only.
    #[error(
        "{path} is not on a cgroup v2 filesystem; `grep cgroup2 /proc/mounts` shows where one is mounted"
    )]
    NotCgroup2 {
        /// The configured folder.
        path: PathBuf,
    },
    /// Pins live on a BPF filesystem only.
    #[error(
        "{path} is not on a BPF filesystem; mount one, for instance with `mount -t bpf bpf /sys/fs/bpf`, or name \
         a folder on one"
    )]
    NotBpffs {
        /// The configured folder.
        path: PathBuf,
    },
    /// A file or folder could not be used.
    #[error("cannot {action} {path}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// A pinned map is not the map its name says.
    #[error(
        "the map pinned at {pin} is not ours: its {property} is {found}, not {wanted}. Remove the folder it lies \
         in if no other agent uses it"
    )]
    Shape {
        /// The pin.
        pin: PathBuf,
        /// Which property differs.
        property: &'static str,
        /// As the kernel tells it.
        found: String,
        /// As it has to be.
        wanted: String,
    },
    /// The programs' object could not be loaded.
    #[error("cannot load the kernel programs: {0}")]
    Load(#[source] Box<aya::EbpfError>),
    /// The kernel denied a program.
    #[error("cannot {action} the kernel program {program}: {source}")]
    Program {
        /// `load`, `attach` or `pin`.
        action: &'static str,
        /// Its name.
        program: &'static str,
        /// What the kernel said, the verifier's log included where there is one.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Another program has the cgroup for itself.
    #[error(
        "cannot attach the kernel program {program}: another program is attached to the cgroup root, or to a cgroup \
         above it, for itself alone (without BPF_F_ALLOW_MULTI). `bpftool cgroup tree` shows it; it has to go, or to \
         share"
    )]
    Exclusive {
        /// Ours.
        program: &'static str,
    },
    /// Another layout's programs are still needed.
    #[error(
        "the kernel program {program} is not attached yet, and another version's holds pods in its place"
    )]
    Incomplete {
        /// Ours.
        program: &'static str,
    },
    /// The object lacks a program or a map: it was built from other sources.
    #[error("the kernel programs have no {0}")]
    Missing(&'static str),
    /// A map could not be pinned.
    #[error("cannot pin the kernel map {map}: {source}")]
    PinMap {
        /// Its name.
        map: &'static str,
        /// What the kernel said.
        source: Box<aya::pin::PinError>,
    },
    /// A map could not be read or written.
    #[error("a kernel map failed: {0}")]
    Map(#[source] Box<MapError>),
    /// There is no such interface.
    #[error("interface {interface} of the node: {source}")]
    Interface {
        /// Its number.
        interface: u32,
        /// What the kernel said.
        source: io::Error,
    },
    /// The boot clock could not be read.
    #[error("cannot read the boot clock: {0}")]
    Clock(#[source] io::Error),
    /// The event stream has one reader.
    #[error("the kernel's events are already being read")]
    EventsTaken,
    /// The event ring could not be waited for.
    #[error("cannot wait for the kernel's events: {0}")]
    Events(#[source] io::Error),
}

impl From<MapError> for KernelError {
    fn from(error: MapError) -> Self {
        Self::Map(Box::new(error))
    }
}
