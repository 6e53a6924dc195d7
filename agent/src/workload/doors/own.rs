//! The node's own addresses, as the kernel has them.
//!
//! In: the interfaces of the network namespace that the agent runs in, which is the node's. Out: their addresses, loopback
//! and link-local ones included: whatever listens on all addresses answers on each of them.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;

use nix::ifaddrs::getifaddrs;

/// kube-proxy's interface in IPVS mode, which has the address of every Service. Its own filter refuses ports there that are
/// no Service's, and as node addresses they would be more than all doors there may be.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_has_a_loopback_address() {
        let found = addresses().unwrap();
        assert!(found.contains(&IpAddr::from([127, 0, 0, 1])), "{found:?}");
        assert!(found.iter().all(|address| !address.is_unspecified()));
    }
}
