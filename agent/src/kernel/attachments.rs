//! What is attached to each enforced pod, and that everything stays attached.
//!
//! In: the cgroups and interfaces of enforced pods. Out: pinned links that drop packets to protected endpoints, and a
//! [`LinkReport`] of the links that had to be put back.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::ffi::CString;
use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use aya::Ebpf;
use aya::maps::MapError;
use nix::errno::Errno;
use nix::net::if_::if_indextoname;

use super::program::{self, Program};
use super::{Class, Kernel, KernelError, NodeState, flows, pins, sys};
use crate::kernel::CgroupId;

/// An interface's number in the node's network namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ifindex(pub u32);

/// What is attached to pods, and the node's state in the kernel.
#[derive(Debug, Default)]
pub(super) struct Attachments {
    pub(super) node: Option<NodeState>,
    /// Programs of the root that were not attached yet: when one is at last, nobody has taken it away.
    kept_out: HashSet<Program>,
    /// Whether the programs of agents with another map layout go, as soon as this agent's are all attached.
    pub(super) retiring: bool,
    pods: HashMap<CgroupId, Pod>,
    interfaces: HashMap<Ifindex, CgroupId>,
}

impl Attachments {
    /// Nothing yet, and these programs kept out of the root.
    pub(super) fn new(kept_out: HashSet<Program>) -> Self {
        Self {
            kept_out,
            ..Self::default()
        }
    }
}

/// An enforced pod's cgroup.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Pod {
    path: PathBuf,
    program: Program,
}

/// A link that was lost or changed, and is back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepairedLink {
    /// The program.
    pub program: &'static str,
    /// The pin's name, which tells the pod's cgroup or interface.
    pub link: String,
    /// What was wrong.
    pub fault: LinkFault,
}

/// How the links were found.
#[derive(Debug, Default)]
pub struct LinkReport {
    /// Those that had to be put back, and are.
    pub repaired: Vec<RepairedLink>,
    /// Why one could not be looked at or put back, or another layout's programs not be ended; the last such, where there are
    /// several.
    pub failure: Option<KernelError>,
}

/// What can be wrong with a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkFault {
    /// Its pin is gone.
    Unpinned,
    /// It is there and attached to nothing.
    Detached,
    /// It runs another program.
    Replaced,
}

impl fmt::Display for LinkFault {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Unpinned => "its pin was removed",
            Self::Detached => "it was detached",
            Self::Replaced => "its program was replaced",
        })
    }
}

impl Kernel {
    /// Has every packet dropped that a socket of this cgroup, or of one below it, sends to a protected endpoint. `shares_node` is true for
    /// pods in the node's own network namespace, where loopback protected endpoints count. That it stays so is for [`Self::verify`] to see.
    ///
    /// # Errors
    /// When the cgroup is gone, or the kernel denies.
    pub fn attach_egress_filter(
        &self,
        path: &Path,
        cgroup: CgroupId,
        shares_node: bool,
    ) -> Result<(), KernelError> {
        let program = if shares_node {
            Program::EgressNode
        } else {
            Program::Egress
        };
        let pod = Pod {
            path: path.to_owned(),
            program,
        };
        if self.attachments.lock().pods.get(&cgroup) == Some(&pod) {
            return Ok(());
        }
        self.repair(program, &pod_pin(cgroup), |ebpf| {
            self.attach_pod(ebpf, cgroup, &pod)
        })?;
        self.attachments.lock().pods.insert(cgroup, pod);
        Ok(())
    }

    /// Has every packet dropped that comes to the node by this interface, a pod's, and is for a protected endpoint. That it stays so is for
    /// [`Self::verify`] to see.
    ///
    /// # Errors
    /// When there is no such interface, or the kernel knows no TCX.
    pub fn attach_interface_filter(&self, interface: Ifindex, cgroup: CgroupId) -> Result<(), KernelError> {
        // Each time: one that was to take over from this agent, and failed, may have let the pod go.
        self.interfaces.lock().insert(interface.0, cgroup.0, 0)?;
        if self.attachments.lock().interfaces.get(&interface) == Some(&cgroup) {
            return Ok(());
        }
        self.repair(Program::Interface, &interface_pin(interface), |ebpf| {
            self.attach_interface(ebpf, interface)
        })?;
        self.attachments.lock().interfaces.insert(interface, cgroup);
        Ok(())
    }

