//! Finds the node's side of a pod's network interfaces.
//!
//! In: the pod's network namespace. Out: the interfaces in the node's namespace that the pod's packets come out of, and the
//! pod's interfaces that have no such side. The `interface` program drops packets at the former; the latter are reported as not
//! covered.
//!
//! A pair (veth, netkit) names its other end by index and namespace (rtnetlink(7), `IFLA_LINK` and `IFLA_LINK_NETNSID`). An
//! ipvlan or macvlan names its lower device in the same way, which is the node's own and nobody's to filter; a device that was
//! moved into the pod (SR-IOV) names none.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _};

use nix::sys::socket::SockProtocol;

use super::namespace::within;
use super::netlink::{ListError, Netlink, attributes, i32_at, u16_at, u32_at};

/// `RTM_NEWLINK` is 16, so a request for links is 18; `RTM_GETNSID` (include/uapi/linux/rtnetlink.h).
const GET_LINK: u16 = 18;
const GET_NSID: u16 = 90;

/// The sizes of `struct ifinfomsg` and of `struct rtgenmsg`, which is padded.
const LINK_HEADER: usize = 16;
const NSID_HEADER: usize = 4;

/// `ARPHRD_LOOPBACK` (include/uapi/linux/if_arp.h).
const LOOPBACK: u16 = 772;

/// Attributes of links (include/uapi/linux/if_link.h).
const IFLA_IFNAME: u16 = 3;
const IFLA_LINK: u16 = 5;
const IFLA_LINKINFO: u16 = 18;
const IFLA_LINK_NETNSID: u16 = 37;
const IFLA_INFO_KIND: u16 = 1;

/// Attributes of namespace numbers (include/uapi/linux/net_namespace.h).
const NETNSA_NSID: u16 = 1;
const NETNSA_FD: u16 = 3;

/// Kinds of interfaces that come in pairs.
const PAIRS: [&str; 2] = ["veth", NETKIT];
const NETKIT: &str = "netkit";

