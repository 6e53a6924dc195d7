//! The eBPF programs that redirect or deny connects to protected endpoints, and the maps behind them.
//!
//! In: the protected endpoints ([`ProtectedEndpoint`]), and the [`Class`] of each pod's cgroup. Out: the [`Flow`] of each
//! redirected connection, the denied connects ([`KernelEvents`]), and counters.
//!
//! Links and maps are pinned, so that the programs go on redirecting and denying while no agent runs. The next agent adopts
//! them and replaces the programs without a gap.

mod attach;
mod attachments;
pub mod destroy_sockets;
pub mod doctor;
mod error;
mod events;
mod flows;
pub mod interface;
pub(crate) mod lease;
mod listener_port;
mod map_usage;
mod metrics;
mod mounts;
mod namespace;
mod netlink;
mod pins;
mod program;
mod sys;
mod types;

use std::collections::{BTreeSet, HashSet};
use std::fmt;
use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use aya::Ebpf;
use aya::maps::{Array, HashMap, Map, MapData, PerCpuArray, RingBuf, SkStorage};
use parking_lot::Mutex;
use picket_common::{ClassValue, DialRecord, EndpointKey, NodeValue};

pub use attachments::{Ifindex, LinkFault, LinkReport, RepairedLink};
pub use error::KernelError;
pub use events::KernelEvents;
pub use map_usage::MapUsage;
pub use metrics::{KernelCounters, KernelMetrics};
pub use mounts::cgroup_mount;
pub(crate) use namespace::within;
pub use picket_common::{Counter, DenyReason, EndpointAction, Hook, LISTENER_PORTS};
pub use program::Program;
pub use sys::netns_cookie;
pub use types::{
    CgroupId, Class, Counters, FailMode, Flow, KernelConfig, KernelEvent, LEVELS, NodeState,
    ProtectedEndpoint,
};

use attachments::Attachments;
use flows::Flows;
use pins::Folder;

/// The programs, attached and pinned, and their maps.
///
/// Dropping it leaves the programs at work; [`Kernel::unload`] ends them.
pub struct Kernel {
    folder: Folder,
    bpffs: PathBuf,
    cgroup: File,
    /// The loaded programs, for pods that come and links that are lost.
    programs: Mutex<Ebpf>,
    attachments: Mutex<Attachments>,
    /// Every map by its pin's name, to pin it again.
    maps: Vec<(&'static str, MapData)>,
    endpoints: Mutex<HashMap<MapData, EndpointKey, u32>>,
    classes: Mutex<HashMap<MapData, u64, ClassValue>>,
    netns: Mutex<HashMap<MapData, u64, u64>>,
    interfaces: Mutex<HashMap<MapData, u32, u64>>,
    node: Mutex<Array<MapData, NodeValue>>,
    heartbeat: Mutex<Array<MapData, u64>>,
    sockets: Mutex<SkStorage<MapData, DialRecord>>,
    flows: Flows,
    counters: PerCpuArray<MapData, u64>,
    events: Mutex<Option<RingBuf<MapData>>>,
}

impl Kernel {
    /// Loads the programs, adopts the maps that an earlier agent pinned or makes new ones, and attaches.
    ///
    /// Protected endpoints and classes of adopted maps stay in force; [`Self::classes`] tells which, and the caller removes
    /// those of pods that are gone. Programs of an agent with another map layout stay attached too, until
    /// [`Self::retire_others`].
    ///
    /// # Errors
    /// When a folder is not what it has to be, when a pinned map has another shape, and when the kernel denies
    /// a program; the message says which.
    pub fn load(config: &KernelConfig) -> Result<Self, KernelError> {
        let cgroup = attach::open_cgroup(&config.cgroup_root)?;
        let folder = Folder::prepare(&config.bpffs)?;
        let mut ebpf = attach::load_object(Some(&folder))?;
        let kept_out = attach::attach_all(&mut ebpf, &cgroup, &folder)?;
        let endpoints = HashMap::try_from(attach::take_map(&mut ebpf, "ENDPOINTS")?)?;
        let classes = HashMap::try_from(attach::take_map(&mut ebpf, "CLASSES")?)?;
        let netns = HashMap::try_from(attach::take_map(&mut ebpf, "NETNS")?)?;
        let interfaces = HashMap::try_from(attach::take_map(&mut ebpf, "INTERFACES")?)?;
        let node = Array::try_from(attach::take_map(&mut ebpf, "NODE")?)?;
        let heartbeat = Array::try_from(attach::take_map(&mut ebpf, "HEARTBEAT")?)?;
        let sockets = SkStorage::try_from(attach::take_map(&mut ebpf, "SOCKETS")?)?;
        let counters = PerCpuArray::try_from(attach::take_map(&mut ebpf, "COUNTERS")?)?;
        let events = RingBuf::try_from(attach::take_map(&mut ebpf, "EVENTS")?)?;
        let flows = Flows::open(&folder)?;
        let maps = pins::map_names()
            .map(|name| Ok((name, MapData::from_pin(folder.map(name))?)))
            .collect::<Result<_, KernelError>>()?;
        Ok(Self {
            folder,
            bpffs: config.bpffs.clone(),
            cgroup,
            programs: Mutex::new(ebpf),
            attachments: Mutex::new(Attachments::new(kept_out)),
            maps,
            endpoints: Mutex::new(endpoints),
            classes: Mutex::new(classes),
            netns: Mutex::new(netns),
            interfaces: Mutex::new(interfaces),
            node: Mutex::new(node),
            heartbeat: Mutex::new(heartbeat),
            sockets: Mutex::new(sockets),
            flows,
            counters,
            events: Mutex::new(Some(events)),
        })
    }