    /// Takes away what [`Self::attach_egress_filter`] and [`Self::attach_interface_filter`] attached for this cgroup, an earlier agent's
    /// included.
    ///
    /// # Errors
    /// When a pin or an entry cannot be removed.
    pub fn release(&self, cgroup: CgroupId) -> Result<(), KernelError> {
        let mut held = self.attachments.lock();
        held.pods.remove(&cgroup);
        let of_held = held.interfaces.extract_if(|_, of| *of == cgroup);
        let mut of_pod: BTreeSet<u32> = of_held.map(|(interface, _)| interface.0).collect();
        drop(held);
        let mut interfaces = self.interfaces.lock();
        let of_any = interfaces.iter().filter_map(Result::ok);
        of_pod.extend(
            of_any
                .filter(|(_, of)| *of == cgroup.0)
                .map(|(interface, _)| interface),
        );
        for interface in of_pod {
            pins::remove_pin(&self.folder.link(&interface_pin(Ifindex(interface))))?;
            flows::absent_is_fine(interfaces.remove(&interface))?;
        }
        pins::remove_pin(&self.folder.link(&pod_pin(cgroup)))
    }

    /// Looks at every link, and puts back what is not as it was left, pins of maps too; the node's state in the kernel is
    /// told again. Once all are attached, programs of another layout go that were to be retired.
    /// Interfaces that are gone are forgotten, for a pod may have a new one with each of its sandboxes; links of pods that are
    /// gone are left to [`Self::release`]; a pod that is not enforced any more, nor about to be, is released here: an attempt
    /// that took too long may have attached to it after it was given up. What cannot be looked at or put back keeps nobody
    /// else from being.
    pub fn verify(&self) -> LinkReport {
        let mut repaired = Vec::new();
        let begun = [
            self.remove_unfinished(),
            self.pin_maps(),
            self.write_node(),
            self.release_others(),
        ];
        let mut failure = begun.into_iter().filter_map(Result::err).next_back();
        let mut note =
            |program: Program, link: String, outcome: Result<Option<LinkFault>, KernelError>| match outcome {
                Ok(None) => {}
                Ok(Some(fault)) => repaired.push(RepairedLink {
                    program: program.name(),
                    link,
                    fault,
                }),
                Err(error) => failure = Some(error),
            };
        for program in Program::ROOT {
            let outcome = self.repair(program, program.name(), |ebpf| {
                let link = program.attach(ebpf, &self.cgroup)?;
                self.folder.pin(link, program.name(), program)
            });
            let late = outcome.is_ok() && self.attachments.lock().kept_out.remove(&program);
            let outcome = if late { Ok(None) } else { outcome };
            note(program, program.name().to_owned(), outcome);
        }
        let (pods, interfaces) = {
            let held = self.attachments.lock();
            let interfaces: Vec<_> = held.interfaces.keys().copied().collect();
            (held.pods.clone(), interfaces)
        };
        for (cgroup, pod) in pods.iter().filter(|(cgroup, pod)| is_there(**cgroup, pod)) {
            let name = pod_pin(*cgroup);
            let outcome = self.repair(pod.program, &name, |ebpf| self.attach_pod(ebpf, *cgroup, pod));
            // It may have been released, or its cgroup removed, while it was looked at.
            if self.attachments.lock().pods.contains_key(cgroup) && is_there(*cgroup, pod) {
                note(pod.program, name, outcome);
            } else {
                let removed = pins::remove_pin(&self.folder.link(&name));
                note(pod.program, name, removed.map(|()| None));
            }
        }
        for interface in interfaces {
            let name = interface_pin(interface);
            if is_gone(interface) {
                note(Program::Interface, name, self.forget(interface).map(|()| None));
                continue;
            }
            let outcome = self.repair(Program::Interface, &name, |ebpf| {
                self.attach_interface(ebpf, interface)
            });
            if !self.attachments.lock().interfaces.contains_key(&interface) {
                let removed = pins::remove_pin(&self.folder.link(&name));
                note(Program::Interface, name, removed.map(|()| None));
            } else if !is_gone(interface) {
                note(Program::Interface, name, outcome);
            }
        }
        if failure.is_none() && self.attachments.lock().retiring {
            failure = self.end_others().err();
        }
        LinkReport { repaired, failure }
    }

    /// Pins maps that lost their pin: the next agent adopts what it finds pinned, and would begin with empty ones.
    fn pin_maps(&self) -> Result<(), KernelError> {
        self.maps.iter().try_for_each(|(name, map)| {
            let back = self.folder.pin_map(map, name)?;
            // An agent that was to take over and failed is nobody's attack.
            match back {
                true if self.attachments.lock().retiring => {
                    tracing::info!(map = name, "the agent pinned a kernel map again")
                }
                true => tracing::warn!(
                    map = name,
                    "the pin of a kernel map was removed from outside; the agent pinned the map again"
                ),
                false => {}
            }
            Ok(())
        })
    }