/// Why the interfaces are not known.
#[derive(Debug, thiserror::Error)]
pub enum InterfaceError {
    /// The namespace could not be entered.
    #[error("cannot enter the network namespace: {0}")]
    Namespace(#[source] io::Error),
    /// The kernel did not list them.
    #[error("cannot list the network interfaces: {0}")]
    List(#[source] io::Error),
    /// The list changed during every reading. Interfaces may be missing.
    #[error("cannot list the network interfaces: {source}")]
    Incomplete {
        /// Those that were listed, so that the caller can cover these at least.
        found: HostSide,
        /// Why others may be missing.
        source: ListError,
    },
}

/// Where a pod's packets come out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostSide {
    /// The indexes, in the node's namespace, of the other ends of the pod's interfaces.
    pub interfaces: Vec<u32>,
    /// The names of the pod's interfaces whose packets come out elsewhere.
    pub others: Vec<String>,
}

impl HostSide {
    /// Whether all that leaves the pod comes by an interface of the node's.
    #[must_use]
    pub fn covers(&self) -> bool {
        !self.interfaces.is_empty() && self.others.is_empty()
    }
}

/// The node's side of the interfaces in this namespace, seen from the namespace of the calling thread. It blocks for less
/// than a millisecond.
///
/// # Errors
/// [`InterfaceError`], also where the list may lack an interface: nobody then knows whether the pod is covered.
pub fn host_side(netns: &(impl AsFd + Sync)) -> Result<HostSide, InterfaceError> {
    let node = File::open("/proc/thread-self/ns/net").map_err(InterfaceError::Namespace)?;
    let (found, listed) = within(netns, || inside(&node))
        .map_err(InterfaceError::Namespace)?
        .map_err(InterfaceError::List)?;
    complete(found, listed)
}

fn inside(node: &File) -> io::Result<(HostSide, Result<(), ListError>)> {
    let mut netlink = Netlink::open(SockProtocol::NetlinkRoute)?;
    let links = netlink.list(GET_LINK, &[0; LINK_HEADER], Link::read)?;
    // After the list, because the kernel numbers a namespace when it first names it there.
    let node = number_of(&mut netlink, node)?;
    Ok((sides(&links.entries, node), links.outcome()))
}

/// What was found, where nothing can be missing.
fn complete(found: HostSide, listed: Result<(), ListError>) -> Result<HostSide, InterfaceError> {
    match listed {
        Ok(()) => Ok(found),
        Err(source) => Err(InterfaceError::Incomplete { found, source }),
    }
}

/// The number by which the current namespace knows another; `None` where it has none.
fn number_of(netlink: &mut Netlink, netns: &File) -> io::Result<Option<i32>> {
    let mut body = vec![0; NSID_HEADER];
    body.extend(8_u16.to_ne_bytes());
    body.extend(NETNSA_FD.to_ne_bytes());
    body.extend(netns.as_raw_fd().to_ne_bytes());
    let mut number = None;
    netlink.one(GET_NSID, &body, |message| {
        number = message.get(NSID_HEADER..).and_then(|attrs| {
            let (_, value) = attributes(attrs).find(|(kind, _)| *kind == NETNSA_NSID)?;
            i32_at(value, 0)
        });
    })?;
    // NETNSA_NSID_NOT_ASSIGNED is -1.
    Ok(number.filter(|number| *number >= 0))
}

fn sides(links: &[Link], node: Option<i32>) -> HostSide {
    let mut found = HostSide::default();
    for link in links.iter().filter(|link| link.device != LOOPBACK) {
        let kind = link.kind.as_deref();
        let pair = kind.is_some_and(|kind| PAIRS.contains(&kind));
        match (pair, link.link, link.netns) {
            (true, Some(peer), Some(netns)) if Some(netns) == node => {
                found.interfaces.push(peer);
                // Its own programs run first, and may send packets on past the other end's.
                if kind == Some(NETKIT) {
                    found.others.push(link.name.clone());
                }
            }
            // Both ends in the pod, or the other in a namespace that a process of the pod made: what comes out of the pod
            // still comes out of an interface of the node's.
            (true, ..) => {}
            // Its lower device lies elsewhere, or it is a device by itself; one without either only leads to others.
            (false, _, Some(_)) => found.others.push(link.name.clone()),
            (false, ..) if kind.is_none() => found.others.push(link.name.clone()),
            (false, ..) => {}
        }
    }
    found
}

/// One interface of the pod's.
#[derive(Debug, Default)]
struct Link {
    device: u16,
    name: String,
    kind: Option<String>,
    link: Option<u32>,
    netns: Option<i32>,
}

impl Link {
    /// Reads a `struct ifinfomsg` and its attributes.
    fn read(message: &[u8]) -> Option<Self> {
        let mut link = Self {
            device: u16_at(message, 2)?,
            ..Self::default()
        };
        for (number, value) in attributes(message.get(LINK_HEADER..)?) {
            match number {
                IFLA_IFNAME => link.name = text(value),
                IFLA_LINK => link.link = u32_at(value, 0).filter(|index| *index != 0),
                IFLA_LINK_NETNSID => link.netns = i32_at(value, 0),
                IFLA_LINKINFO => {
                    let kind = attributes(value).find(|(number, _)| *number == IFLA_INFO_KIND);
                    link.kind = kind.map(|(_, value)| text(value));
                }
                _ => {}
            }
        }
        Some(link)
    }
}

/// A name, which ends with a zero.
fn text(value: &[u8]) -> String {
    let end = value.iter().position(|byte| *byte == 0).unwrap_or(value.len());
    String::from_utf8_lossy(value.get(..end).unwrap_or_default()).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(name: &str, kind: Option<&str>, link: Option<u32>, netns: Option<i32>) -> Link {
        Link {
            device: 1,
            name: name.to_owned(),
            kind: kind.map(str::to_owned),
            link,
            netns,
        }
    }

    #[test]
    fn pairs_lead_to_the_node_and_other_ways_out_are_named() {
        let loopback = Link {
            device: LOOPBACK,
            ..link("lo", None, None, None)
        };
        let eth0 = || link("eth0", Some("veth"), Some(12), Some(0));
        let harmless = [
            loopback,
            eth0(),
            link("tunl0", Some("ipip"), None, None),
            link("br0", Some("bridge"), None, None),
            link("vlan7", Some("vlan"), Some(2), None),
            link("inner", Some("veth"), Some(5), None),
            link("nested", Some("veth"), Some(9), Some(3)),
        ];
        let found = sides(&harmless, Some(0));
        assert_eq!((&found.interfaces[..], found.covers()), (&[12][..], true));

        let second = |kind| [eth0(), link("net1", Some(kind), Some(13), Some(0))];
        for (kind, covers) in [("veth", true), ("netkit", false)] {
            let found = sides(&second(kind), Some(0));
            assert_eq!((&found.interfaces[..], found.covers()), (&[12, 13][..], covers));
        }

        for other in [
            link("net1", Some("macvlan"), Some(2), Some(0)),
            link("net1", Some("ipvlan"), Some(2), Some(0)),
            link("net1", None, None, None),
        ] {
            let found = sides(&[eth0(), other], Some(0));
            assert_eq!((found.others.len(), found.covers()), (1, false));
        }
        assert!(
            !sides(&[eth0()], None).covers(),
            "the node is not at the other end"
        );
        assert!(!sides(&[], Some(0)).covers());
    }

    #[test]
    fn an_interrupted_list_is_an_error_that_names_what_was_found() {
        let found = sides(&[link("eth0", Some("veth"), Some(12), Some(0))], Some(0));
        let error = complete(found.clone(), Err(ListError::Interrupted)).unwrap_err();
        assert!(matches!(error, InterfaceError::Incomplete { found: part, .. } if part == found));
        assert!(complete(found, Ok(())).is_ok());
    }
}
