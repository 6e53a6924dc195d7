//! The kernel's part of the way: the programs that redirect connects to doors, and the maps behind them.
//!
//! In come the doors and the class of each pod's cgroup; out come the flow of each redirected connection, the
//! refused connects as they happen, and counters. Everything is pinned, so that the programs go on refusing and
//! redirecting while no agent runs; the next agent adopts what it finds and replaces the programs without a gap.

mod attach;
pub mod cut;
mod error;
mod events;
mod flows;
pub mod interface;
mod mounts;
mod namespace;
mod netlink;
mod pins;
pub mod preflight;
mod sys;
mod types;

use std::collections::{BTreeSet, HashSet};
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use aya::maps::{HashMap, MapData, PerCpuArray, RingBuf};
use picket_common::{ClassValue, DoorKey};

pub use attach::Program;
pub use error::KernelError;
pub use events::KernelEvents;
pub use mounts::cgroup_mount;
pub(crate) use namespace::within;
pub use picket_common::{Counter, DoorAction, Hook, Refusal};
pub use sys::netns_cookie;
pub use types::{Class, Counters, Door, Flow, KernelConfig, KernelEvent};

use crate::workload::CgroupId;
use flows::Flows;
use pins::Folder;

/// The programs, attached and pinned, and their maps.
///
/// Dropping it leaves the programs at work; [`Kernel::unload`] ends them.
pub struct Kernel {
    folder: Folder,
    bpffs: PathBuf,
    doors: Mutex<HashMap<MapData, DoorKey, u32>>,
    classes: Mutex<HashMap<MapData, u64, ClassValue>>,
    flows: Flows,
    counters: PerCpuArray<MapData, u64>,
    events: Mutex<Option<RingBuf<MapData>>>,
}

impl Kernel {
    /// Loads the programs, adopts the maps that an earlier agent pinned or makes new ones, and attaches.
    ///
    /// Doors and classes of adopted maps stay in force; [`Self::classes`] tells which, and the caller removes
    /// those of pods that are gone. Programs of an agent with another map layout stay attached too, until
    /// [`Self::retire_older`].
    ///
    /// # Errors
    /// When a folder is not what it has to be, when a pinned map has another shape, and when the kernel refuses
    /// a program; the message says which.
    pub fn load(config: &KernelConfig) -> Result<Self, KernelError> {
        let cgroup = attach::open_cgroup(&config.cgroup_root)?;
        let folder = Folder::prepare(&config.bpffs)?;
        let mut ebpf = attach::load_object(Some(&folder))?;
        attach::attach_all(&mut ebpf, &cgroup, &folder)?;
        let doors = HashMap::try_from(attach::take_map(&mut ebpf, "DOORS")?)?;
        let classes = HashMap::try_from(attach::take_map(&mut ebpf, "CLASSES")?)?;
        let counters = PerCpuArray::try_from(attach::take_map(&mut ebpf, "COUNTERS")?)?;
        let events = RingBuf::try_from(attach::take_map(&mut ebpf, "EVENTS")?)?;
        let flows = Flows::open(&folder)?;
        Ok(Self {
            folder,
            bpffs: config.bpffs.clone(),
            doors: Mutex::new(doors),
            classes: Mutex::new(classes),
            flows,
            counters,
            events: Mutex::new(Some(events)),
        })
    }

