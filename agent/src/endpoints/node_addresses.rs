//! The node's own addresses, as the kernel has them.
//!
//! In: the interfaces of the network namespace that the agent runs in, which is the node's. Out: their addresses, loopback
//! and link-local ones included: whatever listens on all addresses answers on each of them. And a word when they change.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::os::fd::AsRawFd;

use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{AddressFamily, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, socket};
use tokio::net::UnixDatagram;

/// kube-proxy's interface in IPVS mode, which has the address of every Service. Its own filter denies ports there that are
/// no Service's, and as node addresses they would be more than all protected endpoints there may be.
const IPVS: &str = "kube-ipvs0";

/// All of them, now.
pub(super) fn addresses() -> io::Result<BTreeSet<IpAddr>> {
    let interfaces = getifaddrs()?.filter(|interface| interface.interface_name != IPVS);
    Ok(interfaces
        .filter_map(|interface| {
            let address = interface.address?;
            let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
            v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
        })
        .map(|address| address.to_canonical())
        .collect())
}

/// The kernel reports here that an address comes or goes (rtnetlink(7)). Which one is of no interest: all are read anew.
///
/// The socket is a netlink one; to a runtime that waits and receives it is a datagram socket like any other.
#[derive(Debug)]
pub(super) struct Changes(UnixDatagram);

impl Changes {
    /// From now on. Needs a tokio runtime.
    pub(super) fn open() -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let protocol = SockProtocol::NetlinkRoute;
        let socket = socket(AddressFamily::Netlink, SockType::Raw, flags, protocol)?;
        let groups = libc::RTMGRP_IPV4_IFADDR | libc::RTMGRP_IPV6_IFADDR;
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, groups.cast_unsigned()))?;
        Ok(Self(UnixDatagram::from_std(socket.into())?))
    }

    /// Waits for a change; several at once are one.
    pub(super) async fn next(&self) -> io::Result<()> {
        let mut message = [0; 8192];
        // More than the socket's buffer holds is a change all the same.
        let lost = |error: &io::Error| error.raw_os_error() == Some(libc::ENOBUFS);
        match self.0.recv(&mut message).await {
            Err(error) if !lost(&error) => return Err(error),
            _ => {}
        }
        while self.0.try_recv(&mut message).is_ok() {}
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In a network namespace of its own, where nobody else changes anything.
    #[test]
    fn a_new_address_is_told_of_at_once() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("not tried: it takes root");
            return;
        }
        let there = std::thread::spawn(|| {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            let ip = |line: &str| {
                let mut command = std::process::Command::new("ip");
                assert!(
                    command.args(line.split(' ')).status().unwrap().success(),
                    "ip {line}"
                );
            };
            ip("link set lo up");
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let changes = Changes::open().unwrap();
                let second = std::time::Duration::from_secs(1);
                let none = tokio::time::timeout(second / 4, changes.next()).await;
                assert!(none.is_err(), "nothing was reported");
                for line in [
                    "addr add 192.0.2.1/32 dev lo",
                    "addr add fd00::1/128 dev lo",
                    "addr del 192.0.2.1/32 dev lo",
                ] {
                    ip(line);
                    tokio::time::timeout(second * 5, changes.next())
                        .await
                        .unwrap()
                        .unwrap();
                }
            });
            addresses().unwrap()
        });
        let found = there.join().unwrap();
        assert!(
            found.contains(&"fd00::1".parse().unwrap()) && !found.contains(&IpAddr::from([192, 0, 2, 1])),
            "{found:?}"
        );
    }

    #[test]
    fn a_machine_has_a_loopback_address() {
        let found = addresses().unwrap();
        assert!(found.contains(&IpAddr::from([127, 0, 0, 1])), "{found:?}");
        assert!(found.iter().all(|address| !address.is_unspecified()));
    }
}