    /// The protected endpoints in force, those of an earlier agent included, their addresses in canonical form.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn endpoints(&self) -> Result<BTreeSet<ProtectedEndpoint>, KernelError> {
        let map = self.endpoints.lock();
        map.iter()
            .map(|entry| {
                let (key, action) = entry?;
                Ok(ProtectedEndpoint {
                    addr: SocketAddr::new(key.address.canonical().to_ip(), key.port),
                    action: EndpointAction::from_code(action),
                })
            })
            .collect()
    }

    /// Adds protected endpoints to those in force; none goes.
    ///
    /// # Errors
    /// When the map does not take an entry, for instance because there are more than it holds.
    pub fn add_endpoints(&self, endpoints: &BTreeSet<ProtectedEndpoint>) -> Result<(), KernelError> {
        let mut map = self.endpoints.lock();
        for endpoint in endpoints {
            map.insert(endpoint.key(), endpoint.action.code(), 0)?;
        }
        Ok(())
    }

    /// Makes `endpoints` the protected endpoints: the new ones come before the old ones go, but those for which there is no room until
    /// then.
    ///
    /// # Errors
    /// When the map does not take an entry, for instance because there are more than it holds.
    pub fn set_endpoints(&self, endpoints: &BTreeSet<ProtectedEndpoint>) -> Result<(), KernelError> {
        let mut map = self.endpoints.lock();
        let wanted: HashSet<EndpointKey> = endpoints.iter().map(ProtectedEndpoint::key).collect();
        let late: Vec<&ProtectedEndpoint> = endpoints
            .iter()
            .filter(|endpoint| map.insert(endpoint.key(), endpoint.action.code(), 0).is_err())
            .collect();
        let present = map.keys().collect::<Result<Vec<_>, _>>()?;
        for key in present.iter().filter(|key| !wanted.contains(*key)) {
            map.remove(key)?;
        }
        for endpoint in late {
            map.insert(endpoint.key(), endpoint.action.code(), 0)?;
        }
        Ok(())
    }

    /// Gives a cgroup its class, or another one.
    ///
    /// # Errors
    /// When the map does not take the entry.
    pub fn set_class(&self, cgroup: CgroupId, class: Class) -> Result<(), KernelError> {
        let mut classes = self.classes.lock();
        let before = classes.get(&cgroup.0, 0).ok();
        let mut value = class.value();
        if class == Class::Pending {
            // The pod is closed and its namespace is still its own.
            value.netns = before.map_or(0, |before| before.netns);
        }
        // A port that the listener is leaving goes on being one that it serves, until it has left.
        if let Some(before) = before
            && (before.kind, before.pod, before.netns, before.port)
                == (value.kind, value.pod, value.netns, value.port)
        {
            value.retiring = before.retiring;
        }
        // One that stays what it is is not written: see the programs' `class_of`.
        if before != Some(value) {
            classes.insert(cgroup.0, value, 0)?;
        }
        let own = Some(value.netns).filter(|netns| *netns != 0);
        // The namespace comes after the class that it leads to.
        if let Class::Enforced { netns, .. } = class
            && netns != self.node_netns()?
        {
            self.netns.lock().insert(netns, cgroup.0, 0)?;
        }
        self.drop_netns(cgroup, before, own)
    }

    /// Tells the kernel of the node itself.
    ///
    /// # Errors
    /// When the map does not take it.
    pub fn set_node(&self, node: NodeState) -> Result<(), KernelError> {
        self.attachments.lock().node = Some(node);
        Ok(self.node.lock().set(0, node.value(), 0)?)
    }