    /// The addresses in force, those of an earlier agent included, in canonical form.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn doors(&self) -> Result<BTreeSet<SocketAddr>, KernelError> {
        let map = lock(&self.doors);
        map.keys()
            .map(|key| {
                let key = key?;
                Ok(SocketAddr::new(key.address.canonical().to_ip(), key.port))
            })
            .collect()
    }

    /// Adds doors to those in force; none goes.
    ///
    /// # Errors
    /// When the map does not take an entry, for instance because there are more than it holds.
    pub fn add_doors(&self, doors: &BTreeSet<Door>) -> Result<(), KernelError> {
        let mut map = lock(&self.doors);
        for door in doors {
            map.insert(door.key(), door.action.code(), 0)?;
        }
        Ok(())
    }

    /// Makes `doors` the doors: the new ones come before the old ones go.
    ///
    /// # Errors
    /// When the map does not take an entry, for instance because there are more than it holds.
    pub fn set_doors(&self, doors: &BTreeSet<Door>) -> Result<(), KernelError> {
        let mut map = lock(&self.doors);
        let mut wanted = HashSet::with_capacity(doors.len());
        for door in doors {
            let key = door.key();
            map.insert(key, door.action.code(), 0)?;
            wanted.insert(key);
        }
        let present = map.keys().collect::<Result<Vec<_>, _>>()?;
        for key in present.iter().filter(|key| !wanted.contains(*key)) {
            map.remove(key)?;
        }
        Ok(())
    }

    /// Gives a cgroup its class, or another one.
    ///
    /// # Errors
    /// When the map does not take the entry.
    pub fn set_class(&self, cgroup: CgroupId, class: Class) -> Result<(), KernelError> {
        Ok(lock(&self.classes).insert(cgroup.0, class.value(), 0)?)
    }

    /// Takes a cgroup's class away: that of its nearest classified parent holds for it then. One that has none
    /// is fine.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn remove_class(&self, cgroup: CgroupId) -> Result<(), KernelError> {
        flows::absent_is_fine(lock(&self.classes).remove(&cgroup.0))
    }

    /// Every classified cgroup, those an earlier agent left included.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn classes(&self) -> Result<Vec<(CgroupId, Class)>, KernelError> {
        let map = lock(&self.classes);
        map.iter()
            .map(|entry| {
                let (cgroup, value) = entry?;
                Ok((CgroupId(cgroup), Class::from_value(value)))
            })
            .collect()
    }

    /// Takes the flow of an accepted connection: who dialled what. `local` and `peer` are the ends as the
    /// listener sees them. `None` when the kernel redirected no such connection, or when it was taken before.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn take_flow(
        &self,
        netns_cookie: u64,
        local: SocketAddr,
        peer: SocketAddr,
    ) -> Result<Option<Flow>, KernelError> {
        self.flows.take(netns_cookie, local, peer)
    }

    /// The refused connects, those since the last agent stopped reading included. There is one such stream.
    ///
    /// # Errors
    /// When it was handed out before, or outside a tokio runtime.
    pub fn events(&self) -> Result<KernelEvents, KernelError> {
        let ring = lock(&self.events).take().ok_or(KernelError::EventsTaken)?;
        KernelEvents::new(ring)
    }

    /// What the programs counted since their maps were made.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn counters(&self) -> Result<Counters, KernelError> {
        let mut counters = Counters::default();
        for counter in Counter::ALL {
            counters.set(counter, self.counters.get(&counter.index(), 0)?.iter().sum());
        }
        Ok(counters)
    }

    /// Ends the programs that an agent with another map layout left in this folder.
    ///
    /// To be called once the doors and classes are set: until then the older programs keep the pods they know
    /// from going past, because connects they redirect reach nobody.
    ///
    /// # Errors
    /// When a pin cannot be removed.
    pub fn retire_older(&self) -> Result<(), KernelError> {
        pins::remove_layouts(&self.bpffs, Some(self.folder.path()))
    }

    /// Detaches the programs and removes their maps: enforcement ends, for every layout in this folder. An
    /// absent folder is fine.
    ///
    /// # Errors
    /// When a pin cannot be removed.
    pub fn unload(bpffs: &Path) -> Result<(), KernelError> {
        pins::remove_layouts(bpffs, None)?;
        pins::remove_if_empty(bpffs)
    }
}

impl fmt::Debug for Kernel {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Kernel")
            .field("folder", &self.folder)
            .finish_non_exhaustive()
    }
}

/// A poisoned lock guards a map handle, which has no state that a panic could have left half done.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