    /// Removes what an agent left that was killed before it had given a link its place: it would stay attached.
    fn remove_unfinished(&self) -> Result<(), KernelError> {
        // Nobody of this agent's is between the two steps while the programs are locked.
        let _programs = self.programs.lock();
        self.folder.remove_unfinished()
    }

    /// Forgets an interface that is gone.
    fn forget(&self, interface: Ifindex) -> Result<(), KernelError> {
        // While the programs are locked nobody covers it, should there be another of its number by now.
        let _programs = self.programs.lock();
        if !is_gone(interface) {
            return Ok(());
        }
        self.attachments.lock().interfaces.remove(&interface);
        flows::absent_is_fine(self.interfaces.lock().remove(&interface.0))?;
        pins::remove_pin(&self.folder.link(&interface_pin(interface)))
    }

    /// Writes what the kernel programs have to know of the node again.
    fn write_node(&self) -> Result<(), KernelError> {
        let told = self.attachments.lock().node;
        told.map_or(Ok(()), |node| self.set_node(node))
    }

    /// Releases what is held and neither enforced nor closed.
    fn release_others(&self) -> Result<(), KernelError> {
        let held: BTreeSet<CgroupId> = {
            let held = self.attachments.lock();
            held.pods
                .keys()
                .chain(held.interfaces.values())
                .copied()
                .collect()
        };
        held.into_iter().try_for_each(|cgroup| {
            // The class stays what it is until the pod is released: who enforces it after that holds it anew.
            let classes = self.classes.lock();
            match classes.get(&cgroup.0, 0).map(Class::from_value) {
                Ok(Class::Pending | Class::Enforced { .. }) => Ok(()),
                Ok(_) | Err(MapError::KeyNotFound) => self.release(cgroup),
                Err(error) => Err(error.into()),
            }
        })
    }

    /// Looks at one link and has it put back where something is wrong. The programs are locked throughout: one may be attached
    /// to an interface once only.
    fn repair(
        &self,
        program: Program,
        name: &str,
        put_back: impl FnOnce(&mut Ebpf) -> Result<(), KernelError>,
    ) -> Result<Option<LinkFault>, KernelError> {
        let pin = self.folder.link(name);
        let mut ebpf = self.programs.lock();
        let ours = program.info(&mut ebpf)?.id();
        let fault = match sys::link_facts(&pin) {
            Ok(facts) if facts.is_detached() => LinkFault::Detached,
            Ok(facts) if facts.program != ours => LinkFault::Replaced,
            Ok(_) => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::NotFound => LinkFault::Unpinned,
            Err(source) => {
                return Err(KernelError::Io {
                    action: "look at",
                    path: pin,
                    source,
                });
            }
        };
        put_back(&mut ebpf)?;
        Ok(Some(fault))
    }

    fn attach_pod(&self, ebpf: &mut Ebpf, cgroup: CgroupId, pod: &Pod) -> Result<(), KernelError> {
        let io = |source| KernelError::Io {
            action: "open the cgroup",
            path: pod.path.clone(),
            source,
        };
        let folder = File::open(&pod.path).map_err(io)?;
        // A static pod that is made anew has the same path.
        if folder.metadata().map_err(io)?.ino() != cgroup.0 {
            return Err(io(io::ErrorKind::NotFound.into()));
        }
        let link = pod.program.attach(ebpf, &folder)?;
        self.folder.pin(link, &pod_pin(cgroup), pod.program)
    }

    fn attach_interface(&self, ebpf: &mut Ebpf, interface: Ifindex) -> Result<(), KernelError> {
        let name = name_of(interface).map_err(|error| KernelError::Interface {
            interface: interface.0,
            source: error.into(),
        })?;
        let name = name.to_string_lossy();
        let link = program::attach_interface(ebpf, &name)?;
        self.folder
            .pin(link, &interface_pin(interface), Program::Interface)
    }
}

/// Whether the cgroup is there and is still this one.
fn is_there(cgroup: CgroupId, pod: &Pod) -> bool {
    std::fs::metadata(&pod.path).is_ok_and(|found| found.ino() == cgroup.0)
}

/// Whether the node has no such interface. Where that cannot be asked it has.
fn is_gone(interface: Ifindex) -> bool {
    name_of(interface) == Err(Errno::ENXIO)
}

fn name_of(interface: Ifindex) -> Result<CString, Errno> {
    let name = if_indextoname(interface.0)?;
    // nix reports no failure here: it leaves the name empty.
    if name.is_empty() {
        return Err(Errno::last());
    }
    Ok(name)
}

fn pod_pin(cgroup: CgroupId) -> String {
    format!("pod_{}", cgroup.0)
}

fn interface_pin(interface: Ifindex) -> String {
    format!("interface_{}", interface.0)
}