    /// Gives a sign of life. Ten seconds without one and the agent counts as gone.
    ///
    /// # Errors
    /// When the clock cannot be read or the map does not take it.
    pub fn heartbeat(&self) -> Result<(), KernelError> {
        let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME)
            .map_err(|error| KernelError::Clock(error.into()))?;
        let now = (now.tv_sec().unsigned_abs() * 1_000_000_000).saturating_add(now.tv_nsec().unsigned_abs());
        Ok(self.heartbeat.lock().set(0, now, 0)?)
    }

    fn node_netns(&self) -> Result<u64, KernelError> {
        Ok(self.node.lock().get(&0, 0)?.netns)
    }

    /// Takes away the namespace that led to a cgroup, unless it still does or leads to another by now.
    fn drop_netns(
        &self,
        cgroup: CgroupId,
        before: Option<ClassValue>,
        kept: Option<u64>,
    ) -> Result<(), KernelError> {
        let Some(before) = before.filter(|before| before.netns != 0 && Some(before.netns) != kept) else {
            return Ok(());
        };
        let mut netns = self.netns.lock();
        if netns.get(&before.netns, 0).ok() == Some(cgroup.0) {
            return flows::absent_is_fine(netns.remove(&before.netns));
        }
        Ok(())
    }

    /// Takes a cgroup's class away: that of its nearest classified parent holds for it then. One that has none
    /// is fine.
    ///
    /// # Errors
    /// When the kernel denies.
    pub fn remove_class(&self, cgroup: CgroupId) -> Result<(), KernelError> {
        let mut classes = self.classes.lock();
        self.drop_netns(cgroup, classes.get(&cgroup.0, 0).ok(), None)?;
        flows::absent_is_fine(classes.remove(&cgroup.0))
    }

    /// Every classified cgroup, those an earlier agent left included.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn classes(&self) -> Result<Vec<(CgroupId, Class)>, KernelError> {
        let map = self.classes.lock();
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

    /// The denied connects, those since the last agent stopped reading included. There is one such stream, on a node: an
    /// agent before this one must not read any more.
    ///
    /// # Errors
    /// When it was handed out before, or outside a tokio runtime.
    pub fn events(&self) -> Result<KernelEvents, KernelError> {
        drop(self.events.lock().take().ok_or(KernelError::EventsTaken)?);
        // Opened now and not at the load: as long as an agent before this one reads, it moves the reader's place.
        let map = MapData::from_pin(self.folder.map("EVENTS"))?;
        KernelEvents::new(RingBuf::try_from(Map::from_map_data(map)?)?)
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

    /// How many of the programs for the whole node are attached now, of [`Program::ROOT`].
    #[must_use]
    pub fn attached(&self) -> usize {
        let is_attached = |program: &&Program| {
            sys::link_facts(&self.folder.link(program.name())).is_ok_and(|facts| !facts.is_detached())
        };
        Program::ROOT.iter().filter(is_attached).count()
    }

    /// Whether programs of an agent with another map layout are still attached: they hold the pods that it knew.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn older(&self) -> Result<bool, KernelError> {
        Ok(!pins::layouts(&self.bpffs, Some(self.folder.path()))?.is_empty())
    }

    /// Ends the programs that an agent with another map layout left in this folder: one before this, or one that was to
    /// take over and failed.
    ///
    /// To be called once the protected endpoints and classes are set: until then older programs keep the pods they know from going
    /// past, because connects they redirect reach nobody. For the same reason they stay while one of ours is missing at the
    /// root, as where another's exclusive program keeps it out: [`Self::verify`] ends them once it has attached it.
    ///
    /// # Errors
    /// When there are such programs and one of ours is missing, or a pin cannot be removed. [`Self::verify`] tries again.
    pub fn retire_others(&self) -> Result<(), KernelError> {
        self.attachments.lock().retiring = true;
        let missing = |program: &&Program| {
            !sys::link_facts(&self.folder.link(program.name())).is_ok_and(|facts| !facts.is_detached())
        };
        if self.older()?
            && let Some(program) = Program::ROOT.iter().find(missing)
        {
            return Err(KernelError::Incomplete {
                program: program.name(),
            });
        }
        self.end_others()
    }

    /// As [`Self::verify`], where another agent was to take over and failed: it may have retired this agent's programs, and
    /// only its own are there. They are ended when this agent's are all back, and not before.
    pub fn take_back(&self) -> LinkReport {
        self.attachments.lock().retiring = true;
        self.verify()
    }

    /// Ends the programs of agents with another map layout.
    fn end_others(&self) -> Result<(), KernelError> {
        pins::remove_layouts(&self.bpffs, Some(self.folder.path()))?;
        self.attachments.lock().retiring = false;
        Ok(())
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
